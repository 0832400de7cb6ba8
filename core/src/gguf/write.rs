//! Writes a file derived from a mapped one: some tensors stored anew, everything else byte for byte.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use super::file::MAGIC;
use super::{GgmlType, Gguf, GgufError, TensorInfo};
use crate::durable::AtomicFile;

/// Most bytes of rows asked for at once (one row if a row is larger).
const PANEL_BYTES: usize = 1 << 20;
/// Bytes copied between two progress calls.
const COPY_BYTES: usize = 4 << 20;

/// What [`Gguf::rewrite`] asks for.
pub trait Rewrite {
    /// The rewriter's own failures; those of the file are turned into it.
    type Error: From<GgufError>;

    /// The type `tensor` is to be stored as, or `None` to copy its blocks as they are. Asked once for every tensor, in
    /// the file's order, before any row is.
    fn storage(&mut self, tensor: &TensorInfo) -> Option<GgmlType>;

    /// Fills `out` with the blocks of `rows` of `tensor`, in the type [`Self::storage`] gave, row after row. Called
    /// with ascending rows, tensor after tensor; `out` holds leftovers.
    ///
    /// # Errors
    /// Whatever makes the row impossible; the file being written is then discarded.
    fn rows(&mut self, tensor: &TensorInfo, rows: Range<usize>, out: &mut [u8]) -> Result<(), Self::Error>;

    /// Hears how many of the data's bytes are written. Returning `false` stops and discards the file.
    fn progress(&mut self, done: u64, total: u64) -> bool {
        let _ = (done, total);
        true
    }
}

/// A tensor of the file being written.
struct Planned<'a> {
    tensor: &'a TensorInfo,
    /// `None`: copied.
    ty: Option<GgmlType>,
    /// Offset in the data section and length in bytes.
    offset: u64,
    len: u64,
}

impl Gguf {
    /// Writes a copy of this file to `path` in which the tensors that `rewrite` names are stored anew. Metadata is
    /// byte-identical, the order of tensors, the alignment and every other tensor's data are kept, and data is laid
    /// out back to back with padding after each tensor, which is what `ggml` requires.
    ///
    /// One panel of rows (1 MiB) is held at a time. The file appears at `path` only when it is complete and on the disk
    /// (hidden sibling, fsync, rename); otherwise whatever was there stays.
    ///
    /// # Errors
    /// [`GgufError::SameFile`] if `path` is the mapped file, [`GgufError::TensorRow`] and [`GgufError::TensorOverflow`]
    /// if a tensor's rows do not fit the new type, [`GgufError::Changed`] if the mapped file is changed meanwhile,
    /// [`GgufError::Io`], [`GgufError::Cancelled`], and those of `rewrite`.
    pub fn rewrite<R: Rewrite>(&self, path: impl AsRef<Path>, rewrite: &mut R) -> Result<(), R::Error> {
        let path = path.as_ref();
        let io = |source| GgufError::Io { path: path.to_owned(), source };
        if self.is_at(path) {
            return Err(GgufError::SameFile { path: path.to_owned() }.into());
        }
        let plan = self.plan(rewrite)?;
        let total = plan.iter().map(|p| p.len).sum();
        let mut done = 0;
        let mut step = |rewrite: &mut R, written: usize| {
            done += written as u64;
            self.check_unchanged()?;
            if rewrite.progress(done, total) { Ok(()) } else { Err(GgufError::Cancelled) }
        };

        let mut out = AtomicFile::create(path).map_err(io)?;
        let header = self.header(&plan);
        out.write_all(&header).map_err(io)?;
        let padding = vec![0; self.alignment()];
        let mut panel = Vec::new();
        for Planned { tensor, ty, len, .. } in &plan {
            match ty.and_then(|ty| ty.row_bytes(tensor.cols())) {
                None => {
                    for chunk in self.data(tensor).chunks(COPY_BYTES) {
                        out.write_all(chunk).map_err(io)?;
                        step(rewrite, chunk.len())?;
                    }
                }
                Some(row_bytes) => {
                    let step_rows = (PANEL_BYTES / row_bytes).max(1);
                    for start in (0..tensor.rows()).step_by(step_rows) {
                        let rows = start..tensor.rows().min(start + step_rows);
                        panel.resize(rows.len() * row_bytes, 0);
                        rewrite.rows(tensor, rows, &mut panel)?;
                        out.write_all(&panel).map_err(io)?;
                        step(rewrite, panel.len())?;
                    }
                }
            }
            let tail = (len.next_multiple_of(padding.len() as u64) - len) as usize;
            out.write_all(&padding[..tail]).map_err(io)?;
        }
        Ok(out.commit().map_err(io)?)
    }

    /// Decides where every tensor goes.
    fn plan<R: Rewrite>(&self, rewrite: &mut R) -> Result<Vec<Planned<'_>>, GgufError> {
        let mut offset = 0u64;
        let mut plan = Vec::with_capacity(self.tensors().len());
        for tensor in self.tensors() {
            let ty = rewrite.storage(tensor);
            let len = match ty {
                None => tensor.len as u64,
                Some(ty) => stored_len(tensor, ty)?,
            };
            plan.push(Planned { tensor, ty, offset, len });
            offset = len
                .checked_next_multiple_of(self.alignment() as u64)
                .and_then(|padded| offset.checked_add(padded))
                .ok_or_else(|| overflow(tensor))?;
        }
        Ok(plan)
    }

    /// Everything before the data, the padding included.
    fn header(&self, plan: &[Planned<'_>]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(self.version().to_le_bytes());
        out.extend((plan.len() as u64).to_le_bytes());
        out.extend((self.metadata_count() as u64).to_le_bytes());
        out.extend(self.metadata_bytes());
        for Planned { tensor, ty, offset, .. } in plan {
            out.extend((tensor.name.len() as u64).to_le_bytes());
            out.extend(tensor.name.as_bytes());
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            for &dim in &tensor.dims {
                out.extend((dim as u64).to_le_bytes());
            }
            out.extend((ty.unwrap_or(tensor.ty) as u32).to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment()), 0);
        out
    }

    /// Whether `path` names the mapped file, through whatever links.
    fn is_at(&self, path: &Path) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let mapped = self.file().and_then(|f| f.metadata().ok());
            if let (Some(mapped), Ok(there)) = (mapped, fs::metadata(path)) {
                return (mapped.dev(), mapped.ino()) == (there.dev(), there.ino());
            }
        }
        matches!((fs::canonicalize(self.path()), fs::canonicalize(path)), (Ok(a), Ok(b)) if a == b)
    }
}

fn overflow(tensor: &TensorInfo) -> GgufError {
    GgufError::TensorOverflow { name: tensor.name.clone(), found: tensor.dims.iter().map(|&d| d as u64).collect() }
}

/// Bytes of `tensor` stored as `ty`.
fn stored_len(tensor: &TensorInfo, ty: GgmlType) -> Result<u64, GgufError> {
    let cols = tensor.cols();
    if !cols.is_multiple_of(ty.block_len()) {
        return Err(GgufError::TensorRow { name: tensor.name.clone(), ty, found: cols as u64 });
    }
    let len = ty.row_bytes(cols).and_then(|row| row.checked_mul(tensor.rows())).ok_or_else(|| overflow(tensor))?;
    Ok(len as u64)
}

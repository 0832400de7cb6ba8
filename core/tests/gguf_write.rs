//! Derived files: what is not replaced is byte-identical, what is replaced reads back, and nothing torn is ever left.

#[path = "common/gguf_builder.rs"]
mod gguf_builder;

use std::ops::Range;
use std::path::{Path, PathBuf};

use gguf_builder::{GgufBuilder, Value};
use timbre::gguf::{GgmlType, Gguf, GgufError, Rewrite, TensorInfo};

/// Replaces the tensors of these names: row `r` becomes bytes `r`, `r + 1`, ….
struct Change<'a> {
    to: &'a [(&'a str, GgmlType)],
    /// Fail at this row of any tensor.
    fail_at: Option<usize>,
    /// Stop at this many bytes.
    stop_at: u64,
    seen: Vec<(u64, u64)>,
    panels: Vec<(String, Range<usize>)>,
}

impl<'a> Change<'a> {
    fn new(to: &'a [(&'a str, GgmlType)]) -> Self {
        Self { to, fail_at: None, stop_at: u64::MAX, seen: Vec::new(), panels: Vec::new() }
    }
}

fn row_bytes(row: usize, len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(move |i| (row + i) as u8)
}

#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("row {0} does not want to")]
    Row(usize),
}

impl Rewrite for Change<'_> {
    type Error = ChangeError;

    fn storage(&mut self, tensor: &TensorInfo) -> Option<GgmlType> {
        self.to.iter().find(|(name, _)| *name == tensor.name).map(|&(_, ty)| ty)
    }

    fn rows(&mut self, tensor: &TensorInfo, rows: Range<usize>, out: &mut [u8]) -> Result<(), ChangeError> {
        if let Some(row) = self.fail_at.filter(|row| rows.contains(row)) {
            return Err(ChangeError::Row(row));
        }
        let len = out.len() / rows.len();
        for (row, bytes) in rows.clone().zip(out.chunks_exact_mut(len)) {
            bytes.iter_mut().zip(row_bytes(row, len)).for_each(|(out, byte)| *out = byte);
        }
        self.panels.push((tensor.name.clone(), rows));
        Ok(())
    }

    fn progress(&mut self, done: u64, total: u64) -> bool {
        self.seen.push((done, total));
        done < self.stop_at
    }
}

fn model() -> GgufBuilder {
    GgufBuilder::new()
        .entry("general.architecture", Value::str("llama"))
        .entry("tokenizer.ggml.tokens", Value::strings(&["<s>", "a", "\u{2581}b"]))
        .f32("norm", &[33], &[0.25; 33])
        .tensor("big", &[256, 5], 12, (0..720).map(|i| i as u8).collect())
        .tensor("cube", &[32, 2, 3], 2, (0..108).map(|i| i as u8).collect())
        .tensor("last", &[3], 1, vec![1, 2, 3, 4, 5, 6])
}

fn save(file: &GgufBuilder) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = file.save(dir.path(), "base.gguf");
    let out = dir.path().join("derived.gguf");
    (dir, path, out)
}

fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn identity_is_byte_identical() {
    for alignment in [None, Some(8), Some(64), Some(4096)] {
        for version in [2, 3] {
            let mut file = alignment.map_or_else(model, |a| model().aligned(a));
            file.version = version;
            let (dir, path, out) = save(&file);
            Gguf::open(&path).unwrap().rewrite(&out, &mut Change::new(&[])).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&out).unwrap());
            assert_eq!(files_in(dir.path()), ["base.gguf", "derived.gguf"]);
        }
    }
}

#[test]
fn a_file_without_tensors_or_metadata() {
    let (_dir, path, out) = save(&GgufBuilder::new());
    Gguf::open(&path).unwrap().rewrite(&out, &mut Change::new(&[])).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&out).unwrap());
}

#[test]
fn replaced_tensors_read_back_and_the_rest_is_untouched() {
    let (_dir, path, out) = save(&model().aligned(64));
    let base = Gguf::open(&path).unwrap();
    let to = [("big", GgmlType::F16), ("cube", GgmlType::Q8_0)];
    let mut change = Change::new(&to);
    base.rewrite(&out, &mut change).unwrap();

    let derived = Gguf::open(&out).unwrap();
    assert_eq!(derived.metadata_bytes(), base.metadata_bytes());
    assert_eq!(derived.alignment(), 64);
    let order = |g: &Gguf| g.tensors().iter().map(|t| (t.name.clone(), t.dims.clone())).collect::<Vec<_>>();
    assert_eq!(order(&derived), order(&base));
    for (name, ty, rows, len) in [("big", GgmlType::F16, 5, 512), ("cube", GgmlType::Q8_0, 6, 34)] {
        let tensor = derived.tensor(name).unwrap();
        assert_eq!((tensor.ty, tensor.rows(), tensor.len), (ty, rows, rows * len));
        for (row, bytes) in derived.data(tensor).chunks(len).enumerate() {
            assert!(bytes.iter().copied().eq(row_bytes(row, len)), "{name} row {row}");
        }
    }
    for name in ["norm", "last"] {
        let (old, new) = (base.tensor(name).unwrap(), derived.tensor(name).unwrap());
        assert_eq!((old.ty, base.data(old)), (new.ty, derived.data(new)));
    }
    let total = 33 * 4 + 5 * 512 + 6 * 34 + 6;
    assert!(change.seen.is_sorted());
    assert_eq!(change.seen.last(), Some(&(total, total)));
    assert_ne!(derived.fingerprint(), base.fingerprint());
}

#[test]
fn tensors_stored_out_of_order_come_out_in_order() {
    // ggml wants data in the order of the infos; this crate reads any order.
    let mut file = GgufBuilder::new().f32("a", &[8], &[1.0; 8]).f32("b", &[8], &[2.0; 8]);
    file.tensors[0].offset = Some(32);
    file.tensors[1].offset = Some(0);
    let (_dir, path, out) = save(&file);
    let base = Gguf::open(&path).unwrap();
    base.rewrite(&out, &mut Change::new(&[])).unwrap();
    let derived = Gguf::open(&out).unwrap();
    for (info, old) in derived.tensors().iter().zip(base.tensors()) {
        assert_eq!(derived.data(info), base.data(old));
    }
    assert!(derived.tensor("a").unwrap().offset < derived.tensor("b").unwrap().offset);
}

#[test]
fn rows_come_in_panels_of_bounded_size() {
    let (_dir, path, out) = save(&GgufBuilder::new().tensor("t", &[1024, 3000], 30, vec![0; 2 * 1024 * 3000]));
    let mut change = Change::new(&[("t", GgmlType::F32)]);
    Gguf::open(&path).unwrap().rewrite(&out, &mut change).unwrap();
    let mut next = 0;
    for (_, rows) in &change.panels {
        assert_eq!(rows.start, next);
        assert!(rows.len() * 4096 <= 1 << 20);
        next = rows.end;
    }
    assert_eq!(next, 3000);
    let derived = Gguf::open(&out).unwrap();
    let data = derived.data(derived.tensor("t").unwrap());
    assert!(data.chunks(4096).enumerate().all(|(row, bytes)| bytes.iter().copied().eq(row_bytes(row, 4096))));
}

#[test]
fn a_failure_leaves_what_was_there() {
    let (dir, path, out) = save(&model());
    let base = Gguf::open(&path).unwrap();
    for existing in [false, true] {
        if existing {
            std::fs::write(&out, b"an older file").unwrap();
        }
        let mut change = Change::new(&[("cube", GgmlType::F32)]);
        change.fail_at = Some(3);
        assert!(matches!(base.rewrite(&out, &mut change), Err(ChangeError::Row(3))));
        let mut change = Change::new(&[("cube", GgmlType::F32)]);
        change.stop_at = 500;
        assert!(matches!(base.rewrite(&out, &mut change), Err(ChangeError::Gguf(GgufError::Cancelled))));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            struct Panics;
            impl Rewrite for Panics {
                type Error = GgufError;
                fn storage(&mut self, tensor: &TensorInfo) -> Option<GgmlType> {
                    Some(tensor.ty)
                }
                fn rows(&mut self, _: &TensorInfo, _: Range<usize>, _: &mut [u8]) -> Result<(), GgufError> {
                    panic!("as if interrupted")
                }
            }
            base.rewrite(&out, &mut Panics)
        }));
        assert!(panicked.is_err());
        match existing {
            false => assert_eq!(files_in(dir.path()), ["base.gguf"]),
            true => {
                assert_eq!(files_in(dir.path()), ["base.gguf", "derived.gguf"]);
                assert_eq!(std::fs::read(&out).unwrap(), b"an older file");
            }
        }
    }
    base.rewrite(&out, &mut Change::new(&[])).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&out).unwrap());
}

#[test]
fn a_row_that_does_not_fit_the_new_type() {
    let (dir, path, out) = save(&model());
    let base = Gguf::open(&path).unwrap();
    let error = base.rewrite(&out, &mut Change::new(&[("cube", GgmlType::Q4K)])).unwrap_err();
    assert!(
        matches!(&error, ChangeError::Gguf(GgufError::TensorRow { name, ty: GgmlType::Q4K, found: 32 }) if name == "cube"),
        "{error:?}"
    );
    assert_eq!(files_in(dir.path()), ["base.gguf"]);
}

#[test]
fn the_mapped_file_is_never_written_over() {
    let (dir, path, _) = save(&model());
    let bytes = std::fs::read(&path).unwrap();
    let base = Gguf::open(&path).unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let mut names = vec![path.clone(), dir.path().join("sub/../base.gguf")];
    #[cfg(unix)]
    {
        let link = dir.path().join("link.gguf");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let hard = dir.path().join("hard.gguf");
        std::fs::hard_link(&path, &hard).unwrap();
        names.extend([link, hard]);
    }
    for name in names {
        let error = base.rewrite(&name, &mut Change::new(&[])).unwrap_err();
        assert!(matches!(&error, ChangeError::Gguf(GgufError::SameFile { path }) if *path == name), "{error:?}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn paths_that_cannot_be_written() {
    let (dir, path, _) = save(&model());
    let base = Gguf::open(&path).unwrap();
    for bad in [dir.path().join("no/such/folder.gguf"), dir.path().to_owned(), PathBuf::from("/"), PathBuf::new()] {
        let error = base.rewrite(&bad, &mut Change::new(&[])).unwrap_err();
        assert!(matches!(&error, ChangeError::Gguf(GgufError::Io { path, .. }) if *path == bad), "{error:?}");
    }
    assert_eq!(files_in(dir.path()), ["base.gguf"]);
}

#[test]
fn a_source_changed_meanwhile_is_noticed() {
    let (_dir, path, out) = save(&model());
    let base = Gguf::open(&path).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let error = base.rewrite(&out, &mut Change::new(&[])).unwrap_err();
    assert!(matches!(error, ChangeError::Gguf(GgufError::Changed { .. })), "{error:?}");
    assert!(!out.exists());
}

//! Tensor infos and their validation.

use std::collections::HashMap;

use super::reader::Reader;
use super::{GgmlType, GgufError};

/// Smallest possible info: name length, one byte, rank, one dimension, type, offset.
const MIN_INFO_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// The rank `ggml` allows.
const MAX_RANK: u32 = 4;

/// Where a tensor lies and how it is stored. Every field has been checked against the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file, as `blk.0.attn_q.weight`.
    pub name: String,
    /// Storage type.
    pub ty: GgmlType,
    /// Dimensions, innermost first: `dims[0]` is the row length (columns, `in`), `dims[1]` the rows (`out`).
    pub dims: Vec<usize>,
    /// First byte of its data, from the start of the file.
    pub offset: usize,
    /// Bytes of its data.
    pub len: usize,
}

impl TensorInfo {
    /// Row length.
    pub fn cols(&self) -> usize {
        self.dims[0]
    }

    /// Product of all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// Checks that the tensor is a matrix of `rows` × `cols` (a vector has one row).
    ///
    /// # Errors
    /// [`GgufError::TensorShape`].
    pub fn expect_shape(&self, rows: usize, cols: usize) -> Result<(), GgufError> {
        if (self.rows(), self.cols()) == (rows, cols) {
            return Ok(());
        }
        Err(GgufError::TensorShape {
            name: self.name.clone(),
            expected: vec![rows, cols],
            found: vec![self.rows(), self.cols()],
        })
    }

    pub(super) const MIN_INFO_BYTES: u64 = MIN_INFO_BYTES;
}

/// An info as the file has it, before its offset can be judged (the data section begins after the last one).
pub(super) struct RawInfo {
    name: String,
    ty: GgmlType,
    dims: Vec<usize>,
    offset: u64,
    len: usize,
}

/// Reads one info and checks all that can be checked without knowing where the data begins.
pub(super) fn read_info(reader: &mut Reader<'_>) -> Result<RawInfo, GgufError> {
    let name = reader.name("tensor name")?.to_owned();
    let rank = reader.u32("tensor rank")?;
    if rank == 0 || rank > MAX_RANK {
        return Err(GgufError::TensorDims { name, found: vec![0; rank.min(MAX_RANK + 1) as usize] });
    }
    let mut raw_dims = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        raw_dims.push(reader.u64("tensor dimension")?);
    }
    let type_number = reader.u32("tensor type")?;
    let offset = reader.u64("tensor offset")?;
    if raw_dims.contains(&0) {
        return Err(GgufError::TensorDims { name, found: raw_dims });
    }
    let Some(ty) = GgmlType::from_u32(type_number) else {
        return Err(GgufError::TensorType { name, found: type_number });
    };
    let Some((dims, len)) = checked_size(ty, &raw_dims) else {
        if !raw_dims[0].is_multiple_of(ty.block_len() as u64) {
            return Err(GgufError::TensorRow { name, ty, found: raw_dims[0] });
        }
        return Err(GgufError::TensorOverflow { name, found: raw_dims });
    };
    Ok(RawInfo { name, ty, dims, offset, len })
}

/// Dimensions as `usize` and the byte length; `None` when a row is not whole blocks or any product overflows `isize`.
fn checked_size(ty: GgmlType, raw_dims: &[u64]) -> Option<(Vec<usize>, usize)> {
    let dims = raw_dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>()?;
    let rows = dims[1..].iter().try_fold(1usize, |a, &d| a.checked_mul(d))?;
    let elements = rows.checked_mul(dims[0])?;
    let len = ty.row_bytes(dims[0])?.checked_mul(rows)?;
    isize::try_from(elements).ok()?;
    isize::try_from(len).ok()?;
    Some((dims, len))
}

/// Places every tensor in the data section at `data_start` and checks alignment, range, names and overlap.
pub(super) fn place(
    raw: Vec<RawInfo>,
    data_start: usize,
    alignment: u64,
    file_len: usize,
) -> Result<(Vec<TensorInfo>, HashMap<String, usize>), GgufError> {
    let mut tensors = Vec::with_capacity(raw.len());
    let mut by_name = HashMap::with_capacity(raw.len());
    for RawInfo { name, ty, dims, offset, len } in raw {
        if !offset.is_multiple_of(alignment) {
            return Err(GgufError::TensorAlignment { name, found: offset, alignment });
        }
        let start = usize::try_from(offset).ok().and_then(|o| o.checked_add(data_start));
        let end = start.and_then(|s| s.checked_add(len)).filter(|&e| e <= file_len);
        let (Some(start), Some(_)) = (start, end) else {
            let offset = offset.saturating_add(data_start as u64);
            return Err(GgufError::TensorRange { name, offset, need: len as u64, len: file_len });
        };
        if by_name.insert(name.clone(), tensors.len()).is_some() {
            return Err(GgufError::DuplicateTensor { name });
        }
        tensors.push(TensorInfo { name, ty, dims, offset: start, len });
    }
    let mut order: Vec<&TensorInfo> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].len > pair[1].offset {
            return Err(GgufError::TensorOverlap { first: pair[0].name.clone(), second: pair[1].name.clone() });
        }
    }
    Ok((tensors, by_name))
}

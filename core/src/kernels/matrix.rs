//! A weight matrix as it lies in the mapped file.

use std::ops::Range;

use super::KernelError;
use crate::gguf::GgmlType;

/// A borrowed weight matrix of `rows` × `cols` (out × in); each row is a whole number of storage blocks and
/// rows follow one another without gaps.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Views `data` as a matrix of `rows` × `cols` elements of type `ty`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if a row is not a whole number of blocks or the size overflows,
    /// [`KernelError::Length`] if `data` is not exactly as long as the shape needs.
    pub fn new(ty: GgmlType, rows: usize, cols: usize, data: &'a [u8]) -> Result<Self, KernelError> {
        let shape = KernelError::Shape { ty, rows, cols };
        let Some(row_bytes) = ty.row_bytes(cols) else {
            return Err(shape);
        };
        let (Some(expected), Some(elements)) = (row_bytes.checked_mul(rows), rows.checked_mul(cols)) else {
            return Err(shape);
        };
        if data.len() != expected {
            return Err(KernelError::Length { ty, elements, expected, found: data.len() });
        }
        Ok(Self { ty, rows, cols, row_bytes, data })
    }

    /// Storage type.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Rows: outputs of the product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of the product.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`rows`](Self::rows).
    pub fn row(&self, i: usize) -> &'a [u8] {
        self.row_range(i, i + 1)
    }

    /// The bytes of columns of row `i`, which are whole blocks.
    pub(super) fn columns(&self, i: usize, columns: Range<usize>) -> &'a [u8] {
        let (len, bytes) = (self.ty.block_len(), self.ty.block_bytes());
        &self.row(i)[columns.start / len * bytes..columns.end / len * bytes]
    }

    /// The bytes of rows `start..end`.
    pub(crate) fn row_range(&self, start: usize, end: usize) -> &'a [u8] {
        assert!(start <= end && end <= self.rows, "rows {start}..{end} of {}", self.rows);
        &self.data[start * self.row_bytes..end * self.row_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let data = [0u8; 3 * 2 * 18];
        let m = Matrix::new(GgmlType::Q4_0, 3, 64, &data).unwrap();
        assert_eq!((m.rows(), m.cols(), m.row(2).len()), (3, 64, 36));
        assert!(matches!(Matrix::new(GgmlType::Q4_0, 3, 65, &data), Err(KernelError::Shape { cols: 65, .. })));
        assert!(matches!(
            Matrix::new(GgmlType::Q4_0, 4, 64, &data),
            Err(KernelError::Length { expected: 144, found: 108, .. })
        ));
        assert!(matches!(Matrix::new(GgmlType::F32, usize::MAX / 8, 64, &data), Err(KernelError::Shape { .. })));
    }
}

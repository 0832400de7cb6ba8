//! Numbers in safetensors containers.

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, View};
use std::borrow::Cow;

use super::AdapterError;

/// Longest header that is read. Sixty modules take 8 KB.
const MAX_HEADER: u64 = 16 << 20;

/// The tensors in `bytes`, names, ranges and sizes checked against each other and against the file's length.
pub(super) fn parse(bytes: &[u8]) -> Result<SafeTensors<'_>, AdapterError> {
    check_header(bytes)?;
    SafeTensors::deserialize(bytes).map_err(AdapterError::Safetensors)
}

/// Refuses a header past the cap before anything is made of it.
pub(super) fn check_header(bytes: &[u8]) -> Result<(), AdapterError> {
    let found = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if found > MAX_HEADER && found <= bytes.len() as u64 {
        return Err(AdapterError::HeaderTooLarge { found, limit: MAX_HEADER });
    }
    Ok(())
}

/// The finite coefficients of `module` in a one-dimensional F32, F16 or BF16 tensor.
pub(super) fn coefficients(module: &str, view: &TensorView<'_>) -> Result<Vec<f32>, AdapterError> {
    if view.shape().len() != 1 {
        return Err(wrong_shape(module, view, "[n]"));
    }
    floats(module, view)
}

/// The rows, the columns and the finite numbers of the F32, F16 or BF16 matrix `name`, whose shape is to be `expected`.
pub(super) fn matrix(
    name: &str,
    view: &TensorView<'_>,
    expected: &str,
) -> Result<(usize, usize, Vec<f32>), AdapterError> {
    match *view.shape() {
        [rows, cols] if rows > 0 && cols > 0 => Ok((rows, cols, floats(name, view)?)),
        _ => Err(wrong_shape(name, view, expected)),
    }
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, AdapterError> {
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => words(data).map(f32::from_le_bytes).collect(),
        Dtype::F16 => words(data).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
        Dtype::BF16 => words(data).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
        other => {
            let (name, found) = (name.to_owned(), format!("{other:?}"));
            return Err(AdapterError::Dtype { name, found, expected: "F32, F16 or BF16" });
        }
    };
    check_finite(name, &values)?;
    Ok(values)
}

/// The error for a tensor of another shape than `expected`.
pub(super) fn wrong_shape(name: &str, view: &TensorView<'_>, expected: &str) -> AdapterError {
    AdapterError::TensorShape { name: name.to_owned(), found: view.shape().to_vec(), expected: expected.to_owned() }
}

/// Refuses NaN and infinite numbers.
pub(super) fn check_finite(module: &str, values: &[f32]) -> Result<(), AdapterError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(AdapterError::NonFinite { module: module.to_owned(), index, value: values[index] }),
    }
}

/// Row and column indices in a `[2, n]` tensor of U32 or I32.
pub(super) fn positions(name: &str, view: &TensorView<'_>) -> Result<(Vec<u32>, Vec<u32>), AdapterError> {
    let &[2, n] = view.shape() else {
        return Err(wrong_shape(name, view, "[2, n]"));
    };
    if !matches!(view.dtype(), Dtype::U32 | Dtype::I32) {
        let (name, found) = (name.to_owned(), format!("{:?}", view.dtype()));
        return Err(AdapterError::Dtype { name, found, expected: "U32 or I32" });
    }
    // A negative index becomes one past any side, which the entries refuse.
    let mut rows: Vec<u32> = words(view.data()).map(u32::from_le_bytes).collect();
    let cols = rows.split_off(n.min(rows.len()));
    Ok((rows, cols))
}

fn words<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.as_chunks::<N>().0.iter().copied()
}

/// A tensor to be written.
pub(super) struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensor {
    /// Numbers as they are.
    pub(super) fn f32(shape: Vec<usize>, values: &[f32]) -> Self {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape, data }
    }

    /// Numbers of `module` rounded to f16; refused where one would become infinite.
    pub(super) fn f16(module: &str, shape: Vec<usize>, values: &[f32]) -> Result<Self, AdapterError> {
        let rounded: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        if let Some(index) = rounded.iter().position(|v| !v.is_finite()) {
            return Err(AdapterError::F16Range { module: module.to_owned(), index, value: values[index] });
        }
        let data = rounded.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(Self { dtype: Dtype::F16, shape, data })
    }

    /// Positions, rows then columns.
    pub(super) fn positions(rows: &[u32], cols: &[u32]) -> Self {
        let data = rows.iter().chain(cols).flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::U32, shape: vec![2, rows.len()], data }
    }
}

impl View for Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }

    fn data_len(&self) -> usize {
        self.data.len()
    }
}

//! LoRA's two factors in safetensors containers.

use std::sync::Arc;

use safetensors::SafeTensors;

use super::tensors::{matrix, wrong_shape};
use super::{AdapterError, LoraDelta, LoraScale};
use crate::spectral::Shape;

/// The change whose factors are the tensors of these names: A, `[r, in]`, and B, `[out, r]`.
pub(super) fn read(
    tensors: &SafeTensors<'_>,
    [a_name, b_name]: [&str; 2],
    scale: LoraScale,
) -> Result<LoraDelta, AdapterError> {
    let tensor = |name: &str| tensors.tensor(name).map_err(|_| AdapterError::MissingTensor { name: name.to_owned() });
    let (a_view, b_view) = (tensor(a_name)?, tensor(b_name)?);
    let (rank, inputs, a) = matrix(a_name, &a_view, "[r, in]")?;
    if b_view.shape().get(1) != Some(&rank) {
        return Err(wrong_shape(b_name, &b_view, &format!("[out, {rank}], for that is the rank of A")));
    }
    let (outputs, _, b) = matrix(b_name, &b_view, "[out, r]")?;
    let refused = |source| AdapterError::Entries { module: b_name.to_owned(), source };
    let shape = Shape::new(outputs, inputs).map_err(refused)?;
    let mut rows = Vec::with_capacity(b.len());
    (0..rank).for_each(|k| rows.extend(b[k..].iter().step_by(rank)));
    Ok(LoraDelta::from_rows(Arc::from(a), Arc::from(rows), shape, scale))
}

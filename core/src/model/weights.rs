//! Weights as places in the map: resolved once at opening, turned into views at each use.

use std::sync::Arc;

use crate::adapter::RowOrder;
use crate::gguf::{GgmlType, Gguf, GgufError, TensorInfo};
use crate::kernels::{KernelError, Matrix};

use super::ModelError;

/// The linear layers an adapter can target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinearKind {
    /// `self_attn.q_proj`
    Q,
    /// `self_attn.k_proj`
    K,
    /// `self_attn.v_proj`
    V,
    /// `self_attn.o_proj`
    O,
    /// `mlp.gate_proj`
    Gate,
    /// `mlp.up_proj`
    Up,
    /// `mlp.down_proj`
    Down,
}

impl LinearKind {
    /// All of them, in the order the forward pass meets them.
    pub const ALL: [LinearKind; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The Hugging Face module path inside a decoder layer.
    pub const fn hf_name(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The tensor's name inside a GGUF block.
    pub const fn gguf_name(self) -> &'static str {
        match self {
            Self::Q => "attn_q",
            Self::K => "attn_k",
            Self::V => "attn_v",
            Self::O => "attn_output",
            Self::Gate => "ffn_gate",
            Self::Up => "ffn_up",
            Self::Down => "ffn_down",
        }
    }
}

/// A linear layer `h = Wx (+ b)`: where its quantised rows lie.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Tensor name in the file.
    pub name: String,
    ty: GgmlType,
    rows: usize,
    cols: usize,
    offset: usize,
    len: usize,
    /// `b`, of `rows` elements.
    pub bias: Option<Vector>,
    /// How the file orders the rows against the Hugging Face layout; `None` when they agree.
    pub row_order: Option<Arc<RowOrder>>,
}

impl Linear {
    pub(super) fn new(info: &TensorInfo) -> Self {
        Self {
            name: info.name.clone(),
            ty: info.ty,
            rows: info.rows(),
            cols: info.cols(),
            offset: info.offset,
            len: info.len,
            bias: None,
            row_order: None,
        }
    }

    /// Output and input length.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Storage type.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Bytes read to multiply by it once.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// The quantised rows, borrowed from the map.
    ///
    /// # Errors
    /// [`KernelError`] if the bytes do not make up the matrix (a file other than the one it was resolved in).
    pub fn matrix<'a>(&self, gguf: &'a Gguf) -> Result<Matrix<'a>, KernelError> {
        Matrix::new(self.ty, self.rows, self.cols, gguf.bytes(self.offset, self.len))
    }
}

/// A short f32 vector (norm weights, biases) where the file has it.
#[derive(Debug, Clone)]
pub struct Vector {
    offset: usize,
    len: usize,
}

impl Vector {
    pub(super) fn new(info: &TensorInfo, gguf: &Gguf) -> Result<Self, ModelError> {
        if info.ty != GgmlType::F32 {
            return Err(ModelError::TensorType {
                name: info.name.clone(),
                expected: "F32",
                found: info.ty.to_string(),
            });
        }
        let vector = Self { offset: info.offset, len: info.len };
        if size_of_val(vector.get(gguf)) != info.len {
            // The map begins on a page and the data section is aligned to at least 8, so only an odd offset can do this.
            return Err(GgufError::TensorAlignment {
                name: info.name.clone(),
                found: info.offset as u64,
                alignment: align_of::<f32>() as u64,
            }
            .into());
        }
        Ok(vector)
    }

    /// The elements, borrowed from the map.
    pub fn get<'a>(&self, gguf: &'a Gguf) -> &'a [f32] {
        bytemuck::try_cast_slice(gguf.bytes(self.offset, self.len)).unwrap_or(&[])
    }
}

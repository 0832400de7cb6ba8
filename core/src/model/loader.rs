//! What every architecture's wiring asks of a file.

use std::sync::Arc;

use crate::adapter::RowOrder;
use crate::gguf::{Gguf, GgufError};

use super::blocks::{Activation, Mlp, RmsNorm};
use super::weights::{Linear, LinearKind, Vector};
use super::{KvCache, ModelError};

/// Layers past this are refused: no model has them, and a hostile count must not size an allocation.
const MAX_LAYERS: u32 = 1024;
/// Any other dimension past this is refused, which keeps every product of two of them inside 64 bits.
const MAX_DIM: u32 = 1 << 24;
/// Widths of a layer past this are refused: the buffers of a batch are so many rows of each, and a file can have
/// long rows for little.
const MAX_WIDTH: usize = 1 << 20;

/// Reads metadata under an architecture's prefix and resolves tensors by name and shape.
pub(super) struct Loader<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) architecture: &'static str,
}

impl<'a> Loader<'a> {
    pub(super) fn new(gguf: &'a Gguf, architecture: &'static str) -> Self {
        Self { gguf, architecture }
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A required dimension: at least 1, at most 2²⁴.
    pub(super) fn dim(&self, name: &str) -> Result<usize, ModelError> {
        match self.opt_dim(name)? {
            Some(dim) => Ok(dim),
            None => Err(GgufError::MissingKey { key: self.key(name) }.into()),
        }
    }

    /// An optional dimension, checked like [`Self::dim`].
    pub(super) fn opt_dim(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let key = self.key(name);
        match self.gguf.metadata().opt_u32(&key)? {
            None => Ok(None),
            Some(found) if (1..=MAX_DIM).contains(&found) => Ok(Some(found as usize)),
            Some(found) => {
                Err(GgufError::BadValue { key, expected: format!("1 to {MAX_DIM}"), found: found.to_string() }.into())
            }
        }
    }

    /// A required dimension that activations have: at least 1, at most 2²⁰.
    pub(super) fn width(&self, name: &str) -> Result<usize, ModelError> {
        let found = self.dim(name)?;
        if found > MAX_WIDTH {
            let (key, expected) = (self.key(name), format!("1 to {MAX_WIDTH}"));
            return Err(GgufError::BadValue { key, expected, found: found.to_string() }.into());
        }
        Ok(found)
    }

    /// `block_count`, bounded.
    pub(super) fn layers(&self) -> Result<usize, ModelError> {
        let key = self.key("block_count");
        let found = self.gguf.metadata().u32(&key)?;
        if !(1..=MAX_LAYERS).contains(&found) {
            return Err(
                GgufError::BadValue { key, expected: format!("1 to {MAX_LAYERS}"), found: found.to_string() }.into()
            );
        }
        // A count below the layers that are there would run the first of them alone.
        let beyond = format!("blk.{found}.");
        if let Some(tensor) = self.gguf.tensors().iter().find(|t| t.name.starts_with(&beyond)) {
            let expected = format!("more, for there is a tensor {:?}", tensor.name);
            return Err(GgufError::BadValue { key, expected, found: found.to_string() }.into());
        }
        Ok(found as usize)
    }

    pub(super) fn f32(&self, name: &str) -> Result<f32, ModelError> {
        Ok(self.gguf.metadata().f32(&self.key(name))?)
    }

    pub(super) fn opt_f32(&self, name: &str) -> Result<Option<f32>, ModelError> {
        Ok(self.gguf.metadata().opt_f32(&self.key(name))?)
    }

    pub(super) fn opt_str(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        Ok(self.gguf.metadata().opt_str(&self.key(name))?)
    }

    /// A float that must be above zero (a base, an epsilon, a factor).
    pub(super) fn positive(&self, name: &str, default: Option<f32>) -> Result<f32, ModelError> {
        let value = match (self.opt_f32(name)?, default) {
            (Some(value), _) | (None, Some(value)) => value,
            (None, None) => self.f32(name)?,
        };
        if value > 0.0 {
            return Ok(value);
        }
        Err(GgufError::BadValue { key: self.key(name), expected: "above 0".into(), found: value.to_string() }.into())
    }

    /// What positions are divided by before they turn heads: `rope.scaling.factor` under linear scaling, else 1.
    pub(super) fn rope_scale(&self) -> Result<f32, ModelError> {
        match self.opt_str("rope.scaling.type")?.unwrap_or("none") {
            "none" => Ok(1.0),
            "linear" => self.positive("rope.scaling.factor", Some(1.0)),
            other => Err(ModelError::Unsupported {
                architecture: self.architecture,
                feature: format!("rope scaling {other:?}"),
            }),
        }
    }

    /// Query heads must be a multiple of KV heads, and their elements a sane product.
    pub(super) fn check_heads(&self, heads: usize, kv_heads: usize, head_dim: usize) -> Result<(), ModelError> {
        let bad = |name: &str, expected: String, found: usize| {
            Err(GgufError::BadValue { key: self.key(name), expected, found: found.to_string() }.into())
        };
        if !heads.is_multiple_of(kv_heads) {
            return bad("attention.head_count_kv", format!("a divisor of the {heads} heads"), kv_heads);
        }
        if head_dim == 0 || heads.saturating_mul(head_dim) > MAX_WIDTH {
            return bad("attention.key_length", format!("1 to {}", MAX_WIDTH / heads), head_dim);
        }
        Ok(())
    }

    /// Refuses a key whose presence changes the computation in a way that is not implemented.
    pub(super) fn refuse_if(&self, present: bool, feature: impl Into<String>) -> Result<(), ModelError> {
        if present {
            return Err(ModelError::Unsupported { architecture: self.architecture, feature: feature.into() });
        }
        Ok(())
    }

    pub(super) fn linear(&self, name: &str, rows: usize, cols: usize) -> Result<Linear, ModelError> {
        let info = self.gguf.tensor(name)?;
        info.expect_shape(rows, cols)?;
        Ok(Linear::new(info))
    }

    /// A layer's linear with its bias if the file has one, and the row order of q and k where the file permutes them.
    pub(super) fn layer_linear(
        &self,
        layer: usize,
        kind: LinearKind,
        rows: usize,
        cols: usize,
        row_order: Option<Arc<RowOrder>>,
    ) -> Result<Linear, ModelError> {
        let base = format!("blk.{layer}.{}", kind.gguf_name());
        let mut linear = self.linear(&format!("{base}.weight"), rows, cols)?;
        linear.bias = self.opt_vector(&format!("{base}.bias"), rows)?;
        linear.row_order = row_order;
        Ok(linear)
    }

    pub(super) fn opt_vector(&self, name: &str, len: usize) -> Result<Option<Vector>, ModelError> {
        let Some(info) = self.gguf.opt_tensor(name) else { return Ok(None) };
        info.expect_shape(1, len)?;
        Vector::new(info, self.gguf).map(Some)
    }

    pub(super) fn norm(&self, name: &str, len: usize, eps: f32) -> Result<RmsNorm, ModelError> {
        let weight = self.opt_vector(name, len)?.ok_or_else(|| GgufError::MissingTensor { name: name.into() })?;
        Ok(RmsNorm { weight, eps })
    }

    pub(super) fn opt_norm(&self, name: &str, len: usize, eps: f32) -> Result<Option<RmsNorm>, ModelError> {
        Ok(self.opt_vector(name, len)?.map(|weight| RmsNorm { weight, eps }))
    }

    pub(super) fn mlp(
        &self,
        layer: usize,
        hidden: usize,
        inner: usize,
        activation: Activation,
    ) -> Result<Mlp, ModelError> {
        Ok(Mlp {
            gate: self.layer_linear(layer, LinearKind::Gate, inner, hidden, None)?,
            up: self.layer_linear(layer, LinearKind::Up, inner, hidden, None)?,
            down: self.layer_linear(layer, LinearKind::Down, hidden, inner, None)?,
            activation,
        })
    }

    /// Embedding table and output head: the head is `output.weight`, or the embedding itself when that is absent (tied).
    /// The vocabulary's size is the table's row count.
    pub(super) fn embedding_and_head(&self, hidden: usize) -> Result<(Linear, Linear), ModelError> {
        let info = self.gguf.tensor("token_embd.weight")?;
        let vocab = info.rows();
        info.expect_shape(vocab, hidden)?;
        if vocab > MAX_DIM as usize {
            let expected = format!("at most {MAX_DIM} rows");
            return Err(GgufError::BadValue { key: info.name.clone(), expected, found: vocab.to_string() }.into());
        }
        let embedding = Linear::new(info);
        let head = match self.gguf.opt_tensor("output.weight") {
            Some(_) => self.linear("output.weight", vocab, hidden)?,
            None => embedding.clone(),
        };
        Ok((embedding, head))
    }

    /// The context the model was trained for.
    pub(super) fn context(&self) -> Result<usize, ModelError> {
        self.dim("context_length").map(|n| n.min(KvCache::MAX_CAPACITY))
    }
}

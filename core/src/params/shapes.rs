//! Which layers an adapter sits on: query and value of every attention block, as in the paper.

use std::str::FromStr;

use serde::Serialize;

use super::ParamsError;
use crate::gguf::Gguf;

/// The shape of one adapted linear layer, `out × in` (`d1 × d2` in the paper).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LayerShape {
    /// Rows: the length of the layer's output.
    pub out: u64,
    /// Columns: the length of the layer's input.
    #[serde(rename = "in")]
    pub inp: u64,
}

/// A base model of the paper's Table 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // The names say it all.
pub enum BaseModel {
    RobertaBase,
    RobertaLarge,
    #[serde(rename = "gpt2-medium")]
    Gpt2Medium,
    #[serde(rename = "gpt2-large")]
    Gpt2Large,
    #[serde(rename = "llama2-7b")]
    Llama2_7b,
    #[serde(rename = "llama2-13b")]
    Llama2_13b,
    VitBase,
    VitLarge,
}

impl BaseModel {
    /// All of them, in the paper's order.
    pub const ALL: [Self; 8] = [
        Self::RobertaBase,
        Self::RobertaLarge,
        Self::Gpt2Medium,
        Self::Gpt2Large,
        Self::Llama2_7b,
        Self::Llama2_13b,
        Self::VitBase,
        Self::VitLarge,
    ];

    /// The name it has on the command line, `roberta-base`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RobertaBase => "roberta-base",
            Self::RobertaLarge => "roberta-large",
            Self::Gpt2Medium => "gpt2-medium",
            Self::Gpt2Large => "gpt2-large",
            Self::Llama2_7b => "llama2-7b",
            Self::Llama2_13b => "llama2-13b",
            Self::VitBase => "vit-base",
            Self::VitLarge => "vit-large",
        }
    }

    /// The names of all of them, in the paper's order.
    pub fn names() -> [&'static str; 8] {
        Self::ALL.map(Self::name)
    }

    /// The name the paper prints, `RoBERTa Base`.
    pub fn title(self) -> &'static str {
        match self {
            Self::RobertaBase => "RoBERTa Base",
            Self::RobertaLarge => "RoBERTa Large",
            Self::Gpt2Medium => "GPT-2 Medium",
            Self::Gpt2Large => "GPT-2 Large",
            Self::Llama2_7b => "LLaMA-2 7B",
            Self::Llama2_13b => "LLaMA-2 13B",
            Self::VitBase => "ViT Base",
            Self::VitLarge => "ViT Large",
        }
    }

    /// Attention blocks and model width. In all of these models the query and value matrices are `width × width`
    /// (two thirds of GPT-2's fused projection).
    fn blocks_and_width(self) -> (usize, u64) {
        match self {
            Self::RobertaBase | Self::VitBase => (12, 768),
            Self::RobertaLarge | Self::Gpt2Medium | Self::VitLarge => (24, 1024),
            Self::Gpt2Large => (36, 1280),
            Self::Llama2_7b => (32, 4096),
            Self::Llama2_13b => (40, 5120),
        }
    }

    /// The query and value matrices of every block, in block order.
    pub fn layers(self) -> Vec<LayerShape> {
        let (blocks, width) = self.blocks_and_width();
        vec![LayerShape { out: width, inp: width }; 2 * blocks]
    }
}

impl FromStr for BaseModel {
    type Err = ParamsError;

    fn from_str(name: &str) -> Result<Self, ParamsError> {
        Self::ALL
            .into_iter()
            .find(|model| model.name() == name)
            .ok_or_else(|| ParamsError::UnknownModel { name: name.to_owned() })
    }
}

/// The query and value matrices of a GGUF model (`blk.<i>.attn_q.weight`, `blk.<i>.attn_v.weight`), in file order.
///
/// # Errors
/// [`ParamsError::NoLayers`] where the file has none, as in architectures that fuse them into one tensor.
pub fn query_value_layers(gguf: &Gguf) -> Result<Vec<LayerShape>, ParamsError> {
    let layers: Vec<LayerShape> = gguf
        .tensors()
        .iter()
        .filter(|tensor| is_query_or_value(&tensor.name))
        .filter_map(|tensor| match tensor.dims.as_slice() {
            // GGUF lists the fastest-running dimension first.
            [columns, rows] => Some(LayerShape { out: *rows as u64, inp: *columns as u64 }),
            _ => None,
        })
        .collect();
    if layers.is_empty() { Err(ParamsError::NoLayers { path: gguf.path().to_owned() }) } else { Ok(layers) }
}

/// `blk.<number>.attn_q.weight` or `blk.<number>.attn_v.weight`.
fn is_query_or_value(tensor: &str) -> bool {
    tensor.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).is_some_and(|(block, kind)| {
        !block.is_empty()
            && block.bytes().all(|b| b.is_ascii_digit())
            && matches!(kind, "attn_q.weight" | "attn_v.weight")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for model in BaseModel::ALL {
            assert_eq!(model.name().parse(), Ok(model));
            assert_eq!(serde_json::to_value(model).unwrap(), model.name());
        }
        assert!("bert".parse::<BaseModel>().unwrap_err().to_string().contains("vit-large"));
    }

    #[test]
    fn tensor_names() {
        assert!(is_query_or_value("blk.0.attn_q.weight"));
        assert!(is_query_or_value("blk.29.attn_v.weight"));
        for other in [
            "blk.0.attn_k.weight",
            "blk.0.attn_q.bias",
            "blk.0.attn_q_norm.weight",
            "blk..attn_q.weight",
            "attn_q.weight",
        ] {
            assert!(!is_query_or_value(other), "{other}");
        }
    }
}

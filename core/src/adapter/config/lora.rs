//! What only LoRA's configuration has.

use serde_json::{Map, Value, json};

use super::fields::{Fields, finite, patterns, positive, unsupported};
use crate::adapter::{AdapterError, LoraScale, Patterns};

/// The fields of PEFT's `LoraConfig`. Those that would make another method of it are refused while they ask for anything:
/// `use_dora`, `use_qalora`, `lora_bias`, `layer_replication`, `trainable_token_indices`, `target_parameters`, `megatron_config`, …
#[derive(Debug, Clone, PartialEq)]
pub struct LoraMethod {
    /// `r` (8): the rank, unless a pattern says otherwise.
    pub r: usize,
    /// `lora_alpha` (8), unless a pattern says otherwise.
    pub lora_alpha: f64,
    /// `use_rslora`: alpha is divided by the root of the rank.
    pub use_rslora: bool,
    /// `rank_pattern`, in the file's order: the first that matches a module gives its rank.
    pub rank_pattern: Vec<(String, usize)>,
    /// `alpha_pattern`, likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// `lora_dropout`: of training. No effect on a trained adapter.
    pub lora_dropout: f64,
    /// `init_lora_weights`: how training began.
    pub init: LoraInit,
}

/// The ways to begin training that leave the base as it is, so that a trained adapter does not depend on them. PiSSA, CorDA,
/// OLoRA, LoftQ and LoRA-GA take what they begin with out of the base's weights: such an adapter goes with a base that is in no file, and
/// PEFT can save it for the unchanged base instead (`path_initial_model_for_weight_conversion`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraInit {
    /// `true`.
    Default,
    /// `false`.
    Random,
    /// `gaussian`.
    Gaussian,
    /// `orthogonal`.
    Orthogonal,
}

/// Further methods, which are chosen by a configuration of their own, an empty one too.
const VARIANTS: [&str; 5] = ["arrow_config", "kasa_config", "monteclora_config", "use_bdlora", "velora_config"];

/// Fields that only say how something else, refused below, would be done.
const HARMLESS: [&str; 2] = ["megatron_core", "qalora_group_size"];

impl LoraMethod {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, AdapterError> {
        for name in VARIANTS {
            match fields.remove(name) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(other) => return Err(unsupported(name, &other)),
            }
        }
        for name in HARMLESS {
            fields.remove(name);
        }
        let init = match fields.remove("init_lora_weights") {
            None => LoraInit::Default,
            Some(value) => LoraInit::read(&value).ok_or_else(|| unsupported("init_lora_weights", &value))?,
        };
        let ranks = |value: &Value| patterns(value, positive);
        let alphas = |value: &Value| patterns(value, finite);
        Ok(Self {
            r: fields.take("r", 8, "a whole number above 0", positive)?,
            lora_alpha: fields.take("lora_alpha", 8.0, "a finite number", finite)?,
            use_rslora: fields.take("use_rslora", false, "true or false", Value::as_bool)?,
            rank_pattern: fields.take("rank_pattern", Vec::new(), "an object of ranks", ranks)?,
            alpha_pattern: fields.take("alpha_pattern", Vec::new(), "an object of finite numbers", alphas)?,
            lora_dropout: fields.take("lora_dropout", 0.0, "a finite number", finite)?,
            init,
        })
    }

    pub(super) fn to_json(&self) -> Map<String, Value> {
        let ranks: Map<String, Value> = self.rank_pattern.iter().map(|(key, r)| (key.clone(), json!(r))).collect();
        let alphas = self.alpha_pattern.iter().map(|(key, alpha)| (key.clone(), number(*alpha)));
        let alphas: Map<String, Value> = alphas.collect();
        let value = json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": alphas,
            "arrow_config": null,
            "corda_config": null,
            "ensure_weight_tying": false,
            "eva_config": null,
            "init_lora_weights": self.init.to_json(),
            "kasa_config": null,
            "layer_replication": null,
            "loftq_config": {},
            "lora_alpha": number(self.lora_alpha),
            "lora_bias": false,
            "lora_dropout": self.lora_dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "monteclora_config": null,
            "peft_type": "LORA",
            "qalora_group_size": 16,
            "r": self.r,
            "rank_pattern": ranks,
            "target_parameters": null,
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": false,
            "use_qalora": false,
            "use_rslora": self.use_rslora,
            "velora_config": null,
        });
        match value {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// The rank of each module.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub fn ranks(&self) -> Result<Patterns<'_, usize>, AdapterError> {
        Patterns::new("rank_pattern", &self.rank_pattern, self.r, full)
    }

    /// The alpha of each module.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub fn alphas(&self) -> Result<Patterns<'_, f64>, AdapterError> {
        Patterns::new("alpha_pattern", &self.alpha_pattern, self.lora_alpha, full)
    }

    /// The scale that goes with an alpha.
    pub fn scale(&self, alpha: f64) -> LoraScale {
        LoraScale { alpha, rank_stabilized: self.use_rslora }
    }
}

/// The expression that PEFT's `get_pattern_key` makes of a key: for the whole name, or for what follows a dot.
fn full(key: &str) -> String {
    format!(r"\A(?:(.*\.)?({key})$)")
}

/// A whole number as one, for that is how PEFT writes its alphas.
fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT { json!(value as i64) } else { json!(value) }
}

impl LoraInit {
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(true) => Some(Self::Default),
            Value::Bool(false) => Some(Self::Random),
            Value::String(name) if name.eq_ignore_ascii_case("gaussian") => Some(Self::Gaussian),
            Value::String(name) if name == "orthogonal" => Some(Self::Orthogonal),
            _ => None,
        }
    }

    fn to_json(self) -> Value {
        match self {
            Self::Default => json!(true),
            Self::Random => json!(false),
            Self::Gaussian => json!("gaussian"),
            Self::Orthogonal => json!("orthogonal"),
        }
    }
}

//! `adapter_config.json` of a PEFT adapter.
//!
//! Every field of PEFT's `FourierFTConfig` and `LoraConfig` (0.21.2) is honoured or refused by name. A field this crate does
//! not know is accepted while it is null, false or empty, which is how PEFT writes an option that is not used, and refused
//! otherwise: ignoring it could change the numbers.

mod fields;
mod fourier;
mod lora;

use serde_json::{Map, Value, json};

pub use fourier::FourierMethod;
pub use lora::{LoraInit, LoraMethod};

use super::AdapterError;
use fields::{Fields, field, layers, one_or_more, text, unsupported};

/// What `adapter_config.json` says that matters here. Absent fields have PEFT's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// `peft_type`, and the fields that only this method has.
    pub method: Method,
    /// `target_modules`.
    pub target_modules: Names,
    /// `exclude_modules`.
    pub exclude_modules: Option<Names>,
    /// `fan_in_fan_out`: how the base stores its weight. The change is `[out, in]` either way.
    pub fan_in_fan_out: bool,
    /// `layers_to_transform`: the only layers changed, all if `None`.
    pub layers_to_transform: Option<Vec<i64>>,
    /// `layers_pattern`: the names of the module lists that number layers, any if empty.
    pub layers_pattern: Vec<String>,
    /// `base_model_name_or_path`. No effect.
    pub base_model: Option<String>,
    /// `task_type`. No effect.
    pub task_type: Option<String>,
}

/// `peft_type`.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// `FOURIERFT`.
    Fourier(FourierMethod),
    /// `LORA`.
    Lora(LoraMethod),
}

/// Module names, as PEFT lets them be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names {
    /// Names, or what names end with after a dot.
    List(Vec<String>),
    /// A regular expression for the whole name.
    Pattern(String),
    /// `all-linear`: every linear layer but the output head.
    AllLinear,
}

impl PeftConfig {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// [`AdapterError::Json`], [`AdapterError::PeftType`], [`AdapterError::Field`] or [`AdapterError::Unsupported`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, AdapterError> {
        let mut fields = Fields::new(serde_json::from_slice(bytes).map_err(AdapterError::Json)?);
        // First, because another method's fields would only confuse.
        let read: fn(&mut Fields) -> Result<Method, AdapterError> = match fields.remove("peft_type") {
            Some(Value::String(kind)) if kind == "FOURIERFT" => {
                |fields| FourierMethod::read(fields).map(Method::Fourier)
            }
            Some(Value::String(kind)) if kind == "LORA" => |fields| LoraMethod::read(fields).map(Method::Lora),
            Some(Value::String(found)) => return Err(AdapterError::PeftType { found }),
            other => return Err(field("peft_type", &other.unwrap_or_default(), "a string")),
        };
        fields.only_empty("modules_to_save")?;
        match fields.remove("bias") {
            None => {}
            Some(Value::String(bias)) if bias == "none" => {}
            Some(other) => return Err(unsupported("bias", &other)),
        }
        let config = Self {
            method: read(&mut fields)?,
            target_modules: fields
                .names("target_modules")?
                .ok_or_else(|| field("target_modules", &Value::Null, "module names"))?,
            exclude_modules: fields.names("exclude_modules")?,
            fan_in_fan_out: fields.take("fan_in_fan_out", false, "true or false", Value::as_bool)?,
            layers_to_transform: fields.take("layers_to_transform", None, "layer numbers", layers)?,
            layers_pattern: fields.take("layers_pattern", Vec::new(), "module names", one_or_more)?,
            base_model: fields.take("base_model_name_or_path", None, "a string", text)?,
            task_type: fields.take("task_type", None, "a string", text)?,
        };
        config.check()?;
        fields.only_harmless()?;
        Ok(config)
    }

    /// What PEFT's own constructor refuses.
    fn check(&self) -> Result<(), AdapterError> {
        let listed = matches!(self.target_modules, Names::List(_));
        if !listed && self.layers_to_transform.is_some() {
            let found = json!(self.layers_to_transform);
            return Err(field("layers_to_transform", &found, "null where target_modules is a string"));
        }
        if !self.layers_pattern.is_empty() && self.layers_to_transform.is_none() {
            return Err(field("layers_pattern", &json!(self.layers_pattern), "null without layers_to_transform"));
        }
        Ok(())
    }

    /// The configuration as PEFT writes it: every field of `FourierFTConfig` or `LoraConfig`, keys sorted.
    pub fn to_json(&self) -> String {
        let mut fields = match &self.method {
            Method::Fourier(method) => method.to_json(),
            Method::Lora(method) => method.to_json(),
        };
        let common = json!({
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "exclude_modules": self.exclude_modules.as_ref().map(Names::to_json),
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
            "layers_pattern": if self.layers_pattern.is_empty() { Value::Null } else { json!(self.layers_pattern) },
            "layers_to_transform": self.layers_to_transform,
            "modules_to_save": null,
            "peft_version": "0.21.2",
            "revision": null,
            "target_modules": self.target_modules.to_json(),
            "task_type": self.task_type,
        });
        if let Value::Object(common) = common {
            fields.extend(common);
        }
        let sorted: Map<String, Value> =
            fields.into_iter().collect::<std::collections::BTreeMap<_, _>>().into_iter().collect();
        format!("{:#}\n", Value::Object(sorted))
    }
}

impl Names {
    fn to_json(&self) -> Value {
        match self {
            Self::List(names) => json!(names),
            Self::Pattern(pattern) => json!(pattern),
            Self::AllLinear => json!("all-linear"),
        }
    }
}

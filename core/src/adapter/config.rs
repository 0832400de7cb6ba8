//! `adapter_config.json` of a FourierFT adapter.
//!
//! Every field of PEFT's `FourierFTConfig` (0.21.2) is honoured or refused by name. A field this crate does not know is
//! accepted while it is null, false or empty, which is how PEFT writes an option that is not used, and refused
//! otherwise: ignoring it could change the numbers.

use serde_json::{Map, Value, json};

use super::AdapterError;

/// The fields of PEFT's `FourierFTConfig` that matter here. Absent ones have PEFT's defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct PeftConfig {
    /// `n_frequency` (1000): coefficients per module, unless a pattern says otherwise.
    pub n_frequency: usize,
    /// `scaling` (150.0): α.
    pub scaling: f64,
    /// `random_loc_seed` (777). A negative one is the number with the same 64 bits, as PyTorch takes it.
    pub random_loc_seed: u64,
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
    /// `n_frequency_pattern`, in the file's order: the first that matches a module gives its `n`.
    pub n_frequency_pattern: Vec<(String, usize)>,
    /// `init_weights`: how training began. No effect on a trained adapter.
    pub init_weights: bool,
    /// `base_model_name_or_path`. No effect.
    pub base_model: Option<String>,
    /// `task_type`. No effect.
    pub task_type: Option<String>,
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

/// Fields without effect on a trained adapter's numbers, whatever they hold. (PEFT ignores `runtime_config` on loading.)
const HARMLESS: [&str; 5] = ["auto_mapping", "inference_mode", "peft_version", "revision", "runtime_config"];

impl PeftConfig {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// [`AdapterError::Json`], [`AdapterError::PeftType`], [`AdapterError::Field`] or [`AdapterError::Unsupported`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, AdapterError> {
        let mut fields = Fields(serde_json::from_slice(bytes).map_err(AdapterError::Json)?);
        // First, because another method's fields would only confuse.
        match fields.0.remove("peft_type") {
            Some(Value::String(kind)) if kind == "FOURIERFT" => {}
            Some(Value::String(found)) => return Err(AdapterError::PeftType { found }),
            other => return Err(field("peft_type", &other.unwrap_or_default(), "a string")),
        }
        fields.only_empty("modules_to_save")?;
        match fields.0.remove("bias") {
            None => {}
            Some(Value::String(bias)) if bias == "none" => {}
            Some(other) => return Err(unsupported("bias", &other)),
        }
        let config = Self {
            n_frequency: fields.take("n_frequency", 1000, "a whole number above 0", positive)?,
            scaling: fields.take("scaling", 150.0, "a finite number", finite)?,
            random_loc_seed: fields.take("random_loc_seed", 777, "a 64-bit whole number", seed)?,
            target_modules: fields
                .names("target_modules")?
                .ok_or_else(|| field("target_modules", &Value::Null, "module names"))?,
            exclude_modules: fields.names("exclude_modules")?,
            fan_in_fan_out: fields.take("fan_in_fan_out", false, "true or false", Value::as_bool)?,
            layers_to_transform: fields.take("layers_to_transform", None, "layer numbers", layers)?,
            layers_pattern: fields.take("layers_pattern", Vec::new(), "module names", one_or_more)?,
            n_frequency_pattern: fields.take("n_frequency_pattern", Vec::new(), "an object of counts", counts)?,
            init_weights: fields.take("init_weights", false, "true or false", Value::as_bool)?,
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

    /// The configuration as PEFT writes it: every field of `FourierFTConfig`, keys sorted.
    pub fn to_json(&self) -> String {
        let pattern: Map<String, Value> =
            self.n_frequency_pattern.iter().map(|(key, n)| (key.clone(), json!(n))).collect();
        let value = json!({
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "exclude_modules": self.exclude_modules.as_ref().map(Names::to_json),
            "fan_in_fan_out": self.fan_in_fan_out,
            "inference_mode": true,
            "init_weights": self.init_weights,
            "layers_pattern": if self.layers_pattern.is_empty() { Value::Null } else { json!(self.layers_pattern) },
            "layers_to_transform": self.layers_to_transform,
            "modules_to_save": null,
            "n_frequency": self.n_frequency,
            "n_frequency_pattern": pattern,
            "peft_type": "FOURIERFT",
            "peft_version": "0.21.2",
            "random_loc_seed": self.random_loc_seed,
            "revision": null,
            "scaling": self.scaling,
            "target_modules": self.target_modules.to_json(),
            "task_type": self.task_type,
        });
        format!("{value:#}\n")
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

/// The fields not looked at yet.
struct Fields(Map<String, Value>);

impl Fields {
    /// A field through `read`, or `default` where it is absent.
    fn take<T>(
        &mut self,
        name: &str,
        default: T,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, AdapterError> {
        match self.0.remove(name) {
            None => Ok(default),
            Some(value) => read(&value).ok_or_else(|| field(name, &value, expected)),
        }
    }

    fn names(&mut self, name: &'static str) -> Result<Option<Names>, AdapterError> {
        self.take(name, None, "a string or a list of strings", |value| {
            Some(match value {
                Value::Null => None,
                // PEFT replaces this one by a model's own list; only for targets does it mean anything.
                Value::String(s) if name == "target_modules" && s.eq_ignore_ascii_case("all-linear") => {
                    Some(Names::AllLinear)
                }
                Value::String(s) => Some(s.clone()).filter(|s| !s.is_empty()).map(Names::Pattern),
                list => Some(strings(list)?).filter(|l| !l.is_empty()).map(Names::List),
            })
        })
    }

    fn only_empty(&mut self, name: &str) -> Result<(), AdapterError> {
        match self.0.remove(name) {
            Some(value) if !is_empty(&value) => Err(unsupported(name, &value)),
            _ => Ok(()),
        }
    }

    fn only_harmless(&self) -> Result<(), AdapterError> {
        match self.0.iter().find(|(name, value)| !HARMLESS.contains(&name.as_str()) && !is_empty(value)) {
            None => Ok(()),
            Some((name, value)) => Err(unsupported(name, value)),
        }
    }
}

/// Null, false, or nothing in it.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(_) => false,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn positive(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|v| v.is_finite())
}

fn seed(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned))
}

fn text(value: &Value) -> Option<Option<String>> {
    match value {
        Value::Null => Some(None),
        Value::String(s) => Some(Some(s.clone())),
        _ => None,
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn one_or_more(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(s) if s.is_empty() => Some(Vec::new()),
        Value::String(s) => Some(vec![s.clone()]),
        list => strings(list),
    }
}

fn layers(value: &Value) -> Option<Option<Vec<i64>>> {
    match value {
        Value::Null => Some(None),
        Value::Number(n) => Some(Some(vec![n.as_i64()?])),
        // An empty list means all layers, as null does.
        Value::Array(list) if list.is_empty() => Some(None),
        Value::Array(list) => list.iter().map(Value::as_i64).collect::<Option<_>>().map(Some),
        _ => None,
    }
}

fn counts(value: &Value) -> Option<Vec<(String, usize)>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Object(map) => map.iter().map(|(key, n)| Some((key.clone(), positive(n)?))).collect(),
        _ => None,
    }
}

/// Longest value quoted in an error, in characters.
const MAX_QUOTE: usize = 80;

fn quote(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_QUOTE) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn field(name: &str, value: &Value, expected: &'static str) -> AdapterError {
    AdapterError::Field { field: name.to_owned(), found: quote(value), expected }
}

fn unsupported(name: &str, value: &Value) -> AdapterError {
    AdapterError::Unsupported { field: name.chars().take(MAX_QUOTE).collect(), found: quote(value) }
}

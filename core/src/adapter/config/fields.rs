//! Fields of a configuration, each read or refused by name.

use serde_json::{Map, Value};

use super::Names;
use crate::adapter::AdapterError;

/// Fields without effect on a trained adapter's numbers, whatever they hold. (PEFT ignores `runtime_config` on loading.)
const HARMLESS: [&str; 5] = ["auto_mapping", "inference_mode", "peft_version", "revision", "runtime_config"];

/// Most expressions that an object of patterns may have: each is compiled, and tried on every module.
const MAX_PATTERNS: usize = 4096;

/// The fields not looked at yet.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    pub(super) fn new(fields: Map<String, Value>) -> Self {
        Self(fields)
    }

    /// The field, which is then looked at.
    pub(super) fn remove(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// A field through `read`, or `default` where it is absent.
    pub(super) fn take<T>(
        &mut self,
        name: &str,
        default: T,
        expected: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<T, AdapterError> {
        match self.remove(name) {
            None => Ok(default),
            Some(value) => read(&value).ok_or_else(|| field(name, &value, expected)),
        }
    }

    pub(super) fn names(&mut self, name: &'static str) -> Result<Option<Names>, AdapterError> {
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

    /// Refuses the field unless it asks for nothing.
    pub(super) fn only_empty(&mut self, name: &str) -> Result<(), AdapterError> {
        match self.0.remove(name) {
            Some(value) if !is_empty(&value) => Err(unsupported(name, &value)),
            _ => Ok(()),
        }
    }

    /// Refuses what is left and asks for anything.
    pub(super) fn only_harmless(&self) -> Result<(), AdapterError> {
        match self.0.iter().find(|(name, value)| !HARMLESS.contains(&name.as_str()) && !is_empty(value)) {
            None => Ok(()),
            Some((name, value)) => Err(unsupported(name, value)),
        }
    }
}

/// Null, false, or nothing in it.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(_) => false,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

pub(super) fn positive(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0)
}

pub(super) fn finite(value: &Value) -> Option<f64> {
    value.as_f64().filter(|v| v.is_finite())
}

pub(super) fn seed(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned))
}

pub(super) fn text(value: &Value) -> Option<Option<String>> {
    match value {
        Value::Null => Some(None),
        Value::String(s) => Some(Some(s.clone())),
        _ => None,
    }
}

pub(super) fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

pub(super) fn one_or_more(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::String(s) if s.is_empty() => Some(Vec::new()),
        Value::String(s) => Some(vec![s.clone()]),
        list => strings(list),
    }
}

pub(super) fn layers(value: &Value) -> Option<Option<Vec<i64>>> {
    match value {
        Value::Null => Some(None),
        Value::Number(n) => Some(Some(vec![n.as_i64()?])),
        // An empty list means all layers, as null does.
        Value::Array(list) if list.is_empty() => Some(None),
        Value::Array(list) => list.iter().map(Value::as_i64).collect::<Option<_>>().map(Some),
        _ => None,
    }
}

/// An object of expressions, each with a number that `read` takes.
pub(super) fn patterns<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Object(map) if map.len() <= MAX_PATTERNS => {
            map.iter().map(|(key, number)| Some((key.clone(), read(number)?))).collect()
        }
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

pub(super) fn field(name: &str, value: &Value, expected: &'static str) -> AdapterError {
    AdapterError::Field { field: name.to_owned(), found: quote(value), expected }
}

pub(super) fn unsupported(name: &str, value: &Value) -> AdapterError {
    AdapterError::Unsupported { field: name.chars().take(MAX_QUOTE).collect(), found: quote(value) }
}

//! What only FourierFT's configuration has.

use serde_json::{Map, Value, json};

use super::fields::{Fields, finite, patterns, positive, seed};
use crate::adapter::{AdapterError, Patterns};

/// The fields of PEFT's `FourierFTConfig`.
#[derive(Debug, Clone, PartialEq)]
pub struct FourierMethod {
    /// `n_frequency` (1000): coefficients per module, unless a pattern says otherwise.
    pub n_frequency: usize,
    /// `scaling` (150.0): α.
    pub scaling: f64,
    /// `random_loc_seed` (777). A negative one is the number with the same 64 bits, as PyTorch takes it.
    pub random_loc_seed: u64,
    /// `n_frequency_pattern`, in the file's order: the first that matches a module gives its `n`.
    pub n_frequency_pattern: Vec<(String, usize)>,
    /// `init_weights`: how training began. No effect on a trained adapter.
    pub init_weights: bool,
}

impl FourierMethod {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, AdapterError> {
        let counts = |value: &Value| patterns(value, positive);
        Ok(Self {
            n_frequency: fields.take("n_frequency", 1000, "a whole number above 0", positive)?,
            scaling: fields.take("scaling", 150.0, "a finite number", finite)?,
            random_loc_seed: fields.take("random_loc_seed", 777, "a 64-bit whole number", seed)?,
            n_frequency_pattern: fields.take("n_frequency_pattern", Vec::new(), "an object of counts", counts)?,
            init_weights: fields.take("init_weights", false, "true or false", Value::as_bool)?,
        })
    }

    pub(super) fn to_json(&self) -> Map<String, Value> {
        let pattern: Map<String, Value> =
            self.n_frequency_pattern.iter().map(|(key, n)| (key.clone(), json!(n))).collect();
        [
            ("init_weights", json!(self.init_weights)),
            ("n_frequency", json!(self.n_frequency)),
            ("n_frequency_pattern", json!(pattern)),
            ("peft_type", json!("FOURIERFT")),
            ("random_loc_seed", json!(self.random_loc_seed)),
            ("scaling", json!(self.scaling)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
    }

    /// The number of coefficients of each module.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub fn n_frequencies(&self) -> Result<Patterns<'_, usize>, AdapterError> {
        // As in PEFT, the key stands in the expression without brackets of its own, after a dot.
        let full = |key: &str| format!(r"\A(?:.*\.{key}$)");
        Patterns::new("n_frequency_pattern", &self.n_frequency_pattern, self.n_frequency, full)
    }
}

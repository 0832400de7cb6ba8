//! Numbers that a configuration gives modules by expression.

use fancy_regex::Regex;

use super::AdapterError;
use super::select::{compile, matches};

/// One number for every module: that of the first expression that matches its name, or the default. Compiled.
#[derive(Debug)]
pub struct Patterns<'a, T> {
    field: &'static str,
    numbers: &'a [(String, T)],
    compiled: Vec<Regex>,
    default: T,
}

impl<'a, T: Copy> Patterns<'a, T> {
    /// `full` makes the whole expression of a key.
    pub(super) fn new(
        field: &'static str,
        numbers: &'a [(String, T)],
        default: T,
        full: impl Fn(&str) -> String,
    ) -> Result<Self, AdapterError> {
        let compiled = numbers.iter().map(|(key, _)| compile(field, key, &full(key))).collect::<Result<_, _>>()?;
        Ok(Self { field, numbers, compiled, default })
    }

    /// The number of `module`.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`] if an expression takes too long on it.
    pub fn get(&self, module: &str) -> Result<T, AdapterError> {
        for (regex, (_, number)) in self.compiled.iter().zip(self.numbers) {
            if matches(self.field, regex, module)? {
                return Ok(*number);
            }
        }
        // Where no expression matches, PEFT looks the name itself up among the keys.
        let exact = self.numbers.iter().find(|(key, _)| key == module);
        Ok(exact.map_or(self.default, |(_, number)| *number))
    }
}

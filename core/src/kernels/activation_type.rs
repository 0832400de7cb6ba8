//! How activations are quantised.

use std::fmt;
use std::str::FromStr;

use super::KernelError;

/// How finely the activations are rounded that meet quantised weights; each block of 32 has a scale of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ActivationType {
    /// Steps of 1/16256 of a block's largest magnitude: results that are next to those of f32.
    #[default]
    Int15,
    /// Steps of 1/127, as other runtimes round them: about half the arithmetic, and logits that are off by some tenths.
    Int8,
}

impl ActivationType {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Int15, Self::Int8];

    /// The name used on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int15 => "int15",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for ActivationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ActivationType {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|ty| ty.name() == name)
            .ok_or_else(|| KernelError::UnknownActivations { name: name.to_owned() })
    }
}

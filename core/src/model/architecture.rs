//! Which file wires which architecture.

use crate::gguf::Gguf;

use super::loader::Loader;
use super::{Decoder, ModelError, gemma3, llama};

/// An architecture: the name in `general.architecture` and the file that wires it.
struct Architecture {
    name: &'static str,
    wire: fn(&Loader<'_>) -> Result<Decoder, ModelError>,
}

const ARCHITECTURES: [Architecture; 2] =
    [Architecture { name: "llama", wire: llama::wire }, Architecture { name: "gemma3", wire: gemma3::wire }];

/// Wires the decoder the file's architecture asks for.
pub(super) fn wire(gguf: &Gguf) -> Result<Decoder, ModelError> {
    let found = gguf.metadata().str("general.architecture")?;
    let Some(architecture) = ARCHITECTURES.iter().find(|a| a.name == found) else {
        return Err(ModelError::Architecture {
            found: found.into(),
            supported: ARCHITECTURES.iter().map(|a| a.name).collect(),
        });
    };
    (architecture.wire)(&Loader::new(gguf, architecture.name))
}

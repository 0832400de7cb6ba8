//! What can be wrong with an adapter.

use std::path::PathBuf;

use crate::spectral::{Shape, SpectralError};

/// Why an adapter was refused, could not be saved, or was not found. Nothing is ever half loaded or half applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file or folder could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Any failure below, with the file it happened in.
    #[error("{path}: {source}")]
    InFile {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<AdapterError>,
    },
    /// Something that is not a regular file (once links are followed) where one must be.
    #[error("not a regular file")]
    NotRegular,
    /// A file larger than any adapter.
    #[error("{bytes} bytes, at most {limit} are read")]
    TooLarge {
        /// The file's size.
        bytes: u64,
        /// The cap for this kind of file.
        limit: u64,
    },
    /// Weights in a pickle, which can run code when it is read.
    #[error("weights in a Python pickle are not read: save the adapter as safetensors")]
    Pickle,
    /// A directory without one of PEFT's two files.
    #[error("no {file} in this directory")]
    Missing {
        /// The file.
        file: &'static str,
    },
    /// Neither a directory nor a `.safetensors` file.
    #[error("expected a PEFT directory or a .safetensors file")]
    Unrecognised,

    /// `adapter_config.json` is not a JSON object.
    #[error("not a JSON object: {0}")]
    Json(#[source] serde_json::Error),
    /// A field of the wrong type or with an impossible value.
    #[error("{field} is {found}, expected {expected}")]
    Field {
        /// The field.
        field: String,
        /// Its value.
        found: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A field, known or not, that asks for something this crate does not do.
    #[error("{field} = {found} is not supported")]
    Unsupported {
        /// The field.
        field: String,
        /// Its value.
        found: String,
    },
    /// A method other than FourierFT and LoRA.
    #[error("peft_type {found} is not supported, expected FOURIERFT or LORA")]
    PeftType {
        /// The method.
        found: String,
    },
    /// A regular expression that does not compile, or takes too long.
    #[error("{field}: {pattern:?}: {reason}")]
    Pattern {
        /// The field.
        field: &'static str,
        /// The expression.
        pattern: String,
        /// What the engine said.
        reason: String,
    },

    /// The safetensors container is damaged or lies about its contents.
    #[error("safetensors: {0}")]
    Safetensors(#[source] safetensors::SafeTensorError),
    /// The safetensors header is longer than any adapter's.
    #[error("safetensors header of {found} bytes, at most {limit} are read")]
    HeaderTooLarge {
        /// Its length.
        found: u64,
        /// The cap.
        limit: u64,
    },
    /// A tensor that is none of an adapter's.
    #[error("tensor {name:?} does not belong in this file")]
    UnknownTensor {
        /// Its name.
        name: String,
    },
    /// A tensor the file's own description promises.
    #[error("tensor {name:?} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A module the configuration does not target.
    #[error("{module}: the configuration does not target this module")]
    NotTargeted {
        /// The module.
        module: String,
    },
    /// A tensor of an element type that its role does not allow.
    #[error("{name}: elements are {found}, expected {expected}")]
    Dtype {
        /// The module or tensor.
        name: String,
        /// The element type.
        found: String,
        /// What is possible.
        expected: &'static str,
    },
    /// A tensor of the wrong shape.
    #[error("{name}: shape {found:?}, expected {expected}")]
    TensorShape {
        /// The module or tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// What is possible.
        expected: String,
    },
    /// A coefficient, or a number of a factor, that is NaN or infinite.
    #[error("{module}: number {index} is {value}")]
    NonFinite {
        /// The module, with the factor's name where it has two.
        module: String,
        /// Which number.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A number of coefficients other than the configuration's.
    #[error("{module}: {found} coefficients, the configuration says {expected}")]
    Count {
        /// The module.
        module: String,
        /// What the configuration says.
        expected: usize,
        /// What the file holds.
        found: usize,
    },
    /// A rank other than the configuration's.
    #[error("{module}: rank {found}, the configuration says {expected}")]
    RankMismatch {
        /// The module.
        module: String,
        /// What the configuration says.
        expected: usize,
        /// What the file holds.
        found: usize,
    },
    /// A change of rank 0.
    #[error("a change of rank 0")]
    Rank,
    /// A tensor of a method within LoRA that this crate does not do.
    #[error("tensor {name:?}: {method} is not supported")]
    Method {
        /// Its name.
        name: String,
        /// The method.
        method: &'static str,
    },
    /// An adapter of nothing.
    #[error("the adapter changes no module")]
    NoModules,
    /// A module name that is empty, too long or unprintable.
    #[error("{name:?} is not a module name")]
    ModuleName {
        /// The name.
        name: String,
    },
    /// Two changes to one module.
    #[error("{module} is listed twice")]
    Duplicate {
        /// The module.
        module: String,
    },
    /// Entries that are no entries for their module.
    #[error("{module}: {source}")]
    Entries {
        /// The module.
        module: String,
        /// What is wrong with them.
        source: SpectralError,
    },

    /// A `.safetensors` file without this crate's description in its metadata.
    #[error("not an adapter of this program (for PEFT's adapter_model.safetensors, give its directory)")]
    NotAnAdapter,
    /// A version of the single-file format that this crate does not read.
    #[error("format version {found} is not supported, expected {expected}")]
    Version {
        /// The file's.
        found: u64,
        /// The one that is read.
        expected: u64,
    },
    /// The single file's description contradicts itself.
    #[error("{0}")]
    Inconsistent(String),

    /// A module the model does not have.
    #[error("{module}: the model has no such module")]
    UnknownModule {
        /// The module.
        module: String,
    },
    /// A module of another shape than the model's.
    #[error("{module}: made for a {found} weight, the model's is {expected}")]
    ShapeMismatch {
        /// The module.
        module: String,
        /// The adapter's (or one adapter's).
        found: Shape,
        /// The model's (or the other's).
        expected: Shape,
    },
    /// An adapter made for another base model.
    #[error("made for base {found}, this is {expected}")]
    BaseMismatch {
        /// The fingerprint the adapter names.
        found: String,
        /// The model's.
        expected: String,
    },

    /// A module whose positions differ between adapters, none of which carries its shape.
    #[error(
        "{module}: its positions differ between the adapters, which can be mixed only with the base model's shapes"
    )]
    ShapeUnknown {
        /// The module.
        module: String,
    },

    /// A change of a kind that files do not hold.
    #[error("{module} is neither FourierFT nor LoRA: it cannot be saved or mixed")]
    Kind {
        /// The module.
        module: String,
    },
    /// FourierFT and LoRA in what would be one file.
    #[error("FourierFT and LoRA do not go into one adapter: run both at once instead, each with its weight")]
    MixedKinds,
    /// PEFT's format has no way to say this.
    #[error("a PEFT directory cannot express it: {0}")]
    NotPeft(String),
    /// A number too large for f16.
    #[error("{module}: number {index} = {value} does not fit in f16")]
    F16Range {
        /// The module, with the factor's name where it has two.
        module: String,
        /// Which number.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A mix of nothing, or with a weight that is no number.
    #[error("cannot mix: {0}")]
    Mix(&'static str),

    /// An alias nothing is loaded under.
    #[error("no adapter {alias:?}; loaded: {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    UnknownAlias {
        /// What was asked for.
        alias: String,
        /// What there is.
        known: Vec<String>,
    },
    /// An adapter larger than the registry may hold.
    #[error("{alias:?} takes {bytes} bytes, the registry holds {budget}")]
    OverBudget {
        /// Its alias.
        alias: String,
        /// Its size.
        bytes: usize,
        /// The registry's budget.
        budget: usize,
    },
}

impl AdapterError {
    /// The failure with the file it happened in; one that names its file already is left as it is.
    pub(super) fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Self::Io { .. } | Self::InFile { .. } => self,
            other => Self::InFile { path: path.to_owned(), source: Box::new(other) },
        }
    }
}

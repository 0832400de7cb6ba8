//! [`TimbreError`]: everything that can go wrong, as the languages above see it.

/// Why a call failed. The cases are few and stay; what the core knows beyond them is in their texts.
#[derive(Debug, Clone, PartialEq, thiserror::Error, uniffi::Error)]
pub enum TimbreError {
    /// An adapter that does not go with the model, or that asks for what this library does not do. Nothing was applied.
    #[error("{what}: expected {expected}, found {found}")]
    IncompatibleAdapter {
        /// What does not fit: a module, the base model, a field of its configuration.
        what: String,
        /// What would fit.
        expected: String,
        /// What the adapter has.
        found: String,
    },
    /// A file, or bytes, that are damaged or are not what they should be.
    #[error("{path}: {reason}")]
    CorruptFile {
        /// The file; empty for bytes that came from no file.
        path: String,
        /// Where in the file, in bytes from its beginning, where that is known.
        offset: Option<u64>,
        /// What is wrong.
        reason: String,
    },
    /// A model that is whole but of a kind, or with a feature, that this library does not run.
    #[error("{what}")]
    UnsupportedModel {
        /// The kind or feature.
        what: String,
    },
    /// More memory than there is, or than the caller allowed.
    #[error("{needed} bytes of memory are needed, {available} are available")]
    OutOfMemory {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are, or are allowed.
        available: u64,
    },
    /// The GPU was asked for and cannot be used.
    #[error("no GPU: {reason}")]
    GpuUnavailable {
        /// Why.
        reason: String,
    },
    /// The prompt does not fit into the session's context.
    #[error("the context of {capacity} tokens is full: {used} are held, {added} more were to be added")]
    ContextFull {
        /// Tokens the session can hold.
        capacity: u64,
        /// Tokens it holds.
        used: u64,
        /// Tokens that were to be added.
        added: u64,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The object is at work; cancel that work or wait for it.
    #[error("{what}")]
    Busy {
        /// What it is doing.
        what: String,
    },
    /// An argument out of its range.
    #[error("{what} is {found}, expected {expected}")]
    InvalidArgument {
        /// The argument.
        what: String,
        /// What is possible.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The system could not read or write a file.
    #[error("{path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// A fault of this library.
    #[error("internal error: {reason}")]
    Internal {
        /// What is known of it.
        reason: String,
    },
}

/// What every call that can fail returns.
pub(crate) type Outcome<T> = Result<T, TimbreError>;

impl TimbreError {
    pub(crate) fn invalid(what: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::InvalidArgument { what: what.into(), expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn incompatible(what: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        Self::IncompatibleAdapter { what: what.into(), expected: expected.into(), found: found.to_string() }
    }

    pub(crate) fn corrupt(reason: impl ToString) -> Self {
        Self::CorruptFile { path: String::new(), offset: None, reason: reason.to_string() }
    }

    pub(crate) fn corrupt_at(offset: u64, reason: impl ToString) -> Self {
        Self::CorruptFile { path: String::new(), offset: Some(offset), reason: reason.to_string() }
    }

    pub(crate) fn unsupported(what: impl ToString) -> Self {
        Self::UnsupportedModel { what: what.to_string() }
    }

    pub(crate) fn internal(reason: impl ToString) -> Self {
        Self::Internal { reason: reason.to_string() }
    }

    /// The error with the file it happened in, where it has a place for one and names none yet.
    pub(crate) fn in_file(mut self, file: impl AsRef<std::path::Path>) -> Self {
        if let Self::CorruptFile { path, .. } | Self::Io { path, .. } = &mut self
            && path.is_empty()
        {
            *path = file.as_ref().to_string_lossy().into_owned();
        }
        self
    }
}

/// What a listener written in another language threw.
impl From<uniffi::UnexpectedUniFFICallbackError> for TimbreError {
    fn from(error: uniffi::UnexpectedUniFFICallbackError) -> Self {
        Self::internal(format!("a listener failed: {}", error.reason))
    }
}

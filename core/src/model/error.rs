//! What can go wrong between a mapped file and a decoder, or between a decoder and an adapter.

use crate::adapter::AdapterError;
use crate::gguf::GgufError;
use crate::kernels::KernelError;
use crate::tokenizer::TokenizerError;

/// Why a model cannot be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The file is damaged, or lacks what its architecture needs.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// No kernel for this CPU or tensor.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The vocabulary is damaged or of an unknown kind.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// An adapter's own file or values are wrong.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// `general.architecture` names something this crate does not wire.
    #[error("architecture {found:?} is not supported, expected one of {supported:?}")]
    Architecture {
        /// What the file says.
        found: String,
        /// What could be opened.
        supported: Vec<&'static str>,
    },
    /// A variant of a known architecture that would compute something else.
    #[error("{architecture}: {feature} is not supported")]
    Unsupported {
        /// The architecture.
        architecture: &'static str,
        /// What the file asks for.
        feature: String,
    },
    /// A tensor is stored in a type its use does not allow.
    #[error("tensor {name:?} is stored as {found}, expected {expected}")]
    TensorType {
        /// The tensor.
        name: String,
        /// The type needed.
        expected: &'static str,
        /// The type there.
        found: String,
    },
    /// A token id outside the vocabulary.
    #[error("token {found} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        found: u32,
        /// Vocabulary size.
        vocab: usize,
    },
    /// The KV cache has no room for the tokens.
    #[error("the context of {capacity} tokens is full: {used} are held, {added} more were to be added")]
    ContextFull {
        /// Tokens the cache can hold.
        capacity: usize,
        /// Tokens in it.
        used: usize,
        /// Tokens to be added.
        added: usize,
    },
    /// The KV type cannot store heads of this size.
    #[error("KV type {kv} stores heads in multiples of 32 elements, this model's have {head_dim}")]
    KvHead {
        /// The type asked for.
        kv: &'static str,
        /// The model's head size.
        head_dim: usize,
    },
    /// The system does not give the memory that the KV cache needs.
    #[error("a KV cache for {capacity} tokens does not fit in memory; ask for a smaller context")]
    KvMemory {
        /// Tokens it was to hold.
        capacity: usize,
    },
    /// An adapter's modules are not all in the model, or none is.
    #[error(
        "adapter {adapter:?} does not fit: {matched} of its {total} modules are in this model; missing {missing:?}"
    )]
    Modules {
        /// The adapter.
        adapter: String,
        /// Modules found in the model.
        matched: usize,
        /// Modules the adapter has.
        total: usize,
        /// The first few that are not in the model.
        missing: Vec<String>,
    },
    /// An adapter's configuration targets modules of this model that its file has no change for.
    #[error(
        "adapter {adapter:?} is incomplete: it targets {count} modules of this model without a change for them, such as \
         {missing:?}"
    )]
    MissingModules {
        /// The adapter.
        adapter: String,
        /// How many modules lack one.
        count: usize,
        /// The first few of them.
        missing: Vec<String>,
    },
    /// An adapter's module has another shape than the model's.
    #[error("adapter {adapter:?}, module {module:?}: expected shape {expected:?} (out, in), found {found:?}")]
    ModuleShape {
        /// The adapter.
        adapter: String,
        /// The module.
        module: String,
        /// The model's shape.
        expected: (usize, usize),
        /// The adapter's shape.
        found: (usize, usize),
    },
    /// An adapter bound to another model was handed to this one.
    #[error("adapter {adapter:?} is bound to another model; bind it to this one first")]
    ForeignAdapter {
        /// The adapter.
        adapter: String,
    },
    /// A weight that is NaN or infinite.
    #[error("adapter {adapter:?}: weight {found} is not finite")]
    Weight {
        /// The adapter.
        adapter: String,
        /// The weight.
        found: f32,
    },
    /// The model produced NaN or infinite logits.
    #[error("the model produced non-finite logits at position {position}")]
    NonFinite {
        /// The position.
        position: usize,
    },
    /// Fewer or more parameters than an adapter has.
    #[error("adapter {adapter:?} has {expected} parameters, {found} were given")]
    Parameters {
        /// The adapter.
        adapter: String,
        /// Parameters it has.
        expected: usize,
        /// Parameters given.
        found: usize,
    },
    /// Gradients do not fit in the memory they may take.
    #[error("gradients need {needed} bytes of memory, the limit is {limit}; ask for fewer rows together")]
    TuneMemory {
        /// Bytes needed at least.
        needed: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A sequence with more tokens than are run together.
    #[error("a sequence of {found} tokens is longer than the {max} that are run together")]
    SequenceLength {
        /// Its tokens.
        found: usize,
        /// The most there may be.
        max: usize,
    },
    /// A sequence whose marks of what is predicted are not one a token.
    #[error("a sequence of {tokens} tokens has {targets} marks of what is predicted")]
    SequenceTargets {
        /// Its tokens.
        tokens: usize,
        /// Its marks.
        targets: usize,
    },
    /// The device failed, or cannot run the model.
    #[cfg(feature = "gpu")]
    #[error(transparent)]
    Gpu(#[from] crate::gpu::GpuError),
    /// Work on the GPU was asked for while it is suspended.
    #[error("the GPU is suspended: the app is in the background")]
    GpuSuspended,
    /// A KV type that only the CPU has.
    #[error("KV type {kv} is not supported on a GPU, expected f16 or f32")]
    GpuKv {
        /// The type asked for.
        kv: &'static str,
    },
    /// An adapter whose kind of change only the CPU has.
    #[error("adapter {adapter:?} has changes of a kind that is not supported on a GPU")]
    GpuAdapter {
        /// The adapter.
        adapter: String,
    },
    /// A GPU was asked for, and this build has none.
    #[error("this build has no GPU backend")]
    NoGpuBackend,
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

//! The core's errors as [`TimbreError`]s.

use std::io;
use std::path::Path;

use timbre::adapter::AdapterError;
use timbre::gguf::GgufError;
use timbre::kernels::KernelError;
use timbre::model::ModelError;
use timbre::session::{SamplerError, SessionError, StateError, TemplateError};
use timbre::tokenizer::TokenizerError;
use timbre::tune::{CheckpointError, TuneError};

use crate::error::TimbreError;

pub(crate) fn io(path: &Path, source: &io::Error) -> TimbreError {
    TimbreError::Io { path: path.to_string_lossy().into_owned(), reason: source.to_string() }
}

impl From<GgufError> for TimbreError {
    fn from(error: GgufError) -> Self {
        let error = match error {
            GgufError::InFile { path, source } => return Self::from(*source).in_file(path),
            other => other,
        };
        match &error {
            GgufError::Io { path, source } => io(path, source),
            GgufError::Truncated { offset, .. } | GgufError::Count { offset, .. } | GgufError::Name { offset, .. } => {
                Self::corrupt_at(*offset as u64, &error)
            }
            GgufError::TensorRange { offset, .. } => Self::corrupt_at(*offset, &error),
            GgufError::Magic { .. } => Self::corrupt_at(0, &error),
            GgufError::Version { .. } | GgufError::Split { .. } | GgufError::NestedArray { .. } => {
                Self::unsupported(&error)
            }
            GgufError::TensorType { .. } => Self::unsupported(&error),
            GgufError::SameFile { path } => Self::invalid("path", "another than the model's", path.display()),
            GgufError::Cancelled => Self::Cancelled,
            GgufError::Changed { path, .. } => Self::corrupt(&error).in_file(path),
            _ => Self::corrupt(&error),
        }
    }
}

impl From<KernelError> for TimbreError {
    fn from(error: KernelError) -> Self {
        match &error {
            KernelError::TierUnavailable { tier } => Self::invalid("kernels", "kernels that this CPU runs", tier),
            KernelError::UnknownActivations { name } => Self::invalid("activations", "int15 or int8", name),
            KernelError::UnknownTier { name } => Self::invalid("kernels", "kernels there are", name),
            KernelError::Threads { threads } => {
                Self::invalid("threads", format!("1 to {}", timbre::kernels::Pool::MAX_THREADS), threads)
            }
            KernelError::Shape { .. } | KernelError::Length { .. } => Self::corrupt(&error),
            KernelError::Spawn(_) => Self::internal(&error),
        }
    }
}

impl From<TokenizerError> for TimbreError {
    fn from(error: TokenizerError) -> Self {
        match error {
            TokenizerError::Gguf(source) => source.into(),
            TokenizerError::UnsupportedModel { .. } | TokenizerError::UnknownPreTokenizer { .. } => {
                Self::unsupported(error)
            }
            TokenizerError::TextTooLong { bytes, max } => {
                Self::invalid("text", format!("at most {max} bytes"), format!("{bytes} bytes long"))
            }
            TokenizerError::UnknownToken { id, len } => Self::invalid("token", format!("below {len}"), id),
            other => Self::corrupt(other),
        }
    }
}

impl From<AdapterError> for TimbreError {
    fn from(error: AdapterError) -> Self {
        match error {
            AdapterError::Io { path, source } => io(&path, &source),
            AdapterError::InFile { path, source } => Self::from(*source).in_file(path),
            AdapterError::BaseMismatch { found, expected } => Self::incompatible("base model", expected, found),
            AdapterError::ShapeMismatch { module, found, expected } => {
                Self::incompatible(module, expected.to_string(), found)
            }
            AdapterError::UnknownModule { module } => Self::incompatible(module, "a module of the model", "none"),
            AdapterError::Unsupported { field, found } => Self::incompatible(field, "a value that is supported", found),
            AdapterError::PeftType { found } => Self::incompatible("peft_type", "FOURIERFT or LORA", found),
            AdapterError::Method { name, method } => Self::incompatible(name, "FourierFT or plain LoRA", method),
            AdapterError::Version { found, expected } => {
                Self::incompatible("format version", expected.to_string(), found)
            }
            AdapterError::Unrecognised => {
                Self::invalid("path", "a PEFT directory or a .safetensors file", "another file")
            }
            AdapterError::ShapeUnknown { module } => {
                Self::invalid("model", "the base model, whose shapes the mix needs", format!("missing for {module}"))
            }
            AdapterError::Mix(reason) => Self::invalid("adapters to mix", "some, with finite weights", reason),
            AdapterError::MixedKinds | AdapterError::Kind { .. } => {
                Self::invalid("adapters", "all FourierFT or all LoRA", error)
            }
            AdapterError::NotPeft(reason) => Self::invalid("path", "one that ends in .safetensors", reason),
            AdapterError::F16Range { .. } => Self::invalid("f16", "false", error),
            other => Self::corrupt(other),
        }
    }
}

impl From<ModelError> for TimbreError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Gguf(source) => source.into(),
            ModelError::Kernel(source) => source.into(),
            ModelError::Tokenizer(source) => source.into(),
            ModelError::Adapter(source) => source.into(),
            ModelError::Architecture { .. } | ModelError::Unsupported { .. } | ModelError::TensorType { .. } => {
                Self::unsupported(error)
            }
            ModelError::Token { found, vocab } => Self::invalid("token", format!("below {vocab}"), found),
            ModelError::ContextFull { capacity, used, added } => {
                Self::ContextFull { capacity: capacity as u64, used: used as u64, added: added as u64 }
            }
            ModelError::KvHead { kv, head_dim } => Self::invalid(
                "kv",
                "f16 for this model, whose heads are no multiples of 32",
                format!("{kv}, {head_dim}"),
            ),
            ModelError::KvMemory { .. } => Self::OutOfMemory { needed: u64::MAX, available: available() },
            ModelError::Modules { adapter, matched, total, missing } => Self::incompatible(
                format!("modules of adapter {adapter:?}"),
                format!("all {total} in the model"),
                format!("{matched}; missing {}", missing.join(", ")),
            ),
            ModelError::MissingModules { adapter, count, missing } => Self::incompatible(
                format!("modules that adapter {adapter:?} targets"),
                "a change for each",
                format!("none for {count}, such as {}", missing.join(", ")),
            ),
            ModelError::ModuleShape { adapter, module, expected, found } => Self::incompatible(
                format!("adapter {adapter:?}, module {module}"),
                format!("{} × {}", expected.0, expected.1),
                format!("{} × {}", found.0, found.1),
            ),
            ModelError::ForeignAdapter { adapter } => {
                Self::incompatible(format!("adapter {adapter:?}"), "one bound to this model", "another model's")
            }
            ModelError::Weight { adapter, found } => {
                Self::invalid(format!("weight of adapter {adapter:?}"), "a finite number", found)
            }
            ModelError::TuneMemory { needed, limit } => {
                Self::OutOfMemory { needed: needed as u64, available: limit as u64 }
            }
            ModelError::SequenceLength { found, max } => {
                Self::invalid("length of an example", format!("at most {max} tokens"), found)
            }
            #[cfg(feature = "gpu")]
            ModelError::Gpu(timbre::gpu::GpuError::OutOfMemory { needed, allocated, budget, .. }) => {
                Self::OutOfMemory { needed, available: budget.unwrap_or(0).saturating_sub(allocated) }
            }
            #[cfg(feature = "gpu")]
            ModelError::Gpu(_) => Self::GpuUnavailable { reason: error.to_string() },
            ModelError::GpuSuspended | ModelError::NoGpuBackend => Self::GpuUnavailable { reason: error.to_string() },
            ModelError::GpuKv { kv } => Self::invalid("kv", "f16 on a GPU", kv),
            ModelError::GpuAdapter { adapter } => Self::incompatible(
                format!("adapter {adapter:?}"),
                "a kind of change that runs on a GPU",
                "another kind",
            ),
            ModelError::Cancelled => Self::Cancelled,
            other => Self::internal(other),
        }
    }
}

impl From<TemplateError> for TimbreError {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Gguf(source) => source.into(),
            TemplateError::Refused { message } => {
                Self::invalid("conversation", "one that the model's chat template takes", message)
            }
            other => Self::unsupported(other),
        }
    }
}

impl From<SessionError> for TimbreError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Model(source) => source.into(),
            SessionError::Gguf(source) => source.into(),
            SessionError::Tokenizer(source) => source.into(),
            SessionError::Template(source) => source.into(),
            SessionError::Sampler(SamplerError::Option { name, value, expected }) => {
                Self::invalid(name, expected, value)
            }
            SessionError::Sampler(other) => Self::internal(other),
            SessionError::Stream(_) => Self::invalid("stop", "texts that are not empty", &error),
            SessionError::EmptyPrompt => Self::invalid("prompt", "at least one token", "empty"),
            SessionError::TooShort { found } => Self::invalid("text", "at least 2 tokens", found),
            SessionError::Cancelled => Self::Cancelled,
            other => Self::internal(other),
        }
    }
}

impl From<StateError> for TimbreError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Io(source) => Self::Io { path: String::new(), reason: source.to_string() },
            StateError::Base { found, expected } => Self::invalid("base model of the session", expected, found),
            other => Self::corrupt(other),
        }
    }
}

impl From<TuneError> for TimbreError {
    fn from(error: TuneError) -> Self {
        match error {
            TuneError::Model(source) => source.into(),
            TuneError::Adapter(source) => source.into(),
            TuneError::Gguf(source) => source.into(),
            TuneError::Tokenizer(source) => source.into(),
            TuneError::Template(source) => source.into(),
            TuneError::Io { path, source } => io(&path, &source),
            TuneError::TooLarge { ref path, .. }
            | TuneError::NotUtf8 { ref path, .. }
            | TuneError::Line { ref path, .. } => {
                let path = path.clone();
                Self::corrupt(error).in_file(path)
            }
            TuneError::Option { name, found, expected } => Self::invalid(name, expected, found),
            TuneError::Target { found, known } => {
                Self::invalid("targets", format!("all-linear or some of {}", known.join(", ")), found)
            }
            TuneError::Layer { found, last } => Self::invalid("layers", format!("0 to {last}"), found),
            TuneError::Entries { module, source } => {
                Self::invalid("n", format!("a number that {module} takes"), source)
            }
            TuneError::Checkpoint { path, source } => match source {
                CheckpointError::Io(source) => io(&path, &source),
                CheckpointError::Mismatch { what, found, expected } => {
                    Self::invalid(format!("{what} of the run in {}", path.display()), expected, found)
                }
                other => Self::corrupt(other).in_file(path),
            },
            other => Self::invalid("data", "examples with something to learn", other),
        }
    }
}

/// Memory there is, 0 where the system does not say.
pub(crate) fn available() -> u64 {
    timbre::memory::available_bytes().unwrap_or(0)
}

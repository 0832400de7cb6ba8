//! [`NativeModel`]: a mapped model.

use std::sync::Arc;

use timbre::kernels::{ActivationType, KernelChoice, Tier};
use timbre::model::{Backend as CoreBackend, KvCache, KvType, Model};
use timbre::tokenizer::EncodeOptions;

use crate::convert;
use crate::error::{Outcome, TimbreError};
use crate::guard::guarded;

/// Which kernels compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, uniffi::Enum)]
pub enum Kernels {
    /// The fastest this CPU runs.
    #[default]
    Auto,
    /// f32 arithmetic, for comparing.
    Reference,
    /// Portable integer arithmetic.
    Scalar,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-512 and VNNI.
    Avx512,
    /// AArch64.
    Neon,
}

/// How the CPU rounds what meets quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, uniffi::Enum)]
pub enum Activations {
    /// To 15 bits: next to f32.
    #[default]
    Int15,
    /// To 8 bits, as other runtimes do: faster, and logits that are off by some tenths.
    Int8,
}

impl From<ActivationType> for Activations {
    fn from(ty: ActivationType) -> Self {
        match ty {
            ActivationType::Int15 => Self::Int15,
            ActivationType::Int8 => Self::Int8,
        }
    }
}

impl Activations {
    pub(crate) fn choice(self) -> ActivationType {
        match self {
            Self::Int15 => ActivationType::Int15,
            Self::Int8 => ActivationType::Int8,
        }
    }
}

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, uniffi::Enum)]
pub enum Backend {
    /// The CPU.
    #[default]
    Cpu,
    /// The GPU; an error where there is none that computes right.
    Gpu,
    /// A GPU with memory of its own where there is one that computes right, else the CPU, which on a phone is as fast.
    Auto,
}

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, uniffi::Enum)]
pub enum KvPrecision {
    /// 2 bytes a number.
    #[default]
    F16,
    /// 34 bytes for 32 numbers.
    Q8,
}

/// How a model is opened.
#[derive(Debug, Clone, PartialEq, Default, uniffi::Record)]
pub struct ModelOptions {
    /// Threads; `None` for one a fast core.
    #[uniffi(default = None)]
    pub threads: Option<u32>,
    /// Which kernels.
    pub kernels: Kernels,
    /// How the CPU rounds what meets quantised weights.
    pub activations: Activations,
    /// Where it runs.
    pub backend: Backend,
    /// Whether every page of the file is read now, so that the first reply does not wait for storage.
    #[uniffi(default = false)]
    pub warm_up: bool,
}

/// What a model is.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct ModelInfo {
    /// Its name, or its file's.
    pub name: String,
    /// `llama`, `gemma3`.
    pub architecture: String,
    /// The identity that adapters name.
    pub fingerprint: String,
    /// Weights, in numbers.
    pub parameters: u64,
    /// Length of the file.
    pub file_bytes: u64,
    /// Decoder layers.
    pub layers: u32,
    /// Residual width.
    pub hidden: u32,
    /// Vocabulary size.
    pub vocabulary: u32,
    /// Tokens of context it was trained for.
    pub context: u32,
    /// Whether it has a chat template, which a conversation needs.
    pub chat: bool,
    /// Name of the kernels that run it.
    pub kernels: String,
    /// How the CPU rounds what meets quantised weights.
    pub activations: Activations,
    /// Threads that run it.
    pub threads: u32,
}

/// Memory that a model and one session take, in bytes.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct MemoryEstimate {
    /// The mapped file, which the system can drop and read again.
    pub file_bytes: u64,
    /// Keys and values of a full context.
    pub kv_bytes: u64,
    /// Buffers and tables.
    pub buffer_bytes: u64,
    /// What is counted against the process: all but the file.
    pub anon_bytes: u64,
    /// What the system could give now, 0 where it does not say.
    pub available_bytes: u64,
}

/// Hears how far something is.
#[uniffi::export(foreign)]
pub trait ProgressListener: Send + Sync {
    /// `done` of `total` bytes. `false` stops it, which ends as [`TimbreError::Cancelled`].
    ///
    /// # Errors
    /// Whatever it throws ends the work as [`TimbreError::Internal`].
    fn on_progress(&self, done: u64, total: u64) -> Result<bool, TimbreError>;
}

/// A mapped model, immutable and shared by its sessions, which keep it open after this object is gone.
#[derive(uniffi::Object)]
pub struct NativeModel {
    pub(crate) model: Arc<Model>,
    /// Where its sessions run.
    pub(crate) backend: CoreBackend,
}

#[uniffi::export]
impl NativeModel {
    /// Maps a GGUF file. Milliseconds; with [`ModelOptions::warm_up`] as long as storage takes, and `progress` hears of it.
    ///
    /// # Errors
    /// [`TimbreError::Io`], [`TimbreError::CorruptFile`], [`TimbreError::UnsupportedModel`], [`TimbreError::InvalidArgument`],
    /// [`TimbreError::GpuUnavailable`]; [`TimbreError::Cancelled`] by the listener.
    #[uniffi::constructor]
    pub fn open(
        path: String,
        options: ModelOptions,
        progress: Option<Arc<dyn ProgressListener>>,
    ) -> Outcome<Arc<Self>> {
        guarded(|| {
            let model = Model::open(&path, &convert::model_options(&options))
                .map_err(|error| TimbreError::from(error).in_file(&path))?;
            if options.warm_up {
                warm_up(&model, progress)?;
            }
            let backend = options.backend.core();
            claim_gpu(&model, backend)?;
            Ok(Arc::new(Self { model, backend }))
        })
    }

    /// What it is.
    ///
    /// # Errors
    /// [`TimbreError::Internal`].
    pub fn info(&self) -> Outcome<ModelInfo> {
        guarded(|| Ok(convert::model_info(&self.model)))
    }

    /// The identity that adapters name.
    pub fn fingerprint(&self) -> String {
        self.model.gguf().fingerprint().to_owned()
    }

    /// Tokens of a text, without any that the model puts around it. The first call builds the vocabulary's tables.
    ///
    /// # Errors
    /// [`TimbreError::CorruptFile`], [`TimbreError::UnsupportedModel`], [`TimbreError::InvalidArgument`].
    pub fn token_count(&self, text: String) -> Outcome<u32> {
        guarded(|| {
            let options = EncodeOptions { parse_special: false, add_bos: false };
            let tokens = self.model.tokenizer()?.encode(&text, options).map_err(TimbreError::from)?;
            Ok(u32::try_from(tokens.len()).unwrap_or(u32::MAX))
        })
    }

    /// Submits nothing to the GPU from now on, and returns once it has nothing of this model's left to do; sessions go on on the
    /// CPU. For an application in the background, which is ended for work on the GPU. Does nothing for a model on the CPU.
    pub fn suspend_gpu(&self) {
        self.model.suspend_gpu();
    }

    /// Lets sessions use the GPU again, from what their caches there still hold.
    pub fn resume_gpu(&self) {
        self.model.resume_gpu();
    }

    /// What a session of it will take; `None` for the context of a session that names none.
    ///
    /// # Errors
    /// [`TimbreError::InvalidArgument`], [`TimbreError::OutOfMemory`].
    pub fn memory_estimate(&self, context: Option<u32>, kv: KvPrecision) -> Outcome<MemoryEstimate> {
        guarded(|| {
            let context = check_context(context)?;
            Ok(convert::estimate(&self.model.estimate(context, kv.core())?))
        })
    }
}

/// What a model and one session of it will take, from the file's header alone. Milliseconds.
///
/// # Errors
/// As [`NativeModel::open`] and [`NativeModel::memory_estimate`].
#[uniffi::export]
pub fn estimate_memory(path: String, context: Option<u32>, kv: KvPrecision) -> Outcome<MemoryEstimate> {
    guarded(|| {
        let context = check_context(context)?;
        let estimate = timbre::model::MemoryEstimate::of_file(&path, context, kv.core(), None);
        Ok(convert::estimate(&estimate.map_err(|error| TimbreError::from(error).in_file(&path))?))
    })
}

/// Makes sure of the GPU where it is asked for, so that its absence is found when the model is opened. The weights are there then.
#[cfg(feature = "gpu")]
fn claim_gpu(model: &Model, backend: CoreBackend) -> Outcome<()> {
    match backend {
        CoreBackend::Gpu => Ok(model.on_gpu(&timbre::gpu::GpuChoice::Auto).map(|_| ())?),
        CoreBackend::Cpu | CoreBackend::Auto => Ok(()),
    }
}

#[cfg(not(feature = "gpu"))]
fn claim_gpu(_: &Model, backend: CoreBackend) -> Outcome<()> {
    match backend {
        CoreBackend::Gpu => Err(timbre::model::ModelError::NoGpuBackend.into()),
        CoreBackend::Cpu | CoreBackend::Auto => Ok(()),
    }
}

/// A context that a session can have.
pub(crate) fn check_context(context: Option<u32>) -> Outcome<Option<usize>> {
    let Some(context) = context else { return Ok(None) };
    match context as usize {
        tokens @ 1..=KvCache::MAX_CAPACITY => Ok(Some(tokens)),
        _ => Err(TimbreError::invalid("context", format!("1 to {} tokens", KvCache::MAX_CAPACITY), context)),
    }
}

fn warm_up(model: &Model, progress: Option<Arc<dyn ProgressListener>>) -> Outcome<()> {
    let mut refused = None;
    let report = |done: usize, total: usize| {
        let heard = progress.as_ref().map_or(Ok(true), |listener| listener.on_progress(done as u64, total as u64));
        match heard {
            Ok(true) => return true,
            Ok(false) => refused = Some(TimbreError::Cancelled),
            Err(error) => refused = Some(error),
        }
        false
    };
    model.gguf().warm_up(report).map_err(TimbreError::from)?;
    refused.map_or(Ok(()), Err)
}

impl Kernels {
    pub(crate) fn choice(self) -> KernelChoice {
        match self {
            Self::Auto => KernelChoice::Auto,
            Self::Reference => KernelChoice::Only(Tier::Reference),
            Self::Scalar => KernelChoice::Only(Tier::Scalar),
            Self::Avx2 => KernelChoice::Only(Tier::Avx2),
            Self::Avx512 => KernelChoice::Only(Tier::Avx512),
            Self::Neon => KernelChoice::Only(Tier::Neon),
        }
    }
}

impl Backend {
    pub(crate) fn core(self) -> CoreBackend {
        match self {
            Self::Cpu => CoreBackend::Cpu,
            Self::Gpu => CoreBackend::Gpu,
            Self::Auto => CoreBackend::Auto,
        }
    }
}

impl KvPrecision {
    pub(crate) fn core(self) -> KvType {
        match self {
            Self::F16 => KvType::F16,
            Self::Q8 => KvType::Q8_0,
        }
    }
}

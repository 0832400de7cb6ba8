//! [`Model`]: a file opened for running.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::adapter::{Adapter, AdapterFile};
use crate::gguf::{Advice, Gguf};
use crate::kernels::{ActivationType, Compute, Cores, KernelChoice};
use crate::spectral::{PlanCache, Transforms};
use crate::tokenizer::Tokenizer;

use super::bind::parse_module;
use super::{BoundAdapter, Decoder, KvCache, KvType, ModelError, Scratch, architecture};

/// How to run a model.
#[derive(Debug, Clone)]
pub struct ModelOptions {
    /// Which kernels; [`KernelChoice::Auto`] takes the best the CPU has.
    pub kernels: KernelChoice,
    /// How the CPU rounds what meets quantised weights.
    pub activations: ActivationType,
    /// Threads, the caller's included; `None` for one a fast core ([`Cores::threads`]).
    pub threads: Option<usize>,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self { kernels: KernelChoice::Auto, activations: ActivationType::default(), threads: None }
    }
}

/// What a model is, for showing.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ModelInfo {
    /// `general.name`, or the file's name.
    pub name: String,
    /// `general.architecture`.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Residual width.
    pub hidden: usize,
    /// Vocabulary size.
    pub vocab: usize,
    /// Context it was trained for.
    pub context: usize,
    /// Length of the file.
    pub file_bytes: usize,
    /// Elements of all tensors.
    pub parameters: usize,
    /// The identity adapters name.
    pub fingerprint: String,
}

/// A mapped model, immutable and shared: sessions, adapters and threads all work on the one mapping.
pub struct Model {
    gguf: Arc<Gguf>,
    compute: Compute,
    decoder: Decoder,
    tokenizer: OnceLock<Arc<Tokenizer>>,
    plans: PlanCache,
    transforms: Arc<Transforms>,
    #[cfg(feature = "gpu")]
    gpu: super::gpu::GpuSlot,
}

impl Model {
    /// Maps and wires `path`. No weight is read; the tokenizer is built at first use.
    ///
    /// # Errors
    /// [`ModelError`] naming what is wrong with the file, or what this CPU lacks.
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Arc<Self>, ModelError> {
        Self::from_gguf(Gguf::open(path)?, options)
    }

    /// Wires a file that is mapped already.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_gguf(gguf: Arc<Gguf>, options: &ModelOptions) -> Result<Arc<Self>, ModelError> {
        let decoder = architecture::wire(&gguf)?;
        let threads = options.threads.unwrap_or_else(|| Cores::of_this_thread().threads());
        let compute = Compute::with_activations(options.kernels, threads, options.activations)?;
        gguf.advise_all(Advice::Huge);
        if let Some(table) = gguf.opt_tensor(&decoder.embedding.name)
            && decoder.embedding.name != decoder.head.name
        {
            gguf.advise(table, Advice::Random);
        }
        Ok(Arc::new(Self {
            gguf,
            compute,
            decoder,
            tokenizer: OnceLock::new(),
            plans: PlanCache::new(),
            transforms: Arc::new(Transforms::new()),
            #[cfg(feature = "gpu")]
            gpu: super::gpu::GpuSlot::default(),
        }))
    }

    /// The mapped file.
    pub fn gguf(&self) -> &Arc<Gguf> {
        &self.gguf
    }

    /// Kernels and threads.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// The wired decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The vocabulary, built at first use.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] if the file's vocabulary cannot be used, [`ModelError::Gguf`] if the file changed.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, ModelError> {
        // Token texts are read where the file has them.
        self.gguf.check_unchanged()?;
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let built = Arc::new(Tokenizer::from_gguf(self.gguf.clone())?);
        Ok(self.tokenizer.get_or_init(|| built))
    }

    /// The weights on a GPU, uploaded the first time they are asked for and shared by every session; anew after the device was
    /// lost, or for another device than before.
    ///
    /// # Errors
    /// [`ModelError::Gpu`]: no such device, out of memory, a shape that it cannot run; [`ModelError::GpuSuspended`];
    /// [`ModelError::Gguf`] if the file changed.
    #[cfg(feature = "gpu")]
    pub fn on_gpu(&self, choice: &crate::gpu::GpuChoice) -> Result<Arc<super::gpu::GpuModel>, ModelError> {
        self.gpu.get(choice, &self.gguf, &self.decoder)
    }

    /// Submits nothing to the GPU from now on; sessions go on on the CPU. Returns once the device has nothing of this model's
    /// left to do. For apps that go to the background, where work on the GPU ends the process. Does nothing in a build
    /// without GPU.
    pub fn suspend_gpu(&self) {
        #[cfg(feature = "gpu")]
        self.gpu.suspend();
    }

    /// Lets sessions use the GPU again; they go on from what their caches there still hold.
    pub fn resume_gpu(&self) {
        #[cfg(feature = "gpu")]
        self.gpu.resume();
    }

    /// Lets go of the weights on the GPU, once no session uses them.
    pub fn release_gpu(&self) {
        #[cfg(feature = "gpu")]
        self.gpu.release();
    }

    /// What it is, for showing.
    pub fn info(&self) -> ModelInfo {
        let metadata = self.gguf.metadata();
        let text = |key: &str| metadata.opt_str(key).ok().flatten().map(str::to_owned);
        let file_name = || self.gguf.path().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        ModelInfo {
            name: text("general.name").unwrap_or_else(file_name),
            architecture: text("general.architecture").unwrap_or_default(),
            layers: self.decoder.layers.len(),
            hidden: self.decoder.hidden,
            vocab: self.decoder.vocab,
            context: self.decoder.context,
            file_bytes: self.gguf.file_len(),
            parameters: self.gguf.tensors().iter().map(|t| t.rows() * t.cols()).sum(),
            fingerprint: self.gguf.fingerprint().to_owned(),
        }
    }

    /// The planned transforms, shared by everything that works on this model.
    pub fn transforms(&self) -> &Arc<Transforms> {
        &self.transforms
    }

    /// The entries in use, shared by every adapter of this model.
    pub fn plans(&self) -> &PlanCache {
        &self.plans
    }

    /// Output and input length of the linear a Hugging Face module path names.
    pub fn module_shape(&self, module: &str) -> Option<(usize, usize)> {
        let (layer, kind) = parse_module(module)?;
        Some(self.decoder.linear(layer, kind)?.shape())
    }

    /// Loads an adapter (a PEFT directory or a `.safetensors` file) and binds it.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] if the files are wrong, else as [`Self::bind`].
    pub fn load_adapter(&self, path: impl AsRef<Path>) -> Result<Arc<BoundAdapter>, ModelError> {
        let file = AdapterFile::load(path.as_ref())?;
        let adapter = file.resolve(&self.plans, |module| self.module_shape(module))?;
        let name = path.as_ref().file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.bind(Arc::new(adapter), name)
    }

    /// Binds an adapter to this model, whole or not at all. `name` is what errors call it.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] if it was made for another base or names a module twice, [`ModelError::Modules`],
    /// [`ModelError::ModuleShape`], [`ModelError::MissingModules`]; [`ModelError::Gguf`] if the file changed.
    pub fn bind(&self, adapter: Arc<Adapter>, name: impl Into<String>) -> Result<Arc<BoundAdapter>, ModelError> {
        self.gguf.check_unchanged()?;
        BoundAdapter::new(adapter, name.into(), &self.decoder, &self.gguf, &self.transforms).map(Arc::new)
    }

    /// An empty KV cache with room for `capacity` positions.
    ///
    /// # Errors
    /// [`ModelError::KvHead`], [`ModelError::ContextFull`], [`ModelError::KvMemory`].
    pub fn kv_cache(&self, kv: KvType, capacity: usize) -> Result<KvCache, ModelError> {
        KvCache::new(kv, capacity, self.decoder.layers.iter().map(|l| l.attention.heads))
    }

    /// Buffers for batches of `batch` rows.
    pub fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(&self.decoder, &self.compute, &self.transforms, batch)
    }
}

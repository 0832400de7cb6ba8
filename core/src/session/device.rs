//! The GPU's part of a session: which backend runs the next token, and what happens when the GPU does not go on.

use std::sync::Arc;

use crate::model::{ActiveAdapters, Backend, KvType, Model, ModelError, Wanted};

use super::SessionOptions;

/// Bytes that a session takes on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct DeviceMemory {
    /// The model's weights, which all its sessions share.
    pub weights_bytes: u64,
    /// Keys and values.
    pub kv_bytes: u64,
    /// Buffers of a batch, logits included.
    pub scratch_bytes: u64,
    /// Adapters' numbers, and the buffers of their transforms.
    pub adapter_bytes: u64,
}

/// Kinds of steps, and the milliseconds each took.
type DeviceTimes = Result<Vec<(String, f64)>, ModelError>;

/// A session's keys, values and buffers on a GPU, where it has them. Without the `gpu` feature it never does.
#[derive(Default)]
pub(super) struct Device {
    #[cfg(feature = "gpu")]
    state: Option<crate::model::gpu::GpuState>,
    /// Why the session went on on the CPU, if it did.
    fallback: Option<ModelError>,
}

#[cfg(not(feature = "gpu"))]
impl Device {
    pub fn new(_: &Arc<Model>, options: &SessionOptions, _: KvType, _: usize) -> Result<Self, ModelError> {
        match options.backend {
            Backend::Gpu => Err(ModelError::NoGpuBackend),
            Backend::Cpu | Backend::Auto => Ok(Self::default()),
        }
    }

    pub fn runs(&self) -> bool {
        false
    }

    pub fn len(&self) -> usize {
        0
    }

    pub fn batch(&self) -> usize {
        0
    }

    pub fn truncate(&mut self, _: usize) {}

    pub fn memory(&self) -> Option<DeviceMemory> {
        None
    }

    pub fn adapter_paths(&self) -> Vec<String> {
        Vec::new()
    }

    pub fn name(&self) -> Option<&str> {
        None
    }

    pub fn set_adapters(&mut self, _: &Model, _: &ActiveAdapters) {}

    pub fn times(&mut self, _: &Model, _: &ActiveAdapters, _: &[u32], _: &mut [f32]) -> DeviceTimes {
        Ok(Vec::new())
    }

    pub fn fall_back(&mut self, _: ModelError) -> Result<(), ModelError> {
        Ok(())
    }

    pub fn forward(
        &mut self,
        _: &Model,
        _: &ActiveAdapters,
        _: &[u32],
        _: Wanted<'_>,
        _: &mut [f32],
    ) -> Result<(), ModelError> {
        Err(ModelError::NoGpuBackend)
    }
}

#[cfg(feature = "gpu")]
impl Device {
    /// The device that `options` ask for; under [`Backend::Auto`] none where it cannot run the model.
    pub fn new(model: &Arc<Model>, options: &SessionOptions, kv: KvType, capacity: usize) -> Result<Self, ModelError> {
        use crate::gpu::GpuChoice;
        use crate::model::gpu::GpuState;
        let choice = match (options.backend, &options.gpu) {
            (Backend::Cpu, _) => return Ok(Self::default()),
            (_, Some(name)) => GpuChoice::Named(name.clone()),
            (Backend::Gpu, None) => GpuChoice::Auto,
            (Backend::Auto, None) => match crate::model::gpu::worthwhile() {
                Some(name) => GpuChoice::Named(name),
                None => return Ok(Self::default()),
            },
        };
        let batch = options.batch.unwrap_or(GpuState::DEFAULT_BATCH);
        let made =
            model.on_gpu(&choice).and_then(|weights| GpuState::new(weights, model.decoder(), kv, capacity, batch));
        match made {
            Ok(state) => Ok(Self { state: Some(state), fallback: None }),
            Err(error) if options.backend == Backend::Auto => Ok(Self { state: None, fallback: Some(error) }),
            Err(error) => Err(error),
        }
    }

    /// Whether it runs the next token.
    pub fn runs(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.model().is_suspended())
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.state.as_ref().map_or(0, crate::model::gpu::GpuState::len)
    }

    /// Rows of a batch.
    pub fn batch(&self) -> usize {
        self.state.as_ref().map_or(0, crate::model::gpu::GpuState::batch)
    }

    /// Forgets every position from `len` on; and the others, if there is no going on from them.
    pub fn truncate(&mut self, len: usize) {
        if let Some(state) = &mut self.state {
            state.truncate(len);
        }
    }

    /// Bytes on the device.
    pub fn memory(&self) -> Option<DeviceMemory> {
        self.state.as_ref().map(|state| DeviceMemory {
            weights_bytes: state.model().bytes(),
            kv_bytes: state.kv_bytes(),
            scratch_bytes: state.scratch_bytes(),
            adapter_bytes: state.adapter_bytes(),
        })
    }

    /// What was measured of the ways to apply adapters.
    pub fn adapter_paths(&self) -> Vec<String> {
        let timings = self.state.as_ref().map(|state| state.model().gpu().path_timings());
        timings.into_iter().flatten().map(|timing| timing.to_string()).collect()
    }

    /// The device's name.
    pub fn name(&self) -> Option<&str> {
        self.state.as_ref().map(|state| &*state.model().gpu().info().name)
    }

    /// Makes these the adapters of the next token. Adapters that the device cannot run send the session to the CPU.
    pub fn set_adapters(&mut self, model: &Model, adapters: &ActiveAdapters) {
        let Some(state) = &mut self.state else { return };
        match state.set_adapters(model.decoder(), adapters) {
            // While suspended the session is on the CPU; afterwards the next pass sets them.
            Ok(()) | Err(ModelError::GpuSuspended) => {}
            Err(error) => {
                self.state = None;
                self.fallback = Some(error);
            }
        }
    }

    /// Whether the CPU can go on after this error; if so it is kept, and a device that failed is let go. One that is only
    /// suspended is kept with what it holds.
    pub fn fall_back(&mut self, error: ModelError) -> Result<(), ModelError> {
        match error {
            ModelError::GpuSuspended => {}
            // If it is the model and not the device, the CPU will say so.
            ModelError::Gpu(_) | ModelError::GpuAdapter { .. } | ModelError::NonFinite { .. }
                if self.state.is_some() =>
            {
                self.state = None
            }
            other => return Err(other),
        }
        self.fallback = Some(error);
        Ok(())
    }

    /// How long each kind of step of these tokens takes on the device.
    pub fn times(
        &mut self,
        model: &Model,
        adapters: &ActiveAdapters,
        tokens: &[u32],
        logits: &mut [f32],
    ) -> DeviceTimes {
        let Some(state) = &mut self.state else { return Ok(Vec::new()) };
        let mut pass = crate::model::gpu::GpuPass { gguf: model.gguf(), decoder: model.decoder(), adapters, logits };
        state.times(&mut pass, tokens)
    }

    /// Runs tokens after those held.
    pub fn forward(
        &mut self,
        model: &Model,
        adapters: &ActiveAdapters,
        tokens: &[u32],
        wanted: Wanted<'_>,
        logits: &mut [f32],
    ) -> Result<(), ModelError> {
        let Some(state) = &mut self.state else { return Err(ModelError::NoGpuBackend) };
        let mut pass = crate::model::gpu::GpuPass { gguf: model.gguf(), decoder: model.decoder(), adapters, logits };
        state.forward(&mut pass, tokens, wanted)
    }
}

impl Device {
    /// Why the session went on on the CPU, if it did.
    pub fn fallback(&self) -> Option<&ModelError> {
        self.fallback.as_ref()
    }
}

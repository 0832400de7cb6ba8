//! A model's place for its weights on a device, and the switch that keeps everything off it.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use crate::gguf::Gguf;
use crate::gpu::{Gpu, GpuChoice};

use super::super::{Decoder, ModelError};
use super::weights::GpuModel;

/// Whether nothing may be submitted. Who submits holds it meanwhile.
#[derive(Debug, Default)]
pub struct Suspension(RwLock<bool>);

impl Suspension {
    /// Keeps the switch as it is while something is submitted.
    ///
    /// # Errors
    /// [`ModelError::GpuSuspended`].
    pub(super) fn submitting(&self) -> Result<RwLockReadGuard<'_, bool>, ModelError> {
        let guard = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if *guard { Err(ModelError::GpuSuspended) } else { Ok(guard) }
    }

    pub(super) fn is_on(&self) -> bool {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, on: bool) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = on;
    }
}

/// What a model has on a device.
#[derive(Debug, Default)]
pub struct GpuSlot {
    held: Mutex<Option<(GpuChoice, Arc<GpuModel>)>>,
    suspension: Arc<Suspension>,
}

impl GpuSlot {
    /// The weights on the chosen device; uploaded if they are not there, or the device was lost.
    ///
    /// # Errors
    /// As [`GpuModel::upload`]; [`ModelError::Gpu`] if the device cannot be opened; [`ModelError::GpuSuspended`].
    pub fn get(&self, choice: &GpuChoice, gguf: &Gguf, decoder: &Decoder) -> Result<Arc<GpuModel>, ModelError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let _submitting = self.suspension.submitting()?;
        if let Some((known, weights)) = &*held
            && known == choice
            && !weights.gpu().is_lost()
        {
            return Ok(weights.clone());
        }
        let gpu = Gpu::open(choice)?;
        let weights = Arc::new(GpuModel::upload(&gpu, gguf, decoder, self.suspension.clone())?);
        *held = Some((choice.clone(), weights.clone()));
        Ok(weights)
    }

    /// Submits nothing from now on, and waits until the device has nothing left to do.
    pub fn suspend(&self) {
        self.suspension.set(true);
        if let Some((_, weights)) = &*self.held.lock().unwrap_or_else(PoisonError::into_inner) {
            // A device that is lost has nothing to do either.
            let _ = weights.gpu().wait();
        }
    }

    /// Lets sessions submit again.
    pub fn resume(&self) {
        self.suspension.set(false);
    }

    /// Lets go of the weights.
    pub fn release(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The adapter that is worth running on without being asked: a discrete one, whose memory is several times as fast as the
/// CPU's. Where none can be, none is looked for, which would load the drivers.
pub fn worthwhile() -> Option<String> {
    if !may_have_discrete() {
        return None;
    }
    Gpu::adapters().into_iter().find(|info| info.kind == "discrete").map(|info| info.name)
}

fn may_have_discrete() -> bool {
    if cfg!(any(target_os = "android", target_vendor = "apple")) {
        return false;
    }
    // Linux has a node for every GPU.
    !cfg!(target_os = "linux") || ["/dev/dri", "/dev/nvidia0"].iter().any(|node| std::path::Path::new(node).exists())
}

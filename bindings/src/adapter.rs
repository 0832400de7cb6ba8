//! [`NativeAdapter`]: an adapter as a value.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use timbre::adapter::{Adapter, AdapterFile, mix};
use timbre::model::{BoundAdapter, Model};

use crate::convert;
use crate::error::{Outcome, TimbreError};
use crate::guard::guarded;
use crate::model::NativeModel;

/// What an adapter's changes are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum AdapterKind {
    /// Coefficients of a sparse spectrum.
    Fourier,
    /// Two factors of low rank.
    Lora,
}

/// What an adapter is.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct AdapterInfo {
    /// What errors call it: its file's name, without the ending.
    pub name: String,
    /// Its kind.
    pub kind: AdapterKind,
    /// Name of the base model it was made for, where it says.
    pub base_model: Option<String>,
    /// Fingerprint of that model, where it says.
    pub base_fingerprint: Option<String>,
    /// Trainable numbers.
    pub parameters: u64,
    /// Bytes of those numbers in memory.
    pub bytes: u64,
    /// Coefficients of the first module; `None` for LoRA.
    pub n: Option<u32>,
    /// Rank of the first module; `None` for FourierFT.
    pub rank: Option<u32>,
    /// α of the first module.
    pub alpha: Option<f64>,
    /// Paths of the modules it changes.
    pub modules: Vec<String>,
}

/// An adapter and how much of it.
#[derive(Clone, uniffi::Record)]
pub struct WeightedAdapter {
    /// The adapter.
    pub adapter: Arc<NativeAdapter>,
    /// 1 for the adapter as it is; any finite number.
    pub weight: f32,
}

/// An adapter: immutable, independent of any model until a session binds it.
#[derive(uniffi::Object)]
pub struct NativeAdapter {
    file: AdapterFile,
    name: String,
    /// What it became on the models it met, so that the same adapter again is the same pointer and a swap costs nothing.
    bound: Mutex<Vec<(Weak<Model>, Arc<BoundAdapter>)>>,
}

impl NativeAdapter {
    pub(crate) fn new(file: AdapterFile, name: String) -> Arc<Self> {
        Arc::new(Self { file, name, bound: Mutex::default() })
    }

    /// The adapter on a model, bound at the first call.
    pub(crate) fn on(&self, model: &Arc<Model>) -> Outcome<Arc<BoundAdapter>> {
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.retain(|(known, _)| known.strong_count() > 0);
        let is = |known: &Weak<Model>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(model));
        if let Some((_, adapter)) = bound.iter().find(|(known, _)| is(known)) {
            return Ok(Arc::clone(adapter));
        }
        let adapter = model.bind(Arc::new(self.resolved(model)?), self.name.clone())?;
        bound.push((Arc::downgrade(model), Arc::clone(&adapter)));
        Ok(adapter)
    }

    /// The adapter with the shapes of a model, and its fingerprint.
    pub(crate) fn resolved(&self, model: &Model) -> Outcome<Adapter> {
        let adapter = self.file.resolve(model.plans(), |module| model.module_shape(module))?;
        adapter.check_base(model.gguf().fingerprint())?;
        Ok(adapter)
    }
}

#[uniffi::export]
impl NativeAdapter {
    /// Reads a PEFT directory or a `.safetensors` file.
    ///
    /// # Errors
    /// [`TimbreError::Io`], [`TimbreError::CorruptFile`]; [`TimbreError::IncompatibleAdapter`] for a method or option that
    /// this library does not do.
    #[uniffi::constructor]
    pub fn load(path: String) -> Outcome<Arc<Self>> {
        guarded(|| {
            let path = Path::new(&path);
            let file = AdapterFile::load(path).map_err(|error| TimbreError::from(error).in_file(path))?;
            Ok(Self::new(file, path.file_stem().unwrap_or_default().to_string_lossy().into_owned()))
        })
    }

    /// Reads the bytes of a single file; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Self::load`], but for the file system's.
    #[uniffi::constructor]
    pub fn from_bytes(name: String, bytes: Vec<u8>) -> Outcome<Arc<Self>> {
        guarded(|| {
            let file =
                AdapterFile::from_single_bytes(&bytes).map_err(|error| TimbreError::from(error).in_file(&name))?;
            Ok(Self::new(file, name))
        })
    }

    /// Reads the bytes of a PEFT directory's `adapter_config.json` and `adapter_model.safetensors`.
    ///
    /// # Errors
    /// As [`Self::from_bytes`].
    #[uniffi::constructor]
    pub fn from_peft_bytes(name: String, config: Vec<u8>, weights: Vec<u8>) -> Outcome<Arc<Self>> {
        guarded(|| {
            let file = AdapterFile::from_peft_bytes(&config, &weights);
            Ok(Self::new(file.map_err(|error| TimbreError::from(error).in_file(&name))?, name))
        })
    }

    /// What it is.
    ///
    /// # Errors
    /// [`TimbreError::Internal`].
    pub fn info(&self) -> Outcome<AdapterInfo> {
        guarded(|| Ok(convert::adapter_info(&self.name, self.file.summary())))
    }

    /// What errors call it.
    pub fn name(&self) -> String {
        self.name.clone()
    }

    /// Returns if every module fits the model; the work of the first use is done then.
    ///
    /// # Errors
    /// [`TimbreError::IncompatibleAdapter`] with what does not fit.
    pub fn check_compatible(&self, model: &NativeModel) -> Outcome<()> {
        guarded(|| self.on(&model.model).map(|_| ()))
    }

    /// Writes a single file where the path ends in `.safetensors`, in f16 on demand, else a directory that PEFT loads. It appears
    /// whole or not at all.
    ///
    /// # Errors
    /// [`TimbreError::Io`]; [`TimbreError::InvalidArgument`] for what the form has no way to say.
    pub fn save(&self, path: String, f16: bool) -> Outcome<()> {
        guarded(|| {
            let path = Path::new(&path);
            let single = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
            if f16 && !single {
                let path = path.display();
                return Err(TimbreError::invalid("path", "one that ends in .safetensors, which f16 goes into", path));
            }
            match single {
                true => self.file.save_single(path, f16)?,
                false => self.file.save_peft(path)?,
            }
            Ok(())
        })
    }

    /// The bytes of a single file, for a place that is no file.
    ///
    /// # Errors
    /// [`TimbreError::InvalidArgument`] for numbers that f16 has no room for.
    pub fn to_bytes(&self, f16: bool) -> Outcome<Vec<u8>> {
        guarded(|| Ok(self.file.to_single_bytes(f16)?))
    }
}

/// The weighted sum of adapters, an adapter again. `model` gives shapes where the adapters' positions differ and their files
/// carry none.
///
/// # Errors
/// [`TimbreError::InvalidArgument`] for no adapters, FourierFT beside LoRA, weights that are no numbers, or a missing model;
/// [`TimbreError::IncompatibleAdapter`] for adapters of different bases.
#[uniffi::export]
pub fn mix_adapters(
    name: String,
    parts: Vec<WeightedAdapter>,
    model: Option<Arc<NativeModel>>,
) -> Outcome<Arc<NativeAdapter>> {
    guarded(|| {
        let file = match &model {
            None => {
                let parts: Vec<_> = parts.iter().map(|part| (part.adapter.file.clone(), part.weight)).collect();
                AdapterFile::mix(&parts)?
            }
            Some(model) => {
                let resolve = |part: &WeightedAdapter| -> Outcome<(Arc<Adapter>, f32)> {
                    Ok((Arc::new(part.adapter.resolved(&model.model)?), part.weight))
                };
                mix(&parts.iter().map(resolve).collect::<Outcome<Vec<_>>>()?)?.to_file()?
            }
        };
        Ok(NativeAdapter::new(file, name))
    })
}

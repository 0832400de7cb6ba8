//! [`Session`]: one conversation's tokens, KV cache and adapters.

use std::sync::Arc;
use std::time::Instant;

use crate::kernels::Tier;
use crate::model::{ActiveAdapters, Backend, KvCache, KvType, Model, ModelError, Pass, Scratch, Wanted};

use super::device::Device;
use super::stats::us;
use super::{CancelHandle, DeviceMemory, SessionError};

/// How a session is set up.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Tokens the KV cache holds; `None` for the model's context or 4096, whichever is less.
    pub context: Option<usize>,
    /// How keys and values are stored; `None` for f16, or f32 beside the reference kernels.
    pub kv: Option<KvType>,
    /// Rows of a prefill batch; `None` for [`Scratch::DEFAULT_BATCH`], more on a GPU.
    pub batch: Option<usize>,
    /// Where it runs. A session on a GPU that is lost, runs out of memory or is suspended goes on on the CPU, from the tokens
    /// it has: the CPU's cache is computed anew.
    pub backend: Backend,
    /// The GPU by a part of its name; `None` for the fastest kind there is.
    pub gpu: Option<String>,
}

/// What a swap does with the positions that the previous adapters wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SwapPolicy {
    /// Forget the keys and values and compute them anew under the new adapters at the next run: the reply is what the
    /// new adapters alone would have said.
    #[default]
    Recompute,
    /// Keep them: the next token comes at once, from a history seen through the old adapters.
    Keep,
}

/// A conversation: its tokens, the KV cache over a prefix of them, and the adapters it runs with.
pub struct Session {
    model: Arc<Model>,
    /// Of the CPU; nothing is written to it while the device runs.
    kv: KvCache,
    scratch: Scratch,
    device: Device,
    /// What ran the last token.
    ran: Backend,
    /// Every token so far; the KV cache of either backend holds a prefix of them.
    tokens: Vec<u32>,
    adapters: ActiveAdapters,
    swap_us: f64,
    /// Rows run together on the CPU.
    batch: usize,
}

impl Session {
    /// Plans every buffer; nothing is allocated on the decode path afterwards.
    ///
    /// # Errors
    /// [`SessionError::Model`] if the context or the KV type does not suit the model, or a GPU was asked for and there is none
    /// that can run it.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Self, SessionError> {
        let context = options.context.unwrap_or_else(|| model.decoder().context.min(KvCache::DEFAULT_CAPACITY));
        let exact = model.compute().tier() == Tier::Reference;
        let kv_type = options.kv.unwrap_or(if exact { KvType::F32 } else { KvType::F16 });
        let kv = model.kv_cache(kv_type, context)?;
        let batch = options.batch.unwrap_or(Scratch::DEFAULT_BATCH).min(context);
        let scratch = model.scratch(batch);
        // One more than fits: the token that finds the context full.
        let tokens = Vec::with_capacity(context + 1);
        let device = Device::new(&model, options, kv_type, context)?;
        let adapters = ActiveAdapters::none();
        Ok(Self { model, kv, scratch, device, ran: Backend::Cpu, tokens, adapters, swap_us: 0.0, batch })
    }

    /// What ran the last token.
    pub fn backend(&self) -> Backend {
        self.ran
    }

    /// The GPU that runs the next token, if one does.
    pub fn gpu_name(&self) -> Option<&str> {
        self.device.name().filter(|_| self.device.runs())
    }

    /// Why the session went on on the CPU, if it did: the device was lost, ran out of memory or was suspended.
    pub fn fallback(&self) -> Option<&ModelError> {
        self.device.fallback()
    }

    /// Bytes on the GPU, where the session has one.
    pub fn device_memory(&self) -> Option<DeviceMemory> {
        self.device.memory()
    }

    /// How adapters are applied on the GPU and why: for each shape and number of rows, the times of both ways as they were
    /// measured on the device. Empty without a GPU, before an adapter was used there, and on a program on the CPU.
    pub fn adapter_paths(&self) -> Vec<String> {
        self.device.adapter_paths()
    }

    /// The model it runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Every token so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.kv.capacity()
    }

    /// Bytes reserved for keys and values at full context.
    pub fn kv_bytes(&self) -> usize {
        self.kv.bytes()
    }

    /// How keys and values are stored.
    pub fn kv_type(&self) -> KvType {
        self.kv.kv_type()
    }

    /// Positions whose keys and values are held.
    pub fn cached(&self) -> usize {
        if self.device.runs() { self.device.len() } else { self.kv.len() }
    }

    /// The adapters the next token runs with.
    pub fn adapters(&self) -> &ActiveAdapters {
        &self.adapters
    }

    /// Microseconds the last swap took.
    pub fn swap_us(&self) -> f64 {
        self.swap_us
    }

    /// Swaps adapters: a pointer, and under [`SwapPolicy::Recompute`] the KV cache's length. The same set again is no
    /// swap and costs nothing.
    ///
    /// # Errors
    /// [`ModelError::ForeignAdapter`] if one is bound to another model; the session keeps what it had.
    pub fn set_adapters(&mut self, adapters: ActiveAdapters, policy: SwapPolicy) -> Result<(), SessionError> {
        let begin = Instant::now();
        if let Some((bound, _)) = adapters.list().first()
            && !bound.is_for(self.model.gguf())
        {
            let adapter = bound.name().to_owned();
            return Err(ModelError::ForeignAdapter { adapter }.into());
        }
        if !self.adapters.same(&adapters) {
            self.adapters = adapters;
            if policy == SwapPolicy::Recompute {
                self.truncate(0);
            }
            self.device.set_adapters(&self.model, &self.adapters);
        }
        self.swap_us = us(begin.elapsed());
        Ok(())
    }

    /// Makes `tokens` the whole history, keeping the keys and values of the prefix it shares with the present one; of a model with
    /// sliding windows none, if more tokens are taken back than these layers have room for (some hundreds).
    /// Nothing is run yet. Returns how many positions were kept.
    pub fn set_tokens(&mut self, tokens: &[u32]) -> usize {
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        self.truncate(shared);
        self.tokens.truncate(shared);
        self.tokens.extend_from_slice(&tokens[shared..]);
        self.cached()
    }

    /// Adds tokens to the history without running them yet.
    pub fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }

    /// Forgets everything but the adapters.
    pub fn clear(&mut self) {
        self.set_tokens(&[]);
    }

    /// Milliseconds that each kind of step of the tokens that are not held yet (or else of the last) takes on the GPU, by its own
    /// clock. Nothing is kept of the run. Empty without a GPU, and on one that does not tell.
    ///
    /// # Errors
    /// [`SessionError::Model`]: the device failed, a token outside the vocabulary.
    pub fn device_times(&mut self) -> Result<Vec<(String, f64)>, SessionError> {
        if !self.device.runs() {
            return Ok(Vec::new());
        }
        self.truncate(self.tokens.len().saturating_sub(1));
        let tokens = &self.tokens[self.device.len()..];
        Ok(self.device.times(&self.model, &self.adapters, tokens, self.scratch.logits_mut())?)
    }

    /// Gives memory back to the system until the next run: that of the buffers, which are made again in no time, and on demand
    /// that of keys and values, which are then computed anew from the whole history. The history itself stays.
    pub fn trim(&mut self, keys_and_values: bool) {
        if keys_and_values {
            self.kv.release();
        }
        self.scratch = self.model.scratch(1);
    }

    /// Runs whatever the KV cache does not hold yet and returns the logits after the last token, to be read or changed
    /// in place. `cancel` is looked at before every batch; what was run by then stays.
    ///
    /// # Errors
    /// [`SessionError::EmptyPrompt`] without tokens, [`SessionError::Cancelled`], [`SessionError::Model`] (context
    /// full, file changed): the history stays as it is.
    pub fn logits(&mut self, cancel: &CancelHandle) -> Result<&mut [f32], SessionError> {
        Ok(self.logits_and_tokens(cancel)?.0)
    }

    /// [`Self::logits`], with the history beside them for a sampler that penalises repetition.
    pub(super) fn logits_and_tokens(&mut self, cancel: &CancelHandle) -> Result<(&mut [f32], &[u32]), SessionError> {
        if self.tokens.is_empty() {
            return Err(SessionError::EmptyPrompt);
        }
        // Logits are not kept apart from keys and values: the last token is run again if all else is held.
        self.truncate(self.tokens.len() - 1);
        let (capacity, used) = (self.kv.capacity(), self.cached());
        if self.tokens.len() > capacity {
            return Err(ModelError::ContextFull { capacity, used, added: self.tokens.len() - used }.into());
        }
        loop {
            match self.run_rest(cancel) {
                Err(SessionError::Model(error)) if self.ran == Backend::Gpu => self.device.fall_back(error)?,
                other => break other?,
            }
        }
        Ok((self.scratch.logits_mut(), &self.tokens))
    }

    /// Runs the tokens that the cache of the backend does not hold.
    fn run_rest(&mut self, cancel: &CancelHandle) -> Result<(), SessionError> {
        let end = self.tokens.len();
        let batch = if self.device.runs() { self.device.batch() } else { self.batch };
        let mut from = self.cached();
        while from < end {
            if cancel.is_cancelled() {
                return Err(SessionError::Cancelled);
            }
            let to = end.min(from + batch);
            let wanted = if to == end { Wanted::Last } else { Wanted::Nothing };
            self.forward(from..to, wanted)?;
            from = to;
        }
        Ok(())
    }

    /// Forgets keys and values from `len` on; and the others, if there is no going on from them.
    fn truncate(&mut self, len: usize) {
        self.kv.truncate(len);
        self.device.truncate(len);
    }

    /// Runs the whole history from its beginning and hands out every position's logits.
    ///
    /// # Errors
    /// [`SessionError::Model`], as [`Self::logits`].
    pub fn logits_all(&mut self, each: &mut dyn FnMut(usize, &[f32])) -> Result<(), SessionError> {
        let mut done = 0;
        loop {
            self.truncate(0);
            let mut rest = |row: usize, logits: &[f32]| {
                // After a fallback the first rows come a second time.
                if row == done {
                    done += 1;
                    each(row, logits);
                }
            };
            match self.forward(0..self.tokens.len(), Wanted::All(&mut rest)) {
                Err(SessionError::Model(error)) if self.ran == Backend::Gpu => self.device.fall_back(error)?,
                other => break other,
            }
        }
    }

    fn forward(&mut self, range: std::ops::Range<usize>, wanted: Wanted<'_>) -> Result<(), SessionError> {
        if !self.device.runs() {
            self.untrim()?;
        }
        let tokens = &self.tokens[range];
        if self.device.runs() {
            self.ran = Backend::Gpu;
            let logits = self.scratch.logits_mut();
            return Ok(self.device.forward(&self.model, &self.adapters, tokens, wanted, logits)?);
        }
        self.ran = Backend::Cpu;
        let mut pass = Pass {
            gguf: self.model.gguf(),
            compute: self.model.compute(),
            adapters: &self.adapters,
            kv: &mut self.kv,
            scratch: &mut self.scratch,
        };
        Ok(self.model.decoder().forward(&mut pass, tokens, wanted)?)
    }

    /// Takes the memory again that [`Self::trim`] gave back.
    fn untrim(&mut self) -> Result<(), SessionError> {
        if self.kv.is_released() {
            self.kv = self.model.kv_cache(self.kv.kv_type(), self.kv.capacity())?;
        }
        if self.scratch.batch() != self.batch {
            self.scratch = self.model.scratch(self.batch);
        }
        Ok(())
    }
}

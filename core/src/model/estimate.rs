//! What a model will take in memory, before it is loaded.

use std::path::Path;

use crate::gguf::Gguf;
use crate::kernels::Cores;

use super::{Decoder, KvCache, KvType, Model, ModelError, Scratch, architecture};

/// Memory a model and one session of it will take, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MemoryEstimate {
    /// The mapped file: clean pages that the system drops when it needs room, and reads again. Not counted against a process
    /// where what cannot be dropped is.
    pub file_bytes: usize,
    /// Keys and values of a full context, exactly. Pages are taken as positions are written.
    pub kv_bytes: usize,
    /// Buffers of the forward pass, to about a tenth.
    pub buffer_bytes: usize,
    /// The vocabulary's tables, to about a third.
    pub vocabulary_bytes: usize,
}

/// Bytes that a token takes in the tables of a vocabulary: kinds, an index, merges.
const VOCABULARY_BYTES_PER_TOKEN: usize = 32;
/// Bytes of a worker: a panel of unpacked weights, tiles of attention, transforms, its stack.
const WORKER_BYTES: usize = 512 << 10;

impl MemoryEstimate {
    /// Reads the header of `path` and adds up what a session would take: with `context` positions (`None` for those of a session
    /// that names none) stored as `kv`, on `threads` threads (`None` as in [`ModelOptions`](super::ModelOptions)).
    ///
    /// # Errors
    /// [`ModelError`] naming what is wrong with the file; [`ModelError::ContextFull`], [`ModelError::KvHead`] and
    /// [`ModelError::KvMemory`] as for the session.
    pub fn of_file(
        path: impl AsRef<Path>,
        context: Option<usize>,
        kv: KvType,
        threads: Option<usize>,
    ) -> Result<Self, ModelError> {
        let gguf = Gguf::open(path)?;
        let decoder = architecture::wire(&gguf)?;
        Self::of(&gguf, &decoder, context, kv, threads.unwrap_or_else(|| Cores::of_this_thread().threads()))
    }

    /// What is counted against the process: everything but the mapped file.
    pub fn anon_bytes(&self) -> usize {
        self.kv_bytes + self.buffer_bytes + self.vocabulary_bytes
    }

    fn of(
        gguf: &Gguf,
        decoder: &Decoder,
        context: Option<usize>,
        kv: KvType,
        threads: usize,
    ) -> Result<Self, ModelError> {
        let context = context.unwrap_or(decoder.context.min(KvCache::DEFAULT_CAPACITY));
        let heads = decoder.layers.iter().map(|l| l.attention.heads);
        let batch = Scratch::DEFAULT_BATCH.min(context);
        Ok(Self {
            file_bytes: gguf.file_len(),
            kv_bytes: KvCache::bytes_of(kv, context, heads)?,
            buffer_bytes: Scratch::bytes_of(decoder, batch).saturating_add(threads.saturating_mul(WORKER_BYTES)),
            vocabulary_bytes: decoder.vocab * VOCABULARY_BYTES_PER_TOKEN,
        })
    }
}

impl Model {
    /// What a session of this model will take, see [`MemoryEstimate::of_file`].
    ///
    /// # Errors
    /// As for the session: [`ModelError::ContextFull`], [`ModelError::KvHead`], [`ModelError::KvMemory`].
    pub fn estimate(&self, context: Option<usize>, kv: KvType) -> Result<MemoryEstimate, ModelError> {
        MemoryEstimate::of(self.gguf(), self.decoder(), context, kv, self.compute().threads())
    }
}

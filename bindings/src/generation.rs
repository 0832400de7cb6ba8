//! [`NativeGeneration`]: one running reply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timbre::session::{CancelHandle, Session};

use crate::convert;
use crate::error::{Outcome, TimbreError};
use crate::worker::Channel;

/// How a reply is generated.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct GenerationOptions {
    /// Most tokens to generate.
    #[uniffi(default = 256)]
    pub max_tokens: u32,
    /// Divides the logits before the draw; 0 takes the best token instead of drawing.
    #[uniffi(default = 0.0)]
    pub temperature: f32,
    /// Keeps this many best tokens; 0 keeps all.
    #[uniffi(default = 40)]
    pub top_k: u32,
    /// Keeps the fewest best tokens whose probabilities reach this sum; 1 keeps all.
    #[uniffi(default = 0.95)]
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the best; 0 keeps all.
    #[uniffi(default = 0.05)]
    pub min_p: f32,
    /// Divides the logits of recent tokens; 1 does nothing.
    #[uniffi(default = 1.0)]
    pub repeat_penalty: f32,
    /// Seed of the draw.
    #[uniffi(default = 0)]
    pub seed: u64,
    /// Texts that end the reply and are not part of it.
    #[uniffi(default = [])]
    pub stop: Vec<String>,
}

impl Default for GenerationOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
        }
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Finish {
    /// The model ended it.
    EndToken,
    /// A stop text came.
    StopText,
    /// The most tokens were generated.
    Length,
    /// The context is full.
    ContextFull,
    /// It was cancelled.
    Cancelled,
}

/// What a reply cost.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct GenerationStats {
    /// Tokens of the prompt, the history included.
    pub prompt_tokens: u32,
    /// Of those, the ones whose keys and values were held already.
    pub cached_tokens: u32,
    /// Tokens run before the first new one.
    pub prefill_tokens: u32,
    /// Tokens generated.
    pub generated_tokens: u32,
    /// Milliseconds to the first token.
    pub ttft_ms: f64,
    /// Milliseconds of prefill.
    pub prefill_ms: f64,
    /// Milliseconds after the first token.
    pub decode_ms: f64,
    /// Tokens a second of prefill.
    pub prefill_tokens_per_second: f64,
    /// Tokens a second after the first.
    pub decode_tokens_per_second: f64,
    /// Microseconds of the last swap of adapters.
    pub swap_us: f64,
    /// Bytes reserved for keys and values.
    pub kv_bytes: u64,
    /// Anonymous memory of the process, where the system says.
    pub anon_bytes: Option<u64>,
    /// Name of the GPU that its last token ran on; `None` for the CPU.
    pub gpu: Option<String>,
}

/// A reply that has ended.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct GenerationResult {
    /// The whole text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub stats: GenerationStats,
}

/// Pieces kept for a caller that does not pull: more than any reply has.
const MOST_PIECES: usize = 1 << 20;

/// A running reply, on a thread of its own. Dropping it cancels it.
#[derive(uniffi::Object)]
pub struct NativeGeneration {
    run: Arc<Run>,
}

#[uniffi::export]
impl NativeGeneration {
    /// The next text: whole characters, as many pieces as there are. Waits for the first; unless it is the reply's very
    /// first, more that come within `gather_ms` after it are added. `None` at the end.
    ///
    /// # Errors
    /// What ended the reply: [`TimbreError::ContextFull`], [`TimbreError::CorruptFile`], [`TimbreError::Internal`].
    pub fn next(&self, gather_ms: u32) -> Outcome<Option<String>> {
        let pieces = self.run.channel.next(Duration::from_millis(gather_ms.into()))?;
        Ok(if pieces.is_empty() { None } else { Some(pieces.concat()) })
    }

    /// The reply, waiting for its end. A cancelled one is what it had come to.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn result(&self) -> Outcome<GenerationResult> {
        self.run.channel.result()
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.run.channel.is_finished()
    }

    /// Ends it within a token, or within a batch of the prompt. Returns at once.
    pub fn cancel(&self) {
        self.run.cancel();
    }
}

impl NativeGeneration {
    pub(crate) fn new(run: Arc<Run>) -> Arc<Self> {
        Arc::new(Self { run })
    }
}

impl Drop for NativeGeneration {
    fn drop(&mut self) {
        self.run.cancel();
    }
}

/// What a reply's thread and its callers share.
pub(crate) struct Run {
    channel: Channel<String, GenerationResult>,
    cancel: Mutex<Cancel>,
}

#[derive(Default)]
struct Cancel {
    asked: bool,
    handle: Option<CancelHandle>,
}

impl Run {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { channel: Channel::new(MOST_PIECES), cancel: Mutex::default() })
    }

    pub(crate) fn cancel(&self) {
        let mut cancel = self.cancel.lock().unwrap_or_else(PoisonError::into_inner);
        cancel.asked = true;
        if let Some(handle) = &cancel.handle {
            handle.cancel();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.lock().unwrap_or_else(PoisonError::into_inner).asked
    }

    pub(crate) fn finish(&self, result: Outcome<GenerationResult>) {
        self.channel.finish(result);
    }

    /// Generates the reply to `prompt`, the whole history.
    pub(crate) fn generate(
        &self,
        session: &mut Session,
        prompt: &[u32],
        options: &GenerationOptions,
    ) -> Outcome<GenerationResult> {
        session.set_tokens(prompt);
        let mut generation = session.generate(convert::generate_options(options))?;
        self.attach(generation.cancel_handle());
        let mut text = String::new();
        while let Some(piece) = generation.next_piece()? {
            text.push_str(piece);
            self.channel.send(piece.to_owned());
        }
        let finish = generation.finish().map_or(Finish::Cancelled, convert::finish);
        let stats = generation.stats();
        drop(generation);
        Ok(GenerationResult { text, finish, stats: convert::stats(&stats, session) })
    }

    fn attach(&self, handle: CancelHandle) {
        let mut cancel = self.cancel.lock().unwrap_or_else(PoisonError::into_inner);
        if cancel.asked {
            handle.cancel();
        }
        cancel.handle = Some(handle);
    }
}

/// What [`NativeSession`](crate::NativeSession) says of a reply that is under way.
pub(crate) fn busy() -> TimbreError {
    TimbreError::Busy { what: "the session is generating a reply: wait for its end or cancel it".to_owned() }
}

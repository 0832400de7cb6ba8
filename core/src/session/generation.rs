//! [`Generation`]: one running reply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::tokenizer::{SpecialText, Tokenizer};

use super::stats::ms;
use super::{Sampler, SamplerOptions, Session, SessionError, Stats, TextStream};

/// Stops a generation from any thread, within one token (or one prefill batch).
#[derive(Debug, Clone, Default)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Asks the generation to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How a reply is generated.
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Texts that end the reply; they are not part of it.
    pub stop: Vec<String>,
    /// Whether an end-of-generation token ends the reply.
    pub stop_at_end_token: bool,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 256, sampler: SamplerOptions::greedy(), stop: Vec::new(), stop_at_end_token: true }
    }
}

/// Why a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it.
    EndToken,
    /// A stop text came.
    StopText,
    /// [`GenerateOptions::max_tokens`] were generated.
    Length,
    /// The context is full.
    ContextFull,
    /// It was cancelled.
    Cancelled,
    /// An error ended it.
    Failed,
}

/// A running reply over a session's history. Dropping it stops it; the tokens it generated stay in the history. It
/// keeps its adapters, whatever is loaded, replaced or removed elsewhere meanwhile.
pub struct Generation<'a> {
    session: &'a mut Session,
    tokenizer: Arc<Tokenizer>,
    sampler: Sampler,
    stream: TextStream,
    options: GenerateOptions,
    cancel: CancelHandle,
    ids: Vec<u32>,
    bytes: Vec<u8>,
    piece: String,
    finish: Option<Finish>,
    stats: Stats,
    begin: Instant,
    first: Option<Instant>,
}

impl Session {
    /// Begins a reply to the tokens of the history. Nothing runs until the first [`Generation::next_piece`].
    ///
    /// # Errors
    /// [`SessionError::Sampler`] for unusable options, [`SessionError::Model`] if the vocabulary is damaged.
    pub fn generate(&mut self, options: GenerateOptions) -> Result<Generation<'_>, SessionError> {
        let tokenizer = self.model().tokenizer()?.clone();
        let sampler = Sampler::new(options.sampler, self.model().decoder().vocab)?;
        let room = self.capacity().saturating_sub(self.tokens().len());
        let stats = Stats {
            prompt_tokens: self.tokens().len(),
            cached_tokens: self.cached(),
            swap_us: self.swap_us(),
            ..Stats::default()
        };
        Ok(Generation {
            tokenizer,
            sampler,
            stream: TextStream::new(options.stop.clone())?,
            ids: Vec::with_capacity(options.max_tokens.min(room) + 1),
            bytes: Vec::with_capacity(256),
            piece: String::with_capacity(256),
            finish: None,
            stats,
            cancel: CancelHandle::default(),
            options,
            begin: Instant::now(),
            first: None,
            session: self,
        })
    }
}

impl Generation<'_> {
    /// A handle that stops this generation from any thread.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// The next piece of text, whole UTF-8 characters, or `None` when the reply has ended. One call may run several
    /// tokens (until a character or a possible stop text is complete).
    ///
    /// # Errors
    /// [`SessionError`]; the reply has then ended and its tokens so far are in the history.
    pub fn next_piece(&mut self) -> Result<Option<&str>, SessionError> {
        self.piece.clear();
        while self.finish.is_none() && self.piece.is_empty() {
            match self.step() {
                Ok(()) => {}
                Err(SessionError::Cancelled) => self.finish = Some(Finish::Cancelled),
                Err(error) => {
                    self.finish = Some(Finish::Failed);
                    return Err(error);
                }
            }
            if self.finish.is_some() {
                self.piece.push_str(self.stream.finish().text);
            }
        }
        Ok(if self.piece.is_empty() { None } else { Some(&self.piece) })
    }

    /// Runs to the end and returns the whole text.
    ///
    /// # Errors
    /// As [`Self::next_piece`].
    pub fn text(&mut self) -> Result<String, SessionError> {
        let mut text = String::new();
        while let Some(piece) = self.next_piece()? {
            text.push_str(piece);
        }
        Ok(text)
    }

    /// The tokens generated so far, an end token included.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Why the reply ended, once it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// What it cost so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Generates one token.
    fn step(&mut self) -> Result<(), SessionError> {
        if self.cancel.is_cancelled() {
            self.finish = Some(Finish::Cancelled);
            return Ok(());
        }
        if self.ids.len() >= self.options.max_tokens {
            self.finish = Some(Finish::Length);
            return Ok(());
        }
        // The first token needs its prompt run, so a prompt that does not fit is an error; later it is an end.
        if !self.ids.is_empty() && self.session.tokens().len() > self.session.capacity() {
            self.finish = Some(Finish::ContextFull);
            return Ok(());
        }
        let prefill = self.session.tokens().len() - self.session.cached();
        let begin = Instant::now();
        let recent_from = self.session.tokens().len().saturating_sub(self.options.sampler.repeat_last_n);
        let (logits, tokens) = self.session.logits_and_tokens(&self.cancel)?;
        let id = self.sampler.sample(logits, &tokens[recent_from..])?;
        let now = Instant::now();
        match self.first {
            None => {
                self.first = Some(now);
                self.stats.prefill_tokens = prefill.max(1);
                self.stats.prefill_ms = ms(now - begin);
                self.stats.ttft_ms = ms(now - self.begin);
            }
            Some(first) => self.stats.decode_ms = ms(now - first),
        }
        self.stats.backend = self.session.backend();
        self.stats.fell_back = self.session.fallback().is_some();
        self.ids.push(id);
        self.session.push(&[id]);
        self.stats.generated_tokens = self.ids.len();
        if self.options.stop_at_end_token && self.tokenizer.is_end_of_generation(id) {
            self.finish = Some(Finish::EndToken);
            return Ok(());
        }
        self.bytes.clear();
        self.tokenizer.token_bytes(id, SpecialText::Skip, &mut self.bytes)?;
        let piece = self.stream.push(&self.bytes);
        self.piece.push_str(piece.text);
        if piece.stopped {
            self.finish = Some(Finish::StopText);
        }
        Ok(())
    }
}

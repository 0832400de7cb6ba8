//! What a reply cost.

use std::time::Duration;

use crate::model::Backend;

/// Timings of one generation, in the units people compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of those, already in the KV cache.
    pub cached_tokens: usize,
    /// Tokens run through the model before the first sampled one: the rest of the prompt, and after a swap the history.
    pub prefill_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Milliseconds of prefill.
    pub prefill_ms: f64,
    /// Milliseconds from the call to the first token.
    pub ttft_ms: f64,
    /// Milliseconds of decoding after the first token.
    pub decode_ms: f64,
    /// Microseconds of the last adapter swap before this generation, 0 without one.
    pub swap_us: f64,
    /// What ran the last token.
    pub backend: Backend,
    /// Whether a GPU was given up on the way.
    pub fell_back: bool,
}

impl Stats {
    /// Prefill rate in tokens a second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prefill_tokens, self.prefill_ms)
    }

    /// Decode rate in tokens a second; the first token belongs to the prefill.
    pub fn decode_rate(&self) -> f64 {
        rate(self.generated_tokens.saturating_sub(1), self.decode_ms)
    }
}

fn rate(tokens: usize, ms: f64) -> f64 {
    if ms > 0.0 { tokens as f64 * 1e3 / ms } else { 0.0 }
}

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub(super) fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

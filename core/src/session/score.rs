//! How well a model predicts a text.

use crate::kernels::vector;
use crate::model::ModelError;

use super::{Session, SessionError};

/// Mean negative log-likelihood of a text, in nats a token.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Perplexity {
    /// Mean of −ln p(token | tokens before it in its window).
    pub nll: f64,
    /// e^nll.
    pub ppl: f64,
    /// Tokens predicted.
    pub tokens: usize,
}

impl Session {
    /// Scores `tokens` in windows of the session's context: every token but the first of each window is predicted from
    /// those before it in the window. The session's history is replaced by the last window.
    ///
    /// # Errors
    /// [`SessionError::TooShort`] for fewer than two tokens; [`ModelError::ContextFull`] if the context does not hold two;
    /// else as [`Session::logits`].
    pub fn perplexity(&mut self, tokens: &[u32]) -> Result<Perplexity, SessionError> {
        self.perplexity_with(tokens, |_| {})
    }

    /// [`Self::perplexity`], telling `progress` how many tokens are done.
    ///
    /// # Errors
    /// As [`Self::perplexity`].
    pub fn perplexity_with(
        &mut self,
        tokens: &[u32],
        mut progress: impl FnMut(usize),
    ) -> Result<Perplexity, SessionError> {
        if tokens.len() < 2 {
            return Err(SessionError::TooShort { found: tokens.len() });
        }
        if self.capacity() < 2 {
            return Err(ModelError::ContextFull { capacity: self.capacity(), used: 1, added: 1 }.into());
        }
        let (mut sum, mut count) = (0f64, 0usize);
        let mut exponentials = vec![0f32; self.model().decoder().vocab];
        for (i, window) in tokens.chunks(self.capacity()).enumerate().filter(|(_, w)| w.len() > 1) {
            let before = i * self.capacity();
            self.clear();
            self.push(window);
            self.logits_all(&mut |row, logits| {
                progress(before + row + 1);
                if let Some(&target) = window.get(row + 1) {
                    sum += f64::from(log_sum_exp(logits, &mut exponentials)) - f64::from(logits[target as usize]);
                    count += 1;
                }
            })?;
        }
        let nll = sum / count as f64;
        Ok(Perplexity { nll, ppl: nll.exp(), tokens: count })
    }
}

/// ln Σ eˣ, shifted by the maximum; `scratch` holds as many elements as `logits`.
fn log_sum_exp(logits: &[f32], scratch: &mut [f32]) -> f32 {
    let max = vector::max(logits);
    scratch.copy_from_slice(logits);
    max + vector::exp_shifted(scratch, max).ln()
}

//! What the adapter costs, by turns: a machine's speed changes from one second to the next, and less so from one token to the next.

use timbre::session::Session;

use super::{decode, median, prefill, step};
use crate::output::Outcome;

/// Prompts are long, and few of them tell as much as many tokens.
const TOKENS_A_PROMPT: usize = 32;

/// Medians over turns in which a session without the adapter and one with it did the same.
#[derive(serde::Serialize)]
pub struct AdapterCost {
    /// Turns of a token each.
    tokens: usize,
    /// A token without the adapter, in microseconds.
    token_us: f64,
    /// What it takes more with it: the median of the turns' differences.
    token_more_us: f64,
    /// The latter as a share of the former.
    token_share: f64,
    /// Turns of a prompt each.
    prompts: usize,
    /// As for tokens.
    prompt_us: f64,
    prompt_more_us: f64,
    prompt_share: f64,
}

impl AdapterCost {
    /// Takes `turns` turns of a token, beginning anew after `generate` of them with one that is not counted, and a turn of `prompt` for
    /// every [`TOKENS_A_PROMPT`].
    pub fn measure([without, with]: [&mut Session; 2], prompt: &[u32], generate: usize, turns: usize) -> Outcome<Self> {
        let mut tokens = Vec::new();
        while tokens.len() < turns {
            for session in [&mut *without, &mut *with] {
                decode(session, prompt, 0)?;
            }
            for i in 0..generate.min(turns - tokens.len()) {
                let token = prompt[(i + 1) % prompt.len()];
                tokens.push(turn([without, with], i, |session| step(session, token))?);
            }
        }
        let prompts = (0..=turns.div_ceil(TOKENS_A_PROMPT))
            .map(|i| turn([without, with], i, |session| prefill(session, prompt)))
            .collect::<Outcome<Vec<_>>>()?
            .split_off(1);
        let ([token_us, token_more_us], [prompt_us, prompt_more_us]) = (medians(&tokens), medians(&prompts));
        Ok(Self {
            tokens: tokens.len(),
            token_us,
            token_more_us,
            token_share: token_more_us / token_us,
            prompts: prompts.len(),
            prompt_us,
            prompt_more_us,
            prompt_share: prompt_more_us / prompt_us,
        })
    }

    /// In words.
    pub fn describe(&self) -> String {
        let percent = |share: f64| 100.0 * share;
        format!(
            "{:+.1} % of a token's {:.0} µs ({} turns), {:+.1} % of a prompt's {:.1} ms ({} turns)",
            percent(self.token_share),
            self.token_us,
            self.tokens,
            percent(self.prompt_share),
            self.prompt_us / 1e3,
            self.prompts
        )
    }
}

/// Microseconds without and with, the one that begins changing from turn to turn.
fn turn(
    [without, with]: [&mut Session; 2],
    i: usize,
    time: impl Fn(&mut Session) -> Outcome<std::time::Duration>,
) -> Outcome<[f64; 2]> {
    let us = |session: &mut Session| Ok::<_, Box<dyn std::error::Error>>(time(session)?.as_secs_f64() * 1e6);
    if i.is_multiple_of(2) {
        let first = us(without)?;
        Ok([first, us(with)?])
    } else {
        let second = us(with)?;
        Ok([us(without)?, second])
    }
}

/// The median without, and that of the differences.
fn medians(turns: &[[f64; 2]]) -> [f64; 2] {
    let of = |f: fn(&[f64; 2]) -> f64| median(turns.iter().map(f).collect());
    [of(|turn| turn[0]), of(|turn| turn[1] - turn[0])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_of_turns() {
        // A disturbance of both is none of their difference.
        assert_eq!(medians(&[[10.0, 11.0], [50.0, 52.0], [12.0, 15.0]]), [12.0, 2.0]);
    }
}

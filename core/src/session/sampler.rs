//! Choosing the next token from logits.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;

/// How tokens are drawn. The steps run in this order: penalty, top-k, top-p, min-p, temperature, draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits before the draw; 0 takes the best token instead of drawing.
    pub temperature: f32,
    /// Keeps this many best tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest best tokens whose probabilities reach this sum, at least one; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as probable as the best; 0 keeps all.
    pub min_p: f32,
    /// Divides the positive and multiplies the negative logits of recent tokens (CTRL, Keskar et al. 2019); 1 is none.
    pub repeat_penalty: f32,
    /// How many of the latest tokens are penalised.
    pub repeat_last_n: usize,
    /// Equal seeds draw equal random numbers on every platform.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, repeat_penalty: 1.0, repeat_last_n: 64, seed: 0 }
    }
}

impl SamplerOptions {
    /// Always the best token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    fn check(&self) -> Result<(), SamplerError> {
        let not_negative = |value: f32| value.is_finite() && value >= 0.0;
        let fraction = |value: f32| (0.0..=1.0).contains(&value);
        for (name, value, expected, good) in [
            ("temperature", self.temperature, "a finite number from 0 up", not_negative(self.temperature)),
            ("top_p", self.top_p, "a number from 0 to 1", fraction(self.top_p)),
            ("min_p", self.min_p, "a number from 0 to 1", fraction(self.min_p)),
            (
                "repeat_penalty",
                self.repeat_penalty,
                "a finite number above 0",
                not_negative(self.repeat_penalty) && self.repeat_penalty > 0.0,
            ),
        ] {
            if !good {
                return Err(SamplerError::Option { name, value, expected });
            }
        }
        Ok(())
    }
}

/// Why no token could be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// An option out of its range.
    #[error("{name} is {value}, expected {expected}")]
    Option {
        /// The field of [`SamplerOptions`].
        name: &'static str,
        /// Its value.
        value: f32,
        /// Its range.
        expected: &'static str,
    },
    /// A vocabulary without tokens.
    #[error("the vocabulary is empty")]
    EmptyVocabulary,
    /// Logits of another vocabulary.
    #[error("{found} logits for a vocabulary of {expected}")]
    Length {
        /// The vocabulary the sampler was made for.
        expected: usize,
        /// Logits given.
        found: usize,
    },
    /// A logit that is NaN or +∞; −∞ is allowed and excludes a token.
    #[error("the logit of token {id} is {value}")]
    Logit {
        /// The token.
        id: u32,
        /// Its logit.
        value: f32,
    },
    /// Every logit is −∞.
    #[error("every token is excluded")]
    NothingLeft,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Best logit first, lowest id among equals. Total, for there is no NaN among candidates.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

/// Draws tokens. All memory is taken by [`Sampler::new`]; drawing allocates nothing.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    vocab: usize,
    random: SplitMix64,
    candidates: Vec<Candidate>,
    /// One bit per token: penalised in this call.
    penalised: Box<[u64]>,
}

/// The head of the sorted candidates that top-p looks at first; doubled until it is enough.
const FIRST_HEAD: usize = 128;

impl Sampler {
    /// A sampler for logits of `vocab` tokens.
    ///
    /// # Errors
    /// [`SamplerError::Option`], [`SamplerError::EmptyVocabulary`].
    pub fn new(options: SamplerOptions, vocab: usize) -> Result<Self, SamplerError> {
        options.check()?;
        if vocab == 0 {
            return Err(SamplerError::EmptyVocabulary);
        }
        let candidates = match (options.temperature, options.top_k) {
            (0.0, _) => 0,
            (_, 0) => vocab,
            (_, k) => k.saturating_mul(2).min(vocab),
        };
        let penalised = if options.repeat_penalty == 1.0 { 0 } else { vocab.div_ceil(64) };
        Ok(Self {
            options,
            vocab,
            random: SplitMix64(options.seed),
            candidates: Vec::with_capacity(candidates),
            penalised: vec![0; penalised].into_boxed_slice(),
        })
    }

    /// The next token after `recent` (latest last; ids past the vocabulary are ignored). Penalties change `logits`.
    ///
    /// # Errors
    /// [`SamplerError::Length`], [`SamplerError::Logit`], [`SamplerError::NothingLeft`]. No random number is used up.
    pub fn sample(&mut self, logits: &mut [f32], recent: &[u32]) -> Result<u32, SamplerError> {
        if logits.len() != self.vocab {
            return Err(SamplerError::Length { expected: self.vocab, found: logits.len() });
        }
        check_logits(logits)?;
        self.penalise(logits, recent);
        if self.options.temperature == 0.0 {
            return best(logits);
        }
        self.keep(logits);
        self.draw().ok_or(SamplerError::NothingLeft)
    }

    fn penalise(&mut self, logits: &mut [f32], recent: &[u32]) {
        let penalty = self.options.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        let window = &recent[recent.len().saturating_sub(self.options.repeat_last_n)..];
        for &id in window {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            let (word, bit) = (&mut self.penalised[id as usize / 64], 1 << (id % 64));
            if *word & bit == 0 {
                *word |= bit;
                // A finite logit stays finite, whatever the penalty, so that no step behind meets an infinity.
                let changed = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                *logit = if *logit == f32::NEG_INFINITY { *logit } else { changed.clamp(f32::MIN, f32::MAX) };
            }
        }
        for &id in window {
            if let Some(word) = self.penalised.get_mut(id as usize / 64) {
                *word = 0;
            }
        }
    }

    /// Leaves in `candidates` what top-k, top-p and min-p keep: in order of [`Candidate::order`], or of ids where
    /// nothing had to be compared.
    fn keep(&mut self, logits: &[f32]) {
        let SamplerOptions { top_k, top_p, min_p, .. } = self.options;
        let kept = &mut self.candidates;
        kept.clear();
        let all = (0u32..).zip(logits).map(|(id, &logit)| Candidate { id, logit });
        let all = all.filter(|candidate| candidate.logit > f32::NEG_INFINITY);
        if top_k == 0 {
            kept.extend(all);
        } else {
            select_top(kept, all, top_k, self.vocab);
        }
        let Some(best) = kept.iter().copied().min_by(Candidate::order) else { return };

        // Probabilities relative to the best one. Both filters keep a head of the sorted candidates, so the cheap one
        // may go first, as long as top-p measures against the sum over what top-k left.
        let relative = |candidate: &Candidate| f64::from(candidate.logit - best.logit).exp();
        let enough = f64::from(top_p) * if top_p < 1.0 { kept.iter().map(relative).sum() } else { f64::INFINITY };
        if min_p > 0.0 {
            kept.retain(|candidate| relative(candidate) >= f64::from(min_p));
        }
        if top_p < 1.0 {
            let mut head = FIRST_HEAD;
            loop {
                let sorted = sort_head(kept, head);
                let mut sum = 0.0;
                let reached = kept[..sorted].iter().position(|candidate| {
                    sum += relative(candidate);
                    sum >= enough
                });
                match reached {
                    Some(last) => return kept.truncate(last + 1),
                    None if sorted == kept.len() => return,
                    None => head *= 2,
                }
            }
        }
    }

    /// Draws among the candidates.
    fn draw(&mut self) -> Option<u32> {
        let best = self.candidates.iter().map(|candidate| candidate.logit).fold(f32::NEG_INFINITY, f32::max);
        let temperature = f64::from(self.options.temperature);
        let weight = |candidate: &Candidate| ((f64::from(candidate.logit) - f64::from(best)) / temperature).exp();
        let total: f64 = self.candidates.iter().map(weight).sum();
        let last = self.candidates.last()?.id;
        let mut left = self.random.unit() * total;
        for candidate in &self.candidates {
            left -= weight(candidate);
            if left < 0.0 {
                return Some(candidate.id);
            }
        }
        // Rounding can leave a trace of the sum behind the last candidate.
        Some(last)
    }
}

/// Refuses NaN and +∞.
fn check_logits(logits: &[f32]) -> Result<(), SamplerError> {
    let bad = |logit: f32| logit.is_nan() || logit == f32::INFINITY;
    // Looked for without a branch first, which vectorises: there is nearly never one.
    if !logits.iter().fold(false, |any, &logit| any | bad(logit)) {
        return Ok(());
    }
    match (0u32..).zip(logits).find(|(_, logit)| bad(**logit)) {
        Some((id, &value)) => Err(SamplerError::Logit { id, value }),
        None => Ok(()),
    }
}

/// The first of the highest logits. Lane-wise maxima vectorise, a running argmax does not.
fn best(logits: &[f32]) -> Result<u32, SamplerError> {
    const LANES: usize = 32;
    let max = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = logits.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = max(*lane, logit);
        }
    }
    let highest = lanes.iter().chain(chunks.remainder()).copied().fold(f32::NEG_INFINITY, max);
    let first = logits.iter().position(|&logit| logit == highest && highest > f32::NEG_INFINITY);
    first.map(|id| id as u32).ok_or(SamplerError::NothingLeft)
}

/// Collects the `k` best of `all`, sorted, in a buffer of `2k` (at most `vocab`): it fills with what beats the worst
/// known survivor and is halved when full, so most candidates cost one comparison.
fn select_top(kept: &mut Vec<Candidate>, all: impl Iterator<Item = Candidate>, k: usize, vocab: usize) {
    let room = k.saturating_mul(2).min(vocab);
    let mut worst = f32::NEG_INFINITY;
    for candidate in all {
        // Of equal logits the lower id survives, and ids ascend: what only equals the worst is out.
        if candidate.logit <= worst {
            continue;
        }
        if kept.len() == room && k < room {
            kept.select_nth_unstable_by(k - 1, Candidate::order);
            kept.truncate(k);
            worst = kept[k - 1].logit;
            if candidate.logit <= worst {
                continue;
            }
        }
        kept.push(candidate);
    }
    kept.sort_unstable_by(Candidate::order);
    kept.truncate(k);
}

/// Brings the `head` best candidates to the front, sorted; returns how many are.
fn sort_head(candidates: &mut [Candidate], head: usize) -> usize {
    let head = head.min(candidates.len());
    if head < candidates.len() {
        candidates.select_nth_unstable_by(head, Candidate::order);
    }
    candidates[..head].sort_unstable_by(Candidate::order);
    head
}

/// SplitMix64 (Steele, Lea and Flood, 2014): a counter with an odd step, scrambled. Any seed is as good as another.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in [0, 1), 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

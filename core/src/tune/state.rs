//! [`State`]: where a run is.

use super::data::Cursor;
use super::optimiser::AdamW;
use super::watch::Watch;

/// A state worth keeping.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// Steps taken before it.
    pub step: u64,
    /// Its held-out loss, where one is measured: nats a target.
    pub loss: Option<f64>,
    /// Its parameters.
    pub parameters: Vec<f32>,
}

/// Everything a run needs to go on as if it had never stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// The parameters, flat.
    pub parameters: Vec<f32>,
    /// The optimiser's moments.
    pub adam: AdamW,
    /// Steps taken.
    pub step: u64,
    /// Where the data is. The order of examples, the only thing drawn during a run, follows from it and the seed.
    pub cursor: Cursor,
    /// Seconds the run has worked, scoring included, waiting excluded.
    pub elapsed: f64,
    /// Seconds that the first scoring of the held-out examples took.
    pub evaluation_seconds: f64,
    /// Tokens that went through the model in steps.
    pub tokens: u64,
    /// Each step's loss.
    pub losses: Vec<f32>,
    /// Steps taken and held-out loss of each scoring.
    pub evaluations: Vec<(u64, f64)>,
    /// The state of the lowest held-out loss; without held-out examples the latest that was well.
    pub good: Best,
    /// Scorings since that did not find a lower loss.
    pub stale: u32,
    /// Whether the run is well.
    pub watch: Watch,
}

impl State {
    /// Before the first step.
    pub fn new(parameters: Vec<f32>) -> Self {
        Self {
            adam: AdamW::new(parameters.len()),
            good: Best { step: 0, loss: None, parameters: parameters.clone() },
            parameters,
            step: 0,
            cursor: Cursor::default(),
            elapsed: 0.0,
            evaluation_seconds: 0.0,
            tokens: 0,
            losses: Vec::new(),
            evaluations: Vec::new(),
            stale: 0,
            watch: Watch::default(),
        }
    }

    /// The present state as one worth keeping.
    pub(super) fn snapshot(&mut self, loss: Option<f64>) {
        self.good.step = self.step;
        self.good.loss = loss;
        self.good.parameters.copy_from_slice(&self.parameters);
    }
}

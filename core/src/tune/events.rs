//! What a run tells its caller.

use super::State;

/// News of a run, in the order things happen.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A step was taken.
    Step(StepReport),
    /// The held-out examples were scored: before the first step (`step` 0), during the run and at its end.
    Evaluated {
        /// Steps taken before it.
        step: u64,
        /// Mean loss a target, in nats.
        heldout_loss: f64,
        /// Whether it is the lowest so far.
        best: bool,
    },
    /// The run waits at a step's end for [`TuneHandle::resume`](super::TuneHandle::resume).
    Paused {
        /// Steps taken before it.
        step: u64,
    },
    /// The run goes on.
    Resumed {
        /// Steps taken before it.
        step: u64,
    },
    /// The state is in the checkpoint file.
    Saved {
        /// Steps taken before it.
        step: u64,
    },
    /// The run has ended.
    Done {
        /// Why.
        stop: Stop,
        /// Where it is.
        state: &'a State,
    },
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u64,
    /// Mean loss a target of the step's examples, before the step, in nats.
    pub loss: f64,
    /// The learning rate it was taken with, in the unit of the run's [`Rate`](super::Rate).
    pub lr: f64,
    /// Norm of the gradient in that unit, before clipping.
    pub gradient_norm: f64,
    /// Milliseconds it took.
    pub ms: f64,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Those over the time.
    pub tokens_per_second: f64,
    /// Milliseconds the run has worked.
    pub elapsed_ms: f64,
    /// Milliseconds the run will go on, by its pace so far.
    pub eta_ms: f64,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Stop {
    /// The budget is spent.
    Budget,
    /// The held-out loss has not fallen for the patience that was asked for.
    Early,
    /// A handle said stop.
    Cancelled,
    /// The loss rose beyond recovery or was no number. The result is the last good state.
    Diverged {
        /// The step it was seen at.
        step: u64,
        /// The loss there, which may be NaN or infinite.
        loss: f64,
    },
}

impl Stop {
    /// One word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Early => "early",
            Self::Cancelled => "cancelled",
            Self::Diverged { .. } => "diverged",
        }
    }
}

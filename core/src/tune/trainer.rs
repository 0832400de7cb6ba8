//! The loop: steps, scorings, checkpoints, and the reasons to stop.

use std::time::{Duration, Instant};

use crate::model::ModelError;

use super::checkpoint::Checkpoint;
use super::data::{Batches, Dataset, Loss, Sequence, target_count};
use super::optimiser::clip_norm;
use super::{AdamOptions, Event, Objective, Rate, Schedule, Segment, State, StepReport, Stop, TuneError, TuneHandle};

/// How long a run goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// This many steps.
    Steps(u64),
    /// This many seconds of work, scoring included; at least one step.
    Seconds(f64),
}

/// How a run is done.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainerOptions {
    /// How long.
    pub budget: Budget,
    /// Sequences that go through the model together.
    pub batch: usize,
    /// Batches a step adds up.
    pub accumulate: usize,
    /// Seed of the order of examples.
    pub seed: u64,
    /// The learning rate.
    pub rate: Rate,
    /// Its course.
    pub schedule: Schedule,
    /// The optimiser's constants.
    pub adam: AdamOptions,
    /// Largest norm of the gradient, in the rate's unit; `None` for any.
    pub clip: Option<f64>,
    /// How often the held-out examples are scored, besides before and after; less often where that would take more than a
    /// tenth of a budget of time.
    pub evaluations: u32,
    /// Scorings in a row that may find no lower loss before the run stops; `None` for any number.
    pub patience: Option<u32>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
}

impl TrainerOptions {
    /// The defaults for a rate: a minute, batches of 4, gradients clipped to a norm of 1.
    pub fn new(rate: Rate) -> Self {
        Self {
            budget: Budget::Seconds(60.0),
            batch: 4,
            accumulate: 1,
            seed: 0,
            rate,
            schedule: Schedule::default(),
            adam: AdamOptions::default(),
            clip: Some(1.0),
            evaluations: 5,
            patience: Some(3),
            checkpoint_every: 10,
        }
    }

    /// Refuses what cannot be.
    ///
    /// # Errors
    /// [`TuneError::Option`].
    pub fn check(&self) -> Result<(), TuneError> {
        self.schedule.check()?;
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let share = |value: f64| (0.0..1.0).contains(&value);
        let (steps, seconds) = match self.budget {
            Budget::Steps(steps) => (steps, 1.0),
            Budget::Seconds(seconds) => (1, seconds),
        };
        let clip = self.clip.unwrap_or(1.0);
        let above = "a finite number above 0";
        for (name, value, expected, good) in [
            ("steps", steps as f64, "1 or more", steps > 0),
            ("seconds", seconds, above, positive(seconds)),
            ("batch", self.batch as f64, "1 or more", self.batch > 0),
            ("accumulate", self.accumulate as f64, "1 or more", self.accumulate > 0),
            ("patience", f64::from(self.patience.unwrap_or(1)), "1 or more", self.patience != Some(0)),
            ("checkpoint interval", self.checkpoint_every as f64, "1 or more steps", self.checkpoint_every > 0),
            ("learning rate", self.rate.value(), above, positive(self.rate.value())),
            ("clip", clip, above, positive(clip)),
            ("beta1", self.adam.beta1, "from 0 to below 1", share(self.adam.beta1)),
            ("beta2", self.adam.beta2, "from 0 to below 1", share(self.adam.beta2)),
            ("epsilon", self.adam.epsilon, above, positive(self.adam.epsilon)),
            (
                "weight decay",
                self.adam.weight_decay,
                "a finite number from 0 up",
                self.adam.weight_decay.is_finite() && self.adam.weight_decay >= 0.0,
            ),
        ] {
            if !good {
                return Err(TuneError::option(name, value, expected));
            }
        }
        Ok(())
    }
}

/// Runs an [`Objective`] down.
pub struct Trainer<'a> {
    objective: &'a mut dyn Objective,
    data: &'a Dataset,
    segments: &'a [Segment],
    options: &'a TrainerOptions,
    handle: &'a TuneHandle,
    checkpoint: Option<&'a Checkpoint>,
    batches: Batches,
    gradient: Vec<f32>,
}

impl<'a> Trainer<'a> {
    /// A run of `objective` over `data`, whose parameters have these units. Without a checkpoint nothing is saved.
    ///
    /// # Errors
    /// [`TuneError::Option`]; [`TuneError::NothingLeft`] for data without examples.
    pub fn new(
        objective: &'a mut dyn Objective,
        data: &'a Dataset,
        segments: &'a [Segment],
        options: &'a TrainerOptions,
        handle: &'a TuneHandle,
        checkpoint: Option<&'a Checkpoint>,
    ) -> Result<Self, TuneError> {
        options.check()?;
        let examples = data.train().sequences().len();
        if examples == 0 {
            return Err(TuneError::NothingLeft { examples, heldout: 0 });
        }
        let batches = Batches::new(examples, options.batch, options.seed);
        let gradient = vec![0.0; segments.iter().map(|s| s.len).sum()];
        Ok(Self { objective, data, segments, options, handle, checkpoint, batches, gradient })
    }

    /// Goes on from `state` until there is a reason to stop. The last state is in the checkpoint then, unless the loss
    /// diverged: then the checkpoint stays as it was.
    ///
    /// # Errors
    /// [`TuneError::Model`] if the model cannot run, [`TuneError::Checkpoint`] if the state cannot be saved. `state` is then
    /// that of the last whole step.
    ///
    /// # Panics
    /// If `state` is of another number of parameters.
    pub fn run(&mut self, state: &mut State, on_event: &mut dyn FnMut(&Event<'_>)) -> Result<Stop, TuneError> {
        assert_eq!(state.parameters.len(), self.gradient.len(), "parameters of the state");
        self.batches.seek(state.cursor);
        let mut clock = Clock::new(state.elapsed);
        let stop = self.steps(state, &mut clock, on_event)?;
        if !matches!(stop, Stop::Diverged { .. }) {
            self.save(state, on_event)?;
        }
        on_event(&Event::Done { stop, state });
        Ok(stop)
    }

    fn steps(
        &mut self,
        state: &mut State,
        clock: &mut Clock,
        on_event: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Stop, TuneError> {
        if state.evaluations.is_empty()
            && let Some(stop) = self.evaluate(state, clock, on_event)?
        {
            return Ok(stop);
        }
        loop {
            self.pause(state, clock, on_event);
            if self.handle.is_cancelled() {
                return Ok(Stop::Cancelled);
            }
            if self.exhausted(state) {
                return Ok(Stop::Early);
            }
            let before = self.spent(state);
            if before >= 1.0 {
                // The end's scoring; a run that is continued at its end may have it already.
                let scored = state.evaluations.last().is_some_and(|(step, _)| *step == state.step);
                let stop = if scored { None } else { self.evaluate(state, clock, on_event)? };
                return Ok(stop.unwrap_or(Stop::Budget));
            }
            if let Some(stop) = self.step(state, before, clock, on_event)? {
                return Ok(stop);
            }
            let after = self.spent(state);
            let times = f64::from(self.options.evaluations + 1);
            if after < 1.0
                && (after * times + 1e-9).floor() > (before * times + 1e-9).floor()
                && self.affords_scoring(state)
                && let Some(stop) = self.evaluate(state, clock, on_event)?
            {
                return Ok(stop);
            }
            if state.step.is_multiple_of(self.options.checkpoint_every) {
                if self.data.heldout().is_none() && state.watch.is_healthy() {
                    state.snapshot(None);
                }
                self.save(state, on_event)?;
            }
        }
    }

    /// One step, or why there is none.
    fn step(
        &mut self,
        state: &mut State,
        spent: f64,
        clock: &mut Clock,
        on_event: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Option<Stop>, TuneError> {
        let begin = Instant::now();
        self.batches.seek(state.cursor);
        let examples = self.data.train().sequences();
        let batches: Vec<Vec<&Sequence>> = (0..self.options.accumulate)
            .map(|_| self.batches.next_batch().iter().map(|&index| &examples[index as usize]).collect())
            .collect();
        let all = || batches.iter().flatten();
        let targets: usize = all().map(|sequence| target_count(sequence)).sum();
        let tokens: usize = all().map(|sequence| sequence.tokens.len()).sum();
        // The mean over the step's targets, however they are dealt to batches.
        let scale = 1.0 / targets.max(1) as f32;
        self.gradient.fill(0.0);
        let mut loss = Loss::default();
        let handle = self.handle;
        for batch in &batches {
            let cancel = || handle.is_cancelled();
            let part = self.objective.loss_and_gradient(&state.parameters, batch, scale, &mut self.gradient, &cancel);
            match diverging(part)? {
                Part::Loss(part) => {
                    loss.sum += part.sum;
                    loss.targets += part.targets;
                }
                Part::Cancelled => return Ok(Some(Stop::Cancelled)),
                Part::NotFinite => return Ok(Some(Stop::Diverged { step: state.step + 1, loss: f64::NAN })),
            }
        }
        let loss = loss.sum / loss.targets.max(1) as f64;
        let norm = clip_norm(self.segments, &mut self.gradient, self.options.clip);
        if !norm.is_finite() || !state.watch.see(loss) {
            return Ok(Some(Stop::Diverged { step: state.step + 1, loss }));
        }
        let lr = self.options.rate.value() * self.options.schedule.factor(spent);
        state.adam.step(&self.options.adam, lr, self.segments, &mut state.parameters, &self.gradient);
        state.step += 1;
        state.cursor = self.batches.cursor();
        state.losses.push(loss as f32);
        state.tokens += tokens as u64;
        state.elapsed = clock.seconds();
        let seconds = begin.elapsed().as_secs_f64();
        on_event(&Event::Step(StepReport {
            step: state.step,
            loss,
            lr,
            gradient_norm: norm,
            ms: seconds * 1e3,
            tokens,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
            elapsed_ms: state.elapsed * 1e3,
            eta_ms: self.left(state, seconds) * 1e3,
        }));
        Ok(None)
    }

    /// Scores the held-out examples, where there are any.
    fn evaluate(
        &mut self,
        state: &mut State,
        clock: &mut Clock,
        on_event: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Option<Stop>, TuneError> {
        let Some(heldout) = self.data.heldout() else { return Ok(None) };
        let begin = Instant::now();
        let sequences: Vec<&Sequence> = heldout.sequences().iter().collect();
        let handle = self.handle;
        let loss = match diverging(self.objective.loss(&state.parameters, &sequences, &|| handle.is_cancelled()))? {
            Part::Loss(loss) => loss.sum / loss.targets.max(1) as f64,
            Part::Cancelled => return Ok(Some(Stop::Cancelled)),
            Part::NotFinite => f64::NAN,
        };
        if !loss.is_finite() {
            return Ok(Some(Stop::Diverged { step: state.step, loss }));
        }
        if state.evaluations.is_empty() {
            state.evaluation_seconds = begin.elapsed().as_secs_f64();
        }
        state.evaluations.push((state.step, loss));
        let best = state.good.loss.is_none_or(|lowest| loss < lowest);
        if best {
            state.snapshot(Some(loss));
            state.stale = 0;
        } else {
            state.stale += 1;
        }
        state.elapsed = clock.seconds();
        on_event(&Event::Evaluated { step: state.step, heldout_loss: loss, best });
        Ok(None)
    }

    /// Whether one more scoring on the way leaves the most of a budget of time to learning.
    fn affords_scoring(&self, state: &State) -> bool {
        /// Share of a budget of time that scoring on the way may take.
        const SHARE: f64 = 0.1;
        match self.options.budget {
            Budget::Steps(_) => true,
            Budget::Seconds(seconds) => state.evaluations.len() as f64 * state.evaluation_seconds <= SHARE * seconds,
        }
    }

    fn exhausted(&self, state: &State) -> bool {
        self.options.patience.is_some_and(|patience| state.stale >= patience)
    }

    /// Share of the budget that is behind, 1 and more at its end.
    fn spent(&self, state: &State) -> f64 {
        match self.options.budget {
            Budget::Steps(steps) => state.step as f64 / steps as f64,
            Budget::Seconds(_) if state.step == 0 => 0.0,
            Budget::Seconds(seconds) => {
                // Scoring before the first step and after the last is not for the schedule, but it takes time.
                let scoring = state.evaluation_seconds;
                let worked = (state.elapsed - scoring).max(0.0);
                let room = seconds - 2.0 * scoring;
                // A step that would end late by more than half of itself is not begun.
                let half = 0.5 * worked / state.step as f64;
                if room <= 0.0 || worked + half >= room { 1.0 } else { worked / room }
            }
        }
    }

    /// Seconds the run will go on if steps take as long as the last one.
    fn left(&self, state: &State, step: f64) -> f64 {
        match self.options.budget {
            Budget::Steps(steps) => {
                let scoring =
                    state.evaluation_seconds * f64::from(self.options.evaluations + 1) * (1.0 - self.spent(state));
                steps.saturating_sub(state.step) as f64 * step + scoring
            }
            Budget::Seconds(seconds) => (seconds - state.elapsed).max(0.0),
        }
    }

    fn pause(&self, state: &State, clock: &mut Clock, on_event: &mut dyn FnMut(&Event<'_>)) {
        if self.handle.is_paused() && !self.handle.is_cancelled() {
            on_event(&Event::Paused { step: state.step });
            let begin = Instant::now();
            self.handle.wait();
            clock.waited += begin.elapsed();
            on_event(&Event::Resumed { step: state.step });
        }
    }

    fn save(&self, state: &State, on_event: &mut dyn FnMut(&Event<'_>)) -> Result<(), TuneError> {
        if let Some(checkpoint) = self.checkpoint {
            checkpoint.save(state)?;
            on_event(&Event::Saved { step: state.step });
        }
        Ok(())
    }
}

/// What came of a pass, as far as the run's course goes.
enum Part {
    Loss(Loss),
    Cancelled,
    NotFinite,
}

fn diverging(part: Result<Loss, ModelError>) -> Result<Part, TuneError> {
    match part {
        Ok(loss) => Ok(Part::Loss(loss)),
        Err(ModelError::Cancelled) => Ok(Part::Cancelled),
        Err(ModelError::NonFinite { .. }) => Ok(Part::NotFinite),
        Err(other) => Err(other.into()),
    }
}

/// Time a run has worked, over all its parts.
struct Clock {
    before: f64,
    begin: Instant,
    waited: Duration,
}

impl Clock {
    fn new(before: f64) -> Self {
        Self { before, begin: Instant::now(), waited: Duration::ZERO }
    }

    fn seconds(&self) -> f64 {
        self.before + self.begin.elapsed().saturating_sub(self.waited).as_secs_f64()
    }
}

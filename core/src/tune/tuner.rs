//! [`Tuner`]: all of it put together.

use std::path::Path;
use std::sync::Arc;

use crate::adapter::Adapter;
use crate::model::Model;

use super::checkpoint::{Checkpoint, OptionRecord};
use super::data::{Dataset, Examples};
use super::{AdapterObjective, Budget, Event, Segment, State, Stop, Trainer, TrainerOptions, TuneError, TuneHandle};

/// How an adapter is tuned.
#[derive(Debug, Clone, PartialEq)]
pub struct TunerOptions {
    /// The run.
    pub trainer: TrainerOptions,
    /// Most bytes of anonymous memory that the pass through the model may plan; `None` for any.
    pub memory_limit: Option<usize>,
}

/// A fine-tune about to run: a model, an adapter to begin with, data and options, all checked.
pub struct Tuner {
    objective: AdapterObjective,
    start: Arc<Adapter>,
    data: Dataset,
    options: TunerOptions,
    segments: Vec<Segment>,
    handle: TuneHandle,
    record: OptionRecord,
}

/// What came of a run.
#[derive(Debug)]
pub struct Tuned {
    /// The adapter: of the lowest held-out loss where that is measured, else of the last step; of the last good state
    /// where the loss diverged.
    pub adapter: Adapter,
    /// Steps behind the adapter.
    pub adapter_step: u64,
    /// Held-out loss before the first step, in nats a target.
    pub heldout_before: Option<f64>,
    /// Held-out loss of the adapter, where it was measured.
    pub heldout_after: Option<f64>,
    /// Why the run ended.
    pub stop: Stop,
    /// Where the run is: steps taken, losses, scorings.
    pub state: State,
}

impl Tuner {
    /// Checks everything and plans the memory of the run.
    ///
    /// # Errors
    /// [`TuneError::Option`]; [`TuneError::Model`] if the adapter does not fit the model, or the pass does not fit the memory
    /// limit.
    pub fn new(model: Arc<Model>, start: Adapter, data: Dataset, options: TunerOptions) -> Result<Self, TuneError> {
        options.trainer.check()?;
        let segments = options.trainer.rate.segments(&start)?;
        let record = record(&model, &start, &data, &options.trainer);
        let start = Arc::new(start);
        let rows = rows(&data, options.trainer.batch);
        let objective = AdapterObjective::new(model, start.clone(), rows, data.longest(), options.memory_limit)?;
        Ok(Self { objective, start, data, options, segments, handle: TuneHandle::default(), record })
    }

    /// Pauses and stops the run, from any thread.
    pub fn handle(&self) -> TuneHandle {
        self.handle.clone()
    }

    /// The data.
    pub fn data(&self) -> &Dataset {
        &self.data
    }

    /// The adapter it begins with.
    pub fn start(&self) -> &Adapter {
        &self.start
    }

    /// Bytes the pass through the model has planned.
    pub fn planned_bytes(&self) -> usize {
        self.objective.planned_bytes()
    }

    /// The run's checkpoint at `path`: it knows the base, data and options the run belongs to.
    pub fn checkpoint(&self, path: &Path) -> Checkpoint {
        Checkpoint::new(path, self.record.clone())
    }

    /// The state before the first step.
    pub fn begin(&self) -> State {
        State::new(read_parameters(&self.start))
    }

    /// Runs from `state`, which [`Self::begin`] or [`Checkpoint::load`] gave, and saves to `checkpoint` on the way.
    ///
    /// # Errors
    /// As [`Trainer::run`].
    ///
    /// # Panics
    /// If `state` is of another adapter.
    pub fn run(
        &mut self,
        mut state: State,
        checkpoint: Option<&Checkpoint>,
        on_event: &mut dyn FnMut(&Event<'_>),
    ) -> Result<Tuned, TuneError> {
        let (data, options) = (&self.data, &self.options.trainer);
        let mut trainer = Trainer::new(&mut self.objective, data, &self.segments, options, &self.handle, checkpoint)?;
        let stop = trainer.run(&mut state, on_event)?;
        let (parameters, step, loss) = result(&state, stop, self.data.heldout().is_some());
        Ok(Tuned {
            adapter: self.start.with_parameters(parameters),
            adapter_step: step,
            heldout_before: state.evaluations.first().map(|(_, loss)| *loss),
            heldout_after: loss,
            stop,
            state,
        })
    }
}

/// Rows that a batch of examples usually has: a quarter more than the mean. Planned for what rarely comes, memory would be
/// missing where layers' results are kept for the way back; a larger batch goes in parts.
fn rows(data: &Dataset, batch: usize) -> usize {
    let report = data.train().report();
    (batch * report.tokens * 5).div_ceil(4 * report.examples.max(1)).max(data.longest())
}

/// The parameters that a run has come to, the steps behind them and their held-out loss.
fn result(state: &State, stop: Stop, heldout: bool) -> (&[f32], u64, Option<f64>) {
    let good = (&*state.good.parameters, state.good.step, state.good.loss);
    match stop {
        Stop::Diverged { .. } => good,
        // What was learnt since the last scoring counts, unless the scorings say it is past its best.
        Stop::Cancelled if state.stale == 0 && state.step > state.good.step => (&state.parameters, state.step, None),
        _ if heldout => good,
        _ => (&state.parameters, state.step, None),
    }
}

/// An adapter's parameters, flat: module after module, each in its kind's own order.
fn read_parameters(adapter: &Adapter) -> Vec<f32> {
    let mut parameters = vec![0.0; adapter.parameters()];
    let mut rest = &mut *parameters;
    for (_, delta) in adapter.modules() {
        let (own, after) = rest.split_at_mut(delta.parameters());
        delta.read_parameters(own);
        rest = after;
    }
    parameters
}

/// What the result of a run depends on.
fn record(model: &Model, start: &Adapter, data: &Dataset, options: &TrainerOptions) -> OptionRecord {
    let budget = match options.budget {
        Budget::Steps(steps) => format!("{steps} steps"),
        Budget::Seconds(seconds) => format!("{seconds} seconds"),
    };
    let optional = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    let adam = options.adam;
    [
        ("base model", model.gguf().fingerprint().to_owned()),
        ("data", data.fingerprint()),
        ("held-out examples", data.heldout().map_or(0, |h| Examples::sequences(h).len()).to_string()),
        ("adapter", identity(start)),
        ("budget", budget),
        ("batch", options.batch.to_string()),
        ("accumulate", options.accumulate.to_string()),
        ("seed", options.seed.to_string()),
        ("learning rate", format!("{} ({})", options.rate.value(), options.rate.unit())),
        ("schedule", options.schedule.shape.name().to_owned()),
        ("warm-up", options.schedule.warmup.to_string()),
        ("betas", format!("{} {}", adam.beta1, adam.beta2)),
        ("epsilon", adam.epsilon.to_string()),
        ("weight decay", adam.weight_decay.to_string()),
        ("clip", optional(options.clip.map(|c| c.to_string()))),
        ("evaluations", options.evaluations.to_string()),
        ("patience", optional(options.patience.map(|p| p.to_string()))),
        ("checkpoint interval", options.checkpoint_every.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// An identity of an adapter's modules, what they are made of, and its parameters.
fn identity(adapter: &Adapter) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut number = |value: u64| {
        hasher.update(&value.to_le_bytes());
    };
    for (name, delta) in adapter.modules() {
        name.bytes().for_each(|byte| number(byte.into()));
        [delta.shape().rows(), delta.shape().cols(), delta.parameters()]
            .into_iter()
            .for_each(|size| number(size as u64));
        if let Some(fourier) = delta.as_fourier() {
            number(fourier.alpha().to_bits());
            let entries = fourier.entries();
            entries.rows().iter().chain(entries.cols()).for_each(|&at| number(at.into()));
        }
        if let Some(lora) = delta.as_lora() {
            number(lora.scale().factor(lora.rank()).to_bits());
        }
    }
    read_parameters(adapter).iter().for_each(|value| number(value.to_bits().into()));
    hasher.finalize().to_hex().to_string()
}

//! A small real objective for the tests of the loop: teaching FourierFT modules what others of their kind do.
#![allow(dead_code)] // each test file uses a part of it

use std::path::Path;
use std::sync::Arc;

use timbre::adapter::{Adapter, Delta, DeltaScratch, FourierDelta, Module};
use timbre::model::ModelError;
use timbre::spectral::{PlanCache, Shape, Transforms};
use timbre::tune::data::{Dataset, Examples, Loss, Rng, Sequence};
use timbre::tune::{
    Budget, Checkpoint, Event, Objective, OptionRecord, Rate, Schedule, Segment, State, Stop, Trainer, TrainerOptions,
    TuneError, TuneHandle,
};

/// Distinct tokens, each of which stands for an input.
const VOCAB: u32 = 96;
const INPUTS: usize = 20;

/// Least squares: ½ the mean square distance of each module's output from its teacher's, over the inputs that a sequence's
/// targets stand for.
pub struct Teaching {
    student: Adapter,
    teacher: Adapter,
    inputs: Vec<Vec<f32>>,
    scratch: DeltaScratch,
    /// Passes so far, and what is done before each.
    pub passes: u64,
    pub before: Box<dyn FnMut(u64)>,
    /// The pass from which on the loss is no number.
    pub breaks_at: Option<u64>,
}

fn adapter(value: impl Fn(&mut Rng) -> f32) -> Adapter {
    let cache = PlanCache::new();
    let mut rng = Rng::new(5, 0);
    let mut module = |name: &str, rows: usize, n: usize| {
        let plan = cache.seeded(Shape::new(rows, INPUTS).unwrap(), n, 7).unwrap();
        let coefficients: Vec<f32> = (0..n).map(|_| value(&mut rng)).collect();
        let delta: Arc<dyn Delta> = Arc::new(FourierDelta::new(plan, &coefficients, 40.0).unwrap());
        Module { name: name.into(), delta }
    };
    Adapter::new(vec![module("m.0.q_proj", 24, 60), module("m.0.v_proj", 12, 50)]).unwrap()
}

impl Teaching {
    pub fn new() -> Self {
        let mut rng = Rng::new(11, 0);
        let inputs = (0..VOCAB).map(|_| (0..INPUTS).map(|_| rng.normal() as f32).collect()).collect();
        Self {
            student: adapter(|_| 0.0),
            teacher: adapter(|rng| rng.normal() as f32),
            inputs,
            scratch: DeltaScratch::new(Arc::new(Transforms::new()), [INPUTS, 24, 12]),
            passes: 0,
            before: Box::new(|_| {}),
            breaks_at: None,
        }
    }

    pub fn parameters(&self) -> usize {
        self.student.parameters()
    }

    pub fn segments(&self, rate: Rate) -> Vec<Segment> {
        rate.segments(&self.student).unwrap()
    }

    fn output(scratch: &mut DeltaScratch, delta: &dyn Delta, x: &[f32]) -> Vec<f32> {
        let mut h = vec![0.0; delta.shape().rows()];
        scratch.begin_input();
        scratch.begin_output();
        delta.apply(1.0, x, scratch);
        scratch.finish(&mut h, None);
        h
    }

    fn run(
        &mut self,
        parameters: &[f32],
        sequences: &[&Sequence],
        mut gradient: Option<(f32, &mut [f32])>,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        self.passes += 1;
        (self.before)(self.passes);
        let student = self.student.with_parameters(parameters);
        let mut loss = Loss::default();
        for sequence in sequences {
            if cancel() {
                return Err(ModelError::Cancelled);
            }
            for (token, _) in sequence.tokens.iter().zip(&sequence.targets).filter(|(_, target)| **target) {
                let x = &self.inputs[*token as usize];
                loss.targets += 1;
                let mut at = 0;
                for ((_, delta), (_, teacher)) in student.modules().zip(self.teacher.modules()) {
                    let h = Self::output(&mut self.scratch, &**delta, x);
                    let y = Self::output(&mut self.scratch, &**teacher, x);
                    let rows = h.len() as f32;
                    let error: Vec<f32> = h.iter().zip(&y).map(|(h, y)| (h - y) / rows).collect();
                    loss.sum += error.iter().map(|e| 0.5 * f64::from(e * e * rows)).sum::<f64>();
                    let own = at..at + delta.parameters();
                    at = own.end;
                    if let Some((scale, gradient)) = &mut gradient {
                        let g: Vec<f32> = error.iter().map(|e| e * *scale).collect();
                        self.scratch.begin_input();
                        self.scratch.begin_upstream();
                        delta.gradient(1.0, x, &g, &mut gradient[own], &mut self.scratch);
                    }
                }
            }
        }
        if self.breaks_at.is_some_and(|at| self.passes >= at) {
            loss.sum = f64::NAN;
        }
        Ok(loss)
    }
}

impl Objective for Teaching {
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        sequences: &[&Sequence],
        scale: f32,
        gradient: &mut [f32],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        self.run(parameters, sequences, Some((scale, gradient)), cancel)
    }

    fn loss(
        &mut self,
        parameters: &[f32],
        sequences: &[&Sequence],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        self.run(parameters, sequences, None, cancel)
    }
}

/// Sequences of different lengths, of which the held-out ones stand for inputs that are learnt too.
pub fn data(heldout: bool) -> Dataset {
    let mut rng = Rng::new(3, 0);
    let mut sequences = |count: usize| {
        let sequence = |rng: &mut Rng| {
            let len = 4 + rng.below(6) as usize;
            let tokens: Vec<u32> = (0..len).map(|_| rng.below(u64::from(VOCAB)) as u32).collect();
            Sequence { targets: (0..len).map(|i| i > 0).collect(), tokens }
        };
        Examples::new((0..count).map(|_| sequence(&mut rng)).collect())
    };
    let train = sequences(22);
    Dataset::new(train, heldout.then(|| sequences(6)))
}

/// Options of a short run.
pub fn options(steps: u64) -> TrainerOptions {
    TrainerOptions {
        budget: Budget::Steps(steps),
        schedule: Schedule { warmup: 0.1, ..Schedule::default() },
        checkpoint_every: 3,
        patience: None,
        ..TrainerOptions::new(Rate::Movement(0.05))
    }
}

pub fn record() -> OptionRecord {
    [("data".to_owned(), "toy".to_owned()), ("seed".to_owned(), "0".to_owned())].into()
}

/// One run from `state` or from the beginning.
pub struct Run<'a> {
    pub objective: Teaching,
    pub data: Dataset,
    pub options: TrainerOptions,
    pub handle: TuneHandle,
    pub checkpoint: Option<&'a Checkpoint>,
    pub state: State,
    /// The scorings and steps that were told, as text.
    pub told: Vec<String>,
}

impl<'a> Run<'a> {
    pub fn new(options: TrainerOptions) -> Self {
        let objective = Teaching::new();
        let state = State::new(vec![0.0; objective.parameters()]);
        let (data, handle) = (data(true), TuneHandle::default());
        Self { objective, data, options, handle, checkpoint: None, state, told: Vec::new() }
    }

    pub fn go(&mut self) -> Result<Stop, TuneError> {
        self.go_with(&mut |_, _| {})
    }

    /// Runs, and calls `each` with every event and the handle.
    pub fn go_with(&mut self, each: &mut dyn FnMut(&Event<'_>, &TuneHandle)) -> Result<Stop, TuneError> {
        let segments = self.objective.segments(self.options.rate);
        let mut trainer =
            Trainer::new(&mut self.objective, &self.data, &segments, &self.options, &self.handle, self.checkpoint)?;
        let told = &mut self.told;
        trainer.run(&mut self.state, &mut |event| {
            match event {
                Event::Step(step) => told.push(format!("step {} {} {}", step.step, step.loss, step.lr)),
                Event::Evaluated { step, heldout_loss, best } => {
                    told.push(format!("scored {step} {heldout_loss} {best}"));
                }
                Event::Paused { step } => told.push(format!("paused {step}")),
                Event::Resumed { step } => told.push(format!("resumed {step}")),
                _ => {}
            }
            each(event, &self.handle);
        })
    }
}

/// A state without what the clock says.
pub fn timeless(state: &State) -> State {
    State { elapsed: 0.0, evaluation_seconds: 0.0, ..state.clone() }
}

pub fn load(path: &Path) -> State {
    Checkpoint::new(path, record()).load().unwrap().unwrap()
}

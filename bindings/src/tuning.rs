//! What a fine-tune is given and what it tells.

use std::sync::Arc;

use timbre::adapter::Adapter;
use timbre::model::Model;
use timbre::session::Message;
use timbre::tune::data::{Encoder, Examples, Record};
use timbre::tune::{
    Begin, Budget, DataOptions, Dataset, Event, LayerRanges, Method, NewAdapter, Rate, Stop, Targets, TrainerOptions,
    TunerOptions,
};

use crate::adapter::NativeAdapter;
use crate::error::{Outcome, TimbreError};
use crate::session::ChatMessage;

/// A prompt that is given and a completion that is learnt.
#[derive(Debug, Clone, PartialEq, Eq, uniffi::Record)]
pub struct Completion {
    /// What is given.
    pub prompt: String,
    /// What is learnt.
    pub completion: String,
}

/// What is learnt from.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum TuningData {
    /// Texts, messages say, each as it is.
    Texts {
        /// The texts.
        texts: Vec<String>,
    },
    /// Prompts and completions.
    Completions {
        /// The pairs.
        pairs: Vec<Completion>,
    },
    /// Chats, of which what the assistant says is learnt.
    Chats {
        /// The chats.
        chats: Vec<Vec<ChatMessage>>,
    },
    /// A file: lines of JSON where its name ends in `.jsonl`, else text.
    File {
        /// The file.
        path: String,
    },
}

/// The kind of adapter.
#[derive(Debug, Clone, Copy, PartialEq, uniffi::Enum)]
pub enum TuningMethod {
    /// Coefficients of a sparse spectrum.
    Fourier {
        /// Coefficients a module.
        n: u32,
        /// What the change is scaled by.
        alpha: f64,
    },
    /// Two factors of low rank.
    Lora {
        /// The rank.
        rank: u32,
        /// What the change is scaled by, over the rank.
        alpha: f64,
    },
}

/// How long it goes on.
#[derive(Debug, Clone, Copy, PartialEq, uniffi::Enum)]
pub enum TuningBudget {
    /// This many steps.
    Steps {
        /// The steps, at least 1.
        steps: u64,
    },
    /// This many seconds of work; waiting in a pause takes none.
    Seconds {
        /// The seconds.
        seconds: f64,
    },
}

/// How it learns. What is `None` is the core's default.
#[derive(Clone, uniffi::Record)]
pub struct TuningOptions {
    /// The kind of adapter; `None` for FourierFT with n = 1000 and α = 300.
    #[uniffi(default = None)]
    pub method: Option<TuningMethod>,
    /// The adapter to go on from; method, targets and layers are then its own.
    #[uniffi(default = None)]
    pub from: Option<Arc<NativeAdapter>>,
    /// Linear layers to change by the endings of their names, `["all-linear"]` for all; empty for `q_proj` and `v_proj`.
    #[uniffi(default = [])]
    pub targets: Vec<String>,
    /// Layers to change, such as `0-5,7`; `None` for all.
    #[uniffi(default = None)]
    pub layers: Option<String>,
    /// How long; `None` for a minute.
    #[uniffi(default = None)]
    pub budget: Option<TuningBudget>,
    /// Examples of a step.
    #[uniffi(default = 4)]
    pub batch: u32,
    /// Tokens of the longest example; `None` for 256, of texts 128.
    #[uniffi(default = None)]
    pub max_length: Option<u32>,
    /// The learning rate in the unit of the adapter's kind; `None` for the default, which fits any model, n and α.
    #[uniffi(default = None)]
    pub learning_rate: Option<f64>,
    /// Share of the examples that are held out to score with, at most 32 of them; 0 for none.
    #[uniffi(default = 0.1)]
    pub heldout_share: f64,
    /// Most bytes the pass through the model may plan; `None` for about 100 MB.
    #[uniffi(default = None)]
    pub memory_limit: Option<u64>,
    /// Seed of the held-out part, the order of examples and what is drawn to begin with.
    #[uniffi(default = 0)]
    pub seed: u64,
    /// A file for the state of the run, from which the same run goes on after it was cancelled or the process was killed;
    /// removed at the run's own end.
    #[uniffi(default = None)]
    pub checkpoint: Option<String>,
}

impl Default for TuningOptions {
    fn default() -> Self {
        Self {
            method: None,
            from: None,
            targets: Vec::new(),
            layers: None,
            budget: None,
            batch: 4,
            max_length: None,
            learning_rate: None,
            heldout_share: 0.1,
            memory_limit: None,
            seed: 0,
            checkpoint: None,
        }
    }
}

/// News of a run.
#[derive(Debug, Clone, Copy, PartialEq, uniffi::Enum)]
pub enum TuningEvent {
    /// A step was taken.
    Step {
        /// Its number, from 1.
        step: u64,
        /// Loss of its examples, in nats a token.
        loss: f64,
        /// The learning rate it was taken with.
        learning_rate: f64,
        /// Milliseconds it took.
        ms: f64,
        /// Tokens a second.
        tokens_per_second: f64,
        /// Milliseconds the run has worked.
        elapsed_ms: f64,
        /// Milliseconds it will go on, by its pace so far.
        remaining_ms: f64,
    },
    /// The held-out examples were scored.
    Scored {
        /// Steps before it.
        step: u64,
        /// Loss, in nats a token.
        heldout_loss: f64,
        /// Whether it is the lowest so far.
        best: bool,
    },
    /// The run waits.
    Paused {
        /// Steps before it.
        step: u64,
    },
    /// The run goes on.
    Resumed {
        /// Steps before it.
        step: u64,
    },
    /// The state is in the checkpoint.
    Saved {
        /// Steps before it.
        step: u64,
    },
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum TuningStop {
    /// The budget is spent.
    Budget,
    /// The held-out loss has stopped falling.
    Early,
    /// It was cancelled.
    Cancelled,
    /// The loss rose beyond recovery; the adapter is the last good one.
    Diverged,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct TuningReport {
    /// Why it ended.
    pub stop: TuningStop,
    /// Steps taken.
    pub steps: u64,
    /// Steps behind the adapter.
    pub adapter_step: u64,
    /// Held-out loss before the first step, where there are held-out examples.
    pub heldout_before: Option<f64>,
    /// Held-out loss of the adapter, where it was measured.
    pub heldout_after: Option<f64>,
    /// Loss of every step.
    pub losses: Vec<f32>,
    /// Seconds of work.
    pub seconds: f64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Examples learnt from.
    pub examples: u32,
    /// Examples held out.
    pub heldout_examples: u32,
    /// Examples that were cut off at the longest length.
    pub truncated: u32,
    /// The most anonymous memory of the process during the run, where the system says.
    pub peak_anon_bytes: Option<u64>,
}

/// A run that has ended.
#[derive(Clone, uniffi::Record)]
pub struct TuningResult {
    /// What was learnt, to be used at once.
    pub adapter: Arc<NativeAdapter>,
    /// What it took.
    pub report: TuningReport,
}

impl TuningData {
    pub(crate) fn dataset(&self, model: &Model, options: &TuningOptions) -> Outcome<Dataset> {
        let max_length = options.max_length.map(|tokens| tokens as usize);
        let (share, seed) = (options.heldout_share, options.seed);
        let records = match self {
            Self::File { path } => {
                let options = DataOptions { max_length, heldout_share: share, seed };
                return Ok(Dataset::load(model, path.as_ref(), None, &options)?);
            }
            Self::Texts { texts } => {
                let examples = Examples::of_texts(&Encoder::new(model)?, texts, max_length)?;
                return Ok(Dataset::split(examples, share, seed)?);
            }
            Self::Completions { pairs } => pairs
                .iter()
                .map(|pair| Record::Completion { prompt: pair.prompt.clone(), completion: pair.completion.clone() })
                .collect::<Vec<_>>(),
            Self::Chats { chats } => chats.iter().map(|chat| Record::Messages(messages(chat))).collect(),
        };
        let examples = Examples::of_records(&Encoder::new(model)?, &records, max_length)?;
        Ok(Dataset::split(examples, share, seed)?)
    }
}

fn messages(chat: &[ChatMessage]) -> Vec<Message> {
    chat.iter().map(crate::convert::core_message).collect()
}

impl TuningOptions {
    /// The adapter to begin with.
    pub(crate) fn start(&self, model: &Model) -> Outcome<Adapter> {
        if let Some(from) = &self.from {
            return Ok(from.resolved(model)?.with_base(model.gguf().fingerprint()));
        }
        let mut targets = match self.targets.is_empty() {
            true => Targets::default(),
            false => Targets::parse(&self.targets.join(","))?,
        };
        if let Some(layers) = &self.layers {
            let ranges = layers.parse::<LayerRanges>();
            let invalid = |reason| TimbreError::invalid("layers", "numbers and ranges such as 0-5,7", reason);
            targets = targets.in_layers(ranges.map_err(invalid)?);
        }
        let method = match self.method {
            None => Method::default(),
            Some(TuningMethod::Fourier { n, alpha }) => {
                Method::Fourier { n: n as usize, alpha, entries_seed: ENTRIES_SEED, begin: Begin::Zeros }
            }
            Some(TuningMethod::Lora { rank, alpha }) => Method::Lora { rank: rank as usize, alpha },
        };
        Ok(NewAdapter { method, targets, seed: self.seed, base_name: None }.build(model)?)
    }

    pub(crate) fn core(&self, start: &Adapter) -> Outcome<TunerOptions> {
        let rate = Rate::default_for(start);
        let rate = self.learning_rate.map_or(rate, |value| rate.with_value(value));
        let mut trainer = TrainerOptions { batch: self.batch as usize, seed: self.seed, ..TrainerOptions::new(rate) };
        match self.budget {
            None => {}
            Some(TuningBudget::Steps { steps }) => trainer.budget = Budget::Steps(steps),
            Some(TuningBudget::Seconds { seconds }) => trainer.budget = Budget::Seconds(seconds),
        }
        trainer.check()?;
        let memory_limit = self.memory_limit.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(TunerOptions { trainer, memory_limit })
    }
}

/// Seed of the positions of coefficients: that of the core's default, so that tuned adapters share them and can be mixed.
const ENTRIES_SEED: u64 = 2024;

/// An event of the core, but for its last, which is the result.
pub(crate) fn event(event: &Event<'_>) -> Option<TuningEvent> {
    Some(match event {
        Event::Step(step) => TuningEvent::Step {
            step: step.step,
            loss: step.loss,
            learning_rate: step.lr,
            ms: step.ms,
            tokens_per_second: step.tokens_per_second,
            elapsed_ms: step.elapsed_ms,
            remaining_ms: step.eta_ms,
        },
        Event::Evaluated { step, heldout_loss, best } => {
            TuningEvent::Scored { step: *step, heldout_loss: *heldout_loss, best: *best }
        }
        Event::Paused { step } => TuningEvent::Paused { step: *step },
        Event::Resumed { step } => TuningEvent::Resumed { step: *step },
        Event::Saved { step } => TuningEvent::Saved { step: *step },
        _ => return None,
    })
}

impl From<Stop> for TuningStop {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Early => Self::Early,
            Stop::Cancelled => Self::Cancelled,
            Stop::Diverged { .. } => Self::Diverged,
            _ => Self::Budget,
        }
    }
}

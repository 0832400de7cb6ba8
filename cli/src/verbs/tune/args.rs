//! The command line of `timbre tune`, and what it asks for.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use timbre::adapter::{Adapter, AdapterFile};
use timbre::model::Model;
use timbre::tune::data::DataOptions;
use timbre::tune::{
    AdamOptions, Begin, Budget, LayerRanges, Method, NewAdapter, Rate, Schedule, Shape, Targets, TrainerOptions,
    TunerOptions,
};

use crate::args::ModelArgs;
use crate::output::Outcome;

/// Fine-tune an adapter on a text or on examples
///
/// DATA ending in .jsonl holds a {"prompt","completion"} or {"messages":[{"role","content"},…]} a line, of which the
/// completion or the assistant's messages are learnt; anything else is text, learnt in windows. OUT ending in .safetensors is
/// a single file, else a PEFT directory. Ctrl-C stops within a step and saves what was learnt; --resume goes on from there,
/// and after a crash from the last checkpoint.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  timbre tune --model smollm2.gguf --data letters.txt --out mine\n  timbre tune --model smollm2.gguf --data chats.jsonl --out mine --steps 200 --curve loss.svg\n  timbre run --model smollm2.gguf --adapter mine --prompt \"Dear\""
)]
pub struct Tune {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What to learn from
    #[arg(long, value_name = "F.{txt,jsonl}")]
    pub data: PathBuf,
    /// Where the adapter goes
    #[arg(long, value_name = "OUT")]
    pub out: PathBuf,
    /// What to score before, during and after [default: a part of the data, see --heldout-share]
    #[arg(long, value_name = "F.{txt,jsonl}")]
    pub heldout: Option<PathBuf>,
    /// Share of the data held out where --heldout names no file, at most 32 examples; 0 holds none out
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, conflicts_with = "heldout")]
    heldout_share: f64,
    /// Tokens of the longest example; what is longer loses its end [default: 256, of text 128]
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,

    /// Steps to take
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    steps: Option<u64>,
    /// Seconds to work [default: 60]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Examples of a step
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// Batches that a step adds up
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: usize,
    /// Megabytes that the pass through the model may take [default: about 100]
    #[arg(long, value_name = "MB")]
    memory_limit: Option<usize>,
    /// Go on with the run in OUT that did not end; without one, begin
    #[arg(long)]
    pub resume: bool,
    /// Throw away a run in OUT that did not end
    #[arg(long, conflicts_with = "resume")]
    pub restart: bool,

    /// Go on from an adapter instead of from nothing
    #[arg(long, value_name = "A", conflicts_with_all = ["target", "layers", "method", "n", "alpha", "rank", "entries_seed", "begin", "base_name"])]
    from: Option<PathBuf>,
    /// Linear layers to change, by the endings of their names, or all-linear
    #[arg(long, value_name = "NAMES", default_value = "q_proj,v_proj")]
    target: String,
    /// Layers to change, such as 0-5,7 [default: all]
    #[arg(long, value_name = "RANGES")]
    layers: Option<LayerRanges>,
    /// Kind of adapter
    #[arg(long, value_enum, default_value = "fourier")]
    method: MethodArg,
    /// Coefficients a module
    #[arg(short, value_name = "N", default_value_t = 1000)]
    n: usize,
    /// What the change is scaled by: PEFT's scaling, or lora_alpha [default: 300, for LoRA twice the rank]
    #[arg(long, value_name = "A")]
    alpha: Option<f64>,
    /// LoRA's rank
    #[arg(long, value_name = "R", default_value_t = 8)]
    rank: usize,
    /// Seed of the coefficients' positions, PEFT's random_loc_seed
    #[arg(long, value_name = "S", default_value_t = 2024)]
    entries_seed: u64,
    /// What the coefficients begin as
    #[arg(long, value_enum, value_name = "WHAT", default_value = "zeros")]
    begin: BeginArg,
    /// The base model's name on the hub, for adapter_config.json [default: what the model file says]
    #[arg(long, value_name = "NAME")]
    base_name: Option<String>,

    /// Learning rate of FourierFT: RMS that a step adds to a layer's output, for input of RMS 1, whatever its size, n and alpha
    /// [default: 0.03]; of LoRA: the step of each element of A and B [default: 0.001]
    #[arg(long, value_name = "RATE", conflicts_with = "coefficient_lr")]
    lr: Option<f64>,
    /// Learning rate as PEFT has it: the step of every coefficient
    #[arg(long, value_name = "RATE")]
    coefficient_lr: Option<f64>,
    /// Course of the learning rate after the warm-up
    #[arg(long, value_enum, default_value = "cosine")]
    schedule: ShapeArg,
    /// Share of the run over which the learning rate rises
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    warmup: f64,
    /// Share of a coefficient, times the learning rate, that a step takes off
    #[arg(long, value_name = "W", default_value_t = 0.0)]
    weight_decay: f64,
    /// Largest norm of the gradient; 0 for any
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip: f64,
    /// Times the held-out examples are scored, besides before and after
    #[arg(long, value_name = "N", default_value_t = 5)]
    evaluations: u32,
    /// Scorings in a row without a lower loss that end the run; 0 for any number
    #[arg(long, value_name = "N", default_value_t = 3)]
    patience: u32,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 10)]
    checkpoint_every: u64,
    /// Seed of the held-out part, the order of examples and random coefficients
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,

    /// Draw the losses
    #[arg(long, value_name = "F.svg")]
    pub curve: Option<PathBuf>,
    /// Print a line of JSON a step {"step","loss","lr","ms",…}, a scoring {"step","heldout_loss"}, and at the end
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum BeginArg {
    /// The base model.
    Zeros,
    /// N(0, 1).
    Normal,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// FourierFT: coefficients of a sparse spectrum.
    Fourier,
    /// LoRA: two factors of low rank.
    Lora,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ShapeArg {
    /// Falls to nothing.
    Cosine,
    /// Stays.
    Constant,
}

impl Tune {
    /// The adapter to begin with.
    pub fn start(&self, model: &Arc<Model>) -> Outcome<Adapter> {
        if let Some(path) = &self.from {
            let file = AdapterFile::load(path)?;
            let adapter = file.resolve(model.plans(), |module| model.module_shape(module))?;
            adapter.check_base(model.gguf().fingerprint())?;
            return Ok(adapter.with_base(model.gguf().fingerprint()));
        }
        let begin = match self.begin {
            BeginArg::Zeros => Begin::Zeros,
            BeginArg::Normal => Begin::Normal,
        };
        let targets = Targets::parse(&self.target)?;
        let new = NewAdapter {
            method: match self.method {
                MethodArg::Fourier => {
                    let alpha = self.alpha.unwrap_or(300.0);
                    Method::Fourier { n: self.n, alpha, entries_seed: self.entries_seed, begin }
                }
                MethodArg::Lora => {
                    Method::Lora { rank: self.rank, alpha: self.alpha.unwrap_or(2.0 * self.rank as f64) }
                }
            },
            targets: match self.layers.clone() {
                Some(layers) => targets.in_layers(layers),
                None => targets,
            },
            seed: self.seed,
            base_name: self.base_name.clone(),
        };
        Ok(new.build(model)?)
    }

    pub fn options(&self, start: &Adapter) -> Outcome<TunerOptions> {
        let rate = match (self.lr, self.coefficient_lr) {
            (Some(lr), _) => Rate::default_for(start).with_value(lr),
            (None, Some(step)) => Rate::Parameter(step),
            (None, None) => Rate::default_for(start),
        };
        let trainer = TrainerOptions {
            budget: match (self.steps, self.seconds) {
                (Some(steps), _) => Budget::Steps(steps),
                (None, seconds) => Budget::Seconds(seconds.unwrap_or(60.0)),
            },
            batch: self.batch,
            accumulate: self.accumulate,
            seed: self.seed,
            schedule: Schedule {
                warmup: self.warmup,
                shape: match self.schedule {
                    ShapeArg::Cosine => Shape::Cosine,
                    ShapeArg::Constant => Shape::Constant,
                },
            },
            adam: AdamOptions { weight_decay: self.weight_decay, ..AdamOptions::default() },
            clip: (self.clip != 0.0).then_some(self.clip),
            evaluations: self.evaluations,
            patience: (self.patience != 0).then_some(self.patience),
            checkpoint_every: self.checkpoint_every,
            ..TrainerOptions::new(rate)
        };
        let memory_limit = self.memory_limit.map(|megabytes| megabytes.saturating_mul(1_000_000));
        Ok(TunerOptions { trainer, memory_limit })
    }

    pub fn data_options(&self) -> DataOptions {
        DataOptions { max_length: self.max_length, heldout_share: self.heldout_share, seed: self.seed }
    }
}

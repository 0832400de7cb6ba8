//! Fine-tuning an adapter on the device: from a text file to an adapter, within a budget, stoppable at any step.
//!
//! A [`Tuner`] takes a model, the [`Adapter`](crate::adapter::Adapter) to begin with ([`NewAdapter`] makes one) and a
//! [`Dataset`], and runs until its [`Budget`] is spent, the held-out loss stops falling, the loss diverges, or a
//! [`TuneHandle`] says stop. What it learns is one flat vector of numbers; everything here works on that vector, and only
//! an [`Objective`] knows what the numbers mean.
//!
//! | file | holds |
//! |---|---|
//! | `data` | texts and chats as tokens with a mask, the held-out split, the order of batches |
//! | `objective` | what is minimised: a loss and its gradient ([`AdapterObjective`] is the model's) |
//! | `parameterisation` | how far one step of a parameter moves a layer's output, and the learning rate in that unit |
//! | `optimiser`, `schedule` | AdamW and gradient clipping; warm-up and cosine |
//! | `state`, `trainer` | where a run is, and the loop |
//! | `watch` | early stopping and divergence |
//! | `checkpoint` | the state in a file that appears whole or not at all |
//! | `target`, `start` | which modules an adapter changes, and the adapter a run begins with |
//! | `tuner` | all of it put together |
//! | `events`, `handle` | what a caller hears, and how it says pause or stop |
//!
//! The same seed, data, options and number of threads give the same bits, whether the run was interrupted or not; only
//! a budget in seconds depends on the machine. This room imports `session` (templates), `model`, `adapter`, `spectral`,
//! `tokenizer`, `gguf` and [`durable`](crate::durable).

mod checkpoint;
pub mod data;
mod error;
mod events;
mod handle;
mod objective;
mod optimiser;
mod parameterisation;
mod schedule;
mod start;
mod state;
mod target;
mod trainer;
mod tuner;
mod watch;

pub use checkpoint::{Checkpoint, CheckpointError, OptionRecord};
pub use data::{DataOptions, DataReport, Dataset};
pub use error::TuneError;
pub use events::{Event, StepReport, Stop};
pub use handle::TuneHandle;
pub use objective::{AdapterObjective, Objective};
pub use optimiser::{AdamOptions, AdamW, clip_norm};
pub use parameterisation::{Rate, Segment, movement_unit};
pub use schedule::{Schedule, Shape};
pub use start::{Begin, Method, NewAdapter};
pub use state::{Best, State};
pub use target::{LayerRanges, NamedShape, Targets};
pub use trainer::{Budget, Trainer, TrainerOptions};
pub use tuner::{Tuned, Tuner, TunerOptions};

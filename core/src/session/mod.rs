//! From a prompt to a reply: the conversation's tokens and KV cache, sampling, chat templates, streaming, statistics.
//!
//! The room above all others of the engine; it imports `model`, `adapter`, `tokenizer` and `gguf`.

mod conversation;
mod device;
mod error;
mod generation;
mod sampler;
mod score;
#[allow(clippy::module_inception)]
mod session;
mod state;
mod stats;
mod stream;
mod template;

pub use conversation::Conversation;
pub use device::DeviceMemory;
pub use error::SessionError;
pub use generation::{CancelHandle, Finish, GenerateOptions, Generation};
pub use sampler::{Sampler, SamplerError, SamplerOptions};
pub use score::Perplexity;
pub use session::{Session, SessionOptions, SwapPolicy};
pub use state::{SessionState, StateError};
pub use stats::Stats;
pub use stream::{Piece, StreamError, TextStream};
pub use template::{ChatTemplate, Message, TemplateError};

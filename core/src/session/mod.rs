//! From a prompt to a reply: sampling, chat templates, streaming.

mod sampler;
mod stream;
mod template;

pub use sampler::{Sampler, SamplerError, SamplerOptions};
pub use stream::{Piece, StreamError, TextStream};
pub use template::{ChatTemplate, Message, TemplateError};

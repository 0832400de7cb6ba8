//! From a prompt to a reply: sampling, chat templates, streaming.

mod sampler;
mod stream;
mod template;

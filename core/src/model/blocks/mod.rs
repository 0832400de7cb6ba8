//! The parts decoders are put together from: plain structs of places in the map, with their forward step.

mod attention;
mod mlp;
mod norm;
mod rope;

pub use attention::{Attention, AttentionScratch, Heads, Turn, Window};
pub use mlp::{Activation, Mlp};
pub use norm::RmsNorm;
pub use rope::{Rope, RopeStyle};

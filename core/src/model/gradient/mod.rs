//! The gradient of a loss with respect to an adapter's parameters, through the mapped, quantised, frozen base.
//!
//! A [`GradientPass`] runs packed [`Sequence`]s forward with the kernels of inference, keeps of every layer what its memory
//! allows, and goes back from the head to the lowest linear that the adapter changes. Gradients pass the frozen weights by
//! products with the mapped blocks, transposed; neither a weight's gradient nor a dense change is ever formed. [`plan`] says what is
//! kept, [`layer`] wires the blocks' adjoints, which stand beside their forward steps in [`blocks`](super::blocks),
//! [`attention`] and [`head`] are the two that training computes in its own way, [`adapters`] takes the changes' own gradients.

mod adapters;
mod attention;
mod halves;
mod head;
mod layer;
mod packed;
mod pass;
mod plan;

pub use packed::Sequence;
pub use pass::{GradientOptions, GradientPass, Loss};

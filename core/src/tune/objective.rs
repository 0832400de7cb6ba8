//! What a run minimises.

use std::sync::Arc;

use crate::adapter::Adapter;
use crate::model::{ActiveAdapters, BoundAdapter, GradientOptions, GradientPass, Loss, Model, ModelError, Sequence};

/// A loss over sequences as a function of one flat vector of parameters.
pub trait Objective {
    /// The sum of the losses over the targets of `sequences`, and how many targets there were. Adds
    /// `scale · d(sum)/d(parameters)` to `gradient`, which has the layout of `parameters`.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`] when `cancel` says stop: `gradient` is then to be thrown away. Else whatever keeps the model
    /// from running.
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        sequences: &[&Sequence],
        scale: f32,
        gradient: &mut [f32],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError>;

    /// The sum alone.
    ///
    /// # Errors
    /// As [`Self::loss_and_gradient`].
    fn loss(
        &mut self,
        parameters: &[f32],
        sequences: &[&Sequence],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError>;
}

/// A model's loss as a function of an adapter's parameters: [`GradientPass`] behind the trait.
pub struct AdapterObjective {
    pass: GradientPass,
    bound: Arc<BoundAdapter>,
}

impl AdapterObjective {
    /// The loss of `adapter` on `model`. At most `rows` tokens are run together, and fewer where that does not fit
    /// `memory_limit` bytes, but no fewer than `longest`, the tokens of the longest sequence.
    ///
    /// # Errors
    /// [`ModelError`] if the adapter does not fit the model; [`ModelError::TuneMemory`] if the longest sequence alone
    /// does not fit.
    pub fn new(
        model: Arc<Model>,
        adapter: Arc<Adapter>,
        rows: usize,
        longest: usize,
        memory_limit: Option<usize>,
    ) -> Result<Self, ModelError> {
        let reserved = adapter.parameters() * size_of::<f32>() * Self::COPIES;
        let bound = model.bind(adapter, "tuned")?;
        let mut max_rows = rows.clamp(longest, longest.max(Self::MOST_ROWS));
        let pass = loop {
            match GradientPass::new(model.clone(), &GradientOptions { memory_limit, reserved, max_rows }) {
                Err(ModelError::TuneMemory { .. }) if max_rows > longest => max_rows = (max_rows / 2).max(longest),
                other => break other?,
            }
        };
        Ok(Self { pass, bound })
    }

    /// Most tokens run together: more do not make the products any faster, but cost memory.
    const MOST_ROWS: usize = 512;

    /// Numbers that a run holds a parameter: those of the start, of the best state and of this, two moments, a gradient, two
    /// generations of the adapter, and a checkpoint on its way to the disk.
    const COPIES: usize = 12;

    /// Bytes planned for the run.
    pub fn planned_bytes(&self) -> usize {
        self.pass.planned_bytes()
    }
}

impl Objective for AdapterObjective {
    fn loss_and_gradient(
        &mut self,
        parameters: &[f32],
        sequences: &[&Sequence],
        scale: f32,
        gradient: &mut [f32],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        let tuned = self.bound.with_parameters(parameters)?;
        self.pass.gradient(&tuned, sequences, scale, gradient, cancel)
    }

    fn loss(
        &mut self,
        parameters: &[f32],
        sequences: &[&Sequence],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        let tuned = ActiveAdapters::new(vec![(self.bound.with_parameters(parameters)?, 1.0)])?;
        self.pass.loss(&tuned, sequences, cancel)
    }
}

//! The pass: batches forward and back.

use std::sync::Arc;

use super::super::{ActiveAdapters, BoundAdapter, LinearKind, Model, ModelError};
use super::layer::{Context, Depth};
use super::packed::{self, Packed, Sequence};
use super::plan::{Buffers, Plan, Slot};
use crate::kernels::{dequantize, for_each_chunk, vector};

/// How much a [`GradientPass`] may take.
#[derive(Debug, Clone)]
pub struct GradientOptions {
    /// Bytes of anonymous memory it may plan; `None` for about 110 MB, or what it needs at least.
    pub memory_limit: Option<usize>,
    /// Bytes of that which are the caller's: parameters and what an optimiser keeps of them.
    pub reserved: usize,
    /// Tokens that are run together, and the longest sequence. A batch is cut into parts of no more; sequences never see
    /// one another.
    pub max_rows: usize,
}

/// A loss.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Sum of −ln p over the targets, in nats.
    pub sum: f64,
    /// Targets.
    pub targets: usize,
}

impl Loss {
    /// Mean of −ln p; NaN without targets.
    pub fn mean(&self) -> f64 {
        self.sum / self.targets as f64
    }
}

/// Buffers for losses and their gradients, all planned when it is made; only the parts of a layer's gradient, a few times its
/// parameters, are allocated when an adapter is seen for the first time.
pub struct GradientPass {
    model: Arc<Model>,
    plan: Plan,
    batch: Packed,
    /// The input of every layer and the output of the last, (layers + 1) × rows × hidden, and slots.
    words: Vec<f32>,
    buffers: Buffers,
}

impl std::fmt::Debug for GradientPass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GradientPass").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl GradientPass {
    /// Plans a pass. Rows past the model's context are not planned for.
    ///
    /// # Errors
    /// [`ModelError::TuneMemory`] if it does not fit in the limit even when every layer is computed twice.
    pub fn new(model: Arc<Model>, options: &GradientOptions) -> Result<Self, ModelError> {
        let plan = Plan::new(&model, options)?;
        Ok(Self {
            batch: Packed::default(),
            words: vec![0.0; plan.words],
            buffers: Buffers::new(&model, &plan),
            plan,
            model,
        })
    }

    /// Bytes of anonymous memory that it holds, those reserved for the caller included.
    pub fn planned_bytes(&self) -> usize {
        self.plan.bytes + self.buffers.partial.len() * size_of::<f32>()
    }

    /// Tokens of a sequence, at most.
    pub fn max_rows(&self) -> usize {
        self.plan.rows
    }

    /// The loss over the targets of `sequences`. Adds `scale` times the gradient of its sum with respect to the parameters of
    /// `tuned` to `gradient`, in the order of [`BoundAdapter::read_parameters`]. The same bits whatever the number of threads.
    ///
    /// # Errors
    /// [`ModelError::SequenceLength`], [`ModelError::SequenceTargets`], [`ModelError::Token`], [`ModelError::Parameters`] and
    /// [`ModelError::ForeignAdapter`] before anything is computed; [`ModelError::Gguf`] if the file changed; [`ModelError::NonFinite`];
    /// [`ModelError::Cancelled`] if `cancel`, asked between layers, says to stop. After an error `gradient` is of no use.
    pub fn gradient(
        &mut self,
        tuned: &Arc<BoundAdapter>,
        sequences: &[&Sequence],
        scale: f32,
        gradient: &mut [f32],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        if gradient.len() != tuned.parameters() {
            let (adapter, expected, found) = (tuned.name().to_owned(), tuned.parameters(), gradient.len());
            return Err(ModelError::Parameters { adapter, expected, found });
        }
        let adapters = ActiveAdapters::new(vec![(Arc::clone(tuned), 1.0)])?;
        self.run(&adapters, sequences, Some((tuned, scale, gradient)), cancel)
    }

    /// The loss alone.
    ///
    /// # Errors
    /// As [`Self::gradient`].
    pub fn loss(
        &mut self,
        tuned: &ActiveAdapters,
        sequences: &[&Sequence],
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        self.run(tuned, sequences, None, cancel)
    }

    fn run(
        &mut self,
        adapters: &ActiveAdapters,
        sequences: &[&Sequence],
        mut wanted: Option<(&BoundAdapter, f32, &mut [f32])>,
        cancel: &dyn Fn() -> bool,
    ) -> Result<Loss, ModelError> {
        let model = Arc::clone(&self.model);
        packed::check(sequences, self.plan.rows, model.decoder().vocab)?;
        if let Some((stray, _)) = adapters.list().iter().find(|(bound, _)| !bound.is_for(model.gguf())) {
            return Err(ModelError::ForeignAdapter { adapter: stray.name().to_owned() });
        }
        let layers = model.decoder().layers.len();
        let most = match &wanted {
            Some((bound, ..)) => self.plan.batch_rows(layers, keeps_mixed(bound, layers)),
            None => self.plan.rows,
        };
        let mut loss = Loss::default();
        let shared = packed::shared(sequences);
        for group in packed::groups(sequences, shared, most) {
            model.gguf().check_unchanged()?;
            let heads = self.plan.widths.heads;
            self.batch.fill(group.iter().map(|&i| sequences[i]), shared, heads);
            loss.targets += self.batch.targets.len();
            let wanted = wanted.as_mut().map(|(bound, scale, gradient)| (&**bound, *scale, &mut **gradient));
            loss.sum += self.run_batch(&model, adapters, wanted, cancel)?;
        }
        Ok(loss)
    }

    /// One batch of packed rows.
    fn run_batch(
        &mut self,
        model: &Model,
        adapters: &ActiveAdapters,
        wanted: Option<(&BoundAdapter, f32, &mut [f32])>,
        cancel: &dyn Fn() -> bool,
    ) -> Result<f64, ModelError> {
        let (decoder, compute, gguf) = (model.decoder(), model.compute(), model.gguf());
        let Self { plan, batch, words, buffers, .. } = self;
        let (rows, layers) = (batch.rows(), decoder.layers.len());
        let context = Context { gguf, compute, decoder, adapters, batch };
        let go_on = || if cancel() { Err(ModelError::Cancelled) } else { Ok(()) };

        let of_input = rows * decoder.hidden;
        let (inputs, slots) = words.split_at_mut((layers + 1) * of_input);
        context.embed(&mut inputs[..of_input], &mut buffers.angles)?;
        let lowest = wanted
            .as_ref()
            .and_then(|(bound, ..)| (0..layers).find_map(|layer| Some((layer, Depth::of(bound, layer)?))));
        // The last layers keep what they compute; those below share the first slot, which is the last of them's in the end.
        let mixed = wanted.as_ref().is_some_and(|(bound, ..)| keeps_mixed(bound, layers));
        let of_slot = rows * plan.widths.slot(mixed);
        let held = slots.len() / of_slot.max(1);
        let slot_of = |layer: usize| (layer + held).saturating_sub(layers);
        for layer in 0..layers {
            go_on()?;
            let (before, after) = inputs.split_at_mut((layer + 1) * of_input);
            let mut slot = Slot::new(&mut slots[slot_of(layer) * of_slot..][..of_slot], &plan.widths, mixed, rows);
            let x = &before[layer * of_input..];
            context.forward(layer, x, &mut slot, buffers, Some(&mut after[..of_input]))?;
        }
        go_on()?;
        let last = &inputs[layers * of_input..][..of_input];
        let loss = context.head(last, buffers, wanted.as_ref().map(|(_, scale, _)| *scale))?;
        let (Some((bound, _, gradient)), Some((lowest, depth))) = (wanted, lowest) else { return Ok(loss) };
        for layer in (lowest..layers).rev() {
            go_on()?;
            let x = &inputs[layer * of_input..][..of_input];
            let mut slot = Slot::new(&mut slots[slot_of(layer) * of_slot..][..of_slot], &plan.widths, mixed, rows);
            // Kept: the last `held` layers, the first of which shares its slot with those below it.
            if layer + held < layers {
                context.forward(layer, x, &mut slot, buffers, None)?;
            }
            let depth = if layer == lowest { depth } else { Depth::Input };
            context.backward(layer, x, &slot, buffers, bound, depth, gradient)?;
        }
        Ok(loss)
    }
}

/// Whether the adapter changes what reads attention's result, in any layer.
fn keeps_mixed(bound: &BoundAdapter, layers: usize) -> bool {
    (0..layers).any(|layer| bound.delta(layer, LinearKind::O).is_some())
}

impl Context<'_> {
    /// Writes the embedding of every row, and the tables of its rotations.
    fn embed(&self, x: &mut [f32], angles: &mut [f32]) -> Result<(), ModelError> {
        let Self { gguf, compute, decoder, batch, .. } = *self;
        let table = decoder.embedding.matrix(gguf)?;
        for (&token, out) in batch.tokens.iter().zip(x.chunks_exact_mut(decoder.hidden)) {
            dequantize(table.ty(), table.row(token as usize), out)?;
            if decoder.embedding_scale != 1.0 {
                vector::scale(decoder.embedding_scale, out);
            }
        }
        let mut rest = angles;
        for rope in &decoder.ropes {
            let tables;
            (tables, rest) = rest.split_at_mut(batch.rows() * 2 * rope.angles());
            for_each_chunk(compute.pool(), [(tables, 2 * rope.angles())], |_, row, [table]| {
                rope.table(batch.positions[row], table);
            });
        }
        Ok(())
    }
}

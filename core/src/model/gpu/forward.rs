//! The forward pass on the device: one record, one submission a batch.

use crate::gguf::Gguf;
use crate::gpu::Recorder;
use crate::kernels::vector;

use super::super::weights::LinearKind;
use super::super::{ActiveAdapters, Decoder, ModelError, Wanted};
use super::matrix::GRAIN;
use super::state::{GpuState, HEAD_ROWS};

/// What a forward pass on the device works with, besides its state.
pub struct GpuPass<'a> {
    /// The mapped file.
    pub gguf: &'a Gguf,
    /// The wiring.
    pub decoder: &'a Decoder,
    /// Adapters and their weights.
    pub adapters: &'a ActiveAdapters,
    /// Where the last row's logits go, one a vocabulary entry.
    pub logits: &'a mut [f32],
}

impl GpuState {
    /// Runs `tokens` at the positions after those held, in batches: what [`Decoder::forward`] does, on the device.
    ///
    /// # Errors
    /// [`ModelError::Token`] and [`ModelError::ContextFull`] before anything is computed; [`ModelError::Gpu`],
    /// [`ModelError::GpuAdapter`], [`ModelError::GpuSuspended`]: the positions of the batch are then not held;
    /// [`ModelError::NonFinite`]; [`ModelError::Gguf`] if the file changed.
    pub fn forward(
        &mut self,
        pass: &mut GpuPass<'_>,
        tokens: &[u32],
        mut wanted: Wanted<'_>,
    ) -> Result<(), ModelError> {
        let vocab = pass.decoder.vocab;
        if let Some(&found) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(ModelError::Token { found, vocab });
        }
        self.held.reserve(tokens.len())?;
        self.set_adapters(pass.decoder, pass.adapters)?;
        let batch = self.batch();
        for (i, part) in tokens.chunks(batch).enumerate() {
            let last = (i + 1) * batch >= tokens.len();
            pass.gguf.check_unchanged()?;
            self.held.begin(part.len());
            match &mut wanted {
                Wanted::Nothing => self.run(pass, part, None)?,
                Wanted::Last if last => self.run(pass, part, Some(part.len() - 1))?,
                Wanted::Last => self.run(pass, part, None)?,
                Wanted::All(each) => {
                    self.run(pass, part, None)?;
                    self.all_logits(pass, i * batch, part.len(), *each)?;
                }
            }
            self.held.commit(part.len());
        }
        Ok(())
    }

    /// One batch through every layer, and the logits of one of its rows.
    fn run(&mut self, pass: &mut GpuPass<'_>, tokens: &[u32], row: Option<usize>) -> Result<(), ModelError> {
        let model = self.model.clone();
        let submitting = model.suspension.submitting()?;
        let gpu = model.gpu();
        self.stage(pass.decoder, tokens);
        gpu.write(&self.rows.step, 0, &self.staged)?;
        let mut recorder = Recorder::new(gpu);
        self.record_layers(&mut recorder, pass.decoder, tokens.len());
        let Some(row) = row else {
            recorder.submit()?;
            return Ok(());
        };
        self.record_head(&mut recorder, row, 1);
        let readback = recorder.read(&self.rows.logits, 0, size_of_val(pass.logits))?;
        recorder.submit()?;
        drop(submitting);
        readback.wait(pass.logits)?;
        finish(pass.decoder, self.len() + row, pass.logits)
    }

    /// Runs `tokens` at the positions after those held, one batch at most, without keeping them, and says how long each kind of step took on the
    /// device, in milliseconds; nothing where the device does not tell.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn times(&mut self, pass: &mut GpuPass<'_>, tokens: &[u32]) -> Result<Vec<(String, f64)>, ModelError> {
        self.set_adapters(pass.decoder, pass.adapters)?;
        let tokens = &tokens[..tokens.len().min(self.batch()).min(self.capacity() - self.len())];
        if let Some(&found) = tokens.iter().find(|&&t| t as usize >= pass.decoder.vocab) {
            return Err(ModelError::Token { found, vocab: pass.decoder.vocab });
        }
        let model = self.model.clone();
        let submitting = model.suspension.submitting()?;
        self.held.begin(tokens.len());
        self.stage(pass.decoder, tokens);
        model.gpu().write(&self.rows.step, 0, &self.staged)?;
        let mut recorder = Recorder::timed(model.gpu());
        self.record_layers(&mut recorder, pass.decoder, tokens.len());
        self.record_head(&mut recorder, tokens.len().saturating_sub(1), 1);
        let pending = recorder.submit_timed()?;
        drop(submitting);
        let mut sums: Vec<(String, f64)> = Vec::new();
        for (name, nanoseconds) in
            pending.map(|pending| pending.wait()).transpose()?.into_iter().flat_map(|t| t.sections)
        {
            match sums.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sum)) => *sum += nanoseconds / 1e6,
                None => sums.push((name, nanoseconds / 1e6)),
            }
        }
        Ok(sums)
    }

    /// The logits of every row of the batch that was run last, a few at a time.
    fn all_logits(
        &mut self,
        pass: &mut GpuPass<'_>,
        before: usize,
        rows: usize,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), ModelError> {
        let model = self.model.clone();
        let vocab = pass.decoder.vocab;
        let mut logits = vec![0.0; HEAD_ROWS.min(rows) * vocab];
        for first in (0..rows).step_by(HEAD_ROWS) {
            let count = HEAD_ROWS.min(rows - first);
            let logits = &mut logits[..count * vocab];
            let submitting = model.suspension.submitting()?;
            let mut recorder = Recorder::new(model.gpu());
            self.record_head(&mut recorder, first, count);
            let readback = recorder.read(&self.rows.logits, 0, size_of_val(logits))?;
            recorder.submit()?;
            drop(submitting);
            readback.wait(logits)?;
            for (i, logits) in logits.chunks_exact_mut(vocab).enumerate() {
                finish(pass.decoder, self.len() + first + i, logits)?;
                each(before + first + i, logits);
            }
        }
        Ok(())
    }

    /// Writes the step: the tokens, then for every rotary embedding its tables, row after row, as the CPU computes them (sines of
    /// large angles are far less exact on many devices).
    fn stage(&mut self, decoder: &Decoder, tokens: &[u32]) {
        let (rows, start) = (tokens.len(), self.len());
        let angles: usize = decoder.ropes.iter().map(|rope| 2 * rope.angles()).sum();
        let staged = &mut self.staged;
        staged.clear();
        staged.extend_from_slice(tokens);
        let mut at = rows.next_multiple_of(GRAIN);
        staged.resize(at + rows * angles, 0);
        for rope in &decoder.ropes {
            let len = 2 * rope.angles();
            let tables = bytemuck::cast_slice_mut(&mut staged[at..][..rows * len]);
            for (row, table) in tables.chunks_exact_mut(len).enumerate() {
                rope.table(start + row, table);
            }
            at += rows * len;
        }
    }

    fn record_layers(&self, recorder: &mut Recorder, decoder: &Decoder, rows: usize) {
        recorder.section("lookup");
        self.lookup.record(recorder, rows);
        for (i, (bounds, layer)) in self.layers.iter().zip(&decoder.layers).enumerate() {
            let group = |recorder: &mut Recorder, kinds: &[LinearKind]| {
                recorder.section("products");
                kinds.iter().for_each(|kind| bounds.products[*kind as usize].record(recorder, rows));
                recorder.section("adapters");
                self.adapters.record(recorder, i, kinds, rows);
            };
            recorder.section("norms");
            bounds.attention_norm.record(recorder, 0, rows);
            group(recorder, &[LinearKind::Q, LinearKind::K, LinearKind::V]);
            let ropes = decoder.ropes[..layer.attention.rope].iter();
            let table = rows.next_multiple_of(GRAIN) + ropes.map(|rope| 2 * rope.angles() * rows).sum::<usize>();
            recorder.section("attention");
            bounds.attention.record(recorder, self.len(), rows, table);
            group(recorder, &[LinearKind::O]);
            recorder.section("norms");
            bounds.mlp_norm.record(recorder, 0, rows);
            group(recorder, &[LinearKind::Gate, LinearKind::Up]);
            recorder.section("gates");
            bounds.gate.record(recorder, rows * decoder.inner);
            group(recorder, &[LinearKind::Down]);
        }
    }

    /// The norm of some rows of the batch, and their logits.
    fn record_head(&self, recorder: &mut Recorder, first: usize, count: usize) {
        recorder.section("head");
        self.norm.record(recorder, first, count);
        self.head.record(recorder, count);
    }
}

/// What the CPU's head does with logits after their product.
fn finish(decoder: &Decoder, position: usize, logits: &mut [f32]) -> Result<(), ModelError> {
    if let Some(cap) = decoder.logit_soft_cap {
        vector::soft_cap(logits, cap);
    }
    if !vector::dot(logits, logits).is_finite() {
        return Err(ModelError::NonFinite { position });
    }
    Ok(())
}

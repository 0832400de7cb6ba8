//! What a layer does between its products: norms, residuals, gates.

use crate::gpu::{Binding, Bound, Gpu, GpuError, Recorder};

use super::super::blocks::Activation;
use super::kernels::{self, GATE_THREADS};
use super::matrix::GRAIN;

/// A norm's weights: where they begin among the vectors (a multiple of 4), and its epsilon.
pub type NormAt = (usize, f32);

/// What a block begins with: x += norm(out) of the block before, or x += out, or nothing; then normed = norm(x).
#[derive(Debug)]
pub struct GpuNorm {
    bound: Bound,
    params: [u32; 6],
}

/// The rows a [`GpuNorm`] works on.
#[derive(Debug, Clone, Copy)]
pub struct NormBuffers<'a> {
    /// Norms and biases.
    pub vectors: Binding<'a>,
    /// rows × cols; added to.
    pub x: Binding<'a>,
    /// rows × cols, what the block before left.
    pub out: Binding<'a>,
    /// rows × cols; written.
    pub normed: Binding<'a>,
}

impl GpuNorm {
    /// Prepares it for rows of `cols` elements. `out` says whether there is a block before, `post` its norm.
    ///
    /// # Errors
    /// [`GpuError::Shader`], [`GpuError::Limit`], [`GpuError::Command`], [`GpuError::DeviceLost`].
    pub fn bind(
        gpu: &Gpu,
        on: NormBuffers<'_>,
        cols: usize,
        out: bool,
        post: Option<NormAt>,
        norm: NormAt,
    ) -> Result<Self, GpuError> {
        let arguments = [on.vectors, on.x, on.out, on.normed];
        let bound = kernels::advance(gpu, out, post.is_some())?.bind(gpu, &arguments)?;
        let (post_at, post_eps) = post.unwrap_or((0, 0.0));
        let quad = |at: usize| (at / GRAIN) as u32;
        Ok(Self { bound, params: [cols as u32, quad(post_at), quad(norm.0), 0, post_eps.to_bits(), norm.1.to_bits()] })
    }

    /// Records it for `count` rows of x and out from `first` on; normed is written from its first row on.
    pub fn record(&self, recorder: &mut Recorder, first: usize, count: usize) {
        let mut params = self.params;
        params[3] = first as u32;
        recorder.run(&self.bound, &params, [1, count as u32, 1]);
    }
}

/// gate = act(gate) · up.
#[derive(Debug)]
pub struct GpuGate {
    bound: Bound,
}

impl GpuGate {
    /// Prepares it.
    ///
    /// # Errors
    /// As [`GpuNorm::bind`].
    pub fn bind(gpu: &Gpu, activation: Activation, gate: Binding<'_>, up: Binding<'_>) -> Result<Self, GpuError> {
        let gelu = activation == Activation::GeluTanh;
        Ok(Self { bound: kernels::gate(gpu, gelu)?.bind(gpu, &[gate, up])? })
    }

    /// Records it for the first `elements`, a multiple of 4.
    pub fn record(&self, recorder: &mut Recorder, elements: usize) {
        let quads = elements / GRAIN;
        let groups = quads.div_ceil(GATE_THREADS) as u32;
        let across = groups.min(recorder.gpu().info().max_groups);
        recorder.run(&self.bound, &(quads as u32), [across, groups.div_ceil(across.max(1)), 1]);
    }
}

//! [`GpuModel`]: a model's weights on a device.

use std::sync::Arc;

use crate::gguf::Gguf;
use crate::gpu::{Gpu, GpuBuffer, GpuError};

use super::super::blocks::RmsNorm;
use super::super::decoder::Layer;
use super::super::weights::{LinearKind, Vector};
use super::super::{Decoder, ModelError};
use super::matrix::{GRAIN, GpuMatrix};
use super::slot::Suspension;
use super::trials;

/// The weights of a model on one device, uploaded once and shared by every session.
#[derive(Debug)]
pub struct GpuModel {
    gpu: Arc<Gpu>,
    pub(super) embedding: GpuMatrix,
    /// The embedding itself where tied.
    pub(super) head: GpuMatrix,
    pub(super) layers: Vec<GpuLayer>,
    /// Norms and biases, one after the other.
    pub(super) vectors: GpuBuffer,
    pub(super) norm: usize,
    bytes: u64,
    pub(super) suspension: Arc<Suspension>,
}

/// One layer's matrices, by [`LinearKind`], and where its vectors begin.
#[derive(Debug)]
pub(super) struct GpuLayer {
    pub linears: [GpuMatrix; LinearKind::ALL.len()],
    pub biases: [Option<usize>; LinearKind::ALL.len()],
    pub attention_norm: usize,
    pub attention_post_norm: Option<usize>,
    pub q_norm: Option<usize>,
    pub k_norm: Option<usize>,
    pub mlp_norm: usize,
    pub mlp_post_norm: Option<usize>,
}

/// Vectors on their way to the device.
struct Vectors<'a> {
    gguf: &'a Gguf,
    values: Vec<f32>,
}

impl Vectors<'_> {
    /// Adds one, and says where it begins, a multiple of 4.
    fn add(&mut self, vector: &Vector) -> usize {
        let at = self.values.len();
        self.values.extend_from_slice(vector.get(self.gguf));
        self.values.resize(self.values.len().next_multiple_of(GRAIN), 0.0);
        at
    }

    fn norm(&mut self, norm: &RmsNorm) -> usize {
        self.add(&norm.weight)
    }

    fn opt_norm(&mut self, norm: Option<&RmsNorm>) -> Option<usize> {
        norm.map(|norm| self.norm(norm))
    }
}

impl GpuModel {
    /// Tries the kernels that the model needs, where that was not done on this device before, and copies every weight to it.
    ///
    /// # Errors
    /// [`ModelError::Gpu`]: a kernel computes wrong numbers there, the device lacks memory or is lost, or cannot bind a shape of
    /// the model's;
    /// [`ModelError::Gguf`] if the file changed.
    pub fn upload(
        gpu: &Arc<Gpu>,
        gguf: &Gguf,
        decoder: &Decoder,
        suspension: Arc<Suspension>,
    ) -> Result<Self, ModelError> {
        gguf.check_unchanged()?;
        gpu.trust_all(trials::needed(decoder))?;
        let dim = |what: &str, found: usize| match found.is_multiple_of(GRAIN) {
            true => Ok(()),
            false => Err(GpuError::Limit {
                what: format!("{what} of {found}, as a multiple of 4,"),
                needed: found.next_multiple_of(GRAIN) as u64,
                max: found as u64,
            }),
        };
        dim("a width", decoder.hidden)?;
        dim("a width", decoder.inner)?;
        decoder.layers.iter().try_for_each(|layer| dim("heads", layer.attention.heads.dim))?;
        let mut bytes = 0;
        let mut matrix = |linear: &super::super::Linear| -> Result<GpuMatrix, ModelError> {
            let matrix = GpuMatrix::upload(gpu, &linear.name, linear.matrix(gguf)?)?;
            bytes += matrix.bytes();
            Ok(matrix)
        };
        let mut vectors = Vectors { gguf, values: Vec::new() };
        let embedding = matrix(&decoder.embedding)?;
        let tied = decoder.head.name == decoder.embedding.name;
        let head = if tied { embedding.clone() } else { matrix(&decoder.head)? };
        let mut layers = Vec::with_capacity(decoder.layers.len());
        for layer in &decoder.layers {
            layers.push(GpuLayer::upload(layer, &mut matrix, &mut vectors)?);
        }
        let norm = vectors.norm(&decoder.norm);
        let vectors = gpu.upload("norms and biases", &vectors.values)?;
        bytes += vectors.bytes();
        let gpu = Arc::clone(gpu);
        Ok(Self { gpu, embedding, head, layers, vectors, norm, bytes, suspension })
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Bytes of the weights on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether nothing may be submitted.
    pub fn is_suspended(&self) -> bool {
        self.suspension.is_on()
    }
}

impl GpuLayer {
    fn upload(
        layer: &Layer,
        matrix: &mut impl FnMut(&super::super::Linear) -> Result<GpuMatrix, ModelError>,
        vectors: &mut Vectors<'_>,
    ) -> Result<Self, ModelError> {
        let [q, k, v, o, gate, up, down] = LinearKind::ALL.map(|kind| layer.linear(kind));
        let linears = [matrix(q)?, matrix(k)?, matrix(v)?, matrix(o)?, matrix(gate)?, matrix(up)?, matrix(down)?];
        let biases = [q, k, v, o, gate, up, down].map(|linear| linear.bias.as_ref().map(|bias| vectors.add(bias)));
        Ok(Self {
            linears,
            biases,
            attention_norm: vectors.norm(&layer.attention_norm),
            attention_post_norm: vectors.opt_norm(layer.attention_post_norm.as_ref()),
            q_norm: vectors.opt_norm(layer.attention.q_norm.as_ref()),
            k_norm: vectors.opt_norm(layer.attention.k_norm.as_ref()),
            mlp_norm: vectors.norm(&layer.mlp_norm),
            mlp_post_norm: vectors.opt_norm(layer.mlp_post_norm.as_ref()),
        })
    }
}

//! A weight matrix on the device, its blocks as the file has them, and the products with it.

use std::sync::Arc;

use crate::gguf::GgmlType;
use crate::gpu::{Binding, Bound, Gpu, GpuBuffer, GpuError, Recorder};
use crate::kernels::Matrix;

use super::kernels::{self, MATVEC_THREADS, TILE_INPUTS, TILE_ROWS};

/// Stands for no bias.
const NONE: u32 = u32::MAX;
/// Kernels read up to this many bytes past the last block.
const PADDING: u64 = 8;
/// Rows of x up to which each is multiplied by itself.
const FEW_ROWS: usize = 4;

/// Columns are multiplied by four; rows of activations begin at multiples of that.
pub(super) const GRAIN: usize = 4;

/// A matrix of `rows` × `cols` on the device. Cloning shares it.
#[derive(Debug, Clone)]
pub struct GpuMatrix {
    ty: GgmlType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    /// Neighbouring rows in buffers that the device can bind.
    parts: Arc<[Part]>,
    bytes: u64,
}

#[derive(Debug)]
struct Part {
    blocks: GpuBuffer,
    first: usize,
    rows: usize,
}

impl GpuMatrix {
    /// Copies a matrix's blocks to the device, a few megabytes at a time; in several buffers where it is larger than what
    /// the device can bind.
    ///
    /// # Errors
    /// [`GpuError::Limit`] if the columns are no multiple of 4, or a single row is larger than a buffer;
    /// [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
    pub fn upload(gpu: &Gpu, what: &str, matrix: Matrix<'_>) -> Result<Self, GpuError> {
        // Offsets in a part are 32-bit.
        let max = gpu.info().max_binding.min(gpu.info().max_buffer).min(u64::from(u32::MAX)) - PADDING;
        Self::upload_in(gpu, what, matrix, max)
    }

    /// [`Self::upload`] in parts of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Self::upload`].
    pub fn upload_in(gpu: &Gpu, what: &str, matrix: Matrix<'_>, max: u64) -> Result<Self, GpuError> {
        let (rows, cols, row_bytes) = (matrix.rows(), matrix.cols(), matrix.row_bytes());
        if !cols.is_multiple_of(GRAIN) {
            let what = format!("the width of {what}, {cols}, as a multiple of 4");
            return Err(GpuError::Limit { what, needed: cols.next_multiple_of(GRAIN) as u64, max: cols as u64 });
        }
        if row_bytes as u64 > max {
            return Err(GpuError::Limit { what: format!("a row of {what}"), needed: row_bytes as u64, max });
        }
        // Every part begins at a whole word.
        let most = (max / row_bytes.max(1) as u64) as usize;
        let (mut parts, mut bytes, mut first) = (Vec::new(), 0, 0);
        while first < rows {
            let count = most.min(rows - first);
            let data = matrix.row_range(first, first + count);
            let blocks = gpu.storage(what, data.len() as u64 + PADDING)?;
            gpu.write(&blocks, 0, data)?;
            bytes += blocks.bytes();
            parts.push(Part { blocks, first, rows: count });
            first += count;
        }
        Ok(Self { ty: matrix.ty(), rows, cols, row_bytes, parts: parts.into(), bytes })
    }

    /// Output and input length.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Buffers it is in.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Prepares y = W x (+ the numbers of `vectors` from `bias` on): x is rows × cols and y rows × rows of the matrix.
    ///
    /// # Errors
    /// [`GpuError::Shader`], [`GpuError::Limit`], [`GpuError::Command`], [`GpuError::DeviceLost`].
    pub fn product(
        &self,
        gpu: &Gpu,
        (vectors, bias): (Binding<'_>, Option<usize>),
        x: Binding<'_>,
        y: Binding<'_>,
    ) -> Result<Product, GpuError> {
        let lanes = lanes(self.cols);
        let kernels = [
            kernels::matvec(gpu, self.ty, lanes)?,
            kernels::matmul(gpu, self.ty, 1)?,
            kernels::matmul(gpu, self.ty, 4)?,
        ];
        let mut parts = Vec::new();
        for part in &*self.parts {
            let arguments = [part.blocks.all(), vectors, x, y];
            let [one, few, many] = &kernels;
            let bound = [one.bind(gpu, &arguments)?, few.bind(gpu, &arguments)?, many.bind(gpu, &arguments)?];
            parts.push((part.rows, self.params(part, bias, 1.0), bound));
        }
        Ok(Product { parts, lanes })
    }

    /// Prepares y\[m\] = scale · W\[token m\].
    ///
    /// # Errors
    /// As [`Self::product`].
    pub fn lookup(&self, gpu: &Gpu, scale: f32, tokens: Binding<'_>, y: Binding<'_>) -> Result<Lookup, GpuError> {
        let kernel = kernels::lookup(gpu, self.ty)?;
        let bind =
            |part: &Part| Ok((self.params(part, None, scale), kernel.bind(gpu, &[part.blocks.all(), tokens, y])?));
        let parts = self.parts.iter().map(bind).collect::<Result<_, GpuError>>()?;
        Ok(Lookup { parts, units: self.cols.div_ceil(UNIT) })
    }

    /// `Part` of the shader; rows of x are filled in later.
    fn params(&self, part: &Part, bias: Option<usize>, scale: f32) -> [u32; 8] {
        let bias = bias.map_or(NONE, |at| at as u32);
        let (rows, cols, bytes) = (part.rows as u32, self.cols as u32, self.row_bytes as u32);
        [rows, cols, bytes, part.first as u32, self.rows as u32, bias, 0, scale.to_bits()]
    }
}

/// Columns that a thread decodes together.
const UNIT: usize = 16;

/// Threads that share a pair of rows of so many columns: each has a few units, and neighbours read neighbouring bytes.
fn lanes(cols: usize) -> usize {
    match cols.div_ceil(UNIT) {
        0..=8 => 4,
        9..=96 => 16,
        97..=255 => 32,
        _ => 64,
    }
}

/// A product that can be recorded any number of times.
#[derive(Debug)]
pub struct Product {
    parts: Vec<(usize, [u32; 8], [Bound; 3])>,
    lanes: usize,
}

impl Product {
    /// Records it for the first `rows` rows of x.
    pub fn record(&self, recorder: &mut Recorder, rows: usize) {
        for (weight_rows, params, [one, few, many]) in &self.parts {
            let mut params = *params;
            params[6] = rows as u32;
            if rows <= FEW_ROWS {
                let pairs_a_group = MATVEC_THREADS / self.lanes;
                let groups = weight_rows.div_ceil(2).div_ceil(pairs_a_group) as u32;
                let across = groups.min(recorder.gpu().info().max_groups);
                recorder.run(one, &params, [across, groups.div_ceil(across.max(1)), rows as u32]);
            } else {
                let (bound, tm) = if rows <= TILE_INPUTS { (few, 1) } else { (many, 4) };
                let tiles = [weight_rows.div_ceil(TILE_ROWS) as u32, rows.div_ceil(TILE_INPUTS * tm) as u32, 1];
                recorder.run(bound, &params, tiles);
            }
        }
    }
}

/// A lookup that can be recorded any number of times.
#[derive(Debug)]
pub struct Lookup {
    parts: Vec<([u32; 8], Bound)>,
    units: usize,
}

impl Lookup {
    /// Records it for the first `rows` tokens.
    pub fn record(&self, recorder: &mut Recorder, rows: usize) {
        for (params, bound) in &self.parts {
            let mut params = *params;
            params[6] = rows as u32;
            recorder.run(bound, &params, [self.units.div_ceil(MATVEC_THREADS) as u32, rows as u32, 1]);
        }
    }
}

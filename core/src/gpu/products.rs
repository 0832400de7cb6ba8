//! Products with dense weights of an adapter: ΔW kept on the device, and the factors of a change of low rank.

use std::sync::Arc;

use super::{Access, Binding, Bound, Gpu, GpuError, Kernel, KernelSpec, Precision, Recorder, Shader, trials};

/// `products.wgsl`.
pub(super) const PRODUCTS: Shader =
    Shader { name: "products", wgsl: include_str!("shaders/products.wgsl"), reduces: true };

/// Most rows for which a workgroup makes a single number.
const FEW: usize = 8;

/// Columns up to which a thread makes a number by itself.
const NARROW: usize = 64;

/// `y[r, order[p]] (+)= Σ_q w[p, q]·x[r, q]` for weights of one shape.
#[derive(Debug)]
pub struct Product {
    d1: usize,
    d2: usize,
    few: Kernel,
    many: Kernel,
}

/// A product with its arguments.
#[derive(Debug, Clone)]
pub struct BoundProduct {
    few: Bound,
    many: Bound,
}

impl Product {
    /// Products with weights of `d1 × d2`, which add to the output or replace it.
    ///
    /// # Errors
    /// [`GpuError::Limit`] for a shape past 32-bit indices; [`GpuError::SelfTest`], [`GpuError::Shader`], [`GpuError::DeviceLost`].
    pub fn new(gpu: &Arc<Gpu>, d1: usize, d2: usize, precision: Precision, adds: bool) -> Result<Self, GpuError> {
        gpu.trust(&trials::PRODUCTS)?;
        Self::untried(gpu, d1, d2, precision, adds)
    }

    /// Without a trial of the kernels: for that trial.
    pub(super) fn untried(gpu: &Gpu, d1: usize, d2: usize, precision: Precision, adds: bool) -> Result<Self, GpuError> {
        let elements = d1 as u64 * d2 as u64;
        if elements > u64::from(u32::MAX) {
            return Err(GpuError::Limit { what: "a dense weight".into(), needed: elements, max: u32::MAX.into() });
        }
        let flag = |set: bool| f64::from(u8::from(set));
        let half = flag(precision == Precision::F16);
        let constants = [("D1", d1 as f64), ("D2", d2 as f64), ("HALF", half), ("ADD", flag(adds))];
        let access = &[Access::Read, Access::Read, Access::Read, Access::Write];
        let kernel =
            |entry| gpu.kernel(&KernelSpec { shader: PRODUCTS, entry, access, params: true, constants: &constants });
        let few = kernel(if d2 <= NARROW { "narrow" } else { "few" })?;
        Ok(Self { d1, d2, few, many: kernel("many")? })
    }

    /// Weights `[d1, d2]`, rows `x` `[rows, d2]`, where each output goes, and outputs `[rows, d1]`.
    ///
    /// # Errors
    /// As [`Kernel::bind`].
    pub fn bind(
        &self,
        gpu: &Gpu,
        w: Binding<'_>,
        x: Binding<'_>,
        order: Binding<'_>,
        y: Binding<'_>,
    ) -> Result<BoundProduct, GpuError> {
        let arguments = [w, x, order, y];
        Ok(BoundProduct { few: self.few.bind(gpu, &arguments)?, many: self.many.bind(gpu, &arguments)? })
    }

    /// Multiplies the first `rows` rows.
    pub fn run(&self, recorder: &mut Recorder, bound: &BoundProduct, rows: usize) {
        let (d1, rows) = (self.d1 as u32, rows as u32);
        if rows as usize > FEW {
            return recorder.run(&bound.many, &[rows, 0, 0, 0], [d1.div_ceil(64), rows.div_ceil(64), 1]);
        }
        let groups =
            if self.d2 <= NARROW { [d1.div_ceil(64), rows, 1] } else { [d1.min(32768), rows, d1.div_ceil(32768)] };
        recorder.run(&bound.few, &[rows, 0, 0, 0], groups);
    }
}

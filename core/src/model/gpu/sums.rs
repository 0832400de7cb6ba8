//! Spectral changes of linears with the same positions, and the two ways of applying them.

use std::sync::Arc;

use crate::gpu::{
    ApplyPath, Bound, BoundProduct, Gpu, GpuBuffer, GpuError, Inverse, Positions, Precision, Product, Reconstruct,
};
use crate::spectral::Plan;

use super::super::weights::LinearKind;

/// A sum over lists of positions, and its arguments for each linear that has it.
#[derive(Debug)]
pub(super) struct Sum {
    plans: Vec<Arc<Plan>>,
    pub inverse: Inverse,
    pub bound: [Option<Bound>; LinearKind::ALL.len()],
    /// Where the dense way is faster: for one row, for several, and what makes the matrix.
    pub dense: Option<([bool; 2], Reconstruct)>,
}

/// A dense change in f16, made anew with each upload of numbers.
#[derive(Debug)]
pub(super) struct Dense {
    /// Whether it is used for one row, and for several.
    pub used: [bool; 2],
    pub w: GpuBuffer,
    pub product: (Product, BoundProduct),
}

impl Dense {
    /// A matrix for a linear from x to y; `None` if there is no memory for it, for there is the other way.
    pub fn new(
        gpu: &Arc<Gpu>,
        reconstruct: &Reconstruct,
        used: [bool; 2],
        (x, order, y): (&GpuBuffer, &GpuBuffer, &GpuBuffer),
        (d1, d2): (usize, usize),
    ) -> Result<Option<Self>, GpuError> {
        let w = match gpu.storage("a dense change", reconstruct.bytes(Precision::F16)) {
            Err(GpuError::OutOfMemory { .. } | GpuError::Limit { .. }) => return Ok(None),
            made => made?,
        };
        let product = Product::new(gpu, d1, d2, Precision::F16, true)?;
        let bound = product.bind(gpu, w.all(), x.all(), order.all(), y.all())?;
        Ok(Some(Self { used, w, product: (product, bound) }))
    }
}

fn positions(plan: &Arc<Plan>) -> Positions<'_> {
    let (shape, entries) = (plan.shape(), plan.entries());
    Positions { d1: shape.rows(), d2: shape.cols(), rows: entries.rows(), cols: entries.cols() }
}

/// The sum over these lists of positions, prepared once for all linears that have them, for batches of up to `batch` rows.
pub(super) fn find_or_make(
    gpu: &Arc<Gpu>,
    sums: &mut Vec<Sum>,
    plans: &[Arc<Plan>],
    batch: usize,
) -> Result<usize, GpuError> {
    let same =
        |known: &Sum| known.plans.len() == plans.len() && known.plans.iter().zip(plans).all(|(a, b)| Arc::ptr_eq(a, b));
    if let Some(index) = sums.iter().position(same) {
        return Ok(index);
    }
    let lists: Vec<_> = plans.iter().map(positions).collect();
    let inverse = Inverse::new(gpu, &lists)?;
    let mut used = [false; 2];
    for (used, rows) in used.iter_mut().zip([1, batch]) {
        *used = gpu.apply_path(&lists, rows)? == ApplyPath::Dense;
    }
    let dense = used.contains(&true).then(|| Reconstruct::of_lists(gpu, &lists)).transpose()?;
    let bound = [const { None }; LinearKind::ALL.len()];
    sums.push(Sum { plans: plans.to_vec(), inverse, bound, dense: dense.map(|dense| (used, dense)) });
    Ok(sums.len() - 1)
}

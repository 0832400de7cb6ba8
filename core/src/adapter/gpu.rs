//! Dense changes made on a GPU.

use std::sync::Arc;

use crate::gpu::{Gpu, GpuError, Positions, Precision, Product, Reconstruct, Recorder};

use super::{Delta, FourierDelta, LoraDelta};

/// `ΔW` in f32, row-major `[d1, d2]`, as [`Delta::dense`] gives it, made on a GPU; `None` for a kind that only the CPU knows.
///
/// # Errors
/// [`GpuError::SelfTest`] if the device computes wrong numbers; [`GpuError::Limit`], [`GpuError::OutOfMemory`],
/// [`GpuError::DeviceLost`] and [`GpuError::Timeout`].
pub fn dense_on_gpu(delta: &dyn Delta, gpu: &Arc<Gpu>) -> Result<Option<Vec<f32>>, GpuError> {
    if let Some(fourier) = delta.as_fourier() {
        return spectral(fourier, gpu).map(Some);
    }
    delta.as_lora().map(|lora| low_rank(lora, gpu)).transpose()
}

fn spectral(delta: &FourierDelta, gpu: &Arc<Gpu>) -> Result<Vec<f32>, GpuError> {
    let (entries, shape) = (delta.entries(), delta.shape());
    let (d1, d2) = (shape.rows(), shape.cols());
    let plan = Reconstruct::new(gpu, &Positions { d1, d2, rows: entries.rows(), cols: entries.cols() })?;
    let mut out = vec![0.0; d1 * d2];
    plan.read(&delta.coefficients(), delta.alpha(), &mut out)?;
    Ok(out)
}

/// `scale · B·A`: B's rows through A's columns as weights, in bands that the device can bind.
fn low_rank(delta: &LoraDelta, gpu: &Arc<Gpu>) -> Result<Vec<f32>, GpuError> {
    let (d1, d2, rank) = (delta.shape().rows(), delta.shape().cols(), delta.rank());
    let (a, scale) = (delta.a(), delta.scale().factor(rank));
    let columns: Vec<f32> = (0..d2).flat_map(|q| a.iter().skip(q).step_by(d2).copied()).collect();
    let b: Vec<f32> = delta.b().into_iter().map(|v| (f64::from(v) * scale) as f32).collect();
    let product = Product::new(gpu, d2, rank, Precision::F32, false)?;
    let columns = gpu.upload("low rank", &columns)?;
    let order = gpu.upload("order of rows", &(0..d2 as u32).collect::<Vec<_>>())?;
    let info = gpu.info();
    // Workgroups take 64 rows each.
    let most = (info.max_buffer.min(info.max_binding) / (d2 as u64 * 4)).min(u64::from(info.max_groups) * 64) as usize;
    if most == 0 {
        let what = "a row of a weight change".to_owned();
        return Err(GpuError::Limit { what, needed: d2 as u64 * 4, max: info.max_binding });
    }
    let mut out = vec![0.0; d1 * d2];
    for (band, b) in out.chunks_mut(most * d2).zip(b.chunks(most * rank)) {
        let x = gpu.upload("low rank", b)?;
        let y = gpu.scratch(size_of_val(band) as u64)?;
        let bound = product.bind(gpu, columns.all(), x.all(), order.all(), y.all())?;
        let mut recorder = Recorder::new(gpu);
        product.run(&mut recorder, &bound, band.len() / d2);
        let readback = recorder.read(&y, 0, size_of_val(band))?;
        recorder.submit()?;
        readback.wait(band)?;
    }
    Ok(out)
}

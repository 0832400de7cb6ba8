//! Sums of changes of low rank: `Σ wᵢ·sᵢ·BᵢAᵢ = s·[r₁B₁ r₂B₂ …]·[A₁; A₂; …]` with `rᵢ = wᵢ·sᵢ/s`.

use std::collections::BTreeMap;

use super::common_shape;
use crate::adapter::file::LoraModule;
use crate::adapter::{AdapterError, Delta, LoraDelta, LoraScale};

/// One file's change to a module, and the weight and scale it comes with.
type Part<'a> = (&'a LoraDelta, f64);

/// The modules of the sum, all with the largest scale times weight that went in, so that no number grows and the part it is
/// of stays as it is, bit for bit.
pub(super) fn mix(parts: &[(&[LoraModule], f32)]) -> Result<Vec<LoraModule>, AdapterError> {
    let mut sums: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
    let mut scale = 0.0f64;
    for (modules, weight) in parts {
        for LoraModule { name, delta } in *modules {
            let factor = f64::from(*weight) * delta.scale().factor(delta.rank());
            if factor.abs() > scale.abs() {
                scale = factor;
            }
            sums.entry(name).or_default().push((delta, factor));
        }
    }
    if !scale.is_finite() {
        return Err(AdapterError::Mix("a weight times a scale is too large"));
    }
    sums.into_iter().map(|(name, parts)| concatenate(name, &parts, scale)).collect()
}

/// One module's sum, with this scale.
fn concatenate(name: &str, parts: &[Part<'_>], scale: f64) -> Result<LoraModule, AdapterError> {
    // A module is listed because a file has it.
    let shape = common_shape(name, parts.iter().map(|(delta, _)| delta.shape()))?.ok_or(AdapterError::NoModules)?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for (delta, factor) in parts {
        // All factors are zero if the largest is, and then so is every change.
        let ratio = if scale == 0.0 { 0.0 } else { factor / scale };
        a.extend_from_slice(delta.a());
        b.extend(delta.b_columns().iter().map(|&value| (ratio * f64::from(value)) as f32));
    }
    let rank: usize = parts.iter().map(|(delta, _)| delta.rank()).sum();
    let scale = LoraScale::over_rank(scale * rank as f64);
    Ok(LoraModule { name: name.to_owned(), delta: LoraDelta::from_rows(a.into(), b.into(), shape, scale) })
}

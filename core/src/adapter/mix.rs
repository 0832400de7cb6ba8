//! Weighted sums of adapters, which are adapters again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::spectral::{Entries, Plan, PlanCache};

use super::tensors::check_finite;
use super::{Adapter, AdapterError, Delta, FourierDelta, Module};

/// `Σ weight · ΔW` over the adapters, module by module; a module only some of them change is changed by those.
///
/// Where the adapters share a module's entries, coefficients add. Where they do not, the result has the union of the
/// positions, listed one by one. All modules of the result have the same α, the largest that went in.
///
/// # Errors
/// [`AdapterError::Mix`] for no adapters or a weight that is not finite; [`AdapterError::BaseMismatch`] for adapters of
/// different bases; [`AdapterError::ShapeMismatch`]; [`AdapterError::NonFinite`] where a sum overflows.
pub fn mix(parts: &[(Arc<Adapter>, f32)]) -> Result<Adapter, AdapterError> {
    if parts.is_empty() {
        return Err(AdapterError::Mix("no adapters were given"));
    }
    if parts.iter().any(|(_, weight)| !weight.is_finite()) {
        return Err(AdapterError::Mix("a weight is not a finite number"));
    }
    let mut base: Option<&str> = None;
    let mut modules: BTreeMap<&str, Vec<(&FourierDelta, f32)>> = BTreeMap::new();
    for (adapter, weight) in parts {
        if let Some(own) = adapter.base() {
            if let Some(other) = base.filter(|other| *other != own) {
                return Err(AdapterError::BaseMismatch { found: own.to_owned(), expected: other.to_owned() });
            }
            base = Some(own);
        }
        for (name, delta) in adapter.modules() {
            let fourier = delta.as_fourier().ok_or(AdapterError::Mix("a module is not FourierFT"))?;
            modules.entry(name).or_default().push((fourier, *weight));
        }
    }
    let alphas = modules.values().flatten().map(|(delta, _)| delta.alpha());
    let alpha = alphas.fold(0.0f64, |largest, a| if a.abs() > largest.abs() { a } else { largest });
    // Modules with the same parts have the same union: its plan is shared, as drawn ones are.
    let unions = PlanCache::new();
    let modules = modules
        .into_iter()
        .map(|(name, deltas)| {
            let delta: Arc<dyn Delta> = Arc::new(add(name, &deltas, alpha, &unions)?);
            Ok(Module { name: name.into(), delta })
        })
        .collect::<Result<_, AdapterError>>()?;
    let origin = parts[0].0.origin().clone();
    let mixed = Adapter::new(modules)?.with_origin(origin);
    Ok(match base {
        Some(base) => mixed.with_base(base),
        None => mixed,
    })
}

/// One module's sum, with scale `alpha`.
fn add(
    name: &str,
    deltas: &[(&FourierDelta, f32)],
    alpha: f64,
    unions: &PlanCache,
) -> Result<FourierDelta, AdapterError> {
    // A module is listed because an adapter has it.
    let first = deltas.first().ok_or(AdapterError::NoModules)?.0;
    for (delta, _) in deltas {
        if delta.shape() != first.shape() {
            let (found, expected) = (delta.shape(), first.shape());
            return Err(AdapterError::ShapeMismatch { module: name.to_owned(), found, expected });
        }
    }
    // All α are zero if the largest is, and then so is every change.
    let factor = |delta: &FourierDelta, weight: f32| {
        if alpha == 0.0 { 0.0 } else { f64::from(weight) * (delta.alpha() / alpha) }
    };
    let shared = deltas
        .iter()
        .all(|(delta, _)| Arc::ptr_eq(delta.plan(), first.plan()) || delta.entries().same_positions(first.entries()));
    let (plan, sums) = if shared {
        let mut sums = vec![0.0f64; first.entries().len()];
        for (delta, weight) in deltas {
            let factor = factor(delta, *weight);
            for (sum, c) in sums.iter_mut().zip(delta.coefficients()) {
                *sum += factor * f64::from(c);
            }
        }
        (Arc::clone(first.plan()), sums)
    } else {
        union(name, deltas, factor, unions)?
    };
    let coefficients: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    check_finite(name, &coefficients)?;
    let refused = |source| AdapterError::Entries { module: name.to_owned(), source };
    FourierDelta::new(plan, &coefficients, alpha).map_err(refused)
}

/// The union of the positions, in order of first appearance, and the sum at each.
fn union(
    name: &str,
    deltas: &[(&FourierDelta, f32)],
    factor: impl Fn(&FourierDelta, f32) -> f64,
    unions: &PlanCache,
) -> Result<(Arc<Plan>, Vec<f64>), AdapterError> {
    let mut at: HashMap<(u32, u32), usize> = HashMap::new();
    let (mut rows, mut cols, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    for (delta, weight) in deltas {
        let factor = factor(delta, *weight);
        let entries = delta.entries();
        for ((&row, &col), c) in entries.rows().iter().zip(entries.cols()).zip(delta.coefficients()) {
            let index = *at.entry((row, col)).or_insert_with(|| {
                rows.push(row);
                cols.push(col);
                sums.push(0.0);
                sums.len() - 1
            });
            sums[index] += factor * f64::from(c);
        }
    }
    // All have the first one's shape.
    let shape = deltas.first().ok_or(AdapterError::NoModules)?.0.entries().shape();
    let entries = Entries::explicit(shape, rows, cols)
        .map_err(|source| AdapterError::Entries { module: name.to_owned(), source })?;
    Ok((unions.of(entries), sums))
}

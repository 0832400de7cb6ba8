//! Sums of spectra.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::common_shape;
use crate::adapter::AdapterError;
use crate::adapter::file::{FileEntries, FourierModule};
use crate::adapter::plans::Plans;
use crate::adapter::tensors::check_finite;
use crate::spectral::{Entries, Shape, SpectralError};

/// The modules of the sum, all with the largest α that went in.
pub(super) fn mix(
    parts: &[(&[FourierModule], f32)],
    plans: &mut Plans<'_>,
) -> Result<Vec<FourierModule>, AdapterError> {
    let alphas = parts.iter().flat_map(|(modules, _)| *modules).map(|module| module.alpha);
    let alpha = alphas.fold(0.0f64, |largest, a| if a.abs() > largest.abs() { a } else { largest });
    let mut sums: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
    for (modules, weight) in parts {
        for module in *modules {
            // All α are zero if the largest is, and then so is every change.
            let factor = if alpha == 0.0 { 0.0 } else { f64::from(*weight) * (module.alpha / alpha) };
            sums.entry(&module.name).or_default().push(Part { module, factor });
        }
    }
    let mut unions = Vec::new();
    sums.into_iter().map(|(name, parts)| add(name, &parts, alpha, &mut unions, plans)).collect()
}

/// What one file adds to a module: `factor · coefficients`, in units of the result's α.
struct Part<'a> {
    module: &'a FourierModule,
    factor: f64,
}

/// Positions that several parts have between them, and where in it each part's own are.
struct Union {
    shape: Shape,
    draws: Vec<(FileEntries, usize)>,
    entries: Arc<Entries>,
    places: Vec<Vec<usize>>,
}

/// One module's sum, with scale `alpha`.
fn add(
    name: &str,
    parts: &[Part<'_>],
    alpha: f64,
    unions: &mut Vec<Union>,
    plans: &mut Plans<'_>,
) -> Result<FourierModule, AdapterError> {
    // A module is listed because a file has it.
    let first = parts.first().ok_or(AdapterError::NoModules)?.module;
    let shape = common_shape(name, parts.iter().filter_map(|part| part.module.shape))?;
    let (entries, sums) = if parts.iter().all(|part| part.module.entries.same_draw(&first.entries)) {
        // A shorter draw is the beginning of a longer one, so the longest has the positions of all.
        let n = parts.iter().map(|part| part.module.coefficients.len()).max().unwrap_or(0);
        let mut sums = vec![0.0f64; n];
        for Part { module, factor } in parts {
            sums.iter_mut().zip(&module.coefficients).for_each(|(sum, &c)| *sum += factor * f64::from(c));
        }
        (first.entries.clone(), sums)
    } else {
        let shape = shape.ok_or_else(|| AdapterError::ShapeUnknown { module: name.to_owned() })?;
        let union = union(name, shape, parts, unions, plans)?;
        let mut sums = vec![0.0f64; union.entries.len()];
        for (Part { module, factor }, places) in parts.iter().zip(&union.places) {
            places.iter().zip(&module.coefficients).for_each(|(&at, &c)| sums[at] += factor * f64::from(c));
        }
        (FileEntries::Listed(Arc::clone(&union.entries)), sums)
    };
    let coefficients: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    check_finite(name, &coefficients)?;
    Ok(FourierModule { name: name.to_owned(), shape, alpha, coefficients, entries })
}

/// The union of the parts' positions, in order of first appearance: one for all modules with the same parts.
fn union<'a>(
    name: &str,
    shape: Shape,
    parts: &[Part<'_>],
    unions: &'a mut Vec<Union>,
    plans: &mut Plans<'_>,
) -> Result<&'a Union, AdapterError> {
    let same = |union: &Union| {
        union.shape == shape
            && union.draws.len() == parts.len()
            && union.draws.iter().zip(parts).all(|((entries, n), part)| {
                *n == part.module.coefficients.len() && entries.same_draw(&part.module.entries)
            })
    };
    let at = unions.iter().position(same).unwrap_or(unions.len());
    if at == unions.len() {
        unions.push(
            unite(shape, parts, plans).map_err(|source| AdapterError::Entries { module: name.to_owned(), source })?,
        );
    }
    Ok(&unions[at])
}

fn unite(shape: Shape, parts: &[Part<'_>], plans: &mut Plans<'_>) -> Result<Union, SpectralError> {
    let mut at: HashMap<(u32, u32), usize> = HashMap::new();
    let (mut rows, mut cols, mut draws, mut places) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for Part { module, .. } in parts {
        let n = module.coefficients.len();
        let plan = plans.get(shape, n, &module.entries)?;
        let positions = plan.entries().rows().iter().zip(plan.entries().cols());
        let place = |(&row, &col): (&u32, &u32)| {
            *at.entry((row, col)).or_insert_with(|| {
                rows.push(row);
                cols.push(col);
                rows.len() - 1
            })
        };
        places.push(positions.map(place).collect());
        draws.push((module.entries.clone(), n));
    }
    let entries = Arc::new(Entries::explicit(shape, rows, cols)?);
    Ok(Union { shape, draws, entries, places })
}

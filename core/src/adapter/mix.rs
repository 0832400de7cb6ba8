//! Weighted sums of adapters, which are adapters again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::spectral::{Entries, PlanCache, Shape, SpectralError};

use super::file::{FileEntries, FileModule};
use super::plans::Plans;
use super::tensors::check_finite;
use super::{Adapter, AdapterError, AdapterFile};

/// [`AdapterFile::mix`] of adapters in memory, whose shapes are all known. Plans they share are shared with the result.
///
/// # Errors
/// As [`AdapterFile::mix`]; [`AdapterError::NotFourier`].
pub fn mix(parts: &[(Arc<Adapter>, f32)]) -> Result<Adapter, AdapterError> {
    let cache = PlanCache::new();
    let mut plans = Plans::new(&cache);
    let mut described = Vec::with_capacity(parts.len());
    for (adapter, weight) in parts {
        described.push((adapter.to_file()?, *weight));
        adapter.modules().filter_map(|(_, delta)| delta.as_fourier()).for_each(|fourier| plans.know(fourier.plan()));
    }
    let mixed = files(&described, &mut plans)?;
    mixed.resolve_with(&mut plans, |module| mixed.shape_of(module))
}

/// [`AdapterFile::mix`] with plans that may be at hand already.
pub(super) fn files(parts: &[(AdapterFile, f32)], plans: &mut Plans<'_>) -> Result<AdapterFile, AdapterError> {
    let Some((first, _)) = parts.first() else {
        return Err(AdapterError::Mix("no adapters were given"));
    };
    if parts.iter().any(|(_, weight)| !weight.is_finite()) {
        return Err(AdapterError::Mix("a weight is not a finite number"));
    }
    let alphas = parts.iter().flat_map(|(file, _)| &file.modules).map(|module| module.alpha);
    let alpha = alphas.fold(0.0f64, |largest, a| if a.abs() > largest.abs() { a } else { largest });
    let mut base: Option<&str> = None;
    let mut sums: BTreeMap<&str, Vec<Part<'_>>> = BTreeMap::new();
    for (file, weight) in parts {
        if let Some(own) = file.base.as_deref() {
            if let Some(other) = base.filter(|other| *other != own) {
                return Err(AdapterError::BaseMismatch { found: own.to_owned(), expected: other.to_owned() });
            }
            base = Some(own);
        }
        for module in &file.modules {
            // All α are zero if the largest is, and then so is every change.
            let factor = if alpha == 0.0 { 0.0 } else { f64::from(*weight) * (module.alpha / alpha) };
            sums.entry(&module.name).or_default().push(Part { module, factor });
        }
    }
    let mut unions = Vec::new();
    let modules = sums.into_iter().map(|(name, parts)| add(name, &parts, alpha, &mut unions, plans));
    let mut mixed = AdapterFile::new(modules.collect::<Result<_, _>>()?)?;
    mixed.base = base.map(str::to_owned);
    mixed.origin = first.origin.clone();
    // A selection that all agree on is that of the sum.
    mixed.config =
        first.config.clone().filter(|config| parts.iter().all(|(file, _)| file.config.as_ref() == Some(config)));
    Ok(mixed)
}

/// What one file adds to a module: `factor · coefficients`, in units of the result's α.
struct Part<'a> {
    module: &'a FileModule,
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
) -> Result<FileModule, AdapterError> {
    // A module is listed because a file has it.
    let first = parts.first().ok_or(AdapterError::NoModules)?.module;
    let shape = common_shape(name, parts)?;
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
    Ok(FileModule { name: name.to_owned(), shape, alpha, coefficients, entries })
}

/// The shape that all parts which know one agree on.
fn common_shape(name: &str, parts: &[Part<'_>]) -> Result<Option<Shape>, AdapterError> {
    let mut shapes = parts.iter().filter_map(|part| part.module.shape);
    let Some(expected) = shapes.next() else { return Ok(None) };
    match shapes.find(|found| *found != expected) {
        Some(found) => Err(AdapterError::ShapeMismatch { module: name.to_owned(), found, expected }),
        None => Ok(Some(expected)),
    }
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

//! Weighted sums of adapters, which are adapters again.

mod fourier;
mod lora;

use std::sync::Arc;

use crate::spectral::{PlanCache, Shape};

use super::file::FileModules;
use super::plans::Plans;
use super::{Adapter, AdapterError, AdapterFile};

/// [`AdapterFile::mix`] of adapters in memory, whose shapes are all known. Plans they share are shared with the result.
///
/// # Errors
/// As [`AdapterFile::mix`]; [`AdapterError::Kind`].
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
    let mut base: Option<&str> = None;
    for own in parts.iter().filter_map(|(file, _)| file.base.as_deref()) {
        if let Some(other) = base.filter(|other| *other != own) {
            return Err(AdapterError::BaseMismatch { found: own.to_owned(), expected: other.to_owned() });
        }
        base = Some(own);
    }
    let (mut spectral, mut low_rank) = (Vec::new(), Vec::new());
    for (file, weight) in parts {
        match &file.modules {
            FileModules::Fourier(modules) => spectral.push((modules.as_slice(), *weight)),
            FileModules::Lora(modules) => low_rank.push((modules.as_slice(), *weight)),
        }
    }
    let modules = match (spectral.is_empty(), low_rank.is_empty()) {
        (false, false) => return Err(AdapterError::MixedKinds),
        (_, true) => FileModules::Fourier(fourier::mix(&spectral, plans)?),
        (true, _) => FileModules::Lora(lora::mix(&low_rank)?),
    };
    let mut mixed = AdapterFile::new(modules)?;
    mixed.base = base.map(str::to_owned);
    mixed.origin = first.origin.clone();
    // A selection that all agree on is that of the sum.
    mixed.config =
        first.config.clone().filter(|config| parts.iter().all(|(file, _)| file.config.as_ref() == Some(config)));
    Ok(mixed)
}

/// The one shape in `shapes`, none where there are none.
fn common_shape(name: &str, mut shapes: impl Iterator<Item = Shape>) -> Result<Option<Shape>, AdapterError> {
    let Some(expected) = shapes.next() else { return Ok(None) };
    match shapes.find(|found| *found != expected) {
        Some(found) => Err(AdapterError::ShapeMismatch { module: name.to_owned(), found, expected }),
        None => Ok(Some(expected)),
    }
}

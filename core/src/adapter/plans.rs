//! Plans by what a file says of a module's positions.

use std::sync::Arc;

use crate::spectral::{Entries, Plan, PlanCache, Shape, SpectralError};

use super::file::FileEntries;

/// A [`PlanCache`], and the plans one operation has met: listed positions are hashed once for all modules that share
/// them, and what adapters in memory were drawn with is not drawn again.
pub(super) struct Plans<'a> {
    cache: &'a PlanCache,
    /// What was asked for, and its plan: equal positions, not always the same allocation.
    known: Vec<(Arc<Entries>, Arc<Plan>)>,
}

impl<'a> Plans<'a> {
    pub(super) fn new(cache: &'a PlanCache) -> Self {
        Self { cache, known: Vec::new() }
    }

    /// Adds a plan that is at hand.
    pub(super) fn know(&mut self, plan: &Arc<Plan>) {
        if !self.known.iter().any(|(_, known)| Arc::ptr_eq(known, plan)) {
            self.known.push((Arc::clone(plan.entries()), Arc::clone(plan)));
        }
    }

    /// The plan of `n` entries in `shape`.
    pub(super) fn get(&mut self, shape: Shape, n: usize, entries: &FileEntries) -> Result<Arc<Plan>, SpectralError> {
        let source = entries.source();
        let same = |known: &Arc<Entries>| match entries {
            FileEntries::Listed(listed) => Arc::ptr_eq(known, listed),
            _ => known.source() == source && known.len() == n && known.shape() == shape,
        };
        if let Some((_, plan)) = self.known.iter().find(|(known, _)| same(known)) {
            return Ok(Arc::clone(plan));
        }
        let (asked, plan) = match entries {
            FileEntries::Seeded { seed } => drawn(self.cache.seeded(shape, n, *seed)?),
            FileEntries::Biased { seed, center, bandwidth } => {
                drawn(self.cache.biased(shape, n, *seed, *center, *bandwidth)?)
            }
            FileEntries::Listed(listed) => (Arc::clone(listed), self.cache.of(Entries::clone(listed))),
        };
        self.known.push((asked, Arc::clone(&plan)));
        Ok(plan)
    }
}

fn drawn(plan: Arc<Plan>) -> (Arc<Entries>, Arc<Plan>) {
    (Arc::clone(plan.entries()), plan)
}

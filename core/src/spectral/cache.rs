//! Plans shared by every module and adapter with the same entries.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Entries, EntrySource, Plan, Shape, SpectralError};

/// Plans kept although nothing uses them, so that swapping one adapter for another does not redraw.
const KEPT: usize = 16;

/// Hands out one [`Plan`] per set of entries. Drawn entries are drawn once while any adapter uses them, and the
/// last few stay for the next adapter. Thread-safe; share it with an `Arc`.
#[derive(Debug, Default)]
pub struct PlanCache {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plans: HashMap<Key, Weak<Plan>>,
    recent: VecDeque<Arc<Plan>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    shape: Shape,
    n: usize,
    source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Source {
    Seeded(u64),
    /// Seed, and the bits of centre and bandwidth.
    Biased(u64, u64, u64),
    /// BLAKE3 of the positions.
    Explicit([u8; 32]),
}

impl PlanCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The plan of [`Entries::seeded`].
    ///
    /// # Errors
    /// As [`Entries::seeded`].
    pub fn seeded(&self, shape: Shape, n: usize, seed: u64) -> Result<Arc<Plan>, SpectralError> {
        let key = Key { shape, n, source: Source::Seeded(seed) };
        self.get_or(key, || Entries::seeded(shape, n, seed))
    }

    /// The plan of [`Entries::biased`].
    ///
    /// # Errors
    /// As [`Entries::biased`].
    pub fn biased(
        &self,
        shape: Shape,
        n: usize,
        seed: u64,
        center: f64,
        bandwidth: f64,
    ) -> Result<Arc<Plan>, SpectralError> {
        let key = Key { shape, n, source: Source::Biased(seed, center.to_bits(), bandwidth.to_bits()) };
        self.get_or(key, || Entries::biased(shape, n, seed, center, bandwidth))
    }

    /// The plan of entries that are at hand, by their positions if they are explicit and by their source if not.
    pub fn of(&self, entries: Entries) -> Arc<Plan> {
        let source = match entries.source() {
            EntrySource::Seeded { seed } => Source::Seeded(seed),
            EntrySource::Biased { seed, center, bandwidth } => {
                Source::Biased(seed, center.to_bits(), bandwidth.to_bits())
            }
            EntrySource::Explicit => Source::Explicit(hash(&entries)),
        };
        let key = Key { shape: entries.shape(), n: entries.len(), source };
        if let Some(plan) = self.find(&key) {
            return plan;
        }
        self.keep(key, Plan::new(Arc::new(entries)))
    }

    /// Bytes of heap held by the plans in use or kept.
    pub fn bytes(&self) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.plans.values().filter_map(Weak::upgrade).map(|plan| plan.bytes()).sum()
    }

    fn get_or(
        &self,
        key: Key,
        draw: impl FnOnce() -> Result<Entries, SpectralError>,
    ) -> Result<Arc<Plan>, SpectralError> {
        if let Some(plan) = self.find(&key) {
            return Ok(plan);
        }
        // Drawn outside the lock: a large weight takes seconds. Two threads may draw the same; the first is kept.
        let plan = Plan::new(Arc::new(draw()?));
        Ok(self.keep(key, plan))
    }

    fn find(&self, key: &Key) -> Option<Arc<Plan>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = state.plans.get(key)?.upgrade()?;
        state.touch(&plan);
        Some(plan)
    }

    fn keep(&self, key: Key, plan: Plan) -> Arc<Plan> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = state.plans.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| Arc::new(plan));
        state.plans.retain(|_, known| known.strong_count() > 0);
        state.plans.insert(key, Arc::downgrade(&plan));
        state.touch(&plan);
        plan
    }
}

impl State {
    /// Moves `plan` to the end of the kept ones, and drops the one unused for longest.
    fn touch(&mut self, plan: &Arc<Plan>) {
        self.recent.retain(|kept| !Arc::ptr_eq(kept, plan));
        self.recent.push_back(Arc::clone(plan));
        if self.recent.len() > KEPT {
            self.recent.pop_front();
        }
    }
}

fn hash(entries: &Entries) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    for &index in entries.rows().iter().chain(entries.cols()) {
        hash.update(&index.to_le_bytes());
    }
    *hash.finalize().as_bytes()
}

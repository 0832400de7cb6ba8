//! Loaded adapters by alias.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Adapter, AdapterError};

/// Adapters in memory, by alias, within a budget of bytes. Thread-safe.
///
/// What is handed out is an immutable generation: replacing, removing or evicting an alias never touches an adapter that
/// someone holds, which goes on working until its last `Arc` is dropped.
#[derive(Debug)]
pub struct Registry {
    budget: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<String, Slot>,
    bytes: usize,
    /// Counts uses and loads, so that both have an order.
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    adapter: Arc<Adapter>,
    generation: u64,
    bytes: usize,
    used: u64,
}

/// An adapter out of the registry.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The adapter, valid for as long as it is held.
    pub adapter: Arc<Adapter>,
    /// Which load of the registry it is; a replaced alias has a larger one.
    pub generation: u64,
}

/// What loading an adapter did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// The generation it got.
    pub generation: u64,
    /// Whether the alias stood for another adapter before.
    pub replaced: bool,
    /// Aliases that had to go, least recently used first.
    pub evicted: Vec<String>,
}

/// One line of [`Registry::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryEntry {
    /// The alias.
    pub alias: String,
    /// The generation it stands for.
    pub generation: u64,
    /// What it counts against the budget.
    pub bytes: usize,
}

impl Registry {
    /// An empty registry of at most `budget` bytes, counted by [`Adapter::bytes`].
    pub fn new(budget: usize) -> Self {
        Self { budget, state: Mutex::default() }
    }

    /// Makes `alias` stand for `adapter`, then drops the least recently used others until the budget holds.
    ///
    /// # Errors
    /// [`AdapterError::OverBudget`] if it alone is larger than the budget; nothing changes then.
    pub fn insert(&self, alias: &str, adapter: Arc<Adapter>) -> Result<Inserted, AdapterError> {
        let bytes = adapter.bytes();
        if bytes > self.budget {
            return Err(AdapterError::OverBudget { alias: alias.to_owned(), bytes, budget: self.budget });
        }
        let mut state = self.lock();
        let generation = state.tick();
        let slot = Slot { adapter, generation, bytes, used: generation };
        let old = state.slots.insert(alias.to_owned(), slot);
        state.bytes = state.bytes + bytes - old.as_ref().map_or(0, |slot| slot.bytes);
        let mut evicted = Vec::new();
        while state.bytes > self.budget {
            let oldest = state.slots.iter().filter(|(known, _)| *known != alias).min_by_key(|(_, slot)| slot.used);
            let Some(oldest) = oldest.map(|(known, _)| known.clone()) else { break };
            state.remove(&oldest);
            evicted.push(oldest);
        }
        Ok(Inserted { generation, replaced: old.is_some(), evicted })
    }

    /// The adapter under `alias`, now the most recently used.
    ///
    /// # Errors
    /// [`AdapterError::UnknownAlias`], with the aliases there are.
    pub fn get(&self, alias: &str) -> Result<Loaded, AdapterError> {
        let mut state = self.lock();
        let now = state.tick();
        match state.slots.get_mut(alias) {
            Some(slot) => {
                slot.used = now;
                Ok(Loaded { adapter: Arc::clone(&slot.adapter), generation: slot.generation })
            }
            None => Err(state.unknown(alias)),
        }
    }

    /// Forgets `alias` and yields what it stood for.
    ///
    /// # Errors
    /// [`AdapterError::UnknownAlias`], with the aliases there are.
    pub fn remove(&self, alias: &str) -> Result<Arc<Adapter>, AdapterError> {
        let mut state = self.lock();
        state.remove(alias).ok_or_else(|| state.unknown(alias))
    }

    /// What is loaded, most recently used first.
    pub fn list(&self) -> Vec<RegistryEntry> {
        let state = self.lock();
        let mut slots: Vec<_> = state.slots.iter().collect();
        slots.sort_by_key(|(_, slot)| std::cmp::Reverse(slot.used));
        let entry = |(alias, slot): (&String, &Slot)| RegistryEntry {
            alias: alias.clone(),
            generation: slot.generation,
            bytes: slot.bytes,
        };
        slots.into_iter().map(entry).collect()
    }

    /// Bytes counted against the budget.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The budget in bytes.
    pub fn budget(&self) -> usize {
        self.budget
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn remove(&mut self, alias: &str) -> Option<Arc<Adapter>> {
        let slot = self.slots.remove(alias)?;
        self.bytes -= slot.bytes;
        Some(slot.adapter)
    }

    fn unknown(&self, alias: &str) -> AdapterError {
        let mut known: Vec<String> = self.slots.keys().cloned().collect();
        known.sort();
        AdapterError::UnknownAlias { alias: alias.to_owned(), known }
    }
}

//! The registry: immutable generations, eviction by bytes, and use from many threads.

mod adapter_support;

use std::sync::Arc;

use adapter_support::seeded;
use timbre::adapter::{Adapter, AdapterError, Registry};
use timbre::spectral::PlanCache;

fn adapter(salt: u32) -> Arc<Adapter> {
    Arc::new(seeded(&PlanCache::new(), 16, 1, 1.0, salt))
}

fn aliases(registry: &Registry) -> Vec<String> {
    registry.list().into_iter().map(|entry| entry.alias).collect()
}

#[test]
fn a_held_adapter_outlives_its_alias() {
    let registry = Registry::new(1 << 20);
    let first = registry.insert("a", adapter(1)).unwrap();
    let held = registry.get("a").unwrap();
    assert_eq!(held.generation, first.generation);
    let second = registry.insert("a", adapter(2)).unwrap();
    assert!(second.replaced && second.generation > first.generation && second.evicted.is_empty());
    assert_eq!(registry.get("a").unwrap().generation, second.generation);
    registry.remove("a").unwrap();
    assert_eq!((registry.bytes(), registry.list().len()), (0, 0));
    assert_eq!(held.adapter.parameters(), 32);
    assert_eq!(Arc::strong_count(&held.adapter), 1);
}

#[test]
fn an_unknown_alias_is_told_the_known_ones() {
    let registry = Registry::new(1 << 20);
    assert_eq!(registry.get("x").unwrap_err().to_string(), "no adapter \"x\"; loaded: none");
    registry.insert("b", adapter(1)).unwrap();
    registry.insert("a", adapter(2)).unwrap();
    let error = registry.get("x").unwrap_err();
    assert!(matches!(&error, AdapterError::UnknownAlias { alias, known } if alias == "x" && known == &["a", "b"]));
    assert!(matches!(registry.remove("x"), Err(AdapterError::UnknownAlias { .. })));
}

#[test]
fn the_least_recently_used_goes_first() {
    let size = adapter(1).bytes();
    let registry = Registry::new(3 * size + size / 2);
    for (alias, salt) in [("a", 1), ("b", 2), ("c", 3)] {
        assert!(registry.insert(alias, adapter(salt)).unwrap().evicted.is_empty());
    }
    registry.get("a").unwrap();
    assert_eq!(aliases(&registry), ["a", "c", "b"]);
    let held = registry.get("b").unwrap();
    assert_eq!(registry.insert("d", adapter(4)).unwrap().evicted, ["c"]);
    assert_eq!(registry.insert("e", adapter(5)).unwrap().evicted, ["a"]);
    assert_eq!(registry.bytes(), 3 * size);
    assert_eq!(registry.insert("f", adapter(6)).unwrap().evicted, ["b"]);
    assert_eq!(held.adapter.parameters(), 32, "evicted, and still there for who holds it");
    // Replacing needs no room for both.
    assert!(registry.insert("f", adapter(7)).unwrap().evicted.is_empty());
}

#[test]
fn an_adapter_over_the_budget_changes_nothing() {
    let registry = Registry::new(adapter(1).bytes());
    registry.insert("a", adapter(1)).unwrap();
    let large = Arc::new(seeded(&PlanCache::new(), 40, 1, 1.0, 1));
    assert!(matches!(registry.insert("a", large), Err(AdapterError::OverBudget { .. })));
    assert_eq!(aliases(&registry), ["a"]);
    assert_eq!(registry.get("a").unwrap().adapter.parameters(), 32);
    assert_eq!(registry.budget(), adapter(1).bytes());
}

#[test]
fn threads_may_load_swap_and_remove() {
    let registry = Registry::new(4 * adapter(1).bytes());
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let registry = &registry;
            scope.spawn(move || {
                for round in 0..200 {
                    let alias = format!("{}", (thread + round) % 6);
                    registry.insert(&alias, adapter(round)).unwrap();
                    if let Ok(held) = registry.get(&alias) {
                        assert_eq!(held.adapter.parameters(), 32);
                    }
                    if round % 7 == 0 {
                        let _ = registry.remove(&alias);
                    }
                }
            });
        }
    });
    let listed: usize = registry.list().iter().map(|entry| entry.bytes).sum();
    assert_eq!(listed, registry.bytes());
    assert!(registry.bytes() <= registry.budget());
}

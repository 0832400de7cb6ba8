//! What loaded adapters cost in memory, counted by the allocator.

mod adapter_support;
#[path = "common/bytes.rs"]
mod bytes;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use adapter_support::{fixture, smollm2};
use bytes::NOW;
use timbre::adapter::{AdapterFile, Registry};
use timbre::spectral::PlanCache;

// One test alone in its file: nothing else allocates meanwhile.
#[test]
fn a_thousand_adapters_cost_their_files_and_a_tenth() {
    const ADAPTERS: usize = 1000;
    let folder = fixture("adapters/devil");
    let config = std::fs::read(folder.join("adapter_config.json")).unwrap();
    let mut weights = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file_bytes = config.len() + weights.len();
    let cache = PlanCache::new();
    let registry = Registry::new(usize::MAX);
    let before = NOW.load(Ordering::Relaxed);
    for i in 0..ADAPTERS {
        // Another last coefficient each time: no two hold the same numbers.
        let last = weights.len() - 4;
        weights[last..].copy_from_slice(&(i as f32).to_le_bytes());
        let adapter = AdapterFile::from_peft_bytes(&config, &weights).unwrap().resolve(&cache, smollm2).unwrap();
        assert_eq!((adapter.modules().count(), adapter.parameters()), (60, 60_000));
        registry.insert(&format!("adapter {i}"), Arc::new(adapter)).unwrap();
    }
    let grown = NOW.load(Ordering::Relaxed) - before;
    assert_eq!(registry.list().len(), ADAPTERS);
    let of_files = grown as f64 / (ADAPTERS * file_bytes) as f64;
    println!("{ADAPTERS} adapters: {:.1} MB, {of_files:.3} of their files", grown as f64 / 1e6);
    assert!(of_files <= 1.1, "{grown} bytes for {ADAPTERS} files of {file_bytes}");
    // They are really there, not shared.
    assert!(grown >= ADAPTERS * 60_000 * 4);
}

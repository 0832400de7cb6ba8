//! Reconstruction's working memory, counted by the allocator.

#[path = "common/bytes.rs"]
mod bytes;

use std::sync::atomic::Ordering;

use bytes::{NOW, PEAK};
use timbre::spectral::{Entries, Shape, Transforms, reconstruct_into};

// One test alone in its file: nothing else allocates meanwhile.
#[test]
fn reconstruction_takes_a_tenth_more_than_its_output() {
    let transforms = Transforms::new();
    for (d1, d2, threads) in [(576, 576, 1), (577, 256, 1), (1536, 576, 2), (2048, 2048, 1), (2048, 2048, 4)] {
        let entries = Entries::seeded(Shape::new(d1, d2).unwrap(), 1000, 2024).unwrap();
        let coefficients = vec![0.5; 1000];
        let mut out = vec![0.0; d1 * d2];
        // Plans of lengths stay; they are not this call's.
        transforms.real(d1);
        transforms.real(d2);
        PEAK.store(NOW.load(Ordering::Relaxed), Ordering::Relaxed);
        let before = PEAK.load(Ordering::Relaxed);
        reconstruct_into(&entries, &coefficients, 300.0, &transforms, threads, &mut out).unwrap();
        let extra = PEAK.load(Ordering::Relaxed) - before;
        assert!(extra * 10 <= d1 * d2 * 4, "{d1}x{d2}, {threads} threads: {extra} bytes besides {}", d1 * d2 * 4);
    }
}

//! Positions: PyTorch's permutation bit for bit, the band of Eq. 5, and what is refused.

mod spectral_support;

use proptest::prelude::*;
use spectral_support::{fixture, read_npz};
use std::collections::HashSet;
use timbre::spectral::{Entries, EntrySource, PlanCache, Shape, SpectralError, randperm_prefix};

fn shape(rows: usize, cols: usize) -> Shape {
    Shape::new(rows, cols).unwrap()
}

#[test]
fn positions_are_those_peft_drew() {
    let list: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(fixture("delta.json")).unwrap()).unwrap();
    assert!(!list.is_empty());
    for case in list {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let file = case["file"].as_str().unwrap();
        let arrays = read_npz(fixture("delta").join(file));
        let entries = Entries::seeded(shape(number("out"), number("in")), number("n"), number("seed") as u64).unwrap();
        assert_eq!(entries.rows(), arrays["rows"].u32(), "{file}");
        assert_eq!(entries.cols(), arrays["cols"].u32(), "{file}");
    }
}

#[test]
fn small_permutations_are_torchs() {
    // torch.randperm(7 | 1, generator=torch.Generator().manual_seed(3)), torch 2.15.
    assert_eq!(randperm_prefix(7, 7, 3), [5, 3, 4, 6, 0, 2, 1]);
    assert_eq!(randperm_prefix(7, 100, 3), [5, 3, 4, 6, 0, 2, 1]);
    assert_eq!(randperm_prefix(1, 1, 3), [0]);
    assert_eq!(randperm_prefix(0, 1, 3), [0u32; 0]);
}

#[test]
fn only_the_low_half_of_a_seed_counts() {
    // torch.randperm(1000)[:4] with manual_seed(5), (2^32 + 5), (-1), (2^64 - 1).
    assert_eq!(randperm_prefix(1000, 4, 5), [411, 49, 291, 695]);
    assert_eq!(randperm_prefix(1000, 4, (1 << 32) + 5), [411, 49, 291, 695]);
    assert_eq!(randperm_prefix(1000, 4, u64::MAX), [371, 805, 492, 705]);
}

#[test]
fn both_forms_at_their_boundary() {
    let n = 214_748_364;
    let forward = [163_271_119, 30_723_621, 210_920_493, 166_418_323, 163_861_450, 193_767_847];
    assert_eq!(randperm_prefix(n - 1, 6, 2024), forward);
    let inside_out = [164_882_242, 2_761_308, 91_605_633, 192_464_579, 133_462_680, 198_437_983];
    assert_eq!(randperm_prefix(n, 6, 2024), inside_out);
}

#[test]
fn biased_entries_keep_their_positions_for_ever() {
    let entries = Entries::biased(shape(32, 48), 8, 2024, 10.0, 4.0).unwrap();
    assert_eq!(entries.source(), EntrySource::Biased { seed: 2024, center: 10.0, bandwidth: 4.0 });
    let found: Vec<(u32, u32)> = entries.rows().iter().copied().zip(entries.cols().iter().copied()).collect();
    assert_eq!(found, BIASED_32X48);
    let more = Entries::biased(shape(32, 48), 200, 2024, 10.0, 4.0).unwrap();
    assert_eq!(&more.rows()[..8], entries.rows(), "a smaller draw is a prefix");
}

// Drawn by the definition with a C library's logarithm.
const BIASED_32X48: [(u32, u32); 8] = [(14, 34), (22, 32), (21, 34), (13, 32), (14, 14), (29, 27), (24, 30), (4, 25)];

#[test]
fn biased_entries_follow_eq_5() {
    // With n far below the area, draws without replacement are close to independent: the share of draws within a
    // ring is the share of probability in it.
    let (d1, d2, fc, w) = (256usize, 192usize, 60.0f64, 30.0f64);
    let distance =
        |u: usize, v: usize| ((u as f64 - d1 as f64 / 2.0).powi(2) + (v as f64 - d2 as f64 / 2.0).powi(2)).sqrt();
    let probability = |d: f64| if d == 0.0 { 0.0 } else { (-((d * d - fc * fc) / (d * w)).powi(2)).exp() };
    let (mut total, mut inside, mut beyond) = (0.0, 0.0, 0.0);
    for (u, v) in (0..d1).flat_map(|u| (0..d2).map(move |v| (u, v))) {
        let (d, p) = (distance(u, v), probability(distance(u, v)));
        total += p;
        inside += if d < 50.0 { p } else { 0.0 };
        beyond += if d > 70.0 { p } else { 0.0 };
    }
    let (mut n, mut low, mut high) = (0.0, 0.0, 0.0);
    for seed in 0..40 {
        let entries = Entries::biased(shape(d1, d2), 100, seed, fc, w).unwrap();
        for (&u, &v) in entries.rows().iter().zip(entries.cols()) {
            let d = distance(u as usize, v as usize);
            n += 1.0;
            low += if d < 50.0 { 1.0 } else { 0.0 };
            high += if d > 70.0 { 1.0 } else { 0.0 };
        }
    }
    // Four standard deviations of 4000 draws are at most 0.032.
    assert!((low / n - inside / total).abs() < 0.032, "{} of draws, {} of probability", low / n, inside / total);
    assert!((high / n - beyond / total).abs() < 0.032, "{} of draws, {} of probability", high / n, beyond / total);
}

#[test]
fn a_whole_biased_spectrum_ends_at_its_impossible_entry() {
    let entries = Entries::biased(shape(4, 6), 24, 1, 2.0, 1.0).unwrap();
    assert_eq!((entries.rows()[23], entries.cols()[23]), (2, 3));
    let distinct: HashSet<_> = entries.rows().iter().zip(entries.cols()).collect();
    assert_eq!(distinct.len(), 24);
}

#[test]
fn impossible_entries_are_refused() {
    let s = shape(3, 5);
    assert!(matches!(Entries::seeded(s, 0, 1), Err(SpectralError::Count { n: 0, .. })));
    assert!(matches!(Entries::seeded(s, 16, 1), Err(SpectralError::Count { n: 16, area: 15, .. })));
    assert!(matches!(Entries::biased(s, 16, 1, 0.0, 1.0), Err(SpectralError::Count { .. })));
    for (center, bandwidth) in [(f64::NAN, 1.0), (-1.0, 1.0), (1e10, 1.0), (1.0, 0.0), (1.0, f64::INFINITY)] {
        let refused = Entries::biased(s, 2, 1, center, bandwidth);
        assert!(matches!(refused, Err(SpectralError::Band { .. })), "{center} {bandwidth}");
    }
    assert_eq!(Entries::explicit(s, vec![1], vec![]), Err(SpectralError::Ragged { rows: 1, cols: 0 }));
    assert!(matches!(Entries::explicit(s, vec![], vec![]), Err(SpectralError::Count { n: 0, .. })));
    assert!(matches!(Entries::explicit(s, vec![0, 3], vec![0, 0]), Err(SpectralError::OutOfRange { index: 1, .. })));
    assert!(matches!(Entries::explicit(s, vec![0], vec![5]), Err(SpectralError::OutOfRange { index: 0, .. })));
    assert!(matches!(Entries::explicit(s, vec![u32::MAX], vec![0]), Err(SpectralError::OutOfRange { .. })));
    let twice = Entries::explicit(s, vec![1, 2, 1], vec![4, 4, 4]);
    assert_eq!(twice, Err(SpectralError::Duplicate { row: 1, col: 4 }));
    for (rows, cols) in [(0, 5), (5, 0), (1 << 16, 1 << 16), ((1 << 22) + 1, 1), (usize::MAX, usize::MAX)] {
        assert!(matches!(Shape::new(rows, cols), Err(SpectralError::Shape { .. })), "{rows} x {cols}");
    }
}

#[test]
fn a_plan_is_drawn_once() {
    let cache = PlanCache::new();
    let one = cache.seeded(shape(16, 24), 10, 7).unwrap();
    let two = cache.seeded(shape(16, 24), 10, 7).unwrap();
    assert!(std::sync::Arc::ptr_eq(&one, &two));
    let other = cache.seeded(shape(16, 24), 10, 8).unwrap();
    assert!(!std::sync::Arc::ptr_eq(&one, &other));
    let explicit = || Entries::explicit(shape(16, 24), vec![3, 1], vec![5, 6]).unwrap();
    assert!(std::sync::Arc::ptr_eq(&cache.of(explicit()), &cache.of(explicit())));
    assert!(cache.bytes() >= one.bytes() + other.bytes());
    // Plans nothing uses are kept only up to a bound.
    for seed in 0..100 {
        cache.seeded(shape(16, 24), 10, seed).unwrap();
    }
    assert!(cache.bytes() < 30 * one.bytes());
}

proptest! {
    #[test]
    fn a_permutation_is_one(len in 1u64..200, seed: u64) {
        let all = randperm_prefix(len, len as usize, seed);
        let mut sorted = all.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (0..len as u32).collect::<Vec<_>>());
        let n = (len / 2) as usize;
        prop_assert_eq!(&randperm_prefix(len, n, seed)[..], &all[..n]);
    }

    #[test]
    fn biased_entries_are_distinct_and_inside(
        rows in 1usize..20, cols in 1usize..20, part in 0.0f64..1.0, seed: u64, center in 0.0f64..30.0, w in 0.1f64..30.0,
    ) {
        let n = (((rows * cols) as f64 * part) as usize).max(1);
        let drawn = Entries::biased(shape(rows, cols), n, seed, center, w).unwrap();
        prop_assert_eq!(drawn.len(), n);
        // `explicit` checks range and distinctness.
        let listed = Entries::explicit(shape(rows, cols), drawn.rows().to_vec(), drawn.cols().to_vec());
        prop_assert!(listed.unwrap().same_positions(&drawn));
    }
}

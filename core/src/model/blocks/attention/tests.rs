//! Attention against its definition in f64.

use super::*;
use crate::model::KvType;
use crate::model::kv::KvCache;

/// What rounding to pairs of integers may change of mixtures of values up to 1.
const PAIR_ERROR: f64 = 1.5e-4;

/// Deterministic values in −1..1.
fn value(i: usize) -> f32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0
}

/// The definition, in f64: every query over every position it sees.
fn naive(heads: &Heads, start: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f64> {
    let (dim, kv_len) = (heads.dim, heads.kv_len());
    let mut out = Vec::new();
    for (row, q) in q.chunks_exact(heads.q_len()).enumerate() {
        let position = start + row;
        let first = match heads.window {
            Window::Full => 0,
            Window::Last(n) => (position + 1).saturating_sub(n),
        };
        for (h, q) in q.chunks_exact(dim).enumerate() {
            let at = |x: &[f32], p: usize, d: usize| f64::from(x[p * kv_len + h / heads.group() * dim + d]);
            let score = |p| {
                let dot: f64 = (0..dim).map(|d| f64::from(q[d]) * at(k, p, d)).sum();
                let score = dot * f64::from(heads.scale);
                heads.soft_cap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh()).exp()
            };
            let weights: Vec<f64> = (first..=position).map(score).collect();
            let sum: f64 = weights.iter().sum();
            for d in 0..dim {
                let mixed: f64 = weights.iter().zip(first..).map(|(w, p)| w * at(v, p, d)).sum();
                out.push(mixed / sum);
            }
        }
    }
    out
}

/// Keys or values that every format holds exactly: multiples of 1/128, the largest in every group of 32 being 127/128.
fn exact(n: usize, seed: usize) -> Vec<f32> {
    let of = |i| if i % 32 == seed % 32 { 127.0 } else { (value(i + seed) * 127.0).round() };
    (0..n).map(|i| of(i) / 128.0).collect()
}

/// A cache of one layer that holds these keys and values, and scratch for it.
fn cached(
    heads: &Heads,
    kv: KvType,
    (pool, tier): (&Pool, Tier),
    k: &[f32],
    v: &[f32],
    batches: &[usize],
) -> (KvCache, AttentionScratch) {
    let positions = k.len() / heads.kv_len();
    let scratch = AttentionScratch::new([*heads].into_iter(), pool.threads(), tier);
    let mut cache = KvCache::new(kv, positions + 3, [*heads].into_iter()).unwrap();
    let mut start = 0;
    for rows in batches.iter().copied().chain([positions]) {
        let last = (start + rows).min(positions);
        while start < last {
            let end = last.min(start.saturating_add(cache.batch()));
            let at = start * heads.kv_len()..end * heads.kv_len();
            let (k, v) = (&k[at.clone()], &v[at]);
            heads.store(pool, &mut cache.layers[0], start, k, v, Turn::default(), &scratch);
            start = end;
        }
    }
    (cache, scratch)
}

#[test]
fn tiles_windows_and_groups_match_the_definition() {
    let pool = Pool::new(2).unwrap();
    for (count, kv, dim) in [(3, 3, 4), (6, 2, 8), (4, 1, 6), (7, 1, 80)] {
        for window in [Window::Full, Window::Last(1), Window::Last(7), Window::Last(33)] {
            for soft_cap in [None, Some(1.5)] {
                for (start, rows) in [(0, 1), (0, 40), (5, 1), (70, 1), (63, 9), (31, 20)] {
                    let scale = 2.0 / (dim as f32).sqrt();
                    let heads = Heads { count, kv, dim, scale, soft_cap, window };
                    let positions = start + rows;
                    let k: Vec<f32> = (0..positions * heads.kv_len()).map(value).collect();
                    let v: Vec<f32> = (0..positions * heads.kv_len()).map(|i| value(i + 99_991)).collect();
                    let q: Vec<f32> = (0..rows * heads.q_len()).map(|i| value(i + 7_777) * 0.5).collect();
                    let (cache, mut scratch) = cached(&heads, KvType::F32, (&pool, Tier::Scalar), &k, &v, &[start]);
                    let mut out = vec![f32::NAN; q.len()];
                    heads.attend(&pool, &cache.layers[0], start, &q, Turn::default(), &mut out, &mut scratch);
                    for (got, want) in out.iter().zip(naive(&heads, start, &q, &k, &v)) {
                        assert!((f64::from(*got) - want).abs() < 2e-6, "{heads:?} {start} {rows}: {got} {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_format_and_long_contexts_match_and_rows_do_not_depend_on_their_batch() {
    let pools = [Pool::new(1).unwrap(), Pool::new(3).unwrap()];
    let fast = Tier::ALL.into_iter().rfind(|tier| tier.is_available()).unwrap_or(Tier::Scalar);
    for (count, kv, dim) in [(9, 3, 64), (4, 1, 256), (2, 2, 128), (3, 1, 32)] {
        for window in [Window::Full, Window::Last(300), Window::Last(512)] {
            for (start, rows) in [(0, 35), (1190, 19), (509, 130)] {
                let scale = 2.0 / (dim as f32).sqrt();
                let heads = Heads { count, kv, dim, scale, soft_cap: None, window };
                let (k, v) = (exact((start + rows) * kv * dim, 5), exact((start + rows) * kv * dim, 99_991));
                let q: Vec<f32> = (0..rows * heads.q_len()).map(|i| value(i + 7_777)).collect();
                let expected = naive(&heads, start, &q, &k, &v);
                let every = [KvType::F32, KvType::F16, KvType::Q8_0].into_iter();
                for (kv, tier) in every.flat_map(|kv| [(kv, Tier::Scalar), (kv, fast)]) {
                    let exact = kv == KvType::F32 || tier == Tier::Scalar;
                    let mut outs = Vec::new();
                    for pool in &pools {
                        let (cache, mut scratch) = cached(&heads, kv, (pool, tier), &k, &v, &[start, 1, 20]);
                        let layer = &cache.layers[0];
                        let mut attend = |rows: Range<usize>| {
                            let mut out = vec![f32::NAN; rows.len() * heads.q_len()];
                            let q = &q[rows.start * heads.q_len()..rows.end * heads.q_len()];
                            let start = start + rows.start;
                            heads.attend(pool, layer, start, q, Turn::default(), &mut out, &mut scratch);
                            out
                        };
                        let out = attend(0..rows);
                        for part in [0..PAIRED, rows - PAIRED - 1..rows] {
                            let at = part.start * heads.q_len()..part.end * heads.q_len();
                            assert_eq!(attend(part.clone()), out[at], "{heads:?} {kv} {tier} {start} rows {part:?}");
                        }
                        for row in [0, rows / 2, rows - 1] {
                            let at = row * heads.q_len()..(row + 1) * heads.q_len();
                            let alone = attend(row..row + 1);
                            for (got, want) in alone.iter().zip(&expected[at.clone()]) {
                                assert!((f64::from(*got) - want).abs() < 5e-6, "{heads:?} {kv} {start} row {row}");
                            }
                            if exact {
                                assert_eq!(alone, out[at], "{heads:?} {kv} {tier} {start} row {row}");
                            }
                        }
                        outs.push(out);
                    }
                    assert_eq!(outs[0], outs[1], "threads change nothing");
                    let budget = if exact { 5e-6 } else { PAIR_ERROR };
                    for (got, want) in outs[0].iter().zip(&expected) {
                        let error = (f64::from(*got) - want).abs();
                        assert!(error < budget, "{heads:?} {kv} {tier} {start}: {got} {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn heads_are_normed_and_turned_first() {
    let pool = Pool::new(2).unwrap();
    let heads = Heads { count: 4, kv: 2, dim: 16, scale: 0.25, soft_cap: None, window: Window::Full };
    let (rows, eps) = (37, 1e-5);
    let rope = Rope::new(super::super::RopeStyle::Halves, 16, 100.0, 1.0, None);
    let mut tables = vec![0.0; rows * 16];
    tables.chunks_exact_mut(16).enumerate().for_each(|(row, table)| rope.table(row, table));
    let weights: [Vec<f32>; 2] = [3, 4].map(|seed| (0..16).map(|i| 1.0 + value(i * seed)).collect());
    let turned = |x: &[f32], width: usize, weight: &[f32]| -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        for (i, (x, out)) in x.chunks_exact(16).zip(out.chunks_exact_mut(16)).enumerate() {
            vector::rms_norm(x, weight, eps, out);
            rope.apply(out, 16, &tables[i * 16 / width * 16..][..16]);
        }
        out
    };
    let q: Vec<f32> = (0..rows * heads.q_len()).map(value).collect();
    let k: Vec<f32> = (0..rows * heads.kv_len()).map(|i| value(i + 55)).collect();
    let v: Vec<f32> = (0..rows * heads.kv_len()).map(|i| value(i + 777)).collect();
    let (turned_q, turned_k) = (turned(&q, heads.q_len(), &weights[0]), turned(&k, heads.kv_len(), &weights[1]));
    let expected = naive(&heads, 0, &turned_q, &turned_k, &v);
    let turn = |weight| Turn { norm: Some((weight, eps)), rope: Some((&rope, &tables[..])) };
    let mut scratch = AttentionScratch::new([heads].into_iter(), 2, Tier::Scalar);
    let mut cache = KvCache::new(KvType::F32, rows, [heads].into_iter()).unwrap();
    heads.store(&pool, &mut cache.layers[0], 0, &k, &v, turn(&weights[1]), &scratch);
    let mut out = vec![f32::NAN; q.len()];
    heads.attend(&pool, &cache.layers[0], 0, &q, turn(&weights[0]), &mut out, &mut scratch);
    for (got, want) in out.iter().zip(expected) {
        assert!((f64::from(*got) - want).abs() < 2e-6, "{got} {want}");
    }
}

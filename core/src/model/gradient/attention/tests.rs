//! Attention and its adjoint against the definition and its differences in f64.

use super::super::packed::Sequence;
use super::*;
use crate::model::blocks::{Rope, RopeStyle, Window};

fn value(i: usize) -> f32 {
    ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn values(n: usize, salt: usize) -> Vec<f32> {
    (0..n).map(|i| value(i + salt * 7919)).collect()
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// What a case is made of besides q, k and v.
struct Case {
    heads: Heads,
    /// Angles turned, fewer than half a head's elements in one case.
    style: RopeStyle,
    turned: usize,
    norms: Option<(Vec<f32>, Vec<f32>)>,
    lengths: Vec<usize>,
}

const EPS: f32 = 1e-3;
const BASE: f64 = 50.0;

impl Case {
    fn batch(&self) -> Packed {
        let of_length =
            |&len: &usize| Sequence { tokens: vec![0; len + 1], targets: [vec![false; len], vec![true]].concat() };
        let sequences: Vec<Sequence> = self.lengths.iter().map(of_length).collect();
        let mut batch = Packed::default();
        batch.fill(sequences.iter(), 0, self.heads.count);
        batch
    }

    /// A head normed and turned.
    fn turn(&self, head: &[f64], position: usize, norm: Option<&[f32]>) -> Vec<f64> {
        let mut out = head.to_vec();
        if let Some(weight) = norm {
            let mean = head.iter().map(|x| x * x).sum::<f64>() / head.len() as f64;
            let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
            out.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * f64::from(*w));
        }
        for i in 0..self.turned / 2 {
            let (a, b) = match self.style {
                RopeStyle::Halves => (i, i + self.turned / 2),
                RopeStyle::Pairs => (2 * i, 2 * i + 1),
            };
            let angle = position as f64 * BASE.powf(-2.0 * i as f64 / self.turned as f64);
            let (sin, cos) = angle.sin_cos();
            (out[a], out[b]) = (out[a] * cos - out[b] * sin, out[a] * sin + out[b] * cos);
        }
        out
    }

    /// rows × (count · dim), from the definition.
    fn naive(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let Heads { count, dim, scale, soft_cap, window, .. } = self.heads;
        let kv_len = self.heads.kv_len();
        let mut out = vec![0.0; q.len()];
        let mut start = 0;
        for &len in &self.lengths {
            for h in 0..count {
                let of_kv = h / self.heads.group() * dim;
                let norms = self.norms.as_ref();
                let keys: Vec<Vec<f64>> = (0..len)
                    .map(|p| self.turn(&k[(start + p) * kv_len + of_kv..][..dim], p, norms.map(|n| &*n.1)))
                    .collect();
                for p in 0..len {
                    let at = (start + p) * count * dim + h * dim;
                    let query = self.turn(&q[at..][..dim], p, norms.map(|n| &*n.0));
                    let first = match window {
                        Window::Full => 0,
                        Window::Last(n) => (p + 1).saturating_sub(n),
                    };
                    let score = |key: &Vec<f64>| {
                        let score = query.iter().zip(key).map(|(a, b)| a * b).sum::<f64>() * f64::from(scale);
                        soft_cap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh()).exp()
                    };
                    let weights: Vec<f64> = keys[first..=p].iter().map(score).collect();
                    let sum: f64 = weights.iter().sum();
                    for (j, weight) in weights.iter().enumerate() {
                        let value = &v[(start + first + j) * kv_len + of_kv..][..dim];
                        out[at..at + dim].iter_mut().zip(value).for_each(|(o, v)| *o += weight / sum * v);
                    }
                }
            }
            start += len;
        }
        out
    }

    fn check(&self) {
        let (heads, batch) = (&self.heads, self.batch());
        let rows = batch.rows();
        let pool = Pool::new(2).unwrap();
        let rope = Rope::new(self.style, self.turned, BASE as f32, 1.0, None);
        let mut tables = vec![0.0; rows * self.turned];
        for (table, &position) in tables.chunks_exact_mut(self.turned).zip(&batch.positions) {
            rope.table(position, table);
        }
        let rope = Some((&rope, &tables[..]));
        let (q, k, v) =
            (values(rows * heads.q_len(), 1), values(rows * heads.kv_len(), 2), values(rows * heads.kv_len(), 3));
        let norms = self.norms.as_ref();
        let inputs = Inputs {
            heads,
            q_turn: Turn { norm: norms.map(|n| (&n.0[..], EPS)), rope },
            k_turn: Turn { norm: norms.map(|n| (&n.1[..], EPS)), rope },
            q: &q,
            k: &k,
            v: &v,
        };
        let scratch = AttentionScratch::for_heads(heads.dim, self.lengths.iter().copied().max().unwrap_or(1), 2);
        let of = |width: usize| vec![f32::NAN; rows * width];
        let (mut by_head, mut sums) = (of(heads.q_len()), of(heads.count));
        inputs.forward(&pool, &batch, &scratch, &mut by_head, &mut sums);
        let mut mixed = of(heads.q_len());
        into_rows(&pool, heads, [&by_head], [(&mut mixed, heads.count)], rows);
        let (q64, k64, v64) = (f64s(&q), f64s(&k), f64s(&v));
        for (got, want) in mixed.iter().zip(self.naive(&q64, &k64, &v64)) {
            assert!((f64::from(*got) - want).abs() < 3e-6, "{heads:?}: {got} for {want}");
        }

        // L = Σ g · mixed.
        let g = values(rows * heads.q_len(), 4);
        let mut parts = [of(heads.q_len()), of(heads.q_len()), of(heads.q_len())];
        let [dq, dk, dv] = parts.each_mut();
        inputs.backward(&pool, &batch, &scratch, (&g, &sums), [dq, dk, dv]);
        let (mut dq, mut dk, mut dv) = (of(heads.q_len()), of(heads.kv_len()), of(heads.kv_len()));
        let to = [(&mut dq[..], heads.count), (&mut dk[..], heads.kv), (&mut dv[..], heads.kv)];
        into_rows(&pool, heads, parts.each_ref().map(|part| &part[..]), to, rows);
        let loss = |q: &[f64], k: &[f64], v: &[f64]| {
            self.naive(q, k, v).iter().zip(&g).map(|(m, g)| m * f64::from(*g)).sum::<f64>()
        };
        let difference = |which: usize, at: usize| {
            let moved = |step: f64| {
                let mut all = [q64.clone(), k64.clone(), v64.clone()];
                all[which][at] += step;
                loss(&all[0], &all[1], &all[2])
            };
            (moved(1e-5) - moved(-1e-5)) / 2e-5
        };
        for (which, gradient) in [&dq, &dk, &dv].into_iter().enumerate() {
            // Every element of the first and last rows, and a sample of the others.
            for at in (0..gradient.len()).filter(|at| at % 41 == 0 || *at < 20 || *at + 20 > gradient.len()) {
                let (got, want) = (f64::from(gradient[at]), difference(which, at));
                assert!((got - want).abs() < 2e-5, "{heads:?}, {which} at {at}: {got} for {want}");
            }
        }
    }
}

#[test]
fn sizes_windows_caps_norms_and_rotations() {
    let norms = |dim: usize| [5, 6].map(|salt| values(dim, salt).iter().map(|v| 1.0 + v * 0.5).collect::<Vec<f32>>());
    for (count, kv, dim, turned) in [(4, 2, 6, 6), (3, 1, 16, 10), (2, 2, 20, 20)] {
        for window in [Window::Full, Window::Last(1), Window::Last(7), Window::Last(33)] {
            for (i, soft_cap) in [None, Some(0.8)].into_iter().enumerate() {
                for style in [RopeStyle::Halves, RopeStyle::Pairs] {
                    let heads = Heads { count, kv, dim, scale: 1.5 / (dim as f32).sqrt(), soft_cap, window };
                    let [q, k] = norms(dim);
                    let norms = (i == 0).then_some((q, k));
                    Case { heads, style, turned, norms, lengths: vec![1, 25, 3, 50] }.check();
                }
            }
        }
    }
}

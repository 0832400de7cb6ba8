//! The two architectures once more, in f64, position by position, from the papers' formulas: the oracle for wiring.

use std::collections::HashMap;

use super::{HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, Tiny};

/// What is not in the tensors.
pub struct Numbers {
    pub eps: f64,
    /// Angle of pair `i` at position 1, per layer.
    pub frequencies: Vec<Vec<f64>>,
    /// Positions seen, the current one included, per layer.
    pub windows: Vec<usize>,
    pub score_cap: Option<f64>,
    pub logit_cap: Option<f64>,
}

/// base^(−2i/dim) / scale.
pub fn frequencies(dim: usize, base: f64, scale: f64) -> Vec<f64> {
    (0..dim / 2).map(|i| base.powf(-2.0 * i as f64 / dim as f64) / scale).collect()
}

pub type Row = Vec<f64>;

fn norm(x: &[f64], weight: &[f64], eps: f64) -> Row {
    let scale = 1.0 / (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn cap(x: f64, cap: Option<f64>) -> f64 {
    cap.map_or(x, |c| c * (x / c).tanh())
}

/// What is added to matrices, by tensor name, in the file's order of rows.
pub type Changes = HashMap<String, Row>;

struct Weights<'a>(&'a Tiny, &'a Changes);

impl Weights<'_> {
    fn get(&self, name: &str) -> Option<Row> {
        let mut weight: Row = self.0.values(name)?.into_iter().map(f64::from).collect();
        if let Some(change) = self.1.get(name) {
            weight.iter_mut().zip(change).for_each(|(w, c)| *w += c);
        }
        Some(weight)
    }

    fn linear(&self, name: &str, x: &[f64]) -> Row {
        let weight = self.get(&format!("{name}.weight")).unwrap();
        let mut out: Row =
            weight.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect();
        for (out, bias) in out.iter_mut().zip(self.get(&format!("{name}.bias")).unwrap_or_default()) {
            *out += bias;
        }
        out
    }

    fn norm(&self, name: &str, x: &[f64], eps: f64) -> Row {
        self.get(&format!("{name}.weight")).map_or_else(|| x.to_vec(), |w| norm(x, &w, eps))
    }
}

/// Turns one head: neighbours in Llama files, halves in the others.
fn rotate(head: &mut [f64], position: usize, frequencies: &[f64], pairs: bool) {
    let n = frequencies.len();
    for (i, f) in frequencies.iter().enumerate() {
        let (a, b) = if pairs { (2 * i, 2 * i + 1) } else { (i, i + n) };
        let (sin, cos) = (position as f64 * f).sin_cos();
        let (x, y) = (head[a], head[b]);
        head[a] = x * cos - y * sin;
        head[b] = x * sin + y * cos;
    }
}

/// The logits after every one of `tokens`.
pub fn logits(tiny: &Tiny, tokens: &[u32], numbers: &Numbers) -> Vec<Row> {
    changed_logits(tiny, tokens, numbers, &Changes::new())
}

/// The same with changes to the matrices.
pub fn changed_logits(tiny: &Tiny, tokens: &[u32], numbers: &Numbers, changes: &Changes) -> Vec<Row> {
    let w = Weights(tiny, changes);
    let gemma = tiny.architecture == "gemma3";
    let table = w.get("token_embd.weight").unwrap();
    let head = w.get("output.weight").unwrap_or_else(|| table.clone());
    let mut cache: Vec<Vec<(Row, Row)>> = vec![Vec::new(); LAYERS];
    let mut all = Vec::new();
    for (position, &token) in tokens.iter().enumerate() {
        let mut x = table[token as usize * HIDDEN..][..HIDDEN].to_vec();
        if gemma {
            x.iter_mut().for_each(|v| *v *= (HIDDEN as f64).sqrt());
        }
        for (layer, cache) in cache.iter_mut().enumerate() {
            let name = |tensor: &str| format!("blk.{layer}.{tensor}");
            let turn = |row: &mut Row, norm: &str| {
                for head in row.chunks_exact_mut(HEAD_DIM) {
                    head.copy_from_slice(&w.norm(&name(norm), head, numbers.eps));
                    rotate(head, position, &numbers.frequencies[layer], !gemma);
                }
            };
            let h = w.norm(&name("attn_norm"), &x, numbers.eps);
            let (mut q, mut k) = (w.linear(&name("attn_q"), &h), w.linear(&name("attn_k"), &h));
            turn(&mut q, "attn_q_norm");
            turn(&mut k, "attn_k_norm");
            cache.push((k, w.linear(&name("attn_v"), &h)));
            let first = (position + 1).saturating_sub(numbers.windows[layer]);
            let mut mixed = Row::new();
            for (h, q) in q.chunks_exact(HEAD_DIM).enumerate() {
                let at = h / (HEADS / KV_HEADS) * HEAD_DIM;
                let score = |(k, _): &(Row, Row)| {
                    let dot: f64 = k[at..][..HEAD_DIM].iter().zip(q).map(|(k, q)| k * q).sum();
                    cap(dot / (HEAD_DIM as f64).sqrt(), numbers.score_cap).exp()
                };
                let weights: Row = cache[first..].iter().map(score).collect();
                let sum: f64 = weights.iter().sum();
                mixed.extend(
                    (at..at + HEAD_DIM)
                        .map(|d| weights.iter().zip(&cache[first..]).map(|(w, (_, v))| w * v[d]).sum::<f64>() / sum),
                );
            }
            let out = w.linear(&name("attn_output"), &mixed);
            let out = w.norm(&name("post_attention_norm"), &out, numbers.eps);
            x.iter_mut().zip(out).for_each(|(x, o)| *x += o);

            let h = w.norm(&name("ffn_norm"), &x, numbers.eps);
            let (gate, up) = (w.linear(&name("ffn_gate"), &h), w.linear(&name("ffn_up"), &h));
            let act = |g: f64| match gemma {
                true => 0.5 * g * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (g + 0.044_715 * g.powi(3))).tanh()),
                false => g / (1.0 + (-g).exp()),
            };
            let inner: Row = gate.iter().zip(up).map(|(&g, u)| act(g) * u).collect();
            let out = w.norm(&name("post_ffw_norm"), &w.linear(&name("ffn_down"), &inner), numbers.eps);
            x.iter_mut().zip(out).for_each(|(x, o)| *x += o);
        }
        let h = w.norm("output_norm", &x, numbers.eps);
        let dot = |row: &[f64]| row.iter().zip(&h).map(|(a, b)| a * b).sum::<f64>();
        all.push(head.chunks_exact(HIDDEN).map(|row| cap(dot(row), numbers.logit_cap)).collect());
    }
    all
}

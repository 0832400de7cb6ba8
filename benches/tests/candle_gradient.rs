//! The model's way back against candle's autograd: both architectures written once more as candle tensors in f64, with the
//! adapter's numbers as candle variables.
//!
//! candle knows nothing of the spectral form: FourierFT's change is the matrix product that the inverse transform is, and is
//! added to the weight. What is compared is ∂L/∂parameters of every module, and the loss.

#[path = "../../core/tests/model_support/mod.rs"]
mod model_support;

use std::collections::HashMap;
use std::f64::consts::{PI, TAU};
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_nn::loss::nll;
use candle_nn::ops::{log_softmax, softmax};
use model_support::{HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Tiny, VOCAB, noise};
use timbre::adapter::{Adapter, Delta, FourierDelta, LoraDelta, LoraScale, Module};
use timbre::gguf::GgmlType;
use timbre::model::{GradientOptions, GradientPass, LinearKind, Model, Sequence};
use timbre::spectral::{Entries, Shape};

/// Largest error of a gradient's component, relative to the largest component of its module.
///
/// The reference kernels and the way back are f32, candle here is f64, so that sums of at most 64 terms through two layers
/// differ by some 1e-6. Gate and up alone are kept in f16 between the ways: each is off by up to 2⁻¹¹ = 4.9e-4 of itself, and
/// so is every term of what goes back through a feed-forward block. Roundings of both signs go into every component; the budget
/// is what they are for one term where both numbers are rounded by the most: 2 · 2⁻¹¹.
const GRADIENT_BUDGET: f64 = 1.0 / 1024.0;
/// The same where candle rounds gate and up on the way back too. What is left is f32, some 1e-6, and a number here and there
/// so close to the middle between two of f16 that f32 and f64 round it apart: by 2⁻¹⁰ of itself, in one of the many terms of a
/// component, of which it is taken to be no more than a fifth.
const ROUNDED_GRADIENT_BUDGET: f64 = 2e-4;
/// Relative error of the loss, which nothing but f32 goes into.
const LOSS_BUDGET: f64 = 2e-6;

const N: usize = 24;
const ALPHA: f64 = 300.0;
const RANK: usize = 3;
const LORA_ALPHA: f64 = 4.0;
const EPSILON: f64 = 1e-5;
/// Of `Tiny::gemma3`: layer 0 sees so many positions, layer 1 all of them.
const WINDOW: usize = 3;

/// A module's change as candle sees it.
enum Change {
    /// α · Re(IDFT2(F)) with `c` at the entries of F.
    Fourier { entries: Entries, c: Var },
    /// LORA_ALPHA / RANK · B·A.
    Lora { a: Var, b: Var },
}

fn tensor(values: &[f32], shape: &[usize]) -> Result<Tensor> {
    Tensor::from_slice(values, shape, &Device::Cpu)?.to_dtype(DType::F64)
}

/// `[rows, cols]` from a function of row and column.
fn matrix(rows: usize, cols: usize, f: impl Fn(usize, usize) -> f64) -> Result<Tensor> {
    let values: Vec<f64> = (0..rows * cols).map(|i| f(i / cols, i % cols)).collect();
    Tensor::from_vec(values, (rows, cols), &Device::Cpu)
}

impl Change {
    /// ΔW, `[d1, d2]`.
    fn delta(&self) -> Result<Tensor> {
        match self {
            Self::Lora { a, b } => b.matmul(a)? * (LORA_ALPHA / RANK as f64),
            Self::Fourier { entries, c } => {
                let (d1, d2, n) = (entries.shape().rows(), entries.shape().cols(), entries.len());
                // F, from n matrices of a single 1.
                let one = |yes: bool| f64::from(u8::from(yes));
                let rows = matrix(d1, n, |j, l| one(entries.rows()[l] as usize == j))?;
                let cols = matrix(n, d2, |l, k| one(entries.cols()[l] as usize == k))?;
                let spectrum = rows.broadcast_mul(c)?.matmul(&cols)?;
                // The real part of E₁·F·E₂, E[p, j] = e^{2πi·pj/d}.
                let basis = |d: usize, f: fn(f64) -> f64| matrix(d, d, move |p, j| f(TAU * (p * j) as f64 / d as f64));
                let part = |f| basis(d1, f)?.matmul(&spectrum)?.matmul(&basis(d2, f)?);
                (part(f64::cos)? - part(f64::sin)?)? * (ALPHA / (d1 * d2) as f64)
            }
        }
    }

    /// ∂L/∂parameters in the order of `delta`'s own.
    fn gradient(&self, gradients: &GradStore, delta: &dyn Delta) -> Result<Vec<f64>> {
        let of = |var: &Var| gradients.get(var).expect("every variable is in the loss").flatten_all()?.to_vec1::<f64>();
        match self {
            Self::Lora { a, b } => Ok([of(a)?, of(b)?].concat()),
            Self::Fourier { c, .. } => {
                let by_entry = of(c)?;
                let order = delta.as_fourier().unwrap().plan().order();
                Ok(order.iter().map(|&entry| by_entry[entry as usize]).collect())
            }
        }
    }
}

/// A tiny model's weights in Hugging Face's order of rows, `[out, in]`.
struct Oracle {
    gemma: bool,
    weights: HashMap<String, Tensor>,
}

impl Oracle {
    fn new(tiny: &Tiny) -> Result<Self> {
        let gemma = tiny.architecture == "gemma3";
        let mut weights = HashMap::new();
        for name in tiny.tensor_names() {
            let values = tiny.values(&name).unwrap();
            let found = tiny.file.tensors.iter().find(|t| t.name == name.as_bytes()).unwrap();
            let dims: Vec<usize> = found.dims.iter().rev().map(|&d| d as usize).collect();
            let mut weight = tensor(&values, &dims)?;
            // Files of llama models have the two halves of a head's q and k interleaved.
            if !gemma && (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight")) {
                let split = weight.reshape((dims[0] / HEAD_DIM, HEAD_DIM / 2, 2, dims[1]))?;
                weight = split.transpose(1, 2)?.contiguous()?.reshape(&dims[..])?;
            }
            weights.insert(name, weight);
        }
        Ok(Self { gemma, weights })
    }

    /// x / √(mean x² + ε) · w along the last dimension; x itself where the model has no such norm.
    fn norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let Some(weight) = self.weights.get(&format!("{name}.weight")) else { return Ok(x.clone()) };
        let size = (x.sqr()?.mean_keepdim(D::Minus1)? + EPSILON)?.sqrt()?;
        x.broadcast_div(&size)?.broadcast_mul(weight)
    }

    /// Positions turn elements i and i + HEAD_DIM / 2 of each head; `x` is `[heads, positions, HEAD_DIM]`.
    fn rotated(x: &Tensor, base: f64) -> Result<Tensor> {
        let (positions, half) = (x.dim(1)?, HEAD_DIM / 2);
        let turn = |f: fn(f64) -> f64| {
            matrix(positions, half, |t, i| f(t as f64 * base.powf(-2.0 * i as f64 / HEAD_DIM as f64)))
        };
        let (cos, sin) = (turn(f64::cos)?, turn(f64::sin)?);
        let (low, high) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
        let first = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let second = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 2)
    }

    /// −∞ in effect where position t does not see position s.
    fn mask(positions: usize, window: usize) -> Result<Tensor> {
        matrix(positions, positions, |t, s| if s > t || t - s >= window { -1e30 } else { 0.0 })
    }

    fn gated(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        let active = if self.gemma { gelu(gate)? } else { gate.silu()? };
        active * up
    }

    /// Σ −ln p over the targets of a text. With `rounded`, the way back finds gate and up rounded to f16.
    fn loss(&self, changes: &HashMap<String, Tensor>, text: &Sequence, rounded: bool) -> Result<Tensor> {
        let count = text.tokens.len();
        let linear = |layer: usize, kind: LinearKind, x: &Tensor| {
            let weight = &self.weights[&format!("blk.{layer}.{}.weight", kind.gguf_name())];
            match changes.get(&name(layer, kind)) {
                Some(change) => x.matmul(&(weight + change)?.t()?),
                None => x.matmul(&weight.t()?),
            }
        };
        let table = &self.weights["token_embd.weight"];
        let mut x = table.index_select(&Tensor::new(&text.tokens[..], &Device::Cpu)?, 0)?;
        if self.gemma {
            x = (x * (HIDDEN as f64).sqrt())?;
        }
        for layer in 0..LAYERS {
            let part = |part: &str| format!("blk.{layer}.{part}");
            let local = self.gemma && layer == 0;
            let base = if self.gemma && !local { 1e6 } else { 1e4 };
            let heads = |x: Tensor| x.reshape((count, (), HEAD_DIM))?.transpose(0, 1)?.contiguous();
            // Key and value heads serve as many query heads each.
            let shared = |x: Tensor| {
                let groups = (KV_HEADS, HEADS / KV_HEADS, count, HEAD_DIM);
                x.unsqueeze(1)?.broadcast_as(groups)?.contiguous()?.reshape((HEADS, count, HEAD_DIM))
            };
            let h = self.norm(&part("attn_norm"), &x)?;
            let q = self.norm(&part("attn_q_norm"), &heads(linear(layer, LinearKind::Q, &h)?)?)?;
            let k = self.norm(&part("attn_k_norm"), &heads(linear(layer, LinearKind::K, &h)?)?)?;
            let (q, k) = (Self::rotated(&q, base)?, shared(Self::rotated(&k, base)?)?);
            let v = shared(heads(linear(layer, LinearKind::V, &h)?)?)?;
            let scores = (q.matmul(&k.t()?.contiguous()?)? / (HEAD_DIM as f64).sqrt())?;
            let mask = Self::mask(count, if local { WINDOW } else { usize::MAX })?;
            let seen = softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
            let mixed = seen.matmul(&v)?.transpose(0, 1)?.contiguous()?.reshape((count, HEADS * HEAD_DIM))?;
            let out = self.norm(&part("post_attention_norm"), &linear(layer, LinearKind::O, &mixed)?)?;
            x = (x + out)?;

            let h = self.norm(&part("ffn_norm"), &x)?;
            let (gate, up) = (linear(layer, LinearKind::Gate, &h)?, linear(layer, LinearKind::Up, &h)?);
            let mut down = linear(layer, LinearKind::Down, &self.gated(&gate, &up)?)?;
            if rounded {
                let back = self.gated(&in_halves(&gate)?, &in_halves(&up)?)?;
                down = with_gradient_of(&down, &linear(layer, LinearKind::Down, &back)?)?;
            }
            let out = self.norm(&part("post_ffw_norm"), &down)?;
            x = (x + out)?;
        }
        let logits = self.norm("output_norm", &x)?.matmul(&table.t()?)?;
        let of: Vec<u32> = (1..count).filter(|&i| text.targets[i]).map(|i| i as u32).collect();
        let before: Vec<u32> = of.iter().map(|i| i - 1).collect();
        let wanted: Vec<u32> = of.iter().map(|&i| text.tokens[i as usize]).collect();
        let rows = logits.index_select(&Tensor::new(before, &Device::Cpu)?, 0)?;
        // The mean over the targets, times their number.
        nll(&log_softmax(&rows, 1)?, &Tensor::new(wanted, &Device::Cpu)?)? * of.len() as f64
    }
}

/// The numbers of one tensor and the derivative of another.
fn with_gradient_of(numbers: &Tensor, other: &Tensor) -> Result<Tensor> {
    other + (numbers - other)?.detach()
}

/// Rounded to f16; its derivative knows nothing of that.
fn in_halves(x: &Tensor) -> Result<Tensor> {
    with_gradient_of(&x.to_dtype(DType::F16)?.to_dtype(DType::F64)?, x)
}

/// The tanh form, from its formula: candle's own has a derivative with constants of six digits.
fn gelu(x: &Tensor) -> Result<Tensor> {
    let inner = ((x + (x.sqr()?.mul(x)? * 0.044_715)?)? * (2.0 / PI).sqrt())?;
    ((inner.tanh()? + 1.0)? * x)? * 0.5
}

fn name(layer: usize, kind: LinearKind) -> String {
    format!("model.layers.{layer}.{}", kind.hf_name())
}

/// The same model with f32 in all its matrices.
fn in_f32(mut tiny: Tiny) -> Tiny {
    for name in tiny.tensor_names() {
        let found = tiny.tensor(&name);
        if let [cols, rows] = found.dims[..] {
            tiny.matrix(&name, GgmlType::F32, rows as usize, cols as usize);
        }
    }
    tiny
}

/// Texts of different lengths, one of them with gaps between its targets and rows after the last.
fn texts() -> Vec<Sequence> {
    let of = |len: usize, salt: u32, target: fn(usize) -> bool| Sequence {
        tokens: (0..len as u32).map(|i| (i * i * 7 + salt * (i + 3)) % VOCAB as u32).collect(),
        targets: (0..len).map(target).collect(),
    };
    vec![of(19, 1, |i| i >= 5), of(7, 2, |_| true), of(11, 5, |i| i % 3 == 1 && i < 9), of(2, 3, |i| i == 1)]
}

/// A module's change for both sides.
type Pair = (Arc<dyn Delta>, Change);

fn fourier(model: &Model, module: &str) -> Result<Pair> {
    let (rows, cols) = model.module_shape(module).unwrap();
    let plan = model.plans().seeded(Shape::new(rows, cols).unwrap(), N, 7).unwrap();
    let c = noise(module, N, 0.5);
    let entries = (**plan.entries()).clone();
    let delta = FourierDelta::new(plan, &c, ALPHA).unwrap();
    Ok((Arc::new(delta), Change::Fourier { entries, c: Var::from_tensor(&tensor(&c, &[N])?)? }))
}

fn lora(model: &Model, module: &str) -> Result<Pair> {
    let (rows, cols) = model.module_shape(module).unwrap();
    let (a, b) = (noise(&format!("{module}.A"), RANK * cols, 0.2), noise(&format!("{module}.B"), rows * RANK, 0.2));
    let scale = LoraScale::over_rank(LORA_ALPHA);
    let delta = LoraDelta::new(&a, &b, RANK, Shape::new(rows, cols).unwrap(), scale).unwrap();
    let var = |values: &[f32], shape: [usize; 2]| Var::from_tensor(&tensor(values, &shape)?);
    Ok((Arc::new(delta), Change::Lora { a: var(&a, [RANK, cols])?, b: var(&b, [rows, RANK])? }))
}

/// Loss and gradients of an adapter on every linear of `tiny`, each module's change made by `make`.
fn check(tiny: &Tiny, make: fn(&Model, &str) -> Result<Pair>) -> Result<()> {
    let model = tiny.open().unwrap();
    let names = (0..LAYERS).flat_map(|layer| LinearKind::ALL.map(|kind| name(layer, kind)));
    let pairs: HashMap<String, Pair> =
        names.map(|name| Ok((name.clone(), make(&model, &name)?))).collect::<Result<_>>()?;
    let module = |(name, (delta, _)): (&String, &Pair)| Module { name: name.as_str().into(), delta: delta.clone() };
    let adapter = Adapter::new(pairs.iter().map(module).collect()).unwrap();
    let bound = model.bind(Arc::new(adapter), "tuned").unwrap();
    let mut ours = vec![0.0; bound.parameters()];
    let texts = texts();
    let options = GradientOptions { memory_limit: None, reserved: 0, max_rows: 64 };
    let mut pass = GradientPass::new(model.clone(), &options).unwrap();
    let loss = pass.gradient(&bound, &texts.iter().collect::<Vec<_>>(), 1.0, &mut ours, &|| false).unwrap();

    let oracle = Oracle::new(tiny)?;
    let changes: HashMap<String, Tensor> =
        pairs.iter().map(|(name, (_, change))| Ok((name.clone(), change.delta()?))).collect::<Result<_>>()?;
    for (rounded, budget) in [(false, GRADIENT_BUDGET), (true, ROUNDED_GRADIENT_BUDGET)] {
        let losses: Vec<Tensor> =
            texts.iter().map(|text| oracle.loss(&changes, text, rounded)).collect::<Result<_>>()?;
        let total = Tensor::stack(&losses, 0)?.sum_all()?;
        let gradients = total.backward()?;
        let total: f64 = total.to_scalar()?;
        let error = (loss.sum / total - 1.0).abs();
        println!("{}, rounded {rounded}: loss {total:.6}, relative error {error:.1e}", tiny.architecture);
        assert!(error <= LOSS_BUDGET, "loss {} for candle's {total}", loss.sum);
        let mut rest = &ours[..];
        for (name, delta) in bound.adapter().modules() {
            let own;
            (own, rest) = rest.split_at(delta.parameters());
            let expected = pairs[name].1.gradient(&gradients, &**delta)?;
            assert_eq!(own.len(), expected.len(), "{name}");
            let largest = expected.iter().fold(0f64, |m, g| m.max(g.abs()));
            let worst =
                own.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0f64, f64::max) / largest;
            println!("{name}: largest {largest:.3e}, worst error {worst:.1e} of it");
            assert!(largest > 1e-3, "{name} hardly matters to the loss, so nothing is tested");
            assert!(worst <= budget, "{name} of {}: {worst} of the largest component", tiny.architecture);
        }
        assert!(rest.is_empty());
    }
    Ok(())
}

#[test]
fn fourier_gradients_are_candles() -> Result<()> {
    Tiny::both().into_iter().try_for_each(|tiny| check(&in_f32(tiny), fourier))
}

#[test]
fn lora_gradients_are_candles() -> Result<()> {
    Tiny::both().into_iter().try_for_each(|tiny| check(&in_f32(tiny), lora))
}

/// The change that candle differentiates is the one we add.
#[test]
fn both_sides_have_the_same_change() -> Result<()> {
    let model = in_f32(Tiny::llama()).open().unwrap();
    let transforms = timbre::spectral::Transforms::new();
    for kind in [LinearKind::Q, LinearKind::Down] {
        for make in [fourier, lora] {
            let (delta, change) = make(&model, &name(0, kind))?;
            let (ours, theirs) = (delta.dense(&transforms, 1), change.delta()?);
            let theirs: Vec<f64> = theirs.flatten_all()?.to_vec1()?;
            let largest = theirs.iter().fold(0f64, |m, v| m.max(v.abs()));
            assert!(largest > 0.01 && ours.len() == theirs.len());
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((f64::from(*a) - b).abs() <= 1e-6 * largest, "{a} and {b}");
            }
        }
    }
    assert_eq!(model.module_shape(&name(0, LinearKind::Down)), Some((HIDDEN, INNER)));
    Ok(())
}

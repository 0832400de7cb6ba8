//! What the basis and the choice of frequencies do to the held-out loss of a fine-tune: the paper's Table 6 and Figure 5 on
//! SmolLM2 and entries of *The Devil's Dictionary*.
//!
//! ```text
//! ablation --model M.gguf [--steps 92] [-t 2] [--seed 2024] [--first 7] [--out F.json]
//! ```
//!
//! `--first` runs so many of the variants alone; `--out` is benches/results/ablation/smollm2-devil.json unless given.
//! Every run learns n = 1000 coefficients of q and v of every layer with α = 300, begins at the base model, and has the same
//! seed, examples and learning rate for a coefficient, which makes the same RMS of ΔW in every basis (`timbre_benches::basis`).

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use timbre::adapter::{Adapter, Delta, FourierDelta, Module};
use timbre::kernels::KernelChoice;
use timbre::model::{Model, ModelOptions};
use timbre::spectral::{Entries, Shape};
use timbre::tune::{Budget, DataOptions, Dataset, Rate, Targets, TrainerOptions, Tuner, TunerOptions};
use timbre_benches::basis::{Basis, BasisDelta, Vectors};

const N: usize = 1000;
const ALPHA: f64 = 300.0;
/// Step of a coefficient, found best for FourierFT on this data with PEFT.
const RATE: f64 = 3e-2;
const BATCH: usize = 4;
const MAX_LENGTH: usize = 160;
/// The paper's W.
const BANDWIDTH: f64 = 200.0;

/// What a run differs in.
#[derive(Debug, Clone, Copy)]
enum Variant {
    Fourier(Frequencies),
    Other(Vectors),
}

#[derive(Debug, Clone, Copy)]
enum Frequencies {
    Uniform,
    /// Eq. 5 around this distance from the centre of the matrix.
    Around(f64),
    /// Eq. 5 around the corners, where the lowest frequencies are.
    Corners,
}

const VARIANTS: [Variant; 7] = [
    Variant::Fourier(Frequencies::Uniform),
    Variant::Other(Vectors::Random),
    Variant::Other(Vectors::Orthogonal),
    Variant::Fourier(Frequencies::Around(0.0)),
    Variant::Fourier(Frequencies::Around(100.0)),
    Variant::Fourier(Frequencies::Around(200.0)),
    Variant::Fourier(Frequencies::Corners),
];

impl Variant {
    fn basis(self) -> &'static str {
        match self {
            Self::Fourier(_) => "Fourier",
            Self::Other(Vectors::Random) => "random",
            Self::Other(Vectors::Orthogonal) => "orthogonal",
        }
    }

    fn entries(self) -> String {
        match self {
            Self::Other(_) | Self::Fourier(Frequencies::Uniform) => "uniform".to_owned(),
            Self::Fourier(Frequencies::Around(center)) => format!("f_c = {center}"),
            Self::Fourier(Frequencies::Corners) => "f_c = the corners".to_owned(),
        }
    }

    /// A change of a module of this shape that begins at nothing.
    fn delta(self, model: &Model, shape: Shape, seed: u64) -> Result<Arc<dyn Delta>, Box<dyn Error>> {
        let zeros = vec![0.0; N];
        let plan = match self {
            Self::Other(vectors) => {
                let basis = Arc::new(Basis::new(vectors, &Entries::seeded(shape, N, seed)?, seed));
                return Ok(Arc::new(BasisDelta::new(basis, &zeros, ALPHA)));
            }
            Self::Fourier(Frequencies::Uniform) => model.plans().seeded(shape, N, seed)?,
            Self::Fourier(Frequencies::Around(center)) => model.plans().biased(shape, N, seed, center, BANDWIDTH)?,
            Self::Fourier(Frequencies::Corners) => {
                let corner = (shape.rows() as f64 / 2.0).hypot(shape.cols() as f64 / 2.0);
                model.plans().biased(shape, N, seed, corner, BANDWIDTH)?
            }
        };
        Ok(Arc::new(FourierDelta::new(plan, &zeros, ALPHA)?))
    }

    /// The adapter a run begins with; modules of one shape share their basis.
    fn adapter(self, model: &Model, seed: u64) -> Result<Adapter, Box<dyn Error>> {
        let mut by_shape: HashMap<(usize, usize), Arc<dyn Delta>> = HashMap::new();
        let mut modules = Vec::new();
        for (name, shape) in Targets::default().modules(model)? {
            let delta = match by_shape.get(&shape) {
                Some(known) => Arc::clone(known),
                None => self.delta(model, Shape::new(shape.0, shape.1)?, seed)?,
            };
            by_shape.insert(shape, Arc::clone(&delta));
            modules.push(Module { name: name.into(), delta });
        }
        Ok(Adapter::new(modules)?)
    }
}

/// One fine-tune: the row of the record.
fn run(model: &Arc<Model>, data: &Dataset, variant: Variant, steps: u64, seed: u64) -> Result<Value, Box<dyn Error>> {
    let trainer = TrainerOptions {
        budget: Budget::Steps(steps),
        batch: BATCH,
        seed,
        evaluations: 0,
        patience: None,
        ..TrainerOptions::new(Rate::Parameter(RATE))
    };
    let options = TunerOptions { trainer, memory_limit: None };
    let start = Instant::now();
    let mut tuner = Tuner::new(Arc::clone(model), variant.adapter(model, seed)?, data.clone(), options)?;
    let state = tuner.begin();
    let tuned = tuner.run(state, None, &mut |_| {})?;
    // The last scoring, not the best: a run that ends above its beginning is to be seen as such.
    let scored = |at: Option<&(u64, f64)>| at.map(|(_, loss)| *loss).ok_or("nothing was scored");
    let evaluations = &tuned.state.evaluations;
    Ok(json!({
        "basis": variant.basis(),
        "entries": variant.entries(),
        "heldout_before": scored(evaluations.first())?,
        "heldout_after": scored(evaluations.last())?,
        "stop": tuned.stop.name(),
        "seconds": (start.elapsed().as_secs_f64() * 10.0).round() / 10.0,
    }))
}

/// The value after `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: ablation --model M.gguf [--steps 92] [-t 2] [--seed 2024] [--first 7] [--out F.json]";
    let path = PathBuf::from(argument("--model").ok_or(usage)?);
    let steps = argument("--steps").map_or(Ok(92), |v| v.parse())?;
    let threads = argument("-t").map_or(Ok(2), |v| v.parse())?;
    let seed = argument("--seed").map_or(Ok(2024), |v| v.parse())?;
    let first = argument("--first").map_or(Ok(VARIANTS.len()), |v| v.parse())?;
    let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = argument("--out").map_or_else(|| benches.join("results/ablation/smollm2-devil.json"), PathBuf::from);

    let model = Model::open(
        &path,
        &ModelOptions { kernels: KernelChoice::Auto, threads: Some(threads), ..ModelOptions::default() },
    )?;
    let (train, heldout) = (benches.join("data/devil.train.jsonl"), benches.join("data/devil.heldout.jsonl"));
    let options = DataOptions { max_length: Some(MAX_LENGTH), ..DataOptions::default() };
    let data = Dataset::load(&model, &train, Some(&heldout), &options)?;

    println!("| basis | entries | held-out loss before → after |\n|---|---|---|");
    let mut runs = Vec::new();
    for variant in VARIANTS.into_iter().take(first) {
        let row = run(&model, &data, variant, steps, seed)?;
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let (before, after) = (number("heldout_before"), number("heldout_after"));
        println!("| {} | {} | {before:.4} → {after:.4} |", variant.basis(), variant.entries());
        runs.push(row);
    }
    let record = json!({
        "model": path.file_name().map(|name| name.to_string_lossy()),
        "train": "devil.train.jsonl", "heldout": "devil.heldout.jsonl", "max_length": MAX_LENGTH,
        "modules": "q_proj, v_proj", "n": N, "alpha": ALPHA, "rate": RATE, "bandwidth": BANDWIDTH,
        "steps": steps, "batch": BATCH, "seed": seed, "threads": threads,
        "runs": runs,
    });
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&out, format!("{record:#}\n"))?;
    eprintln!("{}", out.display());
    Ok(())
}

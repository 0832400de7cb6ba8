//! Writes a PEFT directory of a FourierFT adapter with random coefficients for any model: what an adapter costs does not depend
//! on what it learned.
//!
//! ```text
//! random_adapter --model M.gguf --out DIR [--modules q,k,v,o,gate,up,down] [-n 1000] [--scaling 300]
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use timbre::adapter::{Adapter, Delta, FourierDelta, Module};
use timbre::model::{LinearKind, Model, ModelOptions};
use timbre::spectral::Shape;
use timbre_benches::noise;

/// Seed of the positions; PEFT's default is 777, its examples' and ours is this.
const SEED: u64 = 2024;

/// The value after `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

/// `q` for `self_attn.q_proj`.
fn kind(name: &str) -> Result<LinearKind, String> {
    let named = |kind: &LinearKind| kind.hf_name().ends_with(&format!(".{name}_proj"));
    LinearKind::ALL.into_iter().find(named).ok_or_else(|| format!("no linear is called {name:?}"))
}

fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: random_adapter --model M.gguf --out DIR [--modules q,v] [-n 1000] [--scaling 300]";
    let (path, out) = (argument("--model").ok_or(usage)?, argument("--out").ok_or(usage)?);
    let kinds = argument("--modules").unwrap_or_else(|| "q,k,v,o,gate,up,down".into());
    let kinds: Vec<LinearKind> = kinds.split(',').map(kind).collect::<Result<_, _>>()?;
    let n = argument("-n").map_or(Ok(1000), |n| n.parse())?;
    let scaling = argument("--scaling").map_or(Ok(300.0), |s| s.parse())?;

    let model = Model::open(Path::new(&path), &ModelOptions { threads: Some(1), ..ModelOptions::default() })?;
    let mut modules = Vec::new();
    for layer in 0..model.decoder().layers.len() {
        for &kind in &kinds {
            let (rows, cols) = model.decoder().linear(layer, kind).ok_or("no such layer")?.shape();
            let plan = model.plans().seeded(Shape::new(rows, cols)?, n, SEED)?;
            // Small enough that the model still computes with ordinary numbers.
            let c: Vec<f32> = noise(n, modules.len() as u32).iter().map(|v| v * 0.1).collect();
            let delta: Arc<dyn Delta> = Arc::new(FourierDelta::new(plan, &c, scaling)?);
            modules.push(Module { name: format!("model.layers.{layer}.{}", kind.hf_name()).into(), delta });
        }
    }
    Ok(Adapter::new(modules)?.save_peft(Path::new(&out))?)
}

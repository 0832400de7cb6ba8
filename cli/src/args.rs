//! Arguments that several verbs share.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use timbre::kernels::{ActivationType, KernelChoice};
use timbre::model::{ActiveAdapters, Backend, BoundAdapter, KvType, Model, ModelOptions};
use timbre::session::{Sampler, SamplerOptions, Session, SessionOptions, SwapPolicy};

use crate::output::{Outcome, Usage};
use crate::progress::Progress;

/// How a verb opens and runs a model.
#[derive(Args)]
pub struct ModelArgs {
    /// The model, a GGUF file
    #[arg(long, value_name = "M.gguf")]
    pub model: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
}

/// How a model is run, wherever it comes from.
#[derive(Args)]
pub struct RunArgs {
    /// Threads [default: one a fast core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..=512))]
    pub threads: Option<u16>,
    /// Tokens the context holds [default: the model's, at most 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub ctx: Option<u32>,
    /// How keys and values are stored: f32, f16 or q8_0 [default: f16; f32 with reference kernels]
    #[arg(long)]
    pub kv: Option<KvType>,
    /// Which kernels: auto, reference, scalar, avx2, avx512 or neon
    #[arg(long, default_value = "auto")]
    pub kernels: KernelChoice,
    /// How the CPU rounds activations for quantised weights: int15, or int8, which is faster and as coarse as in other runtimes
    #[arg(long, default_value = "int15")]
    pub activations: ActivationType,
    /// Where the model runs: cpu, gpu, or auto, a discrete GPU where there is one, else the CPU
    #[arg(long, default_value = "auto")]
    pub backend: Backend,
    /// The GPU to run on, by a part of its name; `timbre devices` lists them
    #[arg(long, value_name = "NAME")]
    pub gpu_adapter: Option<String>,
    /// Read the whole model into memory first, so that the first tokens do not wait for the disk
    #[arg(long)]
    pub warm_up: bool,
}

impl RunArgs {
    /// Opens `path` as asked.
    pub fn open(&self, path: &Path) -> Outcome<Arc<Model>> {
        let options = ModelOptions {
            kernels: self.kernels,
            activations: self.activations,
            threads: self.threads.map(usize::from),
        };
        let model = Model::open(path, &options)?;
        if self.warm_up {
            let progress = Progress::bytes("warming up", model.gguf().file_len() as u64);
            model.gguf().warm_up(|done, total| {
                progress.set_total(total as u64);
                progress.set(done as u64);
                true
            })?;
        }
        Ok(model)
    }

    /// A session on `model`, with adapters.
    pub fn session(&self, model: &Arc<Model>, adapters: ActiveAdapters) -> Outcome<Session> {
        let options = SessionOptions {
            context: self.ctx.map(|n| n as usize),
            kv: self.kv,
            backend: self.backend,
            gpu: self.gpu_adapter.clone(),
            ..SessionOptions::default()
        };
        let mut session = Session::new(model.clone(), &options)?;
        session.set_adapters(adapters, SwapPolicy::Recompute)?;
        match (session.gpu_name(), session.fallback()) {
            (Some(name), _) => eprintln!("[running on {name}]"),
            (None, Some(reason)) => eprintln!("[running on the CPU: {reason}]"),
            (None, None) => {}
        }
        Ok(session)
    }

    /// Refuses a GPU for what only the CPU does.
    ///
    /// # Errors
    /// [`Usage`].
    pub fn refuse_gpu(&self, what: &str) -> Result<(), Usage> {
        if self.backend == Backend::Gpu || self.gpu_adapter.is_some() {
            return Err(Usage(format!("{what} runs on the CPU: --backend gpu and --gpu-adapter do not apply")));
        }
        Ok(())
    }
}

impl ModelArgs {
    /// Opens the model.
    pub fn open(&self) -> Outcome<Arc<Model>> {
        self.run.open(&self.model)
    }
}

/// An adapter on the command line: a path, with `=WEIGHT` after it or not.
#[derive(Clone)]
pub struct WeightedPath {
    pub path: PathBuf,
    pub weight: f32,
}

impl FromStr for WeightedPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path may hold `=` itself: only what parses as a number after the last one is a weight.
        if let Some((path, weight)) = text.rsplit_once('=')
            && let Ok(weight) = weight.parse::<f32>()
        {
            if path.is_empty() {
                return Err("no path before '='".into());
            }
            if !weight.is_finite() {
                return Err(format!("weight {weight} is not finite"));
            }
            return Ok(Self { path: path.into(), weight });
        }
        Ok(Self { path: text.into(), weight: 1.0 })
    }
}

/// The adapters a verb runs with.
#[derive(Args)]
pub struct AdapterArgs {
    /// An adapter: a PEFT directory or a .safetensors file; several add up, each times its weight [default weight: 1]
    #[arg(long = "adapter", value_name = "A[=WEIGHT]")]
    pub adapters: Vec<WeightedPath>,
}

impl AdapterArgs {
    /// Loads and binds them all.
    pub fn load(&self, model: &Model) -> Outcome<ActiveAdapters> {
        let load =
            |a: &WeightedPath| -> Outcome<(Arc<BoundAdapter>, f32)> { Ok((model.load_adapter(&a.path)?, a.weight)) };
        Ok(ActiveAdapters::new(self.adapters.iter().map(load).collect::<Outcome<Vec<_>>>()?)?)
    }
}

/// How tokens are chosen.
#[derive(Args)]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub temp: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Keep the likeliest tokens that make up this share of the probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Divide the logits of recent tokens by this; 1 does nothing
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at
    #[arg(long, value_name = "N", default_value_t = 64)]
    pub repeat_last_n: usize,
    /// Seed of the draw
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

impl SamplingArgs {
    /// As the sampler takes them, and takes all of them.
    ///
    /// # Errors
    /// [`Usage`] for a value that no sampler can have.
    pub fn options(&self) -> Result<SamplerOptions, Usage> {
        let options = SamplerOptions {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: self.repeat_last_n,
            seed: self.seed,
        };
        // What is wrong with them is wrong for every vocabulary.
        Sampler::new(options, 1).map_err(|error| Usage(error.to_string()))?;
        Ok(options)
    }
}

/// Token ids, comma-separated.
#[derive(Clone)]
pub struct TokenList(pub Vec<u32>);

impl FromStr for TokenList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |t: &str| t.trim().parse().map_err(|_| format!("{t:?} is not a token id"));
        text.split(',').map(parse).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_split_from_paths() {
        for (text, path, weight) in [
            ("a", "a", 1.0),
            ("a=0.5", "a", 0.5),
            ("a=b", "a=b", 1.0),
            ("a=b=-2", "a=b", -2.0),
            ("x/y=1e1", "x/y", 10.0),
        ] {
            let parsed: WeightedPath = text.parse().unwrap();
            assert_eq!((parsed.path.to_str(), parsed.weight), (Some(path), weight), "{text}");
        }
        assert!("=0.5".parse::<WeightedPath>().is_err());
        assert!("a=inf".parse::<WeightedPath>().is_err());
    }

    #[test]
    fn token_lists() {
        assert_eq!("1, 2,3".parse::<TokenList>().unwrap().0, [1, 2, 3]);
        assert!("1,x".parse::<TokenList>().is_err());
        assert!("".parse::<TokenList>().is_err());
    }
}

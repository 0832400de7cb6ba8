//! `timbre delta`: the dense ΔW of one module.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use timbre::adapter::{AdapterFile, Delta as Change};
use timbre::kernels::Cores;
use timbre::model::{Model, ModelOptions};
use timbre::spectral::{PlanCache, Transforms, naive};

use crate::npy;
use crate::output::{self, Outcome, Usage};

/// Write the dense ΔW of one module as .npy, in the Hugging Face layout
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre delta --adapter assets/adapters/devil --model smollm2.gguf --module model.layers.3.self_attn.q_proj --out delta.npy"
)]
pub struct Delta {
    /// The adapter: a PEFT directory or a .safetensors file
    #[arg(long, value_name = "A")]
    adapter: PathBuf,
    /// The model, where the adapter's file does not carry shapes
    #[arg(long, value_name = "M.gguf")]
    model: Option<PathBuf>,
    /// The module's path in the Hugging Face model
    #[arg(long, value_name = "NAME")]
    module: String,
    /// How it is computed
    #[arg(long, value_enum, default_value = "cpu")]
    backend: Reconstruction,
    /// The GPU to use, by a part of its name; `timbre devices` lists them
    #[arg(long, value_name = "NAME")]
    gpu_adapter: Option<String>,
    /// Threads [default: one a fast core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// The file to write
    #[arg(long, value_name = "ΔW.npy")]
    out: PathBuf,
    /// Print {"module","rows","cols","frobenius","ms"}
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reconstruction {
    /// The fast way: FourierFT's transform, LoRA's product.
    Cpu,
    /// On a GPU.
    Gpu,
    /// The defining sum, in f64.
    Naive,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    module: &'a str,
    rows: usize,
    cols: usize,
    frobenius: f64,
    ms: f64,
}

impl Delta {
    pub fn run(self) -> Outcome {
        let file = AdapterFile::load(&self.adapter)?;
        let model = self.model.as_ref().map(|path| Model::open(path, &ModelOptions::default())).transpose()?;
        if model.is_none() && file.modules().any(|module| file.shape_of(module).is_none()) {
            let name = self.adapter.display();
            return Err(format!("{name} carries no shapes: name the base it was trained on with --model").into());
        }
        let adapter = file.resolve(&PlanCache::new(), |module| match &model {
            Some(model) => model.module_shape(module),
            None => file.shape_of(module),
        })?;
        let delta = adapter.get(&self.module).ok_or_else(|| {
            let known: Vec<&str> = adapter.modules().map(|(name, _)| name).take(4).collect();
            format!("the adapter has no module {:?}; it has {} and more", self.module, known.join(", "))
        })?;
        if self.gpu_adapter.is_some() && self.backend != Reconstruction::Gpu {
            return Err(Usage("--gpu-adapter goes with --backend gpu".to_owned()).into());
        }
        let threads = self.threads.map_or_else(|| Cores::of_this_thread().threads(), usize::from);
        let begin = std::time::Instant::now();
        let on_cpu = || delta.dense(&Transforms::new(), threads);
        let data = match self.backend {
            Reconstruction::Cpu => on_cpu(),
            Reconstruction::Gpu => match on_gpu(&**delta, self.gpu_adapter.as_deref())? {
                Some(data) => data,
                None => on_cpu(),
            },
            Reconstruction::Naive => {
                let sum = match (delta.as_fourier(), delta.as_lora()) {
                    (Some(fourier), _) => naive::delta(fourier.entries(), &fourier.coefficients(), fourier.alpha())?,
                    (None, Some(lora)) => lora.naive(),
                    (None, None) => return Err("there is no naive sum for a module of this kind".into()),
                };
                sum.into_iter().map(|v| v as f32).collect()
            }
        };
        let ms = begin.elapsed().as_secs_f64() * 1e3;
        let (rows, cols) = (delta.shape().rows(), delta.shape().cols());
        npy::write(&self.out, rows, cols, &data).map_err(|e| format!("{}: {e}", self.out.display()))?;
        let frobenius = data.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if self.json {
            return output::json(&Report { module: &self.module, rows, cols, frobenius, ms });
        }
        output::line(&format!("{}: {rows} × {cols}, Frobenius norm {frobenius:.6}, {ms:.2} ms", self.module))
    }
}

/// The change, made on a GPU; `None`, and why on stderr, where the CPU has to.
#[cfg(feature = "gpu")]
fn on_gpu(delta: &dyn Change, name: Option<&str>) -> Outcome<Option<Vec<f32>>> {
    let gpu = crate::gpu::open(name)?;
    match timbre::adapter::dense_on_gpu(delta, &gpu) {
        Ok(Some(data)) => {
            eprintln!("[computed on {}]", gpu.info().name);
            Ok(Some(data))
        }
        Ok(None) => {
            eprintln!("[computed on the CPU: no GPU kernel makes changes of this kind]");
            Ok(None)
        }
        Err(error @ timbre::gpu::GpuError::SelfTest { .. }) => {
            eprintln!("[computed on the CPU: {error}]");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(feature = "gpu"))]
fn on_gpu(_: &dyn Change, _: Option<&str>) -> Outcome<Option<Vec<f32>>> {
    Err("this build has no GPU backend: use --backend cpu or naive".into())
}

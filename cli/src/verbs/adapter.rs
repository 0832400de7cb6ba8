//! `timbre adapter`: look at adapter files, convert and mix them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use timbre::adapter::{AdapterError, AdapterFile, AdapterSummary, ChangeSummary};
use timbre::model::{Model, ModelOptions};

use crate::args::WeightedPath;
use crate::output::{self, Outcome, Usage};

/// Inspect, convert and mix adapter files
#[derive(Subcommand)]
#[command(after_help = "Example:\n  timbre adapter inspect assets/adapters/devil")]
pub enum AdapterVerb {
    Inspect(Inspect),
    Convert(Convert),
    Mix(Mix),
}

impl AdapterVerb {
    pub fn run(self) -> Outcome {
        match self {
            Self::Inspect(verb) => verb.run(),
            Self::Convert(verb) => verb.run(),
            Self::Mix(verb) => verb.run(),
        }
    }
}

/// Show what an adapter's file holds
#[derive(Args)]
#[command(after_help = "Example:\n  timbre adapter inspect assets/adapters/devil")]
pub struct Inspect {
    /// A PEFT directory or a .safetensors file
    adapter: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Inspect {
    fn run(self) -> Outcome {
        let summary = AdapterFile::load(&self.adapter)?.summary();
        if self.json { output::json(&summary) } else { print(&summary) }
    }
}

fn print(summary: &AdapterSummary) -> Outcome {
    let unknown = || "not named".to_owned();
    output::line(&format!("kind        {}", summary.kind))?;
    output::line(&format!("base        {}", summary.base_model.clone().unwrap_or_else(unknown)))?;
    output::line(&format!("fingerprint {}", summary.base.clone().unwrap_or_else(unknown)))?;
    output::line(&format!("parameters  {} ({})", summary.parameters, output::bytes(summary.bytes as u64)))?;
    output::line(&format!("modules     {}", summary.modules.len()))?;
    for module in &summary.modules {
        let shape = module.shape.map_or("shape from the base".to_owned(), |(rows, cols)| format!("{rows} × {cols}"));
        let change = match &module.change {
            ChangeSummary::Fourier { n, alpha, entries } => format!("n {n}, α {alpha}, {entries}"),
            ChangeSummary::Lora { rank, alpha, rank_stabilized, .. } => {
                format!("rank {rank}, α {alpha}{}", if *rank_stabilized { ", rank-stabilized" } else { "" })
            }
        };
        output::line(&format!("  {}: {shape}, {change}", module.name))?;
    }
    Ok(())
}

/// The base an adapter is written for.
#[derive(Args)]
struct BaseArg {
    /// The base model: its shapes and fingerprint are written into a .safetensors file
    #[arg(long, value_name = "M.gguf")]
    model: Option<PathBuf>,
}

impl BaseArg {
    fn open(&self) -> Outcome<Base> {
        let open = |path| Model::open(path, &ModelOptions::default());
        Ok(Base(self.model.as_ref().map(open).transpose()?))
    }
}

/// The base, where one was named.
struct Base(Option<Arc<Model>>);

impl Base {
    /// The file with what the base adds to it; refused where it does not fit.
    fn complete(&self, file: AdapterFile) -> Outcome<AdapterFile> {
        let Some(model) = &self.0 else { return Ok(file) };
        let adapter = file.resolve(model.plans(), |module| model.module_shape(module))?;
        adapter.check_base(model.gguf().fingerprint())?;
        Ok(adapter.with_base(model.gguf().fingerprint()).to_file()?)
    }
}

/// A form an adapter is written in, and where.
enum Target<'a> {
    Single { path: &'a Path, f16: bool },
    Peft { path: &'a Path },
}

impl<'a> Target<'a> {
    /// The form that the name asks for.
    fn new(path: &'a Path, f16: bool) -> Result<Self, Usage> {
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) {
            return Ok(Self::Single { path, f16 });
        }
        if f16 {
            let name = path.display();
            return Err(Usage(format!(
                "--f16 is for .safetensors files: {name} would be a PEFT directory, which holds f32"
            )));
        }
        Ok(Self::Peft { path })
    }

    fn save(&self, file: &AdapterFile) -> Result<(), AdapterError> {
        match *self {
            Self::Single { path, f16 } => file.save_single(path, f16),
            Self::Peft { path } => file.save_peft(path),
        }
    }
}

/// Write an adapter in the other form: OUT ending in .safetensors is a single file, else a PEFT directory
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre adapter convert assets/adapters/devil devil.safetensors --model smollm2.gguf --f16"
)]
pub struct Convert {
    /// A PEFT directory or a .safetensors file
    adapter: PathBuf,
    /// What to write
    out: PathBuf,
    #[command(flatten)]
    base: BaseArg,
    /// Store numbers as f16 (single files only)
    #[arg(long)]
    f16: bool,
}

impl Convert {
    fn run(self) -> Outcome {
        let target = Target::new(&self.out, self.f16)?;
        let file = self.base.open()?.complete(AdapterFile::load(&self.adapter)?)?;
        Ok(target.save(&file)?)
    }
}

/// Write the weighted sum of adapters as one
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre adapter mix assets/adapters/devil=0.5 assets/adapters/kjv=0.5 mixed.safetensors"
)]
pub struct Mix {
    /// Adapters with their weights, then what to write
    #[arg(required = true, num_args = 2.., value_name = "A[=WEIGHT]... OUT")]
    parts: Vec<String>,
    #[command(flatten)]
    base: BaseArg,
    /// Store numbers as f16 (single files only)
    #[arg(long)]
    f16: bool,
}

impl Mix {
    fn run(self) -> Outcome {
        let (out, parts) = self.parts.split_last().ok_or("nothing to mix")?;
        let target = Target::new(Path::new(out), self.f16)?;
        let base = self.base.open()?;
        let mut files = Vec::new();
        for part in parts {
            let WeightedPath { path, weight } = part.parse().map_err(|error| Usage(format!("{part}: {error}")))?;
            files.push((base.complete(AdapterFile::load(&path)?)?, weight));
        }
        let mixed = AdapterFile::mix(&files).map_err(|error| match error {
            AdapterError::ShapeUnknown { .. } => format!("{error}: name it with --model"),
            _ => error.to_string(),
        })?;
        Ok(target.save(&mixed)?)
    }
}

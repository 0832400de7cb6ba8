//! `timbre merge`: adapters into a GGUF of their own.

use std::path::PathBuf;

use clap::Args;
use timbre::merge::{MergeOptions, MergeReport, Storage};

use crate::args::{AdapterArgs, ModelArgs};
use crate::output::{self, Outcome, Usage};
use crate::progress::Progress;

/// Add adapters to the weights and write a plain GGUF that any runtime loads
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre merge --model smollm2.gguf --adapter assets/adapters/devil --out devil.gguf"
)]
pub struct Merge {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// The file to write
    #[arg(long, value_name = "merged.gguf")]
    out: PathBuf,
    /// Round adapted tensors back to the type they had instead of storing them as F16
    #[arg(long)]
    keep_type: bool,
    /// Print one JSON object with the error of every tensor
    #[arg(long)]
    json: bool,
}

impl Merge {
    pub fn run(self) -> Outcome {
        if self.adapters.adapters.is_empty() {
            return Err(Usage("nothing to merge: name at least one --adapter".into()).into());
        }
        self.model.run.refuse_gpu("merging")?;
        let model = self.model.open()?;
        let adapters = self.adapters.load(&model)?;
        let storage = if self.keep_type { Storage::Keep } else { Storage::F16 };
        let options = MergeOptions { storage, threads: model.compute().threads() };
        let progress = Progress::bytes("merging", model.gguf().file_len() as u64);
        let report = model.merge(&adapters, &self.out, &options, |done, total| {
            progress.set_total(total);
            progress.set(done);
            true
        })?;
        drop(progress);
        if self.json { output::json(&report) } else { self.print(&report) }
    }

    fn print(&self, report: &MergeReport) -> Outcome {
        let lost = report.tensors.iter().map(|t| t.error_over_delta).fold(0.0, f64::max);
        output::line(&format!("{}: {} tensors adapted", self.out.display(), report.tensors.len()))?;
        output::line(&format!(
            "rounding error: at most {:.2e} absolute, {:.2e} of a tensor's size, {:.2} % of a change's size",
            report.max_abs_error(),
            report.max_relative_error(),
            lost * 100.0
        ))
    }
}

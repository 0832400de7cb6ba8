//! `timbre devices`: what this machine has and what would be used.

use clap::Args;
use timbre::kernels::{Cores, KernelChoice, cpu_features, detected_tiers};

use crate::output::{self, Outcome};

/// Show CPU features and which kernels are chosen
#[derive(Args)]
#[command(after_help = "Example:\n  timbre devices")]
pub struct Devices {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report {
    architecture: &'static str,
    cores: usize,
    threads: usize,
    features: Vec<&'static str>,
    tiers: Vec<String>,
    kernels: String,
    gpus: Vec<String>,
}

impl Devices {
    pub fn run(self) -> Outcome {
        let cores = Cores::of_this_thread();
        let report = Report {
            architecture: std::env::consts::ARCH,
            cores: cores.allowed().len(),
            threads: cores.threads(),
            features: cpu_features(),
            tiers: detected_tiers().iter().map(ToString::to_string).collect(),
            kernels: KernelChoice::Auto.resolve()?.to_string(),
            gpus: Vec::new(),
        };
        if self.json {
            return output::json(&report);
        }
        output::line(&format!(
            "CPU      {}, {} cores, {} threads by default",
            report.architecture, report.cores, report.threads
        ))?;
        output::line(&format!("features {}", report.features.join(" ")))?;
        output::line(&format!("kernels  {} (of {})", report.kernels, report.tiers.join(", ")))?;
        output::line("GPU      none: this build has no GPU backend")
    }
}

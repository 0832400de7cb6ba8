//! `timbre devices`: what this machine has and what would be used.

use clap::Args;
use timbre::kernels::{Cores, KernelChoice, cpu_features, detected_tiers};

use crate::output::{self, Outcome};

/// Show CPU features, GPUs and which kernels are chosen; GPU kernels are tried out the first time
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
    gpus: Vec<GpuReport>,
}

/// A GPU, its limits in bytes, which of its optional features are used, and for each kernel `passed` or why the CPU takes its place.
#[derive(serde::Serialize)]
struct GpuReport {
    name: String,
    backend: String,
    kind: &'static str,
    driver: String,
    f16: bool,
    subgroup: Option<(u32, u32)>,
    timestamps: bool,
    max_buffer: u64,
    max_binding: u64,
    max_shared: u32,
    max_threads: u32,
    uses: Vec<String>,
    kernels: serde_json::Map<String, serde_json::Value>,
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
            gpus: gpus(),
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
        if report.gpus.is_empty() {
            let built = if cfg!(feature = "gpu") { "none found" } else { "none: this build has no GPU backend" };
            return output::line(&format!("GPU      {built}"));
        }
        report.gpus.iter().try_for_each(GpuReport::show)
    }
}

impl GpuReport {
    fn show(&self) -> Outcome {
        output::line(&format!("GPU      {} ({}, {}, {})", self.name, self.backend, self.kind, self.driver))?;
        let mut features = Vec::new();
        if self.f16 {
            features.push("f16".to_owned());
        }
        if let Some((least, most)) = self.subgroup {
            features.push(if least == most { format!("subgroup {most}") } else { format!("subgroup {least}-{most}") });
        }
        if self.timestamps {
            features.push("timestamps".to_owned());
        }
        output::line(&format!(
            "features {}",
            if features.is_empty() { "none".to_owned() } else { features.join(", ") }
        ))?;
        output::line(&format!(
            "limits   {} a buffer, {} a binding, {} shared by up to {} threads",
            output::bytes(self.max_buffer),
            output::bytes(self.max_binding),
            output::bytes(self.max_shared.into()),
            self.max_threads
        ))?;
        let uses = if self.uses.is_empty() { "none".to_owned() } else { self.uses.join(", ") };
        output::line(&format!("uses     {uses}"))?;
        let passed: Vec<&str> =
            self.kernels.iter().filter(|(_, verdict)| *verdict == "passed").map(|(name, _)| name.as_str()).collect();
        if !passed.is_empty() {
            output::line(&format!("kernels  {}: tried against the CPU, right", passed.join(", ")))?;
        }
        for (name, verdict) in self.kernels.iter().filter(|(_, verdict)| *verdict != "passed") {
            output::line(&format!(
                "kernels  {name}: the CPU takes its place ({})",
                verdict.as_str().unwrap_or_default()
            ))?;
        }
        Ok(())
    }
}

#[cfg(feature = "gpu")]
fn gpus() -> Vec<GpuReport> {
    use timbre::gpu::{Gpu, Verdict, trials};

    let report = |info: timbre::gpu::GpuInfo| {
        let (mut kernels, mut uses) = (serde_json::Map::new(), Vec::new());
        match crate::gpu::open(Some(&info.name)) {
            Ok(gpu) => {
                let (mut with, mut without) = (0, Vec::new());
                for trial in trials::all().chain(timbre::model::gpu::trials()) {
                    let verdict = match gpu.verdict(trial) {
                        Ok(Verdict::Passed) => "passed".to_owned(),
                        Ok(Verdict::Failed(why)) => why,
                        Err(error) => error.to_string(),
                    };
                    kernels.insert(trial.name.to_owned(), verdict.into());
                    let shaders = || trial.shaders.iter().filter(|shader| shader.reduces);
                    if shaders().any(|shader| gpu.uses_subgroups(shader)) {
                        with += 1;
                    } else if shaders().next().is_some() {
                        without.push(trial.name);
                    }
                }
                if with > 0 {
                    let but =
                        if without.is_empty() { String::new() } else { format!(" but for {}", without.join(" and ")) };
                    uses.push(format!("subgroups{but}"));
                }
                uses.extend(gpu.info().timestamps.then(|| "timestamps".to_owned()));
                uses.extend(gpu.kernel_bytes_found().map(|_| "a cache of compiled kernels".to_owned()));
            }
            Err(error) => {
                kernels.insert("all".to_owned(), error.to_string().into());
            }
        }
        GpuReport {
            name: info.name,
            backend: info.backend,
            kind: info.kind,
            driver: info.driver,
            f16: info.f16,
            subgroup: info.subgroup,
            timestamps: info.timestamps,
            max_buffer: info.max_buffer,
            max_binding: info.max_binding,
            max_shared: info.max_shared,
            max_threads: info.max_threads,
            uses,
            kernels,
        }
    };
    Gpu::adapters().into_iter().map(report).collect()
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Vec<GpuReport> {
    Vec::new()
}

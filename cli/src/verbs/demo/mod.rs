//! `timbre demo`: one prompt, three voices, and what each swap and token cost; then a voice learnt on the spot.

mod learn;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use timbre::memory::MemorySplit;
use timbre::model::ActiveAdapters;
use timbre::session::{GenerateOptions, Session, SwapPolicy};

use crate::args::RunArgs;
use crate::output::{self, Outcome};

/// Fetch a small base once, swap adapters live, show the cost
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre demo\n  TIMBRE_MODEL=smollm2.gguf timbre demo --prompt \"Define: hope\"\n  timbre demo --learn"
)]
pub struct Demo {
    #[command(flatten)]
    run: RunArgs,
    /// What to answer
    #[arg(long, value_name = "TEXT", default_value = "Define: love")]
    prompt: String,
    /// Most tokens of a reply
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 48)]
    tokens: usize,
    /// Then learn from 200 short texts for so long, and answer again
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60", value_parser = learn::seconds)]
    learn: Option<f64>,
}

/// An adapter that travels inside the command: a PEFT directory's two files.
struct Bundled {
    name: &'static str,
    about: &'static str,
    config: &'static [u8],
    weights: &'static [u8],
}

macro_rules! bundled {
    ($name:literal, $about:literal) => {
        Bundled {
            name: $name,
            about: $about,
            config: include_bytes!(concat!("../../../../assets/adapters/", $name, "/adapter_config.json")),
            weights: include_bytes!(concat!("../../../../assets/adapters/", $name, "/adapter_model.safetensors")),
        }
    };
}

const ADAPTERS: [Bundled; 2] = [
    bundled!("devil", "tuned on Ambrose Bierce's The Devil's Dictionary"),
    bundled!("kjv", "tuned on the prose of the King James Bible"),
];

impl Bundled {
    /// Writes the PEFT directory, so that the demo loads what any user would.
    fn unpack(&self, folder: &Path) -> std::io::Result<PathBuf> {
        let path = folder.join(self.name);
        std::fs::create_dir_all(&path)?;
        std::fs::write(path.join("adapter_config.json"), self.config)?;
        std::fs::write(path.join("adapter_model.safetensors"), self.weights)?;
        Ok(path)
    }
}

impl Demo {
    pub fn run(self) -> Outcome {
        let path = match std::env::var_os("TIMBRE_MODEL").filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => crate::fetch::smollm2()?,
        };
        let begin = Instant::now();
        let model = self.run.open(&path)?;
        model.tokenizer()?;
        let mut session = self.run.session(&model, ActiveAdapters::none())?;
        output::line(&format!(
            "{}: {} mapped, ready in {:.0} ms; {} threads, {} kernels\n",
            model.info().name,
            output::bytes(model.info().file_bytes as u64),
            begin.elapsed().as_secs_f64() * 1e3,
            model.compute().threads(),
            model.compute().tier()
        ))?;

        let folder = tempfile::tempdir()?;
        let mut loaded = Vec::new();
        for bundled in &ADAPTERS {
            let path = bundled.unpack(folder.path())?;
            let begin = Instant::now();
            let bound = model
                .load_adapter(&path)
                .map_err(|error| format!("{error} (the demo's adapters were tuned on SmolLM2-135M-Instruct)"))?;
            output::line(&format!(
                "adapter {}: {} modules, {} coefficients, loaded in {:.2} ms - {}",
                bundled.name,
                bound.modules(),
                bound.adapter().parameters(),
                begin.elapsed().as_secs_f64() * 1e3,
                bundled.about
            ))?;
            loaded.push((bundled.name, bound));
        }

        output::line(&format!("\nprompt: {}", self.prompt))?;
        let prompt = super::run::chat_prompt(&session, &self.prompt)?;
        let mut costs = vec![self.answer(&mut session, &prompt, "base", ActiveAdapters::none())?];
        for (name, bound) in &loaded {
            let active = ActiveAdapters::new(vec![(bound.clone(), 1.0)])?;
            costs.push(self.answer(&mut session, &prompt, name, active)?);
        }
        let again = self.answer(&mut session, &prompt, "base", ActiveAdapters::none())?;
        let back = if again.text == costs[0].text { "word for word" } else { "differently" };
        costs.push(again);

        output::line(&format!("\nthe base answers {back} as before the swaps\n"))?;
        output::line("voice     swap        prefill        decode          a token")?;
        for cost in &costs {
            output::line(&format!(
                "{:<8} {:>6.1} µs {:>8.0} tok/s {:>8.1} tok/s {:>9.2} ms",
                cost.name,
                cost.swap_us,
                cost.prefill_tps,
                cost.decode_tps,
                1e3 / cost.decode_tps
            ))?;
        }
        match MemorySplit::of_this_process() {
            Ok(m) => output::line(&format!(
                "\nmemory: {} anonymous (KV cache, activations, adapters), {} file-backed (the mapped model, the program)",
                output::bytes(m.anon_bytes),
                output::bytes(m.file_bytes)
            ))?,
            Err(error) => output::line(&format!("\nmemory: {error}"))?,
        }
        if let Some(seconds) = self.learn {
            let learnt = learn::from_short_texts(&model, folder.path(), seconds)?;
            output::line(&format!("\nprompt: {}", self.prompt))?;
            self.answer(&mut session, &prompt, "before", ActiveAdapters::none())?;
            self.answer(&mut session, &prompt, "after", ActiveAdapters::new(vec![(learnt, 1.0)])?)?;
        }
        Ok(())
    }

    /// Swaps to `adapters` and answers the prompt, printing as it comes.
    fn answer(
        &self,
        session: &mut Session,
        prompt: &[u32],
        name: &'static str,
        adapters: ActiveAdapters,
    ) -> Outcome<Cost> {
        session.set_adapters(adapters, SwapPolicy::Recompute)?;
        let swap_us = session.swap_us();
        session.clear();
        session.set_tokens(prompt);
        output::piece(&format!("\n[{name}] "))?;
        let options = GenerateOptions { max_tokens: self.tokens, ..GenerateOptions::default() };
        let mut generation = session.generate(options)?;
        let mut text = String::new();
        while let Some(piece) = generation.next_piece()? {
            output::piece(piece)?;
            text.push_str(piece);
        }
        output::line("")?;
        let stats = generation.stats();
        Ok(Cost { name, swap_us, prefill_tps: stats.prefill_rate(), decode_tps: stats.decode_rate(), text })
    }
}

/// What one voice cost.
struct Cost {
    name: &'static str,
    swap_us: f64,
    prefill_tps: f64,
    decode_tps: f64,
    text: String,
}

//! One measurement of candle-transformers in a process of its own, printed as one JSON object with the fields of
//! `llama_cpp_once.py`:
//!
//! ```text
//! RAYON_NUM_THREADS=2 CANDLE_NUM_THREADS=2 candle_once --model M.gguf -p 512 -g 128
//! ```
//!
//! Built by a plain `cargo build --release`, like Timbre: candle chooses its AVX2 and NEON kernels when it is compiled
//! (`-C target-cpu`), so a binary that runs on every CPU of its architecture has the portable ones. candle takes the number of
//! threads from the environment, before it computes anything. Its KV cache is f32 and grows with the sequence.

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::quantized::gguf_file;
use candle_core::utils::get_num_threads;
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_gemma3, quantized_llama};
use serde_json::json;
use timbre::memory::{MemorySplit, PeakAnon};

/// How often memory is sampled for its peak, as in `timbre bench`.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);

enum Model {
    Llama(quantized_llama::ModelWeights),
    Gemma3(quantized_gemma3::ModelWeights),
}

impl Model {
    /// The model and the size of its vocabulary.
    fn open(path: &Path) -> Result<(Self, usize), Box<dyn Error>> {
        let mut file = File::open(path)?;
        let content = gguf_file::Content::read(&mut file)?;
        let vocab = content.tensor_infos.get("token_embd.weight").ok_or("no embedding")?.shape.dim(0)?;
        let architecture = content.metadata.get("general.architecture").ok_or("no architecture")?.to_string()?.clone();
        let device = Device::Cpu;
        let model = match architecture.as_str() {
            "llama" => Self::Llama(quantized_llama::ModelWeights::from_gguf(content, &mut file, &device)?),
            "gemma3" => Self::Gemma3(quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &device)?),
            other => return Err(format!("no candle model is wired here for architecture {other:?}").into()),
        };
        Ok((model, vocab))
    }

    /// Logits after `tokens` at `position`; position 0 begins anew.
    fn forward(&mut self, tokens: &[u32], position: usize) -> candle_core::Result<Vec<f32>> {
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Llama(model) => model.forward(&input, position)?,
            Self::Gemma3(model) => model.forward(&input, position)?,
        };
        logits.flatten_all()?.to_vec1()
    }

    /// Tokens a second of the prompt.
    fn prefill(&mut self, prompt: &[u32]) -> candle_core::Result<f64> {
        let begin = Instant::now();
        self.forward(prompt, 0)?;
        Ok(prompt.len() as f64 / begin.elapsed().as_secs_f64())
    }

    /// Tokens a second of `n` single tokens after a first one that is not counted: the tokens that the others are given, so that
    /// all do the same work.
    fn decode(&mut self, prompt: &[u32], n: usize) -> candle_core::Result<f64> {
        self.forward(&prompt[..1], 0)?;
        let begin = Instant::now();
        for i in 1..=n {
            self.forward(&[prompt[i % prompt.len()]], i)?;
        }
        Ok(n as f64 / begin.elapsed().as_secs_f64())
    }
}

/// The value after `name` on the command line.
fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

fn count(name: &str, default: usize) -> Result<usize, Box<dyn Error>> {
    match argument(name).map_or(Ok(default), |text| text.parse()) {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(format!("{name} takes a count above 0").into()),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = argument("--model").ok_or("usage: candle_once --model M.gguf [-p 512] [-g 128]")?;
    let (p, g) = (count("-p", 512)?, count("-g", 128)?);
    let peak = PeakAnon::start(SAMPLE_EVERY)?;
    let begin = Instant::now();
    let (mut model, vocab) = Model::open(Path::new(&path))?;
    let load_ms = begin.elapsed().as_secs_f64() * 1e3;
    let tokens: Vec<u32> =
        (1..=p as u64).map(|i| ((i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16) % vocab as u64) as u32).collect();
    // A short first round warms up: it starts the threads, and a whole one would take minutes.
    model.prefill(&tokens[..p.min(16)])?;
    model.decode(&tokens, g.min(4))?;
    let (pp_tps, tg_tps) = (model.prefill(&tokens)?, model.decode(&tokens, g)?);
    let held = MemorySplit::of_this_process()?.anon_bytes;
    let peak = peak.stop()?;
    println!(
        "{}",
        json!({
            "load_ms": load_ms, "pp_tps": pp_tps, "tg_tps": tg_tps, "anon_bytes": held, "peak_anon_bytes": peak,
            "threads": get_num_threads(),
        })
    );
    Ok(())
}

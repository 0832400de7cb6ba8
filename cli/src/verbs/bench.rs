//! `timbre bench`: prefill and decode rates, load, swap and memory of one model on this machine.

mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use timbre::kernels::ceiling;
use timbre::memory::{MemorySplit, PeakAnon};
use timbre::model::{ActiveAdapters, Backend, BoundAdapter, Decoder, Linear, LinearKind, Model};
use timbre::session::{CancelHandle, DeviceMemory, Session, SwapPolicy};

use crate::args::{ModelArgs, WeightedPath};
use crate::output::{self, Outcome};
use turns::AdapterCost;

/// Measure prefill and decode rates, load and swap times and memory
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre bench --model smollm2.gguf --adapter assets/adapters/devil -p 512 -g 128 -r 5 -t 2 --json"
)]
pub struct Bench {
    #[command(flatten)]
    model: ModelArgs,
    /// Adapter that is active meanwhile
    #[arg(long, value_name = "A[=WEIGHT]")]
    adapter: Option<WeightedPath>,
    /// Tokens of the prompt
    #[arg(short, long = "prompt-tokens", value_name = "N", default_value_t = 512, value_parser = positive)]
    prompt: usize,
    /// Tokens generated
    #[arg(short, long = "generate", value_name = "N", default_value_t = 128, value_parser = positive)]
    generate: usize,
    /// Repetitions counted, after one that is not
    #[arg(short, long = "repetitions", value_name = "N", default_value_t = 5, value_parser = positive)]
    repetitions: usize,
    /// Measure what the adapter costs too, by turns with a session without it: so many tokens of each, and prompts
    #[arg(long, value_name = "TOKENS", requires = "adapter", value_parser = positive)]
    turns: Option<usize>,
    /// Measure this machine's read bandwidth and int8 rate too, and the shares of them that are reached (takes a second)
    #[arg(long)]
    ceilings: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1_000_000) => Ok(n),
        _ => Err(format!("{text:?} is not a count from 1 to 1000000")),
    }
}

/// Tokens a second over the repetitions.
#[derive(serde::Serialize)]
struct Rate {
    n: usize,
    tps_median: f64,
    tps_mean: f64,
    tps_sd: f64,
}

impl Rate {
    fn new(n: usize, times: &[Duration]) -> Self {
        let rates: Vec<f64> = times.iter().map(|t| n as f64 / t.as_secs_f64()).collect();
        let mean = rates.iter().sum::<f64>() / rates.len() as f64;
        // Sample standard deviation; a single repetition has none.
        let squares: f64 = rates.iter().map(|r| (r - mean).powi(2)).sum();
        let sd = (squares / (rates.len().max(2) - 1) as f64).sqrt();
        Self { n, tps_median: median(rates), tps_mean: mean, tps_sd: sd }
    }
}

#[derive(serde::Serialize)]
struct Memory {
    anon_bytes: u64,
    file_bytes: u64,
    huge_bytes: u64,
    kv_bytes: usize,
    peak_anon_bytes: u64,
}

#[derive(serde::Serialize)]
struct Report {
    model: String,
    adapter: Option<String>,
    threads: usize,
    kernels: String,
    activations: &'static str,
    backend: Backend,
    /// The GPU that ran it.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<String>,
    load_ms: f64,
    ttft_ms: f64,
    adapter_load_us: Option<f64>,
    swap_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter_cost: Option<AdapterCost>,
    pp: Rate,
    tg: Rate,
    memory: Option<Memory>,
    /// Bytes on the GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_memory: Option<DeviceMemory>,
    /// Milliseconds on the GPU, by kind of step, of one batch of the prompt and of one token.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_ms: Option<DeviceTimes>,
    /// How the GPU applies adapters, and the times it was chosen by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    adapter_paths: Vec<String>,
    weight_bytes_per_token: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ceilings: Option<Ceilings>,
}

/// Kinds of steps, and the milliseconds each took on the GPU.
#[derive(serde::Serialize)]
struct DeviceTimes {
    pp: Vec<(String, f64)>,
    tg: Vec<(String, f64)>,
}

impl DeviceTimes {
    /// After the session has generated; `None` where no GPU runs, or it does not tell.
    fn measure(session: &mut Session, prompt: &[u32]) -> Outcome<Option<Self>> {
        let tg = session.device_times()?;
        session.clear();
        session.push(prompt);
        let pp = session.device_times()?;
        Ok((!pp.is_empty()).then_some(Self { pp, tg }))
    }
}

/// What the machine can do, and how much of it was done.
#[derive(serde::Serialize)]
struct Ceilings {
    /// Bytes a second that the threads read from memory.
    read_bytes_per_s: f64,
    /// Weight bytes a second that decoding reads, as a share of them.
    decode_read_share: f64,
    /// int8 operations a second, a multiplication and an addition counted as one each.
    int8_ops_per_s: f64,
    /// Operations a second of the prompt's products with weights, counted once whatever the kernels make of them.
    prefill_ops_per_s: f64,
    /// The latter as a share of the former.
    prefill_int8_share: f64,
}

impl Ceilings {
    fn measure(model: &Model, pp: &Rate, tg: &Rate) -> Self {
        let compute = model.compute();
        let (read, int8) = (ceiling::read_bandwidth(compute.pool()), ceiling::int8_rate(compute));
        let decoder = model.decoder();
        let size = |linear: &Linear| 2.0 * linear.shape().0 as f64 * linear.shape().1 as f64;
        // The head takes part once a prompt.
        let layers: f64 = linears(decoder).map(size).sum();
        let prefill = (layers + size(&decoder.head) / pp.n as f64) * pp.tps_median;
        Self {
            read_bytes_per_s: read,
            decode_read_share: weight_bytes(decoder) as f64 * tg.tps_median / read,
            int8_ops_per_s: int8,
            prefill_ops_per_s: prefill,
            prefill_int8_share: prefill / int8,
        }
    }
}

/// The linear layers of every decoder layer.
fn linears(decoder: &Decoder) -> impl Iterator<Item = &Linear> {
    decoder.layers.iter().flat_map(|layer| LinearKind::ALL.map(|kind| layer.linear(kind)))
}

/// Bytes of the matrices that one token is multiplied by: all but the embedding's other rows and the norms.
fn weight_bytes(decoder: &Decoder) -> u64 {
    linears(decoder).chain([&decoder.head]).map(|linear| linear.bytes() as u64).sum()
}

/// The middle value, the mean of the two middle ones for an even count.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

fn us(times: &[Duration]) -> f64 {
    median(times.iter().map(|t| t.as_secs_f64() * 1e6).collect())
}

/// How often memory is sampled for its peak.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);

impl Bench {
    pub fn run(mut self) -> Outcome {
        // The context must hold whichever of the two runs is longer.
        let needed = self.prompt.max(self.generate + 1) as u32;
        self.model.run.ctx = Some(self.model.run.ctx.unwrap_or(needed).max(needed));
        let peak = PeakAnon::start(SAMPLE_EVERY).ok();

        let begin = Instant::now();
        let model = self.model.open()?;
        model.tokenizer()?;
        let mut session = self.model.run.session(&model, ActiveAdapters::none())?;
        let load_ms = begin.elapsed().as_secs_f64() * 1e3;

        let adapter = self.adapter.as_ref().map(|a| self.load_adapter(&model, a)).transpose()?;
        let (mut adapter_load_us, mut swap_us) = (None, None);
        if let Some((bound, weight, load)) = &adapter {
            adapter_load_us = Some(us(load));
            swap_us = Some(us(&self.swaps(&mut session, bound, *weight)?));
        }
        let prompt = tokens(&model, self.prompt);
        let (mut prefills, mut decodes) = (Vec::new(), Vec::new());
        for repetition in 0..=self.repetitions {
            let prefill = prefill(&mut session, &prompt)?;
            let decode = decode(&mut session, &prompt, self.generate)?;
            if repetition > 0 {
                prefills.push(prefill);
                decodes.push(decode);
            }
        }
        let device_ms = DeviceTimes::measure(&mut session, &prompt)?;
        let memory = match (MemorySplit::of_this_process(), peak.map(PeakAnon::stop)) {
            (Ok(split), Some(Ok(peak_anon_bytes))) => Some(Memory {
                anon_bytes: split.anon_bytes,
                file_bytes: split.file_bytes,
                huge_bytes: split.huge_bytes,
                kv_bytes: session.kv_bytes(),
                peak_anon_bytes,
            }),
            _ => None,
        };
        let (pp, tg) = (Rate::new(self.prompt, &prefills), Rate::new(self.generate, &decodes));
        // After memory, for these take a session and a buffer of their own.
        let adapter_cost = self.turns.map(|turns| self.cost(&model, &mut session, &prompt, turns)).transpose()?;
        let ceilings = self.ceilings.then(|| Ceilings::measure(&model, &pp, &tg));
        let report = Report {
            model: model.info().name,
            adapter: self.adapter.map(|a| a.path.display().to_string()),
            threads: model.compute().threads(),
            kernels: model.compute().tier().to_string(),
            activations: model.compute().activations().name(),
            backend: session.backend(),
            gpu: session.gpu_name().map(str::to_owned),
            load_ms,
            ttft_ms: us(&prefills) / 1e3,
            adapter_load_us,
            swap_us,
            adapter_cost,
            pp,
            tg,
            memory,
            device_memory: session.device_memory(),
            device_ms,
            adapter_paths: session.adapter_paths(),
            weight_bytes_per_token: weight_bytes(model.decoder()),
            ceilings,
        };
        if self.json { output::json(&report) } else { report.print() }
    }

    /// What the adapter of `session` costs.
    fn cost(&self, model: &Arc<Model>, session: &mut Session, prompt: &[u32], turns: usize) -> Outcome<AdapterCost> {
        let mut without = self.model.run.session(model, ActiveAdapters::none())?;
        AdapterCost::measure([&mut without, session], prompt, self.generate, turns)
    }

    /// The adapter, its weight, and how long each of several loads took.
    fn load_adapter(&self, model: &Model, a: &WeightedPath) -> Outcome<(Arc<BoundAdapter>, f32, Vec<Duration>)> {
        let mut times = Vec::new();
        let mut bound = None;
        for _ in 0..self.repetitions {
            let begin = Instant::now();
            bound = Some(model.load_adapter(&a.path)?);
            times.push(begin.elapsed());
        }
        let bound = bound.ok_or("no repetition")?;
        Ok((bound, a.weight, times))
    }

    /// Swaps between the base and the adapter; ends with the adapter active.
    fn swaps(&self, session: &mut Session, bound: &Arc<BoundAdapter>, weight: f32) -> Outcome<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..self.repetitions {
            session.set_adapters(ActiveAdapters::none(), SwapPolicy::Recompute)?;
            let begin = Instant::now();
            session.set_adapters(ActiveAdapters::new(vec![(bound.clone(), weight)])?, SwapPolicy::Recompute)?;
            times.push(begin.elapsed());
        }
        Ok(times)
    }
}

/// A fixed row of tokens from all over the vocabulary: what they say does not matter, that rows differ does.
fn tokens(model: &Model, n: usize) -> Vec<u32> {
    let vocab = model.decoder().vocab as u64;
    (0..n as u64).map(|i| ((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16) % vocab).map(|t| t as u32).collect()
}

fn prefill(session: &mut Session, prompt: &[u32]) -> Outcome<Duration> {
    session.clear();
    session.push(prompt);
    let begin = Instant::now();
    session.logits(&CancelHandle::default())?;
    Ok(begin.elapsed())
}

/// Time of `n` single tokens after a first one that is not counted.
fn decode(session: &mut Session, prompt: &[u32], n: usize) -> Outcome<Duration> {
    let cancel = CancelHandle::default();
    session.clear();
    session.push(&prompt[..1]);
    session.logits(&cancel)?;
    let begin = Instant::now();
    for i in 0..n {
        step(session, prompt[(i + 1) % prompt.len()])?;
    }
    Ok(begin.elapsed())
}

/// Time of a single token after those before.
fn step(session: &mut Session, token: u32) -> Outcome<Duration> {
    let begin = Instant::now();
    session.push(&[token]);
    session.logits(&CancelHandle::default())?;
    Ok(begin.elapsed())
}

impl Report {
    fn print(&self) -> Outcome {
        let rate =
            |r: &Rate| format!("{:.1} tok/s (mean {:.1} ± {:.1}, {} tokens)", r.tps_median, r.tps_mean, r.tps_sd, r.n);
        output::line(&format!(
            "model    {}, {} threads, {} kernels, {} activations",
            self.model, self.threads, self.kernels, self.activations
        ))?;
        if let Some(gpu) = &self.gpu {
            output::line(&format!("backend  {}, {gpu}", self.backend))?;
        }
        output::line(&format!("load     {:.1} ms", self.load_ms))?;
        output::line(&format!("prefill  {}", rate(&self.pp)))?;
        output::line(&format!("decode   {}", rate(&self.tg)))?;
        output::line(&format!("ttft     {:.1} ms", self.ttft_ms))?;
        if let (Some(adapter), Some(load), Some(swap)) = (&self.adapter, self.adapter_load_us, self.swap_us) {
            output::line(&format!("adapter  {adapter}: loads in {load:.0} µs, swaps in {swap:.1} µs"))?;
        }
        if let Some(cost) = &self.adapter_cost {
            output::line(&format!("costs    {}", cost.describe()))?;
        }
        for path in &self.adapter_paths {
            output::line(&format!("applied  {path}"))?;
        }
        if let Some(m) = &self.memory {
            output::line(&format!(
                "memory   {} anonymous (peak {}), {} file-backed, {} of it in huge pages; KV cache {}",
                output::bytes(m.anon_bytes),
                output::bytes(m.peak_anon_bytes),
                output::bytes(m.file_bytes),
                output::bytes(m.huge_bytes),
                output::bytes(m.kv_bytes as u64)
            ))?;
        }
        if let Some(m) = &self.device_memory {
            output::line(&format!(
                "device   {} of weights, {} of KV cache, {} of buffers, {} for adapters",
                output::bytes(m.weights_bytes),
                output::bytes(m.kv_bytes),
                output::bytes(m.scratch_bytes),
                output::bytes(m.adapter_bytes)
            ))?;
        }
        if let Some(times) = &self.device_ms {
            let list = |times: &[(String, f64)]| {
                times.iter().map(|(name, ms)| format!("{name} {ms:.2}")).collect::<Vec<_>>().join(", ")
            };
            output::line(&format!("device   a batch of the prompt, ms: {}", list(&times.pp)))?;
            output::line(&format!("device   a token, ms: {}", list(&times.tg)))?;
        }
        output::line(&format!("weights  {} read a token", output::bytes(self.weight_bytes_per_token)))?;
        if let Some(c) = &self.ceilings {
            let (giga, percent) = (|v: f64| v / 1e9, |v: f64| v * 100.0);
            output::line(&format!(
                "decode   {:.1} GB/s of weights, {:.0} % of the {:.1} GB/s that this machine reads",
                giga(c.decode_read_share * c.read_bytes_per_s),
                percent(c.decode_read_share),
                giga(c.read_bytes_per_s)
            ))?;
            output::line(&format!(
                "prefill  {:.0} GOP/s, {:.0} % of the {:.0} GOP/s of its int8 instructions",
                giga(c.prefill_ops_per_s),
                percent(c.prefill_int8_share),
                giga(c.int8_ops_per_s)
            ))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let times = [1.0, 2.0, 4.0].map(Duration::from_secs_f64);
        let rate = Rate::new(8, &times);
        assert_eq!((rate.tps_median, rate.tps_mean), (4.0, 14.0 / 3.0));
        assert!((rate.tps_sd - 3.055).abs() < 1e-3);
        assert_eq!(Rate::new(8, &times[..1]).tps_sd, 0.0);
        assert_eq!(median(vec![3.0, 1.0]), 2.0);
    }
}

//! `timbre run`: one prompt, one reply.

use clap::Args;
use timbre::session::{Conversation, Finish, GenerateOptions, Session, Stats};
use timbre::tokenizer::{EncodeOptions, Tokenizer};

use crate::args::{AdapterArgs, ModelArgs, SamplingArgs};
use crate::output::{self, Outcome};

/// Answer one prompt
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre run --model smollm2.gguf --adapter assets/adapters/devil --prompt \"Define: love\" -n 64"
)]
pub struct Run {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// What to answer
    #[arg(long, value_name = "TEXT")]
    prompt: String,
    /// Most tokens to generate
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 256)]
    tokens: usize,
    /// End the reply at this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Continue the prompt as plain text, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Print one JSON object with the text, the token ids and the timings
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    text: &'a str,
    ids: &'a [u32],
    prompt_ids: &'a [u32],
    finish: Option<Finish>,
    stats: StatsReport,
}

/// Timings with the rates they make.
#[derive(serde::Serialize)]
pub struct StatsReport {
    #[serde(flatten)]
    stats: Stats,
    prefill_tps: f64,
    decode_tps: f64,
}

impl From<Stats> for StatsReport {
    fn from(stats: Stats) -> Self {
        Self { prefill_tps: stats.prefill_rate(), decode_tps: stats.decode_rate(), stats }
    }
}

/// The tokens of a plain text to be continued.
pub fn raw_prompt(tokenizer: &Tokenizer, text: &str) -> Outcome<Vec<u32>> {
    Ok(tokenizer.encode(text, EncodeOptions { parse_special: true, add_bos: tokenizer.adds_bos() })?)
}

/// The tokens of a single user message in the model's own chat format.
pub fn chat_prompt(session: &Session, text: &str) -> Outcome<Vec<u32>> {
    let mut conversation = Conversation::from_gguf(session.model().gguf())?;
    conversation.push("user", text);
    Ok(conversation.prompt(session.model().tokenizer()?)?)
}

impl Run {
    pub fn run(self) -> Outcome {
        let model = self.model.open()?;
        let adapters = self.adapters.load(&model)?;
        let mut session = self.model.run.session(&model, adapters)?;
        let prompt_ids = match self.raw {
            true => raw_prompt(model.tokenizer()?, &self.prompt)?,
            false => chat_prompt(&session, &self.prompt)?,
        };
        session.set_tokens(&prompt_ids);
        let mut generation = session.generate(GenerateOptions {
            max_tokens: self.tokens,
            sampler: self.sampling.options(),
            stop: self.stop,
            ..GenerateOptions::default()
        })?;
        if self.json {
            let text = generation.text()?;
            let (ids, stats) = (generation.ids(), generation.stats().into());
            let finish = generation.finish();
            return output::json(&Report { text: &text, ids, prompt_ids: &prompt_ids, finish, stats });
        }
        while let Some(piece) = generation.next_piece()? {
            output::piece(piece)?;
        }
        output::line("")?;
        let stats = generation.stats();
        eprintln!(
            "[{} prompt tokens at {:.0} tok/s, {} generated at {:.1} tok/s, first after {:.0} ms]",
            stats.prompt_tokens,
            stats.prefill_rate(),
            stats.generated_tokens,
            stats.decode_rate(),
            stats.ttft_ms
        );
        Ok(())
    }
}

//! `timbre run`: one prompt, one reply.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use timbre::session::{Conversation, Finish, GenerateOptions, Session, SessionError, Stats, TemplateError};
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
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
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

/// The tokens of a single user message in the model's own chat format; a model that has none continues the text.
pub fn chat_prompt(session: &Session, text: &str) -> Outcome<Vec<u32>> {
    let tokenizer = session.model().tokenizer()?;
    let mut conversation = match Conversation::from_gguf(session.model().gguf()) {
        Err(SessionError::Template(TemplateError::Missing)) => {
            eprintln!(
                "note: this model has no chat template, so the prompt is continued as plain text (as with --raw)"
            );
            return raw_prompt(tokenizer, text);
        }
        other => other?,
    };
    conversation.push("user", text);
    Ok(conversation.prompt(tokenizer)?)
}

impl Run {
    pub fn run(self) -> Outcome {
        let sampler = self.sampling.options()?;
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
            sampler,
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

//! `timbre logits`: what the model makes of a row of tokens.

use clap::Args;
use timbre::model::Model;
use timbre::session::CancelHandle;

use crate::args::{AdapterArgs, ModelArgs, TokenList};
use crate::output::{self, Outcome};
use crate::verbs::tokenize::quoted;

/// Print the logits after a row of tokens
#[derive(Args)]
#[command(after_help = "Example:\n  timbre logits --model smollm2.gguf --tokens 19556,905 --json")]
pub struct Logits {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// The tokens
    #[arg(long, value_name = "1,2,3")]
    tokens: TokenList,
    /// Every position's logits, one object a position, instead of the last one's
    #[arg(long)]
    all: bool,
    /// Print {"logits":[…]}; else the ten likeliest tokens
    #[arg(long)]
    json: bool,
}

#[derive(serde::Serialize)]
struct Report<'a> {
    logits: &'a [f32],
}

impl Logits {
    pub fn run(self) -> Outcome {
        let model = self.model.open()?;
        let adapters = self.adapters.load(&model)?;
        let mut session = self.model.run.session(&model, adapters)?;
        session.set_tokens(&self.tokens.0);
        let show = |logits: &[f32]| match self.json {
            true => output::json(&Report { logits }),
            false => top(&model, logits),
        };
        if !self.all {
            return show(session.logits(&CancelHandle::default())?);
        }
        let mut outcome = Ok(());
        session.logits_all(&mut |_, logits| {
            if outcome.is_ok() {
                outcome = show(logits);
            }
        })?;
        outcome
    }
}

/// Prints the ten likeliest tokens, with their texts where the vocabulary can be read.
fn top(model: &Model, logits: &[f32]) -> Outcome {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    for &id in order.iter().take(10) {
        let text = match model.tokenizer() {
            Ok(tokenizer) => quoted(tokenizer, id as u32)?,
            Err(_) => String::new(),
        };
        output::line(&format!("{id}\t{:.4}\t{text}", logits[id]))?;
    }
    Ok(())
}

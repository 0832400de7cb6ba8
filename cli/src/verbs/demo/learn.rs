//! Learning a voice on the spot, from texts that travel inside the command.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use timbre::memory::PeakAnon;
use timbre::model::{BoundAdapter, Model};
use timbre::tune::{
    Budget, DataOptions, Dataset, Event, Method, NewAdapter, Rate, Targets, TrainerOptions, Tuner, TunerOptions,
};

use crate::output::{self, Outcome};
use crate::progress::Progress;

/// Entries of The Devil's Dictionary, prompts and completions.
const TEXTS: &str = include_str!("../../../../assets/texts/devil-short.jsonl");
/// Between two looks at the memory in use.
const SAMPLE: Duration = Duration::from_millis(20);

/// Seconds to learn for.
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if seconds.is_finite() && seconds > 0.0 { Ok(seconds) } else { Err("expected a number above 0".to_owned()) }
}

/// Tunes a new adapter with the defaults of `timbre tune` and says what that came to.
pub fn from_short_texts(model: &Arc<Model>, folder: &Path, seconds: f64) -> Outcome<Arc<BoundAdapter>> {
    let path = folder.join("texts.jsonl");
    std::fs::write(&path, TEXTS)?;
    let peak = PeakAnon::start(SAMPLE).ok();
    let new = NewAdapter { method: Method::default(), targets: Targets::default(), seed: 0, base_name: None };
    let start = new.build(model)?;
    let data = Dataset::load(model, &path, None, &DataOptions::default())?;
    let trainer = TrainerOptions { budget: Budget::Seconds(seconds), ..TrainerOptions::new(Rate::default_for(&start)) };
    let mut tuner = Tuner::new(model.clone(), start, data, TunerOptions { trainer, memory_limit: None })?;
    let report = tuner.data().train().report();
    output::line(&format!(
        "\nlearning from {} short texts of The Devil's Dictionary, {} parameters, for {seconds:.0} s",
        report.examples,
        tuner.start().parameters()
    ))?;
    let state = tuner.begin();
    let progress = Progress::spinner("learning");
    let tuned = tuner.run(state, None, &mut |event| {
        if let Event::Step(step) = event {
            progress.say(format!("step {}, loss {:.2}", step.step, step.loss));
        }
    })?;
    drop(progress);
    let loss = |loss: Option<f64>| loss.map_or_else(|| "not measured".to_owned(), |loss| format!("{loss:.3}"));
    let peak = peak.and_then(|peak| peak.stop().ok());
    output::line(&format!(
        "{} steps in {:.0} s: loss of held-out texts {} before, {} after; {} of coefficients{}",
        tuned.state.step,
        tuned.state.elapsed,
        loss(tuned.heldout_before),
        loss(tuned.heldout_after),
        output::bytes(4 * tuned.adapter.parameters() as u64),
        peak.map_or_else(String::new, |peak| format!("; {} anonymous memory at most", output::bytes(peak)))
    ))?;
    Ok(model.bind(Arc::new(tuned.adapter), "learnt")?)
}

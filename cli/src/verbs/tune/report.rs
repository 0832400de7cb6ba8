//! What a run says while it runs and when it has ended.

use std::io::IsTerminal;
use std::path::Path;

use serde::Serialize;
use timbre::tune::data::DataReport;
use timbre::tune::{Event, State, StepReport, Stop, Tuned, Tuner};

use crate::output::{self, Outcome};
use crate::progress::Progress;

/// Lines of JSON on standard output, a bar and notes on standard error.
pub struct Report {
    json: bool,
    progress: Option<Progress>,
    failed: Outcome,
    parameters: usize,
}

#[derive(Serialize)]
struct StepLine {
    step: u64,
    loss: f64,
    lr: f64,
    ms: f64,
    gradient_norm: f64,
    tokens: usize,
    tokens_per_second: f64,
    eta_ms: f64,
}

#[derive(Serialize)]
struct EvaluationLine {
    step: u64,
    heldout_loss: f64,
}

#[derive(Serialize)]
struct DoneLine<'a> {
    done: bool,
    steps: u64,
    heldout_before: Option<f64>,
    heldout_after: Option<f64>,
    peak_anon_bytes: Option<u64>,
    adapter: &'a str,
    /// Steps behind the adapter that was saved.
    adapter_step: u64,
    stop: &'static str,
    parameters: usize,
    tokens: u64,
    seconds: f64,
}

impl Report {
    /// Of a run about to begin at `state`, of which it says what it will learn.
    pub fn new(json: bool, tuner: &Tuner, state: &State) -> Self {
        let start = tuner.start();
        let parameters = start.parameters();
        eprintln!(
            "tuning {parameters} parameters in {} modules; {} planned",
            start.len(),
            output::bytes(tuner.planned_bytes() as u64)
        );
        describe("learning from", tuner.data().train().report());
        match tuner.data().heldout() {
            Some(heldout) => describe("scoring on", heldout.report()),
            None => eprintln!("nothing is held out: the run cannot tell whether it overfits"),
        }
        if state.step > 0 {
            eprintln!("going on after step {}", state.step);
        }
        let progress = std::io::stderr().is_terminal().then(|| Progress::count("tuning", 1000));
        Self { json, progress, failed: Ok(()), parameters }
    }

    /// What could not be written so far.
    pub fn result(&mut self) -> Outcome {
        std::mem::replace(&mut self.failed, Ok(()))
    }

    /// Tells an event.
    pub fn event(&mut self, event: &Event<'_>) {
        let told = match event {
            Event::Step(step) => self.step(step),
            Event::Evaluated { step, heldout_loss, best } => self.evaluated(*step, *heldout_loss, *best),
            _ => Ok(()),
        };
        if self.failed.is_ok() {
            self.failed = told;
        }
    }

    fn step(&self, report: &StepReport) -> Outcome {
        if let Some(progress) = &self.progress {
            progress
                .say(format!("step {}: loss {:.3}, {:.0} tok/s", report.step, report.loss, report.tokens_per_second));
        }
        let &StepReport { step, loss, lr, ms, gradient_norm, tokens, tokens_per_second, eta_ms, .. } = report;
        if let Some(progress) = &self.progress {
            progress.set((1000.0 * report.elapsed_ms / (report.elapsed_ms + eta_ms).max(1.0)) as u64);
        }
        if !self.json {
            return Ok(());
        }
        output::json(&StepLine { step, loss, lr, ms, gradient_norm, tokens, tokens_per_second, eta_ms })
    }

    fn evaluated(&self, step: u64, heldout_loss: f64, best: bool) -> Outcome {
        let note = format!("step {step}: held-out loss {heldout_loss:.4}{}", if best { "" } else { " (not lower)" });
        match &self.progress {
            Some(progress) => progress.note(&note),
            None => eprintln!("{note}"),
        }
        if self.json { output::json(&EvaluationLine { step, heldout_loss }) } else { Ok(()) }
    }

    /// Tells the end.
    pub fn done(self, tuned: &Tuned, peak_anon_bytes: Option<u64>, out: &Path) -> Outcome {
        drop(self.progress);
        let adapter = out.to_string_lossy();
        let (state, before, after) = (&tuned.state, tuned.heldout_before, tuned.heldout_after);
        if self.json {
            return output::json(&DoneLine {
                done: true,
                steps: state.step,
                heldout_before: before,
                heldout_after: after,
                peak_anon_bytes,
                adapter: &adapter,
                adapter_step: tuned.adapter_step,
                stop: tuned.stop.name(),
                parameters: self.parameters,
                tokens: state.tokens,
                seconds: state.elapsed,
            });
        }
        let why = match tuned.stop {
            Stop::Budget => String::new(),
            Stop::Early => ", stopped early because the held-out loss no longer fell".to_owned(),
            Stop::Cancelled => ", stopped on request; --resume goes on".to_owned(),
            Stop::Diverged { step, .. } => format!(", diverged at step {step}"),
            _ => String::new(),
        };
        output::line(&format!("{} steps, {} tokens, {:.1} s{why}", state.step, state.tokens, state.elapsed))?;
        if let (Some(before), Some(after)) = (before, after) {
            output::line(&format!("held-out loss {before:.4} → {after:.4}"))?;
        }
        output::line(&format!("{adapter}: {} parameters, after step {}", self.parameters, tuned.adapter_step))
    }
}

fn describe(what: &str, report: DataReport) {
    let DataReport { examples, tokens, targets, truncated, dropped } = report;
    let mut line = format!("{what} {examples} examples: {tokens} tokens, {targets} of them predicted");
    if truncated > 0 {
        line += &format!("; {truncated} were longer than the limit and lost their end");
    }
    if dropped > 0 {
        line += &format!("; {dropped} had nothing to learn within it and are left out");
    }
    eprintln!("{line}");
}

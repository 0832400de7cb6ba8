//! [`NativeTuner`]: a fine-tune.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use timbre::memory::PeakAnon;
use timbre::tune::{Checkpoint, State, Stop, TuneHandle, Tuner};

use crate::adapter::NativeAdapter;
use crate::convert::small;
use crate::error::{Outcome, TimbreError};
use crate::guard::guarded;
use crate::model::NativeModel;
use crate::tuning::{TuningData, TuningEvent, TuningOptions, TuningReport, TuningResult, event};
use crate::worker::{self, Channel};

/// Events kept for a caller that does not pull.
const MOST_EVENTS: usize = 4096;
/// Between two looks at the memory in use.
const SAMPLE: Duration = Duration::from_millis(20);

/// A fine-tune on a thread of its own. Dropping it cancels it.
#[derive(uniffi::Object)]
pub struct NativeTuner {
    /// Until it starts.
    prepared: Mutex<Option<Prepared>>,
    handle: TuneHandle,
    channel: Arc<Channel<TuningEvent, TuningResult>>,
    planned_bytes: u64,
}

struct Prepared {
    tuner: Tuner,
    state: State,
    checkpoint: Option<Checkpoint>,
    name: String,
}

#[uniffi::export]
impl NativeTuner {
    /// Turns the data into tokens, checks everything and plans the memory of the run. `name` is what the adapter will be
    /// called. Seconds for megabytes of text.
    ///
    /// # Errors
    /// [`TimbreError::InvalidArgument`] for options out of range, data with nothing to learn and a checkpoint of another run;
    /// [`TimbreError::OutOfMemory`] where the memory limit is too small; [`TimbreError::IncompatibleAdapter`],
    /// [`TimbreError::CorruptFile`], [`TimbreError::Io`].
    #[uniffi::constructor]
    pub fn new(model: &NativeModel, data: TuningData, options: TuningOptions, name: String) -> Outcome<Arc<Self>> {
        guarded(|| {
            let model = Arc::clone(&model.model);
            let start = options.start(&model)?;
            let core = options.core(&start)?;
            let data = data.dataset(&model, &options)?;
            let tuner = Tuner::new(model, start, data, core)?;
            let checkpoint = options.checkpoint.as_ref().map(|path| tuner.checkpoint(Path::new(path)));
            let saved = checkpoint.as_ref().map(Checkpoint::load).transpose()?.flatten();
            let state = saved.unwrap_or_else(|| tuner.begin());
            let (handle, planned_bytes) = (tuner.handle(), tuner.planned_bytes() as u64);
            let prepared = Mutex::new(Some(Prepared { tuner, state, checkpoint, name }));
            let channel = Arc::new(Channel::new(MOST_EVENTS));
            Ok(Arc::new(Self { prepared, handle, channel, planned_bytes }))
        })
    }

    /// Bytes the pass through the model has planned.
    pub fn planned_bytes(&self) -> u64 {
        self.planned_bytes
    }

    /// Begins, or goes on from the checkpoint. A second call does nothing.
    ///
    /// # Errors
    /// [`TimbreError::Internal`] if the system gives no thread.
    pub fn start(&self) -> Outcome<()> {
        guarded(|| {
            let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(prepared) = prepared else { return Ok(()) };
            let (events, end) = (Arc::clone(&self.channel), Arc::clone(&self.channel));
            worker::spawn("timbre-tune", move || prepared.run(&events), move |result| end.finish(result))
        })
    }

    /// What happened since the last call, waiting for the first. Empty at the end of the run.
    ///
    /// # Errors
    /// What ended the run.
    pub fn next(&self) -> Outcome<Vec<TuningEvent>> {
        self.started()?;
        self.channel.next(Duration::ZERO)
    }

    /// The result, waiting for it. A cancelled run has what it had learnt.
    ///
    /// # Errors
    /// What ended the run: [`TimbreError::Io`] where the checkpoint could not be written, [`TimbreError::CorruptFile`],
    /// [`TimbreError::Internal`].
    pub fn result(&self) -> Outcome<TuningResult> {
        self.started()?;
        self.channel.result()
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.channel.is_finished()
    }

    /// Lets it wait at the end of its step. Waiting takes no processor time and none of a budget of seconds.
    pub fn pause(&self) {
        self.handle.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.handle.resume();
    }

    /// Ends it within a step. What was learnt before is its result.
    pub fn cancel(&self) {
        self.handle.cancel();
    }
}

impl NativeTuner {
    /// Waiting for what never began would not end.
    fn started(&self) -> Outcome<()> {
        match self.prepared.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            true => Err(TimbreError::invalid("the run", "one that was started", "not started")),
            false => Ok(()),
        }
    }
}

impl Drop for NativeTuner {
    fn drop(&mut self) {
        self.handle.cancel();
    }
}

impl Prepared {
    fn run(self, events: &Channel<TuningEvent, TuningResult>) -> Outcome<TuningResult> {
        let Self { mut tuner, state, checkpoint, name } = self;
        let peak = PeakAnon::start(SAMPLE).ok();
        // Before the first step, so that a place that cannot be written to is not found out after the last.
        checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.save(&state))?;
        let mut tell = |news: &timbre::tune::Event<'_>| {
            if let Some(news) = event(news) {
                events.send(news);
            }
        };
        let tuned = tuner.run(state, checkpoint.as_ref(), &mut tell)?;
        if tuned.stop != Stop::Cancelled {
            checkpoint.as_ref().map_or(Ok(()), Checkpoint::remove)?;
        }
        let (train, heldout) = (tuner.data().train().report(), tuner.data().heldout().map(|h| h.report()));
        let report = TuningReport {
            stop: tuned.stop.into(),
            steps: tuned.state.step,
            adapter_step: tuned.adapter_step,
            heldout_before: tuned.heldout_before,
            heldout_after: tuned.heldout_after,
            losses: tuned.state.losses.clone(),
            seconds: tuned.state.elapsed,
            tokens: tuned.state.tokens,
            examples: small(train.examples),
            heldout_examples: small(heldout.map_or(0, |report| report.examples)),
            truncated: small(train.truncated),
            peak_anon_bytes: peak.and_then(|peak| peak.stop().ok()),
        };
        Ok(TuningResult { adapter: NativeAdapter::new(tuned.adapter.to_file()?, name), report })
    }
}

//! Which thread of a pool shares its core when another program wants one.
//!
//! While the calling thread waits for its core, nothing else of the pool has anything to do; while a worker does, the others do its
//! share. So the calling thread, when it finds that it lost its core, changes places with whoever runs on the next one, and the
//! workers keep off its core from then on, until it has been left alone for a while. Its own affinity is what it was whenever a
//! job runs.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::affinity::{CoreSet, Thread, Usage, this_core};

/// Jobs between two looks at the clock.
const JOBS_A_LOOK: u32 = 4;
/// The shortest time over which a loss shows, and the longest that was surely spent on jobs.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(50);
/// What the caller may lose in between without moving: interrupts and housekeeping of the system take less.
const TOLERATED: Duration = Duration::from_millis(1);
/// How long the workers keep off the caller's core after the last loss.
const CALM: Duration = Duration::from_secs(1);

/// The calling thread's view; what it needs to know of the workers comes with each look.
#[derive(Debug)]
pub(super) struct Places {
    /// Where the workers run when nobody disturbs; `None` if there is no core to spare.
    home: Option<CoreSet>,
    jobs: u32,
    seen: Option<Seen>,
    /// The core that the workers keep off, and since when nothing was lost.
    kept_off: Option<(usize, Instant)>,
}

/// A look at the calling thread.
#[derive(Debug, Clone, Copy)]
struct Seen {
    thread: Thread,
    at: Instant,
    usage: Usage,
}

impl Places {
    /// For workers that may run on `home`.
    pub(super) fn new(workers: usize, home: CoreSet) -> Self {
        let spare = workers > 0 && workers < home.cores().count();
        Self { home: spare.then_some(home), jobs: 0, seen: None, kept_off: None }
    }

    /// Before a job, with no worker inside one: moves the calling thread and `workers` if the former lost its core since the last look.
    pub(super) fn look(&mut self, workers: &[OnceLock<Thread>]) {
        let Some(home) = self.home else { return };
        self.jobs = self.jobs.wrapping_add(1);
        if !self.jobs.is_multiple_of(JOBS_A_LOOK) {
            return;
        }
        let at = Instant::now();
        let before = self.seen;
        if before.is_some_and(|before| at - before.at < SHORTEST) {
            return;
        }
        self.seen = Thread::this().zip(Usage::of_this_thread()).map(|(thread, usage)| Seen { thread, at, usage });
        let (Some(core), Some(before), Some(now)) = (this_core(), before, self.seen) else { return };
        let step = self.step(now.lost_since(&before), core, at);
        self.take(step, &now.thread, workers, &home);
    }

    /// What to do about `lost`, with the calling thread on `core` now.
    fn step(&self, lost: Duration, core: usize, now: Instant) -> Step {
        match self.kept_off {
            _ if lost >= TOLERATED => Step::Leave(core, now),
            Some((_, since)) if now - since > CALM => Step::GoHome,
            Some((kept_off, since)) if kept_off != core => Step::KeepOff(core, since),
            _ => Step::Stay,
        }
    }

    fn take(&mut self, step: Step, caller: &Thread, workers: &[OnceLock<Thread>], home: &CoreSet) {
        let keep = |to: &CoreSet| workers.iter().filter_map(OnceLock::get).for_each(|worker| _ = worker.keep_to(to));
        let kept_off = match step {
            Step::Stay => return,
            Step::GoHome => None,
            Step::KeepOff(core, since) => Some((core, since)),
            Step::Leave(core, since) => {
                let Some(other) = change_places(caller, core, home) else { return };
                Some((other, since))
            }
        };
        keep(&kept_off.map_or(*home, |(core, _)| home.without(core)));
        self.kept_off = kept_off;
    }
}

/// What a look leads to.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Stay,
    /// The caller leaves this core, taken from it now, and the workers keep off the one it goes to.
    Leave(usize, Instant),
    /// The workers keep off this core, where the system has put the caller; last loss.
    KeepOff(usize, Instant),
    /// The workers run where they did at first.
    GoHome,
}

impl Seen {
    /// Time without a core, of a thread that wanted one.
    fn lost_since(&self, before: &Self) -> Duration {
        let time = self.at - before.at;
        if self.thread != before.thread || self.usage.preemptions == before.usage.preemptions || time > LONGEST {
            return Duration::ZERO;
        }
        time.saturating_sub(self.usage.computed.saturating_sub(before.usage.computed))
    }
}

/// Moves the calling thread from `core` to the next one of `home` that it may run on. Says which.
fn change_places(thread: &Thread, core: usize, home: &CoreSet) -> Option<usize> {
    let allowed = CoreSet::of_this_thread()?;
    let other = home.and(&allowed).after(core).filter(|&other| other != core)?;
    let moved = thread.keep_to(&CoreSet::of(&[other]));
    if moved {
        thread.keep_to(&allowed);
    }
    moved.then_some(other)
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    /// A look at this thread `time` ago, when it had had `computed` less and been put aside `preemptions` times less often than now.
    fn past(time: Duration, computed: Duration, preemptions: u64) -> Seen {
        let Usage { computed: now, preemptions: times } = Usage::of_this_thread().unwrap();
        let usage = Usage { computed: now.saturating_sub(computed), preemptions: times.wrapping_sub(preemptions) };
        Seen { thread: Thread::this().unwrap(), at: Instant::now().checked_sub(time).unwrap(), usage }
    }

    #[test]
    fn only_time_that_was_taken_is_lost() {
        const MS: Duration = Duration::from_millis(1);
        let lost = |time, computed, preemptions: u64| {
            let before = Seen { usage: Usage { computed: 7 * MS, preemptions: 3 }, ..past(time, MS, 0) };
            let usage = Usage { computed: 7 * MS + computed, preemptions: 3 + preemptions };
            Seen { usage, at: before.at + time, ..before }.lost_since(&before)
        };
        assert_eq!(lost(10 * MS, 4 * MS, 1), 6 * MS);
        assert_eq!(lost(10 * MS, 11 * MS, 1), Duration::ZERO);
        // It slept of its own accord; it was elsewhere for long.
        assert_eq!(lost(10 * MS, 4 * MS, 0), Duration::ZERO);
        assert_eq!(lost(LONGEST + MS, MS, 9), Duration::ZERO);
        let (other, this) = (std::thread::spawn(|| past(MS, MS, 1)).join().unwrap(), past(MS, MS, 0));
        assert_eq!(this.lost_since(&other), Duration::ZERO);
    }

    #[test]
    fn a_loss_moves_and_calm_brings_home() {
        let now = Instant::now();
        let [long_ago, lately] = [CALM * 2, CALM / 2].map(|time| now.checked_sub(time).unwrap());
        let step = |kept_off, lost, core| {
            let places = Places { kept_off, ..Places::new(1, CoreSet::of(&[0, 1])) };
            places.step(lost, core, now)
        };
        for kept_off in [None, Some((0, long_ago)), Some((1, lately))] {
            assert_eq!(step(kept_off, TOLERATED, 1), Step::Leave(1, now));
        }
        assert_eq!(step(None, TOLERATED / 2, 1), Step::Stay);
        assert_eq!(step(Some((1, lately)), Duration::ZERO, 1), Step::Stay);
        assert_eq!(step(Some((0, lately)), Duration::ZERO, 1), Step::KeepOff(1, lately));
        assert_eq!(step(Some((0, long_ago)), Duration::ZERO, 1), Step::GoHome);
    }

    #[test]
    fn the_caller_leaves_its_core_and_workers_keep_off_the_next() {
        let home = CoreSet::of_this_thread().unwrap();
        let this = Thread::this().unwrap();
        let (ask, asked) = channel::<()>();
        let (tell, told) = channel();
        let workers: Arc<[OnceLock<Thread>]> = [OnceLock::new()].into();
        let shared = Arc::clone(&workers);
        let worker = std::thread::spawn(move || {
            shared[0].set(Thread::this().unwrap()).unwrap();
            asked.iter().for_each(|()| tell.send(CoreSet::of_this_thread().unwrap()).unwrap());
        });
        let worker_may_use = || {
            ask.send(()).unwrap();
            told.recv().unwrap()
        };
        assert_eq!(worker_may_use(), home);
        let mut places = Places::new(1, home);
        let now = Instant::now();
        for core in home.cores() {
            let before = places.kept_off;
            places.take(Step::Leave(core, now), &this, &workers, &home);
            // With one core there is nowhere to go.
            let other = home.after(core).filter(|&other| other != core);
            assert_eq!(places.kept_off, other.map(|other| (other, now)).or(before));
            assert_eq!(worker_may_use(), other.map_or(home, |other| home.without(other)));
            assert_eq!(CoreSet::of_this_thread(), Some(home));
        }
        places.take(Step::GoHome, &this, &workers, &home);
        assert_eq!((places.kept_off, worker_may_use()), (None, home));
        drop(ask);
        worker.join().unwrap();
    }

    #[test]
    fn a_look_sees_what_was_lost() {
        let home = CoreSet::of_this_thread().unwrap();
        let mut places = Places::new(1, home);
        let look = |places: &mut Places| (0..JOBS_A_LOOK).for_each(|_| places.look(&[]));
        look(&mut places);
        let first = places.seen;
        assert_eq!(first.is_some(), home.cores().count() > 1);
        places.seen = Some(past(LONGEST / 4, SHORTEST, 1));
        look(&mut places);
        assert_eq!(places.kept_off.is_some(), first.is_some());
    }

    #[test]
    fn a_pool_larger_than_its_cores_has_no_places_to_spare() {
        let home = CoreSet::of(&[0, 1, 2]);
        assert!([0, 3, 9].iter().all(|&workers| Places::new(workers, home).home.is_none()));
        assert_eq!(Places::new(2, home).home, Some(home));
        assert!(Places::new(1, CoreSet::of(&[])).home.is_none());
    }
}

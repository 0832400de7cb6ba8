//! How the threads of a pool hand tasks to one another, in every order in which a machine may let the others see what each of them does
//! (the C11 memory model as loom explores it: what compilers for phones are held to, and what no test on one machine shows).

// Requests for places need no order.
#[allow(dead_code)]
#[path = "../src/kernels/shares.rs"]
mod shares;
#[path = "../src/kernels/sleepers.rs"]
mod sleepers;
/// What both are made of, to be explored.
mod sync {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
    pub use loom::sync::{Condvar, Mutex, MutexGuard};
    pub use std::sync::PoisonError;
}

use std::ops::Range;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use shares::{Number, Shares, Taken};
use sleepers::Sleepers;

/// How often each task ran, counted in two accesses that order nothing: a count is lost, or an old one read, unless the pool's own order
/// puts one thread after the other.
struct Places(Vec<AtomicU32>);

impl Places {
    fn new(tasks: usize) -> Self {
        Self((0..tasks).map(|_| AtomicU32::new(0)).collect())
    }

    fn count(&self, tasks: Range<usize>) {
        self.0[tasks].iter().for_each(|place| place.store(place.load(Ordering::Relaxed) + 1, Ordering::Relaxed));
    }

    fn assert_each_once(&self) {
        assert!(self.0.iter().all(|place| place.load(Ordering::Relaxed) == 1));
    }
}

/// Every order with so many switches that no thread asked for.
fn in_every_order(switches: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(switches);
    // Threads that wait look many times.
    model.max_branches = 100_000;
    model.check(run);
}

/// How many tasks these were.
fn execute(thread: usize, taken: Taken) -> usize {
    let tasks = taken.tasks.len();
    // SAFETY: whoever called counts them afterwards.
    unsafe { taken.run(thread) };
    tasks
}

/// A worker's part of a job.
fn work(shares: &Shares, worker: usize, number: Number) {
    let mut done = 0;
    shares.drain(number, worker, |taken| {
        done += execute(worker, taken);
        shares.set_done(worker, done);
    });
}

/// The tasks that a thread begins with.
fn share(threads: usize, thread: usize, tasks: usize) -> Range<usize> {
    thread * tasks / threads..(thread + 1) * tasks / threads
}

/// A job as the pool runs it, up to its end.
fn run(shares: &Shares, threads: usize, tasks: usize, stretch: usize, after_first: impl Fn()) {
    let places = Places::new(tasks);
    let task = |_: usize, range: Range<usize>| places.count(range);
    // SAFETY: one thread publishes, and waits below until all tasks are done.
    let (number, first) = unsafe { shares.publish(|thread| share(threads, thread, tasks), stretch, &task) };
    let mut done = execute(0, first);
    after_first();
    shares.drain(number, 0, |taken| done += execute(0, taken));
    while !shares.others_have_done(tasks - done) {
        thread::yield_now();
    }
    places.assert_each_once();
}

/// Jobs of these many tasks, one after the other, with workers that look for each of them.
fn jobs_run_whole(threads: usize, switches: usize, jobs: &'static [usize], stretch: usize, last: Number) {
    in_every_order(switches, move || {
        let shares = Arc::new(Shares::new(threads, last));
        let end = last.wrapping_add(jobs.len() as Number);
        let workers: Vec<_> = (1..threads)
            .map(|worker| {
                let shares = Arc::clone(&shares);
                thread::spawn(move || {
                    let mut seen = last;
                    while seen != end {
                        let job = shares.number(worker);
                        if job == seen {
                            thread::yield_now();
                            continue;
                        }
                        work(&shares, worker, job);
                        seen = job;
                    }
                })
            })
            .collect();
        jobs.iter().for_each(|tasks| run(&shares, threads, *tasks, stretch, || {}));
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
}

#[test]
fn every_task_runs_once_before_its_job_ends() {
    jobs_run_whole(2, 3, &[5], 1, 0);
    jobs_run_whole(2, 3, &[9], usize::MAX, 0);
}

#[test]
fn a_job_that_ends_hands_out_nothing_of_the_next() {
    // The shares grow, so that what was the end of one is in the middle of the next.
    jobs_run_whole(2, 2, &[2, 4], 2, 0);
    jobs_run_whole(2, 1, &[2, 6, 3], 1, 0);
}

#[test]
fn numbers_come_again() {
    jobs_run_whole(2, 2, &[2, 4], 2, Number::MAX);
}

#[test]
fn three_threads_help_each_other_out() {
    jobs_run_whole(3, 1, &[3], 1, 0);
}

#[test]
fn nobody_sleeps_through_a_job() {
    in_every_order(3, || {
        let pool = Arc::new((Shares::new(2, 0), Sleepers::new()));
        let sleeper = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let (shares, sleepers) = &*pool;
                // If the job went unseen and the sleeper too, nobody is left who would run: loom says so.
                sleepers.sleep_until(|| shares.number(1) != 0);
                work(shares, 1, 1);
            })
        };
        let (shares, sleepers) = &*pool;
        sleepers.wake_seen();
        run(shares, 2, 2, 1, || sleepers.wake());
        sleeper.join().unwrap();
    });
}

/// One thread takes what one publishes, in the order in which the pool promises it.
#[test]
fn stretches_are_as_long_as_asked_and_follow_one_another() {
    in_every_order(0, || {
        let shares = Shares::new(3, 0);
        for (tasks, stretch) in [(1, 1), (2, 5), (3, 1), (100, 7), (100, usize::MAX), (Shares::MAX_TASKS, usize::MAX)] {
            let before = shares.number(1);
            // SAFETY: this thread alone publishes and takes, and the task does not end.
            let (number, first) = unsafe { shares.publish(|thread| share(3, thread, tasks), stretch, &|_, _| {}) };
            assert!((0..3).all(|thread| shares.number(thread) == number));
            assert!(shares.take(before, 1).is_none(), "tasks of the job before");
            let mut taken = vec![first.tasks];
            for owner in [1, 0, 2] {
                taken.extend(std::iter::from_fn(|| shares.take(number, owner)).map(|taken| taken.tasks));
            }
            assert!(taken.iter().skip(1).all(|range| !range.is_empty() && range.len() <= stretch), "{taken:?}");
            taken.sort_by_key(|range| (range.start, range.end));
            let end = taken.iter().try_fold(0, |end, range| (range.start == end).then_some(range.end));
            assert_eq!(end, Some(tasks), "{taken:?}");

            assert!(shares.others_have_done(0) && !shares.others_have_done(tasks));
            shares.set_done(1, tasks - 1);
            shares.set_done(2, 1);
            assert!(shares.others_have_done(tasks));
        }
    });
}

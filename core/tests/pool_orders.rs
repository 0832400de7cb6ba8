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

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use shares::{Number, Shares};
use sleepers::Sleepers;

/// One place a task, which whoever runs the task writes without asking.
struct Places(Vec<UnsafeCell<u32>>);

// SAFETY: none but this: loom panics where two threads access a place and neither comes before the other.
unsafe impl Sync for Places {}
// SAFETY: numbers.
unsafe impl Send for Places {}

impl Places {
    fn new(tasks: usize) -> Self {
        Self((0..tasks).map(|_| UnsafeCell::new(0)).collect())
    }

    fn count(&self, tasks: Range<usize>) {
        // SAFETY: loom watches.
        self.0[tasks].iter().for_each(|place| place.with_mut(|at| unsafe { *at += 1 }));
    }

    fn assert_each_once(&self) {
        // SAFETY: loom watches.
        assert!(self.0.iter().all(|place| place.with(|at| unsafe { *at } == 1)));
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

/// A thread's part of a job, as the pool's: its own share, then the others'. How many tasks it ran.
fn drain(shares: &Shares, thread: usize, threads: usize, number: Number, mut count: impl FnMut(usize)) {
    for owner in (thread..threads).chain(0..thread) {
        while let Some(taken) = shares.take(number, owner) {
            let tasks = taken.tasks.len();
            // SAFETY: counted afterwards.
            unsafe { taken.run(thread) };
            count(tasks);
        }
    }
}

/// A job as the pool runs it, up to its end.
fn run(shares: &Shares, threads: usize, tasks: usize, stretch: usize, after_first: impl Fn()) {
    let places = Places::new(tasks);
    let task = |_: usize, range: Range<usize>| places.count(range);
    let share = |thread: usize| thread * tasks / threads..(thread + 1) * tasks / threads;
    // SAFETY: one thread publishes, and waits below until all tasks are done.
    let (number, first) = unsafe { shares.publish(share, stretch, &task) };
    let mut done = first.tasks.len();
    // SAFETY: counted below.
    unsafe { first.run(0) };
    after_first();
    drain(shares, 0, threads, number, |tasks| done += tasks);
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
                        let mut done = 0;
                        drain(&shares, worker, threads, job, |tasks| {
                            done += tasks;
                            shares.set_done(worker, done);
                        });
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
                let mut done = 0;
                drain(shares, 1, 2, 1, |tasks| {
                    done += tasks;
                    shares.set_done(1, done);
                });
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
            let share = |thread: usize| thread * tasks / 3..(thread + 1) * tasks / 3;
            // SAFETY: this thread alone publishes and takes, and the task does not end.
            let (number, first) = unsafe { shares.publish(share, stretch, &|_, _| {}) };
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

//! A pool of worker threads that hands out the tasks of one job at a time.
//!
//! Made for jobs of tens of microseconds that follow one another closely: workers spin briefly between jobs
//! before they sleep, publishing a job is a few plain stores a thread, and nothing is allocated per job. A job never waits for
//! a worker that has not joined it, so a machine whose other cores are busy still makes progress at the
//! caller's own pace. A worker that shares its core with another program gives it up between jobs, of its own accord and
//! before the scheduler takes it: losing it with a task in hand would hold up the whole job. The caller, without whom nothing goes on,
//! moves to another core when it loses its own ([`Places`]).

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::affinity::Thread;
use super::places::Places;
use super::prefetch::{Shelf, Span, Spans, ask_some, ask_to_write};
use super::shares::{Number, Padded, Shares, Taken, Task};
use super::sleepers::Sleepers;
use super::splits::{Split, share};
use super::{Cores, KernelError};

/// The number before that of the first job.
const NO_JOB: Number = 0;
/// Looks for a job before a worker without work goes to sleep; tens of microseconds, about the time between
/// two products of one token.
const SPINS_BEFORE_SLEEP: u32 = 2_000;
/// How long a worker computes before it offers its core to other programs. Below the slices that schedulers give (3 to 4 ms on Linux), so
/// that a worker with a neighbour leaves at the end of a job and not in the middle of one; without one it costs a system call.
const TURN: Duration = Duration::from_millis(2);
/// Bytes that are asked for from a task on: what it refers to lies beside it on the caller's stack.
const TASK_BYTES: usize = 512;
/// Polls for the last worker to finish before the caller offers its core to it.
const SPINS_BEFORE_YIELD: u32 = 1_000;

struct Shared {
    shares: Shares,
    /// What each worker fetches when it next waits.
    shelves: Box<[Padded<Shelf>]>,
    /// Who the workers are, from the moment they run.
    workers: Box<[OnceLock<Thread>]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Whether a task of the job panicked.
    failed: AtomicBool,
    stop: AtomicBool,
    sleepers: Sleepers,
}

thread_local! {
    /// The pool (by address of its shared state) whose task this thread is running, and as which worker.
    static RUNNING: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// `threads - 1` worker threads that work beside the thread calling [`run`](Self::run). Dropping it joins them.
///
/// Where the machine has cores of different speeds and the fast ones are enough for `threads`, the workers (never the caller's thread)
/// keep to those, any of them ([`Cores`]). Where another program takes the caller's core in the middle of its jobs, the caller moves to the next
/// one that it is allowed; its affinity stays as it was (Linux and Android).
pub struct Pool {
    shared: Arc<Shared>,
    submit: Mutex<Places>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// The most threads a pool may have.
    pub const MAX_THREADS: usize = 1024;

    /// Starts a pool of `threads` threads, the caller's included.
    ///
    /// # Errors
    /// [`KernelError::Threads`] if `threads` is 0 or above [`MAX_THREADS`](Self::MAX_THREADS), [`KernelError::Spawn`] if the system
    /// refuses a thread.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        if threads == 0 || threads > Self::MAX_THREADS {
            return Err(KernelError::Threads { threads });
        }
        let shared = Arc::new(Shared {
            shares: Shares::new(threads, NO_JOB),
            shelves: (0..threads).map(|_| Padded(Shelf::default())).collect(),
            workers: (1..threads).map(|_| OnceLock::new()).collect(),
            panic: Mutex::new(None),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: Sleepers::new(),
        });
        let home = Cores::of_this_thread().home(threads);
        let submit = Mutex::new(Places::new(threads - 1, home));
        let mut pool = Self { shared, submit, workers: Vec::with_capacity(threads - 1) };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name(format!("timbre-{worker}"))
                .spawn(move || {
                    if let Some(thread) = Thread::this() {
                        // A wish: where the system does not grant it, the worker runs where it did.
                        thread.keep_to(&home);
                        shared.workers[worker - 1].get_or_init(|| thread);
                    }
                    shared.work(worker);
                })
                .map_err(KernelError::Spawn)?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Threads that work on a job, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Lets every worker (from 1 on) ask for the bytes of `spans` while it waits for the job after the next one: memory is idle while the
    /// calling thread prepares that job.
    pub(super) fn fetch_meanwhile(&self, spans: impl Fn(usize) -> Spans) {
        for (worker, shelf) in self.shared.shelves.iter().enumerate().skip(1) {
            shelf.0.put(&spans(worker));
        }
    }

    /// What a worker would fetch next, taken from it.
    #[cfg(test)]
    pub(super) fn noted(&self, worker: usize) -> Option<Spans> {
        self.shared.shelves[worker].0.take()
    }

    /// Calls `task(i)` for every `i` below `tasks`, in any order and on any thread of the pool, and returns
    /// when all have returned.
    ///
    /// # Panics
    /// With the panic of the first task that panicked; tasks not yet started are then skipped.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run_indexed(tasks, &|_, i| task(i));
    }

    /// Like [`run`](Self::run), calling `task(worker, i)`: `worker` is below [`threads`](Self::threads) and no two tasks running at
    /// the same time have the same one, so it can select per-thread scratch. A task that calls back into its own pool runs the inner
    /// job alone, under its own worker number; callers on different threads take turns.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_indexed(&self, tasks: usize, task: &(dyn Fn(usize, usize) + Sync)) {
        self.run_job(tasks, 1, None, &|worker, range| range.for_each(|i| task(worker, i)));
    }

    /// Like [`run_indexed`](Self::run_indexed), calling `task(worker, range)` for stretches of up to `stretch` tasks (at least 1), and of no more
    /// than half of what is left of a share unless that is little: the threads finish together, without that every task costs the handing out. A job that comes again
    /// has a `split`, which follows what each thread does of it.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub(super) fn run_stretches(&self, tasks: usize, stretch: usize, split: Option<&Split>, task: &Task<'_>) {
        self.run_job(tasks, stretch, split, task);
    }

    fn run_job(&self, tasks: usize, stretch: usize, split: Option<&Split>, task: &Task<'_>) {
        if tasks == 0 {
            return;
        }
        if tasks > Shares::MAX_TASKS {
            for first in (0..tasks).step_by(Shares::MAX_TASKS) {
                let some = Shares::MAX_TASKS.min(tasks - first);
                self.run_job(some, stretch, None, &|worker, range| {
                    task(worker, first + range.start..first + range.end)
                });
            }
            return;
        }
        let shared = &*self.shared;
        if let Some((pool, worker)) = RUNNING.get()
            && pool == shared.id()
        {
            task(worker, 0..tasks);
            return;
        }
        let mut places = lock(&self.submit);
        if self.workers.is_empty() || tasks == 1 {
            let _running = Running::enter(shared, 0);
            task(0, 0..tasks);
            return;
        }
        places.look(&shared.workers);
        let threads = self.threads();
        let share = |thread| share(split, threads, thread, tasks);
        // SAFETY: this thread holds the submit lock, and whoever held it before returned only when all its tasks were done, as this function does.
        let (number, first) = unsafe { shared.shares.publish(share, stretch, task) };
        // That nobody sleeps who does not see the job is sure when its stores have arrived: the first stretch does not wait for that.
        shared.sleepers.wake_seen();
        let mut done = shared.execute(0, first);
        shared.sleepers.wake();
        shared.shares.drain(number, 0, |taken| done += shared.execute(0, taken));
        shared.wait(tasks - done);
        if let Some(split) = split {
            split.learn(tasks, |thread| if thread == 0 { done } else { shared.shares.done(thread) });
        }
        // Who failed counted its tasks afterwards.
        let panic = shared.failed.load(Ordering::Relaxed).then(|| lock(&shared.panic).take()).flatten();
        if panic.is_some() {
            shared.failed.store(false, Ordering::Relaxed);
        }
        drop(places);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.sleepers.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks and has nothing else to report.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl Shared {
    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Waits until the workers have done so many tasks of the job.
    fn wait(&self, tasks: usize) {
        let mut spins = 0u32;
        while !self.shares.others_have_done(tasks) {
            spins = spins.saturating_add(1);
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }

    /// Runs tasks that were taken and are not counted yet, unless one of the job panicked; how many there were.
    fn execute(&self, worker: usize, taken: Taken) -> usize {
        let _running = Running::enter(self, worker);
        let tasks = taken.tasks.len();
        // SAFETY: whoever called counts them afterwards.
        let run = || unsafe { taken.run(worker) };
        if tasks > 0
            && !self.failed.load(Ordering::Relaxed)
            && let Err(payload) = catch_unwind(AssertUnwindSafe(run))
        {
            lock(&self.panic).get_or_insert(payload);
            self.failed.store(true, Ordering::Relaxed);
        }
        tasks
    }

    /// A worker's life: look for tasks in each job, spin for the next, sleep when none comes.
    fn work(&self, worker: usize) {
        let mut last_job = NO_JOB;
        let mut spins = 0;
        let mut turn = Instant::now();
        let mut spans = Spans::default();
        while !self.stop.load(Ordering::Relaxed) {
            let job = self.shares.number(worker);
            if job != last_job {
                self.expect(worker);
                let mut done = 0;
                self.shares.drain(job, worker, |taken| {
                    done += self.execute(worker, taken);
                    self.shares.set_done(worker, done);
                });
                // After a job that nobody left a note with, what is left of the last one still comes.
                spans = self.shelves[worker].0.take().unwrap_or(spans);
                last_job = job;
                spins = 0;
                if turn.elapsed() >= TURN {
                    std::thread::yield_now();
                    turn = Instant::now();
                }
            } else if spins < SPINS_BEFORE_SLEEP {
                spins += 1;
                if !ask_some(&mut spans) {
                    std::hint::spin_loop();
                }
            } else {
                self.sleepers
                    .sleep_until(|| self.stop.load(Ordering::Relaxed) || self.shares.number(worker) != last_job);
                spins = 0;
                turn = Instant::now();
            }
        }
    }

    /// Asks for what a worker needs to begin.
    fn expect(&self, worker: usize) {
        let [share, task] = self.shares.places(worker);
        ask_to_write(share, 1);
        Span::at(task, TASK_BYTES).ask_all();
    }
}

/// Marks this thread as running tasks of a pool, until dropped.
struct Running(Option<(usize, usize)>);

impl Running {
    fn enter(shared: &Shared, worker: usize) -> Self {
        Self(RUNNING.replace(Some((shared.id(), worker))))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

/// Locks, ignoring poison: no lock here guards data that a panic could leave half-written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, AtomicUsize};

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 3, 100] {
                for _ in 0..200 {
                    let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(tasks, &|i| {
                        hits[i].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
                    let most = AtomicUsize::new(0);
                    pool.run_stretches(tasks, 7, None, &|_, range| {
                        most.fetch_max(range.len(), Ordering::Relaxed);
                        range.for_each(|i| _ = hits[i].fetch_add(1, Ordering::Relaxed));
                    });
                    assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 2));
                    assert!(threads == 1 || tasks == 1 || most.into_inner() <= 7);
                }
            }
        }
    }

    #[test]
    fn workers_that_fell_asleep_come_back() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(20));
            let seen = AtomicUsize::new(0);
            let both = std::sync::Barrier::new(2);
            // Two tasks that wait for each other need two threads.
            pool.run(2, &|_| {
                both.wait();
                seen.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(seen.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn a_worker_number_is_never_shared() {
        let pool = Pool::new(4).unwrap();
        let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        for _ in 0..100 {
            pool.run_indexed(64, &|worker, _| {
                assert!(!busy[worker].swap(true, Ordering::SeqCst));
                std::hint::spin_loop();
                busy[worker].store(false, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            for _ in 0..20 {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(50, &|i| assert!(i != 17, "task seventeen"));
                }));
                let payload = outcome.unwrap_err();
                assert_eq!(payload.downcast_ref::<&str>().copied(), Some("task seventeen"));
                let sum = AtomicUsize::new(0);
                pool.run(10, &|i| {
                    sum.fetch_add(i, Ordering::Relaxed);
                });
                assert_eq!(sum.load(Ordering::Relaxed), 45);
            }
        }
    }

    #[test]
    fn dropping_a_pool_ends_its_threads() {
        for pause in [0, 20] {
            let pool = Pool::new(4).unwrap();
            pool.run(16, &|_| {});
            // Workers are caught spinning, or asleep.
            std::thread::sleep(Duration::from_millis(pause));
            let shared = Arc::downgrade(&pool.shared);
            assert_eq!(shared.strong_count(), 4, "the pool and its workers");
            drop(pool);
            assert_eq!(shared.strong_count(), 0);
        }
    }

    #[test]
    fn four_threads_a_core_give_the_same_results() {
        let cores = std::thread::available_parallelism().unwrap().get();
        let results = |threads: usize| -> Vec<u32> {
            let pool = Pool::new(threads).unwrap();
            let out: Vec<AtomicU32> = (0..97).map(|_| AtomicU32::new(0)).collect();
            for round in 0..300u32 {
                pool.run(out.len(), &|i| {
                    let before = f32::from_bits(out[i].load(Ordering::Relaxed));
                    let sum = (1..200).fold(before, |sum, k| sum + 1.0 / (k * (i + 1)) as f32 + round as f32);
                    out[i].store(sum.to_bits(), Ordering::Relaxed);
                });
            }
            out.iter().map(|bits| bits.load(Ordering::Relaxed)).collect()
        };
        assert_eq!(results(4 * cores), results(1));
    }

    #[test]
    fn nested_and_concurrent_jobs_finish() {
        let pool = Pool::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run_indexed(4, &|outer, _| {
                            pool.run_indexed(3, &|inner, i| {
                                assert_eq!(outer, inner);
                                sum.fetch_add(i, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(Ordering::Relaxed), 3 * 100 * 4 * 3);
    }

    #[test]
    fn impossible_thread_counts_are_refused() {
        assert!(matches!(Pool::new(0), Err(KernelError::Threads { threads: 0 })));
        assert!(matches!(Pool::new(Pool::MAX_THREADS + 1), Err(KernelError::Threads { .. })));
    }
}

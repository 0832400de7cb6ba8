//! A pool of worker threads that hands out the tasks of one job at a time.
//!
//! Made for jobs of tens of microseconds that follow one another closely: workers spin briefly between jobs
//! before they sleep, publishing a job is one atomic store, and nothing is allocated per job. A job never waits for
//! a worker that has not joined it, so a machine whose other cores are busy still makes progress at the
//! caller's own pace. A worker that shares its core with another program gives it up between jobs, of its own accord and
//! before the scheduler takes it: losing it with a task in hand would hold up the whole job. The caller, without whom nothing goes on,
//! moves to another core when it loses its own ([`Places`]).

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::affinity::Thread;
use super::places::Places;
use super::prefetch::{Shelf, Span, Spans, ask_some, ask_to_write};
use super::{Cores, KernelError};

/// Polls of the gate before a worker without work goes to sleep; tens of microseconds, about the time between
/// two products of one token.
const SPINS_BEFORE_SLEEP: u32 = 2_000;
/// How long a worker computes before it offers its core to other programs. Below the slices that schedulers give (3 to 4 ms on Linux), so
/// that a worker with a neighbour leaves at the end of a job and not in the middle of one; without one it costs a system call.
const TURN: Duration = Duration::from_millis(2);
/// Bytes that are asked for from a task on: what it refers to lies beside it on the caller's stack.
const TASK_BYTES: usize = 512;
/// Polls for the last worker to finish before the caller offers its core to it.
const SPINS_BEFORE_YIELD: u32 = 1_000;

/// The gate's fields: bits 0..16 count the workers inside the job, bit 16 says whether the job still admits
/// workers, the bits above number the jobs.
const INSIDE_MASK: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const JOB_SHIFT: u32 = 17;

type Task<'a> = dyn Fn(usize, Range<usize>) + Sync + 'a;

/// Keeps what every thread writes off the cache line of what every thread reads.
#[repr(align(128))]
struct Padded<T>(T);

/// What a worker needs to begin, in one cache line: each of another's lines that it has to wait for takes as long as hundreds of
/// instructions.
struct Posted {
    gate: AtomicU64,
    /// Where the task is, for requests before a worker has joined.
    at: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
}

struct Job {
    task: *const Task<'static>,
    tasks: usize,
    /// Tasks that a thread takes at a time.
    stretch: usize,
}

struct Shared {
    posted: Padded<Posted>,
    /// The next task of each thread's share of the job: thread w's begins at task w · tasks / threads.
    next: Box<[Padded<AtomicUsize>]>,
    /// What each worker fetches when it next waits.
    shelves: Box<[Padded<Shelf>]>,
    /// Who the workers are, from the moment they run.
    workers: Box<[OnceLock<Thread>]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is the only field that is not already Send and Sync. It is written only by the caller that holds the submit lock
// while the gate is closed and empty, and read only by workers that entered through the open gate; entering is an acquire of the
// release that opened it, leaving is a release the caller acquires before it writes again. The task it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only followed while the caller of `run_job` keeps the task alive.
unsafe impl Send for Shared {}

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
            posted: Padded(Posted { gate: AtomicU64::new(0), at: AtomicUsize::new(0), job: UnsafeCell::new(None) }),
            next: (0..threads).map(|_| Padded(AtomicUsize::new(0))).collect(),
            shelves: (0..threads).map(|_| Padded(Shelf::default())).collect(),
            workers: (1..threads).map(|_| OnceLock::new()).collect(),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
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

    /// The tasks of a job of `tasks` that a thread begins with.
    pub(super) fn share(&self, worker: usize, tasks: usize) -> Range<usize> {
        self.shared.share(worker, tasks)
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
        self.run_job(tasks, 1, &|worker, range| range.for_each(|i| task(worker, i)));
    }

    /// Like [`run_indexed`](Self::run_indexed), calling `task(worker, range)` for stretches of up to `stretch` tasks (at least 1), and of no more
    /// than half of what is left of a share: the threads finish together, without that every task costs the handing out.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_stretches(&self, tasks: usize, stretch: usize, task: &(dyn Fn(usize, Range<usize>) + Sync)) {
        self.run_job(tasks, stretch.max(1), task);
    }

    fn run_job(&self, tasks: usize, stretch: usize, task: &Task<'_>) {
        if tasks == 0 {
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
        // SAFETY: only the lifetime is erased. The pointer is followed only by workers inside the gate, and this function does not
        // return before the gate is closed and empty.
        let task: *const Task<'static> = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        for (worker, next) in shared.next.iter().enumerate() {
            next.0.store(shared.share(worker, tasks).start, Ordering::Relaxed);
        }
        // SAFETY: this thread holds the submit lock and the gate is closed and empty, so nobody else looks at the job.
        let job = unsafe { (*shared.posted.0.job.get()).insert(Job { task, tasks, stretch }) };
        shared.posted.0.at.store(task.addr(), Ordering::Relaxed);
        shared.open();
        shared.drain(0, job);
        shared.close_and_wait();
        // SAFETY: as above, the gate is closed and empty again.
        unsafe { *shared.posted.0.job.get() = None };
        let panic = lock(&shared.panic).take();
        drop(places);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleep));
        self.shared.wake.notify_all();
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

    fn gate(&self) -> &AtomicU64 {
        &self.posted.0.gate
    }

    /// Admits workers to a new job and wakes those asleep.
    fn open(&self) {
        let closed = self.gate().load(Ordering::Relaxed);
        let number = (closed >> JOB_SHIFT).wrapping_add(1);
        // Sequentially consistent with the sleeper's count-then-look: either it sees this job or this thread sees it asleep.
        self.gate().store((number << JOB_SHIFT) | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.sleep));
            self.wake.notify_all();
        }
    }

    /// Turns away workers that have not joined and waits for those that have.
    fn close_and_wait(&self) {
        let mut gate = self.gate().fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while gate & INSIDE_MASK != 0 {
            spins = spins.saturating_add(1);
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            gate = self.gate().load(Ordering::Acquire);
        }
    }

    /// The tasks that a thread begins with.
    fn share(&self, worker: usize, tasks: usize) -> Range<usize> {
        let bound = |worker: usize| (worker as u128 * tasks as u128 / self.next.len() as u128) as usize;
        bound(worker)..bound(worker + 1)
    }

    /// Runs tasks until none is left: first those of the thread's own share in order, because neighbouring tasks read
    /// neighbouring memory, then what the others have not begun.
    fn drain(&self, worker: usize, job: &Job) {
        let _running = Running::enter(self, worker);
        // SAFETY: the thread is inside the gate or is the caller itself, so the task is alive (see `run_job`).
        let task = unsafe { &*job.task };
        let threads = self.next.len();
        for owner in (worker..threads).chain(0..worker) {
            let (next, end) = (&self.next[owner].0, self.share(owner, job.tasks).end);
            loop {
                // Another thread may take some in between; then these are more than half of what is left.
                let left = end.saturating_sub(next.load(Ordering::Relaxed));
                let take = (left / 2).clamp(1, job.stretch);
                let first = next.fetch_add(take, Ordering::Relaxed);
                if first >= end {
                    break;
                }
                let range = first..end.min(first + take);
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(worker, range))) {
                    self.next.iter().for_each(|next| next.0.store(job.tasks, Ordering::Relaxed));
                    lock(&self.panic).get_or_insert(payload);
                }
            }
        }
    }

    /// A worker's life: join each job, spin for the next, sleep when none comes.
    fn work(&self, worker: usize) {
        let mut last_job = 0;
        let mut spins = 0;
        let mut turn = Instant::now();
        let mut spans = Spans::default();
        while !self.stop.load(Ordering::Relaxed) {
            let gate = self.gate().load(Ordering::Acquire);
            let job = gate >> JOB_SHIFT;
            if gate & OPEN != 0 && job != last_job {
                let task = std::ptr::without_provenance(self.posted.0.at.load(Ordering::Relaxed));
                Span::at(task, TASK_BYTES).ask_all();
                ask_to_write(std::ptr::from_ref(&self.next[worker]).cast(), 1);
                if self.gate().compare_exchange_weak(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
                    continue;
                }
                // SAFETY: this thread is inside the gate, so the caller does not write the job until it leaves.
                if let Some(job) = unsafe { &*self.posted.0.job.get() } {
                    self.drain(worker, job);
                }
                self.gate().fetch_sub(1, Ordering::Release);
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
                self.sleep_until_job_after(last_job);
                spins = 0;
                turn = Instant::now();
            }
        }
    }

    fn sleep_until_job_after(&self, last_job: u64) {
        let mut guard = lock(&self.sleep);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !self.stop.load(Ordering::SeqCst) {
            let gate = self.gate().load(Ordering::SeqCst);
            if gate & OPEN != 0 && gate >> JOB_SHIFT != last_job {
                break;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
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
    use std::sync::atomic::AtomicU32;

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
                    pool.run_stretches(tasks, 7, &|_, range| {
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

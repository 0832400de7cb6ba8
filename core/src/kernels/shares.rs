//! The tasks of one job, cut into a share for each thread.
//!
//! A thread waits for its share, finds it, takes tasks of it and says what it has done, all in one cache line: where cores share no cache,
//! each line that another has written takes as long as hundreds of instructions. To take tasks is to join the job: a thread that has taken none
//! is not waited for, and what one leaves the others take.

use std::ops::Range;

use super::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering, UnsafeCell};

/// Called with the number of a thread, below that of all, and tasks.
pub(super) type Task<'a> = dyn Fn(usize, Range<usize>) + Sync + 'a;

/// Tasks at the end of a share that are not halved any more.
const LAST: usize = 3;
/// Bits of a word below the job's number.
const LEFT_BITS: u32 = 32;

/// The number of a job. It comes again after 2³² others.
pub(super) type Number = u32;

/// A value on cache lines of its own.
#[repr(align(128))]
pub(super) struct Padded<T>(pub T);

/// One thread's share.
struct Share {
    /// The job's number, then how many tasks are left that nobody has taken, those at the end of the share.
    word: AtomicU64,
    /// How many of the job's tasks, of whatever share, the thread has done.
    done: AtomicU32,
    /// Where the share ends, as is known to a thread with a task in hand; the fields below likewise.
    end: AtomicU32,
    /// Tasks that are taken at a time, at most; of no consequence if it is another job's.
    stretch: AtomicU32,
    /// Where the task is, for requests before one is taken.
    at: AtomicUsize,
    task: UnsafeCell<*const Task<'static>>,
}

/// All shares of the job that was published last.
pub(super) struct Shares {
    shares: Box<[Padded<Share>]>,
}

// SAFETY: `task` is the only field that is not Sync. It is written by `publish` alone, whose caller promises that all tasks published before
// are done, and read only by a thread with a task in hand: it took that task (acquire) from a word that was stored after the write (release),
// and counts it as done (release, which the publisher acquires) after it has read. What it points to is Sync.
unsafe impl Sync for Shares {}
// SAFETY: as above; the pointer is followed by who took a task, while the publisher keeps it alive.
unsafe impl Send for Shares {}

/// Tasks that were taken.
pub(super) struct Taken {
    pub tasks: Range<usize>,
    task: *const Task<'static>,
}

impl Taken {
    /// Runs them.
    ///
    /// # Safety
    /// They are not counted as done yet.
    pub unsafe fn run(self, thread: usize) {
        // SAFETY: the publisher keeps the task alive until all are done, which these are not.
        let task = unsafe { &*self.task };
        task(thread, self.tasks);
    }
}

impl Shares {
    /// The most tasks a job may have.
    pub const MAX_TASKS: usize = 1 << 30;

    /// Without a job yet: the number of the first is the one after `last`.
    pub fn new(threads: usize, last: Number) -> Self {
        let nothing: &'static Task<'static> = &|_, _| {};
        let share = || Share {
            word: AtomicU64::new(word(last, 0)),
            done: AtomicU32::new(0),
            end: AtomicU32::new(0),
            stretch: AtomicU32::new(1),
            at: AtomicUsize::new(0),
            task: UnsafeCell::new(nothing),
        };
        Self { shares: (0..threads).map(|_| Padded(share())).collect() }
    }

    /// Publishes a job of 1 to [`MAX_TASKS`](Self::MAX_TASKS) tasks, the shares of which follow one another as the threads do, and takes the first of
    /// thread 0 for the calling thread, without a wait for stores.
    ///
    /// # Safety
    /// All tasks published before are done, no other thread publishes meanwhile, and `task` stays alive until these are done.
    pub unsafe fn publish(
        &self,
        share_of: impl Fn(usize) -> Range<usize>,
        stretch: usize,
        task: &Task<'_>,
    ) -> (Number, Taken) {
        let last = self.number(0);
        let number = last.wrapping_add(1);
        // SAFETY: only the lifetime is erased; the caller keeps it.
        let task: *const Task<'static> = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        let stretch = stretch.clamp(1, Self::MAX_TASKS);
        let first = share_of(0);
        let first = 0..taken_of(first.len(), stretch).min(first.len());
        // Those that wait, before the caller's own.
        for (thread, Padded(share)) in self.shares.iter().enumerate().rev() {
            let own = share_of(thread);
            share.end.store(own.end as u32, Ordering::Relaxed);
            share.stretch.store(stretch as u32, Ordering::Relaxed);
            share.at.store(task.addr(), Ordering::Relaxed);
            share.done.store(0, Ordering::Relaxed);
            // SAFETY: the caller's promise: nobody has a task in hand, nor can take one before the word below.
            share.task.with_mut(|at| unsafe { *at = task });
            let left = if thread == 0 { own.len() - first.len() } else { own.len() };
            share.word.store(word(number, left as u32), Ordering::Release);
        }
        (number, Taken { tasks: first, task })
    }

    /// The number of the job that a thread was given last.
    pub fn number(&self, thread: usize) -> Number {
        number_of(self.shares[thread].0.word.load(Ordering::Acquire))
    }

    /// Where what a thread needs to begin lies: its share, and the task.
    pub fn places(&self, thread: usize) -> [*const u8; 2] {
        let share = &self.shares[thread].0;
        [std::ptr::from_ref(share).cast(), std::ptr::without_provenance(share.at.load(Ordering::Relaxed))]
    }

    /// Takes tasks of `owner`'s share: up to the stretch, and no more than half of what is left unless that is little. `None` if none is left or there is another job.
    pub fn take(&self, number: Number, owner: usize) -> Option<Taken> {
        let share = &self.shares[owner].0;
        let mut now = share.word.load(Ordering::Acquire);
        loop {
            let left = left_of(now);
            if number_of(now) != number || left == 0 {
                return None;
            }
            let take = taken_of(left as usize, share.stretch.load(Ordering::Relaxed) as usize);
            match share.word.compare_exchange_weak(now, now - take as u64, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    // From here on this thread has tasks in hand, and nobody writes what it reads. Before, the next job may be on its way.
                    let start = share.end.load(Ordering::Relaxed) as usize - left as usize;
                    // SAFETY: as said.
                    let task = share.task.with(|at| unsafe { *at });
                    return Some(Taken { tasks: start..start + take, task });
                }
                Err(found) => now = found,
            }
        }
    }

    /// Takes tasks of a job until none is left: first those of the thread's own share in order, because neighbouring tasks read
    /// neighbouring memory, then what the others have not begun.
    pub fn drain(&self, number: Number, thread: usize, mut run: impl FnMut(Taken)) {
        for owner in (thread..self.shares.len()).chain(0..thread) {
            while let Some(taken) = self.take(number, owner) {
                run(taken);
            }
        }
    }

    /// Says that a thread has done so many tasks of the job, of which it took the last ones.
    pub fn set_done(&self, thread: usize, tasks: usize) {
        self.shares[thread].0.done.store(tasks as u32, Ordering::Release);
    }

    /// How many tasks of the job a thread has said it has done.
    pub fn done(&self, thread: usize) -> usize {
        self.shares[thread].0.done.load(Ordering::Acquire) as usize
    }

    /// Whether the threads from 1 on have done so many tasks of the job.
    pub fn others_have_done(&self, tasks: usize) -> bool {
        (1..self.shares.len()).map(|thread| self.done(thread)).sum::<usize>() == tasks
    }
}

/// How many of the tasks left are taken together: half, or the last few, whose handing out would take as long as they do.
fn taken_of(left: usize, stretch: usize) -> usize {
    (if left <= LAST { left } else { left / 2 }).clamp(1, stretch)
}

fn word(number: Number, left: u32) -> u64 {
    u64::from(number) << LEFT_BITS | u64::from(left)
}

fn number_of(word: u64) -> Number {
    (word >> LEFT_BITS) as Number
}

fn left_of(word: u64) -> u32 {
    word as u32
}

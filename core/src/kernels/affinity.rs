//! What the scheduler lets a program ask and say about threads and cores: on which cores a thread may run, on which it
//! does, what it was denied. Linux and Android answer; on other systems every question is answered by `None`.

use std::time::Duration;

/// A set of cores by number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct CoreSet([u64; Self::MOST / 64]);

impl CoreSet {
    /// Cores that a set has room for: as many as the C library's.
    const MOST: usize = 1024;

    /// The cores the calling thread may run on; `None` if the system does not say or has more than a set holds.
    pub(super) fn of_this_thread() -> Option<Self> {
        system::allowed().filter(|&set| set != Self::of(&[]))
    }

    /// The cores of `cores` that a set has room for.
    pub(super) fn of(cores: &[usize]) -> Self {
        let mut set = Self([0; Self::MOST / 64]);
        for &core in cores.iter().filter(|&&core| core < Self::MOST) {
            set.0[core / 64] |= 1 << (core % 64);
        }
        set
    }

    pub(super) fn has(&self, core: usize) -> bool {
        core < Self::MOST && self.0[core / 64] >> (core % 64) & 1 == 1
    }

    /// The set's cores, ascending.
    pub(super) fn cores(&self) -> impl Iterator<Item = usize> {
        (0..Self::MOST).filter(|&core| self.has(core))
    }

    /// The cores of both.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        self
    }

    pub(super) fn without(mut self, core: usize) -> Self {
        if core < Self::MOST {
            self.0[core / 64] &= !(1 << (core % 64));
        }
        self
    }

    /// The set's next core above `core`, or its first.
    pub(super) fn after(&self, core: usize) -> Option<usize> {
        self.cores().find(|&other| other > core).or_else(|| self.cores().next())
    }
}

impl std::fmt::Debug for CoreSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.cores()).finish()
    }
}

/// A thread of this process, while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thread(system::Id);

impl Thread {
    pub(super) fn this() -> Option<Self> {
        system::this_thread().map(Self)
    }

    /// Restricts the thread to `cores`; says whether the system let it. The calling thread is on one of them when this returns.
    pub(super) fn keep_to(self, cores: &CoreSet) -> bool {
        system::keep(self.0, cores)
    }
}

/// The core on which the calling thread runs, or ran just now.
pub(super) fn this_core() -> Option<usize> {
    system::this_core()
}

/// What the calling thread has had of the cores so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// Time on a core.
    pub(super) computed: Duration,
    /// Times that it lost its core with work left.
    pub(super) preemptions: u64,
}

impl Usage {
    pub(super) fn of_this_thread() -> Option<Self> {
        system::usage()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::time::Duration;

    use super::{CoreSet, Usage};

    pub(super) type Id = libc::pid_t;

    /// The calling thread's own usage (Linux's `getrusage`, which every C library there knows but not every binding).
    const RUSAGE_THREAD: libc::c_int = 1;

    pub(super) fn allowed() -> Option<CoreSet> {
        let mut set = CoreSet::of(&[]);
        let into = (&raw mut set.0).cast::<libc::cpu_set_t>();
        // SAFETY: the set is plain bits, writable and as long as said (the system call takes masks of any length); 0 names the
        // calling thread.
        let done = unsafe { libc::sched_getaffinity(0, size_of_val(&set.0), into) };
        (done == 0).then_some(set)
    }

    pub(super) fn this_thread() -> Option<Id> {
        // SAFETY: always succeeds.
        Some(unsafe { libc::gettid() })
    }

    pub(super) fn keep(thread: Id, cores: &CoreSet) -> bool {
        let from = (&raw const cores.0).cast::<libc::cpu_set_t>();
        // SAFETY: the set is readable and as long as said. An empty one is refused.
        unsafe { libc::sched_setaffinity(thread, size_of_val(&cores.0), from) == 0 }
    }

    pub(super) fn this_core() -> Option<usize> {
        // SAFETY: no arguments; -1 where the kernel does not know the call.
        usize::try_from(unsafe { libc::sched_getcpu() }).ok()
    }

    pub(super) fn usage() -> Option<Usage> {
        // SAFETY: the structure is plain integers, for which zeros are valid.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: `usage` is writable.
        if unsafe { libc::getrusage(RUSAGE_THREAD, &raw mut usage) } != 0 {
            return None;
        }
        let time = |time: libc::timeval| {
            let (seconds, micros) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_usec).ok()?);
            Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
        };
        let computed = time(usage.ru_utime)? + time(usage.ru_stime)?;
        Some(Usage { computed, preemptions: u64::try_from(usage.ru_nivcsw).ok()? })
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::convert::Infallible;

    use super::{CoreSet, Usage};

    pub(super) type Id = Infallible;

    pub(super) fn allowed() -> Option<CoreSet> {
        None
    }

    pub(super) fn this_thread() -> Option<Id> {
        None
    }

    pub(super) fn keep(thread: Id, _: &CoreSet) -> bool {
        match thread {}
    }

    pub(super) fn this_core() -> Option<usize> {
        None
    }

    pub(super) fn usage() -> Option<Usage> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_its_cores() {
        let set = CoreSet::of(&[130, 0, 63, 64, 1023, 1024, usize::MAX]);
        assert_eq!(set.cores().collect::<Vec<_>>(), [0, 63, 64, 130, 1023]);
        assert!(set.has(64) && !set.has(65) && !set.has(1024) && !set.has(usize::MAX));
        assert_eq!(set.without(64).without(1).without(usize::MAX), CoreSet::of(&[0, 63, 130, 1023]));
        assert_eq!(set.and(&CoreSet::of(&[0, 1, 64, 900])), CoreSet::of(&[0, 64]));
        assert_eq!([0, 5, 64, 1023, usize::MAX].map(|core| set.after(core)), [63, 63, 130, 0, 0].map(Some));
        assert_eq!((CoreSet::of(&[7]).after(7), CoreSet::of(&[]).after(7)), (Some(7), None));
        assert_eq!(format!("{:?}", CoreSet::of(&[3, 70])), "{3, 70}");
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn a_thread_goes_where_it_is_kept() {
        let allowed = CoreSet::of_this_thread().unwrap();
        std::thread::spawn(move || {
            let this = Thread::this().unwrap();
            for core in allowed.cores() {
                assert!(this.keep_to(&CoreSet::of(&[core])));
                assert_eq!((CoreSet::of_this_thread(), this_core()), (Some(CoreSet::of(&[core])), Some(core)));
            }
            let last = CoreSet::of_this_thread();
            assert!(!this.keep_to(&CoreSet::of(&[])));
            assert_eq!(CoreSet::of_this_thread(), last);
        })
        .join()
        .unwrap();
        assert_eq!(CoreSet::of_this_thread(), Some(allowed));
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[test]
    fn usage_counts_what_a_thread_computes_and_not_what_it_sleeps() {
        let usage = || Usage::of_this_thread().unwrap().computed;
        let before = usage();
        std::thread::sleep(Duration::from_millis(50));
        let slept = usage();
        assert!(slept - before < Duration::from_millis(40), "{:?}", slept - before);
        while usage() < slept + Duration::from_millis(5) {
            std::hint::spin_loop();
        }
    }
}

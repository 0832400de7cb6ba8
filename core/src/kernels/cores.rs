//! Which cores this process may use, and which of them are worth it.
//!
//! A job ends when its slowest thread does, and on a phone the slow cores are a third as fast as the others: a thread
//! for each of them adds waiting, heat and little else. So the threads by default are the *fast* cores among those the process is
//! allowed ([`Cores::fast`]), no more than its CPU quota pays for.
//!
//! The allowed cores are the scheduler's affinity mask (Linux and Android), the quota what
//! [`available_parallelism`](std::thread::available_parallelism) makes of cgroups, the speeds what
//! `/sys/devices/system/cpu` says. On other systems all cores that `available_parallelism` counts are taken for fast. Apple's systems
//! offer no affinity: there a thread's quality-of-service class decides between fast and efficient cores, and threads inherit that of
//! the thread that starts them, so load a model from a thread of class user-initiated and name the number of threads.

use std::num::NonZeroUsize;
use std::path::Path;

use super::affinity::CoreSet;

/// Where Linux describes the cores.
const SYSFS: &str = "/sys/devices/system/cpu";

/// A file of one core's folder that says how fast it is, and the percentage of the largest value from which a core is fast.
struct Measure {
    file: &'static str,
    fast_percent: u64,
}

/// In the order of trust; the first that every core has decides.
const MEASURES: [Measure; 2] = [
    // Work per time relative to the largest core's 1024, as the scheduler uses it: little cores have 15 to 45 %, middle ones 70 to 90 %.
    Measure { file: "cpu_capacity", fast_percent: 60 },
    // A clock in kHz shows only a part of the difference: little cores clock at 60 to 73 % of the largest, middle ones at 80 to 95 %.
    Measure { file: "cpufreq/cpuinfo_max_freq", fast_percent: 75 },
];

/// The cores of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    allowed: Vec<usize>,
    fast: Vec<usize>,
    quota: usize,
}

impl Cores {
    /// Those the calling thread may use now.
    pub fn of_this_thread() -> Self {
        let quota = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        if let Some(allowed) = CoreSet::of_this_thread() {
            return Self::read(Path::new(SYSFS), allowed.cores().collect(), quota);
        }
        let all: Vec<usize> = (0..quota).collect();
        Self { fast: all.clone(), allowed: all, quota }
    }

    /// Picks the fast cores among `allowed` by what the files under `sysfs` say. Files that are missing or hold anything
    /// but a positive number make their measure void; without a measure all cores are taken for fast.
    fn read(sysfs: &Path, allowed: Vec<usize>, quota: usize) -> Self {
        let speeds = |measure: &Measure| -> Option<Vec<u64>> {
            let speed = |core: &usize| {
                let text = std::fs::read_to_string(sysfs.join(format!("cpu{core}")).join(measure.file)).ok()?;
                text.trim().parse::<u64>().ok().filter(|&speed| speed > 0)
            };
            allowed.iter().map(speed).collect()
        };
        let measured = MEASURES.iter().find_map(|measure| Some((speeds(measure)?, measure.fast_percent)));
        let fast = measured.map_or_else(
            || allowed.clone(),
            |(speeds, percent)| {
                let largest = speeds.iter().copied().max().unwrap_or(0);
                let is_fast = |speed: u64| u128::from(speed) * 100 >= u128::from(largest) * u128::from(percent);
                allowed.iter().zip(speeds).filter(|&(_, speed)| is_fast(speed)).map(|(&core, _)| core).collect()
            },
        );
        Self { allowed, fast, quota }
    }

    /// The cores the thread may run on, ascending.
    pub fn allowed(&self) -> &[usize] {
        &self.allowed
    }

    /// The allowed cores that are about as fast as the fastest of them, ascending.
    pub fn fast(&self) -> &[usize] {
        &self.fast
    }

    /// Threads to compute with unless told otherwise: one a fast core, at most what the process's CPU quota pays for, at least one.
    pub fn threads(&self) -> usize {
        self.fast.len().min(self.quota).max(1)
    }

    /// Whether `threads` threads are better kept to the fast cores than left to the scheduler.
    fn should_pin(&self, threads: usize) -> bool {
        threads <= self.fast.len() && self.fast.len() < self.allowed.len()
    }

    /// Where the workers of a pool of `threads` threads run: on any fast core, if those are enough for all of them.
    pub(super) fn home(&self, threads: usize) -> CoreSet {
        CoreSet::of(if self.should_pin(threads) { &self.fast } else { &self.allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of files, `(core, file, content)` each.
    fn tree<'a>(files: impl IntoIterator<Item = (usize, &'a str, &'a str)>) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (core, file, content) in files {
            let path = root.path().join(format!("cpu{core}")).join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    const CAPACITY: &str = MEASURES[0].file;
    const CLOCK: &str = MEASURES[1].file;
    /// Four little cores, three middle ones, a large one.
    const PHONE: [&str; 8] = ["279\n", "279\n", "279\n", "279\n", "773\n", "773\n", "773\n", "1024\n"];
    const PHONE_CLOCKS: [&str; 8] =
        ["1804800", "1804800", "1804800", "1804800", "2419200", "2419200", "2419200", "2841600"];

    fn fast_of(root: &tempfile::TempDir, allowed: &[usize]) -> Vec<usize> {
        Cores::read(root.path(), allowed.to_vec(), 64).fast
    }

    #[test]
    fn a_phone_computes_on_its_large_and_middle_cores() {
        let all: Vec<usize> = (0..8).collect();
        let by_capacity = tree((0..8).map(|core| (core, CAPACITY, PHONE[core])));
        let by_clock = tree((0..8).map(|core| (core, CLOCK, PHONE_CLOCKS[core])));
        for root in [&by_capacity, &by_clock] {
            let cores = Cores::read(root.path(), all.clone(), 8);
            assert_eq!((cores.fast(), cores.allowed(), cores.threads()), (&[4, 5, 6, 7][..], &all[..], 4));
            assert_eq!([2, 4].map(|threads| cores.home(threads)), [CoreSet::of(&[4, 5, 6, 7]); 2]);
            assert_eq!(cores.home(5), CoreSet::of(&all));
        }
    }

    #[test]
    fn fast_is_relative_to_the_cores_allowed() {
        let root = tree((0..8).map(|core| (core, CAPACITY, PHONE[core])));
        assert_eq!(fast_of(&root, &[0, 1, 2, 3]), [0, 1, 2, 3]);
        assert_eq!(fast_of(&root, &[1, 3, 5]), [5]);
        assert_eq!(Cores::read(root.path(), vec![0, 1], 2).home(1), CoreSet::of(&[0, 1]));
    }

    #[test]
    fn capacity_counts_before_the_clock() {
        let files = [(0, CAPACITY, "1024"), (1, CAPACITY, "400"), (0, CLOCK, "2000000"), (1, CLOCK, "2000000")];
        assert_eq!(fast_of(&tree(files), &[0, 1]), [0]);
    }

    #[test]
    fn a_uniform_server_uses_every_core_its_quota_pays_for() {
        let all: Vec<usize> = (0..64).collect();
        let root = tree(all.iter().map(|&core| (core, CLOCK, "3400000\n")));
        let cores = Cores::read(root.path(), all.clone(), 6);
        assert_eq!((cores.fast(), cores.threads()), (&all[..], 6));
        assert_eq!(cores.home(6), CoreSet::of(&all));
    }

    #[test]
    fn what_is_missing_or_garbage_leaves_all_cores() {
        assert_eq!(fast_of(&tree([]), &[0, 1]), [0, 1]);
        for garbage in ["", "fast", "-5", "0", "1e3", "99999999999999999999999", "\u{0}\u{1}"] {
            let root = tree([(0, CAPACITY, "1024"), (1, CAPACITY, garbage)]);
            assert_eq!(fast_of(&root, &[0, 1]), [0, 1], "{garbage:?}");
            // The next measure is asked where the first has holes.
            let root = tree([(0, CAPACITY, "1024"), (1, CAPACITY, garbage), (0, CLOCK, "1000"), (1, CLOCK, "3000")]);
            assert_eq!(fast_of(&root, &[0, 1]), [1], "{garbage:?}");
        }
        let huge = u64::MAX.to_string();
        assert_eq!(fast_of(&tree([(0, CAPACITY, &*huge), (1, CAPACITY, "1")]), &[0, 1]), [0]);
        assert_eq!(Cores::read(tree([]).path(), Vec::new(), 0).threads(), 1);
    }

    #[test]
    fn this_thread_has_cores() {
        let cores = Cores::of_this_thread();
        assert!(
            !cores.fast().is_empty() && cores.fast().iter().all(|core| cores.allowed().contains(core)),
            "{cores:?}"
        );
        assert!((1..=std::thread::available_parallelism().unwrap().get()).contains(&cores.threads()), "{cores:?}");
    }
}

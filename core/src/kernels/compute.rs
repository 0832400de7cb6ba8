//! The matrix products: work split over the pool, kernels chosen by tier.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::activations::Row;
use super::isa::{Batched, Form, Kernel, Kernels, PanelFn};
use super::lead::Lead;
use super::next::Next;
use super::panel::{self, MultiplyFn, Target, UnpackFn};
use super::prefetch::{Span, Spans, prefetch};
use super::runs::Held;
use super::splits::{Split, Splits, share};
use super::{ActivationType, Activations, KernelChoice, KernelError, Matrix, Pool, Tier};
use crate::gguf::GgmlType;

/// Weight rows handed to a kernel at a time: with a tile of activation rows they stay in the first-level cache, so that
/// a batch reads each of them from memory once.
const PANEL_ROWS: usize = 32;
/// Stretches of tasks per thread and job with one row of activations, so that a thread that was held up leaves its share to the others.
const STRETCHES_PER_THREAD: usize = 4;
/// Least work of a task in weight bytes times activation rows: about a microsecond.
const TASK_BYTES: usize = 16 << 10;
/// Bytes that a worker fetches of its share of the products to come, at most: a part of a second-level cache.
const AHEAD: usize = 128 << 10;
/// Bytes of each of two streams that are worth asking for before a product.
const BEGINNING: usize = 48 << 10;
/// Activation rows between requests for the next panel; every tier's tiles divide them.
const SLICE: usize = 24;
/// Jobs of a group dispatched together.
const GROUP_JOBS: usize = 8;

/// Work that is done beside products.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside {
    /// Tasks.
    pub tasks: usize,
    /// Bytes of weights that are multiplied by one row in about the time of one task.
    pub bytes: usize,
}

/// Everything the products need besides their operands: a thread pool and the kernels chosen for this CPU. Owned by whoever
/// computes; nothing is global.
pub struct Compute {
    pool: Pool,
    tier: Tier,
    activations: ActivationType,
    kernels: Kernels,
    lead: Lead,
    splits: Splits,
    /// One a worker; a worker locks only its own.
    panels: Vec<Mutex<panel::Panel>>,
}

impl Compute {
    /// Chooses kernels and starts `threads - 1` threads to work beside the caller's. Activations are quantised to 15 bits.
    ///
    /// # Errors
    /// [`KernelError::TierUnavailable`] if this CPU cannot run the tier asked for, [`KernelError::Threads`] or
    /// [`KernelError::Spawn`] if the threads cannot be had.
    pub fn new(choice: KernelChoice, threads: usize) -> Result<Self, KernelError> {
        Self::with_activations(choice, threads, ActivationType::Int15)
    }

    /// As [`new`](Self::new), with a choice of how activations are quantised. [`Tier::Reference`] does not quantise them.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_activations(
        choice: KernelChoice,
        threads: usize,
        activations: ActivationType,
    ) -> Result<Self, KernelError> {
        let tier = choice.resolve()?;
        // First, because it refuses numbers of threads that memory would not suffice for.
        let pool = Pool::new(threads)?;
        let panels = (0..threads).map(|_| Mutex::new(panel::Panel::new())).collect();
        let mut kernels = Kernels::of(tier)?;
        if activations == ActivationType::Int8 {
            kernels.kernel = kernels.coarse;
        }
        Ok(Self { kernels, lead: Lead::new(threads), splits: Splits::new(threads), pool, tier, activations, panels })
    }

    /// The tier in use.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// How activations are quantised.
    pub fn activations(&self) -> ActivationType {
        self.activations
    }

    /// How far ahead weights are asked for.
    pub(super) fn lead(&self) -> Lead {
        self.lead
    }

    /// Threads in use, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The thread pool, for work other than products.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// `out[t · w.rows() + r] = Σ_k w[r,k] · x[t,k]` for every activation row `t` and weight row `r`.
    ///
    /// The result for a row does not depend on the other rows of the batch nor on the number of threads. Nothing
    /// is allocated.
    ///
    /// # Panics
    /// If `x` has not `w.cols()` columns, `out` is not `x.rows() · w.rows()` long, or `x` was loaded without the form `w` needs.
    pub fn matmul(&self, w: Matrix<'_>, x: &Activations, out: &mut [f32]) {
        self.matmul_group(&mut [(w, out)], x);
    }

    /// Several products with the same activations, as one job of the pool: query, key and value projections, or gate and up.
    /// Each is as [`matmul`](Self::matmul).
    ///
    /// # Panics
    /// As [`matmul`](Self::matmul), for any of the products.
    pub fn matmul_group(&self, jobs: &mut [(Matrix<'_>, &mut [f32])], x: &Activations) {
        self.matmul_group_beside(jobs, x, Beside::default(), Next::default(), &|_, _| {});
    }

    /// [`matmul_group`](Self::matmul_group), but each product is added to its output where `held` says that it holds a sum, which only
    /// products with several rows of activations can be.
    ///
    /// # Panics
    /// As [`matmul_group`](Self::matmul_group), with a sum and a single row, or unless there are as many of `held` as products.
    pub fn matmul_group_onto(&self, jobs: &mut [(Matrix<'_>, &mut [f32])], held: &[Held], x: &Activations) {
        assert_eq!(jobs.len(), held.len(), "products, and what their outputs hold");
        assert!(x.rows() != 1 || !held.contains(&Held::Sum), "a single row is not added to sums");
        self.group(jobs, held, x, Beside::default(), Next::default(), &|_, _| {});
    }

    /// [`matmul_group`](Self::matmul_group), and in the same job of the pool `task(worker, i)` for every `i` below `beside.tasks`, begun
    /// before the products: what would keep one thread busy alone is done while the others multiply. With one row of activations, `next` is
    /// asked for towards the end, and threads that wait after it fetch the first of what will be theirs.
    ///
    /// # Panics
    /// As [`matmul_group`](Self::matmul_group), and with a task that panics.
    pub fn matmul_group_beside(
        &self,
        jobs: &mut [(Matrix<'_>, &mut [f32])],
        x: &Activations,
        beside: Beside,
        next: Next<'_>,
        task: &(dyn Fn(usize, usize) + Sync),
    ) {
        self.group(jobs, &[], x, beside, next, task);
    }

    /// `held`: for each job, or for none, whose outputs are overwritten then.
    fn group(
        &self,
        jobs: &mut [(Matrix<'_>, &mut [f32])],
        held: &[Held],
        x: &Activations,
        beside: Beside,
        next: Next<'_>,
        task: &(dyn Fn(usize, usize) + Sync),
    ) {
        if x.rows() == 1 {
            self.expect(next.products);
        }
        if jobs.is_empty() {
            return self.pool.run_indexed(beside.tasks, task);
        }
        let mut left = beside.tasks;
        let mut held = held.iter().copied().chain(std::iter::repeat(Held::Nothing));
        for jobs in jobs.chunks_mut(GROUP_JOBS) {
            let mut group = [const { None }; GROUP_JOBS];
            for ((slot, (w, out)), held) in group.iter_mut().zip(jobs).zip(&mut held) {
                *slot = Some(Job::new(self, *w, x, out, held));
            }
            let jobs = || group.iter().flatten();
            // A task beside the products stands for as many of theirs as take the same time, so that shares are fair.
            let unit = jobs().map(Job::task_bytes).max().unwrap_or(1).max(1);
            let each = ((beside.bytes + unit / 2) / unit).max(1);
            let before = left * each;
            let tasks = before + jobs().map(Job::tasks).sum::<usize>();
            let bytes = jobs().map(|job| job.w.rows() * job.w.row_bytes()).sum();
            let split = if x.rows() == 1 { self.splits.of(bytes) } else { None };
            if let Some(split) = split {
                split.set_before(before);
            }
            // Where a worker goes on to, unless others take some of it.
            let share_end = |worker| share(split, self.threads(), worker, tasks).end;
            let run = |worker: usize, range: Range<usize>| {
                for i in range.start..range.end.min(before) {
                    if i % each == 0 {
                        task(worker, i / each);
                    }
                }
                let mut first = before;
                let mut following = jobs();
                while let Some(job) = following.next() {
                    let end = first + job.tasks();
                    let own = range.start.max(first)..range.end.min(end);
                    if !own.is_empty() {
                        let then = match following.clone().next() {
                            _ if x.rows() > 1 => Default::default(),
                            Some(following) if own.end == end && end < share_end(worker) => following.begins_with(),
                            _ if own.end == share_end(worker) => {
                                if worker == 0 {
                                    next.between.into_iter().for_each(Span::ask_all);
                                }
                                self.first_of(worker, next)
                            }
                            _ => Default::default(),
                        };
                        job.run(own.start - first..own.end - first, x, &self.panels[worker], then);
                    }
                    first = end;
                }
            };
            match x.rows() {
                1 => self.pool.run_stretches(tasks, tasks.div_ceil(self.threads() * STRETCHES_PER_THREAD), split, &run),
                _ => self.pool.run_indexed(tasks, &|worker, i| run(worker, i..i + 1)),
            }
            left = 0;
        }
    }

    /// What the calling thread reads first of a product with a single row of activations, in two streams: for whatever it does just before
    /// to ask for.
    pub fn begins_with(&self, w: &Matrix<'_>) -> [Span; 2] {
        self.share_of(0, std::slice::from_ref(w))[0].map(|span| span.first(BEGINNING))
    }

    /// Lets threads that wait before the products with a single row that come `next` fetch the first of what will be theirs.
    fn expect(&self, next: &[Matrix<'_>]) {
        if self.threads() > 1 && !next.is_empty() {
            self.pool.fetch_meanwhile(|worker| self.share_of(worker, next));
        }
    }

    /// The first of what a worker reads of products with a single row.
    fn share_of(&self, worker: usize, products: &[Matrix<'_>]) -> Spans {
        let tasks: usize = products.iter().map(|w| Cut::new(self, w, 1).tasks()).sum();
        let bytes = products.iter().map(|w| w.rows() * w.row_bytes()).sum();
        let split = self.splits.of(bytes);
        // Other work comes before that of the products.
        let before = split.map_or(0, Split::before);
        let share = share(split, self.threads(), worker, before + tasks);
        let share = share.start.saturating_sub(before)..share.end.saturating_sub(before);
        let mut spans = Spans::default();
        let mut places = spans.iter_mut();
        let (mut first, mut left) = (0, AHEAD);
        for w in products {
            let cut = Cut::new(self, w, 1);
            let own = share.start.max(first)..share.end.min(first + cut.tasks());
            if !own.is_empty()
                && let Some(place) = places.next()
            {
                let parts = cut.parts(own.start - first..own.end - first);
                *place = parts.map(|rows| Span::of(w.row_range(rows.start, rows.end)).first(left / 2));
                left -= place.iter().map(|span| span.len()).sum::<usize>();
            }
            first += cut.tasks();
        }
        spans
    }

    /// What a worker reads first of what comes `next`.
    fn first_of(&self, worker: usize, next: Next<'_>) -> [Span; 2] {
        if worker == 0 && next.first[0].len() > 0 { next.first } else { self.share_of(worker, next.products)[0] }
    }

    /// The form of activations that weights of type `ty` are multiplied with.
    pub(super) fn form(&self, ty: GgmlType) -> Form {
        (self.kernels.kernel)(ty).form
    }

    pub(super) fn kernels(&self) -> &Kernels {
        &self.kernels
    }
}

impl std::fmt::Debug for Compute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compute").field("tier", &self.tier).field("threads", &self.threads()).finish_non_exhaustive()
    }
}

/// How the rows of a product are cut into tasks.
struct Cut {
    rows: usize,
    /// Rows of a task, or of each of its two runs.
    each: usize,
    /// Every task has as many rows of the lower half as of the upper, so that those of a thread's tasks are two long streams.
    paired: bool,
}

impl Cut {
    fn new(compute: &Compute, w: &Matrix<'_>, batch: usize) -> Self {
        let (threads, rows) = (compute.threads(), w.rows());
        let row_work = w.row_bytes().saturating_mul(batch).max(1);
        let each = |rows: usize, work: usize, multiple: usize| {
            // Small ones divide well between threads: a batch's are single panels, those of one row are taken several at a time.
            let least = if threads == 1 { rows } else { TASK_BYTES.div_ceil(work) };
            least.max(1).next_multiple_of(multiple)
        };
        // Multiples that keep two tasks off the same cache line of the output.
        if batch == 1 && (compute.kernels.kernel)(w.ty()).pair.is_some() {
            return Self { rows, each: each(rows / 2, row_work.saturating_mul(2), PANEL_ROWS / 2), paired: true };
        }
        Self { rows, each: each(rows, row_work, PANEL_ROWS), paired: false }
    }

    fn tasks(&self) -> usize {
        // A single row has empty halves.
        if self.paired {
            (self.rows / 2).div_ceil(self.each).max(self.rows.min(1))
        } else {
            self.rows.div_ceil(self.each)
        }
    }

    /// The rows of some tasks that follow one another; the second range is empty unless they are paired.
    fn parts(&self, tasks: Range<usize>) -> [Range<usize>; 2] {
        let half = if self.paired { self.rows / 2 } else { self.rows };
        let first = (tasks.start * self.each).min(half)..(tasks.end * self.each).min(half);
        let second = if self.paired { first.start + half..first.end + half } else { first.end..first.end };
        [first, second]
    }

    /// The row that belongs to neither half and that the last task has besides, if it is one of these.
    fn odd(&self, tasks: Range<usize>) -> Option<usize> {
        (self.paired && tasks.end == self.tasks() && self.rows % 2 == 1).then(|| self.rows - 1)
    }
}

/// One product, cut into tasks of a number of weight rows each.
struct Job<'a> {
    kernel: Kernel,
    w: Matrix<'a>,
    cut: Cut,
    out: *mut f32,
    held: Held,
    lifetime: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: `out` stands for an exclusive borrow of f32s; tasks write disjoint rows of it (see `Job::run`).
unsafe impl Sync for Job<'_> {}

impl<'a> Job<'a> {
    /// Checks the operands and plans the tasks.
    fn new(compute: &Compute, w: Matrix<'a>, x: &Activations, out: &'a mut [f32], held: Held) -> Self {
        let kernel = (compute.kernels.kernel)(w.ty());
        assert_eq!(w.cols(), x.cols(), "columns of weights and activations");
        assert_eq!(Some(out.len()), x.rows().checked_mul(w.rows()), "size of the output");
        assert!(x.has(kernel.form), "activations were not loaded for {} weights", w.ty());
        if w.cols() == 0 && held == Held::Nothing {
            out.fill(0.0);
        }
        Self {
            kernel,
            w,
            cut: Cut::new(compute, &w, x.rows()),
            out: out.as_mut_ptr(),
            held,
            lifetime: std::marker::PhantomData,
        }
    }

    fn tasks(&self) -> usize {
        if self.w.cols() == 0 {
            return 0;
        }
        self.cut.tasks()
    }

    /// The weights of its first task.
    fn begins_with(&self) -> [Span; 2] {
        self.cut.parts(0..1).map(|rows| Span::of(self.w.row_range(rows.start, rows.end)))
    }

    /// Bytes of weights that a task reads.
    fn task_bytes(&self) -> usize {
        self.cut.each * self.w.row_bytes() * if self.cut.paired { 2 } else { 1 }
    }

    /// Computes the outputs of some tasks' weight rows for all activation rows; of a single one, `then` is read after them.
    fn run(&self, tasks: Range<usize>, x: &Activations, scratch: &Mutex<panel::Panel>, then: [Span; 2]) {
        let [rows, second] = self.cut.parts(tasks.clone());
        if let Some(pair) = self.kernel.pair.filter(|_| self.cut.paired) {
            let data = [&rows, &second].map(|rows| self.w.row_range(rows.start, rows.end));
            // SAFETY: `Job::new` checked that the output holds a number for each weight row; no other task has these, and the runs
            // do not overlap.
            let out = [rows, second].map(|rows| unsafe { self.outputs(rows) });
            // SAFETY: a `Compute` of this tier exists, so the CPU runs it; `data` is whole rows of the job's type, which chose
            // the kernel, equally many in both; `Job::new` checked the activations' columns and form.
            unsafe { pair(data, self.w.row_bytes(), &x.row(0), out, then) };
            if let Some(odd) = self.cut.odd(tasks) {
                self.run_one(odd..odd + 1, x);
            }
            return;
        }
        let (start, end) = (rows.start, rows.end);
        if let Batched::Panel { unpack, multiply, columns } = self.kernel.batch
            && x.rows() > 1
        {
            let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            for first in (start..end).step_by(panel::PANEL_ROWS) {
                let rows = first..end.min(first + panel::PANEL_ROWS);
                self.run_repacked(rows, x, &mut scratch, (unpack, multiply), columns);
            }
            return;
        }
        if x.rows() == 1 {
            return self.run_one(start..end, x);
        }
        for first in (start..end).step_by(PANEL_ROWS) {
            let panel = Panel { job: self, first, rows: PANEL_ROWS.min(end - first) };
            let done = match self.kernel.batch {
                Batched::Four(tile) => panel.tiles(tile, x, 0),
                Batched::Sixteen(tile) => panel.tiles(tile, x, 0),
                Batched::Panel { .. } => 0,
            };
            panel.tiles(self.kernel.one, x, done);
        }
    }

    /// The products of weight rows, all at once, with the only activation row.
    fn run_one(&self, rows: Range<usize>, x: &Activations) {
        let data = self.w.row_range(rows.start, rows.end);
        // SAFETY: `Job::new` checked that the output holds a number for each weight row; no other task has these.
        let out = unsafe { self.outputs(rows) };
        // SAFETY: a `Compute` of this tier exists, so the CPU runs it; `data` is whole rows of the job's type, which chose the
        // kernel; `Job::new` checked the activations' columns and form.
        unsafe { (self.kernel.one)(data, self.w.row_bytes(), &[x.row(0)], out.as_chunks_mut().0) };
    }

    /// The outputs of weight rows for the only activation row.
    ///
    /// # Safety
    /// There is one activation row, and nobody else looks at these outputs meanwhile.
    #[allow(clippy::mut_from_ref)]
    unsafe fn outputs(&self, rows: Range<usize>) -> &mut [f32] {
        assert!(rows.end <= self.w.rows(), "rows of the product");
        // SAFETY: `Job::new` checked that the output holds a number for each weight row; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.out.add(rows.start), rows.len()) }
    }

    /// The products of up to [`panel::PANEL_ROWS`] weight rows with all activation rows, from repacked weights.
    fn run_repacked(
        &self,
        rows: Range<usize>,
        x: &Activations,
        scratch: &mut panel::Panel,
        (unpack, multiply): (UnpackFn, MultiplyFn),
        columns: usize,
    ) {
        let w = &self.w;
        let data = w.row_range(rows.start, rows.end);
        for start in (0..w.cols()).step_by(columns) {
            let cols = columns.min(w.cols() - start);
            // SAFETY: a `Compute` of this tier exists, so the CPU runs it; `data` is whole rows of the job's type, which chose both
            // functions, and the columns lie inside them.
            unsafe { unpack(data, w.row_bytes(), start, cols, scratch) };
            // The rows of the panel after this one arrive in the second-level cache while this one is multiplied. A few at a time: of so
            // many at once a core takes only some.
            let mut next = rows.end..w.rows().min(rows.end + panel::PANEL_ROWS);
            let some = next.len().div_ceil(x.rows().div_ceil(SLICE));
            for first in (0..x.rows()).step_by(SLICE) {
                for row in next.by_ref().take(some) {
                    prefetch(w.columns(row, start..start + cols));
                }
                let target = Target {
                    // SAFETY: a weight row of the job and a row of activations, and the output has a number for each of both.
                    out: unsafe { self.out.add(first * w.rows() + rows.start) },
                    stride: w.rows(),
                    rows: rows.len(),
                    accumulate: start > 0 || self.held == Held::Sum,
                };
                // SAFETY: as for unpacking; `Job::new` checked the activations' columns and form and the output's size; no other
                // task has these weight rows, nor this scratch.
                unsafe { multiply(scratch, start, cols, &x.batch(first..x.rows().min(first + SLICE)), target) };
            }
        }
    }
}

/// Up to [`PANEL_ROWS`] weight rows of a job.
struct Panel<'a> {
    job: &'a Job<'a>,
    first: usize,
    rows: usize,
}

impl Panel<'_> {
    /// Multiplies with whole tiles of `T` activation rows from row `t` on; returns the first row not taken.
    fn tiles<const T: usize>(&self, kernel: PanelFn<T>, x: &Activations, mut t: usize) -> usize {
        let w = &self.job.w;
        let data = w.row_range(self.first, self.first + self.rows);
        while t + T <= x.rows() {
            let tile: [Row<'_>; T] = std::array::from_fn(|k| x.row(t + k));
            let mut sums = [[0.0; T]; PANEL_ROWS];
            let sums = &mut sums[..self.rows];
            // SAFETY: a `Compute` of this tier exists, so the CPU runs it; `data` is whole rows of the job's type, which chose
            // the kernel; `Job::new` checked the activations' columns and form.
            unsafe { kernel(data, w.row_bytes(), &tile, sums) };
            for (r, sums) in sums.iter().enumerate() {
                for (k, &sum) in sums.iter().enumerate() {
                    // SAFETY: t + k < x.rows() and first + r < w.rows(), and `Job::new` checked that the output holds them all;
                    // no other task has these weight rows.
                    let out = unsafe { &mut *self.job.out.add((t + k) * w.rows() + self.first + r) };
                    *out = if self.job.held == Held::Sum { *out + sum } else { sum };
                }
            }
            t += T;
        }
        t
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_have_every_row_once() {
        for paired in [false, true] {
            for (rows, each) in (0..70).flat_map(|rows| [1, 16, 32, 100].map(|each| (rows, each))) {
                let cut = Cut { rows, each, paired };
                let mut taken = vec![0; rows];
                for task in 0..cut.tasks() {
                    let tasks = task..task + 1;
                    let [first, second] = cut.parts(tasks.clone());
                    assert!(second.is_empty() || first.len() == second.len());
                    let odd = cut.odd(tasks);
                    first.chain(second).chain(odd).for_each(|row| taken[row] += 1);
                }
                assert!(taken.iter().all(|times| *times == 1), "{rows} rows by {each}: {taken:?}");
            }
        }
    }

    #[test]
    fn workers_expect_what_they_begin_with() {
        let compute = Compute::new(KernelChoice::Auto, 3).unwrap();
        let bytes = vec![0u8; 400 * 360];
        let w = |rows: usize| Matrix::new(GgmlType::Q4_1, rows, 576, &bytes[..rows * 360]).unwrap();
        compute.expect(&[w(64), w(400)]);
        let spans = [1, 2].map(|worker| compute.pool.noted(worker).unwrap());
        for streams in spans.iter().flatten() {
            assert!(streams.iter().all(|span| span.within(&bytes)), "{streams:?}");
        }
        assert!(spans.iter().all(|spans| spans.as_flattened().iter().any(|span| span.len() > 0)));
        assert_ne!(format!("{:?}", spans[0]), format!("{:?}", spans[1]));
        assert!(compute.pool.noted(1).is_none(), "a note is taken once");
        // The caller begins at once, and is told nothing.
        assert!(compute.pool.noted(0).is_none());

        let products = [w(64), w(400)];
        let between = [Span::of(&bytes[..5]), Span::default()];
        let next = |first| Next { products: &products, first, ..Next::default() };
        let first = |worker, first| format!("{:?}", compute.first_of(worker, next(first)));
        assert_eq!(first(0, between), format!("{between:?}"));
        assert_eq!(first(1, between), format!("{:?}", spans[0][0]));
        assert_eq!(first(0, Default::default()), format!("{:?}", compute.share_of(0, &products)[0]));
        assert_eq!(format!("{:?}", compute.first_of(2, Next::default())), format!("{:?}", [Span::default(); 2]));
    }
}

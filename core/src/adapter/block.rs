//! What applying changes to many rows at once takes per thread.

use std::sync::Arc;

use crate::spectral::transform::Held;
use crate::spectral::{LANES, LaneBin, LaneFft, LaneSpectra, LaneSpectraMut, Transforms};

use super::{DeltaScratch, RowOrder, Side};

/// [`DeltaScratch`] for blocks of up to [`ROWS`](Self::ROWS) rows, with the same protocol: one forward transform for all
/// that read the rows, one inverse for all changes to one output. Rows never mix: a row's result is the same in every
/// block, alone in one too, and equals [`DeltaScratch`]'s but for rounding.
///
/// Kinds that are not spectral add to [dense](Self::dense) rows instead; a kind, or a length, without a form of its own for
/// blocks goes [row by row](Self::each_row).
/// Lengths given to [`new`](Self::new) never allocate; another length does on its first use, and so does a change that is not [prepared](super::Delta::prepare_rows).
#[derive(Debug)]
pub struct DeltaBlock {
    row: DeltaScratch,
    transforms: Arc<Transforms>,
    planned: Vec<(usize, Option<Arc<LaneFft>>)>,
    input: Spectra,
    upstream: Spectra,
    output: Spectra,
    dense: Vec<f32>,
    /// Values in use of `dense`; 0 while none are.
    dense_len: usize,
}

/// Spectra, and the transform they are of while they are of any.
#[derive(Debug, Default)]
struct Spectra {
    bins: Vec<LaneBin>,
    fft: Option<Arc<LaneFft>>,
}

impl DeltaBlock {
    /// Rows of a block, at most.
    pub const ROWS: usize = LANES;

    /// Scratch for modules whose inputs and outputs have the given `lengths` (repeats do not matter).
    pub fn new(transforms: Arc<Transforms>, lengths: impl IntoIterator<Item = usize> + Clone) -> Self {
        let mut block = Self {
            row: DeltaScratch::new(Arc::clone(&transforms), lengths.clone()),
            transforms,
            planned: Vec::new(),
            input: Spectra::default(),
            upstream: Spectra::default(),
            output: Spectra::default(),
            dense: Vec::new(),
            dense_len: 0,
        };
        for len in lengths {
            block.plan(len);
        }
        block
    }

    /// The scratch for a single row.
    pub fn row(&mut self) -> &mut DeltaScratch {
        &mut self.row
    }

    /// Forgets the spectra of the rows: the next ones are of others.
    pub fn begin_input(&mut self) {
        self.input.fft = None;
    }

    /// Forgets the spectra of the gradients that come from above.
    pub fn begin_upstream(&mut self) {
        self.upstream.fft = None;
    }

    /// Starts an empty output.
    pub fn begin_output(&mut self) {
        self.output.fft = None;
        self.dense_len = 0;
    }

    /// The spectra of `rows` (row-major, `cols` columns), transformed unless they were since the last `begin_input` or
    /// `begin_upstream`, and the output's, of `len` values, to write or to add to. `None` if either length has no transform for blocks.
    ///
    /// # Panics
    /// If something was added to an output of another length since the last `begin_output`, or there are not 1 to
    /// [`ROWS`](Self::ROWS) whole rows.
    pub fn spectra(
        &mut self,
        side: Side,
        rows: &[f32],
        cols: usize,
        len: usize,
    ) -> Option<(LaneSpectra<'_>, LaneSpectraMut<'_>, Held)> {
        let (from, to) = (self.plan(cols)?, self.plan(len)?);
        let Self { input, upstream, output, .. } = self;
        let source = match side {
            Side::Input => input,
            Side::Upstream => upstream,
        };
        source.transform(from, rows);
        let held = if output.fft.is_none() { Held::Nothing } else { Held::Sum };
        if held == Held::Nothing {
            output.fft = Some(to);
        }
        assert!(output.is_of(len), "changes to one output differ in length");
        let to = output.fft.as_deref()?;
        Some((source.get()?, LaneSpectraMut { fft: to, bins: &mut output.bins[..to.bins()] }, held))
    }

    /// The spectra of inputs `x` and of gradients `g` (row-major, `cols` and `len` columns), each transformed unless it was
    /// already. `None` if either length has no transform for blocks.
    ///
    /// # Panics
    /// Unless there are 1 to [`ROWS`](Self::ROWS) whole rows of each.
    pub fn input_and_upstream(
        &mut self,
        (x, cols): (&[f32], usize),
        (g, len): (&[f32], usize),
    ) -> Option<(LaneSpectra<'_>, LaneSpectra<'_>)> {
        let (of_x, of_g) = (self.plan(cols)?, self.plan(len)?);
        self.input.transform(of_x, x);
        self.upstream.transform(of_g, g);
        Some((self.input.get()?, self.upstream.get()?))
    }

    /// `count` rows of `len` values that `finish` adds to the output as they are, zero after `begin_output`.
    ///
    /// # Panics
    /// If they were asked for with another number of rows or length since the last `begin_output`.
    pub fn dense(&mut self, count: usize, len: usize) -> &mut [f32] {
        let values = count * len;
        if self.dense_len == 0 {
            if self.dense.len() < values {
                self.dense.resize(values, 0.0);
            }
            self.dense[..values].fill(0.0);
            self.dense_len = values;
        }
        assert_eq!(self.dense_len, values, "changes to one output differ in length");
        &mut self.dense[..values]
    }

    /// Adds what `f` adds to an output of `len` values for each row of `rows` (row-major, `cols` columns).
    ///
    /// # Panics
    /// If it was asked for with another number of rows or length since the last `begin_output`.
    pub fn each_row(&mut self, rows: &[f32], cols: usize, len: usize, mut f: impl FnMut(&[f32], &mut DeltaScratch)) {
        self.dense(rows.len() / cols, len);
        for (x, y) in rows.chunks_exact(cols).zip(self.dense.chunks_exact_mut(len)) {
            self.row.begin_input();
            self.row.begin_upstream();
            self.row.begin_output();
            f(x, &mut self.row);
            self.row.finish(y, None);
        }
    }

    /// Adds the output to the rows `y` of `len` values: element p to `y[p]`, or to where `order` puts row p. Leaves the
    /// output empty.
    ///
    /// # Panics
    /// If anything was added, and `y` or `order` has another length.
    pub fn finish(&mut self, y: &mut [f32], len: usize, order: Option<&RowOrder>) {
        self.put(y, len, Held::Sum, order);
    }

    /// [`finish`](Self::finish), but the rows `y` are overwritten with the output.
    ///
    /// # Panics
    /// As [`finish`](Self::finish).
    pub fn write(&mut self, y: &mut [f32], len: usize, order: Option<&RowOrder>) {
        if self.output.fft.is_none() {
            y.fill(0.0);
        }
        self.put(y, len, Held::Nothing, order);
    }

    fn put(&mut self, y: &mut [f32], len: usize, held: Held, order: Option<&RowOrder>) {
        if let Some(fft) = self.output.fft.take() {
            assert_eq!(fft.len(), len, "length of an output");
            fft.twice_real(&mut self.output.bins[..fft.bins()], y, held, order.map(RowOrder::to_hf));
        }
        if self.dense_len > 0 {
            assert_eq!(y.len(), self.dense_len, "length of an output");
            for (y, values) in y.chunks_exact_mut(len).zip(self.dense.chunks_exact(len)) {
                match order {
                    None => y.iter_mut().zip(values).for_each(|(y, v)| *y += v),
                    Some(order) => order.add(values, y),
                }
            }
        }
        self.begin_output();
    }

    /// The transforms of `len`, with buffers large enough, planned if they were not.
    fn plan(&mut self, len: usize) -> Option<Arc<LaneFft>> {
        if let Some((_, fft)) = self.planned.iter().find(|(planned, _)| *planned == len) {
            return fft.clone();
        }
        let fft = self.transforms.lanes(len);
        if let Some(fft) = &fft {
            for spectra in [&mut self.input, &mut self.upstream, &mut self.output] {
                if spectra.bins.len() < fft.bins() {
                    spectra.bins.resize(fft.bins(), LaneBin::ZERO);
                }
            }
        }
        self.planned.push((len, fft.clone()));
        // Kinds that are not spectral, and modules with a length that has no such transform, add to dense rows.
        if self.dense.len() < Self::ROWS * len {
            self.dense.resize(Self::ROWS * len, 0.0);
        }
        fft
    }
}

impl Spectra {
    /// Makes these the spectra of `rows`, unless they are of rows of that length already.
    fn transform(&mut self, fft: Arc<LaneFft>, rows: &[f32]) {
        if !self.is_of(fft.len()) {
            fft.spectra(rows, &mut self.bins[..fft.bins()]);
            self.fft = Some(fft);
        }
    }

    fn get(&self) -> Option<LaneSpectra<'_>> {
        let fft = self.fft.as_deref()?;
        Some(LaneSpectra { fft, bins: &self.bins[..fft.bins()] })
    }

    fn is_of(&self, len: usize) -> bool {
        self.fft.as_ref().is_some_and(|fft| fft.len() == len)
    }
}

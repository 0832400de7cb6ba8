//! What applying changes takes per thread.

use std::sync::Arc;

use crate::kernels::{Ahead, Aligned, Span};
use crate::spectral::transform::Held;
use crate::spectral::{Complex32, RealFft, Transforms};

use super::RowOrder;

/// Lines of what comes next that are asked for before and after each transform: a CPU has room for few more.
const LINES: usize = 16;

/// Which row of activations a spectrum is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The input x of the forward pass.
    Input,
    /// The gradient g = ∂L/∂h that comes from above.
    Upstream,
}

/// Buffers and planned transforms for one thread, and the protocol of [`Delta`](super::Delta).
///
/// An input is transformed once however many modules and adapters read it, and all the changes to one output share a
/// single inverse transform. Kinds that are not spectral add to a [dense](Self::dense) row instead; `finish`
/// adds both. Lengths given to [`new`](Self::new) never allocate; another length does on its first use.
#[derive(Debug)]
pub struct DeltaScratch {
    transforms: Arc<Transforms>,
    planned: Vec<RealFft>,
    work: Vec<Complex32>,
    real: Vec<f32>,
    input: Spectrum,
    upstream: Spectrum,
    output: Spectrum,
    /// Of the other of two linears that are changed together.
    twin: Spectrum,
    dense: Vec<f32>,
    dense_len: usize,
    /// What is read after the next change.
    pub(super) ahead: Ahead,
}

/// A half spectrum, of inputs also its conjugate, and the length of the row it is of; 0 while it is of none.
#[derive(Debug, Default)]
struct Spectrum {
    bins: Aligned<Complex32>,
    len: usize,
}

impl DeltaScratch {
    /// Scratch for modules whose inputs and outputs have the given `lengths` (repeats do not matter).
    pub fn new(transforms: Arc<Transforms>, lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut scratch = Self {
            transforms,
            planned: Vec::new(),
            work: Vec::new(),
            real: Vec::new(),
            input: Spectrum::default(),
            upstream: Spectrum::default(),
            output: Spectrum::default(),
            twin: Spectrum::default(),
            dense: Vec::new(),
            dense_len: 0,
            ahead: Ahead::default(),
        };
        for len in lengths {
            scratch.plan(len);
        }
        scratch
    }

    /// Forgets the spectrum of x: the next one is of another row.
    pub fn begin_input(&mut self) {
        self.input.len = 0;
    }

    /// Forgets the spectrum of g.
    pub fn begin_upstream(&mut self) {
        self.upstream.len = 0;
    }

    /// Says that the next changes read `bytes`, and what two streams are read after them: transforms and entries ask for it meanwhile.
    pub(crate) fn expect<'a>(&mut self, bytes: impl IntoIterator<Item = &'a [u8]>, then: [Span; 2]) {
        self.ahead = Ahead::before(then);
        bytes.into_iter().for_each(|bytes| self.ahead.add(bytes));
    }

    /// Starts an empty output.
    pub fn begin_output(&mut self) {
        self.output.len = 0;
        self.twin.len = 0;
        self.dense_len = 0;
    }

    /// The half spectrum of `values` and its conjugate, transformed unless it was since the last `begin_input` or `begin_upstream`,
    /// and the output's, of `len` values, to write or to add to; and what to ask for meanwhile.
    ///
    /// # Panics
    /// If something was added to an output of another length since the last `begin_output`.
    pub fn spectra(
        &mut self,
        side: Side,
        values: &[f32],
        len: usize,
    ) -> (&[Complex32], &mut [Complex32], Held, &mut Ahead) {
        self.transform(side, values);
        let held = if self.output.len == 0 { Held::Nothing } else { Held::Sum };
        if held == Held::Nothing {
            self.plan(len);
            self.output.len = len;
        }
        assert_eq!(self.output.len, len, "changes to one output differ in length");
        let source = match side {
            Side::Input => &self.input,
            Side::Upstream => &self.upstream,
        };
        (source.with_conjugate(), &mut self.output.bins[..len / 2 + 1], held, &mut self.ahead)
    }

    /// As [`spectra`](Self::spectra) of an input, with outputs of as many values each of two linears.
    pub(super) fn spectra_of_twins(
        &mut self,
        values: &[f32],
        len: usize,
    ) -> (&[Complex32], [&mut [Complex32]; 2], Held, &mut Ahead) {
        let (_, _, held, _) = self.spectra(Side::Input, values, len);
        self.twin.len = len;
        let outputs = [&mut self.output, &mut self.twin].map(|output| &mut output.bins[..len / 2 + 1]);
        (self.input.with_conjugate(), outputs, held, &mut self.ahead)
    }

    /// The half spectra of x and g and their conjugates, each transformed unless it was already.
    pub fn input_and_upstream(&mut self, x: &[f32], g: &[f32]) -> (&[Complex32], &[Complex32]) {
        self.transform(Side::Input, x);
        self.transform(Side::Upstream, g);
        (self.input.with_conjugate(), self.upstream.with_conjugate())
    }

    /// A row of `len` values that `finish` adds to the output as it is, zero after `begin_output`.
    ///
    /// # Panics
    /// If it was asked for with another length since the last `begin_output`.
    pub fn dense(&mut self, len: usize) -> &mut [f32] {
        if self.dense_len == 0 {
            if self.dense.len() < len {
                self.dense.resize(len, 0.0);
            }
            self.dense[..len].fill(0.0);
            self.dense_len = len;
        }
        assert_eq!(self.dense_len, len, "changes to one output differ in length");
        &mut self.dense[..len]
    }

    /// Adds the output to `y`: element p to `y[p]`, or to where `order` puts row p. Leaves the output empty.
    ///
    /// # Panics
    /// If anything was added, and `y` or `order` has another length.
    pub fn finish(&mut self, y: &mut [f32], order: Option<&RowOrder>) {
        if self.output.len > 0 {
            assert_eq!(y.len(), self.output.len, "length of an output");
            let fft = self.plan(self.output.len);
            let fft = &self.planned[fft];
            let values = &mut self.real[..fft.len()];
            fft.twice_real(&mut self.output.bins[..fft.bins()], values, &mut self.work);
            add(y, values, order);
        }
        self.finish_dense(y, order);
    }

    /// As [`finish`](Self::finish), but writes: what `y` holds does not matter.
    ///
    /// # Panics
    /// As [`finish`](Self::finish).
    pub fn write(&mut self, y: &mut [f32], order: Option<&RowOrder>) {
        if self.output.len > 0 {
            self.write_spectrum(y, order);
        } else {
            y.fill(0.0);
        }
        self.finish_dense(y, order);
    }

    /// [`write`](Self::write) of both outputs of [`spectra_of_twins`](Self::spectra_of_twins).
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub(crate) fn write_twins(&mut self, ys: [&mut [f32]; 2], orders: [Option<&RowOrder>; 2]) {
        for (y, order) in ys.into_iter().zip(orders) {
            self.write_spectrum(y, order);
            std::mem::swap(&mut self.output, &mut self.twin);
        }
        self.begin_output();
    }

    fn write_spectrum(&mut self, y: &mut [f32], order: Option<&RowOrder>) {
        assert_eq!(y.len(), self.output.len, "length of an output");
        let fft = self.plan(self.output.len);
        let fft = &self.planned[fft];
        let bins = &mut self.output.bins[..fft.bins()];
        self.ahead.ask(LINES);
        match order {
            None => fft.twice_real(bins, y, &mut self.work),
            Some(order) => {
                let values = &mut self.real[..fft.len()];
                fft.twice_real(bins, values, &mut self.work);
                order.place(values, y);
            }
        }
        self.ahead.ask(LINES);
    }

    /// Adds the dense row, and leaves the output empty.
    fn finish_dense(&mut self, y: &mut [f32], order: Option<&RowOrder>) {
        if self.dense_len > 0 {
            assert_eq!(y.len(), self.dense_len, "length of an output");
            add(y, &self.dense[..self.dense_len], order);
        }
        self.begin_output();
    }

    fn transform(&mut self, side: Side, values: &[f32]) {
        let cached = match side {
            Side::Input => &self.input,
            Side::Upstream => &self.upstream,
        };
        if cached.len == values.len() {
            return;
        }
        let fft = self.plan(values.len());
        let fft = &self.planned[fft];
        let target = match side {
            Side::Input => &mut self.input,
            Side::Upstream => &mut self.upstream,
        };
        self.ahead.ask(LINES);
        fft.with_conjugate(values, &mut target.bins[..fft.bins_and_conjugates()], &mut self.work);
        self.ahead.ask(LINES);
        target.len = values.len();
    }

    /// Where the transforms of `len` are, planned with buffers large enough if they were not.
    fn plan(&mut self, len: usize) -> usize {
        if let Some(found) = self.planned.iter().position(|fft| fft.len() == len) {
            return found;
        }
        let fft = self.transforms.real(len);
        grow(&mut self.real, len);
        grow(&mut self.dense, len);
        grow(&mut self.work, fft.scratch_len());
        for source in [&mut self.input, &mut self.upstream] {
            source.bins.grow(fft.bins_and_conjugates());
        }
        for output in [&mut self.output, &mut self.twin] {
            output.bins.grow(fft.bins());
        }
        self.planned.push(fft);
        self.planned.len() - 1
    }
}

impl Spectrum {
    fn with_conjugate(&self) -> &[Complex32] {
        &self.bins[..RealFft::conjugates(self.len) + self.len / 2 + 1]
    }
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

fn add(y: &mut [f32], values: &[f32], order: Option<&RowOrder>) {
    match order {
        None => y.iter_mut().zip(values).for_each(|(y, v)| *y += v),
        Some(order) => order.add(values, y),
    }
}

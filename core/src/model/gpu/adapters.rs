//! Adapters on the device: changes that are added to the outputs of products, without being formed or merged.
//!
//! What depends on an adapter's form alone (positions, ranks, which modules) is prepared once and kept; what depends on its
//! numbers is one buffer, so that a swap between adapters of one form is one small upload.

use std::ops::Range;
use std::sync::Arc;

use crate::adapter::{Delta, RowOrder};
use crate::gpu::{Bound, BoundProduct, Forward, Gpu, GpuBuffer, GpuError, Precision, Product, Recorder};

use super::super::weights::{Linear, LinearKind};
use super::super::{ActiveAdapters, Decoder, ModelError};
use super::changes::{Form, Gathered, gather};
use super::state::Rows;
use super::sums::{Dense, Sum, find_or_make};

/// Forms that are kept prepared, the last used among them.
const KEPT: usize = 8;

/// Most bytes of dense changes of one set of adapters. What goes beyond is applied without being formed.
const DENSE_BYTES: u64 = 512 << 20;

/// What is recorded after one linear's product.
#[derive(Debug)]
struct Change {
    form: Form,
    /// Which spectral sum, and the number its coefficients begin at.
    spectral: Option<(usize, usize)>,
    /// The spectral sum as a matrix, where multiplying with that is faster on this device.
    dense: Option<Dense>,
    lora: Vec<Factors>,
}

/// A change of low rank: x through A, and that through B onto the output.
#[derive(Debug)]
struct Factors {
    /// Where A and B are among the numbers.
    a: Range<usize>,
    b: Range<usize>,
    down: (Product, BoundProduct),
    up: (Product, BoundProduct),
}

/// Everything that a set of adapters of one form needs.
#[derive(Debug)]
struct Prepared {
    /// Per layer, by [`LinearKind`].
    layers: Vec<[Option<Change>; LinearKind::ALL.len()]>,
    inverses: Vec<Sum>,
    /// Coefficients, and the factors of changes of low rank.
    numbers: GpuBuffer,
    /// How many of them are coefficients; those are first.
    coefficients: usize,
    len: usize,
    used: u64,
}

/// The spectra of the rows that linears read.
#[derive(Debug)]
struct Input {
    reads: &'static str,
    forward: Forward,
    bound: Bound,
}

/// What a session's adapters are on its device.
#[derive(Debug)]
pub(super) struct GpuAdapters {
    prepared: Vec<Prepared>,
    active: Option<usize>,
    uses: u64,
    inputs: Vec<Input>,
    orders: Vec<(Option<Arc<RowOrder>>, GpuBuffer)>,
    spectra: Option<GpuBuffer>,
    /// What is between the factors of a change of low rank.
    middle: Option<GpuBuffer>,
    staged: Vec<f32>,
    batch: usize,
}

/// Which rows a linear reads.
fn reads(kind: LinearKind) -> &'static str {
    match kind {
        LinearKind::O => "mixed",
        LinearKind::Down => "gate",
        _ => "normed",
    }
}

impl GpuAdapters {
    pub fn new(batch: usize) -> Self {
        Self {
            prepared: Vec::new(),
            active: None,
            uses: 0,
            inputs: Vec::new(),
            orders: Vec::new(),
            spectra: None,
            middle: None,
            staged: Vec::new(),
            batch,
        }
    }

    /// Makes these the adapters of what is recorded from now on.
    ///
    /// # Errors
    /// [`ModelError::Gpu`]; [`ModelError::GpuAdapter`] for a kind of change that has no kernel. No adapter is then active.
    pub fn set(
        &mut self,
        gpu: &Arc<Gpu>,
        decoder: &Decoder,
        rows: &Rows,
        adapters: &ActiveAdapters,
    ) -> Result<(), ModelError> {
        self.active = None;
        if adapters.is_empty() {
            return Ok(());
        }
        let gathered = gather(decoder, adapters)?;
        let fits = |prepared: &Prepared| {
            prepared.layers.iter().zip(&gathered).all(|(layer, gathered)| {
                layer.iter().zip(gathered).all(|(change, gathered)| gathered.has(change.as_ref().map(|c| &c.form)))
            })
        };
        let index = match self.prepared.iter().position(fits) {
            Some(index) => index,
            None => {
                if self.prepared.len() == KEPT
                    && let Some(oldest) = (0..KEPT).min_by_key(|i| self.prepared[*i].used)
                {
                    self.prepared.swap_remove(oldest);
                }
                let prepared = self.prepare(gpu, decoder, rows, &gathered)?;
                gpu.keep_kernels();
                self.prepared.push(prepared);
                self.prepared.len() - 1
            }
        };
        self.uses += 1;
        self.prepared[index].used = self.uses;
        self.upload(gpu, index, &gathered)?;
        self.active = Some(index);
        Ok(())
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> u64 {
        let changes = |prepared: &Prepared| {
            let dense = prepared.layers.iter().flatten().flatten().filter_map(|change| change.dense.as_ref());
            prepared.numbers.bytes() + dense.map(|dense| dense.w.bytes()).sum::<u64>()
        };
        self.prepared.iter().map(changes).sum::<u64>()
            + [&self.spectra, &self.middle].into_iter().flatten().map(GpuBuffer::bytes).sum::<u64>()
    }

    /// Adds the changes of some linears of a layer, which read the same rows, to their outputs.
    pub fn record(&self, recorder: &mut Recorder, layer: usize, kinds: &[LinearKind], rows: usize) {
        let Some(prepared) = self.active.and_then(|index| self.prepared.get(index)) else { return };
        let Some(changes) = prepared.layers.get(layer) else { return };
        let changes = || kinds.iter().filter_map(|kind| Some((*kind, changes[*kind as usize].as_ref()?)));
        let mut transformed = false;
        for (kind, change) in changes() {
            let Some((index, base)) = change.spectral else { continue };
            if let Some(Dense { product, .. }) = change.dense.as_ref().filter(|d| d.used[usize::from(rows > 1)]) {
                product.0.run(recorder, &product.1, rows);
                continue;
            }
            let spectral = &prepared.inverses[index];
            let (_, len) = spectral.inverse.sides();
            let input = self.inputs.iter().find(|input| input.reads == reads(kind) && input.forward.len() == len);
            let (Some(input), Some(bound)) = (input, &spectral.bound[kind as usize]) else { continue };
            if !transformed {
                input.forward.run(recorder, &input.bound, rows);
                transformed = true;
            }
            spectral.inverse.run(recorder, bound, base, rows);
        }
        for (_, change) in changes() {
            for Factors { down, up, .. } in &change.lora {
                down.0.run(recorder, &down.1, rows);
                up.0.run(recorder, &up.1, rows);
            }
        }
    }

    fn prepare(
        &mut self,
        gpu: &Arc<Gpu>,
        decoder: &Decoder,
        rows: &Rows,
        gathered: &[[Gathered<'_>; LinearKind::ALL.len()]],
    ) -> Result<Prepared, ModelError> {
        let all = || gathered.iter().flatten();
        let coefficients = all().flat_map(|g| &g.plans).map(|(plan, _)| plan.len()).sum::<usize>();
        // Factors are arguments of their own, which begin where the device lets them.
        let grain = (gpu.binding_alignment() / 4).max(1) as usize;
        let mut len = coefficients.next_multiple_of(grain);
        let mut place = |count: usize| {
            let at = len..len + count;
            len = at.end.next_multiple_of(grain);
            at
        };
        let mut factors: Vec<Vec<_>> = Vec::new();
        for gathered in all() {
            let sizes = gathered.lora.iter().map(|(lora, _)| (lora.a().len(), lora.parameters() - lora.a().len()));
            factors.push(sizes.map(|(a, b)| (place(a), place(b))).collect());
        }
        let numbers = gpu.storage("an adapter's numbers", len as u64 * 4)?;

        self.make_room(gpu, decoder, all())?;
        let (mut inverses, mut layers, mut base, mut dense_bytes) = (Vec::new(), Vec::new(), 0, 0);
        let mut factors = factors.into_iter();
        for (i, gathered) in gathered.iter().enumerate() {
            let mut changes = [const { None }; LinearKind::ALL.len()];
            for (kind, gathered) in LinearKind::ALL.into_iter().zip(gathered) {
                let places = factors.next().unwrap_or_default();
                let Some(form) = gathered.form() else { continue };
                let linear = decoder.layers[i].linear(kind);
                let order = self.order(gpu, linear)?;
                let (x, y) = rows.of(kind);
                let (mut spectral, mut dense) = (None, None);
                if !form.plans.is_empty() {
                    let index = find_or_make(gpu, &mut inverses, &form.plans, self.batch)?;
                    let Sum { inverse, bound, dense: way, .. } = &mut inverses[index];
                    if let Some((used, reconstruct)) = way
                        && dense_bytes + reconstruct.bytes(Precision::F16) <= DENSE_BYTES
                    {
                        dense = Dense::new(gpu, reconstruct, *used, (x, &order, y), linear.shape())?;
                        dense_bytes += dense.as_ref().map_or(0, |dense| dense.w.bytes());
                    }
                    self.transform(gpu, kind, x, linear.shape().1)?;
                    if let (None, Some(spectra)) = (&bound[kind as usize], &self.spectra) {
                        let numbers = numbers.part(0..coefficients as u64 * 4);
                        bound[kind as usize] = Some(inverse.bind(gpu, numbers, spectra.all(), order.all(), y.all())?);
                    }
                    spectral = Some((index, base));
                    base += inverse.entries();
                }
                let mut lora = Vec::new();
                for ((delta, _), (a, b)) in gathered.lora.iter().zip(places) {
                    lora.push(self.factors(gpu, linear, delta.rank(), (&numbers, a, b), (x, &order, y))?);
                }
                changes[kind as usize] = Some(Change { form, spectral, dense, lora });
            }
            layers.push(changes);
        }
        Ok(Prepared { layers, inverses, numbers, coefficients, len, used: 0 })
    }

    fn factors(
        &mut self,
        gpu: &Arc<Gpu>,
        linear: &Linear,
        rank: usize,
        (numbers, a, b): (&GpuBuffer, Range<usize>, Range<usize>),
        (x, order, y): (&GpuBuffer, &GpuBuffer, &GpuBuffer),
    ) -> Result<Factors, GpuError> {
        let (d1, d2) = linear.shape();
        let part = |range: &Range<usize>| numbers.part(range.start as u64 * 4..range.end as u64 * 4);
        let straight = self.identity(gpu, rank)?;
        let Some(middle) = &self.middle else {
            return Err(GpuError::Limit { what: "rows of low rank".to_owned(), needed: rank as u64, max: 0 });
        };
        let down = Product::new(gpu, rank, d2, Precision::F32, false)?;
        let bound_down = down.bind(gpu, part(&a), x.all(), straight.all(), middle.all())?;
        let up = Product::new(gpu, d1, rank, Precision::F32, true)?;
        let bound_up = up.bind(gpu, part(&b), middle.all(), order.all(), y.all())?;
        Ok(Factors { a, b, down: (down, bound_down), up: (up, bound_up) })
    }

    /// Buffers between the steps of changes, for the longest of the model's linears and the highest rank. Arguments that are
    /// bound already keep their buffers.
    fn make_room<'a, 'b: 'a>(
        &mut self,
        gpu: &Arc<Gpu>,
        decoder: &Decoder,
        gathered: impl Iterator<Item = &'a Gathered<'b>> + Clone,
    ) -> Result<(), GpuError> {
        if self.spectra.is_none() && gathered.clone().any(|g| !g.plans.is_empty()) {
            let inputs =
                |layer: &super::super::decoder::Layer| LinearKind::ALL.map(|kind| layer.linear(kind).shape().1);
            let longest = decoder.layers.iter().flat_map(inputs).max().unwrap_or(0);
            let bytes = (longest as u64 / 2 + 1) * 8 * self.batch as u64;
            self.spectra = Some(gpu.storage("spectra of a batch", bytes)?);
        }
        let highest = gathered.flat_map(|g| &g.lora).map(|(lora, _)| lora.rank()).max().unwrap_or(0);
        let bytes = (highest * self.batch) as u64 * 4;
        if self.middle.as_ref().map_or(0, GpuBuffer::bytes) < bytes {
            self.middle = Some(gpu.storage("rows of low rank", bytes)?);
        }
        Ok(())
    }

    /// Prepares the spectra of the rows that a linear reads.
    fn transform(&mut self, gpu: &Arc<Gpu>, kind: LinearKind, x: &GpuBuffer, len: usize) -> Result<(), GpuError> {
        let reads = reads(kind);
        if self.inputs.iter().any(|input| input.reads == reads && input.forward.len() == len) {
            return Ok(());
        }
        let Some(spectra) = &self.spectra else { return Ok(()) };
        let forward = Forward::new(gpu, len)?;
        let bound = forward.bind(gpu, x.all(), spectra.all())?;
        self.inputs.push(Input { reads, forward, bound });
        Ok(())
    }

    /// Where a linear's file keeps each row of a change.
    fn order(&mut self, gpu: &Gpu, linear: &Linear) -> Result<GpuBuffer, GpuError> {
        let Some(order) = &linear.row_order else { return self.identity(gpu, linear.shape().0) };
        let known = self.orders.iter().find(|(known, _)| known.as_ref().is_some_and(|k| Arc::ptr_eq(k, order)));
        if let Some((_, buffer)) = known {
            return Ok(buffer.clone());
        }
        let buffer = gpu.upload("order of rows", order.to_file())?;
        self.orders.push((Some(order.clone()), buffer.clone()));
        Ok(buffer)
    }

    fn identity(&mut self, gpu: &Gpu, len: usize) -> Result<GpuBuffer, GpuError> {
        let long_enough =
            |(order, buffer): &&(Option<_>, GpuBuffer)| order.is_none() && buffer.bytes() >= len as u64 * 4;
        if let Some((_, buffer)) = self.orders.iter().find(long_enough) {
            return Ok(buffer.clone());
        }
        let buffer = gpu.upload("order of rows", &(0..len as u32).collect::<Vec<_>>())?;
        self.orders.push((None, buffer.clone()));
        Ok(buffer)
    }

    /// Writes the numbers of these changes.
    fn upload(
        &mut self,
        gpu: &Arc<Gpu>,
        index: usize,
        gathered: &[[Gathered<'_>; LinearKind::ALL.len()]],
    ) -> Result<(), GpuError> {
        let Prepared { layers, inverses, numbers, coefficients, len, .. } = &self.prepared[index];
        let staged = &mut self.staged;
        staged.clear();
        staged.resize(*len, 0.0);
        let places = layers.iter().flatten().zip(gathered.iter().flatten());
        for (change, gathered) in places.filter_map(|(change, gathered)| Some((change.as_ref()?, gathered))) {
            if let Some((inverse, mut base)) = change.spectral {
                let inverse = &inverses[inverse].inverse;
                for (plan, changes) in &gathered.plans {
                    let out = &mut staged[base..][..plan.len()];
                    for (stored, alpha) in changes {
                        let scale = inverse.scale(*alpha);
                        for (&entry, &value) in plan.order().iter().zip(*stored) {
                            out[entry as usize] += (scale * f64::from(value)) as f32;
                        }
                    }
                    base += plan.len();
                }
            }
            for ((lora, weight), factors) in gathered.lora.iter().zip(&change.lora) {
                let scale = lora.scale().factor(lora.rank()) * f64::from(*weight);
                staged[factors.a.clone()].copy_from_slice(lora.a());
                for (out, value) in staged[factors.b.clone()].iter_mut().zip(lora.b()) {
                    *out = (scale * f64::from(value)) as f32;
                }
            }
        }
        gpu.write(numbers, 0, staged)?;
        let mut recorder = Recorder::new(gpu);
        for change in layers.iter().flatten().flatten() {
            let (Some((index, base)), Some(dense)) = (change.spectral, &change.dense) else { continue };
            let Some((_, reconstruct)) = &inverses[index].dense else { continue };
            let part = numbers.part(0..*coefficients as u64 * 4);
            reconstruct.record(&mut recorder, part, base, 1, Precision::F16, dense.w.all())?;
        }
        if recorder.dispatches() > 0 { recorder.submit() } else { Ok(()) }
    }
}

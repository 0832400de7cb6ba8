//! Many dispatches, one submission.

use std::sync::{Arc, Mutex, PoisonError};

use super::buffers::{Binding, GpuBuffer, Readback};
use super::pipeline::{Bound, Kernel, MAX_PARAMS};
use super::{Gpu, GpuError};

/// Dispatches' parameters in one uniform buffer.
const PAGE: usize = 64 << 10;

/// Most sections that are timed in one submission.
const MAX_SECTIONS: u32 = 1024;

/// Uniform buffers that are free to be used again: the queue writes to one and reads it in order, so it is free as soon as
/// its submission is handed over.
#[derive(Debug, Default)]
pub(super) struct ParamPages {
    free: Mutex<Vec<Page>>,
}

#[derive(Debug)]
struct Page {
    buffer: GpuBuffer,
    group: wgpu::BindGroup,
    contents: Vec<u8>,
}

/// Records dispatches and copies, which run in order, each seeing what the ones before it wrote, as one submission.
///
/// Errors of recording are kept until [`submit`](Self::submit), which returns the first.
pub struct Recorder {
    gpu: Arc<Gpu>,
    encoder: wgpu::CommandEncoder,
    pass: Option<wgpu::ComputePass<'static>>,
    pages: Vec<Page>,
    failed: Option<GpuError>,
    dispatches: usize,
    timing: Option<Timing>,
}

struct Timing {
    queries: wgpu::QuerySet,
    sections: Vec<String>,
    /// Name of the next pass.
    next: String,
}

/// How long the sections of a submission took on the device, in the order they were recorded.
#[derive(Debug, Clone)]
pub struct Timings {
    /// Name and nanoseconds.
    pub sections: Vec<(String, f64)>,
}

/// Times of a submission that are still on the device.
#[derive(Debug)]
pub struct PendingTimings {
    names: Vec<String>,
    readback: Readback,
    /// Nanoseconds of a tick.
    period: f64,
}

impl PendingTimings {
    /// Waits for the submission and computes the times.
    ///
    /// # Errors
    /// As [`Readback::wait`].
    pub fn wait(self) -> Result<Timings, GpuError> {
        let mut ticks = vec![0u64; self.names.len() * 2];
        self.readback.wait(&mut ticks)?;
        let time = |t: &[u64]| t[1].saturating_sub(t[0]) as f64 * self.period;
        let sections = self.names.into_iter().zip(ticks.chunks_exact(2).map(time)).collect();
        Ok(Timings { sections })
    }
}

impl Recorder {
    /// An empty record.
    pub fn new(gpu: &Arc<Gpu>) -> Self {
        let encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor { label: None });
        let gpu = Arc::clone(gpu);
        Self { gpu, encoder, pass: None, pages: Vec::new(), failed: None, dispatches: 0, timing: None }
    }

    /// An empty record whose sections are timed, if the device can do that.
    pub fn timed(gpu: &Arc<Gpu>) -> Self {
        let mut recorder = Self::new(gpu);
        if gpu.info().timestamps {
            let queries = gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: None,
                ty: wgpu::QueryType::Timestamp,
                count: MAX_SECTIONS * 2,
            });
            recorder.timing = Some(Timing { queries, sections: Vec::new(), next: "rest".to_owned() });
        }
        recorder
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Dispatches recorded so far.
    pub fn dispatches(&self) -> usize {
        self.dispatches
    }

    /// What follows is a section of its own in a timed record. Does nothing in others.
    pub fn section(&mut self, name: &str) {
        if let Some(timing) = &mut self.timing {
            timing.next = name.to_owned();
            self.pass = None;
        }
    }

    /// Runs `bound` on `groups` workgroups. `params` are its uniform parameters, `&()` if it has none.
    pub fn run<P: bytemuck::NoUninit>(&mut self, bound: &Bound, params: &P, groups: [u32; 3]) {
        if self.failed.is_some() || groups.contains(&0) {
            return;
        }
        let kernel = &bound.kernel;
        let max = self.gpu.info().max_groups;
        if let Some(needed) = groups.into_iter().find(|g| *g > max) {
            let what = format!("workgroups of {}", kernel.name());
            return self.fail(GpuError::Limit { what, needed: needed.into(), max: max.into() });
        }
        let offset = match self.params(kernel, bytemuck::bytes_of(params)) {
            Ok(offset) => offset,
            Err(error) => return self.fail(error),
        };
        self.begin_pass();
        let (Some(pass), pages) = (&mut self.pass, &self.pages) else { return };
        pass.set_pipeline(kernel.pipeline());
        pass.set_bind_group(0, &bound.group, &[]);
        if let (Some(offset), Some(page)) = (offset, pages.last()) {
            pass.set_bind_group(1, &page.group, &[offset]);
        }
        pass.dispatch_workgroups(groups[0], groups[1], groups[2]);
        self.dispatches += 1;
    }

    /// Runs `kernel` on these arguments: [`Kernel::bind`] and [`run`](Self::run) in one, for what is not run again.
    pub fn dispatch<P: bytemuck::NoUninit>(
        &mut self,
        kernel: &Kernel,
        arguments: &[Binding<'_>],
        params: &P,
        groups: [u32; 3],
    ) {
        match kernel.bind(&self.gpu, arguments) {
            Ok(bound) => self.run(&bound, params, groups),
            Err(error) => self.fail(error),
        }
    }

    /// Copies bytes between buffers. Offsets and length are multiples of 4.
    pub fn copy(&mut self, from: &GpuBuffer, from_offset: u64, to: &GpuBuffer, to_offset: u64, bytes: u64) {
        self.pass = None;
        self.encoder.copy_buffer_to_buffer(from.raw(), from_offset, to.raw(), to_offset, bytes);
    }

    /// Sets a buffer to zero.
    pub fn clear(&mut self, buffer: &GpuBuffer) {
        self.pass = None;
        self.encoder.clear_buffer(buffer.raw(), 0, None);
    }

    /// Copies `bytes` of a buffer, as they are at this point of the record, to where the CPU can read them once it is submitted.
    ///
    /// # Errors
    /// [`GpuError::Limit`] past the end of the buffer; as [`Gpu::storage`].
    pub fn read(&mut self, buffer: &GpuBuffer, offset: u64, bytes: usize) -> Result<Readback, GpuError> {
        let copied = (bytes as u64).next_multiple_of(4);
        if offset + copied > buffer.bytes() {
            let what = "a read from a buffer".to_owned();
            return Err(GpuError::Limit { what, needed: offset + copied, max: buffer.bytes() });
        }
        let staging = self.gpu.staging(copied)?;
        self.copy(buffer, offset, &staging, 0, copied);
        Ok(Readback { gpu: Arc::clone(&self.gpu), staging, bytes })
    }

    /// Hands everything to the device, without waiting for it.
    ///
    /// # Errors
    /// The first error of recording; [`GpuError::Command`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
    pub fn submit(self) -> Result<(), GpuError> {
        self.finish().map(|_| ())
    }

    /// [`submit`](Self::submit), with the times of a [`timed`](Self::timed) record; `None` from a device without timestamps.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_timed(self) -> Result<Option<PendingTimings>, GpuError> {
        self.finish()
    }

    fn finish(mut self) -> Result<Option<PendingTimings>, GpuError> {
        self.pass = None;
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let pending = match self.timing.take() {
            Some(timing) if !timing.sections.is_empty() => Some(self.resolve(timing)?),
            _ => None,
        };
        let Self { gpu, encoder, pages, dispatches, .. } = self;
        gpu.scoped(
            || {
                for page in &pages {
                    gpu.queue().write_buffer(page.buffer.raw(), 0, &page.contents);
                }
                gpu.queue().submit([encoder.finish()])
            },
            |refusal| GpuError::Command {
                what: format!("a record of {dispatches} dispatches"),
                reason: refusal.text(),
            },
        )?;
        gpu.pages.free.lock().unwrap_or_else(PoisonError::into_inner).extend(pages);
        Ok(pending)
    }

    fn resolve(&mut self, timing: Timing) -> Result<PendingTimings, GpuError> {
        use wgpu::BufferUsages as U;
        let bytes = timing.sections.len() * 16;
        let resolved = self.gpu.buffer("timestamps", bytes as u64, U::QUERY_RESOLVE | U::COPY_SRC)?;
        let count = timing.sections.len() as u32 * 2;
        self.encoder.resolve_query_set(&timing.queries, 0..count, resolved.raw(), 0);
        let readback = self.read(&resolved, 0, bytes)?;
        let period = f64::from(self.gpu.queue().get_timestamp_period());
        Ok(PendingTimings { names: timing.sections, readback, period })
    }

    fn begin_pass(&mut self) {
        if self.pass.is_some() {
            return;
        }
        let timestamp_writes = match &mut self.timing {
            Some(timing) if (timing.sections.len() as u32) < MAX_SECTIONS => {
                let at = timing.sections.len() as u32 * 2;
                timing.sections.push(timing.next.clone());
                Some(wgpu::ComputePassTimestampWrites {
                    query_set: &timing.queries,
                    beginning_of_pass_write_index: Some(at),
                    end_of_pass_write_index: Some(at + 1),
                })
            }
            _ => None,
        };
        let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
        self.pass = Some(self.encoder.begin_compute_pass(&descriptor).forget_lifetime());
    }

    /// Keeps the parameters of a dispatch; where they are in the last page.
    fn params(&mut self, kernel: &Kernel, params: &[u8]) -> Result<Option<u32>, GpuError> {
        assert_eq!(kernel.takes_params(), !params.is_empty(), "parameters of {}", kernel.name());
        assert!(params.len() <= MAX_PARAMS, "parameters of {}", kernel.name());
        if params.is_empty() {
            return Ok(None);
        }
        let full = |page: &Page| page.contents.len() + MAX_PARAMS > PAGE;
        if self.pages.last().is_none_or(full) {
            let page = self.page()?;
            self.pages.push(page);
        }
        let Some(page) = self.pages.last_mut() else { return Ok(None) };
        let offset = page.contents.len();
        page.contents.extend_from_slice(params);
        page.contents.resize(offset + MAX_PARAMS, 0);
        Ok(Some(offset as u32))
    }

    fn page(&self) -> Result<Page, GpuError> {
        use wgpu::BufferUsages as U;
        let gpu = &self.gpu;
        if let Some(mut page) = gpu.pages.free.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            page.contents.clear();
            return Ok(page);
        }
        let buffer = gpu.buffer("parameters", PAGE as u64, U::UNIFORM | U::COPY_DST)?;
        let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: buffer.raw(),
            offset: 0,
            size: wgpu::BufferSize::new(MAX_PARAMS as u64),
        });
        let group = gpu.scoped(
            || {
                gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                    label: None,
                    layout: gpu.pipelines.params_layout(),
                    entries: &[wgpu::BindGroupEntry { binding: 0, resource }],
                })
            },
            |refusal| GpuError::Command { what: "parameters".to_owned(), reason: refusal.text() },
        )?;
        Ok(Page { buffer, group, contents: Vec::with_capacity(PAGE) })
    }

    fn fail(&mut self, error: GpuError) {
        self.failed.get_or_insert(error);
    }
}

//! Device memory: buffers that know their size and are counted, scratch that is reused, and the way back to the CPU.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::device::{Refusal, State};
use super::{Gpu, GpuError};

/// Bytes handed to the queue before a submission lets it have them: what an upload holds on the CPU's side at a time.
const BAND: usize = 8 << 20;

/// Most bytes that lie in a pool unused.
const IDLE: u64 = 64 << 20;

/// Reuse of scratch rounds up to multiples of this, so that nearly equal sizes share.
const GRAIN: u64 = 4096;

/// A storage buffer. Cloning shares it; the memory goes back when the last clone and the last submission using it end.
#[derive(Debug, Clone)]
pub struct GpuBuffer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    buffer: wgpu::Buffer,
    bytes: u64,
    state: Arc<State>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.allocated.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A buffer, or a part of one, as a kernel's argument.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a> {
    pub(super) buffer: &'a GpuBuffer,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl<'a> Binding<'a> {
    /// The buffer it is of.
    pub fn buffer(&self) -> &'a GpuBuffer {
        self.buffer
    }

    /// Where it begins in the buffer, in bytes.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Its length, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl GpuBuffer {
    /// Bytes, a multiple of 4.
    pub fn bytes(&self) -> u64 {
        self.inner.bytes
    }

    /// All of it as an argument.
    pub fn all(&self) -> Binding<'_> {
        Binding { buffer: self, offset: 0, bytes: self.bytes() }
    }

    /// A part of it as an argument, in bytes. It must begin at a multiple of
    /// [`Gpu::binding_alignment`] and lie within the buffer, or binding it is an error.
    pub fn part(&self, range: Range<u64>) -> Binding<'_> {
        Binding { buffer: self, offset: range.start, bytes: range.end.saturating_sub(range.start) }
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.inner.buffer
    }
}

impl<'a> From<&'a GpuBuffer> for Binding<'a> {
    fn from(buffer: &'a GpuBuffer) -> Self {
        buffer.all()
    }
}

/// Buffers that are free to be used again.
#[derive(Debug, Default)]
pub(super) struct Pool {
    scratch: Mutex<Vec<GpuBuffer>>,
    staging: Mutex<Vec<GpuBuffer>>,
}

/// A buffer from the pool, whose contents are whatever was there; it goes back when dropped.
#[derive(Debug)]
pub struct Scratch {
    gpu: Arc<Gpu>,
    buffer: GpuBuffer,
}

impl std::ops::Deref for Scratch {
    type Target = GpuBuffer;

    fn deref(&self) -> &GpuBuffer {
        &self.buffer
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut free = self.gpu.pool.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        give_back(&mut free, self.buffer.clone());
    }
}

/// A read that was recorded: the bytes are there once its submission is done.
#[derive(Debug)]
pub struct Readback {
    pub(super) gpu: Arc<Gpu>,
    pub(super) staging: GpuBuffer,
    pub(super) bytes: usize,
}

impl Readback {
    /// Waits for the submission that the read was recorded in, and copies the bytes out.
    ///
    /// # Errors
    /// [`GpuError::DeviceLost`], [`GpuError::Timeout`], [`GpuError::Command`].
    ///
    /// # Panics
    /// If `out` is not as long as what was to be read.
    pub fn wait<T: bytemuck::Pod>(self, out: &mut [T]) -> Result<(), GpuError> {
        let out: &mut [u8] = bytemuck::cast_slice_mut(out);
        assert_eq!(out.len(), self.bytes, "bytes read back");
        let gpu = &self.gpu;
        gpu.check()?;
        let (done, told) = mpsc::channel();
        let slice = self.staging.raw().slice(..self.staging.bytes());
        slice.map_async(wgpu::MapMode::Read, move |result| {
            // The receiver is gone only if waiting failed.
            let _ = done.send(result);
        });
        gpu.wait()?;
        let failed = |reason: String| GpuError::Command { what: "read back".to_owned(), reason };
        match told.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed("the mapping was not answered".to_owned())),
        }
        {
            let view = slice.get_mapped_range().map_err(|e| failed(e.to_string()))?;
            out.copy_from_slice(&view[..self.bytes]);
        }
        self.staging.raw().unmap();
        let mut free = gpu.pool.staging.lock().unwrap_or_else(PoisonError::into_inner);
        give_back(&mut free, self.staging);
        Ok(())
    }
}

impl Gpu {
    /// Where parts of a buffer that are bound by themselves may begin, in bytes.
    pub fn binding_alignment(&self) -> u64 {
        u64::from(self.device().limits().min_storage_buffer_offset_alignment)
    }

    /// A storage buffer of `bytes` (rounded up to a multiple of 4, at least 16), zeroed. It may be larger than what one
    /// binding may span; bind parts of it then.
    ///
    /// # Errors
    /// [`GpuError::Limit`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
    pub fn storage(&self, what: &str, bytes: u64) -> Result<GpuBuffer, GpuError> {
        use wgpu::BufferUsages as U;
        self.buffer(what, bytes, U::STORAGE | U::COPY_DST | U::COPY_SRC)
    }

    /// A storage buffer with these contents.
    ///
    /// # Errors
    /// As [`storage`](Self::storage).
    pub fn upload<T: bytemuck::NoUninit>(&self, what: &str, contents: &[T]) -> Result<GpuBuffer, GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(contents);
        let buffer = self.storage(what, bytes.len() as u64)?;
        self.write(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// Replaces bytes of a buffer before whatever is submitted next. `offset` is a multiple of 4; a length that is not is
    /// filled up with zeros. Large contents go in bands, so that only one of them is held a second time.
    ///
    /// # Errors
    /// [`GpuError::Limit`] past the end; [`GpuError::Command`], [`GpuError::OutOfMemory`], [`GpuError::DeviceLost`].
    pub fn write<T: bytemuck::NoUninit>(
        &self,
        buffer: &GpuBuffer,
        offset: u64,
        contents: &[T],
    ) -> Result<(), GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(contents);
        let needed = (offset + bytes.len() as u64).next_multiple_of(4);
        if needed > buffer.bytes() {
            return Err(GpuError::Limit { what: "a write into a buffer".to_owned(), needed, max: buffer.bytes() });
        }
        let whole = bytes.len() / 4 * 4;
        let describe = |refusal| self.refused("an upload", bytes.len() as u64, refusal);
        self.scoped(
            || {
                let mut at = offset;
                for band in bytes[..whole].chunks(BAND) {
                    self.queue().write_buffer(buffer.raw(), at, band);
                    at += band.len() as u64;
                    if band.len() == BAND {
                        self.queue().submit([]);
                        // Lets go of the bands that have arrived; one still on its way is no failure.
                        let _ = self.device().poll(wgpu::PollType::Poll);
                    }
                }
                if whole < bytes.len() {
                    let mut last = [0; 4];
                    last[..bytes.len() - whole].copy_from_slice(&bytes[whole..]);
                    self.queue().write_buffer(buffer.raw(), at, &last);
                }
            },
            describe,
        )
    }

    /// Reads elements of a buffer from byte `offset` on, once everything submitted so far is done.
    ///
    /// # Errors
    /// As [`Recorder::submit`](super::Recorder::submit) and [`Readback::wait`].
    pub fn read<T: bytemuck::Pod>(
        self: &Arc<Self>,
        buffer: &GpuBuffer,
        offset: u64,
        out: &mut [T],
    ) -> Result<(), GpuError> {
        let mut recorder = super::Recorder::new(self);
        let readback = recorder.read(buffer, offset, size_of_val(out))?;
        recorder.submit()?;
        readback.wait(out)
    }

    /// A buffer of at least `bytes` from the pool, with whatever contents; it returns there when dropped.
    ///
    /// # Errors
    /// As [`storage`](Self::storage).
    pub fn scratch(self: &Arc<Self>, bytes: u64) -> Result<Scratch, GpuError> {
        let bytes = bytes.max(16).next_multiple_of(GRAIN);
        let free = {
            let mut free = self.pool.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            take_fitting(&mut free, bytes)
        };
        let buffer = match free {
            Some(buffer) => buffer,
            None => self.storage("scratch", bytes)?,
        };
        Ok(Scratch { gpu: Arc::clone(self), buffer })
    }

    /// Gives back the memory of the pools.
    pub fn trim(&self) {
        self.pool.scratch.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.pool.staging.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Memory of buffers that are not used any more is returned as the device is polled.
        let _ = self.device().poll(wgpu::PollType::Poll);
    }

    /// A buffer to be mapped for reading.
    pub(super) fn staging(&self, bytes: u64) -> Result<GpuBuffer, GpuError> {
        use wgpu::BufferUsages as U;
        let bytes = bytes.next_multiple_of(GRAIN);
        let free = {
            let mut free = self.pool.staging.lock().unwrap_or_else(PoisonError::into_inner);
            take_fitting(&mut free, bytes)
        };
        free.map_or_else(|| self.buffer("reading back", bytes, U::MAP_READ | U::COPY_DST), Ok)
    }

    pub(super) fn buffer(&self, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<GpuBuffer, GpuError> {
        let bytes = bytes.max(16).next_multiple_of(4);
        if bytes > self.info().max_buffer {
            return Err(GpuError::Limit { what: what.to_owned(), needed: bytes, max: self.info().max_buffer });
        }
        let state = &self.state;
        let allocated = state.allocated.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let give_back = || {
            state.allocated.fetch_sub(bytes, Ordering::Relaxed);
        };
        if self.budget().is_some_and(|budget| allocated > budget) {
            give_back();
            return Err(self.refused(what, bytes, Refusal::Memory));
        }
        let descriptor = wgpu::BufferDescriptor { label: Some(what), size: bytes, usage, mapped_at_creation: false };
        let made =
            self.scoped(|| self.device().create_buffer(&descriptor), |refusal| self.refused(what, bytes, refusal));
        let buffer = made.inspect_err(|_| give_back())?;
        state.peak.fetch_max(allocated, Ordering::Relaxed);
        Ok(GpuBuffer { inner: Arc::new(Inner { buffer, bytes, state: Arc::clone(state) }) })
    }

    fn refused(&self, what: &str, needed: u64, refusal: Refusal) -> GpuError {
        match refusal {
            Refusal::Memory => GpuError::OutOfMemory {
                what: what.to_owned(),
                needed,
                allocated: self.allocated_bytes(),
                budget: self.budget(),
            },
            Refusal::Reason(reason) => GpuError::Command { what: what.to_owned(), reason },
        }
    }
}

/// Keeps a buffer for the next who needs one, and lets go of the largest while they are too many bytes.
fn give_back(free: &mut Vec<GpuBuffer>, buffer: GpuBuffer) {
    free.push(buffer);
    while free.iter().map(GpuBuffer::bytes).sum::<u64>() > IDLE
        && let Some(largest) = (0..free.len()).max_by_key(|i| free[*i].bytes())
    {
        free.swap_remove(largest);
    }
}

/// The smallest free buffer of at least `bytes`, but not one so large that its use would be a waste.
fn take_fitting(free: &mut Vec<GpuBuffer>, bytes: u64) -> Option<GpuBuffer> {
    let fits = |buffer: &GpuBuffer| (bytes..=bytes.saturating_mul(2)).contains(&buffer.bytes());
    let best = (0..free.len()).filter(|i| fits(&free[*i])).min_by_key(|i| free[*i].bytes())?;
    Some(free.swap_remove(best))
}

//! Chunk-parallel loops over several outputs at once, on the pool.

use std::ops::Range;

use super::Pool;

/// A raw output that may cross threads; the loop below hands each chunk to exactly one task.
#[derive(Clone, Copy)]
struct Output {
    base: *mut f32,
    len: usize,
    chunk: usize,
}

// SAFETY: the pointer is only turned into disjoint chunks, one task each (see `for_each_chunk`).
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// Calls `f(worker, index, [chunk of each output])` for every chunk, each once, spread over the pool. Output `i` is cut
/// into chunks of its own length; all must yield the same number of them; the last chunk of each may be short.
///
/// # Panics
/// If the outputs yield different numbers of chunks, or a chunk length is zero.
pub fn for_each_chunk<const N: usize>(
    pool: &Pool,
    outputs: [(&mut [f32], usize); N],
    f: impl Fn(usize, usize, [&mut [f32]; N]) + Sync,
) {
    let outputs = outputs.map(|(data, chunk)| Output { base: data.as_mut_ptr(), len: data.len(), chunk });
    let count = outputs.first().map_or(0, |o| o.len.div_ceil(o.chunk));
    assert!(outputs.iter().all(|o| o.len.div_ceil(o.chunk) == count), "outputs disagree about the number of chunks");
    pool.run_indexed(count, &|worker, index| {
        let chunks = outputs.map(|o| {
            let start = index * o.chunk;
            let len = o.chunk.min(o.len - start);
            // SAFETY: `index < count`, so `start < o.len` and the chunk ends inside the output; every index is run
            // once, so no two live chunks overlap; the exclusive borrows outlive the blocking `run_indexed`.
            unsafe { std::slice::from_raw_parts_mut(o.base.add(start), len) }
        });
        f(worker, index, chunks);
    });
}

/// Calls `f(worker, index, [part of each output])` for every one of `spans`, each once, spread over the pool. A span counts
/// rows of an output, each as many elements as stand beside it.
///
/// # Panics
/// If the spans are not in ascending order without overlap, or end past an output.
pub fn for_each_span<const N: usize>(
    pool: &Pool,
    spans: &[Range<usize>],
    outputs: [(&mut [f32], usize); N],
    f: impl Fn(usize, usize, [&mut [f32]; N]) + Sync,
) {
    let outputs = outputs.map(|(data, width)| Output { base: data.as_mut_ptr(), len: data.len(), chunk: width });
    let mut end = 0;
    for span in spans {
        assert!(end <= span.start && span.start <= span.end, "spans out of order");
        end = span.end;
    }
    assert!(outputs.iter().all(|o| end.checked_mul(o.chunk).is_some_and(|end| end <= o.len)), "spans past an output");
    pool.run_indexed(spans.len(), &|worker, index| {
        let span = &spans[index];
        let parts = outputs.map(|o| {
            // SAFETY: the span lies in the output, by the checks above, and overlaps no other; every index is run once; the
            // exclusive borrows outlive the blocking `run_indexed`.
            unsafe { std::slice::from_raw_parts_mut(o.base.add(span.start * o.chunk), span.len() * o.chunk) }
        });
        f(worker, index, parts);
    });
}

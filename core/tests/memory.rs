//! The memory split of this very process: one test, alone in its process, because every thread's pages count.
#![cfg(any(target_os = "linux", target_os = "android"))]

use std::hint::black_box;
use std::io::{BufWriter, Write};
use std::time::Duration;

use timbre::gguf::{Advice, Gguf};
use timbre::memory::{MemorySplit, PeakAnon};

const MB: u64 = 1 << 20;
const SIZE: u64 = 64 * MB;

/// Writes a GGUF of one f32 tensor of [`SIZE`] bytes.
fn write_gguf(path: &std::path::Path) {
    let mut file = BufWriter::new(std::fs::File::create(path).unwrap());
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend(1u64.to_le_bytes()); // tensors
    header.extend(0u64.to_le_bytes()); // metadata entries
    header.extend(1u64.to_le_bytes()); // length of the name
    header.push(b't');
    header.extend(1u32.to_le_bytes()); // dimensions
    header.extend((SIZE / 4).to_le_bytes());
    header.extend(0u32.to_le_bytes()); // F32
    header.extend(0u64.to_le_bytes()); // offset
    header.resize(header.len().next_multiple_of(32), 0);
    file.write_all(&header).unwrap();
    let megabyte = vec![1u8; MB as usize];
    for _ in 0..SIZE / MB {
        file.write_all(&megabyte).unwrap();
    }
    file.flush().unwrap();
}

#[test]
fn heap_is_anonymous_and_a_mapped_model_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.gguf");
    write_gguf(&path);

    let start = MemorySplit::of_this_process().unwrap();
    assert_eq!(start.anon_bytes + start.file_bytes, start.resident_bytes);
    assert!(start.anon_bytes > 0 && start.file_bytes > 0, "{start:?}");

    let peak = PeakAnon::start(Duration::from_millis(1)).unwrap();
    let heap = black_box(vec![1u8; SIZE as usize]);
    let with_heap = MemorySplit::of_this_process().unwrap();
    let (anon, file) = (with_heap.anon_bytes - start.anon_bytes, with_heap.file_bytes.abs_diff(start.file_bytes));
    assert!((SIZE..SIZE + 4 * MB).contains(&anon), "64 MB of heap grew anonymous memory by {anon}");
    assert!(file < 4 * MB, "heap changed file-backed memory by {file}");
    std::thread::sleep(Duration::from_millis(20));
    drop(black_box(heap));

    let before = MemorySplit::of_this_process().unwrap();
    assert!(before.anon_bytes < start.anon_bytes + 4 * MB, "freed heap is still counted: {before:?}");
    let gguf = Gguf::open(&path).unwrap();
    gguf.advise_all(Advice::Huge);
    let data = gguf.data(gguf.tensor("t").unwrap());
    assert_eq!(black_box(data).iter().map(|&b| u64::from(b)).sum::<u64>(), SIZE);
    let mapped = MemorySplit::of_this_process().unwrap();
    let (anon, file) = (mapped.anon_bytes.abs_diff(before.anon_bytes), mapped.file_bytes - before.file_bytes);
    assert!((SIZE..SIZE + 4 * MB).contains(&file), "a mapped file of 64 MB grew file-backed memory by {file}");
    assert!(mapped.huge_bytes <= mapped.file_bytes, "{mapped:?}");
    assert!(anon < 4 * MB, "reading a map changed anonymous memory by {anon}");

    // The heap came and went between two looks, but the sampler saw it; the map it did not count.
    let peak = peak.stop().unwrap();
    assert!((start.anon_bytes + SIZE - MB..start.anon_bytes + SIZE + 8 * MB).contains(&peak), "peak {peak}");
}

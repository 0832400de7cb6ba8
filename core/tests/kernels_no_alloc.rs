//! Loading activations and multiplying allocate nothing once the scratch exists.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use timbre::gguf::GgmlType;
use timbre::kernels::{Activations, Compute, KernelChoice, Matrix, detected_tiers};

thread_local! {
    /// Whether this thread's allocations count: the test harness has threads of its own.
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

fn count() {
    if COUNTED.get() {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
    }
}

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn products_do_not_allocate() {
    const ROWS: usize = 300;
    const COLS: usize = 512;
    const BATCH: usize = 37;
    let input = vec![0.5f32; BATCH * COLS];
    let mut out = vec![0.0f32; BATCH * ROWS];
    let mut other = vec![0.0f32; BATCH * ROWS];
    for tier in detected_tiers() {
        for threads in [1, 3] {
            let compute = Compute::new(KernelChoice::Only(tier), threads).unwrap();
            // Tasks that wait for one another reach every thread.
            let all = Barrier::new(threads);
            compute.pool().run(threads, &|_| {
                all.wait();
                COUNTED.set(true);
            });
            let mut x = Activations::with_capacity(BATCH, COLS);
            for ty in GgmlType::ALL {
                let data = vec![0x11u8; ty.row_bytes(COLS).unwrap() * ROWS];
                let w = Matrix::new(ty, ROWS, COLS, &data).unwrap();
                for batch in [1, BATCH] {
                    let outputs = batch * ROWS;
                    let mut round = || {
                        x.load(&compute, batch, COLS, &input[..batch * COLS]);
                        compute.matmul(w, &x, &mut out[..outputs]);
                        let (out, other) = (&mut out[..outputs], &mut other[..outputs]);
                        compute.matmul_group(&mut [(w, out), (w, other)], &x);
                    };
                    let before = ALLOCATIONS.load(Ordering::SeqCst);
                    (0..2).for_each(|_| round());
                    let after = ALLOCATIONS.load(Ordering::SeqCst);
                    assert_eq!(after - before, 0, "{tier} {ty} batch {batch} on {threads} threads");
                }
            }
        }
    }
}

//! Loading activations and multiplying allocate nothing once the scratch exists.

#[path = "common/counting.rs"]
mod counting;

use std::sync::Barrier;
use std::sync::atomic::Ordering;

use counting::{ALLOCATIONS, COUNTED};
use timbre::gguf::GgmlType;
use timbre::kernels::{Activations, Compute, KernelChoice, Matrix, detected_tiers};

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
            let mut x = Activations::with_capacity(&compute, BATCH, COLS);
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

//! Reconstructs `ΔW` once for every line on standard input and prints the milliseconds it took, for a script that
//! lets it take turns with others: `reconstruct SIDE ENTRIES THREADS`.

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

use timbre::spectral::{Entries, Shape, Transforms, reconstruct};
use timbre_benches::noise;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<Vec<usize>, _>>()?;
    let [side, n, threads] = numbers[..] else { return Err("usage: reconstruct SIDE ENTRIES THREADS".into()) };
    let entries = Entries::seeded(Shape::new(side, side)?, n, 2024)?;
    let coefficients = noise(n, 1);
    let transforms = Transforms::new();
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        // Into fresh memory, as the others do.
        let delta = reconstruct(&entries, &coefficients, 300.0, &transforms, threads)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        black_box(&delta);
        drop(delta);
        println!("{ms}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

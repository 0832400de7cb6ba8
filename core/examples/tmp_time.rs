//! t
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use timbre::spectral::*;
fn med(mut f: impl FnMut()) -> f64 {
    let mut v = vec![];
    for _ in 0..200 {
        let t = Instant::now();
        for _ in 0..50 {
            f()
        }
        v.push(t.elapsed().as_nanos() as f64 / 50.0);
    }
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}
fn main() {
    let tr = Transforms::new();
    for (d1, d2) in [(576, 576), (192, 576), (2048, 2048), (4096, 4096), (1536, 576)] {
        let t = Instant::now();
        let e = Arc::new(Entries::seeded(Shape::new(d1, d2).unwrap(), 1000, 2024).unwrap());
        let a = t.elapsed();
        let t = Instant::now();
        let p = Plan::new(e.clone());
        let b = t.elapsed();
        let t = Instant::now();
        let (dn, ac) = (tr.real(d1), tr.real(d2));
        let c0 = t.elapsed();
        let c = vec![0.5f32; 1000];
        let st = p.to_stored(&c).unwrap();
        let x: Vec<f32> = (0..d2).map(|i| (i as f32).sin()).collect();
        let mut buf = x.clone();
        let mut sx = vec![Complex32::default(); ac.bins()];
        let mut z = vec![Complex32::default(); dn.bins()];
        let mut y = vec![0f32; d1];
        let mut w = vec![Complex32::default(); dn.scratch_len().max(ac.scratch_len())];
        let f = med(|| {
            buf.copy_from_slice(&x);
            ac.spectrum(black_box(&mut buf), &mut sx, &mut w)
        });
        let s = med(|| transform::apply(&p, black_box(&st), 300.0, &sx, black_box(&mut z)));
        let i = med(|| {
            z.fill(Complex32::default());
            dn.twice_real(&mut z, &mut y, &mut w)
        });
        let t = Instant::now();
        let _ = reconstruct(&e, &c, 300.0, &tr, 1).unwrap();
        let r1 = t.elapsed();
        let t = Instant::now();
        let _ = reconstruct(&e, &c, 300.0, &tr, 2).unwrap();
        let r2 = t.elapsed();
        println!(
            "{d1}x{d2}: draw {a:?} plan {b:?} fft plan {c0:?}; fwd {f:.0} gs {s:.0} inv {i:.0} ns; dense {r1:?} / {r2:?} (2t)"
        );
    }
    let t = Instant::now();
    let _ = Entries::biased(Shape::new(4096, 4096).unwrap(), 1000, 1, 1000.0, 200.0);
    println!("biased 4096 {:?}", t.elapsed());
    let t = Instant::now();
    let _ = Entries::seeded(Shape::new(262144, 1152).unwrap(), 1000, 1);
    println!("inside-out 302M {:?}", t.elapsed());
}

//! eˣ.

use super::Vector;
use crate::kernels::vector::{EXP_COEFFICIENTS, EXP_RANGE, LN2_HIGH, LN2_LOW, ROUND};

/// [`exp_lane`](crate::kernels::vector::exp_lane) of each number, to the same bits where multiply-adds round once in both.
#[inline(always)]
pub fn exp<V: Vector>(x: V) -> V {
    // In this order, so that what is no number stays none.
    let x = V::splat(EXP_RANGE[1]).min(V::splat(EXP_RANGE[0]).max(x));
    let rounded = x.mul_add(V::splat(std::f32::consts::LOG2_E), V::splat(ROUND));
    let n = rounded.sub(V::splat(ROUND));
    let r = n.mul_add(V::splat(-LN2_LOW), n.mul_add(V::splat(-LN2_HIGH), x));
    let [mut p, rest @ ..] = EXP_COEFFICIENTS.map(V::splat);
    for c in rest {
        p = p.mul_add(r, c);
    }
    let e = p.mul_add(r.mul(r), r).add(V::splat(1.0));
    e.mul(rounded.power_of_two())
}

#[cfg(test)]
mod tests {
    use super::super::{Vectorised, vectorised};
    use super::*;
    use crate::kernels::vector::exp_lane;

    struct Each<'a>(&'a mut [f32; 16]);

    impl Vectorised for Each<'_> {
        #[inline(always)]
        fn run<V: Vector>(self) {
            for l in (0..16).step_by(V::WIDTH) {
                exp(V::load(self.0, l)).store(self.0, l);
            }
        }
    }

    #[test]
    fn it_is_e_to_the_x() {
        for i in -1000..1000 {
            let mut x: [f32; 16] = std::array::from_fn(|l| (i * 16 + l as i32) as f32 * 0.005_5);
            let expected = x.map(|x| f64::from(x.clamp(EXP_RANGE[0], EXP_RANGE[1])).exp());
            vectorised(Each(&mut x));
            for (x, expected) in x.into_iter().zip(expected) {
                assert!((f64::from(x) / expected - 1.0).abs() < 3e-7, "{x:e}, not {expected:e}");
            }
        }
        let mut ends = [0.0; 16];
        ends[..4].copy_from_slice(&[f32::NEG_INFINITY, f32::INFINITY, f32::NAN, -0.0]);
        vectorised(Each(&mut ends));
        assert!(ends[0] < 2e-38 && ends[1].is_finite() && ends[1] > 1e38 && ends[2].is_nan());
        assert!(ends[3..].iter().all(|one| *one == 1.0), "{ends:?}");
    }

    #[test]
    fn a_lane_alone_gives_the_same_bits() {
        #[cfg(target_arch = "x86_64")]
        let fused = crate::kernels::widest::has_avx2();
        #[cfg(not(target_arch = "x86_64"))]
        let fused = cfg!(target_arch = "aarch64");
        let alone = if fused { exp_lane::<true> } else { exp_lane::<false> };
        for i in -5000..5000 {
            let numbers: [f32; 16] = std::array::from_fn(|l| (i * 16 + l as i32) as f32 * 0.001_1);
            let mut found = numbers;
            vectorised(Each(&mut found));
            for (x, found) in numbers.into_iter().zip(found) {
                assert_eq!(found.to_bits(), alone(x).to_bits(), "{x:e}: {found:e}, not {:e}", alone(x));
            }
        }
    }
}

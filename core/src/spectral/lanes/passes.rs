//! The passes of a complex transform, in place, on all lanes at once.
//!
//! Each pass of radix R takes the elements `p, p + m, …, p + (R−1)·m` of every block of `R·m` through a transform of
//! length R. The loop over the lanes is innermost and of fixed length, so that it becomes vector instructions.

use num_complex::Complex32;

use super::{LANES, LaneBin};

/// One pass of a transform of length `radix · m · (blocks)`.
#[derive(Debug)]
pub(super) struct Stage {
    radix: usize,
    m: usize,
    /// `e^{−2πi·p·k/(radix·m)}` for `p < m` and, within, `1 ≤ k < radix`.
    twiddles: Box<[Complex32]>,
}

/// Radices, in the order in which a length is divided by them.
///
/// Fours come last, and an 8 stands for the 4 and the 2 that an odd power of two would take.
pub(super) fn radices(mut len: usize) -> Option<Vec<usize>> {
    let mut radices = Vec::new();
    for odd in [7, 5, 3] {
        while len.is_multiple_of(odd) {
            len /= odd;
            radices.push(odd);
        }
    }
    if !len.is_power_of_two() {
        return None;
    }
    match (len.trailing_zeros() % 2 == 1, len) {
        (true, 2) => radices.push(2),
        (true, _) => radices.push(8),
        (false, _) => {}
    }
    let done = radices.last().copied().filter(|r| r.is_multiple_of(2)).unwrap_or(1);
    radices.resize(radices.len() + (len / done).trailing_zeros() as usize / 2, 4);
    Some(radices)
}

impl Stage {
    /// A pass over blocks of `radix · m` elements.
    pub(super) fn new(radix: usize, m: usize) -> Self {
        let twiddles = (0..m).flat_map(|p| (1..radix).map(move |k| circle(p * k, radix * m))).collect();
        Self { radix, m, twiddles }
    }

    /// Elements that are transformed apart from all others.
    pub(super) fn block(&self) -> usize {
        self.radix * self.m
    }

    /// Decimation in frequency: natural order in, the blocks' order out.
    #[inline(always)]
    pub(super) fn down<const F: bool>(&self, x: &mut [LaneBin]) {
        let (m, w) = (self.m, &*self.twiddles);
        match self.radix {
            2 => radix2::down::<F>(x, m, w),
            3 => radix3::down::<F>(x, m, w),
            4 => radix4::down::<F>(x, m, w),
            5 => radix5::down::<F>(x, m, w),
            7 => radix7::down::<F>(x, m, w),
            _ => radix8::down::<F>(x, m, w),
        }
    }

    /// Decimation in time: the blocks' order in, natural order out.
    #[inline(always)]
    pub(super) fn up<const F: bool>(&self, x: &mut [LaneBin]) {
        let (m, w) = (self.m, &*self.twiddles);
        match self.radix {
            2 => radix2::up::<F>(x, m, w),
            3 => radix3::up::<F>(x, m, w),
            4 => radix4::up::<F>(x, m, w),
            5 => radix5::up::<F>(x, m, w),
            7 => radix7::up::<F>(x, m, w),
            _ => radix8::up::<F>(x, m, w),
        }
    }
}

/// `e^{−2πi·turn/len}`.
pub(super) fn circle(turn: usize, len: usize) -> Complex32 {
    let (sin, cos) = (std::f64::consts::TAU * (turn % len) as f64 / len as f64).sin_cos();
    Complex32::new(cos as f32, -sin as f32)
}

/// Both directions of a radix from its butterfly and a name for each of its elements.
macro_rules! radix {
    ($name:ident, $radix:literal, $dft:ident, $first:ident $(, $x:ident = $k:literal)*) => {
        mod $name {
            use super::*;

            #[inline(always)]
            pub(super) fn down<const F: bool>(x: &mut [LaneBin], m: usize, twiddles: &[Complex32]) {
                for block in x.chunks_exact_mut($radix * m) {
                    let ($first, rest) = block.split_at_mut(m);
                    $(let ($x, rest) = rest.split_at_mut(m);)*
                    let _ = rest;
                    for (i, w) in (0..m).zip(twiddles.chunks_exact($radix - 1)) {
                        after::<F>(&mut $first[i], $(&mut $x[i],)* w);
                    }
                }
            }

            #[inline(always)]
            pub(super) fn up<const F: bool>(x: &mut [LaneBin], m: usize, twiddles: &[Complex32]) {
                for block in x.chunks_exact_mut($radix * m) {
                    let ($first, rest) = block.split_at_mut(m);
                    $(let ($x, rest) = rest.split_at_mut(m);)*
                    let _ = rest;
                    for (i, w) in (0..m).zip(twiddles.chunks_exact($radix - 1)) {
                        before::<F>(&mut $first[i], $(&mut $x[i],)* w);
                    }
                }
            }

            // References, not slices: they tell the compiler that no two elements overlap.
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn after<const F: bool>($first: &mut LaneBin, $($x: &mut LaneBin,)* w: &[Complex32]) {
                let mut factors = [Complex32::default(); $radix];
                factors[1..].copy_from_slice(w);
                for l in 0..LANES {
                    let y = $dft::<F>([$first.lane(l) $(, $x.lane(l))*]);
                    $first.set(l, y[0]);
                    $($x.set(l, times::<F>(y[$k], factors[$k]));)*
                }
            }

            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn before<const F: bool>($first: &mut LaneBin, $($x: &mut LaneBin,)* w: &[Complex32]) {
                let mut factors = [Complex32::default(); $radix];
                factors[1..].copy_from_slice(w);
                for l in 0..LANES {
                    let y = $dft::<F>([$first.lane(l) $(, times::<F>($x.lane(l), factors[$k]))*]);
                    $first.set(l, y[0]);
                    $($x.set(l, y[$k]);)*
                }
            }
        }
    };
}

radix!(radix2, 2, dft2, a, b = 1);
radix!(radix3, 3, dft3, a, b = 1, c = 2);
radix!(radix4, 4, dft4, a, b = 1, c = 2, d = 3);
radix!(radix5, 5, dft5, a, b = 1, c = 2, d = 3, e = 4);
radix!(radix7, 7, dft7, a, b = 1, c = 2, d = 3, e = 4, f = 5, g = 6);
radix!(radix8, 8, dft8, a, b = 1, c = 2, d = 3, e = 4, f = 5, g = 6, h = 7);

/// `a·b + c`.
#[inline(always)]
pub(in crate::spectral) fn fma<const F: bool>(a: f32, b: f32, c: f32) -> f32 {
    if F { a.mul_add(b, c) } else { a * b + c }
}

/// The complex product.
#[inline(always)]
pub(super) fn times<const F: bool>(z: Complex32, w: Complex32) -> Complex32 {
    Complex32::new(fma::<F>(-z.im, w.im, z.re * w.re), fma::<F>(z.re, w.im, z.im * w.re))
}

/// `z + s·d` for a real s.
#[inline(always)]
fn along<const F: bool>(z: Complex32, s: f32, d: Complex32) -> Complex32 {
    Complex32::new(fma::<F>(d.re, s, z.re), fma::<F>(d.im, s, z.im))
}

/// `z − i·d` and `z + i·d`.
#[inline(always)]
fn across(z: Complex32, d: Complex32) -> (Complex32, Complex32) {
    (Complex32::new(z.re + d.im, z.im - d.re), Complex32::new(z.re - d.im, z.im + d.re))
}

#[inline(always)]
fn dft2<const F: bool>([a, b]: [Complex32; 2]) -> [Complex32; 2] {
    [a + b, a - b]
}

#[inline(always)]
fn dft3<const F: bool>([a, b, c]: [Complex32; 3]) -> [Complex32; 3] {
    const SIN: f32 = 0.866_025_4;
    let (sum, difference) = (b + c, b - c);
    let (y1, y2) = across(along::<F>(a, -0.5, sum), difference * SIN);
    [a + sum, y1, y2]
}

#[inline(always)]
fn dft4<const F: bool>([a, b, c, d]: [Complex32; 4]) -> [Complex32; 4] {
    let (even, odd) = (a + c, b + d);
    let (y1, y3) = across(a - c, b - d);
    [even + odd, y1, even - odd, y3]
}

#[inline(always)]
fn dft5<const F: bool>([a, b, c, d, e]: [Complex32; 5]) -> [Complex32; 5] {
    const COS: [f32; 2] = [0.309_017, -0.809_017];
    const SIN: [f32; 2] = [0.951_056_5, 0.587_785_25];
    let (s1, s2, d1, d2) = (b + e, c + d, b - e, c - d);
    let m1 = along::<F>(along::<F>(a, COS[0], s1), COS[1], s2);
    let m2 = along::<F>(along::<F>(a, COS[1], s1), COS[0], s2);
    let (y1, y4) = across(m1, along::<F>(d1 * SIN[0], SIN[1], d2));
    let (y2, y3) = across(m2, along::<F>(d1 * SIN[1], -SIN[0], d2));
    [a + s1 + s2, y1, y2, y3, y4]
}

#[inline(always)]
fn dft7<const F: bool>([a, b, c, d, e, f, g]: [Complex32; 7]) -> [Complex32; 7] {
    const COS: [f32; 3] = [0.623_489_8, -0.222_520_93, -0.900_968_9];
    const SIN: [f32; 3] = [0.781_831_5, 0.974_927_9, 0.433_883_74];
    let (s1, s2, s3, d1, d2, d3) = (b + g, c + f, d + e, b - g, c - f, d - e);
    let real = |p: f32, q: f32, r: f32| along::<F>(along::<F>(along::<F>(a, p, s1), q, s2), r, s3);
    let imaginary = |p: f32, q: f32, r: f32| along::<F>(along::<F>(d1 * p, q, d2), r, d3);
    let (y1, y6) = across(real(COS[0], COS[1], COS[2]), imaginary(SIN[0], SIN[1], SIN[2]));
    let (y2, y5) = across(real(COS[1], COS[2], COS[0]), imaginary(SIN[1], -SIN[2], -SIN[0]));
    let (y3, y4) = across(real(COS[2], COS[0], COS[1]), imaginary(SIN[2], -SIN[0], SIN[1]));
    [a + s1 + s2 + s3, y1, y2, y3, y4, y5, y6]
}

#[inline(always)]
fn dft8<const F: bool>([a, b, c, d, e, f, g, h]: [Complex32; 8]) -> [Complex32; 8] {
    use std::f32::consts::FRAC_1_SQRT_2;
    let [e0, e1, e2, e3] = dft4::<F>([a, c, e, g]);
    let [o0, o1, o2, o3] = dft4::<F>([b, d, f, h]);
    // Times e^{−iπ/4} and e^{−3iπ/4}.
    let o1 = Complex32::new(o1.re + o1.im, o1.im - o1.re) * FRAC_1_SQRT_2;
    let o3 = Complex32::new(o3.im - o3.re, -(o3.re + o3.im)) * FRAC_1_SQRT_2;
    let (y2, y6) = across(e2, o2);
    [e0 + o0, e1 + o1, y2, e3 + o3, e0 - o0, e1 - o1, y6, e3 - o3]
}

//! Transforms of a few elements, the steps that longer ones are made of, in vectors of lanes.
//!
//! Each takes its elements times factors (decimation in time), or without any where `T` is false. Additions and multiplications
//! run on different units of a CPU, so half of what a butterfly does should be the one and half the other: where factors keep the
//! multipliers busy, differences are subtractions; elsewhere `a − b` is `2a − (a + b)`, one multiply-add.
//!
//! No closures here: they are functions of their own, which are not compiled for wide vectors, and make a transform seven times slower.

use std::ops::{Add, Sub};

use num_complex::Complex32;

use crate::kernels::{LaneBin, Vector};

/// A complex number in each lane of a vector.
#[derive(Clone, Copy)]
pub(in crate::spectral) struct Lanes<V> {
    pub(in crate::spectral) re: V,
    pub(in crate::spectral) im: V,
}

impl<V: Vector> Lanes<V> {
    /// From lane `start` on.
    #[inline(always)]
    pub(in crate::spectral) fn load(bin: &LaneBin, start: usize) -> Self {
        Self { re: V::load(&bin.re, start), im: V::load(&bin.im, start) }
    }

    #[inline(always)]
    pub(in crate::spectral) fn store(self, bin: &mut LaneBin, start: usize) {
        self.re.store(&mut bin.re, start);
        self.im.store(&mut bin.im, start);
    }

    /// `w·self`.
    #[inline(always)]
    fn times(self, w: Complex32) -> Self {
        let (re, im) = (V::splat(w.re), V::splat(w.im));
        Self { re: self.im.neg_mul_add(im, self.re.mul(re)), im: self.re.mul_add(im, self.im.mul(re)) }
    }

    /// `self + w·y`.
    #[inline(always)]
    pub(in crate::spectral) fn plus(self, w: Complex32, y: Self) -> Self {
        let (re, im) = (V::splat(w.re), V::splat(w.im));
        Self { re: y.im.neg_mul_add(im, y.re.mul_add(re, self.re)), im: y.re.mul_add(im, y.im.mul_add(re, self.im)) }
    }

    /// `s·self` for a real s.
    #[inline(always)]
    pub(in crate::spectral) fn scaled(self, s: f32) -> Self {
        Self { re: self.re.mul(V::splat(s)), im: self.im.mul(V::splat(s)) }
    }

    /// `self + s·d` for a real s.
    #[inline(always)]
    fn along(self, s: f32, d: Self) -> Self {
        Self { re: d.re.mul_add(V::splat(s), self.re), im: d.im.mul_add(V::splat(s), self.im) }
    }

    /// `2·self − sum`: the difference of two numbers, of which this is the first and `sum` the sum.
    #[inline(always)]
    fn rest(self, sum: Self) -> Self {
        let two = V::splat(2.0);
        Self { re: two.mul_sub(self.re, sum.re), im: two.mul_sub(self.im, sum.im) }
    }
}

impl<V: Vector> Add for Lanes<V> {
    type Output = Self;

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self { re: self.re.add(b.re), im: self.im.add(b.im) }
    }
}

impl<V: Vector> Sub for Lanes<V> {
    type Output = Self;

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self { re: self.re.sub(b.re), im: self.im.sub(b.im) }
    }
}

/// `a ± b`, on the multipliers too.
#[inline(always)]
fn shared<V: Vector>(a: Lanes<V>, b: Lanes<V>) -> (Lanes<V>, Lanes<V>) {
    let sum = a + b;
    (sum, a.rest(sum))
}

/// `a ± b`; `M`: on the multipliers too.
#[inline(always)]
fn pair<V: Vector, const M: bool>(a: Lanes<V>, b: Lanes<V>) -> (Lanes<V>, Lanes<V>) {
    if M { shared(a, b) } else { (a + b, a - b) }
}

/// `a ± w·b`.
#[inline(always)]
fn turned_pair<V: Vector, const T: bool>(a: Lanes<V>, w: Complex32, b: Lanes<V>) -> (Lanes<V>, Lanes<V>) {
    if T {
        let sum = a.plus(w, b);
        (sum, a.rest(sum))
    } else {
        shared(a, b)
    }
}

/// `a ∓ i·b`; `M`: on the multipliers too.
#[inline(always)]
fn across<V: Vector, const M: bool>(a: Lanes<V>, b: Lanes<V>) -> (Lanes<V>, Lanes<V>) {
    let first = Lanes { re: a.re.add(b.im), im: a.im.sub(b.re) };
    (first, if M { a.rest(first) } else { Lanes { re: a.re.sub(b.im), im: a.im.add(b.re) } })
}

/// `a ∓ i·s·b` for a real s.
#[inline(always)]
fn across_by<V: Vector>(a: Lanes<V>, s: f32, b: Lanes<V>) -> (Lanes<V>, Lanes<V>) {
    let s = V::splat(s);
    let first = Lanes { re: b.im.mul_add(s, a.re), im: b.re.neg_mul_add(s, a.im) };
    (first, Lanes { re: b.im.neg_mul_add(s, a.re), im: b.re.mul_add(s, a.im) })
}

/// `w·z`, or z where there are no factors.
#[inline(always)]
fn by<V: Vector, const T: bool>(z: Lanes<V>, w: Complex32) -> Lanes<V> {
    if T { z.times(w) } else { z }
}

/// Both elements of a transform of length 2.
#[inline(always)]
pub(in crate::spectral) fn dft2<V: Vector, const T: bool>([a, b]: [Lanes<V>; 2], w: &[Complex32; 1]) -> [Lanes<V>; 2] {
    turned_pair::<V, T>(a, w[0], b).into()
}

/// Length 3.
#[inline(always)]
pub(in crate::spectral) fn dft3<V: Vector, const T: bool>(
    [a, b, c]: [Lanes<V>; 3],
    w: &[Complex32; 2],
) -> [Lanes<V>; 3] {
    three::<V, T>([a, by::<V, T>(b, w[0]), by::<V, T>(c, w[1])])
}

/// `A`: on the adders where there is a choice.
#[inline(always)]
fn three<V: Vector, const A: bool>([a, b, c]: [Lanes<V>; 3]) -> [Lanes<V>; 3] {
    const SIN: f32 = 0.866_025_4;
    let (sum, difference) = (b + c, b - c);
    let middle = a.along(-0.5, sum);
    let (y1, y2) =
        if A { across::<V, false>(middle, difference.scaled(SIN)) } else { across_by(middle, SIN, difference) };
    [a + sum, y1, y2]
}

/// Length 4.
#[inline(always)]
pub(in crate::spectral) fn dft4<V: Vector, const T: bool>(
    [a, b, c, d]: [Lanes<V>; 4],
    w: &[Complex32; 3],
) -> [Lanes<V>; 4] {
    let even = turned_pair::<V, T>(a, w[1], c);
    let (b, d) = (by::<V, T>(b, w[0]), by::<V, T>(d, w[2]));
    if T { four::<V, false>(even, pair::<V, false>(b, d)) } else { four::<V, true>(even, shared(b, d)) }
}

/// Length 4, of the sums and differences of elements two apart.
#[inline(always)]
fn four<V: Vector, const M: bool>(even: (Lanes<V>, Lanes<V>), odd: (Lanes<V>, Lanes<V>)) -> [Lanes<V>; 4] {
    let (y0, y2) = pair::<V, M>(even.0, odd.0);
    let (y1, y3) = across::<V, M>(even.1, odd.1);
    [y0, y1, y2, y3]
}

/// Length 5.
#[inline(always)]
pub(in crate::spectral) fn dft5<V: Vector, const T: bool>(
    [a, b, c, d, e]: [Lanes<V>; 5],
    w: &[Complex32; 4],
) -> [Lanes<V>; 5] {
    const COS: [f32; 2] = [0.309_017, -0.809_017];
    const SIN: [f32; 2] = [0.951_056_5, 0.587_785_25];
    let (b, c) = (by::<V, T>(b, w[0]), by::<V, T>(c, w[1]));
    let (d, e) = (by::<V, T>(d, w[2]), by::<V, T>(e, w[3]));
    let (s1, s2, d1, d2) = (b + e, c + d, b - e, c - d);
    let m1 = a.along(COS[0], s1).along(COS[1], s2);
    let m2 = a.along(COS[1], s1).along(COS[0], s2);
    let (y1, y4) = across::<V, false>(m1, d1.scaled(SIN[0]).along(SIN[1], d2));
    let (y2, y3) = across::<V, false>(m2, d1.scaled(SIN[1]).along(-SIN[0], d2));
    [a + s1 + s2, y1, y2, y3, y4]
}

/// Length 6, by the remainders of 2 and of 3, between which there are no factors (Good and Thomas).
#[inline(always)]
pub(in crate::spectral) fn dft6<V: Vector, const T: bool>(
    [a, b, c, d, e, f]: [Lanes<V>; 6],
    w: &[Complex32; 5],
) -> [Lanes<V>; 6] {
    let (b, c) = (by::<V, T>(b, w[0]), by::<V, T>(c, w[1]));
    let (e, f) = (by::<V, T>(e, w[3]), by::<V, T>(f, w[4]));
    // Elements 3n + 2k.
    let (a0, a1) = turned_pair::<V, T>(a, w[2], d);
    let (b0, b1) = pair::<V, false>(c, f);
    let (c0, c1) = pair::<V, false>(e, b);
    // Bins 3n + 4k.
    let [y0, y4, y2] = three::<V, false>([a0, b0, c0]);
    let [y3, y1, y5] = three::<V, false>([a1, b1, c1]);
    [y0, y1, y2, y3, y4, y5]
}

/// Length 7.
#[inline(always)]
pub(in crate::spectral) fn dft7<V: Vector, const T: bool>(
    [a, b, c, d, e, f, g]: [Lanes<V>; 7],
    w: &[Complex32; 6],
) -> [Lanes<V>; 7] {
    const COS: [f32; 3] = [0.623_489_8, -0.222_520_93, -0.900_968_9];
    const SIN: [f32; 3] = [0.781_831_5, 0.974_927_9, 0.433_883_74];
    let (b, c, d) = (by::<V, T>(b, w[0]), by::<V, T>(c, w[1]), by::<V, T>(d, w[2]));
    let (e, f, g) = (by::<V, T>(e, w[3]), by::<V, T>(f, w[4]), by::<V, T>(g, w[5]));
    let (s1, s2, s3, d1, d2, d3) = (b + g, c + f, d + e, b - g, c - f, d - e);
    let r1 = a.along(COS[0], s1).along(COS[1], s2).along(COS[2], s3);
    let r2 = a.along(COS[1], s1).along(COS[2], s2).along(COS[0], s3);
    let r3 = a.along(COS[2], s1).along(COS[0], s2).along(COS[1], s3);
    let (y1, y6) = across::<V, false>(r1, d1.scaled(SIN[0]).along(SIN[1], d2).along(SIN[2], d3));
    let (y2, y5) = across::<V, false>(r2, d1.scaled(SIN[1]).along(-SIN[2], d2).along(-SIN[0], d3));
    let (y3, y4) = across::<V, false>(r3, d1.scaled(SIN[2]).along(-SIN[0], d2).along(SIN[1], d3));
    [a + s1 + s2 + s3, y1, y2, y3, y4, y5, y6]
}

/// Length 8.
#[inline(always)]
pub(in crate::spectral) fn dft8<V: Vector, const T: bool>(
    [a, b, c, d, e, f, g, h]: [Lanes<V>; 8],
    w: &[Complex32; 7],
) -> [Lanes<V>; 8] {
    use std::f32::consts::FRAC_1_SQRT_2;
    let ae = turned_pair::<V, T>(a, w[3], e);
    let (b, c, d) = (by::<V, T>(b, w[0]), by::<V, T>(c, w[1]), by::<V, T>(d, w[2]));
    let (f, g, h) = (by::<V, T>(f, w[4]), by::<V, T>(g, w[5]), by::<V, T>(h, w[6]));
    let [e0, e1, e2, e3] = quarter::<V, T>(ae, c, g);
    let [o0, o1, o2, o3] = quarter::<V, T>(pair::<V, false>(b, f), d, h);
    let (y0, y4) = pair::<V, false>(e0, o0);
    let (y2, y6) = across::<V, false>(e2, o2);
    // Times 1 − i and 1 + i; what is left of e^{−iπ/4} and e^{−3iπ/4} is a real factor.
    let o1 = Lanes { re: o1.re.add(o1.im), im: o1.im.sub(o1.re) };
    let o3 = Lanes { re: o3.re.sub(o3.im), im: o3.re.add(o3.im) };
    let (y1, y5) = (e1.along(FRAC_1_SQRT_2, o1), e1.along(-FRAC_1_SQRT_2, o1));
    let (y3, y7) = (e3.along(-FRAC_1_SQRT_2, o3), e3.along(FRAC_1_SQRT_2, o3));
    [y0, y1, y2, y3, y4, y5, y6, y7]
}

/// Length 12, by the remainders of 3 and of 4, between which there are no factors (Good and Thomas).
#[inline(always)]
pub(in crate::spectral) fn dft12<V: Vector, const T: bool>(
    [a, b, c, d, e, f, g, h, i, j, k, l]: [Lanes<V>; 12],
    w: &[Complex32; 11],
) -> [Lanes<V>; 12] {
    let ag = turned_pair::<V, T>(a, w[5], g);
    let (b, c, d) = (by::<V, T>(b, w[0]), by::<V, T>(c, w[1]), by::<V, T>(d, w[2]));
    let (e, f, h) = (by::<V, T>(e, w[3]), by::<V, T>(f, w[4]), by::<V, T>(h, w[6]));
    let (i, j, k, l) = (by::<V, T>(i, w[7]), by::<V, T>(j, w[8]), by::<V, T>(k, w[9]), by::<V, T>(l, w[10]));
    // Elements 4n + 3k.
    let [a0, a1, a2, a3] = quarter::<V, T>(ag, d, j);
    let [b0, b1, b2, b3] = quarter::<V, T>(pair::<V, false>(e, k), h, b);
    let [c0, c1, c2, c3] = quarter::<V, T>(pair::<V, false>(i, c), l, f);
    // Bins 4n + 9k.
    let [y0, y4, y8] = three::<V, false>([a0, b0, c0]);
    let [y9, y1, y5] = three::<V, false>([a1, b1, c1]);
    let [y6, y10, y2] = three::<V, false>([a2, b2, c2]);
    let [y3, y7, y11] = three::<V, false>([a3, b3, c3]);
    [y0, y1, y2, y3, y4, y5, y6, y7, y8, y9, y10, y11]
}

/// Length 4 within a longer one.
#[inline(always)]
fn quarter<V: Vector, const T: bool>(even: (Lanes<V>, Lanes<V>), b: Lanes<V>, d: Lanes<V>) -> [Lanes<V>; 4] {
    let odd = pair::<V, false>(b, d);
    if T { four::<V, false>(even, odd) } else { four::<V, true>(even, odd) }
}

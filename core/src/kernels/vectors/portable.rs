//! For CPUs without any of the others.

use super::Vector;

#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 4]);

impl Portable {
    #[inline(always)]
    fn each(of: impl Fn(usize) -> f32) -> Self {
        Self(std::array::from_fn(of))
    }
}

impl Vector for Portable {
    const WIDTH: usize = 4;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 4])
    }
    #[inline(always)]
    fn load(from: &[f32; 16], start: usize) -> Self {
        Self::each(|i| from[start + i])
    }
    #[inline(always)]
    fn store(self, to: &mut [f32; 16], start: usize) {
        to[start..start + 4].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn store_low_halves(self, to: &mut [i16; 16], start: usize) {
        to[start..start + 4].copy_from_slice(&self.0.map(|x| x.to_bits() as i16));
    }
    #[inline(always)]
    fn add(self, b: Self) -> Self {
        Self::each(|i| self.0[i] + b.0[i])
    }
    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        Self::each(|i| self.0[i] - b.0[i])
    }
    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        Self::each(|i| self.0[i] * b.0[i])
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        Self::each(|i| self.0[i] * b.0[i] + c.0[i])
    }
    #[inline(always)]
    fn mul_sub(self, b: Self, c: Self) -> Self {
        Self::each(|i| self.0[i] * b.0[i] - c.0[i])
    }
    #[inline(always)]
    fn neg_mul_add(self, b: Self, c: Self) -> Self {
        Self::each(|i| c.0[i] - self.0[i] * b.0[i])
    }
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        Self::each(|i| if self.0[i] > b.0[i] { self.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        Self::each(|i| if self.0[i] < b.0[i] { self.0[i] } else { b.0[i] })
    }
    #[inline(always)]
    fn power_of_two(self) -> Self {
        Self::each(|i| f32::from_bits(self.0[i].to_bits().wrapping_add(127) << 23))
    }
    #[inline(always)]
    fn total(self) -> f32 {
        let [a, b, c, d] = self.0;
        (a + c) + (b + d)
    }
    #[inline(always)]
    fn largest(self) -> f32 {
        let halves = self.max(Self::each(|i| self.0[(i + 2) % 4]));
        halves.max(Self::each(|i| halves.0[(i + 1) % 4])).0[0]
    }
}

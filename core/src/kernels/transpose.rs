//! Squares of numbers, rows to columns.

/// Side of a [`Tile`].
pub const TILE: usize = 16;

/// A square of f32.
pub type Tile = [[f32; TILE]; TILE];

/// `to[j][i] = from[i][j]`.
#[inline(always)]
pub fn transpose(from: &Tile, to: &mut Tile) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has AVX.
        return unsafe { avx(from, to) };
    }
    for (i, line) in from.iter().enumerate() {
        for (target, &value) in to.iter_mut().zip(line) {
            target[i] = value;
        }
    }
}

/// Four by eight at a time: the halves of a register come from rows four apart, so that no step crosses them.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx")]
fn avx(from: &Tile, to: &mut Tile) {
    use std::arch::x86_64::*;
    for i in (0..TILE).step_by(8) {
        for j in (0..TILE).step_by(4) {
            let load = |row: usize| {
                let (low, high) = (&from[i + row][j..j + 4], &from[i + row + 4][j..j + 4]);
                // SAFETY: both slices have four elements.
                unsafe { _mm256_loadu2_m128(high.as_ptr(), low.as_ptr()) }
            };
            let (a, b, c, d) = (load(0), load(1), load(2), load(3));
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let columns = [
                _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
                _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
            ];
            for (target, column) in to[j..j + 4].iter_mut().zip(columns) {
                // SAFETY: the slice has eight elements.
                unsafe { _mm256_storeu_ps(target[i..i + 8].as_mut_ptr(), column) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_changes_place_with_its_mirror() {
        let from: Tile = std::array::from_fn(|i| std::array::from_fn(|j| (i * TILE + j) as f32));
        let mut to = [[0.0; TILE]; TILE];
        transpose(&from, &mut to);
        for (i, line) in to.iter().enumerate() {
            for (j, &value) in line.iter().enumerate() {
                assert_eq!(value, (j * TILE + i) as f32, "{i} {j}");
            }
        }
    }
}

//! Lines to columns, [`LANES`] lines at a time.
//!
//! Both directions move strips of [`STRIP`] elements and finish a strip of one line before they touch the next: lengths that are
//! powers of two put all lines in the same few places of a cache, and short visits to many lines mislead what fetches ahead.

#[cfg(target_arch = "x86_64")]
mod avx;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

/// Lines that are turned together.
pub const LANES: usize = 16;

/// Elements of a line that are moved together, some cache lines.
const STRIP: usize = 64;

/// Elements between rows of which a first-level cache keeps all lines in one place.
#[cfg(target_arch = "x86_64")]
const ONE_PLACE: usize = 4096 / size_of::<f32>();

/// What a lane without a line holds.
const NOTHING: [f32; STRIP] = [0.0; STRIP];

/// `to[j][i] = line(i)[j]`, for every `j`, of 16 lines; zero where there is no line.
///
/// # Panics
/// If a line is shorter than `to`.
#[inline(always)]
pub fn turn<'a>(line: impl Fn(usize) -> Option<&'a [f32]>, to: &mut [[f32; LANES]]) {
    for (start, to) in (0..).step_by(STRIP).zip(to.chunks_mut(STRIP)) {
        for i in (0..LANES).step_by(8) {
            let mut lines = [&NOTHING[..to.len()]; 8];
            for (k, place) in lines.iter_mut().enumerate() {
                if let Some(line) = line(i + k) {
                    *place = &line[start..start + to.len()];
                }
            }
            for j in turn_fours(&lines, i, to)..to.len() {
                for (place, line) in to[j][i..].iter_mut().zip(lines) {
                    *place = line[j];
                }
            }
        }
    }
}

/// Puts `line(i)[l]` into element i of row l, or adds it to what is there, for every row of `rows` (row-major, `width` elements,
/// at most 16 rows).
///
/// # Panics
/// If `rows` are no whole rows, or there are more.
#[inline(always)]
pub fn put_turned<'a, const ADD: bool>(line: impl Fn(usize) -> &'a [f32; LANES], rows: &mut [f32], width: usize) {
    assert!(
        rows.len().is_multiple_of(width) && rows.len() <= LANES * width,
        "{} values in rows of {width}",
        rows.len()
    );
    for start in (0..width).step_by(STRIP) {
        let end = width.min(start + STRIP);
        let start = put_sixteens::<ADD>(&line, rows, width, start..end);
        for (lane, group) in (0..LANES).step_by(4).zip(rows.chunks_mut(4 * width)) {
            let done = put_eights::<ADD>(&line, lane, group, width, start..end);
            for (lane, row) in (lane..).zip(group.chunks_exact_mut(width)) {
                for (i, y) in (done..end).zip(&mut row[done..end]) {
                    *y = if ADD { *y + line(i)[lane] } else { line(i)[lane] };
                }
            }
        }
    }
}

/// Columns of 8 lines to elements `i..i + 8` of `to`, by fours; returns how many.
#[inline(always)]
fn turn_fours(lines: &[&[f32]; 8], i: usize, to: &mut [[f32; LANES]]) -> usize {
    let columns = to.len() / 4 * 4;
    assert!(i + 8 <= LANES && lines.iter().all(|line| line.len() >= columns), "lines shorter than the columns");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has AVX. The lines have as many elements as there are columns, and 8 lanes from the i-th on are in
        // each, by the assertion above.
        unsafe { avx::turn(lines.map(<[f32]>::as_ptr), columns, to.as_mut_ptr().cast::<f32>().add(i)) };
        return columns;
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: NEON is part of AArch64; the rest as above.
        unsafe { neon::turn(lines.map(<[f32]>::as_ptr), columns, to.as_mut_ptr().cast::<f32>().add(i)) };
        return columns;
    }
    #[allow(unreachable_code)]
    0
}

/// The lines of `span` to the rows, by sixteens, if there is a row for each lane; returns the first line not taken.
#[inline(always)]
fn put_sixteens<'a, const ADD: bool>(
    line: &impl Fn(usize) -> &'a [f32; LANES],
    rows: &mut [f32],
    width: usize,
    span: std::ops::Range<usize>,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    if rows.len() == LANES * width
        && span.end <= width
        && !width.is_multiple_of(ONE_PLACE)
        && is_x86_feature_detected!("avx512f")
    {
        let end = span.start + span.len() / 16 * 16;
        // SAFETY: the CPU has AVX-512F. The lines' numbers are elements of each of the 16 rows, by the test above.
        unsafe { avx512::put::<ADD>(|i| line(i).as_ptr(), span.start..end, rows.as_mut_ptr(), width) };
        return end;
    }
    let _ = (line, rows, width);
    span.start
}

/// Lanes `lane..lane + 4` of the lines from `span`'s first on, by eights, to four rows; returns the first line not taken.
#[inline(always)]
fn put_eights<'a, const ADD: bool>(
    line: &impl Fn(usize) -> &'a [f32; LANES],
    lane: usize,
    rows: &mut [f32],
    width: usize,
    span: std::ops::Range<usize>,
) -> usize {
    let end = span.start + span.len() / 8 * 8;
    if rows.len() != 4 * width || lane + 4 > LANES || end > width {
        return span.start;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        // SAFETY: the CPU has AVX. Four lanes from this one on are in each line, and the lines' numbers are elements of each of
        // the four rows, by the test above.
        unsafe { avx::put::<ADD>(|i| line(i).as_ptr().add(lane), span.start..end, rows.as_mut_ptr(), width) };
        return end;
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: NEON is part of AArch64; the rest as above.
        unsafe { neon::put::<ADD>(|i| line(i).as_ptr().add(lane), span.start..end, rows.as_mut_ptr(), width) };
        return end;
    }
    #[allow(unreachable_code)]
    {
        let _ = line;
        span.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(i: usize, j: usize) -> f32 {
        (i * 1000 + j) as f32
    }

    #[test]
    fn every_number_changes_place_with_its_mirror() {
        for count in [0, 1, 3, 4, 15, 64, 67, 144] {
            let lines: Vec<Vec<f32>> = (0..LANES).map(|i| (0..count).map(|j| number(i, j)).collect()).collect();
            let mut to = vec![[-1.0; LANES]; count];
            for there in [1, 5, 8, LANES] {
                turn(|i| lines[..there].get(i).map(|line| &line[..]), &mut to);
                for (j, column) in to.iter().enumerate() {
                    let expected = std::array::from_fn(|i| if i < there { number(i, j) } else { 0.0 });
                    assert_eq!(*column, expected, "{j} of {count}, {there} lines");
                }
            }
        }
    }

    #[test]
    fn columns_go_to_as_many_rows_as_there_are() {
        for width in [1, 7, 8, 20, 64, 75, 136] {
            // In another order than they lie.
            let lines: Vec<[f32; LANES]> = (0..width).map(|i| std::array::from_fn(|l| number(l, i))).collect();
            let place = |i: usize| (i * 3 + 1) % width;
            for count in [0, 1, 3, 4, 6, 16] {
                let (mut rows, mut sums) = (vec![f32::NAN; count * width], vec![0.5; count * width]);
                put_turned::<false>(|i| &lines[place(i)], &mut rows, width);
                put_turned::<true>(|i| &lines[place(i)], &mut sums, width);
                for (at, (&value, &sum)) in rows.iter().zip(&sums).enumerate() {
                    let (l, i) = (at / width, at % width);
                    let expected = number(l, place(i));
                    assert_eq!((value, sum), (expected, 0.5 + expected), "{l}, {i} of {count} rows of {width}");
                }
            }
        }
    }
}

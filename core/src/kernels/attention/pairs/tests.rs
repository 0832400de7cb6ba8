use super::super::{Running, fold_tile, store_key, store_value};
use super::*;

/// Of a score in units of the product of both lengths, and of a mixture in units of its largest value.
const SCORE_ERROR: f64 = 1.5e-4;
const MIX_ERROR: f64 = 6e-5;

const RECORDS: usize = 4;

/// Every set this CPU has.
fn sets() -> impl Iterator<Item = PairSet> {
    std::iter::once(PairSet::Portable).chain(Tier::ALL.into_iter().filter_map(PairSet::of))
}

/// From −1 to 1.
fn value(i: usize) -> f32 {
    (i as u32).wrapping_mul(2_654_435_761) as f32 / 2f32.powi(31) - 1.0
}

/// Keys or values of one head of two, of every position of a tile.
struct Plane {
    words: Vec<f32>,
    format: CacheFormat,
    dim: usize,
}

impl Plane {
    fn new(
        (format, dim): (CacheFormat, usize),
        store: fn(&mut [f32], CacheFormat, usize, usize, &[f32]),
        of: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let record = format.record_words(dim);
        let mut words = vec![f32::NAN; 2 * record * RECORDS];
        for t in 0..TILE {
            let x: Vec<f32> = (0..dim).map(|d| of(t, d)).collect();
            store(&mut words[t / BLOCK * 2 * record..][..record], format, dim, t % BLOCK, &x);
        }
        words.truncate((2 * RECORDS - 1) * record);
        Self { words, format, dim }
    }

    fn stride(&self) -> usize {
        2 * self.format.record_words(self.dim)
    }

    fn keys(&self) -> Keys<'_> {
        Keys::new(&self.words, self.format, self.dim, self.stride())
    }

    fn values(&self) -> Values<'_> {
        Values::new(&self.words, self.format, self.dim, self.stride())
    }
}

/// Both planes of numbers that every format holds exactly: multiples of 1/64, the largest of each 32 being 127/64; every third position is
/// a 64th of that.
fn planes(format: CacheFormat, dim: usize) -> (Plane, Plane, impl Fn(usize, usize) -> f64) {
    let of = move |t: usize, d: usize| {
        let x = if d % 32 == t % 32 { 127.0 } else { (value(t * dim + d) * 127.0).round() };
        x / if t.is_multiple_of(3) { 4096.0 } else { 64.0 }
    };
    let (keys, values) = (Plane::new((format, dim), store_key, of), Plane::new((format, dim), store_value, of));
    (keys, values, move |t, d| f64::from(of(t, d)))
}

fn length(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Scores of queries with the blocks of a tile.
fn scores_of(tile: &PairTile, q: &[f32], dim: usize, blocks: Range<usize>) -> Vec<f32> {
    let rows = q.len() / dim;
    let (mut integers, mut steps) = (vec![0; q.len() / 2], vec![0.0; rows * dim.div_ceil(DEPTH)]);
    PairTile::queries(q, dim, &mut integers, &mut steps);
    let queries = PairQueries { integers: &integers, steps: &steps };
    let mut out = vec![f32::NAN; rows * TILE];
    tile.scores(dim, queries.rows(dim, 0..rows), blocks, &mut out);
    out
}

/// Weights of scores, and the mixture with them of what was mixed.
fn mix_of(tile: &PairTile, dim: usize, scores: &mut [f32], visible: &[Range<usize>], out: &mut [f32]) {
    let rows = visible.len();
    let (mut weights, mut keep) = (PairWeights::default(), vec![0.0; rows]);
    let mut running = vec![Running::EMPTY; rows];
    fold_tile(scores, visible, &mut running, &mut keep, Some(tile.rounded(&mut weights)));
    // What was mixed before had no weight; here it is to stay.
    let keep = vec![0.5; rows];
    tile.mix(dim, &weights, visible[0].start..visible[rows - 1].end, &keep, out);
}

#[test]
fn products_match_plain_sums() {
    for format in [CacheFormat::F16, CacheFormat::Q8] {
        for dim in
            [16usize, 32, 64, 80, 96, 256].into_iter().filter(|dim| format != CacheFormat::Q8 || dim.is_multiple_of(32))
        {
            let (keys, values, of) = planes(format, dim);
            for (set, positions) in sets().flat_map(|set| [(set, 0..TILE), (set, 5..33), (set, 31..50)]) {
                let mut tile = PairTile::with(set, 256);
                tile.load(&keys.keys(), &values.values(), positions.clone());
                for rows in 1..=MAX_ROWS {
                    let q: Vec<f32> = (0..rows * dim).map(|i| value(i + 77) * [1e-3, 1.0, 30.0][i / dim % 3]).collect();
                    let scores = scores_of(&tile, &q, dim, positions.start / BLOCK..positions.end.div_ceil(BLOCK));
                    for (q, scores) in q.chunks_exact(dim).zip(scores.chunks_exact(TILE)) {
                        for t in positions.clone() {
                            let want: f64 = q.iter().enumerate().map(|(d, q)| f64::from(*q) * of(t, d)).sum();
                            let most = length(q.iter().map(|q| f64::from(*q))) * length((0..dim).map(|d| of(t, d)));
                            let error = (f64::from(scores[t]) - want).abs() / most;
                            assert!(error < SCORE_ERROR, "{set:?} {format:?} {dim} {rows} {t}: {error:e}");
                        }
                    }
                    let visible: Vec<Range<usize>> =
                        (0..rows).map(|m| positions.start..positions.end - (rows - 1 - m)).collect();
                    let mut weights: Vec<f32> = (0..rows * TILE).map(|i| value(i + 5) * 4.0).collect();
                    let mut out = vec![1.0; rows * dim];
                    mix_of(&tile, dim, &mut weights, &visible, &mut out);
                    for (m, visible) in visible.into_iter().enumerate() {
                        for d in 0..dim {
                            let mixed = |t: usize| f64::from(weights[m * TILE + t]) * of(t, d);
                            let want = 0.5 + visible.clone().map(mixed).sum::<f64>();
                            let sum: f64 = visible.clone().map(|t| f64::from(weights[m * TILE + t])).sum();
                            let error = (f64::from(out[m * dim + d]) - want).abs() / (sum * 127.0 / 64.0);
                            assert!(error < MIX_ERROR, "{set:?} {format:?} {dim} {rows} {m} {d}: {error:e}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn every_set_gives_the_same_integers() {
    let (keys, values, _) = planes(CacheFormat::F16, 96);
    let loaded = |set| {
        let mut tile = PairTile::with(set, 96);
        tile.load(&keys.keys(), &values.values(), 3..60);
        tile
    };
    let expected = loaded(PairSet::Portable);
    for tile in sets().map(loaded) {
        assert!(tile.keys[..] == expected.keys[..] && tile.values[..] == expected.values[..], "{:?}", tile.set);
    }
}

#[test]
fn the_largest_numbers_stay_within_32_bits() {
    for dim in [64, 256] {
        let largest = |_, _| 65504.0;
        let format = (CacheFormat::F16, dim);
        let (keys, values) = (Plane::new(format, store_key, largest), Plane::new(format, store_value, largest));
        for set in sets() {
            let mut tile = PairTile::with(set, dim);
            tile.load(&keys.keys(), &values.values(), 0..TILE);
            // All alike, and one alone.
            let alone = (0..dim).map(|d| f32::from(u8::from(d == 7)));
            let q: Vec<f32> = std::iter::repeat_n(1.0, dim).chain(alone).chain(vec![-3.0; dim]).collect();
            let scores = scores_of(&tile, &q, dim, 0..RECORDS);
            for (scores, sum) in scores.chunks_exact(TILE).zip([dim as f32, 1.0, -3.0 * dim as f32]) {
                assert!(scores.iter().all(|x| (x / (sum * 65504.0) - 1.0).abs() < 1e-4), "{set:?} {dim}: {scores:?}");
            }
            let mut scores = vec![0.0; 2 * TILE];
            scores[TILE + 9] = 50.0;
            let mut out = vec![0.0; 2 * dim];
            mix_of(&tile, dim, &mut scores, &[0..TILE, 0..TILE], &mut out);
            for (out, sum) in out.chunks_exact(dim).zip([TILE as f32, 1.0]) {
                assert!(out.iter().all(|x| (x / (sum * 65504.0) - 1.0).abs() < 1e-4), "{set:?} {dim}: {out:?}");
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_where_it_is() {
    const DIM: usize = 64;
    for hole in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let of = |t: usize, d: usize| if (t, d) == (20, 33) { hole } else { value(t * DIM + d) };
        let format = (CacheFormat::F16, DIM);
        let (keys, values) = (Plane::new(format, store_key, of), Plane::new(format, store_value, of));
        for set in sets() {
            let mut tile = PairTile::with(set, DIM);
            tile.load(&keys.keys(), &values.values(), 0..TILE);
            let scores = scores_of(&tile, &[0.25; DIM], DIM, 0..RECORDS);
            assert!((0..TILE).all(|t| scores[t].is_nan() == (t == 20)), "{set:?} {hole}: {scores:?}");
            let mut out = vec![0.0; 2 * DIM];
            mix_of(&tile, DIM, &mut [0.0; 2 * TILE], &[0..20, 0..21], &mut out);
            let (before, after) = out.split_at(DIM);
            assert!(
                before.iter().all(|x| x.is_finite()) && after.iter().all(|x| x.is_nan()),
                "{set:?} {hole}: {out:?}"
            );
        }
        let mut queries = [0.5; DIM];
        queries[40] = hole;
        let (mut integers, mut steps) = ([0; DIM / 2], [0.0]);
        PairTile::queries(&queries, DIM, &mut integers, &mut steps);
        assert!(!steps[0].is_finite());
    }
}

#[test]
fn nothing_is_nothing() {
    let (mut integers, mut steps) = ([7; 16], [7.0]);
    PairTile::queries(&[0.0; 32], 32, &mut integers, &mut steps);
    assert!(integers == [0; 16] && steps[0] >= 0.0);
    let format = (CacheFormat::F16, 32);
    let (keys, values) = (Plane::new(format, store_key, |_, _| 0.0), Plane::new(format, store_value, |_, _| 0.0));
    for set in sets() {
        let mut tile = PairTile::with(set, 32);
        tile.load(&keys.keys(), &values.values(), 0..TILE);
        assert!(scores_of(&tile, &[1.0; 32], 32, 0..RECORDS).iter().all(|x| *x == 0.0));
        let mut out = vec![0.0; 32];
        mix_of(&tile, 32, &mut [0.0; TILE], std::slice::from_ref(&(0..TILE)), &mut out);
        assert!(out.iter().all(|x| *x == 0.0), "{set:?}: {out:?}");
        // A row that sees nothing keeps what it had.
        let mut out = vec![2.0; 64];
        mix_of(&tile, 32, &mut [0.0; 2 * TILE], &[9..9, 9..12], &mut out);
        assert!(out.iter().all(|x| *x == 1.0), "{set:?}: {out:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let (keys, values, _) = planes(CacheFormat::F16, 32);
    let refused = |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
    let load = |dim: usize, positions: Range<usize>| {
        PairTile::with(PairSet::Portable, dim).load(&keys.keys(), &values.values(), positions);
    };
    assert!(!refused(&|| load(32, 0..TILE)));
    assert!(refused(&|| load(16, 0..TILE)) && refused(&|| load(32, 0..TILE + 1)));
    assert!(!PairTile::takes(CacheFormat::F32, 64) && !PairTile::takes(CacheFormat::F16, 24));
    let mut tile = PairTile::with(PairSet::Portable, 32);
    tile.load(&keys.keys(), &values.values(), 0..TILE);
    let queries = PairQueries { integers: &[0; 16], steps: &[1.0] };
    assert!(!refused(&|| tile.scores(32, queries, 0..4, &mut [0.0; TILE])));
    assert!(refused(&|| tile.scores(32, queries, 0..5, &mut [0.0; TILE])));
    assert!(refused(&|| tile.scores(32, queries, 0..4, &mut [0.0; 2 * TILE])));
    assert!(refused(&|| tile.scores(64, queries, 0..4, &mut [0.0; TILE])));
    let weights = PairWeights::default();
    assert!(!refused(&|| tile.mix(32, &weights, 0..TILE, &[1.0], &mut [0.0; 32])));
    assert!(refused(&|| tile.mix(32, &weights, 0..TILE + 1, &[1.0], &mut [0.0; 32])));
    assert!(refused(&|| tile.mix(32, &weights, 0..TILE, &[1.0], &mut [0.0; 31])));
    assert!(refused(&|| tile.mix(64, &weights, 0..TILE, &[1.0], &mut [0.0; 64])));
}

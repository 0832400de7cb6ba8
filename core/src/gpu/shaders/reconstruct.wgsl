// Dense weight changes from sparse spectra. Compiled behind fft.wgsl. Mirrors spectral::reconstruct (rows).
//
//   W[p, q] = sum over entries (j, k) of 2 c Re(e^{2 pi i (pj/ACROSS + qk/LEN)})        ACROSS = d1, LEN = d2
//
// One workgroup makes the elements q = a + PARTS b and a + 1 + PARTS b of row p, b < N, of one layer: the entries, at the phase
// they have in this row and part, are added into N bins, and one complex transform of N numbers gives both kinds of element at
// once, as its real and its imaginary part. W[-p, -q] = W[p, q], so a row gives its mirror too where the layout allows it.
// Nothing is kept between rows: the only traffic that grows with d1 d2 is the output, written once.
//
// group 0, binding 0   tables: N roots, LEN roots, ACROSS roots
//          binding 1   N + 1 offsets into the terms of each bin
//          binding 2   terms: the entry's number (bit 31: the mirror image's half of it), k, j, nothing
//          binding 3   coefficients [layers, entries], times what multiplies all of them, halved
//          binding 4   output [layers, d1, d2]: f32, or f16 two to a word
// group 1, binding 0   see fft.wgsl
// workgroups           rows, pairs of parts, layers

override ACROSS: u32 = 8u;
// Whether row p makes row ACROSS - p too.
override MIRROR: bool = false;

@group(0) @binding(1) var<storage, read> bins: array<u32>;
@group(0) @binding(2) var<storage, read> terms: array<vec4u>;
@group(0) @binding(3) var<storage, read> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read_write> singles: array<f32>;
@group(0) @binding(4) var<storage, read_write> pairs: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> halves: array<u32>;

const IMAGE: u32 = 0x80000000u;

// Coefficient of a term in row p.
fn at_row(term: vec4u, p: u32, layer: u32) -> vec2f {
    let c = coefficients[params.coefficients + layer * params.entries + (term.x & ~IMAGE)];
    return c * tables[N + LEN + times_mod(p, term.z, ACROSS)];
}

// The transform of row p's parts a and a + 1; where it begins.
fn row(thread: u32, p: u32, a: u32, layer: u32) -> u32 {
    let both = a + 1u < PARTS;
    for (var bin = thread; bin < N; bin += THREADS) {
        var sum = vec2f();
        for (var t = bins[bin]; t < bins[bin + 1u]; t++) {
            let term = terms[t];
            var first = times(at_row(term, p, layer), long_root(term.y, a));
            var second = select(vec2f(), times(first, tables[N + term.y]), both);
            if ((term.x & IMAGE) != 0u) {
                first = conjugate(first);
                second = conjugate(second);
            }
            sum += first + times_i(second);
        }
        work[bin] = sum;
    }
    return transform(thread);
}

fn mirrored(p: u32) -> bool {
    return MIRROR && p != 0u && 2u * p != ACROSS;
}

fn row_start(p: u32, layer: u32) -> u32 {
    return (layer * params.rows + p - params.origin) * LEN;
}

// f32, any LEN.
@compute @workgroup_size(THREADS)
fn write_single(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let p = params.first + group.x;
    let a = 2u * group.y;
    let from_row = row(thread, p, a, group.z);
    let own = row_start(p, group.z);
    for (var b = thread; b < N; b += THREADS) {
        let q = a + PARTS * b;
        let value = work[from_row + b];
        singles[own + q] = value.x;
        if (a + 1u < PARTS) {
            singles[own + q + 1u] = value.y;
        }
        if (mirrored(p)) {
            let other = row_start(ACROSS - p, group.z);
            singles[other + (LEN - q) % LEN] = value.x;
            if (a + 1u < PARTS) {
                singles[other + LEN - q - 1u] = value.y;
            }
        }
    }
}

// The pair that begins at element 2 b of the mirror's row. Only for two parts, where all of the row is at hand.
fn image(from_row: u32, b: u32) -> vec2f {
    return vec2f(work[from_row + (N - b) % N].x, work[from_row + N - 1u - b].y);
}

// f32, even LEN.
@compute @workgroup_size(THREADS)
fn write_pair(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let p = params.first + group.x;
    let from_row = row(thread, p, 2u * group.y, group.z);
    let own = row_start(p, group.z) / 2u + group.y;
    let other = row_start(ACROSS - p, group.z) / 2u;
    for (var b = thread; b < N; b += THREADS) {
        pairs[own + PARTS / 2u * b] = work[from_row + b];
        if (mirrored(p)) {
            pairs[other + b] = image(from_row, b);
        }
    }
}

// f16, even LEN.
@compute @workgroup_size(THREADS)
fn write_half(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let p = params.first + group.x;
    let from_row = row(thread, p, 2u * group.y, group.z);
    let own = row_start(p, group.z) / 2u + group.y;
    let other = row_start(ACROSS - p, group.z) / 2u;
    for (var b = thread; b < N; b += THREADS) {
        halves[own + PARTS / 2u * b] = pack2x16float(work[from_row + b]);
        if (mirrored(p)) {
            halves[other + b] = pack2x16float(image(from_row, b));
        }
    }
}

// f32, by the sum itself, for a LEN that neither fits into workgroup memory nor has a divisor that does: a workgroup makes THREADS
// elements of a row, and the terms are the entries. Workgroups are rows, parts of a row, layers.
@compute @workgroup_size(THREADS)
fn direct(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let p = params.first + group.x;
    let q = group.y * THREADS + thread;
    if (q >= LEN) {
        return;
    }
    var sum = 0.0;
    for (var t = 0u; t < params.entries; t++) {
        let term = terms[t];
        sum += times(at_row(term, p, group.z), long_root(term.y, q)).x;
    }
    singles[row_start(p, group.z) + q] = 2.0 * sum;
}

// A change added to a linear's output. Compiled behind fft.wgsl. Mirrors spectral::transform::apply and RealFft::twice_real.
//
//   y[r, order[p]] += sum over entries (j, k) of 2 c Re(X[r, k] e^{2 pi i pj/LEN})        LEN = d1
//
// One workgroup makes the outputs p = a + PARTS b and a + 1 + PARTS b of row r; see reconstruct.wgsl, of which this is the
// transposed case: there the factor beside the coefficient is a root of unity, here it is a bin of the input's spectrum.
//
// group 0, binding 0   tables: N roots, LEN roots
//          binding 1   N + 1 offsets into the terms of each bin
//          binding 2   terms: the entry's number (bit 31: the mirror image's half of it), j, the bin of k (bit 31: its conjugate)
//          binding 3   coefficients, times what multiplies all of them, halved
//          binding 4   X [rows, BINS]
//          binding 5   order: where row p of the change goes
//          binding 6   y [rows, LEN]
// group 1, binding 0   see fft.wgsl; first: the first row
// workgroups           rows, pairs of parts

// Bins of the input's half spectrum.
override BINS: u32 = 5u;

@group(0) @binding(1) var<storage, read> bins: array<u32>;
@group(0) @binding(2) var<storage, read> terms: array<vec4u>;
@group(0) @binding(3) var<storage, read> coefficients: array<f32>;
@group(0) @binding(4) var<storage, read> spectra: array<vec2f>;
@group(0) @binding(5) var<storage, read> order: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<f32>;

const MARK: u32 = 0x80000000u;

fn at_row(term: vec4u, r: u32) -> vec2f {
    let c = coefficients[params.coefficients + (term.x & ~MARK)];
    let bin = spectra[r * BINS + (term.z & ~MARK)];
    return c * select(bin, conjugate(bin), (term.z & MARK) != 0u);
}

@compute @workgroup_size(THREADS)
fn add(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let r = params.first + group.x;
    let a = 2u * group.y;
    let both = a + 1u < PARTS;
    for (var bin = thread; bin < N; bin += THREADS) {
        var sum = vec2f();
        for (var t = bins[bin]; t < bins[bin + 1u]; t++) {
            let term = terms[t];
            var first = times(at_row(term, r), long_root(term.y, a));
            var second = select(vec2f(), times(first, tables[N + term.y]), both);
            if ((term.x & MARK) != 0u) {
                first = conjugate(first);
                second = conjugate(second);
            }
            sum += first + times_i(second);
        }
        work[bin] = sum;
    }
    let from_row = transform(thread);
    for (var b = thread; b < N; b += THREADS) {
        let p = a + PARTS * b;
        let value = work[from_row + b];
        y[r * LEN + order[p]] += value.x;
        if (both) {
            y[r * LEN + order[p + 1u]] += value.y;
        }
    }
}

// By the sum itself; workgroups are rows, THREADS outputs, and the terms are the entries.
@compute @workgroup_size(THREADS)
fn add_sums(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let r = params.first + group.x;
    let p = group.y * THREADS + thread;
    if (p >= LEN) {
        return;
    }
    var sum = 0.0;
    for (var t = 0u; t < params.entries; t++) {
        let term = terms[t];
        sum += times(at_row(term, r), long_root(term.y, p)).x;
    }
    y[r * LEN + order[p]] += 2.0 * sum;
}

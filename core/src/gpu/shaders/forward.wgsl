// Half spectra of rows. Compiled behind fft.wgsl. Mirrors spectral::RealFft::spectrum, with the other sign in the exponent.
//
//   X[r, k] = sum over q of x[r, q] e^{+2 pi i qk/LEN},   k <= LEN/2
//
// group 0, binding 0   tables: N roots, LEN roots
//          binding 1   x [rows, LEN]
//          binding 2   X [rows, LEN/2 + 1]
// group 1, binding 0   see fft.wgsl; first: the first row
// workgroups           rows, parts

@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> spectra: array<vec2f>;

// Even LEN = 2 N: neighbours are real and imaginary part of one number; what the two halves' spectra are is told apart at the end.
@compute @workgroup_size(THREADS)
fn packed(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let r = params.first + group.x;
    for (var i = thread; i < N; i += THREADS) {
        work[i] = vec2f(x[r * LEN + 2u * i], x[r * LEN + 2u * i + 1u]);
    }
    let from_row = transform(thread);
    let target_row = r * (N + 1u);
    for (var k = thread; k <= N; k += THREADS) {
        let z = work[from_row + k % N];
        let mirror = conjugate(work[from_row + (N - k) % N]);
        let even = 0.5 * (z + mirror);
        let odd = -0.5 * times_i(z - mirror);
        spectra[target_row + k] = even + times(odd, tables[N + k]);
    }
}

// Any LEN = PARTS N: part a has the bins k = a + PARTS m, as one transform of the row folded PARTS times.
@compute @workgroup_size(THREADS)
fn part(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let r = params.first + group.x;
    let a = group.y;
    for (var b = thread; b < N; b += THREADS) {
        var sum = vec2f();
        for (var q = b; q < LEN; q += N) {
            sum += x[r * LEN + q] * long_root(a, q);
        }
        work[b] = sum;
    }
    let from_row = transform(thread);
    let target_row = r * (LEN / 2u + 1u);
    // These parts hold the mirror of each of their bins themselves.
    let own_mirror = a == 0u || 2u * a == PARTS;
    for (var m = thread; m < N; m += THREADS) {
        let k = a + PARTS * m;
        let value = work[from_row + m];
        if (k <= LEN / 2u) {
            spectra[target_row + k] = value;
        } else if (!own_mirror) {
            spectra[target_row + LEN - k] = conjugate(value);
        }
    }
}

// By the sum itself; workgroups are rows, THREADS bins.
@compute @workgroup_size(THREADS)
fn sums(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let r = params.first + group.x;
    let k = group.y * THREADS + thread;
    if (k > LEN / 2u) {
        return;
    }
    var sum = vec2f();
    for (var q = 0u; q < LEN; q++) {
        sum += x[r * LEN + q] * long_root(k, q);
    }
    spectra[r * (LEN / 2u + 1u) + k] = sum;
}

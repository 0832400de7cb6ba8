// A complex transform in workgroup memory, of any length that fits there twice; other files are compiled behind this one.
//
//   Z[k] = sum over i < N of z[i] e^{+2 pi i ik/N}
//
// Stockham passes of radix 2, 3, 4, 5 and 8, and a direct sum over the terms of any other factor, so that every length works and
// those without large prime factors are fast. Mirrors rustfft's inverse transform (spectral::fft).
//
// group 0, binding 0   tables: N roots of unity e^{2 pi i t/N}, then LEN roots e^{2 pi i t/LEN}, then what the file behind adds
// group 1, binding 0   the factors of N, and numbers of the file behind

// Numbers in a transform.
override N: u32 = 8u;
override DOUBLE: u32 = 16u;
// Threads of a workgroup.
override THREADS: u32 = 64u;
// Length of the axis whose transform is split into PARTS = LEN / N transforms.
override LEN: u32 = 8u;
override PARTS: u32 = 1u;

struct Params {
    radices: array<vec4u, 4>,
    stages: u32,
    // Row of the first workgroup.
    first: u32,
    // Where the coefficients begin.
    coefficients: u32,
    // Coefficients of a layer, or entries of a direct sum.
    entries: u32,
    // Where the output begins, in rows.
    origin: u32,
    // Rows in all.
    rows: u32,
}

@group(0) @binding(0) var<storage, read> tables: array<vec2f>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> work: array<vec2f, DOUBLE>;

fn times(a: vec2f, b: vec2f) -> vec2f {
    return vec2f(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x);
}

fn times_i(a: vec2f) -> vec2f {
    return vec2f(-a.y, a.x);
}

fn conjugate(a: vec2f) -> vec2f {
    return vec2f(a.x, -a.y);
}

// a b mod m, for m up to 2^22.
fn times_mod(a: u32, b: u32, m: u32) -> u32 {
    if (m <= 65536u) {
        return (a * b) % m;
    }
    var r = a * (b >> 16u) % m;
    r = (r * 256u + a * ((b >> 8u) & 255u)) % m;
    return (r * 256u + a * (b & 255u)) % m;
}

// e^{2 pi i f q/LEN}
fn long_root(f: u32, q: u32) -> vec2f {
    return tables[N + times_mod(f, q, LEN)];
}

struct Four {
    a: vec2f,
    b: vec2f,
    c: vec2f,
    d: vec2f,
}

fn four(a: vec2f, b: vec2f, c: vec2f, d: vec2f) -> Four {
    let ac = a + c;
    let bd = b + d;
    let a_c = a - c;
    let b_d = times_i(b - d);
    return Four(ac + bd, a_c + b_d, ac - bd, a_c - b_d);
}

// The number of butterfly j, input t, times its twiddle factor.
fn input(src: u32, j: u32, k: u32, t: u32, stride: u32, step: u32) -> vec2f {
    return times(work[src + j + t * stride], tables[k * t * step]);
}

fn stage(thread: u32, radix: u32, done: u32, src: u32) {
    let dst = N - src;
    let stride = N / radix;
    let step = N / (done * radix);
    switch radix {
        case 2u: {
            for (var j = thread; j < stride; j += THREADS) {
                let k = j % done;
                let o = dst + (j - k) * 2u + k;
                let a = work[src + j];
                let b = input(src, j, k, 1u, stride, step);
                work[o] = a + b;
                work[o + done] = a - b;
            }
        }
        case 3u: {
            for (var j = thread; j < stride; j += THREADS) {
                let k = j % done;
                let o = dst + (j - k) * 3u + k;
                let a = work[src + j];
                let b = input(src, j, k, 1u, stride, step);
                let c = input(src, j, k, 2u, stride, step);
                let m = a - 0.5 * (b + c);
                let s = 0.8660254037844386 * times_i(b - c);
                work[o] = a + b + c;
                work[o + done] = m + s;
                work[o + 2u * done] = m - s;
            }
        }
        case 4u: {
            for (var j = thread; j < stride; j += THREADS) {
                let k = j % done;
                let o = dst + (j - k) * 4u + k;
                let v = four(
                    work[src + j],
                    input(src, j, k, 1u, stride, step),
                    input(src, j, k, 2u, stride, step),
                    input(src, j, k, 3u, stride, step),
                );
                work[o] = v.a;
                work[o + done] = v.b;
                work[o + 2u * done] = v.c;
                work[o + 3u * done] = v.d;
            }
        }
        case 5u: {
            // Cosines and sines of 72 and 144 degrees.
            for (var j = thread; j < stride; j += THREADS) {
                let k = j % done;
                let o = dst + (j - k) * 5u + k;
                let a = work[src + j];
                let b = input(src, j, k, 1u, stride, step);
                let c = input(src, j, k, 2u, stride, step);
                let d = input(src, j, k, 3u, stride, step);
                let e = input(src, j, k, 4u, stride, step);
                let be = b + e;
                let cd = c + d;
                let b_e = times_i(b - e);
                let c_d = times_i(c - d);
                let m = a + 0.30901699437494745 * be - 0.8090169943749475 * cd;
                let s = 0.9510565162951535 * b_e + 0.5877852522924731 * c_d;
                let p = a - 0.8090169943749475 * be + 0.30901699437494745 * cd;
                let u = 0.5877852522924731 * b_e - 0.9510565162951535 * c_d;
                work[o] = a + be + cd;
                work[o + done] = m + s;
                work[o + 2u * done] = p + u;
                work[o + 3u * done] = p - u;
                work[o + 4u * done] = m - s;
            }
        }
        case 8u: {
            for (var j = thread; j < stride; j += THREADS) {
                let k = j % done;
                let o = dst + (j - k) * 8u + k;
                let even = four(
                    work[src + j],
                    input(src, j, k, 2u, stride, step),
                    input(src, j, k, 4u, stride, step),
                    input(src, j, k, 6u, stride, step),
                );
                let odd = four(
                    input(src, j, k, 1u, stride, step),
                    input(src, j, k, 3u, stride, step),
                    input(src, j, k, 5u, stride, step),
                    input(src, j, k, 7u, stride, step),
                );
                let b = 0.7071067811865476 * (odd.b + times_i(odd.b));
                let c = times_i(odd.c);
                let d = 0.7071067811865476 * (times_i(odd.d) - odd.d);
                work[o] = even.a + odd.a;
                work[o + done] = even.b + b;
                work[o + 2u * done] = even.c + c;
                work[o + 3u * done] = even.d + d;
                work[o + 4u * done] = even.a - odd.a;
                work[o + 5u * done] = even.b - b;
                work[o + 6u * done] = even.c - c;
                work[o + 7u * done] = even.d - d;
            }
        }
        default: {
            for (var o = thread; o < N; o += THREADS) {
                let k = o % done;
                let block = o / (done * radix);
                let j = block * done + k;
                // The root's exponent grows by this from term to term.
                let turn = (k * step + ((o / done) % radix) * stride) % N;
                var exponent = 0u;
                var sum = vec2f();
                for (var t = 0u; t < radix; t++) {
                    sum += times(work[src + j + t * stride], tables[exponent]);
                    exponent = (exponent + turn) % N;
                }
                work[dst + o] = sum;
            }
        }
    }
}

// Transforms what is in work[0 .. N]; the result begins at the index that is returned. A barrier stands before and after.
fn transform(thread: u32) -> u32 {
    var src = 0u;
    var done = 1u;
    for (var s = 0u; s < params.stages; s++) {
        workgroupBarrier();
        let radix = params.radices[s / 4u][s % 4u];
        stage(thread, radix, done, src);
        src = N - src;
        done *= radix;
    }
    workgroupBarrier();
    return src;
}

// What a block begins with, one row a workgroup: x += norm(out) of the block before, or x += out where the architecture has
// no norm there, then normed = norm(x), which the block reads. Compiled behind threads.wgsl or subgroups.wgsl.
//
//   advance   workgroups: rows (1, rows)
//
// x and out are rows × cols and taken from row `base` on, normed is rows × cols from row 0 on.
// Mirrors Residual::add, kernels::vector::rms_norm.
//
// group 0, binding 0   vectors, weights of norms among them
//          binding 1   x
//          binding 2   out
//          binding 3   normed
// group 1, binding 0   Norm

// Whether there is a block before, and whether its output is normed.
override OUT: bool = true;
override POST: bool = true;

const THREADS: u32 = 256u;
alias Sum = f32;

struct Norm {
    cols: u32,
    // Where in `vectors`, in fours, the weights of the two norms begin.
    post: u32,
    weight: u32,
    base: u32,
    post_eps: f32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read> vectors: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> out: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> normed: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> norm: Norm;

// 1 / √(mean + eps), the mean of what the threads hold.
fn inverse_root(threads: Threads, own: f32, eps: f32) -> f32 {
    let mean = sum_for_all(threads, own) / f32(norm.cols);
    return 1.0 / sqrt(mean + eps);
}

@compute @workgroup_size(256)
fn advance(threads: Threads, @builtin(workgroup_id) group: vec3<u32>) {
    let thread = number(threads);
    let quads = norm.cols / 4u;
    let at = (norm.base + group.y) * quads;
    var factor = 1.0;
    if (OUT && POST) {
        var sum = 0.0;
        for (var i = thread; i < quads; i += THREADS) {
            let value = out[at + i];
            sum += dot(value, value);
        }
        factor = inverse_root(threads, sum, norm.post_eps);
    }
    var sum = 0.0;
    for (var i = thread; i < quads; i += THREADS) {
        var value = x[at + i];
        if (OUT) {
            if (POST) {
                value += out[at + i] * factor * vectors[norm.post + i];
            } else {
                value += out[at + i];
            }
            x[at + i] = value;
        }
        sum += dot(value, value);
    }
    let inverse = inverse_root(threads, sum, norm.eps);
    for (var i = thread; i < quads; i += THREADS) {
        normed[group.y * quads + i] = x[at + i] * inverse * vectors[norm.weight + i];
    }
}

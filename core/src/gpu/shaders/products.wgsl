// Dense products with few weights' worth of tuning: dense changes, and the factors of changes of low rank.
// Compiled behind threads.wgsl or subgroups.wgsl. Mirrors adapter::low_rank::through and a plain product with the transposed weight.
//
//   y[r, order[p]] += sum over q of w[p, q] x[r, q]        or = if ADD is false
//
// group 0, binding 0   w [D1, D2], f32 or, with HALF, f16 two to a word
//          binding 1   x [rows, D2]
//          binding 2   order: where row p of w goes
//          binding 3   y [rows, D1]
// group 1, binding 0   rows; row of x and y of the first workgroup
// workgroups           few: p, rows · narrow: 64 p, rows · many: 64 p, 64 rows

override D1: u32 = 8u;
override D2: u32 = 8u;
override HALF: bool = false;
override ADD: bool = true;

struct Params {
    rows: u32,
    first: u32,
}

@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> order: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

fn weight(p: u32, q: u32) -> f32 {
    let element = p * D2 + q;
    if (HALF) {
        let two = unpack2x16float(w[element / 2u]);
        return select(two.x, two.y, element % 2u == 1u);
    }
    return bitcast<f32>(w[element]);
}

fn put(p: u32, r: u32, value: f32) {
    let at = r * D1 + order[p];
    if (ADD) {
        y[at] += value;
    } else {
        y[at] = value;
    }
}

// Of few.
const THREADS: u32 = 64u;
alias Sum = f32;

// A workgroup makes one number: for few rows.
@compute @workgroup_size(THREADS)
fn few(threads: Threads, @builtin(workgroup_id) group: vec3u) {
    let thread = number(threads);
    let p = group.x + group.z * 32768u;
    let r = params.first + group.y;
    var sum = 0.0;
    if (p < D1) {
        for (var q = thread; q < D2; q += THREADS) {
            sum += weight(p, q) * x[r * D2 + q];
        }
    }
    let total = sum_for_first(threads, sum, THREADS);
    if (thread == 0u && p < D1) {
        put(p, r, total);
    }
}

// A thread makes one number: for few columns.
@compute @workgroup_size(64)
fn narrow(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let p = group.x * 64u + thread;
    let r = params.first + group.y;
    if (p >= D1) {
        return;
    }
    var sum = 0.0;
    for (var q = 0u; q < D2; q++) {
        sum += weight(p, q) * x[r * D2 + q];
    }
    put(p, r, sum);
}

const TILE: u32 = 64u;
const DEPTH: u32 = 16u;

// Columns of w and x, DEPTH at a time, [DEPTH, TILE].
var<workgroup> of_w: array<f32, 1024>;
var<workgroup> of_x: array<f32, 1024>;

// A workgroup makes 64 rows of 64 numbers, a thread 4 of 4: for many rows.
@compute @workgroup_size(256)
fn many(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let p0 = group.x * TILE;
    let r0 = group.y * TILE;
    let tp = (thread % 16u) * 4u;
    let tr = (thread / 16u) * 4u;
    var sums: array<vec4f, 4>;
    for (var q0 = 0u; q0 < D2; q0 += DEPTH) {
        workgroupBarrier();
        for (var i = thread; i < TILE * DEPTH; i += 256u) {
            let line = i / DEPTH;
            let q = q0 + i % DEPTH;
            let at = (i % DEPTH) * TILE + line;
            var a = 0.0;
            if (q < D2 && p0 + line < D1) {
                a = weight(p0 + line, q);
            }
            of_w[at] = a;
            var b = 0.0;
            if (q < D2 && r0 + line < params.rows) {
                b = x[(r0 + line) * D2 + q];
            }
            of_x[at] = b;
        }
        workgroupBarrier();
        for (var q = 0u; q < DEPTH; q++) {
            let at = q * TILE;
            let a = vec4f(of_w[at + tp], of_w[at + tp + 1u], of_w[at + tp + 2u], of_w[at + tp + 3u]);
            for (var i = 0u; i < 4u; i++) {
                sums[i] += a * of_x[at + tr + i];
            }
        }
    }
    for (var i = 0u; i < 4u; i++) {
        let r = r0 + tr + i;
        for (var j = 0u; j < 4u; j++) {
            if (r < params.rows && p0 + tp + j < D1) {
                put(p0 + tp + j, r, sums[i][j]);
            }
        }
    }
}

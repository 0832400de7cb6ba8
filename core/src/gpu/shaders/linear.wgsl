// Products with a matrix of GGUF blocks, and rows of it, read from the blocks as the file has them. Compiled behind
// threads.wgsl or subgroups.wgsl and behind blocks.wgsl.
// Mirrors kernels::Compute::matmul, and the lookup of Decoder::layers_forward.
//
//   matvec   y[m] = W x[m] (+ bias)   one row x a dispatch layer (z); LANES threads a pair of weight rows
//            workgroups: (x · y) of 64 / LANES pairs each, z = rows of x
//   matmul   the same for many rows x: tiles of 64 weight rows × 16·TM rows x, 32 columns at a time in workgroup memory
//            workgroups: (weight rows / 64, rows of x / (16·TM))
//   lookup   y[m] = scale · W[token m]   workgroups: (units / 64, tokens)
//
// x is rows × cols and y is rows × `width`, of which this part of the matrix fills columns `first` ... `first + rows`.
//
// group 0, binding 0   blocks of the part
//          binding 1   vectors, biases among them (matvec, matmul); tokens (lookup)
//          binding 2   x (matvec, matmul); y (lookup)
//          binding 3   y (matvec, matmul)
// group 1, binding 0   Part

// Threads that share a pair of weight rows in `matvec`; a power of two, at most 64.
override LANES: u32 = 16u;
// Rows of x a thread of `matmul` computes: 1 or 4.
override TM: u32 = 4u;

const NONE: u32 = 0xffffffffu;

// Of the products:
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
// Of the lookup:
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read_write> found: array<f32>;

// Four elements of row m of x; 0 beyond its end, where only unquantised matrices have units.
fn x_quad(m: u32, column: u32) -> vec4<f32> {
    if (plain() && column >= part.cols) {
        return vec4<f32>(0.0);
    }
    return x[(m * part.cols + column) / 4u];
}

fn biased(sum: f32, row: u32) -> f32 {
    if (part.bias == NONE) {
        return sum;
    }
    return sum + vectors[part.bias + part.first + row];
}

// Of matvec: the sums of two rows.
const THREADS: u32 = 64u;
alias Sum = vec2<f32>;

@compute @workgroup_size(THREADS)
fn matvec(threads: Threads, @builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let thread = number(threads);
    let lane = thread % LANES;
    let pair = (group.y * groups.x + group.x) * (THREADS / LANES) + thread / LANES;
    let row = pair * 2u;
    var sum = vec2<f32>(0.0);
    if (row < part.rows) {
        let first = row * part.row_bytes;
        // The last pair of an odd number of rows multiplies its one row twice.
        let second = min(row + 1u, part.rows - 1u) * part.row_bytes;
        for (var u = lane; u < units(); u += LANES) {
            let c = columns(u);
            let xa0 = x_quad(group.z, c.x);
            let xa1 = x_quad(group.z, c.x + 4u);
            let xb0 = x_quad(group.z, c.y);
            let xb1 = x_quad(group.z, c.y + 4u);
            let w = unit(first, u);
            let v = unit(second, u);
            sum.x += dot(w.a0, xa0) + dot(w.a1, xa1) + dot(w.b0, xb0) + dot(w.b1, xb1);
            sum.y += dot(v.a0, xa0) + dot(v.a1, xa1) + dot(v.b0, xb0) + dot(v.b1, xb1);
        }
    }
    let total = sum_for_first(threads, sum, LANES);
    if (lane == 0u && row < part.rows) {
        let at = group.z * part.width + part.first + row;
        y[at] = biased(total.x, row);
        if (row + 1u < part.rows) {
            y[at + 1u] = biased(total.y, row + 1u);
        }
    }
}

// 32 columns of 64 rows of W and of 16·TM rows of x, column by column: 16 KiB together.
var<workgroup> w_tile: array<f32, 2048>;
var<workgroup> x_tile: array<f32, 512u * TM>;

fn place_w(column: u32, r: u32, value: vec4<f32>) {
    for (var i = 0u; i < 4u; i += 1u) {
        w_tile[(column + i) * 64u + r] = value[i];
    }
}

fn place_x(column: u32, r: u32, value: vec4<f32>) {
    for (var i = 0u; i < 4u; i += 1u) {
        x_tile[(column + i) * 16u * TM + r] = value[i];
    }
}

@compute @workgroup_size(256)
fn matmul(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let first_row = group.x * 64u;
    let first_m = group.y * 16u * TM;
    let n = thread % 16u;
    let m = thread / 16u;
    var acc: array<vec4<f32>, 4>;
    for (var i = 0u; i < TM; i += 1u) {
        acc[i] = vec4<f32>(0.0);
    }
    let all = units();
    for (var u = 0u; u < all; u += 2u) {
        if (thread < 128u) {
            // Neighbouring threads take neighbouring rows, so that their stores go to different banks.
            let r = thread % 64u;
            let slot = thread / 64u;
            var w = Unit(vec4<f32>(0.0), vec4<f32>(0.0), vec4<f32>(0.0), vec4<f32>(0.0));
            if (first_row + r < part.rows && u + slot < all) {
                w = unit((first_row + r) * part.row_bytes, u + slot);
            }
            place_w(slot * 16u, r, w.a0);
            place_w(slot * 16u + 4u, r, w.a1);
            place_w(slot * 16u + 8u, r, w.b0);
            place_w(slot * 16u + 12u, r, w.b1);
        } else {
            // 2 slots × 4 quads × 16·TM rows, by 128 threads.
            for (var i = thread - 128u; i < 128u * TM; i += 128u) {
                let r = i % (16u * TM);
                let piece = i / (16u * TM);
                let slot = piece / 4u;
                let c = columns(u + slot);
                let column = select(c.x, c.y, piece % 4u >= 2u) + piece % 2u * 4u;
                var value = vec4<f32>(0.0);
                if (first_m + r < part.count && u + slot < all) {
                    value = x_quad(first_m + r, column);
                }
                place_x(piece * 4u, r, value);
            }
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += 1u) {
            let at = k * 64u + n * 4u;
            let w = vec4<f32>(w_tile[at], w_tile[at + 1u], w_tile[at + 2u], w_tile[at + 3u]);
            for (var i = 0u; i < TM; i += 1u) {
                acc[i] += x_tile[(k * 16u + m) * TM + i] * w;
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < TM; i += 1u) {
        let at = first_m + m * TM + i;
        if (at < part.count) {
            for (var j = 0u; j < 4u; j += 1u) {
                let row = first_row + n * 4u + j;
                if (row < part.rows) {
                    y[at * part.width + part.first + row] = biased(acc[i][j], row);
                }
            }
        }
    }
}

fn put(at: u32, column: u32, value: vec4<f32>) {
    if (plain() && column >= part.cols) {
        return;
    }
    for (var i = 0u; i < 4u; i += 1u) {
        found[at + column + i] = part.scale * value[i];
    }
}

@compute @workgroup_size(64)
fn lookup(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let u = group.x * 64u + thread;
    // Below `first` this wraps to a large number.
    let row = tokens[group.y] - part.first;
    if (u >= units() || row >= part.rows) {
        return;
    }
    let w = unit(row * part.row_bytes, u);
    let c = columns(u);
    let at = group.y * part.cols;
    put(at, c.x, w.a0);
    put(at, c.x + 4u, w.a1);
    put(at, c.y, w.b0);
    put(at, c.y + 4u, w.b1);
}

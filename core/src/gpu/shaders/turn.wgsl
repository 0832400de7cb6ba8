// Heads of q, k and v between their products and attention, one head of one row a workgroup: heads of q and k are normed and
// rotated, those of q scaled and left where they are, those of k and v stored in the cache. Compiled behind threads.wgsl or
// subgroups.wgsl.
//
//   turn      workgroups: (heads + 2·kv, rows)
//
// q is rows × (heads · dim), k and v are rows × (kv · dim), the caches ring × (kv · dim), in f16 two to a word or in f32; position p
// is at p % ring.
// The step holds the rotation's tables, cosines then sines of `angles` angles, row after row.
// Mirrors Turn::apply, Heads::store, Heads::turn_queries, Ring::slot.
//
// group 0, binding 0   vectors, weights of norms among them
//          binding 1   step
//          binding 2   k
//          binding 3   v
//          binding 4   q
//          binding 5   cache of keys
//          binding 6   cache of values
// group 1, binding 0   Heads

// Elements of a head; even.
override DIM: u32 = 64u;
// Whether neighbours are rotated together, else element i with i + angles.
override PAIRS: bool = false;
override NORM_Q: bool = false;
override NORM_K: bool = false;
// Whether the cache is f32.
override WIDE: bool = false;

const THREADS: u32 = 64u;
alias Sum = f32;

struct Heads {
    count: u32,
    kv: u32,
    angles: u32,
    // Where in `step` the tables begin.
    table: u32,
    // Where in `vectors` the weights of the norms begin.
    q_norm: u32,
    k_norm: u32,
    q_eps: f32,
    k_eps: f32,
    scale: f32,
    // The position of row 0.
    start: u32,
    // Positions that the caches have room for.
    ring: u32,
}

@group(0) @binding(0) var<storage, read> vectors: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<f32>;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> q: array<f32>;
@group(0) @binding(5) var<storage, read_write> keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> values: array<u32>;
@group(1) @binding(0) var<uniform> heads: Heads;

var<workgroup> head: array<f32, DIM>;

// head = head / √(mean(head²) + eps) · weight.
fn normalise(threads: Threads, weight: u32, eps: f32) {
    let thread = number(threads);
    var sum = 0.0;
    for (var i = thread; i < DIM; i += THREADS) {
        sum += head[i] * head[i];
    }
    let inverse = 1.0 / sqrt(sum_for_all(threads, sum) / f32(DIM) + eps);
    for (var i = thread; i < DIM; i += THREADS) {
        head[i] = head[i] * inverse * vectors[weight + i];
    }
}

// Rotates the head by the row's angles.
fn rotate(thread: u32, row: u32) {
    let table = heads.table + row * 2u * heads.angles;
    for (var i = thread; i < heads.angles; i += THREADS) {
        let cosine = step[table + i];
        let sine = step[table + heads.angles + i];
        var first = i;
        var second = i + heads.angles;
        if (PAIRS) {
            first = 2u * i;
            second = 2u * i + 1u;
        }
        let a = head[first];
        let b = head[second];
        head[first] = a * cosine - b * sine;
        head[second] = a * sine + b * cosine;
    }
}

@compute @workgroup_size(64)
fn turn(threads: Threads, @builtin(workgroup_id) group: vec3<u32>) {
    let thread = number(threads);
    let row = group.y;
    let of_q = group.x < heads.count;
    let of_k = !of_q && group.x < heads.count + heads.kv;
    let index = group.x - select(select(heads.count + heads.kv, heads.count, of_k), 0u, of_q);
    let base = (row * select(heads.kv, heads.count, of_q) + index) * DIM;
    for (var i = thread; i < DIM; i += THREADS) {
        if (of_q) {
            head[i] = q[base + i];
        } else if (of_k) {
            head[i] = k[base + i];
        } else {
            head[i] = v[base + i];
        }
    }
    workgroupBarrier();
    if (NORM_Q && of_q) {
        normalise(threads, heads.q_norm, heads.q_eps);
    }
    if (NORM_K && of_k) {
        normalise(threads, heads.k_norm, heads.k_eps);
    }
    workgroupBarrier();
    if (of_q || of_k) {
        rotate(thread, row);
    }
    workgroupBarrier();
    if (of_q) {
        for (var i = thread; i < DIM; i += THREADS) {
            q[base + i] = head[i] * heads.scale;
        }
        return;
    }
    let at = ((heads.start + row) % heads.ring * heads.kv + index) * DIM;
    if (WIDE) {
        for (var i = thread; i < DIM; i += THREADS) {
            let word = bitcast<u32>(head[i]);
            if (of_k) {
                keys[at + i] = word;
            } else {
                values[at + i] = word;
            }
        }
    } else {
        for (var i = thread; i < DIM / 2u; i += THREADS) {
            let word = pack2x16float(vec2<f32>(head[2u * i], head[2u * i + 1u]));
            if (of_k) {
                keys[at / 2u + i] = word;
            } else {
                values[at / 2u + i] = word;
            }
        }
    }
}

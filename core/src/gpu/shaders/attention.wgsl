// Grouped-query attention over the cache, in tiles of 32 positions with a running softmax. Compiled behind threads.wgsl or
// subgroups.wgsl.
//
// A slot is a query head of a row, those of a row that share a KV head side by side: slot = row · group + head. A workgroup takes
// SLOTS neighbouring slots of one KV head over one span of positions, and skips what no slot's window reaches.
//
//   attend    workgroups: (rows · group / SLOTS, kv, spans); with one span the result is written, with more it is left in `parts`
//   merge     adds up the spans of a single row; workgroups: heads
//
// q (turned and scaled) and mixed are rows × (kv · group · DIM), the caches ring × (kv · DIM) in f16 two to a word or in f32; position p
// is at p % ring, and a tile lies together.
// parts is (head, span) × (DIM + 4): weighted values, then the maximum and the sum of the weights.
// Mirrors Heads::attend, kernels::attention::{scores, fold_tile, mix, merge}, Ring::slot.
//
// group 0, binding 0   q
//          binding 1   cache of keys
//          binding 2   cache of values
//          binding 3   mixed
//          binding 4   parts
// group 1, binding 0   Heads

// Elements of a head, a multiple of 4.
override DIM: u32 = 64u;
// SLOTS · DIM is at most 2048; 4, 8 or 16.
override SLOTS: u32 = 16u;
// Whether the cache is f32.
override WIDE: bool = false;
// cap · tanh(score / cap), where above 0.
override SOFT_CAP: f32 = 0.0;

const THREADS: u32 = 128u;
alias Sum = f32;
const TILE: u32 = 32u;
const FLOOR: f32 = -3.0e38;

struct Heads {
    kv: u32,
    group: u32,
    // Positions a query sees, its own included; 0 for all.
    window: u32,
    rows: u32,
    // The position of row 0.
    start: u32,
    spans: u32,
    // Positions that the caches have room for: whole tiles, or else every position there is.
    ring: u32,
}

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> keys: array<u32>;
@group(0) @binding(2) var<storage, read> values: array<u32>;
@group(0) @binding(3) var<storage, read_write> mixed: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> parts: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> heads: Heads;

var<workgroup> queries: array<vec4<f32>, SLOTS * DIM / 4u>;
var<workgroup> scores: array<f32, SLOTS * TILE>;
var<workgroup> weights: array<f32, SLOTS * TILE>;
// What a tile's new maximum makes of the sums before it, by slot.
var<workgroup> keep: array<f32, SLOTS>;
var<workgroup> ends: array<vec2<f32>, SLOTS>;
var<workgroup> lanes: array<f32, THREADS>;

fn key_quad(at: u32) -> vec4<f32> {
    if (WIDE) {
        return bitcast<vec4<f32>>(vec4<u32>(keys[at], keys[at + 1u], keys[at + 2u], keys[at + 3u]));
    }
    return vec4<f32>(unpack2x16float(keys[at / 2u]), unpack2x16float(keys[at / 2u + 1u]));
}

fn value_quad(at: u32) -> vec4<f32> {
    if (WIDE) {
        return bitcast<vec4<f32>>(vec4<u32>(values[at], values[at + 1u], values[at + 2u], values[at + 3u]));
    }
    return vec4<f32>(unpack2x16float(values[at / 2u]), unpack2x16float(values[at / 2u + 1u]));
}

// The first position that a query at `position` sees.
fn first_seen(position: u32) -> u32 {
    if (heads.window == 0u || position + 1u < heads.window) {
        return 0u;
    }
    return position + 1u - heads.window;
}

fn capped(score: f32) -> f32 {
    if (SOFT_CAP > 0.0) {
        // tanh by an exponential that cannot overflow.
        let e = exp(-2.0 * abs(score) / SOFT_CAP);
        return SOFT_CAP * sign(score) * (1.0 - e) / (1.0 + e);
    }
    return score;
}

// Where slot s of KV head h is in rows × heads, in heads.
fn head_of(s: u32, h: u32) -> u32 {
    return (s / heads.group * heads.kv + h) * heads.group + s % heads.group;
}

@compute @workgroup_size(128)
fn attend(threads: Threads, @builtin(workgroup_id) workgroup: vec3<u32>) {
    let thread = number(threads);
    let quads = DIM / 4u;
    let slots = heads.rows * heads.group;
    let first_slot = workgroup.x * SLOTS;
    let count = min(SLOTS, slots - first_slot);
    let h = workgroup.y;
    for (var i = thread; i < SLOTS * quads; i += THREADS) {
        var value = vec4<f32>(0.0);
        if (i / quads < count) {
            value = q[head_of(first_slot + i / quads, h) * quads + i % quads];
        }
        queries[i] = value;
    }
    // Positions any of the slots sees, then this workgroup's span of them in whole tiles.
    let start = heads.start;
    let seen = first_seen(start + first_slot / heads.group);
    let seen_from = seen / TILE * TILE;
    let seen_to = start + (first_slot + count - 1u) / heads.group + 1u;
    let tiles = (seen_to - seen_from + TILE - 1u) / TILE;
    let tiles_a_span = (tiles + heads.spans - 1u) / heads.spans;
    let begin = seen_from + workgroup.z * tiles_a_span * TILE;
    let to = min(begin + tiles_a_span * TILE, seen_to);

    // For the scores a thread is a position of the tile and every fourth slot; for the softmax a slot and TILE · SLOTS / THREADS
    // positions; for the mix some quads of the slots' heads.
    let place = thread % TILE;
    let share = THREADS / SLOTS;
    let own_slot = thread / share;
    let per_lane = TILE / share;
    var maximum = FLOOR;
    var sum = 0.0;
    var acc: array<vec4<f32>, 4>;
    for (var i = 0u; i < 4u; i += 1u) {
        acc[i] = vec4<f32>(0.0);
    }
    // Where the tile lies in the caches.
    var tile_at = begin % heads.ring;
    workgroupBarrier();
    for (var tile = begin; tile < to; tile += TILE) {
        let position = tile + place;
        var dots: array<f32, 4>;
        for (var i = 0u; i < SLOTS / 4u; i += 1u) {
            dots[i] = 0.0;
        }
        if (position < to) {
            let at = ((tile_at + place) * heads.kv + h) * DIM;
            for (var d = 0u; d < quads; d += 1u) {
                let key = key_quad(at + d * 4u);
                for (var i = 0u; i < SLOTS / 4u; i += 1u) {
                    dots[i] += dot(queries[(thread / TILE + i * 4u) * quads + d], key);
                }
            }
        }
        for (var i = 0u; i < SLOTS / 4u; i += 1u) {
            let s = thread / TILE + i * 4u;
            let own = start + (first_slot + s) / heads.group;
            let seen_by_own = position < to && position <= own && position >= first_seen(own) && s < count;
            scores[s * TILE + place] = select(FLOOR, capped(dots[i]), seen_by_own);
        }
        workgroupBarrier();
        var largest = maximum;
        if (share <= neighbours(threads)) {
            for (var i = 0u; i < per_lane; i += 1u) {
                largest = max(largest, scores[own_slot * TILE + thread % share * per_lane + i]);
            }
            largest = largest_of(threads, largest, share);
        } else {
            for (var i = 0u; i < TILE; i += 1u) {
                largest = max(largest, scores[own_slot * TILE + i]);
            }
        }
        let factor = exp(maximum - largest);
        maximum = largest;
        sum *= factor;
        for (var i = 0u; i < per_lane; i += 1u) {
            let at = own_slot * TILE + thread % share * per_lane + i;
            // A slot that has seen nothing yet has no maximum to measure from.
            let weight = select(0.0, exp(scores[at] - largest), scores[at] > FLOOR);
            weights[at] = weight;
            sum += weight;
        }
        if (thread % share == 0u) {
            keep[own_slot] = factor;
        }
        workgroupBarrier();
        // Before what the slots see there may be a later position by now, even one that was taken back and is no number.
        let first = max(tile, seen) - tile;
        let last = min(TILE, to - tile);
        for (var i = 0u; i < 4u; i += 1u) {
            let at = i * THREADS + thread;
            if (at < SLOTS * quads) {
                let s = at / quads;
                var value = acc[i] * keep[s];
                for (var p = first; p < last; p += 1u) {
                    let from_values = ((tile_at + p) * heads.kv + h) * DIM + at % quads * 4u;
                    value += weights[s * TILE + p] * value_quad(from_values);
                }
                acc[i] = value;
            }
        }
        tile_at = select(tile_at + TILE, 0u, tile_at + TILE == heads.ring);
    }
    lanes[thread] = sum;
    workgroupBarrier();
    if (thread % share == 0u) {
        var total = 0.0;
        for (var i = 0u; i < share; i += 1u) {
            total += lanes[thread + i];
        }
        ends[own_slot] = vec2<f32>(maximum, total);
    }
    workgroupBarrier();
    for (var i = 0u; i < 4u; i += 1u) {
        let at = i * THREADS + thread;
        let s = at / quads;
        if (s < count) {
            let head = head_of(first_slot + s, h);
            if (heads.spans == 1u) {
                mixed[head * quads + at % quads] = acc[i] / ends[s].y;
            } else {
                let part = (head * heads.spans + workgroup.z) * (quads + 1u);
                parts[part + at % quads] = acc[i];
                if (at % quads == 0u) {
                    parts[part + quads] = vec4<f32>(ends[s], 0.0, 0.0);
                }
            }
        }
    }
}

@compute @workgroup_size(64)
fn merge(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) workgroup: vec3<u32>) {
    let quads = DIM / 4u;
    let spans = heads.spans;
    let first = workgroup.x * spans * (quads + 1u);
    var maximum = FLOOR;
    for (var span = 0u; span < spans; span += 1u) {
        maximum = max(maximum, parts[first + span * (quads + 1u) + quads].x);
    }
    for (var i = thread; i < quads; i += 64u) {
        var total = 0.0;
        var value = vec4<f32>(0.0);
        for (var span = 0u; span < spans; span += 1u) {
            let part = first + span * (quads + 1u);
            let end = parts[part + quads];
            let factor = exp(end.x - maximum);
            total += end.y * factor;
            value += parts[part + i] * factor;
        }
        mixed[workgroup.x * quads + i] = value / total;
    }
}

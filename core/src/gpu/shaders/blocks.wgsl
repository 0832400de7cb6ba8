// Units of 16 weights from the blocks of every GGUF storage type. Mirrors kernels::dequantize.
//
// A matrix's columns are taken in units of 16: two runs of 8 columns that share their bytes (the low and the high nibbles of
// 8 bytes, say), so that a thread decodes what it loads, once. `blocks` is one word longer than the blocks are; a row begins
// at an even byte.
//
// group 0, binding 0   blocks of a part of a matrix
// group 1, binding 0   Part

// Number of the storage type in a GGUF file.
override TYPE: u32 = 2u;

const F32: u32 = 0u;
const F16: u32 = 1u;
const Q4_0: u32 = 2u;
const Q4_1: u32 = 3u;
const Q5_0: u32 = 6u;
const Q5_1: u32 = 7u;
const Q8_0: u32 = 8u;
const Q2_K: u32 = 10u;
const Q3_K: u32 = 11u;
const Q4_K: u32 = 12u;
const Q5_K: u32 = 13u;
const Q6_K: u32 = 14u;
const IQ4_NL: u32 = 20u;
const BF16: u32 = 30u;

struct Part {
    // Weight rows of this part, columns, bytes of a row.
    rows: u32,
    cols: u32,
    row_bytes: u32,
    // The whole matrix's row at which the part begins, and its number of rows.
    first: u32,
    width: u32,
    // Where in `vectors` the whole matrix's bias begins, or NONE.
    bias: u32,
    // Rows of x.
    count: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read> blocks: array<u32>;
@group(1) @binding(0) var<uniform> part: Part;

fn plain() -> bool {
    return TYPE == F32 || TYPE == F16 || TYPE == BF16;
}

// Whether blocks, and all that is in them, lie at multiples of 4 bytes.
fn aligned() -> bool {
    return TYPE == Q4_1 || TYPE == Q5_1 || TYPE == Q2_K || TYPE == Q4_K || TYPE == Q5_K;
}

fn units() -> u32 {
    return (part.cols + 15u) / 16u;
}

// Exactly the value of a half, subnormal ones included, which conversions of some devices flush.
fn half_value(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffu;
    let shifted = magnitude << 13u;
    var value = select(shifted + 0x38000000u, shifted | 0x7f800000u, magnitude >= 0x7c00u);
    value = select(value, bitcast<u32>(f32(magnitude) * 5.9604644775390625e-8), magnitude < 0x400u);
    return bitcast<f32>(value | ((bits & 0x8000u) << 16u));
}

// The half at an even byte.
fn half_at(byte: u32) -> f32 {
    return half_value((blocks[byte >> 2u] >> ((byte & 2u) * 8u)) & 0xffffu);
}

fn byte_at(byte: u32) -> u32 {
    return (blocks[byte >> 2u] >> ((byte & 3u) * 8u)) & 0xffu;
}

// The 4 bytes from an even byte on.
fn word_at(byte: u32) -> u32 {
    let low = blocks[byte >> 2u];
    if (aligned()) {
        return low;
    }
    let high = blocks[(byte >> 2u) + 1u];
    return select(low, (low >> 16u) | (high << 16u), (byte & 2u) != 0u);
}

// The 8 bytes from an even byte on.
fn words_at(byte: u32) -> vec2<u32> {
    let at = byte >> 2u;
    let words = vec2<u32>(blocks[at], blocks[at + 1u]);
    if (aligned()) {
        return words;
    }
    let next = vec2<u32>(words.y, blocks[at + 2u]);
    return select(words, (words >> vec2<u32>(16u)) | (next << vec2<u32>(16u)), (byte & 2u) != 0u);
}

fn bytes_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xU8(word));
}

fn signed_bytes_of(word: u32) -> vec4<f32> {
    return vec4<f32>(unpack4xI8(word));
}

// Bits 0 ... 3 of `bits`, one in the lowest place of each byte.
fn spread(bits: u32) -> u32 {
    return ((bits & 15u) * 0x00204081u) & 0x01010101u;
}

// 16 weights: columns a ... a + 7 and b ... b + 7.
struct Unit {
    a0: vec4<f32>,
    a1: vec4<f32>,
    b0: vec4<f32>,
    b1: vec4<f32>,
}

// Columns a and b of unit u.
fn columns(u: u32) -> vec2<u32> {
    if (TYPE == Q4_0 || TYPE == Q4_1 || TYPE == Q5_0 || TYPE == Q5_1 || TYPE == IQ4_NL) {
        let a = u / 2u * 32u + u % 2u * 8u;
        return vec2<u32>(a, a + 16u);
    }
    if (TYPE == Q4_K || TYPE == Q5_K || TYPE == Q2_K || TYPE == Q3_K) {
        let a = u / 4u * 64u + u % 4u * 8u;
        return vec2<u32>(a, a + 32u);
    }
    if (TYPE == Q6_K) {
        let a = u / 8u * 128u + u % 8u * 8u;
        return vec2<u32>(a, a + 64u);
    }
    return vec2<u32>(u * 16u, u * 16u + 8u);
}

// scale · q + offset for the two runs of a unit: q of a from `a`, of b from `b`, four to a word.
fn affine(a: vec2<u32>, b: vec2<u32>, scale: vec2<f32>, offset: vec2<f32>) -> Unit {
    return Unit(
        scale.x * bytes_of(a.x) + offset.x,
        scale.x * bytes_of(a.y) + offset.x,
        scale.y * bytes_of(b.x) + offset.y,
        scale.y * bytes_of(b.y) + offset.y,
    );
}

// Blocks of 32 with nibbles: `at` bytes before the nibbles, `high` says where fifth bits are, or 0.
fn nibbles(base: u32, u: u32, at: u32, high: u32, scale: f32, offset: f32) -> Unit {
    let h = u % 2u * 8u;
    let words = words_at(base + at + h);
    var a = words & vec2<u32>(0x0f0f0f0fu);
    var b = (words >> vec2<u32>(4u)) & vec2<u32>(0x0f0f0f0fu);
    if (high != 0u) {
        let bits = word_at(base + high) >> h;
        a = a | vec2<u32>(spread(bits) << 4u, spread(bits >> 4u) << 4u);
        b = b | vec2<u32>(spread(bits >> 16u) << 4u, spread(bits >> 20u) << 4u);
    }
    return affine(a, b, vec2<f32>(scale), vec2<f32>(offset));
}

// IQ4_NL's levels, four signed bytes to a word.
fn level(index: u32) -> u32 {
    let words = array<u32, 4>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
    return (words[index >> 2u] >> ((index & 3u) * 8u)) & 0xffu;
}

fn levels(nibbles: u32) -> u32 {
    let n = unpack4xU8(nibbles);
    return level(n.x) | (level(n.y) << 8u) | (level(n.z) << 16u) | (level(n.w) << 24u);
}

// The scales and offsets of two neighbouring groups of 32, the first of them 2·pair, of Q4_K and Q5_K.
fn k_affine(base: u32, pair: u32) -> vec4<f32> {
    let d = half_at(base);
    let dmin = half_at(base + 2u);
    let at = (base + 4u) >> 2u;
    let shift = pair % 2u * 16u;
    let lower = blocks[at] >> shift;
    let minima = blocks[at + 1u] >> shift;
    var scales = lower & 0x3f3fu;
    var offsets = minima & 0x3f3fu;
    if (pair >= 2u) {
        let rest = blocks[at + 2u] >> shift;
        scales = (rest & 0x0f0fu) | ((lower & 0xc0c0u) >> 2u);
        offsets = ((rest >> 4u) & 0x0f0fu) | ((minima & 0xc0c0u) >> 2u);
    }
    return vec4<f32>(
        d * f32(scales & 0xffu),
        d * f32((scales >> 8u) & 0xffu),
        -(dmin * f32(offsets & 0xffu)),
        -(dmin * f32((offsets >> 8u) & 0xffu)),
    );
}

// The scale of group i, of 16, of Q3_K: 6 bits, less 32.
fn q3_scale(base: u32, i: u32) -> f32 {
    let low = (byte_at(base + 96u + i % 8u) >> (i / 8u * 4u)) & 15u;
    let high = (byte_at(base + 104u + i % 4u) >> (i / 4u * 2u)) & 3u;
    return f32(low | (high << 4u)) - 32.0;
}

// Four columns of an unquantised row; 0 beyond its end.
fn quad(row: u32, column: u32) -> vec4<f32> {
    if (column >= part.cols) {
        return vec4<f32>(0.0);
    }
    if (TYPE == F32) {
        let at = (row >> 2u) + column;
        return bitcast<vec4<f32>>(vec4<u32>(blocks[at], blocks[at + 1u], blocks[at + 2u], blocks[at + 3u]));
    }
    let at = (row + column * 2u) >> 2u;
    let words = vec2<u32>(blocks[at], blocks[at + 1u]);
    if (TYPE == BF16) {
        let low = words << vec2<u32>(16u);
        let high = words & vec2<u32>(0xffff0000u);
        return bitcast<vec4<f32>>(vec4<u32>(low.x, high.x, low.y, high.y));
    }
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// Unit u of the row that begins at byte `row`.
fn unit(row: u32, u: u32) -> Unit {
    if (plain()) {
        let c = u * 16u;
        return Unit(quad(row, c), quad(row, c + 4u), quad(row, c + 8u), quad(row, c + 12u));
    }
    if (TYPE == Q4_0) {
        let base = row + u / 2u * 18u;
        let d = half_at(base);
        return nibbles(base, u, 2u, 0u, d, -8.0 * d);
    }
    if (TYPE == Q4_1) {
        let base = row + u / 2u * 20u;
        return nibbles(base, u, 4u, 0u, half_at(base), half_at(base + 2u));
    }
    if (TYPE == Q5_0) {
        let base = row + u / 2u * 22u;
        let d = half_at(base);
        return nibbles(base, u, 6u, 2u, d, -16.0 * d);
    }
    if (TYPE == Q5_1) {
        let base = row + u / 2u * 24u;
        return nibbles(base, u, 8u, 4u, half_at(base), half_at(base + 2u));
    }
    if (TYPE == IQ4_NL) {
        let base = row + u / 2u * 18u;
        let d = half_at(base);
        let words = words_at(base + 2u + u % 2u * 8u);
        let a = words & vec2<u32>(0x0f0f0f0fu);
        let b = (words >> vec2<u32>(4u)) & vec2<u32>(0x0f0f0f0fu);
        return Unit(
            d * signed_bytes_of(levels(a.x)),
            d * signed_bytes_of(levels(a.y)),
            d * signed_bytes_of(levels(b.x)),
            d * signed_bytes_of(levels(b.y)),
        );
    }
    if (TYPE == Q8_0) {
        let base = row + u / 2u * 34u;
        let d = half_at(base);
        let at = base + 2u + u % 2u * 16u;
        let a = words_at(at);
        let b = words_at(at + 8u);
        return Unit(
            d * signed_bytes_of(a.x),
            d * signed_bytes_of(a.y),
            d * signed_bytes_of(b.x),
            d * signed_bytes_of(b.y),
        );
    }
    // Blocks of 256: unit j of the block; runs of 32 share the bits of 32 bytes, of which a unit takes 8 from `s` on.
    let j = u % 16u;
    let s = u % 4u * 8u;
    if (TYPE == Q4_K) {
        let base = row + u / 16u * 144u;
        let words = words_at(base + 16u + j / 4u * 32u + s);
        let k = k_affine(base, j / 4u);
        let mask = vec2<u32>(0x0f0f0f0fu);
        return affine(words & mask, (words >> vec2<u32>(4u)) & mask, k.xy, k.zw);
    }
    if (TYPE == Q5_K) {
        let base = row + u / 16u * 176u;
        let words = words_at(base + 48u + j / 4u * 32u + s);
        let high = words_at(base + 16u + s) >> vec2<u32>(j / 4u * 2u);
        let k = k_affine(base, j / 4u);
        let mask = vec2<u32>(0x0f0f0f0fu);
        let bit = vec2<u32>(0x01010101u);
        let a = (words & mask) | ((high & bit) << vec2<u32>(4u));
        let b = ((words >> vec2<u32>(4u)) & mask) | (((high >> vec2<u32>(1u)) & bit) << vec2<u32>(4u));
        return affine(a, b, k.xy, k.zw);
    }
    if (TYPE == Q6_K) {
        let base = row + u / 16u * 210u;
        let half = j / 8u;
        let run = j % 8u / 4u;
        let words = words_at(base + half * 64u + run * 32u + s);
        let high = words_at(base + 128u + half * 32u + s) >> vec2<u32>(run * 2u);
        let mask = vec2<u32>(0x0f0f0f0fu);
        let upper = vec2<u32>(0x30303030u);
        let a = (words & mask) | ((high << vec2<u32>(4u)) & upper);
        let b = ((words >> vec2<u32>(4u)) & mask) | (high & upper);
        let at = base + 192u + half * 8u + run * 2u + s / 16u;
        let small = vec2<f32>(vec2<i32>(vec2<u32>(byte_at(at), byte_at(at + 4u)) << vec2<u32>(24u)) >> vec2<u32>(24u));
        let scale = half_at(base + 208u) * small;
        return affine(a, b, scale, -32.0 * scale);
    }
    let half = j / 8u;
    let runs = j % 8u / 4u;
    let group = half * 8u + runs * 4u + s / 16u;
    let mask = vec2<u32>(0x03030303u);
    if (TYPE == Q2_K) {
        let base = row + u / 16u * 84u;
        let words = words_at(base + 16u + half * 32u + s) >> vec2<u32>(runs * 4u);
        let packed = vec2<u32>(byte_at(base + group), byte_at(base + group + 2u));
        let scale = half_at(base + 80u) * vec2<f32>(packed & vec2<u32>(15u));
        let offset = half_at(base + 82u) * vec2<f32>(packed >> vec2<u32>(4u));
        return affine(words & mask, (words >> vec2<u32>(2u)) & mask, scale, -offset);
    }
    let base = row + u / 16u * 110u;
    let words = words_at(base + 32u + half * 32u + s) >> vec2<u32>(runs * 4u);
    let high = words_at(base + s) >> vec2<u32>(half * 4u + runs * 2u);
    let bit = vec2<u32>(0x01010101u);
    let a = (words & mask) | ((high & bit) << vec2<u32>(2u));
    let b = ((words >> vec2<u32>(2u)) & mask) | (((high >> vec2<u32>(1u)) & bit) << vec2<u32>(2u));
    let scale = half_at(base + 108u) * vec2<f32>(q3_scale(base, group), q3_scale(base, group + 2u));
    return affine(a, b, scale, -4.0 * scale);
}

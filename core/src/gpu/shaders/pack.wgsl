// f32 to f16, two to a word. Mirrors half::f16::from_f32 (round to nearest; what is past f16 is not in a weight change).
//
// group 0, binding 0   values [count]
//          binding 1   words [(count + 1) / 2]
// workgroups           as many as give a thread a word, in rows of 65535

@group(0) @binding(0) var<storage, read> values: array<f32>;
@group(0) @binding(1) var<storage, read_write> words: array<u32>;

@compute @workgroup_size(256)
fn pack(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3u) {
    let word = (group.y * 65535u + group.x) * 256u + thread;
    let count = arrayLength(&values);
    if (2u * word >= count) {
        return;
    }
    let second = select(0.0, values[min(2u * word + 1u, count - 1u)], 2u * word + 1u < count);
    words[word] = pack2x16float(vec2f(values[2u * word], second));
}

// The gate of a feed-forward block: gate = act(gate) · up, four elements a thread.
//
//   gate      workgroups: (x · y) of 256 threads
//
// Both are rows × inner.
// Mirrors Activation::gate, kernels::vector::silu_mul and gelu_mul.
//
// group 0, binding 0   gate
//          binding 1   up
// group 1, binding 0   Gate

// Whether the activation is GELU (tanh approximation), else SiLU.
override GELU: bool = false;

struct Gate {
    // Elements in fours.
    quads: u32,
}

@group(0) @binding(0) var<storage, read_write> gates: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> ups: array<vec4<f32>>;
@group(1) @binding(0) var<uniform> layer: Gate;

// x · sigmoid(x). Beyond ±80 the exponential would leave the range of f32, and the result is x or 0.
fn silu(x: vec4<f32>) -> vec4<f32> {
    return x / (1.0 + exp(-clamp(x, vec4<f32>(-80.0), vec4<f32>(80.0))));
}

// GELU(x) = x/2 · (1 + tanh(√(2/π)(x + 0.044715x³))), which is x · sigmoid(2√(2/π)(x + 0.044715x³)).
fn gelu(x: vec4<f32>) -> vec4<f32> {
    let inner = 1.5957691216 * (x + 0.044715 * x * x * x);
    return x / (1.0 + exp(-clamp(inner, vec4<f32>(-80.0), vec4<f32>(80.0))));
}

@compute @workgroup_size(256)
fn gate(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let i = (group.y * groups.x + group.x) * 256u + thread;
    if (i >= layer.quads) {
        return;
    }
    let value = gates[i];
    if (GELU) {
        gates[i] = gelu(value) * ups[i];
    } else {
        gates[i] = silu(value) * ups[i];
    }
}

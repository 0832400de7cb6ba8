//! The kernels of the forward pass: which file, entry point and constants.

use crate::gguf::GgmlType;
use crate::gpu::{Access, Gpu, GpuError, Kernel, KernelSpec, Shader};

use Access::{Read, Write};

/// A file of `gpu/shaders`.
macro_rules! shader {
    ($name:literal, $reduces:literal) => {
        Shader { name: $name, wgsl: include_str!(concat!("../../gpu/shaders/", $name, ".wgsl")), reduces: $reduces }
    };
}

pub(super) const LINEAR: Shader = Shader {
    name: "linear",
    wgsl: concat!(include_str!("../../gpu/shaders/blocks.wgsl"), "\n", include_str!("../../gpu/shaders/linear.wgsl")),
    reduces: true,
};
pub(super) const NORM: Shader = shader!("norm", true);
pub(super) const GATE: Shader = shader!("gate", false);
pub(super) const TURN: Shader = shader!("turn", true);
pub(super) const ATTENTION: Shader = shader!("attention", true);

/// Threads of a workgroup of `matvec` and `lookup`.
pub(super) const MATVEC_THREADS: usize = 64;
/// Weight rows of a tile of `matmul`, and rows of x for each row a thread computes.
pub(super) const TILE_ROWS: usize = 64;
pub(super) const TILE_INPUTS: usize = 16;
/// Threads of a workgroup of `gate`.
pub(super) const GATE_THREADS: usize = 256;
/// Positions of a tile of attention.
pub(super) const ATTENTION_TILE: usize = 32;
/// Elements of the queries of a workgroup of attention.
pub(super) const ATTENTION_ELEMENTS: usize = 2048;
/// Fewest slots of a workgroup of attention.
pub(super) const FEWEST_SLOTS: usize = 4;

const PRODUCT: &[Access] = &[Read, Read, Read, Write];

fn number(ty: GgmlType) -> (&'static str, f64) {
    ("TYPE", f64::from(ty as u32))
}

fn flag(name: &'static str, value: bool) -> (&'static str, f64) {
    (name, f64::from(u8::from(value)))
}

fn kernel(
    gpu: &Gpu,
    shader: Shader,
    entry: &'static str,
    access: &[Access],
    constants: &[(&'static str, f64)],
) -> Result<Kernel, GpuError> {
    gpu.kernel(&KernelSpec { shader, entry, access, params: true, constants })
}

/// blocks, vectors, x → y; `lanes` threads a pair of rows.
pub(super) fn matvec(gpu: &Gpu, ty: GgmlType, lanes: usize) -> Result<Kernel, GpuError> {
    kernel(gpu, LINEAR, "matvec", PRODUCT, &[number(ty), ("LANES", lanes as f64)])
}

/// blocks, vectors, x → y; a thread computes `rows` rows of x.
pub(super) fn matmul(gpu: &Gpu, ty: GgmlType, rows: usize) -> Result<Kernel, GpuError> {
    kernel(gpu, LINEAR, "matmul", PRODUCT, &[number(ty), ("TM", rows as f64)])
}

/// blocks, tokens → rows.
pub(super) fn lookup(gpu: &Gpu, ty: GgmlType) -> Result<Kernel, GpuError> {
    kernel(gpu, LINEAR, "lookup", &[Read, Read, Write], &[number(ty)])
}

/// vectors, x, out → normed; x too.
pub(super) fn advance(gpu: &Gpu, out: bool, post: bool) -> Result<Kernel, GpuError> {
    kernel(gpu, NORM, "advance", &[Read, Write, Read, Write], &[flag("OUT", out), flag("POST", post)])
}

/// gate, up → gate.
pub(super) fn gate(gpu: &Gpu, gelu: bool) -> Result<Kernel, GpuError> {
    kernel(gpu, GATE, "gate", &[Write, Read], &[flag("GELU", gelu)])
}

/// What is constant of a layer's heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadKind {
    pub dim: usize,
    pub pairs: bool,
    pub q_norm: bool,
    pub k_norm: bool,
    /// The cache is f32, else f16.
    pub wide: bool,
    pub soft_cap: Option<f32>,
}

/// vectors, step, k, v → q, keys, values.
pub(super) fn turn(gpu: &Gpu, kind: HeadKind) -> Result<Kernel, GpuError> {
    let constants = [
        ("DIM", kind.dim as f64),
        flag("PAIRS", kind.pairs),
        flag("NORM_Q", kind.q_norm),
        flag("NORM_K", kind.k_norm),
        flag("WIDE", kind.wide),
    ];
    kernel(gpu, TURN, "turn", &[Read, Read, Read, Read, Write, Write, Write], &constants)
}

/// q, keys, values → mixed, parts.
pub(super) fn attend(gpu: &Gpu, kind: HeadKind, slots: usize) -> Result<Kernel, GpuError> {
    attention(gpu, "attend", kind, slots)
}

/// parts → mixed, with the arguments of [`attend`].
pub(super) fn merge(gpu: &Gpu, kind: HeadKind) -> Result<Kernel, GpuError> {
    attention(gpu, "merge", kind, FEWEST_SLOTS)
}

fn attention(gpu: &Gpu, entry: &'static str, kind: HeadKind, slots: usize) -> Result<Kernel, GpuError> {
    let constants = [
        ("DIM", kind.dim as f64),
        ("SLOTS", slots as f64),
        flag("WIDE", kind.wide),
        ("SOFT_CAP", f64::from(kind.soft_cap.unwrap_or(0.0))),
    ];
    kernel(gpu, ATTENTION, entry, &[Read, Read, Read, Write, Write], &constants)
}

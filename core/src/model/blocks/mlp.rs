//! Gated feed-forward block: down(act(gate(x)) · up(x)).

use crate::kernels::{derivative, vector};

use super::super::Linear;

/// The gate's non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
}

impl Activation {
    /// gate = act(gate) · up.
    pub fn gate(self, gate: &mut [f32], up: &[f32]) {
        match self {
            Self::Silu => vector::silu_mul(gate, up),
            Self::GeluTanh => vector::gelu_mul(gate, up),
        }
    }

    /// `g`, the gradient of act(gate) · up, becomes the gradient of gate; that of up is written to `up_gradient`.
    pub fn adjoint(self, gate: &[f32], up: &[f32], g: &mut [f32], up_gradient: &mut [f32]) {
        match self {
            Self::Silu => derivative::silu_mul(gate, up, g, up_gradient),
            Self::GeluTanh => derivative::gelu_mul(gate, up, g, up_gradient),
        }
    }
}

/// Where the three matrices lie.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// inner × hidden
    pub gate: Linear,
    /// inner × hidden
    pub up: Linear,
    /// hidden × inner
    pub down: Linear,
    /// Non-linearity on the gate.
    pub activation: Activation,
}

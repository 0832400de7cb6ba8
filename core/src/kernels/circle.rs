//! Points of the unit circle.

use num_complex::Complex32;

/// `e^{−2πi·turn/len}`.
pub fn circle(turn: usize, len: usize) -> Complex32 {
    let (sin, cos) = (std::f64::consts::TAU * (turn % len) as f64 / len as f64).sin_cos();
    Complex32::new(cos as f32, -sin as f32)
}

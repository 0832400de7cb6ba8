//! The learning rate in a unit that means the same in every layer.
//!
//! Adam moves a parameter by about the learning rate, whatever the gradient's size, so what a step does to a layer is up
//! to the layer. One step of η in each of the n coefficients of a FourierFT module is
//!
//! ```text
//! ΔW[p,q] = α/(d1·d2) · Σ ±η · cos(2π(p·j/d1 + q·k/d2))          variance (αη/(d1·d2))² · n/2
//! h[p]    = Σ_q ΔW[p,q]·x[q],  x of unit RMS                     RMS      α·η·√(n/2) / (d1·√d2)
//! ```
//!
//! (n cosines of independent signs, each of mean square ½; d2 inputs). For one and the same η a module of 4096 × 4096 moves
//! 19 times less than one of 576 × 576, and α or n changed means another η. That is why published settings differ by orders
//! of magnitude (η 3e-3 with α 16 in the paper's table and η 0.1 in its scripts for LLaMA; PEFT's own comparison at
//! η 1e-4, α 150, learns nothing), and why users find α = 150 far too high on one model and far too low on the next.
//!
//! So here the rate of a FourierFT run is stated as that movement: the RMS that one step adds to a module's output per unit
//! of input RMS, and each module's η is that times its [`movement_unit`] = d1·√d2 / (α·√(n/2)). The gradient is taken in
//! the same unit (by the chain rule, times the unit), so that Adam's ε and the clipped norm do not depend on d1, d2, n or α
//! either.
//!
//! PEFT's proven η = 3e-2 on SmolLM2 (n = 1000, α = 300) is a movement of 0.0146 in `q_proj` (576 × 576) and of 0.0437 in
//! `v_proj` (192 × 576). [`Rate::MOVEMENT`], 0.03 for both, lies between: η is 6.2e-2 there and 2.1e-2 here.
//!
//! LoRA's customary rate is already stated for its own scaling and taken as it is.

use crate::adapter::{Adapter, Delta};

use super::TuneError;

/// The learning rate of a run, and its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// RMS that one step adds to the output of each FourierFT module, per unit of input RMS.
    Movement(f64),
    /// The same step for every parameter, as PEFT and PyTorch have it: coefficients of FourierFT, elements of A and B.
    Parameter(f64),
}

impl Rate {
    /// The default movement, see the module's documentation.
    pub const MOVEMENT: f64 = 0.03;
    /// The default step of LoRA's A and B.
    pub const LORA: f64 = 1e-3;

    /// The default for an adapter: a movement where all of it is FourierFT, else a step.
    pub fn default_for(adapter: &Adapter) -> Self {
        let fourier = adapter.modules().all(|(_, delta)| delta.as_fourier().is_some());
        if fourier { Self::Movement(Self::MOVEMENT) } else { Self::Parameter(Self::LORA) }
    }

    /// Another rate in the same unit.
    pub fn with_value(self, rate: f64) -> Self {
        match self {
            Self::Movement(_) => Self::Movement(rate),
            Self::Parameter(_) => Self::Parameter(rate),
        }
    }

    /// The number.
    pub fn value(self) -> f64 {
        match self {
            Self::Movement(rate) | Self::Parameter(rate) => rate,
        }
    }

    /// The unit's name.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Movement(_) => "movement",
            Self::Parameter(_) => "parameter",
        }
    }

    /// The runs of parameters of an adapter, in its flat layout, and the unit of each.
    ///
    /// # Errors
    /// [`TuneError::Option`] for a rate that is not above 0, or a movement where a module is not FourierFT or has α = 0.
    pub fn segments(self, adapter: &Adapter) -> Result<Vec<Segment>, TuneError> {
        if !(self.value().is_finite() && self.value() > 0.0) {
            return Err(TuneError::option("learning rate", self.value(), "a finite number above 0"));
        }
        let segment = |(name, delta): (&str, &std::sync::Arc<dyn Delta>)| {
            let unit = match self {
                Self::Parameter(_) => 1.0,
                Self::Movement(_) => movement_unit(&**delta).filter(|unit| unit.is_finite()).ok_or_else(|| {
                    TuneError::option(
                        "learning rate",
                        format!("a movement for {name}"),
                        "a step of parameters, since the module is not FourierFT or its alpha is 0",
                    )
                })?,
            };
            Ok(Segment { len: delta.parameters(), unit })
        };
        adapter.modules().map(segment).collect()
    }
}

/// The step of each coefficient that moves a FourierFT module's output by an RMS of 1 for input of unit RMS:
/// d1·√d2 / (α·√(n/2)). `None` for another kind.
pub fn movement_unit(delta: &dyn Delta) -> Option<f64> {
    let fourier = delta.as_fourier()?;
    let (d1, d2) = (delta.shape().rows() as f64, delta.shape().cols() as f64);
    Some(d1 * d2.sqrt() / (fourier.alpha().abs() * (delta.parameters() as f64 / 2.0).sqrt()))
}

/// Neighbouring parameters with one unit: those of a module.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Segment {
    /// How many.
    pub len: usize,
    /// What a rate of 1 moves each of them by, as far as Adam decides.
    pub unit: f64,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::adapter::FourierDelta;
    use crate::spectral::{PlanCache, Shape, Transforms};

    fn delta(rows: usize, cols: usize, n: usize, alpha: f64, step: f32) -> FourierDelta {
        let plan = PlanCache::new().seeded(Shape::new(rows, cols).unwrap(), n, 7).unwrap();
        // What Adam's first step does: the same size everywhere, signs as they come.
        let signs: Vec<f32> =
            (0..n as u32).map(|i| if i.wrapping_mul(2_654_435_761) >> 31 == 0 { step } else { -step }).collect();
        FourierDelta::new(plan, &signs, alpha).unwrap()
    }

    #[test]
    fn the_default_is_near_pefts_proven_step_on_smollm2() {
        let step = |rows| Rate::MOVEMENT * movement_unit(&delta(rows, 576, 1000, 300.0, 0.0)).unwrap();
        let (q, v) = (step(576), step(192));
        assert!((q - 0.0618).abs() < 1e-4 && (v - 0.0206).abs() < 1e-4, "{q} {v}");
        let mean = (q * v).sqrt();
        assert!((mean / 3e-2 - 1.0).abs() < 0.25, "{mean}");
    }

    #[test]
    fn a_step_of_one_unit_moves_the_output_by_one_whatever_the_layer() {
        let transforms = Transforms::new();
        for (rows, cols, n, alpha) in [
            (64, 64, 200, 300.0),
            (576, 192, 1000, 300.0),
            (192, 576, 1000, 300.0),
            (300, 40, 500, 2.0),
            (96, 512, 4000, -16.0),
        ] {
            let unit = movement_unit(&delta(rows, cols, n, alpha, 0.0)).unwrap() as f32;
            let dense = delta(rows, cols, n, alpha, unit).dense(&transforms, 1);
            // The mean over inputs of unit RMS with independent elements is the Frobenius norm's share a row.
            let rms = (dense.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / rows as f64).sqrt();
            assert!((rms - 1.0).abs() < 0.1, "{rows} × {cols}, n {n}, α {alpha}: {rms}");
        }
    }

    #[test]
    fn rates_that_cannot_be() {
        let module = |alpha| crate::adapter::Module {
            name: "model.layers.0.self_attn.q_proj".into(),
            delta: Arc::new(delta(16, 16, 8, alpha, 0.0)),
        };
        let adapter = Adapter::new(vec![module(300.0)]).unwrap();
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Rate::Movement(rate).segments(&adapter).is_err(), "{rate}");
            assert!(Rate::Parameter(rate).segments(&adapter).is_err(), "{rate}");
        }
        assert_eq!(Rate::Parameter(0.03).segments(&adapter).unwrap(), [Segment { len: 8, unit: 1.0 }]);
        assert_eq!(Rate::default_for(&adapter), Rate::Movement(Rate::MOVEMENT));
        let silent = Adapter::new(vec![module(0.0)]).unwrap();
        assert!(Rate::Movement(0.01).segments(&silent).is_err());
    }
}

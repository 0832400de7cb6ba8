//! How the learning rate goes over a run.

use super::TuneError;

/// The course after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shape {
    /// Half a cosine from the full rate to nothing.
    #[default]
    Cosine,
    /// The full rate to the end.
    Constant,
}

impl Shape {
    /// Its name, as the command takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Constant => "constant",
        }
    }
}

/// The learning rate as a function of the share of the budget that is spent, so that steps and seconds are scheduled alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Share of the run, in [0, 1), over which the rate rises in a straight line from [`Schedule::FIRST`] of it to all of it.
    pub warmup: f64,
    /// The course after it.
    pub shape: Shape,
}

impl Default for Schedule {
    /// A twentieth of the run to warm up, then a cosine.
    fn default() -> Self {
        Self { warmup: 0.05, shape: Shape::Cosine }
    }
}

impl Schedule {
    /// Share of the rate that a warm-up begins with: its first step is to count for something.
    pub const FIRST: f64 = 0.1;

    /// Refuses a warm-up that is none.
    ///
    /// # Errors
    /// [`TuneError::Option`].
    pub fn check(&self) -> Result<(), TuneError> {
        match self.warmup {
            w if (0.0..1.0).contains(&w) => Ok(()),
            w => Err(TuneError::option("warmup", w, "a share of the run, from 0 to below 1")),
        }
    }

    /// What the rate is multiplied with when the share `spent` of the budget, in [0, 1], is behind.
    pub fn factor(&self, spent: f64) -> f64 {
        let spent = spent.clamp(0.0, 1.0);
        if spent < self.warmup {
            return Self::FIRST + (1.0 - Self::FIRST) * spent / self.warmup;
        }
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Cosine => {
                let through = (spent - self.warmup) / (1.0 - self.warmup);
                0.5 * (1.0 + (std::f64::consts::PI * through).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cosine_without_warm_up_is_pytorchs() {
        // CosineAnnealingLR(T_max=8, eta_min=0) with lr 1, before steps 1 to 8.
        let torch = [
            1.0,
            0.961_939_766_3,
            0.853_553_390_6,
            0.691_341_716_2,
            0.5,
            0.308_658_283_8,
            0.146_446_609_4,
            0.038_060_233_7,
        ];
        let schedule = Schedule { warmup: 0.0, shape: Shape::Cosine };
        for (step, expected) in torch.into_iter().enumerate() {
            assert!((schedule.factor(step as f64 / 8.0) - expected).abs() < 1e-9, "{step}");
        }
        assert!(schedule.factor(1.0).abs() < 1e-12);
    }

    #[test]
    fn a_warm_up_rises_to_the_full_rate() {
        let schedule = Schedule { warmup: 0.25, shape: Shape::Constant };
        for (spent, expected) in [(0.0, 0.1), (0.125, 0.55), (0.25, 1.0), (0.7, 1.0), (1.0, 1.0), (9.0, 1.0)] {
            assert!((schedule.factor(spent) - expected).abs() < 1e-12, "{spent}");
        }
        let cosine = Schedule { shape: Shape::Cosine, ..schedule };
        assert_eq!(cosine.factor(0.25), 1.0);
        assert!((cosine.factor(0.625) - 0.5).abs() < 1e-12);
        assert!((cosine.factor(0.249_999_9) - 1.0).abs() < 1e-5, "no jump where they meet");
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for warmup in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            assert!(Schedule { warmup, shape: Shape::Cosine }.check().is_err(), "{warmup}");
        }
        assert!(Schedule::default().check().is_ok());
    }
}

//! Whether a run is well.

/// The smoothed loss of the steps, and its lowest value.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    smoothed: Option<f64>,
    lowest: Option<f64>,
}

impl Watch {
    /// Share of the past in the smoothed loss: the last ten steps or so count.
    const MEMORY: f64 = 0.9;
    /// A smoothed loss above this many times its lowest value plus [`Self::MARGIN`] nats is beyond recovery. Batches of
    /// short texts differ by one nat and more, smoothed by some tenths.
    const FACTOR: f64 = 1.5;
    const MARGIN: f64 = 1.0;

    /// Takes a step's loss in and says whether the run goes on.
    pub fn see(&mut self, loss: f64) -> bool {
        if !loss.is_finite() {
            return false;
        }
        let smoothed = self.smoothed.map_or(loss, |past| Self::MEMORY * past + (1.0 - Self::MEMORY) * loss);
        let lowest = self.lowest.map_or(smoothed, |lowest| lowest.min(smoothed));
        (self.smoothed, self.lowest) = (Some(smoothed), Some(lowest));
        smoothed <= Self::FACTOR * lowest + Self::MARGIN
    }

    /// The smoothed loss.
    pub fn smoothed(&self) -> Option<f64> {
        self.smoothed
    }

    /// Whether it is near its lowest.
    pub fn is_healthy(&self) -> bool {
        match (self.smoothed, self.lowest) {
            (Some(smoothed), Some(lowest)) => smoothed <= 1.1 * lowest + 0.1,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_not_divergence() {
        let mut watch = Watch::default();
        for step in 0..200 {
            let noise = f64::from((step * 37) % 17) / 8.0 - 1.0;
            assert!(watch.see(4.0 * (-f64::from(step) / 100.0).exp() + 1.0 + noise), "{step}");
        }
        assert!(watch.is_healthy());
    }

    #[test]
    fn a_loss_that_climbs_is() {
        let mut watch = Watch::default();
        (0..20).for_each(|_| assert!(watch.see(3.0)));
        let end = (0..100).position(|step| !watch.see(3.0 + f64::from(step))).unwrap();
        assert!((3..15).contains(&end), "{end}");
        assert!(!watch.is_healthy());
        for loss in [f64::NAN, f64::INFINITY] {
            assert!(!Watch::default().see(loss));
        }
    }
}

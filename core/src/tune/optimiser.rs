//! AdamW and gradient clipping.

use super::parameterisation::Segment;

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamOptions {
    /// Decay of the mean of gradients, in [0, 1).
    pub beta1: f64,
    /// Decay of the mean of squared gradients, in [0, 1).
    pub beta2: f64,
    /// Added to the root of that mean, above 0. In the unit of the run's rate, so that it means the same in every layer.
    pub epsilon: f64,
    /// Share of a parameter, times the learning rate, that each step takes off (decoupled from the gradient).
    pub weight_decay: f64,
}

impl Default for AdamOptions {
    /// PyTorch's, but for the decay, which is 0: an adapter's parameters begin at the base model and are few.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimiser's moments (Loshchilov & Hutter 2019; operations in the order of `torch.optim.AdamW`).
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    /// Means of the gradients, by parameter.
    pub mean: Vec<f32>,
    /// Means of their squares.
    pub square: Vec<f32>,
    /// Steps taken.
    pub steps: u64,
}

impl AdamW {
    /// Moments of a run that has not begun.
    pub fn new(parameters: usize) -> Self {
        Self { mean: vec![0.0; parameters], square: vec![0.0; parameters], steps: 0 }
    }

    /// One step. `gradient` is in the parameters' own unit, `rate` in that of `segments`: a parameter of a segment with
    /// unit u moves by `rate · u` where AdamW with a gradient of `u · gradient` would move by `rate`.
    ///
    /// # Panics
    /// If the lengths differ, or the segments do not add up to them.
    pub fn step(
        &mut self,
        options: &AdamOptions,
        rate: f64,
        segments: &[Segment],
        parameters: &mut [f32],
        gradient: &[f32],
    ) {
        let n = self.mean.len();
        assert!(parameters.len() == n && gradient.len() == n, "{n} moments");
        assert_eq!(segments.iter().map(|s| s.len).sum::<usize>(), n, "parameters in segments");
        self.steps += 1;
        // Beyond this many steps the corrections are 1 to the last bit.
        let power = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let step = rate / (1.0 - options.beta1.powi(power));
        let root = (1.0 - options.beta2.powi(power)).sqrt();
        let keep = (1.0 - rate * options.weight_decay) as f32;
        let (beta2, epsilon) = (options.beta2 as f32, options.epsilon as f32);
        let (new1, new2) = ((1.0 - options.beta1) as f32, (1.0 - options.beta2) as f32);
        let inverse_root = (1.0 / root) as f32;
        let mut at = 0;
        for segment in segments {
            let range = at..at + segment.len;
            at += segment.len;
            let unit = segment.unit as f32;
            let step = (step * segment.unit) as f32;
            let moments = self.mean[range.clone()].iter_mut().zip(&mut self.square[range.clone()]);
            for ((p, g), (m, v)) in parameters[range.clone()].iter_mut().zip(&gradient[range]).zip(moments) {
                let g = g * unit;
                *p *= keep;
                *m += (g - *m) * new1;
                *v = *v * beta2 + g * g * new2;
                *p -= step * (*m / (v.sqrt() * inverse_root + epsilon));
            }
        }
    }
}

/// The norm of the gradient over all segments, each in its unit; where it is above `limit`, the gradient is scaled down to
/// that norm. Summed in f64 in the order of the parameters.
pub fn clip_norm(segments: &[Segment], gradient: &mut [f32], limit: Option<f64>) -> f64 {
    let mut at = 0;
    let mut sum = 0f64;
    for segment in segments {
        let part = &gradient[at..at + segment.len];
        at += segment.len;
        sum += part.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>() * segment.unit.powi(2);
    }
    let norm = sum.sqrt();
    if let Some(limit) = limit
        && norm > limit
        && norm.is_finite()
    {
        let scale = (limit / norm) as f32;
        gradient.iter_mut().for_each(|g| *g *= scale);
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    /// AdamW as its paper writes it, in f64, in the parameters' own unit.
    fn paper(options: &AdamOptions, rate: f64, gradients: &[Vec<f64>], start: &[f64]) -> Vec<f64> {
        let (mut p, n) = (start.to_vec(), start.len());
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        for (t, g) in gradients.iter().enumerate() {
            let t = t as i32 + 1;
            for i in 0..n {
                m[i] = options.beta1 * m[i] + (1.0 - options.beta1) * g[i];
                v[i] = options.beta2 * v[i] + (1.0 - options.beta2) * g[i] * g[i];
                let (mean, square) = (m[i] / (1.0 - options.beta1.powi(t)), v[i] / (1.0 - options.beta2.powi(t)));
                p[i] -= rate * (mean / (square.sqrt() + options.epsilon) + options.weight_decay * p[i]);
            }
        }
        p
    }

    fn gradients(steps: usize, n: usize) -> Vec<Vec<f64>> {
        let wave = |t: usize, i: usize| ((t * 7 + i * 13) as f64 * 0.37).sin() * 10f64.powi(i as i32 % 5 - 3);
        (0..steps).map(|t| (0..n).map(|i| wave(t, i)).collect()).collect()
    }

    #[test]
    fn steps_are_those_of_the_paper() {
        let n = 40;
        let start: Vec<f64> = (0..n).map(|i| f64::from(i) * 0.1 - 2.0).collect();
        let gradients = gradients(60, n as usize);
        for weight_decay in [0.0, 0.1] {
            let options = AdamOptions { weight_decay, ..AdamOptions::default() };
            let expected = paper(&options, 0.01, &gradients, &start);
            let mut adam = AdamW::new(start.len());
            let mut p: Vec<f32> = start.iter().map(|&v| v as f32).collect();
            for g in &gradients {
                let g: Vec<f32> = g.iter().map(|&v| v as f32).collect();
                adam.step(&options, 0.01, &[Segment { len: start.len(), unit: 1.0 }], &mut p, &g);
            }
            for (found, expected) in p.iter().zip(&expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-5, "{found} {expected}");
            }
        }
    }

    /// What torch.optim.AdamW gives; see `core/tests/python/adamw.py`.
    #[test]
    fn steps_are_those_of_torch() {
        let options = AdamOptions { weight_decay: 0.1, ..AdamOptions::default() };
        let mut adam = AdamW::new(4);
        let mut p = [1.0f32, -2.0, 0.5, 0.0];
        for g in TORCH_GRADIENTS {
            adam.step(&options, 0.05, &[Segment { len: 4, unit: 1.0 }], &mut p, &g);
        }
        for (found, expected) in p.iter().zip(TORCH_PARAMETERS) {
            assert!((found - expected).abs() <= 2e-7, "{p:?}");
        }
    }

    const TORCH_GRADIENTS: [[f32; 4]; 3] =
        [[0.1, -3.0, 1e-4, 2e-9], [-0.2, 1.0, 3e-4, -1e-9], [0.05, 0.25, -1e-4, 4e-9]];
    const TORCH_PARAMETERS: [f32; 4] = [0.960_621_83, -1.887_837_2, 0.373_200_2, -0.016_945_075];

    #[test]
    fn a_unit_is_a_change_of_variables() {
        // p = u·θ: stepping θ with the gradient u·g is stepping p with the unit u.
        let (n, unit) = (16, 0.037);
        let gradients = gradients(20, n);
        let options = AdamOptions { weight_decay: 0.05, ..AdamOptions::default() };
        let mut theta = vec![0.5f32; n];
        let mut p: Vec<f32> = theta.iter().map(|t| t * unit as f32).collect();
        let (mut a, mut b) = (AdamW::new(n), AdamW::new(n));
        for g in gradients {
            let g: Vec<f32> = g.iter().map(|&v| v as f32).collect();
            let scaled: Vec<f32> = g.iter().map(|v| v * unit as f32).collect();
            a.step(&options, 0.02, &[Segment { len: n, unit: 1.0 }], &mut theta, &scaled);
            b.step(&options, 0.02, &[Segment { len: n / 2, unit }, Segment { len: n / 2, unit }], &mut p, &g);
        }
        for (p, theta) in p.iter().zip(&theta) {
            assert!((p - theta * unit as f32).abs() < 1e-6);
        }
    }

    #[test]
    fn the_norm_is_global_and_clipped_once() {
        let segments = [Segment { len: 2, unit: 1.0 }, Segment { len: 1, unit: 2.0 }];
        let original = [3.0f32, 0.0, 2.0];
        let mut g = original;
        assert_eq!(clip_norm(&segments, &mut g, None), 5.0);
        assert_eq!(clip_norm(&segments, &mut g, Some(5.0)), 5.0);
        assert_eq!(g, original, "at the limit nothing is changed");
        assert_eq!(clip_norm(&segments, &mut g, Some(1.0)), 5.0, "the norm before clipping");
        assert!((clip_norm(&segments, &mut g, None) - 1.0).abs() < 1e-6);
        assert!((g[0] / g[2] - 1.5).abs() < 1e-6, "its direction stays");
        let mut g = [f32::NAN, 1.0, 1.0];
        assert!(clip_norm(&segments, &mut g, Some(1.0)).is_nan());
    }
}

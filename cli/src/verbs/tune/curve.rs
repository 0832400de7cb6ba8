//! The losses of a run as a picture.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::output::Outcome;

const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT: RGBColor = RGBColor(107, 114, 128);
const GRID: RGBColor = RGBColor(229, 231, 235);
const STEPS: RGBColor = RGBColor(203, 213, 225);
const SMOOTH: RGBColor = RGBColor(84, 101, 123);
const HELDOUT: RGBColor = RGBColor(194, 65, 12);

const WIDTH: i32 = 720;
const HEIGHT: i32 = 400;
const LEFT: i32 = 56;
const RIGHT: i32 = 24;
const TOP: i32 = 48;
const BOTTOM: i32 = 48;
/// Lines across, about.
const LINES: f64 = 5.0;
/// Share of the past in the smoothed line.
const MEMORY: f64 = 0.9;

/// From steps and nats to pixels.
struct Scale {
    steps: f64,
    low: f64,
    high: f64,
}

impl Scale {
    fn of(losses: &[f32], evaluations: &[(u64, f64)]) -> Self {
        let values = || losses.iter().map(|l| f64::from(*l)).chain(evaluations.iter().map(|(_, l)| *l));
        let low = values().fold(f64::INFINITY, f64::min);
        let high = values().fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low < high { (low, high) } else { (low.min(0.0), low.max(0.0) + 1.0) };
        let margin = 0.05 * (high - low);
        let steps = losses.len().max(1) as f64;
        // A run without a number to show still has axes.
        if low.is_finite() && high.is_finite() {
            Self { steps, low: low - margin, high: high + margin }
        } else {
            Self { steps, low: 0.0, high: 1.0 }
        }
    }

    fn at(&self, step: f64, loss: f64) -> (i32, i32) {
        let x = f64::from(LEFT) + step / self.steps * f64::from(WIDTH - LEFT - RIGHT);
        let y = f64::from(TOP) + (self.high - loss) / (self.high - self.low) * f64::from(HEIGHT - TOP - BOTTOM);
        (x.round() as i32, y.round() as i32)
    }
}

/// 1, 2 or 5 times a power of ten, such that `range` has some [`LINES`] of it.
fn interval(range: f64) -> f64 {
    let rough = range / LINES;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|i| *i >= rough).unwrap_or(rough)
}

fn text(size: i32, color: RGBColor, h: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&color).pos(Pos::new(h, VPos::Center))
}

/// The picture as SVG: each step's loss, the same smoothed, and the held-out losses.
pub fn draw(losses: &[f32], evaluations: &[(u64, f64)]) -> Outcome<String> {
    let scale = Scale::of(losses, evaluations);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, HEIGHT as u32)).into_drawing_area();
        // Opaque, so that it looks the same on a page with a dark theme.
        area.fill(&WHITE)?;
        let step = interval(scale.high - scale.low);
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let mut line = (scale.low / step).ceil() * step;
        while line <= scale.high {
            let (left, right) = (scale.at(0.0, line), scale.at(scale.steps, line));
            area.draw(&PathElement::new([left, right], GRID))?;
            area.draw(&Text::new(format!("{line:.decimals$}"), (left.0 - 8, left.1), text(12, FAINT, HPos::Right)))?;
            line += step;
        }
        let every = interval(scale.steps).max(1.0);
        let mut at = 0.0;
        while at <= scale.steps {
            let (x, y) = scale.at(at, scale.low);
            area.draw(&Text::new(format!("{at:.0}"), (x, y + 16), text(12, FAINT, HPos::Center)))?;
            at += every;
        }
        area.draw(&Text::new("steps", (WIDTH - RIGHT, HEIGHT - 12), text(12, FAINT, HPos::Right)))?;

        let mut smooth = losses.first().map_or(0.0, |l| f64::from(*l));
        let (mut raw, mut smoothed) = (Vec::new(), Vec::new());
        for (step, loss) in losses.iter().enumerate() {
            let loss = f64::from(*loss);
            smooth = MEMORY * smooth + (1.0 - MEMORY) * loss;
            raw.push(scale.at(step as f64 + 0.5, loss));
            smoothed.push(scale.at(step as f64 + 0.5, smooth));
        }
        area.draw(&PathElement::new(raw, STEPS))?;
        area.draw(&PathElement::new(smoothed, SMOOTH.stroke_width(2)))?;
        let scored: Vec<(i32, i32)> = evaluations.iter().map(|(step, loss)| scale.at(*step as f64, *loss)).collect();
        area.draw(&PathElement::new(scored.clone(), HELDOUT.stroke_width(2)))?;
        for point in scored {
            area.draw(&Circle::new(point, 4, HELDOUT.filled()))?;
        }

        area.draw(&Text::new("Loss, nats a token", (16, 22), text(15, INK, HPos::Left)))?;
        for (i, (name, color)) in
            [("held out", HELDOUT), ("learnt, smoothed", SMOOTH), ("learnt", STEPS)].into_iter().enumerate()
        {
            let x = WIDTH - RIGHT - 130 * i as i32;
            area.draw(&Text::new(name, (x, 22), text(12, INK, HPos::Right)))?;
            let x = x - 8 * name.len() as i32 + 8;
            area.draw(&Circle::new((x - 12, 22), 4, color.filled()))?;
        }
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_has_a_picture() {
        let losses: Vec<f32> = (0..50).map(|i| 4.0 - i as f32 * 0.02).collect();
        let svg = draw(&losses, &[(0, 4.1), (25, 3.5), (50, 3.1)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.matches("<circle").count() >= 6 && svg.matches("<polyline").count() >= 3, "{svg}");
        for (losses, evaluations) in [(&[][..], &[][..]), (&[2.0], &[]), (&[], &[(0, 3.0)]), (&[f32::NAN], &[])] {
            assert!(draw(losses, evaluations).unwrap().contains("<svg"));
        }
    }

    #[test]
    fn lines_are_at_round_numbers() {
        for (range, expected) in [(1.0, 0.2), (0.9, 0.2), (3.0, 1.0), (100.0, 20.0), (0.03, 0.01)] {
            assert!((interval(range) - expected).abs() < 1e-12, "{range}: {}", interval(range));
        }
    }
}

//! Draws the medians that `benches/peers/compare.py` recorded: `benches/results/*.json` → `benches/results/chart.svg`.
//!
//! ```text
//! cargo run --release -p timbre-benches --example chart [-- RESULTS_DIR [OUT.svg]]
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

/// A bar: the contender's name in the records, what the chart calls it, its colour.
const CONTENDERS: [(&str, &str, RGBColor); 4] = [
    ("timbre", "Timbre", RGBColor(194, 65, 12)),
    ("timbre + adapter", "Timbre + adapter", RGBColor(234, 138, 90)),
    ("llama.cpp", "llama.cpp", RGBColor(84, 101, 123)),
    ("candle", "candle", RGBColor(160, 173, 189)),
];

/// A panel: title, section of the record, field of its medians, divisor, unit.
const PANELS: [(&str, &str, &str, f64, &str); 4] = [
    ("Prefill: higher is better", "threads 2", "pp_tps", 1.0, "tok/s"),
    ("Decode: higher is better", "threads 2", "tg_tps", 1.0, "tok/s"),
    ("Anonymous memory, context full: lower is better", "memory", "anon_bytes", 1e6, "MB"),
    ("Open to ready: lower is better", "threads 2", "load_ms", 1.0, "ms"),
];

const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT: RGBColor = RGBColor(107, 114, 128);
const LINE: RGBColor = RGBColor(209, 213, 219);

const WIDTH: i32 = 960;
const MARGIN: i32 = 24;
const HEAD: i32 = 58;
const FOOT: i32 = 38;
/// Room for the contenders' names, and for the value after the longest bar.
const NAMES: i32 = 122;
const VALUES: i32 = 92;
const BAR: i32 = 18;
/// A model's name above its bars, and the space below them.
const MODEL: i32 = 24;
const GAP: i32 = 10;
const TITLE: i32 = 30;
/// Bars longer than this many times the longest but candle's are cut, or none of the others could be told apart.
const CUT: f64 = 2.5;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What `compare.py` wrote about one model.
pub struct Record(pub Value);

impl Record {
    fn model(&self) -> &str {
        self.0["model"].as_str().unwrap_or("?").trim_end_matches(".gguf")
    }

    fn median(&self, section: &str, contender: &str, field: &str) -> Option<f64> {
        let value = self.0["sections"][section]["medians"][contender][field].as_f64()?;
        (value.is_finite() && value >= 0.0).then_some(value)
    }

    /// How it was measured, in a line.
    fn conditions(&self) -> String {
        let speed = &self.0["sections"]["threads 2"]["settings"];
        let memory = &self.0["sections"]["memory"]["settings"];
        format!(
            "{}; {} threads, prompt {}, generate {}; memory at {} tokens of {}; medians of {}, in turns",
            self.0["cpu"].as_str().unwrap_or("?"),
            speed["t"],
            speed["p"],
            speed["g"],
            memory["p"],
            memory["ctx"],
            self.0["repetitions"],
        )
    }
}

/// The records in a folder, by file name; files of another form are refused.
pub fn read(folder: &Path) -> Outcome<Vec<Record>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    // The smallest model's name sorts last here.
    paths.sort_by(|a, b| b.cmp(a));
    let read = |path: &PathBuf| {
        let value: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        if !value["sections"]["threads 2"]["medians"].is_object() {
            return Err(format!("{} has no section \"threads 2\": `just bench-peers` writes it", path.display()).into());
        }
        Ok(Record(value))
    };
    let records: Vec<Record> = paths.iter().map(read).collect::<Outcome<_>>()?;
    if records.is_empty() { Err(format!("no .json in {}", folder.display()).into()) } else { Ok(records) }
}

/// Digits that mean something: 3 301, 151, 20.4, 0.86.
fn number(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => format!("{} {:03}", v.round() as u64 / 1000, v.round() as u64 % 1000),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

fn text(size: i32, color: RGBColor, bold: bool, h: HPos) -> TextStyle<'static> {
    let style = if bold { FontStyle::Bold } else { FontStyle::Normal };
    ("sans-serif", size, style).into_font().color(&color).pos(Pos::new(h, VPos::Center))
}

/// The chart as SVG.
pub fn draw(records: &[Record]) -> Outcome<String> {
    let panel_height = TITLE + records.len() as i32 * (MODEL + CONTENDERS.len() as i32 * BAR + GAP);
    let height = HEAD + 2 * (panel_height + MARGIN) + FOOT;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH as u32, height as u32)).into_drawing_area();
        // Opaque, so that it looks the same on a page with a dark theme.
        area.fill(&WHITE)?;
        let title = "Timbre beside llama.cpp and candle, the same files, one machine";
        area.draw(&Text::new(title, (MARGIN, HEAD / 2), text(20, INK, true, HPos::Left)))?;
        for (i, panel) in PANELS.iter().enumerate() {
            let (column, row) = (i as i32 % 2, i as i32 / 2);
            let width = (WIDTH - 3 * MARGIN) / 2;
            let at = (MARGIN + column * (width + MARGIN), HEAD + row * (panel_height + MARGIN));
            draw_panel(&area, at, width, panel, records)?;
        }
        if let Some(record) = records.first() {
            let at = (MARGIN, height - FOOT / 2 - 4);
            area.draw(&Text::new(record.conditions(), at, text(12, FAINT, false, HPos::Left)))?;
        }
        area.present()?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_panel(
    area: &Area<'_>,
    (left, top): (i32, i32),
    width: i32,
    &(title, section, field, divisor, unit): &(&str, &str, &str, f64, &str),
    records: &[Record],
) -> Outcome {
    let value = |record: &Record, contender: &str| record.median(section, contender, field).map(|v| v / divisor);
    let longest = |with_candle: bool| {
        let names = CONTENDERS.iter().filter(|c| with_candle || c.0 != "candle");
        let values = records.iter().flat_map(|r| names.clone().filter_map(move |c| value(r, c.0)));
        values.fold(0.0, f64::max)
    };
    let full = longest(true).min(CUT * longest(false)).max(f64::MIN_POSITIVE);
    let room = width - NAMES - VALUES;

    area.draw(&Text::new(title, (left, top + 9), text(15, INK, true, HPos::Left)))?;
    area.draw(&PathElement::new([(left, top + TITLE - 8), (left + width, top + TITLE - 8)], LINE))?;
    let mut y = top + TITLE;
    for record in records {
        area.draw(&Text::new(record.model().to_owned(), (left, y + MODEL / 2), text(12, FAINT, false, HPos::Left)))?;
        y += MODEL;
        for (contender, label, color) in CONTENDERS {
            let middle = y + BAR / 2;
            area.draw(&Text::new(label, (left + NAMES - 8, middle), text(13, INK, false, HPos::Right)))?;
            let bar = left + NAMES;
            let (end, shown) = match value(record, contender) {
                Some(v) => {
                    let length = (f64::from(room) * (v / full).min(1.0)).round() as i32;
                    let end = bar + length.max(2);
                    area.draw(&Rectangle::new([(bar, y + 2), (end, y + BAR - 2)], color.filled()))?;
                    if v > full {
                        for x in [end - 22, end - 15] {
                            let corners = [(x, y + BAR), (x + 3, y + BAR), (x + 8, y), (x + 5, y)];
                            area.draw(&Polygon::new(corners, WHITE))?;
                        }
                    }
                    (end, format!("{} {unit}", number(v)))
                }
                None => (bar, "not measured".to_owned()),
            };
            area.draw(&Text::new(shown, (end + 6, middle), text(13, INK, false, HPos::Left)))?;
            y += BAR;
        }
        y += GAP;
    }
    Ok(())
}

// A test includes this file for the functions above.
#[allow(dead_code)]
fn main() -> Outcome {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/results")));
    let out = arguments.next().unwrap_or_else(|| folder.join("chart.svg"));
    std::fs::write(&out, draw(&read(&folder)?)?)?;
    println!("{}", out.display());
    Ok(())
}

//! The chart of recorded comparisons.

#[path = "../examples/chart.rs"]
mod chart;

use chart::{Record, draw, read};
use serde_json::{Value, json};

fn record(model: &str) -> Value {
    let row = |tps: f64, bytes: f64, load: f64| json!({"pp_tps": tps, "tg_tps": tps / 2.0, "anon_bytes": bytes, "load_ms": load});
    let medians = json!({
        "timbre": row(300.0, 20.4e6, 0.5), "llama.cpp": row(200.0, 82e6, 138.0), "candle": row(30.0, 3.3e9, 12_345.0),
    });
    let settings = json!({"p": 512, "g": 128, "t": 2, "ctx": 512});
    json!({
        "model": model, "cpu": "A CPU", "repetitions": 3,
        "sections": {
            "threads 2": {"settings": settings, "medians": medians},
            "memory": {"settings": settings, "medians": medians},
        },
    })
}

/// Widths of the bars of a colour, in the order they were drawn.
fn bars(svg: &str, fill: &str) -> Vec<u32> {
    let attribute = |line: &str, name: &str| {
        let value = line.split_once(&format!(" {name}=\"")).unwrap().1.split('"').next().unwrap();
        value.parse::<u32>().unwrap()
    };
    svg.lines().filter(|l| l.starts_with("<rect") && l.contains(fill)).map(|l| attribute(l, "width")).collect()
}

#[test]
fn every_value_is_drawn_to_scale() {
    let svg = draw(&[Record(record("one.gguf")), Record(record("two.gguf"))]).unwrap();
    for words in ["\none\n", "\ntwo\n", "300 tok/s", "150 tok/s", "20.4 MB", "3300 MB", "0.50 ms", "12 345 ms", "A CPU"]
    {
        assert!(svg.contains(words), "{words:?}: {svg}");
    }
    // Two models in each of four panels.
    let (timbre, llama, candle) = (bars(&svg, "#C2410C"), bars(&svg, "#54657B"), bars(&svg, "#A0ADBD"));
    assert_eq!((timbre.len(), llama.len(), candle.len()), (8, 8, 8));
    for panel in [0, 2] {
        assert!((f64::from(llama[panel]) / f64::from(timbre[panel]) - 2.0 / 3.0).abs() < 0.01);
    }
    // A bar too long for the others to be seen is cut, and marked.
    assert!(f64::from(candle[4]) / f64::from(llama[4]) < 2.6 && svg.contains("<polygon"));
    // No record has Timbre with an adapter.
    assert_eq!(svg.matches("not measured").count(), 8);
}

#[test]
fn records_of_another_form_are_refused() {
    let folder = std::env::temp_dir().join(format!("timbre-chart-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
    assert!(read(&folder).is_err());
    write("a.json", &record("a"));
    assert_eq!(read(&folder).unwrap().len(), 1);
    write("b.json", &json!({"model": "b", "medians": {}}));
    let error = read(&folder).map(drop).unwrap_err().to_string();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(error.contains("b.json") && error.contains("just bench-peers"), "{error}");
}

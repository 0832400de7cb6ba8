//! An adapter of 60 modules loads in less than 5 ms and swaps in less than 50 µs. Alone in its file, so that no other test
//! runs beside the clock.

mod common;

use common::{adapter, smollm2, timbre};

#[test]
fn loading_takes_less_than_5_ms_and_swapping_less_than_50_us() {
    for name in ["devil", "kjv"] {
        let (model, path) = (smollm2(), adapter(name));
        let modules = timbre(&["adapter", "inspect", &path, "--json"]).json()["modules"].as_array().unwrap().len();
        assert_eq!(modules, 60);
        // The medians of nine.
        let args = ["bench", "--model", &model, "--adapter", &path, "-p", "1", "-g", "1", "-r", "9", "--json"];
        let report = timbre(&args).json();
        let (load, swap) = (report["adapter_load_us"].as_f64().unwrap(), report["swap_us"].as_f64().unwrap());
        println!("{name}: {modules} modules load in {load:.0} µs and swap in {swap:.2} µs");
        assert!(load < 5_000.0, "{load} µs");
        assert!(swap < 50.0, "{swap} µs");
    }
}

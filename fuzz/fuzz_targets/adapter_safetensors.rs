//! Any bytes as an adapter's tensors, in both forms: refused, or finite numbers at positions inside the shape.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timbre::adapter::AdapterFile;
use timbre::spectral::PlanCache;

const CONFIG: &[u8] = br#"{"peft_type": "FOURIERFT", "target_modules": ["q_proj"], "n_frequency": 4}"#;
const LORA: &[u8] = br#"{"peft_type": "LORA", "target_modules": ["q_proj"], "r": 2}"#;
/// Positions are drawn for models up to this many rows and columns; a file may claim more.
const SIDE: usize = 256;

fuzz_target!(|bytes: &[u8]| {
    for config in [CONFIG, LORA] {
        if let Ok(file) = AdapterFile::from_peft_bytes(config, bytes) {
            let _ = file.summary();
            let _ = file.resolve(&PlanCache::new(), |_| Some((24, 16)));
        }
    }
    if let Ok(file) = AdapterFile::from_single_bytes(bytes) {
        let _ = file.summary();
        let _ = file.resolve(&PlanCache::new(), |module| {
            file.shape_of(module).filter(|&(rows, cols)| rows <= SIDE && cols <= SIDE)
        });
    }
});

//! Any bytes as a PEFT `adapter_config.json`: refused, or it says the same after being written again, and its expressions
//! answer for any module name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timbre::adapter::{Method, PeftConfig, Selection};

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = PeftConfig::from_json(bytes) else { return };
    let again = PeftConfig::from_json(config.to_json().as_bytes()).expect("what is written is read");
    assert_eq!(again, config);
    let Ok(selection) = Selection::new(&config) else { return };
    for module in ["model.layers.3.self_attn.q_proj", "lm_head", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"] {
        let _ = selection.selects(module);
        match &config.method {
            Method::Fourier(method) => _ = method.n_frequencies().map(|counts| counts.get(module)),
            Method::Lora(method) => {
                let _ = method.ranks().map(|ranks| ranks.get(module));
                let _ = method.alphas().map(|alphas| alphas.get(module));
            }
        }
    }
});

//! Adapter files made to do harm: each is refused with the error that says why.

mod adapter_support;

use std::fs;
use std::path::Path;

use adapter_support::{cause, config, f32s, fixture, key, safetensors, weights, with_header};
use proptest::prelude::*;
use serde_json::json;
use timbre::adapter::{AdapterError, AdapterFile, PeftConfig};

const M: &str = "model.layers.0.q_proj";
const GOOD: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

fn parse(weights: &[u8]) -> Result<AdapterFile, AdapterError> {
    AdapterFile::from_peft_bytes(&config(json!({})), weights)
}

/// A PEFT directory with these two files.
fn directory(config: &[u8], weights: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("adapter_config.json"), config).unwrap();
    fs::write(dir.path().join("adapter_model.safetensors"), weights).unwrap();
    dir
}

fn load(path: &Path) -> AdapterError {
    cause(AdapterFile::load(path).unwrap_err())
}

#[test]
fn coefficients_must_be_finite() {
    parse(&weights(&[(M, &GOOD)])).unwrap();
    for (index, value) in [(0, f32::NAN), (3, f32::INFINITY), (2, f32::NEG_INFINITY)] {
        let mut c = GOOD;
        c[index] = value;
        let error = parse(&weights(&[("model.layers.1.q_proj", &GOOD), (M, &c)])).unwrap_err();
        assert!(matches!(&error, AdapterError::NonFinite { module, index: i, .. } if module == M && *i == index));
    }
    let nan = half::f16::NAN.to_le_bytes().repeat(4);
    let error = parse(&safetensors(None, &[(&key(M), "F16", vec![4], nan)])).unwrap_err();
    assert!(matches!(error, AdapterError::NonFinite { .. }), "{error}");
}

#[test]
fn spectra_must_be_lists_of_floats_of_the_configured_length() {
    let tensor = |dtype, dims: Vec<usize>, bytes| parse(&safetensors(None, &[(&key(M), dtype, dims, bytes)]));
    let error = tensor("F64", vec![4], vec![0; 32]).unwrap_err();
    assert!(matches!(&error, AdapterError::Dtype { name, .. } if name == M), "{error}");
    assert!(matches!(tensor("I32", vec![4], vec![0; 16]), Err(AdapterError::Dtype { .. })));
    assert!(matches!(tensor("F32", vec![2, 2], vec![0; 16]), Err(AdapterError::TensorShape { .. })));
    assert!(matches!(tensor("F32", vec![], vec![0; 4]), Err(AdapterError::TensorShape { .. })));
    for n in [0, 3, 5] {
        let error = tensor("F32", vec![n], vec![0; 4 * n]).unwrap_err();
        assert!(matches!(&error, AdapterError::Count { module, expected: 4, found } if module == M && *found == n));
    }
    let pattern = config(json!({"n_frequency_pattern": {"layers.0.q_proj": 6}}));
    let error = AdapterFile::from_peft_bytes(&pattern, &weights(&[(M, &GOOD)])).unwrap_err();
    assert!(matches!(error, AdapterError::Count { expected: 6, found: 4, .. }), "{error}");
}

#[test]
fn only_targeted_spectra_belong_in_the_file() {
    let error = parse(&weights(&[(M, &GOOD), ("model.layers.0.k_proj", &GOOD)])).unwrap_err();
    assert!(matches!(&error, AdapterError::NotTargeted { module } if module == "model.layers.0.k_proj"));
    for name in [
        "base_model.model.lm_head.weight",
        "model.layers.0.q_proj.fourierft_spectrum",
        "base_model.model.q_proj.fourierft_spectrum.default",
        "base_model.model.q_proj.lora_A.weight",
        "",
    ] {
        let error = parse(&safetensors(None, &[(name, "F32", vec![4], f32s(&GOOD))])).unwrap_err();
        assert!(matches!(&error, AdapterError::UnknownTensor { name: n } if n == name), "{error}");
    }
    for name in ["", "a\u{1b}[2Jq_proj", &"x".repeat(600)] {
        let error = parse(&weights(&[(name, &GOOD)])).unwrap_err();
        assert!(matches!(error, AdapterError::ModuleName { .. }), "{error}");
    }
    assert!(matches!(parse(&safetensors(None, &[])), Err(AdapterError::NoModules)));
    assert!(matches!(parse(&with_header("{}", &[])), Err(AdapterError::NoModules)));
}

#[test]
fn a_header_that_lies_is_refused() {
    let good = weights(&[(M, &GOOD)]);
    let refused = |bytes: &[u8], what: &str| {
        let error = parse(bytes).unwrap_err();
        assert!(matches!(error, AdapterError::Safetensors(_)), "{what}: {error}");
    };
    for length in [0u64, 1, good.len() as u64, good.len() as u64 + 1, 1 << 40, u64::MAX - 7, u64::MAX] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        refused(&bytes, "header length");
    }
    for cut in [0, 4, 8, 20, good.len() - 1] {
        refused(&good[..cut], "truncated");
    }
    refused(&[&good[..], &[0]].concat(), "trailing bytes");
    let tensor = |shape: &str, offsets: &str| {
        with_header(
            &format!(r#"{{"{}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#, key(M)),
            &[0; 16],
        )
    };
    parse(&tensor("[4]", "[0,16]")).unwrap();
    refused(&tensor("[4]", "[0,20]"), "past the end");
    refused(&tensor("[4]", "[4,16]"), "a gap");
    refused(&tensor("[4]", "[16,0]"), "backwards");
    refused(&tensor("[5]", "[0,16]"), "another size");
    refused(&tensor("[4294967296,4294967296,4]", "[0,16]"), "a size that overflows");
    refused(&tensor("[18446744073709551615]", "[0,16]"), "a size that overflows in bytes");
    refused(&tensor("[-4]", "[0,16]"), "negative");
    refused(&tensor("[4]", "[0,18446744073709551615]"), "an end that wraps");
    refused(&with_header("[]", &[]), "not an object");
    refused(&with_header("{\"a\":", &[]), "half a header");
    refused(&with_header("\u{0}", &[]), "no JSON");
    refused(&with_header(&"[".repeat(100_000), &[]), "deep");
    let padded = with_header(&format!("{{{}}}", " ".repeat((16 << 20) + 1)), &[]);
    assert!(matches!(parse(&padded), Err(AdapterError::HeaderTooLarge { .. })));
}

#[test]
fn a_configuration_is_a_sane_json_object() {
    let refused = |bytes: &[u8]| matches!(PeftConfig::from_json(bytes), Err(AdapterError::Json(_)));
    assert!(refused(b""));
    assert!(refused(b"[]"));
    assert!(refused(b"{\"peft_type\": \"FOURIERFT\","));
    assert!(refused(b"\xff\xfe"));
    assert!(refused("[".repeat(1 << 19).as_bytes()), "nesting has a limit");
    assert!(refused(br#"{"peft_type": "FOURIERFT", "target_modules": ["q"], "scaling": NaN}"#));
    assert!(refused(br#"{"peft_type": "FOURIERFT", "target_modules": ["q"], "scaling": 1e999}"#));
    assert!(matches!(PeftConfig::from_json(b"{}"), Err(AdapterError::Field { .. })));
    // A quoted value is cut, so that an error is not the file.
    let long = PeftConfig::from_json(&config(json!({"bias": "é".repeat(10_000)}))).unwrap_err();
    assert!(long.to_string().len() < 300);
}

#[test]
fn patterns_cannot_stall_the_reader() {
    let with = |changes| AdapterFile::from_peft_bytes(&config(changes), &weights(&[(M, &GOOD)])).unwrap_err();
    for changes in [
        json!({"target_modules": "(unclosed"}),
        json!({"exclude_modules": "*"}),
        json!({"n_frequency_pattern": {"[": 4}}),
        json!({"layers_to_transform": [0], "layers_pattern": "("}),
        json!({"target_modules": "x".repeat(5000)}),
        json!({"target_modules": r"((\w{200}){200}){200}"}),
        json!({"target_modules": r"(?:(?=(\w|\.)+)(?:\w|\.)+)+(?=!)x"}),
    ] {
        let start = std::time::Instant::now();
        let error = with(changes.clone());
        assert!(matches!(error, AdapterError::Pattern { .. } | AdapterError::NotTargeted { .. }), "{changes}: {error}");
        assert!(start.elapsed().as_secs() < 5, "{changes}");
    }
}

#[test]
fn only_two_regular_files_are_read() {
    let good = (config(json!({})), weights(&[(M, &GOOD)]));
    let dir = directory(&good.0, &good.1);
    fs::write(dir.path().join("adapter_model.bin"), "not looked at").unwrap();
    AdapterFile::load(dir.path()).unwrap();

    let dir = directory(&good.0, &good.1);
    fs::remove_file(dir.path().join("adapter_model.safetensors")).unwrap();
    assert!(matches!(load(dir.path()), AdapterError::Missing { file: "adapter_model.safetensors" }));
    fs::write(dir.path().join("adapter_model.bin"), "pickle").unwrap();
    assert!(matches!(load(dir.path()), AdapterError::Pickle));
    fs::create_dir(dir.path().join("adapter_model.safetensors")).unwrap();
    assert!(matches!(load(dir.path()), AdapterError::NotRegular));
    fs::remove_file(dir.path().join("adapter_config.json")).unwrap();
    assert!(matches!(load(dir.path()), AdapterError::Missing { file: "adapter_config.json" }));

    for (name, pickled) in [("a.bin", true), ("a.pt", true), ("a.gguf", false), ("a", false)] {
        let path = dir.path().join(name);
        fs::write(&path, "x").unwrap();
        let error = load(&path);
        assert!(matches!(error, AdapterError::Pickle) == pickled, "{error}");
        assert!(matches!(error, AdapterError::Unrecognised) != pickled, "{error}");
    }
    assert!(matches!(load(&dir.path().join("nowhere")), AdapterError::Io { .. }));
    assert!(matches!(load(Path::new("../../../nowhere/..")), AdapterError::Io { .. }));
}

#[cfg(unix)]
#[test]
fn links_are_followed_to_regular_files_only() {
    use std::os::unix::fs::symlink;
    let good = directory(&config(json!({})), &weights(&[(M, &GOOD)]));
    let cached = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        symlink(good.path().join(file), cached.path().join(file)).unwrap();
    }
    // As Hugging Face's cache lays out a snapshot.
    AdapterFile::load(cached.path()).unwrap();

    let weights = cached.path().join("adapter_model.safetensors");
    for (target, expect_missing) in [("/dev/zero", false), ("/", false), ("nowhere", true)] {
        fs::remove_file(&weights).unwrap();
        symlink(target, &weights).unwrap();
        let error = load(cached.path());
        assert!(matches!(error, AdapterError::NotRegular) != expect_missing, "{target}: {error}");
        assert!(matches!(error, AdapterError::Missing { .. }) == expect_missing, "{target}: {error}");
    }
    fs::remove_file(&weights).unwrap();
    symlink(&weights, &weights).unwrap();
    assert!(matches!(load(cached.path()), AdapterError::Missing { .. }), "a link to itself");
}

#[test]
fn files_have_caps() {
    let dir = directory(&vec![b' '; (1 << 20) + 1], &weights(&[(M, &GOOD)]));
    assert!(matches!(load(dir.path()), AdapterError::TooLarge { limit: 0x10_0000, .. }));
    // A sparse file says it is large without being it; it is refused before it is read.
    let dir = directory(&config(json!({})), &[]);
    let file = fs::File::create(dir.path().join("adapter_model.safetensors")).unwrap();
    file.set_len((1 << 30) + 1).unwrap();
    assert!(matches!(load(dir.path()), AdapterError::TooLarge { .. }));
}

#[test]
fn errors_name_the_file() {
    let dir = directory(&config(json!({"bias": "all"})), &[]);
    let error = AdapterFile::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_config.json") && error.contains("bias"), "{error}");
    let dir = directory(&config(json!({})), b"xx");
    let error = AdapterFile::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
}

#[test]
fn a_failed_save_leaves_what_was_there() {
    let cache = timbre::spectral::PlanCache::new();
    let adapter = adapter_support::seeded(&cache, 4, 1, 1.0, 1);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    // A file stands where a directory should be.
    assert!(adapter.save_peft(&file).is_err());
    assert!(adapter.save_peft(&file.join("below")).is_err());
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    // A directory stands where a file should be.
    assert!(adapter.save_single(dir.path(), false).is_err());
    assert!(adapter.save_single(&dir.path().join("no/such/folder.safetensors"), false).is_err());
    assert!(adapter.save_single(Path::new("/"), false).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing temporary is left");
}

proptest! {
    #[test]
    fn any_bytes_are_an_answer(config: Vec<u8>, bytes: Vec<u8>) {
        prop_assert!(PeftConfig::from_json(&config).is_err());
        prop_assert!(parse(&bytes).is_err());
        prop_assert!(AdapterFile::from_single_bytes(&bytes).is_err());
    }

    #[test]
    fn a_damaged_directory_is_an_answer(in_config in any::<proptest::sample::Index>(), in_weights in any::<proptest::sample::Index>(), a: u8, b: u8) {
        let mut config = fs::read(fixture("adapters/devil/adapter_config.json")).unwrap();
        let mut weights = fs::read(fixture("adapters/devil/adapter_model.safetensors")).unwrap();
        *in_config.get_mut(&mut config) ^= a;
        let header = weights.len().min(8000);
        *in_weights.get_mut(&mut weights[..header]) ^= b;
        let _ = AdapterFile::from_peft_bytes(&config, &weights);
    }
}

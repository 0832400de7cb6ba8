//! What goes wrong in the core arrives as one of the few errors, with its place and its numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use timbre_bindings::{
    Backend, KvPrecision, ModelOptions, NativeAdapter, NativeModel, ProgressListener, TimbreError, estimate_memory,
    mix_adapters,
};

fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_string_lossy().into_owned()
}

fn open(path: &str) -> TimbreError {
    NativeModel::open(path.to_owned(), ModelOptions::default(), None).err().unwrap()
}

/// A GGUF file without tensors, of an architecture and with an extra count.
fn gguf(architecture: &str, tensors: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    for (text, ty) in [("general.architecture", None), (architecture, Some(8u32))] {
        bytes.extend(ty.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.bytes());
    }
    bytes
}

#[test]
fn files_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.gguf").to_string_lossy().into_owned();
    assert!(matches!(open(&missing), TimbreError::Io { path, .. } if path == missing));
    let text = write(&folder, "text.gguf", b"no model, but as long as a header has to be");
    assert!(matches!(open(&text), TimbreError::CorruptFile { path, offset: Some(0), .. } if path == text));
    let short = write(&folder, "short.gguf", &gguf("llama", 0)[..40]);
    assert!(matches!(open(&short), TimbreError::CorruptFile { path, offset: Some(at), .. } if path == short && at > 0));
    let count = write(&folder, "count.gguf", &gguf("llama", u64::MAX));
    assert!(
        matches!(open(&count), TimbreError::CorruptFile { path, offset: Some(8), .. } if path == count),
        "{}",
        open(&count)
    );
    let other = write(&folder, "other.gguf", &gguf("mamba", 0));
    assert!(matches!(open(&other), TimbreError::UnsupportedModel { what } if what.contains("mamba")));
    let estimate = estimate_memory(other, Some(0), KvPrecision::F16).unwrap_err();
    assert!(matches!(estimate, TimbreError::InvalidArgument { what, .. } if what == "context"));
    let options = ModelOptions { backend: Backend::Gpu, ..ModelOptions::default() };
    let error = NativeModel::open(missing, options, None).err().unwrap();
    assert!(matches!(error, TimbreError::GpuUnavailable { .. } | TimbreError::Io { .. }), "{error}");
}

#[test]
fn files_that_are_no_adapters() {
    let folder = tempfile::tempdir().unwrap();
    let load = |path: String| NativeAdapter::load(path).err().unwrap();
    let bad = write(&folder, "bad.safetensors", b"nothing");
    assert!(matches!(load(bad.clone()), TimbreError::CorruptFile { path, .. } if path == bad));
    assert!(matches!(load(write(&folder, "a.txt", b"x")), TimbreError::InvalidArgument { .. }));
    assert!(matches!(load("/no/such/adapter".to_owned()), TimbreError::Io { .. }));
    let bytes = NativeAdapter::from_bytes("mine".to_owned(), vec![1, 2, 3]).err().unwrap();
    assert!(matches!(bytes, TimbreError::CorruptFile { path, .. } if path == "mine"));
    assert!(matches!(mix_adapters("mix".to_owned(), Vec::new(), None), Err(TimbreError::InvalidArgument { .. })));
}

#[test]
fn an_adapter_survives_bytes_and_says_what_it_is() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/adapters/devil");
    let adapter = NativeAdapter::load(folder.to_owned()).unwrap();
    let info = adapter.info().unwrap();
    assert_eq!((info.name.as_str(), info.parameters, info.n, info.alpha), ("devil", 60_000, Some(1000), Some(300.0)));
    let copy = NativeAdapter::from_bytes("devil".to_owned(), adapter.to_bytes(false).unwrap()).unwrap();
    assert_eq!(copy.info().unwrap(), info);
    assert!(adapter.to_bytes(true).unwrap().len() < adapter.to_bytes(false).unwrap().len() * 2 / 3);
}

/// Stops, or fails, at its second report.
struct Listener {
    reports: AtomicUsize,
    end: Result<bool, TimbreError>,
}

impl ProgressListener for Listener {
    fn on_progress(&self, done: u64, total: u64) -> Result<bool, TimbreError> {
        assert!(done <= total);
        if self.reports.fetch_add(1, Ordering::Relaxed) == 0 { Ok(true) } else { self.end.clone() }
    }
}

#[test]
fn a_listener_can_stop_the_opening() {
    let models = std::env::var_os("TIMBRE_TEST_MODELS")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models").into(), std::path::PathBuf::from);
    let path = models.join("SmolLM2-135M-Instruct.Q4_1.gguf").to_string_lossy().into_owned();
    for (end, expected) in [
        (Ok(false), TimbreError::Cancelled),
        (Err(TimbreError::Internal { reason: "mine".to_owned() }), TimbreError::Internal { reason: "mine".to_owned() }),
    ] {
        let listener = Arc::new(Listener { reports: AtomicUsize::new(0), end });
        let options = ModelOptions { warm_up: true, threads: Some(1), ..ModelOptions::default() };
        let error = NativeModel::open(path.clone(), options, Some(listener.clone())).err().unwrap();
        assert_eq!(error, expected);
        assert_eq!(listener.reports.load(Ordering::Relaxed), 2);
    }
}

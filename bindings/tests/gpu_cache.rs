//! Where what is found out about GPUs is kept. One test, for the folder is the process's.

use std::path::Path;

use timbre_bindings::{TimbreError, keep_gpu_cache};

fn keep(folder: &Path) -> Result<(), TimbreError> {
    keep_gpu_cache(folder.to_string_lossy().into_owned())
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_folder_is_made_and_used_or_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("of/the/app");
    keep(&folder).unwrap();
    assert!(files(&folder).is_empty());
    // Again, and one that is there.
    keep(&folder).unwrap();
    assert!(files(&folder).is_empty());

    let file = home.path().join("file");
    std::fs::write(&file, b"no folder").unwrap();
    let refused = |folder: &Path| {
        let error = keep(folder).unwrap_err();
        assert!(matches!(&error, TimbreError::Io { path, .. } if Path::new(path) == folder), "{error}");
    };
    refused(&file);
    refused(&file.join("below"));
    // There, and closed even to root.
    #[cfg(target_os = "linux")]
    refused(Path::new("/proc"));
    let empty = keep_gpu_cache(String::new()).unwrap_err();
    assert!(matches!(&empty, TimbreError::InvalidArgument { what, .. } if what == "folder"), "{empty}");
    assert_eq!(std::fs::read(&file).unwrap(), b"no folder");

    // What was refused has not taken the place of what was not.
    #[cfg(feature = "gpu")]
    gpu::keeps_in(&folder, &home.path().join("other"));
}

#[cfg(feature = "gpu")]
mod gpu {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use timbre_bindings::{Backend, ModelOptions, NativeModel, TimbreError};

    /// The test model on the GPU; `None` where there is no GPU, which is a failure under `CI`.
    fn opened() -> Option<Arc<NativeModel>> {
        let models = std::env::var_os("TIMBRE_TEST_MODELS")
            .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/models").into(), PathBuf::from);
        let path = models.join("SmolLM2-135M-Instruct.Q4_1.gguf").to_string_lossy().into_owned();
        let options = ModelOptions { backend: Backend::Gpu, ..ModelOptions::default() };
        match NativeModel::open(path, options, None) {
            Ok(model) => Some(model),
            Err(error @ TimbreError::GpuUnavailable { .. }) => {
                assert!(std::env::var_os("CI").is_none(), "GPU tests must run under CI: {error}");
                eprintln!("\n*** SKIPPED: this test needs a GPU or a software Vulkan device: {error} ***\n");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// `folder`, which is set, gets what a model finds out, and the next finds out nothing. One that is opened after `other` was
    /// set keeps what it finds out there.
    pub fn keeps_in(folder: &Path, other: &Path) {
        let file = folder.join("gpu-verdicts.json");
        let verdicts = |file: &Path| std::fs::read_to_string(file).unwrap();
        let Some(first) = opened() else { return };
        drop(first);
        // A kernel that is tried again would put its own number here.
        let kept = verdicts(&file).replace("\"begun\": 1", "\"begun\": 7");
        assert!(kept.contains("passed") && kept.contains("\"begun\": 7"), "{kept}");
        std::fs::write(&file, &kept).unwrap();
        drop(opened().unwrap());
        assert_eq!(verdicts(&file), kept);

        super::keep(other).unwrap();
        drop(opened().unwrap());
        assert!(verdicts(&other.join("gpu-verdicts.json")).contains("passed"));
        assert_eq!(verdicts(&file), kept);
    }
}

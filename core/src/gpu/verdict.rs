//! Whether a device computes right: each kernel is tried once, and what came out is remembered.
//!
//! Some drivers miscompute some kernels. A kernel is tried on its first use on a device, against the CPU, and the verdict is kept
//! in a small file, by device, driver, shader text and version of this crate, so that a new driver is tried anew.
//! A kernel that is wrong with subgroups is tried without them. A trial that ends the process (a driver that crashes) leaves a mark, and after two of them counts as failed.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Gpu, GpuError, Shader};
use crate::durable::AtomicFile;

/// Trials that ended with the process before a kernel counts as failed.
const PATIENCE: u32 = 2;

/// What the file calls a kernel that uses subgroups, behind the trial's name: beside it there may be one on it without them.
const WITH_SUBGROUPS: &str = " with subgroups";

/// Largest verdict file that is read.
const MAX_FILE: u64 = 1 << 20;

/// A kernel, or some that are only used together, and how they are checked.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// What errors and `timbre devices` call it.
    pub name: &'static str,
    /// The shaders whose text the verdict holds for.
    pub shaders: &'static [Shader],
    /// Runs the kernels on a small case. `Ok(None)` if all numbers are right, and otherwise what was found and expected.
    pub run: fn(&Arc<Gpu>) -> Result<Option<String>, GpuError>,
}

/// What came out of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Right numbers.
    Passed,
    /// Wrong numbers, a shader the driver refuses, or a process that died of it: why.
    Failed(String),
}

/// Where devices that are opened from now on keep their verdicts.
static FILE: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Keeps the verdicts of every device that is opened from now on in `file`, and believes those in it; beside it are compiled
/// kernels, where the driver lets go of them. An app calls it once, with a place in its cache folder. Without it each process
/// finds verdicts out, and compiles kernels, anew.
pub fn keep_verdicts_in(file: impl Into<PathBuf>) {
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.into());
}

/// What was found out, and where it is kept.
#[derive(Debug)]
pub(super) struct Verdicts {
    file: Mutex<Option<PathBuf>>,
    /// By the trial's name and its shaders' hash, in which those with and without subgroups differ.
    known: Mutex<HashMap<(&'static str, String), Verdict>>,
    /// One trial at a time.
    trying: Mutex<()>,
}

impl Default for Verdicts {
    fn default() -> Self {
        let file = FILE.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self { file: Mutex::new(file), known: Mutex::default(), trying: Mutex::default() }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    device: String,
    driver: String,
    kernel: String,
    shader: String,
    timbre: String,
    /// `passed`, `failed` or `running`.
    verdict: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    detail: String,
    /// Trials begun.
    #[serde(default)]
    begun: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    verdicts: Vec<Entry>,
}

impl Entry {
    fn same(&self, other: &Self) -> bool {
        (&self.device, &self.driver, &self.kernel, &self.shader, &self.timbre)
            == (&other.device, &other.driver, &other.kernel, &other.shader, &other.timbre)
    }
}

impl Gpu {
    /// Keeps this device's verdicts in `file` from now on, and believes those in it. Compiled kernels are kept beside the file that
    /// this was called with before the first of them.
    pub fn remember_verdicts(&self, file: impl Into<PathBuf>) {
        *self.verdicts.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file.into());
    }

    /// Where verdicts are kept.
    pub(super) fn verdicts_file(&self) -> Option<PathBuf> {
        self.verdicts.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The verdict on a kernel as it is used here: a known one, or that of a trial now. Where it is wrong with subgroups it is used
    /// without them from then on, and the verdict is that on the latter.
    ///
    /// # Errors
    /// What keeps the trial from being run: [`GpuError::DeviceLost`], [`GpuError::OutOfMemory`], [`GpuError::Timeout`],
    /// [`GpuError::Command`].
    pub fn verdict(self: &Arc<Self>, trial: &Trial) -> Result<Verdict, GpuError> {
        let verdict = self.verdict_as_it_is(trial)?;
        if verdict == Verdict::Passed || !self.go_without_subgroups(trial.shaders) {
            return Ok(verdict);
        }
        self.verdict_as_it_is(trial)
    }

    fn verdict_as_it_is(self: &Arc<Self>, trial: &Trial) -> Result<Verdict, GpuError> {
        let mut entry = self.entry(trial);
        let key = (trial.name, entry.shader.clone());
        let known = || self.verdicts.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = known().get(&key) {
            return Ok(verdict.clone());
        }
        let _one = self.verdicts.trying.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verdict) = known().get(&key) {
            return Ok(verdict.clone());
        }
        let path = self.verdicts_file();
        // Held until the verdict is in the file.
        let _file = path.as_deref().and_then(|path| lock(path).ok());
        let kept = path.as_deref().and_then(|path| read(path).verdicts.into_iter().find(|kept| kept.same(&entry)));
        let believed = kept.as_ref().and_then(|kept| match kept.verdict.as_str() {
            "passed" => Some(Verdict::Passed),
            "failed" => Some(Verdict::Failed(kept.detail.clone())),
            _ if kept.begun >= PATIENCE => Some(Verdict::Failed("the process ended during its trial".to_owned())),
            _ => None,
        });
        let verdict = match believed {
            Some(verdict) => verdict,
            None => {
                entry.begun = kept.map_or(0, |kept| kept.begun) + 1;
                self.try_out(trial, path.as_deref(), entry)?
            }
        };
        known().insert(key, verdict.clone());
        Ok(verdict)
    }

    fn try_out(self: &Arc<Self>, trial: &Trial, path: Option<&Path>, mut entry: Entry) -> Result<Verdict, GpuError> {
        let keep = |entry: &Entry| {
            // A verdict that cannot be kept holds all the same: it will be found out again.
            let _ = path.map(|path| write(path, entry));
        };
        keep(&entry);
        let verdict = match (trial.run)(self) {
            Ok(None) => Verdict::Passed,
            Ok(Some(detail)) => Verdict::Failed(detail),
            Err(GpuError::Shader { reason, .. }) => Verdict::Failed(reason),
            Err(error @ GpuError::Limit { .. }) => Verdict::Failed(error.to_string()),
            Err(error) => {
                // Nothing was found out, and nobody died of it.
                entry.begun -= 1;
                keep(&entry);
                return Err(error);
            }
        };
        (entry.verdict, entry.detail) = match &verdict {
            Verdict::Passed => ("passed".to_owned(), String::new()),
            Verdict::Failed(detail) => ("failed".to_owned(), detail.clone()),
        };
        keep(&entry);
        Ok(verdict)
    }

    fn entry(&self, trial: &Trial) -> Entry {
        let mut hash = blake3::Hasher::new();
        let mut kernel = trial.name.to_owned();
        for shader in trial.shaders {
            let subgroups = self.uses_subgroups(shader);
            hash.update(shader.before(subgroups).as_bytes()).update(shader.wgsl.as_bytes());
            if subgroups && !kernel.ends_with(WITH_SUBGROUPS) {
                kernel.push_str(WITH_SUBGROUPS);
            }
        }
        Entry {
            device: format!("{} ({})", self.info().name, self.info().backend),
            driver: self.info().driver.clone(),
            kernel,
            shader: hash.finalize().to_hex()[..32].to_owned(),
            timbre: env!("CARGO_PKG_VERSION").to_owned(),
            verdict: "running".to_owned(),
            detail: String::new(),
            begun: 0,
        }
    }

    /// Refuses kernels that compute wrong numbers here.
    ///
    /// # Errors
    /// As [`trust`](Self::trust).
    pub fn trust_all<'a>(self: &Arc<Self>, trials: impl Iterator<Item = &'a Trial> + Clone) -> Result<(), GpuError> {
        // What one of them goes without, others that share a shader with it have not been tried without.
        let using = || {
            let shaders = trials.clone().flat_map(|trial| trial.shaders);
            shaders.filter(|shader| self.uses_subgroups(shader)).count()
        };
        loop {
            let before = using();
            trials.clone().try_for_each(|trial| self.trust(trial))?;
            if using() == before {
                return Ok(());
            }
        }
    }

    /// Refuses a kernel that computes wrong numbers here.
    ///
    /// # Errors
    /// [`GpuError::SelfTest`] for those; as [`verdict`](Self::verdict).
    pub fn trust(self: &Arc<Self>, trial: &Trial) -> Result<(), GpuError> {
        match self.verdict(trial)? {
            Verdict::Passed => Ok(()),
            Verdict::Failed(detail) => Err(GpuError::SelfTest { kernel: trial.name.to_owned(), detail }),
        }
    }
}

/// One process at a time tries a kernel out, so that a mark of a trial is that of a process that ended during it. The lock goes with
/// the process, however that ends.
fn lock(path: &Path) -> std::io::Result<std::fs::File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let file = std::fs::File::create(path.with_extension("lock"))?;
    file.lock()?;
    Ok(file)
}

/// What is in a verdict file; nothing if it is not there, damaged or not ours. It can only cost a trial.
fn read(path: &Path) -> File {
    let small = std::fs::metadata(path).is_ok_and(|file| file.len() <= MAX_FILE);
    let text = small.then(|| std::fs::read(path).ok()).flatten();
    text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Puts an entry in the place of what the file has of the same kernel and device, dropping other drivers and versions.
fn write(path: &Path, entry: &Entry) -> std::io::Result<()> {
    let mut file = read(path);
    file.verdicts.retain(|kept| (&kept.device, &kept.kernel) != (&entry.device, &entry.kernel));
    file.verdicts.push(entry.clone());
    let mut out = AtomicFile::create(path)?;
    out.write_all(serde_json::to_string_pretty(&file)?.as_bytes())?;
    out.commit()
}

//! [`Gguf`]: open, validate, hand out.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::map::Map;
use super::reader::Reader;
use super::tensor::{place, read_info};
use super::{Advice, GgufError, Metadata, TensorInfo, fingerprint};

/// `GGUF`, the format's magic.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Step of [`Gguf::warm_up`]: large enough that a call back per step costs nothing.
const WARM_STEP: usize = 4 << 20;
const PAGE: usize = 4096;

/// A mapped, validated GGUF file. Cheap to share (`Arc`), never written to.
///
/// Layout (GGUF specification, versions 2 and 3, little-endian): magic, version, tensor count, entry count, the
/// key–value entries, the tensor infos, padding to `general.alignment`, the tensor data.
#[derive(Debug)]
pub struct Gguf {
    map: Arc<Map>,
    version: u32,
    metadata: Metadata,
    metadata_range: Range<usize>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    alignment: usize,
    data_start: usize,
    fingerprint: OnceLock<String>,
}

impl Gguf {
    /// Maps `path` and checks its header and every tensor's type, shape, alignment, range and overlap.
    ///
    /// # Errors
    /// [`GgufError::Io`] when the file cannot be opened or mapped, else [`GgufError::InFile`] around what is wrong.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, GgufError> {
        Self::check(Map::open(path.as_ref())?)
    }

    /// The same for a file's contents given as bytes, which are copied: for tests and fuzzing, not for models.
    /// [`Self::path`] is `<memory>`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Arc<Self>, GgufError> {
        Self::check(Map::in_memory(bytes)?)
    }

    fn check(map: Map) -> Result<Arc<Self>, GgufError> {
        let map = Arc::new(map);
        let in_file = |source| GgufError::InFile { path: map.path().to_owned(), source: Box::new(source) };
        Self::parse(map.clone()).map(Arc::new).map_err(in_file)
    }

    fn parse(map: Arc<Map>) -> Result<Self, GgufError> {
        let mut reader = Reader::new(map.bytes());
        let (magic, _) = reader.take("magic", 4)?;
        if magic != MAGIC {
            return Err(GgufError::Magic { found: [magic[0], magic[1], magic[2], magic[3]] });
        }
        let version = reader.u32("version")?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version { found: version });
        }
        let tensor_count = reader.count("tensor count", TensorInfo::MIN_INFO_BYTES)?;
        let entry_count = reader.count("metadata count", Metadata::MIN_ENTRY_BYTES)?;
        let metadata_start = reader.offset();
        let metadata = Metadata::read(&map, &mut reader, entry_count)?;
        let metadata_range = metadata_start..reader.offset();

        if let Some(count) = metadata.opt_u64("split.count")?.filter(|&n| n > 1) {
            return Err(GgufError::Split { count });
        }
        let alignment = metadata.opt_u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || !(8..=65_536).contains(&alignment) {
            return Err(GgufError::Alignment { found: alignment });
        }

        let mut raw = Vec::new();
        for _ in 0..tensor_count {
            raw.push(read_info(&mut reader)?);
        }
        let data_start = reader.offset().next_multiple_of(alignment as usize);
        let (tensors, by_name) = place(raw, data_start, alignment, map.bytes().len())?;
        Ok(Self {
            map,
            version,
            metadata,
            metadata_range,
            tensors,
            by_name,
            alignment: alignment as usize,
            data_start,
            fingerprint: OnceLock::new(),
        })
    }

    /// The file's path, as it was opened.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    pub(super) fn file(&self) -> Option<&std::fs::File> {
        self.map.file()
    }

    /// The file's length in bytes.
    pub fn file_len(&self) -> usize {
        self.map.bytes().len()
    }

    /// Format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key–value section.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The key–value section as it stands in the file, for writing a derived file byte for byte.
    pub fn metadata_bytes(&self) -> &[u8] {
        &self.map.bytes()[self.metadata_range.clone()]
    }

    /// Number of entries in [`Self::metadata_bytes`].
    pub fn metadata_count(&self) -> usize {
        self.metadata.keys().count()
    }

    /// `general.alignment`, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Where the tensor data begins.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Every tensor, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, if there is one.
    pub fn opt_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.opt_tensor(name).ok_or_else(|| GgufError::MissingTensor { name: name.into() })
    }

    /// A tensor's blocks, borrowed from the map. An info of another file yields whatever lies there, or nothing.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        self.bytes(tensor.offset, tensor.len)
    }

    /// `len` bytes of the file from `offset` on, borrowed from the map; empty when they pass its end.
    pub fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        self.map.bytes().get(offset..offset.saturating_add(len)).unwrap_or(&[])
    }

    /// Hints how a tensor is about to be read.
    pub fn advise(&self, tensor: &TensorInfo, advice: Advice) {
        if tensor.offset.saturating_add(tensor.len) <= self.file_len() {
            self.map.advise(advice, tensor.offset, tensor.len);
        }
    }

    /// Hints how all of the file is about to be read.
    pub fn advise_all(&self, advice: Advice) {
        self.map.advise(advice, 0, self.file_len());
    }

    /// Asks the system to read the tensor data ahead, without waiting for it.
    pub fn advise_will_need(&self) {
        let start = self.data_start.min(self.file_len());
        self.map.advise(Advice::WillNeed, start, self.file_len() - start);
    }

    /// Reads one byte of every page of the tensor data so that the first tokens do not pay for page faults.
    /// `progress(done, total)` is called every 4 MiB; returning `false` stops early.
    ///
    /// # Errors
    /// [`GgufError::Changed`] if the file was changed meanwhile.
    pub fn warm_up(&self, mut progress: impl FnMut(usize, usize) -> bool) -> Result<(), GgufError> {
        self.advise_will_need();
        let data = self.map.bytes().get(self.data_start..).unwrap_or(&[]);
        for (i, step) in data.chunks(WARM_STEP).enumerate() {
            self.check_unchanged()?;
            let sum = step.iter().step_by(PAGE).fold(0u8, |a, &b| a.wrapping_add(b));
            std::hint::black_box(sum);
            if !progress((i * WARM_STEP + step.len()).min(data.len()), data.len()) {
                break;
            }
        }
        Ok(())
    }

    /// Compares the file's length and modification time with those at opening. Costs one `fstat`.
    ///
    /// # Errors
    /// [`GgufError::Changed`], or [`GgufError::Io`] if the file cannot be examined.
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        self.map.check_unchanged()
    }

    /// Identifies the base model an adapter belongs to: a hash over the architecture, every tensor's name, type and
    /// shape, and samples of its data. Editing metadata (a chat template, say) does not change it; requantising does.
    pub fn fingerprint(&self) -> &str {
        self.fingerprint.get_or_init(|| fingerprint::compute(self))
    }
}

//! What can be wrong with a GGUF file.

use std::path::PathBuf;

use super::GgmlType;

/// Why a file was refused or a value could not be handed out. Offsets are in bytes from the start of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened, read or mapped.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Any other failure, with the file it happened in.
    #[error("{path}: {source}")]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<GgufError>,
    },
    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: it begins with {found:02x?}, expected \"GGUF\"")]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A format version this crate does not read.
    #[error("GGUF version {found} is not supported, expected 2 or 3 (little-endian)")]
    Version {
        /// The version field.
        found: u32,
    },
    /// The file is one part of a split model.
    #[error("the file is part of a model split into {count} files: join them first (llama-gguf-split --merge)")]
    Split {
        /// Number of parts.
        count: u64,
    },
    /// A read would pass the end of the file.
    #[error("truncated: {what} at offset {offset} needs {need} bytes, {have} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        offset: usize,
        /// Bytes it needs.
        need: u64,
        /// Bytes left in the file.
        have: usize,
    },
    /// A count that the rest of the file cannot hold, or past a fixed cap.
    #[error("{what} at offset {offset} is {found}, at most {max} is possible here")]
    Count {
        /// What is counted.
        what: &'static str,
        /// Where the count stands.
        offset: usize,
        /// The count.
        found: u64,
        /// The largest acceptable one.
        max: u64,
    },
    /// A key or tensor name that is empty or not UTF-8.
    #[error("{what} at offset {offset} is {problem}")]
    Name {
        /// Key or tensor name.
        what: &'static str,
        /// Where it stands.
        offset: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The same key twice.
    #[error("metadata key {key:?} appears twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A value type number the format does not define.
    #[error("metadata key {key:?} has value type {found}, which GGUF does not define")]
    ValueType {
        /// The key.
        key: String,
        /// The type number.
        found: u32,
    },
    /// An array of arrays.
    #[error("metadata key {key:?} is an array of arrays, which is not supported")]
    NestedArray {
        /// The key.
        key: String,
    },
    /// A boolean that is neither 0 nor 1.
    #[error("metadata key {key:?} holds the boolean {found}, expected 0 or 1")]
    Bool {
        /// The key.
        key: String,
        /// The byte found.
        found: u8,
    },
    /// `general.alignment` is unusable.
    #[error("general.alignment is {found}, expected a power of two from 8 to 65536")]
    Alignment {
        /// The value.
        found: u64,
    },
    /// A needed key is not there.
    #[error("metadata key {key:?} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key holds another type than needed.
    #[error("metadata key {key:?}: expected {expected}, found {found}")]
    WrongType {
        /// The key.
        key: String,
        /// The type needed.
        expected: &'static str,
        /// The type there.
        found: String,
    },
    /// A key holds a value outside what the architecture allows.
    #[error("metadata key {key:?}: expected {expected}, found {found}")]
    BadValue {
        /// The key.
        key: String,
        /// What is acceptable.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A needed tensor is not there.
    #[error("tensor {name:?} is missing")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// The same tensor name twice.
    #[error("tensor {name:?} appears twice")]
    DuplicateTensor {
        /// The tensor.
        name: String,
    },
    /// A storage type this crate cannot compute with.
    #[error("tensor {name:?} has storage type {found}, which is not supported")]
    TensorType {
        /// The tensor.
        name: String,
        /// The type number.
        found: u32,
    },
    /// No dimensions, more than four, or one of them zero.
    #[error("tensor {name:?} has dimensions {found:?}, expected one to four, none zero")]
    TensorDims {
        /// The tensor.
        name: String,
        /// Dimensions read, or just their number.
        found: Vec<u64>,
    },
    /// A row is not a whole number of blocks.
    #[error("tensor {name:?}: rows of {found} elements are not a whole number of {ty} blocks")]
    TensorRow {
        /// The tensor.
        name: String,
        /// Its type.
        ty: GgmlType,
        /// The row length.
        found: u64,
    },
    /// The element or byte count does not fit.
    #[error("tensor {name:?}: the product of its dimensions {found:?} overflows")]
    TensorOverflow {
        /// The tensor.
        name: String,
        /// Its dimensions.
        found: Vec<u64>,
    },
    /// The data offset is not aligned.
    #[error("tensor {name:?}: data offset {found} is not a multiple of the alignment {alignment}")]
    TensorAlignment {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        found: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// The data lies past the end of the file.
    #[error("tensor {name:?}: its {need} bytes at offset {offset} pass the end of the file ({len} bytes)")]
    TensorRange {
        /// The tensor.
        name: String,
        /// Start of its data.
        offset: u64,
        /// Bytes it needs.
        need: u64,
        /// File length.
        len: usize,
    },
    /// Two tensors share bytes.
    #[error("tensors {first:?} and {second:?} overlap")]
    TensorOverlap {
        /// The one that begins first.
        first: String,
        /// The one that begins inside it.
        second: String,
    },
    /// A tensor's shape is not the one the architecture needs.
    #[error("tensor {name:?}: expected shape {expected:?} (rows, columns), found {found:?}")]
    TensorShape {
        /// The tensor.
        name: String,
        /// Rows and columns needed.
        expected: Vec<usize>,
        /// Rows and columns there.
        found: Vec<usize>,
    },
    /// The file was changed while mapped.
    #[error("{path} changed while it was mapped (length {expected} at opening, {found} now): open it again")]
    Changed {
        /// The file.
        path: PathBuf,
        /// Length at opening.
        expected: u64,
        /// Length now.
        found: u64,
    },
    /// A file was to be written over the one it is read from.
    #[error("{path} is the mapped file itself: write to another path")]
    SameFile {
        /// The path asked for.
        path: PathBuf,
    },
    /// The caller stopped the writing.
    #[error("stopped before the file was complete; nothing was written")]
    Cancelled,
}

//! A GGUF file, mapped read-only and validated once.
//!
//! This room turns a path into typed views that borrow the mapping: metadata values, vocabulary strings and tensor
//! blocks stay where the file has them and are never copied to the heap. [`Gguf::rewrite`] writes derived files, whole or
//! not at all. It imports `durable` alone.
//!
//! The header is parsed here rather than by candle's `gguf_file::Content`: that one keeps keys and tensors in hash
//! maps, so duplicates vanish silently, overlapping or misaligned tensors pass, a file with an IQ4_NL tensor is
//! refused whole, every vocabulary string becomes a heap allocation, and the order needed to write a merged file
//! byte for byte is lost.
//!
//! # Page faults
//!
//! Opening reads the header alone. The tensor data comes in page by page as it is first used, with the system's own
//! read-ahead; an embedding table that is not also the head is marked [`Advice::Random`], since one row a token is read
//! from it. The rest is [`Advice::Huge`] once a model is wired: one core reads a file in 4 KB pages at 16 to 21 GB/s and the same file
//! in 2 MB pages at 30 (Zen 4, a virtual machine, whose page tables are walked twice over). Linux has such pages for files on some file
//! systems, ext4 since 6.16 among them, if they entered the page cache in pieces of 2 MB: by a fault under this advice, or written like that, as
//! [`Gguf::rewrite`] does. [`Gguf::advise_will_need`] starts reading without waiting, and [`Gguf::warm_up`] touches every page with
//! progress, so that the first tokens do not pay. No page is locked: under pressure the system drops clean pages of the
//! map and reads them again, which is what keeps the process out of the way of a phone's low-memory killer.
//!
//! # When the file changes under the map
//!
//! A mapping is a window on the file, not a copy. If another process truncates the file, pages past the new end no
//! longer exist and the operating system answers a read there with SIGBUS (an access violation cannot happen on
//! Windows, which refuses to truncate a mapped file). Nothing can be corrupted, because the map is read-only:
//! the worst case is that the process is stopped. To turn that into an error wherever it can be one,
//! [`Gguf::check_unchanged`] compares the file's length and modification time with those at opening; the runtime
//! calls it before every prefill and every decoded token. Replace a model by renaming a new file over the old name:
//! an open map keeps the old contents.

mod error;
mod file;
mod fingerprint;
mod map;
mod metadata;
mod reader;
mod tensor;
mod types;
mod write;

pub use error::GgufError;
pub use file::Gguf;
pub use map::Advice;
pub use metadata::{Metadata, StringArray};
pub use tensor::TensorInfo;
pub use types::GgmlType;
pub use write::Rewrite;

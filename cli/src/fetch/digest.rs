//! SHA-256 as a sink for bytes.

use std::fmt::Write as _;
use std::io;

use sha2::{Digest as _, Sha256};

/// The digest of the bytes written to it.
#[derive(Clone, Default)]
pub struct Digest(Sha256);

impl Digest {
    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far, in lower-case hexadecimal.
    pub fn hex(&self) -> String {
        self.0.clone().finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! A bounds-checked little-endian cursor over the mapped header.

use std::ops::Range;

use super::GgufError;

/// Reads forward through `bytes`; every read is checked against the end.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn offset(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes and where they lie.
    pub(super) fn take(&mut self, what: &'static str, len: u64) -> Result<(&'a [u8], Range<usize>), GgufError> {
        let truncated = || GgufError::Truncated { what, offset: self.at, need: len, have: self.left() };
        let len = usize::try_from(len).map_err(|_| truncated())?;
        let end = self.at.checked_add(len).ok_or_else(truncated)?;
        let slice = self.bytes.get(self.at..end).ok_or_else(truncated)?;
        let range = self.at..end;
        self.at = end;
        Ok((slice, range))
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let (slice, _) = self.take(what, N as u64)?;
        let mut out = [0; N];
        out.copy_from_slice(slice);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A count whose items take at least `item_bytes` each: refused when the rest of the file cannot hold them.
    pub(super) fn count(&mut self, what: &'static str, item_bytes: u64) -> Result<usize, GgufError> {
        let offset = self.at;
        let found = self.u64(what)?;
        let max = self.left() as u64 / item_bytes.max(1);
        if found > max {
            return Err(GgufError::Count { what, offset, found, max });
        }
        Ok(found as usize)
    }

    /// A length-prefixed string, raw.
    pub(super) fn string(&mut self, what: &'static str) -> Result<(&'a [u8], Range<usize>), GgufError> {
        let len = self.u64(what)?;
        self.take(what, len)
    }

    /// A length-prefixed name: non-empty UTF-8 of at most `MAX_NAME` bytes.
    pub(super) fn name(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        const MAX_NAME: u64 = 65_535;
        let offset = self.at;
        let len = self.u64(what)?;
        if len > MAX_NAME {
            return Err(GgufError::Count { what, offset, found: len, max: MAX_NAME });
        }
        let (bytes, _) = self.take(what, len)?;
        if bytes.is_empty() {
            return Err(GgufError::Name { what, offset, problem: "empty" });
        }
        std::str::from_utf8(bytes).map_err(|_| GgufError::Name { what, offset, problem: "not UTF-8" })
    }
}

//! Writing a matrix as NumPy's `.npy`, version 1.0: magic, header length, a Python dictionary padded to 64 bytes, the data.

use std::io::Write;
use std::path::Path;

use timbre::durable::AtomicFile;

/// Writes `data` (`rows` × `cols`, row-major) as little-endian f32: whole or not at all.
///
/// # Errors
/// Any failure to write; the target is then untouched.
pub fn write(path: &Path, rows: usize, cols: usize, data: &[f32]) -> std::io::Result<()> {
    let mut out = AtomicFile::create(path)?;
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    // Magic, version and length take 10 bytes; the header ends in a newline at a multiple of 64.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - header.len() - 1));
    header.push('\n');
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(header.len() as u16).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for value in data {
        out.write_all(&value.to_le_bytes())?;
    }
    out.commit()
}

#[cfg(test)]
mod tests {
    #[test]
    fn header_is_aligned_and_data_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        super::write(&path, 2, 3, &[0.0, 1.0, 2.0, 3.0, 4.0, -5.5]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let header = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
        assert_eq!((10 + header) % 64, 0);
        let text = std::str::from_utf8(&bytes[10..10 + header]).unwrap();
        assert!(text.contains("'shape': (2, 3)") && text.ends_with('\n'));
        assert_eq!(&bytes[10 + header + 20..], (-5.5f32).to_le_bytes());
    }
}

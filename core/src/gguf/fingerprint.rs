//! The base model's identity, cheap enough to compute at every start.

use super::Gguf;

/// Bytes sampled from the front and from the middle of each tensor.
const SAMPLE: usize = 64;

/// BLAKE3 over `general.architecture`, then for every tensor in file order its name, type, dimensions and samples of its
/// data; the first 16 bytes in hex. Touches two pages a tensor, so a cold multi-gigabyte file stays cold.
pub(super) fn compute(gguf: &Gguf) -> String {
    let mut hash = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let architecture = gguf.metadata().opt_str("general.architecture").ok().flatten().unwrap_or("");
    field(architecture.as_bytes());
    for tensor in gguf.tensors() {
        field(tensor.name.as_bytes());
        field(&(tensor.ty as u32).to_le_bytes());
        for dim in &tensor.dims {
            field(&(*dim as u64).to_le_bytes());
        }
        let data = gguf.data(tensor);
        let middle = data.len() / 2;
        field(&data[..data.len().min(SAMPLE)]);
        field(&data[middle..data.len().min(middle + SAMPLE)]);
    }
    hash.finalize().to_hex()[..32].to_owned()
}

//! Any bytes as a GGUF file: refused, or every view of it can be used.
#![no_main]

use libfuzzer_sys::fuzz_target;
use timbre::gguf::Gguf;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(bytes) else { return };
    let meta = gguf.metadata();
    for key in meta.keys() {
        let _ = (meta.opt_str(key), meta.opt_u64(key), meta.opt_u32(key), meta.opt_f32(key), meta.opt_bool(key));
        let _ = (meta.opt_f32s(key), meta.opt_i32s(key));
        if let Ok(Some(strings)) = meta.opt_strings(key) {
            assert_eq!(strings.iter().count(), strings.len());
        }
    }
    for tensor in gguf.tensors() {
        let row_bytes = tensor.ty.row_bytes(tensor.cols()).expect("rows are whole blocks");
        assert_eq!(gguf.data(tensor).len(), row_bytes * tensor.rows());
        assert!((tensor.offset - gguf.data_start()).is_multiple_of(gguf.alignment()));
    }
    assert_eq!(gguf.fingerprint().len(), 32);
});

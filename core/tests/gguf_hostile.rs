//! Broken files: each is refused whole, with the error that names what is wrong. Nothing panics, nothing allocates by
//! a number found in the file.

#[path = "common/gguf_builder.rs"]
mod gguf_builder;

use std::path::Path;

use gguf_builder::{GgufBuilder, Value};
use proptest::prelude::*;
use timbre::gguf::{GgmlType, Gguf, GgufError};

/// The error inside [`GgufError::InFile`].
fn refused(bytes: &[u8]) -> GgufError {
    match Gguf::from_bytes(bytes) {
        Err(GgufError::InFile { path, source }) => {
            assert_eq!(path, Path::new("<memory>"));
            *source
        }
        Err(other) => panic!("{other:?} is not wrapped with its file"),
        Ok(_) => panic!("the file was accepted"),
    }
}

fn refused_file(file: &GgufBuilder) -> GgufError {
    refused(&file.build())
}

macro_rules! assert_error {
    ($error:expr, $pattern:pat $(if $guard:expr)?) => {{
        let error: GgufError = $error;
        assert!(matches!(&error, $pattern $(if $guard)?), "{error:?}");
    }};
}

/// A small valid file with every kind of value and two tensors.
fn small() -> GgufBuilder {
    GgufBuilder::new()
        .entry("general.architecture", Value::str("llama"))
        .entry("a.count", Value::U32(7))
        .entry("a.ids", Value::i32s(&[1, -2]))
        .entry("a.words", Value::strings(&["x", "yz"]))
        .f32("w", &[4, 2], &[0.5; 8])
        .tensor("q", &[32], 8, vec![1; 34])
}

fn one_tensor(dims: &[u64], ty: u32) -> GgufBuilder {
    GgufBuilder::new().tensor("t", dims, ty, vec![0; 64])
}

#[test]
fn empty_file_and_short_magic() {
    assert_error!(refused(b""), GgufError::Truncated { what: "magic", offset: 0, need: 4, have: 0 });
    assert_error!(refused(b"GGU"), GgufError::Truncated { what: "magic", have: 3, .. });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.gguf");
    std::fs::write(&path, b"").unwrap();
    let error = Gguf::open(&path).unwrap_err();
    let GgufError::InFile { path: named, source } = error else { panic!("{error:?}") };
    assert_eq!(named, path);
    assert_error!(*source, GgufError::Truncated { what: "magic", .. });
}

#[test]
fn paths_that_are_not_files() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.gguf");
    assert_error!(Gguf::open(&missing).unwrap_err(), GgufError::Io { path, source }
        if *path == missing && source.kind() == std::io::ErrorKind::NotFound);
    assert_error!(Gguf::open(dir.path()).unwrap_err(), GgufError::Io { path, .. } if path == dir.path());
}

#[cfg(target_os = "linux")]
#[test]
fn a_named_pipe_is_refused_without_waiting_for_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_error!(Gguf::open(&pipe).unwrap_err(), GgufError::Io { source, .. }
        if source.kind() == std::io::ErrorKind::InvalidInput);
}

#[test]
fn bad_magic_version_and_byte_order() {
    let mut file = small();
    file.magic = *b"GGML";
    assert_error!(refused_file(&file), GgufError::Magic { found: [b'G', b'G', b'M', b'L'] });
    for version in [0, 1, 4, u32::MAX] {
        let mut file = small();
        file.version = version;
        assert_error!(refused_file(&file), GgufError::Version { found } if *found == version);
    }
    // A big-endian file reads as version 3 << 24.
    let mut file = small();
    file.version = 3u32.swap_bytes();
    assert_error!(refused_file(&file), GgufError::Version { found: 0x0300_0000 });
}

#[test]
fn entry_count_overflow_and_lies() {
    // CVE-2024-23605: n_kv × entry size wrapped the allocation.
    for count in [u64::MAX, u64::MAX / 2 + 1, 1 << 60, 1 << 32, 1000] {
        let mut file = small();
        file.entry_count = Some(count);
        assert_error!(refused_file(&file), GgufError::Count { what: "metadata count", offset: 16, found, .. }
            if *found == count);
    }
    // One more than there are: the tensor infos are read as an entry.
    let mut file = small();
    file.entry_count = Some(5);
    refused_file(&file);
}

#[test]
fn tensor_count_overflow_and_lies() {
    for count in [u64::MAX, 1 << 63, 1 << 40, 1000] {
        let mut file = small();
        file.tensor_count = Some(count);
        assert_error!(refused_file(&file), GgufError::Count { what: "tensor count", offset: 8, found, max }
            if *found == count && *max < 20);
    }
    let mut file = small();
    file.tensor_count = Some(3);
    refused_file(&file);
}

#[test]
fn keys() {
    let file = small().entry("", Value::U8(1));
    assert_error!(refused_file(&file), GgufError::Name { what: "metadata key", problem: "empty", .. });
    let file = small().entry(b"\xff\xfe", Value::U8(1));
    assert_error!(refused_file(&file), GgufError::Name { what: "metadata key", problem: "not UTF-8", .. });
    let file = small().entry("a.count", Value::str("again"));
    assert_error!(refused_file(&file), GgufError::DuplicateKey { key } if key == "a.count");
    let file = GgufBuilder::new().entry(vec![b'k'; 70_000], Value::U8(1));
    assert_error!(refused_file(&file), GgufError::Count { what: "metadata key", found: 70_000, max: 65_535, .. });
}

#[test]
fn string_lengths_that_lie() {
    for len in [u64::MAX, 1 << 63, 1 << 40, 100] {
        let mut bytes = len.to_le_bytes().to_vec();
        bytes.extend(b"short");
        let file = GgufBuilder::new().entry("s", Value::Raw(8, bytes.clone()));
        assert_error!(refused_file(&file), GgufError::Truncated { what: "string value", need, .. } if *need == len);
        let file = GgufBuilder::new().entry("s", Value::Array(8, 1, bytes));
        assert_error!(refused_file(&file), GgufError::Truncated { what: "array string", need, .. } if *need == len);
    }
    // The same as a key's length.
    let mut bytes = GgufBuilder::new().header();
    bytes[16] = 1;
    bytes.extend(u64::MAX.to_le_bytes());
    bytes.resize(256, 0);
    assert_error!(refused(&bytes), GgufError::Count { what: "metadata key", found: u64::MAX, .. });
}

#[test]
fn array_lengths_that_lie() {
    for len in [u64::MAX, u64::MAX / 4 + 2, 1 << 62, 1000] {
        for element in [0, 4, 6, 8, 12] {
            let file = GgufBuilder::new().entry("a", Value::Array(element, len, vec![0; 16]));
            assert_error!(refused_file(&file), GgufError::Count { what: "array length", found, .. } if *found == len);
        }
    }
}

#[test]
fn nested_arrays() {
    let mut inner = Vec::new();
    for _ in 0..1000 {
        inner.extend(9u32.to_le_bytes());
        inner.extend(1u64.to_le_bytes());
    }
    let file = GgufBuilder::new().entry("a", Value::Array(9, 1, inner));
    assert_error!(refused_file(&file), GgufError::NestedArray { key } if key == "a");
}

#[test]
fn value_types_the_format_does_not_define() {
    for number in [13, 14, 255, u32::MAX] {
        let file = GgufBuilder::new().entry("a", Value::Raw(number, vec![0; 16]));
        assert_error!(refused_file(&file), GgufError::ValueType { key, found } if key == "a" && *found == number);
        let file = GgufBuilder::new().entry("a", Value::Array(number, 1, vec![0; 16]));
        assert_error!(refused_file(&file), GgufError::ValueType { key, found } if key == "a" && *found == number);
    }
}

#[test]
fn booleans_other_than_zero_and_one() {
    let file = GgufBuilder::new().entry("b", Value::Bool(2));
    assert_error!(refused_file(&file), GgufError::Bool { key, found: 2 } if key == "b");
}

#[test]
fn alignment() {
    // Zero, not a power of two, too small for whole words, and so large that padding would wrap to 0.
    for found in [0, 1, 4, 13, 24, 33, 1 << 17, 1 << 31, u64::from(u32::MAX)] {
        let file = small().entry("general.alignment", Value::U32(found as u32));
        assert_error!(refused_file(&file), GgufError::Alignment { found: f } if *f == found);
    }
    for found in [1 << 63, u64::MAX] {
        let file = small().entry("general.alignment", Value::U64(found));
        assert_error!(refused_file(&file), GgufError::Alignment { found: f } if *f == found);
    }
    for value in [Value::str("32"), Value::I32(-32), Value::F32(32.0), Value::i32s(&[32])] {
        let file = small().entry("general.alignment", value);
        assert_error!(refused_file(&file), GgufError::WrongType { key, .. } if key == "general.alignment");
    }
}

#[test]
fn split_files() {
    let file = small().entry("split.count", Value::U16(2));
    assert_error!(refused_file(&file), GgufError::Split { count: 2 });
    let file = small().entry("split.count", Value::str("2"));
    assert_error!(refused_file(&file), GgufError::WrongType { key, .. } if key == "split.count");
    assert!(Gguf::from_bytes(&small().entry("split.count", Value::U16(1)).build()).is_ok());
}

#[test]
fn tensor_ranks() {
    // CVE-2024-21802: more dimensions than the reader's array has.
    for rank in [0, 5, 6, 1 << 20, u32::MAX] {
        let file = one_tensor(&[4, 4], 0).last(|t| t.rank = Some(rank));
        assert_error!(refused_file(&file), GgufError::TensorDims { name, .. } if name == "t");
    }
    let file = one_tensor(&[2, 2, 2, 2, 1], 0);
    assert_error!(refused_file(&file), GgufError::TensorDims { found, .. } if found.len() == 5);
}

#[test]
fn zero_dimensions() {
    for dims in [&[0][..], &[4, 0], &[4, 4, 0], &[4, 1, 1, 0], &[0, u64::MAX, u64::MAX]] {
        assert_error!(refused_file(&one_tensor(dims, 0)), GgufError::TensorDims { found, .. } if found == dims);
    }
}

#[test]
fn dimension_products_that_wrap() {
    // CVE-2026-33298 and CVE-2025-53630: the product, or the product times the element size, wraps to something small.
    let wrapping: &[&[u64]] = &[
        &[1 << 32, 1 << 32],
        &[1 << 62, 4],
        &[1 << 62],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        &[(1 << 33) + 1, 1 << 31],
        &[4, u64::MAX],
        &[u64::MAX / 2 + 1, 2],
    ];
    for &dims in wrapping {
        assert_error!(refused_file(&one_tensor(dims, 0)), GgufError::TensorOverflow { found, .. } if found == dims);
    }
    // Blocks make the byte count smaller than the element count: elements must not wrap either.
    let dims = [256, 1 << 56];
    assert_error!(refused_file(&one_tensor(&dims, 10)), GgufError::TensorOverflow { found, .. } if *found == dims);
}

#[test]
fn negative_element_counts() {
    // As signed numbers these are −1, i64::MIN, and a product below zero.
    for dims in [&[u64::MAX][..], &[1 << 63], &[1 << 32, 1 << 31], &[u64::MAX, u64::MAX]] {
        assert_error!(refused_file(&one_tensor(dims, 0)), GgufError::TensorOverflow { found, .. } if found == dims);
    }
}

#[test]
fn sizes_that_wrap_only_when_added_up() {
    // CVE-2026-27940: each size fits, their sum or offset + size does not.
    let half = 1u64 << 60;
    let file = GgufBuilder::new()
        .tensor("a", &[half], 0, vec![])
        .tensor("b", &[half], 0, vec![])
        .last(|t| t.offset = Some(half * 4))
        .tensor("c", &[half], 0, vec![0; 64])
        .last(|t| t.offset = Some(half * 8));
    assert_error!(refused_file(&file), GgufError::TensorRange { name, need, .. } if name == "a" && *need == half * 4);
    for offset in [u64::MAX - 31, 1 << 63, (1 << 63) - 32] {
        let file = one_tensor(&[16], 0).last(|t| t.offset = Some(offset));
        assert_error!(refused_file(&file), GgufError::TensorRange { need: 64, .. });
    }
}

#[test]
fn dimensions_larger_than_the_data() {
    // CVE-2026-7482.
    let file = one_tensor(&[16, 1 << 20], 0);
    let len = file.build().len();
    assert_error!(refused_file(&file), GgufError::TensorRange { name, need, len: found, .. }
        if name == "t" && *need == 64 << 20 && *found == len);
    // By one row, and by the padding that is not there.
    assert_error!(refused_file(&one_tensor(&[16, 2], 0)), GgufError::TensorRange { need: 128, .. });
}

#[test]
fn data_that_is_cut_off() {
    let file = small();
    let bytes = file.build();
    let data_end = bytes.len() - (64 - 34);
    assert!(Gguf::from_bytes(&bytes[..data_end]).is_ok(), "padding after the last tensor is not needed");
    assert_error!(refused(&bytes[..data_end - 1]), GgufError::TensorRange { name, .. } if name == "q");
    assert_error!(refused(&file.header()), GgufError::TensorRange { name, .. } if name == "w");
}

#[test]
fn rows_that_are_not_whole_blocks() {
    for (ty, block) in [(2, 32), (8, 32), (20, 32), (10, 256), (14, 256)] {
        for cols in [1, block - 1, block + 1] {
            let file = one_tensor(&[cols, 32], ty);
            assert_error!(refused_file(&file), GgufError::TensorRow { name, found, ty: t }
                if name == "t" && *found == cols && *t as u32 == ty);
        }
    }
    let file = one_tensor(&[u64::MAX], 2);
    assert_error!(refused_file(&file), GgufError::TensorRow { ty: GgmlType::Q4_0, found: u64::MAX, .. });
}

#[test]
fn storage_types_out_of_reach() {
    for ty in [4, 5, 9, 15, 16, 24, 28, 31, 39, 40, u32::MAX] {
        assert_error!(refused_file(&one_tensor(&[256], ty)), GgufError::TensorType { name, found }
            if name == "t" && *found == ty);
    }
}

#[test]
fn tensor_names() {
    let file = small().f32("", &[1], &[1.0]);
    assert_error!(refused_file(&file), GgufError::Name { what: "tensor name", problem: "empty", .. });
    let file = small().f32(b"a\xc3", &[1], &[1.0]);
    assert_error!(refused_file(&file), GgufError::Name { what: "tensor name", problem: "not UTF-8", .. });
    let file = small().f32("w", &[1], &[1.0]);
    assert_error!(refused_file(&file), GgufError::DuplicateTensor { name } if name == "w");
}

#[test]
fn offsets_out_of_line() {
    for offset in [1, 8, 31, 33, u64::MAX] {
        let file = one_tensor(&[4], 0).last(|t| t.offset = Some(offset));
        assert_error!(refused_file(&file), GgufError::TensorAlignment { name, found, alignment: 32 }
            if name == "t" && *found == offset);
    }
    // Aligned to the default, not to what the file asks for.
    let file = small().aligned(64).f32("t", &[4], &[0.0; 4]).last(|t| t.offset = Some(32));
    assert_error!(refused_file(&file), GgufError::TensorAlignment { found: 32, alignment: 64, .. });
}

#[test]
fn tensors_that_overlap() {
    let same = small().f32("twin", &[4], &[0.0; 4]).last(|t| t.offset = Some(0));
    assert_error!(refused_file(&same), GgufError::TensorOverlap { first, second }
        if first == "w" && second == "twin");
    let inside = GgufBuilder::new()
        .f32("late", &[4], &[0.0; 4])
        .last(|t| t.offset = Some(32))
        .f32("early", &[9], &[0.0; 9])
        .last(|t| t.offset = Some(0));
    assert_error!(refused_file(&inside), GgufError::TensorOverlap { first, second }
        if first == "early" && second == "late");
}

#[test]
fn a_file_changed_while_mapped() {
    let dir = tempfile::tempdir().unwrap();
    let path = small().save(dir.path(), "m.gguf");
    let len = std::fs::metadata(&path).unwrap().len();
    let gguf = Gguf::open(&path).unwrap();
    gguf.check_unchanged().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(40).unwrap();
    for _ in 0..2 {
        assert_error!(gguf.check_unchanged().unwrap_err(), GgufError::Changed { path: named, expected, found: 40 }
            if *named == path && *expected == len);
    }
    assert_error!(gguf.warm_up(|_, _| true).unwrap_err(), GgufError::Changed { .. });
    // The same length again, but written to since.
    file.set_len(len).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_error!(gguf.check_unchanged().unwrap_err(), GgufError::Changed { expected, found, .. }
        if expected == found);
}

#[test]
fn renaming_a_new_file_over_the_old_name_keeps_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let path = small().save(dir.path(), "m.gguf");
    let gguf = Gguf::open(&path).unwrap();
    let other = GgufBuilder::new().save(dir.path(), "other.gguf");
    std::fs::rename(other, &path).unwrap();
    gguf.check_unchanged().unwrap();
    assert_eq!(gguf.data(gguf.tensor("q").unwrap()), &[1; 34]);
}

#[test]
fn lookups_that_do_not_fit() {
    let gguf = Gguf::from_bytes(&small().build()).unwrap();
    let meta = gguf.metadata();
    assert_error!(gguf.tensor("none").unwrap_err(), GgufError::MissingTensor { name } if name == "none");
    assert_error!(meta.u32("none").unwrap_err(), GgufError::MissingKey { key } if key == "none");
    assert_error!(meta.str("a.count").unwrap_err(), GgufError::WrongType { key, expected: "a UTF-8 string", found }
        if key == "a.count" && found == "the integer 7");
    assert_error!(meta.opt_f32s("a.ids").unwrap_err(), GgufError::WrongType { found, .. }
        if found == "an array of i32");
    assert_error!(meta.strings("a.ids").unwrap_err(), GgufError::WrongType { .. });
    assert_error!(meta.opt_i32s("a.words").unwrap_err(), GgufError::WrongType { found, .. }
        if found == "an array of strings");
    assert_error!(gguf.tensor("w").unwrap().expect_shape(4, 2).unwrap_err(), GgufError::TensorShape { expected, found, .. }
        if *expected == [4, 2] && *found == [2, 4]);
}

#[test]
fn numbers_out_of_a_getters_range() {
    let gguf = Gguf::from_bytes(
        &GgufBuilder::new()
            .entry("negative", Value::I32(-1))
            .entry("large", Value::U64(1 << 32))
            .entry("nan", Value::F32(f32::NAN))
            .entry("infinite", Value::F64(f64::NEG_INFINITY))
            .entry("past f32", Value::F64(1e300))
            .entry("bytes", Value::Str(b"\xff".to_vec()))
            .build(),
    )
    .unwrap();
    let meta = gguf.metadata();
    assert_error!(meta.u64("negative").unwrap_err(), GgufError::WrongType { found, .. } if found == "the integer -1");
    assert_error!(meta.u32("negative").unwrap_err(), GgufError::WrongType { .. });
    assert_error!(meta.u32("large").unwrap_err(), GgufError::WrongType { .. });
    for key in ["nan", "infinite", "past f32"] {
        assert_error!(meta.f32(key).unwrap_err(), GgufError::WrongType { expected: "a finite float", .. });
    }
    assert_error!(meta.str("bytes").unwrap_err(), GgufError::WrongType { .. });
}

#[test]
fn truncation_at_every_byte() {
    let bytes = small().build();
    let whole = Gguf::from_bytes(&bytes).unwrap();
    for len in 0..bytes.len() {
        match Gguf::from_bytes(&bytes[..len]) {
            Err(GgufError::InFile { .. }) => {}
            Err(other) => panic!("cut to {len}: {other:?}"),
            // Only the padding after the last tensor can be missing.
            Ok(gguf) => {
                assert!(len >= bytes.len() - 30, "accepted when cut to {len}");
                assert_eq!(gguf.tensors(), whole.tensors());
                assert_eq!(gguf.fingerprint(), whole.fingerprint());
            }
        }
    }
}

/// Uses everything a file offers; must not panic whatever was accepted.
fn exercise(gguf: &Gguf) {
    let meta = gguf.metadata();
    for key in meta.keys() {
        let _ = (meta.opt_str(key), meta.opt_u64(key), meta.opt_f32(key), meta.opt_bool(key));
        let _ = (meta.opt_f32s(key), meta.opt_i32s(key));
        if let Ok(Some(strings)) = meta.opt_strings(key) {
            assert_eq!(strings.iter().count(), strings.len());
        }
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.data(tensor).len(), tensor.len);
        assert_eq!(tensor.ty.row_bytes(tensor.cols()).unwrap() * tensor.rows(), tensor.len);
    }
    gguf.fingerprint();
    gguf.warm_up(|_, _| true).unwrap();
}

#[test]
fn corruption_of_every_header_byte() {
    let file = small();
    let header = file.header().len();
    let mut bytes = file.build();
    for at in 0..header {
        let kept = bytes[at];
        for value in [0, 1, 2, 9, 0x7f, 0x80, 0xfe, 0xff, kept.wrapping_add(1), kept.wrapping_sub(1), !kept] {
            bytes[at] = value;
            if let Ok(gguf) = Gguf::from_bytes(&bytes) {
                exercise(&gguf);
            }
        }
        bytes[at] = kept;
    }
    exercise(&Gguf::from_bytes(&bytes).unwrap());
}

proptest! {
    #[test]
    fn noise_behind_the_magic_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600), counts in 0u64..4) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(counts.to_le_bytes());
        bytes.extend((counts / 2).to_le_bytes());
        bytes.extend(noise);
        if let Ok(gguf) = Gguf::from_bytes(&bytes) {
            exercise(&gguf);
        }
    }
}

//! Well-formed files: what is written is what is read, without a copy.

#[path = "common/gguf_builder.rs"]
mod gguf_builder;

use std::collections::HashSet;

use gguf_builder::{GgufBuilder, Value};
use proptest::prelude::*;
use timbre::gguf::{Advice, GgmlType, Gguf};

fn model() -> GgufBuilder {
    let ramp: Vec<f32> = (0..512).map(|i| i as f32).collect();
    GgufBuilder::new()
        .entry("general.architecture", Value::str("llama"))
        .entry("general.name", Value::str("a näme"))
        .f32("first", &[256, 2], &ramp)
        .tensor("second", &[64, 3], 8, (0..204).map(|i| i as u8).collect())
}

#[test]
fn typed_getters() {
    let gguf = Gguf::from_bytes(
        &GgufBuilder::new()
            .entry("u8", Value::U8(200))
            .entry("i8", Value::I8(-3))
            .entry("u16", Value::U16(65_535))
            .entry("i16", Value::I16(12))
            .entry("u32", Value::U32(u32::MAX))
            .entry("i32", Value::I32(5))
            .entry("u64", Value::U64(u64::MAX))
            .entry("i64", Value::I64(i64::MAX))
            .entry("f32", Value::F32(1e-6))
            .entry("f64", Value::F64(0.25))
            .entry("yes", Value::Bool(1))
            .entry("no", Value::Bool(0))
            .entry("text", Value::str("tëxt"))
            .entry("f32s", Value::f32s(&[1.5, -0.0, f32::INFINITY]))
            .entry("i32s", Value::i32s(&[i32::MIN, 0, 7]))
            .entry("empty f32s", Value::f32s(&[]))
            .build(),
    )
    .unwrap();
    let meta = gguf.metadata();
    assert_eq!(meta.u32("u8").unwrap(), 200);
    assert_eq!(meta.u32("u16").unwrap(), 65_535);
    assert_eq!(meta.u32("i16").unwrap(), 12);
    assert_eq!(meta.u32("u32").unwrap(), u32::MAX);
    assert_eq!(meta.u32("i32").unwrap(), 5);
    assert_eq!(meta.u64("u64").unwrap(), u64::MAX);
    assert_eq!(meta.u64("i64").unwrap(), i64::MAX as u64);
    assert_eq!(meta.f32("f32").unwrap(), 1e-6);
    assert_eq!(meta.f32("f64").unwrap(), 0.25);
    assert!(meta.bool("yes").unwrap());
    assert!(!meta.bool("no").unwrap());
    assert_eq!(meta.str("text").unwrap(), "tëxt");
    assert_eq!(meta.opt_f32s("f32s").unwrap().unwrap(), [1.5, -0.0, f32::INFINITY]);
    assert_eq!(meta.opt_i32s("i32s").unwrap().unwrap(), [i32::MIN, 0, 7]);
    assert_eq!(meta.opt_f32s("empty f32s").unwrap().unwrap(), [0.0; 0]);
    assert!(meta.contains("i8"));
    assert!(!meta.contains("i9"));
    for absent in [meta.opt_u64("i9").unwrap().is_none(), meta.opt_str("i9").unwrap().is_none()] {
        assert!(absent);
    }
    let keys: Vec<&str> = meta.keys().collect();
    assert_eq!(keys[..3], ["u8", "i8", "u16"], "keys keep the file's order");
    assert_eq!(gguf.metadata_count(), 16);
}

#[test]
fn string_arrays_borrow_raw_bytes() {
    let words: [&[u8]; 5] = [b"a", b"", b"\xff\xfe", "é".as_bytes(), b"the last"];
    let file = GgufBuilder::new()
        .entry("words", Value::strings(&words))
        .entry("none", Value::strings::<&str>(&[]))
        .entry("none of another type", Value::i32s(&[]));
    let gguf = Gguf::from_bytes(&file.build()).unwrap();
    let strings = gguf.metadata().strings("words").unwrap();
    assert_eq!(strings.len(), 5);
    assert!(strings.iter().eq(words));
    assert_eq!(strings.get(3), Some("é".as_bytes()));
    assert_eq!(strings.get(5), None);
    for key in ["none", "none of another type"] {
        let none = gguf.metadata().strings(key).unwrap();
        assert!(none.is_empty() && none.get(0).is_none());
    }
    let text = gguf.metadata_bytes();
    let word = strings.get(4).unwrap();
    assert!(text.as_ptr_range().contains(&word.as_ptr()), "a string is a view of the map");
}

#[test]
fn tensors_in_file_order() {
    let gguf = Gguf::from_bytes(&model().build()).unwrap();
    let names: Vec<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["first", "second"]);
    let first = gguf.tensor("first").unwrap();
    assert_eq!((first.ty, first.rows(), first.cols(), first.len), (GgmlType::F32, 2, 256, 2048));
    let second = gguf.opt_tensor("second").unwrap();
    assert_eq!((second.ty, second.rows(), second.cols(), second.len), (GgmlType::Q8_0, 3, 64, 204));
    second.expect_shape(3, 64).unwrap();
    assert!(gguf.data(second).iter().copied().eq(0..204));
    assert!(gguf.opt_tensor("third").is_none());
    assert_eq!(gguf.data_start() % 32, 0);
    for advice in [Advice::WillNeed, Advice::Random, Advice::Sequential] {
        gguf.advise(second, advice);
    }
}

#[test]
fn every_storage_type_opens() {
    for ty in GgmlType::ALL {
        let data: Vec<u8> = (0..ty.row_bytes(512).unwrap() * 3).map(|i| i as u8).collect();
        let file = GgufBuilder::new().tensor("t", &[512, 3], ty as u32, data.clone());
        let gguf = Gguf::from_bytes(&file.build()).unwrap();
        let tensor = gguf.tensor("t").unwrap();
        assert_eq!((tensor.ty, tensor.len), (ty, data.len()), "{ty}");
        assert_eq!(gguf.data(tensor), data, "{ty}");
    }
}

#[test]
fn ranks_one_to_four() {
    for dims in [&[6][..], &[2, 3], &[1, 2, 3], &[1, 1, 2, 3]] {
        let gguf = Gguf::from_bytes(&GgufBuilder::new().f32("t", dims, &[1.0; 6]).build()).unwrap();
        let tensor = gguf.tensor("t").unwrap();
        assert_eq!(tensor.cols() as u64, dims[0]);
        assert_eq!(tensor.rows() * tensor.cols(), 6);
    }
}

#[test]
fn alignments_and_versions() {
    for alignment in [8, 16, 32, 64, 4096, 65_536] {
        for version in [2, 3] {
            let mut file = model().aligned(alignment);
            file.version = version;
            let gguf = Gguf::from_bytes(&file.build()).unwrap();
            assert_eq!((gguf.version(), gguf.alignment()), (version, alignment as usize));
            for tensor in gguf.tensors() {
                assert_eq!(tensor.offset % alignment as usize, 0);
            }
            assert!(gguf.data(gguf.tensor("second").unwrap()).iter().copied().eq(0..204));
        }
    }
}

#[test]
fn a_file_of_metadata_only() {
    let mut file = GgufBuilder::new().entry("tokenizer.ggml.model", Value::str("gpt2"));
    file.pad_end = false;
    let gguf = Gguf::from_bytes(&file.build()).unwrap();
    assert!(gguf.tensors().is_empty());
    gguf.warm_up(|_, _| panic!("there is nothing to read")).unwrap();
    gguf.advise_will_need();
    assert_eq!(gguf.fingerprint().len(), 32);
    assert!(Gguf::from_bytes(&GgufBuilder::new().build()).unwrap().metadata().keys().next().is_none());
}

#[test]
fn fingerprint_names_the_base_and_nothing_else() {
    let print = |file: GgufBuilder| Gguf::from_bytes(&file.build()).unwrap().fingerprint().to_owned();
    let base = print(model());
    assert_eq!(base.len(), 32);
    // What may change without making another base.
    assert_eq!(print(model()), base);
    assert_eq!(print(model().entry("tokenizer.chat_template", Value::str("{{ messages }}"))), base);
    assert_eq!(print(model().aligned(64)), base);
    let mut renamed = model();
    renamed.entries[1].1 = Value::str("another name");
    renamed.version = 2;
    assert_eq!(print(renamed), base);
    // What may not.
    let mut others = HashSet::from([base]);
    let mut changed = |change: fn(&mut GgufBuilder)| {
        let mut file = model();
        change(&mut file);
        assert!(others.insert(print(file)), "the change went unnoticed");
    };
    changed(|f| f.entries[0].1 = Value::str("gemma3"));
    changed(|f| f.tensors[0].dims = vec![2, 256]);
    changed(|f| f.tensors[0].dims = vec![512]);
    changed(|f| f.tensors[0].name = b"fist".to_vec());
    changed(|f| f.tensors[0].ty = 30); // half the bytes, the same samples at the front
    changed(|f| f.tensors[0].data[0] ^= 1);
    changed(|f| f.tensors[0].data[1024] ^= 1);
    changed(|f| f.tensors[1].data[63] ^= 1);
    changed(|f| f.tensors.swap(0, 1));
    changed(|f| drop(f.tensors.pop()));
}

#[test]
fn warm_up_reports_progress_and_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mib = 1 << 20;
    let file = GgufBuilder::new().tensor("t", &[9 * mib], 0, vec![7; 36 << 20]);
    let gguf = Gguf::open(file.save(dir.path(), "m.gguf")).unwrap();
    let mut seen = Vec::new();
    gguf.warm_up(|done, total| {
        assert_eq!(total, 36 << 20);
        seen.push(done);
        true
    })
    .unwrap();
    assert!(seen.is_sorted() && seen.len() == 9, "{seen:?}");
    assert_eq!(seen.last(), Some(&(36 << 20)));
    let mut calls = 0;
    gguf.warm_up(|_, _| {
        calls += 1;
        calls < 3
    })
    .unwrap();
    assert_eq!(calls, 3);
}

/// Anonymous resident memory of this process, in bytes.
#[cfg(target_os = "linux")]
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[test]
fn weights_are_never_copied() {
    const SIZE: usize = 256 << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = GgufBuilder::new().tensor("t", &[(SIZE / 4) as u64], 0, vec![]).save(dir.path(), "m.gguf");
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let start = file.metadata().unwrap().len();
    file.set_len(start + SIZE as u64).unwrap(); // a hole: reads as zeros, takes no disk
    let before = anonymous_bytes();
    let gguf = Gguf::open(&path).unwrap();
    gguf.warm_up(|_, _| true).unwrap();
    let data = gguf.data(gguf.tensor("t").unwrap());
    assert_eq!(data.len(), SIZE);
    assert_eq!(data.iter().fold(0u64, |a, &b| a + u64::from(b)), 0);
    // Other tests of this binary run at the same time and hold tens of megabytes of their own.
    let grown = anonymous_bytes().saturating_sub(before);
    assert!(grown < SIZE / 2, "anonymous memory grew by {grown} bytes");
    // The view lies at its file offset inside one mapping of the file.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let at = data.as_ptr() as usize;
    let mapping = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (from, to) = range.split_once('-')?;
        let (from, to) = (usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?);
        (from <= at && at + SIZE <= to).then_some((from, rest))
    });
    let (from, rest) = mapping.expect("the data lies in one mapping");
    assert!(rest.ends_with(path.to_str().unwrap()) && rest.starts_with("r--"), "{rest}");
    assert_eq!(at - from, gguf.tensor("t").unwrap().offset);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        (-1e30f32..1e30).prop_map(Value::F32),
        (0..2u8).prop_map(Value::Bool),
        ".{0,12}".prop_map(|s| Value::str(&s)),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e30f64..1e30).prop_map(Value::F64),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(|v| Value::i32s(&v)),
        prop::collection::vec(-1e30f32..1e30, 0..9).prop_map(|v| Value::f32s(&v)),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9).prop_map(|v| Value::strings(&v)),
    ]
}

fn assert_reads_back(gguf: &Gguf, key: &str, value: &Value) {
    let meta = gguf.metadata();
    let int = |v: i128| assert_eq!(meta.opt_u64(key).ok().flatten(), u64::try_from(v).ok());
    match value {
        Value::U8(v) => int((*v).into()),
        Value::I8(v) => int((*v).into()),
        Value::U16(v) => int((*v).into()),
        Value::I16(v) => int((*v).into()),
        Value::U32(v) => int((*v).into()),
        Value::I32(v) => int((*v).into()),
        Value::U64(v) => int((*v).into()),
        Value::I64(v) => int((*v).into()),
        Value::F32(v) => assert_eq!(meta.f32(key).unwrap(), *v),
        Value::F64(v) => assert_eq!(meta.f32(key).unwrap(), *v as f32),
        Value::Bool(v) => assert_eq!(meta.bool(key).unwrap(), *v == 1),
        Value::Str(v) => assert_eq!(meta.str(key).unwrap().as_bytes(), v),
        Value::Array(8, ..) => {
            let strings: Vec<&[u8]> = meta.strings(key).unwrap().iter().collect();
            assert_eq!(Value::strings(&strings), *value);
        }
        Value::Array(6, ..) => assert_eq!(Value::f32s(&meta.opt_f32s(key).unwrap().unwrap()), *value),
        Value::Array(5, ..) => assert_eq!(Value::i32s(&meta.opt_i32s(key).unwrap().unwrap()), *value),
        other => panic!("{other:?} is not generated"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_written_is_read(
        entries in prop::collection::btree_map("[a-z.]{1,10}", value(), 0..8),
        tensors in prop::collection::btree_map(
            "\\PC{1,10}",
            (0..GgmlType::ALL.len(), 1u64..4, 1u64..4, 1u64..3, any::<u8>()),
            0..6,
        ),
        alignment in (3u32..10).prop_map(|p| 1 << p),
        version in 2u32..4,
    ) {
        let mut file = GgufBuilder::new().aligned(alignment);
        file.version = version;
        for (key, value) in &entries {
            file = file.entry(key, value.clone());
        }
        for (name, &(ty, blocks, rows, planes, seed)) in &tensors {
            let ty = GgmlType::ALL[ty];
            let cols = blocks * ty.block_len() as u64;
            let len = ty.row_bytes(cols as usize).unwrap() * (rows * planes) as usize;
            let data = (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
            file = file.tensor(name, &[cols, rows, planes], ty as u32, data);
        }
        let gguf = Gguf::from_bytes(&file.build()).unwrap();
        prop_assert_eq!(gguf.metadata_count(), entries.len() + 1);
        for (key, value) in &entries {
            assert_reads_back(&gguf, key, value);
        }
        prop_assert_eq!(gguf.tensors().len(), tensors.len());
        for (read, written) in gguf.tensors().iter().zip(&file.tensors) {
            prop_assert_eq!(read.name.as_bytes(), &written.name);
            prop_assert_eq!(read.ty as u32, written.ty);
            prop_assert!(read.dims.iter().map(|&d| d as u64).eq(written.dims.iter().copied()));
            prop_assert_eq!(gguf.data(read), &written.data[..]);
        }
    }
}

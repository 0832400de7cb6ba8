//! Writes any GGUF, valid or broken on purpose, field by field. Nothing here is shared with the reader under test.
#![allow(dead_code)] // each test file uses a part of it

use std::path::{Path, PathBuf};

/// A metadata value and its type number.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(u8),
    Str(Vec<u8>),
    U64(u64),
    I64(i64),
    F64(f64),
    /// Element type number, declared length, raw element bytes.
    Array(u32, u64, Vec<u8>),
    /// Any type number with any bytes.
    Raw(u32, Vec<u8>),
}

impl Value {
    pub fn str(text: &str) -> Self {
        Self::Str(text.as_bytes().to_vec())
    }

    pub fn strings<T: AsRef<[u8]>>(items: &[T]) -> Self {
        let mut bytes = Vec::new();
        for item in items {
            put_string(&mut bytes, item.as_ref());
        }
        Self::Array(8, items.len() as u64, bytes)
    }

    pub fn f32s(items: &[f32]) -> Self {
        Self::Array(6, items.len() as u64, items.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn i32s(items: &[i32]) -> Self {
        Self::Array(5, items.len() as u64, items.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn put(&self, out: &mut Vec<u8>) {
        let (number, bytes): (u32, Vec<u8>) = match self {
            Self::U8(v) => (0, v.to_le_bytes().into()),
            Self::I8(v) => (1, v.to_le_bytes().into()),
            Self::U16(v) => (2, v.to_le_bytes().into()),
            Self::I16(v) => (3, v.to_le_bytes().into()),
            Self::U32(v) => (4, v.to_le_bytes().into()),
            Self::I32(v) => (5, v.to_le_bytes().into()),
            Self::F32(v) => (6, v.to_le_bytes().into()),
            Self::Bool(v) => (7, vec![*v]),
            Self::Str(v) => {
                let mut bytes = Vec::new();
                put_string(&mut bytes, v);
                (8, bytes)
            }
            Self::Array(element, len, data) => {
                let mut bytes = element.to_le_bytes().to_vec();
                bytes.extend(len.to_le_bytes());
                bytes.extend(data);
                (9, bytes)
            }
            Self::U64(v) => (10, v.to_le_bytes().into()),
            Self::I64(v) => (11, v.to_le_bytes().into()),
            Self::F64(v) => (12, v.to_le_bytes().into()),
            Self::Raw(number, bytes) => (*number, bytes.clone()),
        };
        out.extend(number.to_le_bytes());
        out.extend(bytes);
    }
}

/// A tensor info and its data.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: Vec<u8>,
    /// Innermost first.
    pub dims: Vec<u64>,
    /// What the file claims the number of dimensions to be; `None`: the truth.
    pub rank: Option<u32>,
    /// Type number.
    pub ty: u32,
    /// Offset in the data section; `None`: after the previous tensor, aligned.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A file being built. Every count is the truth unless overridden.
#[derive(Debug, Clone)]
pub struct GgufBuilder {
    pub magic: [u8; 4],
    pub version: u32,
    pub tensor_count: Option<u64>,
    pub entry_count: Option<u64>,
    pub entries: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Tensor>,
    /// Alignment the data is laid out with; not written unless [`Self::aligned`] is used.
    pub alignment: usize,
    /// Whether the last tensor is padded too, as ggml's writers do.
    pub pad_end: bool,
}

impl Default for GgufBuilder {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            pad_end: true,
        }
    }
}

impl GgufBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn entry(mut self, key: impl AsRef<[u8]>, value: Value) -> Self {
        self.entries.push((key.as_ref().to_vec(), value));
        self
    }

    /// Lays the data out with `alignment` and writes it as `general.alignment`.
    pub fn aligned(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.entry("general.alignment", Value::U32(alignment))
    }

    /// A tensor of type number `ty` with `data` as it is.
    pub fn tensor(mut self, name: impl AsRef<[u8]>, dims: &[u64], ty: u32, data: Vec<u8>) -> Self {
        let name = name.as_ref().to_vec();
        self.tensors.push(Tensor { name, dims: dims.to_vec(), rank: None, ty, offset: None, data });
        self
    }

    /// An F32 tensor holding `values`.
    pub fn f32(self, name: impl AsRef<[u8]>, dims: &[u64], values: &[f32]) -> Self {
        self.tensor(name, dims, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Changes the tensor added last.
    pub fn last(mut self, change: impl FnOnce(&mut Tensor)) -> Self {
        change(self.tensors.last_mut().expect("a tensor was added"));
        self
    }

    /// The header alone: everything before the padding to the data section.
    pub fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            put_string(&mut out, key);
            value.put(&mut out);
        }
        let mut next = 0;
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name);
            out.extend(tensor.rank.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            for dim in &tensor.dims {
                out.extend(dim.to_le_bytes());
            }
            out.extend(tensor.ty.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            next += (tensor.data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        out
    }

    /// The whole file. Data is laid out in order and does not follow overridden offsets.
    pub fn build(&self) -> Vec<u8> {
        let mut out = self.header();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.data);
        }
        if self.pad_end {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        out
    }

    /// Writes the file as `name` in `dir`.
    pub fn save(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, self.build()).expect("the test folder is writable");
        path
    }
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

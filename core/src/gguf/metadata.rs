//! The key–value section: scalars are read once, strings and arrays stay in the map.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::GgufError;
use super::map::Map;
use super::reader::Reader;

/// Smallest possible entry: key length, one key byte, value type, one value byte.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Scalar {
    fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }
}

const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;

#[derive(Debug)]
enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Str(Range<usize>),
    /// `data` holds the elements back to back.
    Scalars {
        ty: Scalar,
        data: Range<usize>,
    },
    /// Start, counted from `base`, and length of every string.
    Strings {
        base: usize,
        spans: Box<[(u32, u32)]>,
    },
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Self::Int(v) => format!("the integer {v}"),
            Self::Float(v) => format!("the float {v}"),
            Self::Bool(v) => format!("the boolean {v}"),
            Self::Str(_) => "a string".into(),
            Self::Scalars { ty, .. } => format!("an array of {}", ty.name()),
            Self::Strings { .. } => "an array of strings".into(),
        }
    }
}

/// The metadata of a file. Strings and arrays are views of the map.
#[derive(Debug)]
pub struct Metadata {
    map: Arc<Map>,
    keys: Vec<String>,
    values: HashMap<String, Value>,
}

/// An array of strings (a vocabulary, merges) where the file has it; the bytes need not be UTF-8.
#[derive(Debug, Clone, Copy)]
pub struct StringArray<'a> {
    data: &'a [u8],
    spans: &'a [(u32, u32)],
}

impl<'a> StringArray<'a> {
    /// Number of strings.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The bytes of string `index`.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let &(start, len) = self.spans.get(index)?;
        self.data.get(start as usize..start as usize + len as usize)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let Self { data, spans } = *self;
        spans.iter().map(move |&(start, len)| &data[start as usize..start as usize + len as usize])
    }
}

impl Metadata {
    /// Reads `count` entries; `reader` stands at the first.
    pub(super) fn read(map: &Arc<Map>, reader: &mut Reader<'_>, count: usize) -> Result<Self, GgufError> {
        let mut keys = Vec::new();
        let mut values = HashMap::new();
        for _ in 0..count {
            let key = reader.name("metadata key")?.to_owned();
            let value = read_value(reader, &key)?;
            keys.push(key.clone());
            if values.insert(key.clone(), value).is_some() {
                return Err(GgufError::DuplicateKey { key });
            }
        }
        Ok(Self { map: map.clone(), keys, values })
    }

    pub(super) const MIN_ENTRY_BYTES: u64 = MIN_ENTRY_BYTES;

    /// Every key, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        match read(value) {
            Some(v) => Ok(Some(v)),
            None => Err(GgufError::WrongType { key: key.into(), expected, found: value.describe() }),
        }
    }

    /// A UTF-8 string.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.get(key, "a UTF-8 string", |v| match v {
            Value::Str(range) => std::str::from_utf8(self.map.bytes().get(range.clone())?).ok(),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else.
    pub fn opt_strings(&self, key: &str) -> Result<Option<StringArray<'_>>, GgufError> {
        self.get(key, "an array of strings", |v| match v {
            Value::Strings { base, spans } => Some(StringArray { data: self.map.bytes().get(*base..)?, spans }),
            // An empty array may carry any element type.
            Value::Scalars { data, .. } if data.is_empty() => Some(StringArray { data: &[], spans: &[] }),
            _ => None,
        })
    }

    /// A non-negative integer of any width.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else or a number past `u64`.
    pub fn opt_u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.get(key, "an unsigned integer", |v| match v {
            Value::Int(i) => u64::try_from(*i).ok(),
            _ => None,
        })
    }

    /// A non-negative integer that fits 32 bits.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.get(key, "an unsigned 32-bit integer", |v| match v {
            Value::Int(i) => u32::try_from(*i).ok(),
            _ => None,
        })
    }

    /// A float that is finite as an `f32`.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else, NaN or a number past the range of `f32`.
    pub fn opt_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.get(key, "a finite float", |v| match v {
            Value::Float(f) => Some(*f as f32).filter(|f| f.is_finite()),
            _ => None,
        })
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.get(key, "a boolean", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of `f32`, copied (the file does not align it).
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else.
    pub fn opt_f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.get(key, "an array of f32", |v| self.words(v, Scalar::F32, f32::from_le_bytes))
    }

    /// An array of `i32`, copied (the file does not align it).
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds anything else.
    pub fn opt_i32s(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.get(key, "an array of i32", |v| self.words(v, Scalar::I32, i32::from_le_bytes))
    }

    fn words<T>(&self, value: &Value, wanted: Scalar, convert: fn([u8; 4]) -> T) -> Option<Vec<T>> {
        match value {
            Value::Scalars { ty, data } if *ty == wanted => {
                let bytes = self.map.bytes().get(data.clone())?;
                Some(bytes.chunks_exact(4).map(|c| convert([c[0], c[1], c[2], c[3]])).collect())
            }
            _ => None,
        }
    }
}

macro_rules! required {
    ($($(#[$doc:meta])* $name:ident, $opt:ident, $ty:ty;)*) => {
        impl Metadata {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`GgufError::MissingKey`], [`GgufError::WrongType`].
                pub fn $name(&self, key: &str) -> Result<$ty, GgufError> {
                    self.$opt(key)?.ok_or_else(|| GgufError::MissingKey { key: key.into() })
                }
            )*
        }
    };
}

required! {
    /// [`Self::opt_str`] of a key that must be there.
    str, opt_str, &str;
    /// [`Self::opt_strings`] of a key that must be there.
    strings, opt_strings, StringArray<'_>;
    /// [`Self::opt_u64`] of a key that must be there.
    u64, opt_u64, u64;
    /// [`Self::opt_u32`] of a key that must be there.
    u32, opt_u32, u32;
    /// [`Self::opt_f32`] of a key that must be there.
    f32, opt_f32, f32;
    /// [`Self::opt_bool`] of a key that must be there.
    bool, opt_bool, bool;
}

fn read_value(reader: &mut Reader<'_>, key: &str) -> Result<Value, GgufError> {
    match reader.u32("value type")? {
        TYPE_STRING => Ok(Value::Str(reader.string("string value")?.1)),
        TYPE_ARRAY => read_array(reader, key),
        number => {
            let ty = Scalar::from_u32(number).ok_or_else(|| GgufError::ValueType { key: key.into(), found: number })?;
            read_scalar(reader, key, ty)
        }
    }
}

fn read_scalar(reader: &mut Reader<'_>, key: &str, ty: Scalar) -> Result<Value, GgufError> {
    let (bytes, _) = reader.take("scalar value", ty.bytes())?;
    let mut word = [0u8; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    let raw = u64::from_le_bytes(word);
    Ok(match ty {
        Scalar::U8 | Scalar::U16 | Scalar::U32 | Scalar::U64 => Value::Int(raw.into()),
        Scalar::I8 => Value::Int((raw as i8).into()),
        Scalar::I16 => Value::Int((raw as i16).into()),
        Scalar::I32 => Value::Int((raw as i32).into()),
        Scalar::I64 => Value::Int((raw as i64).into()),
        Scalar::F32 => Value::Float(f32::from_bits(raw as u32).into()),
        Scalar::F64 => Value::Float(f64::from_bits(raw)),
        Scalar::Bool => match raw {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            _ => return Err(GgufError::Bool { key: key.into(), found: raw as u8 }),
        },
    })
}

fn read_array(reader: &mut Reader<'_>, key: &str) -> Result<Value, GgufError> {
    match reader.u32("array element type")? {
        TYPE_ARRAY => Err(GgufError::NestedArray { key: key.into() }),
        TYPE_STRING => {
            let count = reader.count("array length", 8)?;
            let base = reader.offset();
            let mut spans = Vec::new();
            for _ in 0..count {
                let offset = reader.offset();
                let (_, range) = reader.string("array string")?;
                // Spans are 32-bit: 8 bytes a token matter when a vocabulary has 262,144 of them.
                let span = (u32::try_from(range.start - base), u32::try_from(range.len()));
                let (Ok(start), Ok(len)) = span else {
                    let found = (range.end - base) as u64;
                    return Err(GgufError::Count { what: "string array size", offset, found, max: u32::MAX.into() });
                };
                spans.push((start, len));
            }
            Ok(Value::Strings { base, spans: spans.into_boxed_slice() })
        }
        number => {
            let ty = Scalar::from_u32(number).ok_or_else(|| GgufError::ValueType { key: key.into(), found: number })?;
            let count = reader.count("array length", ty.bytes())?;
            // `count` items fit the rest of the file, so the product cannot overflow.
            let (_, data) = reader.take("array data", count as u64 * ty.bytes())?;
            Ok(Value::Scalars { ty, data })
        }
    }
}

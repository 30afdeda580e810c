//! The values of GGUF metadata: twelve scalar types, and arrays of one of them.

/// One value of a file's metadata, in the type it is stored as.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the types they hold")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of scalars of one type. Arrays of arrays exist in the format, are used by nobody, and are refused.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the types they hold")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Text(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// What marks an array.
pub(super) const ARRAY_CODE: u32 = 9;
pub(super) const TEXT_CODE: u32 = 8;
pub(super) const BOOL_CODE: u32 = 7;

impl Value {
    /// The number, if this is an integer that is not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        match *self {
            Value::U8(value) => Some(value.into()),
            Value::U16(value) => Some(value.into()),
            Value::U32(value) => Some(value.into()),
            Value::U64(value) => Some(value),
            Value::I8(value) => value.try_into().ok(),
            Value::I16(value) => value.try_into().ok(),
            Value::I32(value) => value.try_into().ok(),
            Value::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    /// The number, if this is a float or an integer. An f32 becomes the shortest decimal that means it, so
    /// that 0.1 stays 0.1.
    pub fn as_number(&self) -> Option<f64> {
        match *self {
            Value::F32(value) => value.to_string().parse().ok(),
            Value::F64(value) => Some(value),
            Value::I8(value) => Some(value.into()),
            Value::I16(value) => Some(value.into()),
            Value::I32(value) => Some(value.into()),
            Value::I64(value) => Some(value as f64),
            _ => self.as_unsigned().map(|value| value as f64),
        }
    }

    /// The flag.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The texts of an array of them.
    pub fn as_texts(&self) -> Option<&[String]> {
        match self {
            Value::Array(Array::Text(texts)) => Some(texts),
            _ => None,
        }
    }

    /// The numbers of an array of integers; an unsigned number beyond `i64` is no such array.
    pub fn as_integers(&self) -> Option<Vec<i64>> {
        fn wide<T: Copy + Into<i64>>(values: &[T]) -> Option<Vec<i64>> {
            Some(values.iter().map(|&value| value.into()).collect())
        }
        let Value::Array(array) = self else { return None };
        match array {
            Array::U8(values) => wide(values),
            Array::I8(values) => wide(values),
            Array::U16(values) => wide(values),
            Array::I16(values) => wide(values),
            Array::U32(values) => wide(values),
            Array::I32(values) => wide(values),
            Array::I64(values) => wide(values),
            Array::U64(values) => values.iter().map(|&value| value.try_into().ok()).collect(),
            _ => None,
        }
    }

    /// The name of its type, for messages: `u32`, `array of text`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
            Value::Bool(_) => "bool",
            Value::Text(_) => "text",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F64(_) => "f64",
            Value::Array(Array::Text(_)) => "array of text",
            Value::Array(Array::Bool(_)) => "array of bool",
            Value::Array(_) => "array of numbers",
        }
    }

    /// Short text for messages: the value where it is a scalar, else its type.
    pub fn brief(&self) -> String {
        match self {
            Value::Bool(value) => value.to_string(),
            Value::Text(text) if text.chars().count() <= 60 => format!("{text:?}"),
            Value::Text(_) => "a long text".to_owned(),
            Value::Array(_) => self.type_name().to_owned(),
            number => number.as_number().map_or_else(|| number.type_name().to_owned(), |n| n.to_string()),
        }
    }

    pub(super) fn code(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => BOOL_CODE,
            Value::Text(_) => TEXT_CODE,
            Value::Array(_) => ARRAY_CODE,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// Appends the value as it is stored, without its type code.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U8(value) => out.push(*value),
            Value::I8(value) => out.extend(value.to_le_bytes()),
            Value::U16(value) => out.extend(value.to_le_bytes()),
            Value::I16(value) => out.extend(value.to_le_bytes()),
            Value::U32(value) => out.extend(value.to_le_bytes()),
            Value::I32(value) => out.extend(value.to_le_bytes()),
            Value::F32(value) => out.extend(value.to_le_bytes()),
            Value::Bool(value) => out.push((*value).into()),
            Value::Text(text) => write_text(text, out),
            Value::Array(array) => array.write(out),
            Value::U64(value) => out.extend(value.to_le_bytes()),
            Value::I64(value) => out.extend(value.to_le_bytes()),
            Value::F64(value) => out.extend(value.to_le_bytes()),
        }
    }
}

impl Array {
    /// Type code of the elements, their number, the elements.
    fn write(&self, out: &mut Vec<u8>) {
        fn each<T: Copy>(out: &mut Vec<u8>, code: u32, values: &[T], write: impl Fn(T, &mut Vec<u8>)) {
            out.extend(code.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|&value| write(value, out));
        }
        match self {
            Array::U8(values) => each(out, 0, values, |v, out| out.push(v)),
            Array::I8(values) => each(out, 1, values, |v, out| out.extend(v.to_le_bytes())),
            Array::U16(values) => each(out, 2, values, |v, out| out.extend(v.to_le_bytes())),
            Array::I16(values) => each(out, 3, values, |v, out| out.extend(v.to_le_bytes())),
            Array::U32(values) => each(out, 4, values, |v, out| out.extend(v.to_le_bytes())),
            Array::I32(values) => each(out, 5, values, |v, out| out.extend(v.to_le_bytes())),
            Array::F32(values) => each(out, 6, values, |v, out| out.extend(v.to_le_bytes())),
            Array::Bool(values) => each(out, BOOL_CODE, values, |v, out| out.push(v.into())),
            Array::U64(values) => each(out, 10, values, |v, out| out.extend(v.to_le_bytes())),
            Array::I64(values) => each(out, 11, values, |v, out| out.extend(v.to_le_bytes())),
            Array::F64(values) => each(out, 12, values, |v, out| out.extend(v.to_le_bytes())),
            Array::Text(texts) => {
                out.extend(TEXT_CODE.to_le_bytes());
                out.extend((texts.len() as u64).to_le_bytes());
                texts.iter().for_each(|text| write_text(text, out));
            }
        }
    }
}

/// Length in bytes, then the bytes.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

macro_rules! from {
    ($($variant:ident $type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Value::$variant(value.into())
            }
        }
    )*};
}

from!(U32 u32, U64 u64, F32 f32, Bool bool, Text &str, Text String);

impl From<Vec<String>> for Value {
    fn from(texts: Vec<String>) -> Self {
        Value::Array(Array::Text(texts))
    }
}

impl From<Vec<i32>> for Value {
    fn from(numbers: Vec<i32>) -> Self {
        Value::Array(Array::I32(numbers))
    }
}

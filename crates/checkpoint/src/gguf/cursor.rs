//! Reading values off the front of a file, never past its end.

use super::value::{ARRAY_CODE, Array, BOOL_CODE, TEXT_CODE, Value};

/// What is left to read. Errors are the reason in words; the caller knows file and key.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

type Read<T> = std::result::Result<T, String>;

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    /// Bytes from the start of the file.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let Some(taken) = self.bytes[self.position..].get(..count) else {
            return Err(format!(
                "{count} bytes are expected at byte {}, but the file ends after {}",
                self.position,
                self.left()
            ));
        };
        self.position += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gave N bytes"))
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of things that take at least `each` bytes apiece, and so cannot be more than the file holds.
    pub(super) fn count(&mut self, what: &str, each: usize) -> Read<usize> {
        let count = self.u64()?;
        let most = self.left() / each;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(format!("{count} {what} are announced, but the file has room for {most}")),
        }
    }

    pub(super) fn text(&mut self) -> Read<&'a str> {
        let length = self.count("bytes of text", 1)?;
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|error| format!("a text is not UTF-8: {error}"))
    }

    fn flag(&mut self) -> Read<bool> {
        match self.take(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            other => Err(format!("a flag is expected to be 0 or 1, got {}", other[0])),
        }
    }

    /// A value with its type code before it.
    pub(super) fn value(&mut self) -> Read<Value> {
        match self.u32()? {
            0 => self.array().map(|[byte]| Value::U8(byte)),
            1 => self.array().map(i8::from_le_bytes).map(Value::I8),
            2 => self.array().map(u16::from_le_bytes).map(Value::U16),
            3 => self.array().map(i16::from_le_bytes).map(Value::I16),
            4 => self.u32().map(Value::U32),
            5 => self.array().map(i32::from_le_bytes).map(Value::I32),
            6 => self.array().map(f32::from_le_bytes).map(Value::F32),
            BOOL_CODE => self.flag().map(Value::Bool),
            TEXT_CODE => self.text().map(|text| Value::Text(text.to_owned())),
            ARRAY_CODE => self.elements().map(Value::Array),
            10 => self.u64().map(Value::U64),
            11 => self.array().map(i64::from_le_bytes).map(Value::I64),
            12 => self.array().map(f64::from_le_bytes).map(Value::F64),
            other => Err(format!("value type {other} is unknown, expected 0 to 12")),
        }
    }

    fn elements(&mut self) -> Read<Array> {
        match self.u32()? {
            0 => self.numbers(|[byte]| byte).map(Array::U8),
            1 => self.numbers(i8::from_le_bytes).map(Array::I8),
            2 => self.numbers(u16::from_le_bytes).map(Array::U16),
            3 => self.numbers(i16::from_le_bytes).map(Array::I16),
            4 => self.numbers(u32::from_le_bytes).map(Array::U32),
            5 => self.numbers(i32::from_le_bytes).map(Array::I32),
            6 => self.numbers(f32::from_le_bytes).map(Array::F32),
            BOOL_CODE => {
                let count = self.count("flags", 1)?;
                (0..count).map(|_| self.flag()).collect::<Read<_>>().map(Array::Bool)
            }
            TEXT_CODE => {
                let count = self.count("texts", 8)?;
                let mut texts = Vec::with_capacity(count);
                for _ in 0..count {
                    texts.push(self.text()?.to_owned());
                }
                Ok(Array::Text(texts))
            }
            ARRAY_CODE => Err("arrays of arrays are not supported".to_owned()),
            10 => self.numbers(u64::from_le_bytes).map(Array::U64),
            11 => self.numbers(i64::from_le_bytes).map(Array::I64),
            12 => self.numbers(f64::from_le_bytes).map(Array::F64),
            other => Err(format!("element type {other} is unknown, expected 0 to 12")),
        }
    }

    fn numbers<T, const N: usize>(&mut self, read: impl Fn([u8; N]) -> T) -> Read<Vec<T>> {
        let count = self.count("numbers", N)?;
        Ok(self.take(count * N)?.as_chunks::<N>().0.iter().map(|&bytes| read(bytes)).collect())
    }
}

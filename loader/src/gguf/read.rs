//! The header: counts, metadata, places of the tensors; every field checked before it is used.

use std::collections::BTreeMap;
use std::path::Path;

use super::{GgufError, Storage, Tensor, Value};

type Result<T> = std::result::Result<T, GgufError>;

const MAGIC: &[u8; 4] = b"GGUF";
/// Places of tensors are multiples of this unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;
/// Most dimensions of a tensor that the format allows.
const MAX_DIMENSIONS: u32 = 4;

/// Metadata and tensors of a file's bytes.
pub(super) fn header(path: &Path, bytes: &[u8]) -> Result<(BTreeMap<String, Value>, BTreeMap<String, Tensor>)> {
    if !bytes.starts_with(MAGIC) {
        let found = String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned();
        return Err(GgufError::NotGguf { path: path.into(), found });
    }
    let mut cursor = Cursor { path, bytes, at: MAGIC.len() };
    let version = u32::from_le_bytes(cursor.take("version")?);
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { path: path.into(), version });
    }
    let (tensors, pairs) = (cursor.u64("number of tensors")?, cursor.u64("number of metadata entries")?);
    let mut metadata = BTreeMap::new();
    for _ in 0..pairs {
        let key = cursor.string("metadata key")?;
        let value = cursor.value()?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(GgufError::Duplicate { path: path.into(), name: key });
        }
    }
    let alignment = match metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= 1 << 20 => *value,
        Some(other) => return Err(cursor.field("general.alignment", format!("{other:?}"), "a power of two up to 2^20")),
    };
    let mut places = Vec::new();
    for _ in 0..tensors {
        places.push(cursor.place()?);
    }
    let start = (cursor.at as u64).next_multiple_of(alignment);
    let mut found = BTreeMap::new();
    for place in places {
        let name = place.name.clone();
        let tensor = place.locate(path, start, alignment, bytes.len())?;
        if found.insert(name.clone(), tensor).is_some() {
            return Err(GgufError::Duplicate { path: path.into(), name });
        }
    }
    Ok((metadata, found))
}

/// What the header says of a tensor, before its bytes are looked for.
struct Place {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

impl Place {
    fn locate(self, path: &Path, start: u64, alignment: u64, len: usize) -> Result<Tensor> {
        let Place { name, shape, kind, offset } = self;
        let Some(storage) = Storage::of(kind) else {
            return Err(GgufError::TensorType { path: path.into(), name, kind });
        };
        let refuse = |reason: String| GgufError::TensorShape { path: path.into(), name: name.clone(), reason };
        let (weights, size) = storage.block();
        let width = shape.last().copied().unwrap_or(1);
        if !width.is_multiple_of(weights) {
            return Err(refuse(format!("rows of {width} numbers do not divide into blocks of {weights}")));
        }
        if !offset.is_multiple_of(alignment) {
            return Err(refuse(format!("its place {offset} is no multiple of {alignment}")));
        }
        let count = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let bytes = count.and_then(|count| (count / weights).checked_mul(size)).map(|bytes| bytes as u64);
        let begin = start.checked_add(offset);
        let end = begin.zip(bytes).and_then(|(begin, bytes)| begin.checked_add(bytes));
        match (begin, end) {
            (Some(begin), Some(end)) if end <= len as u64 => Ok(Tensor { shape, storage, range: begin as usize..end as usize }),
            _ => Err(refuse(format!("{shape:?} numbers at place {offset} reach beyond the file's {len} bytes; download or copy it again"))),
        }
    }
}

/// Reads the file from front to back.
struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn truncated(&self, what: &'static str, needed: u64) -> GgufError {
        GgufError::Truncated { path: self.path.into(), what, offset: self.at, needed, left: self.left() }
    }

    fn field(&self, what: &'static str, found: String, expected: &'static str) -> GgufError {
        GgufError::Field { path: self.path.into(), what, offset: self.at, found, expected }
    }

    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let taken = self.bytes[self.at..].first_chunk::<N>().copied().ok_or_else(|| self.truncated(what, N as u64))?;
        self.at += N;
        Ok(taken)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(what)?))
    }

    fn string(&mut self, what: &'static str) -> Result<String> {
        let length = self.u64(what)?;
        let size = usize::try_from(length).ok().filter(|size| *size <= self.left()).ok_or_else(|| self.truncated(what, length))?;
        let text = std::str::from_utf8(&self.bytes[self.at..self.at + size]);
        let text = text.map_err(|error| self.field(what, error.to_string(), "text in UTF-8"))?.to_owned();
        self.at += size;
        Ok(text)
    }

    fn value(&mut self) -> Result<Value> {
        const WHAT: &str = "metadata value";
        Ok(match self.u32("type of a metadata value")? {
            0 => Value::Unsigned(u8::from_le_bytes(self.take(WHAT)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.take(WHAT)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.take(WHAT)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.take(WHAT)?).into()),
            4 => Value::Unsigned(self.u32(WHAT)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.take(WHAT)?).into()),
            6 => Value::Real(f32::from_le_bytes(self.take(WHAT)?).into()),
            7 => Value::Bool(self.bool()?),
            8 => Value::Text(self.string(WHAT)?),
            9 => self.array()?,
            10 => Value::Unsigned(self.u64(WHAT)?),
            11 => Value::Signed(i64::from_le_bytes(self.take(WHAT)?)),
            12 => Value::Real(f64::from_le_bytes(self.take(WHAT)?)),
            other => return Err(self.field("type of a metadata value", other.to_string(), "0 to 12")),
        })
    }

    fn bool(&mut self) -> Result<bool> {
        match self.take("truth value")? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.field("truth value", other.to_string(), "0 or 1")),
        }
    }

    fn array(&mut self) -> Result<Value> {
        const WHAT: &str = "element of a metadata array";
        let (kind, count) = (self.u32("type of a metadata array")?, self.u64("length of a metadata array")?);
        Ok(match kind {
            0 => Value::Integers(self.elements(count, 1, |cursor| Ok(u8::from_le_bytes(cursor.take(WHAT)?).into()))?),
            1 => Value::Integers(self.elements(count, 1, |cursor| Ok(i8::from_le_bytes(cursor.take(WHAT)?).into()))?),
            2 => Value::Integers(self.elements(count, 2, |cursor| Ok(u16::from_le_bytes(cursor.take(WHAT)?).into()))?),
            3 => Value::Integers(self.elements(count, 2, |cursor| Ok(i16::from_le_bytes(cursor.take(WHAT)?).into()))?),
            4 => Value::Integers(self.elements(count, 4, |cursor| Ok(cursor.u32(WHAT)?.into()))?),
            5 => Value::Integers(self.elements(count, 4, |cursor| Ok(i32::from_le_bytes(cursor.take(WHAT)?).into()))?),
            6 => Value::Reals(self.elements(count, 4, |cursor| Ok(f32::from_le_bytes(cursor.take(WHAT)?).into()))?),
            7 => Value::Integers(self.elements(count, 1, |cursor| Ok(cursor.bool()?.into()))?),
            8 => Value::Texts(self.elements(count, 8, |cursor| cursor.string(WHAT))?),
            10 => Value::Integers(self.elements(count, 8, |cursor| {
                let value = cursor.u64(WHAT)?;
                i64::try_from(value).map_err(|_| cursor.field(WHAT, value.to_string(), "at most 2^63 - 1"))
            })?),
            11 => Value::Integers(self.elements(count, 8, |cursor| Ok(i64::from_le_bytes(cursor.take(WHAT)?)))?),
            12 => Value::Reals(self.elements(count, 8, |cursor| Ok(f64::from_le_bytes(cursor.take(WHAT)?)))?),
            other => return Err(self.field("type of a metadata array", other.to_string(), "0 to 8 or 10 to 12")),
        })
    }

    /// `count` elements of at least `least` bytes each: a count that the file cannot hold is refused before memory is asked for.
    fn elements<T>(&mut self, count: u64, least: u64, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let needed = count.saturating_mul(least);
        if needed > self.left() as u64 {
            return Err(self.truncated("metadata array", needed));
        }
        (0..count).map(|_| read(self)).collect()
    }

    fn place(&mut self) -> Result<Place> {
        let name = self.string("tensor name")?;
        let dimensions = self.u32("number of dimensions")?;
        if dimensions > MAX_DIMENSIONS {
            return Err(self.field("number of dimensions", dimensions.to_string(), "at most 4"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = self.u64("size of a dimension")?;
            let size = usize::try_from(size).map_err(|_| self.field("size of a dimension", size.to_string(), "a size of this machine"))?;
            shape.push(size);
        }
        shape.reverse();
        Ok(Place { name, shape, kind: self.u32("tensor type")?, offset: self.u64("place of a tensor")? })
    }
}

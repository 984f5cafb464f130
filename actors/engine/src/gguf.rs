//! The header of a GGUF file: metadata and where each tensor lies.
//!
//! Reads headers only, never weights, and believes nothing: every length is
//! checked against the file before memory is taken for it. Unknown tensor
//! types are kept by number, since a file may hold tensors that this node
//! never needs. Format: ggml's `docs/gguf.md`, versions 2 and 3, little-endian.

mod reader;
mod types;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::EngineError;
use reader::Reader;
pub use types::TensorType;

const MAGIC: u32 = u32::from_le_bytes(*b"GGUF");
const ALIGNMENT_DEFAULT: u64 = 32;
/// ggml itself stops at four.
const DIMENSION_COUNT_MAX: u32 = 4;
/// Keys and tensor names; ggml stops at 64 bytes for the latter.
const NAME_BYTES_MAX: u64 = 4096;
/// Room for any chat template; longer strings stay readable as array elements.
const STRING_BYTES_MAX: u64 = 16 << 20;
/// The shortest metadata entry: a name's length, a type, one byte of value.
const METADATA_BYTES_MIN: u64 = 8 + 4 + 1;
/// The shortest tensor entry: a name's length, a dimension count, a type, an offset.
const TENSOR_BYTES_MIN: u64 = 8 + 4 + 4 + 8;

/// A metadata value. Numbers are widened; arrays stay in the file until asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(ArrayRef),
}

/// Where an array's elements lie in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArrayRef {
    element: u32,
    pub(crate) count: u64,
    offset: u64,
}

/// One tensor's entry in the header.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    /// Fastest-varying first, as the file has it: a matrix is `[columns, rows]`.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) kind: TensorType,
    /// Absolute byte offset in the file.
    pub(crate) offset: u64,
    /// `None` for a type whose block size is unknown.
    pub(crate) bytes: Option<u64>,
}

impl TensorInfo {
    /// Number of elements.
    pub(crate) fn elements(&self) -> u64 {
        self.dimensions.iter().product()
    }
}

/// A parsed header.
#[derive(Debug)]
pub(crate) struct Gguf {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    alignment: u64,
}

impl Gguf {
    /// Parses the header of `file`; `path` is for messages only.
    pub(crate) fn read(file: &File, path: &Path) -> Result<Gguf, EngineError> {
        let mut reader = Reader::new(file, path, 0)?;
        let (tensor_count, metadata_count) = preamble(&mut reader)?;
        let metadata = metadata(&mut reader, metadata_count)?;
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT_DEFAULT,
            // Below 8 a tensor of floats could start where no float may.
            Some(Value::Unsigned(n)) if n.is_power_of_two() && (8..=1 << 20).contains(n) => *n,
            Some(other) => {
                return Err(reader.corrupt(format!("general.alignment is {other:?}")));
            }
        };
        let mut tensors = tensor_infos(&mut reader, tensor_count)?;
        let data = reader.offset().next_multiple_of(alignment);
        for tensor in tensors.values_mut() {
            place(tensor, data, alignment, &reader)?;
        }
        Ok(Gguf {
            path: path.to_path_buf(),
            metadata,
            tensors,
            alignment,
        })
    }

    /// The file's name, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Tensor data starts at multiples of this.
    pub(crate) fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The value under `key`, if there is one.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// The tensor called `name`, if there is one.
    pub(crate) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Every tensor, by name.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values()
    }

    /// A non-negative integer under `key`; absent is `None`, another type an error.
    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<u64>, EngineError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(n)) => Ok(Some(*n)),
            Some(Value::Signed(n)) => u64::try_from(*n)
                .map(Some)
                .map_err(|_| self.bad(key, format!("{n} is negative"))),
            Some(other) => Err(self.bad(key, format!("expected an integer, found {other:?}"))),
        }
    }

    /// A number under `key`; absent is `None`, another type an error.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, EngineError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(other) => Err(self.bad(key, format!("expected a number, found {other:?}"))),
        }
    }

    /// A flag under `key`; absent is `None`, another type an error.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, EngineError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(self.bad(key, format!("expected a flag, found {other:?}"))),
        }
    }

    /// A string under `key`; absent is `None`, another type an error.
    pub(crate) fn string(&self, key: &str) -> Result<Option<&str>, EngineError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.bad(key, format!("expected a string, found {other:?}"))),
        }
    }

    /// The strings of the array under `key`, read from the file now.
    pub(crate) fn strings(
        &self,
        file: &File,
        key: &str,
    ) -> Result<Option<Vec<String>>, EngineError> {
        let Some((array, mut reader)) = self.array(file, key)? else {
            return Ok(None);
        };
        if array.element != reader::STRING {
            return Err(self.bad(key, "expected an array of strings".into()));
        }
        // Not reserved from `count`: the strings themselves bound the growth.
        let mut strings = Vec::new();
        for _ in 0..array.count {
            strings.push(reader.string(key, STRING_BYTES_MAX)?);
        }
        Ok(Some(strings))
    }

    /// The numbers of the array under `key`, read from the file now.
    pub(crate) fn numbers(&self, file: &File, key: &str) -> Result<Option<Vec<f64>>, EngineError> {
        let Some((array, mut reader)) = self.array(file, key)? else {
            return Ok(None);
        };
        let mut numbers = Vec::new();
        for _ in 0..array.count {
            numbers.push(match reader.value(array.element, key)? {
                Value::Unsigned(n) => n as f64,
                Value::Signed(n) => n as f64,
                Value::Float(x) => x,
                Value::Bool(_) | Value::String(_) | Value::Array(_) => {
                    return Err(self.bad(key, "expected an array of numbers".into()));
                }
            });
        }
        Ok(Some(numbers))
    }

    /// An error that names this file and `key`.
    pub(crate) fn bad(&self, key: &str, reason: String) -> EngineError {
        EngineError::Metadata {
            path: self.path.clone(),
            key: key.to_string(),
            reason,
        }
    }

    fn array<'a>(
        &'a self,
        file: &'a File,
        key: &str,
    ) -> Result<Option<(&'a ArrayRef, Reader<'a>)>, EngineError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array(array)) => {
                let reader = Reader::new(file, &self.path, array.offset)?;
                Ok(Some((array, reader)))
            }
            Some(other) => Err(self.bad(key, format!("expected an array, found {other:?}"))),
        }
    }
}

/// Checks magic and version; returns how many tensors and metadata entries follow.
fn preamble(reader: &mut Reader<'_>) -> Result<(u64, u64), EngineError> {
    let magic = reader.u32("magic")?;
    if magic != MAGIC {
        return Err(reader.corrupt(format!("not a GGUF file (it starts with {magic:#010x})")));
    }
    let version = reader.u32("version")?;
    if version.swap_bytes() == 2 || version.swap_bytes() == 3 {
        return Err(reader.corrupt("big-endian GGUF files are not supported".into()));
    }
    if version != 2 && version != 3 {
        return Err(reader.corrupt(format!(
            "GGUF version {version} is not supported (2 and 3 are)"
        )));
    }
    let tensor_count = reader.u64("tensor count")?;
    let metadata_count = reader.u64("metadata count")?;
    let room = reader.remaining();
    let needed = u128::from(tensor_count) * u128::from(TENSOR_BYTES_MIN)
        + u128::from(metadata_count) * u128::from(METADATA_BYTES_MIN);
    if needed > u128::from(room) {
        return Err(reader.corrupt(format!(
            "{tensor_count} tensors and {metadata_count} metadata entries do not fit in the {room} bytes that follow"
        )));
    }
    Ok((tensor_count, metadata_count))
}

fn metadata(reader: &mut Reader<'_>, count: u64) -> Result<BTreeMap<String, Value>, EngineError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = reader.string("metadata key", NAME_BYTES_MAX)?;
        let kind = reader.u32("metadata type")?;
        let value = reader.value(kind, &key)?;
        if metadata.contains_key(&key) {
            return Err(reader.corrupt(format!("metadata `{key}` appears twice")));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn tensor_infos(
    reader: &mut Reader<'_>,
    count: u64,
) -> Result<BTreeMap<String, TensorInfo>, EngineError> {
    let mut tensors = BTreeMap::new();
    for _ in 0..count {
        let name = reader.string("tensor name", NAME_BYTES_MAX)?;
        let dimension_count = reader.u32("dimension count")?;
        if dimension_count == 0 || dimension_count > DIMENSION_COUNT_MAX {
            return Err(reader.corrupt(format!("tensor `{name}` has {dimension_count} dimensions")));
        }
        let mut dimensions = Vec::with_capacity(dimension_count as usize);
        for _ in 0..dimension_count {
            dimensions.push(reader.u64("dimension")?);
        }
        let kind = TensorType::from_number(reader.u32("tensor type")?);
        let offset = reader.u64("tensor offset")?;
        let bytes = match tensor_bytes(&dimensions, kind) {
            Ok(bytes) => bytes,
            Err(reason) => return Err(reader.corrupt(format!("tensor `{name}`: {reason}"))),
        };
        if tensors.contains_key(&name) {
            return Err(reader.corrupt(format!("tensor `{name}` appears twice")));
        }
        let info = TensorInfo {
            name: name.clone(),
            dimensions,
            kind,
            offset,
            bytes,
        };
        tensors.insert(name, info);
    }
    Ok(tensors)
}

/// Size in bytes of a tensor; `None` when its type's block size is unknown.
fn tensor_bytes(dimensions: &[u64], kind: TensorType) -> Result<Option<u64>, String> {
    let mut elements = 1u64;
    for &dimension in dimensions {
        elements = elements
            .checked_mul(dimension)
            .filter(|&n| n > 0 && n < 1 << 60)
            .ok_or_else(|| format!("dimensions {dimensions:?} are impossible"))?;
    }
    let Some((block_elements, block_bytes)) = kind.block() else {
        return Ok(None);
    };
    if !dimensions[0].is_multiple_of(block_elements) {
        return Err(format!(
            "{} columns are not whole blocks of {kind} ({block_elements} each)",
            dimensions[0]
        ));
    }
    (elements / block_elements)
        .checked_mul(block_bytes)
        .map(Some)
        .ok_or_else(|| format!("dimensions {dimensions:?} are impossible"))
}

/// Makes `tensor`'s offset absolute and checks that the file holds it.
fn place(
    tensor: &mut TensorInfo,
    data: u64,
    alignment: u64,
    reader: &Reader<'_>,
) -> Result<(), EngineError> {
    if !tensor.offset.is_multiple_of(alignment) {
        return Err(reader.corrupt(format!(
            "tensor `{}` is at {}, not a multiple of {alignment}",
            tensor.name, tensor.offset
        )));
    }
    let needed = tensor.bytes.unwrap_or(0);
    let end = data
        .checked_add(tensor.offset)
        .and_then(|start| start.checked_add(needed));
    match end {
        Some(end) if end <= reader.length() => {
            tensor.offset += data;
            Ok(())
        }
        Some(_) | None => Err(EngineError::Truncated {
            path: reader.path().to_path_buf(),
            what: format!("tensor `{}`", tensor.name),
            offset: data.saturating_add(tensor.offset),
            needed,
            length: reader.length(),
        }),
    }
}

#[cfg(test)]
mod tests;

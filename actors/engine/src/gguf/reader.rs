//! A cursor over a file that knows its end.
//!
//! It never allocates more than the file still holds, and every failure
//! carries the path and the byte offset.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::{ArrayRef, STRING_BYTES_MAX, Value};
use crate::error::EngineError;

/// GGUF's number for the string type.
pub(super) const STRING: u32 = 8;
const ARRAY: u32 = 9;
/// Arrays of arrays exist in the format; no model uses more than two levels.
const ARRAY_DEPTH_MAX: u32 = 3;

pub(super) struct Reader<'a> {
    inner: BufReader<&'a File>,
    path: &'a Path,
    offset: u64,
    length: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        file: &'a File,
        path: &'a Path,
        offset: u64,
    ) -> Result<Reader<'a>, EngineError> {
        let mut reader = Reader {
            inner: BufReader::with_capacity(64 << 10, file),
            path,
            offset,
            length: 0,
        };
        reader.length = match file.metadata() {
            Ok(metadata) => metadata.len(),
            Err(source) => return Err(reader.io("stat", source)),
        };
        match reader.inner.seek(SeekFrom::Start(offset)) {
            Ok(_) => Ok(reader),
            Err(source) => Err(reader.io("seek", source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.path
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn remaining(&self) -> u64 {
        self.length.saturating_sub(self.offset)
    }

    pub(super) fn corrupt(&self, reason: String) -> EngineError {
        EngineError::Corrupt {
            path: self.path.to_path_buf(),
            offset: self.offset,
            reason,
        }
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, EngineError> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, EngineError> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self, what: &str, bytes_max: u64) -> Result<String, EngineError> {
        let length = self.u64(what)?;
        if length > bytes_max {
            return Err(self.corrupt(format!("{what}: a string of {length} bytes")));
        }
        self.require(what, length)?;
        let mut bytes = vec![0; length as usize];
        self.fill(what, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.corrupt(format!("{what}: not UTF-8")))
    }

    /// Reads one value of GGUF type `kind`; an array is skipped and remembered.
    pub(super) fn value(&mut self, kind: u32, key: &str) -> Result<Value, EngineError> {
        Ok(match kind {
            0 => Value::Unsigned(u64::from(u8::from_le_bytes(self.bytes(key)?))),
            1 => Value::Signed(i64::from(i8::from_le_bytes(self.bytes(key)?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.bytes(key)?))),
            3 => Value::Signed(i64::from(i16::from_le_bytes(self.bytes(key)?))),
            4 => Value::Unsigned(u64::from(u32::from_le_bytes(self.bytes(key)?))),
            5 => Value::Signed(i64::from(i32::from_le_bytes(self.bytes(key)?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.bytes(key)?))),
            7 => match self.bytes::<1>(key)?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return Err(self.corrupt(format!("{key}: a flag of {other}"))),
            },
            STRING => Value::String(self.string(key, STRING_BYTES_MAX)?),
            ARRAY => Value::Array(self.skip_array(key, 0)?),
            10 => Value::Unsigned(self.u64(key)?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes(key)?)),
            other => return Err(self.corrupt(format!("{key}: unknown value type {other}"))),
        })
    }

    fn skip_array(&mut self, key: &str, depth: u32) -> Result<ArrayRef, EngineError> {
        if depth == ARRAY_DEPTH_MAX {
            return Err(self.corrupt(format!("{key}: arrays nested too deep")));
        }
        let element = self.u32(key)?;
        let count = self.u64(key)?;
        let array = ArrayRef {
            element,
            count,
            offset: self.offset,
        };
        let (width, variable) = match element {
            0 | 1 | 7 => (1, false),
            2 | 3 => (2, false),
            4..=6 => (4, false),
            10..=12 => (8, false),
            STRING => (8, true),
            ARRAY => (12, true),
            other => return Err(self.corrupt(format!("{key}: unknown value type {other}"))),
        };
        // A variable element takes at least its own length field, so this bounds the loop below.
        let Some(bytes) = count.checked_mul(width) else {
            return Err(self.corrupt(format!("{key}: an array of {count} elements")));
        };
        self.require(key, bytes)?;
        if !variable {
            self.skip(key, bytes)?;
            return Ok(array);
        }
        for _ in 0..count {
            if element == STRING {
                let length = self.u64(key)?;
                self.skip(key, length)?;
            } else {
                self.skip_array(key, depth + 1)?;
            }
        }
        Ok(array)
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], EngineError> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, what: &str, bytes: &mut [u8]) -> Result<(), EngineError> {
        self.require(what, bytes.len() as u64)?;
        match self.inner.read_exact(bytes) {
            Ok(()) => {
                self.offset += bytes.len() as u64;
                Ok(())
            }
            Err(source) => Err(self.io("read", source)),
        }
    }

    fn skip(&mut self, what: &str, count: u64) -> Result<(), EngineError> {
        self.require(what, count)?;
        // `require` proved that the count fits in the file, so it fits in i64.
        match self.inner.seek_relative(count as i64) {
            Ok(()) => {
                self.offset += count;
                Ok(())
            }
            Err(source) => Err(self.io("seek", source)),
        }
    }

    fn require(&self, what: &str, needed: u64) -> Result<(), EngineError> {
        if needed <= self.remaining() {
            return Ok(());
        }
        Err(EngineError::Truncated {
            path: self.path.to_path_buf(),
            what: what.to_string(),
            offset: self.offset,
            needed,
            length: self.length,
        })
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> EngineError {
        EngineError::Io {
            path: self.path.to_path_buf(),
            action,
            offset: self.offset,
            source,
        }
    }
}

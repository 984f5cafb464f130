//! Tensor bytes, mapped from the model file a range at a time.
//!
//! Never the whole file: a mapping covers tensors that lie side by side and
//! rounds to pages at its ends, nothing more.

use std::ops::Range;

use memmap2::{Mmap, MmapOptions};

use crate::error::EngineError;
use crate::file::ModelFile;
use crate::gguf::TensorInfo;

/// The mapped bytes of some tensors of one file.
#[derive(Debug)]
pub(crate) struct MappedTensors {
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    range: Range<u64>,
    map: Mmap,
}

impl MappedTensors {
    /// Maps `tensors`, those that touch each other together.
    pub(crate) fn map(
        file: &ModelFile,
        tensors: &[&TensorInfo],
    ) -> Result<MappedTensors, EngineError> {
        let mut ranges = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let bytes = tensor
                .bytes
                .ok_or_else(|| EngineError::UnsupportedQuantisation {
                    tensor: tensor.name.clone(),
                    quantisation: tensor.kind.to_string(),
                })?;
            ranges.push(tensor.offset..tensor.offset + bytes);
        }
        let mut runs = Vec::new();
        for range in joined(ranges, file.alignment()) {
            runs.push(Run::map(file, range)?);
        }
        Ok(MappedTensors { runs })
    }

    /// The bytes of `tensor`, which must be one of those mapped.
    pub(crate) fn bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let (run, range) = self.place(tensor);
        &run.map[range]
    }

    /// Takes the first `done` bytes of `tensor` out of this process's memory. Whoever
    /// reads them again makes the system fetch them again.
    pub(crate) fn release(&self, tensor: &TensorInfo, done: usize) {
        #[cfg(unix)]
        {
            let (run, range) = self.place(tensor);
            run.release(range.start..range.start + done.min(range.len()));
        }
        #[cfg(not(unix))]
        let _ = (tensor, done);
    }

    /// Where `tensor` lies.
    fn place(&self, tensor: &TensorInfo) -> (&Run, Range<usize>) {
        let length = tensor.bytes.expect("map() refused tensors of unknown size");
        let run = self
            .runs
            .iter()
            .find(|run| run.range.start <= tensor.offset && tensor.offset + length <= run.range.end)
            .expect("the caller maps the tensors that it reads");
        let start = (tensor.offset - run.range.start) as usize;
        (run, start..start + length as usize)
    }

    /// The file's byte ranges that are mapped, before rounding to pages.
    pub(crate) fn ranges(&self) -> Vec<Range<u64>> {
        self.runs.iter().map(|run| run.range.clone()).collect()
    }
}

impl Run {
    fn map(file: &ModelFile, range: Range<u64>) -> Result<Run, EngineError> {
        let length = (range.end - range.start) as usize;
        let mut options = MmapOptions::new();
        options.offset(range.start).len(length);
        #[expect(unsafe_code, reason = "the one place that maps a file")]
        // SAFETY: the mapping is private and read-only, and the bytes are only ever read as plain
        // numbers, for which any bit pattern is valid. A file that another process truncates while it
        // is mapped raises SIGBUS, as for every program that maps its data; the engine checked the
        // length when it opened the file and never writes to it.
        let map = unsafe { options.map(file.file()) };
        match map {
            Ok(map) => Ok(Run { range, map }),
            Err(source) => Err(EngineError::Io {
                path: file.path().to_path_buf(),
                action: "map",
                offset: range.start,
                source,
            }),
        }
    }

    #[cfg(unix)]
    fn release(&self, range: Range<usize>) {
        let advice = memmap2::UncheckedAdvice::DontNeed;
        #[expect(unsafe_code, reason = "the advice could discard what was written")]
        // SAFETY: nothing is ever written to this mapping, so whatever is read later is the file's.
        let advised = unsafe {
            self.map
                .unchecked_advise_range(advice, range.start, range.len())
        };
        // Only memory hangs on it, and that goes back with the mapping at the latest.
        drop(advised);
    }
}

/// Sorts `ranges` and joins those with no more than alignment padding between them.
fn joined(mut ranges: Vec<Range<u64>>, alignment: u64) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.next_multiple_of(alignment) => {
                last.end = last.end.max(range.end);
            }
            Some(_) | None => joined.push(range),
        }
    }
    joined
}

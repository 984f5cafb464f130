//! Weight matrices repacked for the kernels.
//!
//! Takes a matrix as the file stores it and copies it once into strips (see
//! [`super::weights`]); nothing keeps or maps the file. No requantisation: the
//! packed values are the file's values.

use std::io;

use super::arena::Slab;
use super::format::{BLOCK, Format};
use super::simd::Isa;
use super::weights::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Weights};

mod blocks;

/// Why a matrix could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The columns do not divide into the format's blocks. *Effect*: nothing
    /// was allocated.
    #[error("{cols} columns are no multiple of the {block} of {format:?}")]
    Columns {
        /// The matrix's format.
        format: Format,
        /// Its columns.
        cols: usize,
        /// The format's block.
        block: usize,
    },
    /// The data has another size than the shape says. *Effect*: nothing was
    /// allocated.
    #[error("{rows} x {cols} of {format:?} is {expected} bytes, not {actual}")]
    Size {
        /// The matrix's format.
        format: Format,
        /// Its rows.
        rows: usize,
        /// Its columns.
        cols: usize,
        /// Bytes by the shape; `None` is more than an address can count.
        expected: Expected,
        /// Bytes given.
        actual: usize,
    },
    /// The parts of one matrix read different inputs. *Effect*: the parts are
    /// dropped.
    #[error("a part with {actual} columns beside parts with {expected}")]
    Parts {
        /// Columns of the first part.
        expected: usize,
        /// Columns of the part that differs.
        actual: usize,
    },
    /// The system has no memory for it. *Effect*: nothing was allocated.
    #[error("no memory for {bytes} bytes of packed weights")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// What the system said.
        source: io::Error,
    },
}

/// A byte count that may be past counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected(pub Option<usize>);

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => bytes.fmt(f),
            None => f.write_str("more than can be counted"),
        }
    }
}

/// A weight matrix, `(rows, cols)`: output features by input features. It may
/// be several matrices over the same inputs, one below the other, each in its
/// own format: q, k and v are one product.
#[derive(Debug)]
pub struct Packed {
    pub(super) isa: Isa,
    pub(super) segments: Vec<Segment>,
    rows: usize,
    cols: usize,
}

/// One matrix of a [`Packed`].
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) format: Format,
    /// Its first row in the whole.
    pub(super) first_row: usize,
    pub(super) rows: usize,
    pub(super) layout: Layout,
    /// Strips of `layout.strip_bytes()`; missing rows of the last are zero.
    pub(super) data: Slab,
}

/// Where things lie in a strip, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) lanes: usize,
    /// Length of the scales, then of the quants, each padded to cache lines.
    pub(super) scale_plane: usize,
    pub(super) quant_plane: usize,
}

impl Packed {
    /// Packs a row-major matrix of the file's blocks for this CPU.
    ///
    /// # Errors
    /// When the shape does not fit the format or the data, or memory is short.
    pub fn pack(format: Format, data: &[u8], rows: usize, cols: usize) -> Result<Self, PackError> {
        Self::pack_for(Isa::detect(), format, data, rows, cols)
    }

    /// [`Packed::pack`] that calls `release` now and then, and at the end, with how
    /// many bytes from the start of `data` are needed no more: where they are mapped
    /// from a file, the matrix need not be in memory twice.
    ///
    /// # Errors
    /// As [`Packed::pack`].
    pub fn pack_releasing(
        format: Format,
        data: &[u8],
        rows: usize,
        cols: usize,
        release: impl FnMut(usize),
    ) -> Result<Self, PackError> {
        Self::pack_with(Isa::detect(), format, data, (rows, cols), release)
    }

    /// [`Packed::pack`] for one instruction set, for tests and comparisons.
    ///
    /// # Errors
    /// As [`Packed::pack`].
    ///
    /// # Panics
    /// When this CPU lacks the set.
    pub fn pack_for(
        isa: Isa,
        format: Format,
        data: &[u8],
        rows: usize,
        cols: usize,
    ) -> Result<Self, PackError> {
        assert!(isa.is_available(), "{isa:?} is not available on this CPU");
        Self::pack_with(isa, format, data, (rows, cols), |_| {})
    }

    fn pack_with(
        isa: Isa,
        format: Format,
        data: &[u8],
        (rows, cols): (usize, usize),
        release: impl FnMut(usize),
    ) -> Result<Self, PackError> {
        let block = format.block_len();
        if !cols.is_multiple_of(block) {
            return Err(PackError::Columns {
                format,
                cols,
                block,
            });
        }
        let expected = (cols / block * format.block_bytes()).checked_mul(rows);
        let actual = data.len();
        if expected != Some(actual) {
            let expected = Expected(expected);
            return Err(PackError::Size {
                format,
                rows,
                cols,
                expected,
                actual,
            });
        }
        let layout = Layout::new(isa, format, cols);
        let bytes = rows.div_ceil(layout.lanes) * layout.strip_bytes();
        let mut packed =
            Slab::zeroed(bytes).map_err(|source| PackError::Memory { bytes, source })?;
        blocks::fill(&mut packed, &layout, format, (data, cols), release);
        let segments = vec![Segment {
            format,
            first_row: 0,
            rows,
            layout,
            data: packed,
        }];
        Ok(Self {
            isa,
            segments,
            rows,
            cols,
        })
    }

    /// A matrix whose packed bytes `fill` makes up, for measuring.
    pub(super) fn of_bytes(
        format: Format,
        rows: usize,
        cols: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> io::Result<Self> {
        let isa = Isa::detect();
        let layout = Layout::new(isa, format, cols);
        let mut data = Slab::zeroed(rows.div_ceil(layout.lanes) * layout.strip_bytes())?;
        fill(&mut data);
        Ok(Self {
            isa,
            segments: vec![Segment {
                format,
                first_row: 0,
                rows,
                layout,
                data,
            }],
            rows,
            cols,
        })
    }

    /// Several matrices over the same inputs as one, first to last. Copies no
    /// weights; formats may differ.
    ///
    /// # Errors
    /// When the columns differ.
    ///
    /// # Panics
    /// When there are no parts, or they were packed for different sets.
    pub fn concat(parts: Vec<Self>) -> Result<Self, PackError> {
        let (isa, cols) = parts
            .first()
            .map(|part| (part.isa, part.cols))
            .expect("a part");
        let mut whole = Self {
            isa,
            segments: Vec::new(),
            rows: 0,
            cols,
        };
        for part in parts {
            assert_eq!(part.isa, isa, "parts packed for different instruction sets");
            if part.cols != cols {
                return Err(PackError::Parts {
                    expected: cols,
                    actual: part.cols,
                });
            }
            whole
                .segments
                .extend(part.segments.into_iter().map(|mut segment| {
                    segment.first_row += whole.rows;
                    segment
                }));
            whole.rows += part.rows;
        }
        Ok(whole)
    }

    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of memory that the packed weights take, which are also the bytes
    /// that one pass reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.segments.iter().map(|segment| segment.data.len()).sum()
    }

    /// Whether any part is multiplied with 8-bit inputs, so that the
    /// activations must be quantised.
    #[must_use]
    pub fn wants_quantized(&self) -> bool {
        self.segments
            .iter()
            .any(|segment| !segment.format.is_float())
    }
}

impl Segment {
    /// Strips of [`Layout::lanes`] rows.
    pub(super) fn strips(&self) -> usize {
        self.rows.div_ceil(self.layout.lanes)
    }
}

impl Layout {
    fn new(isa: Isa, format: Format, cols: usize) -> Self {
        let lanes = isa.lanes();
        let line = |bytes: usize| bytes.next_multiple_of(64);
        let sizes = |unit: usize, scale_bytes: usize, quant_bytes: usize| Self {
            lanes,
            scale_plane: line(cols / BLOCK / unit * scale_bytes * lanes),
            quant_plane: line(cols / BLOCK * quant_bytes * lanes),
        };
        let float = |bytes| Self {
            lanes,
            scale_plane: 0,
            quant_plane: line(cols * bytes * lanes),
        };
        macro_rules! of {
            ($weights:ty) => {
                sizes(
                    <$weights>::UNIT,
                    <$weights>::SCALE_BYTES,
                    <$weights>::QUANT_BYTES,
                )
            };
        }
        match format {
            Format::F32 => float(4),
            Format::F16 | Format::BF16 => float(2),
            Format::Q4_0 => of!(Q4_0),
            Format::Q4_1 => of!(Q4_1),
            Format::Q5_0 => of!(Q5_0),
            Format::Q5_1 => of!(Q5_1),
            Format::Q8_0 => of!(Q8_0),
            Format::Q2K => of!(Q2K),
            Format::Q3K => of!(Q3K),
            Format::Q4K => of!(Q4K),
            Format::Q5K => of!(Q5K),
            Format::Q6K => of!(Q6K),
        }
    }

    pub(super) fn strip_bytes(&self) -> usize {
        self.scale_plane + self.quant_plane
    }
}

#[cfg(test)]
mod tests;

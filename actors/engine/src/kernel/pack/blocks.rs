//! The blocks of a GGUF file, taken apart into the planes of a strip.
//!
//! Layouts are ggml's (`ggml-common.h`, `ggml-quants.c`); only their order
//! changes here, no value does.

use super::Layout;
use crate::kernel::format::{BLOCK, Format, SUPERBLOCK};
use crate::kernel::weights::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Weights};

/// Bytes of a matrix that are copied before they are reported as done.
const STEP_BYTES: usize = 1 << 20;

/// Copies a row-major matrix of `cols` columns into zeroed strips, and calls `done` with
/// the bytes copied so far.
pub(super) fn fill(
    packed: &mut [u8],
    layout: &Layout,
    format: Format,
    (data, cols): (&[u8], usize),
    mut done: impl FnMut(usize),
) {
    let row_bytes = cols / format.block_len() * format.block_bytes();
    if row_bytes == 0 {
        return;
    }
    let mut told = 0;
    for (row, data) in data.chunks_exact(row_bytes).enumerate() {
        if row * row_bytes - told >= STEP_BYTES {
            told = row * row_bytes;
            done(told);
        }
        let strip = row / layout.lanes * layout.strip_bytes();
        let strip = &mut packed[strip..strip + layout.strip_bytes()];
        let (scales, quants) = strip.split_at_mut(layout.scale_plane);
        let lane = Lane {
            scales,
            quants,
            lanes: layout.lanes,
            lane: row % layout.lanes,
        };
        lane.fill(format, data);
    }
    done(data.len());
}

/// One row's place in its strip.
struct Lane<'a> {
    scales: &'a mut [u8],
    quants: &'a mut [u8],
    lanes: usize,
    lane: usize,
}

impl Lane<'_> {
    fn fill(mut self, format: Format, data: &[u8]) {
        let blocks = data.chunks_exact(format.block_bytes()).enumerate();
        match format {
            Format::F32 | Format::F16 | Format::BF16 => {
                let width = format.block_bytes();
                blocks.for_each(|(col, value)| {
                    let at = (col * self.lanes + self.lane) * width;
                    self.quants[at..at + width].copy_from_slice(value);
                });
            }
            Format::Q4_0 => blocks.for_each(|(block, data)| {
                self.scale::<Q4_0>(block, 0, &data[..2]);
                self.nibbles(block * Q4_0::QUANT_BYTES, &data[2..]);
            }),
            Format::Q4_1 => blocks.for_each(|(block, data)| {
                self.scale::<Q4_1>(block, 0, &data[..2]);
                self.scale::<Q4_1>(block, 2, &data[2..4]);
                self.nibbles(block * Q4_1::QUANT_BYTES, &data[4..]);
            }),
            Format::Q5_0 => blocks.for_each(|(block, data)| {
                self.scale::<Q5_0>(block, 0, &data[..2]);
                self.nibbles(block * Q5_0::QUANT_BYTES, &data[6..]);
                self.bits(block * Q5_0::QUANT_BYTES + 16, fifth_bits(&data[2..6]));
            }),
            Format::Q5_1 => blocks.for_each(|(block, data)| {
                self.scale::<Q5_1>(block, 0, &data[..2]);
                self.scale::<Q5_1>(block, 2, &data[2..4]);
                self.nibbles(block * Q5_1::QUANT_BYTES, &data[8..]);
                self.bits(block * Q5_1::QUANT_BYTES + 16, fifth_bits(&data[4..8]));
            }),
            Format::Q8_0 => blocks.for_each(|(block, data)| {
                self.scale::<Q8_0>(block, 0, &data[..2]);
                for (group, four) in data[2..].chunks_exact(4).enumerate() {
                    let at = self.at(block * Q8_0::QUANT_BYTES, group);
                    self.quants[at..at + 4].copy_from_slice(four);
                }
            }),
            Format::Q2K => blocks.for_each(|(unit, data)| self.q2k(unit, data)),
            Format::Q3K => blocks.for_each(|(unit, data)| self.q3k(unit, data)),
            Format::Q4K => blocks.for_each(|(unit, data)| self.q4k(unit, data)),
            Format::Q5K => blocks.for_each(|(unit, data)| self.q5k(unit, data)),
            Format::Q6K => blocks.for_each(|(unit, data)| self.q6k(unit, data)),
        }
    }

    /// Where the four bytes of vector `vector` are, in the record of quants
    /// that starts at `record` bytes per lane.
    fn at(&self, record: usize, vector: usize) -> usize {
        (record + 4 * vector) * self.lanes + 4 * self.lane
    }

    /// A field of the scale record, `field` bytes per lane into it.
    fn scale<W: Weights>(&mut self, unit: usize, field: usize, value: &[u8]) {
        let at = (unit * W::SCALE_BYTES + field) * self.lanes + self.lane * value.len();
        self.scales[at..at + value.len()].copy_from_slice(value);
    }

    /// 16 bytes that hold input `i` low and input `i + 16` high: the file's
    /// order within a block is already the strip's.
    fn nibbles(&mut self, record: usize, bytes: &[u8]) {
        for (vector, four) in bytes.chunks_exact(4).enumerate() {
            let at = self.at(record, vector);
            self.quants[at..at + 4].copy_from_slice(four);
        }
    }

    /// The low four bits of each value.
    fn low_nibbles(&mut self, record: usize, values: [u8; BLOCK]) {
        let bytes: [u8; 16] =
            std::array::from_fn(|i| values[i] & 0x0f | (values[i + 16] & 0x0f) << 4);
        self.nibbles(record, &bytes);
    }

    /// One bit each.
    fn bits(&mut self, plane: usize, values: [u8; BLOCK]) {
        let at = self.at(plane, 0);
        for (i, value) in values.into_iter().enumerate() {
            self.quants[at + i % 4] |= (value & 1) << (i / 4);
        }
    }

    /// Two bits each.
    fn pairs(&mut self, plane: usize, values: [u8; BLOCK]) {
        for (i, value) in values.into_iter().enumerate() {
            let at = self.at(plane, i / 16);
            self.quants[at + i % 4] |= (value & 3) << (i / 4 % 4 * 2);
        }
    }

    /// scales and minima 16, quants 64, d, dmin.
    fn q2k(&mut self, unit: usize, data: &[u8]) {
        self.scale::<Q2K>(unit, 0, &data[80..82]);
        self.scale::<Q2K>(unit, 2, &negated_half(&data[82..84]));
        for (i, &fine) in data[..16].iter().enumerate() {
            self.scale::<Q2K>(unit, 4 + i, &[fine]);
        }
        for block in 0..SUPERBLOCK / BLOCK {
            let record = (unit * 8 + block) * Q2K::QUANT_BYTES;
            self.pairs(record, two_bits(&data[16..80], block));
        }
    }

    /// third bits 32, quants 64, scales 12, d.
    fn q3k(&mut self, unit: usize, data: &[u8]) {
        self.scale::<Q3K>(unit, 0, &data[108..110]);
        let fine = &data[96..108];
        for i in 0..16 {
            let low = if i < 8 {
                fine[i] & 0x0f
            } else {
                fine[i - 8] >> 4
            };
            let high = fine[8 + i % 4] >> (i / 4 * 2) & 3;
            let scale = (low | high << 4).cast_signed() - 32;
            self.scale::<Q3K>(unit, 2 + i, &[scale.cast_unsigned()]);
        }
        for block in 0..SUPERBLOCK / BLOCK {
            let record = (unit * 8 + block) * Q3K::QUANT_BYTES;
            self.pairs(record, two_bits(&data[32..96], block));
            self.bits(record + 8, std::array::from_fn(|i| data[i] >> block));
        }
    }

    /// d, dmin, scales 12, quants 128.
    fn q4k(&mut self, unit: usize, data: &[u8]) {
        self.super_scales::<Q4K>(unit, data);
        for block in 0..SUPERBLOCK / BLOCK {
            let record = (unit * 8 + block) * Q4K::QUANT_BYTES;
            self.low_nibbles(record, four_bits(&data[16..], block));
        }
    }

    /// d, dmin, scales 12, fifth bits 32, quants 128.
    fn q5k(&mut self, unit: usize, data: &[u8]) {
        self.super_scales::<Q5K>(unit, data);
        for block in 0..SUPERBLOCK / BLOCK {
            let record = (unit * 8 + block) * Q5K::QUANT_BYTES;
            self.low_nibbles(record, four_bits(&data[48..], block));
            self.bits(record + 16, std::array::from_fn(|i| data[16 + i] >> block));
        }
    }

    /// Six-bit scales and minima, eight each, in twelve bytes.
    fn super_scales<W: Weights>(&mut self, unit: usize, data: &[u8]) {
        self.scale::<W>(unit, 0, &data[..2]);
        self.scale::<W>(unit, 2, &negated_half(&data[2..4]));
        let fine = &data[4..16];
        for i in 0..8 {
            let (scale, min) = if i < 4 {
                (fine[i] & 0x3f, fine[i + 4] & 0x3f)
            } else {
                (
                    fine[i + 4] & 0x0f | fine[i - 4] >> 6 << 4,
                    fine[i + 4] >> 4 | fine[i] >> 6 << 4,
                )
            };
            self.scale::<W>(unit, 4 + i, &[scale]);
            self.scale::<W>(unit, 12 + i, &[min]);
        }
    }

    /// low bits 128, high bits 64, scales 16, d.
    fn q6k(&mut self, unit: usize, data: &[u8]) {
        self.scale::<Q6K>(unit, 0, &data[208..210]);
        for (i, &fine) in data[192..208].iter().enumerate() {
            self.scale::<Q6K>(unit, 2 + i, &[fine]);
        }
        for block in 0..SUPERBLOCK / BLOCK {
            let record = (unit * 8 + block) * Q6K::QUANT_BYTES;
            // Blocks 0, 1 of each half take the low nibbles of its 64 bytes,
            // blocks 2, 3 the high ones.
            let (half, quarter) = (block / 4, block % 4);
            let low = &data[64 * half + 32 * (quarter % 2)..];
            let low = std::array::from_fn(|i| low[i] >> (quarter / 2 * 4));
            self.low_nibbles(record, low);
            let high = &data[128 + 32 * half..];
            self.pairs(
                record + 16,
                std::array::from_fn(|i| high[i] >> (2 * quarter)),
            );
        }
    }
}

/// The fifth bits of a Q5 block: a little-endian word, a bit per input.
fn fifth_bits(word: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|i| word[i / 8] >> (i % 8))
}

/// Block `block` of 64 bytes of 2-bit quants: each 32 bytes hold four blocks.
fn two_bits(quants: &[u8], block: usize) -> [u8; BLOCK] {
    std::array::from_fn(|i| quants[32 * (block / 4) + i] >> (block % 4 * 2))
}

/// Block `block` of 128 bytes of 4-bit quants: each 32 bytes hold two blocks.
fn four_bits(quants: &[u8], block: usize) -> [u8; BLOCK] {
    std::array::from_fn(|i| quants[32 * (block / 2) + i] >> (block % 2 * 4))
}

/// Minima are subtracted in the file and added in the kernels.
fn negated_half(half: &[u8]) -> [u8; 2] {
    [half[0], half[1] ^ 0x80]
}

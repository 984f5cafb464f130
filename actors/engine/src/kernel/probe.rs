//! How fast this machine is at the two things that bound a language model:
//! reading weights (decode) and multiplying them (prefill). What a whole layer takes
//! is measured elsewhere.
//!
//! Measures the kernels themselves, on made-up weights, in a few tens of
//! milliseconds. Reads no clock but for durations, and remembers nothing.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use super::arena::Slab;
use super::format::Format;
use super::pack::Packed;
use super::pool::Pool;
use super::rows::QuantizedRows;
use super::share::Disjoint;
use super::simd::{Isa, Kernel, Simd, dispatch};

/// Larger than the last-level cache of most devices, and small enough to fill
/// and read within the time that a node gives to measuring itself.
const DECODE_BYTES: usize = 40 << 20;
const DECODE_COLS: usize = 2048;
const PREFILL_SIDE: usize = 1024;
const PREFILL_ROWS: usize = 64;
/// Time that a probe goes on repeating its measurement.
const BUDGET: Duration = Duration::from_millis(20);
/// Bytes that a thread touches at a time.
const CHUNK: usize = 1 << 20;

/// Weight bytes per second through a one-row product with weights of `format` that
/// do not fit into the cache: what bounds decode.
///
/// # Errors
/// When there is no memory for the weights.
pub fn decode_bytes_per_second(pool: &Pool, format: Format) -> io::Result<f64> {
    let row_bytes = DECODE_COLS / format.block_len() * format.block_bytes();
    let rows = DECODE_BYTES / row_bytes;
    let weights = Packed::of_bytes(format, rows, DECODE_COLS, |bytes| fill(pool, bytes))?;
    let x = rows_of(pool, 1, DECODE_COLS);
    let mut out = vec![0.0; weights.rows()];
    let seconds = fastest(|| weights.matmul(pool, &x, &mut out));
    Ok(weights.bytes() as f64 / seconds)
}

/// Multiplications per second through a 64-row product with 4-bit weights that
/// stay in the cache: what bounds prefill.
///
/// # Errors
/// When there is no memory for the weights.
pub fn prefill_macs_per_second(pool: &Pool) -> io::Result<f64> {
    let fill = |bytes: &mut [u8]| fill(pool, bytes);
    let weights = Packed::of_bytes(Format::Q4_1, PREFILL_SIDE, PREFILL_SIDE, fill)?;
    let x = rows_of(pool, PREFILL_ROWS, PREFILL_SIDE);
    let mut out = vec![0.0; PREFILL_ROWS * PREFILL_SIDE];
    let seconds = fastest(|| weights.matmul(pool, &x, &mut out));
    Ok((PREFILL_ROWS * PREFILL_SIDE * PREFILL_SIDE) as f64 / seconds)
}

/// Bytes per second of plain reading, over a buffer of `bytes`: the ceiling
/// that [`decode_bytes_per_second`] is compared with.
///
/// # Errors
/// When there is no memory for the buffer.
pub fn read_bytes_per_second(pool: &Pool, bytes: usize) -> io::Result<f64> {
    let mut buffer = Slab::zeroed(bytes)?;
    fill(pool, &mut buffer);
    let isa = Isa::detect();
    let buffer = &*buffer;
    let seconds = fastest(|| {
        pool.for_each(bytes.div_ceil(CHUNK), &|_, chunk| {
            let chunk = &buffer[chunk * CHUNK..bytes.min((chunk + 1) * CHUNK)];
            // SAFETY: the detected set is available.
            black_box(unsafe { dispatch(isa, Read(chunk)) });
        });
    });
    Ok(bytes as f64 / seconds)
}

/// Reads every byte once, in eight independent streams of sums.
struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Output = u64;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> u64 {
        let mut sums = [0u64; 64];
        for line in self.0.as_chunks::<512>().0 {
            for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
                *sum ^= u64::from_ne_bytes(*word);
            }
        }
        sums.iter().fold(0, |all, sum| all ^ sum)
    }
}

/// The smallest of several timings: other programs only ever add to one.
fn fastest(mut work: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    // Twice at least: the first finds the workers asleep.
    for round in 0.. {
        let since = Instant::now();
        work();
        best = best.min(since.elapsed().as_secs_f64());
        if round > 0 && begin.elapsed() > BUDGET {
            break;
        }
    }
    // A clock that did not move is no reason to report an infinite speed.
    best.max(1e-9)
}

/// Writes every page, so that reading it is reading memory, with bytes that
/// are small ordinary numbers in every field of a block.
fn fill(pool: &Pool, bytes: &mut [u8]) {
    let len = bytes.len();
    let bytes = Disjoint::new(bytes);
    pool.for_each(len.div_ceil(CHUNK), &|_, chunk| {
        // SAFETY: chunks are disjoint.
        unsafe { bytes.slice(chunk * CHUNK, CHUNK.min(len - chunk * CHUNK)) }.fill(0x21);
    });
}

fn rows_of(pool: &Pool, n: usize, cols: usize) -> QuantizedRows {
    let mut x = QuantizedRows::new(n, cols);
    for (i, x) in x.begin(n).iter_mut().enumerate() {
        *x = (i % 17) as f32 - 8.0;
    }
    x.quantize(pool);
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_plausible() {
        let pool = Pool::new(2);
        let decode = decode_bytes_per_second(&pool, Format::Q4_1).expect("memory");
        let prefill = prefill_macs_per_second(&pool).expect("memory");
        let read = read_bytes_per_second(&pool, 8 << 20).expect("memory");
        for speed in [decode, prefill, read] {
            assert!((1e6..1e14).contains(&speed), "{speed}");
        }
    }
}

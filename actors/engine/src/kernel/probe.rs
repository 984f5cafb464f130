//! How fast this machine is at the two things that bound a language model:
//! reading weights (decode) and multiplying them (prefill). What a whole layer takes
//! is measured elsewhere.
//!
//! Measures the kernels themselves, on made-up weights, in a few tens of
//! milliseconds. Reads no clock but for durations, and remembers nothing.

use std::hint::black_box;
use std::io;
use std::time::Duration;

use super::arena::Slab;
use super::format::{BLOCK, Format};
use super::pack::Packed;
use super::pool::Pool;
use super::rows::QuantizedRows;
use super::share::Disjoint;
use super::simd::{Isa, Kernel, Simd, dispatch, unrolled};
use crate::stopwatch::{Clock, Stopwatch};

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
pub fn decode_bytes_per_second(pool: &Pool, format: Format, clock: Clock) -> io::Result<f64> {
    let row_bytes = DECODE_COLS / format.block_len() * format.block_bytes();
    let rows = DECODE_BYTES / row_bytes;
    let weights = Packed::of_bytes(format, rows, DECODE_COLS, |bytes| fill(pool, bytes))?;
    let x = rows_of(pool, 1, DECODE_COLS);
    let mut out = vec![0.0; weights.rows()];
    let seconds = fastest(clock, || weights.matmul(pool, &x, &mut out));
    Ok(weights.bytes() as f64 / seconds)
}

/// Multiplications per second through a 64-row product with 4-bit weights that
/// stay in the cache: what bounds prefill.
///
/// # Errors
/// When there is no memory for the weights.
pub fn prefill_macs_per_second(pool: &Pool, clock: Clock) -> io::Result<f64> {
    let fill = |bytes: &mut [u8]| fill(pool, bytes);
    let weights = Packed::of_bytes(Format::Q4_1, PREFILL_SIDE, PREFILL_SIDE, fill)?;
    let x = rows_of(pool, PREFILL_ROWS, PREFILL_SIDE);
    let mut out = vec![0.0; PREFILL_ROWS * PREFILL_SIDE];
    let seconds = fastest(clock, || weights.matmul(pool, &x, &mut out));
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
    let seconds = fastest(Clock::Wall, || {
        pool.for_each(bytes.div_ceil(CHUNK), &|_, chunk| {
            let chunk = &buffer[chunk * CHUNK..bytes.min((chunk + 1) * CHUNK)];
            // SAFETY: the detected set is available.
            black_box(unsafe { dispatch(isa, Read(chunk)) });
        });
    });
    Ok(bytes as f64 / seconds)
}

/// Multiplications per second of the integer dot products that quantised weights are multiplied
/// with, weights in registers and inputs in the first cache: the ceiling of their products.
#[must_use]
pub fn dots_per_second(pool: &Pool) -> f64 {
    let isa = Isa::detect();
    let inputs: Vec<i8> = (0..8 * BLOCK).map(|i| (i % 5) as i8).collect();
    let seconds = fastest(Clock::Wall, || {
        pool.run(&|_, _| {
            // SAFETY: the detected set is available.
            black_box(unsafe { dispatch(isa, Dots(black_box(&inputs))) });
        });
    });
    let rows = if isa.lanes() == 16 { 8 } else { 4 };
    (pool.threads() * REPEATS * rows * BLOCK * isa.lanes()) as f64 / seconds
}

/// Fused multiplications and additions of 32-bit floats per second, in registers: the ceiling of
/// attention and of float weights.
#[must_use]
pub fn fmas_per_second(pool: &Pool) -> f64 {
    let isa = Isa::detect();
    let seconds = fastest(Clock::Wall, || {
        pool.run(&|_, _| {
            // SAFETY: the detected set is available.
            black_box(unsafe { dispatch(isa, Fmas(black_box(0.5))) });
        });
    });
    (pool.threads() * REPEATS * 8 * isa.lanes()) as f64 / seconds
}

/// Sums that a [`Dots`] or [`Fmas`] goes through; some tens of microseconds.
const REPEATS: usize = 20_000;

/// Dot products of 8 blocks of inputs with one of weights, over and over.
struct Dots<'a>(&'a [i8]);

impl Kernel for Dots<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: `run`'s contract.
        unsafe {
            if S::TILE >= 8 {
                self.over::<S, 8>()
            } else {
                self.over::<S, 4>()
            }
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    unsafe fn over<S: Simd, const M: usize>(&self) -> f32 {
        assert!(self.0.len() >= 8 * BLOCK);
        let bytes = black_box([3u8; 64]);
        let mut lanes = [0.0; 16];
        // SAFETY: the caller's contract; a vector is of 64 bytes at most.
        unsafe {
            let weights = [S::bytes(bytes.as_ptr()); 8];
            let mut inputs = [self.0.as_ptr(); M];
            unrolled!(M, m => inputs[m] = self.0.as_ptr().add(m * BLOCK));
            let mut most = [S::splat(0.0); M];
            for repeat in 0..REPEATS {
                // Another beginning each time, or the sums would be made once.
                let sums = S::dot::<4, 0, 8, M>(&weights, inputs, [repeat as i32; M]);
                unrolled!(M, m => most[m] = S::max(most[m], S::from_bits(sums[m])));
            }
            unrolled!(M, m => most[0] = S::add(most[0], most[m]));
            S::store(lanes.as_mut_ptr(), most[0]);
        }
        lanes[0]
    }
}

/// Sums in eight independent chains.
struct Fmas(f32);

impl Kernel for Fmas {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let mut lanes = [0.0; 16];
        // SAFETY: `run`'s contract.
        unsafe {
            let factor = S::splat(self.0);
            let mut sums = [S::splat(0.0); 8];
            unrolled!(8, m => sums[m] = S::splat(m as f32));
            for _ in 0..REPEATS {
                unrolled!(8, m => sums[m] = S::fma(sums[m], factor, factor));
            }
            unrolled!(8, m => sums[0] = S::add(sums[0], sums[m]));
            S::store(lanes.as_mut_ptr(), sums[0]);
        }
        lanes[0]
    }
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
fn fastest(clock: Clock, mut work: impl FnMut()) -> f64 {
    let begin = Stopwatch::start(clock);
    let mut best = f64::INFINITY;
    // Twice at least: the first finds the workers asleep.
    for round in 0.. {
        let watch = Stopwatch::start(clock);
        work();
        best = best.min(watch.seconds());
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
        let decode = decode_bytes_per_second(&pool, Format::Q4_1, Clock::Wall).expect("memory");
        let prefill = prefill_macs_per_second(&pool, Clock::Pool(2)).expect("memory");
        let read = read_bytes_per_second(&pool, 8 << 20).expect("memory");
        let (dots, fmas) = (dots_per_second(&pool), fmas_per_second(&pool));
        for speed in [decode, prefill, read, dots, fmas] {
            assert!((1e6..1e14).contains(&speed), "{speed}");
        }
    }
}

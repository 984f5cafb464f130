//! From timings to speeds: which part of a time belongs to what.

use super::{Speeds, whole};

/// How much of everything was timed. Bytes and multiply-accumulates are of all layers
/// that were run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amounts {
    pub(super) layers: f64,
    pub(super) weight_bytes: f64,
    pub(super) weight_macs: f64,
    /// Of one cached row.
    pub(super) cache_bytes: f64,
    /// Of one row with one cached row.
    pub(super) attention_macs: f64,
    pub(super) head_bytes: f64,
    pub(super) chunk_rows: f64,
    /// Rows in the cache late in the sequence.
    pub(super) cached_rows: f64,
}

/// Seconds; each the median of its rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timings {
    /// One row through all layers, with hardly any cached.
    pub(super) early: f64,
    /// One row through all layers, late in the sequence.
    pub(super) late: f64,
    /// One row through one layer, the head and the sampler, with hardly any cached.
    pub(super) last: f64,
    /// A chunk through all layers at the start of the sequence.
    pub(super) chunk_early: f64,
    /// A chunk through all layers late in the sequence.
    pub(super) chunk_late: f64,
    /// Spread of the timings of `late`.
    pub(super) spread_permille: u32,
    /// As in [`Speeds`].
    pub(super) busy_permille: u32,
}

/// A part that is too small to be told from noise gets this share of its whole, so that
/// no speed is infinite.
const NOISE: f64 = 0.001;
/// What a matrix alone would take is never the whole of a layer's time.
const MATRIX_SHARE_MAX: f64 = 0.95;

/// `matrix` is the speed of a large matrix alone, in bytes per second.
pub(super) fn fit(amounts: &Amounts, timings: &Timings, matrix: Option<f64>) -> Speeds {
    let layers = timings.early;
    // The head's matrix is what the caches were last filled with, so its layer is no faster
    // than any other.
    let head = (timings.last - layers / amounts.layers).max(timings.last * NOISE);
    let streamed = match matrix {
        Some(speed) => (amounts.weight_bytes / speed).min(layers * MATRIX_SHARE_MAX),
        None => layers,
    };
    let overhead = layers - streamed;
    let cache = (timings.late - timings.early).max(timings.late * NOISE);
    let attention = (timings.chunk_late - timings.chunk_early).max(timings.chunk_late * NOISE);
    let attention_macs = amounts.attention_macs * amounts.chunk_rows;
    let attention_speed = attention_macs * amounts.cached_rows / attention;
    // Row i of the first chunk attends to those before it.
    let own = attention_macs * amounts.chunk_rows / 2.0 / attention_speed;
    let arithmetic = timings.chunk_early - overhead - own;
    let arithmetic = arithmetic.max(timings.chunk_early * 0.1);
    Speeds {
        layer_nanos: nanos(overhead / amounts.layers),
        decode_bytes_per_second: whole(amounts.weight_bytes / streamed),
        head_bytes_per_second: whole(amounts.head_bytes / head),
        cache_bytes_per_second: whole(amounts.cache_bytes * amounts.cached_rows / cache),
        prefill_macs_per_second: whole(amounts.weight_macs * amounts.chunk_rows / arithmetic),
        attention_macs_per_second: whole(attention_speed),
        spread_permille: timings.spread_permille,
        busy_permille: timings.busy_permille,
    }
}

/// Non-negative, and hours at the most.
fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMOUNTS: Amounts = Amounts {
        layers: 10.0,
        weight_bytes: 10e6,
        weight_macs: 20e6,
        cache_bytes: 20e3,
        attention_macs: 10e3,
        head_bytes: 8e6,
        chunk_rows: 64.0,
        cached_rows: 512.0,
    };

    /// What a device of known speeds would take.
    fn timings(layer: f64) -> Timings {
        let early = 10.0 * layer + 10e6 / 10e9;
        let chunk_early = 10.0 * layer + 20e6 * 64.0 / 50e9 + 10e3 * 64.0 * 32.0 / 20e9;
        Timings {
            early,
            late: early + 20e3 * 512.0 / 5e9,
            last: layer + 1e6 / 10e9 + 8e6 / 8e9,
            chunk_early,
            chunk_late: chunk_early + 10e3 * 64.0 * 512.0 / 20e9,
            spread_permille: 10,
            busy_permille: 990,
        }
    }

    #[test]
    fn known_speeds_are_found_again() {
        let speeds = fit(&AMOUNTS, &timings(90e-6), Some(10e9));
        let near = |found: u64, expected: f64| (found as f64 / expected - 1.0).abs() < 1e-3;
        assert!(near(speeds.layer_nanos, 90e3), "{speeds:?}");
        assert!(near(speeds.decode_bytes_per_second, 10e9), "{speeds:?}");
        assert!(near(speeds.head_bytes_per_second, 8e9), "{speeds:?}");
        assert!(near(speeds.cache_bytes_per_second, 5e9), "{speeds:?}");
        assert!(near(speeds.prefill_macs_per_second, 50e9), "{speeds:?}");
        assert!(near(speeds.attention_macs_per_second, 20e9), "{speeds:?}");
    }

    #[test]
    fn a_layer_takes_what_it_was_seen_to_take_however_fast_a_matrix_is() {
        for matrix in [None, Some(1e9), Some(10e9), Some(100e9)] {
            let timings = timings(90e-6);
            let speeds = fit(&AMOUNTS, &timings, matrix);
            let layers = speeds.layer_nanos as f64 * 10.0
                + 10e6 / speeds.decode_bytes_per_second as f64 * 1e9;
            let seen = timings.early * 1e9;
            assert!((layers / seen - 1.0).abs() < 1e-3, "{matrix:?}: {speeds:?}");
        }
    }

    #[test]
    fn noise_makes_no_speed_infinite() {
        let mut timings = timings(0.0);
        timings.late = timings.early * 0.9;
        timings.chunk_late = timings.chunk_early * 0.9;
        timings.last = timings.early / 10.0;
        let speeds = fit(&AMOUNTS, &timings, Some(1e15));
        assert!(speeds.cache_bytes_per_second < 1_000_000_000_000_000);
        assert!(speeds.prefill_macs_per_second > 1);
    }
}

//! How fast this device runs layers: what a planner needs to forecast a stage.
//!
//! Runs a model's own layers through the shard that will serve them, one row and a chunk,
//! early and late in a sequence; so whatever the engine does per row, per layer and per
//! pass is in the figures, and a faster kernel is seen without a change here. Reads no
//! clock but for durations, and remembers nothing.

mod bench;
mod fit;

use std::sync::Arc;

use candle_core::quantized::GgmlDType;

use crate::device::Device;
use crate::error::EngineError;
use crate::file::ModelFile;
use crate::kept::{Place, place};
use crate::kernel::{Format, Pool, probe};
use crate::portable;
use crate::shard::ShardOptions;
use crate::stopwatch::Clock;
use bench::Bench;

/// What a device takes for the parts of a pass: a stage takes for each layer `layer_nanos`
/// and its bytes over the bandwidth, and where it is the last the head's bytes over the
/// head's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speeds {
    /// Time of a layer that its bytes do not account for: norms, attention to few rows,
    /// handing work to threads.
    pub layer_nanos: u64,
    /// Weight bytes per second of layers through one row.
    pub decode_bytes_per_second: u64,
    /// Bytes per second of the head through one row, sampling included.
    pub head_bytes_per_second: u64,
    /// Cache bytes per second that attention reads in decode.
    pub cache_bytes_per_second: u64,
    /// Multiply-accumulates per second with a layer's weights, through a chunk of rows.
    pub prefill_macs_per_second: u64,
    /// Multiply-accumulates per second of attention, through a chunk of rows.
    pub attention_macs_per_second: u64,
    /// How far the middle half of the timings lies apart, in thousandths of their median.
    pub spread_permille: u32,
    /// Of the time that was measured, what the system let the calling thread run, in
    /// thousandths. It waits for hardly anything but other programs.
    pub busy_permille: u32,
}

impl Speeds {
    /// One row through a layer of so many bytes, nothing cached.
    pub fn layer_nanos_of(&self, bytes: u64) -> u64 {
        let streamed = u128::from(bytes) * 1_000_000_000;
        let streamed = streamed / u128::from(self.decode_bytes_per_second.max(1));
        let streamed = u64::try_from(streamed).unwrap_or(u64::MAX);
        self.layer_nanos.saturating_add(streamed)
    }
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Rows of a chunk in prefill.
    pub chunk_rows: usize,
    /// Rows in the cache when late in a sequence; capped by what the model was made for.
    pub cached_rows: usize,
    /// How often each is timed, after one run that is not.
    pub rounds: usize,
    /// What counts as the time that something takes.
    pub clock: Clock,
}

/// Bytes of weights that are run at least, if the model has so many: more than the
/// last-level cache of most devices, as a stage's own layers are.
const BYTES_MIN: u64 = 128 << 20;
/// Rows through a matrix where there is no model to say how many.
const PREFILL_ROWS: usize = 64;
/// Layers that are run at least, if there are so many: a row that has just left a layer
/// finds the next one's weights as far away as in service.
const LAYERS_MIN: u32 = 2;
/// The same on a GPU, where bringing a row there and waiting for it takes as long as half a layer.
const LAYERS_MIN_GPU: u32 = 8;

/// Measures with layers of `file`, as many as [`Workload`] asks for time and memory lets
/// matter. Takes about a second of all threads of `options`, and binds the calling thread
/// as the engine's own would be.
///
/// # Errors
/// As [`Shard::load`](crate::Shard::load), [`Shard::open`](crate::Shard::open) and
/// [`Shard::forward`](crate::Shard::forward).
pub fn measure(
    file: &Arc<ModelFile>,
    options: &ShardOptions,
    workload: &Workload,
) -> Result<Speeds, EngineError> {
    let costs = file.layer_costs();
    let weights: Vec<u64> = costs.layers.iter().map(|l| l.weight_bytes).collect();
    let layers = match options.device.resolve()? {
        Device::Auto | Device::Cpu => sample(&weights, LAYERS_MIN),
        Device::Cuda(_) | Device::Metal(_) => sample(&weights, LAYERS_MIN_GPU),
    };
    // A pool binds its threads when it is made, so it is made before this thread is bound.
    let matrix = matrix_bytes_per_second(file, layers.start, options, workload.clock);
    let mut bench = Bench::load(file, layers, options, workload)?;
    let timings = bench.run(workload.rounds)?;
    Ok(fit::fit(&bench.amounts(&costs), &timings, matrix))
}

/// What can be said without a model: the speed of one large matrix, as if a layer were
/// nothing else, and on a GPU what telling it a layer takes. Right about a large model, and
/// too high for a small one.
///
/// # Errors
/// When there is no memory for the matrix, or no such device.
pub fn measure_without_model(options: &ShardOptions, clock: Clock) -> Result<Speeds, EngineError> {
    let (decode, prefill, layer_seconds) = match place(options)? {
        Place::Fast => {
            let pool = Pool::new(options.threads);
            let decode = probe::decode_bytes_per_second(&pool, Format::Q4_1, clock);
            let prefill = probe::prefill_macs_per_second(&pool, clock);
            let no_memory = |source| EngineError::ProbeMemory { source };
            (decode.map_err(no_memory)?, prefill.map_err(no_memory)?, 0.0)
        }
        Place::Portable(device) => {
            let probe = portable::probe::Probe::new(device, GgmlDType::Q4K)?;
            (
                probe.decode_bytes_per_second(clock)?,
                probe.prefill_macs_per_second(PREFILL_ROWS, clock)?,
                probe.layer_seconds(clock)?,
            )
        }
    };
    let (decode, prefill) = (whole(decode), whole(prefill));
    Ok(Speeds {
        layer_nanos: (layer_seconds * 1e9) as u64,
        decode_bytes_per_second: decode,
        head_bytes_per_second: decode,
        cache_bytes_per_second: decode,
        prefill_macs_per_second: prefill,
        attention_macs_per_second: prefill,
        spread_permille: 0,
        busy_permille: 1000,
    })
}

/// What speeds depend on besides the device: shapes and quantisation, in words. Models of
/// one description have the same speeds.
pub fn describe(file: &ModelFile) -> String {
    let spec = file.spec();
    let kinds = file.layout().layers.iter().map(|layer| {
        let kinds = layer.matrices().map(|tensor| tensor.kind.to_string());
        kinds.join(",")
    });
    let mut runs: Vec<(String, usize)> = Vec::new();
    for kind in kinds {
        match runs.last_mut() {
            Some((last, count)) if *last == kind => *count += 1,
            Some(_) | None => runs.push((kind, 1)),
        }
    }
    let runs: Vec<String> = runs
        .iter()
        .map(|(kind, count)| format!("{count}x[{kind}]"))
        .collect();
    format!(
        "{:?} width {} mlp {} heads {}/{}x{} vocabulary {} head {} layers {}",
        spec.family,
        spec.width,
        spec.feed_forward,
        spec.heads,
        spec.kv_heads,
        spec.head_dim,
        spec.vocabulary,
        file.layout().output.kind,
        runs.join(" ")
    )
}

/// The layers to run: from the middle, because quantisers treat the ends alike and the
/// middle as most of the model; all of a small model but its last, which does its whole work
/// for projected rows only.
fn sample(weight_bytes: &[u64], layers_min: u32) -> std::ops::Range<u32> {
    let all = u32::try_from(weight_bytes.len()).expect("a file has few layers: checked when read");
    let usable = all.saturating_sub(1).max(1).min(all);
    let total: u64 = weight_bytes.iter().sum();
    let mean = (total / u64::from(all.max(1))).max(1);
    let enough = u32::try_from(BYTES_MIN.div_ceil(mean)).unwrap_or(all);
    let count = enough.max(layers_min).min(usable);
    let start = ((all - count) / 2).min(usable - count);
    start..start + count
}

/// Bytes per second of a large matrix in the format that a layer's largest is in, where the
/// layers will run.
fn matrix_bytes_per_second(
    file: &ModelFile,
    layer: u32,
    options: &ShardOptions,
    clock: Clock,
) -> Option<f64> {
    let largest = &file.layout().layers[layer as usize].gate;
    match place(options).ok()? {
        Place::Fast => {
            let format = crate::fast::format(largest).ok()?;
            probe::decode_bytes_per_second(&Pool::new(options.threads), format, clock).ok()
        }
        Place::Portable(device) => {
            let probe = portable::probe::Probe::new(device, largest.kind.candle()?).ok()?;
            probe.decode_bytes_per_second(clock).ok()
        }
    }
}

/// A speed as a whole number: far below 2^53, so the cast is exact enough.
fn whole(speed: f64) -> u64 {
    speed.max(1.0) as u64
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::fixtures::TinyModel;
    use crate::shard::Threads;

    fn tiny(layers: u32) -> Arc<ModelFile> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&TinyModel::new(layers).gguf())
            .expect("it is ours");
        Arc::new(ModelFile::open(file.path()).expect("a good file"))
    }

    #[test]
    fn every_speed_of_a_tiny_model_is_found() {
        let options = ShardOptions {
            binding: Threads::Free,
            ..ShardOptions::new(1, 2)
        };
        let workload = Workload {
            chunk_rows: 4,
            cached_rows: 16,
            rounds: 3,
            clock: Clock::Wall,
        };
        for layers in [1, 4] {
            let speeds = measure(&tiny(layers), &options, &workload).expect("it runs");
            for speed in [
                speeds.decode_bytes_per_second,
                speeds.head_bytes_per_second,
                speeds.cache_bytes_per_second,
                speeds.prefill_macs_per_second,
                speeds.attention_macs_per_second,
            ] {
                assert!(speed > 1, "{speeds:?}");
            }
            // With the pauses between rows counted it was 32 to 52; beside other programs and tests
            // 86 was seen without them.
            assert!(speeds.busy_permille > 60, "{speeds:?}");
        }
    }

    #[test]
    fn samples_are_from_the_middle_and_whole_where_the_model_is_small() {
        assert_eq!(sample(&[1 << 20; 30], 2), 0..29);
        assert_eq!(sample(&[1 << 20; 2], 2), 0..1);
        assert_eq!(sample(&[64 << 20; 80], 2), 39..41);
        assert_eq!(sample(&[1 << 30; 80], 2), 39..41);
        assert_eq!(sample(&[1 << 30; 80], 8), 36..44);
        assert_eq!(sample(&[1 << 30], 2), 0..1);
    }

    #[test]
    fn models_of_other_shapes_are_described_differently() {
        assert_eq!(describe(&tiny(2)), describe(&tiny(2)));
        assert_ne!(describe(&tiny(2)), describe(&tiny(3)));
    }
}

//! `cairn bench device`: what a node tells planners of itself, measured now.
//!
//! Prints; the measuring is the engine's, and how it is done the node's.

use std::path::Path;
use std::sync::Arc;

use cairn_actors::{Limits, MemoryLimit, probe_workload};
use cairn_engine::kernel::{Isa, Pool, probe};
use cairn_engine::probe::{Speeds, measure};
use cairn_engine::{Accelerator, Device, ModelFile, ShardOptions, Threads};
use serde::Serialize;

use crate::cli::BenchDeviceArgs;
use crate::exit::{Exit, Failure};
use crate::terminal::{self, size};

/// The last line of `cairn bench device --json`. Times are in nanoseconds of the engine's
/// threads together.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    /// What computes, by its number.
    device: String,
    /// What the GPU that computes is called.
    accelerator: Option<String>,
    /// All of its own memory, where it has some.
    accelerator_memory_bytes: Option<u64>,
    isa: &'static str,
    threads: usize,
    /// One decode row through one layer of mean size, nothing cached.
    decode_layer_nanos: u64,
    /// Of that, what its bytes do not account for.
    layer_nanos: u64,
    decode_bytes_per_second: u64,
    head_bytes_per_second: u64,
    cache_bytes_per_second: u64,
    prefill_macs_per_second: u64,
    attention_macs_per_second: u64,
    /// Rows of a chunk that is the prompt's first, through one layer, per second.
    prefill_layer_rows_per_second: f64,
    /// Of plainly reading as many bytes as the model has: no product can be faster.
    read_bytes_per_second: Option<f64>,
    /// How far the middle half of the timings lies apart, in thousandths of their median.
    spread_permille: u32,
    /// Of the time, what the system let the engine's thread run, in thousandths.
    busy_permille: u32,
    #[serde(flatten)]
    limits: Limits,
}

pub(super) fn run(args: &BenchDeviceArgs) -> Result<(), Failure> {
    let absent = |error| Failure::new(Exit::Usage, error);
    let device = args.device.resolve().map_err(absent)?;
    let path = super::locate(&args.model)?;
    let unusable = |error| Failure::new(Exit::Model, error);
    let file = Arc::new(ModelFile::open(&path).map_err(unusable)?);
    let gpu = device.accelerator().map_err(absent)?;
    let limits = Limits::of(device, 0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or(cores, usize::from);
    let options = ShardOptions {
        binding: Threads::for_count(threads),
        device,
        ..ShardOptions::new(1, threads)
    };
    // Before this thread is bound to a core: threads inherit that.
    let costs = file.layer_costs();
    let bytes: u64 = costs.layers.iter().map(|layer| layer.weight_bytes).sum();
    let bytes = usize::try_from(bytes + costs.head_bytes).unwrap_or(usize::MAX);
    // Of main memory, which is no ceiling for a GPU.
    let read = match device {
        Device::Cpu => probe::read_bytes_per_second(&Pool::new(threads), bytes).ok(),
        Device::Auto | Device::Cuda(_) | Device::Metal(_) => None,
    };
    let speeds = measure(&file, &options, &probe_workload(&options)).map_err(unusable)?;
    let machine = Machine { gpu, read, limits };
    let report = report(&path, &file, &options, &speeds, machine);
    let text = match args.json {
        true => serde_json::to_string(&report).map_err(anyhow::Error::from)?,
        false => render(&report),
    };
    terminal::print_line(text)?;
    Ok(())
}

/// What was found out of the machine besides its speeds.
struct Machine {
    gpu: Option<Accelerator>,
    /// Bytes per second of plain reading.
    read: Option<f64>,
    limits: Limits,
}

fn report(
    path: &Path,
    file: &ModelFile,
    options: &ShardOptions,
    speeds: &Speeds,
    machine: Machine,
) -> Report {
    let layers = file.layer_costs().layers;
    let count = layers.len().max(1) as f64;
    let mean = |of: &dyn Fn(&cairn_engine::LayerCost) -> u64| {
        layers.iter().map(of).sum::<u64>() as f64 / count
    };
    let bytes = mean(&|layer| layer.weight_bytes);
    let macs = mean(&|layer| layer.macs_per_row);
    let rows = probe_workload(options).chunk_rows as f64;
    let attended = mean(&|layer| layer.attention_macs_per_row) * rows / 2.0;
    let chunk = speeds.layer_nanos as f64 / 1e9
        + rows * macs / speeds.prefill_macs_per_second as f64
        + rows * attended / speeds.attention_macs_per_second as f64;
    Report {
        model: path.display().to_string(),
        device: options.device.to_string(),
        accelerator: machine.gpu.as_ref().map(|gpu| gpu.name.clone()),
        accelerator_memory_bytes: machine.gpu.and_then(|gpu| Some(gpu.memory?.total_bytes)),
        isa: Isa::detect().name(),
        threads: options.threads,
        decode_layer_nanos: speeds.layer_nanos_of(bytes as u64),
        layer_nanos: speeds.layer_nanos,
        decode_bytes_per_second: speeds.decode_bytes_per_second,
        head_bytes_per_second: speeds.head_bytes_per_second,
        cache_bytes_per_second: speeds.cache_bytes_per_second,
        prefill_macs_per_second: speeds.prefill_macs_per_second,
        attention_macs_per_second: speeds.attention_macs_per_second,
        prefill_layer_rows_per_second: rows / chunk,
        read_bytes_per_second: machine.read,
        spread_permille: speeds.spread_permille,
        busy_permille: speeds.busy_permille,
        limits: machine.limits,
    }
}

fn render(report: &Report) -> String {
    let gb = |speed: u64| speed as f64 / 1e9;
    let micros = |nanos: u64| nanos as f64 / 1e3;
    let memory_by = match report.limits.memory_by {
        MemoryLimit::Machine => "what the machine has left",
        MemoryLimit::ControlGroup => "the control group's limit",
        MemoryLimit::Accelerator => "what the GPU has left",
        MemoryLimit::Unknown => "a guess: the system does not tell",
    };
    let quota = match report.limits.quota {
        Some(cores) => format!("{cores:.2} cores' time by the control group"),
        None => "all of their time".to_owned(),
    };
    let read = report.read_bytes_per_second.map_or_else(
        || "reading memory: not measured".to_owned(),
        |speed| format!("reading memory: {:.1} GB/s, the ceiling", speed / 1e9),
    );
    let head = match (&report.accelerator, report.accelerator_memory_bytes) {
        (None, _) => format!(
            "{}, {} threads, {}",
            report.model, report.threads, report.isa
        ),
        (Some(gpu), None) => format!("{}, {}: {gpu}", report.model, report.device),
        (Some(gpu), Some(bytes)) => {
            let memory = size(bytes);
            format!("{}, {}: {gpu}, {memory}", report.model, report.device)
        }
    };
    [
        head,
        format!(
            "decode: {:.1} us a layer ({:.1} us and {:.1} GB/s of weights)",
            micros(report.decode_layer_nanos),
            micros(report.layer_nanos),
            gb(report.decode_bytes_per_second),
        ),
        format!(
            "head: {:.1} GB/s; cache: {:.1} GB/s",
            gb(report.head_bytes_per_second),
            gb(report.cache_bytes_per_second),
        ),
        format!(
            "prefill: {:.0} rows/s through a layer ({:.1} G multiply-adds/s, {:.1} in attention)",
            report.prefill_layer_rows_per_second,
            gb(report.prefill_macs_per_second),
            gb(report.attention_macs_per_second),
        ),
        read,
        format!(
            "quiet: the middle half of timings within {:.1} %, {:.1} % of the time was ours",
            f64::from(report.spread_permille) / 10.0,
            f64::from(report.busy_permille) / 10.0
        ),
        format!("cores: {} by affinity, {quota}", report.limits.cores),
        format!(
            "memory: {} may be taken, by {memory_by}",
            size(report.limits.memory_bytes)
        ),
    ]
    .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_by_which_limit() {
        let mut report = Report {
            model: "m.gguf".to_owned(),
            device: "cpu".to_owned(),
            accelerator: None,
            accelerator_memory_bytes: None,
            isa: "portable",
            threads: 2,
            decode_layer_nanos: 200_000,
            layer_nanos: 100_000,
            decode_bytes_per_second: 20_000_000_000,
            head_bytes_per_second: 10_000_000_000,
            cache_bytes_per_second: 5_000_000_000,
            prefill_macs_per_second: 40_000_000_000,
            attention_macs_per_second: 8_000_000_000,
            prefill_layer_rows_per_second: 5000.0,
            read_bytes_per_second: None,
            spread_permille: 21,
            busy_permille: 990,
            limits: Limits {
                cores: 4,
                quota: Some(1.5),
                memory_bytes: 1 << 30,
                memory_by: MemoryLimit::ControlGroup,
            },
        };
        let text = render(&report);
        for part in [
            "200.0 us a layer",
            "1.50 cores' time",
            "control group's limit",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        report.limits.quota = None;
        report.limits.memory_by = MemoryLimit::Machine;
        let text = render(&report);
        assert!(text.contains("all of their time") && text.contains("machine has left"));
        let json = serde_json::to_value(&report).expect("plain numbers");
        assert_eq!(json["memory_by"], "machine");
        assert_eq!(json["decode_bytes_per_second"], 20_000_000_000_u64);
        report.device = "cuda:0".to_owned();
        report.accelerator = Some("A GPU".to_owned());
        report.accelerator_memory_bytes = Some(80 << 30);
        report.limits.memory_by = MemoryLimit::Accelerator;
        let text = render(&report);
        assert!(text.contains("cuda:0: A GPU, 80.0 GiB"), "{text}");
        assert!(text.contains("the GPU has left"), "{text}");
    }
}

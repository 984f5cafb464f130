//! `cairn bench`: how fast this machine runs a model, without a cluster.
//!
//! Prints; the measuring is the engine's.

mod device;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_engine::kernel::Isa;
use cairn_engine::throughput::{Throughput, Workload, measure, median};
use cairn_engine::{ModelFile, ShardOptions, Threads};
use serde::Serialize;

use crate::cli::{BenchArgs, BenchCommand, BenchEngineArgs};
use crate::exit::{Exit, Failure};
use crate::home::Home;
use crate::{models, terminal};

/// The last line of `cairn bench engine --json`. Speeds are medians over the rounds, of all
/// streams together; what was not asked for is `null`.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    isa: &'static str,
    device: String,
    threads: usize,
    streams: usize,
    prefill: usize,
    decode: usize,
    rounds: usize,
    cache: &'static str,
    prefill_tokens_per_second: Option<f64>,
    decode_tokens_per_second: Option<f64>,
    /// Bytes of weights that a decode step reads, however many streams it serves.
    weight_bytes: u64,
    /// Of plain reading over as many bytes with as many threads.
    read_bytes_per_second: Option<f64>,
}

/// Runs the command.
pub(crate) fn run(args: &BenchArgs) -> Result<(), Failure> {
    match &args.command {
        BenchCommand::Engine(args) => engine(args),
        BenchCommand::Device(args) => device::run(args),
    }
}

fn engine(args: &BenchEngineArgs) -> Result<(), Failure> {
    let device = args.device.resolve();
    let device = device.map_err(|error| Failure::new(Exit::Usage, error))?;
    let path = locate(&args.model)?;
    let unusable = |error| Failure::new(Exit::Model, error);
    let file = Arc::new(ModelFile::open(&path).map_err(unusable)?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = ShardOptions {
        cache: args.cache.into(),
        device,
        binding: match args.pin {
            true => Threads::Pinned,
            false => Threads::Free,
        },
        ..ShardOptions::new(1, args.threads.map_or(cores, usize::from))
    };
    let workload = Workload {
        prefill: args.prefill as usize,
        decode: args.decode as usize,
        streams: usize::from(args.streams),
        rounds: usize::from(args.rounds),
    };
    let found = measure(&file, &options, &workload).map_err(unusable)?;
    let report = report(&path, &options, &workload, &found);
    let text = match args.json {
        true => serde_json::to_string(&report).map_err(anyhow::Error::from)?,
        false => render(&report),
    };
    terminal::print_line(text)?;
    Ok(())
}

/// A path is taken as it is; any other name is found or downloaded as for `cairn up`.
fn locate(model: &str) -> Result<PathBuf, Failure> {
    let path = Path::new(model);
    if path.is_file() {
        return Ok(path.to_path_buf());
    }
    let home = Home::of_user()?;
    Ok(models::command::pull(&home, model)?.path)
}

fn report(path: &Path, options: &ShardOptions, workload: &Workload, found: &Throughput) -> Report {
    Report {
        model: path.display().to_string(),
        isa: Isa::detect().name(),
        device: options.device.to_string(),
        threads: options.threads,
        streams: workload.streams,
        prefill: workload.prefill,
        decode: workload.decode,
        rounds: workload.rounds,
        cache: options.cache.name(),
        prefill_tokens_per_second: median(&found.prefill),
        decode_tokens_per_second: median(&found.decode),
        weight_bytes: found.weight_bytes,
        read_bytes_per_second: median(&found.read),
    }
}

fn render(report: &Report) -> String {
    let speed = |tokens: Option<f64>| match tokens {
        Some(tokens) => format!("{tokens:.1} tokens/s"),
        None => "not measured".to_owned(),
    };
    let processor = match report.device.as_str() {
        "cpu" => report.isa,
        gpu => gpu,
    };
    let mut lines = vec![
        format!(
            "{}, {} threads, {}, {} streams, median of {}",
            report.model, report.threads, processor, report.streams, report.rounds
        ),
        format!(
            "prefill of {}: {}",
            report.prefill,
            speed(report.prefill_tokens_per_second)
        ),
        format!(
            "decode of {}: {}",
            report.decode,
            speed(report.decode_tokens_per_second)
        ),
    ];
    if let (Some(decode), Some(read)) = (
        report.decode_tokens_per_second,
        report.read_bytes_per_second,
    ) {
        let weights = decode / report.streams as f64 * report.weight_bytes as f64;
        lines.push(format!(
            "decode reads {:.1} GB of weights per second, {:.2} of plain reading",
            weights / 1e9,
            weights / read
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_keys_that_scripts_read() {
        let found = Throughput {
            prefill: vec![10.0, 30.0, 20.0],
            decode: Vec::new(),
            weight_bytes: 1000,
            read: vec![4000.0],
        };
        let workload = Workload {
            prefill: 8,
            decode: 0,
            streams: 2,
            rounds: 3,
        };
        let options = ShardOptions::new(1, 2);
        let report = report(Path::new("m.gguf"), &options, &workload, &found);
        let json = serde_json::to_value(&report).expect("plain numbers");
        assert_eq!(json["prefill_tokens_per_second"], 20.0);
        assert!(json["decode_tokens_per_second"].is_null());
        assert_eq!(json["threads"], 2);
        assert!(render(&report).contains("decode of 0: not measured"));
    }
}

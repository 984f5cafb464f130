//! `cairn bench engine` without the rest of Cairn: quicker to build while
//! working on a kernel.
//!
//! `cargo run --release -p cairn-engine --example throughput -- --model FILE
//! [--threads T] [--prefill P] [--decode D] [--streams B] [--rounds R]
//! [--cache f16] [--pin]` prints one JSON object.
#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::path::PathBuf;
use std::sync::Arc;

use cairn_engine::kernel::Isa;
use cairn_engine::throughput::{Workload, measure, median};
use cairn_engine::{CacheFormat, ModelFile, ShardOptions, Threads};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut model = None;
    let mut options = ShardOptions::new(1, 1);
    let mut workload = Workload {
        prefill: 512,
        decode: 128,
        streams: 1,
        rounds: 3,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{name} wants a value"));
        match name.as_str() {
            "--model" => model = Some(PathBuf::from(value()?)),
            "--threads" => options.threads = value()?.parse()?,
            "--prefill" => workload.prefill = value()?.parse()?,
            "--decode" => workload.decode = value()?.parse()?,
            "--streams" => workload.streams = value()?.parse()?,
            "--rounds" => workload.rounds = value()?.parse()?,
            "--cache" => {
                options.cache = match value()?.as_str() {
                    "f16" => CacheFormat::F16,
                    "i16" => CacheFormat::I16,
                    _ => CacheFormat::F32,
                }
            }
            "--pin" => options.binding = Threads::Pinned,
            // What `cairn bench engine` needs and this does not.
            "--json" => {}
            _ => return Err(format!("what is {name}?").into()),
        }
    }
    let file = Arc::new(ModelFile::open(&model.ok_or("--model is missing")?)?);
    let found = measure(&file, &options, &workload)?;
    let report = serde_json::json!({
        "isa": Isa::detect().name(),
        "threads": options.threads,
        "streams": workload.streams,
        "prefill_tokens_per_second": median(&found.prefill),
        "decode_tokens_per_second": median(&found.decode),
        "weight_bytes": found.weight_bytes,
        "read_bytes_per_second": median(&found.read),
    });
    println!("{report}");
    Ok(())
}

//! How many tokens per second a whole model gives on this machine.
//!
//! Made-up tokens through all layers in one shard, timed; no sampling, no
//! tokenizer, no network. As llama.cpp's own bench does, prefill and decode each
//! start from an empty cache. Prints nothing.

use std::sync::Arc;
use std::time::Instant;

use crate::error::EngineError;
use crate::file::ModelFile;
use crate::kernel::{Pool, bind_caller, probe};
use crate::shard::{Batch, BatchSpan, Input, LogitRows, Shard, ShardOptions, SlotId, Threads};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of each prompt; 0 leaves prefill out.
    pub prefill: usize,
    /// Tokens that each sequence is then continued by; 0 leaves decode out.
    pub decode: usize,
    /// Sequences that go through each pass together.
    pub streams: usize,
    /// How often each is timed, after one run that is not.
    pub rounds: usize,
}

/// What came out: one number per round, tokens of all streams per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Throughput {
    /// Prompt tokens per second.
    pub prefill: Vec<f64>,
    /// New tokens per second.
    pub decode: Vec<f64>,
    /// Bytes of weights that each pass of a decode step reads.
    pub weight_bytes: u64,
    /// Bytes per second of plainly reading as many bytes with as many threads,
    /// the best of a few tries around each round.
    pub read: Vec<f64>,
}

/// Loads all layers of `file` and runs `workload` through them. The context of
/// `options` is raised to what the workload needs.
///
/// # Errors
/// As [`Shard::load`], [`Shard::open`] and [`Shard::forward`].
pub fn measure(
    file: &Arc<ModelFile>,
    options: &ShardOptions,
    workload: &Workload,
) -> Result<Throughput, EngineError> {
    let capacity = workload.prefill.max(workload.decode).max(1);
    let options = ShardOptions {
        context: options.context.max(capacity),
        ..options.clone()
    };
    let mut shard = Shard::load(file, 0..file.spec().layers, &options, &mut |_| {})?;
    // Beside each round, because the machine's speed moves; a pool that is made for it, because
    // the shard's own is its own. Made before this thread is bound: threads inherit that.
    let reader = Pool::new(options.threads);
    if options.binding == Threads::Pinned {
        bind_caller();
    }
    let mut found = Throughput {
        weight_bytes: shard.memory().weight_bytes,
        ..Throughput::default()
    };
    let bytes = usize::try_from(found.weight_bytes).unwrap_or(usize::MAX);
    let slots: Result<Vec<SlotId>, _> = (0..workload.streams)
        .map(|_| shard.open(capacity))
        .collect();
    let slots = slots?;
    for round in 0..=workload.rounds {
        let prefill = timed(&mut shard, &slots, workload.prefill, workload.prefill)?;
        let decode = timed(&mut shard, &slots, workload.decode, 1)?;
        // The first finds cold caches and sleeping threads.
        if round == 0 {
            continue;
        }
        found.prefill.extend(prefill);
        found.decode.extend(decode);
        let read = probe::read_bytes_per_second(&reader, bytes);
        found.read.extend(read.ok());
    }
    Ok(found)
}

/// The middle one of some numbers, the upper of two; none of none.
#[must_use]
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Tokens per second of `count` tokens for each of the emptied `slots`, `each`
/// at a time.
fn timed(
    shard: &mut Shard,
    slots: &[SlotId],
    count: usize,
    each: usize,
) -> Result<Option<f64>, EngineError> {
    if count == 0 {
        return Ok(None);
    }
    // Emptied and not opened anew: the first touch of a page is not what is
    // measured.
    slots.iter().for_each(|&slot| shard.truncate(slot, 0));
    let vocabulary = shard.spec().vocabulary;
    let since = Instant::now();
    let mut position = 0;
    while position < count {
        let rows = each.min(count - position);
        let tokens: Vec<u32> = (0..slots.len())
            .flat_map(|stream| (position..position + rows).map(move |at| (stream, at)))
            .map(|(stream, at)| token(stream, at, vocabulary))
            .collect();
        let spans: Vec<BatchSpan> = slots
            .iter()
            .map(|&slot| BatchSpan {
                slot,
                position: position as u32,
                rows: rows as u32,
                logits: LogitRows::Last,
            })
            .collect();
        shard.forward(&Batch {
            input: Input::Tokens(&tokens),
            spans: &spans,
        })?;
        position += rows;
    }
    let seconds = since.elapsed().as_secs_f64();
    Ok(Some((count * slots.len()) as f64 / seconds.max(1e-9)))
}

/// Some token, another for each stream and position.
fn token(stream: usize, position: usize, vocabulary: usize) -> u32 {
    let mixed = (stream * 8191 + position) as u64;
    let mixed = (mixed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    (mixed % vocabulary as u64) as u32
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::fixtures::TinyModel;

    #[test]
    fn every_part_is_timed_and_absent_ones_are_absent() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let model = TinyModel::new(2).gguf();
        file.write_all(&model).expect("it is ours");
        let file = Arc::new(ModelFile::open(file.path()).expect("a good file"));
        let mut workload = Workload {
            prefill: 5,
            decode: 3,
            streams: 2,
            rounds: 3,
        };
        let options = ShardOptions::new(1, 2);
        let found = measure(&file, &options, &workload).expect("it runs");
        for numbers in [&found.prefill, &found.decode, &found.read] {
            assert!(numbers.len() == 3 && numbers.iter().all(|&n| n > 0.0));
        }
        assert!(found.weight_bytes > 0);
        workload.prefill = 0;
        let found = measure(&file, &options, &workload).expect("it runs");
        assert_eq!((found.prefill.len(), found.decode.len()), (0, 3));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(3.0));
    }
}

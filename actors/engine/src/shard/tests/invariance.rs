//! The same rows give the same bits, however they are split, cut and batched.

use super::*;
use crate::sample::SamplerParams;

pub(super) const VOCABULARY: usize = 288;

pub(super) fn tiny(matrices: TensorType) -> TinyModel {
    TinyModel {
        // Whole blocks of every quantisation in every matrix.
        width: 256,
        feed_forward: 512,
        heads: 8,
        head_dim: 32,
        matrices,
        tables: TensorType::Q8_0,
        tied: Tied::Shared,
        ..TinyModel::new(5)
    }
}

const KINDS: [TensorType; 5] = [
    TensorType::F32,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q4_K,
    TensorType::Q6_K,
];

/// The portable path is slow and treats all block formats alike.
fn kinds(path: ComputePath) -> &'static [TensorType] {
    match path {
        ComputePath::Auto => &KINDS,
        ComputePath::Portable => &[TensorType::F32, TensorType::Q6_K],
    }
}

/// Every logit of one sequence, run alone in one piece through one shard on one thread.
fn reference(file: &Arc<ModelFile>, options: &ShardOptions, tokens: &[u32]) -> Vec<u32> {
    let options = ShardOptions {
        threads: 1,
        ..options.clone()
    };
    let mut pipeline = Pipeline::new(file, &[file.spec().layers], &options, 1);
    bits(&pipeline.run(&[Part {
        sequence: 0,
        position: 0,
        tokens,
    }]))
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn every_split_gives_the_same_bits() {
    for path in PATHS {
        for &kind in kinds(path) {
            let file = model(&tiny(kind).gguf());
            let tokens = tokens(9, 1, VOCABULARY);
            let whole = reference(&file, &options(path), &tokens);
            // Each set bit below the last layer is a cut after that layer.
            for cuts in 0..1u32 << 4 {
                let mut ends: Vec<u32> = (0..4)
                    .filter(|i| cuts >> i & 1 == 1)
                    .map(|i| i + 1)
                    .collect();
                ends.push(5);
                let mut pipeline = Pipeline::new(&file, &ends, &options(path), 1);
                let split = pipeline.run(&[Part {
                    sequence: 0,
                    position: 0,
                    tokens: &tokens,
                }]);
                assert!(whole == bits(&split), "{path:?} {kind} split at {ends:?}");
            }
        }
    }
}

#[test]
fn a_moved_boundary_does_not_give_the_same_bits() {
    let file = model(&tiny(TensorType::Q4_1).gguf());
    let tokens = tokens(9, 1, VOCABULARY);
    for path in PATHS {
        let whole = reference(&file, &options(path), &tokens);
        let mut skipping = Pipeline::new(&file, &[2, 5], &options(path), 1);
        let mut late = shard(&file, 3..5, &options(path));
        skipping.slots[1] = vec![late.open(64).unwrap()];
        skipping.shards[1] = late;
        let wrong = skipping.run(&[Part {
            sequence: 0,
            position: 0,
            tokens: &tokens,
        }]);
        assert!(
            whole != bits(&wrong),
            "{path:?}: layer 2 was left out unnoticed"
        );
    }
}

#[test]
fn every_chunking_batch_and_thread_count_gives_the_same_bits() {
    for path in PATHS {
        for &kind in kinds(path) {
            let file = model(&tiny(kind).gguf());
            let seeds = match path {
                // Slow, and its thread count is candle's own.
                ComputePath::Portable => 1,
                ComputePath::Auto => 4,
            };
            for seed in 0..seeds {
                for threads in [1, 2, 3] {
                    let options = ShardOptions {
                        threads,
                        ..options(path)
                    };
                    mixed_batches(
                        &file,
                        &options,
                        seed,
                        &format!("{path:?} {kind} {threads} threads"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_cache_of_16_bits_is_as_invariant_and_not_the_same() {
    let file = model(&tiny(TensorType::Q4_1).gguf());
    let full = options(ComputePath::Auto);
    for cache in [CacheFormat::F16, CacheFormat::I16] {
        for threads in [1, 3] {
            let halves = ShardOptions {
                threads,
                cache,
                ..full.clone()
            };
            mixed_batches(&file, &halves, 5, &format!("{cache:?}, {threads} threads"));
            let tokens = tokens(9, 1, VOCABULARY);
            let rounded = reference(&file, &halves, &tokens);
            assert!(rounded != reference(&file, &full, &tokens));
        }
    }
}

/// Four sequences of random lengths advance by random chunks, several in a batch, some
/// truncated and run again on the way.
fn mixed_batches(file: &Arc<ModelFile>, options: &ShardOptions, seed: u64, what: &str) {
    let mut random = tokens(4096, seed, 1 << 16).into_iter();
    let mut below = |n: usize| random.next().expect("enough") as usize % n;
    let texts: Vec<Vec<u32>> = (0..4)
        .map(|i| tokens(1 + below(40), 100 * seed + i, VOCABULARY))
        .collect();
    let wanted: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| reference(file, options, text))
        .collect();
    let mut pipeline = Pipeline::new(file, &[3, 5], options, texts.len());
    let mut done = vec![0usize; texts.len()];
    let mut replays = 3;
    while done
        .iter()
        .zip(&texts)
        .any(|(done, text)| *done < text.len())
    {
        let mut parts = Vec::new();
        for (sequence, text) in texts.iter().enumerate() {
            // Twice, so that one batch may hold two spans of a sequence.
            for _ in 0..2 {
                let count = below(9).min(text.len() - done[sequence]);
                if count > 0 {
                    parts.push(Part {
                        sequence,
                        position: done[sequence] as u32,
                        tokens: &text[done[sequence]..done[sequence] + count],
                    });
                    done[sequence] += count;
                }
            }
        }
        if parts.is_empty() {
            continue;
        }
        let mut logits = &pipeline.run(&parts)[..];
        for part in &parts {
            let (mine, rest) = logits.split_at(part.tokens.len() * VOCABULARY);
            let start = part.position as usize * VOCABULARY;
            let right = &wanted[part.sequence][start..start + mine.len()];
            assert!(right == bits(mine), "{what} seed {seed}: {part:?}");
            logits = rest;
        }
        if replays == 0 || below(3) > 0 {
            continue;
        }
        replays -= 1;
        let replayed = below(texts.len());
        let kept = below(done[replayed] + 1);
        done[replayed] = kept;
        for (shard, slots) in pipeline.shards.iter_mut().zip(&pipeline.slots) {
            shard.truncate(slots[replayed], kept);
        }
    }
}

/// The rows that the head does not project are left out of the last layer, but for their keys and
/// values, which the next row attends to.
#[test]
fn only_the_asked_rows_are_projected() {
    let file = model(&tiny(TensorType::Q4_1).gguf());
    for (rows, threads) in [(6, 1), (300, 2)] {
        let options = ShardOptions {
            threads,
            ..ShardOptions::new(rows + 1, 1)
        };
        let tokens = tokens(rows + 1, 3, VOCABULARY);
        let whole = reference(&file, &options, &tokens);
        let mut shard = shard(&file, 0..5, &options);
        let slots: Vec<SlotId> = (0..3).map(|_| shard.open(rows + 1).unwrap()).collect();
        let mut run = |first: usize, end: usize, kinds: [LogitRows; 3]| {
            let spans = slots.iter().zip(kinds).map(|(&slot, logits)| BatchSpan {
                slot,
                position: first as u32,
                rows: (end - first) as u32,
                logits,
            });
            let batch = Batch {
                input: Input::Tokens(&tokens[first..end].repeat(3)),
                spans: &spans.collect::<Vec<_>>(),
            };
            match shard.forward(&batch).unwrap() {
                Output::Logits(logits) => bits(&logits),
                Output::Hidden(_) => panic!("the last shard gives logits"),
            }
        };
        let (prompt, next) = whole.split_at(rows * VOCABULARY);
        let last = &prompt[(rows - 1) * VOCABULARY..];
        let first = run(0, rows, [LogitRows::Last, LogitRows::None, LogitRows::All]);
        assert!(first == [last, prompt].concat(), "{rows} rows");
        let second = run(rows, rows + 1, [LogitRows::Last; 3]);
        assert!(second == next.repeat(3), "the row after {rows}");
    }
}

#[test]
fn rows_are_sampled_together_as_one_by_one() {
    let file = model(&TinyModel::new(5).gguf());
    let vocabulary = file.spec().vocabulary;
    let numbers = (0..5 * vocabulary).map(|i| (i * 7919 % 1009) as f32 / 100.0);
    let logits: Vec<f32> = numbers.collect();
    let params = |seed| SamplerParams {
        temperature: 0.8,
        seed,
        ..SamplerParams::greedy()
    };
    let draws: Vec<Draw<'_>> = (0..5)
        .map(|seed| Draw {
            params: params(seed),
            position: 3 + seed as u32,
            history: &[1, 2],
        })
        .collect();
    let rows = logits.chunks(vocabulary).zip(&draws);
    let right: Vec<Sampled> = rows
        .map(|(row, draw)| sample(&mut row.to_vec(), &draw.params, draw.position, draw.history))
        .collect();
    for path in PATHS {
        for threads in [1, 2] {
            let options = ShardOptions {
                threads,
                ..options(path)
            };
            let mut shard = shard(&file, 0..file.spec().layers, &options);
            let [before, after] = [(); 2].map(|()| {
                let span = BatchSpan {
                    slot: shard.open(3).unwrap(),
                    position: 0,
                    rows: 3,
                    logits: LogitRows::All,
                };
                let input = Input::Tokens(&[5, 6, 7]);
                let spans = &[span];
                let output = shard.forward(&Batch { input, spans }).unwrap();
                assert_eq!(shard.sample_each(logits.clone(), &draws), right);
                output
            });
            assert_eq!(before, after, "earlier logits have left nothing");
        }
    }
}

//! Shards on a GPU of NVIDIA's. Only where there is one, so by name: `cargo test -p cairn-engine
//! --features cuda --lib gpu -- --ignored`.

use super::invariance::{VOCABULARY, tiny};
use super::*;
use crate::Device;

const GPU: Device = Device::Cuda(0);

fn on_gpu() -> ShardOptions {
    ShardOptions {
        device: GPU,
        ..options(ComputePath::Auto)
    }
}

/// Every format that a GPU computes with as it is, and those that become 32-bit floats.
const KINDS: [TensorType; 9] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// How far apart, as a share of the second's length.
fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = ours.iter().zip(theirs);
    let apart = length(&mut pairs.map(|(&a, &b)| f64::from(a) - f64::from(b)));
    apart / length(&mut theirs.iter().map(|&b| f64::from(b)))
}

/// All logits of four sequences: chunks of prompts together, then rows one by one together.
fn together(pipeline: &mut Pipeline, texts: &[Vec<u32>], chunk: usize) -> Vec<Vec<f32>> {
    let mut logits = vec![Vec::new(); texts.len()];
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    let mut done = 0;
    while done < longest {
        let step = if done == 0 { chunk } else { 1 };
        let mut parts = Vec::new();
        for (sequence, text) in texts.iter().enumerate() {
            let end = text.len().min(done + step);
            if done < end {
                parts.push(Part {
                    sequence,
                    position: done as u32,
                    tokens: &text[done..end],
                });
            }
        }
        let mut rest = &pipeline.run(&parts)[..];
        for part in &parts {
            let (mine, others) = rest.split_at(part.tokens.len() * VOCABULARY);
            logits[part.sequence].extend_from_slice(mine);
            rest = others;
        }
        done += step;
    }
    logits
}

#[test]
#[ignore = "needs a GPU of NVIDIA's"]
fn gpu_logits_and_greedy_tokens_are_those_of_transformers() {
    golden::check(&on_gpu(), 2e-4);
}

#[test]
#[ignore = "needs a GPU of NVIDIA's"]
fn gpu_logits_are_those_of_the_cpu_in_every_format() {
    let texts: Vec<Vec<u32>> = (0..4)
        .map(|i| tokens(5 + 9 * i, i as u64, VOCABULARY))
        .collect();
    for kind in KINDS {
        let file = model(&tiny(kind).gguf());
        let run = |options: &ShardOptions| {
            let mut pipeline = Pipeline::new(&file, &[5], options, texts.len());
            together(&mut pipeline, &texts, 11)
        };
        let (ours, theirs) = (run(&on_gpu()), run(&options(ComputePath::Auto)));
        for (sequence, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let apart = distance(ours, theirs);
            println!("{kind} sequence {sequence}: {apart:.2e}");
            // Both round what a quantised matrix is multiplied with to 8 bits, each its own way,
            // and these layers make a difference in the last place a thousand times larger.
            let most = match kind {
                TensorType::F32 | TensorType::F16 => 2e-3,
                // 0.074 was seen.
                _ => 0.1,
            };
            assert!(apart < most, "{kind} sequence {sequence}: {apart}");
        }
    }
}

#[test]
#[ignore = "needs a GPU of NVIDIA's"]
fn gpu_splits_give_the_same_bits() {
    let tokens = tokens(9, 1, VOCABULARY);
    let part = Part {
        sequence: 0,
        position: 0,
        tokens: &tokens,
    };
    for kind in [TensorType::F32, TensorType::Q4_1, TensorType::Q4_K] {
        let file = model(&tiny(kind).gguf());
        let run = |ends: &[u32]| Pipeline::new(&file, ends, &on_gpu(), 1).run(&[part]);
        let whole = run(&[5]);
        for ends in [&[1, 5][..], &[2, 5], &[1, 2, 3, 4, 5]] {
            assert!(whole == run(ends), "{kind} split at {ends:?}");
        }
        // And a split over a GPU and a CPU is near.
        let mut mixed = Pipeline::new(&file, &[2, 5], &on_gpu(), 1);
        let mut late = shard(&file, 2..5, &options(ComputePath::Auto));
        mixed.slots[1] = vec![late.open(64).unwrap()];
        mixed.shards[1] = late;
        let apart = distance(&mixed.run(&[part]), &whole);
        assert!(apart < 3e-2, "{kind} mixed: {apart}");
    }
}

#[test]
#[ignore = "needs a GPU of NVIDIA's"]
fn gpu_sequences_fork_and_go_back() {
    let file = model(&tiny(TensorType::F32).gguf());
    let text = tokens(12, 7, VOCABULARY);
    let mut shard = shard(&file, 0..5, &on_gpu());
    let run = |shard: &mut Shard, slot, position: usize, tokens: &[u32]| {
        let span = BatchSpan {
            slot,
            position: position as u32,
            rows: tokens.len() as u32,
            logits: LogitRows::Last,
        };
        let input = Input::Tokens(tokens);
        let spans = &[span];
        match shard
            .forward(&Batch { input, spans })
            .expect("a good batch")
        {
            Output::Logits(logits) => logits,
            Output::Hidden(_) => panic!("the last shard gives logits"),
        }
    };
    let first = shard.open(32).unwrap();
    run(&mut shard, first, 0, &text[..8]);
    let whole = run(&mut shard, first, 8, &text[8..]);
    let second = shard.fork(first, 8, 16).unwrap();
    assert!(whole == run(&mut shard, second, 8, &text[8..]));
    shard.truncate(first, 8);
    assert!(whole == run(&mut shard, first, 8, &text[8..]));
}

#[test]
#[ignore = "needs a GPU of NVIDIA's"]
fn gpu_memory_is_told_and_layers_take_what_they_are_said_to() {
    let free = || {
        let gpu = GPU.accelerator().expect("it answers").expect("a GPU");
        assert!(!gpu.name.is_empty());
        let memory = gpu.memory.expect("it has some");
        assert!(memory.free_bytes <= memory.total_bytes);
        memory.free_bytes
    };
    let wide = TinyModel {
        width: 2048,
        feed_forward: 8192,
        heads: 32,
        head_dim: 64,
        matrices: TensorType::F16,
        tables: TensorType::Q8_0,
        ..TinyModel::new(2)
    };
    let file = model(&wide.gguf());
    // What is loaded once stays for as long as the program: kernels, and cuBLAS's own memory.
    drop(Pipeline::new(&file, &[2], &on_gpu(), 1));
    let before = free();
    let shard = shard(&file, 0..2, &on_gpu());
    let taken = before - free();
    let told = shard.memory().weight_bytes;
    println!("told {told}, taken {taken}");
    assert!(told > 2 * file.layer_costs().layers[0].weight_bytes);
    // The driver gives memory out in large pieces.
    assert!(taken.abs_diff(told) < 128 << 20, "{taken} of {told}");
    drop(shard);
    assert!(free() + (64 << 20) > before);
}

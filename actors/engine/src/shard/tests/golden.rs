//! Logits that Hugging Face Transformers gives for the same weights, in float32.

use super::*;

/// (file under tests/golden, the model that it was made from)
fn cases() -> Vec<(&'static str, TinyModel)> {
    let llama3 = TinyModel {
        tied: Tied::Shared,
        rope_base: 500_000.0,
        rope_factors: Some(llama3_factors(500_000.0, 16)),
        ..TinyModel::new(4)
    };
    let wide_heads = TinyModel {
        head_dim: 32,
        ..TinyModel::new(4)
    };
    // A llama but for its window, which the prompt is longer than.
    let windowed = TinyModel {
        window: Some(16),
        ..TinyModel::new(4)
    };
    vec![
        ("mistral", windowed),
        ("llama", TinyModel::new(4)),
        ("llama_headdim", wide_heads),
        ("llama3_rope", llama3),
    ]
}

/// Llama 3.1's frequency divisors: factor 8, low 1, high 4, trained context 64.
fn llama3_factors(base: f64, head_dim: usize) -> Vec<f32> {
    let (factor, low, high, trained) = (8.0, 1.0, 4.0, 64.0);
    let divisor = |pair: usize| {
        let frequency = 1.0 / base.powf(2.0 * pair as f64 / head_dim as f64);
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        if wavelength < trained / high {
            1.0
        } else if wavelength > trained / low {
            factor
        } else {
            let smooth = (trained / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    (0..head_dim / 2).map(|pair| divisor(pair) as f32).collect()
}

fn golden(name: &str) -> serde_json::Value {
    let path = format!("{}/tests/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    let array = value.as_array().unwrap();
    array.iter().map(|n| n.as_f64().unwrap()).collect()
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    for path in PATHS {
        // Logits are within ±10 here, so this is some fifty units in the last place.
        check(&options(path), 5e-5);
    }
}

#[test]
fn a_cache_of_16_bits_gives_the_same_tokens() {
    for (cache, tolerance) in [(CacheFormat::F16, 1e-2), (CacheFormat::I16, 2e-3)] {
        let options = ShardOptions {
            cache,
            ..options(ComputePath::Auto)
        };
        check(&options, tolerance);
    }
}

/// Compares logits, which may be off by `tolerance`, and greedy tokens.
pub(super) fn check(options: &ShardOptions, tolerance: f64) {
    for (name, tiny) in cases() {
        let file = model(&tiny.gguf());
        let golden = golden(name);
        let tokens: Vec<u32> = numbers(&golden["tokens"])
            .iter()
            .map(|&n| n as u32)
            .collect();
        let mut pipeline = Pipeline::new(&file, &[4], options, 2);
        let whole = Part {
            sequence: 0,
            position: 0,
            tokens: &tokens,
        };
        let logits = pipeline.run(&[whole]);
        for (position, row) in golden["logits"].as_object().unwrap() {
            let start = position.parse::<usize>().unwrap() * tiny.vocabulary;
            let expected = numbers(row);
            let ours = &logits[start..start + expected.len()];
            let worst = ours
                .iter()
                .zip(&expected)
                .map(|(&a, &b)| (f64::from(a) - b).abs())
                .fold(0.0, f64::max);
            assert!(
                worst < tolerance,
                "{name} {options:?} position {position}: off by {worst}"
            );
        }
        greedy(&mut pipeline, name, &golden);
    }
}

fn greedy(pipeline: &mut Pipeline, name: &str, golden: &serde_json::Value) {
    let prompt = numbers(&golden["tokens"]);
    let prompt_len = golden["greedy"]["prompt_len"].as_u64().unwrap() as usize;
    let prompt: Vec<u32> = prompt[..prompt_len].iter().map(|&n| n as u32).collect();
    let mut fresh = prompt.clone();
    let mut position = 0;
    for (step, expected) in numbers(&golden["greedy"]["tokens"]).iter().enumerate() {
        let part = Part {
            sequence: 1,
            position,
            tokens: &fresh,
        };
        let logits = pipeline.run(&[part]);
        let vocabulary = pipeline.shards[0].spec().vocabulary;
        let last = &logits[logits.len() - vocabulary..];
        let mut last = last.to_vec();
        position += fresh.len() as u32;
        let token = sample(&mut last, &crate::SamplerParams::greedy(), position, &[]).token;
        assert_eq!(token, *expected as u32, "{name}: greedy step {step}");
        fresh = vec![token];
    }
}

use proptest::prelude::*;

use super::*;

fn params(temperature: f32) -> SamplerParams {
    SamplerParams {
        temperature,
        ..SamplerParams::greedy()
    }
}

/// How often each of `vocabulary` tokens is drawn over `count` positions.
fn histogram(logits: &[f32], params: &SamplerParams, count: u32) -> Vec<f64> {
    let mut histogram = vec![0.0; logits.len()];
    for position in 0..count {
        let sampled = sample(&mut logits.to_vec(), params, position, &[]);
        histogram[sampled.token as usize] += 1.0 / f64::from(count);
    }
    histogram
}

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let weights: Vec<f64> = logits
        .iter()
        .map(|&x| (f64::from(x) / temperature).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_of_equals() {
    let table: [(&[f32], u32); 8] = [
        (&[0.0], 0),
        (&[1.0, 3.0, 2.0], 1),
        (&[3.0, 1.0, 3.0], 0),
        (&[f32::NAN, -1.0, f32::NEG_INFINITY], 1),
        (&[f32::NAN, f32::NAN], 0),
        (&[f32::NEG_INFINITY, -1e30], 1),
        (&[f32::NEG_INFINITY; 3], 0),
        (&[0.0, f32::INFINITY], 1),
    ];
    for (logits, token) in table {
        let sampled = sample(&mut logits.to_vec(), &params(0.0), 0, &[]);
        assert_eq!(sampled.token, token, "{logits:?}");
        assert!(sampled.logprob <= 0.0, "{logits:?}: {sampled:?}");
        let drawn = sample(&mut logits.to_vec(), &params(1e-6), 0, &[]).token;
        let equals = logits[drawn as usize] == logits[token as usize] || logits[0].is_nan();
        assert!(equals, "{logits:?}: {drawn}");
    }
}

#[test]
fn the_log_probability_is_the_models_own() {
    let logits = [1.0, 2.0, 0.5];
    let expected = softmax(&logits, 1.0)[1].ln();
    let changed = SamplerParams {
        temperature: 0.3,
        top_k: 1,
        repetition_penalty: 1.2,
        ..params(0.3)
    };
    for params in [params(0.0), params(0.7), changed] {
        let sampled = (0..).map(|p| sample(&mut logits.to_vec(), &params, p, &[1]));
        let sampled = sampled.into_iter().find(|s| s.token == 1).unwrap();
        assert!(
            (f64::from(sampled.logprob) - expected).abs() < 1e-6,
            "{sampled:?}"
        );
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [0.0, 1.0, -1.0, 2.0, 0.5];
    for temperature in [0.5, 1.0, 2.0] {
        let drawn = histogram(&logits, &params(temperature as f32), 40_000);
        let right = softmax(&logits, temperature);
        for (drawn, right) in drawn.iter().zip(&right) {
            // Five standard deviations of a binomial share.
            let bound = 5.0 * (right * (1.0 - right) / 40_000.0).sqrt();
            assert!(
                (drawn - right).abs() < bound,
                "{temperature}: {drawn} {right}"
            );
        }
    }
}

#[test]
fn truncation_keeps_what_it_says() {
    // Probabilities 0.4, 0.3, 0.2, 0.1.
    let logits: Vec<f32> = [0.2f32, 0.4, 0.1, 0.3].iter().map(|p| p.ln()).collect();
    // (top_k, top_p, min_p, tokens that remain)
    let table: [(u32, f32, f32, &[usize]); 11] = [
        (1, 1.0, 0.0, &[1]),
        (3, 1.0, 0.0, &[0, 1, 3]),
        (99, 1.0, 0.0, &[0, 1, 2, 3]),
        (0, 0.0, 0.0, &[1]),
        (0, 0.39, 0.0, &[1]),
        (0, 0.65, 0.0, &[1, 3]),
        (0, 0.95, 0.0, &[0, 1, 2, 3]),
        // Of the best two, 0.4 is more than half: top-p counts what top-k left.
        (2, 0.5, 0.0, &[1]),
        (0, 1.0, 0.6, &[1, 3]),
        (0, 1.0, 1.0, &[1]),
        (0, 1.0, 0.01, &[0, 1, 2, 3]),
    ];
    for (top_k, top_p, min_p, kept) in table {
        let params = SamplerParams {
            top_k,
            top_p,
            min_p,
            ..params(1.0)
        };
        let drawn = histogram(&logits, &params, 2000);
        let seen: Vec<usize> = (0..4).filter(|&token| drawn[token] > 0.0).collect();
        assert_eq!(seen, kept, "{params:?}");
    }
}

#[test]
fn repetition_lowers_recent_tokens_only() {
    let penalised = |logits: &[f32], penalty, window, history: &[u32]| {
        let params = SamplerParams {
            repetition_penalty: penalty,
            repetition_window: window,
            ..params(0.0)
        };
        sample(&mut logits.to_vec(), &params, 0, history).token
    };
    assert_eq!(
        penalised(&[2.0, 1.9], 1.0, 64, &[0]),
        0,
        "1 changes nothing"
    );
    assert_eq!(penalised(&[2.0, 1.9], 1.1, 64, &[0]), 1);
    assert_eq!(
        penalised(&[2.0, 1.9], 1.1, 64, &[0, 0, 0]),
        1,
        "once, not per occurrence"
    );
    assert_eq!(
        penalised(&[2.0, 1.7], 1.1, 64, &[0, 0, 0]),
        0,
        "once, not per occurrence"
    );
    assert_eq!(
        penalised(&[2.0, 1.9], 1.1, 1, &[0, 1]),
        0,
        "out of the window"
    );
    assert_eq!(penalised(&[2.0, 1.9], 1.1, 0, &[0]), 0, "no window");
    assert_eq!(
        penalised(&[-1.9, -2.0], 1.1, 64, &[0]),
        1,
        "negative logits too"
    );
    assert_eq!(
        penalised(&[2.0, 1.9], 1.1, 64, &[0, 77]),
        1,
        "unknown ids are ignored"
    );
}

#[test]
fn known_draws_stay() {
    // Recorded once: a replay on another version must give the same tokens.
    let logits: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32 / 20.0).collect();
    let params = SamplerParams {
        seed: 42,
        ..params(1.0)
    };
    let drawn: Vec<u32> = (0..8)
        .map(|position| sample(&mut logits.clone(), &params, position, &[]).token)
        .collect();
    assert_eq!(drawn, [34, 94, 43, 97, 27, 89, 75, 8]);
}

proptest! {
    /// A draw depends on logits, parameters, seed and position, and on nothing else.
    #[test]
    fn draws_are_pure(
        logits in prop::collection::vec(-20.0f32..20.0, 1..600),
        seed: u64,
        position: u32,
        top_k in 0u32..50,
        top_p in 0.0f32..1.2,
        min_p in 0.0f32..0.5,
    ) {
        let params = SamplerParams { temperature: 0.8, top_k, top_p, min_p, seed, ..SamplerParams::greedy() };
        let first = sample(&mut logits.clone(), &params, position, &[]);
        for other in 0..20 {
            sample(&mut logits.clone(), &params, position.wrapping_add(other), &[]);
        }
        prop_assert_eq!(first, sample(&mut logits.clone(), &params, position, &[]));
        prop_assert!((first.token as usize) < logits.len());
        prop_assert!(first.logprob <= 0.0);
    }

    /// However long the vocabulary is and wherever the best stands, also twice.
    #[test]
    fn the_first_of_the_best_is_found(
        mut logits in proptest::collection::vec(-2.0f32..2.0, 1..200),
        places in proptest::collection::vec(any::<prop::sample::Index>(), 0..3),
    ) {
        for place in places {
            let place = place.index(logits.len());
            logits[place] = 2.5;
        }
        let mut right = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[right] {
                right = token;
            }
        }
        prop_assert_eq!(first(&logits, largest(&logits)) as usize, right);
        logits.fill(f32::NEG_INFINITY);
        prop_assert_eq!(first(&logits, largest(&logits)), 0);
    }

    /// Selecting the first few in steps gives what sorting everything would.
    #[test]
    fn partial_sorting_equals_full_sorting(
        logits in prop::collection::vec(-4i8..4, 1..900),
        top_k in 0u32..80,
        top_p in 0.01f32..1.1,
        min_p in 0.0f32..0.3,
    ) {
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let params = SamplerParams { top_k, top_p, min_p, ..params(1.0) };
        let top = logits[first(&logits, largest(&logits)) as usize];
        let weight = |logit: f32| f64::from(exp(logit - top));
        let total = |logits: &[f32]| sum_of_exp(logits, top, 1.0);
        let ours: Vec<u32> = candidates(&logits, &params, &weight, &total).iter().map(|c| c.token).collect();

        let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
        sorted.sort_by(|&a, &b| {
            logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b))
        });
        if top_k > 0 {
            sorted.truncate(top_k as usize);
        }
        let total: f64 = sorted.iter().map(|&t| weight(logits[t as usize])).sum();
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for &token in &sorted {
            kept.push(token);
            sum += weight(logits[token as usize]);
            if top_p < 1.0 && sum >= f64::from(top_p) * total {
                break;
            }
        }
        kept.retain(|&t| weight(logits[t as usize]) >= f64::from(min_p));
        let mut ours = ours;
        if top_p >= 1.0 && (top_k == 0 || top_k as usize >= logits.len()) {
            // Nothing was left out by rank, so nothing was sorted.
            ours.sort_by_key(|t| sorted.iter().position(|s| s == t));
        }
        // The two sums add in different orders, so the last one may differ at the very edge.
        let shorter = ours.len().min(kept.len());
        prop_assert_eq!(&ours[..shorter], &kept[..shorter]);
        prop_assert!(ours.len().abs_diff(kept.len()) <= 1);
    }

    /// Positions and seeds give independent numbers, spread over [0, 1).
    #[test]
    fn uniform_numbers_are_spread(seed: u64) {
        let numbers: Vec<f64> = (0..4096).map(|position| uniform(seed, position)).collect();
        prop_assert!(numbers.iter().all(|x| (0.0..1.0).contains(x)));
        let mean = numbers.iter().sum::<f64>() / 4096.0;
        prop_assert!((mean - 0.5).abs() < 5.0 / (12.0f64 * 4096.0).sqrt(), "mean {}", mean);
        prop_assert!(numbers[0] != uniform(seed.wrapping_add(1), 0));
    }
}

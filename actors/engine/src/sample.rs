//! From logits to one token.
//!
//! A pure function: the randomness is a hash of seed and position, so a
//! replayed position gives the same token whatever happened in between. Keeps
//! no state and knows no text.

mod exp;

use std::cmp::Ordering;

use exp::{exp, sum_of_exp};

/// How tokens are chosen.
///
/// Applied in this order: repetition penalty, then greedy choice if
/// `temperature` is 0; else temperature, top-k, top-p, min-p, and a draw.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerParams {
    /// Divides the logits; 0 chooses the most probable token.
    pub temperature: f32,
    /// Keep the k most probable tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most probable tokens until their sum reaches this; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less probable than this times the most probable; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 1 changes nothing.
    pub repetition_penalty: f32,
    /// How many of the last tokens count as recent.
    pub repetition_window: usize,
    /// Names the random sequence.
    pub seed: u64,
}

impl SamplerParams {
    /// The most probable token each time, nothing penalised.
    pub fn greedy() -> SamplerParams {
        SamplerParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_window: 64,
            seed: 0,
        }
    }
}

/// What a token is chosen by, besides its logits.
#[derive(Clone, Debug)]
pub struct Draw<'a> {
    /// How.
    pub params: SamplerParams,
    /// The position that the token is for.
    pub position: u32,
    /// The tokens before it, oldest first.
    pub history: &'a [u32],
}

/// A chosen token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampled {
    /// Its id.
    pub token: u32,
    /// Natural logarithm of its probability under the model's own logits,
    /// before penalty, temperature and truncation.
    pub logprob: f32,
}

/// A token that may still be drawn, and its weight relative to the best.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    token: u32,
    logit: f32,
}

/// Picks the token for `position` from `logits` (vocabulary), which are overwritten.
///
/// `history` are the tokens before `position`, oldest first. Equal logits are
/// ordered by id, the lowest first. A logit that is not a number is never chosen.
///
/// # Panics
/// When `logits` is empty.
pub fn sample(
    logits: &mut [f32],
    params: &SamplerParams,
    position: u32,
    history: &[u32],
) -> Sampled {
    assert!(!logits.is_empty(), "a vocabulary has at least one token");
    for logit in logits.iter_mut() {
        // Written always: what may be skipped is not done in vectors.
        *logit = if logit.is_nan() {
            f32::NEG_INFINITY
        } else {
            *logit
        };
    }
    let mut top = largest(logits);
    let normaliser = log_sum_exp(logits, top);
    // Penalties overwrite logits, so the few that may change keep their first value here.
    let recent = recent(history, params.repetition_window);
    let before: Vec<(u32, f32)> = recent
        .iter()
        .filter_map(|&token| Some((token, *logits.get(token as usize)?)))
        .collect();
    if params.repetition_penalty != 1.0 {
        penalise(logits, &before, params.repetition_penalty);
        top = largest(logits);
    }

    let token = if params.temperature > 0.0 {
        draw(logits, top, params, position)
    } else {
        first(logits, top)
    };
    let original = before
        .iter()
        .find(|(penalised, _)| *penalised == token)
        .map_or(logits[token as usize], |(_, logit)| *logit);
    let logprob = if normaliser.is_finite() {
        (f64::from(original) - normaliser) as f32
    } else {
        // Logits without a distribution: the choice was forced.
        0.0
    };
    Sampled { token, logprob }
}

/// The last `window` tokens, each once.
fn recent(history: &[u32], window: usize) -> Vec<u32> {
    let mut recent = history[history.len().saturating_sub(window)..].to_vec();
    recent.sort_unstable();
    recent.dedup();
    recent
}

/// Keskar et al., arXiv:1909.05858, section 4.1, with the sign taken into account.
fn penalise(logits: &mut [f32], recent: &[(u32, f32)], penalty: f32) {
    for &(token, logit) in recent {
        logits[token as usize] = if logit > 0.0 {
            logit / penalty
        } else {
            logit * penalty
        };
    }
}

/// Logits that are searched at once.
const CHUNK: usize = 64;

/// The first token whose logit is `top`.
fn first(logits: &[f32], top: f32) -> u32 {
    // By chunks without an early end, which are compared in vectors.
    let is_top = |logit: &f32| *logit == top;
    let has_top = |chunk: &[f32]| chunk.iter().fold(false, |has, logit| has | is_top(logit));
    let chunk = logits.chunks(CHUNK).position(has_top).unwrap_or(0) * CHUNK;
    let place = logits[chunk..].iter().position(is_top).unwrap_or(0);
    (chunk + place) as u32
}

/// The largest logit; none is NaN.
fn largest(logits: &[f32]) -> f32 {
    // Lanes of their own: one running maximum would wait for each comparison.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let mut chunks = logits.chunks_exact(lanes.len());
    for chunk in &mut chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    let rest = chunks.remainder().iter();
    rest.chain(&lanes)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

fn draw(logits: &[f32], top: f32, params: &SamplerParams, position: u32) -> u32 {
    if !top.is_finite() {
        return first(logits, top);
    }
    let scale = 1.0 / params.temperature;
    let weight = |logit: f32| f64::from(exp((logit - top) * scale));
    let total = |logits: &[f32]| sum_of_exp(logits, top, scale);
    let candidates = candidates(logits, params, &weight, &total);
    let total: f64 = candidates.iter().map(|c| weight(c.logit)).sum();
    let mut left = uniform(params.seed, position) * total;
    for candidate in &candidates {
        left -= weight(candidate.logit);
        if left < 0.0 {
            return candidate.token;
        }
    }
    // Rounding may leave a sliver past the last one.
    candidates.last().map_or(first(logits, top), |c| c.token)
}

/// The tokens that top-k, top-p and min-p leave: the most probable first if any are left
/// out, else by id. Never empty.
fn candidates(
    logits: &[f32],
    params: &SamplerParams,
    weight: &dyn Fn(f32) -> f64,
    total: &dyn Fn(&[f32]) -> f64,
) -> Vec<Candidate> {
    let floor = f64::from(params.min_p.clamp(0.0, 1.0));
    let mut all: Vec<Candidate> = (0u32..)
        .zip(logits)
        .map(|(token, &logit)| Candidate { token, logit })
        .collect();
    let keep = match params.top_k as usize {
        0 => all.len(),
        k => k.min(all.len()),
    };
    let top_p = f64::from(params.top_p);
    if top_p >= 1.0 {
        // Unsorted when everything stays: a draw needs an order, not this one.
        if keep < all.len() {
            sort_first(&mut all, keep);
            all.truncate(keep);
        }
    } else {
        // What top-p is a share of: the weight that top-k left.
        let total: f64 = if keep < all.len() {
            sort_first(&mut all, keep);
            all.truncate(keep);
            all.iter().map(|c| weight(c.logit)).sum()
        } else {
            total(logits)
        };
        truncate_to_share(&mut all, top_p.max(0.0) * total, weight);
    }
    // The best one has weight 1, so at least it stays.
    all.retain(|c| weight(c.logit) >= floor);
    all
}

/// Keeps the most probable until their weights reach `share`, at least one.
fn truncate_to_share(all: &mut Vec<Candidate>, share: f64, weight: &dyn Fn(f32) -> f64) {
    // Sorting a whole vocabulary costs more than a token's head; the first few usually suffice.
    let mut sorted = 64;
    loop {
        sorted = all.len().min(sorted);
        sort_first(all, sorted);
        let mut sum = 0.0;
        for index in 0..sorted {
            sum += weight(all[index].logit);
            if sum >= share {
                all.truncate(index + 1);
                return;
            }
        }
        if sorted == all.len() {
            return;
        }
        sorted *= 8;
    }
}

/// Brings the `count` most probable to the front, in order.
fn sort_first(all: &mut [Candidate], count: usize) {
    let order = |a: &Candidate, b: &Candidate| -> Ordering {
        b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
    };
    if count < all.len() {
        all.select_nth_unstable_by(count, order);
    }
    all[..count].sort_unstable_by(order);
}

/// ln(sum(exp(logits))), of which `top` is the largest.
fn log_sum_exp(logits: &[f32], top: f32) -> f64 {
    if !top.is_finite() {
        return f64::from(top);
    }
    f64::from(top) + sum_of_exp(logits, top, 1.0).ln()
}

/// A number in [0, 1) that depends on nothing but `seed` and `position`.
fn uniform(seed: u64, position: u32) -> f64 {
    let bits = mix(mix(seed) ^ u64::from(position));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;

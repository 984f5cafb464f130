//! How far a distribution over the vocabulary is from a recorded one.
//!
//! The recording has the most probable tokens and the mass of all others, so the others are one
//! bucket here. Merging outcomes can only lower a divergence (Cover and Thomas, Elements of
//! Information Theory, section 2.8); `docs/parity.md` has the figure over the full vocabulary.

use std::fmt;

use crate::fixture::Row;

/// What one position shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    divergence: f64,
    same_best: bool,
    /// Log-probability of the text's next token: recorded, ours.
    following: [f64; 2],
}

/// What all positions show.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    positions: Vec<Position>,
}

/// Compares logits (vocabulary) with what is recorded for the same position.
pub(crate) fn compare(recorded: &Row, logits: &[f32]) -> Position {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - top).exp()).sum();
    let log_probability = |token: u32| f64::from(logits[token as usize]) - top - sum.ln();

    // Recorded log-probabilities are rounded, so they are made a distribution again.
    let mass: f64 = recorded.top.iter().map(|(_, log)| log.exp()).sum::<f64>() + recorded.rest;
    let mut divergence = 0.0;
    let mut rest = 1.0;
    for &(token, log) in &recorded.top {
        let ours = log_probability(token);
        divergence += log.exp() / mass * (log - mass.ln() - ours);
        rest -= ours.exp();
    }
    // Where the top tokens have nearly everything, the subtraction leaves rounding alone.
    let rest = rest.max(f64::EPSILON);
    let recorded_rest = (recorded.rest / mass).max(f64::EPSILON);
    divergence += recorded_rest * (recorded_rest / rest).ln();
    Position {
        divergence,
        same_best: best(logits) == recorded.top[0].0,
        following: [recorded.following_log, log_probability(recorded.following)],
    }
}

/// The most probable token.
pub(crate) fn best(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    u32::try_from(best).expect("a vocabulary is smaller")
}

impl Comparison {
    pub(crate) fn add(&mut self, position: Position) {
        self.positions.push(position);
    }

    /// Mean KL divergence of ours from the recorded distribution, in nats. Not a number for no positions.
    pub(crate) fn mean_divergence(&self) -> f64 {
        self.mean(|position| position.divergence)
    }

    /// Perplexity of the scored tokens: recorded, ours.
    pub(crate) fn perplexities(&self) -> [f64; 2] {
        [0, 1].map(|which| (-self.mean(|position| position.following[which])).exp())
    }

    fn mean(&self, of: impl Fn(&Position) -> f64) -> f64 {
        self.positions.iter().map(of).sum::<f64>() / self.positions.len() as f64
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worst = self.positions.iter().map(|p| p.divergence);
        let [recorded, ours] = self.perplexities();
        write!(
            f,
            "{} positions: mean divergence {:.5} nats, worst {:.5}, same best token {:.2} %, \
             perplexity {:.4}, recorded {:.4}",
            self.positions.len(),
            self.mean_divergence(),
            worst.fold(0.0, f64::max),
            100.0 * self.mean(|p| f64::from(u8::from(p.same_best))),
            ours,
            recorded,
        )
    }
}

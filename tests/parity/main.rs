//! The engine against llama.cpp on the same file, and every split of it against the whole.
//!
//! llama.cpp does not run here: `record.py` wrote down once what it says. `docs/parity.md` tells
//! how, what the figures are, and which forks of the greedy text are near-ties. Skips nothing:
//! without the model file the tests fail and say how to get it.

#![expect(
    clippy::single_range_in_vec_init,
    reason = "a split into one stage is a list of one range"
)]

mod chain;
mod divergence;
mod fixture;
mod model;

use std::ops::Range;

use cairn_engine::{
    CacheFormat, ChatMessage, GenerationPrompt, LogitRows, ModelFile, SpecialTokens,
};

use chain::Chain;
use divergence::{Comparison, compare};
use fixture::{Prompt, Recorded};

/// Decoder layers of the model.
const LAYERS: u32 = 30;
/// Two best log-probabilities closer than this may change places by rounding alone.
const NEAR_TIE: f64 = 0.2;
/// Most mean KL divergence from llama.cpp, in nats. Its own cache in f16 costs it nearly as much.
const DIVERGENCE_MAX: f64 = 0.004;
/// Most that the perplexity of the text may differ, as a share.
const PERPLEXITY_SHARE_MAX: f64 = 0.005;
/// Rows per pass while scoring a text: bounds the memory that logits take.
const CHUNK: usize = 64;

#[test]
fn templates_and_tokens_are_those_of_llama_cpp() {
    let file = ModelFile::open(&model::path()).expect("a readable model");
    let template = file.chat_template().expect("a chat template");
    let tokenizer = file.tokenizer().expect("a tokenizer");
    for prompt in fixture::prompts() {
        let special = match &prompt.messages {
            Some(messages) => {
                let messages: Vec<ChatMessage> = messages
                    .iter()
                    .map(|message| ChatMessage {
                        role: message.role.clone(),
                        content: message.content.clone(),
                    })
                    .collect();
                let text = template.render(&messages, GenerationPrompt::Add);
                assert_eq!(text.expect("renders"), prompt.text, "{}", prompt.name);
                SpecialTokens::Parse
            }
            None => SpecialTokens::Text,
        };
        let ids = tokenizer.encode(&prompt.text, special).expect("encodes");
        assert_eq!(ids, prompt.ids, "{}", prompt.name);
    }
    let text = include_str!("fixtures/text.txt");
    let ids = tokenizer
        .encode(text, SpecialTokens::Text)
        .expect("encodes");
    let recorded = fixture::text().ids;
    assert_eq!(ids[..recorded.len()], recorded);
}

#[test]
fn greedy_tokens_are_those_of_llama_cpp() {
    let prompts = fixture::prompts();
    assert_eq!(prompts.len(), 20);
    let mut wrong = Vec::new();
    let (mut compared, mut after, mut after_equal) = (0, 0, 0);
    for prompt in &prompts {
        let ours = forced(prompt);
        let fork = prompt.steps().position(|step| step.gap() < NEAR_TIE);
        compared += fork.unwrap_or(ours.len());
        for (index, (step, ours)) in prompt.steps().zip(ours).enumerate() {
            let near = step.gap() < NEAR_TIE;
            let name = &prompt.name;
            if fork.is_none_or(|fork| index < fork) {
                if ours != step.token {
                    wrong.push(format!("{name}, token {index}: {ours}, recorded {step:?}"));
                }
            } else if near {
                let taken = if ours == step.token { "same" } else { "forks" };
                println!("near-tie, {taken}: {name}, token {index}: {step:?}");
            } else {
                after += 1;
                after_equal += usize::from(ours == step.token);
            }
        }
    }
    println!("{compared} tokens before the first near-tie of their prompt");
    println!("{after_equal} of {after} equal after it, near-ties left out, llama.cpp's text fed");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The engine's greedy choice after the prompt and after each recorded token.
///
/// As long as the choices are the recorded ones, this is the engine's own greedy answer; past a
/// fork it goes on along llama.cpp's.
fn forced(prompt: &Prompt) -> Vec<u32> {
    let mut chain = Chain::whole(&model::path(), CacheFormat::F32);
    let mut fresh: &[u32] = &prompt.ids;
    let mut ours = Vec::new();
    for token in &prompt.tokens {
        ours.push(divergence::best(&chain.advance(fresh, LogitRows::Last)));
        fresh = std::slice::from_ref(token);
    }
    ours
}

#[test]
fn probabilities_of_a_text_are_those_of_llama_cpp() {
    let recorded = fixture::text();
    let scored = recorded.ids.len() - 1;
    assert!(recorded.rows.len() >= 1_000 && scored >= 4_000);
    for cache in [CacheFormat::F32, CacheFormat::F16, CacheFormat::I16] {
        let mut chain = Chain::whole(&model::path(), cache);
        let found = score(&mut chain, &recorded, scored);
        println!("{cache:?}: {found}");
        assert!(
            found.mean_divergence() <= DIVERGENCE_MAX,
            "{cache:?}: {found}"
        );
        let [theirs, ours] = found.perplexities();
        assert!(
            (ours / theirs - 1.0).abs() <= PERPLEXITY_SHARE_MAX,
            "{cache:?}: {found}"
        );
    }
}

/// Compares what is recorded for the first `tokens` tokens of the text.
fn score(chain: &mut Chain, recorded: &Recorded, tokens: usize) -> Comparison {
    let mut found = Comparison::default();
    for (index, ids) in recorded.ids[..tokens].chunks(CHUNK).enumerate() {
        let logits = chain.advance(ids, LogitRows::All);
        let vocabulary = logits.len() / ids.len();
        for (row, logits) in logits.chunks(vocabulary).enumerate() {
            let position = index * CHUNK + row;
            if position.is_multiple_of(recorded.stride) {
                found.add(compare(&recorded.rows[position / recorded.stride], logits));
            }
        }
    }
    found
}

#[test]
fn every_split_gives_the_same_bits() {
    let whole = bits(&[0..LAYERS]);
    let mut random = Random(30);
    for count in 1..=LAYERS {
        let even: Vec<u32> = (1..count).map(|stage| stage * LAYERS / count).collect();
        for cuts in [even, random.cuts(count)] {
            let stages = stages(&cuts);
            assert_eq!(stages.len(), count as usize);
            assert_eq!(differing(&whole, &bits(&stages)), 0, "{stages:?}");
        }
    }
}

#[test]
fn a_broken_boundary_gives_other_bits() {
    let whole = bits(&[0..LAYERS]);
    for cut in 1..LAYERS {
        for second in [cut + 1, cut - 1] {
            if second == LAYERS || second == 0 {
                continue;
            }
            let stages = [0..cut, second..LAYERS];
            let differing = differing(&whole, &bits(&stages));
            // Not a row may come out right, or a later one could hide the break.
            assert!(differing > whole.len() / 2, "{stages:?}: {differing}");
        }
    }
}

#[test]
fn a_broken_boundary_is_far_from_llama_cpp() {
    let recorded = fixture::text();
    for stages in [[0..14, 15..LAYERS], [0..16, 15..LAYERS]] {
        let mut broken = Chain::load(&model::path(), &stages, CacheFormat::F32);
        let found = score(&mut broken, &recorded, 3 * CHUNK);
        println!("{stages:?}: {found}");
        assert!(
            found.mean_divergence() > DIVERGENCE_MAX,
            "{stages:?}: {found}"
        );
    }
}

/// The bits of every logit of a short prompt and of a few steps after it.
fn bits(stages: &[Range<u32>]) -> Vec<u32> {
    let prompt = fixture::prompts().swap_remove(0);
    let mut chain = Chain::load(&model::path(), stages, CacheFormat::F32);
    let mut logits = chain.advance(&prompt.ids, LogitRows::Last);
    for token in &prompt.tokens[..4] {
        logits.extend(chain.advance(&[*token], LogitRows::Last));
    }
    logits.iter().map(|logit| logit.to_bits()).collect()
}

fn differing(whole: &[u32], split: &[u32]) -> usize {
    assert_eq!(whole.len(), split.len());
    whole.iter().zip(split).filter(|(a, b)| a != b).count()
}

fn stages(cuts: &[u32]) -> Vec<Range<u32>> {
    let firsts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain(std::iter::once(LAYERS));
    firsts.zip(ends).map(|(first, end)| first..end).collect()
}

/// SplitMix64; the seed is the whole of it.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Where a split into `count` stages cuts, each set of cuts as likely as another.
    fn cuts(&mut self, count: u32) -> Vec<u32> {
        let mut layers: Vec<u32> = (1..LAYERS).collect();
        layers.sort_by_cached_key(|_| self.next());
        layers.truncate(count as usize - 1);
        layers.sort_unstable();
        layers
    }
}

//! What llama.cpp said, as `record.py` wrote it. Layouts: `docs/parity.md`.
//!
//! Computes nothing and trusts nothing: a recording of another model is refused.

use half::f16;
use serde::Deserialize;

use crate::model;

#[derive(Deserialize)]
struct Prompts {
    model_sha256: String,
    prompts: Vec<Prompt>,
}

/// A prompt and llama.cpp's greedy answer to it.
#[derive(Deserialize)]
pub(crate) struct Prompt {
    pub(crate) name: String,
    /// What the chat template made `text` of; none for a raw text.
    pub(crate) messages: Option<Vec<Message>>,
    pub(crate) text: String,
    pub(crate) ids: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
    logprobs: Vec<f64>,
    second_tokens: Vec<u32>,
    second_logprobs: Vec<f64>,
}

#[derive(Deserialize)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) content: String,
}

/// One greedy choice.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "a failing test prints all of it")]
pub(crate) struct Step {
    pub(crate) token: u32,
    pub(crate) log: f64,
    pub(crate) second: u32,
    pub(crate) second_log: f64,
}

/// A text and the distributions after some of its tokens.
pub(crate) struct Recorded {
    /// One more than can be scored: the last has nothing after it.
    pub(crate) ids: Vec<u32>,
    /// The distributions after tokens 0, `stride`, 2 `stride`, …
    pub(crate) rows: Vec<Row>,
    pub(crate) stride: usize,
}

/// The distribution after one token of a text. Logarithms are natural.
pub(crate) struct Row {
    /// The text's next token.
    pub(crate) following: u32,
    pub(crate) following_log: f64,
    /// Probability of all tokens that are not in `top`.
    pub(crate) rest: f64,
    /// The most probable tokens and their log-probabilities, best first.
    pub(crate) top: Vec<(u32, f64)>,
}

pub(crate) fn prompts() -> Vec<Prompt> {
    let prompts: Prompts =
        serde_json::from_str(include_str!("fixtures/prompts.json")).expect("a recording");
    assert_eq!(prompts.model_sha256, model::SHA256);
    prompts.prompts
}

pub(crate) fn text() -> Recorded {
    let mut bytes = Bytes(include_bytes!("fixtures/text.bin"));
    assert_eq!(&bytes.take::<8>(), b"CAIRNKL2");
    let (scored, stride, top) = (bytes.u32(), bytes.u32() as usize, bytes.u32());
    let ids: Vec<u32> = (0..=scored).map(|_| bytes.u16().into()).collect();
    let rows = ids[1..].iter().step_by(stride).map(|&following| {
        let following_log = bytes.f32().into();
        let rest = bytes.f32().into();
        let tokens: Vec<u32> = (0..top).map(|_| bytes.u16().into()).collect();
        let logs = tokens.into_iter().map(|token| {
            let log = f16::from_le_bytes(bytes.take());
            (token, log.to_f64())
        });
        Row {
            following,
            following_log,
            rest,
            top: logs.collect(),
        }
    });
    let rows = rows.collect();
    assert!(bytes.0.is_empty(), "{} bytes too many", bytes.0.len());
    Recorded { ids, rows, stride }
}

impl Prompt {
    pub(crate) fn steps(&self) -> impl Iterator<Item = Step> {
        let best = self.tokens.iter().zip(&self.logprobs);
        let second = self.second_tokens.iter().zip(&self.second_logprobs);
        best.zip(second)
            .map(|((&token, &log), (&second, &second_log))| Step {
                token,
                log,
                second,
                second_log,
            })
    }
}

impl Step {
    /// How much likelier the best token is than the second, in nats.
    pub(crate) fn gap(&self) -> f64 {
        self.log - self.second_log
    }
}

/// Little-endian numbers, one after another.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, left) = self.0.split_first_chunk().expect("the recording is whole");
        self.0 = left;
        *taken
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn f32(&mut self) -> f32 {
        f32::from_le_bytes(self.take())
    }
}

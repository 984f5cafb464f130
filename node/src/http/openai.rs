//! The shapes of OpenAI's answers, for both endpoints.
//!
//! Pure: events in, JSON out. Two fields are ours: `token_id` in the
//! log-probabilities, and `timings` beside the finish reason.

use cairn_actors::{Done, Finish, TokenEvent};
use serde_json::{Value, json};

use super::request::{Delivery, Detail};

/// Which endpoint's shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// What all pieces of one answer share.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Which endpoint.
    pub(crate) shape: Shape,
    /// Names the answer.
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The model's name.
    pub(crate) model: String,
    /// What is told of each token.
    pub(crate) detail: Detail,
}

/// The tokens of an answer, gathered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gathered {
    /// The text so far.
    pub(crate) text: String,
    tokens: Vec<Value>,
}

impl Gathered {
    /// Adds a token.
    pub(crate) fn push(&mut self, token: &TokenEvent) {
        self.text.push_str(&token.text);
        self.tokens.push(logprob(token));
    }
}

impl Head {
    /// The first piece of a stream; completions have none.
    pub(crate) fn opening(&self) -> Option<Value> {
        match self.shape {
            Shape::Chat => {
                let choice = json!({
                    "index": 0,
                    "delta": {"role": "assistant", "content": ""},
                    "finish_reason": null,
                });
                Some(self.piece(json!([choice])))
            }
            Shape::Completion => None,
        }
    }

    /// A token's piece of a stream; a token that adds neither text nor detail has none.
    pub(crate) fn token(&self, token: &TokenEvent) -> Option<Value> {
        if token.text.is_empty() && self.detail == Detail::Text {
            return None;
        }
        let logprobs = match self.detail {
            Detail::Text => Value::Null,
            Detail::Logprobs => json!({"content": [logprob(token)]}),
        };
        Some(self.piece(json!([self.choice(&token.text, logprobs)])))
    }

    /// The pieces that end a stream: held-back text, the reason, the counts if asked for.
    pub(crate) fn ending(&self, done: &Done, delivery: Delivery) -> Vec<Value> {
        let mut pieces = Vec::new();
        if !done.text.is_empty() {
            pieces.push(self.piece(json!([self.choice(&done.text, Value::Null)])));
        }
        let mut choice = match self.shape {
            Shape::Chat => json!({"index": 0, "delta": {}}),
            Shape::Completion => json!({"index": 0, "text": ""}),
        };
        choice["finish_reason"] = finish_reason(done.finish).into();
        let mut last = self.piece(json!([choice]));
        last["timings"] = timings(done);
        pieces.push(last);
        if delivery == Delivery::StreamWithUsage {
            let mut counts = self.piece(json!([]));
            counts["usage"] = usage(done);
            pieces.push(counts);
        }
        pieces
    }

    /// The answer in one piece.
    pub(crate) fn whole(&self, mut gathered: Gathered, done: &Done) -> Value {
        gathered.text.push_str(&done.text);
        let logprobs = match self.detail {
            Detail::Text => Value::Null,
            Detail::Logprobs => json!({"content": gathered.tokens}),
        };
        let mut choice = match self.shape {
            Shape::Chat => json!({
                "index": 0,
                "message": {"role": "assistant", "content": gathered.text, "refusal": null},
            }),
            Shape::Completion => json!({"index": 0, "text": gathered.text}),
        };
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = finish_reason(done.finish).into();
        json!({
            "id": self.id,
            "object": match self.shape {
                Shape::Chat => "chat.completion",
                Shape::Completion => "text_completion",
            },
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": usage(done),
            "timings": timings(done),
        })
    }

    fn choice(&self, text: &str, logprobs: Value) -> Value {
        let mut choice = match self.shape {
            Shape::Chat => json!({"index": 0, "delta": {"content": text}}),
            Shape::Completion => json!({"index": 0, "text": text}),
        };
        choice["logprobs"] = logprobs;
        choice["finish_reason"] = Value::Null;
        choice
    }

    fn piece(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": match self.shape {
                Shape::Chat => "chat.completion.chunk",
                Shape::Completion => "text_completion",
            },
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

fn logprob(token: &TokenEvent) -> Value {
    json!({
        "token": token.text,
        "token_id": token.token,
        // JSON has no infinity; a token that could not be drawn has a log-probability all the same.
        "logprob": f64::from(token.logprob).max(-9999.0),
        "bytes": token.text.as_bytes(),
        "top_logprobs": [],
    })
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

fn usage(done: &Done) -> Value {
    json!({
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": u64::from(done.prompt_tokens) + u64::from(done.completion_tokens),
    })
}

fn timings(done: &Done) -> Value {
    json!({"ttft_ms": done.ttft_ms, "tokens_per_second": done.tokens_per_second})
}

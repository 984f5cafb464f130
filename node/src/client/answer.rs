//! An answer as it comes: server-sent events taken apart.
//!
//! Prints nothing; `ask`, `chat` and `demo` do.

use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};
use ureq::http::StatusCode;

use super::{Api, Lines, refusal};
use crate::cli::SamplingArgs;
use crate::exit::{Exit, Failure};

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// More text; the ids of the tokens in it.
    Text {
        /// May be empty inside a character of several bytes.
        text: String,
        /// The token's id, where ids were asked for.
        token: Option<u64>,
    },
    /// The answer is whole.
    End(Ending),
}

/// How an answer ended and how fast it was.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Ending {
    /// `stop` or `length`.
    pub(crate) finish_reason: String,
    /// Time to first token in ms.
    pub(crate) ttft_ms: f64,
    /// Decode speed after the first token.
    pub(crate) tokens_per_second: f64,
}

/// An answer under way; dropping it cancels it.
pub(crate) struct Pieces {
    lines: Lines,
    ended: bool,
}

/// The body of a request for `messages`, each `{role, content}`.
pub(crate) fn body(messages: &[Value], sampling: &SamplingArgs) -> Value {
    let mut body = json!({
        "messages": messages,
        "stream": true,
        "logprobs": true,
    });
    let fields = [
        ("max_tokens", json!(sampling.max_tokens)),
        ("temperature", json!(sampling.temperature)),
        ("top_k", json!(sampling.top_k)),
        ("top_p", json!(sampling.top_p)),
        ("min_p", json!(sampling.min_p)),
        ("repetition_penalty", json!(sampling.repetition_penalty)),
        ("seed", json!(sampling.seed)),
    ];
    for (field, value) in fields {
        if !value.is_null() {
            body[field] = value;
        }
    }
    if !sampling.stop.is_empty() {
        body["stop"] = json!(sampling.stop);
    }
    body
}

/// One message of a chat.
pub(crate) fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// Asks; the first error may come here or among the pieces.
pub(crate) fn ask(api: &Api, body: &Value) -> Result<Pieces, Failure> {
    let lines = api.post_lines("/v1/chat/completions", body)?;
    Ok(Pieces {
        lines,
        ended: false,
    })
}

impl Iterator for Pieces {
    type Item = Result<Piece, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let Some(line) = self.lines.next() else {
                self.ended = true;
                let cut = "the node went away in the middle of the answer";
                return Some(Err(Failure::text(Exit::Failure, cut)));
            };
            let parsed = line
                .context("the node went away in the middle of the answer")
                .map_err(Failure::from)
                .and_then(|line| parse(&line));
            match parsed {
                Ok(None) => {}
                Ok(Some(piece)) => {
                    self.ended = matches!(piece, Piece::End(_));
                    return Some(Ok(piece));
                }
                Err(failure) => {
                    self.ended = true;
                    return Some(Err(failure));
                }
            }
        }
        None
    }
}

/// Comments, blank lines and pieces without news are `None`.
fn parse(line: &str) -> Result<Option<Piece>, Failure> {
    let Some(data) = line.strip_prefix("data:").map(str::trim_start) else {
        return Ok(None);
    };
    if data == "[DONE]" {
        return Ok(None);
    }
    let event: Value =
        serde_json::from_str(data).context("the node sends an event that is no JSON")?;
    if event.get("error").is_some() {
        return Err(refusal(status_of(&event), &event));
    }
    let choice = &event["choices"][0];
    if let Some(reason) = choice["finish_reason"].as_str() {
        let timings = &event["timings"];
        return Ok(Some(Piece::End(Ending {
            finish_reason: reason.to_owned(),
            ttft_ms: timings["ttft_ms"].as_f64().unwrap_or(0.0),
            tokens_per_second: timings["tokens_per_second"].as_f64().unwrap_or(0.0),
        })));
    }
    let text = choice["delta"]["content"].as_str().unwrap_or_default();
    let token = choice["logprobs"]["content"][0]["token_id"].as_u64();
    if text.is_empty() && token.is_none() {
        return Ok(None);
    }
    Ok(Some(Piece::Text {
        text: text.to_owned(),
        token,
    }))
}

/// The status that the error would have had before the stream began.
fn status_of(event: &Value) -> StatusCode {
    match event["error"]["type"].as_str() {
        Some("invalid_request_error") => StatusCode::BAD_REQUEST,
        Some("rate_limit_error") => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &'static str) -> Vec<Result<Piece, Failure>> {
        let pieces = Pieces {
            lines: Lines::of_text(text),
            ended: false,
        };
        pieces.collect()
    }

    #[test]
    fn a_stream_is_text_then_an_end() {
        let found = pieces(concat!(
            ": keep-alive\n\n",
            r#"data: {"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            "\n\n",
            r#"data: {"choices":[{"delta":{"content":"Hi"},"logprobs":{"content":[{"token_id":5}]},"finish_reason":null}]}"#,
            "\r\n\r\n",
            r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}],"timings":{"ttft_ms":1.5,"tokens_per_second":80.0}}"#,
            "\n\ndata: [DONE]\n\n",
        ));
        let found: Vec<Piece> = found.into_iter().map(Result::unwrap).collect();
        let text = Piece::Text {
            text: "Hi".to_owned(),
            token: Some(5),
        };
        let end = Piece::End(Ending {
            finish_reason: "stop".to_owned(),
            ttft_ms: 1.5,
            tokens_per_second: 80.0,
        });
        assert_eq!(found, [text, end]);
    }

    #[test]
    fn errors_and_cuts_end_a_stream_as_failures() {
        let refused =
            pieces("data: {\"error\":{\"message\":\"node b left\",\"type\":\"server_error\"}}\n\n");
        assert_eq!(refused.len(), 1);
        assert!(format!("{:?}", refused[0]).contains("node b left"));
        let cut = pieces("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n");
        assert_eq!(cut.len(), 2);
        assert!(cut[1].is_err());
        assert!(pieces("data: {nonsense\n")[0].is_err());
    }
}

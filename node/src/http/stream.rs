//! An answer as server-sent events.
//!
//! Dropping the stream drops the answer, which cancels it in the cluster.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use cairn_actors::{Answer, AnswerError, AnswerEvent};
use futures::Stream;
use futures::stream;
use serde_json::Value;

use super::error::ApiError;
use super::openai::Head;
use super::request::Delivery;

/// A comment so often, so that a client that went away is noticed in a long prefill too.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The state between two pieces.
struct Sending {
    answer: Answer,
    head: Head,
    delivery: Delivery,
    /// Pieces made and not yet sent.
    ready: VecDeque<String>,
    /// Whether the answer may bring more.
    more: bool,
}

/// The response.
pub(crate) fn respond(
    answer: Answer,
    head: Head,
    delivery: Delivery,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = stream::unfold(Sending::new(answer, head, delivery), |mut sending| async {
        let data = sending.next().await?;
        Some((Ok(Event::default().data(data)), sending))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

impl Sending {
    fn new(answer: Answer, head: Head, delivery: Delivery) -> Self {
        let ready = head.opening().iter().map(Value::to_string).collect();
        Self {
            answer,
            head,
            delivery,
            ready,
            more: true,
        }
    }

    /// The next `data:` line.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if !self.more {
                return None;
            }
            match self.answer.events.recv().await {
                Some(AnswerEvent::Token(token)) => {
                    self.ready
                        .extend(self.head.token(&token).map(|piece| piece.to_string()));
                }
                Some(AnswerEvent::Done(done)) => {
                    let pieces = self.head.ending(&done, self.delivery);
                    self.ready.extend(pieces.iter().map(Value::to_string));
                    self.ready.push_back("[DONE]".to_owned());
                    self.more = false;
                }
                Some(AnswerEvent::Failed(error)) => self.fail(&error),
                None => self.fail(&AnswerError::NotReady("the node is leaving".to_owned())),
            }
        }
    }

    /// The status line is sent already, so the error is an event; no `[DONE]` follows it.
    fn fail(&mut self, error: &AnswerError) {
        self.ready
            .push_back(ApiError::from(error).body().to_string());
        self.more = false;
    }
}

#[cfg(test)]
mod tests {
    use cairn_actors::{Done, Finish, TokenEvent};

    use super::super::openai::Shape;
    use super::super::request::Detail;
    use super::*;

    async fn lines(shape: Shape, delivery: Delivery, events: Vec<AnswerEvent>) -> Vec<String> {
        let (sender, receiver) = tokio::sync::mpsc::channel(events.len().max(1));
        for event in events {
            sender.send(event).await.unwrap();
        }
        drop(sender);
        let answer = Answer {
            id: "x".to_owned(),
            prompt_tokens: 3,
            events: receiver,
        };
        let head = Head {
            shape,
            id: "x".to_owned(),
            created: 1,
            model: "m".to_owned(),
            detail: Detail::Text,
        };
        let mut sending = Sending::new(answer, head, delivery);
        let mut lines = Vec::new();
        while let Some(line) = sending.next().await {
            lines.push(line);
        }
        lines
    }

    fn token(text: &str) -> AnswerEvent {
        AnswerEvent::Token(TokenEvent {
            token: 7,
            text: text.to_owned(),
            logprob: -0.5,
        })
    }

    fn done(text: &str) -> AnswerEvent {
        AnswerEvent::Done(Done {
            finish: Finish::Stop,
            text: text.to_owned(),
            prompt_tokens: 3,
            completion_tokens: 2,
            ttft_ms: 1.0,
            tokens_per_second: 2.0,
        })
    }

    #[tokio::test]
    async fn a_stream_opens_tells_ends_and_says_done() {
        let events = vec![token("a"), token(""), done("b")];
        let lines = lines(Shape::Chat, Delivery::StreamWithUsage, events).await;
        let pieces: Vec<Value> = lines[..lines.len() - 1]
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(pieces[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(pieces[1]["choices"][0]["delta"]["content"], "a");
        assert_eq!(
            pieces[2]["choices"][0]["delta"]["content"], "b",
            "an empty token has no piece"
        );
        assert_eq!(pieces[3]["choices"][0]["finish_reason"], "stop");
        assert_eq!(pieces[4]["usage"]["total_tokens"], 5);
        assert_eq!(pieces.len(), 5);
        assert_eq!(lines[5], "[DONE]");
        assert!(
            pieces
                .iter()
                .all(|piece| piece["object"] == "chat.completion.chunk")
        );
    }

    #[tokio::test]
    async fn an_error_in_mid_stream_is_an_event_and_no_done_follows() {
        let lost = AnswerEvent::Failed(AnswerError::NodeLost {
            node: "b".to_owned(),
            detail: "gone".to_owned(),
        });
        let lines = lines(Shape::Completion, Delivery::Stream, vec![token("a"), lost]).await;
        assert_eq!(lines.len(), 2);
        let error: Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(error["error"]["code"], "node_lost");
    }

    #[tokio::test]
    async fn a_node_that_vanishes_is_an_error_too() {
        let lines = lines(Shape::Completion, Delivery::Stream, Vec::new()).await;
        let error: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(error["error"]["code"], "not_ready");
    }
}

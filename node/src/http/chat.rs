//! `POST /v1/chat/completions` and `POST /v1/completions`.
//!
//! A client that goes away drops the handler or the stream, and with it the answer.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cairn_actors::{Answer, AnswerError, AnswerEvent, ModelView, Node};
use serde_json::Value;

use super::error::ApiError;
use super::openai::{Gathered, Head, Shape};
use super::request::{self, Asked, Delivery};
use super::stream;

/// Answers a chat.
pub(crate) async fn chat_completions(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    respond(&node, request::chat(&whole(body)?)?, Shape::Chat).await
}

/// Goes on with a raw prompt: a text, or token ids.
pub(crate) async fn completions(
    State(node): State<Node>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    respond(
        &node,
        request::completion(&whole(body)?)?,
        Shape::Completion,
    )
    .await
}

/// Whether a client that asks for `asked` means this model: its name, or the stem of its file.
pub(crate) fn is_meant(asked: &str, model: &ModelView) -> bool {
    let file = model.name.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = file.strip_suffix(".gguf").unwrap_or(file);
    [model.name.as_str(), file, stem]
        .iter()
        .any(|name| name.eq_ignore_ascii_case(asked))
}

fn whole(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = crate::terminal::size(super::BODY_BYTES_MAX as u64);
            ApiError::too_large(format!("the body is longer than {limit}"))
        }
        _ => ApiError::bad_json(rejection.body_text()),
    })
}

async fn respond(node: &Node, asked: Asked, shape: Shape) -> Result<Response, ApiError> {
    let status = node.status().await;
    let Some(model) = status.model else {
        return Err(ApiError::not_ready(&status.detail));
    };
    if let Some(name) = &asked.model
        && !is_meant(name, &model)
    {
        return Err(ApiError::unknown_model(name, &model.name));
    }
    let answer = node
        .answer(asked.prompt)
        .await
        .map_err(|error| ApiError::from(&error))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let head = Head {
        shape,
        id: match shape {
            Shape::Chat => format!("chatcmpl-{}", answer.id),
            Shape::Completion => format!("cmpl-{}", answer.id),
        },
        created: since.map_or(0, |since| since.as_secs()),
        model: model.name,
        detail: asked.detail,
    };
    match asked.delivery {
        Delivery::Whole => Ok(Json(gather(answer, &head).await?).into_response()),
        Delivery::Stream | Delivery::StreamWithUsage => {
            Ok(stream::respond(answer, head, asked.delivery).into_response())
        }
    }
}

async fn gather(mut answer: Answer, head: &Head) -> Result<Value, ApiError> {
    let mut gathered = Gathered::default();
    loop {
        match answer.events.recv().await {
            Some(AnswerEvent::Token(token)) => gathered.push(&token),
            Some(AnswerEvent::Done(done)) => return Ok(head.whole(gathered, &done)),
            Some(AnswerEvent::Failed(error)) => return Err(ApiError::from(&error)),
            None => {
                let error = AnswerError::NotReady("the node is leaving".to_owned());
                return Err(ApiError::from(&error));
            }
        }
    }
}

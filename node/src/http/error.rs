//! Errors in OpenAI's shape: a message, the kind, the field and a code.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use cairn_actors::AnswerError;
use serde_json::{Value, json};

/// Seconds after which a node that is not ready is worth asking again.
const NOT_READY_RETRY_SECONDS: u32 = 1;

/// An error as a client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    param: Option<String>,
    message: String,
    retry_after_seconds: Option<u32>,
}

impl ApiError {
    /// A request that cannot be understood or granted; names the field.
    pub(crate) fn bad_field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_value", message)
        }
    }

    /// A body that is no JSON.
    pub(crate) fn bad_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", message)
    }

    /// A body over the limit.
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    }

    /// A model that is not served.
    pub(crate) fn unknown_model(asked: &str, served: &str) -> Self {
        Self {
            param: Some("model".to_owned()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                "model_not_found",
                format!("the model `{asked}` is not served here; `{served}` is"),
            )
        }
    }

    /// The cluster cannot answer now.
    pub(crate) fn not_ready(detail: &str) -> Self {
        Self::from(&AnswerError::NotReady(detail.to_owned()))
    }

    /// A browser's request from a strange page.
    pub(crate) fn forbidden(name: &HeaderName) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "foreign_origin",
            format!(
                "the `{name}` header names a stranger, and this node serves its own device only; start it with --http ADDR to open it"
            ),
        )
    }

    /// The body of the answer.
    pub(crate) fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }

    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind: "invalid_request_error",
            code,
            param: None,
            message: message.into(),
            retry_after_seconds: None,
        }
    }
}

impl From<&AnswerError> for ApiError {
    fn from(error: &AnswerError) -> Self {
        let message = error.to_string();
        match error {
            AnswerError::NotReady(_) => Self {
                kind: "server_error",
                retry_after_seconds: Some(NOT_READY_RETRY_SECONDS),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message)
            },
            AnswerError::BadPrompt { field, .. } => Self::bad_field(*field, message),
            AnswerError::ContextOverflow { .. } => Self {
                param: Some("messages".to_owned()),
                ..Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", message)
            },
            AnswerError::Busy {
                retry_after_seconds,
            } => Self {
                kind: "rate_limit_error",
                retry_after_seconds: Some(*retry_after_seconds),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message)
            },
            AnswerError::NodeLost { .. } => Self {
                kind: "server_error",
                retry_after_seconds: Some(NOT_READY_RETRY_SECONDS),
                ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "node_lost", message)
            },
            AnswerError::Stalled { .. } => Self {
                kind: "server_error",
                ..Self::new(StatusCode::GATEWAY_TIMEOUT, "stalled", message)
            },
            AnswerError::StageFailed { .. } => Self {
                kind: "server_error",
                ..Self::new(StatusCode::INTERNAL_SERVER_ERROR, "stage_failed", message)
            },
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Answers a path that is not served.
pub(crate) async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is no {}", uri.path()),
    )
}

/// Answers a method that a path does not have.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} does not answer {method}", uri.path()),
    )
}

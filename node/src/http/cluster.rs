//! What a node tells about itself, its cluster and its log.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_actors::{LogQuery, ModelView, Node, State as ClusterState, Status};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};

use super::chat::is_meant;
use super::error::ApiError;
use crate::cli::Level;

/// The query of `/cairn/logs`.
#[derive(Debug, Deserialize)]
pub(crate) struct LogParams {
    /// Go on with new lines.
    #[serde(default)]
    follow: bool,
    /// The least severe level.
    level: Option<Level>,
    /// Only this node.
    node: Option<String>,
}

/// 200 when prompts can be answered, else 503; says why.
pub(crate) async fn health(State(node): State<Node>) -> Response {
    let status = node.status().await;
    let code = match status.state {
        ClusterState::Ready => StatusCode::OK,
        ClusterState::Starting | ClusterState::Degraded => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(health_body(&status))).into_response()
}

/// Everything that `cairn status` shows.
pub(crate) async fn status(State(node): State<Node>) -> Json<Status> {
    Json(node.status().await)
}

/// The same as numbers, for Prometheus.
pub(crate) async fn metrics(State(node): State<Node>) -> Response {
    let kind = [(header::CONTENT_TYPE, super::metrics::CONTENT_TYPE)];
    (kind, super::metrics::render(&node.status().await)).into_response()
}

/// The adopted plan.
pub(crate) async fn plan(State(node): State<Node>) -> Result<Response, ApiError> {
    let status = node.status().await;
    match status.plan {
        Some(plan) => Ok(Json(plan).into_response()),
        None => Err(ApiError::not_ready(&status.detail)),
    }
}

/// The merged log, one JSON object a line.
pub(crate) async fn logs(
    State(node): State<Node>,
    query: Result<Query<LogParams>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(params) =
        query.map_err(|rejection| ApiError::bad_field("query", rejection.body_text()))?;
    let lines = node.logs(LogQuery {
        follow: params.follow,
        level: params.level.unwrap_or(Level::Info).log_level(),
        node: params.node,
    });
    let body = stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        let mut json = serde_json::to_vec(&line).ok()?;
        json.push(b'\n');
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(json)), lines))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(body)).into_response())
}

/// The served model, as a list.
pub(crate) async fn models(State(node): State<Node>) -> Json<Value> {
    let status = node.status().await;
    let data: Vec<Value> = status.model.iter().map(model_body).collect();
    Json(json!({"object": "list", "data": data}))
}

/// One model.
pub(crate) async fn model(
    State(node): State<Node>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    match node.status().await.model {
        Some(model) if is_meant(&name, &model) => Ok(Json(model_body(&model))),
        Some(model) => Err(ApiError::unknown_model(&name, &model.name)),
        None => Err(ApiError::unknown_model(&name, "none yet")),
    }
}

fn health_body(status: &Status) -> Value {
    json!({
        "status": status.state,
        "detail": status.detail,
        "cluster": status.cluster,
        "node": status.name,
        "model": status.model.as_ref().map(|model| &model.name),
        "nodes": status.nodes.len(),
        "stages": status.plan.as_ref().map_or(0, |plan| plan.stages.len()),
    })
}

fn model_body(model: &ModelView) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        // No model file says when it was made; the field is required by clients.
        "created": 0,
        "owned_by": "cairn",
        "context_length": model.context,
        "sha256": model.sha256,
    })
}

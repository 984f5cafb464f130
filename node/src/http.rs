//! The node over HTTP: OpenAI's shapes for prompts, Cairn's own for the cluster.
//!
//! Translates only. On loopback by default, without keys: whoever may talk to
//! the socket may ask; pages of other origins in a browser may not.

mod chat;
mod cluster;
mod error;
mod guard;
mod metrics;
mod openai;
mod request;
mod stream;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use cairn_actors::Node;

use crate::exit::{Exit, Failure};

/// The longest request: a context of a million tokens is about as long.
const BODY_BYTES_MAX: usize = 8 << 20;
/// How many ports after the first are tried when the user named none.
const PORT_COUNT: u16 = 256;

/// Takes the address that the user named, or the first free port of loopback.
///
/// Before anything else starts, so that a port in use is the first thing the user hears of.
pub(crate) fn bind(wish: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    let first = crate::config::HTTP_PORT;
    let candidates: Vec<SocketAddr> = match wish {
        Some(address) => vec![address],
        None => (first..first + PORT_COUNT)
            .map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
            .collect(),
    };
    let mut last = None;
    for address in candidates {
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener
                    .set_nonblocking(true)
                    .context("cannot prepare the HTTP socket")?;
                return Ok(listener);
            }
            Err(source) => last = Some((address, source)),
        }
    }
    let (address, source) = last.expect("at least one address was tried");
    let hint = match source.kind() {
        std::io::ErrorKind::AddrInUse => ": another program uses it; name another with --http",
        std::io::ErrorKind::AddrNotAvailable => ": this device has no such address",
        _ => "",
    };
    Err(Failure::new(
        Exit::Failure,
        anyhow::Error::new(source).context(format!("cannot serve HTTP at {address}{hint}")),
    ))
}

/// Serves until `stop` resolves; answers under way then still end.
pub(crate) async fn serve(
    listener: TcpListener,
    node: Node,
    stop: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let address = listener
        .local_addr()
        .context("an HTTP socket has an address")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot serve HTTP")?;
    axum::serve(listener, router(node, address))
        .with_graceful_shutdown(stop)
        .await
        .context("the HTTP server failed")
}

fn router(node: Node, address: SocketAddr) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::chat_completions))
        .route("/v1/completions", post(chat::completions))
        .route("/v1/models", get(cluster::models))
        .route("/v1/models/{*name}", get(cluster::model))
        .route("/health", get(cluster::health))
        .route("/metrics", get(cluster::metrics))
        .route("/cairn/status", get(cluster::status))
        .route("/cairn/plan", get(cluster::plan))
        .route("/cairn/logs", get(cluster::logs))
        .fallback(error::not_found)
        .method_not_allowed_fallback(error::method_not_allowed)
        .layer(axum::middleware::from_fn_with_state(
            guard::Guard::of(address),
            guard::check,
        ))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(node)
}

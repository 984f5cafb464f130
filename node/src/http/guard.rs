//! Keeps web pages away from a node that serves on loopback.
//!
//! A page on any site can make a browser send requests to 127.0.0.1, and by DNS
//! rebinding even read the answers. Both show in the `Origin` and `Host` headers.
//! It is no access control for programs.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Only loopback names may be in the headers.
    Loopback,
    /// The user opened the node to the network: names are theirs to choose.
    Open,
}

impl Guard {
    /// What an HTTP interface at this address needs.
    pub(crate) fn of(address: SocketAddr) -> Self {
        match address.ip().is_loopback() {
            true => Self::Loopback,
            false => Self::Open,
        }
    }

    /// The first header that names a stranger.
    fn offence(self, headers: &HeaderMap) -> Option<HeaderName> {
        if self == Self::Open {
            return None;
        }
        [header::HOST, header::ORIGIN].into_iter().find(|name| {
            headers
                .get(name)
                .is_some_and(|value| !value.to_str().is_ok_and(is_loopback))
        })
    }
}

/// Refuses a request with a strange header.
pub(crate) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.offence(request.headers()) {
        Some(name) => ApiError::forbidden(&name).into_response(),
        None => next.run(request).await,
    }
}

/// Whether `http://localhost:1`, `127.0.0.1:1`, `[::1]` or the like is meant.
fn is_loopback(text: &str) -> bool {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_passes_on_loopback() {
        let table = [
            ("localhost", true),
            ("LOCALHOST:4747", true),
            ("127.0.0.1:4747", true),
            ("[::1]:4747", true),
            ("http://localhost:3000", true),
            ("https://evil.example", false),
            ("evil.example:4747", false),
            ("127.0.0.1.evil.example", false),
            ("null", false),
            ("", false),
        ];
        for (text, passes) in table {
            assert_eq!(is_loopback(text), passes, "{text}");
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, text.parse().unwrap());
            assert_eq!(
                Guard::Loopback.offence(&headers).is_none(),
                passes,
                "{text}"
            );
            assert_eq!(Guard::Open.offence(&headers), None, "{text}");
        }
    }
}

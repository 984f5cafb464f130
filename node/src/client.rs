//! The commands that ask a node over its HTTP interface.
//!
//! They know only the interface: what they can do, any program can.

pub(crate) mod answer;
pub(crate) mod ask;
pub(crate) mod chat;
pub(crate) mod logs;
pub(crate) mod plan;
pub(crate) mod status;

use std::io::{BufRead, BufReader};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::exit::{Exit, Failure};

/// A node on the same network answers a connection at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest error body that is read.
const ERROR_BYTES_MAX: u64 = 1 << 20;

/// A node's HTTP interface.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    base: String,
    agent: Agent,
}

impl Api {
    /// The interface at `host:port` or `http://host:port`.
    pub(crate) fn new(address: &str) -> Self {
        let address = address.trim().trim_end_matches('/');
        let base = match address.contains("://") {
            true => address.to_owned(),
            false => format!("http://{address}"),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            // Nodes are neighbours: a proxy for the Internet cannot reach them.
            .proxy(None)
            .build();
        Self {
            base,
            agent: config.into(),
        }
    }

    /// The JSON of a path.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let response = self.send(self.agent.get(self.url(path)).call())?;
        let mut body = checked(response)?.into_body();
        let value = body
            .read_json()
            .with_context(|| format!("{} does not answer as a Cairn node does", self.base))?;
        Ok(value)
    }

    /// The JSON of a path whatever the status.
    pub(crate) fn get_anyway(&self, path: &str) -> Result<Value, Failure> {
        let mut response = self.send(self.agent.get(self.url(path)).call())?;
        let value = response
            .body_mut()
            .read_json()
            .with_context(|| format!("{} does not answer as a Cairn node does", self.base))?;
        Ok(value)
    }

    /// The lines of a path, as they come.
    pub(crate) fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let response = self.send(self.agent.get(self.url(path)).call())?;
        Ok(Lines::of(checked(response)?))
    }

    /// The lines that answer a JSON body, as they come.
    pub(crate) fn post_lines(&self, path: &str, body: &impl Serialize) -> Result<Lines, Failure> {
        let response = self.send(self.agent.post(self.url(path)).send_json(body))?;
        Ok(Lines::of(checked(response)?))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn send(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Failure> {
        sent.map_err(|source| {
            let text = format!(
                "no node answers at {}: start one with `cairn up`, or name another with --http",
                self.base
            );
            Failure::new(Exit::Unreachable, anyhow::Error::new(source).context(text))
        })
    }
}

/// Lines of a response that may never end.
pub(crate) struct Lines {
    reader: Box<dyn BufRead + Send>,
}

impl Lines {
    fn of(response: Response<Body>) -> Self {
        // The default limit of 10 MiB would end a log that is followed for days.
        let reader = response
            .into_body()
            .into_with_config()
            .limit(u64::MAX)
            .reader();
        Self {
            reader: Box::new(BufReader::with_capacity(4096, reader)),
        }
    }

    /// Lines of any text, for tests.
    #[cfg(test)]
    pub(crate) fn of_text(text: &'static str) -> Self {
        Self {
            reader: Box::new(text.as_bytes()),
        }
    }
}

impl Iterator for Lines {
    type Item = std::io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => {
                line.truncate(line.trim_end_matches(['\r', '\n']).len());
                Some(Ok(line))
            }
            Err(source) => Some(Err(source)),
        }
    }
}

/// The response, if it is no error; else the error that its body tells.
fn checked(mut response: Response<Body>) -> Result<Response<Body>, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response
        .body_mut()
        .with_config()
        .limit(ERROR_BYTES_MAX)
        .read_to_string()
        .unwrap_or_default();
    let told = serde_json::from_str::<Value>(&body).unwrap_or_default();
    Err(refusal(status, &told))
}

/// The failure that an error in OpenAI's shape means.
pub(crate) fn refusal(status: StatusCode, body: &Value) -> Failure {
    let message = match body["error"]["message"].as_str() {
        Some(message) => message.to_owned(),
        None => format!("the node answers {status}"),
    };
    let exit = match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Exit::NotReady,
        status if status.is_client_error() => Exit::Refused,
        _ => Exit::Failure,
    };
    Failure::text(exit, message)
}

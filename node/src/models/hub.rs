//! Files of the Hugging Face Hub over HTTP, resumed where they were cut off.
//!
//! Trusts nothing: the caller checks the hash.

use std::fmt;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::cache::Sha;
use super::part::{Part, feed};
use super::trouble::Trouble;
use super::{Cancel, Tell};
use crate::home::parse_hex;

const ENDPOINT: &str = "https://huggingface.co";
/// Short, so that a device without a network turns to the next source at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(20);
/// A transfer that is silent for so long is dead; it is resumed on a new connection.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries in a row that bring not one byte.
const FRUITLESS_TRIES_MAX: u32 = 3;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubFile {
    /// `owner/name`.
    pub(crate) repository: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
    /// Path inside the repository.
    pub(crate) file: String,
}

/// A hub to ask.
#[derive(Debug)]
pub(crate) struct Hub {
    endpoint: String,
    token: Option<String>,
    offline: bool,
    agent: Agent,
}

impl HubFile {
    /// Reads `owner/name/file.gguf` or `owner/name/file.gguf@revision`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.rsplit_once('@').unwrap_or((text, "main"));
        let mut parts = path.splitn(3, '/');
        let (owner, name, file) = (parts.next()?, parts.next()?, parts.next()?);
        let clean = |part: &str| {
            !part.is_empty()
                && part != ".."
                && part
                    .chars()
                    .all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter))
        };
        let is_gguf = file.to_ascii_lowercase().ends_with(".gguf");
        let parts_clean = clean(owner) && clean(name) && file.split('/').all(clean);
        if !(is_gguf && parts_clean && revision.split('/').all(clean)) {
            return None;
        }
        Some(Self {
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            file: file.to_owned(),
        })
    }
}

impl fmt::Display for HubFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "hf:{}/{}", self.repository, self.file)?;
        match self.revision.as_str() {
            "main" => Ok(()),
            revision => write!(formatter, "@{revision}"),
        }
    }
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, with `HF_TOKEN`; not asked at all under `HF_HUB_OFFLINE=1`.
    pub(crate) fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let offline = text("HF_HUB_OFFLINE").is_some_and(|value| value != "0");
        Self::new(&endpoint, text("HF_TOKEN"), offline)
    }

    /// A hub at this address.
    pub(crate) fn new(endpoint: &str, token: Option<String>, offline: bool) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .user_agent(concat!("cairn/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            offline,
            agent: config.into(),
        }
    }

    /// What to call it in messages.
    pub(crate) fn source(&self) -> String {
        self.endpoint.clone()
    }

    /// Hash and size of a file, where the hub tells them.
    pub(crate) fn describe(&self, file: &HubFile) -> Result<Option<(Sha, u64)>, Trouble> {
        self.refuse_offline()?;
        let url = self.url(file);
        let mut request = self.agent.head(&url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        // The answer that redirects to the storage is the one that carries the hash.
        let request = request
            .config()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .build();
        let response = request
            .call()
            .map_err(|source| unreachable(&url, &source))?;
        let status = response.status();
        if !(status.is_success() || status.is_redirection()) {
            return Err(Trouble::Status {
                url,
                status: status.as_u16(),
            });
        }
        let text = |name: &str| response.headers().get(name)?.to_str().ok();
        let sha = text("x-linked-etag").and_then(|tag| parse_hex(tag.trim_matches('"')));
        let bytes = text("x-linked-size").and_then(|size| size.parse().ok());
        Ok(sha.zip(bytes).map(|(sha, bytes)| (Sha(sha), bytes)))
    }

    /// Adds what is missing of the file to `part`.
    ///
    /// `expected_bytes` is the size of the whole file, where it is known.
    pub(crate) fn download(
        &self,
        file: &HubFile,
        part: &mut Part,
        expected_bytes: Option<u64>,
        cancel: &Cancel,
        tell: Tell<'_>,
    ) -> Result<(), Trouble> {
        self.refuse_offline()?;
        let url = self.url(file);
        let mut fruitless = 0;
        loop {
            cancel.check()?;
            if expected_bytes == Some(part.bytes()) {
                return Ok(());
            }
            let before = part.bytes();
            match self.transfer(&url, part, expected_bytes, cancel, tell) {
                Ok(()) => return Ok(()),
                Err(trouble @ Trouble::Truncated { .. }) => {
                    // A server that ignores ranges starts over each time: no progress.
                    fruitless = match part.bytes() > before {
                        true => 0,
                        false => fruitless + 1,
                    };
                    if fruitless == FRUITLESS_TRIES_MAX {
                        return Err(trouble);
                    }
                    tracing::debug!(%trouble, "resuming");
                }
                Err(trouble) => return Err(trouble),
            }
        }
    }

    fn transfer(
        &self,
        url: &str,
        part: &mut Part,
        expected_bytes: Option<u64>,
        cancel: &Cancel,
        tell: Tell<'_>,
    ) -> Result<(), Trouble> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if part.bytes() > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", part.bytes()));
        }
        let response = request.call().map_err(|source| unreachable(url, &source))?;
        match response.status() {
            StatusCode::OK => part.restart()?,
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(part.bytes()) => {}
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                // What is here does not fit what is there.
                part.restart()?;
                return Err(truncated(url, part, expected_bytes));
            }
            status => {
                return Err(Trouble::Status {
                    url: url.to_owned(),
                    status: status.as_u16(),
                });
            }
        }
        let announced = length(&response).map(|length| part.bytes() + length);
        let total = expected_bytes.or(announced);
        let mut reader = response.into_body().into_reader();
        let mut trouble = None;
        let read = feed(&mut reader, |chunk| {
            let took = cancel.check().and_then(|()| {
                if total.is_some_and(|total| part.bytes() + chunk.len() as u64 > total) {
                    return Err(Trouble::Unreachable {
                        detail: format!(
                            "{url} sends more than the {} bytes of the file",
                            total.unwrap_or(0)
                        ),
                    });
                }
                part.append(chunk)
            });
            tell(part.bytes(), total.unwrap_or(0));
            took.map_err(|why| {
                trouble = Some(why);
                std::io::Error::other("stopped")
            })
        });
        match (trouble, read) {
            (Some(trouble), _) => Err(trouble),
            (None, Ok(_)) if total.is_none_or(|total| total == part.bytes()) => Ok(()),
            (None, Ok(_) | Err(_)) => Err(truncated(url, part, total)),
        }
    }

    fn refuse_offline(&self) -> Result<(), Trouble> {
        if self.offline {
            return Err(Trouble::Unreachable {
                detail: "not asked, because HF_HUB_OFFLINE is set".to_owned(),
            });
        }
        Ok(())
    }

    fn url(&self, file: &HubFile) -> String {
        format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint, file.repository, file.revision, file.file
        )
    }
}

fn truncated(url: &str, part: &Part, expected: Option<u64>) -> Trouble {
    Trouble::Truncated {
        url: url.to_owned(),
        received: part.bytes(),
        expected: expected.unwrap_or(0),
    }
}

fn unreachable(url: &str, source: &ureq::Error) -> Trouble {
    Trouble::Unreachable {
        detail: format!("{url}: {source}"),
    }
}

/// The first byte that a partial answer carries.
fn range_start(response: &Response<Body>) -> Option<u64> {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
    start.parse().ok()
}

fn length(response: &Response<Body>) -> Option<u64> {
    let length = response.headers().get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

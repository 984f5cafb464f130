//! A node's HTTP interface as any program would use it. Knows no command of `cairn`.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::Response;
use ureq::{Agent, Body};

/// A node that takes longer for a whole answer hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// One node's interface.
#[derive(Clone)]
pub(crate) struct Http {
    base: String,
    agent: Agent,
}

/// An answer in one piece.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u64>,
}

impl Http {
    pub(crate) fn new(base: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(3)))
            .timeout_global(Some(ANSWER_TIMEOUT))
            .proxy(None)
            .build();
        Self {
            base: base.to_owned(),
            agent: config.into(),
        }
    }

    /// Status and JSON of a path.
    pub(crate) fn get(&self, path: &str) -> Result<(u16, Value), String> {
        whole(self.agent.get(self.url(path)).call())
    }

    /// Status and JSON that answer these bytes.
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<(u16, Value), String> {
        let request = self.agent.post(self.url(path));
        whole(request.content_type("application/json").send(body))
    }

    /// Asks greedily and waits for the whole answer; an error is its body.
    pub(crate) fn ask(&self, prompt: &str, max_tokens: u32) -> Result<Answer, Value> {
        let body = question(prompt, max_tokens);
        let bytes = body.to_string().into_bytes();
        let (status, answer) = self
            .post("/v1/chat/completions", &bytes)
            .map_err(Value::String)?;
        if status != 200 {
            return Err(answer);
        }
        let choice = &answer["choices"][0];
        let tokens = choice["logprobs"]["content"].as_array();
        Ok(Answer {
            text: choice["message"]["content"]
                .as_str()
                .expect("an answer has a text")
                .to_owned(),
            tokens: tokens
                .expect("log-probabilities were asked for")
                .iter()
                .map(|token| token["token_id"].as_u64().expect("a token has an id"))
                .collect(),
        })
    }

    /// Asks greedily; the events of the answer as they come, `[DONE]` as a string.
    pub(crate) fn stream(&self, prompt: &str, max_tokens: u32) -> Result<Events, String> {
        let mut body = question(prompt, max_tokens);
        body["stream"] = true.into();
        let request = self.agent.post(self.url("/v1/chat/completions"));
        let response = request
            .send_json(&body)
            .map_err(|error| error.to_string())?;
        if response.status() != 200 {
            return Err(whole(Ok(response))?.1.to_string());
        }
        Ok(Events {
            lines: Box::new(BufReader::new(response.into_body().into_reader())),
        })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// A greedy question whose answer tells its tokens.
pub(crate) fn question(prompt: &str, max_tokens: u32) -> Value {
    json!({
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "logprobs": true,
    })
}

/// Server-sent events. Ends when the connection does.
pub(crate) struct Events {
    lines: Box<dyn BufRead + Send>,
}

impl Iterator for Events {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            // A connection that breaks off is an end like any other: the caller judges by the last event.
            if self.lines.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                let parsed = serde_json::from_str(data);
                return Some(parsed.unwrap_or_else(|_| Value::String(data.to_owned())));
            }
        }
    }
}

fn whole(sent: Result<Response<Body>, ureq::Error>) -> Result<(u16, Value), String> {
    let mut response = sent.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_string();
    let body = body.map_err(|error| error.to_string())?;
    let json = serde_json::from_str(&body).unwrap_or(Value::String(body));
    Ok((status, json))
}

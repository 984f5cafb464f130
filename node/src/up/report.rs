//! What `cairn up` tells on stdout: why it waits, when it is ready, with which split.

use std::net::SocketAddr;

use cairn_actors::{PlanView, State, Status};
use serde_json::{Value, json};

use crate::terminal::{self, Paint, Tone};

/// Tells each change once.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    http: String,
    join: String,
    join_told: bool,
    last: Option<Told>,
}

/// What was told last.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Ready { plan: String },
    Waiting { state: State, detail: String },
}

impl Report {
    /// Text for people, or JSON lines.
    pub(crate) fn new(json: bool, http: String, join: String) -> Self {
        Self {
            json,
            http,
            join,
            join_told: false,
            last: None,
        }
    }

    /// The node is there.
    pub(crate) fn started(
        &self,
        name: &str,
        cluster: &str,
        listening: &[SocketAddr],
    ) -> std::io::Result<()> {
        let event = json!({
            "event": "started",
            "node": name,
            "cluster": cluster,
            "http": self.http,
            "listen": listening,
        });
        let text = format!(
            "{} node {name} of cluster {cluster}; {}",
            Paint::stdout().tone(Tone::Dim, "started:"),
            self.http
        );
        self.tell(&event, &text)
    }

    /// Tells what changed since the last call.
    pub(crate) fn update(&mut self, status: &Status) -> std::io::Result<()> {
        let now = match (status.state, &status.plan) {
            (State::Ready, Some(plan)) => Told::Ready {
                plan: plan.id.clone(),
            },
            (State::Ready | State::Starting | State::Degraded, _) => Told::Waiting {
                state: status.state,
                detail: status.detail.clone(),
            },
        };
        if self.last.as_ref() == Some(&now) {
            return Ok(());
        }
        self.last = Some(now);
        match (status.state, &status.plan) {
            (State::Ready, Some(plan)) => self.ready(status, plan),
            (State::Degraded, _) => self.waiting("degraded", Tone::Bad, &status.detail),
            (State::Ready | State::Starting, _) => {
                self.waiting("starting", Tone::Warning, &status.detail)
            }
        }
    }

    /// The node says goodbye.
    pub(crate) fn leaving(&self) -> std::io::Result<()> {
        let text = Paint::stdout().tone(Tone::Dim, "leaving; Ctrl-C again to leave at once");
        self.tell(&json!({"event": "leaving"}), &text)
    }

    fn ready(&mut self, status: &Status, plan: &PlanView) -> std::io::Result<()> {
        let model = status.model.as_ref().map_or("", |model| &model.name);
        let event = json!({
            "event": "ready",
            "model": model,
            "plan": plan.id,
            "stages": plan.stages,
            "left_out": plan.left_out,
            "http": self.http,
            "join": self.join,
        });
        let mut text = format!(
            "{} model {model}, {}; {}",
            Paint::stdout().tone(Tone::Good, "ready:"),
            split(plan),
            self.http
        );
        for line in &plan.left_out {
            text.push_str("\n  ");
            text.push_str(&Paint::stdout().tone(Tone::Warning, line));
        }
        self.tell(&event, &text)?;
        if !self.join_told && !self.json {
            self.join_told = true;
            terminal::print_line(format!(
                "{} cairn up --join {}",
                Paint::stdout().tone(Tone::Dim, "next device:"),
                self.join
            ))?;
        }
        Ok(())
    }

    fn waiting(&self, word: &str, tone: Tone, detail: &str) -> std::io::Result<()> {
        let detail = match detail {
            "" => "waiting for a plan",
            detail => detail,
        };
        let text = format!(
            "{} {detail}",
            Paint::stdout().tone(tone, format!("{word}:"))
        );
        self.tell(&json!({"event": word, "detail": detail}), &text)
    }

    fn tell(&self, event: &Value, text: &str) -> std::io::Result<()> {
        match self.json {
            true => terminal::print_line(event),
            false => terminal::print_line(text),
        }
    }
}

/// `layers 0..10 on a, 10..20 on b, 20..30 on c`.
pub(crate) fn split(plan: &PlanView) -> String {
    let stages: Vec<String> = plan
        .stages
        .iter()
        .map(|stage| {
            let [first, end] = stage.layers;
            format!("{first}..{end} on {}", stage.node)
        })
        .collect();
    format!("layers {}", stages.join(", "))
}

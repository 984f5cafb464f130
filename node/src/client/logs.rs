//! `cairn logs`: the merged log of all nodes, in order.

use serde::Deserialize;

use super::Api;
use crate::cli::LogsArgs;
use crate::exit::{Exit, Failure};
use crate::observe;
use crate::terminal::{self, Paint};

/// A line as `/cairn/logs` sends it.
#[derive(Debug, Deserialize)]
pub(crate) struct Line {
    unix_micros: u64,
    node: String,
    level: String,
    target: String,
    text: String,
}

impl Line {
    /// Reads a line of the interface.
    pub(crate) fn parse(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// As people read it.
    pub(crate) fn render(&self, paint: Paint) -> String {
        observe::render(
            paint,
            self.unix_micros,
            Some(&self.node),
            &self.level,
            &self.target,
            &self.text,
        )
    }
}

/// Runs the command.
pub(crate) fn run(args: &LogsArgs) -> Result<(), Failure> {
    let api = Api::new(&args.node.http);
    let mut path = format!(
        "/cairn/logs?follow={}&level={}",
        args.follow,
        args.level.name()
    );
    if let Some(name) = &args.only_node {
        path.push_str("&node=");
        path.push_str(&escape(name));
    }
    let paint = Paint::stdout();
    for line in api.lines(&path)? {
        let line = line.map_err(|_| Failure::text(Exit::Unreachable, "the node went away"))?;
        match Line::parse(&line) {
            Some(parsed) if !args.json => terminal::print_line(parsed.render(paint))?,
            Some(_) | None => terminal::print_line(line)?,
        }
    }
    match args.follow {
        // A follower ends only with its node, and its user should hear of it.
        true => Err(Failure::text(Exit::Unreachable, "the node has left")),
        false => Ok(()),
    }
}

/// Percent-encodes what has a meaning in a query.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_query() {
        assert_eq!(escape("kitchen-1_a.b"), "kitchen-1_a.b");
        assert_eq!(escape("a b&c=ü"), "a%20b%26c%3D%C3%BC");
    }

    #[test]
    fn a_line_is_read_and_rendered() {
        let json =
            r#"{"unix_micros":0,"node":"a","id":"x","level":"WARN","target":"t::u","text":"hm"}"#;
        let line = Line::parse(json).unwrap().render(Paint::Plain);
        assert_eq!(line, "00:00:00.000 a          WARN  u: hm");
        assert!(Line::parse("{}").is_none());
    }
}

//! The node's own log lines, kept for followers anywhere in the cluster.

pub(crate) mod relay;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use cairn_wire::control::{LogLevel, LogLine};
use serde::Serialize;
use tokio::sync::watch;

/// The newest lines of this node's log, shared between its tracing layer and the log's followers.
///
/// Bounded: the oldest line goes when a new one finds it full.
#[derive(Clone, Debug)]
pub struct LogBook {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lines: Mutex<Lines>,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
struct Lines {
    kept: VecDeque<LogLine>,
    capacity: usize,
    next_number: u64,
}

/// Which lines a follower wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Go on with new lines, or stop after those that are kept.
    pub follow: bool,
    /// The least severe level to show.
    pub level: LogLevel,
    /// Only the node with this name or id.
    pub node: Option<String>,
}

/// A line with the node that wrote it.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterLine {
    /// Microseconds since 1970, by the writing node's clock.
    pub unix_micros: u64,
    /// The writing node's name.
    pub node: String,
    /// Its id, short.
    pub id: String,
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: &'static str,
    /// Module that spoke.
    pub target: String,
    /// The text with its fields.
    pub text: String,
}

impl LogBook {
    /// Keeps the newest `capacity` lines.
    pub fn new(capacity: usize) -> Self {
        let lines = Lines {
            kept: VecDeque::with_capacity(capacity),
            capacity,
            next_number: 1,
        };
        Self {
            shared: Arc::new(Shared {
                lines: Mutex::new(lines),
                newest: watch::Sender::new(0),
            }),
        }
    }

    /// Adds a line; called by the tracing layer on any thread.
    pub fn push(&self, unix_micros: u64, level: LogLevel, target: &str, text: String) {
        let mut lines = self.lock();
        let number = lines.next_number;
        lines.next_number += 1;
        if lines.kept.len() == lines.capacity {
            lines.kept.pop_front();
        }
        lines.kept.push_back(LogLine {
            number,
            unix_micros,
            level,
            target: target.to_owned(),
            text,
        });
        drop(lines);
        self.shared.newest.send_replace(number);
    }

    /// At most `limit` kept lines numbered above `after`, oldest first.
    pub fn after(&self, after: u64, limit: usize) -> Vec<LogLine> {
        let lines = self.lock();
        let start = lines.kept.partition_point(|line| line.number <= after);
        lines.kept.iter().skip(start).take(limit).cloned().collect()
    }

    /// Tells the number of the newest line whenever it changes.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.shared
            .lines
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

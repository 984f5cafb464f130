//! Log lines between nodes: sends this node's to followers, merges all nodes' for its own.
//!
//! Lines are ordered by their nodes' clocks within a short window; a node whose
//! clock is off shows up out of place, never lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cairn_wire::control::{Control, LogLevel, LogLine, LogsWanted};
use cairn_wire::id::NodeId;
use tokio::sync::{broadcast, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{ClusterLine, LogBook, LogQuery};
use crate::wiring::Wiring;

/// Lines per message.
const BATCH_LINES: usize = 64;
/// A follower asks again so often; a request lasts a little longer.
const RENEW: Duration = Duration::from_secs(2);
const REQUEST_MILLIS: u32 = 5_000;
/// How long a line waits for earlier lines of other nodes.
const HOLD: Duration = Duration::from_millis(250);
/// Pause between two batches to one follower: bounds what a chatty node sends.
const PACE: Duration = Duration::from_millis(50);
/// Without `follow`, how long the answers of the others are waited for.
const COLLECT: Duration = Duration::from_millis(600);
/// Messages from peers that a slow follower may lag behind.
const ARRIVALS: usize = 256;

/// The node's part in the cluster's log.
#[derive(Clone)]
pub(crate) struct Relay {
    wiring: Arc<Wiring>,
    book: LogBook,
    arrived: broadcast::Sender<(NodeId, Arc<Vec<LogLine>>)>,
    followers: Arc<Mutex<BTreeMap<NodeId, AbortHandle>>>,
}

impl Relay {
    pub(crate) fn new(wiring: Arc<Wiring>, book: LogBook) -> Self {
        Self {
            wiring,
            book,
            arrived: broadcast::Sender::new(ARRIVALS),
            followers: Arc::default(),
        }
    }

    /// Lines of a peer came, as this node had asked.
    pub(crate) fn arrived(&self, from: NodeId, lines: Vec<LogLine>) {
        // Nobody follows any more: the request runs out by itself.
        drop(self.arrived.send((from, Arc::new(lines))));
    }

    /// A peer wants this node's lines. A later request replaces an earlier one.
    pub(crate) fn wanted(&self, runtime: &tokio::runtime::Handle, to: NodeId, wanted: LogsWanted) {
        let (book, wiring) = (self.book.clone(), Arc::clone(&self.wiring));
        let millis = wanted.for_millis.min(REQUEST_MILLIS);
        let task = runtime.spawn(async move {
            let until = Instant::now() + Duration::from_millis(millis.into());
            let mut newest = book.newest();
            let mut after = wanted.after;
            loop {
                let lines = book.after(after, BATCH_LINES);
                if let Some(last) = lines.last() {
                    after = last.number;
                    wiring.send_control(to, &Control::Logs(lines));
                    tokio::time::sleep(PACE).await;
                } else if tokio::time::timeout_at(until, newest.changed())
                    .await
                    .is_err()
                {
                    return;
                }
                if Instant::now() >= until && millis > 0 {
                    return;
                }
            }
        });
        let mut followers = self
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = followers.insert(to, task.abort_handle()) {
            earlier.abort();
        }
    }

    /// The merged log. Ends when the receiver is dropped, or, without `follow`, after what is kept.
    pub(crate) fn follow(&self, query: LogQuery) -> mpsc::Receiver<ClusterLine> {
        let (lines, receiver) = mpsc::channel(BATCH_LINES);
        let follower = Follower {
            me: self.wiring.me,
            query,
            seen: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        let (relay, arrived) = (self.clone(), self.arrived.subscribe());
        tokio::spawn(async move {
            relay.run(follower, arrived, &lines).await;
        });
        receiver
    }

    async fn run(
        &self,
        mut follower: Follower,
        mut arrived: broadcast::Receiver<(NodeId, Arc<Vec<LogLine>>)>,
        lines: &mpsc::Sender<ClusterLine>,
    ) {
        let started = Instant::now();
        let mut newest = self.book.newest();
        let mut view = self.wiring.view.subscribe();
        let mut renew = tokio::time::interval(RENEW);
        let mut release = tokio::time::interval(HOLD / 2);
        loop {
            tokio::select! {
                _ = renew.tick() => self.ask(&follower),
                // A newcomer's lines would be out of order if they waited for the renewal.
                changed = view.changed() => match changed {
                    Ok(()) => self.ask(&follower),
                    Err(_) => return,
                },
                _ = release.tick() => {
                    let ending = !follower.query.follow && started.elapsed() > COLLECT;
                    let hold = if ending { Duration::ZERO } else { HOLD };
                    for (node, line) in follower.due(hold) {
                        let Some(line) = follower.show(node, self.wiring.name(node), line) else {
                            continue;
                        };
                        if lines.send(line).await.is_err() {
                            return;
                        }
                    }
                    if ending || lines.is_closed() {
                        return;
                    }
                }
                changed = newest.changed() => if changed.is_err() {
                    return;
                },
                message = arrived.recv() => match message {
                    Ok((from, batch)) => follower.take(from, &batch),
                    // The next renewal asks again for what was missed.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            }
            let me = self.wiring.me;
            let mine = self.book.after(follower.after(me), BATCH_LINES);
            follower.take(me, &mine);
        }
    }

    fn ask(&self, follower: &Follower) {
        let for_millis = if follower.query.follow {
            REQUEST_MILLIS
        } else {
            0
        };
        let nodes = self.wiring.view.borrow().nodes.clone();
        for to in nodes.into_iter().filter(|node| *node != self.wiring.me) {
            let after = follower.after(to);
            let wanted = LogsWanted { after, for_millis };
            self.wiring.send_control(to, &Control::LogsWanted(wanted));
        }
    }
}

/// One reader of the merged log.
struct Follower {
    me: NodeId,
    query: LogQuery,
    /// The newest line taken of each node.
    seen: BTreeMap<NodeId, u64>,
    /// Lines by time, until earlier ones have had time to come.
    held: BTreeMap<(u64, NodeId, u64), (Instant, LogLine)>,
}

impl Follower {
    fn after(&self, node: NodeId) -> u64 {
        self.seen.get(&node).copied().unwrap_or(0)
    }

    fn take(&mut self, from: NodeId, batch: &[LogLine]) {
        let now = Instant::now();
        for line in batch {
            let seen = self.seen.entry(from).or_default();
            // A node that restarted counts from 1 again.
            let restarted = line.number == 1 && *seen > 0 && from != self.me;
            if line.number > *seen || restarted {
                *seen = line.number;
                let key = (line.unix_micros, from, line.number);
                self.held.insert(key, (now, line.clone()));
            }
        }
    }

    fn due(&mut self, hold: Duration) -> Vec<(NodeId, LogLine)> {
        let mut due = Vec::new();
        while let Some(entry) = self.held.first_entry() {
            if entry.get().0.elapsed() < hold {
                break;
            }
            let ((_, node, _), (_, line)) = entry.remove_entry();
            due.push((node, line));
        }
        due
    }

    fn show(&self, node: NodeId, name: String, line: LogLine) -> Option<ClusterLine> {
        let id = node.to_string();
        let wanted = self.query.node.as_ref();
        if line.level < self.query.level || wanted.is_some_and(|want| *want != name && *want != id)
        {
            return None;
        }
        Some(ClusterLine {
            unix_micros: line.unix_micros,
            node: name,
            id,
            level: level_name(line.level),
            target: line.target,
            text: line.text,
        })
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Trace => "TRACE",
        LogLevel::Debug => "DEBUG",
        LogLevel::Info => "INFO",
        LogLevel::Warn => "WARN",
        LogLevel::Error => "ERROR",
    }
}

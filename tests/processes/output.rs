//! The lines that a process writes, kept and awaited. Interprets nothing but JSON.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Everything that a process has written so far, stdout and stderr in order of arrival.
#[derive(Clone, Default)]
pub(crate) struct Output {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Output {
    /// Keeps the lines of `pipe`, on a thread that ends with it.
    pub(crate) fn keep(&self, pipe: impl Read + Send + 'static) {
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                output.lock().push(line);
                output.shared.grown.notify_all();
            }
        });
    }

    /// The first line, early or yet to come, from which `find` makes something.
    ///
    /// Lines that are no JSON are offered as JSON strings.
    pub(crate) fn wait<T>(
        &self,
        timeout: Duration,
        find: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.lock();
        let mut seen = 0;
        loop {
            let found = lines[seen..].iter().find_map(|line| find(&parse(line)));
            if found.is_some() {
                return found;
            }
            seen = lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.shared.grown.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether some line so far has `part` in it.
    pub(crate) fn has(&self, part: &str) -> bool {
        self.lock().iter().any(|line| line.contains(part))
    }

    /// All lines so far.
    pub(crate) fn parsed(&self) -> Vec<Value> {
        self.lock().iter().map(|line| parse(line)).collect()
    }

    /// The last lines, for a failure's message.
    pub(crate) fn tail(&self, count: usize) -> String {
        let lines = self.lock();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        let lines = self.shared.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()))
}

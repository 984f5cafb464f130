//! Log lines: from `tracing` to stderr and to the book that followers read.
//!
//! One layer formats each event once for both. Prompts and answers are never
//! put into events; nothing here could filter them out.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use cairn_actors::{LogBook, LogLevel};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::terminal::{Paint, Tone};

/// Lines that a follower who connects later still sees.
const LINES_KEPT: usize = 4096;

/// How lines look on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// For people.
    Text(Paint),
    /// One JSON object each, as `cairn logs --json` has them.
    Json,
}

/// Sends events of at least this level to stderr and to the book that it returns.
///
/// Other people's crates are heard from `warn` on only.
pub(crate) fn start(level: crate::cli::Level, shape: Shape) -> LogBook {
    let book = LogBook::new(LINES_KEPT);
    let ours = match level.log_level() {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("cairn", ours);
    let layer = Lines {
        book: book.clone(),
        shape,
    };
    // A second subscriber in one process would be a programming error; the first goes on.
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .ok();
    book
}

/// The layer.
struct Lines {
    book: LogBook,
    shape: Shape,
}

/// The fields of a span, as text.
struct SpanText(String);

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            let text = format!("{}{{{}}}", span.name(), fields.others.trim_start());
            span.extensions_mut().insert(SpanText(text));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut text = String::new();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(SpanText(span)) = span.extensions().get() {
                text.push_str(span);
                text.push_str(": ");
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        text.push_str(&fields.message);
        text.push_str(&fields.others);
        let level = level_of(event.metadata());
        let target = event.metadata().target();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_micros = since.map_or(0, |since| {
            u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
        });
        let line = match self.shape {
            Shape::Text(paint) => {
                render(paint, unix_micros, None, level_name(level), target, &text)
            }
            Shape::Json => serde_json::json!({
                "unix_micros": unix_micros,
                "level": level_name(level),
                "target": target,
                "text": text,
            })
            .to_string(),
        };
        // A node whose stderr is closed goes on serving.
        writeln!(std::io::stderr(), "{line}").ok();
        self.book.push(unix_micros, level, target, text);
    }
}

/// One line for people: time of day (UTC), node, level, module, text.
pub(crate) fn render(
    paint: Paint,
    unix_micros: u64,
    node: Option<&str>,
    level: &str,
    target: &str,
    text: &str,
) -> String {
    let tone = match level {
        "ERROR" => Tone::Bad,
        "WARN" => Tone::Warning,
        "INFO" => Tone::Good,
        _ => Tone::Dim,
    };
    let node = node.map_or(String::new(), |name| {
        format!(
            "{} ",
            paint.tone(Tone::Hue(hue(name)), format!("{name:<10}"))
        )
    });
    let target = target.rsplit("::").next().unwrap_or(target);
    format!(
        "{} {node}{} {} {text}",
        paint.tone(Tone::Dim, clock(unix_micros)),
        paint.tone(tone, format!("{level:<5}")),
        paint.tone(Tone::Dim, format!("{target}:")),
    )
}

/// The same colour for the same name, on every machine.
///
/// The last characters count most, because names often differ there.
pub(crate) fn hue(name: &str) -> usize {
    name.bytes().fold(0usize, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(usize::from(byte))
    })
}

fn clock(unix_micros: u64) -> String {
    let milliseconds = unix_micros / 1000;
    let seconds = milliseconds / 1000;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        milliseconds % 1000
    )
}

fn level_of(metadata: &Metadata<'_>) -> LogLevel {
    match *metadata.level() {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        Level::DEBUG => LogLevel::Debug,
        Level::TRACE => LogLevel::Trace,
    }
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "ERROR",
        LogLevel::Warn => "WARN",
        LogLevel::Info => "INFO",
        LogLevel::Debug => "DEBUG",
        LogLevel::Trace => "TRACE",
    }
}

/// Takes an event's fields apart: the message, and ` key=value` for the others.
#[derive(Default)]
struct Fields {
    message: String,
    others: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing into a String cannot fail.
        match field.name() {
            "message" => write!(self.message, "{value:?}").ok(),
            name => write!(self.others, " {name}={value:?}").ok(),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            // Quoted only where it would be read wrongly otherwise.
            name if value.contains([' ', '"', '=']) => {
                write!(self.others, " {name}={value:?}").ok();
            }
            name => {
                write!(self.others, " {name}={value}").ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(act: impl FnOnce()) -> Vec<(LogLevel, String)> {
        let book = LogBook::new(16);
        let layer = Lines {
            book: book.clone(),
            shape: Shape::Text(Paint::Plain),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        book.after(0, 16)
            .into_iter()
            .map(|line| (line.level, line.text))
            .collect()
    }

    #[test]
    fn events_carry_their_fields_and_their_spans() {
        let lines = lines_of(|| {
            let span = tracing::error_span!("node", id = "ab12");
            let _inside = span.enter();
            tracing::info!(
                layers = 10,
                owner = "a",
                why = "the first",
                "adopted a {}",
                "plan"
            );
            tracing::warn!(name = %"x y", "display");
        });
        assert_eq!(
            lines,
            [
                (
                    LogLevel::Info,
                    "node{id=ab12}: adopted a plan layers=10 owner=a why=\"the first\"".to_owned()
                ),
                (LogLevel::Warn, "node{id=ab12}: display name=x y".to_owned()),
            ]
        );
    }

    #[test]
    fn a_line_for_people() {
        let micros = ((23 * 3600 + 59 * 60 + 58) * 1000 + 7) * 1000;
        let line = render(
            Paint::Plain,
            micros,
            Some("a"),
            "INFO",
            "cairn_actors::planner",
            "hi",
        );
        assert_eq!(line, "23:59:58.007 a          INFO  planner: hi");
        assert_ne!(hue("node-1") % 6, hue("node-2") % 6);
    }
}

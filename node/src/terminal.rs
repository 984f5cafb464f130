//! Colours, sizes, bars and tables on a terminal; plain text anywhere else.
//!
//! Knows nothing of nodes. Honours `NO_COLOR` and `CLICOLOR_FORCE`.

mod progress;
mod table;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};

pub(crate) use progress::Progress;
pub(crate) use table::Table;

/// Whether to write colours, decided once per stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Escape codes.
    Colours,
    /// None.
    Plain,
}

/// What a text is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Stands out.
    Strong,
    /// Steps back.
    Dim,
    /// All is well.
    Good,
    /// Look here.
    Warning,
    /// Act here.
    Bad,
    /// One of a few colours, picked by a number.
    Hue(usize),
}

/// Colours that read well on dark and on light grounds, far apart from each other.
const HUES: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Green,
    AnsiColor::Yellow,
    AnsiColor::Blue,
    AnsiColor::BrightRed,
];

impl Paint {
    /// For stdout.
    pub(crate) fn stdout() -> Self {
        Self::decide(std::io::stdout().is_terminal())
    }

    /// For stderr.
    pub(crate) fn stderr() -> Self {
        Self::decide(std::io::stderr().is_terminal())
    }

    fn decide(is_terminal: bool) -> Self {
        let set =
            |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if set("CLICOLOR_FORCE") || (is_terminal && !set("NO_COLOR") && !dumb) {
            Self::Colours
        } else {
            Self::Plain
        }
    }

    /// The text in the tone's colour.
    pub(crate) fn tone(self, tone: Tone, text: impl Display) -> String {
        let style = match tone {
            Tone::Strong => Style::new().bold(),
            Tone::Dim => Style::new().dimmed(),
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Hue(number) => HUES[number % HUES.len()].on_default(),
        };
        match self {
            Self::Colours => format!("{style}{text}{style:#}"),
            Self::Plain => text.to_string(),
        }
    }
}

/// Prints an error and its causes on stderr.
pub(crate) fn print_error(error: &anyhow::Error) {
    let paint = Paint::stderr();
    let mut text = format!("{} {error}\n", paint.tone(Tone::Bad, "error:"));
    for cause in error.chain().skip(1) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    // A closed stderr leaves nobody to tell.
    std::io::stderr().write_all(text.as_bytes()).ok();
}

/// Prints a line on stdout, at once.
pub(crate) fn print_line(text: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Prints on stdout without a line end, at once.
pub(crate) fn print_part(text: impl Display) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    out.flush()
}

/// Prints JSON on stdout, indented.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_line(serde_json::to_string_pretty(value)?)?;
    Ok(())
}

/// A size for people: `61.4 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// A time span for people: `3 s`, `4 min`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A bar of `width` cells with the cells of `from..to` (shares of 1) filled.
pub(crate) fn bar(from: f64, to: f64, width: usize) -> String {
    let cell = |share: f64| (share.clamp(0.0, 1.0) * width as f64).round() as usize;
    let (first, mut end) = (cell(from), cell(to));
    // Something that exists is never drawn as nothing.
    if to > from && end == first {
        end = (first + 1).min(width);
    }
    (0..width)
        .map(|index| {
            if (first..end).contains(&index) {
                '█'
            } else {
                '░'
            }
        })
        .collect()
}

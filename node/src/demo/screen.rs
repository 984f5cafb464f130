//! The answer and the log on one screen.
//!
//! On a terminal the answer grows line by line behind a bar, and log lines step
//! in between; elsewhere the answer goes to stdout and the log to stderr.

use std::io::{self, IsTerminal, Write};

use crate::client::logs::Line;
use crate::terminal::{self, Paint, Tone};

/// Where an answer's line is broken.
const ANSWER_COLUMNS: usize = 72;

/// Where things are shown.
#[derive(Debug)]
pub(crate) enum Screen {
    /// Both on one terminal.
    Together {
        /// The line of the answer that grows now.
        line: String,
        /// How to colour.
        paint: Paint,
    },
    /// The answer on stdout, the log on stderr.
    Apart,
    /// Only the log, on stderr: stdout is for the result.
    LogOnly,
}

impl Screen {
    /// The screen that fits where the output goes.
    pub(crate) fn new(json: bool) -> Self {
        if json {
            return Self::LogOnly;
        }
        match io::stdout().is_terminal() && io::stderr().is_terminal() {
            true => Self::Together {
                line: String::new(),
                paint: Paint::stdout(),
            },
            false => Self::Apart,
        }
    }

    /// Shows a line of the log.
    pub(crate) fn log(&mut self, log: &Line) -> io::Result<()> {
        match self {
            Self::Together { line, paint } => {
                let mut out = io::stdout().lock();
                if line.is_empty() {
                    writeln!(out, "{}", log.render(*paint))?;
                } else {
                    // The growing line is taken away and put back below.
                    write!(
                        out,
                        "\r\x1b[2K{}\n{}",
                        log.render(*paint),
                        answer_line(*paint, line)
                    )?;
                }
                out.flush()
            }
            Self::Apart | Self::LogOnly => {
                writeln!(io::stderr(), "{}", log.render(Paint::stderr()))
            }
        }
    }

    /// Shows a remark of the demo itself.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        let paint = Paint::stderr();
        writeln!(io::stderr(), "\n{}\n", paint.tone(Tone::Strong, text))
    }

    /// Shows more of the answer.
    pub(crate) fn text(&mut self, more: &str) -> io::Result<()> {
        match self {
            Self::Together { line, paint } => {
                let mut out = io::stdout().lock();
                for piece in more.split_inclusive('\n') {
                    line.push_str(piece.trim_end_matches('\n'));
                    if piece.ends_with('\n') {
                        writeln!(out, "\r\x1b[2K{}", answer_line(*paint, line))?;
                        line.clear();
                    }
                    while let Some((full, rest)) = wrap(line, ANSWER_COLUMNS) {
                        writeln!(out, "\r\x1b[2K{}", answer_line(*paint, &full))?;
                        *line = rest;
                    }
                }
                if !line.is_empty() {
                    write!(out, "\r\x1b[2K{}", answer_line(*paint, line))?;
                }
                out.flush()
            }
            Self::Apart => terminal::print_part(more),
            Self::LogOnly => Ok(()),
        }
    }

    /// The answer is whole.
    pub(crate) fn end_text(&mut self) -> io::Result<()> {
        match self {
            Self::Together { line, .. } => {
                line.clear();
                terminal::print_line("")
            }
            Self::Apart => terminal::print_line(""),
            Self::LogOnly => Ok(()),
        }
    }

    /// Shows the figures at the end.
    pub(crate) fn summary(&mut self, text: &str) -> io::Result<()> {
        writeln!(io::stderr(), "\n{text}")
    }
}

fn answer_line(paint: Paint, line: &str) -> String {
    format!(
        "{} {}",
        paint.tone(Tone::Good, "  ┃"),
        paint.tone(Tone::Strong, line)
    )
}

/// Breaks a line that is longer than `columns` at its last space before that.
fn wrap(line: &str, columns: usize) -> Option<(String, String)> {
    let (limit, _) = line.char_indices().nth(columns)?;
    let place = line[..limit].rfind(' ').filter(|&place| place > 0);
    match place {
        Some(place) => Some((line[..place].to_owned(), line[place + 1..].to_owned())),
        None => Some((line[..limit].to_owned(), line[limit..].to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_lose_nothing_else() {
        let table = [
            ("short", 10, None),
            ("exactly ten", 11, None),
            ("one two three", 8, Some(("one two", "three"))),
            ("ünbröken", 4, Some(("ünbr", "öken"))),
            (" abcdef", 4, Some((" abc", "def"))),
        ];
        for (line, columns, expected) in table {
            let expected = expected.map(|(full, rest)| (full.to_owned(), rest.to_owned()));
            assert_eq!(wrap(line, columns), expected, "{line:?}");
        }
    }
}

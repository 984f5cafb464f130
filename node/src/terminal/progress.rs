//! How far a download is: a bar on a terminal, a line per tenth elsewhere.
//!
//! Writes to stderr, so that stdout stays what a script asked for.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::size;

/// Shows one download.
#[derive(Debug)]
pub(crate) enum Progress {
    /// A moving bar.
    Bar(ProgressBar),
    /// Lines.
    Lines {
        /// What is downloaded.
        label: String,
        /// The tenth that was told last.
        told: Option<u64>,
    },
}

impl Progress {
    /// A display of `label` on stderr.
    pub(crate) fn new(label: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines {
                label: label.to_owned(),
                told: None,
            };
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        let style = style().expect("the template is checked by a test");
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏░"));
        bar.set_message(label.to_owned());
        Self::Bar(bar)
    }

    /// Shows that `done` of `total` bytes are there.
    pub(crate) fn set(&mut self, done: u64, total: u64) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            Self::Lines { label, told } => {
                let tenth = done.saturating_mul(10).checked_div(total).unwrap_or(0);
                if *told != Some(tenth) {
                    *told = Some(tenth);
                    let line = format!(
                        "{label}: {} of {} ({} %)",
                        size(done),
                        size(total),
                        tenth * 10
                    );
                    writeln!(std::io::stderr(), "{line}").ok();
                }
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines { .. } => {}
        }
    }
}

pub(super) fn style() -> Result<ProgressStyle, indicatif::style::TemplateError> {
    ProgressStyle::with_template(
        "{msg} {bar:32.cyan/dim} {binary_bytes:>10} of {binary_total_bytes} {binary_bytes_per_sec:>12} {eta:>4}",
    )
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

//! How a command ends: an exit code and one error with its causes.
//!
//! Scripts rely on the codes, so a number is never given a second meaning.

use std::process::ExitCode;

use crate::terminal;

/// The exit codes, as `cairn --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Anything without a code of its own.
    Failure = 1,
    /// The command line or the configuration is wrong; `clap` uses 2 as well.
    Usage = 2,
    /// A node answers, but its cluster cannot serve prompts now.
    NotReady = 3,
    /// No node answers at the address.
    Unreachable = 4,
    /// The model cannot be had or used.
    Model = 5,
    /// The node refused the request: bad prompt, unknown model, too long.
    Refused = 6,
    /// Ended by Ctrl-C or SIGTERM before it was done: 128 + SIGINT, as shells have it.
    Interrupted = 130,
}

/// Why a command ended without success.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: anyhow::Error,
}

impl Failure {
    /// A failure with its own code.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit,
            error: error.into(),
        }
    }

    /// A failure with its own code and a text.
    pub(crate) fn text(exit: Exit, text: impl Into<String>) -> Self {
        Self::new(exit, anyhow::Error::msg(text.into()))
    }

    /// The process was asked to stop.
    pub(crate) fn interrupted() -> Self {
        Self::text(Exit::Interrupted, "interrupted")
    }

    /// Prints one line and the causes, and gives the exit code.
    ///
    /// A reader that closed our output early (`cairn logs | head`) is a normal end.
    pub(crate) fn report(self) -> ExitCode {
        if is_broken_pipe(&self.error) {
            return ExitCode::SUCCESS;
        }
        terminal::print_error(&self.error);
        ExitCode::from(self.exit as u8)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failure, error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failure, error)
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|source| source.kind() == std::io::ErrorKind::BrokenPipe)
}

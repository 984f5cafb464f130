//! `cairn chat`: a conversation; the node sees all of it with each question.
//!
//! The conversation is kept in memory only and gone at the end.

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::Value;

use super::Api;
use super::answer::{self, Ending, Piece};
use super::ask::speed;
use crate::cli::ChatArgs;
use crate::exit::{Exit, Failure};
use crate::signals::{Second, Signals};
use crate::terminal::{self, Paint, Tone};

/// How soon Ctrl-C stops an answer that brings no token.
const LOOK: Duration = Duration::from_millis(50);
/// Pieces between the reading thread and the screen.
const PIECES_MAX: usize = 64;

const HELP: &str = "\
  /reset   forget the conversation
  /help    this
  /exit    end (or Ctrl-D)
  Ctrl-C   stop the answer";

/// Runs the command.
pub(crate) fn run(args: &ChatArgs) -> Result<(), Failure> {
    let api = Api::new(&args.node.http);
    let health = api.get_anyway("/health")?;
    let paint = Paint::stdout();
    let model = health["model"].as_str().unwrap_or("no model yet");
    let nodes = health["stages"].as_u64().unwrap_or(0);
    let greeting = format!("{model} on {nodes} node(s); /help for help, /exit to end");
    terminal::print_line(paint.tone(Tone::Dim, greeting))?;
    let signals = Signals::catch(Second::Waits)?;
    let mut editor = DefaultEditor::new().context("cannot use the terminal")?;
    let beginning: Vec<Value> = args
        .sampling
        .system
        .iter()
        .map(|system| answer::message("system", system))
        .collect();
    let mut messages = beginning.clone();
    loop {
        let line = match editor.readline(&paint.tone(Tone::Strong, "> ")) {
            Ok(line) => line,
            // Ctrl-C at the prompt clears the line, as a shell does.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => {
                let error = anyhow::Error::new(error).context("cannot read from the terminal");
                return Err(error.into());
            }
        };
        let line = line.trim();
        match line {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/help" => terminal::print_line(HELP)?,
            "/reset" => {
                messages.clone_from(&beginning);
                terminal::print_line(paint.tone(Tone::Dim, "forgotten"))?;
            }
            unknown if unknown.starts_with('/') => {
                terminal::print_line(format!("there is no {unknown}; /help lists what there is"))?;
            }
            question => {
                // A history that cannot grow is no reason to end a conversation.
                editor.add_history_entry(question).ok();
                messages.push(answer::message("user", question));
                signals.take();
                match answer_one(&api, args, &messages, &signals) {
                    Ok(text) => messages.push(answer::message("assistant", &text)),
                    Err(failure) => {
                        messages.pop();
                        // In a script the first failure ends; a person may try again.
                        if !std::io::stdin().is_terminal() {
                            return Err(failure);
                        }
                        failure.report();
                    }
                }
            }
        }
    }
}

/// Prints one answer and gives its text, also when Ctrl-C stopped it.
fn answer_one(
    api: &Api,
    args: &ChatArgs,
    messages: &[Value],
    signals: &Signals,
) -> Result<String, Failure> {
    let body = answer::body(messages, &args.sampling);
    // A thread reads, so that Ctrl-C works while the node is silent. When this
    // side is dropped, the thread's next piece fails and it hangs up.
    let (sender, pieces) = mpsc::sync_channel(PIECES_MAX);
    let reader_api = api.clone();
    std::thread::spawn(move || {
        let send_all = || -> Result<(), Failure> {
            for piece in answer::ask(&reader_api, &body)? {
                if sender.send(piece).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        };
        if let Err(failure) = send_all() {
            sender.send(Err(failure)).ok();
        }
    });
    let mut text = String::new();
    let mut token_count = 0;
    let mut ending = Ending::default();
    let paint = Paint::stdout();
    loop {
        if signals.take() {
            terminal::print_line(paint.tone(Tone::Dim, " [stopped]"))?;
            return Ok(text);
        }
        match pieces.recv_timeout(LOOK) {
            Ok(Ok(Piece::Text { text: more, token })) => {
                token_count += usize::from(token.is_some());
                terminal::print_part(&more)?;
                text.push_str(&more);
            }
            Ok(Ok(Piece::End(end))) => ending = end,
            Ok(Err(failure)) => {
                terminal::print_line("")?;
                return Err(failure);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if ending.finish_reason.is_empty() {
        return Err(Failure::text(Exit::Failure, "the answer has no end"));
    }
    terminal::print_line("")?;
    if std::io::stdout().is_terminal() {
        terminal::print_line(paint.tone(Tone::Dim, speed(token_count, &ending)))?;
    }
    Ok(text)
}

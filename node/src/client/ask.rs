//! `cairn ask`: one prompt, the answer as it is made.

use std::io::{IsTerminal, Read, Write};

use anyhow::Context;
use serde_json::json;

use super::Api;
use super::answer::{self, Ending, Piece};
use crate::cli::AskArgs;
use crate::exit::{Exit, Failure};
use crate::terminal::{self, Paint, Tone};

/// Runs the command.
pub(crate) fn run(args: &AskArgs) -> Result<(), Failure> {
    let prompt = prompt(args)?;
    let mut messages = Vec::new();
    if let Some(system) = &args.sampling.system {
        messages.push(answer::message("system", system));
    }
    messages.push(answer::message("user", &prompt));
    let api = Api::new(&args.node.http);
    let mut text = String::new();
    let mut tokens = Vec::new();
    let mut ending = Ending::default();
    for piece in answer::ask(&api, &answer::body(&messages, &args.sampling))? {
        match piece? {
            Piece::Text { text: more, token } => {
                tokens.extend(token);
                if !args.json {
                    terminal::print_part(&more)?;
                }
                text.push_str(&more);
            }
            Piece::End(end) => ending = end,
        }
    }
    if args.json {
        return Ok(terminal::print_json(&json!({
            "answer": text,
            "tokens": tokens,
            "finish_reason": ending.finish_reason,
            "ttft_ms": ending.ttft_ms,
            "tokens_per_second": ending.tokens_per_second,
        }))?);
    }
    terminal::print_line("")?;
    if std::io::stderr().is_terminal() {
        let told = speed(tokens.len(), &ending);
        // A closed stderr leaves nobody to tell.
        writeln!(
            std::io::stderr(),
            "{}",
            Paint::stderr().tone(Tone::Dim, told)
        )
        .ok();
    }
    Ok(())
}

/// `24 tokens, first after 31 ms, 80.2 tokens/s`.
pub(crate) fn speed(token_count: usize, ending: &Ending) -> String {
    let cut = match ending.finish_reason.as_str() {
        "length" => ", cut at the length limit",
        _ => "",
    };
    format!(
        "{token_count} tokens, first after {:.0} ms, {:.1} tokens/s{cut}",
        ending.ttft_ms, ending.tokens_per_second
    )
}

fn prompt(args: &AskArgs) -> Result<String, Failure> {
    let text = match args.prompt.as_slice() {
        [dash] if dash == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read the prompt from stdin")?;
            text
        }
        words => words.join(" "),
    };
    match text.trim().is_empty() {
        true => Err(Failure::text(Exit::Usage, "the prompt is empty")),
        false => Ok(text),
    }
}

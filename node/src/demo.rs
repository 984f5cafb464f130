//! `cairn demo`: a whole cluster on this machine, one prompt, the merged log.
//!
//! The nodes are real `cairn up` processes. Whatever ends the demo, they end too.

mod cluster;
mod screen;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use anyhow::Context;
use cairn_actors::{PlanView, Status};
use serde_json::{Value, json};

use crate::cli::{DemoArgs, SamplingArgs};
use crate::client::Api;
use crate::client::answer::{self, Ending, Piece};
use crate::client::logs::Line;
use crate::client::plan::stages;
use crate::config::parse_strategy;
use crate::exit::{Exit, Failure};
use crate::home::Home;
use crate::models::{Cancel, command};
use crate::signals::{Second, Signals};
use crate::terminal::{self, Paint, Tone};

use cluster::Cluster;
use screen::Screen;

/// A cluster that is not ready by then will not be.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How often children, signals and health are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Other nodes' log lines arrive within this after what they tell of.
const LAST_LINES: Duration = Duration::from_millis(500);
/// How long a log that never pauses may hold up the question.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Log lines and pieces between their threads and the screen.
const EVENTS_MAX: usize = 256;

/// What the demo's threads bring.
enum Event {
    Log(Line),
    Piece(Result<Piece, Failure>),
}

/// An answer, whole.
#[derive(Default)]
struct Answered {
    text: String,
    tokens: Vec<u64>,
    ending: Ending,
}

/// Runs the command.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    parse_strategy(&args.strategy).map_err(|fault| Failure::text(Exit::Usage, fault))?;
    if args.prompt.trim().is_empty() {
        return Err(Failure::text(Exit::Usage, "the prompt is empty"));
    }
    let signals = Signals::catch(Second::Exits)?;
    let home = Home::of_user()?;
    command::pull_until(&home, &args.model, &signals, &Cancel::default())?;
    let mut cluster = Cluster::start(args)?;
    let shown = show(args, &mut cluster, &signals);
    cluster.stop();
    shown
}

fn show(args: &DemoArgs, cluster: &mut Cluster, signals: &Signals) -> Result<(), Failure> {
    let mut screen = Screen::new(args.json);
    let begun = Instant::now();
    let api = Api::new(&cluster.http(signals, begun + READY_TIMEOUT)?);
    let (sender, events) = mpsc::sync_channel(EVENTS_MAX);
    follow_logs(api.clone(), sender.clone());
    wait_ready(args, cluster, &api, &events, &mut screen, signals)?;
    let ready_seconds = begun.elapsed().as_secs_f64();
    show_last_lines(&events, &mut screen)?;
    screen.note(&format!(
        "{} nodes ready after {ready_seconds:.1} s; asking {}: {}",
        args.nodes,
        cluster.first_name(),
        args.prompt
    ))?;
    ask(args, api.clone(), sender);
    let answered = answer(cluster, &events, &mut screen, signals)?;
    let status: Status = api.get("/cairn/status")?;
    let plan = status.plan.context("the plan was lost after the answer")?;
    if args.json {
        terminal::print_line(result(&answered, &plan))?;
        return Ok(());
    }
    screen.summary(&summary(&answered, &plan, Paint::stderr()))?;
    Ok(())
}

/// Shows the log until every node has its layers and the cluster is ready.
fn wait_ready(
    args: &DemoArgs,
    cluster: &mut Cluster,
    api: &Api,
    events: &Receiver<Event>,
    screen: &mut Screen,
    signals: &Signals,
) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut detail = String::new();
    while Instant::now() < deadline {
        if let Ok(Event::Log(line)) = events.recv_timeout(LOOK) {
            screen.log(&line)?;
            continue;
        }
        cluster.check(signals)?;
        let health = api.get_anyway("/health")?;
        detail = health["detail"].as_str().unwrap_or_default().to_owned();
        let stage_count = health["stages"].as_u64().unwrap_or(0);
        let node_count = health["nodes"].as_u64().unwrap_or(0);
        // A first plan may hold before the last node came; an optimal one may leave nodes out.
        let whole = match args.strategy.as_str() {
            "uniform" => stage_count == u64::from(args.nodes),
            _ => node_count == u64::from(args.nodes),
        };
        if health["status"] == "ready" && whole {
            return Ok(());
        }
    }
    Err(Failure::text(
        Exit::NotReady,
        format!(
            "the cluster was not ready after {} s: {detail}",
            READY_TIMEOUT.as_secs()
        ),
    ))
}

/// Lets the log of the others catch up, so that it does not tell of the start beside the answer.
fn show_last_lines(events: &Receiver<Event>, screen: &mut Screen) -> Result<(), Failure> {
    let deadline = Instant::now() + CATCH_UP;
    while Instant::now() < deadline {
        match events.recv_timeout(LAST_LINES) {
            Ok(Event::Log(line)) => screen.log(&line)?,
            // Nothing is asked yet, so there are no pieces.
            Ok(Event::Piece(_)) | Err(_) => break,
        }
    }
    Ok(())
}

/// Shows the answer and the log until both are done.
fn answer(
    cluster: &mut Cluster,
    events: &Receiver<Event>,
    screen: &mut Screen,
    signals: &Signals,
) -> Result<Answered, Failure> {
    let mut answered = Answered::default();
    let mut ended = false;
    loop {
        // Each time, as a fast answer never leaves a pause to look in.
        cluster.check(signals)?;
        match events.recv_timeout(if ended { LAST_LINES } else { LOOK }) {
            Ok(Event::Log(line)) => screen.log(&line)?,
            Ok(Event::Piece(piece)) => match piece? {
                Piece::Text { text, token } => {
                    screen.text(&text)?;
                    answered.text.push_str(&text);
                    answered.tokens.extend(token);
                }
                Piece::End(ending) => {
                    screen.end_text()?;
                    answered.ending = ending;
                    ended = true;
                }
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) if ended => {
                return Ok(answered);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::text(Exit::Failure, "the first node went away"));
            }
        }
    }
}

fn follow_logs(api: Api, events: SyncSender<Event>) {
    std::thread::spawn(move || {
        // A log that cannot be followed is missing on the screen; the answer counts.
        let Ok(lines) = api.lines("/cairn/logs?follow=true&level=info") else {
            return;
        };
        for line in lines.map_while(Result::ok) {
            let Some(line) = Line::parse(&line) else {
                continue;
            };
            if events.send(Event::Log(line)).is_err() {
                return;
            }
        }
    });
}

fn ask(args: &DemoArgs, api: Api, events: SyncSender<Event>) {
    let sampling = SamplingArgs {
        max_tokens: Some(args.max_tokens),
        temperature: Some(args.temperature),
        top_k: None,
        top_p: None,
        min_p: None,
        repetition_penalty: None,
        seed: None,
        stop: Vec::new(),
        system: None,
    };
    let body = answer::body(&[answer::message("user", &args.prompt)], &sampling);
    std::thread::spawn(move || match answer::ask(&api, &body) {
        Ok(pieces) => {
            for piece in pieces {
                if events.send(Event::Piece(piece)).is_err() {
                    return;
                }
            }
        }
        Err(failure) => {
            // A demo that ended already has nobody to tell.
            events.send(Event::Piece(Err(failure))).ok();
        }
    });
}

fn summary(answered: &Answered, plan: &PlanView, paint: Paint) -> String {
    let ending = &answered.ending;
    format!(
        "{}\n\n  {}  first token after {} ms, {} tokens/s, {} tokens",
        stages(&plan.stages, paint),
        paint.tone(Tone::Good, "answered"),
        paint.tone(Tone::Strong, format!("{:.0}", ending.ttft_ms)),
        paint.tone(Tone::Strong, format!("{:.1}", ending.tokens_per_second)),
        answered.tokens.len(),
    )
}

fn result(answered: &Answered, plan: &PlanView) -> Value {
    let stages: Vec<Value> = plan
        .stages
        .iter()
        .map(|stage| {
            json!({
                "node": stage.node,
                "layers": stage.layers,
                "memory_bytes": stage.memory_bytes,
            })
        })
        .collect();
    json!({
        "answer": answered.text,
        "tokens": answered.tokens,
        "ttft_ms": answered.ending.ttft_ms,
        "tokens_per_second": answered.ending.tokens_per_second,
        "stages": stages,
    })
}

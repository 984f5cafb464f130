//! What a well-formed header may say. Decode, then validate, then trust.
//!
//! Only what can be judged from the frame alone: whether a plan is current or a
//! sequence known is the machines' business. Hidden rows are not scanned for
//! NaN: a broken engine fails one sequence, it does not cost a neighbour its link.

use crate::control::{
    Abandon, Capability, Control, Explain, Heartbeat, LoadFailed, LogLine, ModelRef, NodeStatus,
    PeerAddress, Ping, Plan, Standby,
};
use crate::data::{ArchivedRows, Credit, Failed, Open, Sampled, Sampling};
use crate::limits::*;
use crate::violation::Violation;

/// Shape, spans and token ids agree with each other and with the payload.
pub(crate) fn rows(rows: &ArchivedRows, payload_bytes: usize) -> Result<(), Violation> {
    let tokens = rows.tokens.len();
    at_most("rows", tokens, ROWS_MAX)?;
    at_most("spans", rows.spans.len(), SPANS_MAX)?;
    some("the span list", rows.spans.len())?;
    let mut span_rows = 0_u64;
    for span in rows.spans.iter() {
        let (first, count) = (span.position.to_native(), span.rows.to_native());
        some("a span", count as usize)?;
        if first.checked_add(count).is_none() {
            return Err(Violation::Range { what: "a position" });
        }
        span_rows += u64::from(count);
    }
    if span_rows != tokens as u64 {
        return Err(Violation::SpanRows {
            span_rows,
            tokens: tokens as u64,
        });
    }
    let width = rows.width.to_native();
    let expected = (tokens as u64)
        .checked_mul(u64::from(width))
        .and_then(|elements| elements.checked_mul(rows.dtype.size_bytes() as u64));
    if width > WIDTH_MAX || expected != Some(payload_bytes as u64) {
        return Err(Violation::Shape {
            rows: tokens as u64,
            width,
            payload_bytes: payload_bytes as u64,
        });
    }
    Ok(())
}

pub(crate) fn open(open: &Open) -> Result<(), Violation> {
    some("the sequence's room", open.rows_max as usize)?;
    if let Some(prefix) = &open.prefix {
        some("the prefix", prefix.rows as usize)?;
        if prefix.rows >= open.rows_max {
            return Err(Violation::Range { what: "the prefix" });
        }
    }
    at_most("end tokens", open.end_tokens.len(), END_TOKENS_MAX)?;
    sampling(&open.sampling)
}

fn sampling(sampling: &Sampling) -> Result<(), Violation> {
    in_range("temperature", sampling.temperature, 0.0, 1e6)?;
    in_range("top_p", sampling.top_p, 0.0, 1.0)?;
    in_range("min_p", sampling.min_p, 0.0, 1.0)?;
    // Zero would divide by it.
    in_range("repetition_penalty", sampling.repetition_penalty, 1e-6, 1e6)
}

pub(crate) fn sampled(sampled: &Sampled) -> Result<(), Violation> {
    some("the token list", sampled.tokens.len())?;
    at_most("sampled tokens", sampled.tokens.len(), SAMPLED_MAX)?;
    sampled
        .tokens
        .iter()
        .try_for_each(|token| in_range("logprob", token.logprob, f32::MIN, f32::MAX))
}

pub(crate) fn failed(failed: &Failed) -> Result<(), Violation> {
    text("a failure's detail", &failed.detail, TEXT_BYTES_MAX)
}

pub(crate) fn credit(credit: Credit) -> Result<(), Violation> {
    some("the grant", credit.frames as usize)?;
    if credit.frames > CREDIT_WINDOW_FRAMES {
        return Err(Violation::Overgranted {
            frames: credit.frames,
        });
    }
    Ok(())
}

pub(crate) fn control(control: &Control) -> Result<(), Violation> {
    match control {
        Control::Heartbeat(Heartbeat { hears, .. }) => {
            at_most("peers heard", hears.len(), NODES_MAX)
        }
        Control::Peers(peers) => {
            at_most("peers", peers.len(), NODES_MAX)?;
            peers.iter().try_for_each(peer)
        }
        Control::Capability(capability) => self::capability(capability),
        Control::Propose(plan) => self::plan(plan),
        Control::LoadFailed(LoadFailed { detail, .. })
        | Control::Abandon(Abandon { detail, .. }) => text("a detail", detail, TEXT_BYTES_MAX),
        Control::Logs(lines) => {
            at_most("log lines", lines.len(), LOG_LINES_MAX)?;
            lines.iter().try_for_each(line)
        }
        Control::Status(status) => self::status(status),
        Control::Ping(Ping { filler, .. }) => {
            at_most("bytes of filler", filler.len(), PING_BYTES_MAX)
        }
        // Numbers only, and any number is a legal one.
        Control::Loaded(_)
        | Control::Adopt(_)
        | Control::LogsWanted(_)
        | Control::Pong(_)
        | Control::Leave => Ok(()),
    }
}

fn status(status: &NodeStatus) -> Result<(), Violation> {
    at_most("links", status.links.len(), SEEN_MAX)?;
    let standing = status.standing.iter().flat_map(|standing| &standing.layers);
    let mut next = 0;
    for (count, range) in standing.enumerate() {
        at_most("ranges", count + 1, STANDING_MAX)?;
        if range.first < next || range.end <= range.first {
            return Err(Violation::Cover);
        }
        next = range.end;
    }
    at_most("layers", next as usize, LAYERS_MAX as usize)
}

fn peer(peer: &PeerAddress) -> Result<(), Violation> {
    at_most("addresses", peer.addresses.len(), ADDRESSES_MAX)?;
    peer.addresses
        .iter()
        .try_for_each(|address| text("an address", address, ADDRESS_BYTES_MAX))
}

fn capability(capability: &Capability) -> Result<(), Violation> {
    text("a node's name", &capability.name, NAME_BYTES_MAX)?;
    text("a version", &capability.version, NAME_BYTES_MAX)?;
    // Planners add times up over layers.
    if capability.layer_nanos > MEASURED_NANOS_MAX {
        return Err(Violation::Range {
            what: "a measured time",
        });
    }
    if !(1..=1000).contains(&capability.share_permille) {
        return Err(Violation::Range {
            what: "a share of time",
        });
    }
    if !(1..=1000).contains(&capability.kv_permille) {
        return Err(Violation::Range {
            what: "a share of keys and values",
        });
    }
    let wish = capability.wish.as_deref().unwrap_or_default();
    text("a model's name", wish, NAME_BYTES_MAX)?;
    let accelerator = capability.accelerator.as_deref().unwrap_or_default();
    text("a GPU's name", accelerator, NAME_BYTES_MAX)
}

fn plan(plan: &Plan) -> Result<(), Violation> {
    model(&plan.model)?;
    explain(&plan.explain)?;
    some("the context", plan.context as usize)?;
    some("the batch", plan.sequences as usize)?;
    at_most("stages", plan.stages.len(), STAGES_MAX)?;
    let mut next = 0;
    for stage in &plan.stages {
        at_most("standbys", stage.standbys.len(), STANDBYS_MAX)?;
        if stage.first != next || stage.end <= stage.first {
            return Err(Violation::Cover);
        }
        for Standby { node, layers } in &stage.standbys {
            let inside = stage.first <= layers.first && layers.end <= stage.end;
            if !inside || layers.end <= layers.first || *node == stage.node {
                return Err(Violation::Cover);
            }
        }
        next = stage.end;
    }
    if next != plan.model.layers {
        return Err(Violation::Cover);
    }
    Ok(())
}

fn model(model: &ModelRef) -> Result<(), Violation> {
    text("a model's name", &model.name, NAME_BYTES_MAX)?;
    some("the model", model.layers as usize)?;
    at_most("layers", model.layers as usize, LAYERS_MAX as usize)
}

fn explain(explain: &Explain) -> Result<(), Violation> {
    text("a strategy's name", &explain.strategy, NAME_BYTES_MAX)?;
    at_most("reasons", explain.reasons.len(), NODES_MAX)?;
    at_most("stage forecasts", explain.stages.len(), STAGES_MAX)?;
    at_most("losses", explain.survives.len(), STAGES_MAX)?;
    at_most("drifts", explain.drifts.len(), SEEN_MAX)?;
    explain
        .reasons
        .iter()
        .try_for_each(|reason| text("a reason", &reason.text, TEXT_BYTES_MAX))
}

fn line(line: &LogLine) -> Result<(), Violation> {
    text("a log line's module", &line.target, NAME_BYTES_MAX)?;
    text("a log line", &line.text, LOG_TEXT_BYTES_MAX)
}

fn some(what: &'static str, count: usize) -> Result<(), Violation> {
    if count == 0 {
        return Err(Violation::Empty { what });
    }
    Ok(())
}

fn at_most(what: &'static str, count: usize, count_max: usize) -> Result<(), Violation> {
    if count > count_max {
        return Err(Violation::TooMany {
            what,
            count: count as u64,
            count_max: count_max as u64,
        });
    }
    Ok(())
}

fn text(what: &'static str, text: &str, bytes_max: usize) -> Result<(), Violation> {
    if text.len() > bytes_max {
        return Err(Violation::TooLong {
            what,
            bytes: text.len() as u64,
            bytes_max: bytes_max as u64,
        });
    }
    Ok(())
}

/// NaN is in no range.
fn in_range(what: &'static str, number: f32, least: f32, most: f32) -> Result<(), Violation> {
    if (least..=most).contains(&number) {
        return Ok(());
    }
    Err(Violation::Range { what })
}

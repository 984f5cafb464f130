//! `cairn status`: who is in, who leads, what is served.

use std::time::Duration;

use cairn_actors::{NodeView, StageView, State, Status};

use super::Api;
use crate::cli::ViewArgs;
use crate::exit::Failure;
use crate::observe::hue;
use crate::plan_view::millis;
use crate::terminal::{self, Paint, Table, Tone, size};

/// Cells of the bar that shows a node's layers.
const BAR_CELLS: usize = 24;

/// Runs the command.
pub(crate) fn run(args: &ViewArgs) -> Result<(), Failure> {
    let api = Api::new(&args.node.http);
    if args.json {
        // As it came, so that fields of a newer node are not lost.
        return Ok(terminal::print_json(
            &api.get::<serde_json::Value>("/cairn/status")?,
        )?);
    }
    let status: Status = api.get("/cairn/status")?;
    terminal::print_line(render(&status, Paint::stdout()))?;
    Ok(())
}

/// The whole page.
pub(crate) fn render(status: &Status, paint: Paint) -> String {
    let mut lines = vec![headline(status, paint)];
    if let Some(model) = &status.model {
        lines.push(format!(
            "  model {}  {} layers, {}, context {}",
            paint.tone(Tone::Strong, &model.name),
            model.layers,
            size(model.file_bytes),
            model.context
        ));
    }
    if let Some(plan) = &status.plan {
        let measured = plan.measured.as_ref().map_or(String::new(), |measured| {
            format!(
                ", measured {:.1} tokens/s, first after {:.0} ms",
                measured.tokens_per_second, measured.ttft_ms
            )
        });
        lines.push(format!(
            "  plan  {}  {}, forecast {:.1} tokens/s{measured}",
            plan.id, plan.strategy, plan.forecast.tokens_per_second
        ));
    }
    lines.push(format!(
        "  asked here: {} running, {} waiting",
        status.requests_running, status.requests_waiting
    ));
    // Every stage counts the same sequences, but one that was restarted has missed some.
    let most = |of: fn(&NodeView) -> u64| status.nodes.iter().map(of).max().unwrap_or(0);
    let hits = most(|node| node.prefix_hits_total);
    if hits > 0 {
        let rows = most(|node| node.prefix_rows_total);
        lines.push(format!(
            "  prefix cache: {hits} hits, {rows} rows not computed again"
        ));
    }
    lines.push(String::new());
    let layer_count = status.model.as_ref().map_or(0, |model| model.layers);
    let stages = status.plan.as_ref().map_or(&[][..], |plan| &plan.stages);
    lines.push(nodes(&status.nodes, stages, layer_count, paint));
    lines.join("\n")
}

fn headline(status: &Status, paint: Paint) -> String {
    let (tone, word) = match status.state {
        State::Ready => (Tone::Good, "ready"),
        State::Starting => (Tone::Warning, "starting"),
        State::Degraded => (Tone::Bad, "degraded"),
    };
    let count = status.nodes.len();
    let detail = match status.detail.is_empty() {
        true => String::new(),
        false => format!(": {}", status.detail),
    };
    format!(
        "{} {}  {count} node{}, term {}{detail}",
        paint.tone(tone, format!("● {word}")),
        paint.tone(Tone::Strong, &status.cluster),
        if count == 1 { "" } else { "s" },
        status.term
    )
}

/// One line per member. A token's time on its stage is told as forecast and, while there is
/// traffic, as measured. Of a node with a GPU, memory is that one's.
fn nodes(nodes: &[NodeView], stages: &[StageView], layer_count: u32, paint: Paint) -> String {
    let gpus = nodes.iter().any(|node| node.accelerator.is_some());
    let mut head = vec![
        "NODE", "", "LAYERS", "", "MEMORY", "OFFERS", "A TOKEN", "MEASURED", "UP", "ID",
    ];
    head.extend(gpus.then_some("ON"));
    let mut table = Table::new(&head);
    for node in nodes {
        let role = match (node.leader, node.me) {
            (true, true) => "leads, here",
            (true, false) => "leads",
            (false, true) => "here",
            (false, false) => "",
        };
        let hue = Tone::Hue(hue(&node.name));
        let row = table.row();
        row.toned(hue, &*node.name).toned(Tone::Dim, role);
        row.toned(hue, layer_bar(node.layers, layer_count));
        row.cell(layers_text(node));
        row.cell(size(used_bytes(node)))
            .cell(size(node.memory_usable_bytes));
        let stage = stages.iter().find(|stage| stage.id == node.id);
        row.cell(millis(stage.map(|stage| stage.decode_ms)))
            .cell(millis(stage.and_then(|stage| stage.measured_decode_ms)));
        row.cell(terminal::span(Duration::from_millis(node.uptime_ms)));
        row.toned(Tone::Dim, &*node.id);
        if gpus {
            row.toned(Tone::Dim, node.accelerator.as_deref().unwrap_or("CPU"));
        }
    }
    table.render(paint)
}

/// Of the memory that it offers.
fn used_bytes(node: &NodeView) -> u64 {
    match node.accelerator {
        Some(_) => node.weight_bytes.saturating_add(node.kv_bytes),
        None => node.resident_bytes,
    }
}

/// Where a node's layers are among all.
pub(crate) fn layer_bar(layers: Option<[u32; 2]>, layer_count: u32) -> String {
    let all = f64::from(layer_count.max(1));
    let [first, end] = layers.unwrap_or([0, 0]);
    terminal::bar(f64::from(first) / all, f64::from(end) / all, BAR_CELLS)
}

fn layers_text(node: &NodeView) -> String {
    match node.layers {
        Some([first, end]) => format!("{first}..{end}"),
        None if node.loading < 1.0 => format!("loading {:.0} %", node.loading * 100.0),
        None if node.standby_layers > 0 => format!("stands by with {}", node.standby_layers),
        None => "-".to_owned(),
    }
}

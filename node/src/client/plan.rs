//! `cairn plan`: which layers are where, what is expected, and why.

use cairn_actors::{PlanView, StageView};

use super::Api;
use super::status::layer_bar;
use crate::cli::ViewArgs;
use crate::exit::Failure;
use crate::observe::hue;
use crate::terminal::{self, Paint, Table, Tone, bar, size};

/// Cells of the bar that shows a stage's memory.
const MEMORY_CELLS: usize = 12;

/// Runs the command.
pub(crate) fn run(args: &ViewArgs) -> Result<(), Failure> {
    let api = Api::new(&args.node.http);
    if args.json {
        return Ok(terminal::print_json(
            &api.get::<serde_json::Value>("/cairn/plan")?,
        )?);
    }
    let plan: PlanView = api.get("/cairn/plan")?;
    terminal::print_line(render(&plan, Paint::stdout()))?;
    Ok(())
}

/// The whole page.
pub(crate) fn render(plan: &PlanView, paint: Paint) -> String {
    let mut lines = vec![format!(
        "plan {}  {} split over {} node{}, balance {:.2}",
        paint.tone(Tone::Strong, &plan.id),
        plan.strategy,
        plan.stages.len(),
        if plan.stages.len() == 1 { "" } else { "s" },
        plan.balance
    )];
    let forecast = &plan.forecast;
    let mut speeds = Table::new(&["", "FIRST TOKEN", "DECODE", ""]);
    speeds
        .row()
        .cell("forecast")
        .cell(format!("{:.0} ms", forecast.ttft_ms))
        .cell(format!("{:.1} tokens/s", forecast.tokens_per_second))
        .toned(
            Tone::Dim,
            format!("for a prompt of {} tokens", forecast.ttft_prompt_tokens),
        );
    if let Some(measured) = &plan.measured {
        speeds
            .row()
            .cell("measured")
            .cell(format!("{:.0} ms", measured.ttft_ms))
            .cell(format!("{:.1} tokens/s", measured.tokens_per_second))
            .toned(Tone::Dim, "last answer through this node");
    }
    lines.push(speeds.render(paint));
    lines.push(String::new());
    lines.push(stages(&plan.stages, paint));
    if !plan.reasons.is_empty() {
        lines.push(String::new());
        let mut reasons = Table::new(&["WHY", ""]);
        for (node, why) in &plan.reasons {
            // The name has a column of its own.
            let why = why.strip_prefix(&format!("{node}: ")).unwrap_or(why);
            reasons.row().toned(Tone::Hue(hue(node)), &**node).cell(why);
        }
        lines.push(reasons.render(paint));
    }
    lines.join("\n")
}

/// One line per stage: layers and memory, as numbers and bars.
pub(crate) fn stages(stages: &[StageView], paint: Paint) -> String {
    let layer_count = stages.last().map_or(0, |stage| stage.layers[1]);
    let memory = |stage: &StageView| match stage.memory_bytes {
        0 => stage.planned_memory_bytes,
        told => told,
    };
    let most = stages.iter().map(memory).max().unwrap_or(0).max(1);
    let mut table = Table::new(&["STAGE", "NODE", "LAYERS", "", "MEMORY", "", "PLANNED"]);
    for (index, stage) in stages.iter().enumerate() {
        let hue = Tone::Hue(hue(&stage.node));
        let [first, end] = stage.layers;
        table
            .row()
            .cell(index.to_string())
            .toned(hue, &*stage.node)
            .toned(hue, layer_bar(Some(stage.layers), layer_count))
            .cell(format!("{first}..{end}"))
            .toned(
                hue,
                bar(0.0, memory(stage) as f64 / most as f64, MEMORY_CELLS),
            )
            .cell(size(memory(stage)))
            .toned(Tone::Dim, size(stage.planned_memory_bytes));
    }
    table.render(paint)
}

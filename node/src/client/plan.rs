//! `cairn plan`: which layers are where, what is expected, and why.

use cairn_actors::StageView;

use super::Api;
use super::status::layer_bar;
use crate::cli::PlanArgs;
use crate::exit::Failure;
use crate::observe::hue;
use crate::plan_view::{self, PlanPage};
use crate::terminal::{self, Paint, Table, Tone, bar, size};
use crate::whatif;

/// Cells of the bar that shows a stage's memory.
const MEMORY_CELLS: usize = 12;

/// Runs the command.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Failure> {
    if let Some(file) = &args.what_if {
        return whatif::run(file, &args.imagined, args.view.json);
    }
    let api = Api::new(&args.view.node.http);
    if args.view.json {
        return Ok(terminal::print_json(
            &api.get::<serde_json::Value>("/cairn/plan")?,
        )?);
    }
    let page: PlanPage = api.get("/cairn/plan")?;
    terminal::print_line(plan_view::render(&page, Paint::stdout()))?;
    Ok(())
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

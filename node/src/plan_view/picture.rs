//! The page in a terminal: speeds, a bar for each stage, what a loss means, and why.

use super::{ForecastPage, LossPage, PlanPage, StagePage, SurvivalPage};
use crate::client::status::layer_bar;
use crate::observe::hue;
use crate::terminal::{Paint, Table, Tone, bar, size};

/// Cells of the bar that shows a stage's memory.
const MEMORY_CELLS: usize = 12;

/// The whole page.
pub(crate) fn render(page: &PlanPage, paint: Paint) -> String {
    let mut parts = vec![title(page, paint), speeds(page, paint)];
    if let Some(proof) = &page.proof
        && let Some(line) = proof_line(proof)
    {
        parts.push(paint.tone(Tone::Dim, line));
    }
    parts.push(String::new());
    parts.push(stages(page, paint));
    if !page.reasons.is_empty() {
        parts.push(String::new());
        let mut reasons = Table::new(&["WHY", ""]);
        for (node, why) in &page.reasons {
            // The name has a column of its own.
            let why = why.strip_prefix(&format!("{node}: ")).unwrap_or(why);
            reasons.row().toned(Tone::Hue(hue(node)), &**node).cell(why);
        }
        parts.push(reasons.render(paint));
    }
    parts.join("\n")
}

fn title(page: &PlanPage, paint: Paint) -> String {
    let what = match (page.id.is_empty(), page.model.is_empty()) {
        (false, _) => format!("plan {}", paint.tone(Tone::Strong, &page.id)),
        (true, false) => format!("plan for {}", paint.tone(Tone::Strong, &page.model)),
        (true, true) => "plan".to_owned(),
    };
    let objective = match &page.objective {
        Some(objective) => format!(" for {objective}"),
        None => String::new(),
    };
    format!(
        "{what}  {}{objective} over {} node{}, balance {:.2}",
        page.strategy,
        page.stages.len(),
        if page.stages.len() == 1 { "" } else { "s" },
        page.balance
    )
}

fn speeds(page: &PlanPage, paint: Paint) -> String {
    let forecast = &page.forecast;
    let mut speeds = Table::new(&["", "FIRST TOKEN", "ONE STREAM", "MANY STREAMS", ""]);
    speeds
        .row()
        .cell("forecast")
        .cell(format!("{:.0} ms", forecast.ttft_ms))
        .cell(per_second(forecast.tokens_per_second))
        .cell(match &forecast.many {
            Some(many) => format!("{} by {}", per_second(many.tokens_per_second), many.streams),
            None => "-".to_owned(),
        })
        .toned(Tone::Dim, conditions(forecast));
    if let Some(measured) = &page.measured {
        speeds
            .row()
            .cell("measured")
            .cell(format!("{:.0} ms", measured.ttft_ms))
            .cell(per_second(measured.tokens_per_second))
            .cell("-")
            .toned(Tone::Dim, "last answer through this node");
    }
    speeds.render(paint)
}

fn per_second(tokens: f64) -> String {
    format!("{tokens:.1} tokens/s")
}

fn conditions(forecast: &ForecastPage) -> String {
    let prompt = format!("for a prompt of {} tokens", forecast.ttft_prompt_tokens);
    match forecast.hops_ms {
        Some(hops) => format!("{prompt}; {hops:.2} ms of each token on the wires"),
        None => prompt,
    }
}

fn proof_line(proof: &super::ProofPage) -> Option<String> {
    if proof.exact {
        return Some("  no better plan exists for these devices and links".to_owned());
    }
    // Without a search there is nothing to say.
    if proof.lower_bound_ms <= 0.0 {
        return None;
    }
    let gap = (1.0 - proof.lower_bound_ms / proof.objective_ms.max(f64::MIN_POSITIVE)) * 100.0;
    Some(format!(
        "  the best that was found; none can be better by more than {gap:.1} %"
    ))
}

/// One line per stage; columns without anything in them are left out.
fn stages(page: &PlanPage, paint: Paint) -> String {
    let stages = &page.stages;
    let layer_count = stages.last().map_or(0, |stage| stage.layers[1]);
    let runs = stages.iter().any(|stage| stage.memory_bytes > 0);
    let free = stages.iter().any(|stage| stage.free_bytes.is_some());
    let timed = stages.iter().any(|stage| stage.decode_ms.is_some());
    let measured = stages
        .iter()
        .any(|stage| stage.measured_decode_ms.is_some());
    let most = stages.iter().map(used_bytes).max().unwrap_or(0).max(1);
    let mut head = vec!["STAGE", "NODE", "LAYERS", "", "MEMORY", ""];
    head.extend(runs.then_some("PLANNED"));
    head.extend(free.then_some("FREE"));
    head.extend(timed.then_some("A TOKEN"));
    head.extend(measured.then_some("MEASURED"));
    head.extend((!page.survives.is_empty()).then_some("WHEN IT IS LOST"));
    let mut table = Table::new(&head);
    for (index, stage) in stages.iter().enumerate() {
        let hue = Tone::Hue(hue(&stage.node));
        let [first, end] = stage.layers;
        let used = used_bytes(stage);
        // Of what the device has where that is known, else of the fullest stage.
        let whole = stage.free_bytes.map_or(most, |free| used + free);
        let row = table.row();
        row.cell(index.to_string())
            .toned(hue, &*stage.node)
            .toned(hue, layer_bar(Some(stage.layers), layer_count))
            .cell(format!("{first}..{end}"))
            .toned(
                hue,
                bar(0.0, used as f64 / whole.max(1) as f64, MEMORY_CELLS),
            )
            .cell(size(used));
        if runs {
            row.toned(Tone::Dim, size(stage.planned_memory_bytes));
        }
        if free {
            row.toned(Tone::Dim, stage.free_bytes.map_or("-".to_owned(), size));
        }
        if timed {
            row.cell(millis(stage.decode_ms));
        }
        if measured {
            row.cell(millis(stage.measured_decode_ms));
        }
        if let Some(survival) = page.survives.iter().find(|one| one.node == stage.node) {
            let (tone, text) = loss(survival, stage);
            row.toned(tone, text);
        }
    }
    table.render(paint)
}

/// A time, if there is one.
pub(crate) fn millis(time: Option<f64>) -> String {
    match time {
        Some(time) => format!("{time:.2} ms"),
        None => "-".to_owned(),
    }
}

/// What the process was seen to take, else what was planned.
fn used_bytes(stage: &StagePage) -> u64 {
    match stage.memory_bytes {
        0 => stage.planned_memory_bytes,
        seen => seen,
    }
}

fn loss(survival: &SurvivalPage, stage: &StagePage) -> (Tone, String) {
    match survival.loss {
        LossPage::Covered if stage.standbys.is_empty() => (
            Tone::Good,
            "serves again at once: several stand by".to_owned(),
        ),
        LossPage::Covered => (
            Tone::Good,
            format!(
                "serves again at once: {} stands by",
                stage.standbys.join(", ")
            ),
        ),
        LossPage::Reload if survival.layers_missing > 0 => (
            Tone::Warning,
            format!(
                "covered once {} layers have loaded",
                survival.layers_missing
            ),
        ),
        LossPage::Reload => (Tone::Warning, "serves again after loading".to_owned()),
        LossPage::Short => (
            Tone::Bad,
            format!("ends: {} short", size(survival.bytes_missing)),
        ),
    }
}

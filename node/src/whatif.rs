//! `cairn plan --what-if`: a plan for devices that one does not own yet.
//!
//! Needs no node and reads no weights: sizes come from the head of the model file.

use std::ops::Range;
use std::path::Path;

use cairn_actors::model_costs;
use cairn_engine::ModelFile;
use cairn_planner::{Device, DeviceId, Loss, NoPlan, Objective, Plan, Request, WhatIf};

use crate::cli::{Goal, WhatIfArgs};
use crate::config::parse_strategy;
use crate::exit::{Exit, Failure};
use crate::models;
use crate::plan_view::{
    self, ForecastPage, LossPage, ManyPage, PlanPage, ProofPage, StagePage, SurvivalPage,
};
use crate::terminal::{self, Paint};

/// Plans and prints.
pub(crate) fn run(file: &Path, args: &WhatIfArgs, json: bool) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file).map_err(|source| {
        Failure::text(
            Exit::Usage,
            format!("cannot read {}: {source}", file.display()),
        )
    })?;
    let devices = WhatIf::parse(&text).map_err(|mistakes| {
        let lines: Vec<String> = mistakes
            .iter()
            .map(|mistake| format!("  {mistake}"))
            .collect();
        let text = format!("{} has mistakes:\n{}", file.display(), lines.join("\n"));
        Failure::text(Exit::Usage, text)
    })?;
    let strategy = parse_strategy(&args.strategy)
        .map_err(|fault| Failure::text(Exit::Usage, format!("--{fault}")))?;
    let split = args.split.as_deref().map(parse_split).transpose()?;
    let path = models::on_disk(&args.model)?;
    let model = ModelFile::open(&path).map_err(|error| Failure::new(Exit::Model, error))?;
    let context_max = u32::try_from(model.spec().context_max).unwrap_or(u32::MAX);
    let mut request = Request {
        links: devices.links,
        strategy,
        objective: match args.objective {
            Goal::Latency => Objective::Latency,
            Goal::Throughput => Objective::Throughput,
        },
        context_tokens: args.context.min(context_max),
        sequences: args.sequences,
        prompt_tokens: args.prompt_tokens.min(context_max),
        ..Request::new(model_costs(&model), devices.devices)
    };
    if let Some(split) = &split {
        request.strategy = request.custom(split).map_err(|faults| {
            let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
            let text = format!("the split has mistakes:\n{}", lines.join("\n"));
            Failure::text(Exit::Usage, text)
        })?;
    }
    let plan = cairn_planner::plan(&request).map_err(|error| match error {
        NoPlan::BadRequest(_) | NoPlan::BadCustom(_) => Failure::new(Exit::Usage, error),
        NoPlan::NoDevice | NoPlan::MemoryShort { .. } => Failure::new(Exit::Failure, error),
    })?;
    let page = page(args, &request, &plan);
    match json {
        true => terminal::print_json(&page)?,
        false => terminal::print_line(plan_view::render(&page, Paint::stdout()))?,
    }
    Ok(())
}

/// Reads `desktop:0..10,laptop:10..30`: half-open, counted from zero.
fn parse_split(text: &str) -> Result<Vec<(String, Range<u32>)>, Failure> {
    let one = |entry: &str| {
        let (name, layers) = entry.trim().rsplit_once(':')?;
        let (first, end) = layers.split_once("..")?;
        Some((name.to_owned(), first.parse().ok()?..end.parse().ok()?))
    };
    let entries = text.split(',').map(|entry| {
        one(entry).ok_or_else(|| {
            let text = format!("--split: `{entry}` is not like desktop:0..10");
            Failure::text(Exit::Usage, text)
        })
    });
    entries.collect()
}

fn page(args: &WhatIfArgs, request: &Request, plan: &Plan) -> PlanPage {
    let names = |id: &DeviceId| name(&request.devices, *id);
    let forecast = &plan.forecast;
    let stages = plan.stages.iter().zip(&forecast.stages);
    let stages = stages.map(|(stage, times)| StagePage {
        node: names(&stage.device),
        layers: [stage.layers.start, stage.layers.end],
        planned_memory_bytes: times.memory_bytes,
        memory_bytes: 0,
        free_bytes: Some(times.free_bytes),
        decode_ms: Some(times.decode_micros as f64 / 1e3),
        measured_decode_ms: None,
        prefill_chunk_ms: Some(times.prefill_chunk_micros as f64 / 1e3),
        standbys: stage.standbys.iter().map(names).collect(),
    });
    let reasons = plan.reasons.iter();
    let survives = plan.survives.iter().map(|survival| {
        let (loss, bytes_missing) = match survival.loss {
            Loss::Covered => (LossPage::Covered, 0),
            Loss::Reload => (LossPage::Reload, 0),
            Loss::Short { bytes_missing } => (LossPage::Short, bytes_missing),
        };
        SurvivalPage {
            node: names(&survival.device),
            loss,
            layers_missing: 0,
            bytes_missing,
        }
    });
    PlanPage {
        id: String::new(),
        model: args.model.clone(),
        strategy: match args.split {
            Some(_) => "custom".to_owned(),
            None => args.strategy.clone(),
        },
        objective: Some(args.objective.name().to_owned()),
        stages: stages.collect(),
        forecast: ForecastPage {
            ttft_ms: forecast.ttft_micros as f64 / 1e3,
            ttft_prompt_tokens: forecast.prompt_tokens,
            tokens_per_second: forecast.tokens_per_second,
            hops_ms: Some(forecast.hops_micros as f64 / 1e3),
            many: Some(ManyPage {
                streams: forecast.streams,
                tokens_per_second: forecast.many_tokens_per_second,
                tpot_ms: forecast.many_tpot_micros as f64 / 1e3,
            }),
        },
        measured: None,
        balance: plan.balance,
        reasons: reasons
            .map(|reason| (reason.name.clone(), reason.to_string()))
            .collect(),
        survives: survives.collect(),
        proof: Some(ProofPage {
            objective_ms: plan.proof.objective_nanos as f64 / 1e6,
            lower_bound_ms: plan.proof.lower_bound_nanos as f64 / 1e6,
            exact: plan.proof.is_exact(),
        }),
    }
}

fn name(devices: &[Device], id: DeviceId) -> String {
    let device = devices.iter().find(|device| device.id == id);
    device.map_or_else(|| id.to_string(), |device| device.name.clone())
}

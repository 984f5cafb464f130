//! One judgement from measured stage times: what the running split costs in truth, what
//! could be had instead, and whether to move.
//!
//! Pure: who measures, when to judge and how to move belongs to the caller.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Decision, Drift, History, Margin, should_replan};
use crate::device::DeviceId;
use crate::plan::{Forecast, Plan};
use crate::request::{Request, Strategy};
use crate::{NoPlan, plan};

/// What a stage was measured to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Who runs the stage.
    pub device: DeviceId,
    /// One decode row through all of the stage's layers, in microseconds; a median over
    /// many rows, waiting left out. Zero counts as not measured.
    pub decode_micros: u64,
}

/// The outcome of a judgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// The running split on the devices as they were measured to be: its forecast is what
    /// the cluster should be seen to do now.
    pub running: Plan,
    /// What the request's strategy would do with the same devices.
    pub candidate: Plan,
    /// Whether to adopt the candidate.
    pub decision: Decision,
    /// Hand this to the next judgement.
    pub history: History,
}

/// Judges the running split against what the request's strategy would do now. Both sides
/// are planned on the devices as observed, so a forecast that is off by a constant moves
/// nothing.
///
/// Where two stages or more were observed, what all of them share is taken to be an error
/// of the forecast rather than of a device, and is applied to the devices of which nothing
/// is known too: they would look better than they are otherwise. A stage alone is compared
/// with what was usual over the last two minutes of reviews: a drift that it always had is
/// the forecast's error, and one that is new is its own. A candidate that gives devices back
/// ranges that they had is judged by what they took on these.
///
/// `request` holds the devices as their own measurement told, not as corrected before;
/// `running` are the ranges that the observed times belong to.
///
/// # Errors
/// [`NoPlan`] when the running split does not hold any more (a device left, or has less
/// memory than its layers need) or nothing fits; replan at once then.
pub fn review(
    request: &Request,
    running: &[(DeviceId, Range<u32>)],
    observed: &[Observed],
    history: &History,
    margin: Margin,
) -> Result<Review, NoPlan> {
    let forecast = plan(&custom(request, running))?.forecast;
    let mut history = history.clone();
    let seen = drifts(&forecast, observed);
    history.note(request, running, &seen);
    let mut margin = margin;
    if history.has_grown_slow(&seen) {
        // The rest is for what looks better wherever it is not; this is something new.
        history.replan.resting = 0;
        margin.gain_permille = margin.relief_permille;
    }
    let candidate = plan(&history.correct(request))?;
    // Where a device had the candidate's range before, it is known what that took in truth.
    let split: Vec<_> = candidate
        .stages
        .iter()
        .map(|stage| (stage.device, stage.layers.clone()))
        .collect();
    let expected = plan(&custom(&history.correct_for(request, &split), &split))?;
    let corrected = history.correct_for(request, running);
    let running = plan(&custom(&corrected, running))?;
    let decision;
    (history.replan, decision) = should_replan(
        history.replan,
        running.proof.objective_nanos,
        expected.proof.objective_nanos,
        margin,
    );
    Ok(Review {
        running,
        candidate,
        decision,
        history,
    })
}

/// Forecast and measurement of the stages that were observed.
fn drifts(forecast: &Forecast, observed: &[Observed]) -> BTreeMap<DeviceId, Drift> {
    let stages = forecast.stages.iter();
    let drifts = stages.filter_map(|stage| {
        let seen = observed.iter().find(|seen| seen.device == stage.device)?;
        let drift = Drift {
            forecast_micros: stage.decode_micros,
            measured_micros: seen.decode_micros,
        };
        (seen.decode_micros > 0).then_some((stage.device, drift))
    });
    drifts.collect()
}

fn custom(request: &Request, running: &[(DeviceId, Range<u32>)]) -> Request {
    Request {
        strategy: Strategy::Custom(running.to_vec()),
        ..request.clone()
    }
}

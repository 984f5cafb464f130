//! One judgement from measured stage times: what the running split costs in truth, what
//! could be had instead, and whether to move.
//!
//! Pure: who measures, when to judge and how to move belongs to the caller.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{Decision, Drift, Margin, Replan, should_replan};
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

/// What earlier reviews left behind. Start with the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// For how long the candidate was better, and how long to rest.
    pub replan: Replan,
    /// The last drift of each device, and the decode speed that it told then. Kept when a
    /// device loses its stage, or it would look as fast as before and get it back; until
    /// it is measured anew and tells another speed.
    drifts: BTreeMap<DeviceId, (Drift, u64)>,
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
/// is known too: they would look better than they are otherwise. A single stage that is
/// slow says nothing about others.
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
    let seen = drifts(&forecast, observed);
    let told = |id: DeviceId| {
        let device = request.devices.iter().find(|device| device.id == id);
        device.map_or(0, |device| device.decode_bytes_per_second)
    };
    let mut drifts = history.drifts.clone();
    drifts.retain(|id, (_, speed)| told(*id) == *speed);
    drifts.extend(seen.iter().map(|(id, drift)| (*id, (*drift, told(*id)))));
    let shared = match seen.len() {
        0 | 1 => None,
        _ => seen.values().min_by_key(|drift| drift.permille()),
    };
    let mut corrected = request.clone();
    for device in &mut corrected.devices {
        let own = drifts.get(&device.id).map(|(drift, _)| drift);
        if let Some(drift) = own.or(shared) {
            *device = drift.correct(device);
        }
    }
    let candidate = plan(&corrected)?;
    let running = plan(&custom(&corrected, running))?;
    let (replan, decision) = should_replan(
        history.replan,
        running.proof.objective_nanos,
        candidate.proof.objective_nanos,
        margin,
    );
    Ok(Review {
        running,
        candidate,
        decision,
        history: History { replan, drifts },
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

//! Splits a model across devices, and says what the split will cost and why.
//!
//! No clock, no IO, no randomness, no floats in decisions: the same request, in any
//! order of its lists, gives the same plan.

#![forbid(unsafe_code)]

mod check;
mod cost;
mod cover;
mod device;
mod fault;
mod forecast;
mod hash;
mod named;
mod optimal;
mod plan;
mod reason;
mod replan;
mod replicas;
mod request;
mod shares;
mod survive;
mod twins;
mod whatif;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub use check::check;
pub use device::{Detail, Device, DeviceId, Link, LinkSpeed, Sharing};
pub use fault::Fault;
pub use plan::{
    Forecast, Limit, Loss, Plan, Proof, Reason, Stage, StageForecast, Standby, Survival, Why,
};
pub use replan::{
    Decision, Drift, History, Known, Margin, Observed, Replan, Review, review, should_replan,
};
pub use replicas::{Pipeline, pipelines};
pub use request::{LayerCost, Model, Objective, Part, Request, SEARCH_STEPS, Strategy};

pub use whatif::{Mistake, WhatIf};

use cost::{Costs, Cut};
use optimal::Found;
use plan::Bytes;
use shares::Weight;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoPlan {
    /// There is nothing to plan for. Effect: none; add a device and ask again.
    #[error("no device to plan for: start a node, or list one")]
    NoDevice,
    /// No split of the model fits. Effect: nothing is loaded.
    #[error(
        "the model does not fit: {} short on the roomiest device ({} needed in all, {} usable \
         on {device_count} devices); add a device with that much memory, lower the context or \
         the number of sequences, keep keys and values in 16 bits (--kv-cache), or choose a smaller \
         quantisation",
        Bytes(*.bytes_missing), Bytes(*.bytes_needed), Bytes(*.bytes_usable)
    )]
    MemoryShort {
        /// Memory that would make it fit, if the roomiest device had that much more.
        bytes_missing: u64,
        /// Weights, caches and one set of buffers.
        bytes_needed: u64,
        /// Memory of all devices, less headroom.
        bytes_usable: u64,
        /// How many devices there are.
        device_count: usize,
    },
    /// The custom list cannot be used. Effect: nothing is loaded; all mistakes are here.
    #[error("the custom plan cannot be used: {}", sentence(.0))]
    BadCustom(Vec<Fault>),
    /// The request contradicts itself. Effect: none; all mistakes are here.
    #[error("the planner was asked for the impossible: {}", sentence(.0))]
    BadRequest(Vec<Fault>),
}

fn sentence(faults: &[Fault]) -> String {
    let lines: Vec<String> = faults.iter().map(Fault::to_string).collect();
    lines.join("; ")
}

/// Plans a split. See the [`Strategy`] for what each promises.
///
/// # Panics
/// Never for any request; every plan is checked before it is returned, and a plan that
/// failed would be a defect of this crate.
pub fn plan(request: &Request) -> Result<Plan, NoPlan> {
    if request.devices.is_empty() {
        return Err(NoPlan::NoDevice);
    }
    let faults = check::check_request(request);
    if !faults.is_empty() {
        return Err(NoPlan::BadRequest(faults));
    }
    let costs = Costs::new(request);
    let choice = choose(&costs)?;
    let plan = assemble(&costs, choice);
    if let Err(faults) = check(&plan, request) {
        panic!("a plan failed its own check: {}", sentence(&faults));
    }
    Ok(plan)
}

/// The stages that a strategy chose, with what it knows about them.
struct Choice {
    cuts: Vec<Cut>,
    lower_bound_nanos: u64,
    /// What a sharing strategy would have given each device without limits.
    wanted: Option<Vec<usize>>,
}

fn choose(costs: &Costs<'_>) -> Result<Choice, NoPlan> {
    let weight = match &costs.request.strategy {
        Strategy::Uniform => Weight::Equal,
        Strategy::Memory => Weight::Memory,
        Strategy::Compute => Weight::Speed,
        Strategy::Balanced => Weight::MemoryAndSpeed,
        Strategy::Optimal => {
            let Found {
                cuts,
                lower_bound_nanos,
            } = optimal::search(costs).ok_or_else(|| memory_short(costs))?;
            return Ok(Choice {
                cuts,
                lower_bound_nanos,
                wanted: None,
            });
        }
        Strategy::Custom(list) => {
            let faults = check::check_list(list, costs.request);
            if !faults.is_empty() {
                return Err(NoPlan::BadCustom(faults));
            }
            let mut cuts: Vec<Cut> = list
                .iter()
                .filter_map(|(id, layers)| Some((costs.index_of(*id)?, check::wide(layers))))
                .collect();
            cuts.sort_by_key(|(_, layers)| layers.start);
            return Ok(Choice {
                cuts,
                lower_bound_nanos: 0,
                wanted: None,
            });
        }
    };
    let sharing = shares::share(costs, weight, &[])
        .or_else(|| {
            let order: Vec<_> = cover::by_memory(costs)?.iter().map(|cut| cut.0).collect();
            shares::share(costs, weight, &order)
        })
        .ok_or_else(|| memory_short(costs))?;
    Ok(Choice {
        cuts: sharing.cuts,
        lower_bound_nanos: 0,
        wanted: Some(sharing.wanted),
    })
}

fn memory_short(costs: &Costs<'_>) -> NoPlan {
    let all: Vec<_> = (0..costs.devices.len()).collect();
    NoPlan::MemoryShort {
        bytes_missing: cover::bytes_missing(costs, &all),
        bytes_needed: costs.whole_bytes(),
        bytes_usable: all.iter().fold(0, |sum, index| {
            sum.saturating_add(costs.usable_bytes(*index))
        }),
        device_count: all.len(),
    }
}

fn assemble(costs: &Costs<'_>, choice: Choice) -> Plan {
    let cuts = &choice.cuts;
    let standbys = survive::standbys(costs, cuts);
    let stages = cuts
        .iter()
        .map(|(device, layers)| {
            let range = survive::narrow(layers);
            Stage {
                device: costs.devices[*device].id,
                standbys: standbys
                    .iter()
                    .filter(|standby| standby.layers == range)
                    .map(|standby| standby.device)
                    .collect(),
                layers: range,
                memory_bytes: costs.memory_bytes(*device, layers),
            }
        })
        .collect();
    Plan {
        stages,
        forecast: forecast::forecast(costs, cuts, &standbys),
        balance: forecast::balance(costs, cuts),
        survives: survive::survival(costs, cuts, &standbys),
        reasons: reason::reasons(costs, cuts, choice.wanted.as_deref()),
        proof: Proof {
            objective_nanos: costs.objective_nanos(cuts),
            lower_bound_nanos: choice.lower_bound_nanos,
        },
        standbys,
    }
}

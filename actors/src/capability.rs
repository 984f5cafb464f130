//! The `capability` actor: what this node can do, measured; what the others say they can.

mod kept;
pub(crate) mod limits;
pub(crate) mod measure;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_engine::probe::Speeds;
use cairn_machine::capability::{Calm, CapabilityMachine, Doubt, Input, Observed, Output};
use cairn_machine::placement;
use cairn_wire::control::{Capability, NodeStatus};
use cairn_wire::id::NodeId;
use cairn_wire::limits::MEASURED_NANOS_MAX;
use ractor::RpcReplyPort;
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

use crate::gauges::Process;
use crate::shell::{Clock, Role};
use crate::wiring::Wiring;
use limits::Limits;
use measure::{Found, Measurer, Trust};

/// Effects of capability.
pub(crate) struct CapabilityRole {
    wiring: Arc<Wiring>,
    clock: Clock,
    offer: Arc<Offer>,
    /// `None` where the system does not tell about processes.
    system: Option<System>,
}

/// What the members have told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) capabilities: BTreeMap<NodeId, Capability>,
    pub(crate) statuses: BTreeMap<NodeId, NodeStatus>,
}

/// A question for what the members have told.
pub(crate) struct AskTold(pub(crate) RpcReplyPort<Told>);

impl CapabilityRole {
    pub(crate) fn new(wiring: Arc<Wiring>, clock: Clock, offer: Arc<Offer>) -> Self {
        Self {
            wiring,
            clock,
            offer,
            system: System::new().ok(),
        }
    }

    fn status(&mut self) -> NodeStatus {
        let resident = self.system.as_mut().and_then(resident_bytes);
        self.wiring.gauges.status(Process {
            resident_bytes: resident.unwrap_or(0),
            weight_bytes: self.wiring.library.loaded_bytes(),
            uptime_millis: self.clock.now().0,
        })
    }

    /// What this node's stage was said to take for a row and was seen to take since the last
    /// status. The plan says what it takes in the long run; after a rest it takes less, down to
    /// its share of that.
    fn observe(&self) {
        let measured = self.wiring.gauges.single_row_micros();
        let plan = self.wiring.plan.borrow().clone();
        let (Some(measured_micros), Some(plan)) = (measured, plan) else {
            return;
        };
        let stages = plan.stages.iter().zip(&plan.explain.stages);
        let mine = stages.filter(|(stage, _)| stage.node == self.wiring.me);
        let threads = measure::threads(&self.offer.measurer.options);
        let share = u64::from(Limits::read().share_permille(threads));
        for (_, forecast) in mine {
            let lasting = forecast.decode_micros;
            let burst = lasting.saturating_mul(share) / 1000;
            let observed = Observed {
                forecast_micros: measured_micros.clamp(burst, lasting),
                measured_micros,
            };
            self.wiring.to_capability(Input::Observed(observed));
        }
    }
}

impl Role for CapabilityRole {
    type Machine = CapabilityMachine;
    type Other = AskTold;

    fn perform(&mut self, order: Output) -> Option<Input> {
        match order {
            Output::TakeStatus => {
                self.observe();
                return Some(Input::StatusTaken(self.status()));
            }
            Output::Measure(doubt) => {
                tracing::info!(?doubt, "measuring this device again");
                let trust = match doubt {
                    Doubt::OtherModel => Trust::Kept,
                    Doubt::Disturbed | Doubt::Disagrees => Trust::Anew,
                };
                Offer::measure(&self.offer, &self.wiring, trust);
            }
            Output::Send { to, message } => self.wiring.send_control(to, &message),
            Output::Changed(capabilities) => {
                for (node, capability) in &capabilities {
                    self.wiring.named(*node, &capability.name);
                }
                let fact = placement::Input::Capabilities(capabilities);
                self.wiring.to_planner(fact);
            }
        }
        None
    }

    fn other(&mut self, machine: &CapabilityMachine, AskTold(reply): AskTold) -> Option<Input> {
        let told = Told {
            capabilities: machine.capabilities().clone(),
            statuses: machine.statuses().clone(),
        };
        // Whoever asked may have gone.
        drop(reply.send(told));
        None
    }
}

/// What the user said of this node.
pub(crate) struct Offer {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) wish: Option<String>,
    pub(crate) measurer: Measurer,
}

impl Offer {
    /// Measures if need be, on a blocking thread, and tells the machine.
    pub(crate) fn measure(offer: &Arc<Offer>, wiring: &Arc<Wiring>, trust: Trust) {
        let (offer, wiring) = (Arc::clone(offer), Arc::clone(wiring));
        tokio::task::spawn_blocking(move || {
            let speeds = offer.measurer.speeds(wiring.sample().as_deref(), trust);
            let held_bytes =
                wiring.library.loaded_bytes() + wiring.gauges.kv_bytes.load(Ordering::Relaxed);
            let (capability, calm) = offer.capability(speeds, held_bytes);
            wiring.to_capability(Input::Measured { capability, calm });
        });
    }

    /// `held_bytes` are this node's own layers and caches.
    fn capability(&self, found: Option<Found>, held_bytes: u64) -> (Capability, Calm) {
        let device = self.measurer.options.device;
        let limits = Limits::of(device, held_bytes);
        let threads = measure::threads(&self.measurer.options);
        if found.is_none() {
            tracing::warn!("cannot measure this device; it counts as slow");
        }
        let speeds = found.map(|found| found.speeds);
        let speed = |of: fn(&Speeds) -> u64| speeds.as_ref().map_or(1, of);
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let capability = Capability {
            name: self.name.clone(),
            version: self.version.clone(),
            memory_bytes: limits.offered_bytes(self.memory_bytes),
            accelerator: device.accelerator().ok().flatten().map(|gpu| gpu.name),
            threads: narrow(threads),
            decode_bytes_per_second: speed(|speeds| speeds.decode_bytes_per_second),
            prefill_macs_per_second: speed(|speeds| speeds.prefill_macs_per_second),
            layer_nanos: speeds
                .map_or(0, |speeds| speeds.layer_nanos)
                .min(MEASURED_NANOS_MAX),
            head_bytes_per_second: speed(|speeds| speeds.head_bytes_per_second),
            cache_bytes_per_second: speed(|speeds| speeds.cache_bytes_per_second),
            attention_macs_per_second: speed(|speeds| speeds.attention_macs_per_second),
            kv_permille: self.measurer.options.cache.permille(),
            share_permille: limits.share_permille(threads),
            host: limits::host(),
            host_cores: narrow(limits.cores),
            wish: self.wish.clone(),
        };
        let calm = match found {
            Some(found) if !found.calm => Calm::Disturbed,
            // What cannot be measured now cannot be measured later.
            Some(_) | None => Calm::Calm,
        };
        (capability, calm)
    }
}

fn resident_bytes(system: &mut System) -> Option<u64> {
    let pid = sysinfo::get_current_pid().ok()?;
    system.refresh_processes_specifics(
        ProcessesToUpdate::Some(&[pid]),
        true,
        ProcessRefreshKind::nothing().with_memory(),
    );
    system.process(pid).map(sysinfo::Process::memory)
}

//! The `capability` actor: what this node can do, measured; what the others say they can.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_engine::kernel::{Pool, probe};
use cairn_machine::capability::{CapabilityMachine, Input, Output};
use cairn_machine::placement;
use cairn_wire::control::{Capability, NodeStatus};
use cairn_wire::id::NodeId;
use ractor::RpcReplyPort;
use sysinfo::{MemoryRefreshKind, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::shell::{Clock, Role};
use crate::wiring::Wiring;

/// Kept free for the rest of the system, in thousandths of what is available.
const HEADROOM_PERMILLE: u64 = 100;

/// Offered where the system does not say what it has.
const UNKNOWN_MEMORY_BYTES: u64 = 1 << 30;

/// Effects of capability.
pub(crate) struct CapabilityRole {
    wiring: Arc<Wiring>,
    clock: Clock,
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
    pub(crate) fn new(wiring: Arc<Wiring>, clock: Clock) -> Self {
        Self {
            wiring,
            clock,
            system: System::new().ok(),
        }
    }

    fn status(&mut self) -> NodeStatus {
        let resident = self.system.as_mut().and_then(resident_bytes);
        let uptime = self.clock.now().0;
        self.wiring.gauges.status(resident.unwrap_or(0), uptime)
    }
}

impl Role for CapabilityRole {
    type Machine = CapabilityMachine;
    type Other = AskTold;

    fn perform(&mut self, order: Output) -> Option<Input> {
        match order {
            Output::TakeStatus => return Some(Input::StatusTaken(self.status())),
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
    pub(crate) threads: usize,
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) wish: Option<String>,
}

/// Measures this node. Takes about a tenth of a second of all its threads, so it blocks.
pub(crate) fn measure(offer: Offer) -> Capability {
    let pool = Pool::new(offer.threads);
    let measured = |result: std::io::Result<f64>| match result {
        // Far below 2^53, so the cast is exact enough.
        Ok(speed) => speed.max(1.0) as u64,
        Err(error) => {
            tracing::warn!(%error, "cannot measure this device; it counts as slow");
            1
        }
    };
    Capability {
        name: offer.name,
        version: offer.version,
        memory_bytes: offer.memory_bytes.unwrap_or_else(available_bytes),
        threads: u32::try_from(offer.threads).unwrap_or(u32::MAX),
        decode_bytes_per_second: measured(probe::decode_bytes_per_second(&pool)),
        prefill_macs_per_second: measured(probe::prefill_macs_per_second(&pool)),
        wish: offer.wish,
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

/// Memory that may be taken: what the system or the container has left, less headroom.
fn available_bytes() -> u64 {
    let Ok(mut system) = System::new() else {
        tracing::warn!(
            "the system does not tell its free memory; say how much to use with --memory"
        );
        return UNKNOWN_MEMORY_BYTES;
    };
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let available = match system.cgroup_limits() {
        Some(limits) => system.available_memory().min(limits.free_memory),
        None => system.available_memory(),
    };
    available - available / 1000 * HEADROOM_PERMILLE
}

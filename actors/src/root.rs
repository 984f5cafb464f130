//! Starts the five actors and watches over them.
//!
//! An actor that ends by itself is a fault of ours that a restart would hide: the
//! node stops with its name, and the cluster goes on without the node.

use std::path::PathBuf;
use std::sync::Arc;

use cairn_machine::capability::CapabilityMachine;
use cairn_machine::member::{Config as MemberConfig, Membership, Timing};
use cairn_machine::pipeline::PipelineMachine;
use cairn_machine::placement::{Config as PlacementConfig, PlacementMachine};
use cairn_machine::shard::ShardMachine;
use cairn_wire::id::BootId;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::runtime::Handle;

use crate::api::{Config, StartError};
use crate::capability::{CapabilityRole, Offer};
use crate::discovery::{DiscoveryRole, TERM_FILE};
use crate::pipeline::PipelineRole;
use crate::planner::PlannerRole;
use crate::shard::ShardRole;
use crate::shell::{Clock, Msg, Role, Shell, Start};
use crate::wiring::{Actors, Wiring};

/// The supervisor.
pub(crate) struct Root {
    wiring: Arc<Wiring>,
}

impl Actor for Root {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        _: &mut (),
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                let name = cell.get_name().unwrap_or_default();
                self.wiring
                    .fail(format!("the actor {name} failed: {error}"));
            }
            SupervisionEvent::ActorTerminated(..)
            | SupervisionEvent::ActorStarted(_)
            | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

/// Starts the supervisor and its actors, and wires them to each other. `near` is the
/// network's runtime.
pub(crate) async fn start(
    config: &Config,
    wiring: &Arc<Wiring>,
    (boot, clock): (BootId, Clock),
    offer: &Arc<Offer>,
    near: &Handle,
) -> Result<ActorRef<()>, StartError> {
    let failed = |actor: &'static str, detail: String| StartError::Actor { actor, detail };
    let me = wiring.me;
    let root = Root {
        wiring: Arc::clone(wiring),
    };
    let (root, _) = Actor::spawn(Some(format!("{me}/root")), root, ())
        .await
        .map_err(|error| failed("root", error.to_string()))?;

    let role = DiscoveryRole::new(Arc::clone(wiring), config.data_dir.clone());
    let machine = Membership::new(
        MemberConfig {
            me,
            boot,
            timing: Timing::lan(),
            first_term: last_term(&config.data_dir),
        },
        clock.now(),
    );
    let discovery = spawn(&root, "discovery", role, machine, clock).await?;

    let role = CapabilityRole::new(Arc::clone(wiring), clock, Arc::clone(offer));
    let machine = CapabilityMachine::new(me);
    let capability = spawn(&root, "capability", role, machine, clock).await?;

    let role = PlannerRole::new(Arc::clone(wiring));
    let machine = PlacementMachine::new(PlacementConfig {
        me,
        strategy: config.strategy.clone(),
        default_model: config.default_model.clone(),
        context: config.context,
        sequences: config.sequences,
    });
    let planner = spawn(&root, "planner", role, machine, clock).await?;

    // These two run where rows and tokens arrive.
    let role = ShardRole::new(Arc::clone(wiring), offer.measurer.options.clone());
    let supervisor = root.clone();
    let machine = ShardMachine::default();
    let start = async move { spawn(&supervisor, "shard", role, machine, clock).await };
    let shard = near.spawn(start).await;
    let shard = shard.map_err(|error| failed("shard", error.to_string()))??;

    let supervisor = root.clone();
    let role = PipelineRole::new(Arc::clone(wiring));
    let machine = PipelineMachine::new(me, boot);
    let start = async move { spawn(&supervisor, "pipeline", role, machine, clock).await };
    let pipeline = near.spawn(start).await;
    let pipeline = pipeline.map_err(|error| failed("pipeline", error.to_string()))??;

    wiring.connect(Actors {
        discovery,
        capability,
        planner,
        shard,
        pipeline,
    });
    Ok(root)
}

async fn spawn<R: Role>(
    root: &ActorRef<()>,
    name: &'static str,
    role: R,
    machine: R::Machine,
    clock: Clock,
) -> Result<ActorRef<Msg<R>>, StartError> {
    // Names are global to the process, and tests run several nodes in one.
    let supervisor = root.get_cell();
    let full_name = format!("{}/{name}", supervisor.get_name().unwrap_or_default());
    let start = Start {
        role,
        machine,
        clock,
    };
    let spawned = Actor::spawn_linked(Some(full_name), Shell::new(), start, supervisor).await;
    let (actor, _) = spawned.map_err(|error| StartError::Actor {
        actor: name,
        detail: error.to_string(),
    })?;
    Ok(actor)
}

/// The last term of an earlier run. A file that is not there or not a number is none.
fn last_term(data_dir: &std::path::Path) -> u64 {
    let path: PathBuf = data_dir.join(TERM_FILE);
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

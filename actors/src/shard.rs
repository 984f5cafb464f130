//! The `shard` actor: this node's stages. Loads layers, and hands passes to the engine's own thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_engine::{LoadProgress, Shard, ShardOptions};
use cairn_machine::placement;
use cairn_machine::shard::{Input, Output, ShardMachine};
use cairn_wire::control::Plan;
use cairn_wire::id::PlanId;

use crate::library::chain;
use crate::models::Wanted;
use crate::shell::Role;
use crate::standby::Standby;
use crate::wiring::Wiring;
use crate::worker::{Job, Worker};

/// Effects of a shard.
pub(crate) struct ShardRole {
    wiring: Arc<Wiring>,
    worker: Worker,
    standby: Arc<Standby>,
    /// Of every shard, but for its plan's context.
    options: ShardOptions,
}

impl ShardRole {
    pub(crate) fn new(wiring: Arc<Wiring>, worker: Worker, options: ShardOptions) -> Self {
        let standby = Standby::new(Arc::clone(&wiring), options.clone());
        Self {
            wiring,
            worker,
            standby: Arc::new(standby),
            options,
        }
    }

    /// Loads beside the engine's thread, which goes on serving the plan in force.
    fn load(&self, plan: Arc<Plan>, stage: u16) {
        let wiring = Arc::clone(&self.wiring);
        let worker = self.worker.clone();
        let options = self.options.clone();
        let begun = self.standby.begin_load(&plan, stage);
        tokio::task::spawn_blocking(move || {
            let loaded = load(&wiring, &plan, stage, |context| ShardOptions {
                context,
                ..options
            });
            wiring
                .gauges
                .loading_permille
                .store(1000, Ordering::Relaxed);
            drop(begun);
            let result = loaded.map(|shard| {
                let bytes = shard.memory().weight_bytes;
                let plan = plan.id;
                worker.order(Job::Install {
                    plan,
                    shard: Box::new(shard),
                });
                bytes
            });
            wiring.to_shard(Input::LayersLoaded {
                plan: plan.id,
                result,
            });
        });
    }

    fn loaded(&self, plan: PlanId, result: Result<u64, String>) {
        if let Err(cause) = &result {
            tracing::error!(%plan, cause, "layers not loaded");
        }
        self.wiring
            .to_planner(placement::Input::StageLoaded { plan, result });
    }
}

impl Role for ShardRole {
    type Machine = ShardMachine;
    type Other = std::convert::Infallible;

    fn perform(&mut self, order: Output) -> Option<Input> {
        match order {
            Output::LoadLayers { plan, stage } => self.load(plan, stage),
            Output::DropLayers { plan } => self.worker.order(Job::Drop { plan }),
            Output::KeepLayers { plan, standby } => self.standby.keep(plan, &standby),
            Output::StageLoaded { plan, result } => self.loaded(plan, result),
            Output::OpenSlot {
                plan,
                sequence,
                rows_max,
                sampling,
                prefix,
            } => self.worker.order(Job::Open {
                plan,
                sequence,
                rows_max,
                sampling,
                prefix,
            }),
            Output::RetainSlot { plan, sequence } => {
                self.worker.order(Job::Retain { plan, sequence });
            }
            Output::CloseSlot { plan, sequence } => {
                self.worker.order(Job::Close { plan, sequence });
            }
            Output::Forward(pass) => self.worker.order(Job::Forward(pass)),
            Output::Send { to, frame } => {
                let frame = self.wiring.send(to, frame)?;
                return Some(Input::Unsent { to, frame });
            }
        }
        None
    }

    fn other(&mut self, _: &ShardMachine, other: std::convert::Infallible) -> Option<Input> {
        match other {}
    }

    fn settled(&mut self, machine: &ShardMachine) {
        let gauges = &self.wiring.gauges;
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        gauges
            .sequences
            .store(narrow(machine.sequences() as u64), Ordering::Relaxed);
        gauges
            .queue_rows
            .store(narrow(machine.queue_rows()), Ordering::Relaxed);
        let counters = machine.counters();
        gauges.frames_stale.store(counters.stale, Ordering::Relaxed);
        gauges
            .frames_refused
            .store(counters.refused, Ordering::Relaxed);
        gauges
            .prefix_hits
            .store(counters.prefix_hits, Ordering::Relaxed);
        gauges
            .prefix_rows
            .store(counters.prefix_rows, Ordering::Relaxed);
    }
}

fn load(
    wiring: &Wiring,
    plan: &Plan,
    stage: u16,
    options: impl FnOnce(usize) -> ShardOptions,
) -> Result<Shard, String> {
    let wanted = Wanted::Exact {
        name: plan.model.name.clone(),
        sha256: plan.model.sha256,
    };
    let gauges = &wiring.gauges;
    let book = wiring
        .library
        .get(&wanted, &mut |done, total| gauges.loading(done, total))?;
    let range = &plan.stages[usize::from(stage)];
    let options = options(plan.context as usize);
    let mut read = 0;
    let progress = &mut |at: LoadProgress| {
        read = at.layers_read;
        gauges.loading(at.bytes_done, at.bytes_total);
    };
    let shard = Shard::load(&book.file, range.first..range.end, &options, progress)
        .map_err(|error| chain(&error))?;
    let (layers, bytes) = (range.end - range.first, shard.memory().weight_bytes);
    tracing::info!(plan = %plan.id, layers, read, bytes, "layers loaded");
    Ok(shard)
}

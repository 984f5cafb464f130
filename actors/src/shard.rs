//! The `shard` actor: this node's stages. Loads layers, and computes passes.
//!
//! It runs where frames arrive, so that rows wait for no other thread. A pass may take seconds:
//! frames wait in its mailbox meanwhile, and the rows in them go into the next pass together.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cairn_engine::{LoadProgress, Shard, ShardOptions};
use cairn_machine::placement;
use cairn_machine::shard::{Input, Output, Pass, ShardMachine};
use cairn_wire::control::Plan;
use cairn_wire::id::PlanId;

use crate::gauges::PassStart;
use crate::library::chain;
use crate::models::Wanted;
use crate::shell::Role;
use crate::stages::{Opening, Stages};
use crate::standby::Standby;
use crate::wiring::Wiring;

/// Effects of a shard.
pub(crate) struct ShardRole {
    wiring: Arc<Wiring>,
    stages: Stages,
    /// Ordered and not computed yet. Whatever is ordered after it of the stages comes after it.
    due: Option<Pass>,
    standby: Arc<Standby>,
    /// Of every shard, but for its plan's context.
    options: ShardOptions,
}

/// What the actor tells itself.
pub(crate) enum Other {
    /// Layers were loaded beside it.
    Loaded {
        plan: PlanId,
        shard: Result<Box<Shard>, String>,
    },
    /// A pass is due. That comes by the mailbox, so that whatever was there before it is dealt
    /// with before the actor computes; and so is what other actors of the thread have to do,
    /// such as to tell clients of their tokens.
    Compute,
}

impl ShardRole {
    pub(crate) fn new(wiring: Arc<Wiring>, options: ShardOptions) -> Self {
        let standby = Standby::new(Arc::clone(&wiring), options.clone());
        Self {
            wiring,
            stages: Stages::default(),
            due: None,
            standby: Arc::new(standby),
            options,
        }
    }

    /// Loads beside the actor, which goes on serving the plan in force.
    fn load(&self, plan: Arc<Plan>, stage: u16) {
        let wiring = Arc::clone(&self.wiring);
        let options = self.options.clone();
        let begun = self.standby.begin_load(&plan, stage);
        self.wiring.aside(move || {
            let shard = load(&wiring, &plan, stage, |context| ShardOptions {
                context,
                ..options
            });
            let gauges = &wiring.gauges;
            gauges.loading_permille.store(1000, Ordering::Relaxed);
            drop(begun);
            let plan = plan.id;
            let shard = shard.map(Box::new);
            wiring.ask_shard(Other::Loaded { plan, shard });
        });
    }

    fn install(&mut self, plan: PlanId, shard: Result<Box<Shard>, String>) -> Input {
        let result = shard.map(|shard| {
            let bytes = shard.memory().weight_bytes;
            self.stages.install(plan, shard);
            bytes
        });
        Input::LayersLoaded { plan, result }
    }

    /// Computes the pass that is due, if one still is.
    fn compute(&mut self) {
        let Some(pass) = self.due.take() else {
            return;
        };
        let start = PassStart::from(&pass);
        let started = Instant::now();
        let result = self.stages.forward(&pass);
        self.wiring.gauges.forward(start, started.elapsed());
        self.tell_memory();
        // By the mailbox too: the rows that came meanwhile shall be in the next pass.
        let plan = pass.plan;
        self.wiring.to_shard(Input::PassDone { plan, result });
    }

    fn tell_memory(&self) {
        let kv_bytes = &self.wiring.gauges.kv_bytes;
        kv_bytes.store(self.stages.kv_bytes(), Ordering::Relaxed);
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
    type Other = Other;

    fn perform(&mut self, order: Output) -> Option<Input> {
        match order {
            Output::LoadLayers { plan, stage } => self.load(plan, stage),
            Output::DropLayers { plan } => {
                self.compute();
                self.stages.remove(plan);
                self.wiring.gauges.dropped(plan);
            }
            Output::KeepLayers { plan, standby } => self.standby.keep(plan, &standby),
            Output::StageLoaded { plan, result } => self.loaded(plan, result),
            Output::OpenSlot {
                plan,
                sequence,
                rows_max,
                sampling,
                prefix,
            } => {
                let opening = Opening {
                    sequence,
                    rows_max,
                    sampling,
                    prefix,
                };
                self.compute();
                self.stages.open(plan, opening);
            }
            Output::RetainSlot { plan, sequence } => {
                self.compute();
                self.stages.retain(plan, sequence);
            }
            Output::CloseSlot { plan, sequence } => {
                self.compute();
                self.stages.close(plan, sequence);
            }
            Output::Forward(pass) => {
                self.stages.rouse(pass.plan);
                self.due = Some(pass);
                self.wiring.ask_shard(Other::Compute);
                return None;
            }
            Output::Send { to, frame } => {
                let frame = self.wiring.send(to, frame)?;
                return Some(Input::Unsent { to, frame });
            }
        }
        self.tell_memory();
        None
    }

    fn gives_way(other: &Other) -> bool {
        matches!(other, Other::Compute)
    }

    fn other(&mut self, _: &ShardMachine, other: Other) -> Option<Input> {
        match other {
            Other::Loaded { plan, shard } => Some(self.install(plan, shard)),
            Other::Compute => {
                self.compute();
                None
            }
        }
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

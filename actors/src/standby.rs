//! The layers that this node keeps for others: loaded when nobody waits for anything else.
//!
//! A thread reads them one by one and rests between them, never while a plan loads. It has no lower
//! priority: the system could then stop it for long while it holds the lock of the process's memory,
//! for which the network's threads would wait.
//! A plan that moves them into a stage of this node finds them in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cairn_engine::{KeptLayer, ShardOptions};
use cairn_machine::placement;
use cairn_machine::plan::{joined, standby_of};
use cairn_wire::control::{LayerRange, Plan, Standing};
use cairn_wire::limits::STANDING_MAX;

use crate::library::chain;
use crate::models::Wanted;
use crate::wiring::Wiring;

/// So many times as long as a layer took, the thread then leaves the processor to others.
const RESTS: u32 = 4;

/// A layer of a model, which is named by its file's hash.
type Key = ([u8; 32], u32);

/// Keeps layers for others.
pub(crate) struct Standby {
    wiring: Arc<Wiring>,
    options: ShardOptions,
    state: Mutex<State>,
    /// No plan loads any more.
    at_rest: Condvar,
}

#[derive(Default)]
struct State {
    /// The plan in force, once there is one.
    plan: Option<Arc<Plan>>,
    /// What it wishes.
    wanted: BTreeSet<Key>,
    kept: BTreeMap<Key, KeptLayer>,
    /// Loads of plans that are under way.
    loads: u32,
    /// Whether the thread runs.
    works: bool,
    /// A layer cannot be read; the others are not tried until another plan is in force.
    failed: bool,
}

/// A plan loads; ends when it is dropped.
pub(crate) struct Load(Arc<Standby>);

impl Standby {
    /// Keeps nothing yet. The options are those of the shards.
    pub(crate) fn new(wiring: Arc<Wiring>, options: ShardOptions) -> Self {
        Self {
            wiring,
            options,
            state: Mutex::default(),
            at_rest: Condvar::new(),
        }
    }

    /// A plan is in force: from now on this node keeps these layers and no others. Those in
    /// memory are taken at once.
    pub(crate) fn keep(self: &Arc<Self>, plan: Arc<Plan>, layers: &[LayerRange]) {
        let sha256 = plan.model.sha256;
        let mut state = self.lock();
        state.wanted = keys(sha256, layers).collect();
        let State { wanted, kept, .. } = &mut *state;
        kept.retain(|key, _| wanted.contains(key));
        if let Some(book) = self.wiring.library.held(&sha256) {
            for key in wanted
                .iter()
                .filter(|(_, layer)| *layer < plan.model.layers)
            {
                if !kept.contains_key(key)
                    && let Some(layer) = KeptLayer::find(&book.file, key.1, &self.options)
                {
                    kept.insert(*key, layer);
                }
            }
        }
        state.plan = Some(plan);
        state.failed = false;
        self.tell(&state);
        self.work(state);
    }

    /// A stage of a plan is about to load. Lets go of what neither the stage nor this node's
    /// part as a standby will need: the planner counted on that memory.
    pub(crate) fn begin_load(self: &Arc<Self>, plan: &Plan, stage: u16) -> Load {
        let stage = &plan.stages[usize::from(stage)];
        let mut needed = standby_of(plan, self.wiring.me);
        needed.push(LayerRange {
            first: stage.first,
            end: stage.end,
        });
        let needed: BTreeSet<Key> = keys(plan.model.sha256, &needed).collect();
        let mut state = self.lock();
        state.loads += 1;
        let kept_before = state.kept.len();
        state.kept.retain(|key, _| needed.contains(key));
        if state.kept.len() < kept_before {
            self.tell(&state);
        }
        Load(Arc::clone(self))
    }

    /// Lets a thread load what is missing, unless one does.
    fn work(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.works || state.missing().is_none() {
            return;
        }
        state.works = true;
        let me = Arc::clone(self);
        self.wiring.aside(move || me.load_missing());
    }

    fn load_missing(&self) {
        let mut state = self.lock();
        loop {
            let waited = self.at_rest.wait_while(state, |state| state.loads > 0);
            state = waited.unwrap_or_else(PoisonError::into_inner);
            let Some((key, plan)) = state.missing() else {
                state.works = false;
                return;
            };
            drop(state);
            let begun = Instant::now();
            let loaded = self.load(&plan, key.1);
            std::thread::sleep(begun.elapsed() * RESTS);
            state = self.lock();
            match loaded {
                Ok(layer) if state.wanted.contains(&key) => {
                    state.kept.insert(key, layer);
                    self.tell(&state);
                    if state.missing().is_none() {
                        let layers = state.kept.len();
                        tracing::info!(plan = %plan.id, layers, "standing by for others");
                    }
                }
                Ok(_) => {}
                Err(cause) => {
                    tracing::warn!(plan = %plan.id, cause, "cannot stand by");
                    state.failed = true;
                }
            }
        }
    }

    fn load(&self, plan: &Plan, layer: u32) -> Result<KeptLayer, String> {
        let wanted = Wanted::Exact {
            name: plan.model.name.clone(),
            sha256: plan.model.sha256,
        };
        let book = self.wiring.library.get(&wanted, &mut |_, _| {})?;
        KeptLayer::load(&book.file, layer, &self.options).map_err(|error| chain(&error))
    }

    fn tell(&self, state: &State) {
        let standing = state.standing();
        self.wiring.gauges.stands_by(standing.clone());
        self.wiring.to_planner(placement::Input::Standing {
            from: self.wiring.me,
            standing,
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A layer that is wanted and not there, for which plan.
    fn missing(&self) -> Option<(Key, Arc<Plan>)> {
        let plan = self.plan.as_ref().filter(|_| !self.failed)?;
        let is_missing = |key: &&Key| !self.kept.contains_key(*key);
        let key = self.wanted.iter().find(is_missing)?;
        Some((*key, Arc::clone(plan)))
    }

    /// What the others are told.
    fn standing(&self) -> Option<Standing> {
        let plan = self.plan.as_ref().filter(|_| !self.wanted.is_empty())?;
        let there = self.wanted.iter().filter(|key| self.kept.contains_key(key));
        let ranges = there.map(|(_, layer)| LayerRange {
            first: *layer,
            end: layer + 1,
        });
        let mut layers = joined(ranges.collect());
        // More cannot be told; what is not told is not counted on.
        layers.truncate(STANDING_MAX);
        Some(Standing {
            plan: plan.id,
            layers,
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.loads -= 1;
        self.0.at_rest.notify_all();
        // What was let go is wanted again, should the plan be given up.
        self.0.work(state);
    }
}

fn keys(sha256: [u8; 32], layers: &[LayerRange]) -> impl Iterator<Item = Key> {
    let layers = layers.iter().flat_map(|range| range.first..range.end);
    layers.map(move |layer| (sha256, layer))
}

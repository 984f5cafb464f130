//! How the actors of one node reach each other, the network and the world outside.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cairn_machine::view::View;
use cairn_machine::{capability, member, pipeline, placement, shard};
use cairn_net::{Net, Refused};
use cairn_wire::control::{Control, Plan};
use cairn_wire::frame::DataFrame;
use cairn_wire::id::NodeId;
use ractor::ActorRef;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::capability::CapabilityRole;
use crate::discovery::DiscoveryRole;
use crate::gauges::Gauges;
use crate::library::Library;
use crate::pipeline::PipelineRole;
use crate::planner::PlannerRole;
use crate::shard::{self as shard_actor, ShardRole};
use crate::shell::{Guard, Msg, Role};

/// Names kept; the nodes after that go by their ids.
const NAMES_MAX: usize = 10_000;

/// Shared by all actors of one node.
pub(crate) struct Wiring {
    pub(crate) me: NodeId,
    pub(crate) library: Library,
    pub(crate) gauges: Gauges,
    runtime: Handle,
    net: OnceLock<Net>,
    names: Mutex<BTreeMap<NodeId, String>>,
    /// The model file whose layers this node measures itself with.
    sample: Mutex<Option<PathBuf>>,
    actors: OnceLock<Actors>,
    pub(crate) view: watch::Sender<View>,
    pub(crate) plan: watch::Sender<Option<Arc<Plan>>>,
    pub(crate) failed: watch::Sender<Option<String>>,
}

/// The five actors.
pub(crate) struct Actors {
    pub(crate) discovery: ActorRef<Msg<DiscoveryRole>>,
    pub(crate) capability: ActorRef<Msg<CapabilityRole>>,
    pub(crate) planner: ActorRef<Msg<PlannerRole>>,
    pub(crate) shard: ActorRef<Msg<ShardRole>>,
    pub(crate) pipeline: ActorRef<Msg<PipelineRole>>,
}

impl Wiring {
    /// Must be called within the node's runtime.
    pub(crate) fn new(me: NodeId, name: &str, library: Library) -> Self {
        Self {
            me,
            library,
            gauges: Gauges::default(),
            runtime: Handle::current(),
            net: OnceLock::new(),
            names: Mutex::new(BTreeMap::from([(me, name.to_owned())])),
            sample: Mutex::default(),
            actors: OnceLock::new(),
            view: watch::Sender::new(View::default()),
            plan: watch::Sender::new(None),
            failed: watch::Sender::new(None),
        }
    }

    /// What people call a node; its short id until it has told.
    pub(crate) fn name(&self, node: NodeId) -> String {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names
            .get(&node)
            .cloned()
            .unwrap_or_else(|| node.to_string())
    }

    /// A node has told its name. Names are kept: logs speak of nodes that are gone.
    pub(crate) fn named(&self, node: NodeId, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < NAMES_MAX || names.contains_key(&node) {
            names.insert(node, name.to_owned());
        }
    }

    /// From now on this node measures itself with layers of this file; says whether it is
    /// another than before.
    pub(crate) fn sample_with(&self, path: &Path) -> bool {
        let mut sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        let old = sample.replace(path.to_owned());
        old.as_deref() != Some(path)
    }

    /// The file whose layers this node measures itself with, if there is one yet.
    pub(crate) fn sample(&self) -> Option<PathBuf> {
        let sample = self.sample.lock().unwrap_or_else(PoisonError::into_inner);
        sample.clone()
    }

    /// Called once, when all actors run.
    pub(crate) fn connect(&self, actors: Actors) {
        assert!(self.actors.set(actors).is_ok(), "actors are wired once");
    }

    /// Called once, when the network is up.
    pub(crate) fn attach(&self, net: Net) {
        assert!(self.net.set(net).is_ok(), "the network is attached once");
    }

    pub(crate) fn net(&self) -> Option<&Net> {
        self.net.get()
    }

    pub(crate) fn actors(&self) -> Option<&Actors> {
        self.actors.get()
    }

    pub(crate) fn to_discovery(&self, fact: member::Input) {
        self.cast(|actors| &actors.discovery, fact, None);
    }

    pub(crate) fn to_capability(&self, fact: capability::Input) {
        self.cast(|actors| &actors.capability, fact, None);
    }

    pub(crate) fn to_planner(&self, fact: placement::Input) {
        self.cast(|actors| &actors.planner, fact, None);
    }

    pub(crate) fn to_shard(&self, fact: shard::Input) {
        self.cast(|actors| &actors.shard, fact, None);
    }

    pub(crate) fn to_pipeline(&self, fact: pipeline::Input) {
        self.cast(|actors| &actors.pipeline, fact, None);
    }

    pub(crate) fn ask_shard(&self, other: shard_actor::Other) {
        if let Some(actors) = self.actors.get() {
            drop(actors.shard.cast(Msg::Other(other, None)));
        }
    }

    /// Lets a thread of the node's runtime do what takes long. The caller may be bound to a
    /// core; a thread that it started itself would be bound to that core too.
    pub(crate) fn aside(&self, work: impl FnOnce() + Send + 'static) {
        self.runtime.spawn(async {
            // It tells what came of it by itself.
            tokio::task::spawn_blocking(work);
        });
    }

    /// Hands a frame of the data plane to the actors that it is for.
    pub(crate) fn deliver(&self, from: NodeId, frame: DataFrame, guard: Guard) {
        match frame {
            DataFrame::Sampled(sampled) => {
                // The stages are at work while the clients are told.
                if sampled.goes_on {
                    let frame = DataFrame::Sampled(sampled.clone());
                    let fact = shard::Input::Arrived { from, frame };
                    self.cast(|actors| &actors.shard, fact, None);
                }
                if sampled.is_for(self.me) {
                    let fact = pipeline::Input::Sampled { from, sampled };
                    self.cast(|actors| &actors.pipeline, fact, guard);
                }
            }
            DataFrame::Failed(failed) => {
                let fact = pipeline::Input::Failed { from, failed };
                self.cast(|actors| &actors.pipeline, fact, guard);
            }
            DataFrame::Rows(_) | DataFrame::Open(_) | DataFrame::Close(_) => {
                let fact = shard::Input::Arrived { from, frame };
                self.cast(|actors| &actors.shard, fact, guard);
            }
            // Links keep credits to themselves.
            DataFrame::Credit(_) => {}
        }
    }

    /// Sends a frame, to this node itself if it is for it; gives it back when the link is full.
    pub(crate) fn send(&self, to: NodeId, frame: DataFrame) -> Option<DataFrame> {
        if to == self.me {
            self.deliver(self.me, frame, None);
            return None;
        }
        let returned = self.net()?.offer(to, frame).err()?;
        match returned.why {
            Refused::Full => Some(returned.frame),
            // The membership says so too in a moment, and ends what depended on it.
            Refused::NoLink => None,
            Refused::Invalid(violation) => {
                tracing::error!(%to, %violation, "made a frame that breaks the protocol");
                None
            }
        }
    }

    /// Sends a message; a full link drops it, because every one is said again or outdated soon.
    pub(crate) fn send_control(&self, to: NodeId, message: &Control) {
        let Some(net) = self.net() else {
            return;
        };
        if let Err(error) = net.offer_control(to, message) {
            tracing::debug!(%to, %error, "a control message was not sent");
        }
    }

    /// The node cannot go on; the first cause stays.
    pub(crate) fn fail(&self, cause: String) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(cause);
            first
        });
    }

    fn cast<R: Role>(
        &self,
        pick: impl Fn(&Actors) -> &ActorRef<Msg<R>>,
        fact: <R::Machine as cairn_machine::Machine>::Input,
        guard: Guard,
    ) {
        // Before the start and after the end there is nobody to tell.
        if let Some(actors) = self.actors.get() {
            drop(pick(actors).cast(Msg::Fact(fact, guard)));
        }
    }
}

//! A running node: what the program around it can ask of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use cairn_engine::kernel::bind_caller;
use cairn_engine::{ShardOptions, Threads};
use cairn_machine::member;
use cairn_machine::pipeline::RequestId;
use cairn_net::{Identity, Interfaces, Mdns, Secret};
use cairn_wire::control::Plan;
use cairn_wire::id::BootId;
use ractor::ActorRef;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::{Answer, AnswerError, Config, Prompt, StartError};
use crate::capability::measure::{Measurer, Trust};
use crate::capability::{AskTold, Offer, Told};
use crate::library::{Book, Library};
use crate::logs::relay::Relay;
use crate::logs::{ClusterLine, LogQuery};
use crate::models::Wanted;
use crate::pipeline::{Load, Other, Submission};
use crate::planner::AskWaiting;
use crate::prompt::prepare;
use crate::root;
use crate::route::Router;
use crate::shell::{Clock, Msg};
use crate::status::{Snapshot, Status};
use crate::stop::StopTexts;
use crate::wiring::{Actors, Wiring};

/// Peers hear the goodbye before their connections close.
const GOODBYE: std::time::Duration = std::time::Duration::from_millis(150);

/// A running node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    wiring: Arc<Wiring>,
    relay: Relay,
    root: ActorRef<()>,
    cluster: Arc<str>,
    name: Arc<str>,
    view: watch::Receiver<cairn_machine::view::View>,
    plan: watch::Receiver<Option<Arc<Plan>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.wiring.me)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Node {
    /// Starts the actors and the network.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running.
    pub async fn start(config: Config) -> Result<Node, StartError> {
        let identity = Identity::from_seed(config.identity);
        let wiring = Arc::new(Wiring::new(
            identity.node(),
            &config.name,
            Library::new(Arc::clone(&config.models)),
        ));
        let boot = boot_id()?;
        let clock = Clock::start();
        let offer = Arc::new(offer(&config));
        if let Some(sample) = &config.sample {
            wiring.sample_with(sample);
        }
        let binding = offer.measurer.options.binding;
        let thread = cairn_net::Thread::start(move || {
            if binding == Threads::Pinned {
                bind_caller();
            }
        });
        let thread = thread.map_err(|error| StartError::Net(error.to_string()))?;
        let root = root::start(&config, &wiring, (boot, clock), &offer, thread.runtime()).await?;
        let relay = Relay::new(Arc::clone(&wiring), config.logs.clone());
        if let Err(error) = open_net(&config, (identity, boot), thread, &wiring, &relay).await {
            root.stop(None);
            return Err(error);
        }
        greet(&config, &wiring);
        Offer::measure(&offer, &wiring, Trust::Kept);
        Ok(Node {
            view: wiring.view.subscribe(),
            plan: wiring.plan.subscribe(),
            wiring,
            relay,
            root,
            cluster: config.cluster.into(),
            name: config.name.into(),
        })
    }

    /// This node's id, short.
    pub fn id(&self) -> String {
        self.wiring.me.to_string()
    }

    /// Where peers can reach it.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.wiring
            .net()
            .map(cairn_net::Net::listening)
            .unwrap_or_default()
    }

    /// The cluster as this node sees it now.
    pub async fn status(&self) -> Status {
        let told = self.told().await;
        let (waiting_for, load) = match self.wiring.actors() {
            Some(actors) => (waiting_for(actors).await, load(actors).await),
            None => (None, None),
        };
        let snapshot = Snapshot {
            wiring: &self.wiring,
            me: self.wiring.me,
            cluster: &self.cluster,
            name: &self.name,
            view: self.view.borrow().clone(),
            plan: self.plan.borrow().clone(),
            told,
            waiting_for: waiting_for.unwrap_or_default(),
            load,
        };
        snapshot.status()
    }

    /// Resolves when the members or the plan have changed since the last call on this clone.
    pub async fn changed(&mut self) {
        tokio::select! {
            changed = self.view.changed() => drop(changed),
            changed = self.plan.changed() => drop(changed),
        }
    }

    /// Resolves with a cause when the node cannot go on (its identity is in use elsewhere, an actor failed).
    pub async fn failed(&self) -> String {
        let mut failed = self.wiring.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(cause) => cause.clone().unwrap_or_default(),
            Err(_) => "the node has ended".to_owned(),
        }
    }

    /// Starts an answer.
    ///
    /// # Errors
    /// What is wrong with the prompt, or with the cluster before anything was tried.
    pub async fn answer(&self, prompt: Prompt) -> Result<Answer, AnswerError> {
        let plan = self.plan.borrow().clone();
        let (Some(plan), Some(actors)) = (plan, self.wiring.actors()) else {
            let waiting = match self.wiring.actors() {
                Some(actors) => waiting_for(actors).await,
                None => None,
            };
            return Err(AnswerError::NotReady(format!(
                "no plan is in force yet; waiting for {}",
                waiting.unwrap_or_else(|| "the node to start".to_owned())
            )));
        };
        let wiring = Arc::clone(&self.wiring);
        let stop = StopTexts::new(prompt.stop.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            let book = open_book(&wiring, &plan).map_err(AnswerError::NotReady)?;
            let request = prepare(&book, &plan, &prompt)?;
            let decode = book.words().map_err(AnswerError::NotReady)?;
            Ok((request, decode.tokenizer.stream(), plan.context))
        });
        let prepared = prepared
            .await
            .map_err(|error| AnswerError::NotReady(format!("cannot read the prompt: {error}")))?;
        let (request, decode, context) = prepared?;
        let prompt_tokens = u32::try_from(request.tokens.len()).unwrap_or(u32::MAX);
        // Room for every token that can come and the end, so that the actor never waits.
        let room = request.tokens_max.min(context) as usize + 2;
        let (events, receiver) = mpsc::channel(room);
        let submission = Box::new(Submission {
            request,
            decode,
            stop,
            events,
        });
        let id: Option<RequestId> =
            ask(&actors.pipeline, |reply| Other::Submit(submission, reply)).await;
        let ended = || AnswerError::NotReady("the node is on its way down".to_owned());
        let id = id.ok_or_else(ended)?;
        Ok(Answer {
            id: format!("{}-{}", self.wiring.me, id.0),
            prompt_tokens,
            events: receiver,
        })
    }

    /// The merged log of the cluster, in order of time.
    pub fn logs(&self, query: LogQuery) -> mpsc::Receiver<ClusterLine> {
        self.relay.follow(query)
    }

    /// Says goodbye to the members and stops everything.
    pub async fn leave(self) {
        self.wiring.to_discovery(member::Input::LeaveOrdered);
        tokio::time::sleep(GOODBYE).await;
        self.root.stop(None);
        if let Some(actors) = self.wiring.actors() {
            actors.discovery.stop(None);
            actors.capability.stop(None);
            actors.planner.stop(None);
            actors.shard.stop(None);
            actors.pipeline.stop(None);
        }
        let wiring = Arc::clone(&self.wiring);
        let down = tokio::task::spawn_blocking(move || {
            if let Some(net) = wiring.net() {
                net.shutdown();
            }
        });
        if down.await.is_err() {
            tracing::error!("the network did not shut down cleanly");
        }
    }

    async fn told(&self) -> Told {
        let told = match self.wiring.actors() {
            Some(actors) => ask(&actors.capability, AskTold).await,
            None => None,
        };
        told.unwrap_or(Told {
            capabilities: BTreeMap::new(),
            statuses: BTreeMap::new(),
        })
    }
}

async fn waiting_for(actors: &Actors) -> Option<String> {
    ask(&actors.planner, AskWaiting).await
}

async fn load(actors: &Actors) -> Option<Load> {
    ask(&actors.pipeline, Other::AskLoad).await
}

/// Asks an actor; nothing when it has ended.
async fn ask<R: crate::shell::Role, T: Send + 'static>(
    actor: &ActorRef<Msg<R>>,
    question: impl FnOnce(ractor::RpcReplyPort<T>) -> R::Other,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let message = Msg::Other(question(reply.into()), None);
    actor.cast(message).ok()?;
    answer.await.ok()
}

fn open_book(wiring: &Wiring, plan: &Plan) -> Result<Arc<Book>, String> {
    let wanted = Wanted::Exact {
        name: plan.model.name.clone(),
        sha256: plan.model.sha256,
    };
    wiring.library.get(&wanted, &mut |_, _| {})
}

/// Opens the network on a blocking thread: it waits until it listens.
async fn open_net(
    config: &Config,
    (identity, boot): (Identity, BootId),
    thread: cairn_net::Thread,
    wiring: &Arc<Wiring>,
    relay: &Relay,
) -> Result<(), StartError> {
    let net_config = cairn_net::Config {
        identity,
        boot,
        cluster: config.cluster.clone(),
        secret: Secret::from_bytes(config.secret.clone()),
        listen: config.listen,
        mdns: match config.mdns_port {
            Some(port) => Mdns::On {
                port,
                interfaces: Interfaces::Auto,
            },
            None => Mdns::Off,
        },
        version: config.version.clone(),
    };
    let router = Router {
        wiring: Arc::clone(wiring),
        relay: relay.clone(),
        runtime: Handle::current(),
    };
    let sink = Arc::new(move |event| router.route(event));
    let start = move || cairn_net::start(thread, net_config, sink);
    let started = tokio::task::spawn_blocking(start)
        .await
        .map_err(|error| StartError::Net(error.to_string()))?;
    let net = started.map_err(|error| StartError::Net(error.to_string()))?;
    wiring.attach(net);
    Ok(())
}

/// Tells membership what the user said about addresses.
fn greet(config: &Config, wiring: &Wiring) {
    let listening = wiring.net().map(cairn_net::Net::listening);
    let addresses = listening.unwrap_or_default();
    let addresses = addresses.iter().map(ToString::to_string).collect();
    wiring.to_discovery(member::Input::Listening { addresses });
    for peer in &config.peers {
        let address = peer.to_string();
        wiring.to_discovery(member::Input::Named { address });
    }
}

/// What this node will tell of itself, once it has measured itself.
fn offer(config: &Config) -> Offer {
    Offer {
        name: config.name.clone(),
        version: config.version.clone(),
        memory_bytes: config.memory_bytes,
        wish: config.model.clone(),
        measurer: Measurer {
            build: config.build.clone(),
            cache_dir: config.cache_dir.clone(),
            options: ShardOptions {
                // Asked before any thread of this process is bound.
                binding: Threads::for_count(config.threads),
                device: config.device,
                cache: config.kv_cache,
                // Each plan brings its own context.
                ..ShardOptions::new(0, config.threads)
            },
        },
    }
}

/// A number for this run. Any two runs of one node differ.
fn boot_id() -> Result<BootId, StartError> {
    let seed = Identity::generate().map_err(|error| StartError::Net(error.to_string()))?;
    let bytes = seed.seed()[..8].try_into().expect("eight bytes");
    Ok(BootId(u64::from_le_bytes(bytes)))
}

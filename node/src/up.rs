//! `cairn up`: one node, from its configuration to its goodbye.
//!
//! Starts and stops things in order; what the node does in between is its own.

mod report;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cairn_actors::{Config, LogBook, Node};
use tokio::sync::oneshot;

use crate::cli::UpArgs;
use crate::config::{Settings, Wishes};
use crate::exit::{Exit, Failure};
use crate::home::{Home, Membership, NodeDir, NodeFile};
use crate::http;
use crate::join::JoinLine;
use crate::models::{self, Cancel, DEFAULT_MODEL, Store};
use crate::observe;
use crate::signals::StopSignal;
use crate::terminal::Paint;

use report::Report;

/// Goodbyes take a round trip; whoever needs longer is treated as gone.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What is left of requests and downloads after the goodbye.
const REST_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the report looks at progress.
const LOOK: Duration = Duration::from_secs(1);
/// Actors and HTTP are light, and a row passes several of them one after the other. With two
/// workers each such step woke the other worker, on a core that the engine wants.
const WORKER_COUNT: usize = 1;
/// Addresses in a join line: more would make it long, and mDNS finds the rest.
const JOIN_PEERS_MAX: usize = 2;

/// A node's surroundings, ready before it starts.
struct Ground {
    home: Home,
    settings: Settings,
    membership: Membership,
    dir: NodeDir,
    http: TcpListener,
    logs: LogBook,
}

/// Runs the command.
pub(crate) fn run(args: UpArgs) -> Result<(), Failure> {
    let (json, ephemeral) = (args.json, args.ephemeral);
    let ground = prepare(args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_COUNT)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let stdin_closed = ephemeral.then(watch_stdin);
    let ended = runtime.block_on(stay(&ground, json, stdin_closed));
    runtime.shutdown_timeout(REST_TIMEOUT);
    match ephemeral {
        true => ground.dir.remove(),
        false => ground.dir.retract(),
    }
    ended
}

fn prepare(args: UpArgs) -> Result<Ground, Failure> {
    let usage = |error: anyhow::Error| Failure::new(Exit::Usage, error);
    let home = Home::of_user()?;
    let file = Wishes::read(args.config.as_deref(), &home.config_file).map_err(usage)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut settings = args
        .wishes
        .or(file)
        .check(args.join.as_deref(), cores)
        .map_err(|faults| usage(faults.into()))?;
    let device = settings.device.resolve();
    settings.device = device.map_err(|error| usage(error.into()))?;
    if let Some(model) = &settings.model {
        models::check_name(model).map_err(|error| Failure::new(Exit::Model, error))?;
    }
    let mut warnings = settings.warnings.clone();
    let membership = Membership::settle(&home, &settings.cluster, &mut warnings)?;
    let dir = match &settings.data_dir {
        Some(path) => NodeDir::claim(path)?,
        None => NodeDir::claim_free(&home)?,
    };
    warnings.extend(dir.warnings.iter().cloned());
    let http = http::bind(settings.http)?;
    let shape = match args.json {
        true => observe::Shape::Json,
        false => observe::Shape::Text(Paint::stderr()),
    };
    let logs = observe::start(settings.log_level, shape);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok(Ground {
        home,
        settings,
        membership,
        dir,
        http,
        logs,
    })
}

/// Starts the node and stays until a signal, a closed stdin or a failure.
async fn stay(
    ground: &Ground,
    json: bool,
    stdin_closed: Option<oneshot::Receiver<()>>,
) -> Result<(), Failure> {
    let mut signal = StopSignal::register().context("cannot wait for signals")?;
    let cancel = Cancel::default();
    let config = config(ground, &cancel);
    let name = config.name.clone();
    let mut node = Node::start(config)
        .await
        .map_err(|error| Failure::new(Exit::Failure, error))?;
    let address = ground
        .http
        .local_addr()
        .context("an HTTP socket has an address")?;
    let listener = ground.http.try_clone().context("cannot serve HTTP")?;
    let (stop_http, http_stopped) = oneshot::channel::<()>();
    let stop = async {
        // A dropped sender means "stop" as well.
        http_stopped.await.ok();
    };
    let mut server = tokio::spawn(http::serve(listener, node.clone(), stop));
    ground.dir.publish(&NodeFile {
        pid: std::process::id(),
        id: node.id(),
        name: name.clone(),
        http: address,
        listen: node.listening(),
    })?;
    let join = join_line(&ground.membership, &node.listening());
    let mut report = Report::new(json, format!("http://{address}"), join.to_string());
    report.started(&name, &ground.membership.cluster, &node.listening())?;
    let stdin_closed = async {
        match stdin_closed {
            // A watcher that is gone is as good as a closed stdin.
            Some(closed) => drop(closed.await),
            None => std::future::pending().await,
        }
    };
    tokio::pin!(stdin_closed);
    let watcher = node.clone();
    let ended = loop {
        report.update(&node.status().await)?;
        tokio::select! {
            () = signal.next() => break Ok(()),
            () = &mut stdin_closed => break Ok(()),
            cause = watcher.failed() => break Err(Failure::text(Exit::Failure, cause)),
            served = &mut server => {
                let served = served.context("the HTTP server ended").and_then(|served| served);
                break served.map_err(Failure::from);
            }
            () = node.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    };
    report.leaving()?;
    cancel.cancel();
    tokio::select! {
        left = tokio::time::timeout(LEAVE_TIMEOUT, node.leave()) => {
            if left.is_err() {
                tracing::warn!("the goodbye took too long; the others will notice by themselves");
            }
        }
        () = signal.next() => return Err(Failure::interrupted()),
    }
    drop(stop_http);
    if !server.is_finished() {
        // Clients that still read are cut off: the node behind them is gone.
        tokio::time::timeout(REST_TIMEOUT, &mut server).await.ok();
        server.abort();
    }
    ended
}

fn config(ground: &Ground, cancel: &Cancel) -> Config {
    let settings = &ground.settings;
    Config {
        name: settings
            .name
            .clone()
            .unwrap_or_else(|| ground.dir.default_name.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        identity: ground.dir.identity,
        cluster: ground.membership.cluster.clone(),
        secret: ground.membership.secret.clone().into_bytes(),
        listen: settings.listen,
        peers: settings.peers.clone(),
        mdns_port: settings.mdns_port,
        data_dir: ground.dir.path.clone(),
        cache_dir: ground.home.cache.clone(),
        build: build(),
        // One that is not here yet is measured with when it is.
        sample: models::on_disk(settings.model.as_deref().unwrap_or(DEFAULT_MODEL)).ok(),
        model: settings.model.clone(),
        default_model: DEFAULT_MODEL.to_owned(),
        strategy: settings.strategy.clone(),
        context: settings.context,
        sequences: settings.sequences,
        threads: settings.threads,
        device: settings.device,
        kv_cache: settings.kv_cache,
        memory_bytes: settings.memory_bytes,
        models: Arc::new(Store::new(&ground.home.cache, cancel.clone())),
        logs: ground.logs.clone(),
    }
}

/// Names this build: the version, and the size and time of change of the program's file.
fn build() -> String {
    let file = std::env::current_exe().and_then(std::fs::metadata);
    let changed = file.as_ref().ok().and_then(|file| file.modified().ok());
    let changed = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    format!(
        "{} {} {}",
        env!("CARGO_PKG_VERSION"),
        file.map_or(0, |file| file.len()),
        changed.map_or(0, |time| time.as_nanos())
    )
}

/// What the next device is told; addresses of the network before those of this device only.
fn join_line(membership: &Membership, listening: &[SocketAddr]) -> JoinLine {
    let mut peers = listening.to_vec();
    peers.sort_by_key(|peer| (peer.ip().is_loopback(), peer.is_ipv6()));
    let reachable = peers.iter().filter(|peer| !peer.ip().is_loopback()).count();
    peers.truncate(match reachable {
        0 => 1,
        count => count.min(JOIN_PEERS_MAX),
    });
    JoinLine {
        cluster: membership.cluster.clone(),
        secret: membership.secret.clone(),
        peers,
    }
}

/// Resolves when stdin ends. A thread of its own, since a read of stdin cannot be cancelled.
fn watch_stdin() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        // An error of stdin ends it as well.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
        sender.send(()).ok();
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_line_prefers_addresses_that_others_can_reach() {
        let membership = Membership {
            cluster: "c".to_owned(),
            secret: "s".to_owned(),
        };
        let peers = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let table: [(&[&str], &[&str]); 4] = [
            (&["127.0.0.1:1"], &["127.0.0.1:1"]),
            (&["127.0.0.1:1", "10.0.0.1:1"], &["10.0.0.1:1"]),
            (
                &["[fe80::1]:1", "10.0.0.1:1", "10.0.0.2:1", "127.0.0.1:1"],
                &["10.0.0.1:1", "10.0.0.2:1"],
            ),
            (&[], &[]),
        ];
        for (listening, expected) in table {
            let line = join_line(&membership, &peers(listening));
            assert_eq!(line.peers, peers(expected), "{listening:?}");
        }
    }
}

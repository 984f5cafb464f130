//! mDNS: who says that they are here. Hints only, to be dialled and proven.
//!
//! Absence proves nothing either way: a killed node stays announced for two minutes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cairn_wire::hello::PROTOCOL_VERSION;
use cairn_wire::id::{BootId, NodeId};
use mdns_sd::{IfKind, IfPredicate, Receiver, ResolvedService, ScopedIp, ServiceDaemon};
use mdns_sd::{ServiceEvent, ServiceInfo};

use crate::config::Interfaces;

const SERVICE: &str = "_cairn._tcp.local.";
/// How long an instance has to answer when its address did not.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the goodbye may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(200);
/// An interface that came up is noticed after this long.
const INTERFACE_CHECK_SECONDS: u32 = 1;

/// What this node tells everybody: nothing volatile, nothing secret.
#[derive(Clone, Debug)]
pub(crate) struct Announcement {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    /// See `config::cluster_tag`; the first eight bytes are announced.
    pub(crate) cluster: [u8; 32],
    pub(crate) listen: SocketAddr,
}

/// A node of this cluster, as announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    /// Nearest first.
    pub(crate) addresses: Vec<SocketAddr>,
}

pub(crate) struct Discovery {
    daemon: ServiceDaemon,
    browser: Receiver<ServiceEvent>,
    announcement: Announcement,
    instance: String,
}

impl Discovery {
    pub(crate) fn start(
        port: u16,
        interfaces: &Interfaces,
        announcement: Announcement,
    ) -> mdns_sd::Result<Self> {
        let daemon = ServiceDaemon::new_with_port(port)?;
        restrict(&daemon, interfaces, announcement.listen.ip())?;
        daemon.set_ip_check_interval(INTERFACE_CHECK_SECONDS)?;
        let service = service(&announcement)?;
        let instance = service.get_fullname().to_owned();
        let browser = daemon.browse(SERVICE)?;
        daemon.register(service)?;
        Ok(Self {
            daemon,
            browser,
            announcement,
            instance,
        })
    }

    /// The next node of this cluster that announces itself; this one's own
    /// identity with another run included. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Sighting {
        loop {
            match self.browser.recv_async().await {
                Ok(ServiceEvent::ServiceResolved(service)) => {
                    if let Some(sighting) = self.sighting(&service) {
                        return sighting;
                    }
                }
                // Began, ended, not yet resolved, gone: no news of anybody.
                Ok(_) => {}
                // The daemon drops a listener that was slow once.
                Err(_) => {
                    self.look_again();
                    if self.browser.is_disconnected() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    /// Asks everybody again: the daemon's own questions back off to an hour.
    pub(crate) fn look_again(&mut self) {
        // A daemon that is gone or busy will be asked again next time.
        drop(self.daemon.stop_browse(SERVICE));
        if let Ok(browser) = self.daemon.browse(SERVICE) {
            self.browser = browser;
        }
    }

    /// Has `node`'s announcement forgotten unless it answers: it could not be reached.
    pub(crate) fn doubt(&self, node: &NodeId) {
        let instance = format!("{}.{SERVICE}", instance_name(node));
        drop(self.daemon.verify(instance, VERIFY_TIMEOUT));
    }

    /// Says goodbye, so that others need not find out.
    pub(crate) async fn stop(self) {
        let goodbye = async {
            if let Ok(done) = self.daemon.unregister(&self.instance) {
                drop(done.recv_async().await);
            }
        };
        drop(tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await);
        drop(self.daemon.shutdown());
    }

    fn sighting(&self, service: &ResolvedService) -> Option<Sighting> {
        let text = |key| service.get_property_val_str(key);
        if text("cl")? != cluster_text(&self.announcement.cluster) {
            return None;
        }
        let sighting = Sighting {
            node: NodeId(parse_hex(text("id")?)?),
            boot: BootId(u64::from_str_radix(text("boot")?, 16).ok()?),
            addresses: addresses(service),
        };
        let is_own =
            sighting.node == self.announcement.node && sighting.boot == self.announcement.boot;
        (!is_own && !sighting.addresses.is_empty()).then_some(sighting)
    }
}

fn service(announcement: &Announcement) -> mdns_sd::Result<ServiceInfo> {
    let instance = instance_name(&announcement.node);
    let properties = BTreeMap::from([
        ("id", hex(&announcement.node.0)),
        ("boot", format!("{:016x}", announcement.boot.0)),
        ("cl", cluster_text(&announcement.cluster)),
        ("v", PROTOCOL_VERSION.to_string()),
    ]);
    let properties: Vec<(&str, String)> = properties.into_iter().collect();
    let ip = announcement.listen.ip();
    let ips: &[IpAddr] = if ip.is_unspecified() { &[] } else { &[ip] };
    let mut service = ServiceInfo::new(
        SERVICE,
        &instance,
        &format!("{instance}.local."),
        ips,
        announcement.listen.port(),
        properties.as_slice(),
    )?;
    if ip.is_unspecified() {
        service = service.enable_addr_auto();
    }
    // Names made of the key cannot clash by chance, and the probe costs most of a second.
    service.set_requires_probe(false);
    Ok(service)
}

/// Interfaces on which the listener cannot be reached are no use for announcing it.
fn restrict(
    daemon: &ServiceDaemon,
    interfaces: &Interfaces,
    listen: IpAddr,
) -> mdns_sd::Result<()> {
    let interfaces = interfaces.clone();
    daemon.disable_interface(IfKind::Predicate(IfPredicate::new(move |interface| {
        let same_family = interface.ip().is_ipv4() == listen.is_ipv4();
        let reachable = listen.is_unspecified() || listen.is_loopback() == interface.is_loopback();
        let wanted = match &interfaces {
            Interfaces::Auto => !is_container_bridge(&interface.name),
            Interfaces::Loopback => interface.is_loopback(),
            Interfaces::Named(names) => names.contains(&interface.name),
        };
        !(same_family && reachable && wanted)
    })))
}

fn is_container_bridge(name: &str) -> bool {
    ["docker", "br-", "virbr"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Loopback only where it was heard on loopback: another host's is not ours to dial.
fn addresses(service: &ResolvedService) -> Vec<SocketAddr> {
    let mut ips: Vec<IpAddr> = service
        .get_addresses()
        .iter()
        .filter_map(|scoped| match scoped {
            ScopedIp::V4(v4) => {
                let on_loopback = v4.interface_ids().iter().any(|id| is_loopback(&id.name));
                (!v4.addr().is_loopback() || on_loopback).then(|| IpAddr::from(*v4.addr()))
            }
            // Link-local addresses need a scope, which a socket address in a message loses.
            ScopedIp::V6(v6) => {
                let ip = v6.addr();
                let here = !ip.is_loopback() || is_loopback(&v6.scope_id().name);
                (here && !ip.is_unicast_link_local()).then(|| IpAddr::from(*ip))
            }
            _ => None,
        })
        .collect();
    ips.sort_by_key(|ip| (!ip.is_loopback(), ip.is_ipv6(), *ip));
    ips.into_iter()
        .map(|ip| SocketAddr::new(ip, service.get_port()))
        .collect()
}

/// By name, as the announcement's interface is known by nothing else.
fn is_loopback(interface: &str) -> bool {
    interface
        .strip_prefix("lo")
        .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

fn instance_name(node: &NodeId) -> String {
    hex(&node.0[..8])
}

fn cluster_text(cluster: &[u8; 32]) -> String {
    hex(&cluster[..8])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(text.get(2 * pair..2 * pair + 2)?, 16).ok()?;
    }
    Some(bytes)
}

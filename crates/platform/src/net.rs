//! The network of the initramfs: Ethernet links, DHCPv4, IPv6 router advertisements, name lookup.
//!
//! Everything that comes from the network is the host's word: it decides where packets go, never
//! what is believed. The protocol parts are state machines over bytes and times ([`dhcp`],
//! [`router`]); [`configure`] drives them over packet sockets within one budget, without threads.

mod backoff;
pub mod dhcp;
pub mod dns;
mod link;
mod packet;
pub mod router;
mod rtnetlink;

pub use backoff::Backoff;
pub use dhcp::Lease;
pub use dns::{ResolveError, is_host_name, resolve};
pub use link::{Link, links};
pub use router::Advertisement;
pub use rtnetlink::{Rtnetlink, RtnetlinkError};

use crate::random::{self, RandomError};
use dhcp::DhcpClient;
use packet::PacketSocket;
use router::RouterClient;
use rustix::{
    event::{Timespec, poll},
    io::Errno,
};
use std::{
    fs, io,
    net::IpAddr,
    time::{Duration, Instant},
};

/// How often sysfs is asked for new links and carriers while there is none to talk over.
const LINK_POLL: Duration = Duration::from_millis(20);

/// How long a network that gave an IPv6 prefix only is used before it is asked for a lease again.
const WITHOUT_LEASE: Duration = Duration::from_secs(10);

/// How long the other address family may still answer after the first one did, counted from the
/// first question: a router on the link answers within milliseconds.
const OTHER_FAMILY: Duration = Duration::from_millis(200);

/// Frames read from one link before the others get their turn; a flood does not starve them.
const FRAMES_A_TURN: usize = 64;

/// A machine that did not get onto the network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// No Ethernet link with a carrier appeared in time.
    #[error("no Ethernet link with a carrier within {} s", .budget.as_secs())]
    NoLink {
        /// The whole budget.
        budget: Duration,
    },
    /// Neither a DHCP server nor a router gave an address in time.
    #[error("no address from DHCP or a router within {} s", .budget.as_secs())]
    NoAddress {
        /// The whole budget.
        budget: Duration,
    },
    /// sysfs could not be listed.
    #[error("list network links")]
    Links(#[source] io::Error),
    /// No random bytes for identifiers.
    #[error("make an identifier")]
    Random(#[source] RandomError),
    /// The kernel refused a change.
    #[error("configure link")]
    Rtnetlink(#[source] RtnetlinkError),
    /// The sockets themselves failed.
    #[error("{step} packet socket")]
    Socket {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: Errno,
    },
}

/// A link with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The link that was configured.
    pub link: Link,
    /// What its DHCP server said, if there is one.
    pub lease: Option<Lease>,
    /// What its router said, if there is one.
    pub advertisement: Option<Advertisement>,
}

impl Network {
    /// All name servers, IPv4 first.
    #[must_use]
    pub fn name_servers(&self) -> Vec<IpAddr> {
        let v4 = self.lease.iter().flat_map(|lease| &lease.name_servers);
        let v6 = self
            .advertisement
            .iter()
            .flat_map(|advert| &advert.name_servers);
        v4.copied()
            .map(IpAddr::from)
            .chain(v6.copied().map(IpAddr::from))
            .collect()
    }

    /// When to configure again: half of the lease (RFC 2131, section 4.4.5). Without one soon: its
    /// server may only have been slower than the router.
    #[must_use]
    pub fn renew_after(&self) -> Duration {
        self.lease
            .as_ref()
            .map_or(WITHOUT_LEASE, |lease| lease.duration / 2)
    }
}

/// Brings every Ethernet link up and configures the first one that gets an address.
///
/// All links are asked at once. Address and default route are in the kernel on return.
///
/// # Errors
/// [`NetworkError`]; all of them are worth another try.
pub fn configure(budget: Duration) -> Result<Network, NetworkError> {
    let started = Instant::now();
    let mut netlink = Rtnetlink::open().map_err(NetworkError::Rtnetlink)?;
    let mut ports = Vec::new();
    loop {
        let now = started.elapsed();
        open_ports(&mut ports, &mut netlink, now)?;
        if let Some(network) = ports.iter().find_map(|port| port.finished(now)) {
            install(&mut netlink, &network).map_err(NetworkError::Rtnetlink)?;
            return Ok(network);
        }
        if now >= budget {
            return Err(match ports.is_empty() {
                true => NetworkError::NoLink { budget },
                false => NetworkError::NoAddress { budget },
            });
        }
        for port in &mut ports {
            port.send_due(now)?;
        }
        let wait = wait_until(&ports, now).min(budget);
        wait_readable(&ports, wait.saturating_sub(now))?;
        let now = started.elapsed();
        // A link that fails is opened again when it has a carrier again.
        ports.retain_mut(|port| port.receive_all(now).is_ok());
    }
}

/// 32 random bits for identifiers and jitter.
fn random_u32() -> Result<u32, RandomError> {
    random::array().map(u32::from_ne_bytes)
}

/// A link being asked.
struct Port {
    link: Link,
    socket: PacketSocket,
    opened: Duration,
    dhcp: DhcpClient,
    router: RouterClient,
}

impl Port {
    fn open(link: Link, now: Duration) -> Result<Self, Errno> {
        Ok(Self {
            socket: PacketSocket::open(link.index)?,
            opened: now,
            dhcp: DhcpClient::new(link.mac, now),
            router: RouterClient::new(link.mac, now),
            link,
        })
    }

    fn send_due(&mut self, now: Duration) -> Result<(), NetworkError> {
        let random = random_u32().map_err(NetworkError::Random)?;
        let frames = [self.dhcp.poll(now, random), self.router.poll(now, random)];
        for frame in frames.into_iter().flatten() {
            // A link without room or carrier loses the frame as a wire would; it is sent again.
            self.socket.send(&frame).unwrap_or_default();
        }
        Ok(())
    }

    fn receive_all(&mut self, now: Duration) -> Result<(), Errno> {
        let mut buffer = [0; 2048];
        for _ in 0..FRAMES_A_TURN {
            let Some(frame) = self.socket.receive(&mut buffer)? else {
                break;
            };
            self.dhcp.receive(now, frame);
            self.router.receive(frame);
        }
        Ok(())
    }

    /// When this port next has something to do by itself.
    fn deadline(&self) -> Option<Duration> {
        let sends = self
            .dhcp
            .deadline()
            .into_iter()
            .chain(self.router.deadline());
        let settles = self.has_address().then_some(self.opened + OTHER_FAMILY);
        sends.chain(settles).min()
    }

    const fn has_address(&self) -> bool {
        self.dhcp.lease().is_some() || self.router.advertisement().is_some()
    }

    fn finished(&self, now: Duration) -> Option<Network> {
        let both = self.dhcp.lease().is_some() && self.router.advertisement().is_some();
        let waited = now.saturating_sub(self.opened) >= OTHER_FAMILY;
        (both || (waited && self.has_address())).then(|| Network {
            link: self.link.clone(),
            lease: self.dhcp.lease().cloned(),
            advertisement: self.router.advertisement().cloned(),
        })
    }
}

/// Opens a port on every link that has a carrier and none yet; links that are down are set up.
fn open_ports(
    ports: &mut Vec<Port>,
    netlink: &mut Rtnetlink,
    now: Duration,
) -> Result<(), NetworkError> {
    for link in links().map_err(NetworkError::Links)? {
        if ports.iter().any(|port| port.link.index == link.index) {
            continue;
        }
        if link.carrier {
            let failed = |source| NetworkError::Socket {
                step: "open",
                source,
            };
            ports.push(Port::open(link, now).map_err(failed)?);
        } else {
            ignore_kernel_advertisements(&link);
            netlink
                .set_up(link.index)
                .map_err(NetworkError::Rtnetlink)?;
        }
    }
    Ok(())
}

/// The kernel would take any prefix, route and hop limit from a router; one parser is enough.
/// Without IPv6 there is no such file and nothing to switch off.
fn ignore_kernel_advertisements(link: &Link) {
    drop(fs::write(
        format!("/proc/sys/net/ipv6/conf/{}/accept_ra", link.name),
        "0",
    ));
}

fn wait_until(ports: &[Port], now: Duration) -> Duration {
    let looking = if ports.is_empty() {
        LINK_POLL
    } else {
        LINK_POLL * 10
    };
    let next_look = now + looking;
    ports
        .iter()
        .filter_map(Port::deadline)
        .fold(next_look, Duration::min)
}

fn wait_readable(ports: &[Port], wait: Duration) -> Result<(), NetworkError> {
    let mut fds: Vec<_> = ports.iter().map(|port| port.socket.poll_fd()).collect();
    let timeout = Timespec::try_from(wait).unwrap_or_default();
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(source) => Err(NetworkError::Socket {
            step: "wait on",
            source,
        }),
    }
}

fn install(netlink: &mut Rtnetlink, network: &Network) -> Result<(), RtnetlinkError> {
    let index = network.link.index;
    if let Some(lease) = &network.lease {
        netlink.add_address(index, lease.address.into(), lease.prefix_len)?;
        if let Some(router) = lease.router {
            netlink.set_default_route(index, router.into())?;
        }
    }
    if let Some(advert) = &network.advertisement {
        netlink.add_address(index, advert.address.into(), 64)?;
        if let Some(router) = advert.router {
            netlink.set_default_route(index, router.into())?;
        }
    }
    Ok(())
}

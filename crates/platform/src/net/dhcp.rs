//! A DHCPv4 client (RFC 2131) as a state machine over Ethernet frames: frames and times go in,
//! frames and times come out.
//!
//! The server is the host, so nothing it says is trusted beyond reaching the network: addresses
//! that cannot be a host's are refused, one offer is followed at a time, and a server that keeps
//! refusing only slows the client down.

use super::backoff::Backoff;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
        EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
        UdpPacket, UdpRepr,
    },
};
use std::{net::Ipv4Addr, time::Duration};

/// First and longest pause between two messages. RFC 2131 section 4.1 suggests 4 s to 64 s; a boot
/// does not wait that long for the first answer.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// Requests sent for one offer before the client looks for another.
const REQUESTS_PER_OFFER: u32 = 3;

/// BOOTP's smallest message (RFC 951); some relays drop shorter ones.
const SMALLEST_MESSAGE: usize = 300;

/// Options asked for: subnet mask, router, name servers, lease time (RFC 2132).
const ASKED_FOR: &[u8] = &[1, 3, 6, 51];

/// Shortest and longest lease believed; outside of it the value is clamped.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);
const LONGEST_LEASE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a DHCP server gave this link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address of this machine.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix; 32 when the server named none.
    pub prefix_len: u8,
    /// The default gateway.
    pub router: Option<Ipv4Addr>,
    /// Name servers, at most three.
    pub name_servers: Vec<Ipv4Addr>,
    /// How long the address may be used.
    pub duration: Duration,
}

/// The client of one link.
#[derive(Debug)]
pub struct DhcpClient {
    mac: EthernetAddress,
    xid: u32,
    state: State,
    started: Duration,
    next_send: Duration,
    backoff: Backoff,
}

#[derive(Debug)]
enum State {
    Selecting,
    Requesting { offer: Offer, sent: u32 },
    Bound(Lease),
}

#[derive(Debug, Clone, Copy)]
struct Offer {
    address: Ipv4Addr,
    server: Ipv4Addr,
}

impl DhcpClient {
    /// A client for the link with this Ethernet address; sends its first message at once.
    #[must_use]
    pub fn new(mac: [u8; 6], now: Duration) -> Self {
        Self {
            mac: EthernetAddress(mac),
            xid: 0,
            state: State::Selecting,
            started: now,
            next_send: now,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// The lease, once there is one.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Bound(lease) => Some(lease),
            State::Selecting | State::Requesting { .. } => None,
        }
    }

    /// When [`Self::poll`] has something to send; `None` once bound.
    #[must_use]
    pub const fn deadline(&self) -> Option<Duration> {
        match self.state {
            State::Bound(_) => None,
            State::Selecting | State::Requesting { .. } => Some(self.next_send),
        }
    }

    /// The frame to send now, if one is due. `random` is any 32 fresh random bits: the transaction
    /// id of a new exchange, and jitter.
    #[must_use]
    pub fn poll(&mut self, now: Duration, random: u32) -> Option<Vec<u8>> {
        if self.deadline().is_none_or(|due| now < due) {
            return None;
        }
        self.next_send = now.saturating_add(self.backoff.pause(random));
        let offer = match &mut self.state {
            State::Bound(_) => return None,
            State::Requesting { offer, sent } if *sent < REQUESTS_PER_OFFER => {
                *sent += 1;
                Some(*offer)
            }
            State::Selecting | State::Requesting { .. } => {
                self.state = State::Selecting;
                self.xid = random;
                None
            }
        };
        self.frame(now, offer)
    }

    /// Takes one received Ethernet frame; anything that is not an answer to this client is ignored.
    pub fn receive(&mut self, now: Duration, frame: &[u8]) {
        let Some(answer) = parse_answer(frame) else {
            return;
        };
        if answer.xid != self.xid || answer.mac != self.mac {
            return;
        }
        match (&self.state, answer.kind) {
            (State::Selecting, DhcpMessageType::Offer) => {
                let Some(server) = answer.server else { return };
                let Some(lease) = answer.lease() else { return };
                let offer = Offer {
                    address: lease.address,
                    server,
                };
                self.state = State::Requesting { offer, sent: 0 };
                self.next_send = now;
            }
            (State::Requesting { offer, .. }, DhcpMessageType::Ack)
                if answer.server == Some(offer.server) =>
            {
                if let Some(lease) = answer.lease() {
                    self.state = State::Bound(lease);
                }
            }
            // The back-off goes on, so a server that refuses everything costs a frame a pause.
            (State::Requesting { offer, .. }, DhcpMessageType::Nak)
                if answer.server == Some(offer.server) =>
            {
                self.state = State::Selecting;
            }
            _ => {}
        }
    }

    fn frame(&self, now: Duration, offer: Option<Offer>) -> Option<Vec<u8>> {
        let waited = now.saturating_sub(self.started).as_secs();
        let dhcp = DhcpRepr {
            message_type: match offer {
                Some(_) => DhcpMessageType::Request,
                None => DhcpMessageType::Discover,
            },
            transaction_id: self.xid,
            secs: u16::try_from(waited).unwrap_or(u16::MAX),
            client_hardware_address: self.mac,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: offer.map(|offer| offer.address),
            client_identifier: Some(self.mac),
            server_identifier: offer.map(|offer| offer.server),
            parameter_request_list: Some(ASKED_FOR),
            dns_servers: None,
            max_size: Some(1500),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let addresses = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let ports = (DHCP_CLIENT_PORT, DHCP_SERVER_PORT);
        udp_frame(
            self.mac,
            EthernetAddress::BROADCAST,
            addresses,
            ports,
            &dhcp,
        )
    }
}

/// One DHCP message in UDP, IPv4 and Ethernet.
fn udp_frame(
    from: EthernetAddress,
    to: EthernetAddress,
    (src_addr, dst_addr): (Ipv4Addr, Ipv4Addr),
    (src_port, dst_port): (u16, u16),
    dhcp: &DhcpRepr<'_>,
) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    let mut payload = vec![0; dhcp.buffer_len().max(SMALLEST_MESSAGE)];
    let mut packet = DhcpPacket::new_unchecked(payload.as_mut_slice());
    dhcp.emit(&mut packet).ok()?;

    let udp = UdpRepr { src_port, dst_port };
    let ip = Ipv4Repr {
        src_addr,
        dst_addr,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let ethernet = EthernetRepr {
        src_addr: from,
        dst_addr: to,
        ethertype: EthernetProtocol::Ipv4,
    };
    let mut frame = vec![0; EthernetFrame::<&[u8]>::buffer_len(ip.buffer_len() + ip.payload_len)];
    let mut ethernet_frame = EthernetFrame::new_unchecked(frame.as_mut_slice());
    ethernet.emit(&mut ethernet_frame);
    let mut ip_packet = Ipv4Packet::new_unchecked(ethernet_frame.payload_mut());
    ip.emit(&mut ip_packet, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(ip_packet.payload_mut()),
        &IpAddress::Ipv4(src_addr),
        &IpAddress::Ipv4(dst_addr),
        payload.len(),
        |buffer| buffer.copy_from_slice(&payload),
        &checksums,
    );
    Some(frame)
}

/// What this client reads of a server's message.
struct Answer {
    kind: DhcpMessageType,
    xid: u32,
    mac: EthernetAddress,
    server: Option<Ipv4Addr>,
    address: Ipv4Addr,
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    name_servers: Vec<Ipv4Addr>,
    seconds: Option<u32>,
}

impl Answer {
    /// `None` when the address or the mask cannot be a host's.
    fn lease(&self) -> Option<Lease> {
        let prefix_len = match self.mask {
            Some(mask) => prefix_len(mask)?,
            None => 32,
        };
        let duration = Duration::from_secs(self.seconds.unwrap_or(3600).into());
        Some(Lease {
            address: host_address(self.address)?,
            prefix_len,
            router: self.router.and_then(host_address),
            name_servers: self
                .name_servers
                .iter()
                .copied()
                .filter_map(host_address)
                .collect(),
            duration: duration.clamp(SHORTEST_LEASE, LONGEST_LEASE),
        })
    }
}

fn parse_answer(frame: &[u8]) -> Option<Answer> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip_packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    // A packet socket sees frames of a host on the same machine before their UDP checksum is
    // filled in, so that one cannot be insisted on.
    let mut checksums = ChecksumCapabilities::default();
    checksums.udp = smoltcp::phy::Checksum::None;
    let ip = Ipv4Repr::parse(&ip_packet, &checksums).ok()?;
    if ip.next_header != IpProtocol::Udp || ip_packet.more_frags() || ip_packet.frag_offset() != 0 {
        return None;
    }
    let udp_packet = UdpPacket::new_checked(ip_packet.payload()).ok()?;
    let (from, to) = (IpAddress::Ipv4(ip.src_addr), IpAddress::Ipv4(ip.dst_addr));
    let udp = UdpRepr::parse(&udp_packet, &from, &to, &checksums).ok()?;
    if (udp.src_port, udp.dst_port) != (DHCP_SERVER_PORT, DHCP_CLIENT_PORT) {
        return None;
    }
    let packet = DhcpPacket::new_checked(udp_packet.payload()).ok()?;
    let dhcp = DhcpRepr::parse(&packet).ok()?;
    Some(Answer {
        kind: dhcp.message_type,
        xid: dhcp.transaction_id,
        mac: dhcp.client_hardware_address,
        server: dhcp.server_identifier,
        address: dhcp.your_ip,
        mask: dhcp.subnet_mask,
        router: dhcp.router,
        name_servers: dhcp.dns_servers.iter().flatten().copied().collect(),
        seconds: dhcp.lease_duration,
    })
}

/// An address that a single machine can have.
fn host_address(address: Ipv4Addr) -> Option<Ipv4Addr> {
    let impossible = address.octets()[0] == 0
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240;
    (!impossible).then_some(address)
}

/// The length of a contiguous, non-empty mask.
fn prefix_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (ones > 0 && ones + bits.trailing_zeros() >= 32)
        .then(|| u8::try_from(ones).ok())
        .flatten()
}

#[cfg(test)]
mod tests;

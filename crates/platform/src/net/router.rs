//! IPv6 router solicitation and advertisement (RFC 4861) as a state machine over Ethernet frames.
//!
//! Stateless address configuration (RFC 4862) only: a /64 prefix with the autonomous flag plus an
//! interface identifier made of the Ethernet address. Name servers come from RFC 8106 options.

use super::backoff::Backoff;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Packet, Icmpv6Repr,
        IpProtocol, Ipv6Packet, Ipv6Repr, NdiscOption, NdiscOptionType, NdiscPrefixInfoFlags,
        NdiscRepr,
    },
};
use std::{net::Ipv6Addr, time::Duration};

/// RFC 4861 section 10 has 4 s between three solicitations; a boot asks sooner and more often.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// RFC 4861 sections 6.1.1 and 6.1.2: a neighbour discovery message that crossed a router is not
/// from this link.
const HOP_LIMIT: u8 = 255;

/// Length of an advertisement before its options (RFC 4861, section 4.2).
const OPTIONS_AT: usize = 16;

/// Recursive DNS server option (RFC 8106, section 5.1): 8 bytes, then addresses.
const RDNSS: u8 = 25;

/// The most options looked at and name servers kept of one advertisement.
const MAX_OPTIONS: usize = 32;
const MAX_NAME_SERVERS: usize = 3;

/// RFC 4291 section 2.7.1.
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// What a router told this link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertisement {
    /// The address of this machine, in the advertised /64.
    pub address: Ipv6Addr,
    /// The default gateway; `None` when the router is none (lifetime 0).
    pub router: Option<Ipv6Addr>,
    /// Name servers, at most three.
    pub name_servers: Vec<Ipv6Addr>,
}

/// The soliciting side of one link.
#[derive(Debug)]
pub struct RouterClient {
    mac: [u8; 6],
    advertisement: Option<Advertisement>,
    next_send: Duration,
    backoff: Backoff,
}

impl RouterClient {
    /// A client for the link with this Ethernet address; solicits at once.
    #[must_use]
    pub fn new(mac: [u8; 6], now: Duration) -> Self {
        Self {
            mac,
            advertisement: None,
            next_send: now,
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// The first usable advertisement.
    #[must_use]
    pub const fn advertisement(&self) -> Option<&Advertisement> {
        self.advertisement.as_ref()
    }

    /// When [`Self::poll`] has something to send; `None` once a router answered.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.advertisement.is_none().then_some(self.next_send)
    }

    /// The solicitation to send now, if one is due.
    #[must_use]
    pub fn poll(&mut self, now: Duration, random: u32) -> Option<Vec<u8>> {
        if self.deadline().is_none_or(|due| now < due) {
            return None;
        }
        self.next_send = now.saturating_add(self.backoff.pause(random));
        // From the unspecified address, hence without a link-layer option (RFC 4861, section 4.1):
        // the link-local address is still being checked for duplicates.
        let solicit = Icmpv6Repr::Ndisc(NdiscRepr::RouterSolicit { lladdr: None });
        Some(icmp_frame(
            self.mac,
            [0x33, 0x33, 0, 0, 0, 2],
            (Ipv6Addr::UNSPECIFIED, ALL_ROUTERS),
            &solicit,
        ))
    }

    /// Takes one received Ethernet frame; the first usable advertisement is kept.
    pub fn receive(&mut self, frame: &[u8]) {
        if self.advertisement.is_none() {
            self.advertisement = parse_advertisement(self.mac, frame);
        }
    }
}

/// The address that stateless configuration gives a link in a /64 (RFC 4291, appendix A).
fn interface_address(prefix: Ipv6Addr, mac: [u8; 6]) -> Ipv6Addr {
    let mut octets = prefix.octets();
    octets[8] = mac[0] ^ 0x02;
    octets[9..11].copy_from_slice(&mac[1..3]);
    octets[11..13].copy_from_slice(&[0xff, 0xfe]);
    octets[13..].copy_from_slice(&mac[3..]);
    octets.into()
}

fn icmp_frame(
    from: [u8; 6],
    to: [u8; 6],
    (src_addr, dst_addr): (Ipv6Addr, Ipv6Addr),
    icmp: &Icmpv6Repr<'_>,
) -> Vec<u8> {
    let ip = Ipv6Repr {
        src_addr,
        dst_addr,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let ethernet = EthernetRepr {
        src_addr: EthernetAddress(from),
        dst_addr: EthernetAddress(to),
        ethertype: EthernetProtocol::Ipv6,
    };
    let mut frame = vec![0; EthernetFrame::<&[u8]>::buffer_len(ip.buffer_len() + ip.payload_len)];
    let mut ethernet_frame = EthernetFrame::new_unchecked(frame.as_mut_slice());
    ethernet.emit(&mut ethernet_frame);
    let mut ip_packet = Ipv6Packet::new_unchecked(ethernet_frame.payload_mut());
    ip.emit(&mut ip_packet);
    let mut icmp_packet = Icmpv6Packet::new_unchecked(ip_packet.payload_mut());
    icmp.emit(
        &src_addr,
        &dst_addr,
        &mut icmp_packet,
        &ChecksumCapabilities::default(),
    );
    frame
}

fn parse_advertisement(mac: [u8; 6], frame: &[u8]) -> Option<Advertisement> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv6 {
        return None;
    }
    let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
    let from = ip.src_addr();
    if ip.next_header() != IpProtocol::Icmpv6
        || ip.hop_limit() != HOP_LIMIT
        || !from.is_unicast_link_local()
    {
        return None;
    }
    let icmp = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    if icmp.msg_code() != 0 || !icmp.verify_checksum(&from, &ip.dst_addr()) {
        return None;
    }
    // Parsed once by the wire library for its shape; a single prefix is all it keeps, and it does
    // not know name servers, so the options are walked here.
    let Ok(NdiscRepr::RouterAdvert {
        router_lifetime, ..
    }) = NdiscRepr::parse(&icmp)
    else {
        return None;
    };
    let options = parse_options(ip.payload().get(OPTIONS_AT..)?)?;
    Some(Advertisement {
        address: interface_address(options.prefix?, mac),
        router: (router_lifetime.total_micros() > 0).then_some(from),
        name_servers: options.name_servers,
    })
}

#[derive(Default)]
struct Options {
    prefix: Option<Ipv6Addr>,
    name_servers: Vec<Ipv6Addr>,
}

/// `None` for options that are not framed as RFC 4861 section 4.6 says.
fn parse_options(mut bytes: &[u8]) -> Option<Options> {
    let mut options = Options::default();
    for _ in 0..MAX_OPTIONS {
        if bytes.is_empty() {
            break;
        }
        let option = NdiscOption::new_checked(bytes).ok()?;
        match option.option_type() {
            NdiscOptionType::PrefixInformation if options.prefix.is_none() => {
                options.prefix = usable_prefix(&option);
            }
            NdiscOptionType::Unknown(RDNSS) => {
                // Data starts after type and length: 2 reserved bytes, 4 of lifetime.
                let addresses = option.data().get(6..)?.chunks_exact(16);
                options
                    .name_servers
                    .extend(addresses.filter_map(name_server));
                options.name_servers.truncate(MAX_NAME_SERVERS);
            }
            _ => {}
        }
        bytes = bytes.get(usize::from(option.data_len()) * 8..)?;
    }
    Some(options)
}

/// RFC 4862 section 5.5.3: autonomous, alive, not link-local; and 64 bits long, as the interface
/// identifier is.
fn usable_prefix(option: &NdiscOption<&[u8]>) -> Option<Ipv6Addr> {
    let prefix = option.prefix();
    let usable = option
        .prefix_flags()
        .contains(NdiscPrefixInfoFlags::ADDRCONF)
        && option.prefix_len() == 64
        && option.valid_lifetime().total_micros() > 0
        && !prefix.is_unicast_link_local()
        && !prefix.is_multicast()
        && !prefix.is_unspecified()
        && !prefix.is_loopback();
    usable.then_some(prefix)
}

fn name_server(octets: &[u8]) -> Option<Ipv6Addr> {
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?);
    let usable = !address.is_multicast()
        && !address.is_unspecified()
        && !address.is_loopback()
        // A link-local one would need a scope; the address alone does not carry it.
        && !address.is_unicast_link_local();
    usable.then_some(address)
}

#[cfg(test)]
mod tests;

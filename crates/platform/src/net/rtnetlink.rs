//! The four rtnetlink requests that a boot makes: link up, address, gateway, and their answers
//! (rtnetlink(7); `linux/netlink.h`, `linux/rtnetlink.h`).

use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
        recv, sendto, socket_with, sockopt,
    },
};
use std::{net::IpAddr, time::Duration};

// Message types and flags of `linux/rtnetlink.h` and `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x001;
const NLM_F_ACK: u16 = 0x004;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;

const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// The host assigns addresses here; a second owner of one is not this machine's to find out, and
/// waiting a second for duplicate address detection is.
const IFA_F_NODAD: u8 = 0x02;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
/// The gateway is on the link even when no prefix says so (a /32 lease).
const RTNH_F_ONLINK: u32 = 4;

/// The kernel answers in microseconds; the limit only keeps a boot from hanging.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A network change the kernel did not make.
#[derive(Debug, thiserror::Error)]
#[error("rtnetlink: {step}")]
pub struct RtnetlinkError {
    step: &'static str,
    #[source]
    source: Errno,
}

/// A route netlink socket.
#[derive(Debug)]
pub struct Rtnetlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Rtnetlink {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, RtnetlinkError> {
        let failed = |source| RtnetlinkError {
            step: "open socket",
            source,
        };
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIME))
            .map_err(failed)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&mut self, index: u32) -> Result<(), RtnetlinkError> {
        let message = Message::new(RTM_NEWLINK, 0, &link_body(index));
        self.request("set link up", message)
    }

    /// Gives a link an address, or renews it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<(), RtnetlinkError> {
        let message = address_message(index, address, prefix_len);
        self.request("add address", message)
    }

    /// Sets the default route of the gateway's address family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_default_route(&mut self, index: u32, gateway: IpAddr) -> Result<(), RtnetlinkError> {
        self.request("set default route", route_message(index, gateway))
    }

    fn request(&mut self, step: &'static str, message: Message) -> Result<(), RtnetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.finish(self.sequence);
        self.exchange(&bytes)
            .map_err(|source| RtnetlinkError { step, source })
    }

    fn exchange(&self, request: &[u8]) -> Result<(), Errno> {
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, request, SendFlags::empty(), &kernel)?;
        loop {
            let mut answer = [0; 4096];
            let (len, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
            match parse_ack(&answer[..len], self.sequence) {
                Ack::Done => return Ok(()),
                Ack::Failed(errno) => return Err(errno),
                Ack::Other => {}
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Ack {
    Done,
    Failed(Errno),
    /// An answer to an earlier request.
    Other,
}

/// `nlmsghdr` (16 bytes), then for an acknowledgement the negated errno, 0 for success.
fn parse_ack(bytes: &[u8], sequence: u32) -> Ack {
    let word = |at: usize| -> Option<[u8; 4]> { bytes.get(at..at + 4)?.try_into().ok() };
    let kind = bytes.get(4..6).and_then(|kind| kind.try_into().ok());
    if kind.map(u16::from_ne_bytes) != Some(NLMSG_ERROR)
        || word(8).map(u32::from_ne_bytes) != Some(sequence)
    {
        return Ack::Other;
    }
    match word(16).map(i32::from_ne_bytes) {
        Some(0) => Ack::Done,
        Some(negated) => Ack::Failed(Errno::from_raw_os_error(negated.wrapping_neg())),
        None => Ack::Failed(Errno::BADMSG),
    }
}

/// A request under construction; the header's length and sequence come last.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 16];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    /// A `rtattr`: length, type, data, padded to four bytes.
    fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        // At most an IPv6 address: the length fits.
        let len = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// `ifinfomsg`: family, padding, type, index, flags, mask of the flags to change.
fn link_body(index: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    body[12..].copy_from_slice(&IFF_UP.to_ne_bytes());
    body
}

/// `ifaddrmsg`: family, prefix length, flags, scope, index.
fn address_message(index: u32, address: IpAddr, prefix_len: u8) -> Message {
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let mut body = [
        family(address),
        prefix_len,
        flags,
        RT_SCOPE_UNIVERSE,
        0,
        0,
        0,
        0,
    ];
    body[4..].copy_from_slice(&index.to_ne_bytes());
    let octets = octets(address);
    Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &body)
        .attribute(IFA_LOCAL, &octets)
        .attribute(IFA_ADDRESS, &octets)
}

/// `rtmsg`: family, destination and source lengths, tos, table, protocol, scope, type, flags.
fn route_message(index: u32, gateway: IpAddr) -> Message {
    let mut body = [
        family(gateway),
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    body[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
    Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
        .attribute(RTA_GATEWAY, &octets(gateway))
        .attribute(RTA_OIF, &index.to_ne_bytes())
}

fn family(address: IpAddr) -> u8 {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    // 2 and 10.
    u8::try_from(family.as_raw()).unwrap_or_default()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_framed_as_the_kernel_wants_them() {
        let link = Message::new(RTM_NEWLINK, 0, &link_body(3)).finish(1);
        assert_eq!(link.len(), 32);
        let address = address_message(3, IpAddr::from([10, 0, 2, 15]), 24).finish(2);
        let length = u32::from_ne_bytes(address[..4].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), address.len());
        assert_eq!(address[16..20], [2, 24, 0, 0]);
        assert_eq!(address[24..32], [8, 0, 2, 0, 10, 0, 2, 15]);
        let route = route_message(3, IpAddr::from([10, 0, 2, 2])).finish(3);
        assert_eq!(route[28..36], [8, 0, 5, 0, 10, 0, 2, 2]);
        assert_eq!(route.len() % 4, 0);
    }

    #[test]
    fn acknowledgements() {
        let ack = |sequence: u32, errno: i32| {
            let mut bytes = vec![0; 36];
            bytes[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
            bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
            bytes[16..20].copy_from_slice(&errno.to_ne_bytes());
            bytes
        };
        assert_eq!(parse_ack(&ack(5, 0), 5), Ack::Done);
        assert_eq!(parse_ack(&ack(4, 0), 5), Ack::Other);
        assert_eq!(parse_ack(&ack(5, -1), 5), Ack::Failed(Errno::PERM));
        for len in 0..20 {
            assert_ne!(parse_ack(&ack(5, 0)[..len], 5), Ack::Done, "{len}");
        }
    }

    /// The loopback link is up already, so this changes nothing; without the privilege the kernel
    /// must be heard to say so.
    #[test]
    fn the_kernel_answers() {
        let mut netlink = Rtnetlink::open().unwrap();
        if let Err(error) = netlink.set_up(1) {
            assert_eq!(error.source, Errno::PERM);
        }
        let missing = netlink.set_up(u32::MAX >> 1).unwrap_err();
        assert!(matches!(missing.source, Errno::NODEV | Errno::PERM));
    }
}

//! A name server on a machine's network, and the DHCP server that names it.
//!
//! QEMU's own network has neither where nothing leads out of it. Filters of QEMU pass each frame that the machine
//! sends through this program: it answers what is for these two, and gives the rest back.

use std::collections::BTreeMap;
use std::io::{BufReader, Result as IoResult};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType,
    DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    IpProtocol, Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};
use tempfile::TempDir;
use vm::{Arguments, escape, switch};

/// Both servers, in the network of all machines, and what the machine gets.
const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 53);
const MACHINE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 15);
const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
const MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0, 0xc0, 0x57, 0x53]);

/// Port of name servers (RFC 1035, section 4.2).
const DNS_PORT: u16 = 53;

/// Header of a DNS message; type A and class IN (RFC 1035, sections 4.1.1 and 3.2).
const DNS_HEADER: usize = 12;
const A_IN: [u8; 4] = [0, 1, 0, 1];

/// An answer without error, and "no such name", both with recursion (RFC 1035, section 4.1.1).
const ANSWER: [u8; 2] = [0x81, 0x80];
const NO_SUCH_NAME: [u8; 2] = [0x81, 0x83];

/// The sockets of one machine's frames, seen from here.
const SOCKETS: [&str; 3] = ["from-machine", "to-network", "to-machine"];

/// Running servers for one machine at a time; they end with the program.
#[derive(Clone, Debug)]
pub struct NameServer {
    dir: Arc<TempDir>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What both servers know.
struct Desk {
    names: BTreeMap<String, Ipv4Addr>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    /// Knows these names; every other one does not exist.
    pub fn start(names: &[(&str, Ipv4Addr)]) -> Result<Self> {
        // Unix socket paths are at most 107 bytes, so they are not in the workspace.
        let dir = tempfile::tempdir()?;
        let listen = |name| UnixListener::bind(dir.path().join(name)).context("listen");
        let [from, network, machine] = SOCKETS.map(listen);
        let listeners = [from?, network?, machine?];
        let asked = Arc::default();
        let names = names.iter().map(|(name, to)| ((*name).to_owned(), *to));
        let desk = Desk {
            names: names.collect(),
            asked: Arc::clone(&asked),
        };
        thread::spawn(move || {
            // One boot after the other.
            while let Ok(streams) = accept(&listeners) {
                // It ends when the machine does.
                drop(desk.serve(streams));
            }
        });
        let dir = Arc::new(dir);
        Ok(Self { dir, asked })
    }

    /// The names that were asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }

    /// Puts the filters before the card's network. What the machine sends meets them in the reverse order of their
    /// creation, so what is given back does not meet the first one again.
    pub(crate) fn connect(&self, args: &mut Arguments) {
        for name in SOCKETS {
            let path: PathBuf = self.dir.path().join(name);
            args.pair(
                "-chardev",
                format!("socket,id={name},path={}", escape(&path)),
            );
        }
        for (name, queue, end) in [
            ("to-network", "rx", "indev"),
            ("from-machine", "rx", "outdev"),
            ("to-machine", "tx", "indev"),
        ] {
            args.pair(
                "-object",
                format!("filter-redirector,id=f-{name},netdev=network,queue={queue},{end}={name}"),
            );
        }
    }
}

fn accept(listeners: &[UnixListener; 3]) -> IoResult<[UnixStream; 3]> {
    let [from, network, machine] = listeners;
    Ok([from.accept()?.0, network.accept()?.0, machine.accept()?.0])
}

impl Desk {
    fn serve(&self, [from, mut network, mut machine]: [UnixStream; 3]) -> IoResult<()> {
        let mut from = BufReader::new(from);
        loop {
            let frame = switch::receive(&mut from)?;
            match self.answer(&frame) {
                Some(answer) => switch::send(&mut machine, &answer)?,
                None => switch::send(&mut network, &frame)?,
            }
        }
    }

    /// The answer to a frame that is for us.
    fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let to = ethernet.src_addr();
        match ethernet.ethertype() {
            EthernetProtocol::Arp => here(to, ethernet.payload()),
            EthernetProtocol::Ipv4 => self.datagram(to, ethernet.payload()),
            _ => None,
        }
    }

    fn datagram(&self, to: EthernetAddress, packet: &[u8]) -> Option<Vec<u8>> {
        let ip = Ipv4Packet::new_checked(packet).ok()?;
        if ip.next_header() != IpProtocol::Udp {
            return None;
        }
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        match udp.dst_port() {
            DHCP_SERVER_PORT => {
                let lease = lease(udp.payload())?;
                udp_frame(to, (MACHINE, DHCP_CLIENT_PORT), DHCP_SERVER_PORT, &lease)
            }
            DNS_PORT if ip.dst_addr() == SERVER => {
                let message = self.resolve(udp.payload())?;
                udp_frame(to, (ip.src_addr(), udp.src_port()), DNS_PORT, &message)
            }
            _ => None,
        }
    }

    /// An answer to one question (RFC 1035, section 4.1).
    fn resolve(&self, query: &[u8]) -> Option<Vec<u8>> {
        let (header, question) = query.split_at_checked(DNS_HEADER)?;
        let (name, length) = name(question)?;
        let question = question.get(..length + A_IN.len())?;
        let address = self.names.get(&name);
        let flags = if address.is_some() {
            ANSWER
        } else {
            NO_SUCH_NAME
        };
        let address = address.filter(|_| question.ends_with(&A_IN));
        let mut message = header.get(..2)?.to_vec();
        message.extend(flags);
        message.extend([0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
        message.extend(question);
        if let Some(address) = address {
            // The question's name, type and class, a minute to live, four bytes.
            message.extend([0xc0, 0x0c]);
            message.extend(A_IN);
            message.extend([0, 0, 0, 60, 0, 4]);
            message.extend(address.octets());
        }
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(name);
        Some(message)
    }
}

/// The first name of a message, which nothing before it can shorten, and its length.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 0);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = question.get(at..at + length)?;
        labels.push(str::from_utf8(label).ok()?.to_ascii_lowercase());
        at += length;
    }
}

/// An answer to who asks for our address.
fn here(to: EthernetAddress, packet: &[u8]) -> Option<Vec<u8>> {
    let packet = ArpPacket::new_checked(packet).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_protocol_addr: asks,
        target_protocol_addr: SERVER,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let answer = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: MAC,
        source_protocol_addr: SERVER,
        target_hardware_addr: to,
        target_protocol_addr: asks,
    };
    let mut payload = vec![0; answer.buffer_len()];
    answer.emit(&mut ArpPacket::new_unchecked(&mut payload));
    Some(ethernet(to, EthernetProtocol::Arp, &payload))
}

/// An offer or an acknowledgement, each of the same address.
fn lease(request: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(request).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    let answer = DhcpRepr {
        message_type: match request.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => DhcpMessageType::Ack,
            _ => return None,
        },
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: MACHINE,
        server_ip: SERVER,
        router: None,
        subnet_mask: Some(MASK),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: Some([SERVER].into_iter().collect()),
        max_size: None,
        lease_duration: Some(3600),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    };
    let mut payload = vec![0; answer.buffer_len()];
    let emitted = answer.emit(&mut DhcpPacket::new_unchecked(&mut payload));
    emitted.is_ok().then_some(payload)
}

fn udp_frame(
    to: EthernetAddress,
    (address, port): (Ipv4Addr, u16),
    src_port: u16,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr {
        src_port,
        dst_port: port,
    };
    let ip = Ipv4Repr {
        src_addr: SERVER,
        dst_addr: address,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + payload.len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; ip.buffer_len() + ip.payload_len];
    let mut header = Ipv4Packet::new_unchecked(&mut packet);
    ip.emit(&mut header, &checksums);
    udp.emit(
        &mut UdpPacket::new_unchecked(header.payload_mut()),
        &SERVER.into(),
        &address.into(),
        payload.len(),
        |buffer| buffer.copy_from_slice(payload),
        &checksums,
    );
    Some(ethernet(to, EthernetProtocol::Ipv4, &packet))
}

fn ethernet(to: EthernetAddress, ethertype: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let header = EthernetRepr {
        src_addr: MAC,
        dst_addr: to,
        ethertype,
    };
    let mut frame = vec![0; EthernetFrame::<&[u8]>::buffer_len(payload.len())];
    let mut writer = EthernetFrame::new_unchecked(&mut frame[..]);
    header.emit(&mut writer);
    writer.payload_mut().copy_from_slice(payload);
    frame
}

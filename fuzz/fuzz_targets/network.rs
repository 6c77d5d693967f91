//! Packets that the host sends to a booting node.
#![no_main]
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use platform::net::{
    dhcp::DhcpClient,
    dns::{Family, Query, encode_name},
    router::RouterClient,
};
use smoltcp::wire::{Icmpv6Packet, Ipv4Packet, Ipv6Packet};
use std::{sync::LazyLock, time::Duration};

/// What the seeds answer.
const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const XID: u32 = 7;
const ID: u16 = 9;
static NAME: LazyLock<Vec<u8>> = LazyLock::new(|| encode_name("join.example.org").expect("a name"));

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((which, data)) = data.split_first() else {
        return false;
    };
    match which % 4 {
        0 => dhcp(data),
        1 => {
            let mut client = RouterClient::new(MAC, Duration::ZERO);
            drop(client.poll(Duration::ZERO, XID));
            let mut frame = data.to_vec();
            sum_icmp(&mut frame);
            client.receive(&frame);
            drop(client.poll(Duration::from_secs(10), XID));
            client.advertisement().is_some()
        }
        2 => is_answer(Family::V4, data),
        _ => is_answer(Family::V6, data),
    }
}

fn is_answer(family: Family, data: &[u8]) -> bool {
    let answer = Query::new(ID, &NAME, family).parse_answer(data);
    answer.is_some_and(|addresses| !addresses.is_empty())
}

/// A server's frames one after the other, each with its length before it: whether they lead to a lease, or from an
/// offer back to the beginning.
fn dhcp(mut data: &[u8]) -> bool {
    let mut client = DhcpClient::new(MAC, Duration::ZERO);
    let mut now = Duration::ZERO;
    let mut sent = usize::from(client.poll(now, XID).is_some());
    while let Some((length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (frame, rest) = rest.split_at(length);
        data = rest;
        let mut frame = frame.to_vec();
        sum_ip(&mut frame);
        client.receive(now, &frame);
        sent += usize::from(client.poll(now, XID).is_some());
        now += Duration::from_secs(1);
    }
    client.lease().is_some() || sent > 2
}

/// Makes the header's checksum right: a host can do that, mutations cannot.
fn sum_ip(frame: &mut [u8]) {
    let packet = frame.get_mut(ETHERNET..).unwrap_or_default();
    if let Ok(mut packet) = Ipv4Packet::new_checked(packet)
        && packet.header_len() >= 20
    {
        packet.fill_checksum();
    }
}

/// The same for the message's.
fn sum_icmp(frame: &mut [u8]) {
    let packet = frame.get_mut(ETHERNET..).unwrap_or_default();
    let Ok(mut packet) = Ipv6Packet::new_checked(packet) else {
        return;
    };
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    if let Ok(mut message) = Icmpv6Packet::new_checked(packet.payload_mut()) {
        message.fill_checksum(&from, &to);
    }
}

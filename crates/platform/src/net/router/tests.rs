use super::*;
use smoltcp::{
    time::Duration as WireDuration,
    wire::{NdiscPrefixInformation, NdiscRouterFlags},
};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const PREFIX: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0);
const DNS: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3);

fn prefix() -> NdiscPrefixInformation {
    NdiscPrefixInformation {
        prefix_len: 64,
        flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
        valid_lifetime: WireDuration::from_secs(86400),
        preferred_lifetime: WireDuration::from_secs(14400),
        prefix: PREFIX,
    }
}

/// An advertisement with `prefix`, sent by `from`, then `tail` as further raw options.
fn advert(from: Ipv6Addr, prefix: NdiscPrefixInformation, tail: &[u8]) -> Vec<u8> {
    let icmp = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: WireDuration::from_secs(1800),
        reachable_time: WireDuration::ZERO,
        retrans_time: WireDuration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: Some(prefix),
    });
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut frame = icmp_frame([2; 6], [0x33, 0x33, 0, 0, 0, 1], (from, to), &icmp);
    frame.extend_from_slice(tail);
    let len = u16::try_from(frame.len() - 14 - 40).unwrap();
    let mut ip = Ipv6Packet::new_unchecked(&mut frame[14..]);
    ip.set_payload_len(len);
    Icmpv6Packet::new_unchecked(ip.payload_mut()).fill_checksum(&from, &to);
    frame
}

fn rdnss(servers: &[Ipv6Addr]) -> Vec<u8> {
    let units = u8::try_from(1 + 2 * servers.len()).unwrap();
    let mut option = vec![RDNSS, units, 0, 0, 0, 0, 0, 60];
    option.extend(servers.iter().flat_map(Ipv6Addr::octets));
    option
}

fn client() -> RouterClient {
    RouterClient::new(MAC, Duration::ZERO)
}

#[test]
fn solicits_until_a_router_answers() {
    let mut client = client();
    let frame = client.poll(Duration::ZERO, 0).unwrap();
    let ip = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    assert_eq!(ip.hop_limit(), 255);
    assert_eq!(ip.dst_addr(), ALL_ROUTERS);
    assert_eq!(client.poll(Duration::from_millis(100), 0), None);
    let due = client.deadline().unwrap();
    assert!(client.poll(due, 0).is_some());

    client.receive(&advert(ROUTER, prefix(), &rdnss(&[DNS])));
    assert_eq!(
        client.advertisement(),
        Some(&Advertisement {
            address: "fec0::5054:00ff:fe01:0203".parse().unwrap(),
            router: Some(ROUTER),
            name_servers: vec![DNS],
        })
    );
    assert_eq!(client.deadline(), None);
}

#[test]
fn unusable_prefixes_give_no_address() {
    let flags = NdiscPrefixInfoFlags::ON_LINK;
    let link_local = ROUTER;
    let multicast = ALL_ROUTERS;
    let bad = [
        NdiscPrefixInformation {
            prefix_len: 56,
            ..prefix()
        },
        NdiscPrefixInformation { flags, ..prefix() },
        NdiscPrefixInformation {
            valid_lifetime: WireDuration::ZERO,
            ..prefix()
        },
        NdiscPrefixInformation {
            prefix: link_local,
            ..prefix()
        },
        NdiscPrefixInformation {
            prefix: multicast,
            ..prefix()
        },
        NdiscPrefixInformation {
            prefix: Ipv6Addr::UNSPECIFIED,
            ..prefix()
        },
    ];
    for bad in bad {
        let mut client = client();
        client.receive(&advert(ROUTER, bad, &[]));
        assert_eq!(client.advertisement(), None, "{bad:?}");
    }
}

#[test]
fn advertisements_from_beyond_the_link_are_ignored() {
    let mut client = client();
    client.receive(&advert(DNS, prefix(), &[]));
    let mut routed = advert(ROUTER, prefix(), &[]);
    routed[14 + 7] = 254;
    client.receive(&routed);
    let mut broken = advert(ROUTER, prefix(), &[]);
    broken[14 + 40 + 2] ^= 1;
    client.receive(&broken);
    assert_eq!(client.advertisement(), None);
}

#[test]
fn name_servers_are_bounded_and_must_be_reachable() {
    let mut client = client();
    let mut tail = rdnss(&[ROUTER, ALL_ROUTERS, Ipv6Addr::LOCALHOST, DNS, DNS]);
    tail.extend(rdnss(&[DNS, DNS, DNS]));
    client.receive(&advert(ROUTER, prefix(), &tail));
    assert_eq!(client.advertisement().unwrap().name_servers, [DNS; 3]);
}

#[test]
fn a_flood_of_options_is_cut_off() {
    let tail: Vec<u8> = [200, 1, 0, 0, 0, 0, 0, 0].repeat(100);
    let mut client = client();
    client.receive(&advert(ROUTER, prefix(), &tail));
    assert!(client.advertisement().is_some());
}

#[test]
fn truncated_and_flipped_frames_never_panic() {
    let good = advert(ROUTER, prefix(), &rdnss(&[DNS]));
    for len in 0..good.len() {
        let mut client = client();
        client.receive(&good[..len]);
        assert_eq!(client.advertisement(), None, "{len}");
    }
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    for index in 14 + 40..good.len() {
        for value in [0x00, 0x01, 0x7f, 0xff] {
            let mut frame = good.clone();
            frame[index] = value;
            // With a checksum that fits, so that the parser behind it is reached.
            Icmpv6Packet::new_unchecked(&mut frame[54..]).fill_checksum(&ROUTER, &to);
            client().receive(&frame);
        }
    }
}

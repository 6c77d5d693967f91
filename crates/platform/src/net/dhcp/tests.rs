use super::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

fn at(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a client sent, as a server reads it.
fn sent(frame: &[u8]) -> (DhcpMessageType, u32, Option<Ipv4Addr>, Option<Ipv4Addr>) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
    assert!(ip.verify_checksum());
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    let packet = DhcpPacket::new_checked(udp.payload()).unwrap();
    let dhcp = DhcpRepr::parse(&packet).unwrap();
    assert_eq!(dhcp.client_hardware_address, EthernetAddress(MAC));
    (
        dhcp.message_type,
        dhcp.transaction_id,
        dhcp.requested_ip,
        dhcp.server_identifier,
    )
}

fn reply<'a>(message_type: DhcpMessageType, xid: u32) -> DhcpRepr<'a> {
    DhcpRepr {
        message_type,
        transaction_id: xid,
        secs: 0,
        client_hardware_address: EthernetAddress(MAC),
        client_ip: Ipv4Addr::UNSPECIFIED,
        your_ip: OURS,
        server_ip: SERVER,
        router: Some(SERVER),
        subnet_mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: false,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(SERVER),
        parameter_request_list: None,
        dns_servers: Some([Ipv4Addr::new(10, 0, 2, 3)].into_iter().collect()),
        max_size: None,
        lease_duration: Some(86400),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
    }
}

fn server_frame(dhcp: &DhcpRepr<'_>) -> Vec<u8> {
    let from = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);
    udp_frame(
        from,
        EthernetAddress(MAC),
        (SERVER, OURS),
        (DHCP_SERVER_PORT, DHCP_CLIENT_PORT),
        dhcp,
    )
    .unwrap()
}

/// A client that has sent its discover with transaction id 7.
fn selecting() -> DhcpClient {
    let mut client = DhcpClient::new(MAC, at(0));
    let frame = client.poll(at(0), 7).unwrap();
    assert_eq!(sent(&frame), (DhcpMessageType::Discover, 7, None, None));
    client
}

fn requesting() -> DhcpClient {
    let mut client = selecting();
    client.receive(at(5), &server_frame(&reply(DhcpMessageType::Offer, 7)));
    let frame = client.poll(at(5), 99).unwrap();
    assert_eq!(
        sent(&frame),
        (DhcpMessageType::Request, 7, Some(OURS), Some(SERVER))
    );
    client
}

#[test]
fn discover_offer_request_ack() {
    let mut client = requesting();
    client.receive(at(9), &server_frame(&reply(DhcpMessageType::Ack, 7)));
    assert_eq!(
        client.lease(),
        Some(&Lease {
            address: OURS,
            prefix_len: 24,
            router: Some(SERVER),
            name_servers: vec![Ipv4Addr::new(10, 0, 2, 3)],
            duration: Duration::from_secs(86400),
        })
    );
    assert_eq!(client.deadline(), None);
    assert_eq!(client.poll(at(60_000), 1), None);
}

#[test]
fn a_silent_server_is_asked_again_and_again_but_ever_more_slowly() {
    let mut client = selecting();
    assert_eq!(client.poll(at(100), 1), None);
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let due = client.deadline().unwrap();
        pauses.push(due - now);
        now = due;
        assert!(client.poll(now, 0).is_some());
    }
    assert!(
        pauses.windows(2).all(|pair| pair[0] <= pair[1]),
        "{pauses:?}"
    );
    assert_eq!(pauses.last(), Some(&Duration::from_secs(6)));
}

#[test]
fn an_unanswered_request_falls_back_to_a_discover_with_another_transaction() {
    let mut client = requesting();
    for expected in [
        DhcpMessageType::Request,
        DhcpMessageType::Request,
        DhcpMessageType::Discover,
    ] {
        let due = client.deadline().unwrap();
        let frame = client.poll(due, 8).unwrap();
        assert_eq!(sent(&frame).0, expected);
    }
    client.receive(at(60_000), &server_frame(&reply(DhcpMessageType::Ack, 7)));
    assert_eq!(client.lease(), None, "the old transaction is over");
}

#[test]
fn a_refusal_starts_over_without_hurry() {
    let mut client = requesting();
    client.receive(at(6), &server_frame(&reply(DhcpMessageType::Nak, 7)));
    assert_eq!(client.poll(at(6), 8), None);
    let due = client.deadline().unwrap();
    assert_eq!(
        sent(&client.poll(due, 8).unwrap()).0,
        DhcpMessageType::Discover
    );
}

#[test]
fn answers_to_others_are_ignored() {
    let good = reply(DhcpMessageType::Offer, 7);
    let others = [
        DhcpRepr {
            transaction_id: 8,
            ..good.clone()
        },
        DhcpRepr {
            client_hardware_address: EthernetAddress([2; 6]),
            ..good.clone()
        },
        DhcpRepr {
            server_identifier: None,
            ..good.clone()
        },
        DhcpRepr {
            message_type: DhcpMessageType::Ack,
            ..good.clone()
        },
        DhcpRepr {
            your_ip: Ipv4Addr::UNSPECIFIED,
            ..good.clone()
        },
        DhcpRepr {
            your_ip: Ipv4Addr::LOCALHOST,
            ..good.clone()
        },
        DhcpRepr {
            your_ip: Ipv4Addr::BROADCAST,
            ..good.clone()
        },
        DhcpRepr {
            your_ip: Ipv4Addr::new(224, 0, 0, 1),
            ..good.clone()
        },
        DhcpRepr {
            subnet_mask: Some(Ipv4Addr::new(255, 0, 255, 0)),
            ..good.clone()
        },
        DhcpRepr {
            subnet_mask: Some(Ipv4Addr::UNSPECIFIED),
            ..good
        },
    ];
    for other in others {
        let mut client = selecting();
        client.receive(at(5), &server_frame(&other));
        assert!(matches!(client.state, State::Selecting), "{other:?}");
    }
}

#[test]
fn an_acknowledgement_of_another_server_is_ignored() {
    let mut client = requesting();
    let other = DhcpRepr {
        server_identifier: Some(Ipv4Addr::new(10, 0, 2, 99)),
        ..reply(DhcpMessageType::Ack, 7)
    };
    client.receive(at(6), &server_frame(&other));
    assert_eq!(client.lease(), None);
}

#[test]
fn a_missing_mask_makes_a_host_route_and_extreme_leases_are_clamped() {
    let mut client = requesting();
    let bare = DhcpRepr {
        subnet_mask: None,
        router: Some(Ipv4Addr::BROADCAST),
        dns_servers: None,
        lease_duration: Some(u32::MAX),
        ..reply(DhcpMessageType::Ack, 7)
    };
    client.receive(at(6), &server_frame(&bare));
    let lease = client.lease().unwrap();
    assert_eq!((lease.prefix_len, lease.router), (32, None));
    assert_eq!(lease.duration, LONGEST_LEASE);
}

#[test]
fn truncated_and_flipped_frames_never_panic() {
    let offer = server_frame(&reply(DhcpMessageType::Offer, 7));
    for len in 0..offer.len() {
        selecting().receive(at(5), &offer[..len]);
    }
    for index in 0..offer.len() {
        for value in [0x00, 0x01, 0x7f, 0xff] {
            let mut frame = offer.clone();
            frame[index] = value;
            let mut client = selecting();
            client.receive(at(5), &frame);
            assert_eq!(client.lease(), None);
        }
    }
}

#[test]
fn masks() {
    assert_eq!(prefix_len(Ipv4Addr::BROADCAST), Some(32));
    assert_eq!(prefix_len(Ipv4Addr::new(128, 0, 0, 0)), Some(1));
    assert_eq!(prefix_len(Ipv4Addr::new(255, 255, 254, 0)), Some(23));
    assert_eq!(prefix_len(Ipv4Addr::new(0, 255, 255, 255)), None);
}

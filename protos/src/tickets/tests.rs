use super::*;

fn disk() -> DiskId {
    DiskId::from_random([7; 16])
}

fn sealed() -> SealedSecret {
    SealedSecret {
        encapsulated_key: [1; 32],
        ciphertext: vec![2; 48],
    }
}

fn join_request() -> JoinTicketRequest {
    JoinTicketRequest {
        disk: disk(),
        node_name: "worker-0".parse().unwrap(),
        role: Role::Worker,
        certificate_requests: Some(CertificateRequests {
            kubelet_client: vec![4; 100],
            kubelet_serving: vec![5; 100],
        }),
    }
}

fn rejoin_ticket() -> RejoinTicket {
    RejoinTicket {
        cluster_id: ClusterId::from_bytes([3; 32]),
        generation: Generation(4),
        data_key: sealed(),
        node_name: "worker-0".parse().unwrap(),
        role: Role::ControlPlane,
        material: Some(sealed()),
        ak_certificate: Some("{}".into()),
    }
}

#[test]
fn requests_survive_the_round_trip() {
    let message = join::IssueJoinTicketRequest::from(join_request());
    assert_eq!(JoinTicketRequest::try_from(message), Ok(join_request()));
    let request = RejoinTicketRequest {
        disk: disk(),
        key_version: KeyVersion(2),
        certificate_requests: None,
    };
    let message = join::IssueRejoinTicketRequest::from(request.clone());
    assert_eq!(RejoinTicketRequest::try_from(message), Ok(request));
    let request = CommitRequest {
        disk: disk(),
        generation: Generation(9),
    };
    let message = join::CommitRequest::from(request);
    assert_eq!(CommitRequest::try_from(message), Ok(request));
}

#[test]
fn tickets_survive_the_round_trip() {
    let message = join::IssueJoinTicketResponse::from(join_ticket());
    assert_eq!(JoinTicket::try_from(message), Ok(join_ticket()));
    let message = join::IssueRejoinTicketResponse::from(rejoin_ticket());
    assert_eq!(RejoinTicket::try_from(message), Ok(rejoin_ticket()));
    let without = RejoinTicket {
        ak_certificate: None,
        ..rejoin_ticket()
    };
    let message = join::IssueRejoinTicketResponse::from(without.clone());
    assert_eq!(RejoinTicket::try_from(message), Ok(without));
    let message = join::RegisterDiskResponse::from(disk());
    assert_eq!(DiskId::try_from(message), Ok(disk()));
}

fn join_ticket() -> JoinTicket {
    JoinTicket {
        cluster_id: ClusterId::from_bytes([3; 32]),
        key_version: KeyVersion::FIRST,
        data_key: sealed(),
        material: Some(sealed()),
        ak_certificate: Some("{}".into()),
    }
}

#[test]
fn an_init_asks_with_the_disk_alone_and_is_told_the_rest() {
    let request = InitTicketRequest { disk: disk() };
    let message = join::IssueJoinTicketRequest::from(request);
    assert_eq!(InitTicketRequest::try_from(message), Ok(request));
    let ticket = InitTicket {
        ticket: join_ticket(),
        node_name: "control-0".parse().unwrap(),
        role: Role::ControlPlane,
    };
    let message = join::IssueJoinTicketResponse::from(ticket.clone());
    assert_eq!(InitTicket::try_from(message), Ok(ticket));
}

/// Neither side takes an init for a join.
#[test]
fn an_init_is_no_join() {
    let init = join::IssueJoinTicketRequest::from(InitTicketRequest { disk: disk() });
    assert!(JoinTicketRequest::try_from(init).is_err());
    let flaws: [fn(&mut join::IssueJoinTicketRequest); 4] = [
        |request| request.disk_uuid.clear(),
        |request| request.node_name.push('a'),
        |request| request.role = 1,
        |request| request.certificate_requests = Some(join::CertificateRequests::default()),
    ];
    for flaw in flaws {
        let mut request = join::IssueJoinTicketRequest::from(InitTicketRequest { disk: disk() });
        flaw(&mut request);
        assert!(InitTicketRequest::try_from(request).is_err());
    }
    let joined = join::IssueJoinTicketResponse::from(join_ticket());
    assert!(InitTicket::try_from(joined).is_err(), "no name, no role");
}

#[test]
fn malformed_join_requests_name_the_field() {
    type Flaw = fn(&mut join::IssueJoinTicketRequest);
    let flaws: [(&str, Flaw); 7] = [
        ("disk_uuid", |request| {
            request.disk_uuid.make_ascii_uppercase()
        }),
        ("disk_uuid", |request| request.disk_uuid.clear()),
        ("node_name", |request| request.node_name.push('\n')),
        ("role: missing", |request| request.role = 0),
        ("role: unknown value 3", |request| request.role = 3),
        ("certificate_requests.kubelet_client", |request| {
            request
                .certificate_requests
                .as_mut()
                .unwrap()
                .kubelet_client = vec![0; MAX_CERTIFICATE_REQUEST + 1];
        }),
        ("certificate_requests.kubelet_serving", |request| {
            request
                .certificate_requests
                .as_mut()
                .unwrap()
                .kubelet_serving
                .clear();
        }),
    ];
    for (expected, flaw) in flaws {
        let mut message = join::IssueJoinTicketRequest::from(join_request());
        message.disk_uuid = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa".into();
        flaw(&mut message);
        let error = JoinTicketRequest::try_from(message).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn malformed_tickets_are_refused() {
    let flaws: [fn(&mut join::IssueRejoinTicketResponse); 8] = [
        |ticket| ticket.cluster_id.truncate(31),
        |ticket| ticket.data_key = None,
        |ticket| ticket.data_key.as_mut().unwrap().ciphertext.clear(),
        |ticket| ticket.data_key.as_mut().unwrap().ciphertext = vec![0; MAX_CIPHERTEXT + 1],
        |ticket| ticket.data_key.as_mut().unwrap().encapsulated_key.push(0),
        |ticket| ticket.node_name.clear(),
        |ticket| ticket.material.as_mut().unwrap().ciphertext = vec![0; MAX_MATERIAL + 1],
        |ticket| ticket.ak_certificate = " ".repeat(AkCertificate::MAX_LEN + 1),
    ];
    for flaw in flaws {
        let mut message = join::IssueRejoinTicketResponse::from(rejoin_ticket());
        flaw(&mut message);
        assert!(
            RejoinTicket::try_from(message.clone()).is_err(),
            "{message:?}"
        );
    }
}

/// A join whose Commit was lost has a record without a generation, and is healed by a rejoin.
#[test]
fn a_rejoin_ticket_may_record_no_generation() {
    let message = join::IssueRejoinTicketResponse {
        generation: 0,
        ..rejoin_ticket().into()
    };
    let ticket = RejoinTicket::try_from(message).unwrap();
    assert_eq!(ticket.generation, Generation(0));
}

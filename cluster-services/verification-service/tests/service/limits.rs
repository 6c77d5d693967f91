//! Callers that want too much, and devices that do not answer.

use crate::setup::{Machine, PATIENCE, Running, connect, get, get_from, hex, parse};
use api::{
    atls::TpmChallenge,
    verify::{GetAttestationRequest, GetIdentityRequest},
};
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tonic::Code;

const FLOODER: [u8; 4] = [127, 0, 0, 66];

fn question() -> String {
    format!("/?nonce={}", hex(&[9; 32]))
}

#[tokio::test]
async fn a_flood_from_one_address_leaves_room_for_others() {
    let machine = Machine::new();
    let limits = "per_second_and_address = 1\nburst_per_address = 3\nqueue = 4";
    let running = Running::ready(&machine, limits).await;
    let mut flood = JoinSet::new();
    for _ in 0..200 {
        let address = running.http;
        flood.spawn(async move {
            get_from(IpAddr::from(FLOODER), address, &question())
                .await
                .0
        });
    }
    let (status, body) = get(running.http, &question()).await;
    assert_eq!(status, 200, "{body}");
    let mut statuses = BTreeMap::new();
    while let Some(status) = flood.join_next().await {
        *statuses.entry(status.unwrap()).or_insert(0) += 1;
    }
    let stated = statuses.get(&200).copied().unwrap_or(0);
    // A second or two may have passed.
    assert!((1..=8).contains(&stated), "{statuses:?}");
    assert!(statuses.contains_key(&429), "{statuses:?}");
    assert!(
        statuses.keys().all(|status| [0, 200, 429].contains(status)),
        "{statuses:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn more_than_the_queue_holds_is_refused_at_once() {
    let machine = Machine::new();
    let limits = "per_second_and_address = 1000\nburst_per_address = 1000\nper_second = 1000\n\
                  queue = 1\nconnections_per_address = 128";
    let running = Running::ready(&machine, limits).await;
    let mut crowd = JoinSet::new();
    for _ in 0..40 {
        let address = running.http;
        crowd.spawn(async move { get(address, &question()).await.0 });
    }
    let mut statuses = BTreeMap::new();
    while let Some(status) = crowd.join_next().await {
        *statuses.entry(status.unwrap()).or_insert(0) += 1;
    }
    assert!(statuses.contains_key(&200), "{statuses:?}");
    assert!(statuses.contains_key(&503), "{statuses:?}");
    assert_eq!(statuses.len(), 2, "{statuses:?}");
    running.stop().await;
}

/// Connections that never finish their question hold no place but their own address's.
#[tokio::test]
async fn slow_callers_are_cut_off_and_hold_nobody_up() {
    let machine = Machine::new();
    let running = Running::ready(&machine, "connections_per_address = 4").await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(IpAddr::from(FLOODER), running.http).await;
        drop(stream.write_all(b"GET /?nonce=").await);
        slow.push(stream);
    }
    let (status, _) = get(running.http, &question()).await;
    assert_eq!(status, 200);
    for mut stream in slow {
        let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "a slow caller is still connected");
    }
    let (status, _) = get_from(IpAddr::from(FLOODER), running.http, &question()).await;
    assert_eq!(status, 200);
    running.stop().await;
}

#[tokio::test]
async fn oversized_requests_are_refused() {
    let machine = Machine::new();
    let running = Running::ready(&machine, "").await;
    for length in [1000, 100_000, 10_000_000] {
        let target = format!("/?nonce={}", "a".repeat(length));
        let (status, _) = get(running.http, &target).await;
        // Cut off, where the header does not even fit.
        assert!([0, 400, 414, 431].contains(&status), "{length}: {status}");
    }
    let mut client = running.client().await;
    let ask = GetAttestationRequest {
        nonce: vec![1; 32],
        challenge: Some(TpmChallenge {
            credential_blob: vec![1; 100_000],
            encrypted_secret: vec![1],
        }),
    };
    let status = client.get_attestation(ask).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    // A challenge of the right size that is none.
    let ask = GetAttestationRequest {
        nonce: vec![1; 32],
        challenge: Some(TpmChallenge {
            credential_blob: vec![1; 100],
            encrypted_secret: vec![1; 100],
        }),
    };
    let status = client.get_attestation(ask).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(get(running.http, &question()).await.0, 200);
    running.stop().await;
}

#[tokio::test]
async fn without_a_device_there_are_no_statements() {
    let machine = Machine::new();
    let socket = machine.tpm.socket().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("socket");
    let running = Running::start(&absent, "").await;
    let mut client = running.client().await;
    let (status, body) = get(running.http, &question()).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("device"), "{body}");
    let refused = client.get_identity(GetIdentityRequest {}).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    let (status, body) = get(running.admin, "/readyz").await;
    assert_eq!((status, body.as_str()), (503, "not ready: attester\n"));
    assert_eq!(get(running.admin, "/healthz").await.0, 200);
    // It comes late, and goes.
    std::os::unix::fs::symlink(socket, &absent).unwrap();
    running.wait_ready().await;
    assert_eq!(get(running.http, &question()).await.0, 200);
    drop(machine);
    assert_eq!(get(running.http, &question()).await.0, 503);
    assert_eq!(get(running.admin, "/readyz").await.0, 503);
    running.stop().await;
}

#[tokio::test]
async fn a_shutdown_answers_what_was_begun() {
    let machine = Machine::new();
    let running = Running::ready(&machine, "").await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(running.http).await.unwrap();
        let request = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", question());
        stream.write_all(request.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // Until all of them are accepted: nothing is answered faster than a TPM signs.
    tokio::time::sleep(Duration::from_millis(30)).await;
    running.request_shutdown();
    for mut stream in streams {
        let mut response = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut response)).await;
        ended.unwrap().unwrap();
        assert_eq!(parse(&response).0, 200);
    }
    let address = running.http;
    running.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

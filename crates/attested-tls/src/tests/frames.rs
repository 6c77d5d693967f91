//! Every frame malformed in every way, against both roles on both sides.

use api::atls;
use evidence::{
    AdmissionPath::{Join, Recover},
    Side,
};
use prost::Message;

use super::{parties::*, raw::*};
use crate::{FrameError, MAX_FRAME, SessionError, wire::MAX_RECEIVED};

/// Plays the whole script with a tampered frame and gives the honest side's error, if any.
fn play(tamper: Tamper<'_>) -> [(&'static [u8], Option<SessionError>); 4] {
    let mut office = Raw::against(Office::new(Join), Side::Client);
    dialling_attester(&mut office, Join, tamper);
    let mut node = Raw::against(Node::new(Join), Side::Server);
    dialled_admitter(&mut node, Join, tamper);
    let mut pushed = Raw::against(Node::new(Recover), Side::Client);
    dialling_admitter(&mut pushed, Recover, tamper);
    let mut pushing = Raw::against(Office::new(Recover), Side::Server);
    dialled_attester(&mut pushing, Recover, tamper);
    office.subject.cut();
    node.subject.cut();
    pushed.subject.cut();
    pushing.subject.cut();
    // The frames that the hand-written side of each script sends.
    [
        (&[1, 3, 5], office.subject.into_error()),
        (&[2, 4], node.subject.into_error()),
        (&[1, 3, 5], pushed.subject.into_error()),
        (&[2, 4], pushing.subject.into_error()),
    ]
}

/// Asserts that each frame, changed by `change`, ends its session with an expected error.
fn assert_refused(
    name: &str,
    frames: &[u8],
    change: impl Fn(Vec<u8>) -> Vec<u8>,
    expected: impl Fn(u8, &SessionError) -> bool,
) {
    for &frame in frames {
        let outcomes = play(&|n, bytes| if n == frame { change(bytes) } else { bytes });
        for (sent, error) in outcomes {
            if sent.contains(&frame) {
                let error = error.unwrap_or_else(|| panic!("{name}: frame {frame} was taken"));
                assert!(expected(frame, &error), "{name}: frame {frame}: {error:?}");
            } else {
                assert!(error.is_none(), "{name}: frame {frame}: {error:?}");
            }
        }
    }
}

const ALL: &[u8] = &[1, 2, 3, 4, 5];

#[test]
fn the_hand_written_peers_are_accepted() {
    for (_, error) in play(&untouched) {
        assert!(error.is_none(), "{error:?}");
    }
}

#[test]
fn a_frame_in_single_bytes_is_the_same_frame() {
    // Each byte in a TLS record of its own.
    let mut office = Raw::against(Office::new(Join), Side::Client);
    for byte in framed(&attester_hello(Join).encode_to_vec()) {
        office.send(&[byte]);
    }
    assert!(office.receive().is_some());
}

#[test]
fn truncated_frames_are_refused() {
    let half = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() / 2);
        bytes
    };
    let expected = |_, error: &SessionError| matches!(error, SessionError::Closed);
    assert_refused("half", ALL, half, expected);
    assert_refused("no frame", ALL, |_| Vec::new(), expected);
    assert_refused("header", ALL, |bytes| bytes[..3].to_vec(), expected);
    let cut = |mut bytes: Vec<u8>| {
        bytes.pop();
        bytes
    };
    assert_refused("all but a byte", ALL, cut, expected);
}

#[test]
fn lengths_out_of_bounds_are_refused_before_the_frame_arrives() {
    for got in [0, MAX_FRAME + 1, u32::MAX as usize] {
        let header = u32::try_from(got).unwrap().to_be_bytes();
        assert_refused(
            "length",
            ALL,
            |_| header.to_vec(),
            |n, error| matches!(error, SessionError::Frame { number, source: FrameError::Length { got: length } } if *number == n && *length == got),
        );
    }
}

#[test]
fn the_largest_frame_is_read_and_judged_by_its_content() {
    assert_refused(
        "largest",
        ALL,
        |_| framed(&vec![0xff; MAX_FRAME]),
        |n, error| matches!(error, SessionError::Frame { number, source: FrameError::Message(_) } if *number == n),
    );
}

#[test]
fn encodings_that_are_not_canonical_are_refused() {
    let expected = |n, error: &SessionError| matches!(error, SessionError::Frame { number, source: FrameError::NotCanonical } if *number == n);
    // Field 99, a varint.
    let unknown = |bytes: Vec<u8>| framed(&[&bytes[4..], &[0x98, 0x06, 0x01]].concat());
    assert_refused("unknown field", ALL, unknown, expected);
    let twice = |bytes: Vec<u8>| framed(&[&bytes[4..], &bytes[4..]].concat());
    assert_refused("repeated fields", ALL, twice, expected);
}

#[test]
fn duplicated_frames_are_out_of_turn() {
    // What follows frame 5 is the application's.
    let twice = |bytes: Vec<u8>| [bytes.clone(), bytes].concat();
    assert_refused("duplicate", &[1, 2, 3, 4], twice, |_, error| {
        matches!(error, SessionError::EarlyData)
    });
}

#[test]
fn application_data_before_the_verdicts_is_out_of_turn() {
    let more = |bytes: Vec<u8>| [bytes, b"POST / HTTP/1.1\r\n".to_vec()].concat();
    assert_refused("early", &[1, 2, 3, 4], more, |_, error| {
        matches!(error, SessionError::EarlyData)
    });
}

#[test]
fn reordered_frames_are_refused() {
    let in_frame = |n, error: &SessionError| matches!(error, SessionError::Frame { number, .. } if *number == n);
    let verdict = atls::ClientVerdict {
        verdict: accepted(),
    };
    let early_verdict = |_| framed(&verdict.encode_to_vec());
    assert_refused("verdict", &[1, 2, 3, 4], early_verdict, in_frame);
    let hello = |_| framed(&attester_hello(Join).encode_to_vec());
    assert_refused("hello", &[3, 4, 5], hello, in_frame);
}

#[test]
fn silence_in_place_of_a_verdict_is_refused() {
    // A message without its oneof is as short as one field with nothing in it.
    let no_verdict = atls::ClientVerdict {
        verdict: Some(atls::Verdict { verdict: None }),
    };
    let empty = |_| framed(&no_verdict.encode_to_vec());
    assert_refused("empty verdict", &[5], empty, |_, error| {
        matches!(
            error,
            SessionError::Frame {
                number: 5,
                source: FrameError::Field(_)
            }
        )
    });
}

#[test]
fn a_sender_of_endless_tls_records_is_stopped() {
    // Key updates carry no frame byte: rustls bounds them, and the count of bytes would.
    let mut office = Raw::against(Office::new(Join), Side::Client);
    while office.subject.outcome().is_none() {
        office.connection.refresh_traffic_keys().unwrap();
        office.pump();
    }
    assert!(
        matches!(
            office.subject.error(),
            SessionError::TooMuch { max: MAX_RECEIVED } | SessionError::Tls(_)
        ),
        "{:?}",
        office.subject.error()
    );
}

#[test]
fn hellos_that_contradict_the_session_are_refused() {
    type Flaw = fn(&mut atls::Hello);
    let flaws: [(&str, Flaw); 8] = [
        ("version", |hello| hello.version = 2),
        ("nonce", |hello| hello.nonce.truncate(31)),
        ("no path", |hello| hello.path = 0),
        ("unknown path", |hello| hello.path = 9),
        ("no side", |hello| hello.side = None),
        ("no TPM", |hello| attester(hello).tpm = None),
        ("sealing key", |hello| attester(hello).sealing_key.push(0)),
        ("other kind with a TPM", |hello| {
            attester(hello).offered = atls::EvidenceKind::SevSnp.into();
        }),
    ];
    for (name, flaw) in flaws {
        let mut hello = attester_hello(Join);
        flaw(&mut hello);
        let mut office = Raw::against(Office::new(Join), Side::Client);
        office.send(&framed(&hello.encode_to_vec()));
        let error = office.subject.error();
        assert!(
            matches!(error, SessionError::Frame { number: 1, .. }),
            "{name}: {error:?}"
        );
    }
}

fn attester(hello: &mut atls::Hello) -> &mut atls::Attester {
    match &mut hello.side {
        Some(atls::hello::Side::Attester(attester)) => attester,
        _ => panic!("not an attester"),
    }
}

fn admitter(hello: &mut atls::Hello) -> &mut atls::Admitter {
    match &mut hello.side {
        Some(atls::hello::Side::Admitter(admitter)) => admitter,
        _ => panic!("not an admitter"),
    }
}

#[test]
fn evidence_of_another_kind_than_claimed_is_malformed() {
    let mut office = Raw::against(Office::new(Join), Side::Client);
    let client_hello = attester_hello(Join).encode_to_vec();
    office.send(&framed(&client_hello));
    let server_hello = office.receive().unwrap();
    let binding = office.binding(Side::Client, (&client_hello, &server_hello));
    let message = atls::ClientEvidence {
        evidence: Some(atls::Evidence {
            activated_secret: vec![7; 32],
            kind: Some(report(&binding).into()),
        }),
    };
    office.send(&framed(&message.encode_to_vec()));
    assert!(matches!(
        office.subject.error(),
        SessionError::Frame { number: 3, .. }
    ));
}

#[test]
fn another_kind_of_evidence_is_refused_with_the_owners_proof() {
    let mut hello = attester_hello(Join);
    attester(&mut hello).offered = atls::EvidenceKind::AzureSevSnp.into();
    attester(&mut hello).tpm = None;
    let mut office = Raw::against(Office::new(Join), Side::Client);
    let client_hello = hello.encode_to_vec();
    office.send(&framed(&client_hello));
    let server_hello = office.receive().unwrap();
    let frame_4 = office.receive().unwrap();
    let admission = atls::ServerAdmission::decode(frame_4.as_slice()).unwrap();
    let binding = office.binding(Side::Client, (&client_hello, &server_hello));
    let proof = owner::OwnerProof::try_from(admission.owner_proof.unwrap()).unwrap();
    let owner = owner(1).public_key().fingerprint();
    assert!(proof.verify(&owner, Side::Server, &binding).is_ok());
    assert!(matches!(
        office.subject.error(),
        SessionError::RefusedPeer(_)
    ));
}

#[test]
fn a_challenge_in_frame_1_is_refused() {
    let hello = admitter_hello(Recover, Some(challenge()));
    let mut node = Raw::against(Node::new(Recover), Side::Client);
    node.send(&framed(&hello.encode_to_vec()));
    assert!(matches!(
        node.subject.error(),
        SessionError::Frame { number: 1, .. }
    ));
}

#[test]
fn an_acceptance_without_evidence_is_no_acceptance() {
    // Frame 2 that accepts no evidence announces a refusal; frame 4 then accepts.
    let mut node = Raw::against(Node::new(Join), Side::Server);
    let client_hello = node.receive().unwrap();
    let mut hello = admitter_hello(Join, None);
    admitter(&mut hello).accepted.clear();
    let server_hello = hello.encode_to_vec();
    node.send(&framed(&server_hello));
    let binding = node.binding(Side::Client, (&client_hello, &server_hello));
    let admission = atls::ServerAdmission {
        owner_proof: Some(owner(1).prove(Side::Server, &binding).into()),
        verdict: accepted(),
    };
    node.send(&framed(&admission.encode_to_vec()));
    assert!(matches!(
        node.subject.error(),
        SessionError::Frame { number: 4, .. }
    ));
}

#[test]
fn a_challenge_comes_exactly_with_a_kind_that_needs_one() {
    for (terms, challenge) in [(attester_terms(), None), (snp_terms(), Some(challenge()))] {
        let mut node = Raw::against(Node::with(Join, terms), Side::Server);
        node.receive().unwrap();
        node.send(&framed(&admitter_hello(Join, challenge).encode_to_vec()));
        assert!(matches!(
            node.subject.error(),
            SessionError::Frame { number: 2, .. }
        ));
        assert!(node.subject.requests.is_empty());
    }
}

#[test]
fn an_admission_without_a_proof_is_refused() {
    let strip = |n: u8, bytes: Vec<u8>| match n {
        4 => {
            let mut admission = atls::ServerAdmission::decode(&bytes[4..]).unwrap();
            admission.owner_proof = None;
            framed(&admission.encode_to_vec())
        }
        _ => bytes,
    };
    let mut node = Raw::against(Node::new(Join), Side::Server);
    dialled_admitter(&mut node, Join, &strip);
    assert!(matches!(
        node.subject.error(),
        SessionError::Frame { number: 4, .. }
    ));
}

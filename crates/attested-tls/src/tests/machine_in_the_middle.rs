//! Somebody between two honest parties, with TLS sessions of its own on both sides.

use api::atls;
use evidence::{
    AdmissionPath::{Init, Join, Recover, Rejoin},
    Side,
};
use prost::Message;

use super::{parties::*, raw::*};
use crate::SessionError;

/// Forwards every frame between the two, and returns the frames.
fn relay<C: Party, S: Party>(client: &mut Raw<C>, server: &mut Raw<S>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let before = frames.len();
        while let Some(frame) = client.receive() {
            server.send(&framed(&frame));
            frames.push(frame);
        }
        while let Some(frame) = server.receive() {
            client.send(&framed(&frame));
            frames.push(frame);
        }
        if frames.len() == before {
            return frames;
        }
    }
}

#[test]
fn relayed_evidence_of_a_dialling_node_is_refused() {
    for path in [Join, Rejoin] {
        let mut node = Raw::against(Node::new(path), Side::Server);
        let mut office = Raw::against(Office::new(path), Side::Client);
        let frames = relay(&mut node, &mut office);
        assert_eq!(frames.len(), 4);
        let SessionError::RefusedPeer(refusal) = office.subject.error() else {
            panic!("{:?}", office.subject.error())
        };
        assert_eq!(refusal.checks[0].check, "binding");
        // The honest refusal was for another channel: to the node it proves nothing.
        let error = node.subject.error();
        assert!(
            matches!(error, SessionError::RefusedWithoutProof { .. }),
            "{error:?}"
        );
        assert!(!error.is_final_for_attester());
    }
}

#[test]
fn a_relayed_owner_proof_does_not_reach_the_tpm_of_a_dialled_node() {
    for path in [Init, Recover] {
        let mut office = Raw::against(Office::new(path), Side::Server);
        let mut node = Raw::against(Node::new(path), Side::Client);
        relay(&mut office, &mut node);
        assert!(matches!(
            node.subject.error(),
            SessionError::Owner(owner::OwnerProofError::Signature)
        ));
        assert!(node.subject.requests.is_empty());
        assert!(matches!(
            office.subject.error(),
            SessionError::RefusedByAttester(_)
        ));
    }
}

#[test]
fn a_replayed_node_is_refused() {
    // An honest session, seen by an insider who has its plaintext.
    let mut insider = Raw::against(Office::new(Join), Side::Client);
    let recorded = std::cell::RefCell::new(Vec::new());
    let record = |_, bytes: Vec<u8>| {
        recorded.borrow_mut().push(bytes.clone());
        bytes
    };
    dialling_attester(&mut insider, Join, &record).unwrap();
    insider.pump();
    assert!(matches!(insider.subject.outcome(), Some(Ok(()))));

    let mut office = Raw::against(Office::new(Join), Side::Client);
    for frame in recorded.into_inner() {
        office.send(&frame);
        office.receive();
    }
    let error = office.subject.error();
    assert!(matches!(error, SessionError::RefusedPeer(_)), "{error:?}");
}

#[test]
fn a_replayed_admitter_is_refused() {
    let mut insider = Raw::against(Node::new(Join), Side::Server);
    let recorded = std::cell::RefCell::new(Vec::new());
    let record = |_, bytes: Vec<u8>| {
        recorded.borrow_mut().push(bytes.clone());
        bytes
    };
    dialled_admitter(&mut insider, Join, &record).unwrap();
    assert!(matches!(insider.subject.outcome(), Some(Ok(()))));

    let mut node = Raw::against(Node::new(Join), Side::Server);
    node.receive();
    for frame in recorded.into_inner() {
        node.send(&frame);
        node.receive();
    }
    let error = node.subject.error();
    assert!(
        matches!(
            error,
            SessionError::Owner(owner::OwnerProofError::Signature)
        ),
        "{error:?}"
    );
}

#[test]
fn a_reflected_hello_is_refused() {
    let mut node = Raw::against(Node::new(Join), Side::Server);
    let hello = node.receive().unwrap();
    node.send(&framed(&hello));
    assert!(matches!(
        node.subject.error(),
        SessionError::Frame { number: 2, .. }
    ));

    let mut office = Raw::against(Office::new(Recover), Side::Server);
    let hello = office.receive().unwrap();
    office.send(&framed(&hello));
    assert!(matches!(
        office.subject.error(),
        SessionError::Frame { number: 2, .. }
    ));
}

#[test]
fn a_reflected_role_is_refused() {
    // A client that claims the other role, on a path where it may not.
    let mut office = Raw::against(Office::new(Join), Side::Client);
    office.send(&framed(&admitter_hello(Join, None).encode_to_vec()));
    assert!(matches!(
        office.subject.error(),
        SessionError::Frame { number: 1, .. }
    ));

    let mut node = Raw::against(Node::new(Recover), Side::Client);
    node.send(&framed(&attester_hello(Recover).encode_to_vec()));
    assert!(matches!(
        node.subject.error(),
        SessionError::Frame { number: 1, .. }
    ));
}

#[test]
fn two_nodes_or_two_admitters_do_not_admit_each_other() {
    let (mut dialling, mut listening) = (Node::new(Join), Node::new(Recover));
    converse(&mut dialling, &mut listening);
    assert!(matches!(
        listening.error(),
        SessionError::Frame { number: 1, .. }
    ));
    let (mut dialling, mut listening) = (Office::new(Recover), Office::new(Join));
    converse(&mut dialling, &mut listening);
    assert!(matches!(
        listening.error(),
        SessionError::Frame { number: 1, .. }
    ));
}

#[test]
fn a_server_hello_for_another_path_is_refused() {
    let mut node = Raw::against(Node::new(Join), Side::Server);
    node.receive();
    node.send(&framed(
        &admitter_hello(Rejoin, Some(challenge())).encode_to_vec(),
    ));
    assert!(matches!(
        node.subject.error(),
        SessionError::Frame { number: 2, .. }
    ));
    assert!(node.subject.requests.is_empty());

    let mut office = Raw::against(Office::new(Recover), Side::Server);
    office.receive();
    office.send(&framed(&attester_hello(Init).encode_to_vec()));
    let error = office.subject.error();
    assert!(
        matches!(error, SessionError::Frame { number: 2, .. }),
        "{error:?}"
    );
    assert!(office.subject.bindings.is_empty());
}

#[test]
fn an_owner_proof_cannot_be_reflected() {
    // The proof of a server admitter, sent back by a client that pretends to admit.
    let mut node = Raw::against(Node::new(Recover), Side::Client);
    let client_hello = admitter_hello(Recover, None).encode_to_vec();
    node.send(&framed(&client_hello));
    let server_hello = node.receive().unwrap();
    let binding = node.binding(Side::Server, (&client_hello, &server_hello));
    let admission = atls::ClientAdmission {
        answer: Some(atls::client_admission::Answer::Challenge(
            challenge().into(),
        )),
        owner_proof: Some(owner(1).prove(Side::Server, &binding).into()),
    };
    node.send(&framed(&admission.encode_to_vec()));
    assert!(matches!(
        node.subject.error(),
        SessionError::Owner(owner::OwnerProofError::Signature)
    ));
}

//! Whole sessions between honest programs, and every refusal that one can give the other.

use api::Class;
use evidence::AdmissionPath::{self, Init, Join, Recover, Rejoin};
use rustls::{Connection, HandshakeKind, NamedGroup, ProtocolVersion};
use std::io::{Read, Write};

use super::parties::*;
use crate::{AdmitterSession, AttesterSession, Refusal, SessionError, TlsEnd};

const PATHS: [AdmissionPath; 4] = [Init, Join, Recover, Rejoin];

fn talk(path: AdmissionPath, prepare: impl FnOnce(&mut Node, &mut Office)) -> (Node, Office) {
    let (mut node, mut office) = (Node::new(path), Office::new(path));
    prepare(&mut node, &mut office);
    converse(&mut node, &mut office);
    (node, office)
}

fn refused() -> Refusal {
    Refusal::for_check("pcr 4", "aa", "bb")
}

#[test]
fn every_path_establishes_with_what_was_proven() {
    for path in PATHS {
        let (node, office) = talk(path, |_, _| {});
        let node = node.session.into_channel().unwrap();
        let office = office.session.into_channel().unwrap();
        assert_eq!(node.peer().path(), path);
        assert_eq!(office.peer().path(), path);
        assert_eq!(node.peer().binding(), office.peer().binding());
        assert_eq!(*node.peer().owner(), owner(1).public_key().fingerprint());
        assert_eq!(office.peer().sealing_key(), SEALING_KEY);
        assert_eq!(office.peer().appraised().as_bytes(), EK);
    }
}

#[test]
fn the_channel_is_tls_1_3_with_the_hybrid_group_and_no_resumption() {
    for path in PATHS {
        let (node, office) = talk(path, |_, _| {});
        let (node, _) = node.session.into_channel().unwrap().into_parts();
        let (office, _) = office.session.into_channel().unwrap().into_parts();
        for connection in [&node, &office] {
            let group = connection.negotiated_key_exchange_group().unwrap();
            assert_eq!(group.name(), NamedGroup::X25519MLKEM768);
            assert_eq!(
                connection.protocol_version(),
                Some(ProtocolVersion::TLSv1_3)
            );
            assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(connection.alpn_protocol(), Some(crate::ALPN));
            if let Connection::Client(client) = connection {
                assert_eq!(client.tls13_tickets_received(), 0);
            }
        }
    }
}

#[test]
fn evidence_is_asked_for_this_channel_and_this_policy() {
    let (node, office) = talk(Join, |_, _| {});
    let [request] = node.requests.as_slice() else {
        panic!("{:?}", node.requests)
    };
    assert_eq!(request.pcrs, PCRS);
    assert_eq!(
        std::slice::from_ref(&request.binding),
        office.bindings.as_slice()
    );
}

#[test]
fn bindings_of_two_sessions_differ() {
    let (first, second) = (talk(Join, |_, _| {}), talk(Join, |_, _| {}));
    assert_ne!(first.1.bindings, second.1.bindings);
}

#[test]
fn requests_may_follow_the_last_frame_at_once() {
    let (mut node, mut office) = (Node::new(Join), Office::new(Join));
    let (mut to_node, mut to_office) = (Vec::new(), Vec::new());
    while node.outcome().is_none() {
        to_office.extend(node.turn(&mut to_node));
        if node.outcome().is_none() {
            to_node.extend(office.turn(&mut to_office));
        }
    }
    // Frame 5 is on its way; the first request goes into the same flight.
    let (mut connection, _) = node.session.into_channel().unwrap().into_parts();
    connection.writer().write_all(b"first request").unwrap();
    connection.write_tls(&mut to_office).unwrap();
    office.turn(&mut to_office);
    let (mut connection, _) = office.session.into_channel().unwrap().into_parts();
    connection.read_tls(&mut to_office.as_slice()).ok();
    connection.process_new_packets().unwrap();
    let mut request = [0; 13];
    connection.reader().read_exact(&mut request).unwrap();
    assert_eq!(&request, b"first request");
}

#[test]
fn a_refused_identity_is_final_and_never_reaches_the_tpm() {
    for path in PATHS {
        let (node, office) = talk(path, |_, office| {
            office.flaws.refuse_identity = Some(refused());
        });
        assert!(node.requests.is_empty());
        assert_final_without_details(&node);
        assert!(matches!(office.error(), SessionError::RefusedPeer(own) if *own == refused()));
    }
}

#[test]
fn refused_evidence_is_final_and_tells_the_class_only() {
    for path in PATHS {
        let (node, office) = talk(path, |_, office| {
            office.flaws.refuse_evidence = Some(refused());
        });
        assert_eq!(node.requests.len(), 1);
        assert_final_without_details(&node);
        assert!(matches!(office.error(), SessionError::RefusedPeer(own) if *own == refused()));
    }
}

fn assert_final_without_details(node: &Node) {
    assert!(
        matches!(node.error(), SessionError::RefusedByOwner(got) if *got == Refusal::of(Class::Refused)),
        "{:?}",
        node.error()
    );
    assert!(node.error().is_final_for_attester());
}

#[test]
fn an_unavailable_owner_is_not_final() {
    for path in PATHS {
        for class in [Class::Unavailable, Class::Internal] {
            let (node, _) = talk(path, |_, office| {
                office.flaws.refuse_evidence = Some(Refusal::of(class));
            });
            assert!(
                matches!(node.error(), SessionError::RefusedByOwner(got) if got.class == class)
            );
            assert!(!node.error().is_final_for_attester());
        }
    }
}

#[test]
fn a_refusal_without_the_owners_proof_is_not_final() {
    for path in PATHS {
        for wrong_side in [false, true] {
            let (node, _) = talk(path, |_, office| {
                office.flaws.refuse_identity = Some(refused());
                office.flaws.foreign_owner = !wrong_side;
                office.flaws.wrong_side = wrong_side;
            });
            let error = node.error();
            assert!(
                matches!(error, SessionError::RefusedWithoutProof { .. }),
                "{error:?}"
            );
            assert_eq!(error.class(), Class::Unavailable);
            assert!(!error.is_final_for_attester());
        }
    }
}

#[test]
fn a_foreign_owner_is_refused_and_told_the_class_only() {
    for path in PATHS {
        let (node, office) = talk(path, |_, office| office.flaws.foreign_owner = true);
        assert!(matches!(
            node.error(),
            SessionError::Owner(owner::OwnerProofError::ForeignOwner { .. })
        ));
        assert!(!node.error().is_final_for_attester());
        assert!(matches!(
            office.error(),
            SessionError::RefusedByAttester(got) if *got == Refusal::of(Class::Refused)
        ));
    }
}

#[test]
fn on_a_push_nothing_of_the_tpm_is_spent_on_a_foreign_owner() {
    for path in [Init, Recover] {
        let (node, _) = talk(path, |_, office| office.flaws.foreign_owner = true);
        assert!(node.requests.is_empty());
    }
}

#[test]
fn a_proof_for_the_other_side_is_refused() {
    for path in PATHS {
        let (node, office) = talk(path, |_, office| office.flaws.wrong_side = true);
        assert!(matches!(
            node.error(),
            SessionError::Owner(owner::OwnerProofError::Signature)
        ));
        assert!(matches!(office.error(), SessionError::RefusedByAttester(_)));
    }
}

#[test]
fn an_attester_without_evidence_tells_its_owner_only() {
    let (node, office) = talk(Recover, |node, _| node.unable = Some(Class::Unavailable));
    assert!(matches!(node.error(), SessionError::RefusedPeer(_)));
    assert!(matches!(
        office.error(),
        SessionError::RefusedByAttester(got) if got.class == Class::Unavailable
    ));
    let (node, mut office) = talk(Join, |node, _| node.unable = Some(Class::Unavailable));
    assert!(matches!(node.error(), SessionError::RefusedPeer(_)));
    office.cut();
    assert!(matches!(office.error(), SessionError::Closed));
}

#[test]
fn sides_and_paths_fit_or_there_is_no_session() {
    let end = TlsEnd::generate().unwrap();
    for path in PATHS {
        let dials = matches!(path, Join | Rejoin);
        let attester = AttesterSession::connect(&end, start(), attester_terms(), path);
        assert_eq!(attester.is_ok(), dials);
        let attester = AttesterSession::accept(&end, start(), attester_terms(), &[path]);
        assert_eq!(attester.is_ok(), !dials);
        let admitter = AdmitterSession::<()>::connect(&end, start(), admitter_terms(), path);
        assert_eq!(admitter.is_ok(), !dials);
        let admitter = AdmitterSession::<()>::accept(&end, start(), admitter_terms(), &[path]);
        assert_eq!(admitter.is_ok(), dials);
    }
}

#[test]
fn a_path_that_was_not_offered_is_refused() {
    let (mut node, mut office) = (Node::new(Join), Office::new(Rejoin));
    converse(&mut node, &mut office);
    assert!(matches!(office.error(), SessionError::Path { path: Join }));
    let (mut node, mut office) = (Node::new(Recover), Office::new(Init));
    converse(&mut node, &mut office);
    assert!(matches!(node.error(), SessionError::Path { path: Init }));
}

#[test]
fn a_session_past_its_deadline_is_over_for_good() {
    let (node, _) = talk(Join, |node, _| node.now = DEADLINE);
    assert!(matches!(node.error(), SessionError::Deadline));
    assert_eq!(node.error().class(), Class::Unavailable);
    let mut session = node.session;
    assert!(matches!(
        session.step(std::time::Duration::ZERO),
        Err(SessionError::Internal { .. })
    ));
    assert!(session.into_channel().is_err());
}

#[test]
fn answers_that_were_not_asked_for_are_refused() {
    let mut node = Node::new(Join);
    let answer = node.session.supply_evidence(Err(Class::Internal));
    assert!(matches!(answer, Err(SessionError::Internal { .. })));
    let mut office = Office::new(Join);
    assert!(
        office
            .session
            .supply_challenge(Ok(Some(challenge())))
            .is_err()
    );
    assert!(office.session.supply_appraisal(Ok(String::new())).is_err());
    assert!(node.session.into_channel().is_err());
    assert!(office.session.into_channel().is_err());
}

#[test]
fn a_cut_cable_ends_every_state() {
    // The number of turns before the cut grows until the session establishes.
    for path in PATHS {
        for turns in 0.. {
            let (mut node, mut office) = (Node::new(path), Office::new(path));
            let (mut to_node, mut to_office) = (Vec::new(), Vec::new());
            for _ in 0..turns {
                to_office.extend(node.turn(&mut to_node));
                to_node.extend(office.turn(&mut to_office));
            }
            node.cut();
            office.cut();
            if let (Some(Ok(())), Some(Ok(()))) = (node.outcome(), office.outcome()) {
                assert!(turns > 2);
                break;
            }
            for outcome in [node.outcome(), office.outcome()] {
                let outcome = outcome.unwrap();
                assert!(
                    matches!(outcome, Ok(()) | Err(SessionError::Closed)),
                    "{outcome:?}"
                );
            }
        }
    }
}

#[test]
fn a_kind_that_needs_no_challenge_is_admitted_without_one() {
    for path in PATHS {
        let mut node = Node::with(path, snp_terms());
        let mut office = Office::new(path);
        converse(&mut node, &mut office);
        assert!(matches!(node.outcome(), Some(Ok(()))), "{path}");
        assert!(matches!(office.outcome(), Some(Ok(()))), "{path}");
        let [request] = node.requests.as_slice() else {
            panic!("{:?}", node.requests)
        };
        assert!(request.challenge.is_none() && request.pcrs.is_empty());
    }
}

#[test]
fn a_kind_that_is_not_accepted_makes_no_evidence() {
    for path in PATHS {
        let mut node = Node::with(path, snp_terms());
        let mut terms = admitter_terms();
        terms.accepted.truncate(1);
        let mut office = Office::with(path, terms);
        converse(&mut node, &mut office);
        let SessionError::RefusedPeer(refusal) = office.error() else {
            panic!("{:?}", office.error())
        };
        assert_eq!(refusal.checks[0].check, "evidence kind");
        assert_eq!(
            (&*refusal.checks[0].expected, &*refusal.checks[0].got),
            ("tpm", "sev-snp")
        );
        assert!(node.error().is_final_for_attester(), "{path}");
        assert!(node.requests.is_empty(), "{path}");
    }
}

#[test]
fn a_driver_cannot_leave_out_a_challenge_nor_add_one() {
    for (terms, challenge) in [(attester_terms(), None), (snp_terms(), Some(challenge()))] {
        for path in PATHS {
            let mut node = Node::with(path, terms.clone());
            let mut office = Office::new(path);
            office.flaws.challenge = Some(challenge.clone());
            converse(&mut node, &mut office);
            assert!(
                matches!(office.error(), SessionError::Internal { .. }),
                "{path}"
            );
            assert!(node.requests.is_empty(), "{path}");
        }
    }
}

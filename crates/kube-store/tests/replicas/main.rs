//! Several stores on one API server made of memory, with lost requests, lost answers and rivals in
//! between: what was granted, and what is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lints know test functions only"
)]

mod api_server;
#[path = "../support/requests.rs"]
mod requests;

use admission::{
    Claim, ControlPlaneEntry, Key, OperatorAction, Refusal, Request, SerialRefusal, Value, Version,
};
use api_server::{ApiServer, Fault};
use identity::Generation;
use kube_store::{DecisionError, SerialError, StoreError};
use requests::{act, ask, disk, join, name, peer};
use serde_json::json;

fn refusal(answer: Result<(), DecisionError>) -> Refusal {
    match answer {
        Err(DecisionError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_join_and_its_commit_leave_what_the_core_wrote() {
    let server = ApiServer::default();
    let store = server.store();
    ask(&store, &peer(1, 1), &join(1, "worker-0"))
        .await
        .unwrap();
    let commit = Request::Commit {
        disk: disk(1),
        generation: Generation(1),
    };
    ask(&store, &peer(1, 1), &commit).await.unwrap();
    let records = store.nodes().await.unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].generation, records[0].disk),
        (Generation(1), disk(1))
    );
    let claim = store.read(&Key::Name(name("worker-0"))).await.unwrap();
    assert!(matches!(claim, Some(Value::Claim(Claim { disk: held, .. })) if held == disk(1)));
    // The latch keeps this boot from a second key, so its claim is nobody's business.
    assert!(store.spent_boots().await.unwrap().is_empty());
}

/// No read says how old its answer may be, and none is a watch: each goes to the quorum.
#[tokio::test]
async fn reads_are_by_quorum() {
    let server = ApiServer::default();
    let store = server.store();
    ask(&store, &peer(1, 1), &join(1, "worker-0"))
        .await
        .unwrap();
    store.nodes().await.unwrap();
    store.spent_boots().await.unwrap();
    let reads = server.reads();
    assert!(reads.len() > 6, "{reads:?}");
    for query in reads {
        assert!(
            !query.contains("resourceVersion") && !query.contains("watch"),
            "{query}"
        );
    }
}

#[tokio::test]
async fn of_many_machines_one_gets_the_name() {
    for seed in 0..32 {
        let server = ApiServer::default();
        server.shuffle(seed);
        let tries = (1..=6).map(|number| {
            let store = server.store();
            async move { ask(&store, &peer(number, number), &join(number, "worker-0")).await }
        });
        let answers = futures_util::future::join_all(tries).await;
        let winners = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(winners, 1, "seed {seed}: {answers:?}");
        for answer in answers.into_iter().filter(Result::is_err) {
            assert!(matches!(refusal(answer), Refusal::NameTaken { .. }));
        }
        assert_eq!(server.names("node-").len(), 1, "seed {seed}");
    }
}

/// One disk, one claim, one record, and both replicas give the same ticket.
#[tokio::test]
async fn one_node_asks_two_replicas() {
    for seed in 0..32 {
        let server = ApiServer::default();
        server.shuffle(seed);
        let (first, second) = (server.store(), server.store());
        let (peer, request) = (peer(1, 1), join(1, "worker-0"));
        let (first, second) =
            tokio::join!(ask(&first, &peer, &request), ask(&second, &peer, &request));
        first.unwrap();
        second.unwrap();
        for prefix in ["node-", "boot-", "name-", "disk-", "attester-"] {
            assert_eq!(server.names(prefix).len(), 1, "seed {seed}: {prefix}");
        }
    }
}

/// A replica that dies after any call, or whose answers are lost from any call on, leaves a state from
/// which the same node gets its ticket elsewhere, and no other node gets the name.
#[tokio::test]
async fn every_prefix_of_the_writes_heals() {
    for fault in [Fault::LostRequest, Fault::LostAnswer, Fault::Refused] {
        let mut completed = false;
        for call in 0..40 {
            let server = ApiServer::default();
            server.fail_from(call, fault);
            let first = ask(&server.store(), &peer(1, 1), &join(1, "worker-0")).await;
            match first {
                Ok(()) => completed = true,
                Err(DecisionError::Store(StoreError::Refused { .. })) => {
                    assert_eq!(fault, Fault::Refused);
                }
                Err(DecisionError::Store(error)) => assert!(error.is_unavailable(), "{error:?}"),
                Err(DecisionError::Refused(refusal)) => panic!("call {call}: {refusal}"),
                other => panic!("{other:?}"),
            }
            server.heal();
            ask(&server.store(), &peer(1, 1), &join(1, "worker-0"))
                .await
                .unwrap();
            assert_eq!(server.names("node-").len(), 1);
            let thief = ask(&server.store(), &peer(2, 2), &join(2, "worker-0")).await;
            assert!(matches!(refusal(thief), Refusal::NameTaken { .. }));
        }
        assert!(
            completed,
            "the faults never came too late: more calls to try"
        );
    }
}

#[tokio::test]
async fn rubbish_refuses_and_names_the_object() {
    let server = ApiServer::default();
    let store = server.store();
    ask(&store, &peer(1, 1), &join(1, "worker-0"))
        .await
        .unwrap();
    let rubbish = [
        json!({"claim": {"disk": disk(1).to_string()}}),
        json!({"claim": "x"}),
        json!({"record": {}}),
        json!({"claim": {"disk": "../etc", "boot": "", "attester": ""}}),
        json!({"attester": "x".repeat(20_000)}),
        json!(null),
    ];
    for spec in rubbish {
        server.set_spec("name-worker-0", spec.clone());
        let refused = ask(&store, &peer(1, 1), &join(1, "worker-0")).await;
        let Refusal::StoreCorrupt { key } = refusal(refused) else {
            panic!("{spec}")
        };
        assert_eq!(key, "name-worker-0");
    }
    // A well-formed object of another kind is the core's to refuse.
    server.set_spec("name-worker-0", json!({"attester": disk(1).to_string()}));
    let refused = ask(&store, &peer(1, 1), &join(1, "worker-0")).await;
    assert!(matches!(refusal(refused), Refusal::StoreCorrupt { key } if key == "name-worker-0"));
    // A list goes on without it.
    server.set_spec(&format!("node-{}", disk(1)), json!({"record": 7}));
    assert!(store.nodes().await.unwrap().is_empty());
    assert!(matches!(
        store.node(disk(1)).await,
        Err(StoreError::Corrupt { .. })
    ));
}

/// The API server would round it, and the record would be lost.
#[tokio::test]
async fn a_number_that_the_api_server_cannot_keep_is_not_written() {
    let server = ApiServer::default();
    let store = server.store();
    ask(&store, &peer(1, 1), &join(1, "worker-0"))
        .await
        .unwrap();
    let commit = Request::Commit {
        disk: disk(1),
        generation: Generation(u64::MAX),
    };
    let refused = ask(&store, &peer(1, 1), &commit).await;
    assert!(matches!(refusal(refused), Refusal::StoreCorrupt { .. }));
    assert_eq!(store.nodes().await.unwrap()[0].generation, Generation(0));
}

/// A cluster without our resources has no records, and yet says nothing about any disk.
#[tokio::test]
async fn a_missing_resource_definition_is_not_a_missing_object() {
    let server = ApiServer::default();
    server.fail_from(0, Fault::NoResource);
    let action = OperatorAction::Forget {
        node: name("worker-0"),
    };
    let answer = act(&server.store(), &action).await;
    assert!(
        matches!(
            answer,
            Err(DecisionError::Store(StoreError::Refused { .. }))
        ),
        "{answer:?}"
    );
}

#[tokio::test]
async fn entries_and_lists_survive_pages() {
    let server = ApiServer::default();
    let store = server.store();
    let open = |number| OperatorAction::OpenControlPlane {
        node: name(&format!("control-{number}")),
    };
    for number in 0..3 {
        act(&store, &open(number)).await.unwrap();
    }
    let entry = store
        .read(&Key::ControlPlane(name("control-1")))
        .await
        .unwrap();
    assert_eq!(entry, Some(Value::ControlPlane(ControlPlaneEntry::Open)));
    for number in 1..=7 {
        let node = format!("worker-{number}");
        ask(&store, &peer(number, number), &join(number, &node))
            .await
            .unwrap();
    }
    // The server gives two objects a page.
    assert_eq!(store.nodes().await.unwrap().len(), 7);
}

#[tokio::test]
async fn a_node_is_observed_beside_its_record() {
    let server = ApiServer::default();
    let store = server.store();
    ask(&store, &peer(1, 1), &join(1, "worker-0"))
        .await
        .unwrap();
    assert_eq!(store.node(disk(1)).await.unwrap().unwrap().node_uid, None);
    store.observe_node(disk(1), "uid-1").await.unwrap();
    let commit = Request::Commit {
        disk: disk(1),
        generation: Generation(1),
    };
    ask(&store, &peer(1, 1), &commit).await.unwrap();
    let node = store.node(disk(1)).await.unwrap().unwrap();
    assert_eq!(node.node_uid.as_deref(), Some("uid-1"));
    assert_eq!(node.record.generation, Generation(1));
    store.observe_node(disk(9), "uid-9").await.unwrap();
    assert_eq!(store.node(disk(9)).await.unwrap(), None);
}

fn version(document: &'static str, serial: u64, digest: u8) -> Version {
    Version {
        document,
        serial,
        digest: [digest; 32],
    }
}

#[tokio::test]
async fn serials_rise_together_or_not_at_all() {
    let server = ApiServer::default();
    let store = server.store();
    let raise = |versions: [Version; 2]| {
        let store = server.store();
        async move { store.raise_serials(&versions).await }
    };
    let both = |policy, values| {
        [
            version("policy", policy, 1),
            version("reference values", values, 2),
        ]
    };
    raise(both(5, 5)).await.unwrap();
    raise(both(5, 5)).await.unwrap();
    let lower = raise(both(6, 4)).await;
    assert!(matches!(
        lower,
        Err(SerialError::Refused(SerialRefusal::Lower {
            stored: 5,
            got: 4,
            ..
        }))
    ));
    // The policy's serial did not rise with the refusal.
    raise(both(5, 5)).await.unwrap();
    let reused = [version("policy", 5, 9), version("reference values", 6, 2)];
    assert!(matches!(
        raise(reused).await,
        Err(SerialError::Refused(SerialRefusal::Reused {
            serial: 5,
            ..
        }))
    ));
    server.fail_from(0, Fault::LostAnswer);
    assert!(matches!(
        raise(both(7, 7)).await,
        Err(SerialError::Store(_))
    ));
    server.heal();
    let rivals = (8..14).map(|serial| raise(both(serial, serial)));
    futures_util::future::join_all(rivals).await;
    assert!(store.raise_serials(&both(13, 13)).await.is_ok());
    assert!(store.raise_serials(&both(12, 13)).await.is_err());
}

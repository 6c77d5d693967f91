//! The store on a real API server: what its schema keeps, who wins, and what a lost server leaves.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lints know test functions only"
)]

#[path = "support/requests.rs"]
mod requests;

use admission::{
    Adoption, BootClaim, BootId, ControlPlaneEntry, Key, OperatorAction, Peer, Refusal, Request,
    SealingKeyHash, Value, Version,
};
use appraisal::AttesterIdentity;
use evidence::AdmissionPath;
use identity::{Generation, KeyVersion, Role};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client,
    api::{GetParams, Patch, PatchParams, PostParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use kube_store::{DecisionError, GROUP, KubeStore, NAMESPACE, StoreError, VERSION};
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use requests::{act, ask, disk, join, join_as, name, peer};
use serde_json::json;
use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

/// One for all tests that do not harm it; each has names and disks of its own.
static SHARED: LazyLock<ControlPlane> = LazyLock::new(|| {
    let control_plane = start();
    std::thread::scope(|scope| scope.spawn(|| install(&control_plane)).join().unwrap());
    control_plane
});

fn start() -> ControlPlane {
    ControlPlane::start(&Kubernetes::find().unwrap(), Options::default()).unwrap()
}

/// The namespace, and the resources as an operator applies them.
fn install(control_plane: &ControlPlane) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let namespaces: Api<Namespace> = Api::all(control_plane.kube_client().unwrap());
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(NAMESPACE.into());
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    });
    let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/crds.yaml");
    for arguments in [
        &["apply", "-f", crds][..],
        &[
            "wait",
            "--for=condition=Established",
            "--timeout=60s",
            "-f",
            crds,
        ],
    ] {
        let output = control_plane.kubectl().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
    }
}

fn store() -> KubeStore {
    KubeStore::new(SHARED.kube_client().unwrap())
}

fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, VERSION, kind))
}

fn objects(client: Client, kind: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client, NAMESPACE, &resource(kind))
}

const fn commit(number: u8, generation: u64) -> Request {
    Request::Commit {
        disk: disk(number),
        generation: Generation(generation),
    }
}

/// Each kind of object comes back as it was written: the schema drops and rounds nothing.
#[tokio::test]
async fn every_kind_of_object_passes_the_schema() {
    let store = store();
    let open = OperatorAction::OpenControlPlane {
        node: name("control-1"),
    };
    act(&store, &open).await.unwrap();
    let control = peer(1, 1);
    let request = join_as(1, "control-1", Role::ControlPlane);
    ask(&store, &control, &request).await.unwrap();
    let entry = Key::ControlPlane(name("control-1"));
    let bound = ControlPlaneEntry::Bound {
        attester: control.attester,
        disk: disk(1),
    };
    let read = async |key| store.read(key).await.unwrap();
    assert_eq!(read(&entry).await, Some(Value::ControlPlane(bound)));
    let largest = u64::try_from(i64::MAX).unwrap();
    ask(&store, &control, &commit(1, largest)).await.unwrap();
    let spent = Value::ControlPlane(ControlPlaneEntry::Spent);
    assert_eq!(read(&entry).await, Some(spent));
    let record = store.node(disk(1)).await.unwrap().unwrap().record;
    assert_eq!(record.generation, Generation(largest));
    assert_eq!(record.committed, Some(control.boot));
    let boot = BootClaim {
        disk: disk(1),
        boot: BootId::of_report_id(&[1; 32]),
        attester: AttesterIdentity::SevSnp,
        sealing_key: SealingKeyHash::of(&[1; 32]),
        committed: Some(Generation(3)),
    };
    act(&store, &OperatorAction::RecordBoot(boot))
        .await
        .unwrap();
    assert_eq!(store.spent_boots().await.unwrap(), [boot]);
    let forget = OperatorAction::Forget {
        node: name("control-1"),
    };
    act(&store, &forget).await.unwrap();
    assert!(
        store
            .node(disk(1))
            .await
            .unwrap()
            .unwrap()
            .record
            .is_tombstone()
    );
}

#[tokio::test]
async fn an_adopted_record_and_serials_pass_the_schema_and_show() {
    let store = store();
    // What the bootstrapper of the first node writes.
    let adoption = Adoption {
        disk: disk(2),
        node: name("control-2"),
        role: Role::ControlPlane,
        attester: AttesterIdentity::Machine([2; 32]),
        generation: Generation::FIRST,
    };
    act(&store, &OperatorAction::Adopt(adoption)).await.unwrap();
    let versions = ["policy", "reference values"].map(|document| Version {
        document,
        serial: 7,
        digest: [7; 32],
    });
    store.raise_serials(&versions).await.unwrap();
    store.raise_serials(&versions).await.unwrap();
    let lower = versions.map(|version| Version {
        serial: 6,
        ..version
    });
    assert!(store.raise_serials(&lower).await.is_err());
    let shown = SHARED
        .kubectl()
        .args(["get", "noderecords", "-n", NAMESPACE])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let header: Vec<_> = shown.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        [
            "NAME",
            "NODE",
            "ROLE",
            "STATE",
            "GENERATION",
            "IMAGE",
            "AGE"
        ]
    );
    assert!(
        shown.contains("control-2") && shown.contains("active"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_clients_one_creates() {
    let tries = (20..26).map(|number| {
        let store = store();
        tokio::spawn(async move {
            let request = join(number, "raced");
            ask(&store, &peer(number, number), &request).await
        })
    });
    let (mut winners, tries) = (0, tries.collect::<Vec<_>>());
    for answer in tries {
        match answer.await.unwrap() {
            Ok(()) => winners += 1,
            Err(DecisionError::Refused(Refusal::NameTaken { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(winners, 1);
}

/// The same machine asks two replicas at once, again and again: one record, one claim, and every
/// generation is committed by one boot.
#[tokio::test(flavor = "multi_thread")]
async fn compare_and_set_conflicts_are_decided_again() {
    let machine = peer(30, 30);
    let request = join(30, "worker-30");
    let (one, other) = (store(), store());
    let (a, b) = tokio::join!(
        ask(&one, &machine, &request),
        ask(&other, &machine, &request)
    );
    a.unwrap();
    b.unwrap();
    ask(&one, &machine, &commit(30, 1)).await.unwrap();
    for round in 31..36 {
        // Two boots with one disk: a clone and its original.
        let boots = [peer(30, round), peer(30, round + 100)].map(|peer| Peer {
            path: AdmissionPath::Rejoin,
            ..peer
        });
        let rejoin = Request::IssueRejoinTicket {
            disk: disk(30),
            key_version: KeyVersion::FIRST,
        };
        let generation = u64::from(round);
        let go = async |store: &KubeStore, peer: &Peer| {
            ask(store, peer, &rejoin).await.unwrap();
            ask(store, peer, &commit(30, generation)).await
        };
        let (a, b) = tokio::join!(go(&one, &boots[0]), go(&other, &boots[1]));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        let record = one.node(disk(30)).await.unwrap().unwrap().record;
        assert_eq!(record.generation, Generation(generation));
    }
}

#[tokio::test]
async fn rubbish_that_the_schema_lets_through_refuses_by_name() {
    let store = store();
    let request = join(40, "worker-40");
    ask(&store, &peer(40, 40), &request).await.unwrap();
    let claims = objects(SHARED.kube_client().unwrap(), "AdmissionClaim");
    let rubbish = json!({"spec": {"claim": {"disk": "no uuid"}}});
    let parameters = PatchParams::default();
    claims
        .patch("name-worker-40", &parameters, &Patch::Merge(rubbish))
        .await
        .unwrap();
    match ask(&store, &peer(40, 40), &request).await {
        Err(DecisionError::Refused(Refusal::StoreCorrupt { key })) => {
            assert_eq!(key, "name-worker-40");
        }
        other => panic!("{other:?}"),
    }
    // The schema keeps the rest out, and drops what it does not know.
    let records = objects(SHARED.kube_client().unwrap(), "NodeRecord");
    let name = format!("node-{}", disk(40));
    for wrong in [
        json!({"spec": {"record": {"role": "admin"}}}),
        json!({"spec": {"record": {"state": "alive"}}}),
        json!({"spec": {"record": {"state": {"tombstone": "x"}}}}),
        json!({"spec": {"record": {"generation": -1}}}),
        json!({"spec": {"record": null}}),
    ] {
        let patch = Patch::Merge(&wrong);
        let patched = records.patch(&name, &parameters, &patch).await;
        assert!(patched.is_err(), "{wrong}");
    }
    let unknown = Patch::Merge(json!({"spec": {"record": {"surprise": "x"}}}));
    records.patch(&name, &parameters, &unknown).await.unwrap();
    assert!(store.node(disk(40)).await.unwrap().is_some());
}

#[tokio::test]
async fn nobody_without_a_role_reads_or_writes() {
    let access = SHARED.access_as("somebody", &[]).unwrap();
    let store = KubeStore::new(access.client().unwrap());
    let answer = ask(&store, &peer(50, 50), &join(50, "worker-50")).await;
    assert!(
        matches!(
            answer,
            Err(DecisionError::Store(StoreError::Refused { .. }))
        ),
        "{answer:?}"
    );
}

/// A cluster without the resources says nothing about any disk, least of all that it is unknown.
#[tokio::test]
async fn missing_definitions_are_not_missing_objects() {
    let control_plane = start();
    let store = KubeStore::new(control_plane.kube_client().unwrap());
    let rejoin = Request::IssueRejoinTicket {
        disk: disk(1),
        key_version: KeyVersion::FIRST,
    };
    let peer = Peer {
        path: AdmissionPath::Rejoin,
        ..peer(1, 1)
    };
    let answer = ask(&store, &peer, &rejoin).await;
    assert!(
        matches!(
            answer,
            Err(DecisionError::Store(StoreError::Refused { .. }))
        ),
        "{answer:?}"
    );
}

/// Killed between any two writes, the API server leaves a prefix, and the next try finishes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_api_server_heals() {
    let mut control_plane = start();
    let installed = std::thread::scope(|scope| scope.spawn(|| install(&control_plane)).join());
    installed.unwrap();
    // Slow enough that the kill comes in the middle.
    control_plane.delay_etcd(Duration::from_millis(30));
    for round in 0..3_u8 {
        let number = 60 + round;
        let node = format!("worker-{number}");
        let store = KubeStore::new(control_plane.kube_client().unwrap());
        let request = join(number, &node);
        let asked = {
            let (store, request) = (store.clone(), request.clone());
            tokio::spawn(async move { ask(&store, &peer(number, number), &request).await })
        };
        tokio::time::sleep(Duration::from_millis(150 + 150 * u64::from(round))).await;
        control_plane.kill_api_server().unwrap();
        match asked.await.unwrap() {
            Err(DecisionError::Store(error)) => assert!(error.is_unavailable(), "{error:?}"),
            Ok(()) => {}
            other => panic!("{other:?}"),
        }
        tokio::task::block_in_place(|| control_plane.start_api_server().unwrap());
        let store = KubeStore::new(control_plane.kube_client().unwrap());
        ask(&store, &peer(number, number), &request).await.unwrap();
        let thief = ask(&store, &peer(99, 99), &join(99, &node)).await;
        assert!(
            matches!(
                thief,
                Err(DecisionError::Refused(Refusal::NameTaken { .. }))
            ),
            "{thief:?}"
        );
    }
    assert_eq!(
        KubeStore::new(control_plane.kube_client().unwrap())
            .nodes()
            .await
            .unwrap()
            .len(),
        3
    );
}

/// With etcd out of reach the API server still answers from its watch cache whoever allows that. We do
/// not: no answer is better than an old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_cache_is_never_asked() {
    let control_plane = start();
    let installed = std::thread::scope(|scope| scope.spawn(|| install(&control_plane)).join());
    installed.unwrap();
    let client = control_plane.kube_client().unwrap();
    let store = KubeStore::new(client.clone());
    ask(&store, &peer(70, 70), &join(70, "worker-70"))
        .await
        .unwrap();
    let records = objects(client, "NodeRecord");
    let name = format!("node-{}", disk(70));
    let cached = GetParams::any();
    // The cache follows a moment later.
    while records.get_with(&name, &cached).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    control_plane.delay_etcd(Duration::from_secs(60));
    records.get_with(&name, &cached).await.unwrap();
    let started = Instant::now();
    let read = store.node(disk(70)).await;
    assert!(matches!(read, Err(StoreError::Timeout { .. })), "{read:?}");
    let listed = store.nodes().await;
    assert!(
        matches!(&listed, Err(error) if error.is_unavailable()),
        "{listed:?}"
    );
    assert!(started.elapsed() < 3 * kube_store::CALL_TIMEOUT);
}

//! `constellation upgrade` against a real API server: documents, drains, one roll-out. What a node and its
//! kubelet do is done by the test; the join services' part is in `crates/native-cluster`.
#![cfg(test)]

#[path = "support/api_server.rs"]
mod api_server;
#[path = "support/operator.rs"]
mod operator;
#[path = "support/running.rs"]
mod running;

use admission::Version;
use api_server::{machine, node, record, start};
use hand_off::KubernetesMaterial;
use identity::{ClusterId, DiskId, KeyVersion};
use k8s_openapi::api::core::v1::{ConfigMap, Node as KubernetesNode};
use kube::{Api, api::PostParams};
use kube_store::{ClusterFacts, KubeStore, NAMESPACE};
use native_kubernetes::{ControlPlane, Options};
use owner::{DocumentKind, OwnerKey, OwnerPublicKey, Seed, SignedDocument};
use running::{CLUSTER, Node, SHARED, measurements, printed};
use secret_file::{Passphrase, SecretKind, read_encrypted};
use serde_json::{Value, json};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::Output,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// An address of this machine that nobody else's tests use, with the port that nodes have.
const WORKER: &str = "127.78.0.1";

const DISK: u8 = 1;

#[test]
fn an_image_is_rolled_onto_a_cluster() {
    let control_plane = start(Options {
        // No kubelet says here that a node lives.
        controller_manager: vec!["--node-monitor-grace-period=1h".into()],
        ..Options::default()
    });
    let _worker = Node::start_at(
        &format!("{WORKER}:30081"),
        "worker-0",
        CLUSTER,
        Some(CLUSTER),
    );
    let cluster = Cluster { control_plane };
    cluster.begin();
    documents_come_into_force_in_their_order(&cluster);
    two_operators_at_once_do_not_mix(&cluster);
    a_node_that_would_be_refused_is_named_first(&cluster);
    pods_leave_by_eviction_or_are_named(&cluster);
    a_roll_out_goes_on_where_it_stopped(&cluster);
    a_node_with_other_evidence_stays_cordoned(&cluster);
    an_image_in_use_is_not_retired(&cluster);
}

struct Cluster {
    control_plane: ControlPlane,
}

impl Cluster {
    /// What a first node's bootstrapper leaves, and a worker that was admitted with image `v0`. The node
    /// answers as image `bare`, all of whose registers are zero.
    fn begin(&self) {
        let operator = &SHARED.operator;
        let kubeconfig = self.control_plane.admin_kubeconfig();
        fs::write(operator.path("admin.kubeconfig"), kubeconfig).unwrap();
        signed("rv", 1, &[("v0", "1")]);
        let owner = fs::read_to_string(operator.path("owner/owner.pub")).unwrap();
        let owner: OwnerPublicKey = owner.trim_end().parse().unwrap();
        let facts = ClusterFacts {
            kubernetes: KubernetesMaterial {
                api_endpoint: "10.0.0.1:6443".into(),
                certificate_authority: "pem".into(),
                pod_subnet: "10.244.0.0/16".into(),
                service_subnet: "10.96.0.0/12".into(),
                dns_domain: "cluster.local".into(),
                version: "v1.20.2".into(),
            },
            cluster_id: ClusterId::from_bytes(CLUSTER),
            key_version: KeyVersion::FIRST,
            owner: owner.fingerprint().to_string(),
        };
        let machine = machine(WORKER);
        Runtime::new().unwrap().block_on(async {
            let client = self.control_plane.kube_client().unwrap();
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
            let (new, map) = (PostParams::default(), facts.config_map());
            maps.create(&new, &map).await.unwrap();
            let store = KubeStore::new(client.clone());
            record(&store, "worker-0", DISK, machine).await;
            node(&Api::all(client), "worker-0", WORKER).await;
        });
        for (map, key, file) in [
            ("constellation-policy", "policy.json", "policy.signed.json"),
            (
                "constellation-reference-values",
                "reference-values.json",
                "rv.signed.json",
            ),
        ] {
            let file = format!("--from-file={key}={}", operator.path(file).display());
            self.kubectl(&["-n", NAMESPACE, "create", "configmap", map, &file]);
        }
        self.admitted("v0", 3);
    }

    fn kubectl(&self, words: &[&str]) -> String {
        let output = self.try_kubectl(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_kubectl(&self, words: &[&str]) -> Output {
        self.control_plane.kubectl().args(words).output().unwrap()
    }

    /// The join service admitted the worker.
    fn admitted(&self, image: &str, generation: u64) {
        let disk = DiskId::from_bytes([DISK; 16]);
        let name = format!("node-{disk}");
        let patch = json!({"spec": {"record": {"image": image, "generation": generation}}});
        let patch = patch.to_string();
        let words = ["-n", NAMESPACE, "patch", "noderecord", &name];
        self.kubectl(&[&words[..], &["--type=merge", "-p", &patch]].concat());
    }

    /// The kubelet of another boot says that it is ready.
    fn booted(&self, boot: &str) {
        Runtime::new().unwrap().block_on(async {
            let client = self.control_plane.kube_client().unwrap();
            let nodes: Api<KubernetesNode> = Api::all(client);
            let mut node = nodes.get_status("worker-0").await.unwrap();
            let status = node.status.as_mut().unwrap();
            let info = status.node_info.get_or_insert_default();
            info.boot_id = boot.to_owned();
            let new = PostParams::default();
            nodes.replace_status("worker-0", &new, &node).await.unwrap();
        });
    }

    fn serial(&self) -> u64 {
        let document = self.shown("status --owner owner/owner.pub", 0);
        document["reference_values_serial"].as_u64().unwrap()
    }

    fn node(&self) -> Value {
        let node = self.kubectl(&["get", "node", "worker-0", "-o", "json"]);
        serde_json::from_str(&node).unwrap()
    }

    fn is_cordoned(&self) -> bool {
        self.node()["spec"]["unschedulable"] == true
    }

    /// What `upgrade` prints that ends with this status.
    fn shown(&self, line: &str, status: i32) -> Value {
        let line = format!("upgrade {line} --kubeconfig admin.kubeconfig --output json");
        let shown = printed(&SHARED.operator.run(&line), status);
        serde_json::from_str(&shown).unwrap()
    }

    fn refused(&self, line: &str) -> String {
        let line = format!("upgrade {line} --kubeconfig admin.kubeconfig");
        SHARED.operator.fails(&line)
    }
}

/// Signs reference values of this serial with these images, each a name and a digit, as `NAME.signed.json`.
fn signed(name: &str, serial: u64, images: &[(&str, &str)]) {
    let images = images.iter().map(|(image, digit)| {
        measurements(&SHARED.operator, digit);
        let measured = fs::read(SHARED.operator.path("measurements.json")).unwrap();
        let measured: Value = serde_json::from_slice(&measured).unwrap();
        json!({"name": image, "roles": ["worker"], "pcrs": measured["pcrs"]})
    });
    let images: Vec<_> = images.collect();
    signed_text(
        name,
        &json!({"version": 1, "serial": serial, "images": images}),
    );
}

/// The owner's signature without the program, whose every use of the key costs half a second of scrypt.
fn signed_text(name: &str, document: &Value) {
    static OWNER: LazyLock<OwnerKey> = LazyLock::new(|| {
        let file = |name: &str| SHARED.operator.path(name);
        let passphrase = Passphrase::read(&file("passphrase")).unwrap();
        let (key, kind) = (file("owner/owner.key"), SecretKind::OwnerKey);
        let seed = read_encrypted(&key, kind, &passphrase, Seed::from_slice).unwrap();
        OwnerKey::from_seed(&seed).unwrap()
    });
    let kind = DocumentKind::ReferenceValues;
    let signed = SignedDocument::sign(kind, document.to_string(), &OWNER).encode();
    fs::write(SHARED.operator.path(&format!("{name}.signed.json")), signed).unwrap();
}

/// Nobody is there to say that it is in force: status 4, though it is stored.
const BRING: &str = "reference-values --owner owner/owner.pub --timeout 1";
const SIGN: &str = "--reference-values rv.signed.json --owner-key owner/owner.key \
                    --passphrase-file passphrase --timeout 1";

fn documents_come_into_force_in_their_order(cluster: &Cluster) {
    signed("same", 1, &[("v0", "2")]);
    let error = cluster.refused(&format!("{BRING} same.signed.json"));
    assert!(error.contains("newer"), "{error}");
    signed("second", 2, &[("v0", "1"), ("spare", "9")]);
    let dry = cluster.shown(&format!("{BRING} second.signed.json --dry-run"), 0);
    assert_eq!(dry["result"], "dry-run");
    assert_eq!(dry["changes"][0]["field"], "images[spare].name");
    assert_eq!(cluster.serial(), 1);
    let pushed = cluster.shown(&format!("{BRING} second.signed.json"), 4);
    assert_eq!(pushed["result"], "pushed");
    assert_eq!(cluster.serial(), 2);
    // Again: it is there, and nobody says that it is in force.
    cluster.shown(&format!("{BRING} second.signed.json"), 4);
    let error = cluster.refused(&format!("{BRING} rv.signed.json"));
    assert!(error.contains("newer"), "{error}");

    let foreign = Seed::try_fill::<()>(|seed| {
        seed.fill(7);
        Ok(())
    });
    let foreign = OwnerKey::from_seed(&foreign.unwrap()).unwrap();
    let foreign = foreign.public_key().to_string();
    fs::write(SHARED.operator.path("foreign.pub"), foreign).unwrap();
    let line = "reference-values --owner foreign.pub second.signed.json";
    let error = cluster.refused(line);
    assert!(error.contains("expected owner"), "{error}");
    let error = cluster.refused("status --owner foreign.pub");
    assert!(error.contains("another owner's"), "{error}");
    // One image only, that no accepted kind of evidence can compare: the policy does not fit.
    let broken = json!({"version": 1, "serial": 3, "images": [{"name": "v0", "roles": ["worker"],
        "pcrs": {"11": ["1".repeat(64)]}}]});
    signed_text("unfit", &broken);
    let error = cluster.refused(&format!("{BRING} unfit.signed.json"));
    assert!(error.contains("do not fit"), "{error}");

    // A join service has seen serial 4 of it, though somebody set the ConfigMap back.
    Runtime::new().unwrap().block_on(async {
        let store = KubeStore::new(cluster.control_plane.kube_client().unwrap());
        let version = Version {
            document: "reference values",
            serial: 4,
            digest: [7; 32],
        };
        store.raise_serials(&[version]).await.unwrap();
    });
    signed("third", 3, &[("v0", "1")]);
    let error = cluster.refused(&format!("{BRING} third.signed.json"));
    assert!(error.contains("that join services stored"), "{error}");
    assert_eq!(cluster.serial(), 2);
}

fn two_operators_at_once_do_not_mix(cluster: &Cluster) {
    signed("one", 5, &[("v0", "1"), ("one", "8")]);
    signed("other", 5, &[("v0", "1"), ("other", "7")]);
    let outputs: Vec<Output> = thread::scope(|scope| {
        let push = |file: &'static str| {
            let line = format!("upgrade {BRING} {file}.signed.json --kubeconfig admin.kubeconfig");
            scope.spawn(move || SHARED.operator.run(&line))
        };
        let pushes = [push("one"), push("other")];
        pushes.map(|push| push.join().unwrap()).into()
    });
    let mut statuses: Vec<_> = outputs.iter().map(|output| output.status.code()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [Some(1), Some(4)], "{outputs:?}");
    assert_eq!(cluster.serial(), 5);
}

fn a_node_that_would_be_refused_is_named_first(cluster: &Cluster) {
    signed("without", 6, &[("spare", "9")]);
    let refused = cluster.shown(&format!("{BRING} without.signed.json"), 3);
    assert_eq!(refused["result"], "refused");
    assert_eq!(refused["locked_out"][0]["node"], "worker-0");
    assert_eq!(cluster.serial(), 5);
    signed("narrower", 6, &[("v0", "3")]);
    let refused = cluster.shown(&format!("{BRING} narrower.signed.json"), 3);
    let reason = refused["locked_out"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("pcrs"), "{reason}");
    let line = format!("{BRING} without.signed.json --lock-out");
    cluster.shown(&line, 4);
    signed("back", 7, &[("v0", "1")]);
    cluster.shown(&format!("{BRING} back.signed.json"), 4);
}

const TO: &str = "--owner owner/owner.pub --policy policy.signed.json \
                  --reference-values rv.signed.json --cluster cluster.json";

/// A ReplicaSet whose pods run on the worker, and a pod from a file.
const PODS: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
  {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"}, "spec": {
    "replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
      "metadata": {"labels": {"app": "web"}},
      "spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "web", "image": "none"}]}}}},
  {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": {
    "minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "static",
    "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {
    "nodeName": "worker-0", "containers": [{"name": "static", "image": "none"}]}},
  {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"}, "spec": {
    "nodeName": "worker-0", "terminationGracePeriodSeconds": 0,
    "containers": [{"name": "alone", "image": "none"}]}}
]}"#;

fn pods_leave_by_eviction_or_are_named(cluster: &Cluster) {
    measurements(&SHARED.operator, "0");
    let add = format!("add bare --role worker --measurements measurements.json {SIGN}");
    let added = cluster.shown(&add, 4);
    assert_eq!(
        (&added["serial_before"], &added["serial"]),
        (&json!(7), &json!(8))
    );
    // The file follows, and asking again signs nothing.
    assert_eq!(cluster.shown(&add, 4)["serial"], 8);
    measurements(&SHARED.operator, "5");
    assert!(cluster.refused(&add).contains("with other values"));

    let file = SHARED.operator.path("pods.json");
    fs::write(&file, PODS).unwrap();
    cluster.kubectl(&["apply", "-f", file.to_str().unwrap()]);
    run_on_the_worker(cluster);
    let node = format!("node worker-0 --to bare {TO} --drain-timeout 1 --timeout 1");
    let blocked = cluster.shown(&node, 4);
    assert_eq!(blocked["result"], "blocked");
    assert_eq!(blocked["pods"][0]["pod"], "default/alone");
    assert!(cluster.is_cordoned());
    let blocked = cluster.shown(&format!("{node} --delete-unmanaged"), 4);
    let pods = blocked["pods"].as_array().unwrap();
    let web = pods
        .iter()
        .find(|pod| pod.to_string().contains("default/web-"));
    let reason = web.unwrap()["reason"].as_str().unwrap();
    assert!(reason.contains("budget"), "{blocked}");
    eventually(|| {
        (!cluster
            .try_kubectl(&["get", "pod", "alone"])
            .status
            .success())
        .then_some(())
    });
    cluster.kubectl(&["delete", "poddisruptionbudget", "web"]);
}

/// The scheduler's part and the kubelet's.
fn run_on_the_worker(cluster: &Cluster) {
    let pod = eventually(|| {
        let pods = cluster.kubectl(&["get", "pods", "-l", "app=web", "-o", "name"]);
        let pod = pods.lines().next()?.strip_prefix("pod/")?.to_owned();
        Some(pod)
    });
    Runtime::new().unwrap().block_on(async {
        let client = cluster.control_plane.kube_client().unwrap();
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client, "default");
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"kind": "Node", "name": "worker-0"}});
        let new = PostParams::default();
        let bound = pods.create_subresource::<_, Value>("binding", &pod, &new, &binding);
        bound.await.unwrap();
        let mut running = pods.get_status(&pod).await.unwrap();
        running.status = serde_json::from_value(json!({"phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}]}))
        .unwrap();
        pods.replace_status(&pod, &new, &running).await.unwrap();
    });
    // The budget is counted by the controller manager.
    eventually(|| {
        let path = "jsonpath={.status.currentHealthy}";
        let words = ["get", "poddisruptionbudget", "web", "-o", path];
        (cluster.kubectl(&words) == "1").then_some(())
    });
}

fn a_roll_out_goes_on_where_it_stopped(cluster: &Cluster) {
    let node = format!("node worker-0 --to bare {TO} --drain-timeout 60");
    // The command that replaces the disk is not there at first.
    let line = format!("{node} --replace-with ./absent");
    let error = cluster.refused(&line);
    assert!(error.contains("replaces the root disk"), "{error}");
    let replace = "#!/bin/sh\necho $CONSTELLATION_NODE $CONSTELLATION_IMAGE >>replaced\n";
    let file = SHARED.operator.path("replace");
    fs::write(&file, replace).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    let waiting = format!("{node} --replace-with ./replace --timeout 1");
    let shown = cluster.shown(&waiting, 4);
    assert_eq!(shown["result"], "waiting");
    let pods = cluster.kubectl(&["get", "pods", "-o", "wide", "--no-headers"]);
    let there: Vec<_> = pods
        .lines()
        .filter(|line| line.contains("worker-0"))
        .collect();
    assert!(there.len() == 1 && there[0].starts_with("static"), "{pods}");
    let status = cluster.shown("status --owner owner/owner.pub", 0);
    assert_eq!(status["nodes"][0]["upgrading_to"], "bare");
    assert!(
        status["next"]
            .as_str()
            .unwrap()
            .contains("node worker-0 --to bare")
    );

    // It comes back as what it was: its disk was not replaced, so the command is due again.
    cluster.admitted("v0", 4);
    cluster.booted("second");
    let shown = cluster.shown(&waiting, 3);
    assert_eq!(
        (&shown["result"], &shown["got"]),
        (&json!("other-image"), &json!("v0"))
    );
    let shown = cluster.shown(&waiting, 4);
    assert_eq!(shown["result"], "waiting");
    let replaced = fs::read_to_string(SHARED.operator.path("replaced")).unwrap();
    assert_eq!(replaced, "worker-0 bare\n".repeat(2));

    // Admitted, and its kubelet of before still said that it is ready.
    cluster.admitted("bare", 5);
    cluster.booted("third");
    assert!(cluster.is_cordoned());
    let shown = cluster.shown(&waiting, 0);
    assert_eq!(shown["verified"]["image"], "bare");
    assert!(!cluster.is_cordoned());
    let annotations = &cluster.node()["metadata"]["annotations"];
    assert_eq!(annotations["constellation.internal/upgrade"], Value::Null);
    // Nothing is done to a node that is there.
    cluster.shown(&waiting, 0);
    let again = fs::read_to_string(SHARED.operator.path("replaced")).unwrap();
    assert_eq!(again, replaced);
}

/// It was admitted with an image, says the record, and its evidence is another one's.
fn a_node_with_other_evidence_stays_cordoned(cluster: &Cluster) {
    measurements(&SHARED.operator, "4");
    let add = format!("add v2 --role worker --measurements measurements.json {SIGN}");
    assert_eq!(cluster.shown(&add, 4)["serial"], 9);
    let node = format!("node worker-0 --to v2 {TO} --timeout 1");
    assert_eq!(cluster.shown(&node, 4)["result"], "waiting");
    cluster.admitted("v2", 6);
    cluster.booted("fourth");
    let shown = cluster.shown(&format!("node worker-0 --to v2 {TO} --timeout 30"), 3);
    assert_eq!(shown["result"], "refused");
    let checks = shown["evidence"]["checks"].to_string();
    assert!(
        checks.contains("PCR 4") && checks.contains(&"4".repeat(64)),
        "{shown}"
    );
    assert!(cluster.is_cordoned());
    // Back to the image that it has: its evidence fits, nothing is replaced.
    cluster.admitted("bare", 7);
    let shown = cluster.shown(&format!("node worker-0 --to bare {TO}"), 0);
    assert_eq!(shown["result"], "done");
    assert!(!cluster.is_cordoned());
}

fn an_image_in_use_is_not_retired(cluster: &Cluster) {
    let retire = |image: &str| {
        format!("retire {image} --policy policy.signed.json --cluster cluster.json {SIGN}")
    };
    let kept = cluster.shown(&retire("bare"), 3);
    assert_eq!(kept["nodes"][0]["node"], "worker-0");
    cluster.admitted("v0", 8);
    let kept = cluster.shown(&retire("v0"), 3);
    assert!(
        kept["nodes"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("admitted")
    );
    cluster.admitted("bare", 9);
    let retired = cluster.shown(&retire("v0"), 4);
    assert_eq!(
        (&retired["serial"], &retired["result"]),
        (&json!(10), &json!("pushed"))
    );
    // Again: nothing is signed.
    assert_eq!(cluster.shown(&retire("v0"), 4)["serial"], 10);
    let status = cluster.shown("status --owner owner/owner.pub", 0);
    assert_eq!(status["images"].as_array().unwrap().len(), 2);
    let held = "--kubeconfig admin.kubeconfig --owner owner/owner.pub";
    let line = format!("reference-values list {held} --out held.signed.json");
    let listed = SHARED.operator.ok(&line);
    assert!(
        listed.contains("Serial 10") && listed.contains("v2"),
        "{listed}"
    );
    let file = |name: &str| fs::read(SHARED.operator.path(name)).unwrap();
    assert_eq!(file("held.signed.json"), file("rv.signed.json"));
    let policy = SHARED.operator.ok(&format!("policy show {held}"));
    assert!(policy.contains("ek_authorities"), "{policy}");
    // Its values are gone from the file, too.
    let error = cluster.refused(&format!("node worker-0 --to v0 {TO}"));
    assert!(error.contains("no image `v0`"), "{error}");
}

#[track_caller]
fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it did not come about");
        thread::sleep(Duration::from_millis(200));
    }
}

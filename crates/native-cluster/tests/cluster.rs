//! The life of a cluster: made, joined, verified, a name not given twice, an image rolled out, all powered off
//! and recovered, a node deleted. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lints know test functions only"
)]

use child_process::run;
use native_cluster::{Cluster, IMAGE};
use serde_json::Value;
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

const CONTROL: &str = "control-0";
const WORKER: &str = "worker-0";

/// The image that is rolled out.
const NEXT: &str = "next-node";

/// How long a node or a service may take to notice something.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_cluster_lives() {
    let mut cluster = Cluster::new().unwrap();
    cluster.tell(live);
}

fn live(cluster: &mut Cluster) {
    cluster.add_node(CONTROL).unwrap();
    run(&mut cluster.init_command().unwrap()).unwrap();
    cluster.wait_ready(CONTROL).unwrap();
    // The result is stored; asking again for it changes nothing.
    run(&mut cluster.init_command().unwrap()).unwrap();

    cluster.add_node(WORKER).unwrap();
    cluster.wait_ready(WORKER).unwrap();
    everything_verifies(cluster);
    saved_answers_verify(cluster, [false, true]);
    a_name_is_given_once(cluster);
    nobody_joins_by_a_bootstrap_token(cluster);
    another_image_does_not_verify(cluster);

    let remembered = ["create", "configmap", "remembered", "--from-literal=a=b"];
    run(&mut cluster.kubectl(&remembered)).unwrap();
    a_worker_gets_the_next_image(cluster);
    the_cluster_comes_back(cluster);
    cluster.ask(&["get", "configmap", "remembered"]).unwrap();
    everything_verifies(cluster);
    a_deleted_worker_is_dead(cluster);
    a_control_plane_node_needs_the_operator(cluster);
}

fn everything_verifies(cluster: &Cluster) {
    eventually("all nodes verify", || {
        let verified = json(&mut cluster.verify_command().unwrap());
        let status = json(&mut cluster.status_command().unwrap());
        let names = |value: &Value| {
            [CONTROL, WORKER]
                .iter()
                .all(|name| value.to_string().contains(name))
        };
        verified.is_some_and(|v| names(&v)) && status.is_some_and(|s| names(&s))
    });
}

/// Each node by one plain question, and its answer from a file: whoever admitted it certified its key, the
/// owner in person or a join service.
fn saved_answers_verify(cluster: &mut Cluster, by_a_service: [bool; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("answer.json");
    for (index, by_a_service) in by_a_service.into_iter().enumerate() {
        let nonce = format!("0{index}").repeat(32);
        let answer = cluster.statement(index, &nonce).unwrap();
        let said: Value = serde_json::from_str(&answer).unwrap();
        let admission_key = &said["ak_certificate"]["admission_key"];
        assert_eq!(admission_key.is_object(), by_a_service, "{said}");
        std::fs::write(&file, answer).unwrap();
        let file = file.to_str().unwrap();
        let asked = ["verify", "--document", file, "--nonce", &nonce];
        let mut command = cluster.constellation(&asked).unwrap();
        cluster.owner().know(&mut command);
        cluster.owner().judge(&mut command);
        let found = json(&mut command).unwrap();
        let proof = &found["nodes"][0]["attestation_key"];
        assert_eq!(proof, "certified-at-admission", "{found}");
    }
}

/// Another machine with the same image asks for a name that is taken.
fn a_name_is_given_once(cluster: &mut Cluster) {
    cluster.add_node(WORKER).unwrap();
    eventually("the impostor is refused", || {
        cluster
            .node(2)
            .unwrap()
            .log()
            .contains("the agent exits with `refused`")
    });
    cluster.power_off(2).unwrap();
}

fn nobody_joins_by_a_bootstrap_token(cluster: &Cluster) {
    let tokens = "--field-selector=type=bootstrap.kubernetes.io/token";
    let words = [
        "get",
        "secrets",
        "--all-namespaces",
        "--output",
        "name",
        tokens,
    ];
    assert_eq!(cluster.ask(&words).unwrap(), "");
    let bindings = ["get", "clusterrolebindings", "--output", "name"];
    let bindings = cluster.ask(&bindings).unwrap();
    assert!(!bindings.contains("kubelet-bootstrap"), "{bindings}");
    assert!(
        !bindings.contains("node-autoapprove-bootstrap"),
        "{bindings}"
    );
}

fn another_image_does_not_verify(cluster: &Cluster) {
    cluster.owner().accept_only("another-image").unwrap();
    let output = cluster.verify_command().unwrap().output().unwrap();
    cluster.owner().accept_only(IMAGE).unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("PCR 11"), "{said}");
}

/// The roll-out is interrupted while the node is off, and goes on with the same command.
fn a_worker_gets_the_next_image(cluster: &mut Cluster) {
    let measured = cluster.owner().measure(NEXT).unwrap();
    let measured = measured.to_str().unwrap();
    let roles = ["--role", "worker", "--role", "control-plane"];
    let words = [&["add", NEXT, "--measurements", measured][..], &roles].concat();
    let mut add = cluster.upgrade_command(&words).unwrap();
    cluster.owner().amend(&mut add);
    let added = ended(&mut add, 0);
    assert_eq!(added["result"], "in-force", "{added}");
    assert_eq!(added["replicas"][0]["serial"], 2, "{added}");

    let waiting = ended(&mut roll(cluster, WORKER, "1"), 4);
    assert_eq!(waiting["result"], "waiting", "{waiting}");
    assert_eq!(unschedulable(cluster), "true");
    cluster.power_off(1).unwrap();
    cluster.insert(NEXT);
    cluster.power_on(1).unwrap();
    let done = ended(&mut roll(cluster, WORKER, "240"), 0);
    assert_eq!(done["verified"]["image"], NEXT, "{done}");
    assert_eq!(unschedulable(cluster), "");
    assert!(cluster.node(1).unwrap().log().contains("path=rejoin"));
    // Nothing more to do.
    ended(&mut roll(cluster, WORKER, "240"), 0);
}

/// The only control-plane node gets the image, too. Nobody is there to ask until the owner recovers it;
/// the worker, which was off as well, follows by itself.
fn the_cluster_comes_back(cluster: &mut Cluster) {
    let mut retire = retire(cluster);
    let kept = ended(&mut retire, 3);
    assert_eq!(kept["nodes"][0]["node"], CONTROL, "{kept}");
    cluster.power_off(1).unwrap();
    cluster.power_off(0).unwrap();
    cluster.power_on(1).unwrap();
    cluster.power_on(0).unwrap();
    run(&mut cluster.recover_command(0).unwrap()).unwrap();
    cluster.wait_ready(CONTROL).unwrap();
    eventually("the worker follows", || {
        cluster
            .node(1)
            .unwrap()
            .log()
            .contains("this node is ready")
    });
    cluster.wait_ready(WORKER).unwrap();
}

/// `upgrade node`, waiting for so many seconds.
fn roll(cluster: &Cluster, node: &str, seconds: &str) -> Command {
    let words = ["node", node, "--to", NEXT, "--timeout", seconds];
    let mut command = cluster.upgrade_command(&words).unwrap();
    cluster.owner().know(&mut command);
    cluster.owner().judge(&mut command);
    command
}

fn retire(cluster: &Cluster) -> Command {
    let mut command = cluster.upgrade_command(&["retire", IMAGE]).unwrap();
    cluster.owner().judge(&mut command);
    cluster.owner().act(&mut command);
    let file = cluster.owner().workspace().join("cluster.json");
    command.arg("--cluster").arg(file);
    command
}

/// What a verb says that ends with this status.
#[track_caller]
fn ended(command: &mut Command, status: i32) -> Value {
    let output = command.args(["--output", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}{stderr}");
    serde_json::from_str(&said).unwrap()
}

fn unschedulable(cluster: &Cluster) -> String {
    let path = "jsonpath={.spec.unschedulable}";
    cluster.ask(&["get", "node", WORKER, "-o", path]).unwrap()
}

fn a_deleted_worker_is_dead(cluster: &mut Cluster) {
    cluster
        .ask(&["delete", "node", WORKER, "--ignore-not-found"])
        .unwrap();
    eventually("the record is a tombstone", || {
        let records = json(&mut cluster.node_command(&["show", WORKER]).unwrap());
        records.is_some_and(|records| {
            let nodes = records["nodes"].as_array().unwrap();
            nodes.iter().all(|node| node["state"] == "forgotten")
        })
    });
    cluster.power_off(1).unwrap();
    cluster.power_on(1).unwrap();
    eventually("the deleted node is refused", || {
        let log = cluster.node(1).unwrap().log();
        log.contains("the agent exits with `refused`")
    });
}

/// The image may have the role, and its host says so: it still takes the operator's word.
fn a_control_plane_node_needs_the_operator(cluster: &mut Cluster) {
    const SECOND: &str = "control-1";
    cluster.add_control_plane(SECOND).unwrap();
    eventually("an uninvited control plane is refused", || {
        let log = cluster.node(3).unwrap().log();
        log.contains("the agent exits with `refused`")
    });
    let invite = ["open-control-plane", SECOND];
    run(&mut cluster.node_command(&invite).unwrap()).unwrap();
    cluster.power_off(3).unwrap();
    cluster.power_on(3).unwrap();
    cluster.wait_ready(SECOND).unwrap();
    eventually("it runs an API server and the services", || {
        let words = ["get", "pods", "--all-namespaces", "--output", "name"];
        let on = format!("spec.nodeName={SECOND}");
        let mut command = cluster.kubectl(&words);
        let pods = run(command.args(["--field-selector", &on])).unwrap_or_default();
        ["kube-apiserver", "key-service", "join-service"]
            .iter()
            .all(|name| pods.contains(name))
    });
}

fn json(command: &mut Command) -> Option<Value> {
    let answer = run(command.args(["--output", "json"])).ok()?;
    serde_json::from_str(&answer).ok()
}

#[track_caller]
fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "it did not come about that {what}");
        thread::sleep(Duration::from_millis(500));
    }
    println!("{what}");
}

//! A cluster that loses one of its three control-plane nodes, and then everything: with certificates that
//! ended while it was off. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lints know test functions only"
)]

use child_process::run;
use native_cluster::{Cluster, expire};
use serde_json::{Value, json};
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// Nodes in the order of their machines, which are named by their places below.
const CONTROLS: [&str; 3] = ["control-0", "control-1", "control-2"];
const WORKER: usize = 3;
const OTHER_WORKER: usize = 4;
/// The machine that takes the place of the first one.
const REPLACEMENT: usize = 5;

/// How long a node or a service may take to notice something.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn a_cluster_outlives_its_nodes() {
    let mut cluster = Cluster::with_balancer().unwrap();
    cluster.tell(live);
}

fn live(cluster: &mut Cluster) {
    grow(cluster);
    let remembered = ["create", "configmap", "remembered", "--from-literal=a=b"];
    run(&mut cluster.kubectl(&remembered)).unwrap();
    the_first_node_is_lost(cluster);
    another_takes_its_place(cluster);
    the_lost_one_is_refused(cluster);
    everything_goes_down(cluster);
    everything_comes_back(cluster);
    insist(|| cluster.kubectl(&["get", "configmap", "remembered"]));
}

fn grow(cluster: &mut Cluster) {
    cluster.add_node(CONTROLS[0]).unwrap();
    run(&mut cluster.init_command().unwrap()).unwrap();
    cluster.wait_ready(CONTROLS[0]).unwrap();
    for name in &CONTROLS[1..] {
        join_control_plane(cluster, name);
    }
    for name in ["worker-0", "worker-1"] {
        cluster.add_node(name).unwrap();
    }
    for name in ["worker-0", "worker-1"] {
        cluster.wait_ready(name).unwrap();
    }
    assert_eq!(members(cluster, 1), CONTROLS);
}

fn join_control_plane(cluster: &mut Cluster, name: &str) {
    let invite = ["open-control-plane", name];
    insist(|| cluster.node_command(&invite).unwrap());
    cluster.add_control_plane(name).unwrap();
    cluster.wait_ready(name).unwrap();
    println!("{name} is a control-plane node");
}

/// The others' services answer while it is away, and etcd gets rid of it only when the operator says so.
fn the_first_node_is_lost(cluster: &mut Cluster) {
    cluster.power_off(0).unwrap();
    a_node_rejoins(
        cluster,
        WORKER,
        "a worker rejoins at the services of the others",
    );
    let delete = ["delete", "node", CONTROLS[0], "--ignore-not-found"];
    insist(|| cluster.kubectl(&delete));
    assert_eq!(
        members(cluster, 1),
        CONTROLS,
        "a deleted Node is no word of the operator"
    );
    insist(|| cluster.node_command(&["forget", CONTROLS[0]]).unwrap());
    eventually("its member is removed", || {
        members(cluster, 1) == CONTROLS[1..]
    });
}

fn another_takes_its_place(cluster: &mut Cluster) {
    join_control_plane(cluster, CONTROLS[0]);
    assert_eq!(members(cluster, 1), CONTROLS);
    assert_eq!(members(cluster, REPLACEMENT), CONTROLS);
    insist(|| cluster.kubectl(&["get", "configmap", "remembered"]));
    a_node_rejoins(cluster, 1, "a control-plane node rejoins with a ticket");
}

fn the_lost_one_is_refused(cluster: &mut Cluster) {
    cluster.power_on(0).unwrap();
    eventually("the lost one is refused", || {
        let log = cluster.node(0).unwrap().log();
        log.contains("the agent exits with `refused`")
    });
    cluster.power_off(0).unwrap();
}

/// With the end of every certificate but those of one worker.
fn everything_goes_down(cluster: &mut Cluster) {
    let update = cluster.owner().workspace().join("nodes.json");
    let update = ["list", "--update", update.to_str().unwrap()];
    insist(|| cluster.node_command(&update).unwrap());
    the_join_services_certificate_ends(cluster);
    for node in [1, 2, WORKER, OTHER_WORKER, REPLACEMENT] {
        cluster.power_off(node).unwrap();
    }
    let authorities = cluster.node(1).unwrap().authorities().unwrap();
    for (node, certificates) in [(1, 12), (2, 12), (REPLACEMENT, 12), (WORKER, 2)] {
        let node = cluster.node(node).unwrap();
        assert_eq!(node.expire(&authorities).unwrap(), certificates);
    }
}

/// The key service renews it within half a minute; the power goes before.
fn the_join_services_certificate_ends(cluster: &Cluster) {
    let ended = expire(&services_certificate(cluster), None).unwrap();
    let patch = json!({"stringData": {"tls.crt": ended}}).to_string();
    let words = [
        "--namespace",
        "constellation-system",
        "patch",
        "secret",
        "join-service-tls",
        "--patch",
        &patch,
    ];
    cluster.ask(&words).unwrap();
}

/// Workers are first and wait. One has good certificates and is recovered; the other one needs a ticket, so
/// a join service whose own certificate is good again.
fn everything_comes_back(cluster: &mut Cluster) {
    for node in [WORKER, OTHER_WORKER] {
        cluster.power_on(node).unwrap();
    }
    run(&mut cluster.recover_command(OTHER_WORKER).unwrap()).unwrap();
    for node in [REPLACEMENT, 2, 1] {
        cluster.power_on(node).unwrap();
        run(&mut cluster.recover_command(node).unwrap()).unwrap();
    }
    for node in [1, 2, REPLACEMENT, OTHER_WORKER, WORKER] {
        eventually("a node comes back", || {
            cluster
                .node(node)
                .unwrap()
                .log()
                .contains("this node is ready")
        });
    }
    for name in CONTROLS.into_iter().chain(["worker-0", "worker-1"]) {
        cluster.wait_ready(name).unwrap();
    }
    let log = |cluster: &mut Cluster, node| cluster.node(node).unwrap().log();
    assert!(log(cluster, WORKER).contains("path=rejoin"));
    assert!(log(cluster, OTHER_WORKER).contains("path=recover"));
    assert_eq!(members(cluster, 1), CONTROLS);
    let ended = expire(&services_certificate(cluster), None).unwrap();
    assert_ne!(services_certificate(cluster), ended);
    eventually("everything verifies", || {
        run(&mut cluster.verify_command().unwrap()).is_ok()
    });
}

fn a_node_rejoins(cluster: &mut Cluster, node: usize, what: &str) {
    cluster.power_off(node).unwrap();
    cluster.power_on(node).unwrap();
    eventually(what, || {
        let log = cluster.node(node).unwrap().log();
        log.contains("path=rejoin") && log.contains("this node is ready")
    });
}

fn services_certificate(cluster: &Cluster) -> String {
    let words = [
        "--namespace",
        "constellation-system",
        "get",
        "secret",
        "join-service-tls",
        "--output",
        r#"go-template={{index .data "tls.crt" | base64decode}}"#,
    ];
    cluster.ask(&words).unwrap()
}

/// The names of etcd's members, in order, as a node's own etcd has them.
fn members(cluster: &mut Cluster, node: usize) -> Vec<String> {
    let pki = |name: &str| format!("/etc/kubernetes/pki/{name}");
    let answer = cluster.node(node).unwrap().isolated().run(&[
        "curl",
        "--silent",
        "--fail",
        "--data",
        "{}",
        "--cacert",
        &pki("etcd/ca.crt"),
        "--cert",
        &pki("apiserver-etcd-client.crt"),
        "--key",
        &pki("apiserver-etcd-client.key"),
        "https://127.0.0.1:2379/v3/cluster/member/list",
    ]);
    let answer: Value = serde_json::from_str(&answer.unwrap()).unwrap();
    let members = answer["members"].as_array().unwrap();
    let mut names: Vec<_> = members
        .iter()
        .map(|member| member["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names
}

/// As an operator would: an API server that just came back, or a machine that is busy, gets another chance.
#[track_caller]
fn insist(command: impl Fn() -> Command) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        match run(&mut command()) {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < end, "{error:#}"),
        }
        thread::sleep(Duration::from_millis(500));
    }
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

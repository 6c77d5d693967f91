//! The crate graph of ARCHITECTURE.md, as Cargo sees it: which of our crates may depend on which,
//! and what must never get into the initramfs agent.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read the graph fails"
)]

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Every edge between our crates that is not a dev-dependency. A new edge is a decision: add it here
/// and say in ARCHITECTURE.md why the arrow still points inward.
const ALLOWED: &[(&str, &[&str])] = &[
    ("secret", &[]),
    ("identity", &[]),
    ("tpm", &[]),
    ("x509", &[]),
    ("snp", &["x509"]),
    ("evidence", &["identity"]),
    ("audit", &["identity"]),
    ("measure", &["tpm"]),
    ("owner", &["evidence", "identity", "secret"]),
    ("key-hierarchy", &["identity", "secret"]),
    ("state-disk", &["identity", "secret"]),
    (
        "appraisal",
        &[
            "evidence", "identity", "owner", "secret", "snp", "tpm", "x509",
        ],
    ),
    ("admission", &["appraisal", "audit", "evidence", "identity"]),
    ("secret-file", &[]),
    // `constellation mini` starts machines by it.
    ("vm", &["child-process"]),
    ("endorsements", &["appraisal", "evidence", "snp"]),
    ("api", &["evidence", "identity", "owner"]),
    (
        "attested-tls",
        &["api", "appraisal", "evidence", "owner", "secret"],
    ),
    (
        "platform",
        &["evidence", "identity", "secret", "state-disk", "tpm"],
    ),
    ("hand-off", &["evidence", "identity"]),
    ("kube-store", &["admission", "hand-off", "identity"]),
    (
        "manifests",
        &[
            "hand-off",
            "identity",
            "key-hierarchy",
            "secret",
            "secret-file",
        ],
    ),
    ("service-runtime", &["audit", "secret-file"]),
    (
        "initrd-agent",
        &[
            "admission",
            "api",
            "attested-tls",
            "evidence",
            "hand-off",
            "identity",
            "owner",
            "platform",
            "secret",
            "state-disk",
        ],
    ),
    (
        "key-service",
        &[
            "admission",
            "api",
            "audit",
            "hand-off",
            "identity",
            "key-hierarchy",
            "kube-store",
            "secret",
            "secret-file",
            "service-runtime",
        ],
    ),
    (
        "bootstrapper",
        &[
            "admission",
            "api",
            "appraisal",
            "evidence",
            "hand-off",
            "identity",
            "kube-store",
            "manifests",
            "platform",
            "service-runtime",
            "x509",
        ],
    ),
    (
        "join-service",
        &[
            "admission",
            "api",
            "appraisal",
            "attested-tls",
            "audit",
            "endorsements",
            "evidence",
            "hand-off",
            "identity",
            "kube-store",
            "owner",
            "secret",
            "secret-file",
            "service-runtime",
            "snp",
            "x509",
        ],
    ),
    (
        "verification-service",
        &[
            "api",
            "evidence",
            "hand-off",
            "identity",
            "platform",
            "service-runtime",
        ],
    ),
    (
        "constellation-cli",
        &[
            "admission",
            "api",
            "appraisal",
            "attested-tls",
            "audit",
            "endorsements",
            "evidence",
            "hand-off",
            "identity",
            "key-hierarchy",
            "kube-store",
            "measure",
            "owner",
            "secret",
            "secret-file",
            "snp",
            "tpm",
            "vm",
            "x509",
        ],
    ),
];

/// Crates that may use anything of ours: they build, test and measure the rest.
const TOOLS: &[&str] = &[
    "bench",
    "child-process",
    "container-images",
    "guest-attester",
    "kubernetes-binaries",
    "native-agent",
    "native-cluster",
    "native-kubernetes",
    "probe-init",
    "qemu-tests",
    "snp-device",
    "software-snp",
    "software-tpm",
    "vectors",
    "xtask",
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform=x86_64-unknown-linux-musl",
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Normal and build dependencies of every package, by package id.
fn edges(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    nodes
        .iter()
        .map(|node| {
            let dependencies = node["deps"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dependency| {
                    dependency["dep_kinds"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .any(|kind| kind["kind"] != "dev")
                });
            let ids = dependencies.map(|dependency| dependency["pkg"].as_str().unwrap().to_owned());
            (node["id"].as_str().unwrap().to_owned(), ids.collect())
        })
        .collect()
}

fn names(metadata: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect()
}

#[test]
fn our_crates_depend_on_each_other_as_decided() {
    let metadata = metadata();
    let (edges, names) = (edges(&metadata), names(&metadata));
    let members: BTreeSet<_> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    for member in &members {
        let name = names[*member].as_str();
        if TOOLS.contains(&name) {
            continue;
        }
        let allowed: BTreeSet<&str> = allowed
            .get(name)
            .unwrap_or_else(|| panic!("crate `{name}` is not in the table"))
            .iter()
            .copied()
            .collect();
        let ours = edges[*member]
            .iter()
            .filter(|id| members.contains(id.as_str()));
        let found: BTreeSet<&str> = ours.map(|id| names[id].as_str()).collect();
        assert_eq!(found, allowed, "edges of `{name}`: found, allowed");
    }
}

/// Oracles of tests bring a second implementation of all cryptography; no program may depend on one.
#[test]
fn oracles_stay_in_tests() {
    let metadata = metadata();
    let (edges, names) = (edges(&metadata), names(&metadata));
    let members = metadata["workspace_members"].as_array().unwrap();
    let members = members.iter().map(|id| id.as_str().unwrap());
    let mut waiting: Vec<&str> = members
        .filter(|id| !TOOLS.contains(&names[*id].as_str()))
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if seen.insert(id) {
            waiting.extend(edges[id].iter().map(String::as_str));
        }
    }
    let names: BTreeSet<_> = seen.into_iter().map(|id| names[id].as_str()).collect();
    assert!(names.contains("rustls"), "not all edges were walked");
    for oracle in ["openssl-sys", "p384", "rsa", "sev", "tss-esapi"] {
        assert!(!names.contains(oracle), "a program depends on `{oracle}`");
    }
}

/// `cargo tree` resolves features for the agent alone, which is how it is built.
#[test]
fn the_agent_stays_synchronous_and_small() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "-p",
            "initrd-agent",
            "-e",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(["--target", "x86_64-unknown-linux-musl", "--format", "{p}"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    let packages: BTreeSet<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(
        packages.contains("rustls"),
        "the tree is not the agent's: {tree}"
    );
    let unwanted = [
        "age",
        "clap",
        "hyper",
        "kube",
        "openssl-sys",
        "redb",
        "ring",
        "tokio",
        "tonic",
        "tracing",
    ];
    for absent in unwanted {
        assert!(
            !packages.contains(absent),
            "`{absent}` is in the initramfs agent"
        );
    }
}

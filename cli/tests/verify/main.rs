//! `constellation verify` against verification services on software TPMs.
#![cfg(test)]

mod documents;
#[path = "../support/operator.rs"]
mod operator;
#[path = "../support/running.rs"]
mod running;

use running::{CLUSTER, Node, SHARED, printed, verify, verify_by};
use serde_json::Value;
use std::{net::TcpListener, process::Output, thread};
use vm::free_port;

#[test]
fn nodes_of_the_cluster_are_verified_and_the_rest_is_named() {
    let node = Node::start("worker-0", CLUSTER, Some(CLUSTER));
    let address = node.address;
    let text = printed(&verify(&format!("worker-0={address}")), 0);
    let row = text.lines().nth(1).unwrap();
    assert!(row.starts_with("worker-0 "), "{text}");
    for word in ["verified", "bare", "worker", "tpm", "activated", "latched"] {
        assert!(row.contains(word), "{word}: {text}");
    }
    assert!(
        text.contains("PCR 15: the measured agent unlocked"),
        "{text}"
    );
    assert!(text.contains("Not checked, for tpm:"), "{text}");
    assert!(
        text.contains("1 verified, 0 refused, 0 unavailable"),
        "{text}"
    );

    // Beside it one that nobody serves, in the order asked; a refusal weighs more than that.
    let absent = format!("127.0.0.1:{}", free_port().unwrap());
    let json = |output: &Output, status| -> Value {
        serde_json::from_str(&printed(output, status)).unwrap()
    };
    let both = json(&verify(&format!("{absent} {address} --output json")), 4);
    assert_eq!(both["nodes"][0]["result"], "unavailable");
    let verified = &both["nodes"][1];
    assert_eq!(verified["result"], "verified");
    assert_eq!(verified["name"], "worker-0");
    assert_eq!(verified["image"], "bare");
    assert_eq!(verified["cluster"], "latched");
    assert_eq!(verified["attestation_key"], "activated");
    assert_eq!(verified["name_expected"], false);
    assert!(!verified["checked"].as_array().unwrap().is_empty());
    let three = format!("{absent} {address} worker-1={address} --output json");
    let three = json(&verify(&three), 3);
    let refused = &three["nodes"][2];
    assert_eq!(refused["result"], "refused");
    assert_eq!(refused["checks"][0]["check"], "stated node name");
    assert_eq!(refused["checks"][0]["got"], "worker-0");

    // Other images: the same node is none of them.
    let text = printed(&verify_by("others", &address.to_string()), 3);
    assert!(text.contains("PCR 11 of image `bare`"), "{text}");
    assert!(text.contains("REFUSED"), "{text}");
}

#[test]
fn a_node_that_unlocked_no_disk_or_anothers_is_refused() {
    for (latch, meaning) in [
        (None, "no disk unlocked in this boot"),
        (Some([8; 32]), "a disk of another cluster"),
    ] {
        let node = Node::start("worker-0", CLUSTER, latch);
        let text = printed(&verify(&node.address.to_string()), 3);
        assert!(text.contains("PCR 15: expected"), "{text}");
        assert!(text.contains(meaning), "{text}");
    }
}

#[test]
fn a_node_of_another_cluster_is_refused_by_name() {
    let node = Node::start("worker-0", [8; 32], Some([8; 32]));
    let text = printed(&verify(&node.address.to_string()), 3);
    assert!(text.contains("stated cluster: expected 0707"), "{text}");
}

#[test]
fn whoever_says_nothing_is_unavailable_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Takes connections, and keeps quiet.
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let text = printed(&verify(&format!("{address} --timeout 1")), 4);
    assert!(text.contains("no answer within 1 s"), "{text}");
}

#[test]
fn wrong_usage_and_foreign_documents_are_no_verdict() {
    assert_eq!(verify("").status.code(), Some(2));
    assert_eq!(verify("a/b").status.code(), Some(2));
    let drafts = "verify 127.0.0.1 --owner owner/owner.pub --policy policy.json --reference-values values.signed.json --cluster cluster.json";
    let output = SHARED.operator.run(drafts);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

//! Saved answers of a node, judged offline: what `curl` wrote, and everything that somebody may do to it.

use crate::running::{CLUSTER, Node, SHARED, printed, verify};
use owner::{AkCertificate, OwnerKey, Seed};
use serde_json::Value;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::LazyLock,
};

const NONCE: &str = "0909090909090909090909090909090909090909090909090909090909090909";
const OTHER_NONCE: &str = "0a09090909090909090909090909090909090909090909090909090909090909";

static NODE: LazyLock<Node> = LazyLock::new(|| Node::start("worker-0", CLUSTER, Some(CLUSTER)));

/// What the node answers, as any tool gets it.
fn get(node: &Node) -> Value {
    let mut stream = TcpStream::connect(node.http).unwrap();
    let request =
        format!("GET /?nonce={NONCE} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// What `verify` says of the document: its exit status, and the one finding.
fn judge(name: &str, document: &Value, more: &str, status: i32) -> Value {
    fs::write(SHARED.operator.path(name), document.to_string()).unwrap();
    let output = verify(&format!("--document {name} {more} --output json"));
    let report: Value = serde_json::from_str(&printed(&output, status)).unwrap();
    report["nodes"][0].clone()
}

fn refused(name: &str, document: &Value, more: &str) -> String {
    let finding = judge(name, document, more, 3);
    assert_eq!(finding["result"], "refused");
    finding.to_string()
}

#[test]
fn a_saved_answer_is_verified_by_its_certificate() {
    let document = get(&NODE);
    let asked = format!("--nonce {NONCE} --name worker-0");
    let finding = judge("good.json", &document, &asked, 0);
    assert_eq!(finding["result"], "verified");
    assert_eq!(finding["name"], "worker-0");
    assert_eq!(finding["image"], "bare");
    assert_eq!(finding["attestation_key"], "certified-at-admission");
    assert_eq!(finding["cluster"], "latched");
    let text = printed(&verify(&format!("--document good.json --nonce {NONCE}")), 0);
    for words in [
        "certified-at-admission",
        "certified by the owner's side",
        "whether the node was deleted",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let mut document = get(&NODE);
    let other = format!("--nonce {OTHER_NONCE}");
    let text = refused("replayed.json", &document, &other);
    assert!(text.contains(r#""check":"nonce""#), "{text}");
    // Whoever writes the other nonce over it has no evidence for that.
    document["nonce"] = OTHER_NONCE.into();
    let text = refused("renonced.json", &document, &other);
    assert!(text.contains("quote qualifying data"), "{text}");
}

#[test]
fn a_key_without_its_certificate_is_refused() {
    let document = get(&NODE);
    let ask = format!("--nonce {NONCE}");
    let mut unproven = document.clone();
    unproven["ak_certificate"] = Value::Null;
    let text = refused("unproven.json", &unproven, &ask);
    assert!(text.contains("certified at admission"), "{text}");
    // What the service says of it makes it no better.
    assert_eq!(unproven["attestation_key"], "certified-at-admission");
    let mut garbage = document;
    garbage["ak_certificate"]["issued"] = "now".into();
    let text = refused("garbage.json", &garbage, &ask);
    assert!(text.contains("malformed document"), "{text}");
}

/// Signed by the right owner, and for something else; or for this node, and by another owner.
#[test]
fn a_certificate_of_something_else_is_refused_by_name() {
    type Change = fn(&mut owner::AdmittedKey);
    let document = get(&NODE);
    let good = document["ak_certificate"].to_string();
    let good = AkCertificate::parse(good.as_bytes()).unwrap().key;
    let changes: [(&str, Change); 4] = [
        ("cluster", |key| {
            key.cluster = identity::ClusterId::from_bytes([8; 32])
        }),
        ("node", |key| key.node = "worker-1".parse().unwrap()),
        ("machine", |key| key.attester[0] ^= 1),
        ("attestation key", |key| key.attestation_key[0] ^= 1),
    ];
    let ask = format!("--nonce {NONCE}");
    let with = |certificate: AkCertificate| {
        let mut document = document.clone();
        document["ak_certificate"] = serde_json::from_str(&certificate.encode()).unwrap();
        document
    };
    for (what, change) in changes {
        let mut key = good.clone();
        change(&mut key);
        let text = refused("other.json", &with(SHARED.owner.certify_key(key)), &ask);
        let check = format!(r#""check":"AK certificate, {what}""#);
        assert!(text.contains(&check), "{what}: {text}");
    }
    let foreign = OwnerKey::from_seed(&Seed::from_slice(&[9; 32]).unwrap()).unwrap();
    let text = refused("foreign.json", &with(foreign.certify_key(good)), &ask);
    assert!(text.contains("AK certificate, owner"), "{text}");
}

/// The answer of one node, given out as another's.
#[test]
fn another_nodes_answer_is_refused() {
    let ask = format!("--nonce {NONCE} --name worker-1");
    let mut document = get(&NODE);
    let text = refused("swapped.json", &document, &ask);
    assert!(text.contains("stated node name"), "{text}");
    document["node"]["name"] = "worker-1".into();
    let text = refused("renamed.json", &document, &ask);
    assert!(text.contains("AK certificate, node"), "{text}");
    // And with its own certificate, another machine's key.
    let other = Node::start("worker-0", CLUSTER, Some(CLUSTER));
    let (mut ours, theirs) = (get(&NODE), get(&other));
    ours["node"]["tpm"] = theirs["node"]["tpm"].clone();
    let ask = format!("--nonce {NONCE}");
    let text = refused("mixed.json", &ours, &ask);
    assert!(text.contains("AK certificate, machine"), "{text}");
    ours["ak_certificate"] = theirs["ak_certificate"].clone();
    let text = refused("mixed.json", &ours, &ask);
    assert!(text.contains("signature"), "{text}");
}

#[test]
fn a_certificate_makes_no_latch() {
    let node = Node::start("worker-0", CLUSTER, None);
    let text = refused("unlatched.json", &get(&node), &format!("--nonce {NONCE}"));
    assert!(text.contains("no disk unlocked in this boot"), "{text}");
}

#[test]
fn what_is_no_document_is_refused_and_what_is_no_question_is_wrong_usage() {
    let document = get(&NODE);
    let ask = format!("--nonce {NONCE}");
    for (field, value) in [
        ("version", Value::from(2)),
        ("more", Value::from(1)),
        ("evidence", serde_json::json!({})),
        ("node", Value::Null),
    ] {
        let mut bad = document.clone();
        bad[field] = value;
        refused("bad.json", &bad, &ask);
    }
    let mut kind = document.clone();
    kind["node"]["kind"] = "sev-snp".into();
    refused("bad.json", &kind, &ask);
    for usage in [
        "--document bad.json",
        "--document bad.json --nonce 00",
        &format!("--nonce {NONCE} 127.0.0.1"),
        &format!("--document bad.json --nonce {NONCE} 127.0.0.1"),
    ] {
        assert_eq!(verify(usage).status.code(), Some(2), "{usage}");
    }
    let absent = verify(&format!("--document absent.json --nonce {NONCE}"));
    assert_eq!(absent.status.code(), Some(1));
}

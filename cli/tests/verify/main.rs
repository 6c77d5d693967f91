//! `constellation verify` against verification services on software TPMs.
#![cfg(test)]

#[path = "../support/operator.rs"]
mod operator;

use operator::Operator;
use platform::tpm::{TpmAttester, TpmDevice};
use serde_json::Value;
use service_runtime::{Shutdown, shutdown::Trigger};
use software_tpm::{Authority, SoftwareTpm};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process::Output,
    sync::LazyLock,
    thread,
};
use tokio::runtime::Runtime;
use verification_service::VerificationService;

const CLUSTER: [u8; 32] = [7; 32];

/// What takes its time to make and is the same for all tests: an owner, an authority of TPMs, and the
/// owner's documents for an image that any boot without firmware has.
struct Shared {
    operator: Operator,
    authority: Authority,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    let operator = Operator::new();
    let authority = Authority::new().unwrap();
    // The authority's certificates come with its first TPM.
    authority.manufacture().unwrap();
    operator.owner();
    fs::write(operator.path("root.pem"), authority.root_pem().unwrap()).unwrap();
    fs::write(operator.path("issuer.pem"), authority.issuer_pem().unwrap()).unwrap();
    operator.ok("policy new policy.json --bound-ek-ca root.pem --ek-intermediate issuer.pem");
    for (file, digit) in [("values", "0"), ("others", "1")] {
        measured(&operator, file, digit);
        sign(&operator, "reference-values", file);
    }
    sign(&operator, "policy", "policy");
    let cluster = format!(
        "{{\"cluster_id\":\"{}\",\"key_version\":1,\"salt\":\"{1}\",\"measurement_salt\":\"{1}\"}}",
        "07".repeat(32),
        "00".repeat(32)
    );
    fs::write(operator.path("cluster.json"), cluster).unwrap();
    Shared {
        operator,
        authority,
    }
});

/// Reference values of an image whose PCRs but the latch repeat `digit`.
fn measured(operator: &Operator, file: &str, digit: &str) {
    let value = |pcr: &u32| match pcr {
        15 => "0".repeat(64),
        _ => digit.repeat(64),
    };
    let pcrs = [0, 2, 3, 4, 7, 9, 11, 12, 13, 15];
    let pcrs = pcrs.map(|pcr| (pcr.to_string(), Value::from(vec![value(&pcr)])));
    let pcrs: serde_json::Map<String, Value> = pcrs.into_iter().collect();
    let measurements = serde_json::json!({ "pcrs": pcrs }).to_string();
    fs::write(operator.path("measurements.json"), measurements).unwrap();
    operator.ok(&format!(
        "reference-values add {file}.json --image bare --role worker --measurements measurements.json"
    ));
}

fn sign(operator: &Operator, verb: &str, file: &str) {
    operator.ok(&format!(
        "{verb} sign {file}.json --owner-key owner/owner.key --out {file}.signed.json --passphrase-file passphrase"
    ));
}

/// A node whose agent extended its latch with `latch`, if at all, and its service.
struct Node {
    address: SocketAddr,
    _shutdown: Trigger,
    _runtime: Runtime,
    _tpm: SoftwareTpm,
}

impl Node {
    fn start(name: &str, cluster: [u8; 32], latch: Option<[u8; 32]>) -> Self {
        let tpm = SHARED.authority.manufacture().unwrap();
        let socket = tpm.socket().unwrap();
        if let Some(latch) = latch {
            let device = TpmDevice::Socket(socket.clone());
            let mut agent = TpmAttester::open(&device).unwrap();
            agent.extend(15, &latch).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("cmdline"), "constellation.evidence=tpm\n").unwrap();
        let cluster: String = cluster.iter().map(|byte| format!("{byte:02x}")).collect();
        let config = format!(
            "http_listen = \"127.0.0.1:0\"\ngrpc_listen = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\ndrain_seconds = 1\n\
             [node]\nname = \"{name}\"\ncluster_id = \"{cluster}\"\n\
             [devices]\ncommand_line = \"{}\"\ntpm = \"unix:{}\"\n",
            path("cmdline").display(),
            socket.display(),
        );
        fs::write(path("config.toml"), config).unwrap();
        let config = service_runtime::config::load(&path("config.toml")).unwrap();
        let runtime = Runtime::new().unwrap();
        let service = runtime
            .block_on(VerificationService::bind(&config))
            .unwrap();
        let address = service.grpc_address().unwrap();
        let (shutdown, requested) = Shutdown::new();
        runtime.spawn(service.serve(requested));
        let node = Self {
            address,
            _shutdown: shutdown,
            _runtime: runtime,
            _tpm: tpm,
        };
        node.wait();
        node
    }

    /// Until the device is open: before that the node is unavailable, and says so.
    fn wait(&self) {
        for _ in 0..500 {
            if verify(&self.address.to_string()).status.code() != Some(4) {
                return;
            }
        }
        panic!("the service has no device");
    }
}

fn verify_by(values: &str, more: &str) -> Output {
    SHARED.operator.run(&format!(
        "verify --owner owner/owner.pub --policy policy.signed.json --reference-values {values}.signed.json --cluster cluster.json {more}"
    ))
}

fn verify(more: &str) -> Output {
    verify_by("values", more)
}

/// What a verification prints that ends with this status.
fn printed(output: &Output, status: i32) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stdout}{stderr}");
    stdout
}

#[test]
fn nodes_of_the_cluster_are_verified_and_the_rest_is_named() {
    let node = Node::start("worker-0", CLUSTER, Some(CLUSTER));
    let address = node.address;
    let text = printed(&verify(&format!("worker-0={address}")), 0);
    let row = text.lines().nth(1).unwrap();
    assert!(row.starts_with("worker-0 "), "{text}");
    for word in ["verified", "bare", "worker", "tpm", "latched"] {
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
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let absent = nobody.local_addr().unwrap();
    drop(nobody);
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

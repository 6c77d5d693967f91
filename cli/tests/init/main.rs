//! `constellation init` against nodes that the agent's own library plays on software TPMs.
#![cfg(test)]

#[path = "../support/bootstrapper.rs"]
mod bootstrapper;
mod following;
#[path = "../support/node.rs"]
mod node;
#[path = "../support/operator.rs"]
mod operator;

use hand_off::InitMaterial;
use identity::Role;
use node::{Given, Node};
use operator::Operator;
use owner::OwnerPublicKey;
use serde_json::Value;
use software_tpm::{Authority, SoftwareTpm};
use std::{fs, os::unix::fs::PermissionsExt as _, sync::LazyLock, thread};

/// What takes its time to make and is the same for most tests: an owner, an authority of TPMs, and
/// the owner's documents for an image that any boot without firmware has.
struct Shared {
    operator: Operator,
    authority: Authority,
}

static SHARED: LazyLock<Shared> = LazyLock::new(Shared::make);

impl Shared {
    fn make() -> Self {
        let operator = Operator::new();
        let authority = Authority::new().unwrap();
        // The authority's certificates come with its first TPM.
        authority.manufacture().unwrap();
        operator.owner();
        fs::write(operator.path("root.pem"), authority.root_pem().unwrap()).unwrap();
        fs::write(operator.path("issuer.pem"), authority.issuer_pem().unwrap()).unwrap();
        operator.ok("policy new policy.json --bound-ek-ca root.pem --ek-intermediate issuer.pem");
        let zero = "0".repeat(64);
        let pcrs: serde_json::Map<String, Value> = [0, 2, 3, 4, 7, 9, 11, 12, 13, 15]
            .map(|pcr| (pcr.to_string(), Value::from([zero.clone()].to_vec())))
            .into_iter()
            .collect();
        let measurements = serde_json::json!({ "pcrs": pcrs }).to_string();
        fs::write(operator.path("measurements.json"), measurements).unwrap();
        for role in ["control-plane", "worker"] {
            operator.ok(&format!(
                "reference-values add {role}.json --image bare --role {role} --measurements measurements.json"
            ));
        }
        sign(&operator, "owner", "policy", "policy");
        sign(&operator, "owner", "reference-values", "control-plane");
        sign(&operator, "owner", "reference-values", "worker");
        Self {
            operator,
            authority,
        }
    }
}

fn sign(operator: &Operator, owner: &str, verb: &str, file: &str) {
    operator.ok(&format!(
        "{verb} sign {file}.json --owner-key {owner}/owner.key --out {file}.signed.json --passphrase-file passphrase"
    ));
}

/// An operator with a copy of that.
pub(crate) struct Site {
    pub(crate) operator: Operator,
}

impl Site {
    pub(crate) fn new(role: &str) -> (Self, SoftwareTpm) {
        let operator = Operator::new();
        fs::create_dir(operator.path("owner")).unwrap();
        for (from, to) in [
            ("owner/owner.key", "owner/owner.key"),
            ("owner/owner.pub", "owner/owner.pub"),
            ("policy.json", "policy.json"),
            ("policy.signed.json", "policy.signed.json"),
            (&format!("{role}.json"), "values.json"),
            (&format!("{role}.signed.json"), "values.signed.json"),
        ] {
            fs::copy(SHARED.operator.path(from), operator.path(to)).unwrap();
        }
        (Self { operator }, manufacture())
    }

    pub(crate) fn boot(&self, tpm: &SoftwareTpm, port: u16) -> Node {
        let owner = fs::read_to_string(self.operator.path("owner/owner.pub")).unwrap();
        let owner: OwnerPublicKey = owner.trim_end().parse().unwrap();
        Node::boot(tpm, owner.fingerprint(), port)
    }

    /// The command for a node on this port.
    pub(crate) fn init(port: u16, more: &str) -> String {
        format!(
            "init 127.0.0.1:{port} --owner-key owner/owner.key --policy policy.signed.json --reference-values values.signed.json --node-name control-0 --endpoint 10.0.0.1:6443 --workspace cluster --passphrase-file passphrase --wait 20 {more}"
        )
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_slice(&fs::read(self.operator.path(path)).unwrap()).unwrap()
    }

    /// Admits a boot of the node; what it was given.
    fn admit(&self, tpm: &SoftwareTpm, generation: u64) -> Given {
        let node = self.boot(tpm, 0);
        let port = node.port;
        let playing = thread::spawn(move || node.admitted().initialise(generation));
        let answer = self.operator.ok(&format!(
            "--output json {}",
            Self::init(port, "--until admitted")
        ));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let given = playing.join().unwrap();
        assert_eq!(answer["disk"], given.disk.to_string());
        assert_eq!(answer["generation"], generation);
        assert_eq!(answer["kubeconfig"], Value::Null);
        given
    }
}

/// A machine.
fn manufacture() -> SoftwareTpm {
    SHARED.authority.manufacture().unwrap()
}

fn mode(operator: &Operator, path: &str) -> u32 {
    let metadata = fs::metadata(operator.path(path)).unwrap();
    metadata.permissions().mode() & 0o777
}

#[test]
fn a_node_gets_what_the_workspace_has() {
    let (site, tpm) = Site::new("control-plane");
    let given = site.admit(&tpm, 1);
    assert_eq!(given.ticket.node_name.as_str(), "control-0");
    assert_eq!(given.ticket.role, Role::ControlPlane);
    let material: InitMaterial = serde_json::from_slice(&given.material).unwrap();
    assert_eq!(material.kubernetes.api_endpoint, "10.0.0.1:6443");
    assert_eq!(material.kubernetes.service_subnet, "10.96.0.0/12");
    let cluster = site.json("cluster/cluster.json");
    assert_eq!(
        cluster["cluster_id"],
        material.cluster.cluster_id.to_string()
    );
    assert_eq!(cluster["salt"], *material.cluster.salt);
    assert_eq!(given.ticket.ticket.cluster_id, material.cluster.cluster_id);
    let signed = |name| fs::read_to_string(site.operator.path(name)).unwrap();
    assert_eq!(material.policy, signed("policy.signed.json"));
    assert_eq!(material.reference_values, signed("values.signed.json"));
    assert_eq!(
        material.admission.certificate,
        signed("cluster/admission.cert.json")
    );

    let state = site.json("cluster/init.json");
    assert_eq!(state["init"]["disk"], given.disk.to_string());
    assert_eq!(state["init"]["finished"], false);
    assert_eq!(state["record"]["generation"], 1);
    for secret in ["master-secret.key", "admission.key", "progress.json"] {
        assert_eq!(
            mode(&site.operator, &format!("cluster/{secret}")),
            0o600,
            "{secret}"
        );
    }
    for file in fs::read_dir(site.operator.path("cluster")).unwrap() {
        let text = fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&text);
        for secret in [&material.cluster.master_secret, &material.admission.seed] {
            assert!(!text.contains(secret.expose_secret()), "in the clear");
        }
    }
}

/// Power cuts of the node at every step, each healed by the same command.
#[test]
fn the_same_machine_gets_the_same_disk_and_secrets_however_often() {
    let (site, tpm) = Site::new("control-plane");
    let left = |steps: usize| {
        let node = site.boot(&tpm, 0);
        let port = node.port;
        let playing = thread::spawn(move || {
            let node = node.admitted();
            let disk = (steps > 0).then(|| node.register().unwrap());
            if steps > 1 {
                node.ticket(disk.unwrap()).unwrap();
            }
            disk
        });
        let command = Site::init(port, "--until admitted").replace("--wait 20", "--wait 1");
        // A node that leaves with the id of its disk does not like the disk that it has.
        let status = if steps == 1 { 1 } else { 4 };
        let error = site.operator.ends(&command, status);
        assert!(error.contains("hint: "), "{error}");
        playing.join().unwrap()
    };
    assert_eq!(left(0), None);
    assert_eq!(site.json("cluster/init.json")["init"], Value::Null);
    let disk = left(1).unwrap();
    assert_eq!(left(2), Some(disk));
    let first = site.admit(&tpm, 1);
    let second = site.admit(&tpm, 2);
    assert_eq!((first.disk, second.disk), (disk, disk));
    assert_eq!(
        first.data_key.expose_secret(),
        second.data_key.expose_secret()
    );
    assert_eq!(*first.material, *second.material);
}

#[test]
fn a_disk_with_a_header_of_somebody_else_is_named() {
    let (site, tpm) = Site::new("control-plane");
    let node = site.boot(&tpm, 0);
    let port = node.port;
    let playing = thread::spawn(move || node.admitted().register().unwrap());
    let error = site.operator.fails(&Site::init(port, ""));
    assert!(error.contains("header of another cluster"), "{error}");
    playing.join().unwrap();
}

#[test]
fn another_machine_gets_nothing() {
    let (site, tpm) = Site::new("control-plane");
    site.admit(&tpm, 1);
    let before = site.json("cluster/init.json");
    let other = manufacture();
    let node = site.boot(&other, 0);
    let port = node.port;
    let playing = thread::spawn(move || node.admitted().register().is_err());
    let error = site.operator.ends(&Site::init(port, "--until admitted"), 3);
    assert!(error.contains("init: bound to disk"), "{error}");
    assert!(error.contains("another workspace"), "{error}");
    assert!(playing.join().unwrap());
    assert_eq!(site.json("cluster/init.json"), before);
    // What was refused is recorded beside what was given.
    let audit = fs::read_to_string(site.operator.path("cluster/init.json.audit.jsonl")).unwrap();
    assert!(
        audit.contains("\"refusal\"") && audit.contains("\"release\""),
        "{audit}"
    );
}

/// A blank disk in the place of the one that was committed starts again from generation 1.
#[test]
fn a_generation_that_was_there_is_refused() {
    let (site, tpm) = Site::new("control-plane");
    site.admit(&tpm, 1);
    let node = site.boot(&tpm, 0);
    let port = node.port;
    let playing = thread::spawn(move || {
        let node = node.admitted();
        let disk = node.register().unwrap();
        node.ticket(disk).unwrap();
        node.commit(disk, 1).is_err()
    });
    let error = site.operator.ends(&Site::init(port, "--until admitted"), 3);
    assert!(
        error.contains("not the disk that the init began with"),
        "{error}"
    );
    assert!(playing.join().unwrap());
}

#[test]
fn an_image_without_the_role_gets_an_id_and_no_key() {
    let (site, tpm) = Site::new("worker");
    let node = site.boot(&tpm, 0);
    let port = node.port;
    let playing = thread::spawn(move || {
        let node = node.admitted();
        let disk = node.register().unwrap();
        node.ticket(disk).is_err()
    });
    let error = site.operator.ends(&Site::init(port, ""), 3);
    assert!(error.contains("--role control-plane"), "{error}");
    assert!(playing.join().unwrap());
    assert_eq!(site.json("cluster/init.json")["record"], Value::Null);
}

/// Whoever holds the owner's documents and not its key, or another owner altogether.
#[test]
fn a_node_of_another_owner_proves_nothing_to_us_and_we_nothing_to_it() {
    let (site, tpm) = Site::new("control-plane");
    let foreign = OwnerPublicKey([7; 32]).fingerprint();
    let node = Node::boot(&tpm, foreign, 0);
    let port = node.port;
    // It waits for its own owner; the test does not wait for it to give up.
    thread::spawn(move || node.admitted());
    let error = site.operator.ends(&Site::init(port, ""), 3);
    assert!(error.contains("the node refuses us"), "{error}");
}

#[test]
fn a_workspace_is_for_one_plan_and_one_owner() {
    let (site, tpm) = Site::new("control-plane");
    site.admit(&tpm, 1);
    let init = Site::init(1, "");
    for (was, is) in [
        ("control-0", "control-1"),
        ("10.0.0.1:6443", "10.0.0.2:6443"),
        ("--wait 20", "--wait 20 --pod-subnet 10.128.0.0/16"),
        ("--wait 20", "--wait 20 --kubernetes-version v1.31.0"),
    ] {
        let error = site.operator.fails(&init.replace(was, is));
        assert!(
            error.contains("another cluster than the one asked for"),
            "{error}"
        );
    }
    site.operator
        .ok("owner new --out other --passphrase-file passphrase");
    sign(&site.operator, "other", "policy", "policy");
    sign(&site.operator, "other", "reference-values", "values");
    let error = site
        .operator
        .fails(&init.replace("owner/owner.key", "other/owner.key"));
    assert!(error.contains("another owner"), "{error}");
}

#[test]
fn a_half_made_workspace_is_not_used() {
    let (site, _) = Site::new("control-plane");
    site.operator
        .ok("keys new --out cluster --passphrase-file passphrase");
    let error = site.operator.fails(&Site::init(1, ""));
    assert!(error.contains("master-secret.key"), "{error}");
    assert!(error.contains("sent nothing to any node"), "{error}");
}

//! Nodes that run: software TPMs with a latch, each behind a verification service.
#![allow(dead_code, reason = "each test program uses a part")]

use crate::operator::Operator;
use appraisal::AttesterIdentity;
use evidence::AdmissionPath;
use hand_off::{Attachments, AttestationKey, HandOff};
use identity::{ClusterId, DiskId, Generation, Role};
use owner::{AdmittedKey, OwnerKey, Seed};
use platform::tpm::{TpmAttester, TpmDevice};
use secret_file::{Passphrase, SecretKind, read_encrypted};
use serde_json::Value;
use service_runtime::{Shutdown, shutdown::Trigger};
use software_tpm::{Authority, SoftwareTpm};
use std::{fs, net::SocketAddr, process::Output, sync::LazyLock, thread, time::Duration};
use tokio::runtime::Runtime;
use verification_service::VerificationService;

pub(crate) const CLUSTER: [u8; 32] = [7; 32];

/// What takes its time to make and is the same for all tests: an owner, an authority of TPMs, and the
/// owner's documents for an image that any boot without firmware has.
pub(crate) struct Shared {
    pub(crate) operator: Operator,
    pub(crate) authority: Authority,
    /// Certifies attestation keys, as whoever admits nodes does it.
    pub(crate) owner: OwnerKey,
}

pub(crate) static SHARED: LazyLock<Shared> = LazyLock::new(|| {
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
    let passphrase = Passphrase::read(&operator.path("passphrase")).unwrap();
    let key = operator.path("owner/owner.key");
    let seed = read_encrypted(&key, SecretKind::OwnerKey, &passphrase, Seed::from_slice);
    Shared {
        owner: OwnerKey::from_seed(&seed.unwrap()).unwrap(),
        operator,
        authority,
    }
});

/// Reference values of an image whose PCRs but the latch repeat `digit`.
fn measured(operator: &Operator, file: &str, digit: &str) {
    measurements(operator, digit);
    operator.ok(&format!(
        "reference-values add {file}.json --image bare --role worker --measurements measurements.json"
    ));
}

/// Writes `measurements.json`, what `measure` would print of that image.
pub(crate) fn measurements(operator: &Operator, digit: &str) {
    let value = |pcr: &u32| match pcr {
        15 => "0".repeat(64),
        _ => digit.repeat(64),
    };
    let pcrs = [0, 2, 3, 4, 7, 9, 11, 12, 13, 15];
    let pcrs = pcrs.map(|pcr| (pcr.to_string(), Value::from(vec![value(&pcr)])));
    let pcrs: serde_json::Map<String, Value> = pcrs.into_iter().collect();
    let measurements = serde_json::json!({ "pcrs": pcrs }).to_string();
    fs::write(operator.path("measurements.json"), measurements).unwrap();
}

fn sign(operator: &Operator, verb: &str, file: &str) {
    operator.ok(&format!(
        "{verb} sign {file}.json --owner-key owner/owner.key --out {file}.signed.json --passphrase-file passphrase"
    ));
}

/// A node whose agent extended its latch with `latch`, if at all, and its service.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) tpm: SoftwareTpm,
    _shutdown: Trigger,
    _runtime: Runtime,
}

impl Node {
    pub(crate) fn start(name: &str, cluster: [u8; 32], latch: Option<[u8; 32]>) -> Self {
        Self::start_at("127.0.0.1:0", name, cluster, latch)
    }

    /// The same at this address.
    pub(crate) fn start_at(
        grpc: &str,
        name: &str,
        cluster: [u8; 32],
        latch: Option<[u8; 32]>,
    ) -> Self {
        let tpm = SHARED.authority.manufacture().unwrap();
        let socket = tpm.socket().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let device = TpmDevice::Socket(socket.clone());
        let mut agent = TpmAttester::open(&device).unwrap();
        if let Some(latch) = latch {
            agent.extend(15, &latch).unwrap();
        }
        let hand_off = hand_off(&agent, name, ClusterId::from_bytes(cluster));
        hand_off
            .write(&path("hand-off"), &Attachments::default())
            .unwrap();
        drop(agent);
        fs::write(path("cmdline"), "constellation.evidence=tpm\n").unwrap();
        let config = format!(
            "http_listen = \"127.0.0.1:0\"\ngrpc_listen = \"{grpc}\"\n\
             admin_listen = \"127.0.0.1:0\"\ndrain_seconds = 1\n\
             [node]\nhand_off = \"{}\"\n\
             [devices]\ncommand_line = \"{}\"\ntpm = \"unix:{}\"\n\
             [limits]\nper_second_and_address = 1000\nburst_per_address = 1000\nper_second = 1000\n",
            path("hand-off").display(),
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
        let http = service.http_address().unwrap();
        let (shutdown, requested) = Shutdown::new();
        runtime.spawn(service.serve(requested));
        let node = Self {
            address,
            http,
            _shutdown: shutdown,
            _runtime: runtime,
            tpm,
        };
        node.wait();
        node
    }

    /// Until the device is open: before that the node is unavailable, and says so. All questions of a
    /// test come from one address, and how many they are depends on the machine: `start_at` sets limits
    /// that they do not reach.
    fn wait(&self) {
        for _ in 0..500 {
            if verify(&self.address.to_string()).status.code() != Some(4) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the service has no device");
    }
}

/// What the agent hands over after an admission.
fn hand_off(agent: &TpmAttester, name: &str, cluster: ClusterId) -> HandOff {
    let identity = agent.identity();
    let ek = tpm::EndorsementKey::parse(&identity.ek_public).unwrap();
    let ak = tpm::AttestationKey::parse(&identity.ak_public).unwrap();
    let disk = DiskId::from_bytes([5; 16]);
    let certificate = SHARED.owner.certify_key(AdmittedKey {
        attestation_key: ak.name().digest(),
        attester: *AttesterIdentity::of_key(ek.name()).machine().unwrap(),
        cluster,
        disk,
        node: name.parse().unwrap(),
        issued: 1_700_000_000,
    });
    HandOff {
        version: 1,
        path: AdmissionPath::Join,
        cluster_id: cluster,
        node_name: name.parse().unwrap(),
        role: Role::Worker,
        disk_uuid: disk,
        generation: Generation::FIRST,
        state_device: "/dev/mapper/constellation-state".into(),
        attestation_key: Some(AttestationKey {
            public: identity.ak_public.clone(),
            unique: *agent.unique(),
            certificate: certificate.encode(),
        }),
    }
}

pub(crate) fn verify_by(values: &str, more: &str) -> Output {
    SHARED.operator.run(&format!(
        "verify --owner owner/owner.pub --policy policy.signed.json --reference-values {values}.signed.json --cluster cluster.json {more}"
    ))
}

pub(crate) fn verify(more: &str) -> Output {
    verify_by("values", more)
}

/// What a verification prints that ends with this status.
pub(crate) fn printed(output: &Output, status: i32) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{stdout}{stderr}");
    stdout
}

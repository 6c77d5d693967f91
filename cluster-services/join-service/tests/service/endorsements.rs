//! SEV-SNP guests, with and without the certificate of their chip's key: where it comes from, and that
//! nobody waits for it.

use crate::{
    kds::{Answer, Kds},
    node::{Guest, Machine, Node},
    setup::{Cluster, Running},
};
use admission::BootId;
use api::{Class, admin};
use attested_tls::SessionError;
use evidence::AdmissionPath;
use owner::DocumentKind;
use serde_json::json;
use software_snp::{
    CrlFields, DevelopmentRoot, Leaf, Product, ReportFields, Tcb, pem,
    table::{self, VCEK},
};
use std::{
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    DevelopmentRoot::kept_in(&dir.join("development-root.json")).unwrap()
});

const MEASUREMENT: [u8; 48] = [0x33; 48];
const TCB: Tcb = Tcb {
    fmc: 0,
    bootloader: 10,
    tee: 0,
    snp: 23,
    microcode: 84,
};

/// A chip with its key.
struct Chip {
    id: [u8; 64],
    key: Leaf,
}

impl Chip {
    fn new(number: u8) -> Self {
        let id = [number; 64];
        let key = ROOT.vcek(Product::Genoa, &id, TCB).unwrap();
        Self { id, key }
    }

    /// A guest on it, whose host has no certificates.
    fn guest(self, change: impl FnOnce(&mut ReportFields)) -> Guest {
        let mut report = ReportFields::new(Product::Genoa, self.id, TCB);
        report.measurement = MEASUREMENT;
        report.report_id = [self.id[0]; 32];
        change(&mut report);
        Guest {
            report,
            key: self.key,
            certificates: Vec::new(),
        }
    }

    fn certificate(&self) -> Vec<u8> {
        self.key.certificate().to_vec()
    }
}

/// A cluster that accepts guests under the development root.
fn cluster() -> Cluster {
    let cluster = Cluster::new();
    let chain = ROOT.chain(Product::Genoa);
    let pem = |der: &[u8]| pem("CERTIFICATE", der);
    let policy = json!({
        "version": 1, "serial": 2, "evidence": ["sev-snp"],
        "sev_snp": {
            "products": [{
                "product": "Genoa", "endorsement_key": "vcek",
                "minimum_tcb": { "bootloader": 10, "tee": 0, "snp": 23, "microcode": 84 },
                "development_root":
                    { "ark": pem(&chain.ark), "ask": pem(&chain.ask), "asvk": pem(&chain.asvk) },
            }],
            "vmpl": 0,
            "guest_policy":
                { "allow_smt": true, "require_single_socket": false, "minimum_abi": [0, 0] },
            "alias_check": "required",
            "revocation_lists": "required",
        },
    });
    cluster.write_signed("policy.json", DocumentKind::Policy, &policy, &cluster.owner);
    let image = json!({
        "name": "guest-1", "roles": ["worker"],
        "sev_snp": { "measurements": [hex::encode(MEASUREMENT)] },
    });
    cluster.write_reference_values(2, &[image]);
    cluster
}

async fn start(cluster: &Cluster, kds: &Kds) -> (Running, Running) {
    let keys = cluster.start_key_service(0).await;
    let folder = cluster.path("endorsements");
    let extra = format!(
        "handshake_burst = 1000\n[endorsements]\nfolder = {folder:?}\nkds = {:?}",
        kds.url
    );
    let service = cluster.start_limited(keys.address, &extra).await;
    (keys, service)
}

fn list() -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let fields = CrlFields {
        this_update: now - 1000,
        next_update: now + 100_000,
        revoked: Vec::new(),
    };
    ROOT.crl(Product::Genoa, &fields).unwrap()
}

async fn dial(cluster: &Cluster, service: &Running, guest: &Machine) -> Result<Node, Class> {
    let owner = cluster.owner.public_key().fingerprint();
    let session = Node::dial(service.address, guest, owner, AdmissionPath::Join).await;
    session.map_err(|error| match error {
        SessionError::RefusedByOwner(refusal) => refusal.class,
        error => panic!("{error:?}"),
    })
}

/// Comes again and again, as an agent does while the answer is "unavailable".
async fn dial_until(cluster: &Cluster, service: &Running, guest: &Machine) -> Node {
    let start = Instant::now();
    loop {
        match dial(cluster, service, guest).await {
            Ok(node) => return node,
            Err(class) => assert_eq!(class, Class::Unavailable),
        }
        assert!(start.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_comes_again_until_its_certificate_is_here() {
    let cluster = cluster();
    let chip = Chip::new(1);
    let (der, list) = (chip.certificate(), list());
    let kds = Kds::start(move |path, _| match path.ends_with("/crl") {
        true => Answer::Body(list.clone()),
        false => Answer::Body(der.clone()),
    });
    let (keys, service) = start(&cluster, &kds).await;
    let guest = Machine::guest(chip.guest(|_| ()));
    assert_eq!(
        dial(&cluster, &service, &guest).await.err(),
        Some(Class::Unavailable)
    );
    let node = dial_until(&cluster, &service, &guest).await;
    node.join(node.register().await, "worker-0").await.unwrap();
    // However often it came, each thing was fetched once.
    let mut paths = kds.paths();
    paths.sort();
    let of_chip = format!("/vcek/v1/Genoa/{}?", "01".repeat(64));
    assert_eq!(paths.len(), 2, "{paths:?}");
    assert!(paths[0].starts_with(&of_chip), "{paths:?}");
    assert_eq!(paths[1], "/vcek/v1/Genoa/crl");
    service
        .metric("endorsement_fetches_total{outcome=\"fetched\"}")
        .await;
    service.stop().await;
    keys.stop().await;
}

/// The service stalls for one guest; another, whose host has the certificate, does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalling_service_is_on_nobodys_path() {
    let cluster = cluster();
    let (list, known) = (list(), Chip::new(2));
    let kds = Kds::start(move |path, _| match path.ends_with("/crl") {
        true => Answer::Body(list.clone()),
        false => Answer::Stall(Duration::from_secs(3)),
    });
    let (keys, service) = start(&cluster, &kds).await;
    let mut known = {
        let certificate = known.certificate();
        let mut guest = known.guest(|_| ());
        guest.certificates = table::encode(&[(VCEK, &certificate)]);
        Machine::guest(guest)
    };
    // The revocation list, which the policy wants, comes first.
    dial_until(&cluster, &service, &known).await;
    let unknown = Machine::guest(Chip::new(3).guest(|_| ()));
    assert_eq!(
        dial(&cluster, &service, &unknown).await.err(),
        Some(Class::Unavailable)
    );
    while kds.paths().len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let start = Instant::now();
    for _ in 0..5 {
        known = known.reboot();
        dial(&cluster, &service, &known).await.unwrap();
        let waits = dial(&cluster, &service, &unknown).await.err();
        assert_eq!(waits, Some(Class::Unavailable));
    }
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    service.stop().await;
    keys.stop().await;
}

/// Nobody makes the service ask AMD about a guest that the policy refuses anyway, and such a guest
/// is told so at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_refused_anyway_costs_no_request() {
    let cluster = cluster();
    let kds = Kds::start(|_, _| Answer::Status(503, ""));
    let (keys, service) = start(&cluster, &kds).await;
    let lies: [fn(&mut ReportFields); 4] = [
        |report| report.policy |= 1 << 19,
        |report| report.vmpl = 1,
        |report| report.reported_tcb[7] = 83,
        |report| report.chip_id = [0; 64],
    ];
    for lie in lies {
        let guest = Machine::guest(Chip::new(4).guest(lie));
        let refused = dial(&cluster, &service, &guest).await.err();
        assert_eq!(refused, Some(Class::Refused));
    }
    assert!(kds.paths().is_empty(), "{:?}", kds.paths());
    service.stop().await;
    keys.stop().await;
}

/// A certificate of another chip, from a service that lies, helps nobody and is not kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_lying_service_gets_nobody_in() {
    let cluster = cluster();
    let (list, other) = (list(), Chip::new(6).certificate());
    let kds = Kds::start(move |path, _| match path.ends_with("/crl") {
        true => Answer::Body(list.clone()),
        false => Answer::Body(other.clone()),
    });
    let (keys, service) = start(&cluster, &kds).await;
    let guest = Machine::guest(Chip::new(5).guest(|_| ()));
    assert_eq!(
        dial(&cluster, &service, &guest).await.err(),
        Some(Class::Unavailable)
    );
    service
        .metric("endorsement_fetches_total{outcome=\"refused\"}")
        .await;
    assert_eq!(
        dial(&cluster, &service, &guest).await.err(),
        Some(Class::Unavailable)
    );
    let files = std::fs::read_dir(cluster.path("endorsements")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    let is_list = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("crl-");
    assert!(names.iter().all(is_list), "{names:?}");
    service.stop().await;
    keys.stop().await;
}

/// A boot without a latch is listed with what it got; one that the operator recovered is told to the
/// service, and gets nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn boots_without_a_latch_are_listed_and_recorded() {
    let cluster = cluster();
    let (chip, list) = (Chip::new(4), list());
    let der = chip.certificate();
    let kds = Kds::start(move |path, _| match path.ends_with("/crl") {
        true => Answer::Body(list.clone()),
        false => Answer::Body(der.clone()),
    });
    let (keys, service) = start(&cluster, &kds).await;
    let guest = Machine::guest(chip.guest(|report| report.report_id = [0x41; 32]));
    let node = dial_until(&cluster, &service, &guest).await;
    let disk = node.register().await;
    node.join(disk, "worker-0").await.unwrap();
    node.commit(disk, 1).await.unwrap();
    let mut operator = cluster.operator();
    let listed = operator.list_nodes(admin::ListNodesRequest {}).await;
    let boots = listed.unwrap().into_inner().boots;
    let [boot] = &boots[..] else {
        panic!("one boot: {boots:?}")
    };
    assert_eq!(boot.disk_uuid, disk.to_string());
    assert_eq!(boot.committed, Some(1));
    let relaunched = guest.relaunch([0x42; 32]);
    let recovered = admin::SpentBoot {
        boot: BootId::of_report_id(&[0x42; 32]).as_bytes().to_vec(),
        sealing_key: vec![7; 32],
        committed: Some(2),
        ..boot.clone()
    };
    let request = admin::RecordBootRequest {
        boot: Some(recovered),
    };
    operator.record_boot(request).await.unwrap();
    let node = cluster.rejoin(&service, &relaunched).await;
    assert_eq!(node.rejoin(disk).await, Err(Class::Refused));
    let node = cluster
        .rejoin(&service, &relaunched.relaunch([0x43; 32]))
        .await;
    node.rejoin(disk).await.unwrap();
    service.stop().await;
    keys.stop().await;
}

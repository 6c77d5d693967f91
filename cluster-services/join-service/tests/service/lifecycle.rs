//! Starts, stops, crashes, reloads, and a key service that comes and goes.

use crate::setup::{Cluster, Running, expected_key, http, image, images};
use api::{Class, admin};
use child_process::free_port;
use evidence::AdmissionPath;
use identity::Role;
use join_service::{Config, StartError, config::Mode};
use owner::{DocumentKind, OwnerKey, Seed};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::json;
use service_runtime::config;
use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_service_it_is_unavailable_and_loses_nothing() {
    let cluster = Cluster::new();
    let port = free_port().unwrap();
    let keys = cluster.start_key_service(port).await;
    let address = keys.address;
    keys.stop().await;
    let service = cluster.start_join_service(address).await;
    let node = cluster.join(&service, &cluster.machine()).await;
    let disk = node.register().await;
    assert_eq!(node.join(disk, "worker-0").await, Err(Class::Unavailable));
    assert_eq!(
        service.http("/readyz").await,
        (503, "not ready: key-service\n".into())
    );
    let keys = cluster.start_key_service(port).await;
    let mut key = node.join(disk, "worker-0").await;
    // The client waits a moment before it dials again.
    while key == Err(Class::Unavailable) {
        key = node.join(disk, "worker-0").await;
    }
    assert_eq!(key.unwrap(), expected_key(disk));
    assert_eq!(service.http("/readyz").await.0, 200);
    node.commit(disk, 1).await.unwrap();
    assert_eq!(cluster.nodes().await.len(), 1);
    service.stop().await;
    keys.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_between_ticket_and_commit_changes_nothing() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    let key = node.join(disk, "worker-0").await.unwrap();
    service.stop().await;
    let service = cluster.start_join_service(keys.address).await;
    let node = cluster.join(&service, &machine).await;
    assert_eq!(node.commit(disk, 1).await, Ok(1));
    let node = cluster.rejoin(&service, &machine.reboot()).await;
    assert_eq!(
        node.rejoin(disk).await.unwrap(),
        (key, 1, "worker-0".into())
    );
    service.stop().await;
}

/// The program itself, so that it can be killed.
struct Program {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
}

impl Program {
    fn start(cluster: &Cluster, key_service: SocketAddr) -> Self {
        let config = cluster.write_config(key_service, "");
        let (address, admin) = (free_address(), free_address());
        let text = std::fs::read_to_string(&config)
            .unwrap()
            .replacen("127.0.0.1:0", &address.to_string(), 1)
            .replacen("127.0.0.1:0", &admin.to_string(), 1);
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_join-service"))
            .arg("--config")
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("join service starts")));
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address,
            admin,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }
}

/// The key service has the same `main`.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_leaves_no_core() {
    let unlimited = Rlimit {
        current: getrlimit(Resource::Core).maximum,
        ..getrlimit(Resource::Core)
    };
    setrlimit(Resource::Core, unlimited).unwrap();
    let cluster = Cluster::new();
    let mut program = Program::start(&cluster, free_address());
    program.signal(Signal::ABORT);
    let status = program.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped());
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port().unwrap()).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_record_and_answer_it_continues_with_the_same_record() {
    let cluster = Cluster::new();
    // Takes connections and says nothing: the request hangs after record and audit line.
    let stalled = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut program = Program::start(&cluster, stalled.local_addr().unwrap());
    let machine = cluster.machine();
    let owner = cluster.owner.public_key().fingerprint();
    let dial = |address| crate::node::Node::dial(address, &machine, owner, AdmissionPath::Join);
    let node = dial(program.address).await.unwrap();
    let disk = node.register().await;
    let waiting = tokio::spawn(async move { node.join(disk, "worker-0").await });
    // Only after both are durable it turns to the key service.
    let _connection = stalled.accept().await.unwrap();
    assert_eq!(cluster.nodes().await.len(), 1);
    assert!(cluster.join_log().contains(&disk.to_string()));
    program.signal(Signal::KILL);
    program.child.wait().unwrap();
    assert_eq!(waiting.await.unwrap(), Err(Class::Unavailable));
    let keys = cluster.start_key_service(0).await;
    let mut program = Program::start(&cluster, keys.address);
    let node = dial(program.address).await.unwrap();
    assert_eq!(
        node.join(disk, "worker-0").await.unwrap(),
        expected_key(disk)
    );
    assert_eq!(cluster.nodes().await.len(), 1);
    node.commit(disk, 1).await.unwrap();
    program.signal(Signal::TERM);
    assert!(program.child.wait().unwrap().success());
    let text = cluster.join_log();
    let report = audit::verify(text.lines(), &[audit_key()], &[]);
    assert_eq!(report.fault, None);
    assert_eq!(report.chains.len(), 2);
}

fn audit_key() -> [u8; 32] {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    let key = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    key.public_key().as_ref().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_the_request_in_flight_finish() {
    let cluster = Cluster::new();
    let stalled = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut program = Program::start(&cluster, stalled.local_addr().unwrap());
    assert_eq!(http(program.admin, "/healthz").await.0, 200);
    let owner = cluster.owner.public_key().fingerprint();
    let machine = cluster.machine();
    let node = crate::node::Node::dial(program.address, &machine, owner, AdmissionPath::Join);
    let node = node.await.unwrap();
    let disk = node.register().await;
    let waiting = tokio::spawn(async move {
        let request = api::JoinTicketRequest {
            disk,
            node_name: "worker-0".parse().unwrap(),
            role: Role::Worker,
            certificate_requests: None,
        };
        let request = api::join::IssueJoinTicketRequest::from(request);
        node.call::<_, api::join::IssueJoinTicketResponse>("IssueJoinTicket", request)
            .await
    });
    let _connection = stalled.accept().await.unwrap();
    program.signal(Signal::TERM);
    // An answer in words, not a broken connection: the key service stayed silent for its time.
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(error, attested_tls::RpcError::Call { .. }),
        "{error:?}"
    );
    assert_eq!(error.class(), Class::Unavailable);
    assert!(program.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn reference_values_reload_and_bad_ones_do_not() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    machine.set_pcr(9, [9; 32]);
    assert!(dial(&cluster, &service, &machine).await.is_err());
    let failed = "reload_failed_total{files=\"policy and reference values\"} ";
    let bad_ones = async |count: u32| service.metric(&format!("{failed}{count}")).await;
    // Signed by somebody else.
    let foreign = OwnerKey::from_seed(&Seed::from_slice(&[8; 32]).unwrap()).unwrap();
    let values = json!({"version": 1, "serial": 9, "images": images()});
    let kind = DocumentKind::ReferenceValues;
    let before = metric_value(&service, failed).await;
    cluster.write_signed("reference-values.json", kind, &values, &foreign);
    bad_ones(before + 1).await;
    // Ours, but not about every PCR of the policy.
    let mut image = image("partial", &["worker"], [0; 32]);
    image["pcrs"].as_object_mut().unwrap().remove("4");
    cluster.write_reference_values(9, &[image]);
    bad_ones(before + 2).await;
    cluster.join(&service, &cluster.machine()).await;
    // Good ones, with a third image.
    let mut updated = images().to_vec();
    let mut newer = crate::setup::image("worker-2", &["worker"], [0; 32]);
    newer["pcrs"]["9"] = json!(["09".repeat(32)]);
    updated.push(newer);
    cluster.write_reference_values(9, &updated);
    while dial(&cluster, &service, &machine).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // An older serial, though signed and sound, must not come back, not even after a restart.
    cluster.write_reference_values(8, &images());
    bad_ones(before + 3).await;
    // Nor another content of the serial in force: which of them would be the newer one?
    cluster.write_reference_values(9, &images());
    bad_ones(before + 4).await;
    cluster.join(&service, &machine).await;
    cluster.write_reference_values(8, &images());
    bad_ones(before + 5).await;
    cluster.join(&service, &machine).await;
    service.stop().await;
    let config: Config = config::load(&cluster.path("join-service.toml")).unwrap();
    let error = Running::join_service(&config).await.err().unwrap();
    let error = service_runtime::Chain(&error).to_string();
    assert!(error.contains("serial 8 is below 9"), "{error}");
}

/// What the owner withdrew must not go on through a channel that was accepted before.
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_does_not_outlive_the_rules_it_was_accepted_by() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    // The same images, so that nothing but the channel's age can be the reason.
    let mut renamed = images();
    renamed[0]["name"] = json!("worker-2");
    assert_eq!(node.commit(disk, 1).await, Err(Class::Refused));
    cluster.write_reference_values(2, &renamed);
    while node.commit(disk, 1).await != Err(Class::Unavailable) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(node.join(disk, "worker-0").await, Err(Class::Unavailable));
    assert_eq!(cluster.nodes().await.len(), 0);
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    node.join(disk, "worker-0").await.unwrap();
    assert_eq!(node.commit(disk, 1).await, Ok(1));
    service.stop().await;
    keys.stop().await;
}

/// A node must not be refused, finally, for quoting the PCRs that it was asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_during_a_handshake_ends_no_boot() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let early = TcpStream::connect(service.address).unwrap();
    // Accepted after the one before, which has begun its session then.
    cluster.join(&service, &cluster.machine()).await;
    let mut images = images();
    for image in &mut images {
        image["pcrs"]["5"] = json!(["00".repeat(32)]);
    }
    cluster.write_reference_values(2, &images);
    let mut pcrs = appraisal::REQUIRED_PCRS.to_vec();
    pcrs.push(5);
    pcrs.sort_unstable();
    cluster.write_policy_over(2, &[cluster.authority.pem()], &pcrs);
    let other = cluster.machine();
    other.set_pcr(5, [5; 32]);
    while dial(&cluster, &service, &other).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (machine, owner) = (cluster.machine(), cluster.owner.public_key().fingerprint());
    let late = tokio::task::spawn_blocking(move || {
        crate::node::Node::handshake_over(early, &machine, owner, AdmissionPath::Join).err()
    });
    let error = late.await.unwrap().unwrap();
    assert!(!error.is_final_for_attester(), "{error:?}");
    assert_eq!(error.class(), Class::Unavailable);
    service.stop().await;
}

async fn dial(
    cluster: &Cluster,
    service: &Running,
    machine: &crate::node::Machine,
) -> Result<crate::node::Node, attested_tls::SessionError> {
    let owner = cluster.owner.public_key().fingerprint();
    crate::node::Node::dial(service.address, machine, owner, AdmissionPath::Join).await
}

/// The recorder is the process's, so other tests may have counted before.
async fn metric_value(service: &Running, begins: &str) -> u32 {
    let (_, text) = service.http("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(begins));
    line.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_wrong_configuration_does_not_start() {
    let cluster = Cluster::new();
    let address = free_address();
    let load = |text: &str| {
        std::fs::write(cluster.path("changed.toml"), text).unwrap();
        config::load::<Config>(&cluster.path("changed.toml"))
    };
    let good = std::fs::read_to_string(cluster.write_config(address, "")).unwrap();
    assert!(load(&good).is_ok());
    for (from, to, what) in [
        (
            "replica",
            "skip_attestation = true\nreplica",
            "unknown field `skip_attestation`",
        ),
        ("[audit]", "[[audit]]", "invalid type"),
        ("owner = \"", "owner = \"00", "64 lower-case hex digits"),
        ("drain_seconds = 5", "", "missing field `drain_seconds`"),
    ] {
        let error = load(&good.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let config = load(&good).unwrap();
    cluster.write_foreign_certificate();
    assert!(matches!(
        Running::join_service(&config).await,
        Err(StartError::AdmissionOwner { .. })
    ));
}

/// `docs/operate-services.md` shows each configuration in full.
#[test]
fn the_documented_configurations_load() {
    let docs = include_str!("../../../../docs/operate-services.md");
    let folder = tempfile::tempdir().unwrap();
    let example = |name: &str| {
        let (_, rest) = docs.split_once(&format!("```toml {name}\n")).unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, rest.split_once("```").unwrap().0).unwrap();
        path
    };
    let load = |name: &str| config::load::<Config>(&example(name)).unwrap();
    let alone = load("join-service");
    assert!(matches!(alone.mode(), Ok(Mode::Standalone(_))));
    let clustered = load("join-service-in-a-cluster");
    assert!(matches!(clustered.mode(), Ok(Mode::Cluster { .. })));
    // Neither kind of store does with what the other one is told.
    let mut half = alone.clone();
    half.owner = None;
    assert!(half.mode().is_err());
    let mut double = clustered.clone();
    double.documents = alone.documents.clone();
    assert!(double.mode().is_err());
    let mut other = alone;
    other.store = clustered.store;
    assert!(other.mode().is_err());
    config::load::<key_service::Config>(&example("key-service")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_cluster_is_left_alone() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    cluster.start_join_service(keys.address).await.stop().await;
    let mut config: Config = config::load(&cluster.path("join-service.toml")).unwrap();
    config.cluster_id = Some(identity::ClusterId::from_bytes([7; 32]));
    let error = Running::join_service(&config).await.err().unwrap();
    assert!(matches!(
        error,
        StartError::Store(join_service::store::OpenError::Cluster { .. })
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_lets_every_node_boot() {
    let cluster = Cluster::new();
    let keys = cluster.start_key_service(0).await;
    let service = cluster.start_join_service(keys.address).await;
    let machine = cluster.machine();
    let node = cluster.join(&service, &machine).await;
    let disk = node.register().await;
    let key = node.join(disk, "worker-0").await.unwrap();
    node.commit(disk, 1).await.unwrap();
    let mut chunks = cluster
        .operator()
        .backup(admin::BackupRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut backup = Vec::new();
    while let Some(chunk) = chunks.message().await.unwrap() {
        backup.extend(chunk.data);
    }
    let machine = machine.reboot();
    let node = cluster.rejoin(&service, &machine).await;
    node.rejoin(disk).await.unwrap();
    node.commit(disk, 2).await.unwrap();
    service.stop().await;
    std::fs::write(cluster.path("store.redb"), backup).unwrap();
    let service = cluster.start_join_service(keys.address).await;
    let node = cluster.rejoin(&service, &machine.reboot()).await;
    assert_eq!(
        node.rejoin(disk).await.unwrap(),
        (key, 1, "worker-0".into())
    );
    assert_eq!(node.commit(disk, 3).await, Ok(3));
    service.stop().await;
}

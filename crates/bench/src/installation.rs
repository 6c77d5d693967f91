//! Both services as processes of their own, for machines that are only keys.

use crate::{
    attester::{Attester, Site},
    machine::Maker,
    process::ProcessId,
};
use anyhow::{Context as _, Result};
use qemu_tests::Workspace;
use serde_json::json;
use software_tpm::keys::KeyAuthority;
use std::{collections::BTreeMap, fs, net::Ipv4Addr, path::Path, thread};

/// Nodes that have joined.
pub(crate) const NODES: usize = 1000;

/// Threads that make them.
const THREADS: usize = 4;

/// One source address stands for a thousand nodes here, so what limits one address would limit the
/// measurement. Nothing else differs from the defaults.
pub(crate) const JOIN_LIMITS: &str = "
[limits]
connections_per_address = 2048
handshakes = 2048
handshakes_per_second = 1000000
handshake_burst = 1000000
";

/// A key service in front of which requests wait on purpose.
const KEY_LIMITS: &str = "
[limits]
requests_per_second = 1000000
burst = 1000000
in_flight = 2048
";

/// A running installation with joined nodes.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) nodes: Vec<Attester>,
    pub(crate) join_service: ProcessId,
    pub(crate) key_service: ProcessId,
    /// Resident memory of both before anything was asked.
    pub(crate) idle: (f64, f64),
    site: qemu_tests::Site,
    workspace: Workspace,
}

impl Installation {
    /// Starts the services for machines of whom `trust` declares, and lets [`NODES`] of them join.
    pub(crate) fn start(name: &str, trust: fn(&qemu_tests::Site) -> Result<Maker>) -> Result<Self> {
        let workspace = Workspace::create(name)?;
        let mut site = qemu_tests::Site::create(&workspace)?;
        let maker = trust(&site)?;
        configure(&site)?;
        site.start()?;
        let id = |id: Option<u32>| id.map(ProcessId).context("a service does not run");
        let (join_service, key_service) = (id(site.join_service.id())?, id(site.key_service.id())?);
        let idle = (join_service.resident()?, key_service.resident()?);
        let (_, port) = site.forward();
        let address = Site {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            owner: site.owner.parse()?,
        };
        Ok(Self {
            nodes: join_all(&maker, address)?,
            join_service,
            key_service,
            idle,
            site,
            workspace,
        })
    }

    /// Ends the services in good order; what they recorded must verify.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.site.stop()?;
        for service in ["join-service", "key-service"] {
            let (log, key) = self.site.audit_log(service);
            let heads = self.workspace.file(&format!("{service}.heads.jsonl"));
            self.site.cli.audit_verify(&log, &key, &heads)?;
        }
        self.workspace.passed()
    }
}

/// Signs a policy for a new authority's TPMs, and reference values of all zero, which is what the
/// PCRs of a TPM are that nobody extended.
pub(crate) fn trust_tpms(site: &qemu_tests::Site) -> Result<Maker> {
    let root = KeyAuthority::new("bench root")?;
    let issuer = root.intermediate("bench issuer", |_| {})?;
    let path = |name: &str| site.dir().join(name);
    fs::write(path("root.pem"), root.pem())?;
    fs::write(path("issuer.pem"), issuer.pem())?;
    let policy = path("policy.json");
    site.cli
        .policy_new(&policy, &path("root.pem"), &path("issuer.pem"))?;
    site.cli.policy_sign(&policy, &site.documents.policy)?;
    let zero = [hex::encode([0; 32])];
    let pcrs: BTreeMap<u32, _> = appraisal::REQUIRED_PCRS
        .iter()
        .map(|pcr| (*pcr, zero.clone()))
        .collect();
    site.accept_image("bench", &json!({ "pcrs": pcrs }))?;
    Ok(Maker::Tpm(Box::new(issuer)))
}

fn configure(site: &qemu_tests::Site) -> Result<()> {
    for (service, limits) in [("join-service", JOIN_LIMITS), ("key-service", KEY_LIMITS)] {
        let path = site.dir().join(format!("{service}.toml"));
        append(&path, limits)?;
    }
    Ok(())
}

fn append(path: &Path, limits: &str) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    // Requests wait for a key service that stands still while memory is measured.
    let text = text.replace("timeout_seconds = 5\n", "timeout_seconds = 60\n");
    // The audit log has its default size again: a thousand nodes write more than the tests do.
    let text = text.replace("file_mebibytes = 1\n", "");
    Ok(fs::write(path, text + limits)?)
}

fn join_all(maker: &Maker, site: Site) -> Result<Vec<Attester>> {
    let join = |thread: usize| -> Result<Vec<Attester>> {
        let indexes = (thread..NODES).step_by(THREADS);
        let nodes = indexes.map(|index| {
            let mut node = Attester::new(
                maker.manufacture(index.try_into()?)?,
                site,
                format!("worker-{index}"),
            )?;
            node.join().with_context(|| format!("worker-{index}"))?;
            Ok(node)
        });
        nodes.collect()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || join(thread)))
            .collect();
        let mut nodes = Vec::with_capacity(NODES);
        for thread in threads {
            let joined = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread died"))?;
            nodes.extend(joined?);
        }
        Ok(nodes)
    })
}

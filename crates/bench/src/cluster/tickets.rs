//! Tickets of a join service whose records are objects of a real API server, with certificates for
//! kubelets: what a cluster's nodes get.

use crate::{
    admission::{ROUNDS, TURN, of},
    attester::{Attester, Site},
    installation::{JOIN_LIMITS, trust_tpms},
    process::ProcessId,
    report::Report,
    statistics::percentile,
    tickets::{pace, saturate},
};
use anyhow::{Context as _, Result};
use child_process::run;
use native_kubernetes::{ControlPlane, Kubernetes, Options};
use qemu_tests::Workspace;
use serde_json::Value;
use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

/// Nodes that ask at a time. Each has a lease of none, so that its disk may boot at once again.
const NODES: u16 = 16;

/// At half the rate, for the latencies.
const PACED: Duration = Duration::from_secs(20);

/// The namespace of everything.
const NAMESPACE: &str = "constellation-system";

/// The manifests that users apply.
const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");

pub(super) fn measure(kubernetes: &Kubernetes, report: &mut Report) -> Result<()> {
    let workspace = Workspace::create("bench-cluster-tickets")?;
    let mut site = qemu_tests::Site::create(&workspace)?;
    let maker = trust_tpms(&site)?;
    let control_plane = ControlPlane::start(kubernetes, Options::default())?;
    publish(&control_plane, &site)?;
    store_in(&control_plane, &site)?;
    site.start()?;
    let service = site.join_service.id().context("no join service")?;
    let service = ProcessId(service);
    let idle = service.resident()?;
    let address = Site {
        address: (Ipv4Addr::LOCALHOST, site.forward().1).into(),
        owner: site.owner.parse()?,
    };
    let join = |index: u16| -> Result<Attester> {
        let name = format!("worker-{index}");
        let mut node = Attester::new(maker.manufacture(index)?, address, name)?.with_kubelet()?;
        node.join()?;
        Ok(node)
    };
    let nodes = (0..NODES).map(join).collect::<Result<Vec<_>>>()?;
    let ticket = |node: &Attester, _| node.rejoin();
    saturate(&nodes, TURN / 5, (service, None), ticket)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(saturate(&nodes, TURN, (service, None), ticket)?);
    }
    let rate = of(&rounds, |round| round.per_second)?;
    let note = "two certificates each, signed by the controller manager";
    report.figure("tickets_per_s_cluster", rate, note);
    let cpu = of(&rounds, |round| round.cpu_us)?;
    report.figure("ticket_cluster_cpu_us", cpu, "join service, per ticket");
    let latencies = pace(&nodes, PACED, rate / 2.0, ticket)?;
    for (name, percent) in [("p50_ms_cluster", 50), ("p99_ms_cluster", 99)] {
        let value = percentile(latencies.iter().copied(), percent).context("no ticket")?;
        report.figure(name, value, "at half of that rate");
    }
    let name = "rss_mib_join_service_api_server";
    report.figure(&format!("{name}_idle"), idle, "store in a cluster");
    report.figure(&format!("{name}_used"), service.resident()?, "after these");
    site.stop()?;
    workspace.passed()
}

/// What `kubectl apply` of our manifests makes, and what an operator's init puts there.
fn publish(control_plane: &ControlPlane, site: &qemu_tests::Site) -> Result<()> {
    for file in ["namespace.yaml", "crds.yaml", "rbac.yaml"] {
        kubectl(
            control_plane,
            &["apply", "-f", &format!("{MANIFESTS}/{file}")],
        )?;
    }
    let crds = format!("{MANIFESTS}/crds.yaml");
    let established = "--for=condition=Established";
    kubectl(
        control_plane,
        &["wait", established, "--timeout=60s", "-f", &crds],
    )?;
    let documents = &site.documents;
    let from = |key: &str, path: &Path| vec![format!("--from-file={key}={}", path.display())];
    config_map(
        control_plane,
        "constellation-policy",
        &from("policy.json", &documents.policy),
    )?;
    let values = from("reference-values.json", &documents.reference_values);
    config_map(control_plane, "constellation-reference-values", &values)?;
    config_map(
        control_plane,
        "constellation-cluster",
        &facts(control_plane, site)?,
    )
}

/// The endpoint is written down for nodes, and nobody dials it here.
fn facts(control_plane: &ControlPlane, site: &qemu_tests::Site) -> Result<Vec<String>> {
    let cluster = fs::read(site.cli.file("cluster.json"))?;
    let cluster: Value = serde_json::from_slice(&cluster)?;
    let id = cluster["cluster_id"].as_str().context("no cluster id")?;
    let facts = [
        ("api-endpoint", "192.0.2.1:6443"),
        ("certificate-authority", control_plane.ca_pem()),
        ("cluster-id", id),
        ("dns-domain", "cluster.local"),
        ("key-version", &cluster["key_version"].to_string()),
        ("owner", &site.owner),
        ("pod-subnet", "10.244.0.0/16"),
        ("service-subnet", "10.96.0.0/16"),
        ("version", "v1.20.2"),
    ];
    let literal = |(key, text)| format!("--from-literal={key}={text}");
    Ok(facts.map(literal).into())
}

fn config_map(control_plane: &ControlPlane, name: &str, content: &[String]) -> Result<()> {
    let mut command = control_plane.kubectl();
    command.args(["--namespace", NAMESPACE, "create", "configmap", name]);
    run(command.args(content)).map(drop)
}

fn kubectl(control_plane: &ControlPlane, words: &[&str]) -> Result<()> {
    run(control_plane.kubectl().args(words)).map(drop)
}

/// Gives the join service the rights of its ServiceAccount, and the store that goes with them.
fn store_in(control_plane: &ControlPlane, site: &qemu_tests::Site) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let access = runtime.block_on(control_plane.service_account(NAMESPACE, "join-service"))?;
    let kubeconfig = site.dir().join("join-service.kubeconfig");
    fs::write(&kubeconfig, access.kubeconfig())?;
    let path = site.dir().join("join-service.toml");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, in_cluster(&text, &kubeconfig) + JOIN_LIMITS)?;
    Ok(())
}

/// The configuration of a join service on its own, as one in a cluster has it: what the cluster says, it
/// does not.
fn in_cluster(alone: &str, kubeconfig: &Path) -> String {
    const CLUSTER_SAYS: [&str; 7] = [
        "[documents]",
        "cluster_id",
        "key_version",
        "operator_socket",
        "owner",
        "policy",
        "reference_values",
    ];
    let told = |line: &&str| CLUSTER_SAYS.iter().any(|key| line.starts_with(key));
    let translate = |line: &str| match line {
        r#"kind = "file""# => "kind = \"kubernetes\"\n".to_owned(),
        line if line.starts_with("path = ") => format!("kubeconfig = {kubeconfig:?}\n"),
        line => format!("{line}\n"),
    };
    alone
        .lines()
        .filter(|line| !told(line))
        .map(translate)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_in_a_cluster_is_told_by_it() {
        let alone = "listen = \"a\"\nowner = \"b\"\n[documents]\npolicy = \"c\"\n\n[store]\n\
                     kind = \"file\"\npath = \"d\"\n[audit]\ndirectory = \"e\"\n";
        let text = in_cluster(alone, Path::new("/k"));
        assert_eq!(
            text,
            "listen = \"a\"\n\n[store]\nkind = \"kubernetes\"\nkubeconfig = \"/k\"\n\
             [audit]\ndirectory = \"e\"\n"
        );
    }
}

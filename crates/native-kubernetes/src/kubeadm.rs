//! A cluster as plain kubeadm makes it on isolated nodes: what ours is measured against.

use crate::node::{IsolatedNode, RUNTIME};
use anyhow::{Context as _, Result};
use child_process::run;
use kubernetes_binaries::Version;

/// Appears when kubeadm has written what the kubelet reads.
const KUBELET_STARTS_WITH: &str = "/var/lib/kubelet/config.yaml";

/// The administrator's kubeconfig, on the first node.
pub(crate) const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// The bootstrap token of a cluster that lives for a test, in a network without a way out.
const TOKEN: &str = "abcdef.0123456789abcdef";

/// What a node needs to join.
#[derive(Clone, Debug)]
pub struct Join {
    endpoint: String,
    ca_hash: String,
}

/// Runs `kubeadm init` on a node whose images are imported. There is no `crictl` for the checks before it,
/// and no CoreDNS.
///
/// # Errors
/// If kubeadm fails; the message has its output.
pub fn init(node: &mut IsolatedNode, version: &Version) -> Result<Join> {
    prepare(node)?;
    let api = api_version(version);
    let (name, address, version) = (node.name(), node.address(), version.as_str());
    let config = format!(
        "apiVersion: kubeadm.k8s.io/{api}
kind: InitConfiguration
bootstrapTokens: [{{token: {TOKEN}, ttl: 1h0m0s}}]
localAPIEndpoint: {{advertiseAddress: {address}, bindPort: 6443}}
nodeRegistration: {{criSocket: {RUNTIME}, name: {name}, kubeletExtraArgs: {{node-ip: {address}}}}}
---
apiVersion: kubeadm.k8s.io/{api}
kind: ClusterConfiguration
kubernetesVersion: {version}
networking: {{serviceSubnet: 10.96.0.0/16, podSubnet: 10.20.0.0/16}}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
failSwapOn: false
evictionHard: {{memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
conntrack: {{maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
"
    );
    node.write("/run/kubeadm.yaml", config)?;
    node.serve_kubelet(KUBELET_STARTS_WITH)?;
    let skip = "--skip-phases=preflight,addon/coredns";
    node.run(&["kubeadm", "init", "--config=/run/kubeadm.yaml", skip])?;
    Ok(Join {
        endpoint: format!("{address}:6443"),
        ca_hash: ca_hash(node)?,
    })
}

/// Runs `kubeadm join` on a node whose images are imported.
///
/// # Errors
/// If kubeadm fails; the message has its output.
pub fn join(node: &mut IsolatedNode, version: &Version, join: &Join) -> Result<()> {
    prepare(node)?;
    let api = api_version(version);
    let (name, address) = (node.name(), node.address());
    let Join { endpoint, ca_hash } = join;
    let config = format!(
        "apiVersion: kubeadm.k8s.io/{api}
kind: JoinConfiguration
discovery: {{bootstrapToken: {{apiServerEndpoint: \"{endpoint}\", token: {TOKEN}, caCertHashes: [\"{ca_hash}\"]}}}}
nodeRegistration: {{criSocket: {RUNTIME}, name: {name}, kubeletExtraArgs: {{node-ip: {address}}}}}
"
    );
    node.write("/run/kubeadm.yaml", config)?;
    node.serve_kubelet(KUBELET_STARTS_WITH)?;
    let skip = "--skip-phases=preflight";
    node.run(&["kubeadm", "join", "--config=/run/kubeadm.yaml", skip])?;
    Ok(())
}

/// `kubectl` as the administrator, on the first node.
///
/// # Errors
/// If it fails.
pub fn kubectl(node: &IsolatedNode, arguments: &[&str]) -> Result<String> {
    let mut command = node.command("kubectl")?;
    run(command.args(["--kubeconfig", ADMIN]).args(arguments))
}

/// A network for pods by the plugins that come with the container runtime: a bridge on each node, and a
/// route to each other node's.
fn prepare(node: &IsolatedNode) -> Result<()> {
    let number = node.address().octets()[3];
    let config = format!(
        r#"{{"cniVersion": "0.4.0", "name": "pods", "plugins": [
{{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
  "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "10.20.{number}.0/24"}}]],
            "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
{{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#
    );
    node.write("/etc/cni/net.d/10-pods.conflist", config)?;
    for other in (1..=9).filter(|&other| other != number) {
        let (pods, via) = (format!("10.20.{other}.0/24"), format!("10.10.0.{other}"));
        node.run(&["ip", "route", "replace", &pods, "via", &via])?;
    }
    Ok(())
}

/// The pin of the authority's key, as kubeadm wants it.
fn ca_hash(node: &IsolatedNode) -> Result<String> {
    let script = "openssl x509 -pubkey -noout -in /etc/kubernetes/pki/ca.crt \
                  | openssl pkey -pubin -outform der | sha256sum";
    let output = node.run(&["sh", "-c", script])?;
    let hash = output.split(' ').next().context("output of sha256sum")?;
    Ok(format!("sha256:{hash}"))
}

/// kubeadm reads v1beta2 up to 1.21 and v1beta3 from 1.22 on. Only 1.20 has been run.
fn api_version(version: &Version) -> &'static str {
    match version.minor() {
        ..22 => "v1beta2",
        _ => "v1beta3",
    }
}

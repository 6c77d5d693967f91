//! The command lines of a control plane's programs.

use super::Ports;
use crate::relay::Relay;
use child_process::contained;
use kubernetes_binaries::Kubernetes;
use std::{path::Path, process::Command};

/// From this version on (1.24) there is no insecure port to switch off, and no flag for it.
const WITHOUT_INSECURE_PORT: u32 = 24;

pub(super) fn etcd(kubernetes: &Kubernetes, dir: &Path, ports: Ports) -> Command {
    let client = format!("http://127.0.0.1:{}", ports.etcd);
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer);
    let mut command = contained(kubernetes.tool("usr/bin/etcd"));
    command.arg("--data-dir").arg(dir.join("etcd"));
    command.args(["--listen-client-urls", &client]);
    command.args(["--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer]);
    command.args(["--initial-advertise-peer-urls", &peer]);
    command.arg(format!("--initial-cluster=default={peer}"));
    // The data does not outlive the test.
    command.arg("--unsafe-no-fsync");
    command
}

pub(super) fn api_server(kubernetes: &Kubernetes, dir: &Path, port: u16, etcd: &Relay) -> Command {
    let mut command = contained(kubernetes.program("kube-apiserver"));
    let file = |name: &str| dir.join(name).display().to_string();
    command.arg(format!("--etcd-servers=http://127.0.0.1:{}", etcd.port()));
    command.args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"]);
    command.arg(format!("--secure-port={port}"));
    // Endpoints refuse loopback addresses.
    command.arg("--endpoint-reconciler-type=none");
    command.arg(format!("--client-ca-file={}", file("ca.crt")));
    command.arg(format!("--tls-cert-file={}", file("apiserver.crt")));
    command.arg(format!("--tls-private-key-file={}", file("apiserver.key")));
    command.arg(format!(
        "--kubelet-client-certificate={}",
        file("kubelet-client.crt")
    ));
    command.arg(format!(
        "--kubelet-client-key={}",
        file("kubelet-client.key")
    ));
    command.arg(format!("--service-account-key-file={}", file("sa.pub")));
    command.arg(format!(
        "--service-account-signing-key-file={}",
        file("sa.key")
    ));
    command.arg("--service-account-issuer=https://kubernetes.default.svc");
    command.arg("--service-cluster-ip-range=10.96.0.0/16");
    command.args([
        "--authorization-mode=Node,RBAC",
        "--enable-bootstrap-token-auth",
    ]);
    command.arg("--enable-admission-plugins=NodeRestriction");
    command.args(["--allow-privileged", "--profiling=false"]);
    command
}

pub(super) fn controller_manager(kubernetes: &Kubernetes, dir: &Path) -> Command {
    let mut command = client(kubernetes, dir, "kube-controller-manager");
    let file = |name: &str| dir.join(name).display().to_string();
    command.arg("--controllers=*,bootstrapsigner,tokencleaner");
    command.arg(format!("--cluster-signing-cert-file={}", file("ca.crt")));
    command.arg(format!("--cluster-signing-key-file={}", file("ca.key")));
    command.arg(format!("--root-ca-file={}", file("ca.crt")));
    command.arg(format!(
        "--service-account-private-key-file={}",
        file("sa.key")
    ));
    command.arg("--use-service-account-credentials");
    command
}

pub(super) fn scheduler(kubernetes: &Kubernetes, dir: &Path) -> Command {
    client(kubernetes, dir, "kube-scheduler")
}

/// A program that talks to the API server, serves nothing, and is the only one of its kind.
fn client(kubernetes: &Kubernetes, dir: &Path, name: &str) -> Command {
    let mut command = contained(kubernetes.program(name));
    let kubeconfig = dir.join(format!("{name}.kubeconfig"));
    command.arg("--kubeconfig").arg(kubeconfig);
    command.args(["--leader-elect=false", "--secure-port=0"]);
    if kubernetes.version().minor() < WITHOUT_INSECURE_PORT {
        command.arg("--port=0");
    }
    command
}

//! When a node is ready: the same look at both kinds of clusters.

use super::FIRST;
use anyhow::{Result, bail};
use child_process::run;
use native_kubernetes::{IsolatedNode, kubectl};
use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How long a node may take.
const PATIENCE: Duration = Duration::from_secs(240);

/// How often a port is looked at, and a node's object.
const POLL: Duration = Duration::from_millis(100);

/// Where an API server listens.
const API_SERVER: u16 = 6443;

/// Waits until a node is ready, by a watch on the first node.
pub(super) fn wait(first: &IsolatedNode, name: &str) -> Result<()> {
    let node = format!("node/{name}");
    let words = ["wait", "--for=condition=Ready", "--timeout=240s", &node];
    // kubectl does not wait for what is not there yet.
    poll(Duration::ZERO, || kubectl(first, &words).is_ok())
}

/// Waits until the first node is ready after `since`: what its cluster knew before the power was cut, the
/// cluster still knows.
pub(super) fn wait_again(first: &IsolatedNode, since: &str) -> Result<()> {
    // Before, each look would be a program that starts in vain and takes time from what is measured.
    wait_for_port(first, API_SERVER)?;
    let condition = r#"{.status.conditions[?(@.type=="Ready")]['status','lastHeartbeatTime']}"#;
    let path = format!("jsonpath={condition}");
    poll(POLL, || {
        let said = kubectl(first, &["get", "node", FIRST, "--output", &path]);
        said.is_ok_and(|said| is_ready_after(&said, since))
    })
}

/// Now, to the second, as Kubernetes writes it.
pub(super) fn now() -> Result<String> {
    let now = run(Command::new("date").args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"]))?;
    Ok(now.trim().to_owned())
}

/// Waits until something listens on a port of a node, on all its addresses.
pub(super) fn wait_for_port(node: &IsolatedNode, port: u16) -> Result<()> {
    poll(POLL, || {
        let sockets = node.read("/proc/1/net/tcp6").unwrap_or_default();
        sockets.lines().any(|socket| listens(socket, port))
    })
}

/// `True` and a time. Times of this form sort as text.
fn is_ready_after(said: &str, since: &str) -> bool {
    said.split_once(' ')
        .is_some_and(|(ready, time)| ready == "True" && time > since)
}

/// A line of `proc_net_tcp` (Linux, Documentation/networking/proc_net_tcp.rst): 0A is `TCP_LISTEN`.
fn listens(socket: &str, port: u16) -> bool {
    let fields: Vec<_> = socket.split_ascii_whitespace().collect();
    let local = fields.get(1).and_then(|local| local.rsplit_once(':'));
    local.is_some_and(|(_, got)| got == format!("{port:04X}")) && fields.get(3) == Some(&"0A")
}

/// Asks again and again.
pub(super) fn poll(pause: Duration, mut so: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !so() {
        if Instant::now() >= end {
            bail!("not ready after {PATIENCE:?}");
        }
        thread::sleep(pause);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_heartbeat_is_no_sign_of_life() {
        let since = "2026-01-02T03:04:05Z";
        assert!(is_ready_after("True 2026-01-02T03:04:06Z", since));
        assert!(!is_ready_after("True 2026-01-02T03:04:05Z", since));
        assert!(!is_ready_after("False 2026-01-02T03:05:00Z", since));
        assert!(!is_ready_after("", since));
    }

    #[test]
    fn only_a_listening_socket_listens() {
        let zero = "00000000000000000000000000000000";
        let line =
            |port, state| format!("   1: {zero}:{port} {zero}:0000 {state} 00000000:00000000");
        assert!(listens(&line("192B", "0A"), 6443));
        assert!(!listens(&line("192B", "01"), 6443));
        assert!(!listens(&line("192C", "0A"), 6443));
        assert!(!listens("", 6443));
    }
}

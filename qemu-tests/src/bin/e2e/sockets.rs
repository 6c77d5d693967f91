//! Which ports of a booted node listen: those of docs/os-image.md, and no other.

use anyhow::{Context as _, Result, ensure};
use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::objects::RULE;

/// Reached from the network, on every node: kubelet, health of kube-proxy, verification service.
const NODE: &[u16] = &[10250, 10256, 30080, 30081];

/// Reached from the network, on a control plane beside those: API server, etcd, join service. NodePorts are
/// held by kube-proxy on every node.
const CONTROL_PLANE: &[u16] = &[6443, 2379, 2380];

/// NodePort of the join service.
const JOIN: u16 = 30090;

/// Loopback: health and metrics of Kubernetes' programs. On a control plane etcd serves its clients there, too.
const LOOPBACK: &[u16] = &[2379, 2381, 10248, 10249, 10257, 10259];

/// Loopback: containerd, on one port of the kernel's choice (`ip_local_port_range`).
const CHOSEN: std::ops::RangeInclusive<u16> = 32768..=60999;

/// The DHCP client.
const DHCP: u16 = 68;

/// States of `proc_net_tcp` (Linux, include/net/tcp_states.h): TCP that listens, and any UDP socket.
const TCP_LISTEN: &str = "0A";
const UDP: &str = "07";

/// Judges the lists of [`crate::objects::look`].
pub(crate) fn check(seen: &str, is_control_plane: bool) -> Result<()> {
    let mut lists = seen.split(RULE);
    let sockets = lists.next().context("sockets")?;
    let set_id = lists.next().context("set-id files")?.trim();
    ensure!(set_id.is_empty(), "set-id: {set_id}");
    let listening: Vec<_> = sockets.lines().filter_map(Socket::parse).collect();
    let open = |port| listening.iter().any(|it| it.port == port && !it.loopback);
    let expected = [NODE, CONTROL_PLANE, &[JOIN]];
    let expected = &expected[..if is_control_plane { 3 } else { 1 }];
    for &port in expected.iter().copied().flatten() {
        ensure!(open(port), "nobody listens on port {port}");
    }
    let mut chosen = BTreeSet::new();
    for socket in &listening {
        let Socket { port, loopback, .. } = *socket;
        let right = match (socket.udp, loopback) {
            (true, _) => port == DHCP,
            (false, true) if CHOSEN.contains(&port) => chosen.insert(port),
            (false, true) => LOOPBACK.contains(&port),
            (false, false) => {
                NODE.contains(&port)
                    || port == JOIN
                    || (is_control_plane && CONTROL_PLANE.contains(&port))
            }
        };
        ensure!(right, "an undocumented port listens: {socket:?}");
    }
    ensure!(
        chosen.len() <= 1,
        "more than one chosen port listens: {chosen:?}"
    );
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    udp: bool,
    loopback: bool,
    port: u16,
}

impl Socket {
    /// A line of `proc_net_tcp` or its kin, if it is of a socket that listens (Linux,
    /// Documentation/networking/proc_net_tcp.rst): addresses are in the processor's byte order.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
        let (address, port) = local.split_once(':')?;
        let udp = match state {
            TCP_LISTEN => false,
            UDP => true,
            _ => return None,
        };
        let loopback = match address.len() {
            8 => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.swap_bytes()).is_loopback(),
            // ::1, and IPv4's in IPv6.
            _ => {
                address == "00000000000000000000000001000000"
                    || address
                        .strip_prefix("0000000000000000FFFF0000")
                        .is_some_and(|v4| v4.ends_with("7F"))
            }
        };
        Some(Self {
            udp,
            loopback,
            port: u16::from_str_radix(port, 16).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n";

    fn line(local: &str, state: &str) -> String {
        format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000\n")
    }

    fn worker(more: &str) -> String {
        let mut seen = HEADER.to_owned();
        for local in ["00000000:7580", "00000000:7581", "0100007F:B5D5"] {
            seen += &line(local, "0A");
        }
        seen += &line("00000000000000000000000000000000:280A", "0A");
        seen += &line("00000000000000000000000000000000:2810", "0A");
        seen += &line("0F02000A:0044", "07");
        seen += &line("0F02000A:C21C", "01");
        seen + more + "---\n---\nlooked\n"
    }

    #[test]
    fn documented_ports_pass() {
        check(&worker(""), false).unwrap();
        check(&worker(&line("0100007F:2808", "0A")), false).unwrap();
    }

    #[test]
    fn every_other_port_and_set_id_file_is_found() {
        for more in [
            line("00000000:0016", "0A"),
            line("0100007F:0016", "0A"),
            line("0F02000A:192B", "0A"),
            line("0100007F:B5D6", "0A"),
            line("00000000:0035", "07"),
            line("00000000:B5D6", "0A"),
            "---\n/node/usr/bin/su\n".to_owned(),
        ] {
            assert!(check(&worker(&more), false).is_err(), "{more}");
        }
    }

    #[test]
    fn what_should_listen_and_does_not_is_found() {
        assert!(check(&worker(""), true).is_err());
    }
}

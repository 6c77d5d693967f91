//! Ports for programs that are told where to listen.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process;
use std::sync::Mutex;

use anyhow::{Context as _, Result};

/// Below those that the kernel gives to connections and to listeners that leave it the choice
/// (`net.ipv4.ip_local_port_range`, 32768 on in Linux's Documentation/networking/ip-sysctl.rst), and below
/// those of Kubernetes' node ports.
const PORTS: Range<u16> = 20_000..30_000;

/// Candidates of neighbouring processes are this far apart, so that they seldom meet.
const STRIDE: u32 = 64;

/// What this process has claimed, until it ends.
static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A loopback port that nobody listens on, and that nobody else gets from here while this process runs, in any
/// process of this network namespace.
///
/// # Errors
/// All are taken.
pub fn free_port() -> Result<u16> {
    free_ports(1)
}

/// The same with the port after it: a TPM's commands and, where TPM libraries expect it, its control channel.
///
/// # Errors
/// There are no two.
pub fn free_pair() -> Result<u16> {
    free_ports(2)
}

/// The first of so many in a row.
fn free_ports(count: u16) -> Result<u16> {
    let mut claims = CLAIMS
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let begin = process::id().wrapping_mul(STRIDE) as usize % PORTS.len();
    let mut candidates = PORTS.cycle().skip(begin).take(PORTS.len());
    let (first, claimed) = candidates
        .find_map(|first| {
            let row = (first..first + count).map(claim);
            Some((first, row.collect::<Option<Vec<_>>>()?))
        })
        .context("find a free port: all are taken")?;
    claims.extend(claimed);
    Ok(first)
}

/// An abstract socket of the port's name: the kernel has one of each in a network namespace, as it has one of each
/// port, and takes it back when the process ends.
fn claim(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("constellation-port-{port}")).ok()?;
    let claim = UnixListener::bind_addr(&name).ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::thread;

    #[test]
    fn no_port_is_given_twice() {
        let ask = || {
            let asked = (0..10).flat_map(|_| {
                let (one, two) = (free_port().unwrap(), free_pair().unwrap());
                [one, two, two + 1]
            });
            asked.collect::<Vec<_>>()
        };
        let askers: Vec<_> = (0..4).map(|_| thread::spawn(ask)).collect();
        let ports: BTreeSet<_> = askers
            .into_iter()
            .flat_map(|asker| asker.join().unwrap())
            .collect();
        assert_eq!(ports.len(), 4 * 30);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }

    #[test]
    fn a_port_that_another_claims_or_listens_on_is_not_given() {
        let port = free_port().unwrap();
        assert!(claim(port).is_none(), "claimed");
        let next = free_port().unwrap();
        let name = SocketAddr::from_abstract_name(format!("constellation-port-{next}")).unwrap();
        CLAIMS.lock().unwrap().retain(|claim| {
            claim.local_addr().unwrap().as_abstract_name() != name.as_abstract_name()
        });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, next)).unwrap();
        assert!(claim(next).is_none(), "listened on");
        drop(listener);
        assert!(claim(next).is_some());
    }
}

//! A node to ask.

use appraisal::AttesterIdentity;
use identity::NodeName;
use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::finding::Finding;
use crate::kubernetes::Member;

/// The gRPC port of the verification service.
const PORT: u16 = 30081;

/// A node to ask: where, and who it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::commands) struct Target {
    /// Who must answer, if that is known.
    pub(super) name: Option<NodeName>,
    /// Host and port.
    pub(super) authority: String,
    /// The machine that it must be, by its node record.
    pub(super) attester: Option<AttesterIdentity>,
}

impl Target {
    /// A node of the cluster: where the API server says it is, and the machine that its record names.
    ///
    /// # Errors
    /// What is known without asking it.
    pub(in crate::commands) fn of(member: &Member) -> Result<Self, Box<Finding>> {
        let place = member.address().and_then(authority);
        let Some(record) = &member.record else {
            return Err(Finding::without_record(&member.name, place).into());
        };
        let name = record.node.clone();
        let Some(authority) = place else {
            return Err(Finding::without_address(name).into());
        };
        Ok(Self {
            name: Some(name),
            authority,
            attester: Some(record.attester).filter(AttesterIdentity::names_machine),
        })
    }
}

impl FromStr for Target {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let (name, place) = match text.split_once('=') {
            Some((name, place)) => (Some(name), place),
            None => (None, text),
        };
        let name = name.map(str::parse).transpose();
        let name = name.map_err(|_| "expected the name of a node before `=`")?;
        let authority =
            authority(place).ok_or("expected an address, or a host name, and a port")?;
        Ok(Self {
            name,
            authority,
            attester: None,
        })
    }
}

fn authority(place: &str) -> Option<String> {
    if let Ok(address) = place.parse::<SocketAddr>() {
        return Some(address.to_string());
    }
    let bare = place.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT).to_string());
    }
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (place, PORT),
    };
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    (!host.is_empty() && host.chars().all(letter)).then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_place_and_maybe_a_name() {
        for (text, name, authority) in [
            ("10.0.2.15", None, "10.0.2.15:30081"),
            ("10.0.2.15:1", None, "10.0.2.15:1"),
            ("fd00::1", None, "[fd00::1]:30081"),
            ("[fd00::1]", None, "[fd00::1]:30081"),
            ("[fd00::1]:1", None, "[fd00::1]:1"),
            ("node.example", None, "node.example:30081"),
            (
                "worker-0=node.example:1",
                Some("worker-0"),
                "node.example:1",
            ),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.authority, authority);
            assert_eq!(target.name.as_ref().map(NodeName::as_str), name);
        }
        for bad in [
            "",
            "=10.0.0.1",
            "a b",
            "host:port",
            "host:",
            "Worker_0=1.2.3.4",
            "u@h",
            "h/p",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}

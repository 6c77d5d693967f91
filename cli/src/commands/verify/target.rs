//! A node to ask.

use anyhow::{Result, bail};
use appraisal::AttesterIdentity;
use clap::Args;
use identity::NodeName;
use std::{
    collections::BTreeSet,
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
    /// A node of the cluster: where it is, and the machine that its record names.
    ///
    /// # Errors
    /// What is known without asking it.
    fn of(member: &Member, place: Option<String>) -> Result<Self, Box<Finding>> {
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

/// Where nodes are reached from here, if not at the addresses that the cluster knows.
#[derive(Args, Clone, Debug)]
pub(in crate::commands) struct Places {
    /// Ask this node there, and not at the address that the API server knows; may be repeated
    #[arg(long = "at", value_name = "NAME=ADDRESS[:PORT]", value_parser = named, requires = "kubeconfig")]
    at: Vec<Target>,
}

impl Places {
    /// Nodes of a cluster to ask, and those that need not be asked.
    ///
    /// # Errors
    /// As [`Places::check`].
    pub(in crate::commands) fn targets(
        &self,
        members: &[Member],
    ) -> Result<Vec<Result<Target, Box<Finding>>>> {
        self.check(members)?;
        Ok(members.iter().map(|member| self.target(member)).collect())
    }

    /// Whether each place is of another node of the cluster.
    ///
    /// # Errors
    /// If one is of no node, or of the same as another one.
    pub(in crate::commands) fn check(&self, members: &[Member]) -> Result<()> {
        let names = self.at.iter().filter_map(|target| target.name.as_ref());
        let mut known = BTreeSet::new();
        for name in names {
            if !members.iter().any(|member| member.name == name.as_str()) {
                bail!("`--at {name}=…`: the cluster has no node `{name}`");
            }
            if !known.insert(name.as_str()) {
                bail!("`--at {name}=…` is given twice");
            }
        }
        Ok(())
    }

    /// A node of the cluster to ask.
    ///
    /// # Errors
    /// What is known without asking it.
    pub(in crate::commands) fn target(&self, member: &Member) -> Result<Target, Box<Finding>> {
        let place = self.at.iter().find(|target| {
            let name = target.name.as_ref();
            name.is_some_and(|name| member.name == name.as_str())
        });
        let place = place.map(|target| target.authority.clone());
        Target::of(
            member,
            place.or_else(|| member.address().and_then(authority)),
        )
    }
}

fn named(text: &str) -> Result<Target, &'static str> {
    let target: Target = text.parse()?;
    match target.name {
        Some(_) => Ok(target),
        None => Err("expected the name of a node, and `=`"),
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
    fn a_place_names_its_node() {
        assert_eq!(named("worker-0=[::1]:7").unwrap().authority, "[::1]:7");
        assert!(named("10.0.0.1:7").is_err());
    }

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

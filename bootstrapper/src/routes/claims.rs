//! Which ranges of pods are believed.
//!
//! A kubelet writes its own Node object, at its creation also the range in it. Packets to a range go
//! to its node, so a range is believed only where it takes nothing from anybody: it is a proper part of
//! the cluster's range, holds neither this node nor the API endpoint, and was claimed by no older node.

use super::Route;
use k8s_openapi::{api::core::v1::Node as NodeObject, apimachinery::pkg::apis::meta::v1::Time};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr},
};

/// A range of addresses, whose base has no bit below its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Range {
    base: u32,
    bits: u32,
}

impl Range {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let (base, bits): (Ipv4Addr, u32) = (base.parse().ok()?, bits.parse().ok()?);
        let range = Self {
            base: base.into(),
            bits,
        };
        (bits <= 32 && range.base & range.mask() == range.base).then_some(range)
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - self.bits).unwrap_or(0)
    }

    fn has(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => u32::from(address) & self.mask() == self.base,
            IpAddr::V6(_) => false,
        }
    }

    fn is_proper_part_of(self, whole: Self) -> bool {
        self.bits > whole.bits && self.overlaps(whole)
    }

    /// Of two ranges with a common address one holds the other.
    fn overlaps(self, other: Self) -> bool {
        let mask = self.mask() & other.mask();
        self.base & mask == other.base & mask
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

/// What a node says of itself. Ordered by age, which the API server notes and no node can change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: Option<Time>,
    name: String,
    range: Range,
    gateway: IpAddr,
}

/// What the cluster's nodes say of themselves.
#[derive(Debug)]
pub(super) struct Claims {
    /// Range of all pods of the cluster.
    pub(super) pods: Range,
    /// This node's name.
    pub(super) own: String,
    /// Addresses that are no pod's: of this node and of the API endpoint.
    pub(super) reserved: Vec<IpAddr>,
    nodes: BTreeMap<String, Claim>,
    /// Whose ranges are not believed, so that each is logged once.
    refused: BTreeSet<Claim>,
}

impl Claims {
    pub(super) const fn new(pods: Range, own: String, reserved: Vec<IpAddr>) -> Self {
        Self {
            pods,
            own,
            reserved,
            nodes: BTreeMap::new(),
            refused: BTreeSet::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.nodes.clear();
    }

    /// Notes what an object says, and tells whether that is new.
    pub(super) fn update(&mut self, object: &NodeObject) -> bool {
        let Some(name) = object.metadata.name.as_ref() else {
            return false;
        };
        let Some(claim) = claim(object) else {
            return self.remove(name);
        };
        self.nodes.insert(name.clone(), claim.clone()) != Some(claim)
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        self.nodes.remove(name).is_some()
    }

    /// The routes to other nodes, and who has none.
    pub(super) fn routes(&mut self) -> BTreeSet<Route> {
        let (routes, refused) = self.judge();
        for claim in refused.difference(&self.refused) {
            tracing::error!(
                node = claim.name, range = %claim.range,
                "no route: a node's range of pods is not its own"
            );
        }
        self.refused = refused;
        routes
    }

    /// Ours comes first, then the oldest: a newcomer takes nothing from anybody.
    fn judge(&self) -> (BTreeSet<Route>, BTreeSet<Claim>) {
        let mut taken = Vec::new();
        taken.extend(self.nodes.get(&self.own).map(|claim| claim.range));
        let (mut routes, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let others: BTreeSet<_> = self.nodes.values().collect();
        for claim in others.into_iter().filter(|claim| claim.name != self.own) {
            let range = claim.range;
            let is_free = !taken.iter().any(|taken| range.overlaps(*taken))
                && !self.reserved.iter().any(|address| range.has(*address));
            if range.is_proper_part_of(self.pods) && is_free {
                taken.push(range);
                routes.insert(Route {
                    range: range.to_string(),
                    gateway: claim.gateway,
                });
            } else {
                refused.insert(claim.clone());
            }
        }
        (routes, refused)
    }
}

/// Addresses are parsed: what any node writes about itself becomes an argument.
fn claim(object: &NodeObject) -> Option<Claim> {
    let range = Range::parse(object.spec.as_ref()?.pod_cidr.as_ref()?)?;
    let addresses = object.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses
        .iter()
        .find(|address| address.type_ == "InternalIP")?;
    Some(Claim {
        created: object.metadata.creation_timestamp.clone(),
        name: object.metadata.name.clone()?,
        range,
        gateway: internal.address.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(name: &str, hour: u8, pod_cidr: &str, address: &str) -> NodeObject {
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": format!("2021-01-01T{hour:02}:00:00Z")},
            "spec": {"podCIDR": pod_cidr},
            "status": {"addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": address},
            ]},
        }))
        .unwrap()
    }

    /// This node has 10.20.1.0/24; the API endpoint is, against all custom, within the pods' range.
    fn claims() -> Claims {
        let reserved = [[10, 0, 0, 5], [10, 20, 9, 9]].map(IpAddr::from);
        let pods = Range::parse("10.20.0.0/16").unwrap();
        let mut claims = Claims::new(pods, "own".into(), reserved.into());
        claims.update(&object("own", 5, "10.20.1.0/24", "10.0.0.5"));
        claims
    }

    fn ranges(claims: &mut Claims) -> Vec<String> {
        let routes = claims.routes().into_iter();
        routes
            .map(|route| format!("{} {}", route.range, route.gateway))
            .collect()
    }

    #[test]
    fn a_claim_is_made_of_addresses_and_of_nothing_else() {
        let made = |pod_cidr, address| claim(&object("worker", 1, pod_cidr, address));
        assert_eq!(
            made("10.20.2.0/24", "10.0.0.2").unwrap().range.to_string(),
            "10.20.2.0/24"
        );
        for (pod_cidr, address) in [
            ("default", "10.0.0.2"),
            ("10.20.2.0/24 dev lo", "10.0.0.2"),
            ("10.20.2.0", "10.0.0.2"),
            ("10.20.2.1/24", "10.0.0.2"),
            ("10.20.2.0/33", "10.0.0.2"),
            ("fd00::/64", "10.0.0.2"),
            ("10.20.2.0/24", "worker"),
            ("10.20.2.0/24", "10.0.0.2 dev lo"),
        ] {
            assert_eq!(made(pod_cidr, address), None, "{pod_cidr} {address}");
        }
    }

    #[test]
    fn a_range_that_takes_from_others_gets_no_route() {
        for hostile in [
            "0.0.0.0/0",
            "10.20.0.0/16",
            "10.0.0.0/8",
            "10.0.0.5/32",
            "10.96.0.0/24",
            "10.20.1.0/24",
            "10.20.1.128/25",
            "10.20.0.0/23",
            "10.20.9.9/32",
            "10.20.8.0/23",
        ] {
            let mut claims = claims();
            // Older than this node itself: that must not help.
            claims.update(&object("hostile", 1, hostile, "10.0.0.6"));
            assert!(ranges(&mut claims).is_empty(), "{hostile}");
            assert_eq!(claims.refused.len(), 1, "{hostile}");
        }
    }

    #[test]
    fn of_two_nodes_the_older_one_has_the_range_in_whichever_order_they_are_seen() {
        let nodes = [
            object("z-older", 1, "10.20.2.0/24", "10.0.0.2"),
            object("a-newer", 2, "10.20.2.0/25", "10.0.0.6"),
            object("other", 3, "10.20.3.0/24", "10.0.0.3"),
        ];
        for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
            let mut claims = claims();
            for index in order {
                assert!(claims.update(&nodes[index]));
                assert!(!claims.update(&nodes[index]));
            }
            assert_eq!(
                ranges(&mut claims),
                ["10.20.2.0/24 10.0.0.2", "10.20.3.0/24 10.0.0.3"]
            );
            assert!(claims.refused.iter().all(|claim| claim.name == "a-newer"));
        }
        // A range is free again when its node is gone.
        let mut claims = claims();
        claims.update(&nodes[0]);
        claims.update(&nodes[1]);
        assert!(claims.remove("z-older"));
        assert_eq!(ranges(&mut claims), ["10.20.2.0/25 10.0.0.6"]);
    }
}

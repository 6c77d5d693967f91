//! Routes to the pods of other nodes, kept as the cluster's nodes come and go.
//!
//! One route a node: its range of pods through its address. They are marked with a protocol number of
//! their own, so that nobody else's are touched. docs/decisions/0017 says why there is no tunnel.

use crate::{
    clients,
    error::PhaseError,
    node::Node,
    program::{Program, ProgramError},
};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use serde::Deserialize;
use service_runtime::{Chain, Shutdown};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    pin::pin,
    time::Duration,
};
use tokio_stream::StreamExt as _;

/// Marks routes as ours: numbers from 192 on are for nobody in particular.
const PROTOCOL: &str = "201";

/// Until the watch is begun again after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// A range of pods and the node that has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Route {
    #[serde(rename = "dst")]
    range: String,
    gateway: IpAddr,
}

/// Keeps the routes until shutdown is requested.
pub async fn keep(node: &Node, shutdown: &Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            Err(error) = follow(node) => {
                tracing::warn!(error = %Chain(&error), "the nodes cannot be watched, again soon");
            }
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn follow(node: &Node) -> Result<(), PhaseError> {
    let nodes: Api<NodeObject> = Api::all(clients::node().await?);
    let mut events = pin!(watcher(nodes, watcher::Config::default()));
    let mut routes = BTreeMap::new();
    while let Some(event) = events.next().await {
        let settled = match event.map_err(|error| PhaseError::Watch(Box::new(error)))? {
            Event::Init => {
                routes.clear();
                false
            }
            Event::InitApply(object) => {
                update(&mut routes, node, &object);
                false
            }
            Event::InitDone => true,
            Event::Apply(object) => update(&mut routes, node, &object),
            Event::Delete(object) => object
                .metadata
                .name
                .is_some_and(|name| routes.remove(&name).is_some()),
        };
        if settled {
            set(node, &routes.values().cloned().collect()).await?;
        }
    }
    Ok(())
}

/// Notes what an object says, and tells whether that is new.
fn update(routes: &mut BTreeMap<String, Route>, node: &Node, object: &NodeObject) -> bool {
    let Some(name) = object.metadata.name.clone() else {
        return false;
    };
    let route = route_to(object).filter(|_| name != node.hand_off.node_name.as_str());
    let before = routes.get(&name).cloned();
    match route.clone() {
        Some(route) => routes.insert(name, route),
        None => routes.remove(&name),
    };
    route != before
}

/// Addresses are parsed: what any node writes about itself becomes an argument here.
fn route_to(object: &NodeObject) -> Option<Route> {
    let (base, bits) = object.spec.as_ref()?.pod_cidr.as_ref()?.split_once('/')?;
    let (base, bits): (Ipv4Addr, u8) = (base.parse().ok()?, bits.parse().ok()?);
    let addresses = object.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses
        .iter()
        .find(|address| address.type_ == "InternalIP")?;
    Some(Route {
        range: format!("{base}/{bits}"),
        gateway: internal.address.parse().ok()?,
    })
}

async fn set(node: &Node, wanted: &BTreeSet<Route>) -> Result<(), PhaseError> {
    let present = present(node).await?;
    for route in wanted.difference(&present) {
        tracing::info!(range = %route.range, gateway = %route.gateway, "route set");
        let gateway = route.gateway.to_string();
        let done = ip(
            node,
            &[
                "route",
                "replace",
                &route.range,
                "via",
                &gateway,
                "proto",
                PROTOCOL,
            ],
        );
        // One node that is not on this network must not keep the others from being reached.
        if let Err(error) = done.output().await {
            tracing::error!(range = %route.range, error = %Chain(&error), "no route to a node's pods");
        }
    }
    let ranges: BTreeSet<_> = wanted.iter().map(|route| &route.range).collect();
    for route in present
        .iter()
        .filter(|route| !ranges.contains(&route.range))
    {
        tracing::info!(range = %route.range, "route removed");
        ip(node, &["route", "delete", &route.range, "proto", PROTOCOL])
            .output()
            .await?;
    }
    Ok(())
}

async fn present(node: &Node) -> Result<BTreeSet<Route>, PhaseError> {
    let text = ip(node, &["-json", "route", "show", "proto", PROTOCOL])
        .output()
        .await?;
    // `ip` writes nothing, or a list.
    if text.trim().is_empty() {
        return Ok(BTreeSet::new());
    }
    serde_json::from_str(&text)
        .map_err(|_not_routes| ProgramError::Output("ip route".into()).into())
}

fn ip<'a>(node: &'a Node, arguments: &[&str]) -> Program<'a> {
    let limit = node.config.limits.program_seconds.duration();
    Program::new(&node.config.programs.ip, arguments, limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(pod_cidr: &str, address: &str) -> NodeObject {
        serde_json::from_value(json!({
            "metadata": {"name": "worker-0"},
            "spec": {"podCIDR": pod_cidr},
            "status": {"addresses": [
                {"type": "Hostname", "address": "worker-0"},
                {"type": "InternalIP", "address": address},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn a_route_is_made_of_addresses_and_of_nothing_else() {
        let route = route_to(&object("10.20.1.0/24", "10.0.0.2")).unwrap();
        assert_eq!(route.range, "10.20.1.0/24");
        for (pod_cidr, address) in [
            ("default", "10.0.0.2"),
            ("10.20.1.0/24 dev lo", "10.0.0.2"),
            ("10.20.1.0", "10.0.0.2"),
            ("10.20.1.0/24", "worker-0"),
            ("10.20.1.0/24", "10.0.0.2 dev lo"),
        ] {
            assert_eq!(
                route_to(&object(pod_cidr, address)),
                None,
                "{pod_cidr} {address}"
            );
        }
    }

    #[test]
    fn routes_are_read_as_ip_writes_them() {
        let text = r#"[{"dst":"10.20.1.0/24","gateway":"10.0.0.2","dev":"eth0","flags":[]}]"#;
        let routes: BTreeSet<Route> = serde_json::from_str(text).unwrap();
        assert!(routes.contains(&Route {
            range: "10.20.1.0/24".into(),
            gateway: Ipv4Addr::new(10, 0, 0, 2).into(),
        }));
    }
}

//! Routes to the pods of other nodes, kept as the cluster's nodes come and go.
//!
//! One route a node: its range of pods through its address. They are marked with a protocol number of
//! their own, so that nobody else's are touched. docs/decisions/0017 says why there is no tunnel.

mod claims;

use crate::{
    clients,
    error::PhaseError,
    node::Node,
    program::{Program, ProgramError},
};
use claims::{Claims, Range};
use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{
    Api,
    runtime::watcher::{self, Event, watcher},
};
use serde::Deserialize;
use service_runtime::{Chain, Shutdown};
use std::{collections::BTreeSet, net::IpAddr, pin::pin, time::Duration};
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
    let pods = node.kubernetes().pod_subnet.as_str();
    let pods = Range::parse(pods).ok_or_else(|| PhaseError::PodSubnet(pods.to_owned()))?;
    let own = node.hand_off.node_name.as_str().to_owned();
    let mut claims = Claims::new(pods, own, reserved(node).await?);
    let nodes: Api<NodeObject> = Api::all(clients::node().await?);
    let mut events = pin!(watcher(nodes, watcher::Config::default()));
    let mut is_listed = false;
    while let Some(event) = events.next().await {
        let changed = match event.map_err(|error| PhaseError::Watch(Box::new(error)))? {
            Event::Init => {
                claims.clear();
                is_listed = false;
                false
            }
            Event::InitApply(object) => claims.update(&object),
            Event::InitDone => {
                is_listed = true;
                true
            }
            Event::Apply(object) => claims.update(&object),
            Event::Delete(object) => object
                .metadata
                .name
                .is_some_and(|name| claims.remove(&name)),
        };
        if changed && is_listed {
            set(node, &claims.routes()).await?;
        }
    }
    Ok(())
}

/// Whom no pod's range may hold: this node and the API endpoint.
async fn reserved(node: &Node) -> Result<Vec<IpAddr>, PhaseError> {
    let endpoint = node.kubernetes().api_endpoint.as_str();
    let found = tokio::net::lookup_host(endpoint).await;
    let found = found.map_err(|source| PhaseError::Unreachable {
        endpoint: endpoint.to_owned(),
        source,
    })?;
    let addresses = found.map(|address| address.ip());
    Ok(addresses.chain([node.address]).collect())
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
    use std::net::Ipv4Addr;

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

//! Which join services have a document in force, as their metrics say through the API server.

use anyhow::{Context as _, Result};
use hyper::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _, api::ListParams};
use kube_store::NAMESPACE;
use owner::DocumentKind;
use serde::Serialize;
use std::{
    fmt,
    time::{Duration, Instant},
};
use tokio::time::sleep;

use crate::kubernetes::Cluster;

/// The port of probes and metrics, `admin_listen` of `manifests/join-service.yaml`.
const ADMIN_PORT: u16 = 9001;

const LABEL: &str = "app.kubernetes.io/name=join-service";

/// They look every two seconds themselves.
const POLL: Duration = Duration::from_secs(1);

/// One join service.
#[derive(Debug, Serialize)]
pub(super) struct Replica {
    name: String,
    node: Option<String>,
    /// What it has in force; none if it does not say.
    serial: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.node.as_deref().unwrap_or("-");
        match (self.serial, &self.error) {
            (Some(serial), _) => write!(f, "{} on {node}: serial {serial}", self.name),
            (None, Some(error)) => write!(f, "{} on {node}: {error}", self.name),
            (None, None) => write!(f, "{} on {node}: says no serial", self.name),
        }
    }
}

/// The pods of the join service.
pub(super) fn pods(cluster: &Cluster) -> Api<Pod> {
    Api::namespaced(cluster.client().clone(), NAMESPACE)
}

pub(super) async fn running(pods: &Api<Pod>) -> Result<Vec<Pod>> {
    let pods = pods.list(&ListParams::default().labels(LABEL)).await;
    let mut pods = pods.context("list the join service's pods")?.items;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(pods)
}

/// What every replica has in force.
pub(super) async fn ask(cluster: &Cluster, kind: DocumentKind) -> Result<Vec<Replica>> {
    let mut replicas = Vec::new();
    for pod in running(&pods(cluster)).await? {
        let name = pod.name_any();
        let answer = serial(cluster, &name, kind).await;
        let (serial, error) = match answer {
            Ok(serial) => (serial, None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        replicas.push(Replica {
            name,
            node: pod.spec.and_then(|spec| spec.node_name),
            serial,
            error,
        });
    }
    Ok(replicas)
}

/// Whether there are replicas and each has this serial or a newer one.
pub(super) fn all_have(replicas: &[Replica], serial: u64) -> bool {
    let has = |replica: &Replica| replica.serial.is_some_and(|has| has >= serial);
    !replicas.is_empty() && replicas.iter().all(has)
}

/// Asks until all have it, or the time is over.
pub(super) async fn wait(
    cluster: &Cluster,
    (kind, serial): (DocumentKind, u64),
    limit: Duration,
) -> Result<Vec<Replica>> {
    let end = Instant::now() + limit;
    loop {
        let replicas = ask(cluster, kind).await?;
        if all_have(&replicas, serial) || Instant::now() >= end {
            return Ok(replicas);
        }
        sleep(POLL).await;
    }
}

async fn serial(cluster: &Cluster, pod: &str, kind: DocumentKind) -> Result<Option<u64>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{ADMIN_PORT}/proxy/metrics");
    let request = Request::get(path).body(Vec::new())?;
    let metrics = cluster.client().request_text(request).await?;
    Ok(parse(&metrics, kind))
}

fn parse(metrics: &str, kind: DocumentKind) -> Option<u64> {
    let series = format!("document_serial{{document=\"{kind}\"}} ");
    let mut values = metrics
        .lines()
        .filter_map(|line| line.strip_prefix(&series));
    values.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(serial: Option<u64>) -> Replica {
        Replica {
            name: "join-service-x".into(),
            node: None,
            serial,
            error: None,
        }
    }

    #[test]
    fn a_serial_is_read_of_the_right_document() {
        let metrics = "# TYPE document_serial gauge\n\
                       document_serial{document=\"policy\"} 1\n\
                       document_serial{document=\"reference-values\"} 12\n";
        assert_eq!(parse(metrics, DocumentKind::Policy), Some(1));
        assert_eq!(parse(metrics, DocumentKind::ReferenceValues), Some(12));
        assert_eq!(parse("", DocumentKind::Policy), None);
        let broken = "document_serial{document=\"policy\"} NaN\n";
        assert_eq!(parse(broken, DocumentKind::Policy), None);
    }

    #[test]
    fn nobody_is_not_everybody() {
        assert!(!all_have(&[], 1));
        assert!(!all_have(&[replica(Some(2)), replica(None)], 2));
        assert!(!all_have(&[replica(Some(2)), replica(Some(1))], 2));
        assert!(all_have(&[replica(Some(2)), replica(Some(3))], 2));
    }
}

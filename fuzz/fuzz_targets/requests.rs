//! Certificate requests of a node, as a join service reads and judges them. The seeds are signed by their own
//! keys.
#![no_main]
use api::CertificateRequests;
use hand_off::KubernetesMaterial;
use identity::{NodeName, Role};
use fuzz::got_through;
use libfuzzer_sys::fuzz_target;
use requests::ParsedRequests;
use std::{net::IpAddr, sync::LazyLock};

// The service's own source: as a crate it would bring the client of an API server with it.
#[allow(dead_code, reason = "what is made of judged requests is not foreign")]
#[path = "../../cluster-services/join-service/src/kubernetes/requests.rs"]
mod requests;

static CLUSTER: LazyLock<KubernetesMaterial> = LazyLock::new(|| KubernetesMaterial {
    api_endpoint: "10.0.0.1:6443".into(),
    certificate_authority: String::new(),
    pod_subnet: "10.244.0.0/16".into(),
    service_subnet: "10.96.0.0/12".into(),
    dns_domain: "cluster.local".into(),
    version: "v1.20.2".into(),
});

/// Two requests, the length of the first before it.
fn split(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, data) = data.split_first_chunk()?;
    data.split_at_checked(u16::from_be_bytes(*length).into())
}

fuzz_target!(|data: &[u8]| got_through(run(data)));

fn run(data: &[u8]) -> bool {
    let Some((client, serving)) = split(data) else {
        return false;
    };
    let Ok(parsed) = ParsedRequests::parse(CertificateRequests {
        kubelet_client: client.to_vec(),
        kubelet_serving: serving.to_vec(),
    }) else {
        return false;
    };
    let node: NodeName = "worker-0".parse().expect("a name");
    let peer = IpAddr::from([10, 0, 0, 9]);
    let is_its = parsed.are_of(&node);
    let Ok(checked) = parsed.check(&node, Role::Worker, peer, &CLUSTER) else {
        return false;
    };
    assert!(is_its && checked.node() == &node);
    true
}

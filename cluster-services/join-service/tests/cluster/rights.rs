//! The ServiceAccount may do what the other tests need, by the manifests, and no more.

use crate::site::shared;
use kube_store::NAMESPACE;

fn may(arguments: &[&str]) -> bool {
    let (control_plane, _) = shared();
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:join-service");
    let output = control_plane
        .kubectl()
        .args(["auth", "can-i", &account])
        .args(arguments)
        .output()
        .unwrap();
    match String::from_utf8_lossy(&output.stdout).trim() {
        "yes" => true,
        "no" => false,
        other => panic!(
            "{arguments:?}: {other} {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_is_needed() {
    let here = ["-n", NAMESPACE];
    for allowed in [
        "get noderecords",
        "list noderecords",
        "create noderecords",
        "update noderecords",
        "get admissionclaims",
        "create admissionclaims",
        "update admissionclaims",
        "update noderecords --subresource=status",
        "get configmaps/constellation-policy",
        "get configmaps/constellation-reference-values",
        "get configmaps/constellation-cluster",
        "get leases -n kube-node-lease",
        "get nodes",
        "list nodes",
        "watch nodes",
        "create certificatesigningrequests",
        "get certificatesigningrequests",
        "delete certificatesigningrequests",
        "update certificatesigningrequests --subresource=approval",
    ] {
        let mut arguments: Vec<_> = allowed.split(' ').collect();
        if !allowed.contains("-n ") {
            arguments.extend(here);
        }
        assert!(may(&arguments), "{allowed}");
    }
    for forbidden in [
        "delete noderecords",
        "delete admissionclaims",
        "deletecollection noderecords",
        "patch noderecords",
        "get secrets",
        "list secrets",
        "get secrets/master-secret",
        "get configmaps",
        "get configmaps/kube-root-ca.crt",
        "update configmaps/constellation-policy",
        "create pods",
        "create pods --subresource=exec",
        "update leases -n kube-node-lease",
        "get leases",
        "delete nodes",
        "update nodes",
        "list certificatesigningrequests",
        "update certificatesigningrequests --subresource=status",
        "sign signers/kubernetes.io/kubelet-serving",
        "approve signers/kubernetes.io/kube-apiserver-client",
        "approve signers/kubernetes.io/legacy-unknown",
        "impersonate users",
        "create serviceaccounts --subresource=token",
        "create clusterrolebindings",
        "get noderecords -n default",
        "*  *",
    ] {
        let mut arguments: Vec<_> = forbidden.split_whitespace().collect();
        if !forbidden.contains("-n ") {
            arguments.extend(here);
        }
        assert!(!may(&arguments), "{forbidden}");
    }
}

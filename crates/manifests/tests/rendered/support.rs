//! Values of a cluster that does not exist.

use hand_off::{
    AdmissionMaterial, ClusterMaterial, ControlPlaneFiles, KubernetesMaterial, SecretText,
};
use identity::{ClusterId, KeyVersion};
use manifests::{Attestation, Cluster, Values};

/// Everything an init has.
pub(crate) fn values() -> Values {
    let hex = |byte: &str| byte.repeat(32);
    Values {
        version: "0.1.0-test".into(),
        kubernetes: KubernetesMaterial {
            api_endpoint: "10.0.0.1:6443".into(),
            certificate_authority: "-----BEGIN CERTIFICATE-----\n".into(),
            pod_subnet: "10.244.0.0/16".into(),
            service_subnet: "10.96.0.0/12".into(),
            dns_domain: "cluster.local".into(),
            version: "v1.20.2".into(),
        },
        state_folder: "/run/state".into(),
        attestation: Attestation::default(),
        cluster: Some(Cluster {
            keys: ClusterMaterial {
                cluster_id: ClusterId::from_bytes([5; 32]),
                key_version: KeyVersion::FIRST,
                salt: hex("02"),
                measurement_salt: hex("03"),
                master_secret: SecretText::new(hex("01")),
            },
            admission: AdmissionMaterial {
                owner: hex("06"),
                seed: SecretText::new(hex("04")),
                certificate: "{}".into(),
            },
            policy: "{\"policy\": 1}".into(),
            reference_values: "{\"reference\": 1}".into(),
            control_plane_files: ControlPlaneFiles(
                [("ca.crt".to_owned(), SecretText::new("pem".into()))].into(),
            ),
        }),
    }
}

use super::*;

fn kubernetes() -> KubernetesMaterial {
    KubernetesMaterial {
        api_endpoint: "api.example:6443".into(),
        certificate_authority: String::new(),
        pod_subnet: "10.20.0.0/16".into(),
        service_subnet: "10.96.0.0/16".into(),
        dns_domain: "cluster.local".into(),
        version: "v1.20.2".into(),
    }
}

/// What a template gives for a version.
fn filled(
    minor: u32,
    kubernetes: &KubernetesMaterial,
    fill: impl Fn(&Subject<'_>) -> Result<String, TemplateError>,
) -> Result<String, TemplateError> {
    fill(&Subject {
        config: &Config::default(),
        kubernetes,
        node_name: &"first-0".parse().unwrap(),
        address: Ipv4Addr::new(10, 0, 0, 1).into(),
        version: KubernetesVersion { major: 1, minor },
    })
}

/// The documents of a file, read by the YAML of the client library.
fn documents(text: &str) -> Vec<serde_json::Value> {
    let parse = |document| serde_saphyr::from_str(document).unwrap();
    text.split("\n---\n").map(parse).collect()
}

#[test]
fn kubeadm_gets_the_format_of_its_version_and_the_same_settings_in_each() {
    for (minor, api) in [
        (20, "v1beta2"),
        (22, "v1beta3"),
        (30, "v1beta3"),
        (31, "v1beta4"),
    ] {
        let text = filled(minor, &kubernetes(), |subject| subject.kubeadm(false)).unwrap();
        let documents = documents(&text);
        let kinds: Vec<_> = documents
            .iter()
            .map(|document| document["kind"].as_str())
            .collect();
        let expected = [
            "InitConfiguration",
            "ClusterConfiguration",
            "KubeletConfiguration",
            "KubeProxyConfiguration",
        ];
        assert_eq!(kinds, expected.map(Some), "{minor}");
        let cluster = &documents[1];
        assert_eq!(cluster["apiVersion"], format!("kubeadm.k8s.io/{api}"));
        let arguments = &cluster["apiServer"]["extraArgs"];
        let value = |name: &str| match arguments.as_array() {
            Some(pairs) => pairs.iter().find(|pair| pair["name"] == name).unwrap()["value"].clone(),
            None => arguments[name].clone(),
        };
        assert_eq!(arguments.is_array(), api == "v1beta4");
        assert_eq!(value("enable-bootstrap-token-auth"), "false");
        assert_eq!(
            value("kubelet-certificate-authority"),
            "/etc/kubernetes/pki/ca.crt"
        );
        assert_eq!(value("tls-min-version"), "VersionTLS13");
        let managers = &cluster["controllerManager"]["extraArgs"];
        let duration = match managers.as_array() {
            Some(pairs) => pairs
                .iter()
                .find(|pair| pair["name"] == "cluster-signing-duration")
                .unwrap()["value"]
                .clone(),
            None => managers["cluster-signing-duration"].clone(),
        };
        assert_eq!(duration, "2160h");
        assert_eq!(cluster["controlPlaneEndpoint"], "api.example:6443");
        let timeout = &cluster["apiServer"]["timeoutForControlPlane"];
        assert_eq!(timeout.is_string(), api != "v1beta4", "{minor}");
        // Keys of elliptic curves, by one name or the other.
        let curve = match api {
            "v1beta4" => cluster["encryptionAlgorithm"] == "ECDSA-P256",
            _ => cluster["featureGates"]["PublicKeysECDSA"] == true,
        };
        assert!(curve, "{minor}: {cluster}");
    }
}

#[test]
fn a_join_is_discovered_by_a_file_and_names_no_token() {
    for minor in [20, 28, 33] {
        let text = filled(minor, &kubernetes(), |subject| subject.kubeadm(true)).unwrap();
        let [join] = documents(&text).try_into().unwrap();
        assert_eq!(join["kind"], "JoinConfiguration");
        assert_eq!(
            join["discovery"]["file"]["kubeConfigPath"],
            "/etc/kubernetes/admin.conf"
        );
        assert!(!text.contains("oken"), "{text}");
    }
}

#[test]
fn the_kubelet_believes_nobody_without_credentials() {
    for minor in [20, 25, 27, 34] {
        let text = filled(minor, &kubernetes(), |subject| {
            subject.kubelet_configuration()
        })
        .unwrap();
        let [kubelet] = documents(&text).try_into().unwrap();
        assert_eq!(kubelet["authentication"]["anonymous"]["enabled"], false);
        assert_eq!(kubelet["authorization"]["mode"], "Webhook");
        assert_eq!(kubelet["readOnlyPort"], 0);
        assert_eq!(kubelet["rotateCertificates"], true);
        assert_eq!(kubelet["protectKernelDefaults"], true);
        assert_eq!(kubelet["clusterDNS"][0], "10.96.0.10");
        assert!(kubelet.get("serverTLSBootstrap").is_none());
        assert_eq!(kubelet.get("seccompDefault").is_some(), minor >= 25);
        assert_eq!(
            kubelet.get("containerRuntimeEndpoint").is_some(),
            minor >= 27
        );
    }
}

/// Values come from the operator and from tickets; none may become a key or a document.
#[test]
fn no_value_leaves_its_place() {
    let hostile = "x\"\n---\nkind: ClusterConfiguration\n\"";
    let kubernetes = KubernetesMaterial {
        api_endpoint: hostile.into(),
        dns_domain: hostile.into(),
        pod_subnet: hostile.into(),
        ..kubernetes()
    };
    let text = filled(20, &kubernetes, |subject| subject.kubeadm(false)).unwrap();
    let documents = documents(&text);
    assert_eq!(documents.len(), 4);
    assert_eq!(documents[1]["controlPlaneEndpoint"], hostile);
    assert_eq!(documents[2]["clusterDomain"], hostile);
    let kubeconfig = filled(20, &kubernetes, |subject| subject.kubelet_kubeconfig()).unwrap();
    let kubeconfig: serde_json::Value = serde_saphyr::from_str(&kubeconfig).unwrap();
    assert_eq!(
        kubeconfig["clusters"][0]["cluster"]["server"],
        format!("https://{hostile}")
    );
    let network: serde_json::Value = serde_json::from_str(&pod_network(hostile).unwrap()).unwrap();
    assert_eq!(
        network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
        hostile
    );
}

#[test]
fn the_name_service_has_the_tenth_address_of_a_range_that_has_one() {
    assert_eq!(cluster_dns("10.96.0.0/12").unwrap(), "10.96.0.10");
    assert_eq!(cluster_dns("10.96.0.77/24").unwrap(), "10.96.0.10");
    for wrong in [
        "",
        "10.96.0.0",
        "10.96.0.0/29",
        "10.96.0.0/33",
        "fd00::/108",
        "x/8",
    ] {
        let error = cluster_dns(wrong).unwrap_err();
        assert!(matches!(error, TemplateError::ServiceSubnet(_)), "{wrong}");
    }
}

#[test]
fn no_request_is_recorded_with_its_body() {
    let policy: serde_json::Value = serde_saphyr::from_str(AUDIT_POLICY).unwrap();
    let rules = policy["rules"].as_array().unwrap();
    assert!(
        rules
            .iter()
            .all(|rule| rule["level"] == "None" || rule["level"] == "Metadata")
    );
    // Whatever no other rule speaks of is recorded.
    assert_eq!(
        *rules.last().unwrap(),
        serde_json::json!({"level": "Metadata"})
    );
}

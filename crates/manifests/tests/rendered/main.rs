//! The published manifests: complete, strict, as a current Kubernetes takes them, and with the rights
//! that the documentation says.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed set-up fails the test; the lint knows test functions only"
)]

mod support;

use k8s_openapi::{
    api::{apps, core, networking, rbac},
    apiextensions_apiserver::pkg::apis::apiextensions,
};
use kube_store::ClusterFacts;
use manifests::{Object, Ownership, RenderError, render};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};
use support::values;

/// `secret` of the Secret `master-secret`, without the label in front.
const MASTER_SECRET_BASE64: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ";

fn rendered() -> Vec<Object> {
    render(&values()).unwrap()
}

fn find(kind: &str, name: &str) -> Value {
    let objects = rendered();
    let found = objects
        .iter()
        .find(|o| o.kind() == kind && o.name() == name);
    found
        .unwrap_or_else(|| panic!("{kind} {name}"))
        .json
        .clone()
}

/// Parses into the API's own type and back: what the type does not know would be gone.
fn round_trip<T: Serialize + DeserializeOwned>(json: &Value) -> Value {
    let typed: T = serde_json::from_value(json.clone()).unwrap();
    serde_json::to_value(&typed).unwrap()
}

/// The types are those of the newest API that the bindings know (`v1_33`).
#[test]
fn every_field_is_one_of_the_current_api() {
    for object in rendered() {
        let json = &object.json;
        let version = json["apiVersion"].as_str().unwrap();
        let typed = match (version, object.kind()) {
            ("v1", "ConfigMap") => round_trip::<core::v1::ConfigMap>(json),
            ("v1", "Namespace") => round_trip::<core::v1::Namespace>(json),
            ("v1", "Secret") => round_trip::<core::v1::Secret>(json),
            ("v1", "Service") => round_trip::<core::v1::Service>(json),
            ("v1", "ServiceAccount") => round_trip::<core::v1::ServiceAccount>(json),
            ("apps/v1", "DaemonSet") => round_trip::<apps::v1::DaemonSet>(json),
            ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
                round_trip::<apiextensions::v1::CustomResourceDefinition>(json)
            }
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                round_trip::<networking::v1::NetworkPolicy>(json)
            }
            ("rbac.authorization.k8s.io/v1", "ClusterRole") => {
                round_trip::<rbac::v1::ClusterRole>(json)
            }
            ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                round_trip::<rbac::v1::ClusterRoleBinding>(json)
            }
            ("rbac.authorization.k8s.io/v1", "Role") => round_trip::<rbac::v1::Role>(json),
            ("rbac.authorization.k8s.io/v1", "RoleBinding") => {
                round_trip::<rbac::v1::RoleBinding>(json)
            }
            other => panic!("{other:?} is not a kind that we use"),
        };
        assert_eq!(floats(json.clone()), floats(typed), "{object:?}");
    }
}

/// Bounds in a schema are floating-point numbers to the API's type, and whole ones in the file.
fn floats(json: Value) -> Value {
    match json {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(floats).collect(),
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(key, value)| (key, floats(value)));
            Value::Object(fields.collect())
        }
        other => other,
    }
}

#[test]
fn a_misspelt_field_does_not_survive_the_round_trip() {
    let mut daemon_set = find("DaemonSet", "key-service");
    daemon_set["spec"]["template"]["spec"]["securityContext"]["runAsNonroot"] = json!(true);
    assert_ne!(round_trip::<apps::v1::DaemonSet>(&daemon_set), daemon_set);
}

#[test]
fn definitions_come_before_what_uses_them_and_nothing_comes_twice() {
    let objects = rendered();
    let names: Vec<_> = objects
        .iter()
        .map(|o| (o.kind(), o.namespace(), o.name()))
        .collect();
    assert_eq!(names[0], ("Namespace", None, "constellation-system"));
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let at = |kind: &str, name: &str| {
        let at = objects
            .iter()
            .position(|o| o.kind() == kind && o.name() == name);
        at.unwrap_or_else(|| panic!("{kind} {name}"))
    };
    let first_pod = objects
        .iter()
        .position(|o| o.kind() == "DaemonSet")
        .unwrap();
    for needed in [
        at("Secret", "master-secret"),
        at("RoleBinding", "key-service"),
    ] {
        assert!(needed < first_pod);
    }
}

#[test]
fn an_upgrade_leaves_the_clusters_own_objects_alone() {
    let mut values = values();
    let all = render(&values).unwrap();
    values.cluster = None;
    let upgrade = render(&values).unwrap();
    let owned = all.iter().filter(|o| o.ownership == Ownership::Operator);
    let owned: BTreeSet<_> = owned.map(Object::name).collect();
    let expected = [
        "audit-keys",
        "constellation-cluster",
        "constellation-policy",
        "constellation-reference-values",
        "control-plane-files",
        "join-service-admission",
        "join-service-audit",
        "key-service-audit",
        "master-secret",
    ];
    assert_eq!(owned, BTreeSet::from(expected));
    assert_eq!(upgrade.len() + expected.len(), all.len());
    assert!(upgrade.iter().all(|o| o.ownership == Ownership::Release));
    // What the key service writes itself is made empty, so that applying again takes nothing back.
    for (kind, name) in [("Secret", "join-service-tls"), ("ConfigMap", "service-ca")] {
        assert_eq!(find(kind, name).get("data"), None, "{name}");
    }
}

#[test]
fn the_facts_of_the_cluster_are_the_ones_that_services_read() {
    let values = values();
    let map = serde_json::from_value(find("ConfigMap", "constellation-cluster")).unwrap();
    let facts = ClusterFacts::parse(&map).unwrap();
    let cluster = values.cluster.unwrap();
    assert_eq!(facts.kubernetes, values.kubernetes);
    assert_eq!(facts.cluster_id, cluster.keys.cluster_id);
    assert_eq!(facts.key_version, cluster.keys.key_version);
    assert_eq!(facts.owner, cluster.admission.owner);
}

#[test]
fn malformed_values_are_refused_without_showing_them() {
    let mut bad = values();
    bad.kubernetes.service_subnet = "10.96.0.0/30".into();
    assert!(matches!(render(&bad), Err(RenderError::Subnet(_))));
    let mut bad = values();
    let secret = "not a secret".to_owned();
    bad.cluster.as_mut().unwrap().keys.master_secret = hand_off::SecretText::new(secret);
    let error = render(&bad).unwrap_err();
    assert!(matches!(error, RenderError::Secrets(_)));
    assert!(!format!("{error:?}").contains("not a secret"));
    assert!(!format!("{:?}", rendered()).contains(MASTER_SECRET_BASE64));
}

/// What a pod may do on its node, for each service.
#[test]
fn pods_have_no_more_than_they_need() {
    for (name, privileged) in [
        ("join-service", false),
        ("key-service", false),
        ("verification-service", true),
    ] {
        let pod = &find("DaemonSet", name)["spec"]["template"]["spec"];
        for forbidden in ["hostNetwork", "hostPID", "hostIPC", "initContainers"] {
            assert_eq!(pod.get(forbidden), None, "{name} {forbidden}");
        }
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
        let container = &pod["containers"][0];
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(context.get("privileged").is_some(), privileged, "{name}");
        if !privileged {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{name}");
        }
        assert_eq!(pod["automountServiceAccountToken"], !privileged, "{name}");
        assert_eq!(container["imagePullPolicy"], "Never");
        assert_eq!(
            container["image"],
            format!("constellation.internal/{name}:{}", values().version)
        );
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            assert_eq!(
                container[probe]["httpGet"]["port"], "admin",
                "{name} {probe}"
            );
        }
        assert!(container["resources"]["limits"]["memory"].is_string());
        assert_eq!(
            container.get("env"),
            None,
            "{name}: nothing is read from there"
        );
        assert!(pod["priorityClassName"].is_string());
    }
}

/// Which Secrets a pod mounts, and that no two services share one.
#[test]
fn each_secret_is_mounted_by_one_service() {
    let mut seen = BTreeSet::new();
    for (name, expected) in [
        (
            "join-service",
            &[
                "join-service-tls",
                "join-service-admission",
                "join-service-audit",
            ][..],
        ),
        (
            "key-service",
            &["master-secret", "control-plane-files", "key-service-audit"][..],
        ),
        ("verification-service", &[][..]),
    ] {
        let pod = &find("DaemonSet", name)["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().unwrap();
        let secrets: Vec<_> = volumes
            .iter()
            .filter_map(|volume| volume["secret"]["secretName"].as_str())
            .collect();
        assert_eq!(secrets, expected, "{name}");
        for secret in secrets {
            assert!(seen.insert(secret.to_owned()), "{secret}");
            find("Secret", secret);
        }
        for path in volumes
            .iter()
            .filter_map(|volume| volume["hostPath"]["path"].as_str())
        {
            let folders = values().host_folders();
            let ours = folders.iter().any(|folder| folder.path == path);
            assert!(ours || path == "/run/constellation/handoff.json", "{path}");
        }
    }
}

/// What is open on nodes' addresses, and that services behind it see who calls: limits are by
/// address, and so are the serving certificates of kubelets.
#[test]
fn three_ports_are_open_on_nodes_and_callers_keep_their_address() {
    let mut open = BTreeSet::new();
    for object in rendered() {
        if object.kind() != "Service" {
            continue;
        }
        let (name, spec) = (object.name(), &object.json["spec"]);
        for port in spec["ports"].as_array().unwrap() {
            if let Some(number) = port["nodePort"].as_u64() {
                assert_eq!(spec["externalTrafficPolicy"], "Local", "{name}");
                open.insert((name.to_owned(), number));
            }
        }
        if name == "key-service" {
            assert_eq!(spec["type"], "ClusterIP");
        }
    }
    let expected = [
        ("join-service", 30090),
        ("verification-service", 30080),
        ("verification-service", 30081),
    ];
    assert_eq!(
        open,
        expected.map(|(name, port)| (name.into(), port)).into()
    );
}

#[test]
fn control_plane_services_find_nodes_of_old_and_new_clusters() {
    for name in ["join-service", "key-service"] {
        let pod = &find("DaemonSet", name)["spec"]["template"]["spec"];
        let terms = pod
            .pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms")
            .unwrap();
        let keys = |list: &Value, pointer: &str| -> Vec<String> {
            let items = list.as_array().unwrap().iter();
            items
                .map(|item| item.pointer(pointer).unwrap().as_str().unwrap().to_owned())
                .collect()
        };
        let both = [
            "node-role.kubernetes.io/master",
            "node-role.kubernetes.io/control-plane",
        ];
        // Terms are alternatives; requirements inside one would all have to hold.
        assert_eq!(keys(terms, "/matchExpressions/0/key"), both);
        assert_eq!(keys(&pod["tolerations"], "/key"), both);
    }
}

/// docs/rbac.md is the table; neither side may have a right that the other has not.
#[test]
fn the_documented_rights_are_the_rendered_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rbac.md");
    let text = std::fs::read_to_string(path).unwrap();
    let documented: BTreeSet<_> = text
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let [_, service, place, group, resource, names, verbs, why, _] = cells[..] else {
                panic!("{line}");
            };
            assert!(!why.is_empty(), "{line}");
            [service, place, group, resource, names, verbs].map(str::to_owned)
        })
        .collect();
    let mut rights = BTreeSet::new();
    let objects = rendered();
    for binding in objects.iter().filter(|o| o.kind().ends_with("RoleBinding")) {
        let role = &binding.json["roleRef"];
        let kind = role["kind"].as_str().unwrap();
        let role = find(kind, role["name"].as_str().unwrap());
        let place = if kind == "ClusterRole" {
            assert_eq!(binding.kind(), "ClusterRoleBinding");
            "cluster"
        } else {
            assert_eq!(role["metadata"]["namespace"], binding.namespace().unwrap());
            binding.namespace().unwrap()
        };
        for subject in binding.json["subjects"].as_array().unwrap() {
            assert_eq!(subject["namespace"], "constellation-system");
            for rule in role["rules"].as_array().unwrap() {
                let words = |field: &str| {
                    let items = rule.get(field).and_then(Value::as_array);
                    let items = items.into_iter().flatten();
                    let items: Vec<_> = items.map(|item| item.as_str().unwrap()).collect();
                    assert!(!items.contains(&"*"), "{rule}");
                    items.join(" ")
                };
                rights.insert([
                    subject["name"].as_str().unwrap().to_owned(),
                    place.to_owned(),
                    words("apiGroups"),
                    words("resources"),
                    words("resourceNames"),
                    words("verbs"),
                ]);
            }
        }
    }
    assert_eq!(rights, documented);
}

/// Each role is bound, or a rule of it would be in no table.
#[test]
fn no_role_is_without_a_binding() {
    let objects = rendered();
    let count = |kind: &str| objects.iter().filter(|o| o.kind() == kind).count();
    assert_eq!(count("Role"), count("RoleBinding"));
    assert_eq!(count("ClusterRole"), count("ClusterRoleBinding"));
}

/// What a service would load in its pod, as its own program loads it.
fn configuration<T: DeserializeOwned>(service: &str) -> T {
    let map = find("ConfigMap", service);
    let text = map["data"][format!("{service}.toml")].as_str().unwrap();
    toml::from_str(text).unwrap_or_else(|error| panic!("{service}: {error}\n{text}"))
}

/// Paths in a configuration that no volume of the pod would provide.
fn unmounted(service: &str, paths: &[&Path]) -> Vec<String> {
    let pod = &find("DaemonSet", service)["spec"]["template"]["spec"];
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let mounts: Vec<_> = mounts
        .iter()
        .map(|mount| mount["mountPath"].as_str().unwrap())
        .collect();
    let missing = paths
        .iter()
        .filter(|path| !mounts.iter().any(|mount| path.starts_with(mount)));
    missing.map(|path| path.display().to_string()).collect()
}

#[test]
fn the_key_service_loads_its_configuration() {
    let config: key_service::Config = configuration("key-service");
    let cluster = config.cluster.unwrap();
    let service_runtime::secrets::SecretSource::Credential { path } = &config.audit.key else {
        panic!("{:?}", config.audit.key);
    };
    let paths: [&Path; 4] = [
        &cluster.master_secret,
        &cluster.control_plane_files,
        &config.audit.directory,
        path,
    ];
    assert_eq!(unmounted("key-service", &paths), [""; 0]);
    assert!(config.tls.is_none() && config.key.is_empty());
    let address = values().key_service_ip().unwrap().to_string();
    assert_eq!(find("Service", "key-service")["spec"]["clusterIP"], address);
    for client in &cluster.client {
        find("Secret", &client.secret);
        // Whoever gets a certificate here is a caller there, and may not ask for other classes.
        let caller = config
            .caller
            .iter()
            .find(|caller| caller.name == client.name);
        let classes = caller.unwrap().classes.iter().map(|class| class.0.as_str());
        assert_eq!(classes.collect::<Vec<_>>(), ["state-disk"]);
    }
}

#[test]
fn the_verification_service_loads_its_configuration() {
    let config: verification_service::Config = configuration("verification-service");
    let folder = config.node.hand_off.unwrap();
    let file = folder.join("handoff.json");
    assert_eq!(unmounted("verification-service", &[&file]), [""; 0]);
    assert_eq!(config.http_listen.port(), 30080);
    assert_eq!(config.grpc_listen.port(), 30081);
}

#[test]
fn a_tpm_behind_a_socket_is_mounted() {
    let mut values = values();
    values.attestation = manifests::Attestation {
        command_line: "/run/node/cmdline".into(),
        tpm: "unix:/run/node/tpm.sock".into(),
    };
    let objects = render(&values).unwrap();
    let is_ours = |o: &&Object| o.kind() == "DaemonSet" && o.name() == "verification-service";
    let pod = &objects.iter().find(is_ours).unwrap().json["spec"]["template"]["spec"];
    let volumes = pod["volumes"].as_array().unwrap();
    let paths: Vec<_> = volumes
        .iter()
        .filter_map(|v| v["hostPath"]["path"].as_str())
        .collect();
    let expected = [
        "/run/constellation/handoff.json",
        "/run/node/cmdline",
        "/run/node/tpm.sock",
    ];
    assert_eq!(paths, expected);
}

#[test]
fn the_join_service_loads_its_configuration() {
    let config: join_service::Config = configuration("join-service");
    assert!(config.mode().is_ok());
    assert!(config.documents.is_none() && config.operator_socket.is_none());
    let tls = &config.key_service.tls;
    let paths: [&Path; 5] = [
        &tls.certificate,
        &tls.private_key,
        &tls.peer_ca,
        &config.admission_key.certificate,
        &config.audit.directory,
    ];
    assert_eq!(unmounted("join-service", &paths), [""; 0]);
}

fn documented(file: &str, block: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("```{block}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_documentation_shows_what_is_rendered() {
    let mut expected = values();
    expected.cluster = None;
    let shown: manifests::Values =
        serde_json::from_str(&documented("manifests.md", "json values")).unwrap();
    assert_eq!(shown.attestation, expected.attestation);
    assert_eq!(
        shown.kubernetes.service_subnet,
        expected.kubernetes.service_subnet
    );
    assert_eq!(
        render(&shown).unwrap().len(),
        render(&expected).unwrap().len()
    );
    let shown = documented("operate-services.md", "toml key-service-in-a-cluster");
    let map = find("ConfigMap", "key-service");
    let rendered = map["data"]["key-service.toml"].as_str().unwrap();
    assert_eq!(
        shown.parse::<toml::Table>().unwrap(),
        rendered.parse::<toml::Table>().unwrap()
    );
}

/// The folders and users of docs/manifests.md.
#[test]
fn the_documented_folders_are_the_mounted_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manifests.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, after) = text.split_once("## What a node must have").unwrap();
    for folder in values().host_folders() {
        let below = folder.path.strip_prefix("/run/state/").unwrap();
        let row = after.lines().find(|line| line.contains(below)).unwrap();
        assert!(row.contains(&folder.user.to_string()), "{row}");
    }
}

//! What the story puts into the cluster.

use serde_json::{Value, json};

use crate::story::CONTROL;

/// The baked-in image of pods: busybox.
const DEMO: &str = concat!("constellation.internal/demo:", env!("CARGO_PKG_VERSION"));

/// What the Service answers.
pub(crate) const ANSWER: &str = "confidential";

/// The last line of [`look`].
pub(crate) const LOOKED: &str = "looked";

/// Between the lists of [`look`].
pub(crate) const RULE: &str = "---";

/// A credential for `systemd-tmpfiles` in `fw_cfg` (systemd.system-credentials(7), `tmpfiles.extra`), which would make
/// [`HOST_FILE`] below `/run`.
pub(crate) const HOST_CREDENTIAL: &str = "opt/io.systemd.credentials/tmpfiles.extra";
pub(crate) const HOST_FILE: &str = "taken-from-the-host";

/// An answering pod, on a worker: the control plane has its taint. It ends when it is told to, which the first
/// process of a container does not by itself.
pub(crate) fn web() -> Value {
    let serve = format!(
        "mkdir /tmp/www && echo {ANSWER} >/tmp/www/index.html || exit 1; \
         trap 'exit 0' TERM; busybox httpd -f -p 8080 -h /tmp/www & wait $!"
    );
    let labels = json!({"app": "web"});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [container(&serve)],
                },
            },
        },
    })
}

pub(crate) fn web_service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    })
}

/// Asks the Service at an address until it answers, from the control plane.
pub(crate) fn ask(name: &str, address: &str) -> Value {
    let script = format!("until busybox wget -q -O - http://{address}/; do sleep 1; done");
    pod(name, CONTROL, &script)
}

/// Lists a node's sockets, in the form of `proc_net_tcp`, and set-id files of its root.
pub(crate) fn look(name: &str, node: &str) -> Value {
    let script = format!(
        "cd /proc/net && busybox cat tcp tcp6 udp udp6 && echo {RULE} && \
         busybox find /node -xdev -perm /6000 && echo {RULE} && echo {LOOKED}"
    );
    let mut pod = with_root_of_node(pod(name, node, &script));
    pod["spec"]["hostNetwork"] = json!(true);
    pod
}

/// Lists what a node's host offers as credentials for systemd, then what of it the node took.
pub(crate) fn look_for_credentials(name: &str, node: &str) -> Value {
    let script = format!(
        "cd /node/sys/firmware && busybox grep -c {HOST_FILE} dmi/tables/DMI && \
         busybox cat qemu_fw_cfg/by_name/{HOST_CREDENTIAL}/raw && echo {RULE} && \
         busybox find /node/run/credentials/@system /node/run/{HOST_FILE} 2>/dev/null; \
         echo {RULE} && echo {LOOKED}"
    );
    with_root_of_node(pod(name, node, &script))
}

fn with_root_of_node(mut pod: Value) -> Value {
    let spec = &mut pod["spec"];
    spec["volumes"] = json!([{"name": "node", "hostPath": {"path": "/"}}]);
    spec["containers"][0]["volumeMounts"] =
        json!([{"name": "node", "mountPath": "/node", "readOnly": true}]);
    pod
}

fn pod(name: &str, node: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container(script)],
        },
    })
}

fn container(script: &str) -> Value {
    json!({
        "name": "main", "image": DEMO, "imagePullPolicy": "Never",
        "command": ["/bin/sh", "-c", script],
    })
}

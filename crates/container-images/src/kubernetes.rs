//! The images that a cluster itself consists of.

use crate::Image;
use anyhow::{Context as _, Result};
use child_process::run;
use kubernetes_binaries::Kubernetes;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The sandbox of every pod, as Kubernetes 1.20 names it.
pub const PAUSE: &str = "k8s.gcr.io/pause:3.2";

/// Its one process.
const PAUSE_SCRIPT: &str =
    "trap 'exit 0' TERM INT; while :; do /bin/busybox sleep 2147483647 & wait $!; done";

/// Where iptables has its extensions.
const EXTENSIONS: &str = "/usr/lib/x86_64-linux-gnu/xtables";

/// Names under which the one program of iptables is called.
const IPTABLES: [&str; 6] = [
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
    "iptables",
    "iptables-restore",
    "iptables-save",
];

/// Writes the images that kubeadm and kubelets of this version want: `<program>.tar` each, for the control
/// plane, kube-proxy, etcd and the sandbox. Gives their paths.
///
/// # Errors
/// If a program is missing or a file cannot be written.
pub fn kubernetes_images(kubernetes: &Kubernetes, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut kubeadm = Command::new(kubernetes.program("kubeadm"));
    let version = format!("--kubernetes-version={}", kubernetes.version().as_str());
    let listed = run(kubeadm.args(["config", "images", "list", &version]))?;
    let mut paths = Vec::new();
    for name in listed.lines().chain([PAUSE]) {
        let Some(image) = image_of(kubernetes, name)? else {
            continue;
        };
        let file = name.replace(['/', ':'], "_");
        let path = folder.join(format!("{file}.tar"));
        if !paths.contains(&path) {
            image.write(&path)?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// The image that kubeadm means by this name; none for what a cluster here goes without.
fn image_of(kubernetes: &Kubernetes, name: &str) -> Result<Option<Image>> {
    let component = name.rsplit('/').next().unwrap_or(name);
    let component = component.split(':').next().unwrap_or(component);
    let image = match component {
        "kube-apiserver" | "kube-controller-manager" | "kube-scheduler" => {
            let path = format!("/usr/local/bin/{component}");
            Image::new(name, &[&path])
                .program(&kubernetes.program(component), &path)?
                .link(&format!("/bin/{component}"), &path)
        }
        "kube-proxy" => kube_proxy(kubernetes, name)?,
        "etcd" => Image::new(name, &["/usr/bin/etcd"])
            .program(&kubernetes.tool("usr/bin/etcd"), "/usr/bin/etcd")?
            .link("/bin/etcd", "/usr/bin/etcd"),
        // It has nothing to do but to be there, and to go when it is told to: the first process of a PID
        // namespace gets no SIGTERM that it does not handle, and a machine that shuts down would wait.
        "pause" => Image::new(name, &["/bin/busybox", "sh", "-c", PAUSE_SCRIPT])
            .program(&kubernetes.tool("bin/busybox"), "/bin/busybox")?,
        _ => return Ok(None),
    };
    Ok(Some(image))
}

fn kube_proxy(kubernetes: &Kubernetes, name: &str) -> Result<Image> {
    let path = "/usr/local/bin/kube-proxy";
    let iptables = "/usr/sbin/xtables-nft-multi";
    let mut image = Image::new(name, &[path])
        .program(&kubernetes.program("kube-proxy"), path)?
        .program(Path::new(iptables), iptables)
        .context("hint: run `./setup.sh`")?
        .program(
            &kubernetes.tool("usr/sbin/conntrack"),
            "/usr/sbin/conntrack",
        )?;
    for program in IPTABLES {
        image = image.link(&format!("/usr/sbin/{program}"), iptables);
    }
    let mut extensions = Vec::new();
    for entry in fs::read_dir(EXTENSIONS).with_context(|| format!("list {EXTENSIONS}"))? {
        extensions.push(entry?.path());
    }
    extensions.sort();
    for extension in extensions {
        image = image.program(&extension, &extension.display().to_string())?;
    }
    Ok(image)
}

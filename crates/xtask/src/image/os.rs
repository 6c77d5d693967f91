//! The tree of the OS image: Debian packages by mkosi, kernel modules, Kubernetes' programs, ours, container images.

mod mkosi;
mod modules;
mod programs;
mod scan;

pub(crate) use scan::{differences, list, scan};

use crate::tool::Tool;
use anyhow::Context as _;
use kubernetes_binaries::Kubernetes;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The profile that runs in production.
const RELEASE: &str = "os";

/// What only the other one has.
const DEBUG: &str = "os-image/mkosi-debug";

/// Where archives are that every node imports.
const IMAGES: &str = "usr/lib/constellation/images";

/// Where archives are that only nodes of the control plane import.
const CONTROL_PLANE_IMAGES: &str = "usr/lib/constellation/images/control-plane";

/// Which of kubeadm's images run on nodes of the control plane alone.
const CONTROL_PLANE: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

/// Services that run on every node.
const EVERYWHERE: &str = "verification-service";

/// Kubernetes' programs that run on a node outside of containers.
const NODE_PROGRAMS: [&str; 2] = ["kubeadm", "kubelet"];

/// What goes into the tree.
#[derive(Debug)]
pub(crate) struct Os {
    kubernetes: Kubernetes,
    base: PathBuf,
    programs: PathBuf,
}

/// A finished tree.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Debian packages in it, with their versions.
    pub(crate) packages: BTreeMap<String, String>,
    /// Version of Kubernetes.
    pub(crate) kubernetes: String,
}

impl Os {
    /// Gets all parts: mkosi's tree below `target`, unless it is there, and our programs, unless they are given.
    pub(crate) fn obtain(
        target: &Path,
        programs: Option<&Path>,
        refresh: bool,
    ) -> anyhow::Result<Self> {
        let programs = match programs {
            Some(programs) => programs.to_owned(),
            None => programs::build(Path::new("target"))?,
        };
        Ok(Self {
            kubernetes: Kubernetes::find()?,
            base: mkosi::tree(target, refresh)?,
            programs,
        })
    }

    /// Writes the whole tree, with the modules of the kernel package unpacked in `kernel`.
    pub(crate) fn compose(
        &self,
        (kernel, release): (&Path, &str),
        name: &str,
        tree: &Path,
    ) -> anyhow::Result<Tree> {
        Tool::new("cp", "coreutils")
            .args(["-a", "--reflink=auto"])
            .args([&self.base, tree])
            .output()?;
        if name != RELEASE {
            Tool::new("cp", "coreutils")
                .args(["-a", "-T", DEBUG])
                .arg(tree)
                .output()?;
        }
        let packages = take_packages(tree)?;
        modules::install(kernel, release, tree)?;
        for program in NODE_PROGRAMS {
            install(&self.kubernetes.program(program), tree, program)?;
        }
        install(&self.programs.join("bootstrapper"), tree, "bootstrapper")?;
        self.images(tree)?;
        write_release(name, tree)?;
        Ok(Tree {
            packages,
            kubernetes: self.kubernetes.version().as_str().to_owned(),
        })
    }

    fn images(&self, tree: &Path) -> anyhow::Result<()> {
        let (everywhere, control_plane) = (tree.join(IMAGES), tree.join(CONTROL_PLANE_IMAGES));
        let mut archives = container_images::kubernetes_images(&self.kubernetes, &everywhere)?;
        archives.push(container_images::demo_image(&self.kubernetes, &everywhere)?);
        for service in container_images::SERVICES {
            let program = self.programs.join(service);
            let archive = container_images::service_image(service, &program, &everywhere)?;
            archives.push(archive);
        }
        for archive in archives {
            let name = archive.file_name().context("an archive has a name")?;
            let is_control_plane = is_control_plane(&name.to_string_lossy());
            let path = match is_control_plane {
                true => control_plane.join(name),
                false => archive.clone(),
            };
            if is_control_plane {
                fs::rename(&archive, &path)?;
            }
            // The bootstrapper would hash what verity has verified.
            let digest = hex::encode(measure::pcr::sha256(&fs::read(&path)?));
            fs::write(path.with_extension("tar.sha256"), digest)?;
        }
        Ok(())
    }
}

fn is_control_plane(archive: &str) -> bool {
    let is_kubernetes = CONTROL_PLANE.iter().any(|part| archive.contains(part));
    let name = archive.strip_suffix(".tar").unwrap_or(archive);
    is_kubernetes || (container_images::SERVICES.contains(&name) && name != EVERYWHERE)
}

fn install(program: &Path, tree: &Path, name: &str) -> anyhow::Result<()> {
    let to = tree.join("usr/bin").join(name);
    fs::copy(program, &to).with_context(|| format!("copy `{}`", program.display()))?;
    Ok(fs::set_permissions(to, PermissionsExt::from_mode(0o755))?)
}

/// Names and versions of the packages that mkosi installed, from the list that it left beside the tree's own files.
fn take_packages(tree: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let path = tree.join(mkosi::PACKAGES);
    let list = fs::read_to_string(&path).context("read the list of packages")?;
    fs::remove_file(path)?;
    let pairs = list.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect())
}

/// Says in the image which image it is.
fn write_release(name: &str, tree: &Path) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let warning = match name {
        RELEASE => "",
        _ => ", not for production",
    };
    let text = format!(
        "ID=constellation\nID_LIKE=debian\nNAME=\"Constellation OS\"\nPRETTY_NAME=\"Constellation OS {version} ({name}{warning})\"\n\
         VERSION_ID={version}\nIMAGE_ID=constellation-{name}\nIMAGE_VERSION={version}\n"
    );
    Ok(fs::write(tree.join("usr/lib/os-release"), text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_of_the_control_plane_are_told_from_those_of_every_node() {
        for name in [
            "k8s.gcr.io_etcd_3.4.13-0.tar",
            "k8s.gcr.io_kube-apiserver_v1.20.2.tar",
            "join-service.tar",
            "key-service.tar",
        ] {
            assert!(is_control_plane(name), "{name}");
        }
        for name in [
            "k8s.gcr.io_kube-proxy_v1.20.2.tar",
            "k8s.gcr.io_pause_3.2.tar",
            "verification-service.tar",
            "demo.tar",
        ] {
            assert!(!is_control_plane(name), "{name}");
        }
    }
}

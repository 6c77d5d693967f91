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

/// Where the archives are that nodes import.
const IMAGES: &str = "usr/lib/constellation/images";

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
    /// Gets all parts: mkosi's tree below `target`, unless it is there, and our programs, built in cargo's folder
    /// `cargo` unless they are given.
    pub(crate) fn obtain(
        target: &Path,
        (programs, cargo): (Option<&Path>, &Path),
        refresh: bool,
    ) -> anyhow::Result<Self> {
        let programs = match programs {
            Some(programs) => programs.to_owned(),
            None => programs::build(cargo)?,
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
        let folder = tree.join(IMAGES);
        container_images::kubernetes_images(&self.kubernetes, &folder)?;
        container_images::demo_image(&self.kubernetes, &folder)?;
        for service in container_images::SERVICES {
            let program = self.programs.join(service);
            container_images::service_image(service, &program, &folder)?;
        }
        container_images::arrange(&folder)
    }
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

//! The programs around Kubernetes, unpacked from their packages: installed, some would start daemons.

use super::{Progress, point, publish, work};
use crate::{
    apt::{Apt, Deb},
    tool::Tool,
};
use anyhow::Context as _;
use kubernetes_binaries::{TOOLS, complete, current_tools};
use measure::pcr::sha256;
use std::{fs, path::Path};

const PACKAGES: [&str; 6] = [
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "runc",
];

/// What packages bring that is no program.
const UNUSED: [&str; 3] = ["etc", "lib", "usr/share"];

/// Unpacks [`PACKAGES`] into the cache, unless these very versions are there.
pub(super) fn unpack(apt: &Apt, cache: &Path, progress: &Progress) -> anyhow::Result<()> {
    progress.say("fetch etcd, containerd, runc and network plugins");
    let work = work(cache)?;
    let specs = PACKAGES.map(str::to_owned);
    let debs = apt.download(&specs, &work.path().join("debs"))?;
    let name = key(&debs);
    let link = current_tools(cache);
    if complete(&cache.join(&name), &TOOLS).is_ok() {
        return point(cache, &name, &link);
    }
    let root = work.path().join("root");
    unpack_debs(&debs, &root)?;
    for path in UNUSED {
        // Not every package has each.
        drop(fs::remove_dir_all(root.join(path)));
    }
    complete(&root, &TOOLS).context("the packages are not as they were")?;
    publish(&root, cache, &name, &link)
}

/// Unpacks packages below `root`.
pub(super) fn unpack_debs(debs: &[Deb], root: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(root)?;
    for deb in debs {
        let unpack = Tool::new("dpkg", "dpkg").arg("-x");
        unpack.args([&deb.path, root]).output()?;
    }
    Ok(())
}

/// The file names of packages carry their versions.
fn key(debs: &[Deb]) -> String {
    let names = debs.iter().filter_map(|deb| deb.path.file_name());
    let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
    let digest = hex::encode(sha256(names.join("\n").as_bytes()));
    format!("tools-{}", digest.get(..16).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_another_key() {
        let deb = |file: &str| Deb {
            name: "runc".to_owned(),
            path: Path::new("/somewhere").join(file),
        };
        let old = key(&[deb("runc_1.1.5_amd64.deb")]);
        assert_eq!(old, key(&[deb("runc_1.1.5_amd64.deb")]));
        assert_ne!(old, key(&[deb("runc_1.1.6_amd64.deb")]));
        assert_eq!(old.len(), "tools-".len() + 16);
    }
}

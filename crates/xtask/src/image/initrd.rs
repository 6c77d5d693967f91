//! The initramfs: the agent as `/init`, the module list, the modules.

use super::cpio::Cpio;
use crate::tool::Tool;
use anyhow::Context;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// What the boot needs beyond what Debian's cloud kernel has built in (TPM, ext4, virtio's PCI
/// transport, packet sockets). Modules that these depend on are added. The ciphers are here because
/// the kernel cannot load them by itself: there is no `modprobe` in the initramfs.
const MODULES: [&str; 13] = [
    "virtio_blk",
    "virtio_net",
    "qemu_fw_cfg",
    "dm-mod",
    "dm-verity",
    "erofs",
    "cryptd",
    "aesni-intel",
    "sha256-ssse3",
    "xts",
    "authenc",
    "dm-integrity",
    "dm-crypt",
];

/// Mount points that the agent needs before it can make directories of its own.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "run", "sys", "sysroot"];

/// Packs the archive from `init` and the kernel package unpacked in `kernel`.
pub(crate) fn build(init: &Path, kernel: &Path, release: &str) -> anyhow::Result<Vec<u8>> {
    let modules = kernel.join("lib/modules").join(release);
    Tool::new("depmod", "kmod")
        .arg("-b")
        .arg(kernel)
        .arg(release)
        .output()?;
    let order = load_order(&fs::read_to_string(modules.join("modules.dep"))?)?;

    let mut cpio = Cpio::default();
    for directory in DIRECTORIES {
        cpio.directory(directory)?;
    }
    let init = fs::read(init).with_context(|| format!("read `{}`", init.display()))?;
    cpio.file("init", 0o755, &init)?;
    let base = format!("lib/modules/{release}");
    let list: String = order
        .iter()
        .map(|path| format!("/{base}/{path}\n"))
        .collect();
    cpio.file("modules.list", 0o644, list.as_bytes())?;
    let paths: Vec<String> = order.iter().map(|path| format!("{base}/{path}")).collect();
    for directory in parents(&paths) {
        cpio.directory(&directory)?;
    }
    for (path, from) in paths.iter().zip(&order) {
        cpio.file(path, 0o644, &fs::read(modules.join(from))?)?;
    }
    Ok(cpio.finish()?)
}

/// The paths of [`MODULES`] and of what they need, each after its dependencies.
fn load_order(modules_dep: &str) -> anyhow::Result<Vec<String>> {
    let mut dependencies = BTreeMap::new();
    let mut by_name = BTreeMap::new();
    for line in modules_dep.lines() {
        let (path, needs) = line
            .split_once(':')
            .context("a line of `modules.dep` has no colon")?;
        dependencies.insert(path, needs.split_whitespace().collect::<Vec<_>>());
        by_name.insert(module_name(path), path);
    }
    let mut order: Vec<String> = Vec::new();
    for name in MODULES {
        let path = by_name
            .get(&module_name(name))
            .with_context(|| format!("the kernel package has no module `{name}`"))?;
        // depmod lists dependencies completely, the one to load first last.
        let needs = dependencies.get(path).into_iter().flatten().rev();
        for path in needs.chain([path]) {
            if !order.iter().any(|listed| listed == path) {
                order.push((*path).to_owned());
            }
        }
    }
    Ok(order)
}

/// `kernel/drivers/md/dm-mod.ko.xz` and `dm-mod` are both `dm_mod`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

fn parents(paths: &[String]) -> BTreeSet<String> {
    let slashes = |path: &str| {
        path.match_indices('/')
            .map(|(at, _)| at)
            .collect::<Vec<_>>()
    };
    let parents = |path: &String| {
        let at = slashes(path);
        at.into_iter()
            .map(|at| path[..at].to_owned())
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(parents).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_dependencies_first_and_once() {
        let mut dep: String = MODULES
            .iter()
            .map(|name| format!("kernel/{name}.ko.xz:\n"))
            .collect();
        dep = dep.replace(
            "kernel/virtio_net.ko.xz:",
            "kernel/virtio_net.ko.xz: kernel/b.ko kernel/a.ko",
        );
        dep = dep.replace("kernel/erofs.ko.xz:", "kernel/erofs.ko.xz: kernel/a.ko");
        let order = load_order(&dep).unwrap();
        let position = |name: &str| order.iter().position(|path| path.contains(name)).unwrap();
        assert!(position("/a.ko") < position("/b.ko"));
        assert!(position("/b.ko") < position("virtio_net"));
        assert_eq!(order.len(), MODULES.len() + 2);
    }

    #[test]
    fn refuses_a_kernel_without_a_listed_module() {
        let error = load_order("kernel/virtio_blk.ko.xz:\n").unwrap_err();
        assert!(error.to_string().contains("virtio_net"));
    }
}

//! The initramfs: the agent as `/init`, the module list, the modules.

use super::cpio::Cpio;
use crate::tool::Tool;
use anyhow::Context;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// What the boot needs beyond what Debian's cloud kernel has built in (TPM, ext4, virtio's PCI
/// transport, packet sockets). Modules that these depend on are added. The ciphers are here because
/// the kernel cannot load them by itself: there is no `modprobe` in the initramfs.
const MODULES: [&str; 14] = [
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
    "sev-guest",
];

/// Mount points that the agent needs before it can make directories of its own.
const DIRECTORIES: [&str; 5] = ["dev", "proc", "run", "sys", "sysroot"];

/// Packs the archive from `init` and the kernel package unpacked in `kernel`.
pub(crate) fn build(init: &Path, kernel: &Path, release: &str) -> anyhow::Result<Vec<u8>> {
    Tool::new("depmod", "kmod")
        .arg("-b")
        .arg(kernel)
        .arg(release)
        .output()?;
    let mut cpio = Cpio::default();
    for directory in DIRECTORIES {
        cpio.directory(directory)?;
    }
    add_program(&mut cpio, "init", init)?;
    let modules = Modules {
        kernel,
        release,
        names: &MODULES,
    };
    modules.add(&mut cpio, "modules.list")?;
    Ok(cpio.finish()?)
}

/// What only tests of SEV-SNP need, as an archive to follow that of the test image: programs by
/// their names, and the modules of devices in user space.
pub(crate) fn build_snp_device(
    programs: &[(&str, PathBuf)],
    kernel: &Path,
    release: &str,
) -> anyhow::Result<Vec<u8>> {
    let mut cpio = Cpio::default();
    for (name, program) in programs {
        add_program(&mut cpio, name, program)?;
    }
    let modules = Modules {
        kernel,
        release,
        names: &["qemu_fw_cfg", "cuse"],
    };
    modules.add(&mut cpio, "snp-device.modules")?;
    Ok(cpio.finish()?)
}

fn add_program(cpio: &mut Cpio, name: &str, program: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(program).with_context(|| format!("read `{}`", program.display()))?;
    Ok(cpio.file(name, 0o755, &bytes)?)
}

/// Modules of a kernel package, with those that they need.
struct Modules<'a> {
    kernel: &'a Path,
    release: &'a str,
    names: &'a [&'a str],
}

impl Modules<'_> {
    /// Adds them and their list.
    fn add(&self, cpio: &mut Cpio, list: &str) -> anyhow::Result<()> {
        let base = format!("lib/modules/{}", self.release);
        let modules = self.kernel.join(&base);
        let modules_dep = fs::read_to_string(modules.join("modules.dep"))?;
        let order = load_order(&modules_dep, self.names)?;
        let paths: Vec<String> = order.iter().map(|path| format!("{base}/{path}")).collect();
        let lines: String = paths.iter().map(|path| format!("/{path}\n")).collect();
        cpio.file(list, 0o644, lines.as_bytes())?;
        for directory in parents(&paths) {
            cpio.directory(&directory)?;
        }
        for (path, from) in paths.iter().zip(&order) {
            cpio.file(path, 0o644, &fs::read(modules.join(from))?)?;
        }
        Ok(())
    }
}

/// The paths of the modules and of what they need, each after its dependencies.
pub(super) fn load_order(modules_dep: &str, names: &[&str]) -> anyhow::Result<Vec<String>> {
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
    for name in names {
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
        let order = load_order(&dep, &MODULES).unwrap();
        let position = |name: &str| order.iter().position(|path| path.contains(name)).unwrap();
        assert!(position("/a.ko") < position("/b.ko"));
        assert!(position("/b.ko") < position("virtio_net"));
        assert_eq!(order.len(), MODULES.len() + 2);
    }

    #[test]
    fn refuses_a_kernel_without_a_listed_module() {
        let error = load_order("kernel/virtio_blk.ko.xz:\n", &MODULES).unwrap_err();
        assert!(error.to_string().contains("virtio_net"));
    }
}

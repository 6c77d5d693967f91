//! What a user would take today, out of Debian's packages: `clevis` and `tang`, LUKS2, a systemd
//! initramfs made by `dracut`.
//!
//! Everything stays below `target/clevis`. The scripts of Debian packages run in a root of their
//! own, so this needs root. Without device-mapper on this machine the volume is made in a file,
//! which `cryptsetup` and `clevis luks bind` both do without mapping it.

use crate::{apt::Apt, tool::Tool};
use anyhow::Context;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What the initramfs and the server are made of. The last three are what Debian's dracut modules
/// fail without and do not depend on.
const PACKAGES: &str = "systemd,systemd-sysv,udev,dracut,dracut-network,clevis-dracut,clevis-luks,\
                        cryptsetup,cryptsetup-bin,kmod,curl,tang,jose,dbus,netbase,procps";

/// The guest's address of tang; crate `bench` forwards it.
const TANG: &str = "http://169.254.169.100:7500";

/// The volume's, on the kernel command line of crate `bench`.
const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// Runs in the new root. One key slot remains, the one of clevis with its cheap derivation: no time
/// goes into trying a passphrase's. The image is for any machine, so dracut must not look at this one.
const SCRIPT: &str = r#"
dracut --quiet --force --no-hostonly --no-hostonly-cmdline --add clevis --kver "$KERNEL" /boot/initrd.img
mkdir -p /var/db/tang
/usr/libexec/tangd-keygen /var/db/tang
printf 'GET /adv HTTP/1.1\r\n\r\n' | /usr/libexec/tangd /var/db/tang 2>/dev/null | sed '1,/^\r*$/d' >/root/adv
cd /root
truncate -s 1G state.luks
head -c 32 /dev/urandom >key
cryptsetup luksFormat --batch-mode --type luks2 --uuid "$UUID" --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file key state.luks
clevis luks bind -y -f -d state.luks -k key tang '{"url":"'"$TANG"'","adv":"/root/adv"}'
cryptsetup luksKillSlot --batch-mode state.luks 0
rm key
"#;

/// Builds the system, once: `root` with tang and its keys, `initrd.img`, `state.luks`.
pub(super) fn build(target: &Path) -> anyhow::Result<PathBuf> {
    let dir = target.join("clevis");
    if dir.join("complete").exists() {
        return Ok(dir);
    }
    eprintln!("bench: build a system with clevis from Debian packages");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let root = dir.join("root");
    install(&dir, &root)?;
    let kernel = add_modules(target, &root)?;
    in_root(&root, &kernel).context("make the initramfs and the volume")?;
    for (from, to) in [
        ("boot/initrd.img", "initrd.img"),
        ("root/state.luks", "state.luks"),
    ] {
        fs::rename(root.join(from), dir.join(to)).with_context(|| format!("no `{from}`"))?;
    }
    fs::write(dir.join("complete"), "")?;
    Ok(dir)
}

/// A minimal Debian of this machine's release.
fn install(dir: &Path, root: &Path) -> anyhow::Result<()> {
    let apt = Apt::prepare(&dir.join("apt"))?;
    let debs = apt.download(&["mmdebstrap".to_owned()], &dir.join("debs"))?;
    let tools = dir.join("mmdebstrap");
    for deb in debs {
        Tool::new("dpkg", "dpkg")
            .arg("-x")
            .args([&deb.path, &tools])
            .output()?;
    }
    let sources = dir.join("apt/sources.list");
    let text = fs::read_to_string(&sources)?;
    let suite = text.split_whitespace().nth(3).context("no APT source")?;
    Tool::new("perl", "perl")
        .arg(tools.join("usr/bin/mmdebstrap"))
        .args([
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
        ])
        .arg("--aptopt=APT::Install-Recommends \"false\"")
        .arg(format!("--include={PACKAGES}"))
        .arg(suite)
        .args([root, &sources])
        .output()
        .map(drop)
}

/// The modules of the kernel in our own images; gives its release.
fn add_modules(target: &Path, root: &Path) -> anyhow::Result<String> {
    let images = target.join("image");
    let manifest: Value = serde_json::from_slice(&fs::read(images.join("release/image.json"))?)?;
    let release = manifest["kernel_release"].as_str();
    let release = release.context("`image.json` names no kernel")?;
    let package = images.join(format!("packages/linux-image-{release}"));
    let modules = root.join("lib/modules");
    fs::create_dir_all(&modules)?;
    Tool::new("cp", "coreutils")
        .arg("-a")
        .args([&package.join("lib/modules").join(release), &modules])
        .output()?;
    Tool::new("depmod", "kmod")
        .arg("-b")
        .arg(root)
        .arg(release)
        .output()?;
    Ok(release.to_owned())
}

/// Mounts are this process's own and end with it.
fn in_root(root: &Path, kernel: &str) -> anyhow::Result<()> {
    let outside = r#"
mount -t proc proc "$1/proc"
mount -t sysfs sysfs "$1/sys"
mount --bind /dev "$1/dev"
exec chroot "$1" sh -eu -c "$2"
"#;
    Tool::new("unshare", "util-linux")
        .args(["--mount", "sh", "-eu", "-c", outside, "sh"])
        .arg(root)
        .arg(SCRIPT)
        .env("KERNEL", kernel)
        .env("TANG", TANG)
        .env("UUID", UUID)
        .output()
        .map(drop)
}

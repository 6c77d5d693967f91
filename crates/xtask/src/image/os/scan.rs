//! What must not be in a root: looked for in the finished tree, before it is packed.

use anyhow::bail;
use measure::pcr::sha256;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt},
    path::{Path, PathBuf},
};

/// Units that something starts, beside what is masked: by links in `*.wants` and `*.requires`, ours and systemd's own.
const STARTED: &[&str] = &[
    "bootstrapper.service",
    "constellation-state.service",
    "containerd.path",
    "dbus.service",
    "dbus.socket",
    "kmod-static-nodes.service",
    "kubelet.path",
    "run-lock.mount",
    "systemd-journal-flush.service",
    "systemd-journald-dev-log.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-tmpfiles-setup-dev-early.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "tmp.mount",
    "var.mount",
];

/// What only the debug profile starts.
const DEBUG_SHELL: &str = "constellation-debug-shell.service";

/// Programs that log somebody in, or make somebody another user.
const FORBIDDEN: &[&str] = &[
    "agetty",
    "chsh",
    "dropbear",
    "getty",
    "login",
    "newgrp",
    "passwd",
    "pkexec",
    "run0",
    "runuser",
    "sshd",
    "su",
    "sudo",
    "sulogin",
    "telnetd",
    "unix_chkpwd",
];

/// Folders that are empty in the image.
const EMPTY: &[&str] = &[
    "dev",
    "etc/cni/net.d",
    "etc/kubernetes",
    "home",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "var",
];

/// Folders of programs that make units out of what the host says.
const GENERATORS: &[&str] = &[
    "etc/systemd/system-generators",
    "usr/lib/systemd/system-environment-generators",
    "usr/lib/systemd/system-generators",
];

/// Text files above this size are no keys.
const MAX_TEXT: u64 = 1 << 20;

/// Refuses a tree with anything in it that a node's root must not have.
///
/// # Errors
/// All that was found, a line each.
pub(crate) fn scan(tree: &Path, is_debug: bool) -> anyhow::Result<()> {
    let mut found = Vec::new();
    let paths = walk(tree)?;
    for path in &paths {
        scan_file(tree, path, &mut found)?;
    }
    found.extend(started(tree, &paths, is_debug));
    for folder in EMPTY.iter().chain(GENERATORS) {
        if fs::read_dir(tree.join(folder)).is_ok_and(|mut entries| entries.next().is_some()) {
            found.push(format!("/{folder} is not empty"));
        }
    }
    found.extend(accounts(tree)?);
    if !fs::read(tree.join("etc/machine-id"))?.is_empty() {
        found.push("/etc/machine-id names a machine".into());
    }
    if !found.is_empty() {
        bail!(
            "the root is not what it should be:\n  {}",
            found.join("\n  ")
        );
    }
    Ok(())
}

fn scan_file(tree: &Path, path: &Path, found: &mut Vec<String>) -> anyhow::Result<()> {
    let full = tree.join(path);
    let metadata = fs::symlink_metadata(&full)?;
    let (kind, mode) = (metadata.file_type(), metadata.permissions().mode());
    let mut say = |what: &str| found.push(format!("/{} {what}", path.display()));
    if kind.is_symlink() {
        return Ok(());
    }
    if mode & 0o6000 != 0 && !kind.is_dir() {
        say("is set-id");
    }
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        say("is writable by all");
    }
    if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
        say("is no file");
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_program = path.starts_with("usr/bin") || path.starts_with("usr/sbin");
    if is_program && FORBIDDEN.contains(&&*name) {
        say("logs somebody in");
    }
    if kind.is_file() && metadata.len() <= MAX_TEXT && is_private_key(&fs::read(&full)?) {
        say("is a private key");
    }
    Ok(())
}

/// PEM in a text; programs that write keys have the words in them as well.
fn is_private_key(bytes: &[u8]) -> bool {
    !bytes.starts_with(b"\x7fELF")
        && String::from_utf8_lossy(bytes)
            .lines()
            .any(|line| line.starts_with("-----BEGIN") && line.ends_with("PRIVATE KEY-----"))
}

/// Units that would be started and are not on the list.
fn started(tree: &Path, paths: &[PathBuf], is_debug: bool) -> Vec<String> {
    let mut units = BTreeSet::new();
    for path in paths {
        let folder = path.parent().and_then(Path::extension);
        let folder = folder.unwrap_or_default();
        if folder == "wants" || folder == "requires" {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            units.insert(name.into_owned());
        }
    }
    units.retain(|unit| {
        let template = unit
            .split_once('@')
            .and_then(|(name, rest)| Some(format!("{name}@.{}", rest.rsplit_once('.')?.1)));
        let is_masked = |unit: &String| {
            fs::read_link(tree.join("etc/systemd/system").join(unit))
                .is_ok_and(|to| to == Path::new("/dev/null"))
        };
        let names: Vec<String> = [Some(unit.clone()), template]
            .into_iter()
            .flatten()
            .collect();
        let is_listed = names.iter().any(|name| STARTED.contains(&name.as_str()));
        let is_shell = is_debug && unit == DEBUG_SHELL;
        !is_listed && !is_shell && !names.iter().any(is_masked)
    });
    let line = |unit| format!("unit {unit} is started and not on the list");
    units.into_iter().map(line).collect()
}

/// Accounts that somebody could log in to.
fn accounts(tree: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for line in fs::read_to_string(tree.join("etc/passwd"))?.lines() {
        if !line.ends_with(":/usr/sbin/nologin") {
            found.push(format!("/etc/passwd: `{line}` has a shell"));
        }
    }
    for line in fs::read_to_string(tree.join("etc/shadow"))?.lines() {
        if !line
            .split(':')
            .nth(1)
            .is_some_and(|password| password.starts_with('!'))
        {
            found.push("/etc/shadow: an account is not locked".into());
        }
    }
    Ok(found)
}

/// Every path below a folder, relative to it, in order.
fn walk(tree: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(tree.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                waiting.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// One line an entry of the tree: mode, digest or target, path.
///
/// # Errors
/// If a file cannot be read.
pub(crate) fn list(tree: &Path) -> anyhow::Result<String> {
    let mut list = String::new();
    for path in walk(tree)? {
        let full = tree.join(&path);
        let metadata = fs::symlink_metadata(&full)?;
        let kind = metadata.file_type();
        let content = if kind.is_symlink() {
            format!("-> {}", fs::read_link(&full)?.display())
        } else if kind.is_file() {
            hex::encode(sha256(&fs::read(&full)?))
        } else {
            "/".to_owned()
        };
        writeln!(
            list,
            "{:06o} {content} /{}",
            metadata.permissions().mode(),
            path.display()
        )?;
    }
    Ok(list)
}

/// Paths that are in one list only, or differ: `-` lines of the first, `+` lines of the second.
pub(crate) fn differences(first: &str, second: &str) -> String {
    let lines = |list: &'_ str| list.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (first, second) = (lines(first), lines(second));
    let path = |line: &String| line.split_once(" /").map(|(_, path)| path.to_owned());
    let mut changes: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for line in first.difference(&second) {
        changes
            .entry(path(line))
            .or_default()
            .push(format!("-{line}\n"));
    }
    for line in second.difference(&first) {
        changes
            .entry(path(line))
            .or_default()
            .push(format!("+{line}\n"));
    }
    changes.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A tree that passes.
    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str, content: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        make("etc/passwd", "root:x:0:0:root:/root:/usr/sbin/nologin\n");
        make("etc/shadow", "root:!*:1::::::\n");
        make("etc/machine-id", "");
        make("usr/bin/true", "");
        let wants = dir
            .path()
            .join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        symlink("/x", wants.join("kubelet.path")).unwrap();
        dir
    }

    fn refusal(change: impl FnOnce(&Path)) -> String {
        let dir = tree();
        change(dir.path());
        scan(dir.path(), false).unwrap_err().to_string()
    }

    #[test]
    fn a_plain_root_passes() {
        scan(tree().path(), false).unwrap();
    }

    #[test]
    fn everything_that_lets_somebody_in_is_found() {
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        let found = refusal(|tree| mode(&tree.join("usr/bin/true"), 0o4755));
        assert!(found.contains("/usr/bin/true is set-id"), "{found}");
        let found = refusal(|tree| mode(&tree.join("etc"), 0o777));
        assert!(found.contains("/etc is writable by all"), "{found}");
        let found = refusal(|tree| fs::write(tree.join("usr/bin/su"), "").unwrap());
        assert!(found.contains("/usr/bin/su logs"), "{found}");
        let found = refusal(|tree| fs::write(tree.join("etc/shadow"), "root::1::::::\n").unwrap());
        assert!(found.contains("not locked"), "{found}");
        let shell = "root:x:0:0:root:/root:/bin/bash\n";
        let found = refusal(|tree| fs::write(tree.join("etc/passwd"), shell).unwrap());
        assert!(found.contains("has a shell"), "{found}");
        let key = "-----BEGIN PRIVATE KEY-----\n";
        let found = refusal(|tree| fs::write(tree.join("etc/key"), key).unwrap());
        assert!(found.contains("/etc/key is a private key"), "{found}");
        let found = refusal(|tree| fs::write(tree.join("etc/machine-id"), "0123").unwrap());
        assert!(found.contains("names a machine"), "{found}");
    }

    #[test]
    fn units_that_nobody_listed_are_found_unless_masked() {
        let enable = |tree: &Path, unit: &str| {
            let wants = tree.join("usr/lib/systemd/system/getty.target.wants");
            fs::create_dir_all(&wants).unwrap();
            symlink("/x", wants.join(unit)).unwrap();
        };
        let found = refusal(|tree| enable(tree, "getty@tty1.service"));
        assert!(found.contains("unit getty@tty1.service"), "{found}");
        let found = refusal(|tree| enable(tree, DEBUG_SHELL));
        assert!(found.contains(DEBUG_SHELL), "{found}");
        let dir = tree();
        enable(dir.path(), "getty@tty1.service");
        symlink(
            "/dev/null",
            dir.path().join("etc/systemd/system/getty@.service"),
        )
        .unwrap();
        scan(dir.path(), false).unwrap();
        enable(dir.path(), DEBUG_SHELL);
        scan(dir.path(), true).unwrap();
    }

    #[test]
    fn differences_name_each_path_once_on_each_side() {
        let first = "100644 aa /etc/a\n100644 bb /etc/b\n";
        let second = "100644 aa /etc/a\n100644 cc /etc/b\n100755 dd /etc/c\n";
        let expected = "-100644 bb /etc/b\n+100644 cc /etc/b\n+100755 dd /etc/c\n";
        assert_eq!(differences(first, second), expected);
        assert_eq!(differences(first, first), "");
    }
}

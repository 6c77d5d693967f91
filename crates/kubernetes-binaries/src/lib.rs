//! Where this machine has Kubernetes' programs.
//!
//! `cargo run -p xtask -- kubernetes` puts them below [`cache`]; tests, measurements and tools take
//! them from there with [`Kubernetes::find`]. Whoever has programs of their own names their folder
//! in `KUBERNETES_BIN`, and everything runs on those.

use anyhow::{Context as _, Result, bail};
use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// The variable that names a folder with Kubernetes programs to use instead of the built ones.
pub const VARIABLE: &str = "KUBERNETES_BIN";

/// What a folder of Kubernetes programs has to hold.
pub const PROGRAMS: [&str; 7] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubeadm",
    "kubectl",
    "kubelet",
];

/// What a folder of the programs around Kubernetes has to hold, as their Debian packages have it.
pub const TOOLS: [&str; 8] = [
    "bin/busybox",
    "usr/bin/containerd",
    "usr/bin/containerd-shim-runc-v2",
    "usr/bin/ctr",
    "usr/bin/etcd",
    "usr/lib/cni/bridge",
    "usr/sbin/conntrack",
    "usr/sbin/runc",
];

/// The newest built programs, below [`cache`].
const CURRENT: &str = "current";

/// The newest unpacked tools, below [`cache`].
const CURRENT_TOOLS: &str = "tools";

const HINT: &str =
    "hint: run `cargo run -p xtask -- kubernetes`, or name a complete folder in `KUBERNETES_BIN`";

/// Kubernetes' programs and the programs around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    programs: PathBuf,
    tools: PathBuf,
    version: Version,
}

impl Kubernetes {
    /// The programs in the folder that `KUBERNETES_BIN` names, else the built ones; etcd, containerd
    /// and the like are always those that were unpacked with them.
    ///
    /// # Errors
    /// If one is missing; the message says how to get it.
    pub fn find() -> Result<Self> {
        let cache = cache()?;
        let programs = users_programs().unwrap_or_else(|| current(&cache));
        Self::of(&programs, &current_tools(&cache))
    }

    /// The programs in two given folders.
    ///
    /// # Errors
    /// If one is missing.
    pub fn of(programs: &Path, tools: &Path) -> Result<Self> {
        complete(programs, &PROGRAMS)?;
        complete(tools, &TOOLS)?;
        Ok(Self {
            programs: fs::canonicalize(programs)?,
            tools: fs::canonicalize(tools)?,
            version: Version::of(programs)?,
        })
    }

    /// One of [`PROGRAMS`].
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// The folder of [`PROGRAMS`].
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// A file of the unpacked packages, by its path in the package: one of [`TOOLS`] and more.
    #[must_use]
    pub fn tool(&self, path: &str) -> PathBuf {
        self.tools.join(path)
    }

    /// What `kube-apiserver --version` says.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }
}

/// A Kubernetes version, such as `v1.20.2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    text: String,
    minor: u32,
}

impl Version {
    /// The version of the programs in a folder.
    ///
    /// # Errors
    /// If the API server's program does not run, or says something else.
    pub fn of(programs: &Path) -> Result<Self> {
        let program = programs.join("kube-apiserver");
        let output = Command::new(&program).arg("--version").output();
        let output = output.with_context(|| format!("run `{}`", program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        Self::parse(said.trim())
            .with_context(|| format!("`{} --version` says `{said}`", program.display()))
    }

    fn parse(said: &str) -> Option<Self> {
        let text = said.strip_prefix("Kubernetes ")?;
        let minor = text.strip_prefix("v1.")?.split('.').next()?.parse().ok()?;
        let text = text.to_owned();
        Some(Self { text, minor })
    }

    /// As kubeadm wants it: `v1.20.2`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The 20 of `v1.20.2`.
    #[must_use]
    pub fn minor(&self) -> u32 {
        self.minor
    }
}

/// The folder of built programs and unpacked tools: `constellation/kubernetes` in the user's cache.
///
/// # Errors
/// If the environment names no home.
pub fn cache() -> Result<PathBuf> {
    cache_below(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"))
}

/// The user's own programs, if any are named.
#[must_use]
pub fn users_programs() -> Option<PathBuf> {
    env::var_os(VARIABLE)
        .filter(|folder| !folder.is_empty())
        .map(PathBuf::from)
}

/// The link to the built programs that are used.
#[must_use]
pub fn current(cache: &Path) -> PathBuf {
    cache.join(CURRENT)
}

/// The link to the unpacked tools that are used.
#[must_use]
pub fn current_tools(cache: &Path) -> PathBuf {
    cache.join(CURRENT_TOOLS)
}

/// Checks that a folder has all of `names`, executable.
///
/// # Errors
/// If it has not; the message names the first.
pub fn complete(folder: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        let path = folder.join(name);
        let metadata = fs::metadata(&path)
            .with_context(|| format!("Kubernetes needs `{}`\n{HINT}", path.display()))?;
        if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
            bail!("`{}` is no program\n{HINT}", path.display());
        }
    }
    Ok(())
}

fn cache_below(cache: Option<OsString>, home: Option<OsString>) -> Result<PathBuf> {
    // The XDG base directory specification: a relative path is invalid and ignored.
    let cache = cache.map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(home?).join(".cache")));
    let cache = cache.context("neither `XDG_CACHE_HOME` nor `HOME` is set")?;
    Ok(cache.join("constellation/kubernetes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_program(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (programs, tools) = (dir.path().join("programs"), dir.path().join("tools"));
        for name in PROGRAMS {
            write_program(&programs.join(name), "#!/bin/sh\necho Kubernetes v1.31.4\n");
        }
        for name in TOOLS {
            write_program(&tools.join(name), "#!/bin/sh\n");
        }
        (dir, programs, tools)
    }

    #[test]
    fn finds_programs_and_their_version() {
        let (_dir, programs, tools) = folders();
        let found = Kubernetes::of(&programs, &tools).unwrap();
        assert_eq!(found.version().as_str(), "v1.31.4");
        assert_eq!(found.version().minor(), 31);
        assert!(found.program("kubelet").is_file());
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_to_get_it() {
        let (_dir, programs, tools) = folders();
        fs::remove_file(programs.join("kubelet")).unwrap();
        let error = Kubernetes::of(&programs, &tools).unwrap_err().to_string();
        assert!(error.contains("/kubelet`"), "{error}");
        assert!(error.contains("xtask -- kubernetes"), "{error}");
        let error = Kubernetes::of(&tools, &programs).unwrap_err().to_string();
        assert!(error.contains("kube-apiserver"), "{error}");
    }

    #[test]
    fn a_file_that_does_not_run_is_no_program() {
        let (_dir, programs, tools) = folders();
        let etcd = tools.join("usr/bin/etcd");
        fs::set_permissions(&etcd, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Kubernetes::of(&programs, &tools).unwrap_err().to_string();
        assert!(error.contains("etcd` is no program"), "{error}");
    }

    #[test]
    fn a_version_that_is_not_kubernetes_is_refused() {
        for said in ["", "v1.20.2", "Kubernetes 1.20.2", "Kubernetes v1.x.2"] {
            assert_eq!(Version::parse(said), None, "{said}");
        }
    }

    #[test]
    fn the_cache_is_the_users() {
        let under = |cache: Option<&str>, home: Option<&str>| {
            cache_below(cache.map(Into::into), home.map(Into::into))
        };
        let path = under(Some("/c"), Some("/h")).unwrap();
        assert_eq!(path, Path::new("/c/constellation/kubernetes"));
        let path = under(Some("relative"), Some("/h")).unwrap();
        assert_eq!(path, Path::new("/h/.cache/constellation/kubernetes"));
        assert!(under(None, None).is_err());
    }
}

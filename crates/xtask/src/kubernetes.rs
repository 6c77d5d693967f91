//! `xtask kubernetes`: real Kubernetes programs for the tests and tools that run a cluster here.
//!
//! Debian 12 has the whole source of Kubernetes 1.20 and everything around it as packages; they are
//! fetched with a private APT configuration and unpacked, and nothing of them is installed. What was
//! built stays in the user's cache, by the versions of source and compiler. Who has programs of
//! another version names their folder in `KUBERNETES_BIN`.

mod build;
mod tools;

use crate::{apt::Apt, tool::Tool};
use anyhow::{Context as _, bail};
use kubernetes_binaries::{
    Kubernetes, PROGRAMS, TOOLS, VARIABLE, Version, cache, complete, current, current_tools,
    users_programs,
};
use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
    time::Instant,
};

/// Prefix of folders in the cache that no one uses once their maker has ended.
const WORK: &str = "work-";

/// Arguments of `xtask kubernetes`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Ask the archive for newer versions even if there are programs already
    #[arg(long)]
    refresh: bool,
}

/// Makes sure that [`Kubernetes::find`] finds what it looks for.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let progress = Progress::new();
    let cache = cache()?;
    if let Some(programs) = users_programs() {
        check(&programs).with_context(|| format!("the programs in `{VARIABLE}`"))?;
    }
    let needs_programs = users_programs().is_none()
        && (args.refresh || complete(&current(&cache), &PROGRAMS).is_err());
    let needs_tools = args.refresh || complete(&current_tools(&cache), &TOOLS).is_err();
    if needs_programs || needs_tools {
        fs::create_dir_all(&cache).with_context(|| format!("create `{}`", cache.display()))?;
        let _alone = lock(&cache, &progress)?;
        sweep(&cache)?;
        progress.say("fetch the package lists");
        let lists = work(&cache)?;
        let apt = Apt::prepare_with_sources(lists.path())?;
        if needs_tools {
            tools::unpack(&apt, &cache, &progress)?;
        }
        if needs_programs {
            build::build(&apt, &cache, &progress)?;
        }
    }
    let found = Kubernetes::find()?;
    let (version, folder) = (found.version().as_str(), found.programs().display());
    eprintln!("kubernetes: {version} in {folder}");
    Ok(())
}

/// What takes long, with the time since the start.
struct Progress(Instant);

impl Progress {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn say(&self, step: &str) {
        eprintln!("kubernetes: {:>4} s  {step}", self.0.elapsed().as_secs());
    }
}

/// That a folder has all programs, that each runs, and that they are of one version.
fn check(programs: &Path) -> anyhow::Result<()> {
    complete(programs, &PROGRAMS)?;
    let version = Version::of(programs)?;
    for name in PROGRAMS {
        let arguments: &[&str] = match name {
            "kubeadm" => &["version", "--output=short"],
            "kubectl" => &["version", "--client"],
            _ => &["--version"],
        };
        let program = programs.join(name).display().to_string();
        let said = Tool::new(&program, VARIABLE).args(arguments).output()?;
        if !said.contains(version.as_str()) {
            let (said, version) = (said.trim(), version.as_str());
            bail!("`{name}` is `{said}`, kube-apiserver is {version}");
        }
    }
    Ok(())
}

/// One builder at a time; the kernel gives the lock back however a builder ends.
fn lock(cache: &Path, progress: &Progress) -> anyhow::Result<File> {
    let lock = File::create(cache.join("lock"))?;
    if lock.try_lock().is_err() {
        progress.say("wait for another `xtask kubernetes`");
        lock.lock().context("lock the cache")?;
    }
    Ok(lock)
}

/// Removes what builders left that were killed; the caller holds the lock.
fn sweep(cache: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(WORK) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("remove `{}`", entry.path().display()))?;
        }
    }
    Ok(())
}

/// A folder in the cache that is removed when its value goes.
fn work(cache: &Path) -> anyhow::Result<tempfile::TempDir> {
    let work = tempfile::Builder::new().prefix(WORK).tempdir_in(cache);
    work.with_context(|| format!("make a folder in `{}`", cache.display()))
}

/// Gives a finished folder its name, and makes it the one that `link` points to: at no time is there
/// a half of either.
fn publish(finished: &Path, cache: &Path, name: &str, link: &Path) -> anyhow::Result<()> {
    let target = cache.join(name);
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    fs::rename(finished, &target)
        .with_context(|| format!("put the result to `{}`", target.display()))?;
    point(cache, name, link)
}

/// Makes `link` point to `name` beside it.
fn point(cache: &Path, name: &str, link: &Path) -> anyhow::Result<()> {
    let fresh = work(cache)?;
    symlink(name, fresh.path().join("link"))?;
    fs::rename(fresh.path().join("link"), link)
        .with_context(|| format!("point `{}` to `{name}`", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_replaces_the_one_before() {
        let cache = tempfile::tempdir().unwrap();
        let link = current(cache.path());
        for text in ["first", "second"] {
            let work = work(cache.path()).unwrap();
            let finished = work.path().join("finished");
            fs::create_dir(&finished).unwrap();
            fs::write(finished.join("file"), text).unwrap();
            publish(&finished, cache.path(), "key", &link).unwrap();
            assert_eq!(fs::read_to_string(link.join("file")).unwrap(), text);
        }
        let left = fs::read_dir(cache.path()).unwrap().count();
        assert_eq!(left, 2, "the folder and the link");
    }

    #[test]
    fn what_killed_builders_left_is_swept_and_results_are_not() {
        let cache = tempfile::tempdir().unwrap();
        for name in ["work-x", "v1_go1"] {
            fs::create_dir(cache.path().join(name)).unwrap();
        }
        sweep(cache.path()).unwrap();
        assert!(!cache.path().join("work-x").exists());
        assert!(cache.path().join("v1_go1").exists());
    }

    #[test]
    fn programs_of_several_versions_are_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        for name in PROGRAMS {
            let path = folder.path().join(name);
            let patch = if name == "kubectl" { 5 } else { 4 };
            let text = format!("#!/bin/sh\necho Kubernetes v1.31.{patch}\n");
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let error = check(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("kubectl") && error.contains("v1.31.4"),
            "{error}"
        );
    }
}

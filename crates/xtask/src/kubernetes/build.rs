//! Kubernetes from Debian's source package, without a network and without the upstream makefiles,
//! which would build every generator first.

use super::{Progress, point, publish, tools::unpack_debs, work};
use crate::{apt::Apt, tool::Tool};
use anyhow::{Context as _, bail};
use kubernetes_binaries::{PROGRAMS, complete, current};
use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

const SOURCE: &str = "kubernetes";

/// The compiler, and the one vendored library that does not work with it.
const GO: [&str; 3] = [
    "golang-1.19-go",
    "golang-1.19-src",
    "golang-github-modern-go-reflect2-dev",
];

/// Kubernetes 1.20 vendors reflect2 1.0.1, which dereferences nil in every JSON map that a program of
/// Go 1.18 or later encodes.
const REFLECT2: &str = "github.com/modern-go/reflect2";

/// Where Kubernetes' own tree has to be below `GOPATH`.
const PACKAGE: &str = "k8s.io/kubernetes";

/// Types with this tag are in the API's description.
const OPENAPI_TAG: &str = "+k8s:openapi-gen=true";

/// Built one after the other, so that one sees it move: the first has most of what the rest share.
const STEPS: [&[&str]; 3] = [
    &["kube-apiserver"],
    &["kube-controller-manager", "kube-scheduler"],
    &["kubeadm", "kubectl", "kubelet", "kube-proxy"],
];

/// Builds the programs into the cache, unless these very versions are there.
pub(super) fn build(apt: &Apt, cache: &Path, progress: &Progress) -> anyhow::Result<()> {
    if !apt.has_backports() {
        bail!(
            "Debian's source of a whole Kubernetes is in Debian 12 only\n\
             hint: name a folder with Kubernetes programs of your own in `KUBERNETES_BIN`"
        );
    }
    let work = work(cache)?;
    progress.say("fetch the Go compiler");
    let specs = GO.map(str::to_owned);
    let debs = apt.download(&specs, &work.path().join("debs"))?;
    let source = apt.source_file(SOURCE)?;
    let go = debs.first().and_then(|deb| deb.path.file_name());
    let name = key(&source, go.unwrap_or_default())?;
    let link = current(cache);
    if complete(&cache.join(&name), &PROGRAMS).is_ok() {
        return point(cache, &name, &link);
    }
    progress.say("fetch the source");
    let dsc = apt.download_source(SOURCE, &work.path().join("source"))?;
    let tree = Tree::unpack(&dsc, work.path(), &version(&source)?)?;
    let go = work.path().join("go");
    unpack_debs(&debs, &go)?;
    tree.replace_reflect2(&go)?;
    progress.say("describe the API (12 s)");
    tree.generate_openapi()?;
    let out = work.path().join("out");
    for step in STEPS {
        progress.say(&format!("compile {} (minutes)", step.join(", ")));
        tree.compile(step, &out)?;
    }
    super::check(&out)?;
    publish(&out, cache, &name, &link)
}

/// The unpacked source and all that its compilation writes.
struct Tree {
    work: PathBuf,
    source: PathBuf,
    version: String,
}

impl Tree {
    fn unpack(dsc: &Path, work: &Path, version: &str) -> anyhow::Result<Self> {
        let source = work.join("src").join(PACKAGE);
        let parent = source.parent().context("the tree has a parent")?;
        fs::create_dir_all(parent)?;
        Tool::new("dpkg-source", "dpkg-dev")
            // APT has checked the signature of the archive over it.
            .args(["--no-check", "-x"])
            .args([dsc, &source])
            .output()?;
        Ok(Self {
            work: work.to_owned(),
            source,
            version: version.to_owned(),
        })
    }

    fn replace_reflect2(&self, go: &Path) -> anyhow::Result<()> {
        let vendored = self.source.join("vendor").join(REFLECT2);
        let packaged = go.join("usr/share/gocode/src").join(REFLECT2);
        fs::remove_dir_all(&vendored).context("remove the vendored reflect2")?;
        Tool::new("cp", "coreutils")
            .arg("-r")
            .args([&packaged, &vendored])
            .output()?;
        Ok(())
    }

    /// Makes the one generated file that the source package leaves out.
    fn generate_openapi(&self) -> anyhow::Result<()> {
        let generator = self.work.join("openapi-gen");
        self.go()
            .args(["build", "-o"])
            .arg(&generator)
            .arg("./vendor/k8s.io/kube-openapi/cmd/openapi-gen")
            .output()?;
        let packages = self.described_packages()?.join(",");
        self.environment(Tool::new(&generator.display().to_string(), "kubernetes"))
            .args(["--logtostderr", "-i", &packages])
            .args(["-p", "k8s.io/kubernetes/pkg/generated/openapi"])
            .args(["-O", "zz_generated.openapi"])
            .args(["-h", "hack/boilerplate/boilerplate.generatego.txt"])
            .args(["-r", "/dev/null"])
            .output()?;
        Ok(())
    }

    /// The packages whose types are in the API's description, as the generator names them.
    fn described_packages(&self) -> anyhow::Result<Vec<String>> {
        let mut folders = BTreeSet::new();
        for part in ["pkg", "staging/src"] {
            find_tagged(&self.source.join(part), &mut folders)?;
        }
        let mut packages = Vec::new();
        for folder in folders {
            let folder = folder.strip_prefix(&self.source)?;
            packages.push(match folder.strip_prefix("staging/src") {
                Ok(staged) => format!("{PACKAGE}/vendor/{}", staged.display()),
                Err(_) => format!("{PACKAGE}/{}", folder.display()),
            });
        }
        Ok(packages)
    }

    fn compile(&self, programs: &[&str], out: &Path) -> anyhow::Result<()> {
        let out = format!("{}/", out.display());
        let packages = programs.iter().map(|name| format!("./cmd/{name}"));
        self.go()
            .args([
                "build",
                "-trimpath",
                "-ldflags",
                &self.linker_flags(),
                "-o",
                &out,
            ])
            .args(packages)
            .output()?;
        Ok(())
    }

    /// The version that the programs state; without it they claim to be v0.0.0 and kubeadm refuses.
    fn linker_flags(&self) -> String {
        let mut flags = "-s -w -buildid=".to_owned();
        let minor = self.version.split('.').nth(1).unwrap_or_default();
        for package in ["client-go/pkg/version", "component-base/version"] {
            let package = format!("{PACKAGE}/vendor/k8s.io/{package}");
            let values = [
                ("gitVersion", self.version.as_str()),
                ("gitMajor", "1"),
                ("gitMinor", minor),
                ("gitTreeState", "archive"),
            ];
            for (name, value) in values {
                flags += &format!(" -X {package}.{name}={value}");
            }
        }
        flags
    }

    fn go(&self) -> Tool {
        let go = self.work.join("go/usr/lib/go-1.19/bin/go");
        self.environment(Tool::new(&go.display().to_string(), "golang-1.19-go"))
    }

    fn environment(&self, tool: Tool) -> Tool {
        tool.dir(&self.source)
            .env("GOROOT", self.work.join("go/usr/lib/go-1.19"))
            .env("GOPATH", &self.work)
            .env("GOCACHE", self.work.join("cache"))
            .env("HOME", self.work.join("home"))
            .env("GO111MODULE", "off")
            .env("GOPROXY", "off")
            .env("GOFLAGS", "")
            .env("CGO_ENABLED", "0")
            // The generator finds the compiler there.
            .env("PATH", self.path())
    }

    fn path(&self) -> String {
        let go = self.work.join("go/usr/lib/go-1.19/bin");
        format!("{}:/usr/bin:/bin", go.display())
    }
}

/// Folders of Go files with [`OPENAPI_TAG`], without examples and code generators.
fn find_tagged(folder: &Path, found: &mut BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list `{}`", folder.display()))? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let kind = entry.file_type()?;
        if kind.is_dir() && !is_example(&name) {
            find_tagged(&path, found)?;
        } else if kind.is_file() && path.extension() == Some(OsStr::new("go")) {
            let text = fs::read(&path)?;
            let tag = OPENAPI_TAG.as_bytes();
            if text.windows(tag.len()).any(|window| window == tag) {
                found.insert(folder.to_owned());
            }
        }
    }
    Ok(())
}

fn is_example(folder: &str) -> bool {
    folder.starts_with('_') || folder.starts_with("sample-") || folder == "code-generator"
}

/// By source and compiler.
fn key(source: &str, go: &OsStr) -> anyhow::Result<String> {
    let source = source.strip_prefix("kubernetes_");
    let source = source.and_then(|rest| rest.strip_suffix(".dsc"));
    let go = go.to_str().and_then(|name| name.split('_').nth(1));
    let (source, go) = source.zip(go).context("file names of packages")?;
    Ok(format!("{source}_go{go}"))
}

/// The version of Kubernetes in a file name of its source package:
/// `kubernetes_1.20.5+really1.20.2-1.1+deb12u1.dsc` is `v1.20.2`.
fn version(source: &str) -> anyhow::Result<String> {
    let version = source.strip_prefix("kubernetes_");
    let version = version.and_then(|rest| rest.split('-').next());
    let version = version.with_context(|| format!("no version in `{source}`"))?;
    let really = version.split_once("+really").map(|(_, really)| really);
    Ok(format!("v{}", really.unwrap_or(version)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DSC: &str = "kubernetes_1.20.5+really1.20.2-1.1+deb12u1.dsc";

    #[test]
    fn the_version_is_what_the_source_really_is() {
        assert_eq!(version(DSC).unwrap(), "v1.20.2");
        assert_eq!(version("kubernetes_1.32.3-2.dsc").unwrap(), "v1.32.3");
        assert!(version("etcd_3.4.dsc").is_err());
    }

    #[test]
    fn another_compiler_is_another_key() {
        let of = |go: &str| key(DSC, OsStr::new(go)).unwrap();
        let built = of("golang-1.19-go_1.19.8-2_amd64.deb");
        assert_eq!(built, "1.20.5+really1.20.2-1.1+deb12u1_go1.19.8-2");
        assert_ne!(built, of("golang-1.19-go_1.19.8-3_amd64.deb"));
        assert!(key(DSC, OsStr::new("")).is_err());
    }

    #[test]
    fn finds_described_packages_and_no_examples() {
        let root = tempfile::tempdir().unwrap();
        for (folder, text) in [
            ("apis/one", "// +k8s:openapi-gen=true\npackage one"),
            ("apis/two", "package two"),
            ("_examples/three", "// +k8s:openapi-gen=true"),
            ("sample-apiserver/four", "// +k8s:openapi-gen=true"),
        ] {
            let folder = root.path().join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("doc.go"), text).unwrap();
        }
        let mut found = BTreeSet::new();
        find_tagged(root.path(), &mut found).unwrap();
        assert_eq!(found, [root.path().join("apis/one")].into());
    }
}

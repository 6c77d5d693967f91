//! Fetching Debian packages with a private APT configuration.
//!
//! The machine's own sources say where its mirror is; they are read and never changed. Everything
//! that APT writes stays in one directory of ours. APT checks the archive's signatures as always.

use crate::tool::Tool;
use anyhow::{Context, bail};
use std::{
    fs,
    path::{Path, PathBuf},
};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Our own view of the machine's Debian archive.
#[derive(Debug)]
pub(crate) struct Apt {
    root: PathBuf,
    codename: String,
}

/// A package file that was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deb {
    /// Name of the package.
    pub(crate) name: String,
    /// Where the file is. Its name carries the version.
    pub(crate) path: PathBuf,
}

impl Apt {
    /// Writes the private configuration below `root` and fetches the package lists.
    pub(crate) fn prepare(root: &Path) -> anyhow::Result<Self> {
        Self::prepare_kinds(root, &["deb"])
    }

    /// Like [`Apt::prepare`], with the lists of source packages as well.
    pub(crate) fn prepare_with_sources(root: &Path) -> anyhow::Result<Self> {
        Self::prepare_kinds(root, &["deb", "deb-src"])
    }

    fn prepare_kinds(root: &Path, kinds: &[&str]) -> anyhow::Result<Self> {
        let codename = codename(&fs::read_to_string("/etc/os-release")?)?;
        for dir in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(dir))?;
        }
        let sources = machine_sources()?;
        let entry = sources
            .iter()
            .find(|source| source.suites.contains(&codename))
            .with_context(|| format!("no APT source of this machine serves `{codename}`"))?;
        let mut suites = vec![codename.clone(), format!("{codename}-updates")];
        suites.extend(backports(&codename));
        let mut list = String::new();
        for suite in &suites {
            list += &entry.lines(kinds, suite);
        }
        let security = format!("{codename}-security");
        if let Some(entry) = sources
            .iter()
            .find(|source| source.suites.contains(&security))
        {
            list += &entry.lines(kinds, &security);
        }
        fs::write(root.join("sources.list"), list)?;
        fs::write(root.join("status"), "")?;
        fs::write(root.join("apt.conf"), configuration(root))?;
        let apt = Self {
            root: root.to_owned(),
            codename,
        };
        apt.tool("apt-get")
            .args(["-q", "update"])
            .output()
            .context("fetch the package lists")?;
        Ok(apt)
    }

    /// The newest version of `package`: from backports where this release has them.
    pub(crate) fn newest(&self, package: &str) -> String {
        match backports(&self.codename) {
            Some(suite) => format!("{package}/{suite}"),
            None => package.to_owned(),
        }
    }

    /// Sources of a Debian release, which need not be this machine's, in the deb822 form of `sources.list(5)`: the same
    /// mirrors serve all of them.
    pub(crate) fn release_sources(&self, release: &str) -> anyhow::Result<String> {
        let sources = machine_sources()?;
        let serves = |suite: &str| {
            let source = sources
                .iter()
                .find(|source| source.suites.iter().any(|found| found == suite));
            source.with_context(|| format!("no APT source of this machine serves `{suite}`"))
        };
        let main = serves(&self.codename)?.stanza(&format!("{release} {release}-updates"));
        let security = serves(&format!("{}-security", self.codename)).map_or_else(
            |_| String::new(),
            |source| source.stanza(&format!("{release}-security")),
        );
        Ok(format!("{main}\n{security}"))
    }

    /// Whether this release gets its newer packages from backports.
    pub(crate) fn has_backports(&self) -> bool {
        backports(&self.codename).is_some()
    }

    /// What this release calls the package that Debian 12 calls `package`.
    pub(crate) fn name(&self, package: &str) -> String {
        // Debian 13 renamed libraries whose `time_t` grew on other architectures.
        match (package, self.codename.as_str()) {
            ("libext2fs2", "trixie") => "libext2fs2t64".to_owned(),
            _ => package.to_owned(),
        }
    }

    /// The packages that `spec` depends on, as APT resolves it.
    pub(crate) fn depends(&self, spec: &str) -> anyhow::Result<Vec<String>> {
        let shown = self
            .tool("apt-cache")
            .args(["--no-all-versions", "show", spec])
            .output()?;
        let depends = shown
            .lines()
            .find_map(|line| line.strip_prefix("Depends: "));
        let depends = depends.with_context(|| format!("`{spec}` depends on nothing"))?;
        let names = depends
            .split(", ")
            .filter_map(|word| word.split(' ').next());
        Ok(names.map(str::to_owned).collect())
    }

    /// Fetches `specs` into `dir`; what is there already is kept.
    pub(crate) fn download(&self, specs: &[String], dir: &Path) -> anyhow::Result<Vec<Deb>> {
        fs::create_dir_all(dir)?;
        self.tool("apt-get")
            .args(["-q", "download"])
            .args(specs)
            .dir(dir)
            .output()?;
        specs
            .iter()
            .map(|spec| self.downloaded(spec, dir))
            .collect()
    }

    /// The file that APT would fetch for `spec`, in `dir`.
    fn downloaded(&self, spec: &str, dir: &Path) -> anyhow::Result<Deb> {
        let uris = self
            .tool("apt-get")
            .args(["-q", "--print-uris", "download", spec])
            .output()?;
        let file = uris
            .split_whitespace()
            .nth(1)
            .with_context(|| format!("no file for `{spec}`"))?;
        let name = spec.split('/').next().unwrap_or(spec).to_owned();
        let path = dir.join(file);
        let plain = dir.join(file.replace("%3a", ":"));
        let path = if path.exists() { path } else { plain };
        if !path.exists() {
            bail!("`apt-get download` did not write `{}`", path.display());
        }
        Ok(Deb { name, path })
    }

    /// The name of the `.dsc` file of a source package's newest version; it carries the version.
    pub(crate) fn source_file(&self, package: &str) -> anyhow::Result<String> {
        let uris = self
            .tool("apt-get")
            .args(["-q", "--print-uris", "--download-only", "source", package])
            .output()?;
        let mut words = uris.split_whitespace();
        let file = words.find(|word| word.ends_with(".dsc"));
        Ok(file
            .with_context(|| format!("no source package `{package}`"))?
            .to_owned())
    }

    /// Fetches a source package's files into `dir`; gives its `.dsc` file.
    pub(crate) fn download_source(&self, package: &str, dir: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(dir)?;
        self.tool("apt-get")
            .args(["-q", "--download-only", "source", package])
            .dir(dir)
            .output()?;
        Ok(dir.join(self.source_file(package)?))
    }

    fn tool(&self, program: &str) -> Tool {
        Tool::new(program, "apt").env("APT_CONFIG", self.root.join("apt.conf"))
    }
}

/// The suite with a newer kernel, QEMU and stub than the release itself. Debian 13 has them.
fn backports(codename: &str) -> Option<String> {
    (codename == "bookworm").then(|| format!("{codename}-backports"))
}

fn codename(os_release: &str) -> anyhow::Result<String> {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = value
        .context("`/etc/os-release` names no release")?
        .trim_matches('"');
    if !["bookworm", "trixie"].contains(&codename) {
        bail!("release `{codename}`: images are built on Debian 12 or 13");
    }
    Ok(codename.to_owned())
}

fn configuration(root: &Path) -> String {
    let root = root.display();
    format!(
        r#"Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
APT::Default-Release "";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
"#
    )
}

/// One entry of the machine's APT sources.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    keyring: String,
}

impl Source {
    fn lines(&self, kinds: &[&str], suite: &str) -> String {
        let (keyring, uri) = (&self.keyring, &self.uri);
        let line = |kind: &&str| format!("{kind} [signed-by={keyring}] {uri} {suite} main\n");
        kinds.iter().map(line).collect()
    }

    fn stanza(&self, suites: &str) -> String {
        let (keyring, uri) = (&self.keyring, &self.uri);
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {keyring}\n"
        )
    }
}

fn machine_sources() -> anyhow::Result<Vec<Source>> {
    let mut sources = Vec::new();
    let parts = Path::new("/etc/apt/sources.list.d");
    let mut files: Vec<PathBuf> = vec!["/etc/apt/sources.list".into()];
    for entry in fs::read_dir(parts).into_iter().flatten() {
        files.push(entry?.path());
    }
    files.sort();
    for file in files.iter().filter(|file| file.exists()) {
        let text =
            fs::read_to_string(file).with_context(|| format!("read `{}`", file.display()))?;
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => sources.extend(text.split("\n\n").filter_map(parse_stanza)),
            Some("list") => sources.extend(text.lines().filter_map(parse_line)),
            _ => {}
        }
    }
    Ok(sources)
}

/// The deb822 form of `sources.list(5)`.
fn parse_stanza(stanza: &str) -> Option<Source> {
    let field = |name: &str| {
        let mut lines = stanza.lines().filter(|line| !line.starts_with('#'));
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    };
    let is_deb = field("Types")?.split_whitespace().any(|kind| kind == "deb");
    let enabled = field("Enabled").is_none_or(|value| value == "yes");
    (is_deb && enabled).then_some(())?;
    Some(Source {
        uri: field("URIs")?.split_whitespace().next()?.to_owned(),
        suites: field("Suites")?
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        keyring: keyring(field("Signed-By")),
    })
}

/// The one-line form of `sources.list(5)`.
fn parse_line(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let signed_by = options
        .split_whitespace()
        .find_map(|word| word.strip_prefix("signed-by="));
    Some(Source {
        uri: words.next()?.to_owned(),
        suites: vec![words.next()?.to_owned()],
        keyring: keyring(signed_by),
    })
}

fn keyring(signed_by: Option<&str>) -> String {
    signed_by
        .filter(|path| path.starts_with('/'))
        .unwrap_or(KEYRING)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_sources() {
        let stanza = "Types: deb deb-src\n# a comment\nURIs: http://mirror.invalid/debian\n\
                      Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg";
        let source = parse_stanza(stanza).unwrap();
        assert_eq!(source.suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(
            source.lines(&["deb", "deb-src"], "bookworm"),
            "deb [signed-by=/k.gpg] http://mirror.invalid/debian bookworm main\n\
             deb-src [signed-by=/k.gpg] http://mirror.invalid/debian bookworm main\n"
        );
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/debian trixie main";
        assert_eq!(parse_line(line).unwrap().suites, ["trixie"]);
        let line = "deb http://mirror.invalid/debian trixie main contrib";
        assert_eq!(parse_line(line).unwrap().keyring, KEYRING);
    }

    #[test]
    fn leaves_out_what_is_no_active_binary_source() {
        assert_eq!(
            parse_line("# deb http://mirror.invalid/debian trixie main"),
            None
        );
        assert_eq!(
            parse_line("deb-src http://mirror.invalid/debian trixie main"),
            None
        );
        let stanza = "Types: deb-src\nURIs: http://mirror.invalid\nSuites: bookworm";
        assert_eq!(parse_stanza(stanza), None);
        let stanza = "Types: deb\nEnabled: no\nURIs: http://mirror.invalid\nSuites: bookworm";
        assert_eq!(parse_stanza(stanza), None);
    }

    #[test]
    fn refuses_other_releases() {
        assert_eq!(codename("VERSION_CODENAME=trixie\n").unwrap(), "trixie");
        assert!(codename("VERSION_CODENAME=bullseye\n").is_err());
        assert!(codename("ID=debian\n").is_err());
    }
}

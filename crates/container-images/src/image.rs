//! One image, and how it is written.

use crate::archive::Archive;
use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A container image of one layer. What is written depends on nothing but what is put in.
#[derive(Debug)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    user: Option<String>,
    layer: Archive,
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    /// An image with a name (`<repository>:<tag>`) and the program that it starts.
    #[must_use]
    pub fn new(name: &str, entrypoint: &[&str]) -> Self {
        let mut layer = Archive::new();
        for folder in ["/dev", "/etc", "/proc", "/sys"] {
            layer.folder(folder, 0o755);
        }
        layer.folder("/tmp", 0o1777);
        Self {
            name: name.to_owned(),
            entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
            user: None,
            layer,
            libraries: BTreeSet::new(),
        }
    }

    /// Runs it as this user, `<uid>:<gid>`, unless the pod says otherwise.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Adds a program of this machine, and the libraries that it loads when it is dynamic.
    ///
    /// # Errors
    /// If it, or one of its libraries, is not there.
    pub fn program(mut self, source: &Path, path: &str) -> Result<Self> {
        self.add(source, path)?;
        for library in libraries(source)? {
            if self.libraries.insert(library.clone()) {
                let path = library.display().to_string();
                self.add(&library, &path)?;
            }
        }
        Ok(self)
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn file(mut self, path: &str, content: &[u8]) -> Self {
        self.layer.file(path, 0o644, content);
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.layer.link(path, target);
        self
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(self, path: &Path) -> Result<()> {
        let layer = self.layer.finish();
        let mut config =
            json!({ "Entrypoint": self.entrypoint, "Env": ["PATH=/usr/bin:/bin:/usr/sbin"] });
        if let Some(user) = self.user {
            config["User"] = user.into();
        }
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
            "history": [{ "created_by": "constellation" }],
        });
        let config = config.to_string();
        let config_name = format!("{}.json", sha256(config.as_bytes()));
        let manifest = json!([{
            "Config": config_name,
            "RepoTags": [self.name],
            "Layers": ["layer.tar"],
        }]);
        let mut archive = Archive::new();
        archive.file(&config_name, 0o644, config.as_bytes());
        archive.file("layer.tar", 0o644, &layer);
        archive.file("manifest.json", 0o644, manifest.to_string().as_bytes());
        fs::write(path, archive.finish()).with_context(|| format!("write {}", path.display()))
    }

    fn add(&mut self, source: &Path, path: &str) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("read {}", source.display()))?;
        self.layer.file(path, 0o755, &content);
        Ok(())
    }
}

/// What the dynamic linker loads for a program, itself included; nothing for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        // `name => /path (address)`, or `/path/of/the/linker (address)`; the kernel's own has neither.
        let right = line.split(" => ").last().unwrap_or(line).trim();
        if right.starts_with("not found") {
            bail!("{}: {line}", program.display());
        }
        let path = right.split(" (").next().unwrap_or(right);
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest(&SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use child_process::run;
    use kubernetes_binaries::Kubernetes;

    fn write(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        let image = Image::new("example.invalid/echo:1", &["/bin/echo"]).user("65532:65532");
        let image = image.program(Path::new("/bin/echo"), "/bin/echo").unwrap();
        let image = image.link("/bin/say", "/bin/echo").file("/etc/name", b"x");
        image.write(&path).unwrap();
        path
    }

    #[test]
    fn two_writings_are_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| write(folder.path(), name));
        assert!(fs::read(one).unwrap() == fs::read(two).unwrap());
    }

    /// `tar` reads what we write, and the layer has the program's libraries.
    #[test]
    fn an_archive_has_manifest_and_layer() {
        let folder = tempfile::tempdir().unwrap();
        let path = write(folder.path(), "image.tar");
        let mut tar = Command::new("tar");
        run(tar.arg("-xf").arg(&path).current_dir(folder.path())).unwrap();
        let manifest = fs::read(folder.path().join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "example.invalid/echo:1");
        let config = fs::read(folder.path().join(manifest[0]["Config"].as_str().unwrap())).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let layer = folder.path().join("layer.tar");
        let diff_id = format!("sha256:{}", sha256(&fs::read(&layer).unwrap()));
        assert_eq!(config["rootfs"]["diff_ids"][0], diff_id.as_str());
        assert_eq!(config["config"]["User"], "65532:65532");
        let listed = run(Command::new("tar").arg("-tvf").arg(layer)).unwrap();
        for part in [
            "bin/say -> /bin/echo",
            "libc.so.6",
            "ld-linux-x86-64.so.2",
            " etc/name",
        ] {
            assert!(listed.contains(part), "{part} is missing: {listed}");
        }
    }

    #[test]
    fn a_static_program_has_no_libraries() {
        let kubernetes = Kubernetes::find().unwrap();
        let none = libraries(&kubernetes.tool("bin/busybox")).unwrap();
        assert_eq!(none, Vec::<PathBuf>::new());
    }
}

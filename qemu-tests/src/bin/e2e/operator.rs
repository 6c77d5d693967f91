//! What an operator has: a folder of `constellation mini`, the command line, `kubectl`.

use anyhow::{Context as _, Result, bail, ensure};
use kubernetes_binaries::Kubernetes;
use qemu_tests::{program, qemu, run};
use serde_json::Value;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often a waiting loop looks again.
const POLL: Duration = Duration::from_secs(2);

/// Longer than anything in the story takes under emulation.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Whoever owns the cluster.
pub(crate) struct Operator {
    constellation: PathBuf,
    kubectl: PathBuf,
    /// None: where `mini` has its folder by default.
    dir: Option<PathBuf>,
}

impl Operator {
    /// With the user's own cluster.
    pub(crate) fn of_user() -> Result<Self> {
        Ok(Self {
            constellation: program("constellation")?,
            kubectl: Kubernetes::find()?.program("kubectl"),
            dir: None,
        })
    }

    /// With a cluster in a folder of its own.
    pub(crate) fn in_folder(dir: &Path) -> Result<Self> {
        let dir = Some(dir.to_owned());
        Ok(Self {
            dir,
            ..Self::of_user()?
        })
    }

    /// A verb of `constellation mini`, with its progress on this terminal.
    pub(crate) fn mini(&self, words: &[&str]) -> Result<Value> {
        let mut command = self.constellation(&["mini"]);
        command.args(words);
        if let Some(dir) = &self.dir {
            command.arg("--dir").arg(dir);
        }
        if words.first() == Some(&"up") {
            command.arg("--qemu").arg(qemu());
        }
        let output = command.stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// `constellation verify` of all nodes by other documents than the cluster's; its exit status.
    pub(crate) fn verify(&self, reference_values: &Path) -> Result<Option<i32>> {
        let mut command = self.verify_command("json", reference_values)?;
        command.stdout(Stdio::null());
        Ok(command.status()?.code())
    }

    /// The same by the cluster's own, on this terminal.
    pub(crate) fn verify_shown(&self) -> Result<()> {
        let values = self.file("reference-values.signed.json")?;
        show(&mut self.verify_command("human", &values)?)
    }

    fn verify_command(&self, output: &str, reference_values: &Path) -> Result<Command> {
        let mut command = Command::new(&self.constellation);
        command.args(["--output", output, "verify", "--owner"]);
        command.arg(self.file("owner/owner.pub")?);
        command.arg("--cluster");
        command.arg(self.file("cluster/cluster.json")?);
        command
            .arg("--policy")
            .arg(self.file("policy.signed.json")?);
        command.arg("--reference-values").arg(reference_values);
        let status = self.mini(&["status"])?;
        for node in status["nodes"].as_array().context("nodes")? {
            let name = node["name"].as_str().context("a name")?;
            command.arg(format!(
                "{name}=127.0.0.1:{}",
                node["ports"]["verification"]
            ));
        }
        Ok(command)
    }

    /// A verb that acts as the owner.
    pub(crate) fn owner(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.constellation(words);
        command
            .arg("--owner-key")
            .arg(self.file("owner/owner.key")?);
        command
            .arg("--passphrase-file")
            .arg(self.file("passphrase")?);
        Ok(command)
    }

    pub(crate) fn constellation(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.constellation);
        command.args(["--output", "json"]).args(words);
        command
    }

    /// `kubectl`; what it printed.
    pub(crate) fn kubectl(&self, words: &[&str]) -> Result<String> {
        run(self.kubectl_command()?.args(words))
    }

    pub(crate) fn kubectl_shown(&self, words: &[&str]) -> Result<()> {
        show(self.kubectl_command()?.args(words))
    }

    /// `kubectl apply` of an object.
    pub(crate) fn apply(&self, object: &Value) -> Result<()> {
        let mut command = self.kubectl_command()?;
        command.args(["apply", "-f", "-"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn()?;
        let mut input = child.stdin.take().context("kubectl reads")?;
        input.write_all(object.to_string().as_bytes())?;
        drop(input);
        ensure!(child.wait()?.success(), "kubectl apply of {object}");
        Ok(())
    }

    fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.file("kubeconfig")?);
        Ok(command)
    }

    /// A file of the cluster's folder.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf> {
        if let Some(dir) = &self.dir {
            return Ok(dir.join(name));
        }
        let status = self.mini(&["status"])?;
        let dir = status["folder"].as_str().context("a folder")?;
        Ok(Path::new(dir).join(name))
    }

    /// A node's console since it was switched on.
    pub(crate) fn console(&self, node: &str) -> Result<String> {
        let path = self.file(&format!("nodes/{node}/console.log"))?;
        Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
    }
}

/// Looks again and again until something is so; `what` is what did not happen.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = is_so();
        if matches!(seen, Ok(true)) {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("{what}: not in {PATIENCE:?}; last: {seen:?}");
        }
        thread::sleep(POLL);
    }
}

/// Runs a program with its output on this terminal.
fn show(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

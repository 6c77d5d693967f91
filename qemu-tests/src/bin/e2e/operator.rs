//! What an operator has: a folder of `constellation mini`, the command line, `kubectl`.

use anyhow::{Context as _, Result, bail, ensure};
use kubernetes_binaries::Kubernetes;
use qemu_tests::{Mini, program, run};
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
pub(crate) const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// Whoever owns the cluster.
pub(crate) struct Operator {
    constellation: PathBuf,
    kubectl: PathBuf,
    mini: Mini,
}

impl Operator {
    pub(crate) fn of(mini: Mini) -> Result<Self> {
        Ok(Self {
            constellation: program("constellation")?,
            kubectl: Kubernetes::find()?.program("kubectl"),
            mini,
        })
    }

    /// A verb of `constellation mini`.
    pub(crate) fn mini(&self, words: &[&str]) -> Result<Value> {
        self.mini.run(words)
    }

    /// The same as a line for `sh`, silent if it succeeds. No word of it has a space or a quote.
    pub(crate) fn mini_line(&self, words: &[&str]) -> Result<String> {
        let command = self.mini.command(words);
        let words: Option<Vec<_>> = command.get_args().map(|word| word.to_str()).collect();
        let words = words.context("a path is not UTF-8")?.join(" ");
        let program = self.constellation.display();
        Ok(format!("{program} {words} >/dev/null"))
    }

    /// `constellation verify` of all nodes by reference values of one's own: its exit status and its report.
    pub(crate) fn verify(&self, reference_values: &Path) -> Result<(Option<i32>, Value)> {
        let mut command = self.verify_command("json", reference_values)?;
        let output = command.stderr(Stdio::inherit()).output()?;
        let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok((output.status.code(), report))
    }

    /// The same by the cluster's, on this terminal.
    pub(crate) fn verify_shown(&self) -> Result<()> {
        show(&mut self.verify_command("human", &self.reference_values()?)?)
    }

    fn verify_command(&self, output: &str, reference_values: &Path) -> Result<Command> {
        let mut command = Command::new(&self.constellation);
        command.args(["--output", output, "verify", "--owner"]);
        command.arg(self.file("owner/owner.pub")?);
        self.judge(&mut command, reference_values)?;
        Ok(command)
    }

    /// The owner's verbs change these values.
    pub(crate) fn reference_values(&self) -> Result<PathBuf> {
        self.file("reference-values.signed.json")
    }

    pub(crate) fn sign(&self, command: &mut Command) -> Result<()> {
        let key = self.file("owner/owner.key")?;
        command.arg("--owner-key").arg(key);
        let passphrase = self.file("passphrase")?;
        command.arg("--passphrase-file").arg(passphrase);
        Ok(())
    }

    /// All nodes of the API server, through the loopback ports that lead to them, by reference values.
    pub(crate) fn judge(&self, command: &mut Command, reference_values: &Path) -> Result<()> {
        let (cluster, policy) = ("cluster/cluster.json", "policy.signed.json");
        command.arg("--cluster").arg(self.file(cluster)?);
        command.arg("--policy").arg(self.file(policy)?);
        command.arg("--reference-values").arg(reference_values);
        command.arg("--kubeconfig").arg(self.file("kubeconfig")?);
        let status = self.mini(&["status"])?;
        for node in status["nodes"].as_array().context("nodes")? {
            let name = node["name"].as_str().context("a name")?;
            let port = &node["ports"]["verification"];
            command.arg("--at").arg(format!("{name}=127.0.0.1:{port}"));
        }
        Ok(())
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
        apply(self.kubectl_command()?, object)
    }

    /// Waits for a line with all of `words` in the join service's log.
    pub(crate) fn join_service_said(&self, words: &[&str]) -> Result<()> {
        let of = "app.kubernetes.io/name=join-service";
        let logs = [
            "-n",
            "constellation-system",
            "logs",
            "-l",
            of,
            "--tail",
            "50",
        ];
        until(&format!("the join service says {words:?}"), || {
            let log = self.kubectl(&logs)?;
            Ok(log
                .lines()
                .any(|line| words.iter().all(|word| line.contains(word))))
        })
    }

    fn kubectl_command(&self) -> Result<Command> {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(self.file("kubeconfig")?);
        Ok(command)
    }

    /// A file of the cluster's folder.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf> {
        if let Some(dir) = self.mini.dir() {
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

/// Applies an object by this `kubectl`.
pub(crate) fn apply(mut kubectl: Command, object: &Value) -> Result<()> {
    kubectl.args(["apply", "-f", "-"]).stdin(Stdio::piped());
    let mut child = kubectl.stdout(Stdio::null()).spawn()?;
    let mut input = child.stdin.take().context("kubectl reads")?;
    input.write_all(object.to_string().as_bytes())?;
    drop(input);
    ensure!(child.wait()?.success(), "kubectl apply of {object}");
    Ok(())
}

/// Runs a verb with its progress on this terminal.
pub(crate) fn follow(command: &mut Command) -> Result<()> {
    show(command.stdout(Stdio::null()))
}

/// Runs a program with its output on this terminal.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

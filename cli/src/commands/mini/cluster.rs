//! The operator's part: each step is a verb of this very program, as somebody would type it.
//!
//! Verbs are processes of their own, because each owns its standard output, its runtime and the
//! secrets in its memory.

use anyhow::{Context as _, Result, anyhow};
use kube::config::Kubeconfig;
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use vm::TpmAuthority;

use super::{
    folder::{Folder, Node},
    images::{folder_of, name_of},
    progress::Progress,
};
use crate::{
    files,
    output::{UNAVAILABLE, WithHint as _},
    secrets,
};

/// How often the cluster is looked at.
const POLL: Duration = Duration::from_secs(2);

/// Until all nodes are ready, under emulation.
const READY: Duration = Duration::from_secs(30 * 60);

/// Until the verification service of a node that just became ready answers.
const VERIFIED: Duration = Duration::from_secs(10 * 60);

/// How long `init` and `recover` try to reach a node that boots.
const WAIT: &str = "600";

/// A name in the certificate of every API server that kubeadm makes.
const SERVER_NAME: &str = "kubernetes";

/// Whoever owns the cluster.
#[derive(Debug)]
pub(super) struct Operator<'a> {
    folder: &'a Folder,
    progress: Progress,
    program: PathBuf,
}

impl<'a> Operator<'a> {
    pub(super) fn new(folder: &'a Folder, progress: &Progress) -> Result<Self> {
        Ok(Self {
            folder,
            progress: *progress,
            program: std::env::current_exe().context("find this program")?,
        })
    }

    /// Owner key and the passphrase of all secrets, which lie beside each other.
    pub(super) fn make_owner(&self) -> Result<()> {
        let passphrase = self.file("passphrase");
        if !passphrase.exists() {
            let mut random = [0; 32];
            secrets::random(&mut random)?;
            files::replace_secret(&passphrase, hex::encode(random).as_bytes())?;
        }
        if self.file("owner/owner.pub").exists() {
            return Ok(());
        }
        self.progress.say("an owner key is made");
        let mut verb = self.verb(&["owner", "new"]);
        verb.arg("--out").arg(self.file("owner"));
        self.answer(self.with_passphrase(&mut verb)).map(drop)
    }

    /// This owner's copy of an image, measured on the recorded firmware; where it is.
    pub(super) fn own(&self, image: &Path) -> Result<PathBuf> {
        let dir = folder_of(self.folder.path(), image)?;
        files::create_dir(&dir)?;
        let owned = dir.join("uki.efi");
        self.progress.say(&format!(
            "image `{}` is owned and measured",
            name_of(image)?
        ));
        let mut verb = self.verb(&["image", "own"]);
        verb.arg(image.join("uki.efi")).arg("--out").arg(&owned);
        self.answer(verb.arg("--owner").arg(self.file("owner/owner.pub")))?;
        let mut verb = self.verb(&["measure"]);
        verb.arg(&owned)
            .arg("--event-log")
            .arg(self.file("firmware.log"));
        let measured = self.answer(&mut verb)?;
        files::replace(
            &dir.join("measurements.json"),
            measured.to_string().as_bytes(),
        )?;
        Ok(owned)
    }

    /// Policy: these TPMs. Reference values: this image, in both roles.
    pub(super) fn sign_documents(&self, tpms: &TpmAuthority, image: &Path) -> Result<()> {
        if !self.file("policy.signed.json").exists() {
            let document = self.fresh("policy.json")?;
            let mut verb = self.verb(&["policy", "new"]);
            verb.arg(&document).arg("--bound-ek-ca").arg(tpms.root());
            self.answer(verb.arg("--ek-intermediate").arg(tpms.issuer()))?;
            self.sign("policy", &document)?;
        }
        if !self.file("reference-values.signed.json").exists() {
            let document = self.fresh("reference-values.json")?;
            let mut verb = self.verb(&["reference-values", "add"]);
            verb.arg(&document).arg("--image").arg(name_of(image)?);
            verb.args(["--role", "control-plane", "--role", "worker"]);
            let measurements = folder_of(self.folder.path(), image)?.join("measurements.json");
            self.answer(verb.arg("--measurements").arg(measurements))?;
            self.sign("reference-values", &document)?;
        }
        Ok(())
    }

    /// Whether the cluster was made.
    pub(super) fn has_cluster(&self) -> bool {
        self.file("cluster/kubeconfig").exists()
    }

    /// `constellation init` of the first node.
    pub(super) fn init(&self, first: &Node, whole: bool) -> Result<()> {
        self.progress
            .say(&format!("{}: `constellation init`", first.name));
        let mut verb = self.verb(&["init"]);
        verb.arg(format!("127.0.0.1:{}", first.ports.agent));
        verb.args(["--node-name", &first.name, "--wait", WAIT]);
        verb.args(["--endpoint", &format!("{}:6443", first.address)]);
        verb.arg("--workspace").arg(self.file("cluster"));
        if !whole {
            verb.args(["--until", "admitted"]);
        }
        self.with_owner_key(&mut verb);
        self.judge(&mut verb);
        self.answer(verb.stderr(Stdio::inherit()))
            .hint(format!(
                "the console of {} is in `nodes/{0}/console.log`; `constellation mini up` goes on",
                first.name
            ))
            .map(drop)
    }

    /// `constellation recover` of the first node.
    pub(super) fn recover(&self, first: &Node) -> Result<()> {
        self.progress
            .say(&format!("{}: `constellation recover`", first.name));
        let cluster = |name: &str| self.file("cluster").join(name);
        let mut verb = self.verb(&["recover"]);
        verb.arg(format!("127.0.0.1:{}", first.ports.agent));
        verb.arg("--records").arg(cluster("nodes.json"));
        verb.arg("--master-secret")
            .arg(cluster("master-secret.key"));
        verb.arg("--cluster").arg(cluster("cluster.json"));
        verb.args(["--wait", WAIT]);
        self.with_owner_key(&mut verb);
        self.judge(&mut verb);
        self.answer(verb.stderr(Stdio::inherit())).map(drop)
    }

    /// The administrator's kubeconfig, for this computer: through the loopback port.
    pub(super) fn write_kubeconfig(&self, first: &Node) -> Result<()> {
        let mut config = Kubeconfig::read_from(self.file("cluster/kubeconfig"))
            .context("read the cluster's kubeconfig")?;
        let port = first
            .ports
            .api
            .context("the first node has an API server")?;
        let clusters = config.clusters.iter_mut();
        for cluster in clusters.filter_map(|named| named.cluster.as_mut()) {
            cluster.server = Some(format!("https://127.0.0.1:{port}"));
            cluster.tls_server_name = Some(SERVER_NAME.to_owned());
        }
        // JSON is YAML, too.
        let text = serde_json::to_vec_pretty(&config).context("encode the kubeconfig")?;
        files::replace_secret(&self.kubeconfig(), &text)
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    /// `constellation status`.
    pub(super) fn status(&self) -> Result<Value> {
        let mut verb = self.verb(&["status", "--kubeconfig"]);
        self.answer(verb.arg(self.kubeconfig()))
    }

    /// Until these nodes are ready and said so in these boots of them.
    pub(super) fn wait_ready(&self, boots: &[(&str, u64)]) -> Result<()> {
        let nodes = boots.len();
        let end = Instant::now() + READY;
        let mut shown = None;
        loop {
            let status = self.status();
            let ready = status.as_ref();
            let ready = ready.map_or(0, |status| ready_nodes(status, boots));
            if shown != Some(ready) {
                self.progress
                    .say(&format!("{ready} of {nodes} nodes are ready"));
                shown = Some(ready);
            }
            if ready >= nodes {
                return Ok(());
            }
            if Instant::now() >= end {
                let last =
                    status.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
                return Err(anyhow!("not all nodes are ready: {last}"))
                    .hint("consoles are in `nodes/*/console.log`; `constellation mini up` goes on waiting");
            }
            thread::sleep(POLL);
        }
    }

    /// `constellation verify` of all nodes, again while one does not answer: it is ready before its
    /// verification service is.
    pub(super) fn verify(&self, nodes: &[Node]) -> Result<()> {
        let mut verb = self.verb(&["verify"]);
        for node in nodes {
            verb.arg(format!(
                "{}=127.0.0.1:{}",
                node.name, node.ports.verification
            ));
        }
        verb.arg("--owner").arg(self.file("owner/owner.pub"));
        verb.arg("--cluster").arg(self.file("cluster/cluster.json"));
        self.judge(&mut verb);
        self.progress.say("`constellation verify` of all nodes");
        let end = Instant::now() + VERIFIED;
        let mut ran = self.run(&mut verb)?;
        while ran.status.code() == Some(UNAVAILABLE.into()) && Instant::now() < end {
            thread::sleep(POLL);
            ran = self.run(&mut verb)?;
        }
        answer_of(&verb, &ran)?;
        self.progress
            .say("`constellation verify`: every node is what it should be");
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    /// A path where nothing is: what was there was not signed.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.file(name);
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("remove `{}`", path.display()))?;
        }
        Ok(path)
    }

    fn sign(&self, kind: &str, document: &Path) -> Result<()> {
        let mut verb = self.verb(&[kind, "sign"]);
        verb.arg(document)
            .arg("--out")
            .arg(self.file(&format!("{kind}.signed.json")));
        self.with_owner_key(&mut verb);
        self.answer(&mut verb).map(drop)
    }

    fn with_owner_key(&self, verb: &mut Command) {
        verb.arg("--owner-key").arg(self.file("owner/owner.key"));
        self.with_passphrase(verb);
    }

    fn with_passphrase<'c>(&self, verb: &'c mut Command) -> &'c mut Command {
        verb.arg("--passphrase-file").arg(self.file("passphrase"))
    }

    fn judge(&self, verb: &mut Command) {
        verb.arg("--policy").arg(self.file("policy.signed.json"));
        verb.arg("--reference-values")
            .arg(self.file("reference-values.signed.json"));
    }

    fn verb(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--output", "json"]).args(words);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// What a verb printed on standard output.
    fn answer(&self, verb: &mut Command) -> Result<Value> {
        let ran = self.run(verb)?;
        answer_of(verb, &ran)
    }

    fn run(&self, verb: &mut Command) -> Result<Output> {
        let child = verb.stdout(Stdio::piped()).spawn();
        let output = child.and_then(std::process::Child::wait_with_output);
        output.with_context(|| format!("run `{}`", self.program.display()))
    }
}

/// What a verb printed, if it succeeded.
fn answer_of(verb: &Command, ran: &Output) -> Result<Value> {
    if ran.status.success() {
        return serde_json::from_slice(&ran.stdout).context("a verb printed no JSON");
    }
    // Behind `--output json`.
    let words: Vec<_> = verb.get_args().skip(2).take(2).collect();
    let said = String::from_utf8_lossy(&ran.stderr);
    let said = match said.trim() {
        "" => String::from_utf8_lossy(&ran.stdout).trim().to_owned(),
        said => said.trim_start_matches("error: ").to_owned(),
    };
    let words = words.join(OsStr::new(" "));
    Err(anyhow!("`constellation {}`: {said}", words.display()))
}

/// How many of the nodes are ready by a status that was reported since they booted: after a power cut etcd remembers
/// what they said before.
fn ready_nodes(status: &Value, boots: &[(&str, u64)]) -> usize {
    let nodes = status.get("nodes").and_then(Value::as_array);
    let is_ready = |(name, boot): &&(&str, u64)| {
        nodes.into_iter().flatten().any(|node| {
            node.get("name").and_then(Value::as_str) == Some(name)
                && node.get("ready").and_then(Value::as_bool) == Some(true)
                && node.get("heartbeat").and_then(Value::as_u64) >= Some(*boot)
        })
    };
    boots.iter().filter(is_ready).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_nodes_that_said_in_this_boot_that_they_are_ready_count() {
        let node =
            |name, ready, heartbeat| json!({"name": name, "ready": ready, "heartbeat": heartbeat});
        let status = json!({"nodes": [
            node("ready", json!(true), json!(100)),
            node("not", json!(false), json!(100)),
            node("gone", json!(null), json!(null)),
            node("before", json!(true), json!(99)),
            {},
        ]});
        let boots = ["ready", "not", "gone", "before", "unknown"].map(|name| (name, 100));
        assert_eq!(ready_nodes(&status, &boots), 1);
        assert_eq!(ready_nodes(&status, &boots[1..]), 0);
        assert_eq!(ready_nodes(&json!({}), &boots), 0);
    }
}

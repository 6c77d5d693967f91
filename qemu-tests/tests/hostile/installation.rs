//! The real services, the software TPMs that they trust, and what must be true after an attack.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use guest_attester::Boot;
use owner::OwnerFingerprint;
use platform::tpm::{TpmAttester, Transport};
use qemu_tests::{Site, Workspace};
use serde_json::{Value, json};
use software_tpm::{Authority, Connection, SoftwareTpm};

use crate::session::Answer;

/// How long a service may take to write what it has done already.
const LOG: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// What a liar does to a command before its TPM sees it.
pub(crate) type Lie = fn(Vec<u8>) -> Vec<u8>;

/// Both services, running, with reference values for a TPM that measured nothing.
pub(crate) struct Installation {
    pub(crate) site: Site,
    authority: Authority,
    workspace: Workspace,
}

/// A node: its TPM, and one boot of it.
pub(crate) struct Node {
    pub(crate) boot: Boot,
    _tpm: SoftwareTpm,
}

impl Installation {
    /// Makes everything anew; `name` names the folder of logs.
    pub(crate) fn start(name: &str) -> Result<Self> {
        let workspace = Workspace::create(&format!("hostile-{name}"))?;
        let mut site = Site::borrow(&workspace)?;
        let authority = Authority::new()?;
        // The certificates are made with the first TPM.
        authority.manufacture()?;
        let (root, issuer) = (workspace.file("root.pem"), workspace.file("issuer.pem"));
        fs::write(&root, authority.root_pem()?)?;
        fs::write(&issuer, authority.issuer_pem()?)?;
        site.trust_roots(&root, &issuer)?;
        site.accept_image("untouched", &untouched())?;
        site.start()?;
        Ok(Self {
            site,
            authority,
            workspace,
        })
    }

    /// The last word of a test that went well: see [`Workspace::passed`].
    pub(crate) fn passed(mut self) -> Result<()> {
        self.site.kill()?;
        self.workspace.passed()
    }

    /// A node with a new TPM of the trusted authority.
    pub(crate) fn node(&self) -> Result<Node> {
        self.lying_node(|command| command)
    }

    /// The same with a lie under its attester.
    pub(crate) fn lying_node(&self, lie: Lie) -> Result<Node> {
        let tpm = self.authority.manufacture()?;
        let wire = Wire {
            connection: tpm.connect()?,
            lie,
        };
        let attester = TpmAttester::start(Box::new(wire), Vec::new())?;
        Ok(Node {
            boot: Boot::new(attester, self.owner()?)?,
            _tpm: tpm,
        })
    }

    /// Where the join service listens.
    pub(crate) fn address(&self) -> SocketAddr {
        let (_, port) = self.site.forward();
        ([127, 0, 0, 1], port).into()
    }

    /// The owner that nodes obey.
    pub(crate) fn owner(&self) -> Result<OwnerFingerprint> {
        Ok(self.site.owner.parse()?)
    }

    /// The attack ends in this answer, with the failed check in the join service's log and in its
    /// audit log, and no key is released.
    pub(crate) fn expect_refused(
        &self,
        answer: &Answer,
        check: &str,
        attack: impl FnOnce() -> Result<Answer>,
    ) -> Result<()> {
        self.expect_recorded(check, &["check failed", check], || {
            let got = attack()?;
            ensure!(got == *answer, "expected {answer:?}, got {got:?}");
            Ok(())
        })
    }

    /// The attack ends with a closed connection and without a word, because it breaks the protocol;
    /// the join service's log has a line with all of `words`, and no key is released.
    pub(crate) fn expect_broken_off(
        &self,
        words: &[&str],
        attack: impl FnOnce() -> Result<Answer>,
    ) -> Result<()> {
        let position = self.site.join_service.log_position();
        let got = self.without_release(attack)?;
        ensure!(got == Answer::Closed, "expected silence, got {got:?}");
        let words = [&["handshake failed"], words].concat();
        self.site.join_service.expect_log(position, &words, LOG)?;
        Ok(())
    }

    /// After the attack the join service's log has a line with all of `words`, its audit log another
    /// refusal for `check`, and no key was released.
    pub(crate) fn expect_recorded(
        &self,
        check: &str,
        words: &[&str],
        attack: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let position = self.site.join_service.log_position();
        let known = self.refused_checks()?.len();
        self.without_release(attack)?;
        self.site.join_service.expect_log(position, words, LOG)?;
        let end = Instant::now() + LOG;
        loop {
            let checks = self.refused_checks()?;
            let new = checks.get(known..).context("the audit log shrank")?;
            if new.iter().any(|got| got.starts_with(check)) {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "no refusal for `{check}` in the audit log; new: {new:?}"
            );
            thread::sleep(POLL);
        }
    }

    /// Does something after which neither service has recorded another release.
    fn without_release<T>(&self, attack: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.releases()?;
        let result = attack()?;
        let after = self.releases()?;
        ensure!(before == after, "a key was released: {before:?}, {after:?}");
        Ok(result)
    }

    /// How many releases the key service and the join service have recorded.
    pub(crate) fn releases(&self) -> Result<(usize, usize)> {
        let count = |service| -> Result<usize> {
            let events = self.events(service)?;
            let releases = events.iter().filter(|event| event["action"] == "release");
            Ok(releases.count())
        };
        Ok((count("key-service")?, count("join-service")?))
    }

    /// The first failed check of every refusal that the join service has recorded.
    fn refused_checks(&self) -> Result<Vec<String>> {
        let events = self.events("join-service")?;
        let refusals = events.iter().filter(|event| event["action"] == "refusal");
        let check = |event: &Value| {
            let check = event["checks"][0]["check"].as_str();
            check.unwrap_or_default().to_owned()
        };
        Ok(refusals.map(check).collect())
    }

    /// What a service has recorded; a line that is being written is not yet.
    fn events(&self, service: &str) -> Result<Vec<Value>> {
        let dir = self.site.dir().join(format!("{service}-audit"));
        let mut files = fs::read_dir(&dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<PathBuf>>>()?;
        files.sort();
        let mut events = Vec::new();
        for file in files.iter().filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "jsonl")
        }) {
            let text = fs::read_to_string(file)?;
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            for line in whole.lines() {
                let line: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
                events.push(line["body"]["entry"]["record"]["event"].clone());
            }
        }
        Ok(events)
    }
}

/// A TPM without firmware before it has zeros in every PCR that the policy lists.
fn untouched() -> Value {
    let zero = ["0".repeat(64)];
    let pcrs: serde_json::Map<_, _> = appraisal::REQUIRED_PCRS
        .map(|pcr| (pcr.to_string(), json!(zero)))
        .into_iter()
        .collect();
    json!({ "pcrs": pcrs })
}

struct Wire {
    connection: Connection,
    lie: Lie,
}

impl Transport for Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        self.connection.transact(&(self.lie)(command.to_vec()))
    }
}

/// A command with its first `from` replaced.
pub(crate) fn replace(mut command: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let found = command
        .windows(from.len())
        .position(|window| window == from);
    if let Some(at) = found {
        command.splice(at..at + from.len(), to.iter().copied());
    }
    command
}

/// Whether a TPM command has this code.
pub(crate) fn is_command(command: &[u8], code: u32) -> bool {
    command.get(6..10) == Some(&code.to_be_bytes())
}

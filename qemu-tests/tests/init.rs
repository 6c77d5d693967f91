//! The first node of a cluster, initialised by the operator's command line: no service runs anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Disk, Machine, Node, Scenario, Swtpm, direct_boot_pcrs, exit, program};
use serde_json::{Value, json};

/// Exit code of the agent: an init on a disk that another one made, or whose init is over
/// (`docs/agent.md`).
const INIT_REFUSED: u32 = 66;

/// A busy machine's time for one line of the console, or for powering off.
const LINE: Duration = Duration::from_secs(60);

/// Steps of a first boot at which its power is cut (`docs/agent.md`).
const STEPS: [&str; 8] = [
    "admitted",
    "ticket",
    "format",
    "header",
    "commit",
    "latch",
    "hand-off",
    "switch-root",
];

/// What the operator does, over one workspace.
struct Operator {
    owner_key: PathBuf,
    passphrase: PathBuf,
    documents: [PathBuf; 2],
    workspace: PathBuf,
}

impl Operator {
    fn new(scenario: &Scenario, workspace: &str) -> Self {
        let site = &scenario.site;
        Self {
            owner_key: site.cli.file("owner.key"),
            passphrase: site.cli.passphrase_file().to_owned(),
            documents: [
                site.documents.policy.clone(),
                site.documents.reference_values.clone(),
            ],
            workspace: scenario.workspace.file(workspace),
        }
    }

    /// The command, until the node is admitted.
    fn init(&self, port: u16, seconds: u32) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        command.arg(program("constellation").unwrap_or_default());
        command.args(["--output", "json", "init", &format!("127.0.0.1:{port}")]);
        let [policy, reference_values] = &self.documents;
        let files: [(&str, &Path); 5] = [
            ("--owner-key", &self.owner_key),
            ("--passphrase-file", &self.passphrase),
            ("--policy", policy),
            ("--reference-values", reference_values),
            ("--workspace", &self.workspace),
        ];
        for (flag, file) in files {
            command.arg(flag).arg(file);
        }
        command.args(["--node-name", "control-0", "--endpoint", "10.0.2.15:6443"]);
        command.args(["--until", "admitted", "--wait", &seconds.to_string()]);
        command
    }

    /// Initialises the node of this machine.
    fn admit(&self, machine: &Machine) -> Result<Value> {
        let answer = qemu_tests::run(&mut self.init(machine.push_port(), 120))?;
        serde_json::from_str(&answer).with_context(|| format!("`init` said {answer:?}"))
    }

    /// The same, which must fail with all of `words`.
    fn refused(&self, port: u16, words: &[&str]) -> Result<()> {
        let output = self.init(port, 120).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "the node was admitted");
        let found = words.iter().all(|word| error.contains(word));
        ensure!(found, "expected {words:?}, got {error}");
        Ok(())
    }

    /// While it runs in the background, whatever becomes of it.
    fn while_it_runs<T>(&self, port: u16, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut child = self
            .init(port, 120)
            .stdout(std::process::Stdio::null())
            .spawn()?;
        let outcome = work();
        child.kill()?;
        child.wait()?;
        outcome
    }
}

/// A site without services that takes the image for a control-plane node, and such a node; nothing
/// tells it where to join.
fn first_node(name: &str) -> Result<(Scenario, Node)> {
    let mut scenario = Scenario::direct(name)?;
    scenario.site.kill()?;
    let mut image = direct_boot_pcrs(scenario.accelerator)?;
    image["name"] = "test".into();
    image["roles"] = json!(["control-plane"]);
    scenario.site.declare_images(&json!([image]))?;
    let mut node = scenario.node("control-0")?;
    node.config.hints = None;
    node.config.forwards.clear();
    Ok((scenario, node))
}

#[test]
fn the_operator_makes_a_cluster_of_a_first_node() -> Result<()> {
    let (scenario, mut node) = first_node("init")?;
    // What is left for the bootstrapper, and for root alone.
    node.run_in_root(
        Path::new("/bin/true"),
        "; busybox stat -c 'material=%a,%s' /run/constellation/material.json; busybox grep -o '\"path\":\"[a-z]*\"' /run/constellation/handoff.json; busybox ls /run/constellation",
    )?;
    let operator = Operator::new(&scenario, "cluster");
    let mut machine = node.start("init")?;
    let answer = operator.admit(&machine)?;
    machine.expect_step("switch-root")?;
    for line in ["root: counter=1", "material=600,", "\"path\":\"init\""] {
        machine.console.expect(line, LINE)?;
    }
    machine.wait_off(LINE)?;
    let log = std::fs::read_to_string(machine.console.log())?;
    ensure!(
        !log.contains("kubelet-client.key"),
        "an init brings no kubelet's keys"
    );
    ensure!(answer["generation"] == 1, "{answer}");
    let state = std::fs::read(operator.workspace.join("init.json"))?;
    let state: Value = serde_json::from_slice(&state)?;
    ensure!(state["init"]["disk"] == answer["disk"], "{state}");
    ensure!(state["record"]["state"] == "issued", "{state}");

    // The power was cut before the bootstrapper was done: the same disk goes on.
    let mut machine = node.start("again")?;
    let again = operator.admit(&machine)?;
    machine.expect_unlocked(2)?;
    ensure!(
        again["disk"] == answer["disk"] && again["generation"] == 2,
        "{again}"
    );
    scenario.passed()
}

#[test]
fn an_init_cut_off_at_any_step_goes_on_with_the_same_disk() -> Result<()> {
    let (scenario, node) = first_node("killed-init")?;
    for step in STEPS {
        node.blank_state()?;
        let operator = Operator::new(&scenario, &format!("cluster-{step}"));
        let mut machine = node.start(&format!("killed-{step}"))?;
        operator.while_it_runs(machine.push_port(), || machine.expect_step(step).map(drop))?;
        machine.kill()?;
        let mut machine = node.start(&format!("healed-{step}"))?;
        operator
            .admit(&machine)
            .and_then(|_| machine.expect_unlocked(1))
            .with_context(|| format!("killed at {step}"))?;
    }
    scenario.passed()
}

#[test]
fn other_machines_disks_owners_and_known_disks_are_refused() -> Result<()> {
    let (scenario, node) = first_node("init-refused")?;
    let operator = Operator::new(&scenario, "cluster");
    let mut machine = node.start("init")?;
    operator.admit(&machine)?;
    machine.expect_unlocked(1)?;

    // The disk in another machine; and that machine with a disk of its own.
    let mut other = node.clone();
    let tpm = scenario.workspace.file("other.tpm");
    other.config.tpm = Some(Swtpm::manufacture(&tpm, &scenario.authority)?);
    let mut machine = other.start("other-machine")?;
    operator.refused(
        machine.push_port(),
        &["init: bound to disk", "another workspace"],
    )?;
    machine.expect_exit(&[exit::REFUSED])?;
    let blank = Disk::blank_state(&scenario.workspace.file("blank.raw"), 1024)?;
    let mut machine = other.with_state(&blank).start("other-machine-and-disk")?;
    operator.refused(machine.push_port(), &["init: bound to disk"])?;
    machine.expect_exit(&[exit::REFUSED])?;
    ensure!(blank.is_blank()?, "a refused node wrote to its disk");

    // A blank disk in the machine of the init: its generations begin again.
    let mut machine = node.with_state(&blank).start("other-disk")?;
    operator.refused(
        machine.push_port(),
        &["not the disk that the init began with"],
    )?;
    machine.expect_exit(&[exit::REFUSED])?;

    // Another init, on a disk with a header: it is somebody's, finished or not.
    let another = Operator::new(&scenario, "another");
    let mut machine = node.start("known-disk")?;
    another.refused(machine.push_port(), &["header of another cluster or init"])?;
    machine.expect_exit(&[INIT_REFUSED])?;

    // An owner that the image is not of gets no evidence, and the node goes on waiting.
    let mut foreign = Operator::new(&scenario, "foreign");
    foreign.become_another_owner(&scenario)?;
    let mut machine = node.start("foreign-owner")?;
    foreign.refused(machine.push_port(), &["the node refuses us"])?;
    operator.admit(&machine)?;
    machine.expect_unlocked(2)?;
    scenario.passed()
}

impl Operator {
    /// An owner key of its own, and the same documents under it.
    fn become_another_owner(&mut self, scenario: &Scenario) -> Result<()> {
        let dir = scenario.workspace.subdir("foreign-owner")?;
        let cli = qemu_tests::Cli::new(&dir)?;
        cli.owner_new()?;
        let site = scenario.site.dir();
        let signed = [
            dir.join("policy.signed.json"),
            dir.join("values.signed.json"),
        ];
        cli.policy_sign(&site.join("policy.json"), &signed[0])?;
        cli.reference_values_sign(&site.join("reference-values.json"), &signed[1])?;
        self.owner_key = cli.file("owner.key");
        self.passphrase = cli.passphrase_file().to_owned();
        self.documents = signed;
        Ok(())
    }
}

/// The services may be up: a node that looks for them takes an init as well.
#[test]
fn a_node_that_asks_for_a_join_takes_an_init() -> Result<()> {
    let (scenario, mut node) = first_node("init-or-join")?;
    node.config.hints = Some(scenario.site.hints("worker-7"));
    node.config.forwards = vec![scenario.site.forward()];
    let operator = Operator::new(&scenario, "cluster");
    let mut machine = node.start("init")?;
    let dialled = machine.expect_step("peer")?;
    ensure!(dialled.field("dialled") == Some("yes"), "{dialled:?}");
    thread::scope(|scope| -> Result<()> {
        let admitting = scope.spawn(|| operator.init(machine.push_port(), 120).output());
        let output = admitting.join().ok().context("a thread panicked")??;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    })?;
    let ticket = machine.expect_step("ticket")?;
    // The operator's name and role, not the host's.
    ensure!(ticket.field("node_name") == Some("control-0"), "{ticket:?}");
    ensure!(ticket.field("role") == Some("control-plane"), "{ticket:?}");
    machine.expect_unlocked(1)?;
    scenario.passed()
}

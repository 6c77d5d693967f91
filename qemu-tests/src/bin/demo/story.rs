//! The eight steps.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use qemu_tests::{
    Accelerator, AgentStep, Boot, ChangedUki, Image, Machine, MachineConfig, Node, Site,
    TpmAuthority, Workspace, exit, firmware_event_log,
};

use serde_json::Value;

use crate::view::{Progress, View};

/// How long the join service may take to log what it has already answered.
const LOG: Duration = Duration::from_secs(10);

/// The node's name, in hints and records.
const NODE: &str = "worker-0";

/// Tells the story; `verbose` shows the node's console.
pub(crate) fn tell(verbose: bool) -> Result<()> {
    let workspace = Workspace::create("demo")?;
    let mut view = View::new(verbose);
    let logs = workspace.dir().display().to_string();
    view.say(format_args!("logs of every part: {logs}"));
    let told = chapters(&workspace, &mut view, verbose);
    println!("\n{}", view.timeline());
    told.with_context(|| format!("logs: {logs}"))?;
    workspace.passed()
}

fn chapters(workspace: &Workspace, view: &mut View, verbose: bool) -> Result<()> {
    let image = Image::of("release")?;
    let accelerator = view.step("0 try KVM", |_| {
        let accelerator = qemu_tests::accelerator(&image.kernel())?;
        Ok((accelerator, format!("machines run on {accelerator}")))
    })?;
    let event_log = view.step("0 record what the firmware measures", |progress| {
        progress.phase("once for a firmware: boot an image that prints its event log");
        let log = firmware_event_log(accelerator)?;
        let note = log.display().to_string();
        Ok((log, note))
    })?;
    let mut story = view.step("1 owner, secrets, certificates", |_| {
        let story = Story::new(workspace, &image, accelerator, verbose)?;
        Ok((story, "admission key certified by the owner".to_owned()))
    })?;
    view.step(
        "2 own the image, measure it, start the services",
        |progress| story.publish(&image, event_log, progress),
    )?;
    view.step("3 boot a new node", |progress| {
        story.join("3-join", progress)
    })?;
    view.step("4 boot it again", |progress| {
        story.rejoin("4-rejoin", progress)
    })?;
    view.step("5 boot it with a changed command line", |progress| {
        story.changed_cmdline(&image, progress)
    })?;
    view.step("6 boot it with its disk blanked", |progress| {
        story.blank_disk(progress)
    })?;
    view.step("7 forget the node, boot it", |progress| {
        story.forget_and_join(progress)
    })?;
    view.step("8 stop the services, boot, recover", |progress| {
        story.recover(progress)
    })
}

/// The installation and its one node.
struct Story {
    site: Site,
    node: Node,
    uki: PathBuf,
    workspace: Workspace,
    /// What the node's real root has counted on its state disk.
    counter: u32,
}

/// What a step returns for the view: nothing, and the note on its line.
type Told = Result<((), String)>;

impl Story {
    fn new(
        workspace: &Workspace,
        image: &Image,
        accelerator: Accelerator,
        verbose: bool,
    ) -> Result<Self> {
        let authority = TpmAuthority::create(&workspace.file("tpm-authority"))?;
        let site = Site::create(workspace)?;
        site.trust(&authority)?;
        let uki = workspace.file("owned.efi");
        let boot = Boot::Firmware { uki: uki.clone() };
        let mut config = MachineConfig::new(workspace, accelerator, boot);
        config.echo = verbose;
        let node = Node::new(NODE, config, image, &site, &authority)?;
        Ok(Self {
            site,
            node,
            uki,
            workspace: workspace.clone(),
            counter: 0,
        })
    }

    fn publish(&mut self, image: &Image, event_log: PathBuf, progress: &Progress) -> Told {
        progress.phase("constellation image own");
        self.site.cli.image_own(&image.uki(), &self.uki)?;
        progress.phase("constellation measure");
        let measurements = self.site.cli.measure(&self.uki, &event_log)?;
        progress.phase("constellation reference-values add, sign");
        self.site.accept_image("demo", &measurements)?;
        progress.phase("start key service and join service");
        self.site.start()?;
        Ok(((), "both services are ready".to_owned()))
    }

    fn join(&mut self, name: &str, progress: &Progress) -> Told {
        self.counter = 0;
        progress.phase("firmware");
        let mut machine = self.node.start(name)?;
        self.unlocked(&mut machine, progress)?;
        Ok((
            (),
            "joined, formatted, unlocked, latched; wrote counter 1".to_owned(),
        ))
    }

    fn rejoin(&mut self, name: &str, progress: &Progress) -> Told {
        progress.phase("firmware");
        let mut machine = self.node.start(name)?;
        self.unlocked(&mut machine, progress)?;
        Ok((
            (),
            format!("rejoined; the data is there: counter {}", self.counter),
        ))
    }

    fn changed_cmdline(&mut self, image: &Image, progress: &Progress) -> Told {
        let changed = self.workspace.file("changed.efi");
        let mut uki = ChangedUki::of(&self.uki, &image.stub())?;
        uki.cmdline += " init=/bin/sh";
        uki.write(&changed)?;
        let mut node = self.node.clone();
        node.config.boot = Boot::Firmware { uki: changed };
        let logged = self.refused(
            &node,
            "5-changed-cmdline",
            &["check failed", "PCR 11"],
            progress,
        )?;
        Ok(((), format!("refused; the join service says: {logged}")))
    }

    fn blank_disk(&mut self, progress: &Progress) -> Told {
        self.node.blank_state()?;
        let logged = self.refused(
            &self.node,
            "6-blank-disk",
            &["request failed", "is active, but the disk is blank"],
            progress,
        )?;
        Ok(((), format!("refused; the join service says: {logged}")))
    }

    fn forget_and_join(&mut self, progress: &Progress) -> Told {
        progress.phase("constellation node forget");
        self.site.cli.node_forget(&self.site.admin_socket(), NODE)?;
        self.join("7-join-again", progress)
    }

    fn recover(&mut self, progress: &Progress) -> Told {
        progress.phase("keep a copy of the records, stop both services");
        let records = self.site.save_records()?;
        self.site.stop()?;
        progress.phase("firmware");
        let mut machine = self.node.start("8-recover")?;
        watch(&mut machine, progress, "peer")?;
        progress.phase("the node waits; constellation recover");
        self.site.recover(machine.push_port(), &records)?;
        self.unlocked(&mut machine, progress)?;
        Ok((
            (),
            format!("recovered without the services: counter {}", self.counter),
        ))
    }

    /// Follows a boot to the real root, which must find its data and count on.
    fn unlocked(&mut self, machine: &mut Machine, progress: &Progress) -> Result<()> {
        watch(machine, progress, "switch-root")?;
        progress.phase("the real root mounts its state");
        self.counter += 1;
        machine.expect_counter(self.counter)
    }

    /// Follows a boot to its refusal; returns the join service's line about it.
    fn refused(
        &self,
        node: &Node,
        boot: &str,
        words: &[&str],
        progress: &Progress,
    ) -> Result<String> {
        let position = self.site.join_service.log_position();
        progress.phase("firmware");
        let mut machine = node.start(boot)?;
        watch(&mut machine, progress, "failed")?;
        machine.expect_exit(&[exit::REFUSED])?;
        let line = self.site.join_service.expect_log(position, words, LOG)?;
        Ok(gist(&line))
    }
}

/// Shows the agent's steps until one of this name.
fn watch(machine: &mut Machine, progress: &Progress, wanted: &str) -> Result<()> {
    let show = |step: &AgentStep| {
        progress.phase(&format!(
            "agent: {} at {:.1} s",
            step.name,
            step.at.as_secs_f64()
        ));
    };
    machine.follow(|step| step.name == wanted, show).map(drop)
}

/// What a structured log line says about a refusal, short enough for one line.
fn gist(line: &str) -> String {
    let Ok(record) = serde_json::from_str::<Value>(line) else {
        return line.to_owned();
    };
    let field = |name: &str| record[name].as_str();
    let start = |digits: &str| digits.chars().take(12).collect::<String>();
    match (field("check"), field("expected"), field("got")) {
        (Some(check), Some(expected), Some(got)) => {
            format!(
                "{check}: expected {}…, got {}…",
                start(expected),
                start(got)
            )
        }
        _ => field("error").unwrap_or(line).to_owned(),
    }
}

//! The story, step by step.

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{ChangedUki, Chronicle, Disk, Image, Mini, Timeline, Workspace, run};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use crate::{
    measured, objects,
    operator::{Operator, follow, until},
    sockets,
};

pub(crate) const CONTROL: &str = "control-0";
pub(crate) const WORKER: &str = "worker-1";

/// Exit status of `verify` when a node is refused (docs/verify.md).
const REFUSED: i32 = 3;

/// The image that the story begins with, by its name in the reference values, and the next one.
const OLD: &str = "os";
const NEW: &str = "v2";

/// One that no control plane may run.
const FOR_WORKERS: &str = "v3";

/// Size of a state disk; it takes only the space that is written.
const STATE_MIB: u64 = 16 * 1024;

pub(crate) struct Story {
    image: PathBuf,
    operator: Operator,
    workspace: Workspace,
    chronicle: Chronicle,
}

impl Story {
    pub(crate) fn begin(image: &str) -> Result<Self> {
        let (workspace, mini) = Mini::create("e2e")?;
        Ok(Self {
            image: Path::new(image).canonicalize()?,
            operator: Operator::of(mini)?,
            workspace,
            chronicle: Chronicle::begin(),
        })
    }

    pub(crate) fn tell(&mut self) -> Result<()> {
        self.cluster()?;
        self.pods()?;
        self.looked_at()?;
        self.reboot()?;
        self.recovery()?;
        self.update()?;
        self.refused_role()
    }

    /// `init`, a worker joins, both are verified.
    fn cluster(&mut self) -> Result<()> {
        let image = self.image.display().to_string();
        self.operator.mini(&["up", "--image", &image])?;
        self.operator
            .kubectl_shown(&["get", "nodes", "-o", "wide"])?;
        self.chronicle
            .point("init, a worker joins, both are verified");
        let owned = |name: &str| self.operator.file(&format!("images/{OLD}/{name}"));
        let (uki, measurements) = (owned("uki.efi")?, owned("measurements.json")?);
        measured::agree(&uki, &measurements, self.workspace.dir())?;
        self.chronicle
            .point("`systemd-measure` says the same of the image");
        Ok(())
    }

    /// A pod on the worker answers through a Service.
    fn pods(&mut self) -> Result<()> {
        self.operator.apply(&objects::web())?;
        self.operator.apply(&objects::web_service())?;
        self.operator
            .kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"])?;
        self.ask("ask-1")?;
        self.chronicle
            .point("a pod on the worker answers through a Service");
        Ok(())
    }

    /// Asks the Service from a pod on the other node.
    fn ask(&self, name: &str) -> Result<()> {
        let address = ["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"];
        let address = self.operator.kubectl(&address)?;
        self.operator.apply(&objects::ask(name, &address))?;
        until("the Service answers", || {
            let answer = self.operator.kubectl(&["logs", name])?;
            Ok(answer.contains(objects::ANSWER))
        })?;
        let place = "jsonpath={.items[*].spec.nodeName}";
        let place = ["get", "pods", "-l", "app=web", "-o", place];
        let place = self.operator.kubectl(&place)?;
        ensure!(place == WORKER, "the pod is on {place:?}");
        Ok(())
    }

    /// Nothing listens on either node, and nothing is set-id, beyond what docs/os-image.md says.
    fn looked_at(&mut self) -> Result<()> {
        let pod = |node: &str| format!("look-{node}");
        for node in [CONTROL, WORKER] {
            self.operator.apply(&objects::look(&pod(node), node))?;
        }
        for node in [CONTROL, WORKER] {
            let mut seen = String::new();
            until("a node is looked at", || {
                seen = self.operator.kubectl(&["logs", &pod(node)])?;
                Ok(seen.trim_end().ends_with(objects::LOOKED))
            })?;
            sockets::check(&seen, node == CONTROL).with_context(|| format!("{node}: {seen}"))?;
        }
        self.chronicle
            .point("both nodes: only documented ports, nothing set-id in the root");
        Ok(())
    }

    fn reboot(&mut self) -> Result<()> {
        let path = "jsonpath={.status.nodeInfo.bootID}";
        let boot = || self.operator.kubectl(&["get", "node", WORKER, "-o", path]);
        let before = boot()?;
        self.operator.mini(&["restart", WORKER])?;
        until("the node's next boot", || Ok(boot()? != before))?;
        self.operator.mini(&["up"])?;
        self.was_admitted(WORKER, "rejoin")?;
        self.chronicle.point("the worker reboots and rejoins");
        Ok(())
    }

    /// Power off everywhere; the control plane waits, is recovered, the worker follows.
    fn recovery(&mut self) -> Result<()> {
        self.operator.mini(&["down"])?;
        self.operator.mini(&["up"])?;
        self.was_admitted(CONTROL, "recover")?;
        self.was_admitted(WORKER, "rejoin")?;
        let word = ["get", "configmap", "kept", "-o", "jsonpath={.data.word}"];
        let word = self.operator.kubectl(&word)?;
        ensure!(word == "kept", "the ConfigMap says {word:?}");
        self.ask("ask-2")?;
        self.chronicle
            .point("all off; recover; pod and data are there");
        Ok(())
    }

    /// Both nodes get another image, the worker first; then the old one is refused.
    fn update(&mut self) -> Result<()> {
        let values = self.operator.reference_values()?;
        let old_values = self.workspace.file("old-values.signed.json");
        fs::copy(&values, &old_values)?;
        let image = self.other_image(NEW)?;
        self.accept(NEW, &image, &["worker", "control-plane"])?;
        self.chronicle.point("the cluster accepts a second image");
        self.roll_out(WORKER, &image)?;
        self.chronicle
            .point("the worker is drained, has the new image, is verified");
        let (status, found) = self.operator.verify(&old_values)?;
        ensure!(
            status == Some(REFUSED),
            "verify by the old values: {status:?}"
        );
        let result = |name: &str| {
            let nodes = found["nodes"].as_array().into_iter().flatten();
            let mut nodes = nodes.filter(|node| node["name"] == name);
            nodes.next().map(|node| node["result"].clone())
        };
        let results = (result(CONTROL), result(WORKER));
        let right = (Some(json!("verified")), Some(json!("refused")));
        ensure!(results == right, "verify by the old values: {found}");
        self.chronicle
            .point("verify by the old image's values: the worker is refused");
        self.roll_out(CONTROL, &image)?;
        self.chronicle
            .point("the only control plane has the new image, is recovered and verified");
        let mut retire = self.operator.constellation(&["upgrade", "retire", OLD]);
        self.operator.judge(&mut retire, &values)?;
        self.operator.sign(&mut retire)?;
        follow(&mut retire)?;
        let old = self.image.display().to_string();
        self.operator.mini(&["restart", WORKER, "--image", &old])?;
        self.until_refused("the retired image is refused")?;
        self.operator.join_service_said(&["PCR 11"])?;
        self.chronicle
            .point("the old image is retired, and refused");
        Ok(())
    }

    /// A new machine with an image for workers, whose host hints that it be a control plane.
    fn refused_role(&mut self) -> Result<()> {
        let image = self.other_image(FOR_WORKERS)?;
        self.accept(FOR_WORKERS, &image, &["worker"])?;
        self.operator.kubectl(&["delete", "node", WORKER])?;
        let disk = self.operator.file(&format!("nodes/{WORKER}/state.raw"))?;
        let blank = self.workspace.file("blank.raw");
        Disk::blank_state(&blank, STATE_MIB)?;
        fs::rename(&blank, &disk)?;
        let hints = self.operator.file(&format!("nodes/{WORKER}/hints.json"))?;
        let honest = fs::read_to_string(&hints)?;
        fs::write(&hints, honest.replace(r#""worker""#, r#""control-plane""#))?;
        let image = image.display().to_string();
        self.operator
            .mini(&["restart", WORKER, "--image", &image])?;
        self.until_refused("the role is refused")?;
        self.operator
            .join_service_said(&[FOR_WORKERS, "not for role control-plane"])?;
        self.chronicle
            .point("a worker's image that asks for control plane: refused");
        Ok(())
    }

    /// `constellation upgrade add`.
    fn accept(&self, name: &str, image: &Path, roles: &[&str]) -> Result<()> {
        let mut add = self.operator.constellation(&["upgrade", "add", name]);
        for role in roles {
            add.args(["--role", role]);
        }
        add.arg("--measurements").arg(self.measure(image)?);
        add.arg("--reference-values")
            .arg(self.operator.reference_values()?);
        add.arg("--kubeconfig")
            .arg(self.operator.file("kubeconfig")?);
        self.operator.sign(&mut add)?;
        follow(&mut add)
    }

    /// `constellation upgrade node`, and what gives the machine its disks.
    fn roll_out(&self, node: &str, image: &Path) -> Result<()> {
        let mut restart = vec!["restart", node, "--image"];
        let image = image.display().to_string();
        restart.push(&image);
        let mut replace = self.operator.mini_line(&restart)?;
        if node == CONTROL {
            // Nobody else could give it its key.
            replace = format!("{replace} && {}", self.operator.mini_line(&["up"])?);
        }
        let mut upgrade = self.operator.constellation(&["upgrade", "node", node]);
        upgrade.args(["--to", NEW, "--replace-with", &replace]);
        let owner = self.operator.file("owner/owner.pub")?;
        upgrade.arg("--owner").arg(owner);
        let values = self.operator.reference_values()?;
        self.operator.judge(&mut upgrade, &values)?;
        follow(&mut upgrade)
    }

    /// By which path the node's present boot got its key.
    fn was_admitted(&self, node: &str, path: &str) -> Result<()> {
        let console = self.operator.console(node)?;
        let ticket = console.lines().find(|line| line.contains(" ticket path="));
        let ticket = ticket.with_context(|| format!("{node} has no ticket"))?;
        let right = ticket.contains(&format!(" path={path} "));
        ensure!(right, "{node} is not there by {path}: {ticket}");
        Ok(())
    }

    /// Waits until the worker's present boot ends so.
    fn until_refused(&self, what: &str) -> Result<()> {
        let mut admitted = false;
        until(what, || {
            let console = self.operator.console(WORKER)?;
            admitted = console.contains(" switch-root");
            let refused = console.contains(" reason=refused ");
            Ok(refused || admitted)
        })?;
        ensure!(!admitted, "{what}: it was admitted");
        Ok(())
    }

    /// The image with one more word on its command line, as a folder. It is no module's, and means nothing.
    fn other_image(&self, name: &str) -> Result<PathBuf> {
        let dir = self.workspace.subdir(name)?;
        for file in ["root.img", "esp.img", "vmlinuz"] {
            symlink(self.image.join(file), dir.join(file))?;
        }
        let stub = Image::of("release")?.stub();
        let mut uki = ChangedUki::of(&self.image.join("uki.efi"), &stub)?;
        uki.cmdline = format!("{} demo.release={name}", uki.cmdline);
        uki.write(&dir.join("uki.efi"))?;
        Ok(dir)
    }

    fn measure(&self, image: &Path) -> Result<PathBuf> {
        let owned = image.join("owned.efi");
        let mut own = self.operator.constellation(&["image", "own"]);
        own.arg(image.join("uki.efi")).arg("--owner");
        own.arg(self.operator.file("owner/owner.pub")?);
        run(own.arg("--out").arg(&owned))?;
        let mut measure = self.operator.constellation(&["measure"]);
        measure.arg(&owned).arg("--event-log");
        let measured = run(measure.arg(self.operator.file("firmware.log")?))?;
        let path = image.join("measurements.json");
        fs::write(&path, measured).context("keep the measurements")?;
        Ok(path)
    }

    pub(crate) fn timeline(&self) -> Timeline {
        self.chronicle.timeline()
    }

    /// The ends of the consoles.
    pub(crate) fn consoles(&self) -> String {
        let tail = |node: &str| {
            let text = self.operator.console(node).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(40);
            format!("--- {node}\n{}\n", lines[from..].join("\n"))
        };
        [CONTROL, WORKER].map(tail).concat()
    }

    /// Switches everything off.
    pub(crate) fn end(&self) -> Result<()> {
        let down = ["down", "--timeout", "10"];
        self.operator.mini(&down).map(drop)
    }

    /// Only records stay.
    pub(crate) fn passed(&self) -> Result<()> {
        self.workspace.passed()
    }
}

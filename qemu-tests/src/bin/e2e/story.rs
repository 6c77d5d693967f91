//! The story, step by step.

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{ChangedUki, Image, Timeline, Workspace, run};
use serde_json::json;
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::operator::{Operator, until};

const CONTROL: &str = "control-0";
const WORKER: &str = "worker-1";

/// Exit status of `verify` when a node is refused (docs/verify.md).
const REFUSED: i32 = 3;

/// The baked-in image of pods.
const DEMO: &str = concat!("constellation.internal/demo:", env!("CARGO_PKG_VERSION"));

pub(crate) struct Story {
    image: PathBuf,
    operator: Operator,
    workspace: Workspace,
    begin: Instant,
    points: Vec<(&'static str, Duration)>,
}

impl Story {
    pub(crate) fn begin(image: &str) -> Result<Self> {
        let workspace = Workspace::create("e2e")?;
        Ok(Self {
            image: Path::new(image).canonicalize()?,
            operator: Operator::in_folder(&workspace.subdir("mini")?)?,
            workspace,
            begin: Instant::now(),
            points: Vec::new(),
        })
    }

    pub(crate) fn tell(&mut self) -> Result<()> {
        self.cluster()?;
        self.pods()?;
        self.other_values()?;
        self.reboot()?;
        self.recovery()?;
        self.refused_role()?;
        self.update()
    }

    /// `init`, a worker joins, both are verified.
    fn cluster(&mut self) -> Result<()> {
        let image = self.image.display().to_string();
        self.operator.mini(&["up", "--image", &image])?;
        self.operator
            .kubectl_shown(&["get", "nodes", "-o", "wide"])?;
        self.point("init, a worker joins, verify");
        Ok(())
    }

    /// A pod on the worker answers through a Service.
    fn pods(&mut self) -> Result<()> {
        let serve = "mkdir /tmp/www && echo confidential >/tmp/www/index.html && \
                     exec busybox httpd -f -p 8080 -h /tmp/www";
        self.operator.apply(&pod("web", serve, "Always"))?;
        self.operator.apply(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }))?;
        self.operator
            .kubectl(&["create", "configmap", "kept", "--from-literal=word=kept"])?;
        self.ask("ask-1")?;
        self.point("a pod answers through a Service");
        Ok(())
    }

    /// Asks the Service from a pod of its own.
    fn ask(&self, name: &str) -> Result<()> {
        let address = ["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"];
        let address = self.operator.kubectl(&address)?;
        let script = format!("until busybox wget -q -O - http://{address}/; do sleep 1; done");
        self.operator.apply(&pod(name, &script, "Never"))?;
        until("the Service answers", || {
            let answer = self.operator.kubectl(&["logs", name])?;
            Ok(answer.contains("confidential"))
        })
    }

    /// By the values of another image nobody is verified.
    fn other_values(&mut self) -> Result<()> {
        let other = self.other_image("other", "constellation.other=1")?;
        let measurements = self.measure(&other)?;
        let values = self.workspace.file("other-values.json");
        let signed = self.workspace.file("other-values.signed.json");
        let mut add = self
            .operator
            .constellation(&["reference-values", "add", "--image", "other"]);
        add.args(["--role", "worker", "--role", "control-plane"]);
        run(add.arg(&values).arg("--measurements").arg(&measurements))?;
        let mut sign = self.operator.owner(&["reference-values", "sign"])?;
        run(sign.arg(&values).arg("--out").arg(&signed))?;
        let status = self.operator.verify(&signed)?;
        ensure!(
            status == Some(REFUSED),
            "verify by other values: {status:?}"
        );
        self.point("verify by another image's values: refused");
        Ok(())
    }

    fn reboot(&mut self) -> Result<()> {
        self.restart_worker(&[])?;
        self.point("the worker reboots and rejoins");
        Ok(())
    }

    /// Power off everywhere; the control plane waits, is recovered, the worker follows.
    fn recovery(&mut self) -> Result<()> {
        self.operator.mini(&["down"])?;
        self.operator.mini(&["up"])?;
        let word = ["get", "configmap", "kept", "-o", "jsonpath={.data.word}"];
        let word = self.operator.kubectl(&word)?;
        ensure!(word == "kept", "the ConfigMap says {word:?}");
        self.ask("ask-2")?;
        self.point("all off; recover; pod and data are there");
        Ok(())
    }

    /// A worker whose host hints that it be a control plane.
    fn refused_role(&mut self) -> Result<()> {
        let hints = self.operator.file(&format!("nodes/{WORKER}/hints.json"))?;
        let honest = fs::read_to_string(&hints)?;
        fs::write(&hints, honest.replace(r#""worker""#, r#""control-plane""#))?;
        self.operator.mini(&["restart", WORKER])?;
        until("the role is refused", || self.is_refused())?;
        fs::write(&hints, honest)?;
        self.restart_worker(&[])?;
        self.point("a worker that asks for control plane: refused");
        Ok(())
    }

    /// The worker gets another image: refused before the cluster knows it, admitted after.
    fn update(&mut self) -> Result<()> {
        let new = self.other_image("v2", "constellation.release=2")?;
        let path = new.display().to_string();
        self.operator.mini(&["restart", WORKER, "--image", &path])?;
        until("the unknown image is refused", || self.is_refused())?;
        self.point("a worker of an unknown image: refused");
        let measurements = self.operator.file("images/v2/measurements.json")?;
        let add = ["upgrade", "add", "v2", "--role", "worker"];
        let mut add = self.operator.owner(&add)?;
        add.arg("--measurements").arg(measurements);
        let values = self.operator.file("reference-values.signed.json")?;
        add.arg("--reference-values").arg(values);
        add.arg("--kubeconfig")
            .arg(self.operator.file("kubeconfig")?);
        run(&mut add)?;
        self.restart_worker(&[])?;
        self.operator.verify_shown()?;
        self.point("the worker runs the new image");
        Ok(())
    }

    fn is_refused(&self) -> Result<bool> {
        let console = self.operator.console(WORKER)?;
        let exit = console.lines().find(|line| line.contains(" exit code="));
        Ok(exit.is_some_and(|line| line.contains("refused")))
    }

    /// Restarts the worker and waits until its next boot is a ready node.
    fn restart_worker(&self, more: &[&str]) -> Result<()> {
        let path = "jsonpath={.status.nodeInfo.bootID}";
        let boot = || self.operator.kubectl(&["get", "node", WORKER, "-o", path]);
        let before = boot()?;
        self.operator.mini(&[&["restart", WORKER], more].concat())?;
        until("the node's next boot", || Ok(boot()? != before))?;
        self.operator.mini(&["up"]).map(drop)
    }

    /// The image with one more word on its command line, as a folder.
    fn other_image(&self, name: &str, word: &str) -> Result<PathBuf> {
        let dir = self.workspace.subdir(name)?;
        for file in ["root.img", "esp.img", "vmlinuz"] {
            symlink(self.image.join(file), dir.join(file))?;
        }
        let stub = Image::of("release")?.stub();
        let mut uki = ChangedUki::of(&self.image.join("uki.efi"), &stub)?;
        uki.cmdline = format!("{} {word}", uki.cmdline);
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

    fn point(&mut self, label: &'static str) {
        let at = self.begin.elapsed();
        println!("{:7.1} s  {label}", at.as_secs_f64());
        self.points.push((label, at));
    }

    pub(crate) fn timeline(&self) -> Timeline {
        Timeline::from_points(self.points.iter().copied())
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

    pub(crate) fn end(&self) -> Result<()> {
        self.operator.mini(&["down", "--timeout", "10"]).map(drop)
    }
}

/// A pod on the worker.
fn pod(name: &str, script: &str, restart: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": WORKER, "restartPolicy": restart, "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": name, "image": DEMO, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", script],
            }],
        },
    })
}

//! Two machines with the OS image: how large it is, and what a boot's time goes to.

use crate::{report::Report, tickets::count};
use anyhow::{Context as _, Result, bail};
use qemu_tests::{AgentStep, Image, Mini};
use std::{fs, path::Path, time::Instant};

const CONTROL: &str = "control-0";
const WORKER: &str = "worker-1";

/// The agent's lines that are shown, and the bootstrapper's phases that take time.
const STEPS: [&str; 4] = ["network", "ticket", "mapping", "switch-root"];
const PHASES: [&str; 6] = [
    "container-runtime",
    "images",
    "api-server",
    "node-ready",
    "services",
    "services-ready",
];

/// What the bootstrapper says when the state file system is mounted.
const STATE: &str = "state: mounted";

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let image = Image::of("os")?;
    for (name, path) in [("root", image.root()), ("uki", image.uki())] {
        let bytes = fs::metadata(&path).with_context(|| format!("size of {}", path.display()))?;
        report.figure(
            &format!("os_{name}_bytes"),
            count(bytes.len().try_into()?),
            "",
        );
    }
    let (workspace, mini) = Mini::create("bench-os")?;
    let lived = Lab { mini: &mini }.live(&image, report);
    let down = mini.run(&["down", "--timeout", "5"]);
    lived?;
    down?;
    workspace.passed()
}

struct Lab<'a> {
    mini: &'a Mini,
}

impl Lab<'_> {
    fn live(&self, image: &Image, report: &mut Report) -> Result<()> {
        let image = image.dir().to_str().context("a path is not UTF-8")?;
        let made = timed(|| self.mini.run(&["up", "--image", image]))?;
        report.figure(
            "os_up_s",
            made,
            "two machines off, until both are verified: init, join",
        );
        self.boot("init", CONTROL, report)?;
        self.boot("join", WORKER, report)?;
        let down = timed(|| self.mini.run(&["down"]))?;
        report.figure("os_down_s", down, "by the power button");
        let again = timed(|| self.mini.run(&["up"]))?;
        report.figure("os_up_again_s", again, "the same: recover, rejoin");
        self.boot("recover", CONTROL, report)?;
        self.boot("rejoin", WORKER, report)
    }

    /// Seconds on the clock of a node's present boot, which starts with its kernel.
    fn boot(&self, kind: &str, node: &str, report: &mut Report) -> Result<()> {
        let dir = self.mini.dir().context("a folder")?;
        let path = dir.join("nodes").join(node).join("console.log");
        let points = points(&path)?;
        for (step, second) in &points {
            report.figure(&format!("os_{kind}_s.{step}"), *second, "");
        }
        match points.iter().any(|(step, _)| step == "node-ready") {
            true => Ok(()),
            false => bail!("{node} has no phase `node-ready`: {}", path.display()),
        }
    }
}

fn points(console: &Path) -> Result<Vec<(String, f64)>> {
    let text = fs::read(console).with_context(|| format!("read {}", console.display()))?;
    let text = String::from_utf8_lossy(&text);
    let mut points: Vec<(String, f64)> = Vec::new();
    for (step, second) in text.lines().filter_map(point) {
        // A step that comes again counts from its last time: attempts that failed are before it.
        points.retain(|(known, _)| known != step);
        points.push((step.to_owned(), second));
    }
    Ok(points)
}

fn point(line: &str) -> Option<(&'static str, f64)> {
    if let Some(step) = AgentStep::parse(line) {
        let name = STEPS.into_iter().find(|name| step.name == *name)?;
        return Some((name, step.at.as_secs_f64()));
    }
    let (stamp, said) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    let second = stamp.trim().parse().ok()?;
    if said.contains(STATE) {
        return Some(("state", second));
    }
    let phase = |name: &&str| said.contains(&format!(r#""phase":"{name}""#));
    let name = PHASES.into_iter().find(phase)?;
    said.contains("phase done").then_some((name, second))
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_tells_when_what_was_done() {
        let phase = r#"[   40.755932] bootstrapper[285]: {"level":"INFO","message":"phase done","phase":"images","milliseconds":27}"#;
        assert_eq!(point(phase), Some(("images", 40.755_932)));
        assert_eq!(point(&phase.replace("phase done", "phase begins")), None);
        let agent = "agent: 24.002 switch-root init=/sbin/init";
        assert_eq!(point(agent), Some(("switch-root", 24.002)));
        let state = "[   29.281588] bootstrapper[231]: state: mounted generation=2 node=control-0";
        assert_eq!(point(state), Some(("state", 29.281_588)));
        assert_eq!(point("[    1.0] something else"), None);
    }
}

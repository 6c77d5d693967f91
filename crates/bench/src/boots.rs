//! Sizes, boots over the floor, and formatting; all in virtual machines.

use crate::{
    report::{Goal, Report},
    statistics::median,
};
use anyhow::{Context as _, Result};
use qemu_tests::{
    Accelerator, Boot, Disk, Image, Machine, MachineConfig, Node, Site, TpmAuthority, Workspace,
    direct_boot_pcrs, firmware_event_log,
};
use serde_json::Value;
use std::{fs, time::Duration};

/// Boots of each kind; each figure is the median.
const BOOTS: usize = 5;

/// First boots with each size of disk.
const FORMATS: usize = 3;

/// A firmware boot under emulation on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The kernel's last word, at once when init powers off.
const POWER_DOWN: &str = "reboot: Power down";

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let image = Image::of("release")?;
    sizes(&image, report)?;
    let mut lab = Lab::open(image)?;
    let boots = lab.rejoins()?;
    boots.report(report)?;
    let small = lab.format(1)?;
    let large = lab.format(64)?;
    report.figure("format_ms_1g", small, "median of 3 joins");
    report.figure(
        "format_ms_64g",
        large,
        "sparse disk; journal zeros included",
    );
    report.goal("format_64g_over_1g", large / small, Goal::AtMost(1.5), "");
    lab.site.stop()?;
    lab.workspace.passed()
}

fn sizes(image: &Image, report: &mut Report) -> Result<()> {
    let manifest: Value = serde_json::from_slice(&fs::read(image.dir().join("image.json"))?)?;
    let agent = manifest["init_bytes"].as_f64();
    let agent = agent.context("`image.json` does not say how large the agent is")?;
    let initrd = fs::read(image.initrd())?.len();
    report.goal("agent_bytes", agent, Goal::AtMost(5.0 * MIB), "");
    let initrd = crate::tickets::count(initrd);
    report.goal("initrd_bytes", initrd, Goal::AtMost(8.0 * MIB), "");
    Ok(())
}

/// An installation that accepts the release image, with firmware and without.
struct Lab {
    workspace: Workspace,
    accelerator: Accelerator,
    image: Image,
    authority: TpmAuthority,
    site: Site,
}

impl Lab {
    fn open(image: Image) -> Result<Self> {
        let workspace = Workspace::create("bench-boots")?;
        let accelerator = qemu_tests::accelerator(&image.kernel())?;
        let authority = TpmAuthority::create(&workspace.file("tpm-authority"))?;
        let mut site = Site::create(&workspace)?;
        site.trust(&authority)?;
        let owned = workspace.file("owned.efi");
        site.cli.image_own(&image.uki(), &owned)?;
        let log = firmware_event_log(accelerator)?;
        site.accept_image("firmware", &site.cli.measure(&owned, &log)?)?;
        site.accept_image("direct", &direct_boot_pcrs(accelerator)?)?;
        site.start()?;
        Ok(Self {
            workspace,
            accelerator,
            image,
            authority,
            site,
        })
    }

    /// Rejoins and boots of the floor by turns, on the same machine.
    fn rejoins(&mut self) -> Result<Rejoins> {
        let owned = self.workspace.file("owned.efi");
        let node = self.node("rejoins", Boot::Firmware { uki: owned })?;
        unlock(&mut node.start("join")?)?;
        let floor = self.workspace.file("floor.efi");
        let uki = Image::of("floor")?.uki();
        self.site.cli.image_own(&uki, &floor)?;
        let mut floor_config = node.config.clone();
        floor_config.boot = Boot::Firmware { uki: floor };
        let mut rejoins = Rejoins::default();
        for turn in 0..BOOTS {
            let floor = floor_config.start(&format!("floor.{turn}"))?;
            rejoins.floors.push(power_down(floor)?);
            let mut rejoin = node.start(&format!("rejoin.{turn}"))?;
            unlock(&mut rejoin)?;
            rejoins.add(&rejoin)?;
        }
        Ok(rejoins)
    }

    /// Milliseconds from the ticket to the formatted disk, of this many GiB.
    fn format(&mut self, gibibytes: u64) -> Result<f64> {
        let owner = format!("constellation.owner={}", self.site.owner);
        let boot = self.image.direct(&owner)?;
        let mut times = Vec::with_capacity(FORMATS);
        for turn in 0..FORMATS {
            let name = format!("format-{gibibytes}-{turn}");
            let mut node = self.node(&name, boot.clone())?;
            let path = node.state.path().to_owned();
            node.state = Disk::blank_state(&path, gibibytes * 1024)?;
            node.config.disks.pop();
            node.config.disks.push(node.state.clone());
            let mut machine = node.start("join")?;
            unlock(&mut machine)?;
            let steps = agent_steps(&machine);
            times.push(since(&steps, "ticket", "format")?);
            fs::remove_file(&path)?;
        }
        median(times).context("nothing was formatted")
    }

    fn node(&self, name: &str, boot: Boot) -> Result<Node> {
        let config = MachineConfig::new(&self.workspace, self.accelerator, boot);
        Node::new(name, config, &self.image, &self.site, &self.authority)
    }
}

/// Seconds until init powers off. The machine ends here: the next one needs its place.
fn power_down(mut machine: Machine) -> Result<f64> {
    let line = machine.console.expect(POWER_DOWN, PATIENCE)?;
    machine.wait_off(PATIENCE)?;
    Ok(line.at.as_secs_f64())
}

/// The boot goes all the way: the agent unlocks, the real root writes and powers off.
fn unlock(machine: &mut Machine) -> Result<()> {
    machine.expect_step("switch-root")?;
    machine.console.expect("root: status=ok", PATIENCE)?;
    machine.wait_off(PATIENCE).map(drop)
}

/// What the agent reported, with its own clock, in milliseconds.
type Steps = Vec<(String, f64)>;

fn agent_steps(machine: &Machine) -> Steps {
    let steps = machine.console.agent_steps().into_iter();
    steps
        .map(|(_, step)| (step.name, step.at.as_secs_f64() * 1e3))
        .collect()
}

fn since(steps: &Steps, from: &str, to: &str) -> Result<f64> {
    let at = |name: &str| {
        let step = steps.iter().find(|(step, _)| step == name);
        step.map(|(_, at)| *at)
            .with_context(|| format!("the agent reported no `{name}`"))
    };
    Ok(at(to)? - at(from)?)
}

/// The boots of one run.
#[derive(Default)]
struct Rejoins {
    floors: Vec<f64>,
    /// Seconds from QEMU's start to the acknowledged Commit.
    unlocked: Vec<f64>,
    steps: Vec<Steps>,
}

impl Rejoins {
    fn add(&mut self, machine: &Machine) -> Result<()> {
        let steps = machine.console.agent_steps();
        let commit = steps.iter().find(|(_, step)| step.name == "commit");
        let (at, _) = commit.context("a boot without `commit`")?;
        self.unlocked.push(at.as_secs_f64());
        self.steps.push(agent_steps(machine));
        Ok(())
    }

    fn report(&self, report: &mut Report) -> Result<()> {
        let of = |values: &[f64]| median(values.iter().copied()).context("no boot was measured");
        let (floor, unlocked) = (of(&self.floors)?, of(&self.unlocked)?);
        report.figure(
            "floor_s",
            floor,
            "an init that only powers off, median of 5",
        );
        report.figure(
            "boot_to_unlocked_s",
            unlocked,
            "rejoin, to the acknowledged Commit",
        );
        let name = "boot_to_unlocked_over_floor";
        report.goal(name, unlocked / floor, Goal::AtMost(1.3), "");
        for (name, took) in self.steps()? {
            report.figure(&format!("agent_ms.{name}"), took, "");
        }
        Ok(())
    }

    /// How long each step took, from the one before it; the order is the first boot's.
    fn steps(&self) -> Result<Steps> {
        let first = self.steps.first().context("no boot was measured")?;
        let took = |index: usize, name: &str| {
            let times = self.steps.iter().filter_map(|steps| {
                let (step, at) = steps.get(index)?;
                let (_, before) = steps.get(index.checked_sub(1)?)?;
                (step == name).then_some(at - before)
            });
            median(times)
        };
        let named = first.iter().enumerate().skip(1);
        let rows = named.filter_map(|(index, (name, _))| {
            let again = first.iter().take(index).filter(|(other, _)| other == name);
            let label = match again.count() {
                0 => name.clone(),
                count => format!("{name}_{}", count + 1),
            };
            Some((label, took(index, name)?))
        });
        Ok(rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(at: [f64; 4]) -> Steps {
        let names = ["start", "header", "commit", "header"];
        names.map(String::from).into_iter().zip(at).collect()
    }

    #[test]
    fn a_step_takes_from_the_one_before_it_and_repeats_are_numbered() {
        let rejoins = Rejoins {
            steps: vec![
                steps([5.0, 6.0, 16.0, 17.0]),
                steps([0.0, 3.0, 13.0, 15.0]),
                steps([1.0, 3.0, 63.0, 66.0]),
            ],
            ..Rejoins::default()
        };
        let rows = rejoins.steps().unwrap();
        let expected = [("header", 2.0), ("commit", 10.0), ("header_2", 2.0)];
        assert_eq!(rows, expected.map(|(name, took)| (name.to_owned(), took)));
        assert!((since(&rejoins.steps[0], "start", "commit").unwrap() - 11.0).abs() < 1e-9);
        assert!(since(&rejoins.steps[0], "start", "format").is_err());
    }
}

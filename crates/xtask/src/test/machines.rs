//! The tests that boot machines or run a cluster: several processes at a time, long ones first.
//!
//! Run one after the other, every test program would end with one long test on one processor, and a
//! test that waits for a deadline would keep a processor idle. A test that boots machines is a process of
//! its own; the tests of one program that share a control plane stay in one.

use anyhow::{Context as _, bail};
use serde_json::Value;
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{count, outcome::Outcome};

/// How the names of test programs begin that run real Kubernetes. They need its programs, root where nodes
/// are made, and minutes.
const CLUSTER: &str = "cluster";

/// How many tests run at a time: as many as the harness runs machines, so that none waits for another
/// with its machine off. One more than a build machine has cores: tests also make keys and wait.
const WORKERS: usize = 3;

/// The tests with the most boots, longest first: whoever starts them last waits for them alone.
const LONG: [&str; 13] = [
    "kubernetes::native-cluster::cluster_ha",
    "kubernetes::bootstrapper::cluster_bootstrap",
    "kubernetes::native-cluster::cluster",
    "kubernetes::native-kubernetes::cluster_nodes",
    "kubernetes::join-service::cluster",
    "direct::a_node_killed_at_any_step_of_its_first_boot_heals",
    "direct::a_flipped_bit_of_any_header_field_is_refused",
    "disk::power_cuts_lose_no_synced_file",
    "direct::a_node_killed_at_any_step_of_its_second_boot_heals",
    "direct::swapped_rolled_back_blanked_and_truncated_disks_are_refused",
    "direct::a_superblock_that_differs_for_the_kernel_alone_is_refused",
    "direct::malformed_metadata_is_no_reason_to_stop",
    "direct::a_server_that_dribbles_is_given_up_for_the_next_one",
];

/// What all tests of machines may take on two processors; more is said, not an error: machines differ.
const MACHINES_LIMIT: Duration = Duration::from_secs(25 * 60);

/// What the harness says of a folder that keeps its disks. A test that passes ends its scenario
/// with `passed`, or the disks of all scenarios fill the machine's.
const KEPT: &str = "not passed; all disks and logs are in ";

/// One test of machines, or all tests of a program that runs clusters.
#[derive(Clone, Debug)]
struct Test {
    program: PathBuf,
    /// The package's folder, which is where tests run.
    folder: PathBuf,
    tier: String,
    name: String,
    /// Whether it is a program with all of its tests.
    whole: bool,
}

/// What came of it.
struct Ran {
    test: Test,
    passed: usize,
    failed: usize,
    output: String,
    error: Option<String>,
    took: Duration,
}

/// Runs those whose names contain `filter`; an outcome a test program.
pub(super) fn run(root: &Path, filter: &str) -> anyhow::Result<Vec<Outcome>> {
    println!("== tests: machines and clusters");
    let mut tests = Vec::new();
    for program in programs(root)? {
        match program.whole {
            true => tests.push(program),
            false => tests.extend(list(&program)?),
        }
    }
    if let Some(unknown) = LONG
        .iter()
        .find(|long| !tests.iter().any(|test| test.full() == **long))
    {
        bail!(
            "there is no test `{unknown}`\nhint: correct `LONG` in {}",
            file!()
        );
    }
    tests.retain(|test| test.full().contains(filter));
    // Stable: the others stay in the order of their names.
    tests.sort_by_key(|test| {
        LONG.iter()
            .position(|long| *long == test.full())
            .unwrap_or(LONG.len())
    });
    let started = Instant::now();
    let ran = run_all(tests)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for ran in &ran {
        let tier = match ran.test.whole {
            true => ran.test.tier.clone(),
            false => format!("machines, {}", ran.test.tier),
        };
        let index = outcomes.iter().position(|outcome| outcome.name == tier);
        let index = index.unwrap_or_else(|| {
            outcomes.push(Outcome::new(&tier));
            outcomes.len() - 1
        });
        let Some(outcome) = outcomes.get_mut(index) else {
            continue;
        };
        outcome.passed += ran.passed;
        outcome.failed += ran.failed;
        outcome.ok &= ran.error.is_none();
        outcome.took += ran.took;
    }
    outcomes.sort_by(|one, other| one.name.cmp(&other.name));
    let took = started.elapsed();
    println!(
        "machines and clusters: {} processes, {WORKERS} at a time, took {:.1} s",
        ran.len(),
        took.as_secs_f64()
    );
    println!("{}", machines_alone(&ran, took));
    Ok(outcomes)
}

/// What the machines' part of the time was, beside the clusters that ran between them, against what it may
/// be.
fn machines_alone(ran: &[Ran], took: Duration) -> String {
    let sum = |counts: fn(&Ran) -> bool| {
        let counted = ran.iter().filter(|ran| counts(ran));
        counted.map(|ran| ran.took.as_secs_f64()).sum::<f64>()
    };
    let (machines, all) = (sum(|ran| !ran.test.whole), sum(|_| true));
    let share = took.mul_f64(machines / all.max(1.0));
    let verdict = match share <= MACHINES_LIMIT {
        true => "within",
        false => "MORE THAN",
    };
    format!(
        "machines alone: about {:.0} s of it, {verdict} the {} s that they may take",
        share.as_secs_f64(),
        MACHINES_LIMIT.as_secs()
    )
}

impl Test {
    fn full(&self) -> String {
        format!("{}::{}", self.tier, self.name)
    }

    fn run(self) -> anyhow::Result<Ran> {
        let started = Instant::now();
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder).stdin(Stdio::null());
        if !self.whole {
            command.args(["--exact", "--nocapture", &self.name]);
        }
        let output = command
            .output()
            .with_context(|| format!("start `{}`", self.program.display()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let error = match output.status {
            status if !status.success() => Some(status.to_string()),
            _ if text.contains(KEPT) => Some("it keeps its disks".to_owned()),
            _ => None,
        };
        let results = || {
            text.lines()
                .filter_map(|line| line.strip_prefix("test result: "))
        };
        Ok(Ran {
            passed: results().map(|counts| count(counts, "passed")).sum(),
            failed: results().map(|counts| count(counts, "failed")).sum(),
            test: self,
            output: text,
            error,
            took: started.elapsed(),
        })
    }
}

/// Builds the test programs of `qemu-tests`, and the others whose names begin with `cluster`. All of the workspace is
/// built, as the fast tier has done: built alone, everything below would be built once more with fewer
/// features. The services that the tests run are built by that too.
fn programs(root: &Path) -> anyhow::Result<Vec<Test>> {
    let output = Command::new("cargo")
        .current_dir(root)
        .args(["test", "--workspace", "--no-run"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("run `cargo test --no-run`")?;
    if !output.status.success() {
        bail!("`cargo test --no-run` failed with {}", output.status);
    }
    let messages = String::from_utf8(output.stdout).context("output of `cargo test`")?;
    let machines = root.join("qemu-tests");
    let mut programs = Vec::new();
    for message in messages.lines() {
        let message: Value = serde_json::from_str(message).context("output of `cargo test`")?;
        let (Some(program), true) = (
            message["executable"].as_str(),
            message["profile"]["test"] == true,
        ) else {
            continue;
        };
        let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest.parent().unwrap_or(root).to_owned();
        let package = folder.file_name().unwrap_or_default().to_string_lossy();
        let name = match message["target"]["kind"][0].as_str() {
            Some("test") => message["target"]["name"].as_str().unwrap_or_default(),
            _ => "library",
        };
        let whole = folder != machines;
        if whole && !name.starts_with(CLUSTER) {
            continue;
        }
        let (tier, name) = match whole {
            true => ("kubernetes".to_owned(), format!("{package}::{name}")),
            false => (name.to_owned(), String::new()),
        };
        programs.push(Test {
            program: program.into(),
            folder,
            tier,
            name,
            whole,
        });
    }
    programs.sort_by_key(Test::full);
    Ok(programs)
}

fn list(program: &Test) -> anyhow::Result<Vec<Test>> {
    let mut command = Command::new(&program.program);
    command
        .current_dir(&program.folder)
        .args(["--list", "--format", "terse"]);
    let output = command
        .output()
        .with_context(|| format!("start `{}`", program.program.display()))?;
    let names = String::from_utf8(output.stdout).context("names of tests")?;
    let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
    let test = |name: &str| Test {
        name: name.to_owned(),
        ..program.clone()
    };
    Ok(names.map(test).collect())
}

fn run_all(tests: Vec<Test>) -> anyhow::Result<Vec<Ran>> {
    let queue = Mutex::new(VecDeque::from(tests));
    let next = || {
        queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    };
    let work = || -> anyhow::Result<Vec<Ran>> {
        let mut done = Vec::new();
        while let Some(test) = next() {
            let ran = test.run()?;
            report(&ran);
            done.push(ran);
        }
        Ok(done)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(done) => all.extend(done?),
                Err(_) => bail!("a thread that runs tests panicked"),
            }
        }
        Ok(all)
    })
}

/// One line a test that passed; all that one said that failed.
fn report(ran: &Ran) {
    let (name, took) = (ran.test.full(), ran.took.as_secs_f64());
    match &ran.error {
        None => println!("ok     {took:7.1} s  {name}"),
        Some(error) => println!("FAILED {took:7.1} s  {name}: {error}\n{}", ran.output),
    }
}

//! The tests that boot machines: each one a process of its own, several at a time, long ones first.
//!
//! Run one after the other, every test program would end with one long test on one processor, and a
//! test that waits for a deadline would keep a processor idle.

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

use super::outcome::Outcome;

/// How many tests run at a time: as many as the harness runs machines, so that none waits for another
/// with its machine off. One more than a build machine has cores: tests also make keys and wait.
const WORKERS: usize = 3;

/// The tests with the most boots, longest first: whoever starts them last waits for them alone.
const LONG: [&str; 8] = [
    "direct::a_node_killed_at_any_step_of_its_first_boot_heals",
    "direct::a_flipped_bit_of_any_header_field_is_refused",
    "disk::power_cuts_lose_no_synced_file",
    "direct::a_node_killed_at_any_step_of_its_second_boot_heals",
    "direct::swapped_rolled_back_blanked_and_truncated_disks_are_refused",
    "direct::a_superblock_that_differs_for_the_kernel_alone_is_refused",
    "direct::malformed_metadata_is_no_reason_to_stop",
    "direct::a_server_that_dribbles_is_given_up_for_the_next_one",
];

/// What the harness says of a folder that keeps its disks. A test that passes ends its scenario
/// with `passed`, or the disks of all scenarios fill the machine's.
const KEPT: &str = "not passed; all disks and logs are in ";

/// One test.
#[derive(Clone, Debug)]
struct Test {
    program: PathBuf,
    tier: String,
    name: String,
}

/// What came of it.
struct Ran {
    test: Test,
    output: String,
    error: Option<String>,
    took: Duration,
}

/// Runs those whose names contain `filter`; an outcome a test program.
pub(super) fn run(root: &Path, filter: &str) -> anyhow::Result<Vec<Outcome>> {
    println!("== tests: machines");
    let folder = root.join("qemu-tests");
    let mut tests = Vec::new();
    for (tier, program) in programs(root)? {
        tests.extend(list(&folder, &tier, &program)?);
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
    let ran = run_all(&folder, tests)?;
    let mut outcomes: Vec<Outcome> = Vec::new();
    for Ran {
        test, error, took, ..
    } in &ran
    {
        let tier = format!("machines, {}", test.tier);
        let index = outcomes.iter().position(|outcome| outcome.name == tier);
        let index = index.unwrap_or_else(|| {
            outcomes.push(Outcome::new(&tier));
            outcomes.len() - 1
        });
        let Some(outcome) = outcomes.get_mut(index) else {
            continue;
        };
        match error {
            None => outcome.passed += 1,
            Some(_) => outcome.failed += 1,
        }
        outcome.ok &= error.is_none();
        outcome.took += *took;
    }
    outcomes.sort_by(|one, other| one.name.cmp(&other.name));
    let took = started.elapsed().as_secs_f64();
    println!(
        "machines: {} tests, {WORKERS} at a time, took {took:.1} s",
        ran.len()
    );
    Ok(outcomes)
}

impl Test {
    fn full(&self) -> String {
        format!("{}::{}", self.tier, self.name)
    }

    fn run(self, folder: &Path) -> anyhow::Result<Ran> {
        let started = Instant::now();
        let output = Command::new(&self.program)
            .current_dir(folder)
            .args(["--exact", "--nocapture", &self.name])
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start `{}`", self.program.display()))?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let error = match output.status {
            status if !status.success() => Some(status.to_string()),
            _ if text.contains(KEPT) => Some("it keeps its disks".to_owned()),
            _ => None,
        };
        Ok(Ran {
            test: self,
            output: text,
            error,
            took: started.elapsed(),
        })
    }
}

/// Builds the test programs of `qemu-tests`: their tiers and where they are. All of the workspace is
/// built, as the fast tier has done: built alone, everything below would be built once more with fewer
/// features. The services that the tests run are built by that too.
fn programs(root: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
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
    let manifest = root.join("qemu-tests/Cargo.toml");
    let mut programs = Vec::new();
    for message in messages.lines() {
        let message: Value = serde_json::from_str(message).context("output of `cargo test`")?;
        let ours = message["manifest_path"].as_str() == manifest.to_str();
        if !ours || message["profile"]["test"] != true {
            continue;
        }
        let name = match message["target"]["kind"][0].as_str() {
            Some("test") => message["target"]["name"].as_str(),
            _ => Some("library"),
        };
        if let (Some(name), Some(program)) = (name, message["executable"].as_str()) {
            programs.push((name.to_owned(), PathBuf::from(program)));
        }
    }
    programs.sort();
    Ok(programs)
}

fn list(folder: &Path, tier: &str, program: &Path) -> anyhow::Result<Vec<Test>> {
    let mut command = Command::new(program);
    command
        .current_dir(folder)
        .args(["--list", "--format", "terse"]);
    let output = command
        .output()
        .with_context(|| format!("start `{}`", program.display()))?;
    let names = String::from_utf8(output.stdout).context("names of tests")?;
    let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
    let test = |name: &str| Test {
        program: program.to_owned(),
        tier: tier.to_owned(),
        name: name.to_owned(),
    };
    Ok(names.map(test).collect())
}

fn run_all(folder: &Path, tests: Vec<Test>) -> anyhow::Result<Vec<Ran>> {
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
            let ran = test.run(folder)?;
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

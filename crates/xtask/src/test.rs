//! Runs the tests tier by tier and ends with a summary.

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Run the tests.
#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// Leave out the tests that boot machines
    #[arg(long)]
    fast: bool,
}

/// One invocation of `cargo test`, and what came of it.
struct Tier {
    name: String,
    arguments: Vec<String>,
}

struct Outcome {
    name: String,
    passed: usize,
    failed: usize,
    ok: bool,
    took: Duration,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("workspace root")?;
    let mut tiers = vec![Tier::fast()];
    if !args.fast {
        tiers.extend(machine_tiers(root)?);
    }
    let mut outcomes = Vec::new();
    for tier in tiers {
        outcomes.push(tier.run(root)?);
    }
    summarise(&outcomes)
}

impl Tier {
    fn fast() -> Self {
        let arguments = ["--workspace", "--exclude", "qemu-tests", "--no-fail-fast"];
        Self {
            name: "fast".into(),
            arguments: arguments.map(Into::into).into(),
        }
    }

    fn run(&self, root: &Path) -> anyhow::Result<Outcome> {
        println!("== tests: {}", self.name);
        let started = Instant::now();
        let mut child = Command::new("cargo")
            .current_dir(root)
            .arg("test")
            .args(&self.arguments)
            .stdout(Stdio::piped())
            .spawn()
            .context("run `cargo test`")?;
        let (mut passed, mut failed) = (0, 0);
        let output = child.stdout.take().context("output of `cargo test`")?;
        for line in BufReader::new(output).lines() {
            let line = line.context("output of `cargo test`")?;
            println!("{line}");
            if let Some(counts) = line.strip_prefix("test result: ") {
                passed += count(counts, "passed");
                failed += count(counts, "failed");
            }
        }
        let ok = child.wait().context("wait for `cargo test`")?.success();
        let name = self.name.clone();
        Ok(Outcome {
            name,
            passed,
            failed,
            ok,
            took: started.elapsed(),
        })
    }
}

/// One tier a test program of `qemu-tests`, a file or a folder with a `main.rs`, in the order of
/// their names. The machines take both cores, so a tier runs alone and the harness bounds the
/// machines at a time.
fn machine_tiers(root: &Path) -> anyhow::Result<Vec<Tier>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root.join("qemu-tests/tests")).context("list the machine tests")? {
        let path = entry.context("list the machine tests")?.path();
        let is_file = path.extension().is_some_and(|extension| extension == "rs");
        if is_file || path.join("main.rs").is_file() {
            names.extend(
                path.file_stem()
                    .and_then(|stem| stem.to_str())
                    .map(str::to_owned),
            );
        }
    }
    names.sort();
    let tier = |name: String| Tier {
        arguments: vec![
            "-p".into(),
            "qemu-tests".into(),
            "--test".into(),
            name.clone(),
            "--no-fail-fast".into(),
        ],
        name: format!("machines, {name}"),
    };
    let library = Tier {
        name: "machines, library".into(),
        arguments: ["-p", "qemu-tests", "--lib", "--bins"]
            .map(Into::into)
            .into(),
    };
    Ok([library]
        .into_iter()
        .chain(names.into_iter().map(tier))
        .collect())
}

/// The number before `word` in libtest's closing line.
fn count(line: &str, word: &str) -> usize {
    let mut previous = "";
    for part in line.split([' ', ';', '.']) {
        if part == word {
            return previous.parse().unwrap_or(0);
        }
        previous = part;
    }
    0
}

fn summarise(outcomes: &[Outcome]) -> anyhow::Result<()> {
    println!(
        "\n{:<24} {:>7} {:>7} {:>9}",
        "tier", "passed", "failed", "seconds"
    );
    for Outcome {
        name,
        passed,
        failed,
        ok,
        took,
    } in outcomes
    {
        let mark = if *ok { "" } else { "  FAILED" };
        println!(
            "{name:<24} {passed:>7} {failed:>7} {:>9.1}{mark}",
            took.as_secs_f64()
        );
    }
    let passed: usize = outcomes.iter().map(|outcome| outcome.passed).sum();
    let failed: usize = outcomes.iter().map(|outcome| outcome.failed).sum();
    println!("\n{passed} passed, {failed} failed");
    if outcomes.iter().any(|outcome| !outcome.ok) || failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn reads_the_closing_line_of_libtest() {
        let line =
            "ok. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.53s";
        assert_eq!(count(line, "passed"), 12);
        assert_eq!(count(line, "failed"), 3);
        assert_eq!(count("FAILED", "passed"), 0);
    }
}

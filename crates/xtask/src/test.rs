//! Runs the tests tier by tier and ends with a summary.

mod machines;
mod outcome;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use outcome::Outcome;

/// Run the tests.
#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// Leave out the tests that boot machines or run clusters
    #[arg(long)]
    fast: bool,
    /// Only tests that boot machines or run clusters, and of them only those whose names contain this; a
    /// name begins with the test program's: `direct::`, or with `kubernetes::`
    #[arg(long, value_name = "TEXT", conflicts_with = "fast")]
    machines: Option<String>,
}

/// Everything that boots no machine and runs no cluster: of the programs in `tests` folders all whose names
/// do not begin with `cluster`. There is no example in the documentation to run.
const FAST: [&str; 12] = [
    "--workspace",
    "--exclude",
    "qemu-tests",
    "--no-fail-fast",
    "--lib",
    "--bins",
    "--test",
    "[!c]*",
    "--test",
    "c[!l]*",
    "--test",
    "cl[!u]*",
];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("workspace root")?;
    let mut outcomes = Vec::new();
    if args.machines.is_none() {
        outcomes.push(cargo_test(root, "fast", &FAST)?);
    }
    if !args.fast {
        let filter = args.machines.as_deref().unwrap_or("");
        outcomes.extend(machines::run(root, filter)?);
    }
    outcome::summarise(&outcomes)
}

/// One invocation of `cargo test`, and what came of it.
fn cargo_test(root: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<Outcome> {
    println!("== tests: {name}");
    let started = Instant::now();
    let mut child = Command::new("cargo")
        .current_dir(root)
        .arg("test")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .context("run `cargo test`")?;
    let mut outcome = Outcome::new(name);
    let output = child.stdout.take().context("output of `cargo test`")?;
    for line in BufReader::new(output).lines() {
        let line = line.context("output of `cargo test`")?;
        println!("{line}");
        if let Some(counts) = line.strip_prefix("test result: ") {
            outcome.passed += count(counts, "passed");
            outcome.failed += count(counts, "failed");
        }
    }
    outcome.ok = child.wait().context("wait for `cargo test`")?.success();
    outcome.took = started.elapsed();
    Ok(outcome)
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

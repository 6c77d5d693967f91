//! Runs every fuzz target for a while, as many at a time as there are cores.

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use crate::tool::Tool;

/// Run the fuzz targets.
#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run only this target
    #[arg(long)]
    target: Option<String>,
}

/// Where corpora and the outputs of runs stay between runs; cargo-fuzz puts its builds beside it.
const FUZZ: &str = "fuzz";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .context("workspace root")?;
    install_cargo_fuzz()?;
    let fuzz = root.join(FUZZ);
    println!("fuzz: building the targets");
    cargo_fuzz(root).arg("build").output()?;
    let targets: Vec<String> = cargo_fuzz(root)
        .arg("list")
        .output()?
        .lines()
        .map(str::to_owned)
        .collect();
    let chosen: Vec<&String> = targets
        .iter()
        .filter(|target| args.target.as_ref().is_none_or(|only| only == *target))
        .collect();
    if chosen.is_empty() {
        bail!("no such fuzz target; there are: {}", targets.join(", "));
    }
    for target in &chosen {
        check_seeds(&fuzz, target)?;
    }
    let parallel = std::thread::available_parallelism()?.get();
    let mut failed = 0;
    for batch in chosen.chunks(parallel) {
        let runs = batch
            .iter()
            .map(|target| Run::start(&fuzz, target, args.seconds));
        for run in runs.collect::<anyhow::Result<Vec<_>>>()? {
            failed += usize::from(!run.finish()?);
        }
    }
    println!("fuzz: {} passed, {failed} failed", chosen.len() - failed);
    if failed > 0 {
        bail!("a fuzz target failed; its input is in `{FUZZ}/artifacts`");
    }
    Ok(())
}

/// A target without seeds that its parsers take spends its time on bytes that the first check refuses.
fn check_seeds(fuzz: &Path, target: &str) -> anyhow::Result<()> {
    let folder = fuzz.join("seeds").join(target);
    let mut seeds = Vec::new();
    for seed in fs::read_dir(&folder).into_iter().flatten() {
        seeds.push(seed?.path());
    }
    if seeds.is_empty() {
        bail!(
            "no seeds in `{}`\nhint: add an input that the target's parser takes, and its line in `{FUZZ}/seeds/README.md`",
            folder.display()
        );
    }
    let output = Command::new(binary(fuzz, target))
        .args(&seeds)
        .env("FUZZ_SEEDS", "1")
        .output()
        .with_context(|| format!("run the seeds of `{target}`"))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr);
        let seed = log.lines().rfind(|line| line.starts_with("Running: "));
        bail!(
            "a seed of `{target}` is refused: {}\nhint: a format has changed? `{FUZZ}/seeds/README.md` says what the seeds are\n{log}",
            seed.unwrap_or("none was run")
        );
    }
    Ok(())
}

/// What cargo-fuzz built.
fn binary(fuzz: &Path, target: &str) -> PathBuf {
    fuzz.join("target/x86_64-unknown-linux-gnu/release")
        .join(target)
}

/// One running target.
struct Run {
    target: String,
    log: PathBuf,
    child: Child,
    started: Instant,
}

impl Run {
    fn start(fuzz: &Path, target: &str, seconds: u64) -> anyhow::Result<Self> {
        let corpus = fuzz.join("corpus").join(target);
        let artifacts = fuzz.join("artifacts").join(target);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let log = artifacts.join("log");
        let binary = binary(fuzz, target);
        let child = Command::new(&binary)
            .arg(&corpus)
            .arg(fuzz.join("seeds").join(target))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-rss_limit_mb=2048", "-timeout=10", "-max_len=65536"])
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("start `{}`", binary.display()))?;
        Ok(Self {
            target: target.to_owned(),
            log,
            child,
            started: Instant::now(),
        })
    }

    /// Waits, and says how it went.
    fn finish(mut self) -> anyhow::Result<bool> {
        let status = self.child.wait()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let runs = log
            .lines()
            .rfind(|line| line.starts_with("Done "))
            .unwrap_or("no summary");
        let seconds = self.started.elapsed().as_secs();
        let verdict = if status.success() { "ok" } else { "FAILED" };
        println!(
            "fuzz: {:<12} {verdict} after {seconds} s: {runs}",
            self.target
        );
        if !status.success() {
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            for line in tail.iter().rev() {
                println!("    {line}");
            }
        }
        Ok(status.success())
    }
}

/// cargo-fuzz wants nightly's flags; the pinned compiler has them behind this variable.
fn cargo_fuzz(root: &Path) -> Tool {
    Tool::new("cargo", "rustup")
        .dir(root)
        .env("RUSTC_BOOTSTRAP", "1")
        .arg("fuzz")
}

fn install_cargo_fuzz() -> anyhow::Result<()> {
    if Tool::new("cargo", "rustup")
        .args(["fuzz", "--version"])
        .output()
        .is_ok()
    {
        return Ok(());
    }
    println!("fuzz: installing cargo-fuzz");
    Tool::new("cargo", "rustup")
        .args(["install", "--quiet", "--locked", "cargo-fuzz"])
        .run()
}

//! `xtask bench`: builds what is measured, then measures it with crate `bench`.

mod clevis;

use crate::tool::Tool;
use anyhow::{Context, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Static programs are built for this target.
const MUSL: &str = "x86_64-unknown-linux-musl";

/// Measured are release builds; the harness finds them because it is one itself.
const PACKAGES: [&str; 9] = [
    "bench",
    "bootstrapper",
    "constellation-cli",
    "join-service",
    "key-service",
    "native-cluster",
    "qemu-tests",
    "verification-service",
    "xtask",
];

/// Where our programs come from, for the message when one is missing.
const OWN: &str = "(none: built from this repository)";

/// Arguments of `xtask bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Where the figures go
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
    /// Measure only these groups: `tickets`, `snp`, `boots`, `clevis`, `cluster`, `os` [default: all]
    #[arg(long)]
    only: Vec<String>,
}

/// Builds and measures.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let target = fs::canonicalize("target")?;
    let wanted = |group: &str| args.only.is_empty() || args.only.iter().any(|only| only == group);
    build_programs()?;
    if wanted("boots") || wanted("clevis") || wanted("os") {
        build_images(&target)?;
    }
    if wanted("os")
        && let Err(error) = image("os", &[])
    {
        eprintln!("bench: no OS image: {error:#}");
    }
    let mut bench = Tool::new("target/release/bench", OWN)
        .args(["run", "--out"])
        .arg(&args.out);
    for group in &args.only {
        bench = bench.args(["--only", group]);
    }
    if wanted("clevis") {
        match clevis::build(&target) {
            Ok(system) => bench = bench.arg("--clevis").arg(system),
            Err(error) => eprintln!("bench: no comparison with clevis: {error:#}"),
        }
    }
    bench.run()
}

fn build_programs() -> anyhow::Result<()> {
    eprintln!("bench: build");
    let packages = PACKAGES.iter().flat_map(|package| ["-p", package]);
    Tool::new("cargo", "rustup")
        .args(["build", "--quiet", "--release"])
        .args(packages)
        .run()
}

/// The release image is there; the probe shows what firmware measures, the floor only powers off.
fn build_images(target: &Path) -> anyhow::Result<()> {
    let images = target.join("image");
    let manifest = images.join("release/image.json");
    let manifest = fs::read(manifest).context("no release image\nhint: run `make image`")?;
    let manifest: Value = serde_json::from_slice(&manifest)?;
    let size = manifest["init_bytes"].as_u64();
    let size = size.context("`image.json` does not say how large the agent is")?;
    if !images.join("probe/image.json").exists() {
        image("probe", &[])?;
    }
    let init = floor_init(target, size)?;
    let out = images.join("floor");
    let more = ["--init".as_ref(), init.as_ref(), "--out".as_ref(), &*out];
    image("probe", &more)
}

fn image(profile: &str, more: &[&Path]) -> anyhow::Result<()> {
    // Not this very file: the build before may have replaced it.
    let tool = Tool::new("target/release/xtask", OWN);
    let described = tool
        .args(["image", "--profile", profile])
        .args(more)
        .output();
    described.map(drop)
}

/// The init of the floor, as large as the agent: as much is loaded and measured before it starts.
fn floor_init(target: &Path, size: u64) -> anyhow::Result<PathBuf> {
    Tool::new("cargo", "rustup")
        .args(["build", "--quiet", "--profile", "agent", "--target", MUSL])
        .args(["-p", "probe-init", "--bin", "floor-init"])
        .run()?;
    let padded = target.join("floor-init");
    fs::copy(target.join(MUSL).join("agent/floor-init"), &padded)?;
    let file = fs::File::options().write(true).open(&padded)?;
    if file.metadata()?.len() > size {
        bail!("the floor's init is larger than the agent");
    }
    // Nothing reads an ELF file beyond its segments.
    file.set_len(size)?;
    Ok(padded)
}

//! What is in the initial RAM disk that nodes boot: read again from its bytes, and its program run.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use qemu_tests::{Image, Workspace, run};

/// One entry of an archive.
struct Entry<'a> {
    path: &'a str,
    mode: u32,
    content: &'a [u8],
}

/// Reads an archive in the kernel's format "newc" (`Documentation/driver-api/early-userspace/buffer-format.rst`).
fn entries(mut archive: &[u8]) -> Result<Vec<Entry<'_>>> {
    const HEADER: usize = 110;
    let mut entries = Vec::new();
    loop {
        let header = archive.get(..HEADER).context("a header is cut off")?;
        ensure!(header.starts_with(b"070701"), "not `newc`");
        // Thirteen fields of eight digits: 1 is the mode, 6 the file's size, 11 the name's.
        let field = |index: usize| -> Result<usize> {
            let digits = std::str::from_utf8(&header[6 + 8 * index..][..8])?;
            Ok(usize::from_str_radix(digits, 16)?)
        };
        let (size, name) = (field(6)?, field(11)?);
        let start = (HEADER + name).next_multiple_of(4);
        let path = archive.get(HEADER..HEADER + name - 1).context("no name")?;
        let content = archive
            .get(start..start + size)
            .context("a file is cut off")?;
        let path = std::str::from_utf8(path)?;
        if path == "TRAILER!!!" {
            return Ok(entries);
        }
        entries.push(Entry {
            path,
            mode: u32::try_from(field(1)?)?,
            content,
        });
        archive = archive
            .get((start + size).next_multiple_of(4)..)
            .context("no end")?;
    }
}

#[test]
fn the_initramfs_is_the_agent_and_modules_and_nothing_else() -> Result<()> {
    let archive = fs::read(Image::of("release")?.initrd())?;
    let mut listed = BTreeSet::new();
    let mut modules = BTreeSet::new();
    for Entry {
        path,
        mode,
        content,
    } in entries(&archive)?
    {
        match (path, mode & 0o170_000) {
            ("init", 0o100_000) => ensure!(mode & 0o7777 == 0o755, "mode {mode:o}"),
            ("modules.list", 0o100_000) => {
                let lines = std::str::from_utf8(content)?.lines();
                listed.extend(lines.map(|line| line.trim_start_matches('/').to_owned()));
            }
            (_, 0o100_000) => {
                let path = path.to_owned();
                ensure!(mode & 0o7777 == 0o644, "{path}: mode {mode:o}");
                modules.insert(path);
            }
            (path, 0o040_000) => ensure!(
                matches!(path, "dev" | "proc" | "run" | "sys" | "sysroot")
                    || listed.iter().any(|module| module.starts_with(path)),
                "a folder for nothing: {path}"
            ),
            _ => anyhow::bail!("{path}: mode {mode:o}"),
        }
    }
    ensure!(
        !listed.is_empty() && listed == modules,
        "{listed:?}\n{modules:?}"
    );
    Ok(())
}

#[test]
fn the_agent_is_one_static_position_independent_program_that_can_look_around() -> Result<()> {
    let archive = fs::read(Image::of("release")?.initrd())?;
    let entries = entries(&archive)?;
    let agent = entries.iter().find(|entry| entry.path == "init");
    let workspace = Workspace::create("image-agent")?;
    let file = workspace.file("init");
    fs::write(&file, agent.context("no `init`")?.content)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;

    let shape = run(Command::new("readelf").args(["-hldW"]).arg(&file))?;
    ensure!(
        shape.contains("DYN (Position-Independent Executable"),
        "{shape}"
    );
    ensure!(shape.contains("PIE"), "{shape}");
    for dynamic in ["INTERP", "(NEEDED)", "(TEXTREL)"] {
        ensure!(!shape.contains(dynamic), "{dynamic} in:\n{shape}");
    }
    let stack = shape.lines().find(|line| line.contains("GNU_STACK"));
    ensure!(stack.is_some_and(|line| !line.contains("RWE")), "{stack:?}");

    // On a machine that is no node nothing fits, and each line says why.
    let found = run(Command::new(&file).arg("probe"))?;
    let titles = ["command line", "hints", "links", "tpm", "sev-snp"];
    for title in titles.into_iter().chain(["root disk", "state disk"]) {
        let line = found.lines().find(|line| line.starts_with(title));
        ensure!(line.is_some_and(|line| line.len() > 14), "{title}: {found}");
    }
    let bare = Command::new(&file).output()?;
    ensure!(!bare.status.success(), "it took this machine for its own");
    workspace.passed()
}

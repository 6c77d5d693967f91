//! What is in the initial RAM disk that nodes boot: read again from its bytes, and its program run.

use std::collections::BTreeMap;
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
        let end = (start + size).next_multiple_of(4).min(archive.len());
        if path == "TRAILER!!!" {
            // The kernel would go on with another archive.
            let rest = archive.get(end..).unwrap_or_default();
            ensure!(rest.iter().all(|byte| *byte == 0), "more behind the end");
            return Ok(entries);
        }
        entries.push(Entry {
            path,
            mode: u32::try_from(field(1)?)?,
            content,
        });
        archive = archive.get(end..).context("no end")?;
    }
}

#[test]
fn the_initramfs_is_the_agent_and_modules_and_nothing_else() -> Result<()> {
    let archive = fs::read(Image::of("release")?.initrd())?;
    let entries = entries(&archive)?;
    let list = entries.iter().find(|entry| entry.path == "modules.list");
    let list = std::str::from_utf8(list.context("no `modules.list`")?.content)?;
    let modules: Vec<&str> = list
        .lines()
        .map(|line| line.trim_start_matches('/'))
        .collect();
    ensure!(!modules.is_empty(), "no module");

    let mut expected = BTreeMap::from([("init", 0o100_755), ("modules.list", 0o100_644)]);
    expected.extend(["dev", "proc", "run", "sys", "sysroot"].map(|path| (path, 0o040_755)));
    for module in modules {
        expected.insert(module, 0o100_644);
        let parents = module.match_indices('/').map(|(at, _)| &module[..at]);
        expected.extend(parents.map(|parent| (parent, 0o040_755)));
    }
    let found: BTreeMap<_, _> = entries
        .iter()
        .map(|entry| (entry.path, entry.mode))
        .collect();
    ensure!(found == expected, "{found:?}\n{expected:?}");
    ensure!(found.len() == entries.len(), "a path is there twice");
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

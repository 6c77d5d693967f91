//! A program that runs as root in the booted verified root of the test image, once the disk is
//! unlocked: what whoever breaks into a node can try.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::node::Node;
use vm::{Disk, DiskFormat};

/// The serial of the disk whose script the test image runs (`os-image/root-init-test.sh`).
const SCRIPT: &str = "constellation-test";
/// The serial of the disk with the program, for the script to find.
const PROGRAM: &str = "test-program";

impl Node {
    /// From its next start on the node's root runs this static program. In `arguments`, `$disk` is the
    /// id of the node's own disk.
    pub fn run_in_root(&mut self, program: &Path, arguments: &str) -> Result<()> {
        let program = fs::read(program).with_context(|| format!("read {}", program.display()))?;
        let script = script(program.len(), arguments).into_bytes();
        for (content, serial) in [(program, PROGRAM), (script, SCRIPT)] {
            let path = format!("{}.{serial}", self.name);
            let disk = disk(&self.config.workspace.file(&path), content, serial)?;
            self.config.disks.retain(|disk| disk.serial() != serial);
            self.config.disks.push(disk);
        }
        Ok(())
    }
}

/// A disk with this content, filled up to whole sectors.
fn disk(path: &Path, mut content: Vec<u8>, serial: &str) -> Result<Disk> {
    content.resize(content.len().next_multiple_of(512), 0);
    fs::write(path, content)?;
    Ok(Disk::new(path, DiskFormat::Raw, serial))
}

/// Runs the program, whose length is given.
fn script(length: usize, arguments: &str) -> String {
    format!(
        r#"program=/run/test-program
for disk in /sys/block/vd*; do
    [ "$(busybox cat "$disk/serial")" = {PROGRAM} ] || continue
    busybox head -c {length} "/dev/${{disk##*/}}" >"$program"
done
busybox chmod 700 "$program"
disk=$(busybox sed -n 's/.*"disk_uuid":"\([^"]*\)".*/\1/p' /run/constellation/handoff.json)
"$program" {arguments}
"#
    )
}

//! The same boot with `clevis` and `tang`: LUKS2 in a systemd initramfs, on the same kernel,
//! firmware and machine.

use crate::{boots::PATIENCE, report::Report, statistics::median, tickets::count};
use anyhow::{Context as _, Result};
use measure::{cmdline::Cmdline, uki};
use qemu_tests::{Boot, Disk, DiskFormat, Image, MachineConfig, Swtpm, TpmAuthority, Workspace};
use serde_json::Value;
use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// Each figure is the median.
const BOOTS: usize = 3;

/// Where the volume's binding has the guest look for tang; `xtask bench` made it so.
const TANG: &str = "169.254.169.100:7500";

/// The volume's; `xtask bench` made it so.
const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// systemd's word when the mapping is there.
const UNLOCKED: &str = "Finished";

/// Boots the system that `xtask bench` has built in `dir`.
pub(crate) fn measure(dir: &Path, report: &mut Report) -> Result<()> {
    let image = Image::of("release")?;
    let initrd = fs::read(dir.join("initrd.img")).context("the initramfs with clevis")?;
    report.figure("clevis_initrd_bytes", count(initrd.len()), "dracut, gzip");
    let workspace = Workspace::create("bench-clevis")?;
    let uki = build_uki(&image, &initrd, &workspace)?;
    let accelerator = qemu_tests::accelerator(&image.kernel())?;
    let mut config = MachineConfig::new(&workspace, accelerator, Boot::Firmware { uki });
    let authority = TpmAuthority::create(&workspace.file("tpm-authority"))?;
    config.tpm = Some(Swtpm::manufacture(&workspace.file("tpm"), &authority)?);
    let volume = Disk::new(&dir.join("state.luks"), DiskFormat::Raw, "state");
    config.disks = vec![Disk::root(&image.root()), volume.with_snapshot()];
    config.forwards = vec![(TANG.to_owned(), serve_tang(dir.join("root"))?)];
    let mut times = Vec::with_capacity(BOOTS);
    for turn in 0..BOOTS {
        let mut machine = config.start(&format!("boot.{turn}"))?;
        let line = loop {
            let line = machine.console.expect(UNLOCKED, PATIENCE)?;
            if line.text.contains("systemd-cryptsetu") {
                break line;
            }
        };
        times.push(line.at.as_secs_f64());
        // There is no root file system to go on with.
        machine.kill()?;
    }
    let unlocked = median(times).context("nothing was booted")?;
    report.figure(
        "clevis_boot_to_unlocked_s",
        unlocked,
        "to the mapping, median of 3",
    );
    workspace.passed()
}

fn build_uki(image: &Image, initrd: &[u8], workspace: &Workspace) -> Result<PathBuf> {
    let manifest: Value = serde_json::from_slice(&fs::read(image.dir().join("image.json"))?)?;
    let cmdline = format!(
        "console=ttyS0 quiet panic=-1 systemd.show_status=1 rd.neednet=1 ip=dhcp \
         rd.luks.uuid={UUID} root=/dev/mapper/luks-{UUID}"
    );
    let parts = uki::Parts {
        stub: &fs::read(image.stub())?,
        kernel_release: manifest["kernel_release"].as_str().context("no kernel")?,
        cmdline: &Cmdline::parse(cmdline.as_bytes())?,
        initrd,
        kernel: &fs::read(image.kernel())?,
    };
    let path = workspace.file("clevis.efi");
    fs::write(&path, uki::build(&parts)?)?;
    Ok(path)
}

/// Starts tang for every connection, as `systemd.socket` or `socat` would; gives the port.
fn serve_tang(root: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let root = root.clone();
            thread::spawn(move || {
                if let Err(error) = answer(&root, stream) {
                    eprintln!("bench: tang: {error:#}");
                }
            });
        }
    });
    Ok(port)
}

fn answer(root: &Path, stream: TcpStream) -> Result<()> {
    let mut tang = Command::new("chroot");
    tang.arg(root).args(["/usr/libexec/tangd", "/var/db/tang"]);
    tang.stdin(OwnedFd::from(stream.try_clone()?));
    tang.stdout(OwnedFd::from(stream));
    tang.stderr(std::process::Stdio::null());
    tang.status().context("start tangd")?;
    Ok(())
}

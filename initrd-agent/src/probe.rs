//! `initrd-agent probe`: what the agent would find on this machine. It only reads, sends nothing
//! and changes nothing; the metadata service is not asked.

use crate::{
    cmdline::CommandLine,
    exit::chain,
    hints::{FW_CFG, Hints, read_fw_cfg},
};
use platform::{
    find::{Wanted, find},
    net, sev_guest, tpm,
};
use state_disk::{Inspection, SLOT_LEN, SLOT_OFFSETS, inspect};
use std::{
    error::Error,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

/// Prints everything to standard output, one line a finding.
pub fn run() {
    print("command line", command_line());
    print("hints", hints());
    print("links", links());
    print("tpm", tpm());
    print("sev-snp", sev_snp());
    print(
        "root disk",
        find(&Wanted::ROOT)
            .map(|path| path.display().to_string())
            .map_err(boxed),
    );
    print("state disk", state_disk());
}

type Finding = Result<String, Box<dyn Error>>;

fn boxed(error: impl Error + 'static) -> Box<dyn Error> {
    Box::new(error)
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
fn print(what: &str, finding: Finding) {
    let text = finding.unwrap_or_else(|error| format!("not usable: {}", chain(error.as_ref())));
    println!("{what:<14}{text}");
}

fn command_line() -> Finding {
    let line = CommandLine::parse(&fs::read("/proc/cmdline")?)?;
    Ok(format!("owner {}, evidence {}", line.owner, line.evidence))
}

fn hints() -> Finding {
    let Some(bytes) = read_fw_cfg(Path::new(FW_CFG))? else {
        return Ok("none from the firmware configuration device".to_owned());
    };
    let mut ignored = Vec::new();
    let hints = Hints::parse(&bytes, |what| ignored.push(what.to_owned()))?;
    let endpoints: Vec<_> = hints.endpoints.iter().map(ToString::to_string).collect();
    let name = hints
        .node_name
        .map_or_else(|| "none".to_owned(), |name| name.to_string());
    let role = hints
        .role
        .map_or_else(|| "none".to_owned(), |role| role.to_string());
    let ignored = match ignored.is_empty() {
        true => String::new(),
        false => format!(", ignored: {}", ignored.join(", ")),
    };
    let endpoints = endpoints.join(" ");
    Ok(format!(
        "endpoints [{endpoints}], node name {name}, role {role}{ignored}"
    ))
}

fn links() -> Finding {
    let links: Vec<_> = net::links()?
        .into_iter()
        .map(|link| {
            let carrier = if link.carrier {
                "carrier"
            } else {
                "no carrier"
            };
            format!("{} ({carrier})", link.name)
        })
        .collect();
    match links.is_empty() {
        true => Ok("no Ethernet link".to_owned()),
        false => Ok(links.join(", ")),
    }
}

/// The device and the SHA-256 PCRs that sysfs shows; no command is sent to the TPM.
fn tpm() -> Finding {
    let device = fs::metadata(tpm::DEVICE_PATH).map(|_| tpm::DEVICE_PATH)?;
    let latch = fs::read_to_string("/sys/class/tpm/tpm0/pcr-sha256/15")?;
    let latch = match latch.trim().bytes().all(|digit| digit == b'0') {
        true => "zero, not latched",
        false => "latched",
    };
    Ok(format!("{device}, PCR 15 {latch}"))
}

/// The device that reports come from; no report is asked for.
fn sev_snp() -> Finding {
    let device = fs::metadata(sev_guest::DEVICE_PATH).map(|_| sev_guest::DEVICE_PATH);
    Ok(snp_interfaces(
        device.map_err(|error| format!("{}: {error}", sev_guest::DEVICE_PATH)),
        Path::new("/sys"),
    ))
}

/// The device, the privilege level that the kernel found itself at (Linux
/// `Documentation/ABI/testing/sysfs-devices-system-cpu`), and the interface that the agent leaves
/// alone.
fn snp_interfaces(device: Result<&str, String>, sys: &Path) -> String {
    let mut found = device.map_or_else(|error| format!("not usable: {error}"), ToOwned::to_owned);
    if let Ok(level) = fs::read_to_string(sys.join("devices/system/cpu/sev/vmpl")) {
        found.push_str(", VMPL ");
        found.push_str(level.trim());
    }
    if sys.join("kernel/config/tsm/report").is_dir() {
        found.push_str(", configfs-tsm is there too and not used");
    }
    found
}

fn state_disk() -> Finding {
    let path = find(&Wanted::STATE)?;
    let disk = File::open(&path)?;
    let mut slots = [[0; SLOT_LEN]; 2];
    for (slot, offset) in slots.iter_mut().zip(SLOT_OFFSETS) {
        disk.read_exact_at(slot, offset)?;
    }
    let claim = match inspect(&slots)? {
        Inspection::Blank => "blank".to_owned(),
        Inspection::Sealed(sealed) => {
            let claims = sealed.claims();
            format!(
                "claims disk {} generation {}",
                claims.disk, claims.generation
            )
        }
    };
    Ok(format!("{}, {claim}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_has_of_snp_is_named() {
        let sys = tempfile::tempdir().unwrap();
        let absent = Err("/dev/sev-guest: not found".to_owned());
        assert_eq!(
            snp_interfaces(absent, sys.path()),
            "not usable: /dev/sev-guest: not found"
        );
        fs::create_dir_all(sys.path().join("devices/system/cpu/sev")).unwrap();
        fs::write(sys.path().join("devices/system/cpu/sev/vmpl"), "2\n").unwrap();
        fs::create_dir_all(sys.path().join("kernel/config/tsm/report")).unwrap();
        assert_eq!(
            snp_interfaces(Ok("/dev/sev-guest"), sys.path()),
            "/dev/sev-guest, VMPL 2, configfs-tsm is there too and not used"
        );
    }
}

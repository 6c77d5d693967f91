//! `second-request ADDRESS`: what root of a booted node can try once its disk is unlocked.
//!
//! It asks the TPM to reset PCR 15, then the join service at ADDRESS for a key, attesting as the
//! agent did before, with the same TPM, and prints how each ends, one line each.

use std::error::Error;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use evidence::AdmissionPath;
use guest_attester::Boot;
use owner::OwnerFingerprint;
use platform::tpm::{DEVICE_PATH, DeviceFile, TpmAttester, TpmDevice, Transport as _};

/// `TPM2_PCR_Reset` of PCR 15 with an empty password (Part 3, section 22.8).
const RESET_PCR_15: [u8; 27] = [
    0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x3d, 0, 0, 0, 15, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 1, 0,
    0,
];

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1);
    let address = address.ok_or("usage: second-request ADDRESS")?.parse()?;
    println!("second-request: reset code={:#x}", reset_latch()?);
    for path in [AdmissionPath::Rejoin, AdmissionPath::Join] {
        println!("second-request: {path} {}", request(address, path)?);
    }
    Ok(())
}

/// The TPM's response code.
fn reset_latch() -> io::Result<u32> {
    let response = DeviceFile::open(Path::new(DEVICE_PATH))?.transact(&RESET_PCR_15)?;
    let code = response.get(6..10).and_then(|code| code.try_into().ok());
    code.map(u32::from_be_bytes)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Attests once more; how it ends.
fn request(address: SocketAddr, path: AdmissionPath) -> Result<String, Box<dyn Error>> {
    let tpm = TpmAttester::open(&TpmDevice::default())?;
    let mut boot = Boot::new(tpm, owner()?)?;
    Ok(match boot.dial(address, path) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    })
}

/// The owner on the measured command line.
fn owner() -> Result<OwnerFingerprint, Box<dyn Error>> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let mut words = line.split_whitespace();
    let owner = words.find_map(|word| word.strip_prefix("constellation.owner="));
    Ok(owner.ok_or("no owner on the command line")?.parse()?)
}

//! `snp-request ADDRESS OWNER DISK`: what root of a booted SNP guest can try.
//!
//! It attests to the join service at ADDRESS, which shall act for OWNER, with a report of the same
//! boot that the agent attested with, asks for the key of DISK, then as a new node, and prints how
//! each ends, one line each.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;

use api::join;
use evidence::AdmissionPath;
use guest_attester::SnpBoot;
use owner::OwnerFingerprint;
use platform::sev_guest::{DEVICE_PATH, SevGuest};

/// The version of every key here.
const KEY_VERSION: u32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [address, owner, disk] = arguments.as_slice() else {
        return Err("usage: snp-request ADDRESS OWNER DISK".into());
    };
    let mut boot = SnpBoot::new(SevGuest::open(Path::new(DEVICE_PATH))?, parse_owner(owner)?)?;
    let address = address.parse()?;
    println!(
        "snp-request: rejoin {}",
        outcome(rejoin(&mut boot, address, disk))
    );
    println!("snp-request: join {}", outcome(join(&mut boot, address)));
    Ok(())
}

fn parse_owner(text: &str) -> Result<OwnerFingerprint, Box<dyn Error>> {
    Ok(text.parse()?)
}

fn rejoin(boot: &mut SnpBoot, address: SocketAddr, disk: &str) -> Result<(), Box<dyn Error>> {
    let client = boot.dial(address, AdmissionPath::Rejoin)?;
    let request = join::IssueRejoinTicketRequest {
        disk_uuid: disk.to_owned(),
        key_version: KEY_VERSION,
        certificate_requests: None,
    };
    let method = "constellation.join.v1.JoinService/IssueRejoinTicket";
    let _: join::IssueRejoinTicketResponse = client.call(method, &request)?;
    Ok(())
}

fn join(boot: &mut SnpBoot, address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let client = boot.dial(address, AdmissionPath::Join)?;
    let method = "constellation.join.v1.JoinService/RegisterDisk";
    let disk: join::RegisterDiskResponse = client.call(method, &join::RegisterDiskRequest {})?;
    let request = join::IssueJoinTicketRequest {
        disk_uuid: disk.disk_uuid,
        node_name: "second".to_owned(),
        role: join::Role::Worker.into(),
        certificate_requests: None,
    };
    let method = "constellation.join.v1.JoinService/IssueJoinTicket";
    let _: join::IssueJoinTicketResponse = client.call(method, &request)?;
    Ok(())
}

fn outcome(result: Result<(), Box<dyn Error>>) -> String {
    let Err(error) = result else {
        return "released".to_owned();
    };
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

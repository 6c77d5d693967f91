//! Honest evidence and a dishonest request: another node's name, another node's disk, a second key.

use anyhow::{Context as _, Result, ensure};
use api::{Class, join};
use attested_tls::{RpcClient, RpcError};
use evidence::AdmissionPath::{Join, Rejoin};
use identity::DiskId;
use prost::Message;

use crate::installation::{Installation, Node};

const NAME: &str = "worker-0";

#[test]
fn a_node_gets_its_own_key_once_a_boot_and_no_other() -> Result<()> {
    let installation = Installation::start("identity")?;
    let (mut owner, mut thief) = (installation.node()?, installation.node()?);
    let disk = join(&installation, &mut owner).context("honest join")?;
    second_request(&installation, &mut owner, &disk).context("second request of a boot")?;
    foreign_disk(&installation, &mut thief, &disk).context("another node's disk")?;
    foreign_name(&installation, &mut thief).context("another node's name")?;
    // Nothing of it has harmed the node: its next boot gets its key.
    owner.boot.reboot()?;
    let client = owner.boot.dial(installation.address(), Rejoin)?;
    rejoin(&client, &disk)?;
    ensure!(installation.releases()? == (2, 2), "not two releases");
    installation.passed()
}

/// The whole join, as an agent does it.
fn join(installation: &Installation, node: &mut Node) -> Result<String> {
    let client = node.boot.dial(installation.address(), Join)?;
    let disk = register(&client)?;
    join_as(&client, &disk, NAME)?;
    commit(&client, &disk)?;
    ensure!(installation.releases()? == (1, 1), "not one release");
    Ok(disk)
}

/// The sealing key is the boot's: after its Commit the boot gets no key, whatever it asks for.
fn second_request(installation: &Installation, node: &mut Node, disk: &str) -> Result<()> {
    let client = node.boot.dial(installation.address(), Rejoin)?;
    denied(installation, "boot", "no second key", || {
        rejoin(&client, disk)
    })?;
    let client = node.boot.dial(installation.address(), Join)?;
    let fresh = register(&client)?;
    let active = "is active, but the disk is blank";
    for disk in [fresh.as_str(), disk] {
        denied(installation, "record", active, || {
            join_as(&client, disk, NAME)
        })?;
    }
    Ok(())
}

fn foreign_disk(installation: &Installation, thief: &mut Node, disk: &str) -> Result<()> {
    let client = thief.boot.dial(installation.address(), Rejoin)?;
    let attester = "expected attester";
    denied(installation, "attester", attester, || rejoin(&client, disk))?;
    denied(installation, "attester", attester, || commit(&client, disk))?;
    // An id that somebody made up is no better.
    let made_up = DiskId::from_random([7; 16]).to_string();
    denied(installation, "record", "no record", || {
        rejoin(&client, &made_up)
    })?;
    let client = thief.boot.dial(installation.address(), Join)?;
    denied(installation, "disk-claim", "the id is taken", || {
        join_as(&client, disk, "worker-1")
    })
}

fn foreign_name(installation: &Installation, thief: &mut Node) -> Result<()> {
    let client = thief.boot.dial(installation.address(), Join)?;
    let disk = register(&client)?;
    denied(installation, "name-claim", "the name is taken", || {
        join_as(&client, &disk, NAME)
    })
}

/// The request ends as refused, which is all that the node learns; the join service's log says why,
/// its audit log which check, and no key is released.
fn denied(
    installation: &Installation,
    check: &str,
    words: &str,
    request: impl FnOnce() -> Result<(), RpcError>,
) -> Result<()> {
    installation.expect_recorded(check, &["request failed", words], || {
        let error = request().err().context("the request was granted")?;
        ensure!(error.class() == Class::Refused, "{error:?}");
        Ok(())
    })
}

fn register(client: &RpcClient) -> Result<String, RpcError> {
    let request = join::RegisterDiskRequest {};
    let answer: join::RegisterDiskResponse = call(client, "RegisterDisk", &request)?;
    Ok(answer.disk_uuid)
}

fn join_as(client: &RpcClient, disk: &str, name: &str) -> Result<(), RpcError> {
    let request = join::IssueJoinTicketRequest {
        disk_uuid: disk.to_owned(),
        node_name: name.to_owned(),
        role: join::Role::Worker.into(),
        certificate_requests: None,
    };
    call::<join::IssueJoinTicketResponse>(client, "IssueJoinTicket", &request).map(drop)
}

fn rejoin(client: &RpcClient, disk: &str) -> Result<(), RpcError> {
    let request = join::IssueRejoinTicketRequest {
        disk_uuid: disk.to_owned(),
        key_version: 1,
        certificate_requests: None,
    };
    call::<join::IssueRejoinTicketResponse>(client, "IssueRejoinTicket", &request).map(drop)
}

fn commit(client: &RpcClient, disk: &str) -> Result<(), RpcError> {
    let request = join::CommitRequest {
        disk_uuid: disk.to_owned(),
        generation: 1,
    };
    call::<join::CommitResponse>(client, "Commit", &request).map(drop)
}

fn call<R: Message + Default>(
    client: &RpcClient,
    method: &str,
    request: &impl Message,
) -> Result<R, RpcError> {
    client.call(
        &format!("constellation.join.v1.JoinService/{method}"),
        request,
    )
}

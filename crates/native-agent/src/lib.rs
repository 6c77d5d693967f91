//! Plays the agent's part for a node that is a set of namespaces on a test machine.
//!
//! The admission is the agent's own: [`initrd_agent::unlock::Unlock`] with its sessions, calls and state
//! machine, a real TPM behind a socket, a latch in its PCR 15. What such a node has not got is a block
//! device and a host with hints: a [`Folder`] holds the sealed header, and the state is beside it in the
//! clear. For tests of a cluster only; nothing that ships depends on it.

mod folder;
mod settings;

pub use folder::Folder;
pub use settings::{FixedWay, Settings};

use anyhow::{Result, bail};
use attested_tls::{AttesterTerms, SealingKey, TlsEnd};
use evidence::EvidenceKind;
use initrd_agent::{
    attest::Attester,
    console,
    peers::{PUSH_PORT, Peers},
    unlock::{Machine, Unlock},
};
use platform::{attester::Devices, tpm::TpmDevice};

/// Is admitted as `settings` say, and leaves the hand-off. The agent's lines go to standard error.
///
/// # Errors
/// What the agent would exit with, by the name of its reason.
pub fn admit(settings: &Settings) -> Result<()> {
    let devices = Devices {
        tpm: TpmDevice::Socket(settings.tpm.clone()),
        ..Devices::default()
    };
    let mut attester = Attester::open(EvidenceKind::Tpm, &devices)?;
    let sealing_key = SealingKey::generate()?;
    let terms = AttesterTerms {
        owner: settings.owner()?,
        claim: attester.claim(),
        sealing_key: sealing_key.public_key(),
    };
    let mut peers = Peers::new(TlsEnd::generate()?, terms);
    peers.listen(PUSH_PORT)?;
    let machine = Machine {
        disk: &Folder::open(&settings.disk)?,
        attester: &mut attester,
        way: &mut settings.way()?,
    };
    if let Err(failure) = Unlock::new(machine, peers, sealing_key).run(&settings.hand_off) {
        console::report(&failure);
        bail!("the agent exits with `{}`", failure.reason.name());
    }
    Ok(())
}

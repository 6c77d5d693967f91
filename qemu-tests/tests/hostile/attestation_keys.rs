//! Keys that sign quotes and must not.

use anyhow::{Context as _, Result, ensure};
use api::Class;
use evidence::TpmIdentity;

use crate::installation::{Installation, Lie, is_command, replace};
use crate::session::{Answer, Session, evidence, hello, hello_of};

/// `objectAttributes` of the attester's template: userWithAuth, noDA and what
/// `tpm::AttestationKey` requires (Part 2, section 8.3).
const ATTRIBUTES: [u8; 4] = [0x00, 0x05, 0x04, 0x72];
/// Without `restricted`: such a key signs whatever it is given.
const UNRESTRICTED: [u8; 4] = [0x00, 0x04, 0x04, 0x72];
/// With `decrypt` in its place.
const DECRYPTING: [u8; 4] = [0x00, 0x06, 0x04, 0x72];
/// Without `fixedTPM` and `fixedParent`: such a key can be moved elsewhere.
const MOVABLE: [u8; 4] = [0x00, 0x05, 0x04, 0x60];

/// `TPM_CC_CreatePrimary` (Part 2, section 6.5.2).
const CREATE_PRIMARY: u32 = 0x131;

const REFUSED: Answer = Answer::Refused(Class::Refused);

#[test]
fn lying_attestation_keys_are_refused() -> Result<()> {
    let installation = Installation::start("attestation-keys")?;
    of_another_tpm(&installation).context("key of another TPM")?;
    wrong_attributes(&installation, unrestricted).context("unrestricted key")?;
    wrong_attributes(&installation, decrypting).context("key that decrypts")?;
    wrong_attributes(&installation, movable).context("key that can leave its TPM")?;
    installation.passed()
}

fn of_another_tpm(installation: &Installation) -> Result<()> {
    let (mut trusted, mut other) = (installation.node()?, installation.node()?);
    let owner = installation.owner()?;
    let mixed = TpmIdentity {
        ak_public: other.boot.identity().ak_public.clone(),
        ..trusted.boot.identity().clone()
    };
    installation.expect_refused(&REFUSED, "credential activation", || {
        let hello = hello_of(&trusted.boot, mixed);
        let session = Session::open(installation.address(), &hello)?;
        for boot in [&mut trusted.boot, &mut other.boot] {
            let activated = boot.tpm().activate(session.challenge()?);
            ensure!(activated.is_err(), "a TPM answered for another one");
        }
        let data = session.binding.qualifying_data();
        let quote = other.boot.tpm().quote(&data, &session.pcrs)?;
        session.show(&evidence(&[0; 32], quote)?, &owner)
    })?;
    // The other way round: the trusted TPM's key is proven, and the other one's signs.
    installation.expect_refused(&REFUSED, "quote", || {
        let session = Session::open(installation.address(), &hello(&trusted.boot))?;
        let (activated, _) = session.attest(&mut trusted.boot)?;
        let data = session.binding.qualifying_data();
        let quote = other.boot.tpm().quote(&data, &session.pcrs)?;
        session.show(&evidence(&activated, quote)?, &owner)
    })
}

fn unrestricted(command: Vec<u8>) -> Vec<u8> {
    replace(command, &ATTRIBUTES, &UNRESTRICTED)
}

fn movable(command: Vec<u8>) -> Vec<u8> {
    replace(command, &ATTRIBUTES, &MOVABLE)
}

/// A key for both signing and decrypting has no scheme: RSASSA with SHA-256 becomes `TPM_ALG_NULL`,
/// two bytes less in the command and in the size of its public area.
fn decrypting(command: Vec<u8>) -> Vec<u8> {
    let is_attester_key = command.windows(4).any(|window| window == ATTRIBUTES);
    if !is_command(&command, CREATE_PRIMARY) || !is_attester_key {
        return command;
    }
    let changed = replace(command, &ATTRIBUTES, &DECRYPTING);
    let mut changed = replace(changed, &[0, 0x14, 0, 0x0b], &[0, 0x10]);
    for last in [5, 34] {
        if let Some(size) = changed.get_mut(last) {
            *size = size.wrapping_sub(2);
        }
    }
    changed
}

/// A real key with other attributes is refused as it is, and no better when its public area claims
/// the right ones: its TPM knows it by another name.
fn wrong_attributes(installation: &Installation, lie: Lie) -> Result<()> {
    let mut liar = installation.lying_node(lie)?;
    let owner = installation.owner()?;
    installation.expect_refused(&REFUSED, "attestation key objectAttributes", || {
        let hello = hello(&liar.boot);
        let mut session = Session::open(installation.address(), &hello)?;
        ensure!(session.challenge.is_none(), "the key was challenged");
        session.answer(&owner)
    })?;

    let mut claimed = liar.boot.identity().clone();
    if let Some(attributes) = claimed.ak_public.get_mut(4..8) {
        attributes.copy_from_slice(&ATTRIBUTES);
    }
    let claimed_scheme = [0, 0x10, 0, 0x14, 0, 0x0b];
    let has_scheme = claimed
        .ak_public
        .windows(6)
        .any(|window| window == claimed_scheme);
    if !has_scheme {
        claimed.ak_public = replace(claimed.ak_public, &[0, 0x10, 0, 0x10], &claimed_scheme);
    }
    installation.expect_refused(&REFUSED, "credential activation", || {
        let hello = hello_of(&liar.boot, claimed);
        let session = Session::open(installation.address(), &hello)?;
        let activated = liar.boot.tpm().activate(session.challenge()?);
        ensure!(activated.is_err(), "the TPM took one key for another");
        let data = session.binding.qualifying_data();
        // A key without a scheme cannot quote; anybody's quote will do.
        let mut honest = installation.node()?;
        let quote = honest.boot.tpm().quote(&data, &session.pcrs)?;
        session.show(&evidence(&[0; 32], quote)?, &owner)
    })
}

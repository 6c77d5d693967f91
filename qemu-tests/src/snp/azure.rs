//! vTPMs as Azure's paravisor keeps them: a report in NV memory that vouches for an attestation key.

use anyhow::{Context as _, Result};
use software_snp::{Leaf, ReportFields, paravisor};
use software_tpm::{Connection, SoftwareTpm};
use tpm::{AttestationKey, EkKind};

use vm::Swtpm;

/// Where the paravisor puts them (`docs/agent.md`, table of kinds).
const REPORT: u32 = 0x0140_0001;
const KEY: u32 = 0x8100_0003;

/// `TPM2_ReadPublic` without sessions; the handle follows (Part 3, section 12.4).
const READ_PUBLIC: [u8; 10] = [0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x73];
/// Bytes of an RSA-2048 modulus, which is the last field of the public area.
const MODULUS: usize = 256;

/// Makes an attestation key and stores a report of the paravisor that vouches for it.
pub fn vouch(tpm: &Swtpm, report: &ReportFields, leaf: &Leaf) -> Result<()> {
    let tpm = SoftwareTpm::open(tpm.dir())?;
    let mut connection = tpm.connect()?;
    let template = AttestationKey::template(EkKind::Rsa2048, &[1; 32]);
    connection.keep_key(&template, KEY)?;
    let modulus = modulus(&mut connection)?;
    let blob = paravisor::hcl_report(report, leaf, &modulus)?;
    connection.store_for_owner(REPORT, &blob)?;
    Ok(())
}

fn modulus(connection: &mut Connection) -> Result<Vec<u8>> {
    let answer = connection.transact(&[&READ_PUBLIC[..], &KEY.to_be_bytes()].concat())?;
    let len = answer.get(10..12).and_then(|len| len.try_into().ok());
    let end = 12 + usize::from(u16::from_be_bytes(len.context("no public area")?));
    let modulus = answer
        .get(end - MODULUS..end)
        .context("short public area")?;
    Ok(modulus.to_vec())
}

//! The TPM of a node, and what the boot of its image measured.

use anyhow::{Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};
use software_tpm::{Authority, SoftwareTpm};
use std::path::PathBuf;

/// The image that the nodes of a cluster run, by the name that its reference values have.
pub const IMAGE: &str = "native-node";

/// What a policy lists at least (docs/formats.md).
const PCRS: [u32; 10] = [0, 2, 3, 4, 7, 9, 11, 12, 13, 15];

/// The register that says which kernel and initrd were booted.
const IMAGE_PCR: u32 = 11;

/// Manufactures TPMs under a certificate authority of this run.
#[derive(Debug)]
pub struct TpmAuthority(Authority);

/// A TPM with power.
#[derive(Debug)]
pub struct Tpm(SoftwareTpm);

impl TpmAuthority {
    /// A new authority.
    ///
    /// # Errors
    /// If swtpm's tools fail.
    pub fn new() -> Result<Self> {
        let authority = Authority::new()?;
        // Its certificates are made with the first TPM that it certifies.
        drop(authority.manufacture()?);
        Ok(Self(authority))
    }

    /// The root's certificate and the issuing one, PEM.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn certificates(&self) -> Result<[String; 2]> {
        Ok([self.0.root_pem()?, self.0.issuer_pem()?])
    }

    /// A TPM that booted `image`.
    ///
    /// # Errors
    /// If swtpm does not start.
    pub fn manufacture(&self, image: &str) -> Result<Tpm> {
        let tpm = Tpm(self.0.manufacture()?);
        tpm.measure(image)?;
        Ok(tpm)
    }
}

impl Tpm {
    /// Resets the TPM, as a power cut does, and boots `image`.
    ///
    /// # Errors
    /// If swtpm does not start.
    pub fn reboot(&mut self, image: &str) -> Result<()> {
        self.0.power_cycle()?;
        self.measure(image)
    }

    /// The socket that takes commands.
    ///
    /// # Errors
    /// If swtpm does not listen.
    pub fn socket(&self) -> Result<PathBuf> {
        Ok(self.0.socket()?)
    }

    /// `TPM2_PCR_Extend` (TPM 2.0 part 3, section 22.2) with an empty password.
    fn measure(&self, image: &str) -> Result<()> {
        let body = [
            &IMAGE_PCR.to_be_bytes()[..],
            &9_u32.to_be_bytes(),           // length of the authorisation area
            &0x4000_0009_u32.to_be_bytes(), // TPM_RS_PW
            &[0; 5],                        // no nonce, no attributes, no password
            &1_u32.to_be_bytes(),           // one digest
            &0x000b_u16.to_be_bytes(),      // TPM_ALG_SHA256
            digest(&SHA256, image.as_bytes()).as_ref(),
        ]
        .concat();
        let length = u32::try_from(body.len() + 10)?;
        let command = [
            &0x8002_u16.to_be_bytes()[..], // TPM_ST_SESSIONS
            &length.to_be_bytes(),
            &0x0000_0182_u32.to_be_bytes(), // TPM_CC_PCR_Extend
            &body,
        ]
        .concat();
        let answer = self.0.connect()?.transact(&command)?;
        ensure!(
            answer.get(6..10) == Some(&[0; 4]),
            "PCR_Extend: {answer:02x?}"
        );
        Ok(())
    }
}

/// The registers after a boot of `image`, as reference values list them.
pub(crate) fn reference_pcrs(image: &str) -> Value {
    let zero = [0; 32];
    let extended = [&zero[..], digest(&SHA256, image.as_bytes()).as_ref()].concat();
    let extended = digest(&SHA256, &extended);
    let values = PCRS.map(|pcr| {
        let value = match pcr {
            IMAGE_PCR => hex::encode(extended),
            _ => hex::encode(zero),
        };
        (pcr.to_string(), Value::from(vec![value]))
    });
    Value::Object(Map::from_iter(values))
}

//! The dozen commands an attester needs (Part 3).

use super::{
    TpmError,
    command::{Command, PASSWORD},
    transport::{MAX_RESPONSE, Transport},
};
use evidence::TpmChallenge;
use std::{collections::BTreeMap, fmt};
use tpm::{Malformed, PcrSelection, PcrSet, Reader, constants::alg};
use zeroize::Zeroizing;

/// `TPM_RC_SUCCESS`.
pub(super) const SUCCESS: u32 = 0;
/// `TPM_RC_HANDLE` for the first handle: there is no such object or index (Part 2, section 6.6.2).
const NO_SUCH_HANDLE: u32 = 0x18b;
/// `TPM_RH_OWNER`, `TPM_RH_NULL` and `TPM_RH_ENDORSEMENT` (Part 2, section 7.4).
pub(super) const OWNER: Handle = Handle(0x4000_0001);
const NULL: Handle = Handle(0x4000_0007);
const ENDORSEMENT: Handle = Handle(0x4000_000b);
/// `TPM_SE_POLICY` (Part 2, section 6.11).
const SESSION_POLICY: u8 = 1;
/// `TPM_HT_TRANSIENT` in the first byte of a handle (Part 2, section 7.2).
const TRANSIENT: u32 = 0x80;

/// `TPM_CAP_HANDLES` (Part 2, section 6.12), and the first handle of each type: `TPM_HT_TRANSIENT`,
/// `TPM_HT_LOADED_SESSION` (Part 2, sections 7.2 and 7.5).
const CAP_HANDLES: u32 = 1;
const TRANSIENT_FIRST: u32 = TRANSIENT << 24;
const LOADED_SESSION_FIRST: u32 = 0x0200_0000;
/// More than any TPM loads at a time.
const MAX_HANDLES: u32 = 64;

/// The most bytes one `TPM2_NV_Read` returns everywhere.
const NV_CHUNK: u16 = 1024;
/// The largest NV index read; certificates are about 1 KiB, an HCL report is 2600 bytes.
const MAX_NV: u16 = 4096;
/// The longest nonce, name and digest (SHA-512 with its algorithm).
const MAX_NAME: usize = 66;

/// A `TPM_HANDLE`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Handle(pub(super) u32);

impl Handle {
    pub(super) const fn is_transient(self) -> bool {
        self.0 >> 24 == TRANSIENT
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({:#010x})", self.0)
    }
}

/// A TPM, one command at a time.
pub(super) struct Tpm {
    transport: Box<dyn Transport>,
}

impl fmt::Debug for Tpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tpm")
    }
}

impl Tpm {
    pub(super) fn new(transport: Box<dyn Transport>) -> Self {
        Self { transport }
    }

    pub(super) fn into_transport(self) -> Box<dyn Transport> {
        self.transport
    }

    /// Flushes every object and session that is loaded: without a resource manager they are what a user
    /// before us left behind when it was killed.
    pub(super) fn flush_all(&mut self) -> Result<(), TpmError> {
        for first in [TRANSIENT_FIRST, LOADED_SESSION_FIRST] {
            for handle in self.handles(first)? {
                self.flush_context(handle)?;
            }
        }
        Ok(())
    }

    /// `TPM2_GetCapability` of the handles from `first` on, of the same type. A TPM without a resource
    /// manager has a handful.
    fn handles(&mut self, first: u32) -> Result<Vec<Handle>, TpmError> {
        Command::new("TPM2_GetCapability", 0x17a)
            .u32(CAP_HANDLES)
            .u32(first)
            .u32(MAX_HANDLES)
            .run(&mut *self.transport)?
            .parse(|reader| {
                reader.take("moreData, capability", 5)?;
                let malformed = reader.malformed("handles.count");
                let count = reader.u32("handles.count")?;
                if count > MAX_HANDLES {
                    return Err(malformed);
                }
                (0..count)
                    .map(|_| reader.u32("handle").map(Handle))
                    .collect()
            })
    }

    /// `TPM2_CreatePrimary` under the endorsement hierarchy; gives the handle and the `TPMT_PUBLIC`.
    pub(super) fn create_primary(
        &mut self,
        template: &[u8],
    ) -> Result<(Handle, Vec<u8>), TpmError> {
        Command::new("TPM2_CreatePrimary", 0x131)
            .handle(ENDORSEMENT)
            .auth(PASSWORD)
            .sized(&[0; 4]) // inSensitive: empty userAuth, empty data
            .sized(template)
            .sized(&[]) // outsideInfo
            .u32(0) // creationPCR
            .run(&mut *self.transport)?
            .parse_with_handle(|reader| {
                let public = reader.sized("outPublic", MAX_RESPONSE)?.to_vec();
                reader.sized("creationData", MAX_RESPONSE)?;
                reader.sized("creationHash", MAX_NAME)?;
                reader.take("creationTicket", 6)?;
                reader.sized("creationTicket.digest", MAX_NAME)?;
                reader.sized("name", MAX_NAME)?;
                Ok(public)
            })
    }

    /// `TPM2_ReadPublic`; `None` if there is no such object.
    pub(super) fn read_public(&mut self, object: Handle) -> Result<Option<Vec<u8>>, TpmError> {
        let response = Command::new("TPM2_ReadPublic", 0x173)
            .handle(object)
            .run(&mut *self.transport);
        match response {
            Err(TpmError::Refused {
                code: NO_SUCH_HANDLE,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
            Ok(response) => response.parse(|reader| {
                let public = reader.sized("outPublic", MAX_RESPONSE)?;
                Ok(Some(public.to_vec()))
            }),
        }
    }

    /// Everything an NV index holds, read as `reader` (the index itself or a hierarchy) with an empty
    /// password; `None` if there is none.
    pub(super) fn nv_read(
        &mut self,
        reader: Handle,
        index: Handle,
    ) -> Result<Option<Vec<u8>>, TpmError> {
        let Some(size) = self.nv_size(index)? else {
            return Ok(None);
        };
        let mut data = Vec::new();
        let mut offset = 0;
        while offset < size {
            let chunk = NV_CHUNK.min(size - offset);
            data.extend(self.nv_read_chunk([reader, index], chunk, offset)?);
            offset += chunk;
        }
        Ok(Some(data))
    }

    fn nv_size(&mut self, index: Handle) -> Result<Option<u16>, TpmError> {
        let response = Command::new("TPM2_NV_ReadPublic", 0x169)
            .handle(index)
            .run(&mut *self.transport);
        match response {
            Err(TpmError::Refused {
                code: NO_SUCH_HANDLE,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
            Ok(response) => response.parse(|reader| {
                reader.take("nvPublic.size, nvIndex, nameAlg, attributes", 12)?;
                reader.sized("authPolicy", MAX_NAME)?;
                let malformed = reader.malformed("dataSize");
                let size = reader.u16("dataSize")?;
                if size > MAX_NV {
                    return Err(malformed);
                }
                Ok(Some(size))
            }),
        }
    }

    /// `TPM2_NV_Read` of exactly `size` bytes.
    fn nv_read_chunk(
        &mut self,
        [reader, index]: [Handle; 2],
        size: u16,
        offset: u16,
    ) -> Result<Vec<u8>, TpmError> {
        Command::new("TPM2_NV_Read", 0x14e)
            .handle(reader)
            .handle(index)
            .auth(PASSWORD)
            .u16(size)
            .u16(offset)
            .run(&mut *self.transport)?
            .parse(|reader| {
                let malformed = reader.malformed("data");
                let data = reader.sized("data", usize::from(size))?;
                if data.len() != usize::from(size) {
                    return Err(malformed);
                }
                Ok(data.to_vec())
            })
    }

    /// `TPM2_StartAuthSession` for a policy; its nonce protects nothing, as no HMAC is used.
    pub(super) fn start_policy_session(&mut self) -> Result<Handle, TpmError> {
        let response = Command::new("TPM2_StartAuthSession", 0x176)
            .handle(NULL)
            .handle(NULL)
            .sized(&[0; 16]) // nonceCaller
            .sized(&[]) // encryptedSalt
            .bytes(&[SESSION_POLICY])
            .u16(alg::NULL)
            .u16(alg::SHA256)
            .run(&mut *self.transport)?;
        let (session, ()) =
            response.parse_with_handle(|reader| reader.sized("nonceTPM", MAX_NAME).map(|_| ()))?;
        Ok(session)
    }

    /// `TPM2_PolicySecret` with the endorsement hierarchy's empty password: `PolicyA` of the EK.
    pub(super) fn policy_secret_endorsement(&mut self, session: Handle) -> Result<(), TpmError> {
        Command::new("TPM2_PolicySecret", 0x151)
            .handle(ENDORSEMENT)
            .handle(session)
            .auth(PASSWORD)
            .sized(&[]) // nonceTPM
            .sized(&[]) // cpHashA
            .sized(&[]) // policyRef
            .u32(0) // expiration
            .run(&mut *self.transport)
            .map(|_| ())
    }

    /// `TPM2_ActivateCredential` of `[ak, ek, session]`, where the session satisfies the EK's policy.
    pub(super) fn activate_credential(
        &mut self,
        [ak, ek, session]: [Handle; 3],
        challenge: &TpmChallenge,
    ) -> Result<Zeroizing<[u8; 32]>, TpmError> {
        Command::new("TPM2_ActivateCredential", 0x147)
            .handle(ak)
            .handle(ek)
            .auth(PASSWORD)
            .auth(session)
            .bytes(&challenge.credential_blob)
            .bytes(&challenge.encrypted_secret)
            .run(&mut *self.transport)?
            .parse(|reader| {
                let got = reader.sized("certInfo", MAX_RESPONSE)?;
                Ok(<[u8; 32]>::try_from(got).map(Zeroizing::new).ok())
            })?
            // Whoever makes the credential chooses how long its secret is.
            .ok_or(TpmError::Challenge("secret"))
    }

    /// `TPM2_Quote` with the key's own scheme; gives `TPMS_ATTEST` and `TPMT_SIGNATURE`.
    pub(super) fn quote(
        &mut self,
        ak: Handle,
        qualifying_data: &[u8],
        pcrs: PcrSet,
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        Command::new("TPM2_Quote", 0x158)
            .handle(ak)
            .auth(PASSWORD)
            .sized(qualifying_data)
            .u16(alg::NULL)
            .bytes(&pcrs.encode())
            .run(&mut *self.transport)?
            .parse(|reader| {
                let attestation = reader.sized("quoted", MAX_RESPONSE)?.to_vec();
                Ok((attestation, reader.rest().to_vec()))
            })
    }

    /// `TPM2_PCR_Extend` of the SHA-256 bank.
    pub(super) fn pcr_extend(&mut self, pcr: u32, digest: &[u8; 32]) -> Result<(), TpmError> {
        Command::new("TPM2_PCR_Extend", 0x182)
            .handle(Handle(pcr))
            .auth(PASSWORD)
            .u32(1)
            .u16(alg::SHA256)
            .bytes(digest)
            .run(&mut *self.transport)
            .map(|_| ())
    }

    /// `TPM2_PCR_Read` of the SHA-256 bank, one PCR a call: a TPM returns at most eight, and may
    /// return fewer.
    pub(super) fn pcr_read(&mut self, pcrs: PcrSet) -> Result<BTreeMap<u32, [u8; 32]>, TpmError> {
        pcrs.iter()
            .map(|pcr| Ok((pcr, self.pcr_read_one(pcr)?)))
            .collect()
    }

    fn pcr_read_one(&mut self, pcr: u32) -> Result<[u8; 32], TpmError> {
        let one = PcrSet::new([pcr]).ok_or_else(|| TpmError::Selection(vec![pcr]))?;
        Command::new("TPM2_PCR_Read", 0x17e)
            .bytes(&one.encode())
            .run(&mut *self.transport)?
            .parse(|reader| {
                reader.u32("pcrUpdateCounter")?;
                let malformed = reader.malformed("pcrSelectionOut");
                // A TPM without the SHA-256 bank answers with an empty selection.
                if !PcrSelection::parse(reader)?.is_exactly(one) {
                    return Err(malformed);
                }
                parse_single_digest(reader)
            })
    }

    /// `TPM2_FlushContext`.
    pub(super) fn flush_context(&mut self, handle: Handle) -> Result<(), TpmError> {
        Command::new("TPM2_FlushContext", 0x165)
            .u32(handle.0)
            .run(&mut *self.transport)
            .map(|_| ())
    }
}

fn parse_single_digest(reader: &mut Reader<'_>) -> Result<[u8; 32], Malformed> {
    let malformed = reader.malformed("pcrValues");
    let (count, len) = (
        reader.u32("pcrValues.count")?,
        reader.u16("pcrValues.size")?,
    );
    if (count, len) != (1, 32) {
        return Err(malformed);
    }
    reader.array("pcrValues.digest")
}

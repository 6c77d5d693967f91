//! The sealed part of a header: fixed layout, encoded and decoded only on this side of the AEAD.

use crate::{
    cursor::{Cursor, is_zero},
    header::Header,
    mapping::{DmParameters, ParametersError},
    preamble::Preamble,
    superblock::{IntegritySuperblock, SuperblockError},
};
use alloc::{str, vec::Vec};
use identity::{ClusterId, NodeName, Role};
use secret::VolumeKeys;
use zeroize::Zeroizing;

/// Length of the body in bytes; `docs/state-disk.md` has the offsets.
pub const BODY_LEN: usize = 320;

/// `docs/state-disk.md`, body, offset 128.
const CONTROL_PLANE: u8 = 1;

/// `docs/state-disk.md`, body, offset 128.
const WORKER: u8 = 2;

/// The field of the node name: the longest name and at least one zero.
const NAME_FIELD: usize = 64;

impl Header {
    pub(crate) fn encode_body(&self) -> Zeroizing<Vec<u8>> {
        let mut body = Zeroizing::new(Vec::with_capacity(BODY_LEN));
        body.extend_from_slice(self.volume_keys.expose_secret());
        body.extend_from_slice(self.cluster.as_bytes());
        body.push(match self.role {
            Role::ControlPlane => CONTROL_PLANE,
            Role::Worker => WORKER,
        });
        body.push(u8::from(self.init_unfinished));
        body.extend_from_slice(&[0; 2]);
        let mut name = [0; NAME_FIELD];
        for (field, byte) in name.iter_mut().zip(self.node_name.as_str().bytes()) {
            *field = byte;
        }
        body.extend_from_slice(&name);
        body.extend_from_slice(&[0; 4]);
        self.parameters.encode_into(&mut body);
        body.extend_from_slice(self.superblock.as_bytes());
        body
    }

    /// Decodes a body that has authenticated. Public for fuzzing: the bounds hold for any bytes,
    /// and a caller who skips the authentication has a header that proves nothing.
    ///
    /// # Errors
    /// The first field that is not as format version 1 has it.
    pub fn decode_body(preamble: &Preamble, body: &[u8]) -> Result<Self, BodyError> {
        let mut cursor = Cursor::new(body);
        let header = Self::read_body(preamble, &mut cursor).unwrap_or(Err(BodyError::Layout))?;
        cursor.end().ok_or(BodyError::Layout)?;
        header.superblock.check_against(&header.parameters)?;
        Ok(header)
    }

    fn read_body(preamble: &Preamble, cursor: &mut Cursor<'_>) -> Option<Result<Self, BodyError>> {
        let volume_keys = VolumeKeys::from_slice(cursor.take::<{ VolumeKeys::LEN }>()?)?;
        let cluster = ClusterId::from_bytes(*cursor.take()?);
        let role = cursor.u8()?;
        let init_unfinished = cursor.u8()?;
        cursor.zeros::<2>()?;
        let name = cursor.take::<NAME_FIELD>()?;
        cursor.zeros::<4>()?;
        let parameters = DmParameters::read(cursor)?;
        let superblock = cursor.take()?;
        let header = || {
            Ok(Self {
                disk: preamble.disk,
                key_version: preamble.key_version,
                generation: preamble.generation,
                volume_keys,
                cluster,
                role: parse_role(role)?,
                init_unfinished: parse_flag(init_unfinished)?,
                node_name: parse_name(name)?,
                parameters: parameters?,
                superblock: IntegritySuperblock::parse_known(superblock)?,
            })
        };
        Some(header())
    }
}

const fn parse_role(byte: u8) -> Result<Role, BodyError> {
    match byte {
        CONTROL_PLANE => Ok(Role::ControlPlane),
        WORKER => Ok(Role::Worker),
        got => Err(BodyError::Role { got }),
    }
}

const fn parse_flag(byte: u8) -> Result<bool, BodyError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        got => Err(BodyError::InitUnfinished { got }),
    }
}

fn parse_name(field: &[u8; NAME_FIELD]) -> Result<NodeName, BodyError> {
    let end = field.iter().position(|byte| *byte == 0);
    let (name, padding) = field
        .split_at_checked(end.ok_or(BodyError::NodeName)?)
        .ok_or(BodyError::NodeName)?;
    if !is_zero(padding) {
        return Err(BodyError::NodeName);
    }
    let text = str::from_utf8(name).map_err(|_| BodyError::NodeName)?;
    text.parse().map_err(|_| BodyError::NodeName)
}

/// Why an authenticated body is not one this version writes (class internal: the data key's holder
/// wrote it).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The "init unfinished" byte is neither 0 nor 1.
    #[error("body init-unfinished: expected 0 or 1, got {got}")]
    InitUnfinished {
        /// The byte found.
        got: u8,
    },
    /// Wrong length, or a byte that must be zero is not.
    #[error("body length or padding is not that of format version 1")]
    Layout,
    /// The node name is no zero-padded DNS label.
    #[error("body node name is malformed")]
    NodeName,
    /// A device-mapper parameter out of bounds.
    #[error("body device-mapper parameters")]
    Parameters(#[from] ParametersError),
    /// A role that does not exist.
    #[error("body role: expected 1 or 2, got {got}")]
    Role {
        /// The byte found.
        got: u8,
    },
    /// A superblock that is not well-formed or does not belong to the parameters.
    #[error("body dm-integrity superblock")]
    Superblock(#[from] SuperblockError),
}

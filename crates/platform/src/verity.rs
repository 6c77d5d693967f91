//! The verified root: dm-verity by the root hash of the measured command line.

use crate::{
    block::device_number,
    dm::{DeviceMapper, DmError, MappedDevice},
};
use state_disk::{DeviceNumber, Table};
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The mapping that carries the verified root.
pub const ROOT_MAPPING: &str = "constellation-root";

/// Sectors of 512 bytes in a block of 4096, the only block size we build.
const BLOCK_SECTORS: u64 = 8;

/// No root is larger: 2^40 blocks are 4 PiB.
const MAX_BLOCKS: u64 = 1 << 40;

/// `constellation.root=<data blocks>:<salt hex>:<root hash hex>`: dm-verity format 1, SHA-256,
/// 4096-byte blocks, no superblock, the hash tree right after the data on the same device.
///
/// The value is trusted because the command line it comes from is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRoot {
    data_blocks: u64,
    salt: String,
    root_hash: String,
}

impl FromStr for VerifiedRoot {
    type Err = MalformedRoot;

    fn from_str(text: &str) -> Result<Self, MalformedRoot> {
        let mut parts = text.split(':');
        let (Some(blocks), Some(salt), Some(root_hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(MalformedRoot("three parts"));
        };
        let data_blocks: u64 = match blocks.parse() {
            // Only the spelling that the number prints as: no sign, no leading zero.
            Ok(number) if blocks == format!("{number}") => number,
            _ => return Err(MalformedRoot("data blocks")),
        };
        if !(1..=MAX_BLOCKS).contains(&data_blocks) {
            return Err(MalformedRoot("data blocks"));
        }
        if !is_digest(salt) {
            return Err(MalformedRoot("salt"));
        }
        if !is_digest(root_hash) {
            return Err(MalformedRoot("root hash"));
        }
        Ok(Self {
            data_blocks,
            salt: salt.into(),
            root_hash: root_hash.into(),
        })
    }
}

/// 32 bytes in lower-case hex, as the kernel prints them.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl VerifiedRoot {
    /// The table, Linux `Documentation/admin-guide/device-mapper/verity.rst`.
    #[must_use]
    pub fn table(&self, device: DeviceNumber) -> Table {
        let Self {
            data_blocks,
            salt,
            root_hash,
        } = self;
        Table {
            target: "verity",
            sectors: data_blocks * BLOCK_SECTORS,
            parameters: format!(
                "1 {device} {device} 4096 4096 {data_blocks} {data_blocks} sha256 {root_hash} {salt}"
            ),
            read_only: true,
        }
    }

    /// Maps the root. Its blocks are verified when they are read, so a device with other content
    /// fails at the first read that meets it.
    ///
    /// # Errors
    /// The step that failed; no mapping is left then.
    pub fn activate(
        &self,
        mapper: &DeviceMapper,
        device: &Path,
    ) -> Result<MappedDevice, RootError> {
        let metadata = fs::metadata(device).map_err(|source| RootError::Device {
            path: device.to_path_buf(),
            source,
        })?;
        let table = self.table(device_number(metadata.rdev()));
        mapper
            .activate(ROOT_MAPPING, &table)
            .map_err(RootError::Activate)
    }
}

/// The value of `constellation.root` is not what it should be (class malformed).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed `constellation.root`: {0}")]
pub struct MalformedRoot(&'static str);

/// Why the root was not mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// dm-verity refused.
    #[error("activate dm-verity")]
    Activate(#[source] DmError),
    /// The device.
    #[error("root device `{path}`")]
    Device {
        /// The device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> String {
        format!("1024:{}:{}", "ab".repeat(32), "cd".repeat(32))
    }

    #[test]
    fn the_table_is_the_kernel_s() {
        let root: VerifiedRoot = value().parse().unwrap();
        let table = root.table(DeviceNumber {
            major: 254,
            minor: 0,
        });
        assert_eq!(table.sectors, 8192);
        assert!(table.read_only);
        assert_eq!(
            table.parameters,
            format!(
                "1 254:0 254:0 4096 4096 1024 1024 sha256 {} {}",
                "cd".repeat(32),
                "ab".repeat(32)
            )
        );
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = value();
        let bad = [
            String::new(),
            "1024".into(),
            format!("{good}:"),
            format!(" {good}"),
            good.replace("1024", "0"),
            good.replace("1024", "+1024"),
            good.replace("1024", "01024"),
            good.replace("1024", "18446744073709551615"),
            good.replace("ab", "AB"),
            good.replacen("ab", "", 1),
            good.replacen("ab", "a ", 1),
            good.replacen("cd", "cdcd", 1),
        ];
        for text in bad {
            assert!(text.parse::<VerifiedRoot>().is_err(), "{text:?}");
        }
    }
}

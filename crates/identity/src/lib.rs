//! The names a cluster knows things by: disks, nodes, roles, generations, key versions.
//!
//! Each is a newtype whose constructor parses; a value of the type is well-formed wherever it came
//! from. None of them is a secret and none of them proves anything.
#![no_std]

extern crate alloc;

use alloc::string::{String, ToString};
use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: expected {expected}")]
pub struct MalformedName {
    what: &'static str,
    expected: &'static str,
}

/// A state disk: a random 128-bit UUID minted by the admitting side, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId([u8; 16]);

impl DiskId {
    /// Makes an id of 16 random bytes, setting version 4 and the RFC 9562 variant.
    #[must_use]
    pub const fn from_random(mut random: [u8; 16]) -> Self {
        random[6] = (random[6] & 0x0f) | 0x40;
        random[8] = (random[8] & 0x3f) | 0x80;
        Self(random)
    }

    /// The id as stored in a sealed header; any 16 bytes are a disk id.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for DiskId {
    type Err = MalformedName;

    /// Parses exactly the 36-character lower-case form that `Display` prints.
    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let malformed = MalformedName {
            what: "disk uuid",
            expected: "8-4-4-4-12 lower-case hex digits",
        };
        let digits: String = text.split('-').collect();
        let mut bytes = [0; 16];
        hex::decode_to_slice(&digits, &mut bytes).map_err(|_| malformed.clone())?;
        let id = Self(bytes);
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(malformed)
        }
    }
}

/// A cluster: 32 bytes derived from the master secret, extended into PCR 15 as the latch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId([u8; 32]);

impl ClusterId {
    /// Wraps the 32 derived bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ClusterId {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let mut bytes = [0; 32];
        let malformed = MalformedName {
            what: "cluster id",
            expected: "64 lower-case hex digits",
        };
        hex::decode_to_slice(text, &mut bytes).map_err(|_| malformed.clone())?;
        let id = Self(bytes);
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(malformed)
        }
    }
}

/// A node's name: a DNS label of RFC 1123, at most 63 characters, as Kubernetes wants it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// The longest name in bytes (RFC 1123, section 2.1).
    pub const MAX_LEN: usize = 63;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let ok = (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if !ok {
            return Err(MalformedName {
                what: "node name",
                expected: "1 to 63 of a-z, 0-9 and '-', neither first nor last a '-'",
            });
        }
        Ok(Self(text.to_string()))
    }
}

/// What a node is in its cluster. The image's reference values say which roles it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the control plane and the services.
    ControlPlane,
    /// Runs workloads only.
    Worker,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ControlPlane => "control-plane",
            Self::Worker => "worker",
        })
    }
}

impl FromStr for Role {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, MalformedName> {
        match text {
            "control-plane" => Ok(Self::ControlPlane),
            "worker" => Ok(Self::Worker),
            _ => Err(MalformedName {
                what: "role",
                expected: "`control-plane` or `worker`",
            }),
        }
    }
}

/// How often a disk's sealed header was admitted: 1 after the join, one more after each rejoin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that a join writes.
    pub const FIRST: Self = Self(1);

    /// The next generation; `None` once 2^64 boots are over.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The version of the key-encryption key under which a data key was derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyVersion(pub u32);

impl KeyVersion {
    /// The version of a new cluster.
    pub const FIRST: Self = Self(1);
}

impl fmt::Display for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! serde_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

serde_as_text!(DiskId, ClusterId, NodeName);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn disk_ids_round_trip_and_refuse_other_spellings() {
        let id = DiskId::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "FFFFFFFF-ffff-4fff-bfff-ffffffffffff",
            "ffffffffffff4fffbfffffffffffffff",
            "ffffffff-ffff-4fff-bffff-fffffffffff",
            "ffffffff-ffff-4fff-bfff-ffffffffffff-",
        ] {
            assert!(bad.parse::<DiskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn node_names_are_dns_labels() {
        for good in ["a", "worker-0", "0", &"a".repeat(63)] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a/b",
            "ä",
            "a\n",
            &"a".repeat(64),
        ] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn cluster_ids_are_lower_case_hex() {
        let id = ClusterId::from_bytes([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("AB".repeat(32).parse::<ClusterId>().is_err());
        assert!(format!("{id}0").parse::<ClusterId>().is_err());
    }
}

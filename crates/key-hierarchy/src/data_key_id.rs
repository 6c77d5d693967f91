use alloc::string::{String, ToString};
use core::{fmt, ops::RangeInclusive, str::FromStr};
use identity::DiskId;

/// The name of a data key: `state-disk/<uuid>`, `volume/<id>` or `cluster/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DataKeyId {
    /// A key of the cluster itself.
    Cluster(ClusterKey),
    /// The key that opens the sealed header of one state disk.
    StateDisk(DiskId),
    /// The key of one persistent volume.
    Volume(VolumeId),
}

/// What a data key protects. Callers of the key service are granted classes, never ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyClass {
    /// Keys of the cluster itself.
    Cluster,
    /// Keys of state disks.
    StateDisk,
    /// Keys of persistent volumes.
    Volume,
}

/// The keys a cluster has for itself. A closed list: an unknown name is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClusterKey {
    /// The secret from which the cluster id is derived.
    MeasurementSecret,
}

/// The id of a volume as its storage driver names it: printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(String);

/// A text that names no data key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedDataKeyId {
    /// The part before the first `/` is no class.
    #[error("data key id: expected a class `state-disk/`, `volume/` or `cluster/`")]
    Class,
    /// The cluster has no key of this name.
    #[error("data key id: expected a cluster key, `measurementSecret`")]
    ClusterKey,
    /// A state-disk key is named by the disk's uuid.
    #[error("data key id: malformed state-disk id")]
    StateDisk(#[source] identity::MalformedName),
    /// Too long, empty, or with a byte that is not printable ASCII.
    #[error("data key id: expected a volume id of 1 to 256 printable ASCII characters")]
    Volume,
    /// The id would derive the key of another class.
    #[error("data key id: the volume id is reserved for another key class")]
    VolumeReserved,
}

impl DataKeyId {
    /// The class, which decides who may ask for the key.
    #[must_use]
    pub const fn class(&self) -> KeyClass {
        match self {
            Self::Cluster(_) => KeyClass::Cluster,
            Self::StateDisk(_) => KeyClass::StateDisk,
            Self::Volume(_) => KeyClass::Volume,
        }
    }

    /// The lengths in bytes that a key of this class may have. A volume key feeds dm-crypt: from
    /// AES-128 up to AES-256-XTS with HMAC-SHA-512.
    #[must_use]
    pub const fn lengths(&self) -> RangeInclusive<usize> {
        match self {
            Self::Cluster(_) | Self::StateDisk(_) => 32..=32,
            Self::Volume(_) => 16..=128,
        }
    }

    /// HKDF's `info` (crate docs).
    pub(crate) fn info(&self) -> String {
        match self {
            Self::Cluster(ClusterKey::MeasurementSecret) => "key-measurementSecret".to_string(),
            Self::StateDisk(disk) => alloc::format!("{STATE_DISK_INFO}{disk}"),
            Self::Volume(VolumeId(id)) => alloc::format!("key-{id}"),
        }
    }
}

impl FromStr for DataKeyId {
    type Err = MalformedDataKeyId;

    fn from_str(text: &str) -> Result<Self, MalformedDataKeyId> {
        match text.split_once('/').ok_or(MalformedDataKeyId::Class)? {
            ("cluster", "measurementSecret") => Ok(Self::Cluster(ClusterKey::MeasurementSecret)),
            ("cluster", _) => Err(MalformedDataKeyId::ClusterKey),
            ("state-disk", id) => id
                .parse()
                .map(Self::StateDisk)
                .map_err(MalformedDataKeyId::StateDisk),
            ("volume", id) => id.parse().map(Self::Volume),
            _ => Err(MalformedDataKeyId::Class),
        }
    }
}

impl fmt::Display for DataKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster(ClusterKey::MeasurementSecret) => {
                f.write_str("cluster/measurementSecret")
            }
            Self::StateDisk(disk) => write!(f, "state-disk/{disk}"),
            Self::Volume(VolumeId(id)) => write!(f, "volume/{id}"),
        }
    }
}

impl VolumeId {
    /// The longest id in bytes. CSI allows 128; some drivers use whole resource paths.
    pub const MAX_LEN: usize = 256;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeId {
    type Err = MalformedDataKeyId;

    fn from_str(text: &str) -> Result<Self, MalformedDataKeyId> {
        let printable = text.bytes().all(|b| b.is_ascii_graphic());
        if !printable || !(1..=Self::MAX_LEN).contains(&text.len()) {
            return Err(MalformedDataKeyId::Volume);
        }
        // A volume's `info` is "key-" + id without a class, so these ids are other keys' names.
        let reserved = text.starts_with("state-disk/")
            || text.starts_with("cluster/")
            || RESERVED.iter().any(|name| text.eq_ignore_ascii_case(name));
        if reserved {
            return Err(MalformedDataKeyId::VolumeReserved);
        }
        Ok(Self(text.to_string()))
    }
}

impl KeyClass {
    /// The class as configuration files spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::StateDisk => "state-disk",
            Self::Volume => "volume",
        }
    }
}

impl fmt::Display for KeyClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyClass {
    type Err = MalformedDataKeyId;

    fn from_str(text: &str) -> Result<Self, MalformedDataKeyId> {
        [Self::Cluster, Self::StateDisk, Self::Volume]
            .into_iter()
            .find(|class| class.as_str() == text)
            .ok_or(MalformedDataKeyId::Class)
    }
}

/// State disks have no predecessor to be compatible with, hence a class and a version of its own.
const STATE_DISK_INFO: &str = "key-state-disk/v1/";

/// Ids that the derivation uses for the cluster itself.
const RESERVED: [&str; 2] = ["clusterID", "measurementSecret"];

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "00000000-0000-4000-8000-000000000001";

    #[test]
    fn ids_round_trip() {
        for (text, class) in [
            ("cluster/measurementSecret", KeyClass::Cluster),
            (
                "state-disk/00000000-0000-4000-8000-000000000001",
                KeyClass::StateDisk,
            ),
            ("volume/pvc-1", KeyClass::Volume),
            ("volume/projects/p/zones/z/disks/d", KeyClass::Volume),
        ] {
            let id: DataKeyId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(id.class(), class);
            assert_eq!(class.as_str().parse(), Ok(class));
        }
    }

    #[test]
    fn no_id_of_one_class_spells_a_key_of_another() {
        let reserved = ["measurementSecret", "MeasurementSecret", "clusterID"];
        for id in reserved {
            assert_eq!(
                alloc::format!("volume/{id}").parse::<DataKeyId>(),
                Err(MalformedDataKeyId::VolumeReserved)
            );
        }
        assert_eq!(
            alloc::format!("volume/state-disk/v1/{UUID}").parse::<DataKeyId>(),
            Err(MalformedDataKeyId::VolumeReserved)
        );
        assert_eq!(
            "volume/cluster/v1/service-ca".parse::<DataKeyId>(),
            Err(MalformedDataKeyId::VolumeReserved)
        );
        // What a volume id can spell in the derivation never begins as a state disk's info does.
        let disk: DataKeyId = alloc::format!("state-disk/{UUID}").parse().unwrap();
        assert_eq!(disk.info(), alloc::format!("key-state-disk/v1/{UUID}"));
    }

    #[test]
    fn malformed_ids_are_refused() {
        for bad in [
            "",
            "/",
            "volume",
            "volume/",
            "volume/a b",
            "volume/a\n",
            "volume/\u{e4}",
            "Volume/a",
            "state-disk/",
            "state-disk/x",
            "state-disk/FFFFFFFF-ffff-4fff-bfff-ffffffffffff",
            "state-disk/00000000-0000-4000-8000-000000000001/",
            " state-disk/00000000-0000-4000-8000-000000000001",
            "cluster/",
            "cluster/clusterID",
            "cluster/service-ca",
            "cluster/v1/service-ca",
            "cluster/measurementsecret",
            "disk/a",
            UUID,
        ] {
            assert!(bad.parse::<DataKeyId>().is_err(), "{bad:?}");
        }
        let longest = alloc::format!("volume/{}", "v".repeat(VolumeId::MAX_LEN));
        assert!(longest.parse::<DataKeyId>().is_ok());
        assert!(alloc::format!("{longest}v").parse::<DataKeyId>().is_err());
    }
}

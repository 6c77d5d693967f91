//! Device-mapper through its four ioctls: create, load a table, resume, read the live table back.
//!
//! A mapping is made from nothing or not at all: an existing one of the same name is refused,
//! because whoever made it may still hold it. After activation the live table is compared with the
//! one asked for; a mapping that differs is removed again.

use crate::block::device_number;
use request::{Command, Request};
use rustix::io::Errno;
use state_disk::{DeviceNumber, Table};
use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

mod request;

/// The control device; devtmpfs makes it when dm-mod is loaded.
const CONTROL: &str = "/dev/mapper/control";

/// An opened control device.
#[derive(Debug)]
pub struct DeviceMapper {
    control: File,
}

/// A live mapping, its table compared.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct MappedDevice {
    name: String,
    number: DeviceNumber,
}

impl MappedDevice {
    /// The mapping's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's number, for a table on top of it.
    #[must_use]
    pub const fn number(&self) -> DeviceNumber {
        self.number
    }

    /// The node that devtmpfs made for it.
    #[must_use]
    pub fn node(&self) -> PathBuf {
        PathBuf::from(format!("/dev/dm-{}", self.number.minor))
    }

    /// The link by name, `/dev/mapper/<name>`.
    #[must_use]
    pub fn link(&self) -> PathBuf {
        link(&self.name)
    }
}

impl DeviceMapper {
    /// Opens the control device.
    ///
    /// # Errors
    /// [`DmError::Open`]: the module is not loaded.
    pub fn open() -> Result<Self, DmError> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        Ok(Self {
            control: control.map_err(DmError::Open)?,
        })
    }

    /// Refuses when a mapping called `name` exists.
    ///
    /// # Errors
    /// [`DmError::Exists`], or the kernel's refusal to say.
    pub fn refuse_existing(&self, name: &str) -> Result<(), DmError> {
        match Request::named(name)?.send(&self.control, Command::Status) {
            Err(Errno::NXIO) => Ok(()),
            Ok(_) => Err(DmError::Exists(name.into())),
            Err(source) => Err(failed("status", name, source)),
        }
    }

    /// Creates the mapping `name` with `table`, activates it, and compares the live table.
    ///
    /// # Errors
    /// The step that failed; no mapping of this name is left then.
    pub fn activate(&self, name: &str, table: &Table) -> Result<MappedDevice, DmError> {
        let mut create = Request::named(name)?;
        create.read_only(table.read_only);
        match create.send(&self.control, Command::Create) {
            Ok(_) => {}
            Err(Errno::BUSY) => return Err(DmError::Exists(name.into())),
            Err(source) => return Err(failed("create", name, source)),
        }
        let activated = self.fill(name, table);
        if activated.is_err() {
            // The first error is the one to report.
            self.remove(name).unwrap_or_default();
        }
        activated
    }

    fn fill(&self, name: &str, table: &Table) -> Result<MappedDevice, DmError> {
        self.load(name, table)?;
        let resumed = Request::named(name)?
            .send(&self.control, Command::Resume)
            .map_err(|source| failed("resume", name, source))?;
        self.compare(name, table)?;
        let device = MappedDevice {
            name: name.into(),
            number: device_number(resumed.device()),
        };
        make_link(&device).map_err(|source| DmError::Link {
            path: device.link(),
            source,
        })?;
        Ok(device)
    }

    fn load(&self, name: &str, table: &Table) -> Result<(), DmError> {
        let mut load = Request::named(name)?;
        load.read_only(table.read_only);
        load.table(table)?;
        load.send(&self.control, Command::Load)
            .map(drop)
            .map_err(|source| failed("load table of", name, source))
    }

    /// Compares the live table of `name` with `asked`: one target, its type, length and parameters
    /// (among them the reference to the kernel key), and whether it is read-only.
    ///
    /// # Errors
    /// [`DmError::Differs`] with both tables; they contain no key.
    pub fn compare(&self, name: &str, asked: &Table) -> Result<(), DmError> {
        let mut status = Request::named(name)?;
        status.ask_for_table();
        let live = status
            .send(&self.control, Command::TableStatus)
            .map_err(|source| failed("table of", name, source))?
            .live_table()
            .ok_or_else(|| DmError::Reply(name.into()))?;
        if live.is(asked) {
            return Ok(());
        }
        Err(DmError::Differs {
            name: name.into(),
            asked: format!("{asked:?}"),
            live: format!("{live:?}"),
        })
    }

    /// A mapping that another program of this boot made.
    ///
    /// # Errors
    /// [`DmError::Step`]: there is none of this name.
    pub fn existing(&self, name: &str) -> Result<MappedDevice, DmError> {
        let status = Request::named(name)?
            .send(&self.control, Command::Status)
            .map_err(|source| failed("status of", name, source))?;
        Ok(MappedDevice {
            name: name.into(),
            number: device_number(status.device()),
        })
    }

    /// The status line of the mapping's target, as the target's documentation describes it.
    ///
    /// # Errors
    /// [`DmError::Step`], or [`DmError::Reply`] when the kernel's answer does not parse.
    pub fn target_status(&self, name: &str) -> Result<String, DmError> {
        Request::named(name)?
            .send(&self.control, Command::TableStatus)
            .map_err(|source| failed("status of", name, source))?
            .live_table()
            .map(|live| live.parameters)
            .ok_or_else(|| DmError::Reply(name.into()))
    }

    /// Removes a mapping that nothing uses.
    ///
    /// # Errors
    /// [`DmError::Step`], with "busy" while something uses it.
    pub fn remove(&self, name: &str) -> Result<(), DmError> {
        match fs::remove_file(link(name)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(DmError::Link {
                path: link(name),
                source,
            }),
            _ => Request::named(name)?
                .send(&self.control, Command::Remove)
                .map(drop)
                .map_err(|source| failed("remove", name, source)),
        }
    }

    /// The names of all mappings.
    ///
    /// # Errors
    /// [`DmError::Step`], or [`DmError::Reply`] when the kernel's list does not parse.
    pub fn list(&self) -> Result<Vec<String>, DmError> {
        Request::unnamed()
            .send(&self.control, Command::List)
            .map_err(|source| failed("list", "*", source))?
            .names()
            .ok_or_else(|| DmError::Reply("*".into()))
    }
}

fn failed(step: &'static str, name: &str, source: Errno) -> DmError {
    DmError::Step {
        step,
        name: name.into(),
        source,
    }
}

fn link(name: &str) -> PathBuf {
    Path::new("/dev/mapper").join(name)
}

/// Without udev nobody makes the link; one that is there belongs to a mapping that is not.
fn make_link(device: &MappedDevice) -> io::Result<()> {
    match fs::remove_file(device.link()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(source),
        _ => {}
    }
    std::os::unix::fs::symlink(format!("../dm-{}", device.number.minor), device.link())
}

/// Why a mapping was not made (class internal, except `Differs` and `Exists`: refused).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DmError {
    /// The live table is not the one asked for.
    #[error("mapping `{name}`: live table differs: expected {asked}, got {live}")]
    Differs {
        /// The mapping.
        name: String,
        /// The table asked for.
        asked: String,
        /// The table the kernel reports.
        live: String,
    },
    /// A mapping of this name exists already.
    #[error("mapping `{0}` exists already")]
    Exists(String),
    /// The link below `/dev/mapper` could not be made or removed.
    #[error("link `{path}`")]
    Link {
        /// The link.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The control device could not be opened.
    #[error("open `{CONTROL}`")]
    Open(#[source] io::Error),
    /// The kernel's answer does not parse.
    #[error("mapping `{0}`: reply does not parse")]
    Reply(String),
    /// A name or table is too long for a request.
    #[error("mapping `{0}`: name or table too long")]
    TooLong(String),
    /// An ioctl failed.
    #[error("{step} mapping `{name}`")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The mapping.
        name: String,
        /// Why.
        source: Errno,
    },
}

//! Building a UKI from its parts, taking one apart, and making an owner's copy of one.

use crate::{
    cmdline::{Cmdline, CmdlineError},
    pe::{NewSection, Pe, PeError, Section},
};
use alloc::{string::String, vec::Vec};
use thiserror::Error;

/// Sections that come from us, in the order they are written. The kernel is last, as ukify does:
/// newer stubs may unpack it beyond its end. There is no `.osrel`: from version 257 on the stub would
/// add it to the initramfs, which holds nothing but what its builder put there.
const ORDER: [&str; 4] = [".uname", ".cmdline", ".initrd", ".linux"];

/// Sections of the stub itself. Any other one before ours might be input to the stub.
const STUB: [&str; 6] = [".text", ".rodata", ".data", ".sdmagic", ".sbat", ".reloc"];

/// Why a UKI can't be made or read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UkiError {
    /// The command line is not one of ours. Class: that of its source.
    #[error("section `.cmdline`")]
    Cmdline(#[source] CmdlineError),
    /// Class: malformed.
    #[error("section `{name}` is missing or there twice")]
    Missing {
        /// Name of the section.
        name: &'static str,
    },
    /// The file is a UKI, but not in the one form that [`build`] writes. Class: refused.
    #[error("not laid out as this tool builds images; only such images can be changed safely")]
    NotCanonical,
    /// Class: malformed.
    #[error("the file is not a PE file this tool reads")]
    Pe(#[source] PeError),
    /// A section whose effect on the boot is not known here. Class: refused.
    #[error("section `{name}` is not one this tool measures")]
    UnknownSection {
        /// Name of the section.
        name: String,
    },
}

/// What goes into a UKI.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The stub, a PE file without signature.
    pub stub: &'a [u8],
    /// What `uname -r` will say.
    pub kernel_release: &'a str,
    /// The measured command line.
    pub cmdline: &'a Cmdline,
    /// The initramfs.
    pub initrd: &'a [u8],
    /// The kernel, a PE file itself.
    pub kernel: &'a [u8],
}

/// A UKI taken apart.
#[derive(Clone, Debug)]
pub struct Uki<'a> {
    pe: Pe<'a>,
    stub_sections: usize,
    cmdline: Cmdline,
}

/// Builds a UKI. Equal parts give equal bytes.
///
/// # Errors
/// [`UkiError`] if the stub is not a plain PE file.
pub fn build(parts: &Parts<'_>) -> Result<Vec<u8>, UkiError> {
    let stub = Pe::parse(parts.stub).map_err(UkiError::Pe)?;
    let [uname, cmdline, initrd, linux] = ORDER;
    let sections = [
        NewSection {
            name: uname,
            data: parts.kernel_release.as_bytes(),
        },
        NewSection {
            name: cmdline,
            data: parts.cmdline.as_str().as_bytes(),
        },
        NewSection {
            name: initrd,
            data: parts.initrd,
        },
        NewSection {
            name: linux,
            data: parts.kernel,
        },
    ];
    stub.with_sections(stub.sections().len(), &sections)
        .map_err(UkiError::Pe)
}

/// The same UKI for the owner with this fingerprint, the SHA-256 of the owner's public key. Only
/// the owner's word of the command line changes.
///
/// # Errors
/// [`UkiError::NotCanonical`] for a UKI that [`build`] did not make, because then it is not certain
/// that nothing else changes.
pub fn own(uki: &[u8], fingerprint: &[u8; 32]) -> Result<Vec<u8>, UkiError> {
    let uki = Uki::parse(uki)?;
    if uki.rebuild(&uki.cmdline)? != uki.pe.bytes() {
        return Err(UkiError::NotCanonical);
    }
    let cmdline = uki
        .cmdline
        .with_owner(fingerprint)
        .map_err(UkiError::Cmdline)?;
    uki.rebuild(&cmdline)
}

impl<'a> Uki<'a> {
    /// Parses a UKI with exactly the sections that [`build`] writes after those of the stub.
    ///
    /// # Errors
    /// [`UkiError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UkiError> {
        let pe = Pe::parse(bytes).map_err(UkiError::Pe)?;
        let is_any =
            |section: &Section<'_>, names: &[&str]| names.iter().any(|name| section.is(name));
        let stub = pe
            .sections()
            .iter()
            .take_while(|section| is_any(section, &STUB));
        let stub_sections = stub.count();
        let added = pe.sections().iter().skip(stub_sections);
        for section in added {
            if !is_any(section, &ORDER) {
                let name = section.name();
                return Err(UkiError::UnknownSection { name });
            }
        }
        for name in ORDER {
            pe.section(name).ok_or(UkiError::Missing { name })?;
        }
        let cmdline = pe
            .section(".cmdline")
            .map(|section| section.data())
            .unwrap_or_default();
        let cmdline = Cmdline::parse(cmdline).map_err(UkiError::Cmdline)?;
        Ok(Self {
            pe,
            stub_sections,
            cmdline,
        })
    }

    /// The measured command line.
    #[must_use]
    pub const fn cmdline(&self) -> &Cmdline {
        &self.cmdline
    }

    /// The file as PE.
    #[must_use]
    pub const fn pe(&self) -> &Pe<'a> {
        &self.pe
    }

    /// The content of one of the sections that [`build`] writes.
    ///
    /// # Errors
    /// [`UkiError::Missing`] for another name.
    pub fn section(&self, name: &'static str) -> Result<&'a [u8], UkiError> {
        let section = self.pe.section(name).ok_or(UkiError::Missing { name })?;
        Ok(section.data())
    }

    fn rebuild(&self, cmdline: &Cmdline) -> Result<Vec<u8>, UkiError> {
        let mut sections = Vec::with_capacity(ORDER.len());
        for name in ORDER {
            let data = match name {
                ".cmdline" => cmdline.as_str().as_bytes(),
                _ => self.section(name)?,
            };
            sections.push(NewSection { name, data });
        }
        self.pe
            .with_sections(self.stub_sections, &sections)
            .map_err(UkiError::Pe)
    }
}

/// A document that the owner signed, as a store remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Which document.
    pub document: &'static str,
    /// Its serial.
    pub serial: u64,
    /// SHA-256 of its content.
    pub digest: [u8; 32],
}

/// A document is not one that may follow what was in force before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SerialRefusal {
    /// The serial goes back.
    #[error("{document}: serial {got} is below {stored}, which was in force before")]
    Lower {
        /// The document.
        document: &'static str,
        /// The highest serial seen.
        stored: u64,
        /// The document's.
        got: u64,
    },
    /// Two documents have one serial: nobody could say which of them is the newer one.
    #[error("{document}: serial {serial} was in force before with another content")]
    Reused {
        /// The document.
        document: &'static str,
        /// The serial of both.
        serial: u64,
    },
}

impl Version {
    /// Compares with the serial and the digest that are `stored`, the highest ones seen.
    ///
    /// # Errors
    /// [`SerialRefusal`]; the document must not come into force.
    pub fn follows(&self, stored: Option<(u64, [u8; 32])>) -> Result<(), SerialRefusal> {
        let (document, got) = (self.document, self.serial);
        match stored {
            Some((stored, _)) if got < stored => Err(SerialRefusal::Lower {
                document,
                stored,
                got,
            }),
            Some((serial, digest)) if got == serial && self.digest != digest => {
                Err(SerialRefusal::Reused { document, serial })
            }
            _ => Ok(()),
        }
    }
}

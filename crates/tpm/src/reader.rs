//! A bounded big-endian reader over received bytes.

/// Bytes that are not the structure they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {structure}: `{field}` at byte {offset}")]
pub struct Malformed {
    /// The structure being parsed.
    pub structure: &'static str,
    /// The field that is wrong, `end` for trailing bytes.
    pub field: &'static str,
    /// Where in the structure.
    pub offset: usize,
}

/// Reads a TPM structure field by field and never past its end.
#[derive(Debug)]
pub struct Reader<'a> {
    structure: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`; `structure` names it in errors.
    #[must_use]
    pub const fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            structure,
            bytes,
            offset: 0,
        }
    }

    /// The error for `field` at the current position.
    #[must_use]
    pub const fn malformed(&self, field: &'static str) -> Malformed {
        Malformed {
            structure: self.structure,
            field,
            offset: self.offset,
        }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], Malformed> {
        let malformed = self.malformed(field);
        let end = self.offset.checked_add(len).ok_or(malformed)?;
        let taken = self.bytes.get(self.offset..end).ok_or(malformed)?;
        self.offset = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let malformed = self.malformed(field);
        self.take(field, N)?.try_into().map_err(|_| malformed)
    }

    /// A byte.
    ///
    /// # Errors
    /// If none is left.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        self.array(field).map(u8::from_be_bytes)
    }

    /// A big-endian 16-bit number.
    ///
    /// # Errors
    /// If fewer bytes are left.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        self.array(field).map(u16::from_be_bytes)
    }

    /// A big-endian 32-bit number.
    ///
    /// # Errors
    /// If fewer bytes are left.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        self.array(field).map(u32::from_be_bytes)
    }

    /// A big-endian 64-bit number.
    ///
    /// # Errors
    /// If fewer bytes are left.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A `TPM2B`: a 16-bit length, at most `max`, and as many bytes.
    ///
    /// # Errors
    /// If the length is above `max` or more than is left.
    pub fn sized(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], Malformed> {
        let malformed = self.malformed(field);
        let len = usize::from(self.u16(field)?);
        if len > max {
            return Err(malformed);
        }
        self.take(field, len)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        let rest = self.bytes.get(self.offset..).unwrap_or_default();
        self.offset = self.bytes.len();
        rest
    }

    /// Ends the structure.
    ///
    /// # Errors
    /// If bytes are left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.offset == self.bytes.len() {
            return Ok(());
        }
        Err(self.malformed("end"))
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.offset == self.bytes.len()
    }
}

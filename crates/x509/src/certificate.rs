//! One certificate.

use crate::signed_part;
use alloc::{borrow::ToOwned, vec::Vec};
use x509_cert::{
    TbsCertificate,
    der::{
        Decode, Document,
        oid::{AssociatedOid, ObjectIdentifier},
    },
    ext::{
        Extension,
        pkix::{BasicConstraints, KeyUsage, KeyUsages},
    },
    spki::AlgorithmIdentifierOwned,
};

/// The largest certificate parsed, in bytes; those of TPMs and of AMD are below 2 KiB or so.
const MAX_LEN: usize = 16 * 1024;

/// A certificate that does not parse: what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed certificate: {0}")]
pub struct Malformed(pub &'static str);

/// A critical extension that the caller does not know (RFC 5280, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("certificate has an unknown critical extension {0}")]
pub struct UnknownExtension(pub ObjectIdentifier);

/// A parsed certificate and its bytes as received. No extension occurs twice.
#[derive(Clone, Debug)]
pub struct Certificate {
    parsed: x509_cert::Certificate,
    signed: Vec<u8>,
}

impl Certificate {
    /// Parses one DER certificate, nothing after it.
    ///
    /// # Errors
    /// It is too long, is not one certificate, names two signature algorithms or has an extension
    /// twice.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        const MALFORMED: Malformed = Malformed("not one DER certificate");
        if der.len() > MAX_LEN {
            return Err(MALFORMED);
        }
        let parsed = x509_cert::Certificate::from_der(der).map_err(|_| MALFORMED)?;
        let signed = signed_part(der).ok_or(MALFORMED)?.to_owned();
        let certificate = Self { parsed, signed };
        certificate.check_duplicates()?;
        if certificate.algorithm() != certificate.fields().signature() {
            return Err(Malformed("two different signature algorithms"));
        }
        Ok(certificate)
    }

    /// Parses one PEM certificate, nothing after it.
    ///
    /// # Errors
    /// As [`Certificate::parse`], or the text is not one PEM block of a certificate.
    pub fn parse_pem(pem: &str) -> Result<Self, Malformed> {
        const MALFORMED: Malformed = Malformed("not one PEM certificate");
        let (label, der) = Document::from_pem(pem).map_err(|_| MALFORMED)?;
        if label != "CERTIFICATE" {
            return Err(MALFORMED);
        }
        Self::parse(der.as_bytes())
    }

    /// The fields that the signature is over, parsed.
    #[must_use]
    pub fn fields(&self) -> &TbsCertificate {
        self.parsed.tbs_certificate()
    }

    /// The bytes that the signature is over, as received.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// The signature algorithm; the signed fields name the same one.
    #[must_use]
    pub fn algorithm(&self) -> &AlgorithmIdentifierOwned {
        self.parsed.signature_algorithm()
    }

    /// The signature; `None` if it is not of whole bytes.
    #[must_use]
    pub fn signature(&self) -> Option<&[u8]> {
        self.parsed.signature().as_bytes()
    }

    /// The subject's public key, the content of its bit string; `None` if it is not of whole bytes.
    #[must_use]
    pub fn public_key(&self) -> Option<&[u8]> {
        let info = self.fields().subject_public_key_info();
        info.subject_public_key.as_bytes()
    }

    /// The algorithm of the subject's public key.
    #[must_use]
    pub fn key_algorithm(&self) -> &AlgorithmIdentifierOwned {
        &self.fields().subject_public_key_info().algorithm
    }

    /// The named curve of an elliptic-curve key (RFC 5480, section 2.1.1).
    #[must_use]
    pub fn curve(&self) -> Option<ObjectIdentifier> {
        self.key_algorithm().parameters.as_ref()?.decode_as().ok()
    }

    /// All extensions, in the certificate's order.
    #[must_use]
    pub fn extensions(&self) -> &[Extension] {
        self.fields().extensions().map_or(&[], Vec::as_slice)
    }

    /// An extension of `T`'s kind, decoded; `what` names it in the error.
    ///
    /// # Errors
    /// It is there and does not decode.
    pub fn extension<'a, T: Decode<'a> + AssociatedOid>(
        &'a self,
        what: &'static str,
    ) -> Result<Option<T>, Malformed> {
        let extension = self.fields().get_extension::<T>();
        let extension = extension.map_err(|_| Malformed(what))?;
        Ok(extension.map(|(_, value)| value))
    }

    /// Refuses a critical extension that is not among `known`.
    ///
    /// # Errors
    /// The first such extension.
    pub fn check_critical(&self, known: &[ObjectIdentifier]) -> Result<(), UnknownExtension> {
        let unknown =
            |extension: &&Extension| extension.critical && !known.contains(&extension.extn_id);
        match self.extensions().iter().find(unknown) {
            Some(extension) => Err(UnknownExtension(extension.extn_id)),
            None => Ok(()),
        }
    }

    /// Whether this may sign certificates with `below` intermediates under it.
    ///
    /// # Errors
    /// The extensions that say so do not decode.
    pub fn is_authority(&self, below: usize) -> Result<bool, Malformed> {
        let constraints = self.extension::<BasicConstraints>("basic constraints")?;
        let usage = self.extension::<KeyUsage>("key usage")?;
        let deep_enough = constraints.is_some_and(|constraints| {
            let limit = constraints.path_len_constraint;
            constraints.ca && limit.is_none_or(|limit| below <= usize::from(limit))
        });
        Ok(deep_enough && usage.is_none_or(|usage| usage.0.contains(KeyUsages::KeyCertSign)))
    }

    fn check_duplicates(&self) -> Result<(), Malformed> {
        let mut rest = self.extensions();
        while let Some((first, others)) = rest.split_first() {
            if others.iter().any(|other| other.extn_id == first.extn_id) {
                return Err(Malformed("duplicate extension"));
            }
            rest = others;
        }
        Ok(())
    }
}

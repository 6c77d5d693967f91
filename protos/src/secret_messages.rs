//! Messages with a secret in them: printed without it, wiped when dropped.
//!
//! Only the message itself is wiped. Buffers that a transport encoded it into are the transport's.

use core::fmt;
use zeroize::Zeroize;

use crate::{atls, bootstrap, key};

impl fmt::Debug for key::GetDataKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetDataKeyResponse(..)")
    }
}

impl Drop for key::GetDataKeyResponse {
    fn drop(&mut self) {
        self.data_key.zeroize();
    }
}

impl fmt::Debug for key::GetControlPlaneFilesResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetControlPlaneFilesResponse(..)")
    }
}

impl Drop for key::GetControlPlaneFilesResponse {
    fn drop(&mut self) {
        self.files.zeroize();
    }
}

impl fmt::Debug for bootstrap::GetResultResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GetResultResponse(..)")
    }
}

impl Drop for bootstrap::GetResultResponse {
    fn drop(&mut self) {
        self.kubeconfig.zeroize();
    }
}

impl fmt::Debug for atls::Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for atls::evidence::Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AzureSevSnp(azure) => f.debug_tuple("AzureSevSnp").field(azure).finish(),
            Self::SevSnp(snp) => f.debug_tuple("SevSnp").field(snp).finish(),
            Self::SevSnpVtpm(both) => f.debug_tuple("SevSnpVtpm").field(both).finish(),
            Self::Tpm(tpm) => f.debug_tuple("Tpm").field(tpm).finish(),
        }
    }
}

impl Drop for atls::Evidence {
    fn drop(&mut self) {
        self.activated_secret.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let response = key::GetDataKeyResponse {
            data_key: vec![171; 32],
        };
        assert!(!format!("{response:?}").contains("171"));
        let response = key::GetControlPlaneFilesResponse {
            files: vec![171; 32],
        };
        assert!(!format!("{response:?}").contains("171"));
        let response = bootstrap::GetResultResponse {
            kubeconfig: "secret".into(),
            node_record: vec![],
        };
        assert!(!format!("{response:?}").contains("secret"));
        let evidence = atls::Evidence {
            activated_secret: vec![171; 32],
            kind: None,
        };
        assert!(!format!("{evidence:?}").contains("171"));
    }
}

//! Policy and reference values: signed by the owner, never older than before, reloaded as one.

use crate::{
    config::DocumentConfig,
    store::{SerialError, Store},
};
use admission::{SerialRefusal, Version};
use appraisal::{Appraiser, LoadError, Policy, ReferenceValues};
use aws_lc_rs::digest::{SHA256, digest as hash};
use owner::{DocumentError, DocumentKind, OwnerFingerprint, SignedDocument};
use service_runtime::watch::{FileWatch, WatchError, Watched};

/// Why documents do not come into force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentsError {
    /// What a document says breaks a rule, or the two do not fit each other.
    #[error("{document}")]
    Content {
        /// Which document.
        document: &'static str,
        /// Which rule.
        source: LoadError,
    },
    /// A file is missing from the watch; a bug.
    #[error("internal: expected two documents")]
    Count,
    /// The serials cannot be stored in the cluster.
    #[error("cannot store the serials")]
    KubeStore(#[source] kube_store::SerialError),
    /// A document is older than one that was in force, or another one of the same serial.
    #[error("not newer than what was in force")]
    Serial(#[source] SerialRefusal),
    /// A document is not signed by the owner.
    #[error("{document}")]
    Signature {
        /// Which document.
        document: &'static str,
        /// Which check failed.
        source: DocumentError,
    },
    /// The serials cannot be stored in the file.
    #[error("cannot store the serials")]
    Store(#[source] Box<redb::Error>),
}

const POLICY: &str = DocumentKind::Policy.title();
const REFERENCE_VALUES: &str = DocumentKind::ReferenceValues.title();

/// The rules of both documents together.
pub type Loaded = Result<Appraiser, DocumentsError>;

/// Both files, watched.
pub type DocumentWatch = FileWatch<Appraiser, Parse>;
type Parse = Box<dyn Fn(&[Vec<u8>], Option<&Appraiser>) -> Loaded + Send>;

/// Loads both documents and watches them.
///
/// # Errors
/// When they cannot come into force now: without rules there is no service.
pub fn open(
    config: &DocumentConfig,
    owner: OwnerFingerprint,
    store: Store,
) -> Result<(DocumentWatch, Watched<Appraiser>), WatchError<DocumentsError>> {
    let parse: Parse = Box::new(move |contents, _current| load(contents, &owner, &store));
    FileWatch::open(
        &[config.policy.clone(), config.reference_values.clone()],
        "policy and reference values",
        parse,
    )
}

fn load(contents: &[Vec<u8>], owner: &OwnerFingerprint, store: &Store) -> Loaded {
    let (appraiser, versions) = parse(contents, owner)?;
    // Last, so that only documents that do come into force raise what is remembered.
    let raised = store.raise_serials(&versions);
    raised.map_err(|error| match error {
        SerialError::Refused(refusal) => DocumentsError::Serial(refusal),
        SerialError::Store(error) => DocumentsError::Store(error),
    })?;
    show(&appraiser);
    Ok(appraiser)
}

/// Shows the serials that come into force, for whoever waits until every replica has them.
pub(crate) fn show(rules: &Appraiser) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "serials are counted up from 1 by people"
    )]
    let show = |document, serial: u64| {
        metrics::gauge!("document_serial", "document" => document).set(serial as f64);
    };
    show(DocumentKind::Policy.as_str(), rules.policy().serial());
    let values = rules.reference_values().serial();
    show(DocumentKind::ReferenceValues.as_str(), values);
}

/// The rules of policy and reference values, in this order, if the owner signed both and they fit; and
/// what a store must hold before they may come into force.
///
/// # Errors
/// [`DocumentsError`] names the document.
pub(crate) fn parse(
    contents: &[Vec<u8>],
    owner: &OwnerFingerprint,
) -> Result<(Appraiser, [Version; 2]), DocumentsError> {
    let [policy, reference_values] = contents else {
        return Err(DocumentsError::Count);
    };
    let content = |document| move |source| DocumentsError::Content { document, source };
    let policy = authenticate(policy, DocumentKind::Policy, POLICY, owner)?;
    let policy_digest = digest(&policy);
    let policy = Policy::parse(policy.as_bytes()).map_err(content(POLICY))?;
    let reference_values = authenticate(
        reference_values,
        DocumentKind::ReferenceValues,
        REFERENCE_VALUES,
        owner,
    )?;
    let values_digest = digest(&reference_values);
    let reference_values =
        ReferenceValues::parse(reference_values.as_bytes()).map_err(content(REFERENCE_VALUES))?;
    let versions = [
        Version {
            document: POLICY,
            serial: policy.serial(),
            digest: policy_digest,
        },
        Version {
            document: REFERENCE_VALUES,
            serial: reference_values.serial(),
            digest: values_digest,
        },
    ];
    let appraiser = Appraiser::new(policy, reference_values).map_err(content(REFERENCE_VALUES))?;
    Ok((appraiser, versions))
}

fn authenticate(
    text: &[u8],
    kind: DocumentKind,
    document: &'static str,
    owner: &OwnerFingerprint,
) -> Result<String, DocumentsError> {
    SignedDocument::open(text, kind, owner)
        .map_err(|source| DocumentsError::Signature { document, source })
}

fn digest(content: &str) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(hash(&SHA256, content.as_bytes()).as_ref());
    digest
}

//! A document that the owner signed, and the one that a cluster holds.

use admission::Version;
use anyhow::{Context as _, Result, anyhow, bail};
use appraisal::{Appraiser, Policy, ReferenceValues, document::ReferenceValuesDocument};
use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use kube_store::{
    NAMESPACE, POLICY_CONFIG_MAP, POLICY_KEY, REFERENCE_VALUES_CONFIG_MAP, REFERENCE_VALUES_KEY,
};
use owner::{DocumentKind, OwnerFingerprint, OwnerKey, SignedDocument};
use std::path::Path;

use crate::{files, kubernetes::Cluster, output::WithHint as _};

/// How often a write is tried that somebody else's write came before.
const TRIES: usize = 4;

/// A document whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    kind: DocumentKind,
    signed: String,
    payload: String,
    serial: u64,
}

impl Document {
    /// Opens a document by this owner.
    pub(super) fn open(
        kind: DocumentKind,
        signed: String,
        owner: &OwnerFingerprint,
    ) -> Result<Self> {
        let payload = SignedDocument::open(signed.as_bytes(), kind, owner)?;
        let serial = match kind {
            DocumentKind::Policy => Policy::parse(payload.as_bytes())?.serial(),
            DocumentKind::ReferenceValues => ReferenceValues::parse(payload.as_bytes())?.serial(),
        };
        Ok(Self {
            kind,
            signed,
            payload,
            serial,
        })
    }

    /// Opens a file.
    pub(super) fn read(kind: DocumentKind, path: &Path, owner: &OwnerFingerprint) -> Result<Self> {
        let opened = Self::open(kind, files::read_text(path)?, owner);
        opened.with_context(|| format!("open `{}`", path.display()))
    }

    /// Signs reference values.
    pub(super) fn sign(values: &ReferenceValuesDocument, owner: &OwnerKey) -> Result<Self> {
        let kind = DocumentKind::ReferenceValues;
        let payload = serde_json::to_string_pretty(values)?;
        ReferenceValues::parse(payload.as_bytes()).context("the change would not load")?;
        let signed = SignedDocument::sign(kind, payload, owner).encode();
        Self::open(kind, signed, &owner.public_key().fingerprint())
    }

    pub(super) const fn kind(&self) -> DocumentKind {
        self.kind
    }

    pub(super) const fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn payload(&self) -> &str {
        &self.payload
    }

    /// As the owner's file has it.
    pub(super) fn signed(&self) -> &str {
        &self.signed
    }

    /// The fields, of reference values.
    pub(super) fn reference_values(&self) -> Result<ReferenceValuesDocument> {
        serde_json::from_str(&self.payload).context("reference values")
    }

    fn version(&self) -> Version {
        Version {
            document: self.kind.title(),
            serial: self.serial,
            digest: self.digest(),
        }
    }

    fn digest(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, self.payload.as_bytes()).as_ref());
        bytes
    }

    /// Refuses what a join service would: a lower serial, and the same one for another content.
    fn follow(&self, other: &Self) -> Result<()> {
        let version = self.version();
        let followed = version.follows(Some((other.serial, other.digest())));
        followed.context("what the cluster holds is newer")
    }
}

/// The rules of both, if they fit each other.
pub(super) fn fit(policy: &Document, values: &Document) -> Result<Appraiser> {
    let policy = Policy::parse(policy.payload.as_bytes()).context("policy")?;
    let values = ReferenceValues::parse(values.payload.as_bytes()).context("reference values")?;
    Appraiser::new(policy, values).context("policy and reference values do not fit")
}

/// The newer one of the owner's file and the cluster's: neither can bring back what was retired.
pub(super) fn newest(file: Document, held: &Document) -> Result<Document> {
    if file.serial == held.serial && file.payload != held.payload {
        bail!(
            "two documents of serial {}: the file's and the cluster's",
            file.serial
        );
    }
    Ok(match held.serial > file.serial {
        true => held.clone(),
        false => file,
    })
}

const fn place(kind: DocumentKind) -> (&'static str, &'static str) {
    match kind {
        DocumentKind::Policy => (POLICY_CONFIG_MAP, POLICY_KEY),
        DocumentKind::ReferenceValues => (REFERENCE_VALUES_CONFIG_MAP, REFERENCE_VALUES_KEY),
    }
}

/// The owner's documents in a cluster.
pub(super) struct Held<'a> {
    cluster: &'a Cluster,
    owner: OwnerFingerprint,
    maps: Api<ConfigMap>,
}

impl<'a> Held<'a> {
    /// The documents of a cluster of this owner.
    pub(super) async fn of(cluster: &'a Cluster, owner: OwnerFingerprint) -> Result<Self> {
        let says = cluster.facts().await?.owner;
        if says != owner.to_string() {
            bail!("the cluster is another owner's: expected {owner}, got {says}");
        }
        Ok(Self {
            cluster,
            owner,
            maps: Api::namespaced(cluster.client().clone(), NAMESPACE),
        })
    }

    /// What the cluster holds. Only the owner's signature counts, not who put it there.
    pub(super) async fn read(&self, kind: DocumentKind) -> Result<Document> {
        self.take(kind).await.map(|(_, document)| document)
    }

    async fn take(&self, kind: DocumentKind) -> Result<(ConfigMap, Document)> {
        let (name, key) = place(kind);
        let map = self.maps.get(name).await;
        let map = map.with_context(|| format!("read ConfigMap `{name}`"))?;
        let text = map.data.as_ref().and_then(|data| data.get(key));
        let text = text.with_context(|| format!("ConfigMap `{name}` has no `{key}`"))?;
        let document = Document::open(kind, text.clone(), &self.owner)
            .with_context(|| format!("ConfigMap `{name}`"))?;
        Ok((map, document))
    }

    /// Refuses what join services would, by what the cluster holds and by what they stored.
    pub(super) async fn may_follow(&self, document: &Document, held: &Document) -> Result<()> {
        document.follow(held)?;
        let stored = self.cluster.store();
        let followed = stored.check_serials(&[document.version()]).await;
        followed.context("the serials that join services stored")
    }

    /// Puts a document into the cluster unless it is there; a write that came between is seen.
    pub(super) async fn push(&self, document: &Document) -> Result<()> {
        let (name, key) = place(document.kind);
        for _ in 0..TRIES {
            let (mut map, held) = self.take(document.kind).await?;
            self.may_follow(document, &held).await?;
            if held.payload == document.payload {
                return Ok(());
            }
            let data = map.data.get_or_insert_default();
            data.insert(key.to_owned(), document.signed.clone());
            // Refused if the version that was read is not the newest any more.
            match self.maps.replace(name, &PostParams::default(), &map).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("write ConfigMap `{name}`"));
                }
            }
        }
        Err(anyhow!("ConfigMap `{name}` changes again and again"))
            .hint("somebody else is at it: look with `constellation upgrade status`")
    }
}

//! Kubelet certificates by way of the cluster's own signers: this service holds no authority's key.
//!
//! A certificate is asked for in an object whose name is made of the request itself, so replicas and
//! retries meet in one object and a crash leaves one that the next try finishes. Approved is an object
//! only when request, signer and usages are those that were checked, and deleted when it was used; what
//! a crash leaves, the controller manager removes after an hour or a day.

use super::requests::{CheckedRequests, Signer, is_subject_of};
use hand_off::KubeletMaterial;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{
        CertificateSigningRequest, CertificateSigningRequestCondition,
        CertificateSigningRequestSpec, CertificateSigningRequestStatus,
    },
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    core::ObjectMeta,
};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use x509_cert::{
    Certificate,
    der::{
        Encode,
        asn1::ObjectIdentifier,
        oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH},
        pem::{LineEnding, PemLabel, encode_string},
    },
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, SubjectAltName},
    request::CertReq,
};

/// How long a certificate may take in all. The controller manager needs some ten milliseconds.
pub const ISSUE_TIMEOUT: Duration = Duration::from_secs(12);

/// How often an object is read until it has a certificate.
const POLL: Duration = Duration::from_millis(40);

/// The longest certificate chain, in bytes of PEM.
const MAX_CHAIN: usize = 32 << 10;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The API server does not allow or cannot answer a step.
    #[error("cannot {verb} {object}")]
    Api {
        /// What was to be done.
        verb: &'static str,
        /// The object.
        object: String,
        /// What was said.
        source: Box<kube::Error>,
    },
    /// Somebody denied it, or the signer would not sign it.
    #[error("{object}: {condition}, {reason}")]
    Denied {
        /// The object.
        object: String,
        /// The condition that says so.
        condition: String,
        /// Why.
        reason: String,
    },
    /// The request cannot be encoded; a bug.
    #[error("cannot encode a request")]
    Encode(#[source] x509_cert::der::Error),
    /// An object of our name asks for something else than we do. It is not approved.
    #[error("{0} is not ours")]
    Foreign(String),
    /// The certificate is not what was asked for.
    #[error("{object}: the certificate is not the one that was asked for: {field}")]
    Mismatch {
        /// The object.
        object: String,
        /// What differs.
        field: &'static str,
    },
    /// Nobody signed it in time.
    #[error("{0}: no certificate in time")]
    Timeout(String),
}

/// The cluster's signers.
#[derive(Clone)]
pub struct Certificates(Api<CertificateSigningRequest>);

impl Certificates {
    /// The signers of the cluster that `client` talks to.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self(Api::all(client))
    }

    /// Has both certificates of a node signed.
    ///
    /// # Errors
    /// [`CertificateError`]; asking again loses nothing.
    pub async fn issue(
        &self,
        requests: &CheckedRequests,
    ) -> Result<KubeletMaterial, CertificateError> {
        let (client_certificate, serving_certificate) = tokio::try_join!(
            self.one(requests, Signer::Client),
            self.one(requests, Signer::Serving)
        )?;
        Ok(KubeletMaterial {
            client_certificate,
            serving_certificate,
        })
    }

    async fn one(
        &self,
        requests: &CheckedRequests,
        signer: Signer,
    ) -> Result<String, CertificateError> {
        let name = requests.object_name(signer);
        let started = std::time::Instant::now();
        let spec = spec(requests, signer)?;
        let issued = timeout(ISSUE_TIMEOUT, self.drive(&name, &spec)).await;
        let issued = issued.unwrap_or_else(|_| Err(CertificateError::Timeout(name.clone())));
        let checked = issued.and_then(|chain| check(&name, chain, requests, signer));
        if !matches!(checked, Err(CertificateError::Foreign(_))) {
            self.clean_up(&name).await;
        }
        let outcome = if checked.is_ok() { "issued" } else { "failed" };
        metrics::counter!("certificates_total", "signer" => signer.to_string(), "outcome" => outcome)
            .increment(1);
        metrics::histogram!("certificate_seconds").record(started.elapsed().as_secs_f64());
        checked
    }

    /// From no object to a certificate, whatever is there already and whoever else is at it.
    async fn drive(
        &self,
        name: &str,
        spec: &CertificateSigningRequestSpec,
    ) -> Result<Vec<u8>, CertificateError> {
        let mut found = None;
        loop {
            if found.is_none() {
                found = self.create(name, spec).await?;
            }
            // Another replica was faster and has cleaned up: begin again.
            let Some(current) = found.take() else {
                continue;
            };
            if !is_ours(&current.spec, spec) {
                return Err(CertificateError::Foreign(name.to_owned()));
            }
            match Progress::of(&current) {
                Progress::Signed(chain) => return Ok(chain),
                Progress::Denied { condition, reason } => {
                    return Err(CertificateError::Denied {
                        object: name.to_owned(),
                        condition,
                        reason,
                    });
                }
                Progress::Approved => sleep(POLL).await,
                Progress::Pending => self.approve(name, current).await?,
            }
            found = self.get(name).await?;
        }
    }

    /// Creates the object, or gives the one that is there; `None` when it went away in between.
    async fn create(
        &self,
        name: &str,
        spec: &CertificateSigningRequestSpec,
    ) -> Result<Option<CertificateSigningRequest>, CertificateError> {
        let object = CertificateSigningRequest {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            spec: spec.clone(),
            status: None,
        };
        match self.0.create(&PostParams::default(), &object).await {
            Ok(created) => Ok(Some(created)),
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.get(name).await,
            Err(error) => Err(failed("create", name)(error)),
        }
    }

    /// Approves exactly the version that was compared with what we ask for.
    async fn approve(
        &self,
        name: &str,
        mut object: CertificateSigningRequest,
    ) -> Result<(), CertificateError> {
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AttestedNode".into()),
            message: Some("requested by an attested node through its join service".into()),
            ..CertificateSigningRequestCondition::default()
        };
        object.status = Some(CertificateSigningRequestStatus {
            conditions: Some(vec![condition]),
            ..CertificateSigningRequestStatus::default()
        });
        let parameters = PostParams::default();
        let approve = self
            .0
            .replace_subresource("approval", name, &parameters, &object);
        match approve.await {
            // Another replica was faster, or has cleaned up already.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => {
                Ok(())
            }
            approved => approved.map(drop).map_err(failed("approve", name)),
        }
    }

    async fn get(&self, name: &str) -> Result<Option<CertificateSigningRequest>, CertificateError> {
        self.0.get_opt(name).await.map_err(failed("get", name))
    }

    /// The object has served; that it stays a while does no harm.
    async fn clean_up(&self, name: &str) {
        let parameters = DeleteParams::default();
        let deleted = timeout(kube_store::CALL_TIMEOUT, self.0.delete(name, &parameters)).await;
        match deleted {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {}
            Ok(Err(error)) => tracing::warn!(object = name, %error, "not deleted"),
            Err(_) => tracing::warn!(object = name, "not deleted in time"),
        }
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

/// Where an object is.
enum Progress {
    Approved,
    Denied { condition: String, reason: String },
    Pending,
    Signed(Vec<u8>),
}

impl Progress {
    fn of(object: &CertificateSigningRequest) -> Self {
        let status = object.status.clone().unwrap_or_default();
        let mut conditions = status.conditions.unwrap_or_default().into_iter();
        // Both are final (Kubernetes, "Certificate Signing Requests").
        let is_end = |one: &CertificateSigningRequestCondition| {
            matches!(one.type_.as_str(), "Denied" | "Failed")
        };
        let mut approved = false;
        let end = conditions.find(|one| {
            approved |= one.type_ == "Approved";
            is_end(one)
        });
        match (end, status.certificate) {
            (Some(end), _) => Self::Denied {
                condition: end.type_,
                reason: end.message.or(end.reason).unwrap_or_default(),
            },
            (None, Some(ByteString(chain))) if !chain.is_empty() => Self::Signed(chain),
            (None, _) if approved => Self::Approved,
            (None, _) => Self::Pending,
        }
    }
}

impl Signer {
    const fn name(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving => "kubernetes.io/kubelet-serving",
        }
    }

    /// The signers allow exactly these (with Kubernetes 1.27 also without key encipherment).
    fn usages(self) -> Vec<String> {
        let auth = match self {
            Self::Client => "client auth",
            Self::Serving => "server auth",
        };
        ["digital signature", "key encipherment", auth]
            .map(str::to_owned)
            .to_vec()
    }

    const fn purpose(self) -> ObjectIdentifier {
        match self {
            Self::Client => ID_KP_CLIENT_AUTH,
            Self::Serving => ID_KP_SERVER_AUTH,
        }
    }
}

fn spec(
    requests: &CheckedRequests,
    signer: Signer,
) -> Result<CertificateSigningRequestSpec, CertificateError> {
    let der = &requests.request(signer).der;
    let pem = encode_string(CertReq::PEM_LABEL, LineEnding::LF, der)
        .map_err(|error| CertificateError::Encode(error.into()))?;
    Ok(CertificateSigningRequestSpec {
        request: ByteString(pem.into_bytes()),
        signer_name: signer.name().to_owned(),
        usages: Some(signer.usages()),
        ..CertificateSigningRequestSpec::default()
    })
}

/// Who made the object does not matter: it asks for what was checked, and nothing else.
fn is_ours(stored: &CertificateSigningRequestSpec, ours: &CertificateSigningRequestSpec) -> bool {
    let sorted = |spec: &CertificateSigningRequestSpec| {
        let mut usages = spec.usages.clone().unwrap_or_default();
        usages.sort();
        usages
    };
    stored.request == ours.request
        && stored.signer_name == ours.signer_name
        && stored.expiration_seconds == ours.expiration_seconds
        && sorted(stored) == sorted(ours)
}

/// The certificate is for the key and the names of the request, for one purpose, and no authority.
fn check(
    object: &str,
    chain: Vec<u8>,
    requests: &CheckedRequests,
    signer: Signer,
) -> Result<String, CertificateError> {
    let mismatch = |field| CertificateError::Mismatch {
        object: object.to_owned(),
        field,
    };
    if chain.len() > MAX_CHAIN {
        return Err(mismatch("length"));
    }
    let certificates =
        Certificate::load_pem_chain(&chain).map_err(|_| mismatch("not a certificate"))?;
    let leaf = certificates
        .first()
        .ok_or_else(|| mismatch("no certificate"))?;
    let fields = leaf.tbs_certificate();
    let request = requests.request(signer);
    if fields.subject_public_key_info().to_der().ok().as_ref() != Some(&request.public_key) {
        return Err(mismatch("key"));
    }
    if !is_subject_of(fields.subject(), requests.node()) {
        return Err(mismatch("subject"));
    }
    let malformed = |_| mismatch("extension");
    let names = fields
        .get_extension::<SubjectAltName>()
        .map_err(malformed)?;
    if names.map(|(_, SubjectAltName(names))| names) != request.names {
        return Err(mismatch("names"));
    }
    let usage = fields
        .get_extension::<ExtendedKeyUsage>()
        .map_err(malformed)?;
    if usage.map(|(_, ExtendedKeyUsage(usage))| usage) != Some(vec![signer.purpose()]) {
        return Err(mismatch("purpose"));
    }
    let constraints = fields
        .get_extension::<BasicConstraints>()
        .map_err(malformed)?;
    if constraints.is_some_and(|(_, constraints)| constraints.ca) {
        return Err(mismatch("an authority"));
    }
    String::from_utf8(chain).map_err(|_| mismatch("not text"))
}

fn failed(verb: &'static str, object: &str) -> impl FnOnce(kube::Error) -> CertificateError {
    move |source| CertificateError::Api {
        verb,
        object: object.to_owned(),
        source: Box::new(source),
    }
}

//! `GET /?nonce=`: one question, one answer, JSON (docs/verify.md has the fields).

use crate::desk::{Desk, DeskError, count, count_outcome};
use api::{Class, StatedNode, StatementRequest};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use evidence::{AttesterClaim, Evidence, EvidenceKind, Nonce, SnpEvidence, TpmEvidence};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use serde_json::{Value, json};
use std::net::IpAddr;

const PATH: &str = "http";

/// Why a request is answered with no statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GetError {
    #[error(transparent)]
    Desk(#[from] DeskError),
    #[error("only GET is answered")]
    Method,
    #[error("nonce: expected {expected}, got {got}")]
    Nonce { expected: &'static str, got: String },
    #[error("only `/?nonce=` is answered")]
    Path,
    #[error("query: expected `nonce` once and nothing else")]
    Query,
}

impl GetError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Nonce { .. } | Self::Query => StatusCode::BAD_REQUEST,
            Self::Desk(DeskError::Address | DeskError::All) => StatusCode::TOO_MANY_REQUESTS,
            Self::Desk(error) => match error.class() {
                Class::Malformed => StatusCode::BAD_REQUEST,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
        }
    }
}

/// Answers one request.
pub(crate) async fn answer(desk: Desk, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match statement(&desk, &request).await {
        Ok(statement) => respond(StatusCode::OK, &statement),
        Err(error) => respond(error.status(), &json!({"error": error.to_string()})),
    }
}

async fn statement<B>(desk: &Desk, request: &Request<B>) -> Result<Value, GetError> {
    let nonce = parse(request).inspect_err(|_| count_outcome(PATH, "malformed"))?;
    // The server puts it there; a request without one is limited with all others like it.
    let nowhere = IpAddr::from([0, 0, 0, 0]);
    let address = request.extensions().get().copied().unwrap_or(nowhere);
    let challenge = None;
    let answer = desk
        .state(address, StatementRequest { nonce, challenge })
        .await;
    count(PATH, answer.as_ref().map(drop).map_err(|error| *error));
    let (node, attested) = answer?;
    let certificate = desk.certificate(&node.claim);
    Ok(document(&nonce, &node, certificate, &attested.evidence))
}

fn parse<B>(request: &Request<B>) -> Result<Nonce, GetError> {
    if request.method() != Method::GET {
        return Err(GetError::Method);
    }
    if request.uri().path() != "/" {
        return Err(GetError::Path);
    }
    let query = request.uri().query().unwrap_or_default();
    let nonce = query.strip_prefix("nonce=").ok_or(GetError::Query)?;
    if nonce.contains('&') {
        return Err(GetError::Query);
    }
    parse_nonce(nonce)
}

/// Exactly 32 bytes: shorter ones could be guessed, longer ones are hashed by whoever has them.
fn parse_nonce(text: &str) -> Result<Nonce, GetError> {
    let refused = |expected, got| GetError::Nonce { expected, got };
    let decoded = match text.len() {
        64 => hex::decode(text).ok(),
        44 => URL_SAFE.decode(text).ok(),
        43 => URL_SAFE_NO_PAD.decode(text).ok(),
        length => {
            let expected = "32 bytes: 64 hexadecimal digits, or 43 characters of base64url";
            return Err(refused(expected, format!("{length} characters")));
        }
    };
    let nonce = decoded.and_then(|bytes| bytes.try_into().ok()).map(Nonce);
    nonce.ok_or_else(|| {
        let expected = "hexadecimal digits, or base64url without line breaks";
        refused(expected, "another character".to_owned())
    })
}

fn document(
    nonce: &Nonce,
    node: &StatedNode,
    certificate: Option<&Value>,
    evidence: &Evidence,
) -> Value {
    json!({
        "version": 1,
        "nonce": hex::encode(nonce.0),
        "node": {
            "name": node.name.as_str(),
            "cluster_id": node.cluster.to_string(),
            "kind": node.claim.kind().as_str(),
            "tpm": tpm_identity(&node.claim),
            "vtpm_ak_public": vtpm_ak(&node.claim),
        },
        "attestation_key": attestation_key(node.claim.kind(), certificate.is_some()),
        "ak_certificate": certificate,
        "evidence": evidence_document(evidence),
    })
}

/// What this way of asking says about the key that signed the quote.
const fn attestation_key(kind: EvidenceKind, certified: bool) -> &'static str {
    match kind {
        EvidenceKind::Tpm if certified => "certified-at-admission",
        EvidenceKind::AzureSevSnp => "vouched-for-by-report",
        EvidenceKind::SevSnp => "none",
        EvidenceKind::SevSnpVtpm | EvidenceKind::Tpm => "unproven",
    }
}

fn tpm_identity(claim: &AttesterClaim) -> Option<Value> {
    match claim {
        AttesterClaim::Tpm(identity) => Some(json!({
            "ek_certificate": STANDARD.encode(&identity.ek_certificate),
            "ek_public": STANDARD.encode(&identity.ek_public),
            "ak_public": STANDARD.encode(&identity.ak_public),
        })),
        _ => None,
    }
}

fn vtpm_ak(claim: &AttesterClaim) -> Option<String> {
    match claim {
        AttesterClaim::SevSnpVtpm { ak_public } => Some(STANDARD.encode(ak_public)),
        _ => None,
    }
}

fn evidence_document(evidence: &Evidence) -> Value {
    match evidence {
        Evidence::AzureSevSnp(azure) => json!({
            "hcl_report": STANDARD.encode(&azure.hcl_report),
            "quote": quote(&azure.quote),
        }),
        Evidence::SevSnp(snp) => json!({"report": report(snp)}),
        Evidence::SevSnpVtpm(both) => json!({
            "report": report(&both.snp),
            "quote": quote(&both.quote),
        }),
        Evidence::Tpm(tpm) => json!({"quote": quote(tpm)}),
    }
}

fn report(snp: &SnpEvidence) -> Value {
    json!({
        "attestation_report": STANDARD.encode(&snp.report),
        "certificates": STANDARD.encode(&snp.certificates),
    })
}

fn quote(tpm: &TpmEvidence) -> Value {
    let pcrs = tpm.pcrs.iter();
    let pcrs = pcrs.map(|(pcr, value)| (pcr.to_string(), Value::from(hex::encode(value))));
    json!({
        "attestation": STANDARD.encode(&tpm.attestation),
        "signature": STANDARD.encode(&tpm.signature),
        "pcrs": pcrs.collect::<serde_json::Map<_, _>>(),
        "event_log": STANDARD.encode(&tpm.event_log),
    })
}

fn respond(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let json = header::HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    // A statement that is not fresh proves nothing.
    let no_store = header::HeaderValue::from_static("no-store");
    headers.insert(header::CACHE_CONTROL, no_store);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(uri: &str) -> Result<Nonce, GetError> {
        parse(&Request::builder().uri(uri).body(()).unwrap())
    }

    #[test]
    fn a_nonce_is_32_bytes_in_either_form() {
        let nonce = Nonce([0xfb; 32]);
        let hex = hex::encode(nonce.0);
        for text in [
            hex.clone(),
            hex.to_uppercase(),
            URL_SAFE_NO_PAD.encode(nonce.0),
            URL_SAFE.encode(nonce.0),
        ] {
            assert_eq!(get(&format!("/?nonce={text}")), Ok(nonce), "{text}");
        }
    }

    #[test]
    fn a_bad_nonce_is_refused_with_its_reason() {
        let short = "ab".repeat(31);
        let long = "ab".repeat(33);
        let odd = "ab".repeat(31) + "a";
        let no_hex = "zz".repeat(32);
        let standard = STANDARD.encode([0xfb; 32]);
        let bits = "A".repeat(42) + "B";
        for (text, reason) in [
            ("", "got 0 characters"),
            (&short, "got 62 characters"),
            (&long, "got 66 characters"),
            (&odd, "got 63 characters"),
            (&no_hex, "another character"),
            (&standard, "another character"),
            (&bits, "another character"),
        ] {
            let error = get(&format!("/?nonce={text}")).unwrap_err();
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            assert!(error.to_string().contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn anything_but_the_one_question_is_refused() {
        let nonce = "ab".repeat(32);
        for (uri, status) in [
            ("/".to_owned(), StatusCode::BAD_REQUEST),
            ("/?".to_owned(), StatusCode::BAD_REQUEST),
            (format!("/?Nonce={nonce}"), StatusCode::BAD_REQUEST),
            (
                format!("/?nonce={nonce}&nonce={nonce}"),
                StatusCode::BAD_REQUEST,
            ),
            (format!("/?a=b&nonce={nonce}"), StatusCode::BAD_REQUEST),
            (format!("/?nonce={nonce}&pcrs=0"), StatusCode::BAD_REQUEST),
            (format!("/attestation?nonce={nonce}"), StatusCode::NOT_FOUND),
        ] {
            assert_eq!(get(&uri).unwrap_err().status(), status, "{uri}");
        }
        let request = Request::builder().method(Method::POST);
        let request = request.uri(format!("/?nonce={nonce}")).body(()).unwrap();
        let status = parse(&request).unwrap_err().status();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
}

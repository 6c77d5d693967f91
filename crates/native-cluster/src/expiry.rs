//! Certificates whose time is over: what a node that was off for long finds on its disk.
//!
//! Each keeps its names and its key; its dates are moved, and the cluster's own authority signs it again.

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use std::{collections::BTreeMap, fs, path::Path};

/// An authority's key, below the folder of `/etc/kubernetes/pki`.
const AUTHORITIES: [&str; 3] = ["ca.key", "etcd/ca.key", "front-proxy-ca.key"];

/// What kubeadm, the join service and the bootstrapper leave on a node's disk, by its authority; paths as
/// [`crate::Node::on_disk`] takes them.
const CERTIFICATES: [(&str, &str); 12] = [
    ("/etc/kubernetes/admin.conf", "ca.key"),
    ("/etc/kubernetes/controller-manager.conf", "ca.key"),
    ("/etc/kubernetes/scheduler.conf", "ca.key"),
    ("/etc/kubernetes/pki/apiserver.crt", "ca.key"),
    ("/etc/kubernetes/pki/apiserver-kubelet-client.crt", "ca.key"),
    ("/var/lib/kubelet/pki/kubelet-client-current.pem", "ca.key"),
    ("/var/lib/kubelet/pki/kubelet-serving.crt", "ca.key"),
    (
        "/etc/kubernetes/pki/apiserver-etcd-client.crt",
        "etcd/ca.key",
    ),
    ("/etc/kubernetes/pki/etcd/server.crt", "etcd/ca.key"),
    ("/etc/kubernetes/pki/etcd/peer.crt", "etcd/ca.key"),
    (
        "/etc/kubernetes/pki/etcd/healthcheck-client.crt",
        "etcd/ca.key",
    ),
    (
        "/etc/kubernetes/pki/front-proxy-client.crt",
        "front-proxy-ca.key",
    ),
];

/// The dates: a year that is over (RFC 5280, section 4.1.2.5.1).
const BEGIN: &[u8; 13] = b"200101000000Z";
const END: &[u8; 13] = b"210101000000Z";

/// The cluster's authorities.
#[derive(Debug)]
pub struct Authorities(BTreeMap<&'static str, EcdsaKeyPair>);

impl Authorities {
    /// Reads their keys from the disk of a control-plane node.
    ///
    /// # Errors
    /// If they are not there, or not kubeadm's.
    pub(crate) fn read(pki: &Path) -> Result<Self> {
        let keys = AUTHORITIES.map(|name| {
            let text = fs::read_to_string(pki.join(name)).context(name)?;
            let (_, der) = decode(&text, "EC PRIVATE KEY").context(name)?;
            let key = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der)?;
            Ok((name, key))
        });
        Ok(Self(keys.into_iter().collect::<Result<_>>()?))
    }

    /// Ends every certificate on a disk; `on_disk` says where a file of the node is. Gives how many.
    ///
    /// # Errors
    /// If one of them is not as it should be.
    pub(crate) fn expire(&self, on_disk: impl Fn(&str) -> std::path::PathBuf) -> Result<usize> {
        let mut ended = 0;
        for (name, authority) in CERTIFICATES {
            let path = on_disk(name);
            if !path.exists() {
                continue;
            }
            let key = self.0.get(authority).context(authority)?;
            let text = fs::read_to_string(&path)?;
            let text = match name.ends_with(".conf") {
                true => in_kubeconfig(&text, |pem| expire(pem, Some(key))),
                false => expire(&text, Some(key)),
            };
            fs::write(&path, text.context(name)?)?;
            ended += 1;
        }
        Ok(ended)
    }
}

/// Does something to the certificate in a kubeconfig.
fn in_kubeconfig(text: &str, change: impl Fn(&str) -> Result<String>) -> Result<String> {
    const FIELD: &str = "client-certificate-data: ";
    let (before, rest) = text.split_once(FIELD).context("no certificate")?;
    let (old, after) = rest.split_once('\n').context("no end of the line")?;
    let old = String::from_utf8(BASE64_STANDARD.decode(old)?)?;
    let new = BASE64_STANDARD.encode(change(&old)?);
    Ok(format!("{before}{FIELD}{new}\n{after}"))
}

/// Ends the certificate in a text. Without its authority's key the dates are moved, and nothing vouches for them.
///
/// # Errors
/// If there is none, or its dates are after the year 2049.
pub fn expire(text: &str, authority: Option<&EcdsaKeyPair>) -> Result<String> {
    const LABEL: &str = "CERTIFICATE";
    let (old, mut der) = decode(text, LABEL)?;
    // A SEQUENCE of two UTCTimes (RFC 5280, section 4.1.2.5).
    let dates =
        |at: &[u8]| at.starts_with(&[0x30, 0x1e, 0x17, 13]) && at.get(17..19) == Some(&[0x17, 13]);
    let at = der.windows(32).position(dates).context("no dates")?;
    der[at + 4..at + 17].copy_from_slice(BEGIN);
    der[at + 19..at + 32].copy_from_slice(END);
    if let Some(key) = authority {
        // What is signed, how, and the signature (RFC 5280, section 4.1).
        let parts = &der[header(&der)?.0..];
        let signed = first(parts)?;
        let algorithm = first(&parts[signed.len()..])?;
        let signature = key.sign(&SystemRandom::new(), signed)?;
        let signature = element(0x03, &[&[0], signature.as_ref()].concat())?;
        der = element(0x30, &[signed, algorithm, &signature].concat())?;
    }
    let lines: Vec<_> = BASE64_STANDARD
        .encode(der)
        .into_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    Ok(text.replacen(&old, &format!("\n{}\n", lines.join("\n")), 1))
}

/// The lengths of an element's header and content, in DER.
fn header(der: &[u8]) -> Result<(usize, usize)> {
    let length = *der.get(1).context("too short")?;
    if length < 0x80 {
        return Ok((2, length.into()));
    }
    let more = usize::from(length & 0x7f);
    let digits = der.get(2..2 + more).context("too short")?;
    let length = digits
        .iter()
        .fold(0, |length, digit| length << 8 | usize::from(*digit));
    Ok((2 + more, length))
}

/// The first element, with its header.
fn first(der: &[u8]) -> Result<&[u8]> {
    let (head, length) = header(der)?;
    der.get(..head + length).context("too short")
}

/// An element of less than 64 KiB.
fn element(tag: u8, content: &[u8]) -> Result<Vec<u8>> {
    let [high, low] = u16::try_from(content.len())?.to_be_bytes();
    let header: &[u8] = match (high, low) {
        (0, ..0x80) => &[tag, low],
        (0, _) => &[tag, 0x81, low],
        _ => &[tag, 0x82, high, low],
    };
    Ok([header, content].concat())
}

/// What is between the lines of a PEM block, as it is written and as it is meant.
fn decode(text: &str, label: &str) -> Result<(String, Vec<u8>)> {
    let (_, rest) = text
        .split_once(&format!("-----BEGIN {label}-----"))
        .context("no such block")?;
    let (body, _) = rest
        .split_once(&format!("-----END {label}-----"))
        .context("no end")?;
    let der = BASE64_STANDARD.decode(body.split_whitespace().collect::<String>())?;
    Ok((body.to_owned(), der))
}

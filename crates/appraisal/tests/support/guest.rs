//! A guest whose reports a development root signs, and a verifier that knows that root.
#![allow(dead_code, reason = "each test program uses a part")]

use appraisal::{
    Answer, AppraisalError, Appraised, Appraiser, CredentialSecret, Endorsements, ErrorClass,
    LoadError, Policy, ReferenceValues,
};
use evidence::{AttesterClaim, Binding, Channel, Evidence, Side, SnpEvidence};
use serde_json::{Value, json};
use software_snp::{
    DevelopmentRoot, Leaf, LeafFields, LeafKind, Product, ReportFields, Tcb, table,
};
use std::{path::Path, sync::LazyLock};

/// 2025-01-01, when what the development root issues is valid.
pub(crate) const NOW: u64 = 1_735_689_600;

/// What the guest launched, and what the reference values have.
pub(crate) const MEASUREMENT: [u8; 48] = [0x33; 48];

pub(crate) const TCB: Tcb = Tcb {
    fmc: 3,
    bootloader: 4,
    tee: 2,
    snp: 24,
    microcode: 219,
};

/// Keys of 4096 bits take seconds to make: one root for all tests, kept between runs.
pub(crate) static ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| root("development-root"));

/// A root of somebody else, with the same names.
pub(crate) static OTHER_ROOT: LazyLock<DevelopmentRoot> = LazyLock::new(|| root("other-root"));

fn root(name: &str) -> DevelopmentRoot {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    DevelopmentRoot::kept_in(&path).unwrap()
}

/// A guest, what its host and its verifier add, and the verifier's rules: all good, until a test
/// changes a part.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) product: Product,
    pub(crate) report: ReportFields,
    pub(crate) signer: Signer,
    /// The host's table.
    pub(crate) table: Vec<u8>,
    /// The verifier's own certificate.
    pub(crate) own: Option<Vec<u8>>,
    /// The verifier's own revocation list.
    pub(crate) revocations: Option<Vec<u8>>,
    pub(crate) policy: Value,
    pub(crate) images: Value,
    pub(crate) now: u64,
    /// The binding of the verifier's channel.
    pub(crate) binding: Binding,
}

/// What makes the leaf that signs.
pub(crate) type Signer = std::sync::Arc<Leaf>;

impl Guest {
    /// An honest guest on Milan.
    pub(crate) fn new() -> Self {
        Self::on(Product::Milan)
    }

    /// An honest guest; the verifier has the certificate.
    pub(crate) fn on(product: Product) -> Self {
        let signer = vcek(product);
        let binding = binding(1);
        Self {
            report: ReportFields {
                measurement: MEASUREMENT,
                report_data: *binding.as_bytes(),
                ..ReportFields::new(product, chip(product), TCB)
            },
            own: Some(signer.certificate().to_vec()),
            signer,
            table: Vec::new(),
            revocations: None,
            policy: policy(&[product]),
            images: json!([image("v1", &MEASUREMENT)]),
            now: NOW,
            binding,
            product,
        }
    }

    /// The same with a VLEK, as the policy says.
    pub(crate) fn with_vlek() -> Self {
        let mut guest = Self::new();
        let vlek = ROOT.vlek(guest.product, "provider", TCB).unwrap();
        guest.sign_with(vlek);
        guest.report = guest.report.with_vlek();
        *guest.rule("/sev_snp/products/0/endorsement_key") = json!("vlek");
        guest
    }

    /// A field of the policy, to change it.
    pub(crate) fn rule(&mut self, pointer: &str) -> &mut Value {
        self.policy
            .pointer_mut(pointer)
            .unwrap_or_else(|| panic!("{pointer}"))
    }

    /// From here on another key signs; the verifier has its certificate.
    pub(crate) fn sign_with(&mut self, leaf: Leaf) {
        self.own = Some(leaf.certificate().to_vec());
        self.signer = leaf.into();
    }

    /// The certificate comes from the host, and from nobody else.
    pub(crate) fn endorse_by_table(&mut self) {
        let guid = match self.signer.kind() {
            LeafKind::Vcek => table::VCEK,
            LeafKind::Vlek => table::VLEK,
        };
        self.table = table::encode(&[(guid, self.signer.certificate())]);
        self.own = None;
    }

    pub(crate) fn appraiser(&self) -> Result<Appraiser, LoadError> {
        load(&self.policy, &self.images)
    }

    /// The report as the firmware gives it.
    pub(crate) fn signed(&self) -> Vec<u8> {
        self.report.signed_by(&self.signer).unwrap().to_vec()
    }

    pub(crate) fn evidence(&self) -> SnpEvidence {
        SnpEvidence {
            report: self.signed(),
            certificates: self.table.clone(),
        }
    }

    /// The verdict on this guest.
    pub(crate) fn appraise(&self) -> Result<Appraised, AppraisalError> {
        self.appraise_evidence(&AttesterClaim::SevSnp, &Evidence::SevSnp(self.evidence()))
    }

    pub(crate) fn assert_accepted(&self) {
        let verdict = self.appraise();
        assert!(verdict.is_ok(), "{verdict:?}");
    }

    /// The verdict on a report of any bytes.
    pub(crate) fn appraise_report(&self, report: Vec<u8>) -> Result<Appraised, AppraisalError> {
        let evidence = SnpEvidence {
            report,
            certificates: self.table.clone(),
        };
        self.appraise_evidence(&AttesterClaim::SevSnp, &Evidence::SevSnp(evidence))
    }

    /// The verdict on any evidence.
    pub(crate) fn appraise_evidence(
        &self,
        claim: &AttesterClaim,
        evidence: &Evidence,
    ) -> Result<Appraised, AppraisalError> {
        let appraiser = self.appraiser().unwrap();
        let (challenged, challenge) = appraiser.challenge(claim, secret())?;
        assert!(challenge.is_none());
        appraiser.appraise(
            challenged,
            &Answer {
                activated: None,
                evidence,
                binding: &self.binding,
                endorsements: Endorsements {
                    leaf: self.own.as_deref(),
                    revocations: self.revocations.as_deref(),
                },
                now: self.now,
            },
        )
    }
}

/// A case: a change of the honest guest, and what comes of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) change: fn(&mut Guest),
    /// `Ok`, or the class and exactly the checks that must have failed.
    pub(crate) verdict: Result<(), (ErrorClass, &'static [&'static str])>,
}

impl Case {
    pub(crate) fn run(&self, mut guest: Guest) {
        (self.change)(&mut guest);
        let name = self.name;
        match (guest.appraise(), self.verdict) {
            (Ok(_), Ok(())) => {}
            (Ok(_), Err(_)) => panic!("accepted: {name}"),
            (Err(error), Ok(())) => panic!("refused: {name}: {error:?}"),
            (Err(error), Err((class, checks))) => {
                let failed = error.checks();
                let failed: Vec<_> = failed.iter().map(|check| check.check.as_str()).collect();
                assert_eq!(failed, checks, "{name}: {error:?}");
                assert_eq!(error.class(), class, "{name}: {error:?}");
            }
        }
    }
}

pub(crate) fn load(policy: &Value, images: &Value) -> Result<Appraiser, LoadError> {
    let values = json!({"version": 1, "serial": 1, "images": images});
    Appraiser::new(
        Policy::parse(policy.to_string().as_bytes())?,
        ReferenceValues::parse(values.to_string().as_bytes())?,
    )
}

/// A policy that accepts bare reports of `products`, under the development root.
pub(crate) fn policy(products: &[Product]) -> Value {
    let products: Vec<_> = products.iter().map(|product| entry(*product)).collect();
    json!({
        "version": 1,
        "serial": 1,
        "evidence": ["sev-snp"],
        "sev_snp": {
            "products": products,
            "vmpl": 0,
            "guest_policy": {
                "allow_smt": true,
                "require_single_socket": false,
                "minimum_abi": [0, 0],
            },
            "alias_check": "required",
            "revocation_lists": "when-given",
        },
    })
}

pub(crate) fn entry(product: Product) -> Value {
    json!({
        "product": product.name(),
        "endorsement_key": "vcek",
        "minimum_tcb": minimum(product, TCB),
        "development_root": development_root(&ROOT, product),
    })
}

/// A minimum as a policy writes it.
pub(crate) fn minimum(product: Product, tcb: Tcb) -> Value {
    let mut minimum = json!({
        "bootloader": tcb.bootloader,
        "tee": tcb.tee,
        "snp": tcb.snp,
        "microcode": tcb.microcode,
    });
    if product == Product::Turin {
        minimum["fmc"] = json!(tcb.fmc);
    }
    minimum
}

pub(crate) fn development_root(root: &DevelopmentRoot, product: Product) -> Value {
    let pem = |der: &[u8]| software_snp::pem("CERTIFICATE", der);
    let chain = root.chain(product);
    json!({"ark": pem(&chain.ark), "ask": pem(&chain.ask), "asvk": pem(&chain.asvk)})
}

pub(crate) fn image(name: &str, measurement: &[u8; 48]) -> Value {
    json!({
        "name": name,
        "roles": ["worker"],
        "sev_snp": {"measurements": [hex::encode(measurement)]},
    })
}

/// A chip id as `product` has them.
pub(crate) fn chip(product: Product) -> [u8; 64] {
    let mut chip = [0; 64];
    chip[..product.hardware_id_len()].fill(0xc7);
    chip
}

pub(crate) fn vcek(product: Product) -> Signer {
    ROOT.vcek(product, &chip(product), TCB).unwrap().into()
}

/// A VCEK whose certificate says something else.
pub(crate) fn vcek_with(product: Product, edit: impl FnOnce(&mut LeafFields)) -> Leaf {
    let mut fields = LeafFields::vcek(product, &chip(product), TCB);
    edit(&mut fields);
    ROOT.issue(&fields).unwrap()
}

/// The binding of a channel with this exporter.
pub(crate) fn binding(exporter: u8) -> Binding {
    Binding::compute(&Channel {
        attester: Side::Client,
        client_hello: b"a",
        server_hello: b"b",
        client_spki: b"c",
        server_spki: b"d",
        exporter: &[exporter; 32],
    })
}

pub(crate) fn secret() -> CredentialSecret {
    CredentialSecret::from_slice(&[0x77; 32]).unwrap()
}

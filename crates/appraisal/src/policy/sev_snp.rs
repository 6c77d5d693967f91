//! Rules for SEV-SNP reports.

use super::non_empty;
use crate::{
    document::{
        AliasCheck, DevelopmentRootDocument, EndorsementKey, ProductDocument, RevocationLists,
        SnpDocument, TcbDocument, UpcomingTcbDocument,
    },
    error::{LoadError, rule},
};
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use snp::{Authorities, AuthorityCertificates, ChipId, KeyKind, Product, RawTcb, Tcb, UnixTime};
use x509::x509_cert::der::pem;

/// Privilege levels are 0 to 3 (AMD 56860, table `ATTESTATION_REPORT`, `VMPL`).
const LOWEST_VMPL: u8 = 3;

/// Rules for reports that passed every rule about rules.
#[derive(Clone, Debug)]
pub(crate) struct SnpPolicy {
    pub(crate) products: Vec<ProductPolicy>,
    pub(crate) vmpl: u8,
    pub(crate) allow_smt: bool,
    pub(crate) require_single_socket: bool,
    pub(crate) minimum_abi: (u8, u8),
    pub(crate) require_alias_check: bool,
    pub(crate) require_revocation_list: bool,
    pub(crate) chips: Option<BTreeSet<ChipId>>,
}

/// Rules for one product line.
#[derive(Clone, Debug)]
pub(crate) struct ProductPolicy {
    pub(crate) authorities: Authorities,
    pub(crate) key: KeyKind,
    minimum: Tcb,
    upcoming: Option<Upcoming>,
}

#[derive(Clone, Copy, Debug)]
struct Upcoming {
    effective: Option<UnixTime>,
    minimum: Tcb,
}

impl SnpPolicy {
    pub(super) fn parse(document: SnpDocument) -> Result<Self, LoadError> {
        let products = non_empty("sev_snp.products", Some(document.products))?;
        let mut seen = BTreeSet::new();
        for entry in &products {
            if !seen.insert(entry.product) {
                let got = format!("{} twice", entry.product);
                return Err(rule("sev_snp.products", "each product line once", got));
            }
        }
        if document.vmpl > LOWEST_VMPL {
            let got = document.vmpl.to_string();
            return Err(rule("sev_snp.vmpl", "0 to 3", got));
        }
        let chips = match document.chips {
            None => None,
            Some(chips) => Some(non_empty("sev_snp.chips", Some(chips))?),
        };
        let [major, minor] = document.guest_policy.minimum_abi;
        Ok(Self {
            products: products
                .iter()
                .map(ProductPolicy::parse)
                .collect::<Result<_, _>>()?,
            vmpl: document.vmpl,
            allow_smt: document.guest_policy.allow_smt,
            require_single_socket: document.guest_policy.require_single_socket,
            minimum_abi: (major, minor),
            require_alias_check: document.alias_check == AliasCheck::Required,
            require_revocation_list: document.revocation_lists == RevocationLists::Required,
            chips: chips.map(|chips| chips.into_iter().map(|chip| ChipId(chip.0)).collect()),
        })
    }

    /// The entries that a report may be judged by: that of the product line it names; a report of
    /// version 2 names none, so every entry is a candidate and the certificate decides.
    pub(crate) fn candidates(&self, named: Option<Product>) -> Vec<&ProductPolicy> {
        let fits = |entry: &&ProductPolicy| named.is_none_or(|named| named == entry.product());
        self.products.iter().filter(fits).collect()
    }

    pub(crate) fn product_names(&self) -> String {
        let names: Vec<String> = self
            .products
            .iter()
            .map(|entry| entry.product().to_string())
            .collect();
        names.join(" or ")
    }
}

impl ProductPolicy {
    fn parse(document: &ProductDocument) -> Result<Self, LoadError> {
        let product = document.product;
        let field = |field: &str| format!("sev_snp.products {product}: {field}");
        let minimum = parse_tcb(&field("minimum_tcb"), product, document.minimum_tcb)?;
        let upcoming = match document.upcoming_tcb {
            None => None,
            Some(UpcomingTcbDocument {
                effective,
                minimum_tcb,
            }) => Some(Upcoming {
                effective: effective.map(crate::document::EffectiveDate::time),
                minimum: parse_tcb(&field("upcoming_tcb"), product, minimum_tcb)?,
            }),
        };
        Ok(Self {
            authorities: parse_authorities(&field("development_root"), document)?,
            key: match document.endorsement_key {
                EndorsementKey::Vcek => KeyKind::Vcek,
                EndorsementKey::Vlek => KeyKind::Vlek,
            },
            minimum,
            upcoming,
        })
    }

    pub(crate) fn product(&self) -> Product {
        self.authorities.product()
    }

    /// What is in force at `now`: the larger of both minima for each component, once the upcoming
    /// one has become effective.
    pub(crate) fn minimum(&self, now: UnixTime) -> Tcb {
        match self.upcoming {
            Some(Upcoming {
                effective: Some(effective),
                minimum,
            }) if now.0 >= effective.0 => largest(self.minimum, minimum),
            _ => self.minimum,
        }
    }

    /// What is announced and not in force at `now`.
    pub(crate) fn announced(&self, now: UnixTime) -> Option<Tcb> {
        let upcoming = self.upcoming?;
        let in_force = upcoming.effective.is_some_and(|from| now.0 >= from.0);
        (!in_force).then_some(upcoming.minimum)
    }
}

fn largest(a: Tcb, b: Tcb) -> Tcb {
    Tcb {
        fmc: a.fmc.max(b.fmc),
        bootloader: a.bootloader.max(b.bootloader),
        tee: a.tee.max(b.tee),
        snp: a.snp.max(b.snp),
        microcode: a.microcode.max(b.microcode),
    }
}

/// A minimum that leaves out a component would accept any version of it.
fn parse_tcb(field: &str, product: Product, document: TcbDocument) -> Result<Tcb, LoadError> {
    let tcb = document.tcb();
    let wanted = RawTcb([0; 8]).decode(product).map(|tcb| tcb.fmc.is_some());
    match (wanted, tcb.fmc.is_some()) {
        (Ok(true), false) => Err(rule(field, "`fmc`, which this product line has", "none")),
        (Ok(false), true) => Err(rule(
            field,
            "no `fmc`, which this product line lacks",
            "one",
        )),
        _ => Ok(tcb),
    }
}

fn parse_authorities(field: &str, document: &ProductDocument) -> Result<Authorities, LoadError> {
    let product = document.product;
    let refuse = |source| LoadError::Authorities {
        field: field.to_string(),
        source,
    };
    let Some(DevelopmentRootDocument { ark, ask, asvk }) = &document.development_root else {
        return Authorities::amd(product).map_err(refuse);
    };
    let der = |pem: &String| match pem::decode_vec(pem.as_bytes()) {
        Ok(("CERTIFICATE", der)) => Ok(der),
        _ => Err(rule(field, "certificates in PEM", "something else")),
    };
    let (ark, ask, asvk) = (der(ark)?, der(ask)?, der(asvk)?);
    let certificates = AuthorityCertificates {
        ark: &ark,
        ask: &ask,
        asvk: &asvk,
    };
    Authorities::development(product, &certificates).map_err(refuse)
}

//! Rules for SEV-SNP reports, from options.

use anyhow::{Context as _, Result, bail};
use appraisal::document::{
    AliasCheck, ChipDocument, DevelopmentRootDocument, EffectiveDate, EndorsementKey,
    GuestPolicyDocument, ProductDocument, RevocationLists, SnpDocument, TcbDocument,
    UpcomingTcbDocument,
};
use clap::{Args, ValueEnum};
use snp::Product;
use std::{path::PathBuf, str::FromStr};

use super::some_unless_empty;
use crate::{documents, files};

/// What counts for kinds with a report. That debugging and migration agents are forbidden is no option.
#[derive(Args, Debug)]
#[command(next_help_heading = "SEV-SNP reports")]
pub(super) struct SnpRules {
    /// Accept this product line (Milan, Genoa, Turin) from this TCB on, such as
    /// `Genoa:bootloader=10,tee=0,snp=23,microcode=84`; Turin has `fmc` too. Each component is compared
    /// with the TCB that the report answers for, which may be lower than what runs; `snp show` prints
    /// it. May be repeated. Milan's chips can be made to give up their secret by whoever has one on a
    /// bench: accept it with `--chip` only
    #[arg(long, value_name = "PRODUCT:TCB")]
    minimum_tcb: Vec<ProductTcb>,
    /// A minimum that will come: until then log and metrics of the join service say who would be
    /// refused. Without `--upcoming-from` it never comes into force
    #[arg(long, value_name = "PRODUCT:TCB", requires = "minimum_tcb")]
    upcoming_tcb: Vec<ProductTcb>,
    /// From when all of `--upcoming-tcb` are in force, such as `2027-01-31T00:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = documents::parse_text::<EffectiveDate>, requires = "upcoming_tcb")]
    upcoming_from: Option<EffectiveDate>,
    /// Which key must have signed: `vcek` is the chip's own, `vlek` one that AMD gave your provider for
    /// all of its machines, so that you trust the provider to keep it
    #[arg(long, value_name = "KEY", requires = "minimum_tcb")]
    endorsement_key: Option<KeyOption>,
    /// Privilege level that the report must come from: 0, unless your guests run below an SVSM
    /// [default: 0]
    #[arg(long, value_name = "0-3", requires = "minimum_tcb")]
    vmpl: Option<u8>,
    /// Accept guests that may share a core with another guest's thread
    #[arg(long, requires = "minimum_tcb")]
    allow_smt: bool,
    /// The guest must have been confined to one socket
    #[arg(long, requires = "minimum_tcb")]
    require_single_socket: bool,
    /// Firmware interface that the guest must have demanded at launch, such as `1.55` [default: 0.0]
    #[arg(long, value_name = "MAJOR.MINOR", requires = "minimum_tcb")]
    minimum_abi: Option<Abi>,
    /// Whether firmware must say that it looked for memory aliases (BadRAM). `unavailable` is for
    /// machines whose firmware cannot say so: whoever has hands on the memory modules may then read and
    /// write guests [default: required]
    #[arg(long, value_name = "CHECK", requires = "minimum_tcb")]
    alias_check: Option<AliasOption>,
    /// Whether nothing is accepted without AMD's revocation list. With `required` the join service must
    /// reach AMD, or be given lists by `snp import-certs` [default: required]
    #[arg(long, value_name = "WHEN", requires = "minimum_tcb")]
    revocation_lists: Option<RevocationOption>,
    /// Accept this chip and no other: `CHIP_ID` in hexadecimal, as `snp show` prints it; may be repeated
    #[arg(long, value_name = "HEX", value_parser = documents::parse_text::<ChipDocument>, requires = "minimum_tcb")]
    chip: Vec<ChipDocument>,
    /// Trust these certificates in AMD's place for a product line. Whoever has the keys of such a root
    /// can make any report without a processor: for tests of clusters that protect nothing
    #[arg(long, value_name = "PRODUCT:ARK,ASK,ASVK", requires = "minimum_tcb")]
    development_root: Vec<RootFiles>,
}

impl SnpRules {
    /// Whether any rule was given.
    pub(super) fn is_given(&self) -> bool {
        // Every other option requires this one.
        !self.minimum_tcb.is_empty()
    }

    pub(super) fn into_document(self) -> Result<SnpDocument> {
        if self.minimum_tcb.is_empty() {
            bail!("no product line would be accepted: give `--minimum-tcb`");
        }
        let key = self.endorsement_key;
        let key = key.context("give `--endorsement-key`: it is never guessed")?;
        let mut roots = self.development_root;
        let mut upcoming = self.upcoming_tcb;
        let mut products = Vec::new();
        for ProductTcb { product, tcb } in self.minimum_tcb {
            let root = take(&mut roots, |root| root.product == product);
            let upcoming = take(&mut upcoming, |upcoming| upcoming.product == product);
            products.push(ProductDocument {
                product,
                endorsement_key: key.into(),
                minimum_tcb: tcb,
                upcoming_tcb: upcoming.map(|upcoming| UpcomingTcbDocument {
                    effective: self.upcoming_from,
                    minimum_tcb: upcoming.tcb,
                }),
                development_root: root.map(|root| root.read()).transpose()?,
            });
        }
        let left = roots.iter().map(|root| ("development-root", root.product));
        let mut left = left.chain(upcoming.iter().map(|it| ("upcoming-tcb", it.product)));
        if let Some((option, product)) = left.next() {
            bail!("`--{option}` of {product} without one `--minimum-tcb` of {product} for it");
        }
        Ok(SnpDocument {
            products,
            vmpl: self.vmpl.unwrap_or(0),
            guest_policy: GuestPolicyDocument {
                allow_smt: self.allow_smt,
                require_single_socket: self.require_single_socket,
                minimum_abi: self.minimum_abi.map_or([0, 0], |abi| abi.0),
            },
            alias_check: self.alias_check.map_or(AliasCheck::Required, Into::into),
            revocation_lists: self
                .revocation_lists
                .map_or(RevocationLists::Required, Into::into),
            chips: some_unless_empty(self.chip),
        })
    }
}

/// Takes the first element that fits.
fn take<T>(list: &mut Vec<T>, fits: impl FnMut(&T) -> bool) -> Option<T> {
    let at = list.iter().position(fits)?;
    Some(list.remove(at))
}

/// A product line and versions of its components.
#[derive(Clone, Copy, Debug)]
struct ProductTcb {
    product: Product,
    tcb: TcbDocument,
}

impl FromStr for ProductTcb {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a TCB like `Genoa:bootloader=10,tee=0,snp=23,microcode=84`, each component once";
        let (product, components) = split_product(text)?;
        let mut versions = serde_json::Map::new();
        for component in components.split(',') {
            let (name, version) = component.split_once('=').ok_or(EXPECTED)?;
            let version: u8 = version.parse().map_err(|_| EXPECTED)?;
            if versions.insert(name.to_owned(), version.into()).is_some() {
                return Err(EXPECTED);
            }
        }
        let tcb = serde_json::from_value(versions.into()).map_err(|_| EXPECTED)?;
        Ok(Self { product, tcb })
    }
}

fn split_product(text: &str) -> Result<(Product, &str), &'static str> {
    let split = text.split_once(':');
    let split = split.and_then(|(name, rest)| Some((Product::from_name(name)?, rest)));
    split.ok_or("expected `Milan:`, `Genoa:` or `Turin:` first")
}

/// Files with the certificates of a development root.
#[derive(Clone, Debug)]
struct RootFiles {
    product: Product,
    files: [PathBuf; 3],
}

impl RootFiles {
    fn read(self) -> Result<DevelopmentRootDocument> {
        let [ark, ask, asvk] = self.files.each_ref().map(|path| files::read_text(path));
        Ok(DevelopmentRootDocument {
            ark: ark?,
            ask: ask?,
            asvk: asvk?,
        })
    }
}

impl FromStr for RootFiles {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (product, files) = split_product(text)?;
        let files: Vec<PathBuf> = files.split(',').map(PathBuf::from).collect();
        let files = files.try_into();
        let files = files.map_err(|_| "expected three files in PEM: ARK, ASK, ASVK")?;
        Ok(Self { product, files })
    }
}

/// A version of the firmware's interface.
#[derive(Clone, Copy, Debug)]
struct Abi([u8; 2]);

impl FromStr for Abi {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |text: &str| text.parse::<u8>().ok();
        let version = text.split_once('.');
        let version =
            version.and_then(|(major, minor)| Some(Self([number(major)?, number(minor)?])));
        version.ok_or("expected a version like `1.55`")
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyOption {
    Vcek,
    Vlek,
}

impl From<KeyOption> for EndorsementKey {
    fn from(option: KeyOption) -> Self {
        match option {
            KeyOption::Vcek => Self::Vcek,
            KeyOption::Vlek => Self::Vlek,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AliasOption {
    Required,
    Unavailable,
}

impl From<AliasOption> for AliasCheck {
    fn from(option: AliasOption) -> Self {
        match option {
            AliasOption::Required => Self::Required,
            AliasOption::Unavailable => Self::Unavailable,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RevocationOption {
    Required,
    WhenGiven,
}

impl From<RevocationOption> for RevocationLists {
    fn from(option: RevocationOption) -> Self {
        match option {
            RevocationOption::Required => Self::Required,
            RevocationOption::WhenGiven => Self::WhenGiven,
        }
    }
}

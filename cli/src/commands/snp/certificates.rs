//! `constellation snp fetch-certs` and `import-certs`: certificates of signing keys.

use anyhow::{Context as _, Result, bail};
use appraisal::Policy;
use clap::Args;
use endorsements::{
    AuthoritySet, Bundle, EndorsementId, FetchConfig, FetchError, Imported, KDS_URL, Kds, Store,
    with_patience,
};
use serde::Serialize;
use snp::{KeyKind, Product};
use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use super::input;
use crate::{files, output::WithHint as _};

/// Fetch the certificates of reports' keys from AMD into a bundle.
///
/// One report of each machine is enough, until its TCB changes. Each certificate is verified
/// before it is written. The revocation lists of the product lines come along.
#[derive(Args, Debug)]
pub(crate) struct FetchCerts {
    /// Reports of the machines, signed by their VCEKs
    #[arg(required = true, value_name = "REPORT")]
    reports: Vec<PathBuf>,
    /// The bundle, replaced if it exists
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Product line, of reports of version 2, which do not say
    #[arg(long, value_name = "PRODUCT", value_parser = input::parse_product)]
    product: Option<Product>,
    /// Base URL of AMD's key distribution service, or of a mirror
    #[arg(long, value_name = "URL", default_value = KDS_URL)]
    kds: String,
    /// How often to ask for each certificate while the service refuses or fails
    #[arg(long, value_name = "N", default_value = "5")]
    attempts: NonZeroU32,
    #[command(flatten)]
    roots: Roots,
}

impl FetchCerts {
    pub(super) fn run(self) -> Result<Fetched> {
        let authorities = self.roots.authorities()?;
        let ids = self.ids()?;
        let bounds = FetchConfig::default();
        let kds = Kds::new(&self.kds, bounds.timeout)?;
        let now = input::now();
        let ask = |fetch: &mut dyn FnMut() -> Result<Vec<u8>, FetchError>| {
            with_patience(&bounds, self.attempts.get(), fetch)
        };
        let mut leaves = Vec::new();
        for id in &ids {
            let der = ask(&mut || kds.leaf(id)).with_context(|| format!("fetch {id}"))?;
            let checked = authorities.check(id, &der, now);
            checked.with_context(|| format!("the service lies about {id}"))?;
            leaves.push((id.kind(), der));
        }
        let products: BTreeSet<_> = ids.iter().map(EndorsementId::product).collect();
        let mut lists = Vec::new();
        for product in products {
            let der = ask(&mut || kds.revocation_list(product));
            let der = der.with_context(|| format!("fetch the revocation list of {product}"))?;
            let checked = authorities.of_list(product, &der, now).map(|_| ());
            checked.with_context(|| format!("revocation list of {product}"))?;
            lists.push((product, der));
        }
        let fetched = Fetched {
            bundle: self.out,
            certificates: ids.iter().map(ToString::to_string).collect(),
            revocation_lists: lists.iter().map(|(it, _)| it.to_string()).collect(),
        };
        let text = Bundle::new(leaves, lists).encode()?;
        files::replace(&fetched.bundle, text.as_bytes())?;
        Ok(fetched)
    }

    /// What the reports need, each once.
    fn ids(&self) -> Result<Vec<EndorsementId>> {
        let mut ids = Vec::new();
        for path in &self.reports {
            let id = self
                .id(path)
                .with_context(|| format!("certificate for `{}`", path.display()))?;
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        Ok(ids)
    }

    fn id(&self, path: &Path) -> Result<EndorsementId> {
        let bytes = input::report_bytes(path)?;
        let report = input::parse_report(path, &bytes)?;
        let product = input::product(&report, self.product)?;
        if report.signing_key == Some(KeyKind::Vlek) {
            return Err(anyhow::anyhow!("the report is signed by a VLEK")).hint(
                "AMD gives VLEK certificates to providers only: take it from the host's table",
            );
        }
        EndorsementId::of_report(&report, product)
            .context("the report names no chip, or is not signed, or is of another product line")
    }
}

/// Verify certificates and keep them in a join service's folder.
///
/// All of them are kept, or none. The service may run meanwhile.
#[derive(Args, Debug)]
pub(crate) struct ImportCerts {
    /// Bundles, as `snp fetch-certs` writes them
    #[arg(value_name = "BUNDLE", required_unless_present_any = ["vcek", "vlek"])]
    bundles: Vec<PathBuf>,
    /// Certificate of a chip's key, DER or PEM; may be repeated
    #[arg(long, value_name = "FILE")]
    vcek: Vec<PathBuf>,
    /// Certificate of a provider's key, DER or PEM; may be repeated
    #[arg(long, value_name = "FILE")]
    vlek: Vec<PathBuf>,
    /// The folder: `endorsements.folder` of the join service's configuration
    #[arg(long, value_name = "DIR")]
    folder: PathBuf,
    /// The most files in it: `endorsements.files` of that configuration
    #[arg(long, value_name = "N", default_value = "4096")]
    files: NonZeroU32,
    #[command(flatten)]
    roots: Roots,
}

impl ImportCerts {
    pub(super) fn run(self) -> Result<Kept> {
        let mut bundles = Vec::new();
        for path in &self.bundles {
            let bundle = Bundle::parse(&files::read(path)?);
            let bundle = bundle.with_context(|| format!("read bundle `{}`", path.display()))?;
            bundles.push((path.display().to_string(), bundle));
        }
        for (kind, paths) in [(KeyKind::Vcek, &self.vcek), (KeyKind::Vlek, &self.vlek)] {
            for path in paths {
                let bundle = Bundle::new(vec![(kind, input::der(path)?)], Vec::new());
                bundles.push((path.display().to_string(), bundle));
            }
        }
        let files = usize::try_from(self.files.get()).unwrap_or(usize::MAX);
        let store = Store::open(&self.folder, files, self.roots.authorities()?)?;
        let all: usize = bundles.iter().map(|(_, bundle)| bundle.len()).sum();
        if all > files {
            bail!("{all} certificates and lists are more than the folder's {files} files");
        }
        let now = input::now();
        // All are checked before the first is kept.
        for (path, bundle) in &bundles {
            let checked = bundle.check(store.authorities(), now);
            checked.with_context(|| format!("import `{path}`"))?;
        }
        let mut kept = Kept {
            folder: self.folder,
            certificates: Vec::new(),
            revocation_lists: Vec::new(),
        };
        for (path, bundle) in &bundles {
            let imported = bundle.import(&store, now);
            kept.add(imported.with_context(|| format!("import `{path}`"))?);
        }
        Ok(kept)
    }
}

/// Whose certificates are accepted: AMD's, and where a policy is named its development roots.
#[derive(Args, Debug)]
struct Roots {
    /// A policy, not signed, whose development roots are accepted too
    #[arg(long, value_name = "POLICY")]
    development_roots_of: Option<PathBuf>,
}

impl Roots {
    fn authorities(&self) -> Result<AuthoritySet> {
        let Some(path) = &self.development_roots_of else {
            return AuthoritySet::amd().context("AMD's roots");
        };
        let policy = Policy::parse(&files::read(path)?)
            .with_context(|| format!("read policy `{}`", path.display()))?;
        AuthoritySet::amd_and(&policy).context("AMD's roots")
    }
}

/// What was fetched.
#[derive(Serialize)]
pub(super) struct Fetched {
    bundle: PathBuf,
    certificates: Vec<String>,
    revocation_lists: Vec<String>,
}

impl fmt::Display for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.certificates, &self.revocation_lists)?;
        let bundle = self.bundle.display();
        writeln!(f, "Bundle `{bundle}`")?;
        write!(
            f,
            "Next: `constellation snp import-certs {bundle} --folder …`"
        )
    }
}

/// What was kept.
#[derive(Serialize)]
pub(super) struct Kept {
    folder: PathBuf,
    certificates: Vec<String>,
    revocation_lists: Vec<String>,
}

impl Kept {
    fn add(&mut self, imported: Imported) {
        let leaves = imported.leaves.iter().map(ToString::to_string);
        self.certificates.extend(leaves);
        let lists = imported.lists.iter().map(ToString::to_string);
        self.revocation_lists.extend(lists);
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        list(f, &self.certificates, &self.revocation_lists)?;
        write!(f, "Kept in `{}`", self.folder.display())
    }
}

fn list(f: &mut fmt::Formatter<'_>, certificates: &[String], lists: &[String]) -> fmt::Result {
    for certificate in certificates {
        writeln!(f, "{certificate}")?;
    }
    lists
        .iter()
        .try_for_each(|product| writeln!(f, "revocation list of {product}"))
}

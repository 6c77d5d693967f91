//! Every field of a report, for people and for programs.

use serde::{Serialize, Serializer};
use snp::{
    ChipId, FirmwareVersion, GuestPolicy, KeyKind, PlatformInfo, Product, RawTcb, Report, Tcb,
};
use std::fmt;

/// A report with its fields explained.
#[derive(Serialize)]
pub(super) struct ReportView {
    version: u32,
    product: Option<String>,
    cpuid: Option<CpuView>,
    chip_id: Option<Hex<64>>,
    signature: SignatureView,
    vmpl: u8,
    policy: PolicyView,
    platform: PlatformView,
    tcb: TcbsView,
    firmware: FirmwareView,
    launch: LaunchView,
    report_data: Hex<64>,
    report_id: Hex<32>,
    migration_agent_report_id: Option<Hex<32>>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct CpuView {
    family: u8,
    model: u8,
    stepping: u8,
}

/// Who signed.
#[derive(Serialize)]
pub(super) struct SignatureView {
    /// What the report says of itself.
    signing_key: Option<String>,
    masked_chip_key: bool,
    author_key_enabled: bool,
    /// `None` if no certificate was given.
    valid: Option<bool>,
    detail: String,
}

#[derive(Serialize)]
struct PolicyView {
    bits: String,
    abi: String,
    debug_allowed: bool,
    migration_agent_allowed: bool,
    smt_allowed: bool,
    single_socket_required: bool,
    cxl_allowed: bool,
    aes_256_xts_required: bool,
    rapl_disabled_required: bool,
    ciphertext_hiding_required: bool,
    page_swap_disabled: bool,
}

#[derive(Serialize)]
struct PlatformView {
    bits: String,
    smt_enabled: bool,
    tsme_enabled: bool,
    ecc_enabled: bool,
    rapl_disabled: bool,
    ciphertext_hiding_enabled: bool,
    alias_check_complete: bool,
    tio_enabled: bool,
}

/// The four TCB versions; `layout` says by whose layout they are read.
#[derive(Serialize)]
struct TcbsView {
    layout: String,
    current: TcbView,
    reported: TcbView,
    committed: TcbView,
    launch: TcbView,
}

/// The components, or the bytes where they do not fit the layout.
#[derive(Serialize)]
struct TcbView {
    raw: Hex<8>,
    #[serde(flatten)]
    components: Option<Components>,
}

#[derive(Serialize, PartialEq)]
struct Components {
    #[serde(skip_serializing_if = "Option::is_none")]
    fmc: Option<u8>,
    bootloader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

#[derive(Serialize)]
struct FirmwareView {
    current: String,
    committed: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    current_mitigations: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    launch_mitigations: Option<String>,
}

#[derive(Serialize)]
struct LaunchView {
    measurement: Hex<48>,
    host_data: Hex<32>,
    guest_svn: u32,
    family_id: Hex<16>,
    image_id: Hex<16>,
    id_key_digest: Option<Hex<48>>,
    author_key_digest: Option<Hex<48>>,
}

/// Bytes in hexadecimal.
struct Hex<const N: usize>([u8; N]);

impl ReportView {
    pub(super) fn of(
        report: &Report<'_>,
        product: Option<Product>,
        signature: SignatureView,
    ) -> Self {
        let product = report.product.or(product);
        let mut view = Self {
            version: report.version,
            product: product.map(|product| product.to_string()),
            cpuid: report.cpuid.map(|[family, model, stepping]| CpuView {
                family,
                model,
                stepping,
            }),
            chip_id: chip(report.chip_id),
            signature: SignatureView {
                signing_key: report.signing_key.map(|kind| kind.to_string()),
                masked_chip_key: report.mask_chip_key,
                author_key_enabled: report.author_key_enabled,
                ..signature
            },
            vmpl: report.vmpl,
            policy: PolicyView::of(report.policy),
            platform: PlatformView::of(report.platform_info),
            tcb: TcbsView::of(report, product),
            firmware: FirmwareView::of(report),
            launch: LaunchView::of(report),
            report_data: Hex(*report.report_data),
            report_id: Hex(*report.report_id),
            migration_agent_report_id: unless(&[0xff; 32], report.report_id_ma),
            notes: Vec::new(),
        };
        view.notes = view.notes();
        view
    }

    /// What an engineer should stop at.
    fn notes(&self) -> Vec<String> {
        let tcb = &self.tcb;
        let (policy, platform) = (&self.policy, &self.platform);
        let all: [(bool, &str); 11] = [
            (
                self.signature.valid == Some(false),
                "nobody vouches for this report: its signature does not verify",
            ),
            (
                policy.debug_allowed,
                "the host may debug the guest: it can read and write all of its memory",
            ),
            (
                policy.migration_agent_allowed,
                "a migration agent may move the guest, and with it its secrets",
            ),
            (
                self.vmpl > 0,
                "the report was asked for below VMPL 0: what runs above is not this guest",
            ),
            (
                self.migration_agent_report_id.is_some(),
                "the guest has a migration agent",
            ),
            (
                self.chip_id.is_none(),
                "the chip is masked: this report names no machine",
            ),
            (
                !platform.alias_check_complete,
                "ALIAS_CHECK_COMPLETE is not set: nothing says that memory has no aliases (BadRAM)",
            ),
            (
                platform.smt_enabled,
                "SMT is on: a sibling thread of the host may share a core with the guest",
            ),
            (
                tcb.reported.components != tcb.current.components,
                "the operator of the machine reports another TCB than runs: legal, and the reported \
                 one is what a policy is compared with",
            ),
            (
                tcb.committed.components != tcb.current.components,
                "the running firmware is not committed: it can be rolled back to the committed TCB",
            ),
            (
                self.version == 2,
                "a report of version 2 does not name its product line: its certificate does",
            ),
        ];
        let notes = all.into_iter().filter(|(applies, _)| *applies);
        notes.map(|(_, note)| note.to_owned()).collect()
    }
}

impl SignatureView {
    pub(super) fn not_checked() -> Self {
        Self::new(None, "not checked: give `--certificate`".to_owned())
    }

    pub(super) fn invalid(reason: &str) -> Self {
        Self::new(Some(false), reason.to_owned())
    }

    pub(super) fn valid(kind: KeyKind, product: Product) -> Self {
        let authority = match kind {
            KeyKind::Vcek => "ASK",
            KeyKind::Vlek => "ASVK",
        };
        let detail = format!("by the certificate, which AMD's {product} {authority} signed");
        Self::new(Some(true), detail)
    }

    const fn new(valid: Option<bool>, detail: String) -> Self {
        Self {
            signing_key: None,
            masked_chip_key: false,
            author_key_enabled: false,
            valid,
            detail,
        }
    }
}

impl PolicyView {
    fn of(policy: GuestPolicy) -> Self {
        let (major, minor) = policy.abi();
        Self {
            bits: format!("{:#x}", policy.bits()),
            abi: format!("{major}.{minor}"),
            debug_allowed: policy.allows_debug(),
            migration_agent_allowed: policy.allows_migration_agent(),
            smt_allowed: policy.allows_smt(),
            single_socket_required: policy.requires_single_socket(),
            cxl_allowed: policy.allows_cxl(),
            aes_256_xts_required: policy.requires_aes_256_xts(),
            rapl_disabled_required: policy.requires_rapl_disabled(),
            ciphertext_hiding_required: policy.requires_ciphertext_hiding(),
            page_swap_disabled: policy.disables_page_swap(),
        }
    }

    const fn rows(&self) -> [(&'static str, bool, [&'static str; 2]); 9] {
        const ALLOWED: [&str; 2] = ["forbidden", "allowed"];
        const REQUIRED: [&str; 2] = ["not required", "required"];
        [
            ("debugging by the host", self.debug_allowed, ALLOWED),
            ("migration agent", self.migration_agent_allowed, ALLOWED),
            ("SMT", self.smt_allowed, ALLOWED),
            ("one socket", self.single_socket_required, REQUIRED),
            ("CXL devices", self.cxl_allowed, ALLOWED),
            ("AES-256-XTS", self.aes_256_xts_required, REQUIRED),
            ("RAPL disabled", self.rapl_disabled_required, REQUIRED),
            (
                "ciphertext hiding",
                self.ciphertext_hiding_required,
                REQUIRED,
            ),
            (
                "swapping of pages",
                self.page_swap_disabled,
                ["allowed", "forbidden"],
            ),
        ]
    }
}

impl PlatformView {
    fn of(platform: PlatformInfo) -> Self {
        Self {
            bits: format!("{:#x}", platform.bits()),
            smt_enabled: platform.smt_enabled(),
            tsme_enabled: platform.tsme_enabled(),
            ecc_enabled: platform.ecc_enabled(),
            rapl_disabled: platform.rapl_disabled(),
            ciphertext_hiding_enabled: platform.ciphertext_hiding_enabled(),
            alias_check_complete: platform.alias_check_complete(),
            tio_enabled: platform.tio_enabled(),
        }
    }

    const fn rows(&self) -> [(&'static str, bool, [&'static str; 2]); 7] {
        const ON: [&str; 2] = ["off", "on"];
        [
            ("SMT", self.smt_enabled, ON),
            ("transparent memory encryption", self.tsme_enabled, ON),
            ("memory with error correction", self.ecc_enabled, ON),
            (
                "running average power limit",
                self.rapl_disabled,
                ["on", "off"],
            ),
            ("ciphertext hiding", self.ciphertext_hiding_enabled, ON),
            (
                "memory alias check",
                self.alias_check_complete,
                ["not reported", "complete"],
            ),
            ("trusted I/O", self.tio_enabled, ON),
        ]
    }
}

impl TcbsView {
    /// Version 2 exists on Milan and Genoa only, which share a layout.
    fn of(report: &Report<'_>, product: Option<Product>) -> Self {
        let layout = product.unwrap_or(Product::Milan);
        let of = |raw: RawTcb| TcbView {
            raw: Hex(raw.0),
            components: raw.decode(layout).ok().map(Components::from),
        };
        Self {
            layout: match product {
                Some(product) => product.to_string(),
                None => "Milan and Genoa".to_owned(),
            },
            current: of(report.current_tcb),
            reported: of(report.reported_tcb),
            committed: of(report.committed_tcb),
            launch: of(report.launch_tcb),
        }
    }
}

impl From<Tcb> for Components {
    fn from(tcb: Tcb) -> Self {
        Self {
            fmc: tcb.fmc,
            bootloader: tcb.bootloader,
            tee: tcb.tee,
            snp: tcb.snp,
            microcode: tcb.microcode,
        }
    }
}

impl FirmwareView {
    fn of(report: &Report<'_>) -> Self {
        let vector = |bits: Option<u64>| bits.map(|bits| format!("{bits:#x}"));
        let version = |version: FirmwareVersion| version.to_string();
        Self {
            current: version(report.current_version),
            committed: version(report.committed_version),
            current_mitigations: vector(report.current_mit_vector),
            launch_mitigations: vector(report.launch_mit_vector),
        }
    }
}

impl LaunchView {
    fn of(report: &Report<'_>) -> Self {
        Self {
            measurement: Hex(*report.measurement),
            host_data: Hex(*report.host_data),
            guest_svn: report.guest_svn,
            family_id: Hex(*report.family_id),
            image_id: Hex(*report.image_id),
            id_key_digest: unless(&[0; 48], report.id_key_digest),
            author_key_digest: unless(&[0; 48], report.author_key_digest),
        }
    }
}

fn chip(chip: ChipId) -> Option<Hex<64>> {
    (!chip.is_masked()).then_some(Hex(chip.0))
}

/// `None` for the value that means "none".
fn unless<const N: usize>(none: &[u8; N], value: &[u8; N]) -> Option<Hex<N>> {
    (value != none).then_some(Hex(*value))
}

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for ReportView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "SEV-SNP report, version {}", self.version)?;
        self.fmt_origin(f)?;
        self.fmt_settings(f)?;
        self.fmt_tcb(f)?;
        self.fmt_launch(f)?;
        if !self.notes.is_empty() {
            writeln!(f, "\nNotes")?;
        }
        self.notes
            .iter()
            .try_for_each(|note| writeln!(f, "  * {note}"))
    }
}

impl ReportView {
    fn fmt_origin(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signature = &self.signature;
        let key = match signature.signing_key.as_deref() {
            Some("VCEK") => "VCEK, the chip's own",
            Some("VLEK") => "VLEK, the provider's",
            _ => "none: the report is not signed",
        };
        let valid = match signature.valid {
            Some(true) => "valid, ",
            Some(false) => "NOT VALID: ",
            None => "",
        };
        writeln!(f, "\nOrigin")?;
        row(f, "signing key", &key)?;
        row(f, "signature", &format_args!("{valid}{}", signature.detail))?;
        if signature.masked_chip_key {
            row(f, "chip key", &"masked by the operator of the machine")?;
        }
        let product = self.product.as_deref().unwrap_or("not named");
        row(f, "product", &product)?;
        if let Some(cpu) = &self.cpuid {
            let (family, model, stepping) = (cpu.family, cpu.model, cpu.stepping);
            let cpu = format_args!("family {family:#x}, model {model:#x}, stepping {stepping}");
            row(f, "processor", &cpu)?;
        }
        row(f, "chip", &or(self.chip_id.as_ref(), "masked"))?;
        row(f, "VMPL", &self.vmpl)?;
        row(f, "report data", &self.report_data)?;
        row(f, "report id", &self.report_id)?;
        let agent = or(self.migration_agent_report_id.as_ref(), "none");
        row(f, "migration agent", &agent)
    }

    fn fmt_settings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |set: bool, [no, yes]: [&'static str; 2]| if set { yes } else { no };
        writeln!(f, "\nGuest policy {}", self.policy.bits)?;
        row(
            f,
            "firmware interface",
            &format_args!("{} or later", self.policy.abi),
        )?;
        for (name, set, meaning) in self.policy.rows() {
            row(f, name, &words(set, meaning))?;
        }
        writeln!(f, "\nPlatform {}", self.platform.bits)?;
        for (name, set, meaning) in self.platform.rows() {
            row(f, name, &words(set, meaning))?;
        }
        Ok(())
    }

    fn fmt_tcb(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tcb = &self.tcb;
        writeln!(f, "\nTCB, by the layout of {}", tcb.layout)?;
        for (name, tcb) in [
            ("current", &tcb.current),
            ("reported", &tcb.reported),
            ("committed", &tcb.committed),
            ("launch", &tcb.launch),
        ] {
            row(f, name, tcb)?;
        }
        let firmware = &self.firmware;
        let versions = format_args!("{}, committed {}", firmware.current, firmware.committed);
        row(f, "firmware", &versions)?;
        if let (Some(now), Some(launch)) =
            (&firmware.current_mitigations, &firmware.launch_mitigations)
        {
            row(f, "mitigations", &format_args!("{now}, at launch {launch}"))?;
        }
        Ok(())
    }

    fn fmt_launch(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let launch = &self.launch;
        writeln!(f, "\nLaunch")?;
        row(f, "measurement", &launch.measurement)?;
        row(f, "host data", &launch.host_data)?;
        row(f, "guest SVN", &launch.guest_svn)?;
        row(f, "family id", &launch.family_id)?;
        row(f, "image id", &launch.image_id)?;
        row(f, "ID key", &or(launch.id_key_digest.as_ref(), "none"))?;
        let author = or(launch.author_key_digest.as_ref(), "none");
        row(f, "author key", &author)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &dyn fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<32}{value}")
}

fn or<const N: usize>(value: Option<&Hex<N>>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), ToString::to_string)
}

/// `bootloader 3  tee 0  snp 8  microcode 115`.
impl fmt::Display for TcbView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(tcb) = &self.components else {
            return write!(f, "{} (not of this layout)", self.raw);
        };
        if let Some(fmc) = tcb.fmc {
            write!(f, "fmc {fmc:<4} ")?;
        }
        let Components {
            bootloader,
            tee,
            snp,
            microcode,
            ..
        } = tcb;
        write!(
            f,
            "bootloader {bootloader:<4} tee {tee:<4} snp {snp:<4} microcode {microcode}"
        )
    }
}

//! `xtask image`: everything that a node boots from, out of Debian packages and our own agent.
//!
//! Outputs in `target/image/<profile>`: `uki.efi`, `esp.img` (the UKI in a FAT file system),
//! `root.img` (erofs and its hash tree), `disk.img` (both as GPT partitions), `vmlinuz`, `initrd.cpio` and `cmdline` (the UKI's parts,
//! for a boot without firmware) and `image.json`, which says what went in. The test profile has
//! beside them `second-request` and `snp-request`, programs for a disk, `disk-test`, a program that knows the
//! state disk, and `snp-device.cpio`, an archive that makes
//! `initrd.cpio` one with a test init and its `/dev/sev-guest`.

mod cpio;
mod disk;
mod esp;
mod initrd;
mod os;
mod root;

use crate::{
    apt::{Apt, Deb},
    tool::Tool,
};
use anyhow::{Context, bail};
use clap::ValueEnum;
use evidence::EvidenceKind;
use measure::{cmdline::Cmdline, pcr::sha256, uki};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Ends with a space.
const OS_WORDS: &str =
    "lockdown=confidentiality net.ifnames=0 systemd.import_credentials=no systemd.firstboot=no ";

const MUSL: &str = "x86_64-unknown-linux-musl";

/// What tests run in the booted root of the test image, from a disk; no part of the image.
const GUEST_PROGRAMS: [&str; 2] = ["second-request", "snp-request"];

/// What tests of SEV-SNP add to the test image's initramfs: the test init with the device, and a
/// program that collects evidence again and again.
const SNP_PROGRAMS: [&str; 2] = ["snp-device", "snp-collect"];

/// An example of `platform`, which tests add to an initial RAM disk.
const DISK_TEST: &str = "disk-test";

/// Path of the stub in its package.
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Arguments of `xtask image`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which image to build
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// What the image attests with; part of the measured command line
    #[arg(long, value_name = "KIND", default_value_t = EvidenceKind::Tpm)]
    evidence: EvidenceKind,
    /// A static program to use as `/init` instead of building the profile's own
    #[arg(long)]
    init: Option<PathBuf>,
    /// A folder with the static programs of an OS image, to use instead of building them
    #[arg(long)]
    programs: Option<PathBuf>,
    /// A stub to use instead of the one from `systemd-boot-efi`
    #[arg(long)]
    stub: Option<PathBuf>,
    /// Where the outputs go [default: `target/image/PROFILE`, with the kind of evidence behind it
    /// unless that is `tpm`]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Resolve and fetch the Debian packages again
    #[arg(long)]
    refresh: bool,
    /// Build twice, in different folders, and fail unless all bytes are equal
    #[arg(long, conflicts_with_all = ["init", "programs"])]
    check_reproducible: bool,
}

/// Arguments of `xtask esp`.
#[derive(clap::Args, Debug)]
pub(crate) struct EspArgs {
    /// The UKI to put at `EFI/BOOT/BOOTX64.EFI`
    uki: PathBuf,
    /// The image to write
    out: PathBuf,
}

/// Images with different measurements for different purposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Profile {
    /// What runs in production
    Release,
    /// The same with a root that runs a script from the disk `constellation-test`
    Test,
    /// An init that prints PCRs and times, and powers off: the floor to compare with
    Probe,
    /// The operating system of a cluster's nodes
    Os,
    /// The same with a root shell on the serial console; not for production
    OsDebug,
}

/// Builds one image.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let target = PathBuf::from("target/image");
    let name = match args.evidence {
        EvidenceKind::Tpm => args.profile.name().to_owned(),
        other => format!("{}-{other}", args.profile.name()),
    };
    let out = args.out.clone().unwrap_or_else(|| target.join(&name));
    let packages = Packages::obtain(&target, args.refresh)?;
    let init = match &args.init {
        Some(init) => init.clone(),
        None => args.profile.build_init(Path::new("target"))?,
    };
    let packaged = || packages.unpacked.join("systemd-boot-efi").join(STUB);
    // A tree of another day may have other packages than the one that it is compared with.
    let refresh = args.refresh || args.check_reproducible;
    let os = args.os(&target, Path::new("target"), refresh)?;
    let image = Image {
        os: os.as_ref(),
        profile: args.profile,
        evidence: args.evidence,
        packages: &packages,
        init: &init,
        stub: &args.stub.clone().unwrap_or_else(packaged),
    };
    image.build(&out)?;
    if args.profile == Profile::Test {
        add_test_programs(&packages, &out)?;
    }
    if args.profile == Profile::OsDebug {
        write_differences(&target.join(name.replacen("os-debug", "os", 1)), &out)?;
    }
    println!("{}", fs::read_to_string(out.join("image.json"))?.trim_end());
    if args.check_reproducible {
        let again = target.join(format!("{name}.again"));
        if again.exists() {
            fs::remove_dir_all(&again)?;
        }
        fs::create_dir_all(&again)?;
        // All that is built here, in other folders; Kubernetes' programs and the packages of the initial RAM disk
        // are those of the first build.
        let programs = again.join("target");
        let init = args.profile.build_init(&programs)?;
        let os = args.os(&again, &programs, false)?;
        let second = Image {
            os: os.as_ref(),
            init: &init,
            ..image
        };
        second.build(&again)?;
        compare(&out, &again)?;
        fs::remove_dir_all(&again)?;
        eprintln!("image: two builds are equal");
    }
    Ok(())
}

impl Args {
    /// The parts of an OS image, if it is one: Debian's tree below `target`, our programs in `cargo`.
    fn os(&self, target: &Path, cargo: &Path, refresh: bool) -> anyhow::Result<Option<os::Os>> {
        let programs = self.programs.as_deref();
        let os = || os::Os::obtain(target, (programs, cargo), refresh);
        self.profile.is_os().then(os).transpose()
    }
}

/// Builds what tests use beside the test image.
fn add_test_programs(packages: &Packages, out: &Path) -> anyhow::Result<()> {
    let target = Path::new("target");
    for name in GUEST_PROGRAMS {
        fs::copy(
            build_static(target, "guest-attester", name)?,
            out.join(name),
        )?;
    }
    fs::copy(build_disk_test(target)?, out.join(DISK_TEST))?;
    let build = |name| Ok((name, build_static(target, "snp-device", name)?));
    let programs: anyhow::Result<Vec<_>> = SNP_PROGRAMS.into_iter().map(build).collect();
    let release = &packages.kernel_release;
    let archive = initrd::build_snp_device(&programs?, &packages.kernel(), release)?;
    Ok(fs::write(out.join("snp-device.cpio"), archive)?)
}

/// Says how the debug profile's root differs from the release's, if that one was built.
fn write_differences(release: &Path, debug: &Path) -> anyhow::Result<()> {
    let Ok(first) = fs::read_to_string(release.join(FILES)) else {
        eprintln!("image: profile `os` is not built: no `{DIFFERENCES}`");
        return Ok(());
    };
    let second = fs::read_to_string(debug.join(FILES))?;
    Ok(fs::write(
        debug.join(DIFFERENCES),
        os::differences(&first, &second),
    )?)
}

/// Puts a UKI into a boot partition.
pub(crate) fn run_esp(args: &EspArgs) -> anyhow::Result<()> {
    esp::build(&args.uki, &args.out)
}

impl Profile {
    const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Test => "test",
            Self::Probe => "probe",
            Self::Os => "os",
            Self::OsDebug => "os-debug",
        }
    }

    /// Builds the program that becomes `/init`.
    fn build_init(self, target: &Path) -> anyhow::Result<PathBuf> {
        let package = match self {
            Self::Release | Self::Test | Self::Os | Self::OsDebug => "initrd-agent",
            Self::Probe => "probe-init",
        };
        build_static(target, package, package)
    }

    /// Words of the command line that a root with systemd needs; docs/os-image.md says what each is for.
    const fn words(self) -> &'static str {
        match self {
            Self::Release | Self::Test | Self::Probe => "",
            Self::Os | Self::OsDebug => OS_WORDS,
        }
    }

    const fn is_os(self) -> bool {
        matches!(self, Self::Os | Self::OsDebug)
    }

    fn root_init(self) -> String {
        let (start, end) = (
            include_str!("../../../os-image/root-init.sh"),
            include_str!("../../../os-image/root-init-end.sh"),
        );
        match self {
            Self::Test => {
                let script = include_str!("../../../os-image/root-init-test.sh");
                format!("{start}{script}{end}")
            }
            _others => format!("{start}{end}"),
        }
    }
}

/// Builds a static program of a package: alone, so that nothing else's features get in.
fn build_static(target: &Path, package: &str, program: &str) -> anyhow::Result<PathBuf> {
    let built = build_alone(target, package, ["--bin", program])?;
    Ok(built.join(program))
}

/// The same of an example.
fn build_disk_test(target: &Path) -> anyhow::Result<PathBuf> {
    let built = build_alone(target, "platform", ["--example", DISK_TEST])?;
    Ok(built.join("examples").join(DISK_TEST))
}

/// Builds one static program; gives the folder that cargo puts programs in.
fn build_alone(target: &Path, package: &str, program: [&str; 2]) -> anyhow::Result<PathBuf> {
    Tool::new("cargo", "rustup")
        .args(["build", "--profile", "agent", "--target", MUSL])
        .args(["-p", package])
        .args(program)
        .arg("--target-dir")
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", remap_cargo_home()?)
        // docs/decisions/0006-no-jitter-entropy.md
        .env("AWS_LC_SYS_NO_JITTER_ENTROPY", "1")
        .run()?;
    Ok(target.join(MUSL).join("agent"))
}

/// The Debian packages that an image is made of, fetched and unpacked.
#[derive(Debug)]
struct Packages {
    debs: Vec<Deb>,
    kernel_release: String,
    unpacked: PathBuf,
}

impl Packages {
    fn obtain(target: &Path, refresh: bool) -> anyhow::Result<Self> {
        let unpacked = fs::canonicalize(prepared(target)?)?.join("packages");
        let state = unpacked.join("resolved");
        if !refresh && let Ok(text) = fs::read_to_string(&state) {
            return Self::parse(&text, unpacked);
        }
        if unpacked.exists() {
            fs::remove_dir_all(&unpacked)?;
        }
        let apt = Apt::prepare(&fs::canonicalize(target)?.join("apt"))?;
        let kernel = apt.depends(&apt.newest("linux-image-cloud-amd64"))?;
        let kernel = kernel
            .into_iter()
            .find(|name| name.starts_with("linux-image-"));
        let kernel = kernel.context("the kernel's meta package depends on no kernel")?;
        let mut specs = vec![kernel, apt.newest("systemd-boot-efi")];
        specs.extend(root::PACKAGES.iter().map(|name| apt.name(name)));
        let debs = apt.download(&specs, &unpacked.join("debs"))?;
        for deb in &debs {
            let dir = unpacked.join(&deb.name);
            Tool::new("dpkg", "dpkg")
                .arg("-x")
                .args([&deb.path, &dir])
                .output()?;
        }
        let lines = debs
            .iter()
            .map(|deb| format!("{} {}\n", deb.name, deb.path.display()));
        let text: String = lines.collect();
        fs::write(&state, &text)?;
        Self::parse(&text, unpacked)
    }

    fn parse(resolved: &str, unpacked: PathBuf) -> anyhow::Result<Self> {
        let pairs = resolved.lines().filter_map(|line| line.split_once(' '));
        let debs: Vec<Deb> = pairs
            .map(|(name, path)| Deb {
                name: name.to_owned(),
                path: path.into(),
            })
            .collect();
        let kernel = debs
            .iter()
            .find_map(|deb| deb.name.strip_prefix("linux-image-"));
        let kernel_release = kernel.context("no kernel was fetched")?.to_owned();
        Ok(Self {
            debs,
            kernel_release,
            unpacked,
        })
    }

    fn kernel(&self) -> PathBuf {
        self.unpacked
            .join(format!("linux-image-{}", self.kernel_release))
    }
}

/// One image to build.
struct Image<'a> {
    os: Option<&'a os::Os>,
    profile: Profile,
    evidence: EvidenceKind,
    packages: &'a Packages,
    init: &'a Path,
    stub: &'a Path,
}

impl Image<'_> {
    fn build(&self, out: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(out)?;
        let release = &self.packages.kernel_release;
        let kernel_dir = self.packages.kernel();
        let initrd = initrd::build(self.init, &kernel_dir, release)?;
        let (verity, content) = self.build_root(out)?;
        let kernel = fs::read(kernel_dir.join(format!("boot/vmlinuz-{release}")))?;
        // The timer check counts ticks against the wall clock: an emulated machine on a busy host
        // fails it and panics ("IO-APIC + timer doesn't work").
        let cmdline = format!(
            "console=ttyS0 quiet panic=-1 no_timer_check {}constellation.evidence={} constellation.root={}",
            self.profile.words(),
            self.evidence,
            verity.parameter()
        );
        let stub = fs::read(self.stub)?;
        let cmdline = Cmdline::parse(cmdline.as_bytes())?;
        let parts = uki::Parts {
            stub: &stub,
            kernel_release: release,
            cmdline: &cmdline,
            initrd: &initrd,
            kernel: &kernel,
        };
        let uki = uki::build(&parts)?;
        for (name, bytes) in [
            ("uki.efi", uki.as_slice()),
            ("vmlinuz", &kernel),
            ("initrd.cpio", &initrd),
            ("cmdline", cmdline.as_str().as_bytes()),
        ] {
            fs::write(out.join(name), bytes)?;
        }
        esp::build(&out.join("uki.efi"), &out.join("esp.img"))?;
        disk::build(
            &out.join("esp.img"),
            &out.join("root.img"),
            &out.join("disk.img"),
        )?;
        self.write_manifest(out, &verity, content.as_ref())
    }

    fn build_root(&self, out: &Path) -> anyhow::Result<(root::Verity, Option<os::Tree>)> {
        let tree = out.join("root");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        if let Some(os) = self.os {
            return self.build_os_root(os, &tree, out);
        }
        let debs = self.packages.debs.iter();
        let packages: Vec<_> = debs
            .map(|deb| self.packages.unpacked.join(&deb.name))
            .collect();
        root::tree(&packages, &self.profile.root_init(), &tree)?;
        let verity = root::image(&tree, &out.join("root.img"), root::Compression::None)?;
        fs::remove_dir_all(&tree)?;
        Ok((verity, None))
    }

    fn build_os_root(
        &self,
        os: &os::Os,
        tree: &Path,
        out: &Path,
    ) -> anyhow::Result<(root::Verity, Option<os::Tree>)> {
        let kernel = self.packages.kernel();
        let name = self.profile.name();
        let content = os.compose((&kernel, &self.packages.kernel_release), name, tree)?;
        os::scan(tree, self.profile == Profile::OsDebug)?;
        fs::write(out.join(FILES), os::list(tree)?)?;
        let verity = root::image(tree, &out.join("root.img"), root::Compression::Lz4)?;
        fs::remove_dir_all(tree)?;
        Ok((verity, Some(content)))
    }

    fn write_manifest(
        &self,
        out: &Path,
        verity: &root::Verity,
        content: Option<&os::Tree>,
    ) -> anyhow::Result<()> {
        let mut packages = serde_json::Map::new();
        for deb in &self.packages.debs {
            let file = deb
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let digest = hex::encode(sha256(&fs::read(&deb.path)?));
            packages.insert(
                deb.name.clone(),
                serde_json::json!({ "file": file, "sha256": digest }),
            );
        }
        let mut files = serde_json::Map::new();
        for name in OUTPUTS {
            let bytes = fs::read(out.join(name))?;
            let entry =
                serde_json::json!({ "bytes": bytes.len(), "sha256": hex::encode(sha256(&bytes)) });
            files.insert(name.to_owned(), entry);
        }
        let mut manifest = serde_json::json!({
            "profile": self.profile.name(),
            "kernel_release": self.packages.kernel_release,
            "cmdline": fs::read_to_string(out.join("cmdline"))?,
            "root": {
                "data_blocks": verity.data_blocks,
                "salt": root::SALT,
                "root_hash": verity.root_hash,
            },
            "init_bytes": fs::metadata(self.init)?.len(),
            "files": files,
            "packages": packages,
        });
        if let Some(content) = content {
            manifest["kubernetes"] = content.kubernetes.as_str().into();
            manifest["root_packages"] = serde_json::to_value(&content.packages)?;
        }
        fs::write(out.join("image.json"), format!("{manifest:#}\n"))?;
        Ok(())
    }
}

const OUTPUTS: [&str; 7] = [
    "uki.efi",
    "esp.img",
    "disk.img",
    "root.img",
    "vmlinuz",
    "initrd.cpio",
    "cmdline",
];

/// What is in an OS image's root, a line each, beside the image.
const FILES: &str = "files.txt";

/// What of it differs from the release profile's, beside the debug profile's.
const DIFFERENCES: &str = "differences-from-os.txt";

/// Panic messages name source files of dependencies below the user's own cargo home, which would
/// give every user another measurement.
fn remap_cargo_home() -> anyhow::Result<String> {
    let default = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home
        .or_else(default)
        .context("neither CARGO_HOME nor HOME is set")?;
    Ok(format!(
        "--remap-path-prefix={}=/cargo",
        cargo_home.display()
    ))
}

fn prepared(dir: &Path) -> anyhow::Result<&Path> {
    fs::create_dir_all(dir)?;
    Ok(dir)
}

fn compare(left: &Path, right: &Path) -> anyhow::Result<()> {
    for name in OUTPUTS {
        if fs::read(left.join(name))? != fs::read(right.join(name))? {
            bail!("`{name}` differs between two builds");
        }
    }
    Ok(())
}

//! The state disk in a virtual machine, as `/init`: dm code runs nowhere else in the tests.
//!
//! The kernel command line says what one boot does, `disk-test=<mode>`:
//! * `first`: format a blank disk, make the file system, fill it, check it, switch root;
//! * `again`: refuse altered superblocks and existing mappings, open it, read it, check it;
//! * `load`: find every file up to `disk-test-synced=<n>` whole, then write and sync more until the
//!   machine is killed, naming each one;
//! * `check`: the same files are whole, and `e2fsck` has nothing to say.
//!
//! It prints `disk-test: <ms> <step> <key=value…>` and ends with `disk-test: ok` or
//! `disk-test: failed`. Built for `x86_64-unknown-linux-musl`; the initrd holds it as `/init`
//! beside `/modules.list`, the verified root holds it as `/sbin/init`.

use identity::{ClusterId, DiskId, Generation, KeyVersion, Role};
use platform::{
    block::{self, BLOCK},
    chroot,
    dm::{DeviceMapper, DmError, MappedDevice},
    find::{Wanted, find},
    integrity::{StateDisk, StateDiskError, Volume},
    mkfs, modules, mount, power, random,
    switch_root::switch_root,
    verity::VerifiedRoot,
};
use secret::{DataKey, VolumeKeys};
use state_disk::{
    DATA_OFFSET, DmParameters, Header, Inspection, Opened, SlotIndex, SuperblockError,
};
use std::{
    error::Error,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Instant,
};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Where the verified root and the state file system are mounted.
const ROOT: &str = "/root";
const STATE: &str = "/state";

/// The disk of this test; the real one is minted by the admitting side.
const DISK: DiskId = DiskId::from_bytes([7; 16]);

fn main() {
    // The example's own end of a boot: there is nobody to return to.
    let ended = match fs::exists("/modules.list") {
        Ok(true) => boot(),
        _ => switched(),
    };
    match ended {
        Ok(()) => println!("disk-test: ok"),
        Err(error) => {
            println!("disk-test: failed: {}", chain(error.as_ref()));
        }
    }
    let Err(error) = power::power_off();
    println!("disk-test: failed: {}", chain(&error));
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Prints a step with its duration in milliseconds.
fn timed<T>(step: &str, run: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    let start = Instant::now();
    let result = run()?;
    println!("disk-test: {} {step}", start.elapsed().as_millis());
    Ok(result)
}

fn boot() -> Outcome {
    mount::mount_system()?;
    timed("modules", || {
        for path in modules::read_list(Path::new("/modules.list"))? {
            modules::load(&path)?;
        }
        Ok(())
    })?;
    let mapper = DeviceMapper::open()?;
    timed("root", || mount_root(&mapper))?;
    match option("disk-test").as_deref() {
        Ok("first") => first(&mapper),
        Ok("again") => again(&mapper),
        Ok("load") => load(&mapper),
        Ok("check") => check(&mapper),
        other => Err(format!("mode {other:?}").into()),
    }
}

fn option(name: &str) -> Outcome<String> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let mut words = line.split_ascii_whitespace();
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("no {name}="))?.to_owned())
}

fn mount_root(mapper: &DeviceMapper) -> Outcome {
    let root: VerifiedRoot = option("constellation.root")?.parse()?;
    let mapped = root.activate(mapper, &find(&Wanted::ROOT)?)?;
    fs::create_dir_all(ROOT)?;
    fs::create_dir_all(STATE)?;
    mount::mount_read_only(&mapped.node(), Path::new(ROOT), "erofs")?;
    Ok(())
}

fn data_key() -> Outcome<DataKey> {
    Ok(DataKey::from_slice(&[9; 32]).ok_or("data key")?)
}

fn first(mapper: &DeviceMapper) -> Outcome {
    let disk = StateDisk::open(&find(&Wanted::STATE)?)?;
    if disk.inspect()? != Inspection::Blank {
        return Err("the disk is not blank".into());
    }
    let whole = Instant::now();
    let formatted = timed("format", || Ok(disk.format(mapper)?))?;
    let header = Header {
        disk: DISK,
        key_version: KeyVersion::FIRST,
        generation: Generation::FIRST,
        volume_keys: VolumeKeys::try_fill(|bytes| random::fill(bytes))?,
        cluster: ClusterId::from_bytes([3; 32]),
        role: Role::Worker,
        init_unfinished: false,
        node_name: "worker-0".parse()?,
        parameters: formatted.parameters,
        superblock: formatted.superblock,
    };
    let mapped = timed("activate", || Ok(disk.activate(mapper, volume(&header))?))?;
    let written = timed("mkfs", || {
        Ok(mkfs::make_ext4(Path::new(ROOT), &mapped.node())?)
    })?;
    timed("header", || {
        let sealed = header.seal(&data_key()?, random::array()?)?;
        disk.write_slot(SlotIndex::First, &sealed)?;
        Ok(())
    })?;
    println!(
        "disk-test: format_ms={} bytes={} data={} journal={}",
        whole.elapsed().as_millis(),
        disk.device().size(),
        written.data,
        written.journal
    );
    if disk.format(mapper).is_ok() {
        return Err("a sealed disk was formatted".into());
    }
    // Before the kernel has zeroed any inode table, and again when the disk is full.
    fsck(&mapped)?;
    mount::mount_state(&mapped, Path::new(STATE))?;
    fs::write(format!("{STATE}/kept"), "kept")?;
    if disk.device().size() < 4 << 30 {
        timed("fill", fill)?;
    }
    mount::unmount(Path::new(STATE))?;
    fsck(&mapped)?;
    timed("deactivate", || Ok(StateDisk::deactivate(mapper)?))?;
    no_integrity_errors(0)?;
    println!("disk-test: switch-root");
    switch_root(Path::new(ROOT), Path::new("/sbin/init"))?;
    Ok(())
}

const fn volume(header: &Header) -> Volume<'_> {
    Volume {
        disk: &header.disk,
        keys: &header.volume_keys,
        parameters: &header.parameters,
        superblock: &header.superblock,
    }
}

/// Fills the file system to the last block.
fn fill() -> Outcome {
    let mut file = File::create(format!("{STATE}/fill"))?;
    let piece = vec![0x5a; 1 << 20];
    loop {
        match file.write_all(&piece) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => return Err(error.into()),
        }
    }
    file.sync_all()?;
    Ok(())
}

fn open(disk: &StateDisk) -> Outcome<Opened> {
    let Inspection::Sealed(sealed) = disk.inspect()? else {
        return Err("the disk is blank".into());
    };
    Ok(sealed.open(&data_key()?)?)
}

fn again(mapper: &DeviceMapper) -> Outcome {
    let disk = StateDisk::open(&find(&Wanted::STATE)?)?;
    let opened = timed("open", || open(&disk))?;
    refuse_altered_superblock(mapper, &disk, &opened.header)?;
    refuse_existing_mapping(mapper, &disk, &opened.header)?;
    let refused = refuse_wrong_keys(mapper, &disk, &opened.header)?;
    let mapped = timed("activate", || {
        Ok(disk.activate(mapper, volume(&opened.header))?)
    })?;
    refuse_differing_table(mapper, &disk, &opened.header)?;
    mount::mount_state(&mapped, Path::new(STATE))?;
    if fs::read(format!("{STATE}/kept"))? != b"kept" {
        return Err("the file is gone".into());
    }
    if fs::exists(format!("{STATE}/fill"))? {
        timed("read", read_back)?;
    }
    mount::unmount(Path::new(STATE))?;
    fsck(&mapped)?;
    next_generation(&disk, opened)?;
    StateDisk::deactivate(mapper)?;
    no_integrity_errors(refused)
}

fn read_back() -> Outcome {
    let mut file = File::open(format!("{STATE}/fill"))?;
    let mut piece = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut piece)?;
        if len == 0 {
            return Ok(());
        }
        if piece[..len].iter().any(|byte| *byte != 0x5a) {
            return Err("the file has other content".into());
        }
    }
}

fn next_generation(disk: &StateDisk, opened: Opened) -> Outcome {
    let mut header = opened.header;
    header.generation = header.generation.next().ok_or("generation")?;
    let slot = opened.slot.other();
    disk.write_slot(slot, &header.seal(&data_key()?, random::array()?)?)?;
    let newest = open(disk)?;
    if newest.slot != slot || newest.header.generation != header.generation {
        return Err("the newest header did not win".into());
    }
    println!("disk-test: 0 generation={}", header.generation);
    Ok(())
}

/// Every byte of the superblock's fields, and one after them; then all of it zero.
fn refuse_altered_superblock(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome {
    let good = disk.device().read_block(DATA_OFFSET)?;
    for at in (0..64).chain([64, 4095]) {
        let mut bad = good;
        bad[at] ^= 0x80;
        disk.device().write_block_durably(DATA_OFFSET, &bad)?;
        match disk.activate(mapper, volume(header)) {
            Err(StateDiskError::Superblock(SuperblockError::Differs { offset }))
                if offset == at => {}
            other => return Err(format!("superblock byte {at}: {other:?}").into()),
        }
    }
    disk.device()
        .write_block_durably(DATA_OFFSET, &[0; BLOCK])?;
    match disk.activate(mapper, volume(header)) {
        Err(StateDiskError::Superblock(SuperblockError::Blank)) => {}
        other => return Err(format!("zeroed superblock: {other:?}").into()),
    }
    disk.device().write_block_durably(DATA_OFFSET, &good)?;
    println!("disk-test: 0 altered-superblock refused=67");
    Ok(())
}

fn refuse_existing_mapping(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome {
    let linear = state_disk::Table {
        target: "linear",
        sectors: 8,
        parameters: format!("{} 0", disk.device().number()),
        read_only: false,
    };
    for name in ["constellation-state", "constellation-state-integrity"] {
        let foreign = mapper.activate(name, &linear)?;
        match disk.activate(mapper, volume(header)) {
            Err(StateDiskError::Existing(DmError::Exists(existing))) if existing == name => {}
            other => return Err(format!("existing mapping {name}: {other:?}").into()),
        }
        mapper.remove(foreign.name())?;
    }
    println!("disk-test: 0 existing-mapping refused=2");
    Ok(())
}

/// Other volume keys map the disk and cannot read one block of it.
fn refuse_wrong_keys(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome<usize> {
    let keys = VolumeKeys::try_fill(|bytes| random::fill(bytes))?;
    let mapped = disk.activate(
        mapper,
        Volume {
            keys: &keys,
            ..volume(header)
        },
    )?;
    let mounted = mount::mount_state(&mapped, Path::new(STATE));
    StateDisk::deactivate(mapper)?;
    if mounted.is_ok() {
        return Err("other volume keys mounted the disk".into());
    }
    let errors = integrity_errors()?;
    println!("disk-test: 0 wrong-keys integrity-errors={errors}");
    if errors == 0 {
        return Err("wrong keys made no integrity error: the counter does not count".into());
    }
    Ok(errors)
}

fn refuse_differing_table(mapper: &DeviceMapper, disk: &StateDisk, header: &Header) -> Outcome {
    let names = mapper.list()?;
    if names.len() != 3 {
        return Err(format!("mappings {names:?}").into());
    }
    let asked = header.parameters.integrity_table(disk.device().number());
    mapper.compare("constellation-state-integrity", &asked)?;
    let other = DmParameters::new(header.parameters.data_sectors() - 8)?
        .integrity_table(disk.device().number());
    match mapper.compare("constellation-state-integrity", &other) {
        Err(DmError::Differs { .. }) => Ok(()),
        other => Err(format!("differing table: {other:?}").into()),
    }
}

fn load(mapper: &DeviceMapper) -> Outcome {
    let (_, synced) = mount_and_verify(mapper)?;
    fs::create_dir_all(format!("{STATE}/load"))?;
    let directory = File::open(format!("{STATE}/load"))?;
    for number in synced + 1.. {
        let mut file = File::create(format!("{STATE}/load/{number}"))?;
        file.write_all(&content(number))?;
        file.sync_all()?;
        directory.sync_all()?;
        println!("disk-test: synced {number}");
    }
    Ok(())
}

/// Mounting replays both journals, as a boot does; then every file that was synced is there.
fn mount_and_verify(mapper: &DeviceMapper) -> Outcome<(MappedDevice, u32)> {
    let disk = StateDisk::open(&find(&Wanted::STATE)?)?;
    let opened = open(&disk)?;
    let mapped = disk.activate(mapper, volume(&opened.header))?;
    mount::mount_state(&mapped, Path::new(STATE))?;
    let synced = option("disk-test-synced")?.parse()?;
    for number in 1..=synced {
        if fs::read(format!("{STATE}/load/{number}"))? != content(number) {
            return Err(format!("synced file {number} has other content").into());
        }
    }
    println!("disk-test: 0 verified={synced}");
    Ok((mapped, synced))
}

/// 16 KiB that say which file they are of.
fn content(number: u32) -> Vec<u8> {
    number.to_le_bytes().repeat(4096)
}

fn check(mapper: &DeviceMapper) -> Outcome {
    let (mapped, _) = mount_and_verify(mapper)?;
    mount::unmount(Path::new(STATE))?;
    fsck(&mapped)?;
    StateDisk::deactivate(mapper)?;
    no_integrity_errors(0)
}

/// The verified root's own e2fsck, reading all metadata and changing nothing.
fn fsck(mapped: &MappedDevice) -> Outcome {
    block::set_read_ahead(mapped.number(), 0)?;
    rustix::mount::mount_bind("/dev", format!("{ROOT}/dev"))?;
    let status = timed("fsck", || {
        let mut command = chroot::command(Path::new(ROOT), "/sbin/e2fsck")?;
        command.args(["-f", "-n", "/dev/mapper/constellation-state"]);
        Ok(command.status()?)
    })?;
    mount::unmount(&Path::new(ROOT).join("dev"))?;
    if !status.success() {
        return Err(format!("e2fsck: {status}").into());
    }
    Ok(())
}

/// `refused` errors were provoked.
fn no_integrity_errors(refused: usize) -> Outcome {
    let errors = integrity_errors()?;
    if errors != refused {
        return Err(format!("integrity errors: expected {refused}, got {errors}").into());
    }
    println!("disk-test: 0 integrity-errors=0");
    Ok(())
}

/// Lines of the kernel log that report a failed tag or a failed read.
fn integrity_errors() -> Outcome<usize> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/kmsg")?;
    let mut record = vec![0; 8192];
    let mut errors = 0;
    loop {
        match log.read(&mut record) {
            Ok(len) => {
                let line = String::from_utf8_lossy(&record[..len]);
                let bad = ["INTEGRITY AEAD ERROR", "I/O error", "EXT4-fs error"];
                errors += usize::from(bad.iter().any(|text| line.contains(text)));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(errors),
            Err(error) => return Err(error.into()),
        }
    }
}

/// In the verified root: what moved along is there, what the initramfs held is not.
fn switched() -> Outcome {
    for path in ["/proc/self/status", "/sys/kernel", "/dev/null", "/run"] {
        if !fs::exists(path)? {
            return Err(format!("`{path}` did not move along").into());
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    if !mounts.lines().any(|line| line.contains(" / erofs ro")) {
        return Err(format!("root is not the verified one: {mounts}").into());
    }
    println!("disk-test: switched");
    Ok(())
}

//! The launch digest as the secure processor keeps it (AMD #56860, section 8.17.2: `PAGE_INFO`).

use super::PAGE;
use aws_lc_rs::digest::{Context, SHA384};

/// Where the firmware interface says that VMSA pages are, whatever their address
/// (AMD #56860, section 8.17: the highest page below 2^48).
const VMSA_ADDRESS: u64 = 0xffff_ffff_f000;

/// Length of the `PAGE_INFO` structure.
const PAGE_INFO_LEN: u16 = 0x70;

/// `PAGE_TYPE` of the launch-update command (AMD #56860, table 67).
#[derive(Clone, Copy, Debug)]
pub(super) enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Secrets = 5,
    Cpuid = 6,
}

/// A digest that grows by one page at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaunchDigest([u8; 48]);

impl LaunchDigest {
    /// The digest of a launch that has no page yet.
    pub(super) const fn new() -> Self {
        Self([0; 48])
    }

    pub(super) const fn value(&self) -> [u8; 48] {
        self.0
    }

    /// Adds `bytes`, whole pages, from `address` on.
    pub(super) fn add_pages(&mut self, address: u64, bytes: &[u8]) {
        for (address, page) in addresses(address).zip(bytes.chunks(PAGE)) {
            self.add_page(PageType::Normal, address, Some(page));
        }
    }

    /// Adds pages of which only the address is measured, because they are zero.
    pub(super) fn add_zero_pages(&mut self, address: u64, size: usize) {
        for address in addresses(address).take(size.div_ceil(PAGE)) {
            self.add_page(PageType::Zero, address, None);
        }
    }

    /// Adds one page; `None` where the secure processor fills it, so that its contents count as zero.
    pub(super) fn add_page(&mut self, kind: PageType, address: u64, contents: Option<&[u8]>) {
        self.update(kind, address, &contents.map_or([0; 48], sha384));
    }

    /// Adds the register page of one virtual CPU.
    pub(super) fn add_vmsa(&mut self, page: &[u8; PAGE]) {
        self.add_vmsa_hashed(&sha384(page));
    }

    /// The same for a page hashed before.
    pub(super) fn add_vmsa_hashed(&mut self, contents: &[u8; 48]) {
        self.update(PageType::Vmsa, VMSA_ADDRESS, contents);
    }

    fn update(&mut self, kind: PageType, address: u64, contents: &[u8; 48]) {
        let mut info = Context::new(&SHA384);
        info.update(&self.0);
        info.update(contents);
        info.update(&PAGE_INFO_LEN.to_le_bytes());
        info.update(&[kind as u8]);
        // IMI_PAGE, the permissions of VMPL 3, 2 and 1, and a reserved byte: none of them is used.
        info.update(&[0; 5]);
        info.update(&address.to_le_bytes());
        self.0 = array(info.finish());
    }
}

pub(super) fn sha384(bytes: &[u8]) -> [u8; 48] {
    array(aws_lc_rs::digest::digest(&SHA384, bytes))
}

fn array(digest: aws_lc_rs::digest::Digest) -> [u8; 48] {
    let mut value = [0; 48];
    for (to, from) in value.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    value
}

/// Addresses of the pages from `first` on; sections end below 4 GiB, so none wraps.
fn addresses(first: u64) -> impl Iterator<Item = u64> {
    (first..).step_by(PAGE)
}

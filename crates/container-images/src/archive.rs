//! The little of `tar` that images need: POSIX.1-1988 `ustar`, everything of root and of 1970.

use std::collections::BTreeSet;

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy)]
enum Kind<'a> {
    File { size: usize },
    Folder,
    Link { target: &'a str },
}

/// An archive in memory.
#[derive(Debug)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
}

impl Archive {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            folders: BTreeSet::new(),
        }
    }

    /// Adds a folder and those above it, unless they are there.
    pub(super) fn folder(&mut self, path: &str, mode: u32) {
        let path = path.trim_matches('/').to_owned();
        if path.is_empty() || self.folders.contains(&path) {
            return;
        }
        self.parent(&path);
        self.header(&path, mode, Kind::Folder);
        self.folders.insert(path);
    }

    /// Adds a file, with the folders above it.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = path.trim_matches('/');
        self.parent(path);
        let size = content.len();
        self.header(path, mode, Kind::File { size });
        self.bytes.extend_from_slice(content);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Adds a symbolic link, with the folders above it.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        let path = path.trim_matches('/');
        self.parent(path);
        self.header(path, 0o777, Kind::Link { target });
    }

    /// The finished archive: two empty blocks end it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent, 0o755);
        }
    }

    fn header(&mut self, path: &str, mode: u32, kind: Kind<'_>) {
        let (flag, size, target) = match kind {
            Kind::File { size } => (b"0", size, ""),
            Kind::Link { target } => (b"2", 0, target),
            Kind::Folder => (b"5", 0, ""),
        };
        // Longer names would need a prefix field; nothing here has one.
        debug_assert!(path.len() < 100 && target.len() < 100, "{path} is too long");
        let mut header = Header([0; BLOCK]);
        header.put(0, path.as_bytes());
        header.put(100, format!("{mode:07o}").as_bytes());
        header.put(108, b"0000000");
        header.put(116, b"0000000");
        header.put(124, format!("{size:011o}").as_bytes());
        header.put(136, b"00000000000");
        // The checksum is taken over spaces in its own place.
        header.put(148, b"        ");
        header.put(156, flag);
        header.put(157, target.as_bytes());
        header.put(257, b"ustar\x0000");
        let sum: u32 = header.0.iter().map(|&byte| u32::from(byte)).sum();
        header.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header.0);
    }
}

/// Fields by offset: name 0, mode 100, uid 108, gid 116, size 124, mtime 136, checksum 148, type 156,
/// link name 157, magic and version 257.
struct Header([u8; BLOCK]);

impl Header {
    fn put(&mut self, offset: usize, field: &[u8]) {
        for (to, from) in self.0.iter_mut().skip(offset).zip(field) {
            *to = *from;
        }
    }
}

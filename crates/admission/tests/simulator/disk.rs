use admission::node::{DiskState, Opened, Slot};
use identity::{DiskId, Generation, KeyVersion};

/// What a slot holds. A header opens under the key of its disk, wherever the bytes were copied from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotContent {
    Zero,
    Torn {
        cleartext: Option<(DiskId, Generation)>,
    },
    Header(SealedHeader),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealedHeader {
    pub(crate) disk: DiskId,
    pub(crate) generation: Generation,
    pub(crate) init_unfinished: bool,
}

/// The header slots of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk(pub(crate) [SlotContent; 2]);

impl Disk {
    pub(crate) const BLANK: Self = Self([SlotContent::Zero; 2]);

    pub(crate) fn state(&self) -> DiskState {
        if *self == Self::BLANK {
            return DiskState::Blank;
        }
        let newest = self
            .0
            .iter()
            .filter_map(SlotContent::cleartext)
            .max_by_key(|c| c.1);
        newest.map_or(DiskState::Torn, |(disk, _)| DiskState::Header {
            disk,
            key_version: KeyVersion::FIRST,
        })
    }

    pub(crate) fn open(&self, disk: DiskId) -> Option<Opened> {
        let opened = |slot: Slot| match self.0[index(slot)] {
            SlotContent::Header(header) if header.disk == disk => Some(Opened {
                slot,
                generation: header.generation,
                init_unfinished: header.init_unfinished,
            }),
            _ => None,
        };
        let candidates = [opened(Slot::A), opened(Slot::B)];
        candidates
            .into_iter()
            .flatten()
            .max_by_key(|o| o.generation)
    }

    pub(crate) fn slot(&mut self, slot: Slot) -> &mut SlotContent {
        &mut self.0[index(slot)]
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = SealedHeader> {
        self.0.into_iter().filter_map(|slot| match slot {
            SlotContent::Header(header) => Some(header),
            _ => None,
        })
    }
}

impl SlotContent {
    fn cleartext(&self) -> Option<(DiskId, Generation)> {
        match self {
            Self::Zero => None,
            Self::Torn { cleartext } => *cleartext,
            Self::Header(header) => Some((header.disk, header.generation)),
        }
    }
}

const fn index(slot: Slot) -> usize {
    match slot {
        Slot::A => 0,
        Slot::B => 1,
    }
}

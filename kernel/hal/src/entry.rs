//! Page-table entries, and the kinds of root that a tree of tables can hang from.
//!
//! A [`RootKind`] says how the entries of its tables are encoded and whether its root carries
//! the kernel's half. The processor's own page tables ([`Host`]) are one kind; nested page
//! tables and an IOMMU's are others.
//!
//! Software uses one bit of a present leaf entry: *foreign*, the mapping was made through a
//! `Share`, so its rights may shrink but not grow.

use core::fmt;

use heliox_types::{Frame, PAGE_BITS};

use crate::geometry::{Geometry, Level};
use crate::rights::{MemoryType, Rights};

/// A page-table entry, as it lies in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Entry(pub u64);

const _: () = assert!(size_of::<Entry>() == 8);

impl Entry {
    /// The entry that translates nothing, in every encoding.
    pub const ABSENT: Self = Self(0);
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Entry({:#x})", self.0)
    }
}

/// What a leaf entry says about the memory that it maps, besides where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// What may be done with it.
    pub rights: Rights,
    /// How accesses are cached.
    pub memory_type: MemoryType,
    /// Whether the mapping was made through a `Share`.
    pub foreign: bool,
}

/// A kind of root, and the encoding of the entries of the tables below it.
pub trait RootKind: 'static {
    /// Whether the root's entries from [`Geometry::USER_ENTRIES`] on are copies of those of the
    /// reference root.
    const HAS_KERNEL_HALF: bool;

    /// The entry that points to the table in `frame`.
    fn table(frame: Frame) -> Entry;

    /// The entry of a table of `level` that maps the memory that begins at `frame`, which is
    /// aligned as the level asks, for programs.
    fn leaf(level: Level, frame: Frame, attributes: Attributes) -> Entry;

    /// Whether the entry translates anything.
    fn is_present(entry: Entry) -> bool;

    /// Whether a present entry of a table of `level` maps memory; if not, it points to a table.
    fn is_leaf(entry: Entry, level: Level) -> bool;

    /// Whether the entry of a table of `level`, 2 or above, points to a table.
    fn is_table(entry: Entry, level: Level) -> bool {
        Self::is_present(entry) && !Self::is_leaf(entry, level)
    }

    /// The frame of the table that a present entry, not a leaf, points to.
    fn table_frame(entry: Entry) -> Frame;

    /// The first frame that a leaf entry maps.
    fn leaf_frame(entry: Entry, level: Level) -> Frame;

    /// What a leaf entry says about its memory.
    fn attributes(entry: Entry) -> Attributes;

    /// The leaf entry with other rights, else the same.
    fn with_rights(entry: Entry, rights: Rights) -> Entry;

    /// Whether the memory was accessed through this leaf entry.
    fn is_accessed(entry: Entry) -> bool;

    /// Whether the memory was written through this leaf entry.
    fn is_dirty(entry: Entry) -> bool;

    /// The leaf entry, marked accessed and dirty also where `seen` is.
    fn with_usage_of(entry: Entry, seen: Entry) -> Entry;

    /// The leaf entry, marked neither accessed nor dirty.
    fn without_usage(entry: Entry) -> Entry;

    /// The entry of a table of the level below `level` that maps its `index`th part of what the
    /// leaf entry of `level` maps, with the same rights, type and marks.
    fn split<G: Geometry>(entry: Entry, level: Level, index: usize) -> Entry;
}

/// The processor's own page tables (AMD64 manual volume 2, section 5.3; Intel SDM volume 3,
/// section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Host;

impl Host {
    /// The entry translates something.
    pub const PRESENT: u64 = 1 << 0;
    /// Memory behind the entry can be written.
    pub const WRITABLE: u64 = 1 << 1;
    /// Programs can use memory behind the entry.
    pub const USER: u64 = 1 << 2;
    /// First bit of the index into the page attribute table (PAT).
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// Second bit of the index into the PAT.
    pub const CACHE_DISABLE: u64 = 1 << 4;
    /// The processor used the entry.
    pub const ACCESSED: u64 = 1 << 5;
    /// The processor wrote through the leaf entry.
    pub const DIRTY: u64 = 1 << 6;
    /// An entry of level 2 or above is a leaf. (In level 1 the third bit of the PAT index, which
    /// stays 0.)
    pub const LARGE: u64 = 1 << 7;
    /// The translation survives the load of another root. Kernel half only.
    pub const GLOBAL: u64 = 1 << 8;
    /// Software's: the mapping was made through a `Share`.
    pub const FOREIGN: u64 = 1 << 9;
    /// Instructions cannot be fetched from behind the entry.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The bits of an entry that hold a frame's address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// What the page attribute table must hold (MSR 0x277): write-back, write-combining, UC-,
    /// uncacheable, and the same again, since the third index bit is not used.
    pub const PAGE_ATTRIBUTE_TABLE: u64 = 0x0007_0106_0007_0106;

    const fn memory_type_bits(memory_type: MemoryType) -> u64 {
        match memory_type {
            MemoryType::WriteBack => 0,
            MemoryType::WriteCombining => Self::WRITE_THROUGH,
            MemoryType::Uncacheable => Self::WRITE_THROUGH | Self::CACHE_DISABLE,
        }
    }

    const fn rights_bits(rights: Rights) -> u64 {
        let write = if rights.allows_write() { Self::WRITABLE } else { 0 };
        let execute = if rights.allows_execute() { 0 } else { Self::NO_EXECUTE };
        write | execute
    }

    const fn frame(entry: Entry) -> Frame {
        match Frame::new((entry.0 & Self::ADDRESS) >> PAGE_BITS) {
            Some(frame) => frame,
            // Not reached: ADDRESS has no bit at or above 2^52.
            None => Frame::ZERO,
        }
    }
}

const _: () = {
    // No two fields share a bit, and the address field is exactly bits 12 to 51.
    let fields = [
        Host::PRESENT,
        Host::WRITABLE,
        Host::USER,
        Host::WRITE_THROUGH,
        Host::CACHE_DISABLE,
        Host::ACCESSED,
        Host::DIRTY,
        Host::LARGE,
        Host::GLOBAL,
        Host::FOREIGN,
        Host::ADDRESS,
        Host::NO_EXECUTE,
    ];
    let mut seen = 0;
    let mut rest: &[u64] = &fields;
    while let [field, tail @ ..] = rest {
        assert!(seen & *field == 0);
        seen |= *field;
        rest = tail;
    }
    assert!(Host::ADDRESS == ((Frame::LIMIT - 1) << PAGE_BITS));
};

impl RootKind for Host {
    const HAS_KERNEL_HALF: bool = true;

    #[inline]
    fn table(frame: Frame) -> Entry {
        // Everything is allowed here and decided in the leaf.
        Entry((frame.number() << PAGE_BITS) | Self::PRESENT | Self::WRITABLE | Self::USER)
    }

    #[inline]
    fn leaf(level: Level, frame: Frame, attributes: Attributes) -> Entry {
        let large = if level == Level::FIRST { 0 } else { Self::LARGE };
        let foreign = if attributes.foreign { Self::FOREIGN } else { 0 };
        Entry(
            (frame.number() << PAGE_BITS)
                | Self::PRESENT
                | Self::USER
                | Self::rights_bits(attributes.rights)
                | Self::memory_type_bits(attributes.memory_type)
                | large
                | foreign,
        )
    }

    #[inline]
    fn is_present(entry: Entry) -> bool {
        entry.0 & Self::PRESENT != 0
    }

    #[inline]
    fn is_leaf(entry: Entry, level: Level) -> bool {
        level == Level::FIRST || entry.0 & Self::LARGE != 0
    }

    #[inline]
    fn is_table(entry: Entry, _level: Level) -> bool {
        entry.0 & (Self::PRESENT | Self::LARGE) == Self::PRESENT
    }

    #[inline]
    fn table_frame(entry: Entry) -> Frame {
        Self::frame(entry)
    }

    #[inline]
    fn leaf_frame(entry: Entry, _level: Level) -> Frame {
        // The third PAT bit of a large page would lie in the address field: it stays 0.
        Self::frame(entry)
    }

    #[inline]
    fn attributes(entry: Entry) -> Attributes {
        let bits = entry.0 & (Self::WRITE_THROUGH | Self::CACHE_DISABLE);
        Attributes {
            rights: Rights::readable_and(
                entry.0 & Self::WRITABLE != 0,
                entry.0 & Self::NO_EXECUTE == 0,
            ),
            memory_type: match bits {
                0 => MemoryType::WriteBack,
                Self::WRITE_THROUGH => MemoryType::WriteCombining,
                _ => MemoryType::Uncacheable,
            },
            foreign: entry.0 & Self::FOREIGN != 0,
        }
    }

    #[inline]
    fn with_rights(entry: Entry, rights: Rights) -> Entry {
        Entry((entry.0 & !(Self::WRITABLE | Self::NO_EXECUTE)) | Self::rights_bits(rights))
    }

    #[inline]
    fn is_accessed(entry: Entry) -> bool {
        entry.0 & Self::ACCESSED != 0
    }

    #[inline]
    fn is_dirty(entry: Entry) -> bool {
        entry.0 & Self::DIRTY != 0
    }

    #[inline]
    fn with_usage_of(entry: Entry, seen: Entry) -> Entry {
        Entry(entry.0 | (seen.0 & (Self::ACCESSED | Self::DIRTY)))
    }

    #[inline]
    fn without_usage(entry: Entry) -> Entry {
        Entry(entry.0 & !(Self::ACCESSED | Self::DIRTY))
    }

    #[inline]
    fn split<G: Geometry>(entry: Entry, level: Level, index: usize) -> Entry {
        let Some(below) = level.below() else {
            return entry;
        };
        let large = if below == Level::FIRST { 0 } else { Self::LARGE };
        // The address of a large page is aligned, so its low bits are free for the index.
        Entry((entry.0 & !Self::LARGE) | large | ((index as u64) << below.bits::<G>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::FourLevel;

    fn attributes() -> impl Iterator<Item = Attributes> {
        let types = [MemoryType::WriteBack, MemoryType::Uncacheable, MemoryType::WriteCombining];
        Rights::ALL.into_iter().flat_map(move |rights| {
            types.into_iter().flat_map(move |memory_type| {
                [false, true].into_iter().map(move |foreign| Attributes {
                    rights,
                    memory_type,
                    foreign,
                })
            })
        })
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let frame = Frame::new(0x8_0000).unwrap();
        for number in 1..=3 {
            let level = Level::new::<FourLevel>(number).unwrap();
            for attributes in attributes() {
                let entry = Host::leaf(level, frame, attributes);
                assert!(Host::is_present(entry) && Host::is_leaf(entry, level));
                assert_eq!(Host::leaf_frame(entry, level), frame);
                assert_eq!(Host::attributes(entry), attributes);
                assert!(!Host::is_accessed(entry) && !Host::is_dirty(entry));
                for rights in Rights::ALL {
                    let changed = Host::with_rights(entry, rights);
                    assert_eq!(Host::attributes(changed), Attributes { rights, ..attributes });
                    assert_eq!(Host::leaf_frame(changed, level), frame);
                }
            }
            if number > 1 {
                assert!(!Host::is_leaf(Host::table(frame), level));
            }
        }
        assert_eq!(Host::table_frame(Host::table(frame)), frame);
        assert!(!Host::is_present(Entry::ABSENT));
    }

    #[test]
    fn a_split_entry_maps_the_same_memory_alike() {
        let frame = Frame::new(0x8_0000).unwrap();
        let level = Level::new::<FourLevel>(3).unwrap();
        let below = level.below().unwrap();
        for attributes in attributes() {
            let whole = Entry(Host::leaf(level, frame, attributes).0 | Host::DIRTY);
            let part = Host::split::<FourLevel>(whole, level, 511);
            assert!(Host::is_leaf(part, below) && Host::is_dirty(part));
            assert_eq!(Host::leaf_frame(part, below), frame.checked_add(511 * 512).unwrap());
            assert_eq!(Host::attributes(part), attributes);
            let page = Host::split::<FourLevel>(part, below, 3);
            assert_eq!(page.0 & Host::LARGE, 0);
            assert_eq!(
                Host::leaf_frame(page, Level::FIRST),
                frame.checked_add(511 * 512 + 3).unwrap()
            );
        }
    }
}

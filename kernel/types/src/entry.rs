//! Page-table entries, and the kinds of root that a tree of tables can hang from.
//!
//! A [`RootKind`] says how the entries of its tables are encoded and whether its root carries
//! the kernel's half. The processor's own page tables ([`Host`]) are one kind, nested page tables
//! ([`Nested`]) another, of the same encoding; an IOMMU's would be a third.
//!
//! Nothing loads a nested root yet. Whatever does so has to be counted among the processors that
//! translate with it (`State::owe`), as `load` is for a host's.
//!
//! Software uses one bit of a present leaf entry: *foreign*, the mapping was made through a
//! `Share`, so its rights may shrink but not grow.

use core::fmt;

use crate::geometry::{Geometry, Level};
pub use crate::mapping::Attributes;
use crate::rights::{MemoryType, Rights};
use crate::{Frame, PAGE_BITS, PhysicalAddress};

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

mod sealed {
    /// What only this module implements.
    pub trait Sealed {}
}

impl<const KERNEL_HALF: bool> sealed::Sealed for Native<KERNEL_HALF> {}

/// A kind of root, and the encoding of the entries of the tables below it. There are no others than
/// those of this module: the checks of memory rely on it that what is encoded is decoded again.
pub trait RootKind: sealed::Sealed + 'static {
    /// Whether the root's entries from [`Geometry::USER_ENTRIES`] on are copies of those of the
    /// reference root.
    const HAS_KERNEL_HALF: bool;

    /// The bit of a leaf entry that says that the memory was accessed.
    const ACCESSED: u64;

    /// The bit of a leaf entry that says that the memory was written.
    const DIRTY: u64;

    /// The entry that points to the table in `frame`.
    fn table(frame: Frame) -> Entry;

    /// The entry of a table of `level` that maps the memory that begins at `frame`, which is
    /// aligned as the level asks, for programs.
    fn leaf(level: Level, frame: Frame, attributes: Attributes) -> Entry;

    /// Whether the entry translates anything.
    fn is_present(entry: Entry) -> bool;

    /// Whether the entry of a table of level 2 or above points to a table.
    fn is_table(entry: Entry) -> bool;

    /// Where the table that a present entry points to, or the memory that it maps, begins.
    fn address(entry: Entry) -> PhysicalAddress;

    /// The frame of the table that a present entry points to, or the first that it maps.
    fn frame(entry: Entry) -> Frame {
        Self::address(entry).frame()
    }

    /// What a leaf entry says about its memory.
    fn attributes(entry: Entry) -> Attributes;

    /// The bits of a leaf entry that must be 0, and those that must be 1, for it to give `rights`.
    fn rights_bits(rights: Rights) -> (u64, u64);

    /// Number of the root's entries, from 0 on, that translate programs' addresses.
    fn entries<G: Geometry>() -> usize {
        if Self::HAS_KERNEL_HALF { G::USER_ENTRIES } else { G::ENTRIES }
    }

    /// First address that is not the programs'.
    fn limit<G: Geometry>() -> u64 {
        if Self::HAS_KERNEL_HALF {
            G::USER_END
        } else {
            (G::ENTRIES as u64) << Level::root::<G>().bits::<G>()
        }
    }
}

/// Page tables in the processor's own format (AMD64 manual volume 2, section 5.3; Intel SDM
/// volume 3, section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Native<const KERNEL_HALF: bool>;

/// The processor's page tables.
pub type Host = Native<true>;

/// A guest's nested page tables: every access of a guest counts as a program's (AMD64 manual
/// volume 2, section 15.25.5).
pub type Nested = Native<false>;

impl<const KERNEL_HALF: bool> Native<KERNEL_HALF> {
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
}

// Ten flags of one bit each that are ten bits together share none.
const _: () = {
    let rights = Host::PRESENT | Host::WRITABLE | Host::USER | Host::GLOBAL | Host::FOREIGN;
    let types = Host::WRITE_THROUGH | Host::CACHE_DISABLE | Host::LARGE;
    assert!(rights | types | Host::ACCESSED | Host::DIRTY == (1 << 10) - 1);
    assert!(Host::ADDRESS == ((Frame::LIMIT - 1) << PAGE_BITS));
    assert!((Host::NO_EXECUTE | ((1 << 10) - 1)) & Host::ADDRESS == 0);
};

impl<const KERNEL_HALF: bool> RootKind for Native<KERNEL_HALF> {
    const HAS_KERNEL_HALF: bool = KERNEL_HALF;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;

    fn table(frame: Frame) -> Entry {
        // Everything is allowed here and decided in the leaf.
        Entry(frame.address().get() | Self::PRESENT | Self::WRITABLE | Self::USER)
    }

    fn leaf(level: Level, frame: Frame, attributes: Attributes) -> Entry {
        let large = if level == Level::FIRST { 0 } else { Self::LARGE };
        let foreign = if attributes.foreign { Self::FOREIGN } else { 0 };
        let (_, rights) = Self::rights_bits(attributes.rights);
        let memory_type = Self::memory_type_bits(attributes.memory_type);
        let bits = Self::PRESENT | Self::USER | rights | memory_type | large | foreign;
        Entry(frame.address().get() | bits)
    }

    fn is_present(entry: Entry) -> bool {
        entry.0 & Self::PRESENT != 0
    }

    fn is_table(entry: Entry) -> bool {
        // PRESENT is the lowest bit and LARGE the sign of the lowest byte; absent entries are 0.
        entry.0 as i8 > 0
    }

    fn address(entry: Entry) -> PhysicalAddress {
        // ADDRESS has no bit at or above 2^52. The third PAT bit of a large page, which would lie
        // in it, stays 0.
        PhysicalAddress::new(entry.0 & Self::ADDRESS).unwrap_or(PhysicalAddress::ZERO)
    }

    fn attributes(entry: Entry) -> Attributes {
        let (write, execute) = (entry.0 & Self::WRITABLE != 0, entry.0 & Self::NO_EXECUTE == 0);
        Attributes {
            rights: Rights::readable_and(write, execute),
            memory_type: match entry.0 & (Self::WRITE_THROUGH | Self::CACHE_DISABLE) {
                0 => MemoryType::WriteBack,
                Self::WRITE_THROUGH => MemoryType::WriteCombining,
                _ => MemoryType::Uncacheable,
            },
            foreign: entry.0 & Self::FOREIGN != 0,
        }
    }

    fn rights_bits(rights: Rights) -> (u64, u64) {
        let write = (rights as u64 & Rights::WRITE as u64) << 1;
        let no_execute = (!(rights as u64) & Rights::EXECUTE as u64) << 62;
        let set = write | no_execute;
        ((Self::WRITABLE | Self::NO_EXECUTE) & !set, set)
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
                assert!(Host::is_present(entry));
                assert!(number == 1 || !Host::is_table(entry));
                assert_eq!(Host::frame(entry), frame);
                assert_eq!(Host::attributes(entry), attributes);
                assert_eq!(entry.0 & (Host::ACCESSED | Host::DIRTY), 0);
                for rights in Rights::ALL {
                    let (clear, set) = Host::rights_bits(rights);
                    assert_eq!(clear & set, 0);
                    // What is in force after the first of the two writes is never more than what
                    // was in force before, or will be after.
                    let between = Entry(entry.0 & !clear);
                    let passing = Host::attributes(between).rights;
                    assert!(rights.contains(passing) || attributes.rights.contains(passing));
                    let changed = Entry(between.0 | set);
                    assert_eq!(Host::attributes(changed), Attributes { rights, ..attributes });
                    assert_eq!(Host::frame(changed), frame);
                }
            }
        }
        assert!(Host::is_table(Host::table(frame)) && !Host::is_table(Entry::ABSENT));
        assert_eq!(Host::frame(Host::table(frame)), frame);
        assert!(!Host::is_present(Entry::ABSENT));
    }
}

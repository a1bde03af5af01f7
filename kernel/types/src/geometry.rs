//! The shape of page tables: how many levels, how many entries, which part is the programs'.
//!
//! Everything above is generic over a [`Geometry`], so that the same code runs on the real
//! machine and on machines so tiny that all their states can be visited.
//!
//! Levels are counted from the leaves: an entry of a table of level 1 maps 4 KiB, the root has
//! level [`Geometry::LEVELS`].

use core::fmt::Debug;
use core::hash::Hash;

use crate::{Frame, PAGE_BITS, USER_END, VirtualAddress};

/// The largest number of levels that a geometry may have.
pub const MAX_LEVELS: usize = 4;

/// The largest number of levels whose entries can map memory.
pub const MAX_LEAF_LEVELS: usize = 3;

/// The shape of page tables.
pub trait Geometry: Copy + Debug + Eq + Hash + 'static {
    /// Number of levels, 2 to [`MAX_LEVELS`].
    const LEVELS: u32;

    /// Log2 of the number of entries of a table, 1 to 9. (A table has a frame of 4096 bytes to
    /// itself also when its entries fill only the beginning.)
    const INDEX_BITS: u32;

    /// The highest level whose entries can map memory, 1 to [`Geometry::LEVELS`] and at most
    /// [`MAX_LEAF_LEVELS`]. A machine may support less.
    const LEAF_LEVELS: u32;

    /// The root's entries below this one translate the programs' addresses, the others are
    /// the kernel's. More than 0, at most [`Geometry::ENTRIES`].
    const USER_ENTRIES: usize;

    /// First virtual address that programs cannot use, a multiple of the page size; at most
    /// what [`Geometry::USER_ENTRIES`] entries of the root translate.
    const USER_END: u64;

    /// Number of entries of a table.
    const ENTRIES: usize = 1 << Self::INDEX_BITS;

    /// Fails to compile if the constants contradict each other.
    const VALID: () = {
        assert!(Self::LEVELS >= 2 && Self::LEVELS as usize <= MAX_LEVELS);
        assert!(Self::INDEX_BITS >= 1 && Self::INDEX_BITS <= 9);
        assert!(Self::LEAF_LEVELS >= 1 && Self::LEAF_LEVELS <= Self::LEVELS);
        assert!(Self::LEAF_LEVELS as usize <= MAX_LEAF_LEVELS);
        assert!(Self::USER_ENTRIES >= 1 && Self::USER_ENTRIES <= Self::ENTRIES);
        assert!(
            Self::USER_END
                <= (Self::USER_ENTRIES as u64)
                    << (PAGE_BITS + Self::INDEX_BITS * (Self::LEVELS - 1))
        );
        assert!(Self::USER_END.trailing_zeros() >= PAGE_BITS);
    };
}

/// A level of page tables: 1 is that of the smallest pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u32);

impl Level {
    /// The level whose tables map 4 KiB pages.
    pub const FIRST: Self = Self(1);

    /// Level `number`, or `None` if geometry `G` has no such level.
    #[must_use]
    pub const fn new<G: Geometry>(number: u32) -> Option<Self> {
        if number >= 1 && number <= G::LEVELS { Some(Self(number)) } else { None }
    }

    /// The level of root tables.
    #[must_use]
    pub const fn root<G: Geometry>() -> Self {
        Self(G::LEVELS)
    }

    /// The number of the level, from 1 on.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The level below, that of the tables that a table of this level points to, or `None` of
    /// level 1.
    #[must_use]
    pub const fn below(self) -> Option<Self> {
        if self.0 > 1 { Some(Self(self.0 - 1)) } else { None }
    }

    /// The level below, or level 1 again.
    #[must_use]
    pub const fn lower(self) -> Self {
        if self.0 > 1 { Self(self.0 - 1) } else { self }
    }

    /// The levels whose entries can map memory, from level 1 up.
    pub fn leaves<G: Geometry>() -> impl DoubleEndedIterator<Item = Self> + Clone {
        (1..=G::LEAF_LEVELS).map(Self)
    }

    /// The level above, or `None` of the root's.
    #[must_use]
    pub const fn above<G: Geometry>(self) -> Option<Self> {
        Self::new::<G>(self.0 + 1)
    }

    /// Log2 of the number of bytes that an entry of this level translates.
    #[must_use]
    pub const fn bits<G: Geometry>(self) -> u32 {
        PAGE_BITS + G::INDEX_BITS * (self.0 - 1)
    }

    /// Number of bytes that an entry of this level translates.
    #[must_use]
    pub const fn bytes<G: Geometry>(self) -> u64 {
        1 << self.bits::<G>()
    }

    /// Log2 of the number of frames that an entry of this level translates.
    #[must_use]
    pub const fn frame_bits<G: Geometry>(self) -> u32 {
        G::INDEX_BITS * (self.0 - 1)
    }

    /// Number of frames that an entry of this level translates.
    #[must_use]
    pub const fn frames<G: Geometry>(self) -> u64 {
        1 << self.frame_bits::<G>()
    }

    /// The first frames of the parts, each as large as what an entry of the level below translates,
    /// of the unit of this level that `frame` lies in; of level 1, the frame itself.
    pub fn parts<G: Geometry>(self, frame: Frame) -> impl DoubleEndedIterator<Item = Frame> {
        let first = frame.number() & !(self.frames::<G>() - 1);
        let bits = self.lower().frame_bits::<G>();
        let count = self.frames::<G>() >> bits;
        (0..count).filter_map(move |part| Frame::new(first + (part << bits)))
    }

    /// Index of the entry for `address` in a table of this level; below [`Geometry::ENTRIES`].
    #[must_use]
    pub const fn index<G: Geometry>(self, address: VirtualAddress) -> usize {
        self.index_at::<G>(address.get())
    }

    /// The same for an address that is a number.
    #[must_use]
    pub const fn index_at<G: Geometry>(self, address: u64) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "masked to at most 9 bits")]
        {
            (address >> self.bits::<G>()) as usize & (G::ENTRIES - 1)
        }
    }
}

/// The page tables of x86-64 with four levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FourLevel;

impl Geometry for FourLevel {
    const LEVELS: u32 = 4;
    const INDEX_BITS: u32 = 9;
    const LEAF_LEVELS: u32 = 3;
    const USER_ENTRIES: usize = 256;
    const USER_END: u64 = USER_END;
}

const _: () = FourLevel::VALID;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_levels_split_an_address() {
        let address = VirtualAddress::new(0x0000_0080_4020_1000).unwrap();
        for number in 1..=4 {
            let level = Level::new::<FourLevel>(number).unwrap();
            assert_eq!(level.index::<FourLevel>(address), 1, "level {number}");
        }
        let top = VirtualAddress::new(u64::MAX).unwrap();
        assert_eq!(Level::root::<FourLevel>().index::<FourLevel>(top), 511);
        assert_eq!(Level::new::<FourLevel>(2).unwrap().bytes::<FourLevel>(), 2 << 20);
        assert_eq!(Level::new::<FourLevel>(0), None);
        assert_eq!(Level::new::<FourLevel>(5), None);
    }

    #[test]
    fn a_unit_has_as_many_parts_as_a_table_entries() {
        let level = Level::new::<FourLevel>(3).unwrap();
        let parts = level.parts::<FourLevel>(Frame::new((1 << 18) + 777).unwrap());
        assert!(parts.map(Frame::number).eq((0..512).map(|part| (1 << 18) + (part << 9))));
        let frame = Frame::new(777).unwrap();
        assert!(Level::FIRST.parts::<FourLevel>(frame).eq([frame]));
    }
}

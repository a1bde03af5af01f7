//! The record of every page: what it is, whose it is, how often it is referenced.
//!
//! A *unit* is what an entry of some level maps: a page at level 1, a larger page at level 2 and
//! above. Pages have a [`PageRecord`] of 8 bytes, larger units a [`BlockRecord`] of 16; that
//! is about 8.03 bytes per page in all.
//!
//! A *reference* of a unit is a mapping of it by one entry, a kernel mapping of it (level 1), or
//! a share that names it. It is counted at its own level only. Summaries make questions about
//! large units, and changes of them, cost the same as for pages:
//!
//! - `special`: number of pages in a block whose status is not normal;
//! - `owner`: of all pages in the block, or *mixed*. The owner of a page is what the highest
//!   block above it says that is not mixed, or else its own record; so an owner is set once for a
//!   whole block. A block is mixed exactly if its parts have different owners.
//!
//! Invariants: P1 (references are counted exactly), P4 (summaries agree with what they sum up),
//! P5 (a page's own record never names a domain that does not own it, so that a record that names
//! the right one needs no look at the blocks); see `docs/soundness.md`.

use heliox_types::{Frame, FrameRange};

use crate::domain::{Owner, OwnerCode};
use crate::error::Error;
use crate::geometry::{Geometry, Level};
use crate::state::{State, Storage};
use crate::translation::Stamp;

/// What a page is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// There is no memory.
    NotInstalled = 0,
    /// Needed for the kernel to run: its code, data and heap. Fixed at boot.
    Environment = 1,
    /// Without special meaning: memory of programs or of the kernel's clients.
    Normal = 2,
    /// Supplied for page maps and in no page map: a `PageMapPage` names it, it is clear.
    PageMapPage = 3,
    /// A page table below a root.
    PageTable = 4,
    /// The root of a page map.
    PageMapRoot = 5,
    /// A private structure of this layer.
    Machine = 6,
    /// This layer's own, readable by programs.
    Shared = 7,
    /// Was a page table; a processor may still walk through it.
    Draining = 8,
    /// A device's memory.
    Io = 9,
}

impl Status {
    const fn from_bits(bits: u64) -> Self {
        match bits & PageRecord::STATUS {
            1 => Self::Environment,
            2 => Self::Normal,
            3 => Self::PageMapPage,
            4 => Self::PageTable,
            5 => Self::PageMapRoot,
            6 => Self::Machine,
            7 => Self::Shared,
            8 => Self::Draining,
            9 => Self::Io,
            _ => Self::NotInstalled,
        }
    }
}

/// Everything that is known about a page.
///
/// | bits | field |
/// |---|---|
/// | 0 to 3 | status |
/// | 4 to 19 | owner, unless a block above says it |
/// | 20 to 39 | count: references of a normal page, entries of a page table, uses of a root |
/// | 40 to 63 | stamp of the last removal of a translation |
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct PageRecord(u64);

const _: () = assert!(size_of::<PageRecord>() == 8);
const _: () = assert!(PageRecord::NOT_INSTALLED.0 == 0);

impl PageRecord {
    const STATUS: u64 = 0xf;
    const OWNER_SHIFT: u32 = 4;
    const OWNER: u64 = 0xffff << Self::OWNER_SHIFT;
    const COUNT_SHIFT: u32 = 20;
    const COUNT: u64 = (Self::COUNT_LIMIT as u64) << Self::COUNT_SHIFT;
    /// The largest count.
    pub(crate) const COUNT_LIMIT: u32 = 0xf_ffff;
    const STAMP_SHIFT: u32 = 40;

    /// The record of a page that does not exist: all zero, which the boot code relies on.
    pub const NOT_INSTALLED: Self = Self::new(Status::NotInstalled, OwnerCode::HYPERVISOR);

    pub(crate) const fn new(status: Status, owner: OwnerCode) -> Self {
        Self(status as u64 | ((owner.0 as u64) << Self::OWNER_SHIFT))
    }

    /// What the page is.
    #[must_use]
    #[inline]
    pub const fn status(self) -> Status {
        Status::from_bits(self.0)
    }

    #[inline]
    pub(crate) const fn is_normal(self) -> bool {
        self.0 & Self::STATUS == Status::Normal as u64
    }

    #[inline]
    pub(crate) const fn owner(self) -> OwnerCode {
        #[expect(clippy::cast_possible_truncation, reason = "masked to 16 bits")]
        OwnerCode((self.0 >> Self::OWNER_SHIFT) as u16)
    }

    /// References of a normal page, entries of a page table, uses of a root.
    #[must_use]
    #[inline]
    pub const fn count(self) -> u32 {
        ((self.0 & Self::COUNT) >> Self::COUNT_SHIFT) as u32
    }

    #[inline]
    pub(crate) const fn stamp(self) -> u32 {
        (self.0 >> Self::STAMP_SHIFT) as u32
    }

    #[inline]
    const fn is_full(self) -> bool {
        self.0 & Self::COUNT == Self::COUNT
    }

    #[inline]
    const fn is_zero(self) -> bool {
        self.0 & Self::COUNT == 0
    }

    /// Adds to the count. The caller has made sure that it does not overflow (P1).
    #[inline]
    const fn increment(&mut self, by: u32) {
        debug_assert!(self.count() + by <= Self::COUNT_LIMIT);
        self.0 = self.0.wrapping_add((by as u64) << Self::COUNT_SHIFT);
    }

    /// Takes from the count, which is at least that much (P1).
    #[inline]
    const fn decrement(&mut self, by: u32) {
        debug_assert!(self.count() >= by);
        self.0 = self.0.wrapping_sub((by as u64) << Self::COUNT_SHIFT);
    }

    const fn set_status(&mut self, status: Status) {
        // What was counted before has no meaning for the new status.
        self.0 = (self.0 & !(Self::STATUS | Self::COUNT)) | status as u64;
    }

    const fn set_owner(&mut self, owner: OwnerCode) {
        self.0 = (self.0 & !Self::OWNER) | ((owner.0 as u64) << Self::OWNER_SHIFT);
    }

    const fn set_stamp(&mut self, stamp: Stamp) {
        self.0 = (self.0 & ((1 << Self::STAMP_SHIFT) - 1)) | (stamp.low() << Self::STAMP_SHIFT);
    }
}

impl core::fmt::Debug for PageRecord {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("PageRecord")
            .field("status", &self.status())
            .field("owner", &self.owner().owner())
            .field("count", &self.count())
            .field("stamp", &self.stamp())
            .finish()
    }
}

/// What is known about a block: the memory that an entry of level 2 or above maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockRecord {
    pub(crate) references: u32,
    pub(crate) special: u32,
    stamp: u32,
    pub(crate) owner: OwnerCode,
}

const _: () = assert!(size_of::<BlockRecord>() == 16);

impl BlockRecord {
    /// The record of a block without memory.
    pub const NOT_INSTALLED: Self =
        Self { references: 0, special: 0, stamp: 0, owner: OwnerCode::HYPERVISOR };
}

/// What a unit is to be used for, as far as its record decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    /// Level of the units.
    pub(crate) level: Level,
    /// First frame of the first unit, aligned as the level asks.
    pub(crate) first: Frame,
    /// How many.
    pub(crate) count: u64,
}

impl Units {
    /// The largest units, up to `largest`, that a range of `1 << bits` pages consists of.
    pub(crate) fn of<G: Geometry>(first: Frame, bits: u32, largest: Level) -> Self {
        let mut level = Level::FIRST;
        while let Some(above) = level.above::<G>()
            && above <= largest
            && above.frame_bits::<G>() <= bits
        {
            level = above;
        }
        Self { level, first, count: 1 << (bits - level.frame_bits::<G>()) }
    }
}

impl<G: Geometry, S: Storage> State<G, S> {
    /// Position of the record of the block of `level` (2 or above) that `frame` lies in.
    #[inline(always)]
    fn block_index(&self, level: Level, frame: Frame) -> usize {
        let mut index = self.unit_index(level, frame);
        let mut lower = 2;
        while lower < level.number() {
            index += self.unit_count(Level::at(lower));
            lower += 1;
        }
        index
    }

    /// Number of the unit of `level` that `frame` lies in.
    #[inline(always)]
    pub(crate) fn unit_index(&self, level: Level, frame: Frame) -> usize {
        usize::try_from(frame.number() >> level.frame_bits::<G>()).unwrap_or(usize::MAX)
    }

    /// Number of units of `level`, of which the last may be only partly within memory.
    #[inline]
    pub(crate) fn unit_count(&self, level: Level) -> usize {
        let bits = level.frame_bits::<G>();
        (self.storage.pages().len() + (1 << bits) - 1) >> bits
    }

    /// The record of the page `frame`, if it is within memory.
    #[must_use]
    #[inline(always)]
    pub fn page(&self, frame: Frame) -> Option<PageRecord> {
        let index = self.unit_index(Level::FIRST, frame);
        self.storage.pages().get(index).copied()
    }

    #[inline(always)]
    fn page_mut(&mut self, frame: Frame) -> Option<&mut PageRecord> {
        let index = self.unit_index(Level::FIRST, frame);
        self.storage.pages_mut().get_mut(index)
    }

    #[inline(always)]
    pub(crate) fn block(&self, level: Level, frame: Frame) -> Option<&BlockRecord> {
        let index = self.block_index(level, frame);
        self.storage.blocks().get(index)
    }

    #[inline(always)]
    fn block_mut(&mut self, level: Level, frame: Frame) -> Option<&mut BlockRecord> {
        let index = self.block_index(level, frame);
        self.storage.blocks_mut().get_mut(index)
    }

    /// The levels of blocks above `level`, lowest first.
    #[inline]
    fn levels_above(level: Level) -> impl DoubleEndedIterator<Item = Level> + Clone {
        (level.number() + 1..=G::LEAF_LEVELS).map(Level::at)
    }

    /// What the page `frame` is.
    #[must_use]
    #[inline]
    pub fn status(&self, frame: Frame) -> Status {
        self.page(frame).map_or(Status::NotInstalled, PageRecord::status)
    }

    /// Who owns the unit of `level` that begins at `frame`; mixed if several do.
    #[inline(always)]
    pub(crate) fn owner_code(&self, level: Level, frame: Frame) -> OwnerCode {
        let mut above = G::LEAF_LEVELS;
        while above > level.number() {
            match self.block(Level::at(above), frame) {
                Some(block) if block.owner == OwnerCode::MIXED => {}
                Some(block) => return block.owner,
                None => return OwnerCode::HYPERVISOR,
            }
            above -= 1;
        }
        self.own_code(level, frame)
    }

    /// Who owns the page `frame`.
    #[must_use]
    pub fn owner(&self, frame: Frame) -> Owner {
        self.owner_code(Level::FIRST, frame).owner().unwrap_or(Owner::Hypervisor)
    }

    /// The owner in the unit's own record.
    #[inline(always)]
    pub(crate) fn own_code(&self, level: Level, frame: Frame) -> OwnerCode {
        let code = if level == Level::FIRST {
            self.page(frame).map(PageRecord::owner)
        } else {
            self.block(level, frame).map(|block| block.owner)
        };
        code.unwrap_or(OwnerCode::HYPERVISOR)
    }

    fn set_own_code(&mut self, level: Level, frame: Frame, owner: OwnerCode) {
        if level == Level::FIRST {
            if let Some(page) = self.page_mut(frame) {
                page.set_owner(owner);
            }
        } else if let Some(block) = self.block_mut(level, frame) {
            block.owner = owner;
        }
    }

    /// Whether the unit of `level` at `frame` is normal memory, owned by `owner`, and its count
    /// has room for one more reference (P1, P2, O1).
    #[inline(always)]
    pub(crate) fn check_reference(
        &self,
        level: Level,
        frame: Frame,
        owner: OwnerCode,
    ) -> Result<(), Error> {
        if level == Level::FIRST {
            let status = self.status(frame);
            if status != Status::Normal {
                return Err(Error::WrongStatus { frame, status });
            }
        } else {
            // Past the end of memory the next level's records follow.
            let whole_units = self.storage.pages().len() >> level.frame_bits::<G>();
            let special = self.block(level, frame).is_none_or(|block| block.special > 0);
            if special || self.unit_index(level, frame) >= whole_units {
                return Err(Error::NotAllNormal { frame });
            }
        }
        self.check_room(level, frame)?;
        self.check_owner(level, frame, owner)
    }

    /// Whether the unit's count has room for one more reference (P1).
    #[inline(always)]
    pub(crate) fn check_room(&self, level: Level, frame: Frame) -> Result<(), Error> {
        let is_full = if level == Level::FIRST {
            self.page(frame).is_none_or(PageRecord::is_full)
        } else {
            let block = self.block(level, frame);
            block.is_none_or(|block| block.references == u32::MAX)
        };
        if is_full { Err(Error::TooManyReferences { frame }) } else { Ok(()) }
    }

    /// Whether the unit of `level` at `frame` is all owned by `owner`.
    #[inline(always)]
    pub(crate) fn check_owner(
        &self,
        level: Level,
        frame: Frame,
        owner: OwnerCode,
    ) -> Result<(), Error> {
        let found = self.owner_code(level, frame);
        if found == owner && found != OwnerCode::MIXED {
            return Ok(());
        }
        let owner = found.owner();
        Err(Error::NotOwner { frame, owner })
    }

    /// [`State::check_reference`] for every unit.
    #[inline(always)]
    pub(crate) fn check_references(&self, units: Units, owner: OwnerCode) -> Result<(), Error> {
        for frame in units.frames::<G>() {
            self.check_reference(units.level, frame, owner)?;
        }
        Ok(())
    }

    /// Whether the page is normal memory that its own record says is `owner`'s, a domain, and its
    /// count has room (P1, P2, O1 by P5). If not, [`State::check_reference`] knows more.
    #[inline(always)]
    pub(crate) fn is_plainly_owned(&self, frame: Frame, owner: OwnerCode) -> bool {
        let wanted = PageRecord::new(Status::Normal, owner).0;
        self.page(frame).is_some_and(|record| {
            record.0 & (PageRecord::STATUS | PageRecord::OWNER) == wanted && !record.is_full()
        })
    }

    /// Counts a reference of a unit. [`State::check_reference`] has allowed it.
    #[inline(always)]
    pub(crate) fn add_reference(&mut self, level: Level, frame: Frame) {
        if level == Level::FIRST {
            self.add_count(frame, 1);
        } else if let Some(block) = self.block_mut(level, frame) {
            block.references = block.references.saturating_add(1);
        }
    }

    /// Takes back a reference of a unit. With a stamp, processors may still translate to it.
    #[inline(always)]
    pub(crate) fn drop_reference(&mut self, level: Level, frame: Frame, stamp: Option<Stamp>) {
        if level == Level::FIRST {
            self.take_count(frame, 1);
        } else if let Some(block) = self.block_mut(level, frame) {
            block.references = block.references.saturating_sub(1);
        }
        if let Some(stamp) = stamp {
            self.put_stamp(level, frame, stamp);
        }
    }

    /// Notes that translations to the unit were removed that other processors may hold (L1).
    #[cold]
    pub(crate) fn put_stamp(&mut self, level: Level, frame: Frame, stamp: Stamp) {
        if level == Level::FIRST {
            if let Some(page) = self.page_mut(frame) {
                page.set_stamp(stamp);
            }
        } else if let Some(block) = self.block_mut(level, frame) {
            block.stamp = stamp.low32();
        }
    }

    /// Whether no processor can hold a translation to the page other than what the tables say
    /// (L1).
    #[inline]
    pub(crate) fn is_settled(&self, frame: Frame) -> bool {
        if !self.translations.are_owed() {
            return true;
        }
        let page = self.page(frame).unwrap_or(PageRecord::NOT_INSTALLED);
        // A block's stamp is from a mapping of the whole block.
        self.translations.is_past(page.stamp().into(), Stamp::BITS)
            && Self::levels_above(Level::FIRST).all(|above| {
                self.block(above, frame)
                    .is_none_or(|block| self.translations.is_past(block.stamp.into(), 32))
            })
    }

    /// Whether the page may change its status or its owner: it is normal, not referenced at any
    /// level, and no processor translates to it (P3).
    pub(crate) fn check_free(&self, frame: Frame) -> Result<(), Error> {
        let record = self.page(frame).unwrap_or(PageRecord::NOT_INSTALLED);
        let status = record.status();
        if status != Status::Normal {
            return Err(Error::WrongStatus { frame, status });
        }
        let mapped_above = Self::levels_above(Level::FIRST)
            .any(|above| self.block(above, frame).is_none_or(|block| block.references > 0));
        if !record.is_zero() || mapped_above {
            return Err(Error::InUse { frame });
        }
        if !self.is_settled(frame) {
            return Err(Error::Draining { frame });
        }
        Ok(())
    }

    /// Changes what a page is. The caller has made sure of P3.
    pub(crate) fn set_status(&mut self, frame: Frame, status: Status) {
        let Some(page) = self.page_mut(frame) else {
            return;
        };
        let was_normal = page.is_normal();
        page.set_status(status);
        let is_normal = status == Status::Normal;
        if was_normal == is_normal {
            return;
        }
        for above in Self::levels_above(Level::FIRST) {
            if let Some(block) = self.block_mut(above, frame) {
                if is_normal {
                    block.special -= 1;
                } else {
                    block.special += 1;
                }
            }
        }
    }

    /// Adds to a page table's count of entries, or to a root's of uses.
    #[inline(always)]
    pub(crate) fn add_count(&mut self, frame: Frame, by: u32) {
        if let Some(page) = self.page_mut(frame) {
            page.increment(by);
        }
    }

    /// A page table's count of entries, or a root's of uses.
    #[inline]
    pub(crate) fn count(&self, frame: Frame) -> u32 {
        self.page(frame).map_or(0, PageRecord::count)
    }

    /// Takes from a page table's count of entries, or from a root's of uses, and returns what is
    /// left.
    #[inline(always)]
    pub(crate) fn take_count(&mut self, frame: Frame, by: u32) -> u32 {
        match self.page_mut(frame) {
            Some(page) => {
                page.decrement(by);
                page.count()
            }
            None => 0,
        }
    }

    /// Makes a page's own record say that it is nobody's, before the unit that it is part of
    /// becomes so (P5).
    pub(crate) fn forget_owner(&mut self, frame: Frame) {
        self.set_own_code(Level::FIRST, frame, OwnerCode::NOBODY);
    }

    /// Gives the unit of `level` at `frame` to `owner`, in a bounded number of steps whatever
    /// its size. The caller has made sure of P3 and O2, and that no page of a larger unit says of
    /// itself that it is a domain's (P5).
    pub(crate) fn set_owner(&mut self, level: Level, frame: Frame, owner: OwnerCode) {
        // Downwards: a block with one owner that gets a part with another becomes mixed, and its
        // parts say for themselves what it said.
        for above in Self::levels_above(level).rev() {
            let whole = self.own_code(above, frame);
            if whole == owner {
                return;
            }
            if whole != OwnerCode::MIXED {
                for part in self.parts(above, frame) {
                    self.set_own_code(above.lower(), part, whole);
                }
                self.set_own_code(above, frame, OwnerCode::MIXED);
            }
        }
        self.set_own_code(level, frame, owner);
        // Upwards: a block whose parts have all the same owner has it too.
        for above in Self::levels_above(level) {
            let mut parts = self.parts(above, frame);
            if !parts.all(|part| self.own_code(above.lower(), part) == owner) {
                return;
            }
            self.set_own_code(above, frame, owner);
        }
    }

    /// The first frames of the parts of the block of `level` that `frame` lies in, as far as they
    /// are within memory.
    fn parts(&self, level: Level, frame: Frame) -> impl Iterator<Item = Frame> + use<G, S> {
        let first = frame.number() & !(level.frames::<G>() - 1);
        let end = (first + level.frames::<G>()).min(self.storage.pages().len() as u64);
        let bits = level.lower().frame_bits::<G>();
        let parts = (end - first.min(end)).div_ceil(1 << bits);
        (0..parts).filter_map(move |part| Frame::new(first + (part << bits)))
    }

    /// Sets the records of the pages of `range`, which do not exist yet as far as the records
    /// say, at boot; before [`State::sum_up`]. Whether all of them have records.
    pub(crate) fn install(&mut self, range: FrameRange, status: Status, owner: OwnerCode) -> bool {
        let (Ok(start), Ok(end)) = (usize::try_from(range.start()), usize::try_from(range.end()))
        else {
            return false;
        };
        match self.storage.pages_mut().get_mut(start..end) {
            Some(pages) => {
                // In eights: this is what takes time at boot.
                let record = PageRecord::new(status, owner);
                let mut eights = pages.chunks_exact_mut(8);
                for eight in &mut eights {
                    eight.copy_from_slice(&[record; 8]);
                }
                eights.into_remainder().fill(record);
                true
            }
            None => false,
        }
    }

    /// Makes the summaries of all blocks at boot. `ranges` are all that was installed, with
    /// nothing that overlaps.
    ///
    /// Most blocks of the lowest level lie in one range or in none, and need no look at their
    /// pages: this is what keeps the boot fast.
    pub(crate) fn sum_up(
        &mut self,
        ranges: impl Iterator<Item = (FrameRange, Status, OwnerCode)> + Clone,
    ) {
        let mut levels = Self::levels_above(Level::FIRST);
        let Some(lowest) = levels.next() else { return };
        let bits = lowest.frame_bits::<G>();
        let pages = self.storage.pages().len() as u64;
        for index in 0..self.unit_count(lowest) as u64 {
            let special = (pages - (index << bits)).min(1 << bits);
            self.set_block(lowest, index, Status::NotInstalled, OwnerCode::HYPERVISOR, special);
        }
        for (range, status, owner) in ranges.clone() {
            for index in range.start().div_ceil(1 << bits)..range.end() >> bits {
                self.set_block(lowest, index, status, owner, 1 << bits);
            }
        }
        for (range, ..) in ranges {
            for end in [range.start(), range.end()] {
                if !end.is_multiple_of(1 << bits) {
                    self.sum_up_block(lowest, end >> bits);
                }
            }
        }
        for level in levels {
            for index in 0..self.unit_count(level) as u64 {
                self.sum_up_block(level, index);
            }
        }
    }

    /// The summary of a block whose `count` pages are all alike.
    fn set_block(
        &mut self,
        level: Level,
        index: u64,
        status: Status,
        owner: OwnerCode,
        count: u64,
    ) {
        let special = if status == Status::Normal { 0 } else { count };
        let first = Frame::new(index << level.frame_bits::<G>());
        if let Some(block) = first.and_then(|first| self.block_mut(level, first)) {
            *block = BlockRecord {
                special: u32::try_from(special).unwrap_or(u32::MAX),
                owner,
                ..BlockRecord::NOT_INSTALLED
            };
        }
    }

    /// The summary of a block, from its parts.
    fn sum_up_block(&mut self, level: Level, index: u64) {
        let Some(frame) = Frame::new(index << level.frame_bits::<G>()) else {
            return;
        };
        let below = level.lower();
        let special = |part| match self.block(below, part) {
            Some(block) if below > Level::FIRST => block.special,
            _ => u32::from(self.status(part) != Status::Normal),
        };
        let special = self.parts(level, frame).map(special).sum();
        let owner = self.own_code(below, frame);
        let mut parts = self.parts(level, frame);
        let uniform = parts.all(|part| self.own_code(below, part) == owner);
        if let Some(block) = self.block_mut(level, frame) {
            block.special = special;
            block.owner = if uniform { owner } else { OwnerCode::MIXED };
        }
    }

    /// Makes a test's page, root or block look as if it were referenced as often as can be
    /// counted, or as it was before. Returns the count before.
    #[cfg(test)]
    pub(crate) fn pretend_count(&mut self, level: Level, frame: Frame, count: u32) -> u32 {
        if level == Level::FIRST {
            let page = self.page_mut(frame).unwrap();
            let before = page.count();
            page.0 = (page.0 & !PageRecord::COUNT) | (u64::from(count) << PageRecord::COUNT_SHIFT);
            before
        } else {
            let block = self.block_mut(level, frame).unwrap();
            std::mem::replace(&mut block.references, count)
        }
    }
}

impl Units {
    /// The first frame of each unit.
    #[inline(always)]
    pub(crate) fn frames<G: Geometry>(self) -> impl Iterator<Item = Frame> {
        let bits = self.level.frame_bits::<G>();
        (0..self.count).map_while(move |unit| self.first.checked_add(unit << bits))
    }
}

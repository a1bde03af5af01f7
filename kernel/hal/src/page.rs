//! The record of every page: what it is, whose it is, how often it is referenced.
//!
//! A *unit* is what an entry of some level maps: a page at level 1, a larger page at level 2 and
//! above. Each unit has a [`Record`] of 8 bytes; that is about 8.02 bytes per page in all.
//!
//! A *reference* of a unit is a mapping of it by one entry, a kernel mapping of it (level 1), or
//! a share that names it. It is counted at its own level only. The record of a larger unit sums
//! up its pages, so that questions about it, and mapping it, cost the same as for a page:
//!
//! - it is *normal* exactly if all its pages are, and else *mixed*; then it cannot be referenced,
//!   and its count is the number of its pages that are not normal;
//! - it has an owner only if all its pages have that one. The opposite need not hold: a unit whose
//!   pages change hands one by one is of mixed owners until all of it does at once.
//!
//! Invariants: P1 (references are counted exactly), P4 (records agree with what they sum up).

use crate::prelude::*;
pub use heliox_types::status::Status;

/// Everything that is known about a unit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Record(u64);

const _: () = assert!(size_of::<Record>() == 8 && Record::NOT_INSTALLED.0 == 0);

/// A part of a record: its first bit, and a mask as wide as it is.
#[derive(Clone, Copy)]
struct Field(u32, u64);

impl Record {
    const STATUS: Field = Field(0, 0xf);
    const OWNER: Field = Field(4, 0xffff);
    /// References of a normal unit; entries of a page table; uses and entries of a root; pages
    /// that are not normal in a mixed unit.
    const COUNT: Field = Field(20, 0xf_ffff);
    /// The last removal of a translation: the low bits of its epoch.
    const STAMP: Field = Field(40, Self::STAMP_MASK);
    /// The bits of an epoch that are kept.
    pub(crate) const STAMP_MASK: u64 = 0xff_ffff;

    /// What is added to a record when its count rises by one.
    const ONE: u64 = 1 << Self::COUNT.0;

    /// The largest count: the highest bit of the field.
    pub(crate) const COUNT_LIMIT: u32 = 0x8_0000;

    /// Status and owner together.
    const IDENTITY: u64 = 0xf_ffff;

    /// The record of a page that does not exist: all zero, which the boot code relies on.
    pub const NOT_INSTALLED: Self = Self::new(Status::NotInstalled, OwnerCode::HYPERVISOR);

    pub(crate) const fn new(status: Status, owner: OwnerCode) -> Self {
        let mut record = Self(0);
        record.set(Self::STATUS, status as u64);
        record.set_owner(owner);
        record
    }

    /// The record of a larger unit of which none of the `pages` pages exists.
    pub(crate) const fn not_installed(pages: u64) -> Self {
        let mut record = Self::new(Status::Mixed, OwnerCode::HYPERVISOR);
        record.set(Self::COUNT, pages);
        record
    }

    const fn get(self, Field(shift, mask): Field) -> u64 {
        self.0 >> shift & mask
    }

    const fn set(&mut self, Field(shift, mask): Field, value: u64) {
        self.0 = self.0 & !(mask << shift) | (value & mask) << shift;
    }

    /// What the unit is.
    pub fn status(self) -> Status {
        Status::from_number(self.get(Self::STATUS) as u8)
    }

    const fn is_normal(self) -> bool {
        self.get(Self::STATUS) == Status::Normal as u64
    }

    pub(crate) const fn owner(self) -> OwnerCode {
        OwnerCode::from_bits(self.get(Self::OWNER) as u16)
    }

    pub(crate) const fn set_owner(&mut self, owner: OwnerCode) {
        self.set(Self::OWNER, owner.bits() as u64);
    }

    /// References of a normal unit; entries of a page table; uses and entries of a root; pages
    /// that are not normal in a mixed unit.
    pub const fn count(self) -> u32 {
        self.get(Self::COUNT) as u32
    }

    pub(crate) const fn is_full(self) -> bool {
        self.count() >= Self::COUNT_LIMIT
    }

    pub(crate) const fn set_count(&mut self, count: u32) {
        self.set(Self::COUNT, count as u64);
    }

    pub(crate) const fn stamp(self) -> u64 {
        self.get(Self::STAMP)
    }

    /// Of a larger unit, `pages` pages that were not normal became it.
    pub(crate) const fn count_normal(&mut self, pages: u64) {
        self.set(Self::COUNT, self.get(Self::COUNT).wrapping_sub(pages));
        if self.count() == 0 {
            self.set(Self::STATUS, Status::Normal as u64);
        }
    }

    /// Of a larger unit, which is not referenced, a page that was normal is it no more.
    const fn count_special(&mut self) {
        self.set(Self::STATUS, Status::Mixed as u64);
        self.set(Self::COUNT, self.get(Self::COUNT) + 1);
    }
}

impl core::fmt::Debug for Record {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (status, owner, count) = (self.status(), self.owner().owner(), self.count());
        write!(formatter, "Record({status:?}, {owner:?}, count {count}, stamp {})", self.stamp())
    }
}

/// Seldom used, so that the common way to a decision is short.
#[cold]
pub(crate) fn refuse<T>(error: Error) -> Result<T, Error> {
    Err(error)
}

impl<G: Geometry> State<G> {
    /// The record of the unit of `level` that `frame` lies in.
    pub(crate) fn record(&self, level: Level, frame: Frame) -> Record {
        #[cfg(not(target_os = "none"))]
        crate::simulated::note_status_access(level, frame.number() >> level.frame_bits::<G>());
        let [pages, ..] = &self.units;
        let record = match level {
            Level::FIRST => pages.get(frame.number() as usize),
            _ => {
                let records = self.units.get(level.number() as usize - 1);
                records.and_then(|it| it.get((frame.number() >> level.frame_bits::<G>()) as usize))
            }
        };
        record.copied().unwrap_or(Record::NOT_INSTALLED)
    }

    /// Changes the record of the unit of `level` that `frame` lies in, if there is one.
    pub(crate) fn change(&mut self, level: Level, frame: Frame, change: impl FnOnce(&mut Record)) {
        #[cfg(not(target_os = "none"))]
        crate::simulated::note_status_access(level, frame.number() >> level.frame_bits::<G>());
        let record = match level {
            Level::FIRST => self.units[0].get_mut(frame.number() as usize),
            _ => {
                let records = self.units.get_mut(level.number() as usize - 1);
                records
                    .and_then(|it| it.get_mut((frame.number() >> level.frame_bits::<G>()) as usize))
            }
        };
        if let Some(record) = record {
            change(record);
        }
    }

    /// The record of the page `frame`.
    pub fn page(&self, frame: Frame) -> Record {
        self.record(Level::FIRST, frame)
    }

    /// Who owns the page `frame`.
    pub fn owner(&self, frame: Frame) -> Owner {
        self.page(frame).owner().owner().unwrap_or(Owner::Hypervisor)
    }

    /// Whether the unit of `level` at `frame` is normal memory, wholly owned by `owner`, and its
    /// count has room for one more reference (P1, P2, O1).
    pub(crate) fn check_reference(
        &self,
        level: Level,
        frame: Frame,
        owner: OwnerCode,
    ) -> Result<(), Error> {
        let record = self.record(level, frame);
        let wanted = Record::new(Status::Normal, owner);
        if (record.0 ^ wanted.0) & Record::IDENTITY == 0 && !record.is_full() {
            return Ok(());
        }
        refuse(match record.status() {
            Status::Normal if record.owner() == owner => Error::TooManyReferences { frame },
            Status::Normal => Error::NotOwner { frame, owner: record.owner().owner() },
            status => Error::WrongStatus { frame, status },
        })
    }

    /// Counts a reference of a unit, an entry of a table or of a root, or a use of a root. That
    /// there is room has been checked (P1).
    pub(crate) fn add_count(&mut self, level: Level, frame: Frame) {
        self.change(level, frame, |record| record.0 += Record::ONE);
    }

    /// Takes back what [`State::add_count`] counted; what is left.
    pub(crate) fn take_count(&mut self, level: Level, frame: Frame) -> u32 {
        let mut left = 0;
        self.change(level, frame, |record| {
            debug_assert!(record.count() > 0);
            record.0 -= Record::ONE;
            left = record.count();
        });
        left
    }

    /// Takes back a reference of a unit; from `since` on processors drop their translations (L1).
    pub(crate) fn drop_reference(&mut self, level: Level, frame: Frame, since: Invalidation) {
        self.take_count(level, frame);
        if since != Invalidation::COMPLETE {
            self.change(level, frame, |record| record.set(Record::STAMP, since.0));
        }
    }

    /// Whether pages of RAM, at most as many as a table has entries, may change their status or
    /// their owner: they are normal, `owner`'s if that is told, not referenced at any level, and no
    /// processor translates to them (P3, L1).
    pub(crate) fn check_free(
        &self,
        region: PhysicalRegion,
        owner: Option<OwnerCode>,
    ) -> Result<(), Error> {
        let first = region.first_frame();
        let mut larger = Level::leaves::<G>().skip(1).map(|level| self.record(level, first));
        larger.try_for_each(|unit| self.check_unused(first, unit))?;
        for frame in region.frames() {
            let page = self.page(frame);
            if !page.is_normal() {
                return Err(Error::WrongStatus { frame, status: page.status() });
            }
            self.check_unused(frame, page)?;
            if owner.is_some_and(|owner| owner != page.owner()) {
                return Err(Error::NotOwner { frame, owner: page.owner().owner() });
            }
        }
        Ok(())
    }

    /// Whether a unit is not referenced, nor was lately.
    fn check_unused(&self, frame: Frame, unit: Record) -> Result<(), Error> {
        if unit.is_normal() && unit.count() > 0 {
            return Err(Error::InUse { frame });
        }
        if self.is_past(unit.stamp()) { Ok(()) } else { Err(Error::Draining { frame }) }
    }

    /// Whether no processor can hold a translation to the page other than what the tables say
    /// (L1). The stamp of a larger unit is from a mapping of all of it.
    pub(crate) fn check_settled(&self, frame: Frame) -> Result<(), Error> {
        let mut stamps = Level::leaves::<G>().map(|level| self.record(level, frame).stamp());
        if stamps.all(|stamp| self.is_past(stamp)) {
            Ok(())
        } else {
            Err(Error::Draining { frame })
        }
    }

    /// Changes what a page is. P3 has been checked, or a handle of the page is consumed. What was
    /// counted before has no meaning for the new status.
    pub(crate) fn set_status(&mut self, frame: Frame, status: Status) {
        let was_normal = self.page(frame).is_normal();
        let is_normal = status == Status::Normal;
        self.change(Level::FIRST, frame, |page| {
            page.set(Record::STATUS, status as u64);
            page.set_count(0);
        });
        for level in Level::leaves::<G>().skip(1) {
            self.change(level, frame, |unit| match (was_normal, is_normal) {
                (true, false) => unit.count_special(),
                (false, true) => unit.count_normal(1),
                _ => {}
            });
        }
    }

    /// Gives the pages of `region`, at most as many as a table has entries, to `owner`. P3 and O2
    /// have been checked.
    pub(crate) fn set_owner(&mut self, region: PhysicalRegion, owner: OwnerCode) {
        for frame in region.frames() {
            self.change(Level::FIRST, frame, |page| page.set_owner(owner));
        }
        // Of the larger units, each that was not all the new owner's already becomes it if all its
        // parts are, which is looked at only after a whole table's worth changed hands.
        let first = region.first_frame();
        let whole = region.pages() == G::ENTRIES as u64;
        for level in Level::leaves::<G>().skip(1) {
            let is_owned = |part| self.record(level.lower(), part).owner() == owner;
            // The last part first: memory is mostly given away in rising order.
            let uniform = whole
                && (level.lower() == Level::FIRST || level.parts::<G>(first).rev().all(is_owned));
            let summary = if uniform { owner } else { OwnerCode::MIXED };
            self.change(level, first, |unit| {
                if unit.owner() != owner {
                    unit.set_owner(summary);
                }
            });
        }
    }
}

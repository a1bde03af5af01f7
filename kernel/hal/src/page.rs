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
pub use heliox_types::{record::Record, status::Status};

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
        let records = self.units.get(level.number() as usize - 1);
        let unit = (frame.number() >> level.frame_bits::<G>()) as usize;
        let record = records.and_then(|records| records.get(unit));
        record.copied().unwrap_or(Record::NOT_INSTALLED)
    }

    /// Changes the record of the unit of `level` that `frame` lies in, if there is one.
    pub(crate) fn change<R>(
        &mut self,
        level: Level,
        frame: Frame,
        change: impl FnOnce(&mut Record) -> R,
    ) -> Option<R> {
        #[cfg(not(target_os = "none"))]
        crate::simulated::note_status_access(level, frame.number() >> level.frame_bits::<G>());
        let records = self.units.get_mut(level.number() as usize - 1);
        let unit = (frame.number() >> level.frame_bits::<G>()) as usize;
        records.and_then(|records| records.get_mut(unit)).map(change)
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
        if record.has(Status::Normal, owner) && !record.is_full() {
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
        self.change(level, frame, Record::add_one);
    }

    /// Takes back what [`State::add_count`] counted; what is left.
    pub(crate) fn take_count(&mut self, level: Level, frame: Frame) -> u32 {
        let left = self.change(level, frame, |record| {
            record.take_one();
            record.count()
        });
        left.unwrap_or(0)
    }

    /// Takes back a reference of a unit; from `since` on processors drop their translations (L1).
    pub(crate) fn drop_reference(&mut self, level: Level, frame: Frame, since: Invalidation) {
        self.take_count(level, frame);
        if since != Invalidation::COMPLETE {
            self.change(level, frame, |record| record.set_stamp(since.0));
        }
    }

    /// Whether a page of RAM may change its status: it is normal, not referenced at any level, and no
    /// processor translates to it (P3, L1).
    pub(crate) fn check_free(&self, frame: Frame) -> Result<(), Error> {
        self.check_larger(frame)?;
        check_page(self.past(), frame, self.page(frame))
    }

    /// Takes pages of RAM, at most as many as a table has entries, from `owner`, if they may change
    /// their owner as [`State::check_free`] says: they are nobody's then. Each record is looked at
    /// once; so what was taken before a page that is refused is given back.
    pub(crate) fn take(&mut self, region: PhysicalRegion, owner: OwnerCode) -> Result<(), Error> {
        self.check_larger(region.first_frame())?;
        let past = self.past();
        for frame in region.frames() {
            let taken = self.change(Level::FIRST, frame, |page| {
                check_page(past, frame, *page)?;
                if page.owner() != owner {
                    return Err(Error::NotOwner { frame, owner: page.owner().owner() });
                }
                page.set_owner(OwnerCode::NOBODY);
                Ok(())
            });
            if let Some(Err(error)) = taken {
                for taken in region.frames().into_iter().take_while(|taken| *taken != frame) {
                    self.change(Level::FIRST, taken, |page| page.set_owner(owner));
                }
                return Err(error);
            }
        }
        self.set_larger_owner(region, OwnerCode::NOBODY);
        Ok(())
    }

    /// Whether no larger unit that `frame` lies in is referenced, or was lately.
    fn check_larger(&self, frame: Frame) -> Result<(), Error> {
        let mut larger = Level::leaves::<G>().skip(1).map(|level| self.record(level, frame));
        larger.try_for_each(|unit| check_unused(self.past(), frame, unit))
    }

    /// Whether no processor can hold a translation to the page other than what the tables say
    /// (L1). The stamp of a larger unit is from a mapping of all of it.
    pub(crate) fn check_settled(&self, frame: Frame) -> Result<(), Error> {
        let mut stamps = Level::leaves::<G>().map(|level| self.record(level, frame).stamp());
        if stamps.all(self.past()) { Ok(()) } else { Err(Error::Draining { frame }) }
    }

    /// Changes what a page is. P3 has been checked, or a handle of the page is consumed. What was
    /// counted before has no meaning for the new status.
    pub(crate) fn set_status(&mut self, frame: Frame, status: Status) {
        let was_normal = self.page(frame).is_normal();
        let is_normal = status == Status::Normal;
        self.change(Level::FIRST, frame, |page| {
            page.set_status(status);
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
        self.set_larger_owner(region, owner);
    }

    /// Has the records of larger units sum up that the pages of `region` are `owner`'s now.
    fn set_larger_owner(&mut self, region: PhysicalRegion, owner: OwnerCode) {
        // Of the larger units, each that was not all the new owner's already becomes it if all its
        // parts are, which is looked at only after a whole table's worth changed hands.
        let first = region.first_frame();
        let whole = region.pages() == G::ENTRIES as u64;
        for level in Level::leaves::<G>().skip(1) {
            let is_owned = |part| self.record(level.lower(), part).owner() == owner;
            // The ends first: memory mostly changes hands from one of them on.
            let mut parts = level.parts::<G>(first);
            let uniform = whole
                && (level.lower() == Level::FIRST
                    || parts.next_back().is_none_or(is_owned) && parts.all(is_owned));
            let summary = if uniform { owner } else { OwnerCode::MIXED };
            self.change(level, first, |unit| {
                if unit.owner() != owner {
                    unit.set_owner(summary);
                }
            });
        }
    }
}

/// Whether a page is normal, not referenced, nor was lately.
fn check_page(past: impl Fn(u64) -> bool, frame: Frame, page: Record) -> Result<(), Error> {
    if !page.is_normal() {
        return Err(Error::WrongStatus { frame, status: page.status() });
    }
    check_unused(past, frame, page)
}

/// Whether a unit is not referenced, nor was lately.
fn check_unused(past: impl Fn(u64) -> bool, frame: Frame, unit: Record) -> Result<(), Error> {
    if unit.is_normal() && unit.count() > 0 {
        return Err(Error::InUse { frame });
    }
    if past(unit.stamp()) { Ok(()) } else { Err(Error::Draining { frame }) }
}

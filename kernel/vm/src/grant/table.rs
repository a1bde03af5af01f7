//! A domain's grant table: its frames, and which entries are in use.
//!
//! Hides what the hypervisor remembers of entries. For each there is a record: by whom the entry is
//! used, how often for reading and for writing, and the shares that pin its page meanwhile. A use
//! begins by pinning the entry (`entry`), and from then on nothing of it is read from the entry
//! again.
//!
//! Invariants: an entry is marked *reading* while it has uses, *writing* while it has uses for
//! writing, and at no other time by the hypervisor (its own domain can overwrite the marks, to its
//! own confusion: nothing here goes by them); a share for reading (for writing) exists
//! exactly while there are uses for reading (for writing); all uses of an entry are by the same
//! domain and of the same page.

use heliox_types::Frame;

use super::entry::{Entry, Marks, Part, Place, RESERVED, Version};
use crate::access::action::{EndGranted, UseOwn};
use crate::access::purpose::{Clearing, GrantTable as AsTable};
use crate::access::{FindsPages, Opens, Permit};
use crate::backing::{Backing, KernelMemory, Refused, Rights};
use crate::domain::Domain;
use crate::error::Error;
use crate::guest::{DomainId, Extent, GuestFrame, Order};
use crate::kinds::Kind;

/// A frame that the guest sees where it wants to.
struct TableFrame {
    frame: Frame,
    guest: Option<GuestFrame>,
}

/// A frame of entries, with the records of their uses.
struct EntryFrame<B: Backing, M: KernelMemory> {
    table: TableFrame,
    records: M::Slice<Record<B::Share>>,
}

/// The uses of an entry.
struct Record<S> {
    /// By whom, and of which page, while there are any.
    user: Option<(DomainId, GuestFrame, Frame)>,
    reads: Uses<S>,
    writes: Uses<S>,
}

/// Uses with the same rights.
struct Uses<S> {
    count: u32,
    share: Option<S>,
}

impl<S> Record<S> {
    const UNUSED: Self = Self {
        user: None,
        reads: Uses { count: 0, share: None },
        writes: Uses { count: 0, share: None },
    };

    const fn uses(&self, rights: Rights) -> &Uses<S> {
        match rights {
            Rights::Read => &self.reads,
            Rights::Write => &self.writes,
        }
    }

    const fn uses_mut(&mut self, rights: Rights) -> &mut Uses<S> {
        match rights {
            Rights::Read => &mut self.reads,
            Rights::Write => &mut self.writes,
        }
    }

    const fn marks(&self) -> Marks {
        Marks { reading: self.reads.count + self.writes.count > 0, writing: self.writes.count > 0 }
    }
}

/// A use of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned {
    pub(crate) reference: u32,
    pub(crate) rights: Rights,
    pub(crate) frame: Frame,
    /// The part of the page that was granted, if not all of it.
    pub(crate) part: Option<Part>,
}

/// A domain's grant table.
pub(crate) struct GrantTable<B: Backing, M: KernelMemory> {
    version: Version,
    frames: M::Slice<Option<EntryFrame<B, M>>>,
    count: u32,
    status: M::Slice<Option<TableFrame>>,
    status_count: u32,
    uses: u64,
}

impl<B: Backing, M: KernelMemory> GrantTable<B, M> {
    pub(crate) fn new(memory: &mut M, limit: u32) -> Result<Self, Error> {
        let frames = memory.slice(limit as usize, || None).ok_or(Error::OutOfKernelMemory)?;
        let most = status_frames::<B>(limit);
        let status = memory.slice(most as usize, || None).ok_or(Error::OutOfKernelMemory)?;
        Ok(Self { version: Version::One, frames, count: 0, status, status_count: 0, uses: 0 })
    }

    /// Pages that it takes.
    pub(crate) const fn pages(&self) -> u64 {
        self.count as u64 + self.status_count as u64
    }

    /// How many uses of entries there are.
    pub(crate) const fn uses(&self) -> u64 {
        self.uses
    }

    /// How many entries there are.
    fn entries(&self) -> u32 {
        // The number of frames is small: it is a domain's option, of memory that there is.
        u32::try_from(u64::from(self.count) * self.version.entries::<B>()).unwrap_or(u32::MAX)
    }

    /// Frames of entries, and the most there can be.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.count, self.frames.len() as u32)
    }

    /// The version.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// Where the status frames are seen.
    pub(crate) fn status_place(&self, index: u32) -> Result<Option<GuestFrame>, Error> {
        let frames = self.status_count;
        let found = self.status.get(index as usize).and_then(Option::as_ref);
        found.map(|table| table.guest).ok_or(Error::NoTableFrame { index, frames })
    }

    /// Which frame has an entry, and where in it.
    const fn locate(&self, reference: u32) -> (u64, u64) {
        let entries = self.version.entries::<B>();
        (reference as u64 / entries, reference as u64 % entries)
    }

    fn record(&self, reference: u32) -> Result<&Record<B::Share>, Error> {
        let (frame, place) = self.locate(reference);
        let found = self.frames.get(frame as usize).and_then(Option::as_ref);
        let entries = self.entries();
        found
            .and_then(|frame| frame.records.get(place as usize))
            .ok_or(Error::BadReference { reference, entries })
    }

    fn record_mut(&mut self, reference: u32) -> Result<&mut Record<B::Share>, Error> {
        let (frame, place) = self.locate(reference);
        let entries = self.entries();
        let found = self.frames.get_mut(frame as usize).and_then(Option::as_mut);
        found
            .and_then(|frame| frame.records.get_mut(place as usize))
            .ok_or(Error::BadReference { reference, entries })
    }

    /// Where an entry is, for those who may look at it.
    fn place<A: Opens<AsTable>>(&self, permit: &Permit<A>, reference: u32) -> Result<Place, Error> {
        let (frame, place) = self.locate(reference);
        let entries = self.entries();
        let table = self.frames.get(frame as usize).and_then(Option::as_ref);
        let table = table.ok_or(Error::BadReference { reference, entries })?;
        let status = match self.version {
            Version::One => None,
            Version::Two => {
                let (frame, place) = (u64::from(reference) / statuses::<B>(), u64::from(reference));
                let status = self.status.get(frame as usize).and_then(Option::as_ref);
                let status = status.ok_or(Error::Inconsistent)?;
                Some((permit.window(status.frame), place % statuses::<B>()))
            }
        };
        let table = permit.window(table.table.frame);
        Ok(Place { version: self.version, table, place, status })
    }

    /// The share by which a use maps its page.
    pub(crate) fn share(&self, reference: u32, rights: Rights) -> Result<&B::Share, Error> {
        self.record(reference)?.uses(rights).share.as_ref().ok_or(Error::Inconsistent)
    }

    /// End a use. The page that nobody uses any more by this entry.
    pub(crate) fn unpin(
        &mut self,
        backing: &mut B,
        permit: &Permit<EndGranted>,
        reference: u32,
        rights: Rights,
    ) -> Result<Option<(GuestFrame, Frame)>, Error> {
        let place = self.place(permit, reference)?;
        let record = self.record_mut(reference)?;
        let uses = record.uses_mut(rights);
        uses.count = uses.count.checked_sub(1).ok_or(Error::Inconsistent)?;
        if uses.count == 0
            && let Some(share) = uses.share.take()
        {
            backing.end_share(share);
        }
        let marks = record.marks();
        if record.uses(rights).count == 0 {
            place.unmark(backing, marks);
        }
        let unused = if marks.reading { None } else { record.user.take() };
        self.uses -= 1;
        Ok(unused.map(|(_, guest, frame)| (guest, frame)))
    }
}

/// Statuses in a frame: four to a word.
const fn statuses<B: Backing>() -> u64 {
    B::PAGE_WORDS * 4
}

/// Status frames that belong to so many frames of entries.
fn status_frames<B: Backing>(frames: u32) -> u32 {
    let entries = u64::from(frames) * Version::Two.entries::<B>();
    u32::try_from(entries.div_ceil(statuses::<B>())).unwrap_or(u32::MAX)
}

impl<B: Backing, M: KernelMemory> Domain<B, M> {
    /// Begin a use of an entry by `user`: check it, mark it, and pin the page that it names. A page
    /// that was promised is put there first.
    pub(crate) fn pin<A: FindsPages + Opens<AsTable>>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        reference: u32,
        user: DomainId,
        rights: Rights,
        whole: bool,
    ) -> Result<Pinned, Error> {
        let place = self.grants.place(permit, reference)?;
        let record = self.grants.record(reference)?;
        let (marked, in_use) = (record.marks(), record.user);
        if record.uses(rights).count >= B::MOST_USES {
            return Err(Error::TooManyUses { reference });
        }
        let entry = place.pin(backing, reference, rights, marked, |entry| {
            entry.check(reference, user, rights)?;
            if whole && entry.part.is_some() {
                return Err(Error::PartOnly { reference });
            }
            // While it is used, an entry can be used by the same domain only.
            match in_use {
                Some((other, ..)) if other != user => Err(Error::NotGranted { reference }),
                _ => Ok(()),
            }
        })?;
        // From here on the entry is marked: what fails has to take that back.
        let shared = self.pin_page(backing, permit, reference, user, rights, in_use, &entry);
        let (guest, frame, share) = match shared {
            Ok(found) => found,
            Err(error) => {
                place.unmark(backing, marked);
                return Err(error);
            }
        };
        let record = self.grants.record_mut(reference)?;
        record.user = Some((user, guest, frame));
        let uses = record.uses_mut(rights);
        uses.count += 1;
        if let Some(share) = share {
            uses.share = Some(share);
        }
        self.grants.uses += 1;
        Ok(Pinned { reference, rights, frame, part: entry.part })
    }

    /// The page of an entry that was just marked, with a share of it if this is the first use with
    /// these rights. The page of an entry that was in use is the one that is pinned already,
    /// whatever the entry says now.
    #[expect(clippy::too_many_arguments, reason = "one step of `pin`, apart for its errors")]
    fn pin_page<A: FindsPages>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        reference: u32,
        user: DomainId,
        rights: Rights,
        in_use: Option<(DomainId, GuestFrame, Frame)>,
        entry: &Entry,
    ) -> Result<(GuestFrame, Frame, Option<B::Share>), Error> {
        let (guest, frame) = match in_use {
            Some((_, guest, frame)) => (guest, frame),
            None => self.granted_page(backing, permit, entry.guest)?,
        };
        if self.grants.record(reference)?.uses(rights).count > 0 {
            return Ok((guest, frame, None));
        }
        let share =
            backing.share(self.id, frame, user, rights).map_err(|refused| match refused {
                Refused::TooManyReferences => Error::TooManyUses { reference },
                _ => Error::Inconsistent,
            })?;
        Ok((guest, frame, Some(share)))
    }

    /// The page that an entry names.
    fn granted_page<A: FindsPages>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        named: u64,
    ) -> Result<(GuestFrame, Frame), Error> {
        let bad = Error::BadGrantedPage { guest: named };
        let guest = self.frame(named).map_err(|_| bad)?;
        let frame = self.present_page(backing, permit, guest).map_err(|error| match error {
            Error::GrantTablePage { .. }
            | Error::ForeignPage { .. }
            | Error::NotPopulated { .. } => bad,
            other => other,
        })?;
        Ok((guest, frame))
    }

    /// The page of the domain's own at `guest`. One that was promised is put there first.
    pub(crate) fn present_page<A: FindsPages>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
        guest: GuestFrame,
    ) -> Result<Frame, Error> {
        if let Some((frame, _)) = self.own_page(backing, guest)? {
            return Ok(frame);
        }
        self.populate_promised(backing, permit, guest)?;
        match self.own_page(backing, guest)? {
            Some((frame, _)) => Ok(frame),
            None => Err(Error::Inconsistent),
        }
    }

    /// Let the grant table have `frames` frames of entries, if it has fewer. New frames are empty.
    pub(crate) fn grow_table(
        &mut self,
        backing: &mut B,
        memory: &mut M,
        permit: &Permit<UseOwn>,
        frames: u32,
    ) -> Result<(), Error> {
        let (count, most) = self.grants.size();
        if frames > most {
            return Err(Error::TableTooLarge { frames, most });
        }
        if frames <= count {
            return Ok(());
        }
        let status = match self.grants.version {
            Version::One => 0,
            Version::Two => status_frames::<B>(frames).saturating_sub(self.grants.status_count),
        };
        self.check_extra(u64::from(frames - count) + u64::from(status))?;
        let grown = self
            .add_status_frames(backing, status)
            .and_then(|()| self.add_entry_frames(backing, memory, frames - count));
        if grown.is_err() {
            // All or nothing.
            while self.grants.count > count {
                self.remove_entry_frame(backing)?;
            }
            self.remove_status_frames(backing, permit, status)?;
        }
        grown
    }

    fn add_entry_frames(
        &mut self,
        backing: &mut B,
        memory: &mut M,
        frames: u32,
    ) -> Result<(), Error> {
        for _ in 0..frames {
            // As many records as version 1 has entries: version 2 has fewer.
            let records = memory.slice(B::PAGE_WORDS as usize, || Record::UNUSED);
            let records = records.ok_or(Error::OutOfKernelMemory)?;
            let frame = self.take_page(backing)?;
            let Some(slot) = self.grants.frames.get_mut(self.grants.count as usize) else {
                return Err(Error::Inconsistent);
            };
            let table = TableFrame { frame, guest: None };
            *slot = Some(EntryFrame { table, records });
            self.grants.count += 1;
        }
        Ok(())
    }

    fn add_status_frames(&mut self, backing: &mut B, frames: u32) -> Result<(), Error> {
        for _ in 0..frames {
            let frame = self.take_page(backing)?;
            let Some(slot) = self.grants.status.get_mut(self.grants.status_count as usize) else {
                return Err(Error::Inconsistent);
            };
            *slot = Some(TableFrame { frame, guest: None });
            self.grants.status_count += 1;
        }
        Ok(())
    }

    fn take_page(&self, backing: &mut B) -> Result<Frame, Error> {
        let page = backing.take(self.id, Order::PAGE);
        page.map_err(|refused| Error::refused(refused, Order::PAGE))
    }

    /// Free the last frame of entries, which nobody uses and the guest does not see.
    fn remove_entry_frame(&mut self, backing: &mut B) -> Result<(), Error> {
        let last = self.grants.count.checked_sub(1).ok_or(Error::Inconsistent)?;
        let removed = self.grants.frames.get_mut(last as usize).and_then(Option::take);
        let removed = removed.ok_or(Error::Inconsistent)?;
        self.grants.count = last;
        let result = backing.give_back(self.id, removed.table.frame, Order::PAGE);
        result.map_err(|refused| Error::refused(refused, Order::PAGE))
    }

    /// Free the last `frames` status frames, wherever the guest sees them.
    fn remove_status_frames<A>(
        &mut self,
        backing: &mut B,
        _: &Permit<A>,
        frames: u32,
    ) -> Result<(), Error> {
        for _ in 0..frames {
            let Some(last) = self.grants.status_count.checked_sub(1) else { return Ok(()) };
            let removed = self.grants.status.get_mut(last as usize).and_then(Option::take);
            let removed = removed.ok_or(Error::Inconsistent)?;
            self.grants.status_count = last;
            if let Some(guest) = removed.guest {
                self.hide(backing, guest)?;
            }
            let result = backing.give_back(self.id, removed.frame, Order::PAGE);
            result.map_err(|refused| Error::refused(refused, Order::PAGE))?;
        }
        Ok(())
    }

    /// Change the version. The first entries are kept, all others are cleared.
    pub(crate) fn set_version(
        &mut self,
        backing: &mut B,
        permit: &Permit<UseOwn>,
        version: Version,
    ) -> Result<(), Error> {
        if version == self.grants.version {
            return Ok(());
        }
        let uses = self.grants.uses;
        if uses > 0 {
            return Err(Error::GrantsInUse { uses });
        }
        if version == Version::Two {
            let status = status_frames::<B>(self.grants.count);
            self.check_extra(u64::from(status))?;
            if let Err(error) = self.add_status_frames(backing, status) {
                let added = self.grants.status_count;
                self.remove_status_frames(backing, permit, added)?;
                return Err(error);
            }
        }
        let mut kept = [None; RESERVED as usize];
        for (reference, kept) in (0..).zip(&mut kept) {
            *kept = self.grants.place(permit, reference).ok().map(|place| place.keep(backing));
        }
        for frame in self.grants.frames.iter().flatten() {
            backing.clear(&permit.window::<Clearing>(frame.table.frame));
        }
        if version == Version::One {
            self.remove_status_frames(backing, permit, self.grants.status_count)?;
        }
        self.grants.version = version;
        for (reference, entry) in (0..).zip(kept) {
            // Version 2 has half as many entries.
            if let (Some(entry), Ok(place)) = (entry, self.grants.place(permit, reference)) {
                place.write(backing, &entry);
            }
        }
        Ok(())
    }

    /// Show a frame of the grant table, or of its status, at `guest`.
    pub(crate) fn show_table(
        &mut self,
        backing: &mut B,
        _: &Permit<UseOwn>,
        index: u32,
        is_status: bool,
        guest: GuestFrame,
    ) -> Result<(), Error> {
        let extent = Extent::page(guest);
        let place = index as usize;
        let (table, frames) = if is_status {
            let frames = self.grants.status_count;
            (self.grants.status.get(place).and_then(Option::as_ref), frames)
        } else {
            let frame = self.grants.frames.get(place).and_then(Option::as_ref);
            (frame.map(|frame| &frame.table), self.grants.count)
        };
        let table = table.ok_or(Error::NoTableFrame { index, frames })?;
        let frame = table.frame;
        if let Some(guest) = table.guest {
            return Err(Error::AlreadyPlaced { guest });
        }
        self.check_vacant(backing, extent)?;
        backing
            .map(self.id, extent, frame)
            .map_err(|refused| Error::refused(refused, Order::PAGE))?;
        self.kinds.set(extent, Kind::GrantTable);
        let table = if is_status {
            self.grants.status.get_mut(place).and_then(Option::as_mut)
        } else {
            let frame = self.grants.frames.get_mut(place).and_then(Option::as_mut);
            frame.map(|frame| &mut frame.table)
        };
        if let Some(table) = table {
            table.guest = Some(guest);
        }
        Ok(())
    }

    /// Show the frame of the grant table that is at `guest` no more.
    pub(crate) fn hide_table(
        &mut self,
        backing: &mut B,
        _: &Permit<UseOwn>,
        guest: GuestFrame,
    ) -> Result<(), Error> {
        if self.kinds.get(guest).0 != Kind::GrantTable {
            return Err(Error::NotPopulated { guest });
        }
        self.hide(backing, guest)?;
        let entries = self.grants.frames.iter_mut().flatten().map(|frame| &mut frame.table);
        for table in entries.chain(self.grants.status.iter_mut().flatten()) {
            if table.guest == Some(guest) {
                table.guest = None;
            }
        }
        Ok(())
    }

    /// Take the page of the grant table at `guest` out of the page map.
    fn hide(&mut self, backing: &mut B, guest: GuestFrame) -> Result<(), Error> {
        let extent = Extent::page(guest);
        let result = backing.unmap(self.id, extent);
        result.map_err(|refused| Error::refused(refused, Order::PAGE))?;
        backing.settle(self.id);
        self.kinds.set(extent, Kind::Ordinary);
        Ok(())
    }

    /// Free one frame of the grant table of a dying domain whose page map is empty. Whether there
    /// was one.
    pub(crate) fn free_table_frame<A>(
        &mut self,
        backing: &mut B,
        permit: &Permit<A>,
    ) -> Result<bool, Error> {
        if self.grants.status_count > 0 {
            self.remove_status_frames(backing, permit, 1)?;
            return Ok(true);
        }
        if self.grants.count > 0 {
            self.remove_entry_frame(backing)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Where the frames of the grant table are seen no more, in a dying domain.
    pub(crate) fn forget_table_places(&mut self) {
        let entries = self.grants.frames.iter_mut().flatten().map(|frame| &mut frame.table);
        for table in entries.chain(self.grants.status.iter_mut().flatten()) {
            table.guest = None;
        }
    }
}

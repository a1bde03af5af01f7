//! All domains, and the operations on them.
//!
//! Hides where the records of domains are. Each operation finds the domains that it concerns, asks
//! the access rules, and leaves the rest to the domain's own module. Numbers and extents arrive
//! here as guests gave them, and are parsed before anything else happens.
//!
//! A domain ends in steps: from [`Domains::kill`] on nothing is done with it any more, and
//! [`Domains::tear_down`] frees what it had, a bounded amount at a time. Pages that others still
//! use stay until they stop; the number is free for another domain after that.

use crate::access::action::{
    Balloon, Build, Claim, Fault, Kill, Populate, PopulateOnDemand, ReadState, Seal, SetTarget,
    TearDown, UseGranted, UseOwn,
};
use crate::access::purpose::Copying;
use crate::access::{Phase, Subject, Window};
use crate::backing::{Backing, KernelMemory, Refused, Rights};
use crate::domain::{Domain, Measurement, Options, Summary};
use crate::error::Error;
use crate::grant::Version;
use crate::grant::entry::Part;
use crate::grant::handles::Mapping;
use crate::grant::table::Pinned;
use crate::guest::{DomainId, Extent, GuestFrame, Order};
use crate::kinds::Kind;
use crate::pool::Level;
use crate::teardown::end_use;

/// Whether an operation that goes in steps is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is.
    Done,
    /// It has to be called again.
    More,
}

/// How far freeing a dying domain's memory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torn {
    /// The domain is gone.
    Done,
    /// It has to be called again.
    More,
    /// Others use pages of the domain: it has to be called again when they stop.
    Waiting {
        /// Pages that it still owns.
        pages: u64,
    },
}

/// How far an operation on a list of extents came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// How many extents were done.
    pub done: usize,
    /// Why it stopped before the next, if it did.
    pub stopped: Option<Error>,
}

/// One side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyEnd {
    /// The page.
    pub page: Page,
    /// Where in the page, in bytes.
    pub offset: u64,
}

/// A page that is copied from or to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Of the caller's own.
    Own {
        /// Its guest frame, as given.
        guest: u64,
    },
    /// Of another domain.
    Granted {
        /// The domain's number, as given.
        domain: u16,
        /// The entry of its grant table.
        reference: u32,
    },
}

/// A copy within a page each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyRequest {
    /// From where.
    pub from: CopyEnd,
    /// To where.
    pub to: CopyEnd,
    /// How many bytes.
    pub bytes: u64,
}

/// A page that was found for a copy, and the use of the grant that keeps it in place.
struct Found {
    window: Window,
    pinned: Option<(DomainId, Pinned)>,
}

/// All domains.
pub struct Domains<B: Backing, M: KernelMemory> {
    backing: B,
    memory: M,
    slots: M::Slice<Option<Domain<B, M>>>,
}

type Parts<'d, B, M> = (&'d mut Domain<B, M>, &'d mut B, &'d mut M);
type Pair<'d, B, M> = (&'d mut Domain<B, M>, &'d mut Domain<B, M>, &'d mut B);

impl<B: Backing, M: KernelMemory> Domains<B, M> {
    /// No domains yet, and room for those with numbers below `limit`.
    ///
    /// # Errors
    /// [`Error::OutOfKernelMemory`].
    pub fn new(backing: B, mut memory: M, limit: u16) -> Result<Self, Error> {
        let slots = memory.slice(usize::from(limit), || None).ok_or(Error::OutOfKernelMemory)?;
        Ok(Self { backing, memory, slots })
    }

    /// The layer below.
    pub const fn backing(&self) -> &B {
        &self.backing
    }

    /// The layer below, to change what this one does not decide.
    pub const fn backing_mut(&mut self) -> &mut B {
        &mut self.backing
    }

    fn get(&self, domain: u16) -> Result<&Domain<B, M>, Error> {
        let slot = self.slots.get(usize::from(domain)).and_then(Option::as_ref);
        slot.ok_or(Error::NoSuchDomain { domain })
    }

    /// A domain, and what it stands on.
    fn parts(&mut self, domain: u16) -> Result<Parts<'_, B, M>, Error> {
        let slot = self.slots.get_mut(usize::from(domain)).and_then(Option::as_mut);
        let found = slot.ok_or(Error::NoSuchDomain { domain })?;
        Ok((found, &mut self.backing, &mut self.memory))
    }

    /// Two different domains, and what they stand on.
    fn pair(&mut self, one: DomainId, other: u16) -> Result<Pair<'_, B, M>, Error> {
        self.get(one.number())?;
        self.get(other)?;
        match self.slots.get_disjoint_mut([one.number(), other].map(usize::from)) {
            Ok([Some(one), Some(other)]) => Ok((one, other, &mut self.backing)),
            // They are the same.
            _ => Err(Error::NoSuchDomain { domain: other }),
        }
    }

    /// Make domain `number`, which `builder` builds.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`] for a number that no domain can have, [`Error::DomainExists`],
    /// [`Error::BadOptions`], [`Error::OutOfKernelMemory`], [`Error::OutOfMemory`] for its paging
    /// pool.
    pub fn create(
        &mut self,
        builder: DomainId,
        number: u16,
        options: &Options,
    ) -> Result<DomainId, Error> {
        let missing = Error::NoSuchDomain { domain: number };
        let domain = DomainId::new(number).ok_or(missing)?;
        let slot = self.slots.get_mut(usize::from(number)).ok_or(missing)?;
        if slot.is_some() {
            return Err(Error::DomainExists { domain });
        }
        let made = Domain::new(&mut self.memory, builder, domain, options)?;
        self.backing
            .add_domain(domain, options.tables)
            .map_err(|refused| Error::refused(refused, Order::PAGE))?;
        *slot = Some(made);
        Ok(domain)
    }

    /// What can be seen of a domain's account.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`].
    pub fn summary(&self, domain: u16) -> Result<Summary, Error> {
        self.get(domain).map(Domain::summary)
    }

    /// What a guest frame is for, and whether it has memory.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::OutsideMap`].
    pub fn kind(&self, domain: u16, guest: u64) -> Result<Kind, Error> {
        let found = self.get(domain)?;
        Ok(found.kinds.get(found.frame(guest)?).0)
    }

    /// Set memory aside for a domain, so that building it does not fail half way.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::QuotaExceeded`],
    /// [`Error::OutOfMemory`].
    pub fn claim(&mut self, subject: Subject, domain: u16, pages: u64) -> Result<(), Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<Claim>(subject)?;
        if pages > 0 {
            found.check_quota(pages)?;
        }
        let result = backing.claim(permit.domain(), pages);
        result.map_err(|refused| Error::refused(refused, Order::PAGE))
    }

    /// Put memory at 2^`order` guest frames from `start` on. A builder can ask for larger blocks
    /// than a guest.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OrderTooLarge`],
    /// [`Error::OutsideMap`], [`Error::Misaligned`], [`Error::Occupied`],
    /// [`Error::MaximumExceeded`], [`Error::QuotaExceeded`], [`Error::OutOfMemory`],
    /// [`Error::OutOfTables`].
    pub fn populate(
        &mut self,
        subject: Subject,
        domain: u16,
        start: u64,
        order: u32,
    ) -> Result<(), Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<Populate>(subject)?;
        let is_self = subject == Subject::Domain(found.id);
        let most = if is_self { Level::Table } else { Level::Region };
        let extent = found.extent(start, order, most)?;
        found.populate(backing, &permit, extent)
    }

    /// [`Self::populate`] for each of `starts`, until one fails: Xen's `populate_physmap`.
    pub fn populate_physmap(
        &mut self,
        subject: Subject,
        domain: u16,
        starts: &[u64],
        order: u32,
    ) -> Partial {
        each(starts, |start| self.populate(subject, domain, start, order))
    }

    /// Promise memory to 2^`order` guest frames from `start` on: it is put there when it is used.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OrderTooLarge`],
    /// [`Error::OutsideMap`], [`Error::Misaligned`], [`Error::Occupied`],
    /// [`Error::MaximumExceeded`]; [`Error::TargetBelowOwed`] if the domain has more than its
    /// target.
    pub fn populate_on_demand(
        &mut self,
        subject: Subject,
        domain: u16,
        start: u64,
        order: u32,
    ) -> Result<(), Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<PopulateOnDemand>(subject)?;
        let extent = found.extent(start, order, Level::Region)?;
        found.populate_on_demand(backing, &permit, extent)
    }

    /// Reserve 2^`order` pages, which [`Self::populate`] gives their places later.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OrderTooLarge`],
    /// [`Error::QuotaExceeded`], [`Error::OutOfMemory`].
    pub fn increase(&mut self, subject: Subject, domain: u16, order: u32) -> Result<(), Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<Populate>(subject)?;
        let most = Level::Table.order::<B>();
        let too_large = Error::OrderTooLarge { order, most: most.number() };
        let order = Order::new(order).filter(|order| *order <= most).ok_or(too_large)?;
        found.increase(backing, &permit, order)
    }

    /// [`Self::increase`], `extents` times or until it fails: Xen's `increase_reservation`.
    pub fn increase_reservation(
        &mut self,
        subject: Subject,
        domain: u16,
        extents: usize,
        order: u32,
    ) -> Partial {
        let mut done = 0;
        while done < extents {
            if let Err(error) = self.increase(subject, domain, order) {
                return Partial { done, stopped: Some(error) };
            }
            done += 1;
        }
        Partial { done, stopped: None }
    }

    /// Take the memory at 2^`order` guest frames from `start` on from the domain, promised or
    /// there.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OrderTooLarge`],
    /// [`Error::OutsideMap`], [`Error::Misaligned`], [`Error::NotPopulated`],
    /// [`Error::GrantTablePage`], [`Error::ForeignPage`], [`Error::InUse`],
    /// [`Error::OutOfTables`] if a larger mapping had to be split.
    pub fn decrease(
        &mut self,
        subject: Subject,
        domain: u16,
        start: u64,
        order: u32,
    ) -> Result<(), Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<Balloon>(subject)?;
        let extent = found.extent(start, order, Level::Table)?;
        found.decrease(backing, &permit, extent)
    }

    /// [`Self::decrease`] for each of `starts`, until one fails: Xen's `decrease_reservation`.
    pub fn decrease_reservation(
        &mut self,
        subject: Subject,
        domain: u16,
        starts: &[u64],
        order: u32,
    ) -> Partial {
        each(starts, |start| self.decrease(subject, domain, start, order))
    }

    /// Change the target to `pages`. If the domain was promised memory, more of it is set aside, in
    /// at most `budget` blocks for each call; then [`Progress::More`] says to call again.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::TargetAboveMaximum`],
    /// [`Error::TargetBelowOwed`]; [`Error::OutOfMemory`] with the target changed and what there
    /// was set aside.
    pub fn set_target(
        &mut self,
        subject: Subject,
        domain: u16,
        pages: u64,
        budget: u64,
    ) -> Result<Progress, Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<SetTarget>(subject)?;
        found.set_target(backing, &permit, pages, budget)
    }

    /// Check that the hypervisor may change a domain's target.
    pub(crate) fn check_target(&self, domain: u16) -> Result<(), Error> {
        self.get(domain)?.permit::<SetTarget>(Subject::Hypervisor).map(drop)
    }

    /// A processor of the domain used a guest frame at which its page map has nothing. If memory
    /// was promised there, it is there afterwards: the order of what was put there.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OutsideMap`],
    /// [`Error::NotOnDemand`]; [`Error::OutOfTables`]; [`Error::Exhausted`], with the domain
    /// stopped, if there is no memory for it.
    pub fn fault(&mut self, domain: u16, guest: u64) -> Result<Order, Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<Fault>(Subject::Hypervisor)?;
        let guest = found.frame(guest)?;
        let result = found.populate_promised(backing, &permit, guest);
        if let Err(Error::Exhausted { .. }) = result {
            found.phase = Phase::Crashed;
        }
        result
    }

    /// Copy the page at `source` of the builder to `guest` of a domain that it builds.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OutsideMap`],
    /// [`Error::NotPopulated`] (also for a frame that was only promised memory),
    /// [`Error::GrantTablePage`], [`Error::ForeignPage`].
    pub fn build_page(
        &mut self,
        builder: DomainId,
        source: u64,
        domain: u16,
        guest: u64,
    ) -> Result<(), Error> {
        let (own, found, backing) = self.pair(builder, domain)?;
        let permit = found.permit::<Build>(Subject::Domain(builder))?;
        let own_permit = own.permit::<UseOwn>(Subject::Domain(builder))?;
        let (guest, source) = (found.frame(guest)?, own.frame(source)?);
        found.build_page(backing, &permit, guest, own, &own_permit, source)
    }

    /// Shut everybody out of a domain, and measure it: at most `budget` guest frames for each call,
    /// until the measurement is there.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::GrantsInUse`] if it has a grant table
    /// or uses those of others: then it has run already.
    pub fn seal(
        &mut self,
        subject: Subject,
        domain: u16,
        budget: u64,
    ) -> Result<Option<Measurement>, Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<Seal>(subject)?;
        found.measure(backing, &permit, budget)
    }

    /// Check that `subject` may read the registers of a domain's processors, or dump it.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`].
    pub fn check_read_state(&self, subject: Subject, domain: u16) -> Result<(), Error> {
        self.get(domain)?.permit::<ReadState>(subject).map(drop)
    }

    /// Let a domain's grant table have `frames` frames, if it has fewer.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::TableTooLarge`],
    /// [`Error::QuotaExceeded`], [`Error::OutOfKernelMemory`], [`Error::OutOfMemory`].
    pub fn setup_table(&mut self, caller: DomainId, frames: u32) -> Result<(), Error> {
        let (found, backing, memory) = self.parts(caller.number())?;
        let permit = found.permit::<UseOwn>(Subject::Domain(caller))?;
        found.grow_table(backing, memory, &permit, frames)
    }

    /// How many frames a domain's grant table has, and the most that it may have.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`].
    pub fn table_size(&self, domain: u16) -> Result<(u32, u32), Error> {
        self.get(domain).map(|found| found.grants.size())
    }

    /// The version of a domain's grant table.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`].
    pub fn table_version(&self, domain: u16) -> Result<Version, Error> {
        self.get(domain).map(|found| found.grants.version())
    }

    /// Where a domain sees a frame of its grant table's status, if it does.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::NoTableFrame`].
    pub fn status_frame(&self, domain: u16, index: u32) -> Result<Option<GuestFrame>, Error> {
        self.get(domain)?.grants.status_place(index)
    }

    /// Show frame `index` of the caller's grant table (or of its status) at `guest`.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OutsideMap`],
    /// [`Error::NoTableFrame`], [`Error::AlreadyPlaced`], [`Error::Occupied`],
    /// [`Error::OutOfTables`].
    pub fn show_table(
        &mut self,
        caller: DomainId,
        index: u32,
        is_status: bool,
        guest: u64,
    ) -> Result<(), Error> {
        let (found, backing, _) = self.parts(caller.number())?;
        let permit = found.permit::<UseOwn>(Subject::Domain(caller))?;
        let guest = found.frame(guest)?;
        found.show_table(backing, &permit, index, is_status, guest)
    }

    /// Show the frame of the caller's grant table that is at `guest` no more.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::OutsideMap`],
    /// [`Error::NotPopulated`].
    pub fn hide_table(&mut self, caller: DomainId, guest: u64) -> Result<(), Error> {
        let (found, backing, _) = self.parts(caller.number())?;
        let permit = found.permit::<UseOwn>(Subject::Domain(caller))?;
        let guest = found.frame(guest)?;
        found.hide_table(backing, &permit, guest)
    }

    /// Change the version of the caller's grant table. The first eight entries are kept, as far as
    /// the new version can say them; all others grant nothing afterwards.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::BadVersion`],
    /// [`Error::GrantsInUse`], [`Error::QuotaExceeded`], [`Error::OutOfMemory`].
    pub fn set_version(&mut self, caller: DomainId, version: u32) -> Result<(), Error> {
        let (found, backing, _) = self.parts(caller.number())?;
        let permit = found.permit::<UseOwn>(Subject::Domain(caller))?;
        found.set_version(backing, &permit, Version::of(version)?)
    }

    /// Map the page that `granter` granted by entry `reference` at `guest` of the caller. The
    /// handle of the mapping.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::OwnGrant`], [`Error::Denied`], [`Error::OutsideMap`],
    /// [`Error::Occupied`], [`Error::NoHandles`], [`Error::BadReference`],
    /// [`Error::NotGranted`], [`Error::ReadOnly`], [`Error::PartOnly`],
    /// [`Error::BadGrantedPage`], [`Error::TooManyUses`], [`Error::Contended`],
    /// [`Error::OutOfTables`], [`Error::Exhausted`] (without stopping the granter).
    pub fn map_grant(
        &mut self,
        caller: DomainId,
        granter: u16,
        reference: u32,
        guest: u64,
        rights: Rights,
    ) -> Result<u32, Error> {
        if granter == caller.number() {
            return Err(Error::OwnGrant);
        }
        let (own, other, backing) = self.pair(caller, granter)?;
        own.permit::<UseOwn>(Subject::Domain(caller))?;
        let permit = other.permit::<UseGranted>(Subject::Domain(caller))?;
        let guest = own.frame(guest)?;
        let extent = Extent::page(guest);
        own.check_vacant(backing, extent)?;
        own.handles.check_room()?;
        let pinned = other.pin(backing, &permit, reference, caller, rights, true)?;
        let share = other.grants.share(reference, rights)?;
        if let Err(refused) = backing.map_share(share, guest) {
            end_use(backing, other, caller, pinned.reference, pinned.rights)?;
            return Err(match refused {
                Refused::TooManyReferences => Error::TooManyUses { reference },
                other => Error::refused(other, Order::PAGE),
            });
        }
        own.kinds.set(extent, Kind::Foreign);
        own.handles.add(Mapping { granter: other.id, reference, rights, guest })
    }

    /// End the mapping with this handle, which is at `guest` of the caller.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`], [`Error::BadHandle`],
    /// [`Error::WrongPlace`].
    pub fn unmap_grant(&mut self, caller: DomainId, handle: u32, guest: u64) -> Result<(), Error> {
        let (own, ..) = self.parts(caller.number())?;
        own.permit::<UseOwn>(Subject::Domain(caller))?;
        let mapping = own.handles.get(handle)?;
        if mapping.guest.number() != guest {
            return Err(Error::WrongPlace { handle, guest });
        }
        self.close(caller, handle)
    }

    /// End the mapping with this handle.
    fn close(&mut self, user: DomainId, handle: u32) -> Result<(), Error> {
        let mapping = self.get(user.number())?.handles.get(handle)?;
        let (own, other, backing) = self.pair(user, mapping.granter.number())?;
        let share = other.grants.share(mapping.reference, mapping.rights)?;
        let result = backing.unmap_share(share, mapping.guest);
        result.map_err(|refused| Error::refused(refused, Order::PAGE))?;
        // Before the page is let go.
        backing.settle(user);
        own.kinds.set(Extent::page(mapping.guest), Kind::Ordinary);
        own.handles.remove(handle)?;
        end_use(backing, other, user, mapping.reference, mapping.rights)
    }

    /// Copy bytes between pages of the caller's own and pages granted to it.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::OwnGrant`], [`Error::Denied`], [`Error::BadPart`],
    /// [`Error::OutsideMap`], [`Error::NotPopulated`], [`Error::GrantTablePage`],
    /// [`Error::ForeignPage`], [`Error::BadReference`], [`Error::NotGranted`],
    /// [`Error::ReadOnly`], [`Error::BadGrantedPage`], [`Error::TooManyUses`],
    /// [`Error::Contended`], [`Error::OutOfTables`], [`Error::Exhausted`] (without stopping
    /// anybody).
    pub fn copy(&mut self, caller: DomainId, request: &CopyRequest) -> Result<(), Error> {
        let CopyRequest { from, to, bytes } = *request;
        for CopyEnd { offset, .. } in [from, to] {
            let page = Part { offset: 0, bytes: B::PAGE_WORDS * 8 };
            if !page.contains(offset, bytes) {
                return Err(Error::BadPart { offset, bytes });
            }
        }
        // A promised page of the caller's own is put there before either page is found: that can
        // move another one of its pages.
        for end in [from, to] {
            if let Page::Own { guest } = end.page {
                let (own, backing, _) = self.parts(caller.number())?;
                let permit = own.permit::<UseOwn>(Subject::Domain(caller))?;
                let guest = own.frame(guest)?;
                own.present_page(backing, &permit, guest)?;
            }
        }
        let source = self.find(caller, from, bytes, Rights::Read)?;
        let result = self.find(caller, to, bytes, Rights::Write).and_then(|target| {
            let (from, to) = (&source.window, &target.window);
            self.backing.copy(from, request.from.offset, to, request.to.offset, bytes);
            self.let_go(caller, &target)
        });
        self.let_go(caller, &source)?;
        result
    }

    /// Find a page for a copy.
    fn find(
        &mut self,
        caller: DomainId,
        end: CopyEnd,
        bytes: u64,
        rights: Rights,
    ) -> Result<Found, Error> {
        let (own, backing, _) = self.parts(caller.number())?;
        let permit = own.permit::<UseOwn>(Subject::Domain(caller))?;
        let (domain, reference) = match end.page {
            Page::Own { guest } => {
                let guest = own.frame(guest)?;
                let page = own.own_page(backing, guest)?;
                let (frame, _) = page.ok_or(Error::Exhausted { guest })?;
                return Ok(Found { window: permit.window::<Copying>(frame), pinned: None });
            }
            Page::Granted { domain, reference } => (domain, reference),
        };
        if domain == caller.number() {
            return Err(Error::OwnGrant);
        }
        let (other, backing, _) = self.parts(domain)?;
        let permit = other.permit::<UseGranted>(Subject::Domain(caller))?;
        let pinned = other.pin(backing, &permit, reference, caller, rights, false)?;
        let found = Found {
            window: permit.window::<Copying>(pinned.frame),
            pinned: Some((other.id, pinned)),
        };
        let offset = end.offset;
        if pinned.part.is_some_and(|part| !part.contains(offset, bytes)) {
            self.let_go(caller, &found)?;
            return Err(Error::BadPart { offset, bytes });
        }
        Ok(found)
    }

    /// End the use of a page that was found for a copy.
    fn let_go(&mut self, caller: DomainId, found: &Found) -> Result<(), Error> {
        match found.pinned {
            Some((domain, pinned)) => {
                let (other, backing, _) = self.parts(domain.number())?;
                end_use(backing, other, caller, pinned.reference, pinned.rights)
            }
            None => Ok(()),
        }
    }

    /// End a domain. Nothing is freed yet.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`].
    pub fn kill(&mut self, subject: Subject, domain: u16) -> Result<(), Error> {
        let (found, backing, _) = self.parts(domain)?;
        let permit = found.permit::<Kill>(subject)?;
        found.phase = Phase::Dying;
        // Taking a claim back does not fail.
        let result = backing.claim(permit.domain(), 0);
        result.map_err(|refused| Error::refused(refused, Order::PAGE))
    }

    /// Free what a dying domain had, in at most `budget` steps.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], [`Error::Denied`] unless it is dying.
    pub fn tear_down(&mut self, domain: u16, budget: u64) -> Result<Torn, Error> {
        for _ in 0..budget {
            let (found, backing, _) = self.parts(domain)?;
            let permit = found.permit::<TearDown>(Subject::Hypervisor)?;
            let (id, handle) = (found.id, found.teardown.handle);
            if handle < found.handles.limit() {
                found.teardown.handle += 1;
                if found.handles.get(handle).is_ok() {
                    self.close(id, handle)?;
                }
                continue;
            }
            if found.free_some(backing, &permit)? {
                continue;
            }
            let pages = found.summary().total();
            if found.grants.uses() > 0 {
                return Ok(Torn::Waiting { pages });
            }
            if found.free_table_frame(backing, &permit)? {
                continue;
            }
            if pages > 0 {
                return Err(Error::Inconsistent);
            }
            let result = backing.remove_domain(id);
            if result.map_err(|refused| Error::refused(refused, Order::PAGE))? == Progress::Done {
                self.forget(id);
                return Ok(Torn::Done);
            }
        }
        Ok(Torn::More)
    }

    /// Forget a domain that has nothing left. Its number can get another meaning, so those that it
    /// built have no builder any more.
    fn forget(&mut self, domain: DomainId) {
        if let Some(slot) = self.slots.get_mut(usize::from(domain.number())) {
            *slot = None;
        }
        for other in self.slots.iter_mut().flatten() {
            if other.builder == Some(domain) {
                other.builder = None;
            }
        }
    }
}

/// Do something for each of `starts`, until it fails.
fn each(starts: &[u64], mut one: impl FnMut(u64) -> Result<(), Error>) -> Partial {
    for (done, start) in starts.iter().enumerate() {
        if let Err(error) = one(*start) {
            return Partial { done, stopped: Some(error) };
        }
    }
    Partial { done: starts.len(), stopped: None }
}

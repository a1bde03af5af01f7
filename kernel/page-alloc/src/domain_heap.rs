//! Domain heap: memory for domains, with ownership and quota.
//!
//! The secrets: where the `dma` zone ends and the `dom` zone begins; what is recorded of a
//! domain's pages (`records`); how claims are kept; and how it is made sure that no page reaches
//! another owner with data in it. For the last: a page keeps its owner in the layer's record when
//! it is freed. So of a free page that is not known to be zeroized it is known whose data it
//! contains, and only somebody else has to pay for clearing it. Memory that belongs to no
//! domain is the hypervisor's, whose data no domain may see either.
//!
//! Invariants: the pages recorded as assigned are those of the blocks handed out for domains; the
//! sum of all claims is `claimed`; unless pages went bad or the `dma` zone was drawn on below its
//! emergency pool, at least so many pages are available.

pub(crate) mod domain;
pub(crate) mod records;

use heliox_types::{Frame, PhysicalAddress};

use self::domain::Domain;
use self::records::Record;
use crate::block::Extent;
use crate::boot_time::whole_pages;
use crate::event::bad_zone;
use crate::{Cpu, DomainBlock, Event, HeapBlock, Node, Order, PageAllocator, Pages, Refused, Zone};

/// How memory for a domain is to be allocated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFlags {
    /// Do not count the pages towards the domain's quota (the source's `MEMF_no_refcount`).
    pub no_refcount: bool,
    /// Only from the `dma` zone, and from its emergency pool if need be (`MEMF_dma`).
    pub dma: bool,
    /// Which node's memory.
    pub node: NodeFlag,
}

/// Which node's memory to allocate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeFlag {
    /// The CPU's, if it has any, or else any.
    #[default]
    Near,
    /// This one's, if it has any, or else any.
    Prefer(Node),
    /// This one's only.
    Exactly(Node),
}

impl<P: Pages> PageAllocator<'_, P> {
    /// Give the whole pages between the byte addresses `start` and `end` to the domain heap, as
    /// free pages: up to `max_dma_page` to the `dma` zone, the rest to the `dom` zone.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::EmptyRange`], [`Event::NotLegalAddress`], and what
    /// [`Self::init_heap_pages`] says of either part.
    pub fn init_domheap_pages(
        &mut self,
        start: PhysicalAddress,
        end: PhysicalAddress,
    ) -> Result<(), Event> {
        self.check_initialised()?;
        let (start, end) = whole_pages(start, end)?;
        self.check_legal_range(start, end)?;
        for (zone, start, end) in domheap_parts(self.machine.max_dma_page, start, end) {
            self.check_new(zone, start, end)?;
        }
        let saved = self.heap.save();
        if let Err(event) = self.place_domheap(start, end) {
            self.heap.restore(&saved);
            return Err(event);
        }
        self.give_placed(start, end);
        Ok(())
    }

    /// Find sections in the zones of the domain heap for the pages from `start` to `end`.
    pub(crate) fn place_domheap(&mut self, start: u64, end: u64) -> Result<(), Event> {
        for (zone, start, end) in domheap_parts(self.machine.max_dma_page, start, end) {
            self.check_neighbours(zone, start, end)?;
            self.place_new(zone, start, end)?;
        }
        Ok(())
    }

    /// Assign a block that belongs to no domain to `domain`, which has one reference to each page
    /// from then on. Its pages are cleared first, as nothing is known of what its holder left in
    /// them.
    ///
    /// Another CPU sees the block as the domain's only after everything else is recorded of it.
    ///
    /// # Errors
    /// With the block: [`Event::NotInitialised`]; [`Event::BadZone`] unless it is of the domain
    /// heap; if the handle was made from a number twice, what [`Self::heap_block_at`] would say;
    /// [`Event::DomainDying`]; [`Event::QuotaExceeded`]; [`Event::TooMuchToScrub`] for a block of
    /// more pages than the scrub limit, which can be split; [`Event::Refused`].
    pub fn assign_pages(
        &mut self,
        domain: &mut Domain<P::Owner>,
        block: HeapBlock,
        flags: MemoryFlags,
    ) -> Result<DomainBlock, Refused<HeapBlock>> {
        match self.assign(domain, &block.0, flags) {
            Ok(()) => Ok(DomainBlock(block.0)),
            Err(event) => Err(Refused::new(event, block)),
        }
    }

    fn assign(
        &mut self,
        domain: &mut Domain<P::Owner>,
        block: &Extent,
        flags: MemoryFlags,
    ) -> Result<(), Event> {
        self.check_initialised()?;
        let (page, order) = (block.page(), block.order());
        let zone = self.check_domain_zone(page, order)?;
        self.check_held(zone, page, order)?;
        check_domain(domain, order, flags)?;
        if order.pages() > self.machine.scrub_limit {
            return Err(Event::TooMuchToScrub { frame: page, pages: order.pages() });
        }
        let cleared = (page..page + order.pages()).try_for_each(|page| self.clear(page));
        // Its holder may go on writing to it until it is assigned.
        self.map.forget_zeroized(page, order);
        cleared?;
        self.hand_over(domain, block, flags)?;
        self.map.set_held(page, order, false);
        Ok(())
    }

    /// Record a block as the domain's, and the domain as its owner.
    fn hand_over(
        &mut self,
        domain: &mut Domain<P::Owner>,
        block: &Extent,
        flags: MemoryFlags,
    ) -> Result<(), Event> {
        let (page, order) = (block.page(), block.order());
        let record = Record::assigned(!flags.no_refcount);
        self.records.set_block(page, order, record);
        // Last, because it makes the rest visible to other CPUs.
        if let Err(frame) = self.pages.set_owner(block.frames(), domain.id()) {
            self.records.set_pages(page, order, Record::NONE);
            return Err(Event::Refused { frame: frame.number() });
        }
        if !flags.no_refcount {
            domain.total_pages += order.pages();
            let claim = domain.claimed.min(order.pages());
            domain.claimed -= claim;
            self.claimed -= claim;
        }
        Ok(())
    }

    /// Allocate a block of 2^order pages for `domain`, near the boot CPU. It contains zeros, or
    /// what the domain itself left there.
    ///
    /// From the `dom` zone first, then from the `dma` zone as long as that keeps its emergency
    /// pool; with [`MemoryFlags::dma`] from the `dma` zone only. The domain has one reference to
    /// each page.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::UnknownNode`]; [`Event::DomainDying`];
    /// [`Event::QuotaExceeded`]; [`Event::ReservedByClaims`] if others have claimed what is there;
    /// [`Event::NoSuitableBlock`]; [`Event::TooMuchToScrub`]; [`Event::Refused`].
    pub fn alloc_domheap_pages(
        &mut self,
        domain: &mut Domain<P::Owner>,
        order: Order,
        flags: MemoryFlags,
    ) -> Result<DomainBlock, Event> {
        self.alloc_domheap_pages_on(Cpu(0), domain, order, flags)
    }

    /// As [`Self::alloc_domheap_pages`], near `cpu`: of its node if that has a block, and through
    /// its cache if that holds such blocks.
    ///
    /// # Errors
    /// Also [`Event::UnknownCpu`].
    pub fn alloc_domheap_pages_on(
        &mut self,
        cpu: Cpu,
        domain: &mut Domain<P::Owner>,
        order: Order,
        flags: MemoryFlags,
    ) -> Result<DomainBlock, Event> {
        self.check_initialised()?;
        let near = self.check_cpu(cpu)?;
        let near = self.check_flags(near, flags)?;
        check_domain(domain, order, flags)?;
        let own_claim = if flags.no_refcount { 0 } else { domain.claimed };
        let page = self.take_for_domain(cpu, near, own_claim, order, flags)?;
        let block = Extent::new(page, order);
        let result = self
            .prepare(domain.id(), page, order)
            .and_then(|()| self.hand_over(domain, &block, flags));
        match result {
            Ok(()) => {
                self.map.forget_zeroized(page, order);
                Ok(DomainBlock(block))
            }
            Err(event) => {
                match self.heap.section_of(page) {
                    // The same block will come next, when it is cleared.
                    Some(index) if matches!(event, Event::TooMuchToScrub { .. }) => {
                        self.put_near(cpu, index, page, order);
                    }
                    _ => self.put_block(page, order),
                }
                Err(event)
            }
        }
    }

    /// Allocate a block of the domain heap that belongs to no domain: the source's
    /// `alloc_domheap_pages` without one. Nothing is known of its contents.
    ///
    /// # Errors
    /// As [`Self::alloc_domheap_pages_on`], as for a domain without claim, quota and need of
    /// clearing.
    pub fn alloc_domheap_pages_unassigned(
        &mut self,
        cpu: Cpu,
        order: Order,
        flags: MemoryFlags,
    ) -> Result<HeapBlock, Event> {
        self.check_initialised()?;
        let near = self.check_cpu(cpu)?;
        let near = self.check_flags(near, flags)?;
        let page = self.take_for_domain(cpu, near, 0, order, flags)?;
        // Whichever of the two domain zones it is, a domain's data are left behind.
        self.hold(Zone::Dom, page, order)
    }

    /// The node to look at first.
    #[inline]
    fn check_flags(&self, near: Node, flags: MemoryFlags) -> Result<Node, Event> {
        match flags.node {
            NodeFlag::Near => Ok(near),
            NodeFlag::Prefer(node) | NodeFlag::Exactly(node) => {
                self.check_node(node)?;
                Ok(node)
            }
        }
    }

    /// Take a block of the domain zones that leaves others what they claimed.
    #[inline]
    fn take_for_domain(
        &mut self,
        cpu: Cpu,
        near: Node,
        own_claim: u64,
        order: Order,
        flags: MemoryFlags,
    ) -> Result<u64, Event> {
        let count = order.pages();
        let pool = self.machine.dma_emergency_pages;
        let exact = matches!(flags.node, NodeFlag::Exactly(_));
        let (dom, dma) = (self.heap.free(Zone::Dom), self.heap.free(Zone::Dma));
        let available = dom + dma.saturating_sub(pool);
        let claimed = self.claimed - own_claim.min(count);
        // What would be left; `None` if so much is not there at all.
        let left = if flags.dma {
            dma.checked_sub(count).map(|dma| dom + dma.saturating_sub(pool))
        } else {
            available.checked_sub(count)
        };
        if left.is_some_and(|left| left < claimed) {
            return Err(Event::ReservedByClaims { available, claimed });
        }
        if flags.dma {
            return self.take_near(cpu, Zone::Dma, near, exact, order);
        }
        match self.take_near(cpu, Zone::Dom, near, exact, order) {
            Err(_) if dma >= pool.saturating_add(count) => {
                self.take_near(cpu, Zone::Dma, near, exact, order)
            }
            result => result,
        }
    }

    /// Clear the pages of a free block that contain data of others than `owner`.
    #[inline]
    fn prepare(&mut self, owner: P::Owner, page: u64, order: Order) -> Result<(), Event> {
        if self.pages.is_clear(Extent::new(page, order).frames()) {
            return Ok(());
        }
        let pages = page..page + order.pages();
        if order.pages() > self.machine.scrub_limit {
            let dirty = pages.clone().filter(|page| self.is_foreign(owner, *page)).count() as u64;
            if dirty > self.machine.scrub_limit {
                return Err(Event::TooMuchToScrub { frame: page, pages: dirty });
            }
        }
        for page in pages {
            if self.is_foreign(owner, page) {
                self.clear(page)?;
            }
        }
        Ok(())
    }

    /// Whether `page`, free, may contain data of others than `owner`.
    #[inline]
    fn is_foreign(&self, owner: P::Owner, page: u64) -> bool {
        !self.map.is_zeroized(page)
            && Frame::new(page).is_none_or(|frame| self.pages.owner(frame) != owner)
    }

    /// Number of free pages of the domain heap, without the emergency pool of the `dma` zone.
    /// Claimed pages count as free.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn avail_domheap_pages(&self) -> Result<u64, Event> {
        self.check_initialised()?;
        let dma = self.heap.free(Zone::Dma);
        Ok(self.heap.free(Zone::Dom) + dma.saturating_sub(self.machine.dma_emergency_pages))
    }

    /// Number of free pages of the `dma` zone's emergency pool.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn avail_dma_emergency_pages(&self) -> Result<u64, Event> {
        self.check_initialised()?;
        let dma = self.heap.free(Zone::Dma);
        Ok(dma.min(self.machine.dma_emergency_pages))
    }

    /// Free a block of `domain`, on the boot CPU. Pages of a live domain become free, with what
    /// they contain; those of a dying domain wait to be cleared. Its pages no longer count towards
    /// the domain's quota.
    ///
    /// # Errors
    /// With the block: [`Event::NotInitialised`]; if the handle was made from a number twice, what
    /// [`Self::domheap_block_at`] would say; [`Event::NotOwner`] for the first page of another
    /// domain or with references left ([`Event::StillReferenced`]).
    pub fn free_domheap_pages(
        &mut self,
        domain: &mut Domain<P::Owner>,
        block: DomainBlock,
    ) -> Result<(), Refused<DomainBlock>> {
        self.free_domheap_pages_on(Cpu(0), domain, block)
    }

    /// As [`Self::free_domheap_pages`], on `cpu`.
    ///
    /// # Errors
    /// Also [`Event::UnknownCpu`].
    pub fn free_domheap_pages_on(
        &mut self,
        cpu: Cpu,
        domain: &mut Domain<P::Owner>,
        block: DomainBlock,
    ) -> Result<(), Refused<DomainBlock>> {
        match self.free_assigned(cpu, domain, &block.0) {
            Ok(()) => Ok(()),
            Err(event) => Err(Refused::new(event, block)),
        }
    }

    #[inline]
    fn free_assigned(
        &mut self,
        cpu: Cpu,
        domain: &mut Domain<P::Owner>,
        block: &Extent,
    ) -> Result<(), Event> {
        self.check_initialised()?;
        self.check_cpu(cpu)?;
        let (page, order) = (block.page(), block.order());
        let index = self.check_assigned(page, order)?;
        let counted = self.records.get(page).is_counted();
        let all = self.pages.owner_of_all(block.frames());
        for frame in block.frames() {
            if all.unwrap_or_else(|| self.pages.owner(frame)) != domain.id() {
                return Err(Event::NotOwner { frame: frame.number() });
            }
            let references = self.records.get(frame.number()).references();
            if references > 1 {
                return Err(Event::StillReferenced { frame: frame.number(), references });
            }
        }
        if counted {
            domain.total_pages -= order.pages();
        }
        if domain.dying {
            self.set_pending(index, page, order);
        } else {
            self.records.set_pages(page, order, Record::NONE);
            self.put_near(cpu, index, page, order);
        }
        Ok(())
    }

    /// The handle of a domain's block that was kept by number.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::NotLegalAddress`]; [`Event::BadZone`] unless `page` is
    /// in the domain heap; [`Event::PagesNotAllocated`] if it is free; [`Event::ScrubPending`] if
    /// it waits to be cleared; [`Event::NotAssigned`]; [`Event::NoAddress`] if the domain's block
    /// does not start at `page` or is of another order.
    pub fn domheap_block_at(&self, page: Frame, order: Order) -> Result<DomainBlock, Event> {
        self.check_initialised()?;
        self.check_assigned(page.number(), order)?;
        Ok(DomainBlock(Extent::new(page.number(), order)))
    }

    /// Cut a domain's block into its two halves.
    ///
    /// # Errors
    /// With the block: [`Event::RequestTooLarge`] for a single page, and what
    /// [`Self::domheap_block_at`] says.
    pub fn split_domheap_block(
        &mut self,
        block: DomainBlock,
    ) -> Result<(DomainBlock, DomainBlock), Refused<DomainBlock>> {
        let (page, order) = (block.0.page(), block.0.order());
        let check = self.check_initialised().and_then(|()| self.check_assigned(page, order));
        if let Err(event) = check {
            return Err(Refused::new(event, block));
        }
        let Some(half) = order.half() else {
            return Err(Refused::new(Event::RequestTooLarge { request: 0 }, block));
        };
        let halves = [page, page + half.pages()];
        for page in halves {
            let record = self.records.get(page).with_head(half);
            self.records.set(page, record);
        }
        let [first, second] = halves.map(|page| DomainBlock(Extent::new(page, half)));
        Ok((first, second))
    }

    /// Take a further reference to a page of a domain, so that it cannot be freed.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NotLegalAddress`], [`Event::NotAssigned`],
    /// [`Event::TooManyReferences`].
    pub fn get_page(&mut self, page: Frame) -> Result<(), Event> {
        let (page, record) = self.assigned_record(page)?;
        let record = record.more().ok_or(Event::TooManyReferences { frame: page })?;
        self.records.set(page, record);
        Ok(())
    }

    /// Drop a reference taken by [`Self::get_page`].
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NotLegalAddress`], [`Event::NotAssigned`];
    /// [`Event::LastReference`] if there is none but the owner's.
    pub fn put_page(&mut self, page: Frame) -> Result<(), Event> {
        let (page, record) = self.assigned_record(page)?;
        let record = record.less().ok_or(Event::LastReference { frame: page })?;
        self.records.set(page, record);
        Ok(())
    }

    /// How many references there are to a page of a domain, with the owner's own.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NotLegalAddress`], [`Event::NotAssigned`].
    pub fn references(&self, page: Frame) -> Result<u32, Event> {
        self.assigned_record(page).map(|(_, record)| record.references())
    }

    fn assigned_record(&self, page: Frame) -> Result<(u64, Record), Event> {
        self.check_initialised()?;
        let page = page.number();
        self.check_legal(page)?;
        let record = self.records.get(page);
        if record.is_assigned() {
            Ok((page, record))
        } else {
            Err(Event::NotAssigned { frame: page })
        }
    }

    /// Reserve `pages` pages of the domain heap for `domain`, in place of what it had claimed
    /// before; none to give the claim up. Each page that it gets, counted towards its quota, takes
    /// one from the claim. Allocations for others leave claimed pages alone; a claim makes sure of
    /// single pages, not of larger blocks or of a node.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::DomainDying`]; [`Event::QuotaExceeded`];
    /// [`Event::ReservedByClaims`] if so much is not available.
    pub fn claim_pages(&mut self, domain: &mut Domain<P::Owner>, pages: u64) -> Result<(), Event> {
        self.check_initialised()?;
        let others = self.claimed - domain.claimed;
        if pages > 0 {
            if domain.dying {
                return Err(Event::DomainDying);
            }
            check_quota(domain, pages)?;
            let available = self.avail_domheap_pages()?;
            if available.checked_sub(others).is_none_or(|left| left < pages) {
                return Err(Event::ReservedByClaims { available, claimed: others });
            }
        }
        domain.claimed = pages;
        self.claimed = others + pages;
        Ok(())
    }

    /// Begin to take a domain down: its claim is given up, it gets no more memory, and what is
    /// freed of its memory from now on is cleared before anyone gets it. For a domain that is
    /// dying already, nothing changes.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn begin_dying(&mut self, domain: &mut Domain<P::Owner>) -> Result<(), Event> {
        self.claim_pages(domain, 0)?;
        domain.dying = true;
        Ok(())
    }

    /// Check that a block lies in the domain heap; its zone.
    fn check_domain_zone(&self, page: u64, order: Order) -> Result<Zone, Event> {
        self.check_legal_range(page, page + order.pages())?;
        match self.zone_of(page) {
            Some(zone) if zone.is_domain() => Ok(zone),
            zone => Err(bad_zone(page, zone)),
        }
    }

    /// Check that a block of this order that starts at `page` is assigned; its section.
    #[inline]
    fn check_assigned(&self, page: u64, order: Order) -> Result<usize, Event> {
        let record = self.records.get(page);
        if record.is_assigned()
            && record.head() == Some(order)
            && let Some(index) = self.heap.section_of(page)
        {
            return Ok(index);
        }
        Err(self.why_not_assigned(page, order))
    }

    /// What is wrong with a request for a domain's block that is none.
    #[cold]
    fn why_not_assigned(&self, page: u64, order: Order) -> Event {
        if let Err(event) = self.check_domain_zone(page, order) {
            return event;
        }
        let record = self.records.get(page);
        if record.is_assigned() {
            Event::NoAddress { frame: page }
        } else if record.is_pending() {
            Event::ScrubPending { frame: page }
        } else if self.is_free(page) {
            Event::PagesNotAllocated { frame: page }
        } else {
            Event::NotAssigned { frame: page }
        }
    }
}

/// Check that a domain may get a block.
#[inline]
fn check_domain<O: Copy>(
    domain: &Domain<O>,
    order: Order,
    flags: MemoryFlags,
) -> Result<(), Event> {
    if domain.is_dying() {
        return Err(Event::DomainDying);
    }
    if flags.no_refcount {
        return Ok(());
    }
    check_quota(domain, order.pages())
}

/// Check that a domain may get so many pages more.
#[inline]
fn check_quota<O: Copy>(domain: &Domain<O>, pages: u64) -> Result<(), Event> {
    let total = domain.total_pages().checked_add(pages);
    if total.is_none_or(|total| total > domain.max_pages()) {
        return Err(Event::QuotaExceeded {
            total_pages: domain.total_pages(),
            request: pages,
            max_pages: domain.max_pages(),
        });
    }
    Ok(())
}

/// Which of the pages from `start` to `end` are for which zone: at most two parts. Nothing else
/// knows that split.
fn domheap_parts(
    max_dma_page: u64,
    start: u64,
    end: u64,
) -> impl Iterator<Item = (Zone, u64, u64)> {
    let border = max_dma_page.saturating_add(1).clamp(start, end);
    [(Zone::Dma, start, border), (Zone::Dom, border, end)]
        .into_iter()
        .filter(|(_, start, end)| start < end)
}

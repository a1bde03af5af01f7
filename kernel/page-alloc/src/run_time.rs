//! Run-time allocator: how blocks of 2^order pages of a zone are found, split and merged.
//!
//! The secrets of its parts: `section` (which stretches of memory make up a zone), `buddy` (which
//! block is taken, how blocks split and merge) and `cpu_cache` (how common sizes come faster).
//!
//! Invariants: a page is in at most one of the free blocks, the CPUs' caches, and the holders'
//! blocks; what is free in a section was given to it; nothing merges across a section's ends.

pub(crate) mod buddy;
pub(crate) mod cpu_cache;
pub(crate) mod figures;
pub(crate) mod section;

use heliox_types::{Frame, FrameRange};

use self::cpu_cache::{HandedOut, Shelf};
use self::figures::{HeapFigures, ZoneFigures};
use self::section::Heap;
use crate::block::Extent;
use crate::event::{bad_zone, unknown_node};
use crate::page_map::PageMap;
use crate::{Cpu, Event, HeapBlock, Node, Order, PageAllocator, Pages, Phase, Refused, Zone};

/// What became of a page that was found bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offlined {
    /// It was free and is not any more.
    Removed,
    /// It is in use, and will not be handed out again when its holder frees it.
    InUse,
}

/// How far one step of clearing memory came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubStep {
    /// Pages cleared in this step.
    pub cleared: u64,
    /// Pages that the layer below would not clear now; they were passed over.
    pub refused: u64,
    /// Whether the work is done. For `scrub_heap_pages`, whether this step ended a pass over all
    /// memory.
    pub finished: bool,
}

/// Where a pass of `scrub_heap_pages` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubProgress {
    /// All pages before this one have been looked at.
    pub page: u64,
    /// Number of pages of the machine.
    pub max_page: u64,
    /// Pages cleared so far in this step.
    pub cleared: u64,
}

/// Groups of 64 pages that `scrub_heap_pages` looks at for each page of its budget.
const LOOK_AHEAD: u64 = 16;

impl<P: Pages> PageAllocator<'_, P> {
    /// Give the `count` pages from `page` on to `zone`, as free pages. Bad pages among them stay
    /// allocated and are counted.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::RequestTooLarge`] if the range overflows;
    /// [`Event::EmptyRange`]; [`Event::NotLegalAddress`]; [`Event::BadZone`] for the first page
    /// that is in a zone, for a page next to the range of which one is in `xen` and the other is
    /// not, and for pages amid another zone's; [`Event::PagesNotAllocated`] for the first page
    /// that is free; [`Event::HoldsMap`]; [`Event::TooManySections`].
    pub fn init_heap_pages(&mut self, zone: Zone, page: Frame, count: u64) -> Result<(), Event> {
        self.check_initialised()?;
        let start = page.number();
        let Some(end) = start.checked_add(count) else {
            return Err(Event::RequestTooLarge { request: count });
        };
        if count == 0 {
            return Err(Event::EmptyRange { start, end });
        }
        self.check_legal_range(start, end)?;
        self.check_new(zone, start, end)?;

        let saved = self.heap.save();
        if let Err(event) = self.place_new(zone, start, end) {
            self.heap.restore(&saved);
            return Err(event);
        }
        self.give_placed(start, end);
        Ok(())
    }

    /// Check that the pages from `start` to `end`, if put into `zone`, do not touch a zone that
    /// they must not touch.
    pub(crate) fn check_neighbours(&self, zone: Zone, start: u64, end: u64) -> Result<(), Event> {
        let neighbours = [start.checked_sub(1), Some(end)];
        for neighbour in neighbours.into_iter().flatten() {
            if let Some(other) = self.zone_of(neighbour)
                && (other == Zone::Xen) != (zone == Zone::Xen)
            {
                return Err(bad_zone(neighbour, Some(other)));
            }
        }
        Ok(())
    }

    /// Find sections for new pages of `zone`, node by node.
    pub(crate) fn place_new(&mut self, zone: Zone, start: u64, end: u64) -> Result<(), Event> {
        let bridge = self.phase == Phase::Running;
        let mut next = start;
        while next < end {
            let (node, stop) = self.machine.node_of(next);
            let stop = stop.min(end);
            self.heap.place(next, stop, zone, node, bridge)?;
            next = stop;
        }
        Ok(())
    }

    /// Give new pages to the sections that were found for them.
    pub(crate) fn give_placed(&mut self, start: u64, end: u64) {
        let mut next = start;
        while next < end {
            let Some((index, section)) = self.heap.section_around(next) else {
                return;
            };
            let stop = section.bounds.end.min(end);
            self.heap.give_new(&mut self.map, index, next, stop);
            next = stop;
        }
    }

    /// Whether the pages from `start` to `end` can be given to `zone`.
    pub(crate) fn check_new(&self, zone: Zone, start: u64, end: u64) -> Result<(), Event> {
        // Page by page only where there are sections: pages in none are in no zone.
        let first = self
            .heap
            .sections()
            .filter_map(|section| {
                let mut pages = start.max(section.bounds.start)..end.min(section.bounds.end);
                Some((pages.find(|page| self.is_in_heap(*page))?, section.zone))
            })
            .min();
        if let Some((page, actual)) = first {
            return Err(bad_zone(page, Some(actual)));
        }
        self.check_neighbours(zone, start, end)?;
        if let Some((first, _)) = self.map.first_free_from(start)
            && first < end
        {
            return Err(Event::PagesNotAllocated { frame: first.max(start) });
        }
        let own = start.max(self.own_pages.start);
        if own < end.min(self.own_pages.end) {
            return Err(Event::HoldsMap { frame: own });
        }
        Ok(())
    }

    /// Allocate a block of 2^order pages of `zone`, of the lowest node that has one. Nothing is
    /// known of its contents, and it belongs to no domain.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NoSuitableBlock`]; [`Event::Refused`] if pages of the
    /// domain zones cannot change their owner.
    pub fn alloc_heap_pages(&mut self, zone: Zone, order: Order) -> Result<HeapBlock, Event> {
        self.check_initialised()?;
        let page = self.take_block(zone, Node::ZERO, false, order)?;
        self.hold(zone, page, order)
    }

    /// As [`Self::alloc_heap_pages`], but through the cache of `cpu`, if that holds blocks of
    /// this order, and from the CPU's node if that has one.
    ///
    /// # Errors
    /// Also [`Event::UnknownCpu`].
    pub fn alloc_heap_pages_on(
        &mut self,
        cpu: Cpu,
        zone: Zone,
        order: Order,
    ) -> Result<HeapBlock, Event> {
        // The hypervisor's memory keeps its owner.
        if !zone.is_domain()
            && let Some(cache) = self.caches.get_mut(cpu.0)
            && let Some(HandedOut { page, fresh }) =
                cache.shelf(zone, order).and_then(Shelf::hand_out)
        {
            self.heap.count_uncached(zone, order);
            if fresh {
                self.map.forget_zeroized(page, order);
            }
            self.map.set_held(page, order, true);
            return Ok(HeapBlock(Extent::new(page, order)));
        }
        self.alloc_heap_pages_slowly(cpu, zone, order)
    }

    /// The rest of [`Self::alloc_heap_pages_on`].
    #[inline(never)]
    fn alloc_heap_pages_slowly(
        &mut self,
        cpu: Cpu,
        zone: Zone,
        order: Order,
    ) -> Result<HeapBlock, Event> {
        self.check_initialised()?;
        let node = self.check_cpu(cpu)?;
        let page = self.take_near(cpu, zone, node, false, order)?;
        self.hold(zone, page, order)
    }

    /// Make a block that was just taken a held block.
    #[inline]
    pub(crate) fn hold(&mut self, zone: Zone, page: u64, order: Order) -> Result<HeapBlock, Event> {
        let extent = Extent::new(page, order);
        if zone.is_domain()
            && let Err(frame) = self.pages.set_owner(extent.frames(), P::HYPERVISOR)
        {
            self.put_block(page, order);
            return Err(Event::Refused { frame: frame.number() });
        }
        self.map.forget_zeroized(page, order);
        self.map.set_held(page, order, true);
        Ok(HeapBlock(extent))
    }

    /// Free a block of `zone`. Its pages may be handed out again, but contain what they did.
    ///
    /// # Errors
    /// With the block: [`Event::NotInitialised`]; [`Event::BadZone`]; and if the handle was made
    /// from a number twice, what [`Self::heap_block_at`] would say.
    pub fn free_heap_pages(
        &mut self,
        zone: Zone,
        block: HeapBlock,
    ) -> Result<(), Refused<HeapBlock>> {
        let (page, order) = (block.0.page(), block.0.order());
        match self.check_held(zone, page, order) {
            Ok(index) => {
                self.map.set_held(page, order, false);
                self.heap.give(&mut self.map, index, page, order);
                Ok(())
            }
            Err(event) => Err(Refused::new(event, block)),
        }
    }

    /// As [`Self::free_heap_pages`], but through the cache of `cpu` if that holds blocks of this
    /// order.
    ///
    /// # Errors
    /// Also [`Event::UnknownCpu`].
    pub fn free_heap_pages_on(
        &mut self,
        cpu: Cpu,
        zone: Zone,
        block: HeapBlock,
    ) -> Result<(), Refused<HeapBlock>> {
        if self.shelve_held(cpu, zone, block.0.page(), block.0.order()) {
            return Ok(());
        }
        self.free_heap_pages_slowly(cpu, zone, block)
    }

    /// The rest of [`Self::free_heap_pages_on`]: the block is no cache's, or it is wrong.
    #[inline(never)]
    fn free_heap_pages_slowly(
        &mut self,
        cpu: Cpu,
        zone: Zone,
        block: HeapBlock,
    ) -> Result<(), Refused<HeapBlock>> {
        match self.check_initialised().and_then(|()| self.check_cpu(cpu)) {
            Ok(_) => self.free_heap_pages(zone, block),
            Err(event) => Err(Refused::new(event, block)),
        }
    }

    /// Check that a block of `zone` is held; its section.
    #[inline]
    pub(crate) fn check_held(&self, zone: Zone, page: u64, order: Order) -> Result<usize, Event> {
        self.check_initialised()?;
        self.check_legal_range(page, page + order.pages())?;
        let Some((index, section)) = self.heap.section_around(page) else {
            return Err(bad_zone(page, None));
        };
        if section.zone != zone {
            return Err(bad_zone(page, self.zone_of(page)));
        }
        if self.map.is_held(page, order) { Ok(index) } else { Err(self.why_not_held(page, order)) }
    }

    /// What is wrong with a request for a held block that is none. Its pages are legal, and the
    /// first lies in a section of the right zone.
    #[cold]
    fn why_not_held(&self, page: u64, order: Order) -> Event {
        if !self.is_in_heap(page) {
            return bad_zone(page, None);
        }
        let in_blocks = self.map.first_free_from(page).map(|(first, _)| first);
        let in_caches = self.caches.iter().filter_map(|cache| cache.first_from(page));
        let first = in_caches.chain(in_blocks).min();
        if let Some(frame) = first.filter(|first| *first < page + order.pages()) {
            let frame = frame.max(page);
            return Event::PagesNotAllocated { frame };
        }
        let record = self.records.get(page);
        if record.is_pending() {
            Event::ScrubPending { frame: page }
        } else if record.is_assigned() {
            Event::NotOwner { frame: page }
        } else {
            Event::NoAddress { frame: page }
        }
    }

    /// The handle of a block of `zone` that was kept by number.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::NotLegalAddress`]; [`Event::BadZone`]; otherwise, if no
    /// block of this order is held at `page`: [`Event::PagesNotAllocated`] if one of its pages is
    /// free, [`Event::ScrubPending`] if `page` waits to be cleared, [`Event::NotOwner`] if it
    /// belongs to a domain, or [`Event::NoAddress`].
    pub fn heap_block_at(&self, zone: Zone, page: Frame, order: Order) -> Result<HeapBlock, Event> {
        self.check_held(zone, page.number(), order)?;
        Ok(HeapBlock(Extent::new(page.number(), order)))
    }

    /// Cut a block into its two halves.
    ///
    /// # Errors
    /// With the block: [`Event::RequestTooLarge`] for a single page, and what
    /// [`Self::heap_block_at`] says.
    pub fn split_heap_block(
        &mut self,
        zone: Zone,
        block: HeapBlock,
    ) -> Result<(HeapBlock, HeapBlock), Refused<HeapBlock>> {
        let (page, order) = (block.0.page(), block.0.order());
        if let Err(event) = self.check_held(zone, page, order) {
            return Err(Refused::new(event, block));
        }
        let Some(half) = order.half() else {
            return Err(Refused::new(Event::RequestTooLarge { request: 0 }, block));
        };
        let second = page + half.pages();
        self.map.set_held(page, order, false);
        self.map.set_held(page, half, true);
        self.map.set_held(second, half, true);
        Ok((HeapBlock(Extent::new(page, half)), HeapBlock(Extent::new(second, half))))
    }

    /// Number of free pages of `zone`, or of all zones, with those in CPUs' caches.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn avail_heap_pages(&self, zone: Option<Zone>) -> Result<u64, Event> {
        self.check_initialised()?;
        Ok(match zone {
            Some(zone) => self.heap.free(zone),
            None => Zone::ALL.iter().map(|zone| self.heap.free(*zone)).sum(),
        })
    }

    /// Number of free pages of `zone` on `node`, with those in CPUs' caches.
    ///
    /// # Errors
    /// [`Event::NotInitialised`]; [`Event::UnknownNode`] if no memory of the machine is near it.
    pub fn avail_heap_pages_on(&self, zone: Zone, node: Node) -> Result<u64, Event> {
        self.check_initialised()?;
        self.check_node(node)?;
        let in_blocks: u64 = self
            .heap
            .sections()
            .filter(|section| section.zone == zone && section.node == node)
            .map(|section| section.blocks.pages())
            .sum();
        // A cache holds pages of its own node only.
        let in_caches: u64 = self
            .caches
            .iter()
            .filter(|cache| cache.node() == node)
            .map(|cache| cache.pages(zone))
            .sum();
        Ok(in_blocks + in_caches)
    }

    /// Clear free pages of the heaps, at most `budget` of them, going on where the last call
    /// stopped. After a whole pass in which none was refused, every page is zeroized that was
    /// free all the time. CPUs' caches are drained first. `progress` is called after each group of up to 64 pages in which one was cleared.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn scrub_heap_pages(
        &mut self,
        budget: u64,
        mut progress: impl FnMut(ScrubProgress),
    ) -> Result<ScrubStep, Event> {
        // What caches hold is cleared, too.
        self.drain_caches()?;
        let max_page = self.map.max_page();
        let mut step = ScrubStep { cleared: 0, refused: 0, finished: false };
        for _ in 0..budget.saturating_mul(LOOK_AHEAD) {
            let word = self.scrub_cursor & !63;
            let behind = u64::MAX << (self.scrub_cursor & 63);
            let dirty = self.map.free_among_64(word) & !self.map.zeroized_among_64(word) & behind;
            let before = step.cleared;
            for bit in (0..64).filter(|bit| dirty >> bit & 1 != 0) {
                if step.cleared + step.refused == budget {
                    return Ok(step);
                }
                self.scrub_cursor = word + bit + 1;
                // Free pages of the boot-time allocator are in no heap.
                if self.heap.section_of(word + bit).is_none() {
                    continue;
                }
                match self.clear(word + bit) {
                    Ok(()) => step.cleared += 1,
                    Err(_) => step.refused += 1,
                }
            }
            self.scrub_cursor = word + 64;
            if step.cleared != before {
                progress(ScrubProgress {
                    page: self.scrub_cursor.min(max_page),
                    max_page,
                    cleared: step.cleared,
                });
            }
            if self.scrub_cursor >= max_page {
                self.scrub_cursor = 0;
                step.finished = true;
                return Ok(step);
            }
        }
        Ok(step)
    }

    /// Figures about each zone and node: pages free, waiting to be cleared, bad and allocated, and
    /// free blocks by order.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn dump_heap(&self) -> Result<HeapFigures, Event> {
        self.check_initialised()?;
        let mut figures = HeapFigures { claimed: self.claimed, ..HeapFigures::default() };
        for section in self.heap.sections() {
            let free = section.blocks.pages();
            let sum = ZoneFigures {
                pages: section.pages,
                free,
                cached: 0,
                scrub_pending: section.pending,
                bad: section.bad,
                allocated: section.pages - free - section.pending - section.bad,
                failing: section.failing,
                free_blocks: section.blocks.counts(),
            };
            if let Some(entry) = figures.entry(section.zone, section.node) {
                entry.add(&sum);
            }
        }
        for cache in self.caches.iter() {
            for zone in Zone::ALL {
                let cached = cache.pages(zone);
                if let Some(entry) = figures.entry(zone, cache.node()) {
                    entry.cached += cached;
                    entry.free += cached;
                    entry.allocated -= cached;
                }
            }
        }
        Ok(figures)
    }

    /// Never hand `page` out again: it is bad. Known bad pages are best named before
    /// `init_boot_pages`.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NotLegalAddress`]; [`Event::BadPage`] if that was known.
    pub fn offline_page(&mut self, page: Frame) -> Result<Offlined, Event> {
        self.check_initialised()?;
        let page = page.number();
        self.check_legal(page)?;
        if self.map.is_bad(page) {
            return Err(Event::BadPage { frame: page });
        }
        let in_heap = self.is_in_heap(page);
        let section = self.heap.section_of(page);
        self.bad_pages += 1;
        let mut caches = self.caches.iter_mut();
        if let Some((first, order)) = caches.find_map(|cache| cache.remove(page)) {
            // Into the free blocks, to be taken out like any other.
            self.heap.uncache(&mut self.map, first, order);
        }
        let free = self.is_free(page);
        self.map.mark_bad(page);
        match section {
            Some(index) if free => self.heap.retire(&mut self.map, index, page),
            Some(index) if in_heap => {
                if let Some(section) = self.heap.section_mut(index) {
                    section.failing += 1;
                }
            }
            None if free => self.boot_blocks.take_range(&mut self.map, page, page + 1),
            _ => {}
        }
        Ok(if free { Offlined::Removed } else { Offlined::InUse })
    }

    /// Number of pages known to be bad.
    #[must_use]
    pub const fn bad_pages(&self) -> u64 {
        self.bad_pages
    }

    /// Give back to the free blocks all that CPUs' caches hold, to be merged.
    ///
    /// # Errors
    /// [`Event::NotInitialised`].
    pub fn drain_caches(&mut self) -> Result<(), Event> {
        self.check_initialised()?;
        for zone in Zone::ALL {
            self.drain(zone);
        }
        Ok(())
    }

    /// Authority over the frames of a block of the domain zones, lent to its holder.
    pub fn region(&self, frames: FrameRange) -> P::Region {
        self.pages.region(frames)
    }

    /// Take a block of `zone`, from `near` if that node has one and otherwise, unless `exact`,
    /// from the lowest that has; from the caches if need be. Only its being taken is noted.
    #[inline]
    pub(crate) fn take_block(
        &mut self,
        zone: Zone,
        near: Node,
        exact: bool,
        order: Order,
    ) -> Result<u64, Event> {
        if let Some(page) = self.heap.take(&mut self.map, zone, near, order) {
            return Ok(page);
        }
        self.take_elsewhere(zone, near, exact, order)
    }

    /// The rest of [`Self::take_block`].
    #[cold]
    fn take_elsewhere(
        &mut self,
        zone: Zone,
        near: Node,
        exact: bool,
        order: Order,
    ) -> Result<u64, Event> {
        if !exact && let Some(page) = self.take_from_any(zone, near, order) {
            return Ok(page);
        }
        if self.drain(zone) {
            if let Some(page) = self.heap.take(&mut self.map, zone, near, order) {
                return Ok(page);
            }
            if !exact && let Some(page) = self.take_from_any(zone, near, order) {
                return Ok(page);
            }
        }
        Err(Event::NoSuitableBlock { request: u64::from(order.number()) })
    }

    /// Take a block from the lowest node but `except` that has one.
    fn take_from_any(&mut self, zone: Zone, except: Node, order: Order) -> Option<u64> {
        (0..self.nodes)
            .filter_map(|number| Node::new(number).ok())
            .filter(|node| *node != except)
            .find_map(|node| self.heap.take(&mut self.map, zone, node, order))
    }

    /// As [`Self::take_block`], but from the cache of `cpu` if that holds such blocks.
    #[inline]
    pub(crate) fn take_near(
        &mut self,
        cpu: Cpu,
        zone: Zone,
        near: Node,
        exact: bool,
        order: Order,
    ) -> Result<u64, Event> {
        if let Some(page) = self.take_cached(cpu, zone, near, order) {
            return Ok(page);
        }
        self.take_block(zone, near, exact, order)
    }

    /// Take a block out of the cache of `cpu`, if the CPU is of `node`.
    #[inline]
    fn take_cached(&mut self, cpu: Cpu, zone: Zone, node: Node, order: Order) -> Option<u64> {
        let cache = self.caches.get_mut(cpu.0)?;
        if cache.node() != node {
            return None;
        }
        let page = match cache.shelf(zone, order)?.hand_out() {
            Some(block) => block.page,
            None => self.exchange(cpu, zone, node, order)?,
        };
        self.heap.count_uncached(zone, order);
        Some(page)
    }

    /// Fill a shelf of the cache of `cpu` anew, with the lowest blocks; one of them, still counted
    /// as cached.
    #[cold]
    fn exchange(&mut self, cpu: Cpu, zone: Zone, node: Node, order: Order) -> Option<u64> {
        let shelf = self.caches.get_mut(cpu.0)?.shelf(zone, order)?;
        put_back(&mut self.heap, &mut self.map, shelf, u64::MAX);
        let mut room = shelf.batch() << order.number();
        while room > 0 {
            // Larger ones, to save splitting them one by one.
            let Some((first, taken)) = self.heap.take_up_to(&mut self.map, zone, node, order, room)
            else {
                break;
            };
            self.heap.count_cached(zone, taken);
            for part in 0..taken.pages() >> order.number() {
                let page = first + (part << order.number());
                shelf.push(page);
            }
            room -= taken.pages();
        }
        shelf.renew();
        shelf.hand_out().map(|block| block.page)
    }

    /// Put a block back that was taken.
    pub(crate) fn put_block(&mut self, page: u64, order: Order) {
        if let Some(index) = self.heap.section_of(page) {
            self.heap.give(&mut self.map, index, page, order);
        }
    }

    /// As [`Self::put_block`], for a block of section `index`, but into the cache of `cpu` if that
    /// holds such blocks.
    #[inline]
    pub(crate) fn put_near(&mut self, cpu: Cpu, index: usize, page: u64, order: Order) {
        if !self.put_cached(cpu, index, page, order) {
            self.heap.give(&mut self.map, index, page, order);
        }
    }

    /// Put a block into the cache of `cpu`, if that holds such blocks, the CPU is of its node, and
    /// no page of the section is to be kept back; whether it is there now.
    #[inline]
    fn put_cached(&mut self, cpu: Cpu, index: usize, page: u64, order: Order) -> bool {
        let Some(section) = self.heap.section(index) else {
            return false;
        };
        let (zone, node, failing) = (section.zone, section.node, section.failing);
        let Some(cache) = self.caches.get_mut(cpu.0) else {
            return false;
        };
        if cache.node() != node || failing != 0 {
            return false;
        }
        let Some(shelf) = cache.shelf(zone, order) else {
            return false;
        };
        if shelf.is_full() {
            let batch = shelf.batch();
            put_back(&mut self.heap, &mut self.map, shelf, batch);
        }
        shelf.push(page);
        shelf.freshen();
        self.heap.count_cached(zone, order);
        true
    }

    /// Move a block of `zone` from its holder into the cache of `cpu`, if it is held and
    /// [`Self::put_cached`] would put it there; whether it is there now. If not, nothing
    /// changed.
    #[inline]
    fn shelve_held(&mut self, cpu: Cpu, zone: Zone, page: u64, order: Order) -> bool {
        let Some(cache) = self.caches.get_mut(cpu.0) else {
            return false;
        };
        let node = cache.node();
        let Some(shelf) = cache.shelf(zone, order) else {
            return false;
        };
        let Some((index, section)) = self.heap.section_around(page) else {
            return false;
        };
        if section.zone != zone || section.node != node || section.failing != 0 {
            return false;
        }
        if !self.map.take_held(page, order) {
            return false;
        }
        if shelf.is_full() {
            if order != Order::ZERO {
                self.heap.give(&mut self.map, index, page, order);
                return true;
            }
            let batch = shelf.batch();
            put_back(&mut self.heap, &mut self.map, shelf, batch);
        }
        shelf.push(page);
        self.heap.count_cached(zone, order);
        true
    }

    /// Put back what all caches hold of `zone`; whether they held anything.
    fn drain(&mut self, zone: Zone) -> bool {
        let mut any = false;
        for cache in self.caches.iter_mut() {
            for shelf in cache.shelves(zone) {
                any |= !shelf.is_empty();
                put_back(&mut self.heap, &mut self.map, shelf, u64::MAX);
            }
        }
        any
    }

    /// Whether `page` is in a CPU's cache.
    pub(crate) fn is_cached(&self, page: u64) -> bool {
        self.caches.iter().any(|cache| cache.contains(page))
    }

    /// Whether `page` is free: in a free block or a CPU's cache.
    pub(crate) fn is_free(&self, page: u64) -> bool {
        self.map.free_block_around(page).is_some() || self.is_cached(page)
    }

    /// Whether `page` is in a zone: free there, held, assigned, waiting to be cleared, or bad.
    pub(crate) fn is_in_heap(&self, page: u64) -> bool {
        self.heap.section_of(page).is_some()
            && (self.map.free_block_around(page).is_some()
                || self.map.is_retired(page)
                || self.records.get(page).is_known()
                || self.map.held_block_around(page).is_some()
                || self.is_cached(page))
    }

    /// The zone that `page` is in.
    pub(crate) fn zone_of(&self, page: u64) -> Option<Zone> {
        let (_, section) = self.heap.section_around(page)?;
        self.is_in_heap(page).then_some(section.zone)
    }

    /// Check that the machine has memory near `node`.
    pub(crate) fn check_node(&self, node: Node) -> Result<(), Event> {
        if node.number() < self.nodes as usize { Ok(()) } else { Err(unknown_node(node)) }
    }

    /// The node of `cpu`.
    #[inline]
    pub(crate) fn check_cpu(&self, cpu: Cpu) -> Result<Node, Event> {
        match self.caches.get(cpu.0) {
            Some(cache) => Ok(cache.node()),
            None => Err(Event::UnknownCpu { number: cpu.0 }),
        }
    }

    /// Clear a page and remember that.
    pub(crate) fn clear(&mut self, page: u64) -> Result<(), Event> {
        let refused = Event::Refused { frame: page };
        let frame = Frame::new(page).ok_or(refused)?;
        self.pages.clear(frame).map_err(|_| refused)?;
        self.map.mark_zeroized(page);
        Ok(())
    }
}

/// Put back what `shelf` held longest: `count` blocks, or all that it holds.
#[inline(never)]
fn put_back(heap: &mut Heap, map: &mut PageMap<'_>, shelf: &mut Shelf, count: u64) {
    let (blocks, order) = (shelf.oldest(count), shelf.order());
    // The map of their places may not be in the processor's caches. Asked for at once, it comes
    // sooner than block by block.
    for page in blocks {
        map.look_ahead(u64::from(*page), order);
    }
    for page in blocks {
        heap.uncache(map, u64::from(*page), order);
    }
    shelf.drop_oldest(count);
}

//! Sections: which stretches of memory make up a zone.
//!
//! The secret: a page's zone and node are not recorded with the page. Memory is cut into at most
//! [`MAX_SECTIONS`] stretches, each of one zone and one node, that do not overlap; a page's zone
//! is that of the section it lies in. Each section has its own free blocks, and nothing merges
//! across its ends. Once the boot-time allocator has ended, a section may have holes: pages that
//! were never given to the heap, are in no zone, and can be given to this zone and node only.

use crate::environment::{MAX_NODES, ZONES};
use crate::event::bad_zone;
use crate::page_map::PageMap;
use crate::run_time::buddy::{Bounds, FreeBlocks};
use crate::{Event, Node, Order, Zone};

/// Most sections. Eight nodes with two zones each need 16, and the `xen` zone cuts one in two.
pub const MAX_SECTIONS: usize = 32;

/// A stretch of memory in one zone and node.
#[derive(Clone, Copy)]
pub(crate) struct Section {
    pub(crate) bounds: Bounds,
    pub(crate) zone: Zone,
    pub(crate) node: Node,
    pub(crate) blocks: FreeBlocks,
    /// Pages ever given to the section.
    pub(crate) pages: u64,
    /// Pages that wait to be cleared.
    pub(crate) pending: u64,
    /// Bad pages that nobody holds.
    pub(crate) bad: u64,
    /// Bad pages that somebody still holds.
    pub(crate) failing: u64,
}

impl Section {
    const UNUSED: Self = Self {
        bounds: Bounds { start: 0, end: 0 },
        zone: Zone::Xen,
        node: Node::ZERO,
        blocks: FreeBlocks::new(),
        pages: 0,
        pending: 0,
        bad: 0,
        failing: 0,
    };
}

/// All sections, and sums over them.
pub(crate) struct Heap {
    /// Ends of the sections, apart from them, so that a search touches few cache lines.
    bounds: [Bounds; MAX_SECTIONS],
    sections: [Section; MAX_SECTIONS],
    count: usize,
    /// By zone and node, the set of its sections.
    members: [[u32; MAX_NODES]; ZONES],
    /// By zone, free pages, with those in CPUs' caches.
    free: [u64; ZONES],
}

/// The sections as they were before some were placed.
pub(crate) struct Saved {
    bounds: [Bounds; MAX_SECTIONS],
    members: [[u32; MAX_NODES]; ZONES],
    count: usize,
}

impl Heap {
    /// No sections.
    pub(crate) const fn new() -> Self {
        Self {
            bounds: [Bounds { start: 0, end: 0 }; MAX_SECTIONS],
            sections: [Section::UNUSED; MAX_SECTIONS],
            count: 0,
            members: [[0; MAX_NODES]; ZONES],
            free: [0; ZONES],
        }
    }

    /// The section that `page` lies in.
    #[inline]
    pub(crate) fn section_of(&self, page: u64) -> Option<usize> {
        // Unused entries are empty.
        self.bounds
            .iter()
            .position(|bounds| page.wrapping_sub(bounds.start) < bounds.end - bounds.start)
    }

    pub(crate) fn section(&self, index: usize) -> Option<&Section> {
        self.sections.get(index)
    }

    pub(crate) fn section_mut(&mut self, index: usize) -> Option<&mut Section> {
        self.sections.get_mut(index)
    }

    /// All sections.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().take(self.count)
    }

    /// The section around `page`, if any, and its place.
    #[inline]
    pub(crate) fn section_around(&self, page: u64) -> Option<(usize, &Section)> {
        let index = self.section_of(page)?;
        Some((index, self.sections.get(index)?))
    }

    /// Free pages of `zone`.
    #[inline]
    pub(crate) fn free(&self, zone: Zone) -> u64 {
        self.free.get(zone.index()).copied().unwrap_or(0)
    }

    /// The first page from `start` to `end` that lies in a section, and its zone.
    pub(crate) fn first_zone_in(&self, start: u64, end: u64) -> Option<(u64, Zone)> {
        self.sections()
            .filter(|section| section.bounds.start < end && start < section.bounds.end)
            .map(|section| (section.bounds.start.max(start), section.zone))
            .min()
    }

    /// The stretch around `page`, which lies in no section, that no section reaches into.
    pub(crate) fn gap_around(&self, page: u64, max_page: u64) -> Bounds {
        let mut gap = Bounds { start: 0, end: max_page };
        for bounds in self.bounds.iter().take(self.count) {
            if bounds.end <= page {
                gap.start = gap.start.max(bounds.end);
            } else {
                gap.end = gap.end.min(bounds.start);
            }
        }
        gap
    }

    /// The section that the pages from `start` to `end` are to belong to: an old one made longer,
    /// or a new one. With `bridge`, one may be made longer upwards across pages of no section.
    ///
    /// # Errors
    /// [`Event::BadZone`] if the pages lie in a section of another zone or node;
    /// [`Event::TooManySections`].
    pub(crate) fn place(
        &mut self,
        start: u64,
        end: u64,
        zone: Zone,
        node: Node,
        bridge: bool,
    ) -> Result<usize, Event> {
        let members = self.set(zone, node);
        for index in Members(members) {
            let Some(old) = self.bounds.get(index).copied() else {
                continue;
            };
            let joined = Bounds { start: start.min(old.start), end: end.max(old.end) };
            let near = start <= old.end && old.start <= end;
            if (near || bridge && old.end < start) && !self.reached(joined, Some(index)) {
                self.set_bounds(index, joined);
                return Ok(index);
            }
        }
        let bounds = Bounds { start, end };
        if self.reached(bounds, None) {
            let (frame, actual) = self.first_zone_in(start, end).unzip();
            return Err(bad_zone(frame.unwrap_or(start), actual));
        }
        let index = self.count;
        let Some(section) = self.sections.get_mut(index) else {
            return Err(Event::TooManySections);
        };
        *section = Section { zone, node, ..Section::UNUSED };
        self.count += 1;
        self.set_bounds(index, bounds);
        if let Some(set) =
            self.members.get_mut(zone.index()).and_then(|nodes| nodes.get_mut(node.number()))
        {
            *set |= 1 << index;
        }
        Ok(index)
    }

    /// What [`Self::place`] changes.
    pub(crate) const fn save(&self) -> Saved {
        Saved { bounds: self.bounds, members: self.members, count: self.count }
    }

    /// Undo what was placed since, while no page was given to it.
    pub(crate) fn restore(&mut self, saved: &Saved) {
        self.bounds = saved.bounds;
        self.members = saved.members;
        self.count = saved.count;
        for (section, bounds) in self.sections.iter_mut().zip(&saved.bounds) {
            section.bounds = *bounds;
        }
    }

    fn set_bounds(&mut self, index: usize, bounds: Bounds) {
        if let Some(section) = self.sections.get_mut(index) {
            section.bounds = bounds;
        }
        if let Some(slot) = self.bounds.get_mut(index) {
            *slot = bounds;
        }
    }

    /// Whether a section other than `except` has a page within `bounds`.
    fn reached(&self, bounds: Bounds, except: Option<usize>) -> bool {
        self.bounds.iter().take(self.count).enumerate().any(|(index, other)| {
            Some(index) != except && other.start < bounds.end && bounds.start < other.end
        })
    }

    #[inline]
    fn set(&self, zone: Zone, node: Node) -> u32 {
        self.members
            .get(zone.index())
            .and_then(|nodes| nodes.get(node.number()))
            .copied()
            .unwrap_or(0)
    }

    /// The section of `zone` and `node` with the smallest free block of at least `order`, and that
    /// block's order.
    #[inline]
    fn best(&self, zone: Zone, node: Node, order: Order) -> Option<(Order, usize)> {
        let mut best = None;
        for index in Members(self.set(zone, node)) {
            if let Some(found) = self.sections.get(index)?.blocks.smallest(order)
                && best.is_none_or(|(smallest, _)| found < smallest)
            {
                best = Some((found, index));
            }
        }
        best
    }

    /// Take a block out of `zone` and `node`. Nothing else is noted of it.
    #[inline]
    pub(crate) fn take(
        &mut self,
        map: &mut PageMap<'_>,
        zone: Zone,
        node: Node,
        order: Order,
    ) -> Option<u64> {
        let (found, index) = self.best(zone, node, order)?;
        self.take_from(map, index, found, order)
    }

    /// Take the smallest block of at least `least` out of `zone` and `node`, or a part of it of at
    /// most `most` pages, which are not fewer; its first page and order.
    pub(crate) fn take_up_to(
        &mut self,
        map: &mut PageMap<'_>,
        zone: Zone,
        node: Node,
        least: Order,
        most: u64,
    ) -> Option<(u64, Order)> {
        let (found, index) = self.best(zone, node, least)?;
        let order = found.min(Order::largest(0, most));
        let page = self.take_from(map, index, found, order)?;
        Some((page, order))
    }

    /// Take a block of `order` out of a block of order `found` of section `index`.
    #[inline]
    fn take_from(
        &mut self,
        map: &mut PageMap<'_>,
        index: usize,
        found: Order,
        order: Order,
    ) -> Option<u64> {
        let section = self.sections.get_mut(index)?;
        let page = section.blocks.take(map, found, order)?;
        *self.free.get_mut(section.zone.index())? -= order.pages();
        Some(page)
    }

    /// Put the block of section `index` that starts at `page` back; bad pages stay out.
    #[inline]
    pub(crate) fn give(&mut self, map: &mut PageMap<'_>, index: usize, page: u64, order: Order) {
        let Some(section) = self.sections.get_mut(index) else {
            return;
        };
        let Some(free) = self.free.get_mut(section.zone.index()) else {
            return;
        };
        if section.failing == 0 {
            *free += order.pages();
            section.blocks.give(map, section.bounds, page, order);
        } else {
            let bad = give_good(map, section, page, page + order.pages());
            section.failing -= bad;
            section.bad += bad;
            *free += order.pages() - bad;
        }
    }

    /// Give the pages from `start` to `end` to section `index` for the first time.
    pub(crate) fn give_new(&mut self, map: &mut PageMap<'_>, index: usize, start: u64, end: u64) {
        let Some(section) = self.sections.get_mut(index) else {
            return;
        };
        let bad = give_good(map, section, start, end);
        section.pages += end - start;
        section.bad += bad;
        if let Some(free) = self.free.get_mut(section.zone.index()) {
            *free += end - start - bad;
        }
    }

    /// Note that a block of `zone` moved into a CPU's cache, from the free blocks or a holder.
    #[inline]
    pub(crate) fn count_cached(&mut self, zone: Zone, order: Order) {
        if let Some(free) = self.free.get_mut(zone.index()) {
            *free += order.pages();
        }
    }

    /// Note that a block of `zone` moved out of a CPU's cache, to the free blocks or a holder.
    #[inline]
    pub(crate) fn count_uncached(&mut self, zone: Zone, order: Order) {
        if let Some(free) = self.free.get_mut(zone.index()) {
            *free -= order.pages();
        }
    }

    /// Put the block at `page`, which just left a CPU's cache, back; it was counted as free.
    #[inline]
    pub(crate) fn uncache(&mut self, map: &mut PageMap<'_>, page: u64, order: Order) {
        let Some(index) = self.section_of(page) else {
            return;
        };
        let Some(section) = self.sections.get_mut(index) else {
            return;
        };
        if section.failing == 0 {
            section.blocks.give(map, section.bounds, page, order);
        } else {
            let zone = section.zone;
            self.count_uncached(zone, order);
            self.give(map, index, page, order);
        }
    }

    /// Take `page`, which went bad while in a free block, out of section `index`.
    pub(crate) fn retire(&mut self, map: &mut PageMap<'_>, index: usize, page: u64) {
        if let Some(section) = self.sections.get_mut(index) {
            section.blocks.take_range(map, page, page + 1);
            map.mark_retired(page);
            section.bad += 1;
            if let Some(free) = self.free.get_mut(section.zone.index()) {
                *free -= 1;
            }
        }
    }
}

/// Put the pages from `start` to `end` into the section's free blocks, but for the bad ones;
/// their number.
fn give_good(map: &mut PageMap<'_>, section: &mut Section, start: u64, end: u64) -> u64 {
    let mut bad = 0;
    let mut next = start;
    while next < end {
        let stop = map.first_bad(next).map_or(end, |page| page.min(end));
        section.blocks.give_range(map, section.bounds, next, stop);
        if stop < end {
            map.mark_retired(stop);
            bad += 1;
        }
        next = stop + 1;
    }
    bad
}

/// The members of a set of sections, in rising order.
struct Members(u32);

impl Iterator for Members {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let first = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(first)
    }
}

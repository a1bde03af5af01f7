//! Boot-time allocator: how memory is handed out before the heaps exist.
//!
//! The secret: it hands out the free blocks that the page map keeps outside the heaps, lowest
//! address first, without zones or owners. What it hands out is never freed by itself; what is
//! free when it ends goes to the domain heap.

use heliox_types::{Frame, FrameRange, PhysicalAddress};

use crate::{Event, PageAllocator, Pages, Phase};

impl<P: Pages> PageAllocator<'_, P> {
    /// Make the whole pages between the byte addresses `start` and `end` free, but for bad pages
    /// and those that hold the allocator's records. Returns how many became free.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::BootEnded`], [`Event::EmptyRange`],
    /// [`Event::NotLegalAddress`]; [`Event::BadZone`] for the first page that is in a zone;
    /// [`Event::PagesNotAllocated`] for the first page that is free.
    pub fn init_boot_pages(
        &mut self,
        start: PhysicalAddress,
        end: PhysicalAddress,
    ) -> Result<u64, Event> {
        self.check_boot()?;
        let (start, end) = whole_pages(start, end)?;
        self.check_legal_range(start, end)?;
        if let Some((frame, zone)) = self.heap.first_zone_in(start, end) {
            return Err(crate::event::bad_zone(frame, Some(zone)));
        }
        if let Some((first, _)) = self.map.first_free_from(start)
            && first < end
        {
            return Err(Event::PagesNotAllocated { frame: first.max(start) });
        }
        let before = self.boot_blocks.pages();
        let own = self.own_pages.clone();
        self.free_good(start, end.min(own.start));
        self.free_good(start.max(own.end), end);
        Ok(self.boot_blocks.pages() - before)
    }

    /// Free the pages from `start` to `end`, if any, but for the bad ones.
    fn free_good(&mut self, start: u64, end: u64) {
        let mut next = start;
        while next < end {
            let stop = self.map.first_bad(next).map_or(end, |bad| bad.min(end));
            self.free_boot_range(next, stop);
            next = stop + 1;
        }
    }

    /// Allocate the `count` pages from `page` on. Returns `page`.
    ///
    /// # Errors
    /// As [`Self::map_alloc`], with [`Event::NoSuitableBlock`] in place of
    /// [`Event::PagesAlreadyAllocated`].
    pub fn alloc_boot_pages_at(&mut self, count: u64, page: Frame) -> Result<Frame, Event> {
        match self.map_alloc(page, count) {
            Ok(()) => Ok(page),
            Err(Event::PagesAlreadyAllocated { .. }) => {
                Err(Event::NoSuitableBlock { request: count })
            }
            Err(event) => Err(event),
        }
    }

    /// Allocate `count` consecutive pages, the first a multiple of `align`: those with the lowest
    /// address. Returns the first.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::BootEnded`]; [`Event::EmptyRange`] for no pages;
    /// [`Event::RequestTooLarge`] if `align` is no power of two; [`Event::NoSuitableBlock`].
    pub fn alloc_boot_pages(&mut self, count: u64, align: u64) -> Result<Frame, Event> {
        self.check_boot()?;
        if count == 0 {
            return Err(Event::EmptyRange { start: 0, end: 0 });
        }
        if !align.is_power_of_two() {
            return Err(Event::RequestTooLarge { request: align });
        }
        let none = Event::NoSuitableBlock { request: count };
        let mut next = 0;
        while let Some((start, end)) = self.free_boot_run(next) {
            let first = start.checked_next_multiple_of(align).ok_or(none)?;
            if first.checked_add(count).is_some_and(|last| last <= end) {
                let frame = Frame::new(first).ok_or(none)?;
                self.boot_blocks.take_range(&mut self.map, first, first + count);
                return Ok(frame);
            }
            next = end;
        }
        Err(none)
    }

    /// End boot-time allocation: all pages that are still free go to the domain heap, as free
    /// pages. Returns how many.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::BootEnded`]; [`Event::BadZone`] if a free page lies next
    /// to the `xen` zone; [`Event::TooManySections`].
    pub fn end_boot_allocator(&mut self) -> Result<u64, Event> {
        self.check_boot()?;
        // From now on zones may have holes: pages amid them that boot code holds.
        self.phase = Phase::Running;
        // Every stretch must find its section before the first gets any pages.
        let saved = self.heap.save();
        let mut next = 0;
        while let Some((start, end)) = self.free_boot_run(next) {
            if let Err(event) = self.place_domheap(start, end) {
                self.heap.restore(&saved);
                self.phase = Phase::Boot;
                return Err(event);
            }
            next = end;
        }
        self.heap.restore(&saved);
        let mut given = 0;
        let mut next = 0;
        while let Some((start, end)) = self.free_boot_run(next) {
            self.boot_blocks.take_range(&mut self.map, start, end);
            self.place_domheap(start, end)?;
            self.give_placed(start, end);
            given += end - start;
            next = end;
        }
        Ok(given)
    }

    /// The first stretch, at or behind `page`, of pages that are free and in no heap.
    fn free_boot_run(&self, page: u64) -> Option<(u64, u64)> {
        let mut start = page;
        loop {
            let (first, order) = self.map.first_free_from(start)?;
            start = start.max(first);
            let Some((_, section)) = self.heap.section_around(start) else {
                let limit = self.heap.gap_around(start, self.map.max_page()).end;
                let mut end = first + order.pages();
                while end < limit
                    && let Some((next, order)) = self.map.free_block_around(end)
                {
                    end = next + order.pages();
                }
                return Some((start, end));
            };
            start = section.bounds.end;
        }
    }
}

/// The whole pages between two byte addresses, of which there is at least one.
pub(crate) fn whole_pages(
    start: PhysicalAddress,
    end: PhysicalAddress,
) -> Result<(u64, u64), Event> {
    let empty = Event::EmptyRange { start: start.get(), end: end.get() };
    let bytes = end.get().checked_sub(start.get()).ok_or(empty)?;
    match FrameRange::within(start, bytes) {
        Some(range) if !range.is_empty() => Ok((range.start(), range.end())),
        _ => Err(empty),
    }
}

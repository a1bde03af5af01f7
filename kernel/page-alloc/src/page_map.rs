//! Page map: how allocated and free pages are told apart.
//!
//! The secret: free memory is known as blocks, not as pages. For each order there is a bitmap with
//! summaries (`bit_tree`) in which a bit is a free block, and a bitmap of *held* blocks: those that
//! were handed out and belong to no domain. A page is free if one of the 19 blocks around it is,
//! or if a CPU's cache holds one, of which the map knows only that it is neither free nor held. So
//! a block moves between its holder and a cache by one bit, in a bitmap so dense that it stays in
//! the processor's caches. Sets of pages of which few operations need to know are bitmaps of their
//! own: bad ones, *retired* ones (bad, in a zone, and held by nobody), blocks that wait to be
//! cleared, and pages known to contain only zeros; the summary of the last is all that is read
//! where there are none.
//!
//! All words zero means: every page allocated, nothing known of it. So making the map costs
//! nothing per page, and giving it 64 GiB writes about as many words as there are blocks of 1 GiB.
//!
//! Invariants: free blocks and held blocks are disjoint. Outside the heaps, free
//! blocks are those of the boot-time allocator, merged as far as possible.

mod bit_tree;

use core::hint::black_box;

use heliox_types::{Frame, PAGE_BYTES};

use self::bit_tree::BitTree;
use crate::environment::ORDERS;
use crate::{Event, MAX_ORDER, Order, PageAllocator, Pages, Phase};

/// The map of all pages. Numbers of pages and blocks that are out of range are ignored by writes
/// and found in no set by reads.
pub(crate) struct PageMap<'m> {
    words: &'m mut [u64],
    layout: Layout,
    max_page: u64,
}

/// Where everything lies, and how many words it takes.
struct Layout {
    free: [BitTree; ORDERS],
    /// Index of the first word of the held blocks of each order.
    held: [usize; ORDERS],
    bad: BitTree,
    retired: BitTree,
    pending: BitTree,
    zeroized: BitTree,
    words: usize,
}

const fn layout(max_page: u64) -> Layout {
    let (first, mut next) = BitTree::place(0, max_page);
    let mut free = [first; ORDERS];
    let mut held = [0; ORDERS];
    let mut order = 0;
    while order <= MAX_ORDER {
        let blocks = max_page.div_ceil(1 << order);
        #[expect(clippy::indexing_slicing, reason = "order is at most MAX_ORDER")]
        {
            if order > 0 {
                (free[order as usize], next) = BitTree::place(next, blocks);
            }
            held[order as usize] = next;
        }
        next += blocks.div_ceil(64) as usize;
        order += 1;
    }
    let (bad, next) = BitTree::place(next, max_page);
    let (retired, next) = BitTree::place(next, max_page);
    let (pending, next) = BitTree::place(next, max_page);
    let (zeroized, words) = BitTree::place(next, max_page);
    Layout { free, held, bad, retired, pending, zeroized, words }
}

impl<'m> PageMap<'m> {
    /// Words that a map of `max_page` pages needs.
    pub(crate) const fn words(max_page: u64) -> usize {
        layout(max_page).words
    }

    /// The map of `max_page` pages in `words`, which are all zero: everything allocated.
    pub(crate) fn new(words: &'m mut [u64], max_page: u64) -> Self {
        Self { words, layout: layout(max_page), max_page }
    }

    /// Number of pages.
    pub(crate) const fn max_page(&self) -> u64 {
        self.max_page
    }

    /// Whether the block that starts at `page` is a free block of exactly this order.
    #[inline]
    pub(crate) fn is_free_block(&self, page: u64, order: Order) -> bool {
        let tree = self.layout.free.get(order.index());
        tree.is_some_and(|tree| tree.contains(self.words, page >> order.number()))
    }

    #[inline]
    pub(crate) fn insert_free(&mut self, page: u64, order: Order) {
        if let Some(tree) = self.layout.free.get(order.index()) {
            tree.insert(self.words, page >> order.number());
        }
    }

    /// Make the block at `page` free; or, if `pair` and its buddy is free, make neither a free
    /// block, so that they can be one of twice the size. Whether it is free now.
    #[inline]
    pub(crate) fn insert_free_or_pair(&mut self, page: u64, order: Order, pair: bool) -> bool {
        let tree = self.layout.free.get(order.index());
        tree.is_none_or(|tree| tree.insert_or_pair(self.words, page >> order.number(), pair))
    }

    #[inline]
    pub(crate) fn remove_free(&mut self, page: u64, order: Order) {
        if let Some(tree) = self.layout.free.get(order.index()) {
            tree.remove(self.words, page >> order.number());
        }
    }

    /// Read what giving the block at `page` back begins with, for the sake of reading it early.
    #[inline]
    pub(crate) fn look_ahead(&self, page: u64, order: Order) {
        for tall in [Some(order), order.double()].into_iter().flatten() {
            if let Some(tree) = self.layout.free.get(tall.index()) {
                black_box(tree.among_64(self.words, page >> tall.number()));
            }
        }
    }

    /// First page of the first free block of exactly this order that starts at or behind `page`.
    #[inline]
    pub(crate) fn first_free_block(&self, page: u64, order: Order) -> Option<u64> {
        let from = (page + order.pages() - 1) >> order.number();
        let block = self.layout.free.get(order.index())?.first_from(self.words, from)?;
        Some(block << order.number())
    }

    /// Where the held bit of the block at `page` lies: its word's index, and the bit.
    #[inline]
    fn held_bit(&self, page: u64, order: Order) -> (usize, u64) {
        let block = page >> order.number();
        let base = self.layout.held.get(order.index()).copied();
        let index = base.unwrap_or(usize::MAX >> 1) + (block >> 6) as usize;
        (index, 1 << (block & 63))
    }

    /// Whether the block of this order that starts at `page` is held.
    #[inline]
    pub(crate) fn is_held(&self, page: u64, order: Order) -> bool {
        let (index, bit) = self.held_bit(page, order);
        page & (order.pages() - 1) == 0
            && page < self.max_page
            && self.words.get(index).is_some_and(|word| word & bit != 0)
    }

    /// Make the block of this order that starts at `page`, a page that exists, no longer held;
    /// whether it was.
    #[inline]
    pub(crate) fn take_held(&mut self, page: u64, order: Order) -> bool {
        let (index, bit) = self.held_bit(page, order);
        let Some(word) = self.words.get_mut(index) else {
            return false;
        };
        let was_held = page & (order.pages() - 1) == 0 && *word & bit != 0;
        if was_held {
            *word &= !bit;
        }
        was_held
    }

    #[inline]
    pub(crate) fn set_held(&mut self, page: u64, order: Order, held: bool) {
        let (index, bit) = self.held_bit(page, order);
        if let Some(word) = self.words.get_mut(index) {
            *word = if held { *word | bit } else { *word & !bit };
        }
    }

    /// Whether `page` is known to contain only zeros.
    #[inline]
    pub(crate) fn is_zeroized(&self, page: u64) -> bool {
        self.layout.zeroized.contains(self.words, page)
    }

    /// Which of the 64 pages from `page` on, a multiple of 64, are known to contain only zeros
    /// (bit 0 is `page`).
    pub(crate) fn zeroized_among_64(&self, page: u64) -> u64 {
        self.layout.zeroized.among_64(self.words, page)
    }

    pub(crate) fn mark_zeroized(&mut self, page: u64) {
        self.layout.zeroized.insert(self.words, page);
    }

    /// Nothing is known any more of the contents of the block that starts at `page`.
    #[inline]
    pub(crate) fn forget_zeroized(&mut self, page: u64, order: Order) {
        let end = page + order.pages();
        self.layout.zeroized.remove_range(self.words, page, end);
    }

    /// Whether `page` is bad.
    #[inline]
    pub(crate) fn is_bad(&self, page: u64) -> bool {
        self.layout.bad.contains(self.words, page)
    }

    pub(crate) fn mark_bad(&mut self, page: u64) {
        self.layout.bad.insert(self.words, page);
    }

    /// Note that `page`, which is bad, is in a zone but held by nobody.
    pub(crate) fn mark_retired(&mut self, page: u64) {
        self.layout.retired.insert(self.words, page);
    }

    /// Whether `page` is bad, in a zone, and held by nobody.
    pub(crate) fn is_retired(&self, page: u64) -> bool {
        self.layout.retired.contains(self.words, page)
    }

    /// The first bad page at or behind `page`.
    pub(crate) fn first_bad(&self, page: u64) -> Option<u64> {
        self.layout.bad.first_from(self.words, page)
    }

    /// The first page at or behind `page` at which a block begins that waits to be cleared.
    pub(crate) fn first_pending(&self, page: u64) -> Option<u64> {
        self.layout.pending.first_from(self.words, page)
    }

    pub(crate) fn insert_pending(&mut self, page: u64) {
        self.layout.pending.insert(self.words, page);
    }

    pub(crate) fn remove_pending(&mut self, page: u64) {
        self.layout.pending.remove(self.words, page);
    }

    /// The free block around `page`: its first page and order.
    pub(crate) fn free_block_around(&self, page: u64) -> Option<(u64, Order)> {
        Order::all().find_map(|order| {
            let start = page & !(order.pages() - 1);
            self.is_free_block(start, order).then_some((start, order))
        })
    }

    /// The held block around `page`: its first page and order.
    pub(crate) fn held_block_around(&self, page: u64) -> Option<(u64, Order)> {
        Order::all().find_map(|order| {
            let start = page & !(order.pages() - 1);
            self.is_held(start, order).then_some((start, order))
        })
    }

    /// Which of the 64 pages from `page` on, a multiple of 64, are in free blocks (bit 0 is `page`).
    pub(crate) fn free_among_64(&self, page: u64) -> u64 {
        let mut free = 0;
        for (order, tree) in Order::all().zip(&self.layout.free) {
            if order.number() >= 6 {
                if self.is_free_block(page & !(order.pages() - 1), order) {
                    return u64::MAX;
                }
                continue;
            }
            // 64 >> order blocks of this order; they lie within one word.
            let block = page >> order.number();
            let mut blocks = tree.among_64(self.words, block) >> (block & 63)
                & (u64::MAX >> (64 - (64 >> order.number())));
            while blocks != 0 {
                let first = blocks.trailing_zeros() << order.number();
                free |= ((1 << order.pages()) - 1) << first;
                blocks &= blocks - 1;
            }
        }
        free
    }

    /// The first free block that has a page at or behind `page`.
    pub(crate) fn first_free_from(&self, page: u64) -> Option<(u64, Order)> {
        self.free_block_around(page).or_else(|| {
            Order::all()
                .filter_map(|order| Some((self.first_free_block(page, order)?, order)))
                .min()
        })
    }
}

/// The page map's own interface: for memory outside the heaps, until the boot-time allocator ends.
impl<P: Pages> PageAllocator<'_, P> {
    /// Begin to manage memory: every page is allocated from now on, also those that hold the
    /// allocator's records, which lie from `first` on and are never given out.
    ///
    /// Returns the first page behind the records: the first usable one.
    ///
    /// # Errors
    /// [`Event::AlreadyInitialised`]; [`Event::NotLegalAddress`] if the records would run past
    /// `max_page`.
    pub fn init_boot_allocator(&mut self, first: Frame) -> Result<Frame, Event> {
        if self.phase != Phase::Uninitialised {
            return Err(Event::AlreadyInitialised);
        }
        let records = (self.metadata_words as u64 * 8).div_ceil(PAGE_BYTES);
        let end = first.number().saturating_add(records);
        let usable = Frame::new(end).filter(|_| end < self.map.max_page());
        let Some(usable) = usable else {
            return Err(Event::NotLegalAddress { frame: end.max(self.map.max_page()) });
        };
        self.own_pages = first.number()..end;
        self.phase = Phase::Boot;
        Ok(usable)
    }

    /// Whether `page` is allocated. Pages that were never given to anything count as allocated,
    /// pages in CPUs' caches do not.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NotLegalAddress`].
    pub fn allocated_in_map(&self, page: Frame) -> Result<bool, Event> {
        self.check_initialised()?;
        self.check_legal(page.number())?;
        Ok(!self.is_free(page.number()))
    }

    /// Allocate the `count` pages from `page` on, of memory that is in no zone.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::BootEnded`], [`Event::RequestTooLarge`] if the range
    /// overflows, [`Event::EmptyRange`], [`Event::NotLegalAddress`], [`Event::BadZone`] for the
    /// first page that is in a zone, [`Event::PagesAlreadyAllocated`] for the first that is
    /// allocated.
    pub fn map_alloc(&mut self, page: Frame, count: u64) -> Result<(), Event> {
        let (start, end) = self.boot_range(page, count)?;
        let mut next = start;
        while next < end {
            match self.map.free_block_around(next) {
                Some((first, order)) => next = first + order.pages(),
                None => return Err(Event::PagesAlreadyAllocated { frame: next }),
            }
        }
        self.boot_blocks.take_range(&mut self.map, start, end);
        Ok(())
    }

    /// Free the `count` pages from `page` on, of memory that is in no zone.
    ///
    /// # Errors
    /// As [`Self::map_alloc`], but [`Event::PagesNotAllocated`] for the first page that is free;
    /// and [`Event::HoldsMap`] and [`Event::BadPage`] for the first page that must not be freed.
    pub fn map_free(&mut self, page: Frame, count: u64) -> Result<(), Event> {
        let (start, end) = self.boot_range(page, count)?;
        if let Some((first, _)) = self.map.first_free_from(start)
            && first < end
        {
            return Err(Event::PagesNotAllocated { frame: first.max(start) });
        }
        let own = start.max(self.own_pages.start);
        if own < end.min(self.own_pages.end) {
            return Err(Event::HoldsMap { frame: own });
        }
        if let Some(frame) = self.map.first_bad(start).filter(|bad| *bad < end) {
            return Err(Event::BadPage { frame });
        }
        self.free_boot_range(start, end);
        Ok(())
    }

    /// Make the pages from `start` to `end`, allocated and in no zone, free.
    pub(crate) fn free_boot_range(&mut self, start: u64, end: u64) {
        // Free blocks of the boot-time allocator must not merge with those of a heap.
        let bounds = self.heap.gap_around(start, self.map.max_page());
        self.boot_blocks.give_range(&mut self.map, bounds, start, end);
    }

    /// The range of a request to the page map, checked up to its zone.
    fn boot_range(&self, page: Frame, count: u64) -> Result<(u64, u64), Event> {
        self.check_boot()?;
        let start = page.number();
        let Some(end) = start.checked_add(count) else {
            return Err(Event::RequestTooLarge { request: count });
        };
        if count == 0 {
            return Err(Event::EmptyRange { start, end });
        }
        self.check_legal_range(start, end)?;
        if let Some((frame, zone)) = self.heap.first_zone_in(start, end) {
            return Err(crate::event::bad_zone(frame, Some(zone)));
        }
        Ok((start, end))
    }
}

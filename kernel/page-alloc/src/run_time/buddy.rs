//! Buddies: how a free block is found, split and merged.
//!
//! The secret: the block taken is of the smallest order that will do and, of those, the one with
//! the lowest address; its lower half is split on. So memory fills from below, and long-lived
//! pages do not spread over it. A freed block merges with its buddy (the block of its size with
//! which it forms an aligned block of twice the size) at once and as often as possible, but never
//! across its bounds.
//!
//! Invariants, of each [`FreeBlocks`]: bit `o` of `available` is set exactly if there is a block
//! of order `o`; every one starts at or behind page `hint << o` of its level; no two of its blocks are buddies within bounds.
//!
//! No operation here takes more steps than there are orders, save those on ranges, which take that
//! many for each block in the range.

use core::ops::Range;

use crate::Order;
use crate::environment::ORDERS;
use crate::page_map::PageMap;

/// Pages beyond which nothing merges: `start` inclusive, `end` exclusive.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Some of the map's free blocks: those of one stretch of memory.
#[derive(Clone, Copy)]
pub(crate) struct FreeBlocks {
    levels: [Level; ORDERS],
    available: u32,
    pages: u64,
}

/// The blocks of one order.
#[derive(Clone, Copy)]
struct Level {
    /// How many there are.
    count: u32,
    /// Number (page by size) that none is below.
    hint: u32,
}

impl FreeBlocks {
    /// No blocks.
    pub(crate) const fn new() -> Self {
        let level = Level { count: 0, hint: u32::MAX };
        Self { levels: [level; ORDERS], available: 0, pages: 0 }
    }

    /// Pages in all blocks.
    pub(crate) const fn pages(&self) -> u64 {
        self.pages
    }

    /// Number of blocks of each order.
    pub(crate) fn counts(&self) -> [u32; ORDERS] {
        self.levels.map(|level| level.count)
    }

    /// The smallest order, at least `order`, of which there is a block.
    #[inline]
    pub(crate) fn smallest(&self, order: Order) -> Option<Order> {
        let larger = self.available >> order.number();
        if larger == 0 {
            return None;
        }
        Order::new(order.number() + larger.trailing_zeros()).ok()
    }

    /// Note block `page` of order `order` as free; `pages` is the caller's.
    #[inline]
    fn insert(&mut self, map: &mut PageMap<'_>, page: u64, order: Order) {
        map.insert_free(page, order);
        self.count(page, order);
    }

    /// Count a block that was just inserted.
    #[inline]
    fn count(&mut self, page: u64, order: Order) {
        self.available |= 1 << order.number();
        if let Some(level) = self.levels.get_mut(order.index()) {
            level.count += 1;
            level.hint = level.hint.min((page >> order.number()) as u32);
        }
    }

    /// Note block `page` of order `order` as no longer free; `pages` is the caller's.
    #[inline]
    fn remove(&mut self, map: &mut PageMap<'_>, page: u64, order: Order) {
        map.remove_free(page, order);
        self.uncount(order);
    }

    /// Count a block less, which was just removed.
    #[inline]
    fn uncount(&mut self, order: Order) {
        if let Some(level) = self.levels.get_mut(order.index()) {
            level.count -= 1;
            if level.count == 0 {
                self.available &= !(1 << order.number());
                level.hint = u32::MAX;
            }
        }
    }

    /// Take a block of order `order` out of the lowest block of order `found`, at least `order`;
    /// its first page, or `None` if there is no such block.
    #[inline]
    pub(crate) fn take(
        &mut self,
        map: &mut PageMap<'_>,
        found: Order,
        order: Order,
    ) -> Option<u64> {
        let hint = &mut self.levels.get_mut(found.index())?.hint;
        let page = map.first_free_block(u64::from(*hint) << found.number(), found)?;
        *hint = (page >> found.number()) as u32;
        self.remove(map, page, found);
        self.pages -= order.pages();
        let mut rest = found;
        while rest > order {
            rest = rest.half()?;
            self.insert(map, page + rest.pages(), rest);
        }
        Some(page)
    }

    /// Put a block in that is not free, merging it with its buddies within `bounds`.
    #[inline]
    pub(crate) fn give(
        &mut self,
        map: &mut PageMap<'_>,
        bounds: Bounds,
        mut page: u64,
        mut order: Order,
    ) {
        self.pages += order.pages();
        loop {
            let merged = page & !order.pages();
            // The largest order is its own double, and never paired.
            let double = order.double().unwrap_or(order);
            let pair =
                double != order && merged >= bounds.start && merged + double.pages() <= bounds.end;
            if map.insert_free_or_pair(page, order, pair) {
                return self.count(page, order);
            }
            self.uncount(order);
            page = merged;
            order = double;
        }
    }

    /// Put the pages from `start` to `end` in, as the largest blocks possible.
    pub(crate) fn give_range(
        &mut self,
        map: &mut PageMap<'_>,
        bounds: Bounds,
        start: u64,
        end: u64,
    ) {
        for (page, order) in pieces(start..end) {
            self.give(map, bounds, page, order);
        }
    }

    /// Take the pages from `start` to `end` out, all of which are in blocks of this set.
    pub(crate) fn take_range(&mut self, map: &mut PageMap<'_>, start: u64, end: u64) {
        let mut next = start;
        while next < end {
            let Some((first, order)) = map.free_block_around(next) else {
                break;
            };
            let behind = first + order.pages();
            self.remove(map, first, order);
            // What is left of a block cannot merge: its buddies are parts of the range.
            for (page, order) in pieces(first..start).chain(pieces(end..behind)) {
                self.insert(map, page, order);
            }
            next = behind;
        }
        self.pages -= end - start;
    }
}

/// The largest aligned blocks that make up `range`, in rising order; none if it is empty.
pub(crate) fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, Order)> {
    let mut next = range.start;
    core::iter::from_fn(move || {
        if next >= range.end {
            return None;
        }
        let page = next;
        let order = Order::largest(page, range.end);
        next += order.pages();
        Some((page, order))
    })
}

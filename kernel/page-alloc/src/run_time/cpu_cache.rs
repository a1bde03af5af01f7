//! Caches of single pages, one for each CPU.
//!
//! The secret: which of its pages a cache hands out, and when it goes back to the free blocks. It
//! hands out the page that came last, which is cheap, and still warm. But pages that only went
//! round in a cache, wherever they lie, would keep a fragmented heap fragmented for ever. So a
//! cache is exchanged regularly: after [`LIFETIME`] pages were handed out, or when it is empty,
//! all it holds goes back to merge, and the lowest free pages take its place. What overflows goes
//! back at once, longest held first.
//!
//! A cache holds pages of its CPU's node only. What it holds counts as free and is not merged
//! until it is drained, which also happens whenever a request would otherwise fail.

use crate::environment::ZONES;
use crate::{Node, Zone};

/// Pages that are taken from the free blocks, or overflow to them, at a time.
pub(crate) const BATCH: u64 = 32;
/// Most pages of one zone in one cache.
const CAPACITY: usize = 2 * BATCH as usize;
/// Pages handed out before the cache is exchanged.
const LIFETIME: u32 = 256;

/// What a CPU holds of one zone: a stack of pages.
#[derive(Debug)]
pub(crate) struct Shelf {
    pages: [u32; CAPACITY],
    len: usize,
    /// Pages handed out since the last exchange.
    age: u32,
}

impl Shelf {
    const EMPTY: Self = Self {
        pages: [0; CAPACITY],
        len: 0,
        age: 0,
    };

    /// The page that came last, unless it is time to exchange the cache.
    #[inline]
    pub(crate) fn hand_out(&mut self) -> Option<u64> {
        if self.age >= LIFETIME {
            return None;
        }
        self.age += 1;
        self.pop()
    }

    /// The pages.
    fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.iter().take(self.len).copied().map(u64::from)
    }

    /// Whether there is no room for a page.
    #[inline]
    pub(crate) const fn is_full(&self) -> bool {
        self.len >= CAPACITY
    }

    /// Put `page` on top; ignored when full.
    #[inline]
    pub(crate) fn push(&mut self, page: u64) {
        if let Some(slot) = self.pages.get_mut(self.len) {
            *slot = page as u32;
            self.len += 1;
        }
    }

    /// The page that came last.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u64> {
        let top = self.len.checked_sub(1)?;
        self.len = top;
        self.pages.get(top).copied().map(u64::from)
    }

    /// Begin anew with the pages pushed since the cache was empty; those pushed first come first.
    pub(crate) fn renew(&mut self) {
        self.age = 0;
        if let Some(pages) = self.pages.get_mut(..self.len) {
            pages.reverse();
        }
    }

    /// Move the longest held pages to the top, for [`BATCH`] of them to be taken off.
    pub(crate) fn bring_up_oldest(&mut self) {
        if let Some(pages) = self.pages.get_mut(..self.len) {
            pages.rotate_left(pages.len().min(BATCH as usize));
        }
    }

    /// Take `page` out, wherever it lies; whether it was there.
    fn remove(&mut self, page: u64) -> bool {
        let pages = self.pages.get_mut(..self.len).unwrap_or_default();
        let Some(place) = pages.iter().position(|other| u64::from(*other) == page) else {
            return false;
        };
        if let Some(behind) = pages.get_mut(place..) {
            behind.rotate_left(1);
        }
        self.len -= 1;
        true
    }
}

/// The cache of one CPU.
#[derive(Debug)]
pub struct CpuCache {
    node: Node,
    shelves: [Shelf; ZONES],
}

impl CpuCache {
    /// Most pages of one zone that one CPU holds.
    pub const CAPACITY: usize = CAPACITY;

    /// An empty cache for a CPU of node `node`.
    #[must_use]
    pub const fn new(node: Node) -> Self {
        Self {
            node,
            shelves: [const { Shelf::EMPTY }; ZONES],
        }
    }

    /// The CPU's node.
    #[must_use]
    pub const fn node(&self) -> Node {
        self.node
    }

    #[inline]
    pub(crate) fn shelf(&mut self, zone: Zone) -> Option<&mut Shelf> {
        self.shelves.get_mut(zone.index())
    }

    /// The pages held of `zone`.
    pub(crate) fn pages(&self, zone: Zone) -> impl Iterator<Item = u64> {
        let shelf = self.shelves.get(zone.index());
        shelf.into_iter().flat_map(Shelf::pages)
    }

    /// Take `page`, of `zone`, out; whether it was there.
    pub(crate) fn remove(&mut self, zone: Zone, page: u64) -> bool {
        self.shelf(zone).is_some_and(|shelf| shelf.remove(page))
    }
}

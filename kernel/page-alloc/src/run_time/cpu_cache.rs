//! Caches of single pages, one for each CPU.
//!
//! The secret: pages do not go round within a cache. Pages to hand out are taken from the free
//! blocks in batches, lowest address first; pages that come back are collected and go back in
//! batches, to merge. So a cache makes single pages cheap (and, once CPUs allocate in parallel,
//! lets most requests do without the lock) but does not undo the order of addresses that keeps
//! large blocks whole: handing the last freed page out again, wherever it lies, would keep a
//! fragmented heap fragmented for ever.
//!
//! A cache holds pages of its CPU's node only. What it holds counts as free and is not merged
//! until it is drained, which also happens whenever a request would otherwise fail.

use crate::environment::ZONES;
use crate::{Node, Zone};

/// Pages that one batch moves.
pub(crate) const BATCH: usize = 32;

/// A stack of pages.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pages: [u32; BATCH],
    len: usize,
}

impl Stack {
    const EMPTY: Self = Self {
        pages: [0; BATCH],
        len: 0,
    };

    pub(crate) const fn is_full(&self) -> bool {
        self.len >= BATCH
    }

    /// Put `page` on top; ignored when full.
    #[inline]
    pub(crate) fn push(&mut self, page: u64) {
        if let Some(slot) = self.pages.get_mut(self.len) {
            *slot = page as u32;
            self.len += 1;
        }
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u64> {
        let top = self.len.checked_sub(1)?;
        self.len = top;
        self.pages.get(top).copied().map(u64::from)
    }

    /// Turn the stack over: what was pushed first is popped first.
    pub(crate) fn reverse(&mut self) {
        if let Some(pages) = self.pages.get_mut(..self.len) {
            pages.reverse();
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

/// What a CPU holds of one zone.
#[derive(Clone, Debug)]
pub(crate) struct Shelf {
    /// Pages to hand out, lowest address on top.
    pub(crate) ready: Stack,
    /// Pages that came back.
    pub(crate) returned: Stack,
}

impl Shelf {
    /// Any page of the shelf.
    pub(crate) fn pop(&mut self) -> Option<u64> {
        self.returned.pop().or_else(|| self.ready.pop())
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
    pub const CAPACITY: usize = 2 * BATCH;

    /// An empty cache for a CPU of node `node`.
    #[must_use]
    pub const fn new(node: Node) -> Self {
        Self {
            node,
            shelves: [const {
                Shelf {
                    ready: Stack::EMPTY,
                    returned: Stack::EMPTY,
                }
            }; ZONES],
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

    /// Take `page` out; whether it was there.
    pub(crate) fn remove(&mut self, page: u64) -> bool {
        self.shelves
            .iter_mut()
            .any(|shelf| shelf.ready.remove(page) || shelf.returned.remove(page))
    }
}

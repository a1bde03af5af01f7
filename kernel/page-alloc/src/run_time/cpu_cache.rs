//! Caches of free blocks, one for each CPU: of single pages, and of blocks of one larger order.
//!
//! The secret: which of its blocks a cache hands out, and when it goes back to the free blocks. It
//! hands out the block that came last, which is cheap, and still warm. But blocks that only went
//! round in a cache, wherever they lie, would keep a fragmented heap fragmented for ever. So a
//! cache is exchanged regularly: after [`LIFETIME`] blocks were handed out, or when it is empty,
//! all it holds goes back to merge, and the lowest free blocks take its place. What overflows goes
//! back at once, longest held first.
//!
//! A cache holds memory of its CPU's node only. What it holds counts as free and is not merged
//! until it is drained, which also happens whenever a request would otherwise fail.

use crate::environment::ZONES;
use crate::{Node, Order, Zone};

/// Most pages of one zone in one cache.
const PAGES: usize = 64;
/// Most larger blocks of one zone in one cache.
const LARGE_BLOCKS: usize = 16;
/// Blocks handed out before a shelf is exchanged.
const LIFETIME: u32 = 512;

/// What a CPU holds of one zone and order: a stack of blocks, by their first pages.
#[derive(Debug)]
pub(crate) struct Shelf {
    blocks: [u32; PAGES],
    order: Order,
    capacity: u32,
    len: u32,
    /// Blocks handed out since the last exchange.
    age: u32,
    /// Those below this place may be zeroized; the rest came from holders, who wrote to them.
    fresh: u32,
}

/// A block that a shelf handed out.
pub(crate) struct HandedOut {
    /// Its first page.
    pub(crate) page: u64,
    /// Whether pages of it may be known as zeroized.
    pub(crate) fresh: bool,
}

impl Shelf {
    const fn new(order: Order, capacity: usize) -> Self {
        Self { blocks: [0; PAGES], order, capacity: capacity as u32, len: 0, age: 0, fresh: 0 }
    }

    /// The order of its blocks.
    #[inline]
    pub(crate) const fn order(&self) -> Order {
        self.order
    }

    /// Blocks that are taken from the free blocks, or overflow to them, at a time.
    pub(crate) const fn batch(&self) -> u64 {
        self.capacity as u64 / 2
    }

    /// The block that came last, unless it is time to exchange the shelf.
    #[inline]
    pub(crate) fn hand_out(&mut self) -> Option<HandedOut> {
        if self.age >= LIFETIME {
            return None;
        }
        let top = self.len.checked_sub(1)?;
        let page = self.blocks.get(top as usize).copied()?;
        self.len = top;
        self.age += 1;
        let fresh = top < self.fresh;
        if fresh {
            self.fresh = top;
        }
        Some(HandedOut { page: u64::from(page), fresh })
    }

    /// The blocks.
    fn blocks(&self) -> impl Iterator<Item = u64> {
        let len = self.len as usize;
        self.blocks.iter().take(len).copied().map(u64::from)
    }

    fn blocks_mut(&mut self) -> &mut [u32] {
        self.blocks.get_mut(..self.len as usize).unwrap_or_default()
    }

    /// Whether there is no room for a block.
    #[inline]
    pub(crate) const fn is_full(&self) -> bool {
        self.len >= self.capacity
    }

    /// Whether there is no block.
    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Put the block that starts at `page` on top; there is room for it, and it is not zeroized
    /// unless [`Self::freshen`] follows.
    #[inline]
    pub(crate) fn push(&mut self, page: u64) {
        if let Some(slot) = self.blocks.get_mut(self.len as usize) {
            *slot = page as u32;
            self.len += 1;
        }
    }

    /// All blocks may be zeroized.
    #[inline]
    pub(crate) const fn freshen(&mut self) {
        self.fresh = self.len;
    }

    /// Begin anew with the blocks pushed since the shelf was empty; those pushed first come first.
    pub(crate) fn renew(&mut self) {
        self.age = 0;
        self.blocks_mut().reverse();
        self.freshen();
    }

    /// The blocks held longest, at most `count`, longest first.
    pub(crate) fn oldest(&self, count: u64) -> &[u32] {
        let count = count.min(u64::from(self.len));
        self.blocks.get(..count as usize).unwrap_or_default()
    }

    /// Forget [`Self::oldest`].
    pub(crate) fn drop_oldest(&mut self, count: u64) {
        let count = self.oldest(count).len();
        self.blocks_mut().copy_within(count.., 0);
        self.len -= count as u32;
        self.fresh = self.fresh.saturating_sub(count as u32);
    }

    /// Take the block around `page` out, wherever it lies; its first page, if it was there.
    fn remove(&mut self, page: u64) -> Option<u64> {
        let first = page & !(self.order.pages() - 1);
        let blocks = self.blocks_mut();
        let place = blocks.iter().position(|block| u64::from(*block) == first)?;
        blocks.get_mut(place..)?.rotate_left(1);
        self.len -= 1;
        if place < self.fresh as usize {
            self.fresh -= 1;
        }
        Some(first)
    }
}

/// The cache of one CPU.
#[derive(Debug)]
pub struct CpuCache {
    node: Node,
    /// By zone: single pages, larger blocks.
    shelves: [[Shelf; 2]; ZONES],
}

impl CpuCache {
    /// Most single pages of one zone that one CPU holds.
    pub const CAPACITY: usize = PAGES;

    /// Most larger blocks of one zone that one CPU holds.
    pub const LARGE_CAPACITY: usize = LARGE_BLOCKS;

    /// An empty cache for a CPU of node `node`, of single pages and of blocks of 2 MiB.
    #[must_use]
    pub const fn new(node: Node) -> Self {
        Self::with_large_order(node, Order::TWO_MIB)
    }

    /// As [`Self::new`], but the larger blocks are of `order` (with order 0, none are held).
    #[must_use]
    pub const fn with_large_order(node: Node, order: Order) -> Self {
        Self { node, shelves: [const { [const { Shelf::new(Order::ZERO, PAGES) }; 2] }; ZONES] }
            .sized(order)
    }

    const fn sized(mut self, order: Order) -> Self {
        let [[_, xen], [_, dom], [_, dma]] = &mut self.shelves;
        *xen = Shelf::new(order, LARGE_BLOCKS);
        *dom = Shelf::new(order, LARGE_BLOCKS);
        *dma = Shelf::new(order, LARGE_BLOCKS);
        self
    }

    /// The CPU's node.
    #[must_use]
    pub const fn node(&self) -> Node {
        self.node
    }

    /// Where blocks of `zone` and `order` are held, if they are.
    #[inline]
    pub(crate) fn shelf(&mut self, zone: Zone, order: Order) -> Option<&mut Shelf> {
        let [single, large] = self.shelves.get_mut(zone.index())?;
        if order == Order::ZERO {
            Some(single)
        } else if order == large.order {
            Some(large)
        } else {
            None
        }
    }

    /// Everything that is held of `zone`.
    pub(crate) fn shelves(&mut self, zone: Zone) -> &mut [Shelf] {
        self.shelves.get_mut(zone.index()).map_or(&mut [], |shelves| shelves.as_mut_slice())
    }

    /// Number of pages held of `zone`.
    pub(crate) fn pages(&self, zone: Zone) -> u64 {
        let shelves = self.shelves.get(zone.index());
        shelves
            .into_iter()
            .flatten()
            .map(|shelf| shelf.blocks().count() as u64 * shelf.order.pages())
            .sum()
    }

    /// First page of the first block held that has a page at or behind `page`.
    pub(crate) fn first_from(&self, page: u64) -> Option<u64> {
        let shelves = self.shelves.iter().flatten();
        shelves
            .flat_map(|shelf| {
                let pages = shelf.order.pages();
                shelf.blocks().filter(move |block| page < block + pages)
            })
            .min()
    }

    /// Whether a block around `page` is held.
    pub(crate) fn contains(&self, page: u64) -> bool {
        self.shelves.iter().flatten().any(|shelf| {
            let first = page & !(shelf.order.pages() - 1);
            shelf.blocks().any(|block| block == first)
        })
    }

    /// Take the block around `page` out; its first page and order, if it was there.
    pub(crate) fn remove(&mut self, page: u64) -> Option<(u64, Order)> {
        self.shelves.iter_mut().flatten().find_map(|shelf| Some((shelf.remove(page)?, shelf.order)))
    }
}

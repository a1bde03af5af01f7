//! The environment: what the allocator's specification speaks of, and what it asks of the layer
//! below.
//!
//! Hides nothing of its own: these are the terms of the environmental model (hardware memory,
//! its pages, zones, nodes, CPUs) as types, parsed once, so that the modules need not check them
//! again. A page's owner is not recorded here nor anywhere in this crate: it is [`Pages::owner`].

use core::fmt;

use heliox_types::{Frame, FrameRange};

use crate::Event;

/// The largest order: blocks of 2^18 pages, 1 GiB.
pub const MAX_ORDER: u32 = 18;

/// Number of orders, 0 to [`MAX_ORDER`].
pub(crate) const ORDERS: usize = MAX_ORDER as usize + 1;

/// Most NUMA nodes that a machine can have.
pub const MAX_NODES: usize = 8;

/// Number of zones.
pub(crate) const ZONES: usize = 3;

/// Most pages that can be managed: page numbers fit in 32 bits (16 TiB).
pub const MAX_PAGES: u64 = 1 << 32;

/// The layer below: the record of every page's owner, and the only operations on pages that the
/// allocator needs. The kernel implements it on its hardware abstraction layer, a test on a `Vec`.
///
/// Memory-safety must not depend on the allocator: an implementation checks every request and
/// refuses what it cannot do safely (a page still mapped, a translation still cached).
pub trait Pages {
    /// Whom a page can belong to. A value must not be given to a new domain while a page still
    /// carries it from an old one with the same value: either values are never reused, or one is
    /// reused only after a whole pass of `scrub_heap_pages` that began after its last page was
    /// freed.
    type Owner: Copy + Eq + fmt::Debug;

    /// Authority over consecutive frames, as the layer below hands it out.
    type Region;

    /// The owner of pages that belong to no domain.
    const HYPERVISOR: Self::Owner;

    /// The owner of `frame`: while it is free, whose data it still contains.
    fn owner(&self, frame: Frame) -> Self::Owner;

    /// The owner of all of `frames`, if the layer knows that in fewer steps than page by page.
    fn owner_of_all(&self, _frames: FrameRange) -> Option<Self::Owner> {
        None
    }

    /// Whether all of `frames`, which are free, are known to contain zeros; to be answered in few
    /// steps, or with no.
    fn is_clear(&self, _frames: FrameRange) -> bool {
        false
    }

    /// Make `owner` the owner of all of `frames`, visible to other CPUs after everything that was
    /// written before the call.
    ///
    /// # Errors
    /// The first frame that cannot change its owner now; then none has.
    fn set_owner(&mut self, frames: FrameRange, owner: Self::Owner) -> Result<(), Frame>;

    /// Fill `frame` with zeros. Called only for frames that the allocator is about to hand out or
    /// holds free.
    ///
    /// # Errors
    /// `frame`, if it cannot be cleared now.
    fn clear(&mut self, frame: Frame) -> Result<(), Frame>;

    /// The authority over `frames`, lent to the holder of a block.
    fn region(&self, frames: FrameRange) -> Self::Region;
}

/// A stretch of memory that is near the CPUs of one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeRange {
    /// The frames.
    pub frames: FrameRange,
    /// The node.
    pub node: Node,
}

/// The machine, as the boot code found it, and the two constants of the domain heap.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'m> {
    /// Number of pages: frames 0 to `max_page - 1` are legal. At most [`MAX_PAGES`].
    pub max_page: u64,
    /// Last frame of the `dma` zone; the `dom` zone begins behind it.
    pub max_dma_page: u64,
    /// Pages of the `dma` zone that are kept for requests that need that zone.
    pub dma_emergency_pages: u64,
    /// Most pages that one allocation or assignment may clear. A larger need is reported as
    /// [`Event::TooMuchToScrub`] and can be met in steps.
    pub scrub_limit: u64,
    /// Which frames are near which node; frames in none of the ranges belong to node 0.
    pub nodes: &'m [NodeRange],
}

impl Machine<'_> {
    /// The node of page `page`, and the end of the stretch around it that lies in one node.
    pub(crate) fn node_of(&self, page: u64) -> (Node, u64) {
        let mut end = MAX_PAGES;
        for range in self.nodes {
            if range.frames.start() <= page && page < range.frames.end() {
                return (range.node, range.frames.end());
            }
            if page < range.frames.start() {
                end = end.min(range.frames.start());
            }
        }
        (Node::ZERO, end)
    }
}

/// A zone of memory. A page's zone does not change after initialisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Zone {
    /// The hypervisor's own heap.
    Xen,
    /// Memory for domains.
    Dom,
    /// Memory for domains that devices with short addresses reach, too.
    Dma,
}

impl Zone {
    /// All zones.
    pub const ALL: [Self; ZONES] = [Self::Xen, Self::Dom, Self::Dma];

    /// The zone's place in tables.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Xen => 0,
            Self::Dom => 1,
            Self::Dma => 2,
        }
    }

    /// Whether the zone belongs to the domain heap.
    pub(crate) const fn is_domain(self) -> bool {
        matches!(self, Self::Dom | Self::Dma)
    }
}

impl TryFrom<u32> for Zone {
    type Error = Event;

    /// The zone with number `number`: 0 for `xen`, 1 for `dom`, 2 for `dma`.
    fn try_from(number: u32) -> Result<Self, Event> {
        match number {
            0 => Ok(Self::Xen),
            1 => Ok(Self::Dom),
            2 => Ok(Self::Dma),
            _ => Err(Event::UnknownZone { number }),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Xen => "xen",
            Self::Dom => "dom",
            Self::Dma => "dma",
        })
    }
}

/// A NUMA node; always below [`MAX_NODES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(u8);

impl Node {
    /// Node 0, which every machine has.
    pub const ZERO: Self = Self(0);

    /// Node `number`.
    ///
    /// # Errors
    /// [`Event::UnknownNode`] if it is not below [`MAX_NODES`].
    pub const fn new(number: u32) -> Result<Self, Event> {
        if number < MAX_NODES as u32 {
            Ok(Self(number as u8))
        } else {
            Err(Event::UnknownNode { number })
        }
    }

    /// The node's number.
    #[must_use]
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

/// A CPU, by its place in the slice of caches that the allocator was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(pub usize);

/// The size of a block: 2^order pages, order at most [`MAX_ORDER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// One page.
    pub const ZERO: Self = Self(0);
    /// 2 MiB.
    pub const TWO_MIB: Self = Self(9);
    /// The largest block.
    pub const MAX: Self = Self(MAX_ORDER as u8);

    /// Order `number`.
    ///
    /// # Errors
    /// [`Event::RequestTooLarge`] above [`MAX_ORDER`].
    pub const fn new(number: u32) -> Result<Self, Event> {
        if number <= MAX_ORDER {
            Ok(Self(number as u8))
        } else {
            Err(Event::RequestTooLarge { request: number as u64 })
        }
    }

    /// The order as a number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 as u32
    }

    /// Pages in a block of this order.
    #[must_use]
    pub const fn pages(self) -> u64 {
        1 << self.0
    }

    /// Half the size, or `None` of a single page.
    #[must_use]
    pub const fn half(self) -> Option<Self> {
        match self.0.checked_sub(1) {
            Some(order) => Some(Self(order)),
            None => None,
        }
    }

    /// Twice the size, or `None` of the largest block.
    pub(crate) const fn double(self) -> Option<Self> {
        if self.0 as u32 >= MAX_ORDER { None } else { Some(Self(self.0 + 1)) }
    }

    /// The order's place in tables.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// The largest block that starts at `page` and ends at or before `end`, which is behind `page`.
    pub(crate) const fn largest(page: u64, end: u64) -> Self {
        let size = (end - page).ilog2();
        let alignment = page.trailing_zeros();
        let order = if size < alignment { size } else { alignment };
        if order < MAX_ORDER { Self(order as u8) } else { Self::MAX }
    }

    /// All orders, smallest first.
    pub(crate) fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..=Self::MAX.0).map(Self)
    }
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

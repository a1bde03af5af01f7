//! The page allocator: how the memory of the machine is handed out, and taken back.
//!
//! The modules are those of the Xenon decomposition of Xen's `page_alloc`, with its functions
//! under its names: the page map (`page_map`), the boot-time allocator (`boot_time`), the run-time
//! allocator (`run_time`), the Xen heap (`xen_heap`), the domain heap (`domain_heap`) and page
//! scrubbing (`scrubbing`). Each hides one decision, told at the top of its file; all of them are
//! reached through one value, [`PageAllocator`], which the kernel keeps behind its lock.
//!
//! What it rests on is [`Pages`], the layer below, which keeps the record of every page's owner.
//! The allocator decides who gets which page; that nobody reaches a page without authority is
//! the layer's below, and does not depend on this crate.
//!
//! Every undesired event is an [`Event`], returned before any attribute of a page or domain
//! changed. No operation recurses; each is bounded by the number of orders, by the pages of its
//! block, or by the budget that it is given (those of the boot-time allocator, and those that
//! give memory to a zone, by the blocks in their range).

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

#[cfg(test)]
extern crate std;

mod block;
mod boot_time;
mod domain_heap;
mod environment;
mod event;
mod page_map;
mod run_time;
mod scrubbing;
mod xen_heap;

use core::fmt;
use core::ops::Range;

use heliox_types::Frame;

pub use block::{DomainBlock, HeapBlock, Refused, XenBlock};
pub use domain_heap::domain::Domain;
pub use domain_heap::{MemoryFlags, NodeFlag};
pub use environment::{
    Cpu, MAX_NODES, MAX_ORDER, MAX_PAGES, Machine, Node, NodeRange, Order, Pages, Zone,
};
pub use event::Event;
pub use run_time::cpu_cache::CpuCache;
pub use run_time::figures::{HeapFigures, ZoneFigures};
pub use run_time::section::MAX_SECTIONS;
pub use run_time::{Offlined, ScrubProgress, ScrubStep};

use domain_heap::records::Records;
use page_map::PageMap;
use run_time::buddy::FreeBlocks;
use run_time::section::Heap;

/// How far initialisation has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// `init_boot_allocator` was not called.
    Uninitialised,
    /// Memory outside the heaps is handed out by the boot-time allocator.
    Boot,
    /// All memory that is free is in the heaps.
    Running,
}

/// The page allocator of a machine.
///
/// `'m` is the lifetime of the memory that its records lie in.
pub struct PageAllocator<'m, P: Pages> {
    pages: P,
    machine: Machine<'m>,
    phase: Phase,
    /// Number of nodes: one more than the largest of the machine.
    nodes: u32,
    /// Words of all records.
    metadata_words: usize,
    /// The pages that the records lie in.
    own_pages: Range<u64>,
    map: PageMap<'m>,
    boot_blocks: FreeBlocks,
    heap: Heap,
    records: Records<'m>,
    caches: &'m mut [CpuCache],
    /// Pages that domains have claimed and not yet got.
    claimed: u64,
    bad_pages: u64,
    /// Where `scrub_heap_pages` goes on.
    scrub_cursor: u64,
    /// Where `page_scrub_softirq` goes on.
    pending_cursor: u64,
    /// Pages that wait to be cleared.
    pending: u64,
}

/// Why an allocator cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The machine has no pages, or more than [`MAX_PAGES`].
    Pages(u64),
    /// The slice for records has fewer words than are needed.
    MetadataTooSmall {
        /// Words needed.
        needed: usize,
        /// Words given.
        given: usize,
    },
    /// Two nodes' ranges overlap.
    NodesOverlap(NodeRange, NodeRange),
    /// There is no cache, so no CPU.
    NoCpu,
}

impl fmt::Display for SetupError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(pages) => write!(formatter, "cannot manage {pages} pages"),
            Self::MetadataTooSmall { needed, given } => {
                write!(formatter, "records need {needed} words, not {given}")
            }
            Self::NodesOverlap(one, other) => write!(
                formatter,
                "memory of nodes {} and {} overlaps: {} and {}",
                one.node.number(),
                other.node.number(),
                one.frames,
                other.frames
            ),
            Self::NoCpu => write!(formatter, "no CPU"),
        }
    }
}

impl core::error::Error for SetupError {}

/// Everything that can be seen of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAttributes<O> {
    /// Some holder has it.
    pub allocated: bool,
    /// It must never be handed out.
    pub bad: bool,
    /// It is known to contain only zeros.
    pub zeroized: bool,
    /// Its zone, if it is in one.
    pub zone: Option<Zone>,
    /// The node that it is near.
    pub node: Node,
    /// The domain that it is assigned to.
    pub owner: Option<O>,
    /// References to it, with the owner's own.
    pub ref_count: u32,
    /// It is assigned to a domain.
    pub domain_assigned: bool,
    /// It was freed by a dying domain and not yet cleared.
    pub scrub_pending: bool,
    /// It is in a CPU's cache.
    pub cached: bool,
}

impl<'m, P: Pages> PageAllocator<'m, P> {
    /// Words of records that a machine of `max_page` pages needs: at most 16 bytes per page, and
    /// nearer to 5 on all but the smallest machines.
    #[must_use]
    pub const fn metadata_words(max_page: u64) -> usize {
        PageMap::words(max_page) + Records::words(max_page)
    }

    /// An allocator for `machine`, over the pages of `pages`, with its records in `metadata`,
    /// which has at least [`Self::metadata_words`] words, all zero, and with a cache for each CPU.
    /// It has no memory to hand out yet.
    ///
    /// # Errors
    /// [`SetupError`] if that is not so (but the words are not looked at).
    pub fn new(
        machine: Machine<'m>,
        pages: P,
        metadata: &'m mut [u64],
        caches: &'m mut [CpuCache],
    ) -> Result<Self, SetupError> {
        let max_page = machine.max_page;
        if max_page == 0 || max_page > MAX_PAGES {
            return Err(SetupError::Pages(max_page));
        }
        for (place, one) in machine.nodes.iter().enumerate() {
            for other in machine.nodes.iter().skip(place + 1) {
                if one.frames.overlaps(other.frames) {
                    return Err(SetupError::NodesOverlap(*one, *other));
                }
            }
        }
        if caches.is_empty() {
            return Err(SetupError::NoCpu);
        }
        let given = metadata.len();
        let too_small =
            SetupError::MetadataTooSmall { needed: Self::metadata_words(max_page), given };
        let Some((map, rest)) = metadata.split_at_mut_checked(PageMap::words(max_page)) else {
            return Err(too_small);
        };
        let Some((records, _)) = rest.split_at_mut_checked(Records::words(max_page)) else {
            return Err(too_small);
        };
        let nodes = machine
            .nodes
            .iter()
            .map(|range| range.node)
            .chain(caches.iter().map(CpuCache::node))
            .map(|node| node.number() as u32 + 1)
            .fold(1, u32::max);
        Ok(Self {
            pages,
            machine,
            phase: Phase::Uninitialised,
            nodes,
            metadata_words: given,
            own_pages: 0..0,
            map: PageMap::new(map, max_page),
            boot_blocks: FreeBlocks::new(),
            heap: Heap::new(),
            records: Records::new(records),
            caches,
            claimed: 0,
            bad_pages: 0,
            scrub_cursor: 0,
            pending_cursor: 0,
            pending: 0,
        })
    }

    /// The layer below.
    pub const fn pages(&self) -> &P {
        &self.pages
    }

    /// The layer below, to change what the allocator does not decide.
    pub const fn pages_mut(&mut self) -> &mut P {
        &mut self.pages
    }

    /// The page's record's number, of a legal frame: the source's `mfn2Page`.
    ///
    /// # Errors
    /// [`Event::NotLegalAddress`].
    pub fn mfn_to_page(&self, frame: Frame) -> Result<PageNumber, Event> {
        self.check_legal(frame.number())?;
        Ok(PageNumber(frame))
    }

    /// The frame of a page's record: the source's `page2Mfn`, the inverse of
    /// [`Self::mfn_to_page`].
    pub const fn page_to_mfn(&self, page: PageNumber) -> Frame {
        page.0
    }

    /// Everything that can be seen of a page.
    ///
    /// # Errors
    /// [`Event::NotInitialised`], [`Event::NotLegalAddress`].
    pub fn attributes(&self, frame: Frame) -> Result<PageAttributes<P::Owner>, Event> {
        self.check_initialised()?;
        let page = frame.number();
        self.check_legal(page)?;
        let record = self.records.get(page);
        let assigned = record.is_assigned();
        Ok(PageAttributes {
            allocated: !self.is_free(page),
            bad: self.map.is_bad(page),
            zeroized: self.map.is_zeroized(page),
            zone: self.zone_of(page),
            node: self.machine.node_of(page).0,
            owner: assigned.then(|| self.pages.owner(frame)),
            ref_count: record.references(),
            domain_assigned: assigned,
            scrub_pending: record.is_pending(),
            cached: self.is_cached(page),
        })
    }

    #[inline]
    fn check_initialised(&self) -> Result<(), Event> {
        if self.phase == Phase::Uninitialised { Err(Event::NotInitialised) } else { Ok(()) }
    }

    /// Check that memory outside the heaps is still handed out.
    fn check_boot(&self) -> Result<(), Event> {
        match self.phase {
            Phase::Uninitialised => Err(Event::NotInitialised),
            Phase::Boot => Ok(()),
            Phase::Running => Err(Event::BootEnded),
        }
    }

    #[inline]
    fn check_legal(&self, page: u64) -> Result<(), Event> {
        if page < self.map.max_page() {
            Ok(())
        } else {
            Err(Event::NotLegalAddress { frame: page })
        }
    }

    /// Check the pages from `start` to `end`, which is behind `start`.
    #[inline]
    fn check_legal_range(&self, start: u64, end: u64) -> Result<(), Event> {
        if end <= self.map.max_page() {
            Ok(())
        } else {
            Err(Event::NotLegalAddress { frame: start.max(self.map.max_page()) })
        }
    }
}

/// The number of a page's record; always of a page that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(Frame);

//! Undesired events: everything that can be wrong with a request.

use core::fmt;

use crate::{Node, Zone};

/// Why an operation could not be carried out. It then changed no attribute of any page or domain,
/// except that pages that were free already may have been cleared.
///
/// Frames are given as numbers, since some of them are not legal frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `init_boot_allocator` was called before.
    AlreadyInitialised,
    /// `init_boot_allocator` was not called yet.
    NotInitialised,
    /// The boot-time allocator has ended; memory now belongs to the heaps.
    BootEnded,
    /// Frame `frame` is at or past `max_page`, or a range runs past it.
    NotLegalAddress {
        /// The first number that is not legal.
        frame: u64,
    },
    /// A page of a range that should be free is allocated.
    PagesAlreadyAllocated {
        /// The first such page.
        frame: u64,
    },
    /// A page of a range that should be allocated is free: a double free.
    PagesNotAllocated {
        /// The first such page.
        frame: u64,
    },
    /// An order above the largest, a count that overflows, or an alignment no power of two.
    RequestTooLarge {
        /// The order, count or alignment.
        request: u64,
    },
    /// A page is not of the zone named, or already in a zone.
    BadZone {
        /// The page.
        frame: u64,
        /// The zone that it is in.
        actual: Option<Zone>,
    },
    /// There is no zone with this number.
    UnknownZone {
        /// The number.
        number: u32,
    },
    /// There is no node with this number.
    UnknownNode {
        /// The number.
        number: u32,
    },
    /// There is no CPU with this number.
    UnknownCpu {
        /// The number.
        number: usize,
    },
    /// Nothing free satisfies order, zone and flags.
    NoSuitableBlock {
        /// The block's order or, from the boot-time allocator, the number of pages.
        request: u64,
    },
    /// A range has no whole page in it, or ends before it starts.
    EmptyRange {
        /// The start that was given.
        start: u64,
        /// The end that was given.
        end: u64,
    },
    /// The domain is dying.
    DomainDying,
    /// The domain would have more pages than its quota.
    QuotaExceeded {
        /// Pages that it has (and, for a claim, pages claimed).
        total_pages: u64,
        /// Pages that were asked for.
        request: u64,
        /// Its quota.
        max_pages: u64,
    },
    /// The page belongs to another domain.
    NotOwner {
        /// The page.
        frame: u64,
    },
    /// The page is assigned to no domain.
    NotAssigned {
        /// The page.
        frame: u64,
    },
    /// No block of this order starts at this address.
    NoAddress {
        /// The address.
        frame: u64,
    },
    /// The page is bad.
    BadPage {
        /// The page.
        frame: u64,
    },
    /// The page holds the allocator's own records.
    HoldsMap {
        /// The page.
        frame: u64,
    },
    /// The page was freed by a dying domain and waits to be cleared.
    ScrubPending {
        /// The page.
        frame: u64,
    },
    /// Somebody else still has references to the page.
    StillReferenced {
        /// The first such page.
        frame: u64,
        /// How many references, with the owner's own.
        references: u32,
    },
    /// The page has as many references as can be counted.
    TooManyReferences {
        /// The page.
        frame: u64,
    },
    /// Only the owner's own reference is left; it goes when the page is freed.
    LastReference {
        /// The page.
        frame: u64,
    },
    /// What is free is claimed by domains that are being built.
    ReservedByClaims {
        /// Pages that are free.
        available: u64,
        /// Pages of them that are claimed by others.
        claimed: u64,
    },
    /// More pages of other owners would have to be cleared at once than the limit allows. Clear
    /// them with `scrub_block_at`, in steps, and ask again; or assign smaller blocks.
    TooMuchToScrub {
        /// First page of the block.
        frame: u64,
        /// Pages that would have to be cleared.
        pages: u64,
    },
    /// The layer below refused to clear a page or to change its owner now.
    Refused {
        /// The page.
        frame: u64,
    },
    /// The zones lie in more separate stretches than there is room for.
    TooManySections,
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyInitialised => write!(formatter, "already initialised"),
            Self::NotInitialised => write!(formatter, "not initialised"),
            Self::BootEnded => write!(formatter, "the boot-time allocator has ended"),
            Self::NotLegalAddress { frame } => {
                write!(formatter, "frame {frame:#x} is not a legal address")
            }
            Self::PagesAlreadyAllocated { frame } => {
                write!(formatter, "page {frame:#x} is already allocated")
            }
            Self::PagesNotAllocated { frame } => {
                write!(formatter, "page {frame:#x} is not allocated")
            }
            Self::RequestTooLarge { request } => {
                write!(formatter, "request too large: {request:#x}")
            }
            Self::BadZone { frame, actual: Some(zone) } => {
                write!(formatter, "page {frame:#x} is in zone {zone}")
            }
            Self::BadZone { frame, .. } => write!(formatter, "page {frame:#x} is in no such zone"),
            Self::UnknownZone { number } => write!(formatter, "unknown zone {number}"),
            Self::UnknownNode { number } => write!(formatter, "unknown node {number}"),
            Self::UnknownCpu { number } => write!(formatter, "unknown CPU {number}"),
            Self::NoSuitableBlock { request } => {
                write!(formatter, "no suitable block for request {request}")
            }
            Self::EmptyRange { start, end } => {
                write!(formatter, "no page in range {start:#x}..{end:#x}")
            }
            Self::DomainDying => write!(formatter, "the domain is dying"),
            Self::QuotaExceeded { total_pages, request, max_pages } => {
                write!(formatter, "{total_pages} + {request} pages exceed the quota of {max_pages}")
            }
            Self::NotOwner { frame } => {
                write!(formatter, "page {frame:#x} belongs to another domain")
            }
            Self::NotAssigned { frame } => {
                write!(formatter, "page {frame:#x} is assigned to no domain")
            }
            Self::NoAddress { frame } => write!(formatter, "no block starts at {frame:#x}"),
            Self::BadPage { frame } => write!(formatter, "page {frame:#x} is bad"),
            Self::HoldsMap { frame } => {
                write!(formatter, "page {frame:#x} holds the allocator's records")
            }
            Self::ScrubPending { frame } => {
                write!(formatter, "page {frame:#x} waits to be cleared")
            }
            Self::StillReferenced { frame, references } => {
                write!(formatter, "page {frame:#x} has {references} references")
            }
            Self::TooManyReferences { frame } => {
                write!(formatter, "page {frame:#x} has too many references")
            }
            Self::LastReference { frame } => {
                write!(formatter, "page {frame:#x} has one reference left")
            }
            Self::ReservedByClaims { available, claimed } => {
                write!(formatter, "{claimed} of {available} available pages are claimed by others")
            }
            Self::TooMuchToScrub { frame, pages } => {
                write!(formatter, "{pages} pages from {frame:#x} on must be cleared")
            }
            Self::Refused { frame } => write!(formatter, "page {frame:#x} is still in use"),
            Self::TooManySections => write!(formatter, "too many separate stretches of memory"),
        }
    }
}

impl core::error::Error for Event {}

/// A page in no legal zone as far as the request goes.
pub(crate) const fn bad_zone(frame: u64, actual: Option<Zone>) -> Event {
    Event::BadZone { frame, actual }
}

/// A node that the machine does not have.
pub(crate) const fn unknown_node(node: Node) -> Event {
    Event::UnknownNode { number: node.number() as u32 }
}

//! Why an operation was refused. A refused operation changed nothing.

use core::fmt;

use crate::cpu::CpuIndex;
use crate::domain::Owner;
use crate::rights::Rights;
use crate::status::Status;
use crate::{Frame, FrameRange, PhysicalAddress, VirtualAddress};

/// The reason of a refusal, with the values that it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// A flexpage is smaller than a page, or larger than its address space.
    BadSize {
        /// Log2 of the size that was asked for.
        bits: u32,
    },
    /// A flexpage does not begin at a multiple of its size.
    Misaligned {
        /// Where it was to begin.
        start: u64,
        /// Log2 of its size.
        bits: u32,
    },
    /// The flexpage is not part of the region.
    OutsideRegion {
        /// The flexpage's first byte.
        start: PhysicalAddress,
        /// Log2 of its size.
        bits: u32,
    },
    /// The operation is for RAM; the region is a device's memory.
    NotRam {
        /// The region's first frame.
        frame: Frame,
    },
    /// The operation is for one page of a size that the machine has, at times only for the smallest;
    /// the region has another size.
    NotOnePage {
        /// Log2 of the region's size in bytes.
        bits: u32,
    },
    /// The range is longer than the operation treats at once.
    TooLong {
        /// Pages in the range.
        pages: u64,
        /// Pages that the operation takes at most.
        limit: u64,
    },
    /// The range is empty, ends past the last address, or crosses the gap of the addresses that
    /// are not canonical.
    BadRange {
        /// The first address.
        start: VirtualAddress,
        /// Number of pages.
        pages: u64,
    },
    /// The range is not within the part of the address space that belongs to programs.
    NotUser {
        /// The first address.
        start: VirtualAddress,
        /// Number of pages.
        pages: u64,
    },
    /// What the new mapping would cover is mapped already, at least in part.
    AlreadyMapped {
        /// Where the new mapping was to be.
        address: VirtualAddress,
    },
    /// Nothing is mapped at the address.
    NotMapped {
        /// The address.
        address: VirtualAddress,
    },
    /// The mapping at the address is of a smallest page, which has no parts.
    NotLarge {
        /// The address.
        address: VirtualAddress,
    },
    /// More page-map pages are needed for tables than were supplied.
    TablesNeeded {
        /// How many are needed.
        needed: usize,
        /// How many were supplied.
        supplied: usize,
    },
    /// A page's status does not allow the operation.
    WrongStatus {
        /// The page, or the first of a larger one.
        frame: Frame,
        /// What it is.
        status: Status,
    },
    /// A page belongs to somebody else.
    NotOwner {
        /// The page, or the first of a larger one.
        frame: Frame,
        /// Who owns it, or `None` if its parts may have different owners.
        owner: Option<Owner>,
    },
    /// Mappings or shares of the memory exist.
    InUse {
        /// The page, or the first of a larger one.
        frame: Frame,
    },
    /// Another processor may still translate to the page.
    Draining {
        /// The page, or the first of a larger one.
        frame: Frame,
    },
    /// The memory is mapped or shared as often as can be counted.
    TooManyReferences {
        /// The page, or the first of a larger one.
        frame: Frame,
    },
    /// The share is for other memory.
    OutsideShare {
        /// The region's first frame.
        frame: Frame,
    },
    /// The share is for somebody else.
    NotGrantee {
        /// Whom it is for.
        grantee: Owner,
    },
    /// The share allows less.
    BeyondShare {
        /// What was asked for.
        asked: Rights,
        /// What the share allows.
        granted: Rights,
    },
    /// The mapping was made through a share: its rights can shrink but not grow.
    Upgrade {
        /// The mapping's address.
        address: VirtualAddress,
        /// What was asked for.
        asked: Rights,
        /// What it allows.
        held: Rights,
    },
    /// There are mappings in the page map.
    NotEmpty {
        /// How many entries of its root are in use.
        entries: u32,
    },
    /// Contexts use the page map.
    PageMapUsed {
        /// How many.
        uses: u32,
    },
    /// Another processor translates with the page map.
    PageMapLoaded {
        /// Which.
        cpu: CpuIndex,
    },
    /// The page map is used as often as can be counted.
    TooManyUses,
    /// The kernel cannot map this memory.
    NoWindow {
        /// The first such frame.
        frame: Frame,
    },
    /// The kernel has a mapping of the page already.
    WindowTaken {
        /// The page.
        frame: Frame,
    },
    /// The kernel mapping is read-only.
    ReadOnly,
    /// The bytes are not all within the kernel mapping.
    OutOfBounds {
        /// Distance of the first byte from the mapping's start.
        offset: usize,
        /// Number of bytes.
        count: usize,
        /// Size of the mapping in bytes.
        size: usize,
    },
    /// Two ranges of the boot-time layout of memory overlap, or one is not within memory.
    BadLayout {
        /// The range.
        range: FrameRange,
    },
    /// The storage for the records of pages has the wrong size.
    BadStorage {
        /// Records needed.
        needed: usize,
        /// Records supplied.
        supplied: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The variants' names and fields are written to be read.
        fmt::Debug::fmt(self, formatter)
    }
}

impl core::error::Error for Error {}

/// A refusal that gives back the handle that was to be consumed.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused<T> {
    /// The handle, as it was.
    pub handle: T,
    /// Why.
    pub error: Error,
}

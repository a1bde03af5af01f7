//! The layers below: machine, page allocator and kernel memory, as far as domains need them.
//!
//! Hides them behind two traits. [`Backing`] is what the kernel implements on its hardware
//! abstraction layer and page allocator, and tests on a machine in memory. Memory-safety does not
//! depend on this crate: an implementation checks every request, and refuses what would break the
//! rule that a domain's memory is reached only by its own spaces and by those that were let in.
//! [`KernelMemory`] is where records of a size that a domain's options decide are kept.

use core::ops::DerefMut;

use heliox_types::Frame;

use crate::access::Window;
use crate::domains::Progress;
use crate::guest::{DomainId, Extent, GuestFrame, Order};

/// Why the layer below did not do what it was asked to. It then changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No free block is large enough, or what is free was claimed by others.
    NoMemory,
    /// The domain's paging pool has no page left for a page table.
    NoTables,
    /// There is no memory for the layer's own records.
    NoKernelMemory,
    /// A page cannot be shared once more.
    TooManyReferences,
    /// What was asked contradicts what the layer below knows. This crate asks for nothing of the
    /// kind unless one of the two is wrong.
    Inconsistent,
}

/// What the page map of a domain has at a guest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Nothing, nor in the whole block of `order` around it.
    Nothing {
        /// The largest such block: a whole number of levels.
        order: Order,
    },
    /// Memory, mapped as a block of `order` around it.
    Memory {
        /// The frame at this guest frame.
        frame: Frame,
        /// The order of the mapping: a whole number of levels.
        order: Order,
    },
}

/// How memory of another domain may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rights {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
}

/// Machine and page allocator.
///
/// All numbers of pages, orders and frames are of 4 KiB pages on a real machine. A machine for
/// tests may be smaller: [`Backing::LEVEL_BITS`] and [`Backing::PAGE_WORDS`], which is a power of two
/// and at least 8.
pub trait Backing {
    /// Log2 of the number of entries of a page table. Page maps map blocks of zero, one and two
    /// times this order.
    const LEVEL_BITS: u32 = 9;
    /// Words of 64 bits in a page.
    const PAGE_WORDS: u64 = 512;
    /// The most uses of one grant entry with the same rights.
    const MOST_USES: u32 = 1 << 16;
    /// One past the largest guest frame that a page map can map.
    const MOST_FRAMES: u64 = 1 << 35;

    /// A domain's consent that one page of its own is used by one other, with some rights. While
    /// it exists the page is pinned: it changes neither its owner nor what it is used for.
    type Share;

    /// Prepares for a domain without memory: a page map, and a paging pool of `tables` pages that
    /// its tables come from, which are not the domain's.
    ///
    /// # Errors
    /// [`Refused::NoMemory`], [`Refused::NoKernelMemory`].
    fn add_domain(&mut self, domain: DomainId, tables: u64) -> Result<(), Refused>;

    /// Forgets a domain that has no page left, in steps: frees its pool, and drops its claim.
    ///
    /// # Errors
    /// [`Refused::Inconsistent`] if it has pages.
    fn remove_domain(&mut self, domain: DomainId) -> Result<Progress, Refused>;

    /// Sets aside free memory, so that the domain will find `pages` pages more. Replaces an
    /// earlier claim; what the domain takes draws on it.
    ///
    /// # Errors
    /// [`Refused::NoMemory`].
    fn claim(&mut self, domain: DomainId, pages: u64) -> Result<(), Refused>;

    /// What is left of the domain's claim, in pages.
    fn claimed(&self, domain: DomainId) -> u64;

    /// Gives the domain a free block, filled with zeros and mapped nowhere.
    ///
    /// # Errors
    /// [`Refused::NoMemory`].
    fn take(&mut self, domain: DomainId, order: Order) -> Result<Frame, Refused>;

    /// Takes a block from the domain: all or an aligned part of one that was taken, mapped nowhere,
    /// not shared, settled. Its content is destroyed before anybody gets it.
    ///
    /// # Errors
    /// [`Refused::Inconsistent`].
    fn give_back(&mut self, domain: DomainId, frame: Frame, order: Order) -> Result<(), Refused>;

    /// Maps a block of the domain's own memory into its page map, where nothing is mapped.
    ///
    /// # Errors
    /// [`Refused::NoTables`], [`Refused::Inconsistent`].
    fn map(&mut self, domain: DomainId, to: Extent, frame: Frame) -> Result<(), Refused>;

    /// Takes one mapping of the domain's own memory, or a part of one, out of its page map. A
    /// larger mapping is split. Processors may go on using it until [`Backing::settle`].
    ///
    /// # Errors
    /// [`Refused::NoTables`], [`Refused::Inconsistent`].
    fn unmap(&mut self, domain: DomainId, from: Extent) -> Result<Frame, Refused>;

    /// Returns when no processor can use any more what was taken out of the domain's page map.
    fn settle(&mut self, domain: DomainId);

    /// What the domain's page map has at `guest`.
    fn translate(&mut self, domain: DomainId, guest: GuestFrame) -> Translation;

    /// Whether a share of some page of the block exists.
    fn is_shared(&mut self, frame: Frame, order: Order) -> bool;

    /// Lets `grantee` use `frame`, a page of `owner`.
    ///
    /// # Errors
    /// [`Refused::TooManyReferences`], [`Refused::Inconsistent`].
    fn share(
        &mut self,
        owner: DomainId,
        frame: Frame,
        grantee: DomainId,
        rights: Rights,
    ) -> Result<Self::Share, Refused>;

    /// Ends a share. No mapping made by it is left.
    fn end_share(&mut self, share: Self::Share);

    /// Maps a shared page into the page map of its grantee, where nothing is mapped.
    ///
    /// # Errors
    /// [`Refused::NoTables`], [`Refused::TooManyReferences`], [`Refused::Inconsistent`].
    fn map_share(&mut self, share: &Self::Share, to: GuestFrame) -> Result<(), Refused>;

    /// Takes a shared page out of the page map of its grantee. To be followed by
    /// [`Backing::settle`] for that domain.
    ///
    /// # Errors
    /// [`Refused::Inconsistent`].
    fn unmap_share(&mut self, share: &Self::Share, from: GuestFrame) -> Result<(), Refused>;

    /// Reads a word of the page, which programs may be writing: the value is one that was there.
    fn load(&mut self, window: &Window, word: u64) -> u64;

    /// Writes a word of the page.
    fn store(&mut self, window: &Window, word: u64, value: u64);

    /// Clears the bits of `clear`, and then sets those of `set`: each in one step, so that nothing
    /// is lost that programs write meanwhile. What is read afterwards was there afterwards.
    fn update(&mut self, window: &Window, word: u64, clear: u64, set: u64);

    /// Reads bytes of the page from byte `offset` on, all of them within the page.
    fn read(&mut self, window: &Window, offset: u64, bytes: &mut [u8]);

    /// Whether the page has zeros only.
    fn is_zero(&mut self, window: &Window) -> bool;

    /// Fills the page with zeros.
    fn clear(&mut self, window: &Window);

    /// Copies `bytes` bytes from byte `from_offset` of one page to byte `to_offset` of another or
    /// the same. Both ranges end within the page.
    fn copy(&mut self, from: &Window, from_offset: u64, to: &Window, to_offset: u64, bytes: u64);
}

/// Memory for the kernel's own records.
pub trait KernelMemory {
    /// A slice of records, freed when dropped.
    type Slice<T>: DerefMut<Target = [T]>;

    /// `count` records as `make` makes them, or `None` if there is no room.
    fn slice<T>(&mut self, count: usize, make: impl FnMut() -> T) -> Option<Self::Slice<T>>;
}

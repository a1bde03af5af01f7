//! The raw operations that the checks stand on.
//!
//! A [`Machine`] does what it is told and checks nothing: each operation states what must hold
//! before it (its *precondition*), and the checks are what makes it hold. On the real processor a
//! broken precondition is undefined behaviour, on the simulated one a report. Therefore a real
//! machine is never handed to a client: the only value of its type is a private field of
//! `Memory`, and the methods of this trait are called in this crate alone.
//!
//! # The window
//!
//! The kernel reaches a frame through the *window*: a part of the kernel's half of every address
//! space, in which each frame can appear at one place, found by its number, and nowhere else. (If
//! the machine keeps the kernel away from addresses that programs can use, a second view of the
//! same entries is theirs: [`Machine::visible_address`].) The tables below the window belong to
//! the environment, are built at boot, and are the same in every root. A frame that is *open* has
//! its one entry there, a frame that is closed has none. Consequences:
//!
//! - whatever stale translation of a window address a processor holds, it leads to the same
//!   frame, with the same memory type;
//! - entries that programs cannot use always allow reading and writing and never executing (who
//!   may write is decided by the checks), so that a stale one is equal to a later one;
//! - only an entry that programs can use makes a difference when it is stale.
//!
//! Physical addresses given to the operations below on memory name bytes in the window.
//!
//! # Several processors
//!
//! Operations on tables and memory act on memory that all processors share; the ones that
//! take a [`CurrentCpu`] act on the processor that executes them. A machine keeps no record of
//! what other processors have cached: that is the business of the checks (`translation`).

use crate::prelude::*;
pub use heliox_types::mapping::WindowEntry;

/// The processor's memory management, without any check.
pub trait Machine {
    /// The shape of the page tables.
    type Geometry: Geometry;

    /// The highest level whose entries can map memory on this machine: at most
    /// [`Geometry::LEAF_LEVELS`], less where the processor lacks a page size. Never changes.
    fn largest_leaf(&self) -> Level;

    // --- Tables ---

    /// The entry at `at`, a word of a table, in one read.
    ///
    /// Precondition: the table is open, or is the reference root; the number of the word in it is
    /// below [`Geometry::ENTRIES`].
    fn read_entry(&self, at: PhysicalAddress) -> Entry;

    /// Replaces the entry at `at` in one write.
    ///
    /// Precondition: as for [`Machine::read_entry`], and it is not the reference root's; the entry
    /// that is replaced is absent, so that the processor is not writing marks into it; everything
    /// that the new entry lets programs reach is theirs to reach in the stated way.
    fn write_entry(&mut self, at: PhysicalAddress, entry: Entry);

    /// Replaces the entry at `at` atomically and returns what was there, with the accessed and dirty marks that the processor made until then.
    ///
    /// Precondition: as for [`Machine::write_entry`], except that an entry may be there.
    fn exchange_entry(&mut self, at: PhysicalAddress, entry: Entry) -> Entry;

    /// Changes a present leaf entry without losing a mark that the processor makes meanwhile, and
    /// returns what was there before: two atomic operations, one that clears the bits `clear`, and
    /// returns the entry that it found, and then one that sets the bits `set`, if there are any.
    ///
    /// A bit that is in neither stays. Rights between the two operations are never more than those
    /// before or those after: the right to write is a bit that gives, so losing it is done by the
    /// first, gaining it by the second operation; the right to execute is a bit that takes, so
    /// gaining it is done by the first, losing it by the second. Hence
    ///
    /// - if one right is gained and the other lost, one operation does both at once;
    /// - if both are gained, or both lost, one is before the other;
    /// - marks alone are cleared at once, and returned as they were.
    ///
    /// Precondition: as for [`Machine::exchange_entry`]; a leaf entry is there.
    fn change_entry(&mut self, at: PhysicalAddress, clear: u64, set: u64) -> Entry;

    /// The root whose kernel half every page map carries. Never changes, nor do its entries.
    fn reference_root(&self) -> Frame;

    // --- The window ---

    /// Whether the window has tables for `frame`. Never changes. True for all RAM that is not
    /// the environment's.
    fn has_window(&self, frame: Frame) -> bool;

    /// Whether `frame` is open.
    ///
    /// Precondition: the window has tables for `frame`.
    fn is_open(&self, frame: Frame) -> bool;

    /// Where programs see frame `frame` while it is open to them.
    ///
    /// Precondition: the window has tables for `frame`.
    fn visible_address(&self, frame: Frame) -> VirtualAddress;

    /// Opens the window for `frame`.
    ///
    /// Precondition: the window has tables for `frame`, and it is closed; `entry` has the
    /// frame's memory type; programs may reach the frame in the way that `entry` lets them.
    fn open_window(&mut self, frame: Frame, entry: WindowEntry);

    /// Closes the window for `frame`, and drops this processor's translations of it in the window.
    ///
    /// Precondition: `frame` is open.
    fn close_window(&mut self, cpu: CurrentCpu, frame: Frame);

    // --- Memory in the window ---

    /// The 8 bytes at `at`, in one relaxed atomic read.
    ///
    /// Precondition: `at` is a multiple of 8, its frame is open.
    fn read_word(&self, at: PhysicalAddress) -> u64;

    /// Writes the 8 bytes at `at` in one relaxed atomic write.
    ///
    /// Precondition: as for [`Machine::read_word`].
    fn write_word(&mut self, at: PhysicalAddress, value: u64);

    /// Clears the bits `clear` of the 8 bytes at `at` and returns what was there before, in one
    /// atomic operation, and then sets the bits `set`, if there are any, in another.
    ///
    /// Precondition: as for [`Machine::read_word`].
    fn change_word(&mut self, at: PhysicalAddress, clear: u64, set: u64) -> u64;

    /// Reads bytes from `at` on. The compiler knows nothing about the source: programs may be
    /// writing it.
    ///
    /// Precondition: every frame of the range is open, and the range does not wrap.
    fn read_bytes(&self, at: PhysicalAddress, bytes: &mut [u8]);

    /// Writes bytes from `at` on.
    ///
    /// Precondition: as for [`Machine::read_bytes`].
    fn write_bytes(&mut self, at: PhysicalAddress, bytes: &[u8]);

    /// Copies `count` bytes in rising order of addresses. Where the two ranges overlap, what
    /// arrives is unspecified.
    ///
    /// Precondition: as for [`Machine::read_bytes`], for both ranges.
    fn copy_bytes(&mut self, from: PhysicalAddress, to: PhysicalAddress, count: usize);

    /// Writes `count` times the byte `value` from `at` on.
    ///
    /// Precondition: as for [`Machine::read_bytes`].
    fn fill_bytes(&mut self, at: PhysicalAddress, count: usize, value: u8);

    // --- Translation on this processor ---

    /// Makes `root` the root of this processor's translations. Afterwards the processor holds no
    /// translation and no paging-structure entry but those of the kernel's half.
    ///
    /// Precondition: `root` is a root with the kernel's half, or the reference root.
    fn load_root(&mut self, cpu: CurrentCpu, root: Frame);

    /// Drops this processor's translations of the page that `address` lies in, whatever the
    /// page's size, also those of the kernel's half. Paging-structure entries may stay.
    fn invalidate_page(&mut self, cpu: CurrentCpu, address: VirtualAddress);

    /// Drops all translations and paging-structure entries of this processor but those of
    /// the kernel's half.
    fn flush(&mut self, cpu: CurrentCpu);

    /// Drops all translations and paging-structure entries of this processor.
    fn flush_all(&mut self, cpu: CurrentCpu);
}

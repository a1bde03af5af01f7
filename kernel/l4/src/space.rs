//! Address spaces.
//!
//! A space belongs to its creator's domain. It exists from the creation of its first thread until its
//! last thread is gone and it has been taken apart. Its tables exist once it is configured.
//!
//! Invariants: the areas of the kernel interface page and of the UTCBs lie within the programs' part
//! of the address space and do not overlap; what is mapped in them is not in the mapping database,
//! and no item maps anything there.

use heliox_abi::{Flexpage, FlexpageKind, GlobalId};
use heliox_hal::page_map::PageMap;
use heliox_types::USER_END;

/// A range of addresses, a power of two long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) base: u64,
    /// Log2 of the size in bytes: 12 or more.
    pub(crate) bits: u32,
}

impl Area {
    /// The area that a flexpage names, if it lies within the programs' part of the address space.
    pub(crate) fn of(flexpage: Flexpage) -> Option<Self> {
        let FlexpageKind::Memory { base, bits } = flexpage.kind() else { return None };
        let area = Self { base, bits };
        (bits < 47 && area.end() <= USER_END).then_some(area)
    }

    /// The first address behind it.
    pub(crate) fn end(self) -> u64 {
        self.base + (1 << self.bits)
    }

    /// Whether `1 << bits` bytes around `address` and this area have an address in common.
    pub(crate) fn overlaps(self, address: u64, bits: u32) -> bool {
        let bits = self.bits.max(bits);
        self.base >> bits == address >> bits
    }

    /// Whether the address lies in it.
    pub(crate) fn contains(self, address: u64) -> bool {
        address >> self.bits == self.base >> self.bits
    }
}

/// Who gets the messages that threads of a space send to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Redirector {
    /// Nobody: they go where they are sent.
    #[default]
    None,
    /// This thread.
    Thread(GlobalId),
    /// A thread that is no more: they wait for another.
    Lost,
}

/// An address space.
#[derive(Debug)]
pub struct Space<P> {
    /// Number of its threads, active or not; 0 if the place is free or the space is being taken apart.
    pub(crate) threads: u32,
    /// Its tables, once it is configured.
    pub(crate) tables: Option<PageMap>,
    pub(crate) kip_area: Area,
    pub(crate) utcb_area: Area,
    /// Its first page of UTCBs; the others are linked to it.
    pub(crate) utcb_pages: u32,
    pub(crate) redirector: Redirector,
    /// Number of its mappings in the database of memory.
    pub(crate) mappings: u32,
    /// Its threads may use the privileged system calls.
    pub(crate) privileged: bool,
    /// Which ports its threads may use, if any.
    pub(crate) ports: Option<P>,
    /// The next free place, plus one.
    pub(crate) next_free: u32,
}

impl<P> Space<P> {
    const NO_AREA: Area = Area { base: 0, bits: 0 };

    /// A free place.
    pub fn free() -> Self {
        Self {
            threads: 0,
            tables: None,
            kip_area: Self::NO_AREA,
            utcb_area: Self::NO_AREA,
            utcb_pages: 0,
            redirector: Redirector::None,
            mappings: 0,
            privileged: false,
            ports: None,
            next_free: 0,
        }
    }

    /// Whether `1 << bits` bytes around `address` are kept free of mappings that programs make.
    pub(crate) fn is_kept_free(&self, address: u64, bits: u32) -> bool {
        self.tables.is_some()
            && (self.kip_area.overlaps(address, bits) || self.utcb_area.overlaps(address, bits))
    }
}

/// Number of sigma0's space.
pub(crate) const SIGMA0: u32 = 0;

/// All address spaces.
#[derive(Debug)]
pub(crate) struct Spaces<'k, P> {
    pub(crate) table: &'k mut [Space<P>],
    /// Absorbs what is asked of numbers that there are not.
    nowhere: Space<P>,
    /// The first free place, plus one.
    free: u32,
}

impl<'k, P> Spaces<'k, P> {
    pub(crate) fn new(table: &'k mut [Space<P>]) -> Self {
        let count = u32::try_from(table.len()).unwrap_or(u32::MAX);
        for (space, following) in table.iter_mut().zip(2..) {
            *space = Space::free();
            space.next_free = if following <= count { following } else { 0 };
        }
        Self { free: u32::from(count > 0), table, nowhere: Space::free() }
    }

    pub(crate) fn at(&self, number: u32) -> &Space<P> {
        self.table.get(number as usize).unwrap_or(&self.nowhere)
    }

    pub(crate) fn at_mut(&mut self, number: u32) -> &mut Space<P> {
        self.table.get_mut(number as usize).unwrap_or(&mut self.nowhere)
    }

    /// Takes a free place.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let number = self.free.checked_sub(1)?;
        self.free = self.at(number).next_free;
        *self.at_mut(number) = Space::free();
        Some(number)
    }

    /// Gives a place back; nothing refers to the space any more.
    pub(crate) fn release(&mut self, number: u32) {
        let next_free = core::mem::replace(&mut self.free, number + 1);
        *self.at_mut(number) = Space { next_free, ..Space::free() };
    }

    /// The numbers of all places.
    pub(crate) fn numbers(&self) -> core::ops::Range<u32> {
        0..u32::try_from(self.table.len()).unwrap_or(u32::MAX)
    }
}

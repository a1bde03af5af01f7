//! Flexpages: ranges of memory whose size is a power of two and that begin at a multiple of
//! their size (thesis section 4.3.1); and ranges of virtual pages.
//!
//! Invariants: a [`Flexpage`] is aligned, at least a page, and within the physical addresses or
//! within one half of the virtual ones. A [`VirtualRange`] is not empty, consists of whole
//! pages and is within one half.

use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroU64;

use crate::error::Error;
use crate::{Frame, PAGE_BITS, PHYSICAL_BITS, PhysicalAddress, VirtualAddress};

/// Marks a flexpage of physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Physical {}

/// Marks a flexpage of virtual addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Virtual {}

/// Log2 of the largest virtual flexpage: one half of the address space.
const VIRTUAL_BITS: u32 = 47;

/// `1 << bits` bytes that begin at a multiple of their number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flexpage<Kind> {
    start: u64,
    bits: u32,
    kind: PhantomData<Kind>,
}

impl<Kind> Flexpage<Kind> {
    const fn checked(start: u64, bits: u32, most: u32) -> Result<Self, Error> {
        if bits < PAGE_BITS || bits > most {
            Err(Error::BadSize { bits })
        } else if start & ((1 << bits) - 1) != 0 {
            Err(Error::Misaligned { start, bits })
        } else {
            Ok(Self { start, bits, kind: PhantomData })
        }
    }

    /// Log2 of the size in bytes.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.bits
    }

    /// Number of 4 KiB pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        1 << (self.bits - PAGE_BITS)
    }
}

impl Flexpage<Physical> {
    /// The `1 << bits` bytes of physical memory from `start` on.
    ///
    /// # Errors
    ///
    /// [`Error::BadSize`] if `bits` is not 12 to 52, [`Error::Misaligned`].
    pub const fn physical(start: PhysicalAddress, bits: u32) -> Result<Self, Error> {
        Self::checked(start.get(), bits, PHYSICAL_BITS)
    }

    /// The first frame.
    #[must_use]
    pub const fn first_frame(self) -> Frame {
        match Frame::new(self.start >> PAGE_BITS) {
            Some(frame) => frame,
            // Not reached: the start is a physical address.
            None => Frame::ZERO,
        }
    }

    /// The first byte.
    #[must_use]
    pub const fn start(self) -> PhysicalAddress {
        self.first_frame().address()
    }
}

impl Flexpage<Virtual> {
    /// The `1 << bits` bytes of an address space from `start` on.
    ///
    /// # Errors
    ///
    /// [`Error::BadSize`] if `bits` is not 12 to 47, [`Error::Misaligned`].
    pub const fn new(start: VirtualAddress, bits: u32) -> Result<Self, Error> {
        Self::checked(start.get(), bits, VIRTUAL_BITS)
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> VirtualAddress {
        // It is canonical: made from a virtual address.
        VirtualAddress::sign_extended(self.start)
    }
}

impl<Kind> fmt::Debug for Flexpage<Kind> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Flexpage({:#x}, 2^{})", self.start, self.bits)
    }
}

/// Consecutive virtual pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtualRange {
    start: u64,
    pages: NonZeroU64,
}

impl VirtualRange {
    /// `pages` pages from the one on that `start` lies in.
    ///
    /// # Errors
    ///
    /// [`Error::BadRange`] if `pages` is 0, or the range does not end within the half of the
    /// address space that it begins in.
    pub const fn new(start: VirtualAddress, pages: u64) -> Result<Self, Error> {
        let error = Err(Error::BadRange { start, pages });
        if pages > 1 << (VIRTUAL_BITS - PAGE_BITS) {
            return error;
        }
        let Some(nonzero) = NonZeroU64::new(pages) else {
            return error;
        };
        let first = start.page_start();
        match first.checked_add((pages << PAGE_BITS) - 1) {
            // Both are canonical: it is the gap if the halves differ.
            Some(last) if first.get() >> VIRTUAL_BITS == last.get() >> VIRTUAL_BITS => {
                Ok(Self { start: first.get(), pages: nonzero })
            }
            _ => error,
        }
    }

    /// The first address.
    #[must_use]
    pub const fn start(self) -> VirtualAddress {
        // It is canonical: made from a virtual address.
        VirtualAddress::sign_extended(self.start)
    }

    /// Number of pages, not 0.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.pages.get()
    }

    /// The first address behind the range, as a number; `u64::MAX` for a range that ends with the
    /// last address of all.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.start.saturating_add(self.pages() << PAGE_BITS)
    }

    /// The part of the range that begins with the page of `start`, at or behind its beginning, or
    /// `None` if the range ends before.
    #[must_use]
    pub const fn rest(self, start: u64) -> Option<Self> {
        let start = start >> PAGE_BITS << PAGE_BITS;
        if start < self.start || start >= self.end() {
            return None;
        }
        let done = (start - self.start) >> PAGE_BITS;
        match NonZeroU64::new(self.pages() - done) {
            Some(pages) => Some(Self { start, pages }),
            None => None,
        }
    }
}

impl From<Flexpage<Virtual>> for VirtualRange {
    fn from(flexpage: Flexpage<Virtual>) -> Self {
        Self {
            start: flexpage.start,
            // A power of two is not 0.
            pages: NonZeroU64::new(flexpage.pages()).unwrap_or(NonZeroU64::MIN),
        }
    }
}

impl fmt::Debug for VirtualRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VirtualRange({:#x}, {} pages)", self.start, self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn physical(start: u64) -> PhysicalAddress {
        PhysicalAddress::new(start).unwrap()
    }

    fn virtual_address(start: u64) -> VirtualAddress {
        VirtualAddress::new(start).unwrap()
    }

    #[test]
    fn flexpages_are_aligned_and_bounded() {
        let flexpage = Flexpage::physical(physical(0x20_0000), 21).unwrap();
        assert_eq!(flexpage.pages(), 512);
        assert_eq!(flexpage.first_frame().number(), 512);
        assert_eq!(
            Flexpage::physical(physical(0x20_1000), 21),
            Err(Error::Misaligned { start: 0x20_1000, bits: 21 })
        );
        for bits in [0, 11, 53, 64, u32::MAX] {
            let error = Error::BadSize { bits };
            assert_eq!(Flexpage::physical(physical(0), bits), Err(error));
        }
        assert!(Flexpage::physical(physical(0), 52).is_ok());
        assert_eq!(
            Flexpage::<Virtual>::new(virtual_address(0), 48),
            Err(Error::BadSize { bits: 48 })
        );
        let top = virtual_address(0xffff_ffff_ffff_f000);
        assert_eq!(Flexpage::<Virtual>::new(top, 12).unwrap().start(), top);
    }

    #[test]
    fn ranges_neither_wrap_nor_cross_the_gap() {
        let bad = |start, pages| {
            let start = virtual_address(start);
            let error = Err(Error::BadRange { start, pages });
            assert_eq!(VirtualRange::new(start, pages), error);
        };
        bad(0, 0);
        bad(0, u64::MAX);
        bad(0x0000_7fff_ffff_f000, 2);
        bad(0xffff_ffff_ffff_f000, 2);
        bad(0xffff_8000_0000_0000, (1 << 35) + 1);
        bad(0x7fff_ffff_f000, (0xffff_8000_0000_0000 - 0x7fff_ffff_e000) >> 12);
        assert!(VirtualRange::new(virtual_address(0xffff_ffff_ffff_f000), 1).is_ok());
        let range = VirtualRange::new(virtual_address(0x1fff), 2).unwrap();
        assert_eq!(range.start().get(), 0x1000);
        assert_eq!(range.end(), 0x3000);
    }

    #[test]
    fn the_rest_of_a_range_ends_where_the_range_does() {
        let range = VirtualRange::new(virtual_address(0x1000), 3).unwrap();
        assert_eq!(range.rest(0x1fff), Some(range));
        let rest = range.rest(0x2000).unwrap();
        assert_eq!((rest.start().get(), rest.end()), (0x2000, 0x4000));
        // A jump past the end, or back before the beginning.
        for start in [0x4000, 0x5000, u64::MAX, 0, 0xfff] {
            assert_eq!(range.rest(start), None, "{start:#x}");
        }
        let top = VirtualRange::new(virtual_address(0xffff_ffff_ffff_e000), 2).unwrap();
        assert_eq!(top.end(), u64::MAX);
        assert_eq!(top.rest(0xffff_ffff_ffff_f000).unwrap().pages(), 1);
    }
}

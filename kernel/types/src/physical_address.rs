//! Physical addresses.

use core::fmt;

use crate::{Frame, PAGE_BITS, PAGE_BYTES, PHYSICAL_BITS};

/// The physical address of a byte; always below 2^52.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalAddress(u64);

impl PhysicalAddress {
    /// The first byte of memory.
    pub const ZERO: Self = Self(0);

    /// The address `value`, or `None` if it is not below 2^52.
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        if value >> PHYSICAL_BITS == 0 { Some(Self(value)) } else { None }
    }

    /// The address of the first byte of a frame, whose number is below its limit.
    pub(crate) const fn of_frame(frame: Frame) -> Self {
        Self(frame.number() << PAGE_BITS)
    }

    /// The address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `bytes` further on, or `None` if that is not below 2^52.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }

    /// The frame that this byte lies in.
    #[must_use]
    pub const fn frame(self) -> Frame {
        Frame::containing(self)
    }

    /// The address of the `index`th word of 8 bytes of the frame that this byte lies in; there are
    /// 512, and `index` is taken modulo that.
    #[must_use]
    pub const fn word(self, index: usize) -> Self {
        Self(self.0 & !(PAGE_BYTES - 1) | ((index as u64 % (PAGE_BYTES / 8)) * 8))
    }

    /// Number of the 8-byte word of its frame that this byte lies in.
    #[must_use]
    pub const fn word_index(self) -> usize {
        (self.offset_in_page() / 8) as usize
    }

    /// Distance in bytes from the start of the 4 KiB frame that this byte lies in.
    #[must_use]
    pub const fn offset_in_page(self) -> u64 {
        self.0 & (PAGE_BYTES - 1)
    }

    /// Whether the address is a multiple of `1 << bits` bytes.
    #[must_use]
    pub const fn is_aligned(self, bits: u32) -> bool {
        self.0 == 0 || self.0.trailing_zeros() >= bits
    }
}

impl From<u32> for PhysicalAddress {
    fn from(value: u32) -> Self {
        Self(u64::from(value))
    }
}

impl fmt::Debug for PhysicalAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PhysicalAddress({:#x})", self.0)
    }
}

impl fmt::Display for PhysicalAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exclusive() {
        assert!(PhysicalAddress::new((1 << 52) - 1).is_some());
        assert_eq!(PhysicalAddress::new(1 << 52), None);
    }

    #[test]
    fn addition_neither_wraps_nor_passes_the_limit() {
        let last = PhysicalAddress::new((1 << 52) - 1).unwrap();
        assert_eq!(last.checked_add(1), None);
        assert_eq!(last.checked_add(u64::MAX), None);
        assert_eq!(last.checked_add(0), Some(last));
    }

    #[test]
    fn alignment() {
        let address = PhysicalAddress::new(0x20_0000).unwrap();
        assert!(address.is_aligned(12));
        assert!(address.is_aligned(21));
        assert!(!address.is_aligned(22));
        assert!(PhysicalAddress::ZERO.is_aligned(51));
    }
}

//! Virtual addresses.

use core::fmt;

use crate::PAGE_BYTES;

/// First address that no program can use.
///
/// Programs have the lower canonical half except its last page: `sysret` to the address right
/// behind the lower half faults in ring 0 on Intel processors (`hazards` 3), and an instruction
/// that ends the last page would be followed by it.
pub const USER_END: u64 = 0x0000_7fff_ffff_f000;

/// A canonical virtual address for four-level paging: bits 63 to 47 are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualAddress(u64);

impl VirtualAddress {
    /// The address 0.
    pub const ZERO: Self = Self(0);

    /// The address `value`, or `None` if it is not canonical.
    #[must_use]
    pub const fn new(value: u64) -> Option<Self> {
        let high = value >> 47;
        if high == 0 || high == 0x1_ffff { Some(Self(value)) } else { None }
    }

    /// The canonical address whose low 48 bits are those of `value`: that is, `value` itself if it
    /// is canonical.
    #[must_use]
    #[inline]
    pub const fn sign_extended(value: u64) -> Self {
        Self((value << 16).cast_signed().wrapping_shr(16).cast_unsigned())
    }

    /// The address as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether a program may have memory or run code at this address.
    #[must_use]
    pub const fn is_user(self) -> bool {
        self.0 < USER_END
    }

    /// The address `bytes` further on, or `None` if the sum wraps or is not canonical.
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }

    /// The start of the 4 KiB page that this byte lies in.
    #[must_use]
    pub const fn page_start(self) -> Self {
        Self(self.0 & !(PAGE_BYTES - 1))
    }

    /// Distance in bytes from the start of the 4 KiB page that this byte lies in.
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

impl fmt::Debug for VirtualAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "VirtualAddress({:#x})", self.0)
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_addresses_exist() {
        assert!(VirtualAddress::new(0).is_some());
        assert!(VirtualAddress::new(0x0000_7fff_ffff_ffff).is_some());
        assert_eq!(VirtualAddress::new(0x0000_8000_0000_0000), None);
        assert_eq!(VirtualAddress::new(0xffff_7fff_ffff_ffff), None);
        assert!(VirtualAddress::new(0xffff_8000_0000_0000).is_some());
        assert!(VirtualAddress::new(u64::MAX).is_some());
    }

    #[test]
    fn sign_extension_makes_canonical_and_keeps_canonical() {
        for value in [0, 1, 0x0000_7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(VirtualAddress::sign_extended(value).get(), value);
        }
        let extended = VirtualAddress::sign_extended(0x1234_8000_0000_0001);
        assert_eq!(VirtualAddress::new(0xffff_8000_0000_0001), Some(extended));
    }

    #[test]
    fn addition_stays_canonical() {
        let last_low = VirtualAddress::new(0x0000_7fff_ffff_ffff).unwrap();
        assert_eq!(last_low.checked_add(1), None);
        let top = VirtualAddress::new(u64::MAX).unwrap();
        assert_eq!(top.checked_add(1), None);
    }

    #[test]
    fn the_last_page_of_the_lower_half_is_not_for_programs() {
        assert!(VirtualAddress::new(USER_END - 1).unwrap().is_user());
        assert!(!VirtualAddress::new(USER_END).unwrap().is_user());
        assert!(!VirtualAddress::new(u64::MAX).unwrap().is_user());
    }
}

//! Amounts of memory in pages, KiB and MiB, and how they round.
//!
//! Hides the rounding rule: an amount that is *used* rounds up when it is told in a larger unit,
//! an amount that is *free* rounds down, so that no sum of rounded amounts promises memory that is
//! not there. Conversion to a smaller unit is exact.

use core::fmt;

use heliox_types::PAGE_BYTES;

/// KiB in a MiB.
const KIB_PER_MIB: u64 = 1024;
/// KiB in a page.
const KIB_PER_PAGE: u64 = PAGE_BYTES / 1024;
/// Pages in a MiB.
const PAGES_PER_MIB: u64 = KIB_PER_MIB / KIB_PER_PAGE;

/// The largest amount that the units hold, in MiB: all that 52 bits of physical address can name.
const MAX_MIB: u64 = 1 << 32;

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident, $suffix:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);
            /// The largest amount: 2^52 bytes, all that a physical address can name.
            pub const MAX: Self = Self($max);

            /// `count` of this unit, or `None` beyond [`Self::MAX`].
            #[must_use]
            pub const fn new(count: u64) -> Option<Self> {
                if count <= Self::MAX.0 { Some(Self(count)) } else { None }
            }

            /// How many of this unit.
            #[must_use]
            pub const fn count(self) -> u64 {
                self.0
            }

            /// The sum, or `None` beyond [`Self::MAX`].
            #[must_use]
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                // Neither is above MAX, far below half of 2^64.
                Self::new(self.0 + other.0)
            }

            /// The difference, or `None` if `other` is more.
            #[must_use]
            pub const fn checked_sub(self, other: Self) -> Option<Self> {
                match self.0.checked_sub(other.0) {
                    Some(count) => Some(Self(count)),
                    None => None,
                }
            }

            /// The sum, but at most [`Self::MAX`].
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                match self.checked_add(other) {
                    Some(sum) => sum,
                    None => Self::MAX,
                }
            }

            /// The difference, or nothing if `other` is more.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!("{} ", $suffix), self.0)
            }
        }
    };
}

unit!(
    /// An amount of memory in pages of 4 KiB.
    Pages, "pages", MAX_MIB * PAGES_PER_MIB
);
unit!(
    /// An amount of memory in KiB.
    KiB, "KiB", MAX_MIB * KIB_PER_MIB
);
unit!(
    /// An amount of memory in MiB.
    MiB, "MiB", MAX_MIB
);

impl Pages {
    /// `amount` of memory that is used, in whole pages.
    #[must_use]
    pub const fn from_used(amount: KiB) -> Self {
        Self(amount.0.div_ceil(KIB_PER_PAGE))
    }

    /// `amount` of memory that is free, in whole pages.
    #[must_use]
    pub const fn from_free(amount: KiB) -> Self {
        Self(amount.0 / KIB_PER_PAGE)
    }
}

impl KiB {
    /// `bytes` that are used, in whole KiB; `None` beyond [`Self::MAX`].
    #[must_use]
    pub const fn from_used_bytes(bytes: u64) -> Option<Self> {
        Self::new(bytes.div_ceil(1024))
    }

    /// `bytes` that are free, in whole KiB; `None` beyond [`Self::MAX`].
    #[must_use]
    pub const fn from_free_bytes(bytes: u64) -> Option<Self> {
        Self::new(bytes / 1024)
    }
}

impl MiB {
    /// `amount` of memory that is used, in whole MiB.
    #[must_use]
    pub const fn from_used(amount: KiB) -> Self {
        Self(amount.0.div_ceil(KIB_PER_MIB))
    }

    /// `amount` of memory that is free, in whole MiB.
    #[must_use]
    pub const fn from_free(amount: KiB) -> Self {
        Self(amount.0 / KIB_PER_MIB)
    }

    /// The amount in pages.
    #[must_use]
    pub const fn pages(self) -> Pages {
        Pages(self.0 * PAGES_PER_MIB)
    }
}

impl From<MiB> for KiB {
    fn from(amount: MiB) -> Self {
        Self(amount.0 * KIB_PER_MIB)
    }
}

impl From<Pages> for KiB {
    fn from(amount: Pages) -> Self {
        Self(amount.0 * KIB_PER_PAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_rounds_up_and_free_rounds_down() {
        for (kib, used_mib, free_mib, used_pages, free_pages) in [
            (0, 0, 0, 0, 0),
            (1, 1, 0, 1, 0),
            (1023, 1, 0, 256, 255),
            (1024, 1, 1, 256, 256),
            (1025, 2, 1, 257, 256),
        ] {
            let amount = KiB::new(kib).unwrap();
            assert_eq!(MiB::from_used(amount).count(), used_mib);
            assert_eq!(MiB::from_free(amount).count(), free_mib);
            assert_eq!(Pages::from_used(amount).count(), used_pages);
            assert_eq!(Pages::from_free(amount).count(), free_pages);
        }
        assert_eq!(KiB::from_used_bytes(1), KiB::new(1));
        assert_eq!(KiB::from_free_bytes(1023), Some(KiB::ZERO));
    }

    #[test]
    fn units_end_with_physical_addresses() {
        assert_eq!(KiB::from(MiB::MAX), KiB::MAX);
        assert_eq!(KiB::from(Pages::MAX), KiB::MAX);
        assert_eq!(MiB::MAX.pages(), Pages::MAX);
        assert_eq!(MiB::from_used(KiB::MAX), MiB::MAX);
        assert_eq!(KiB::from_used_bytes(1 << 52), Some(KiB::MAX));
        assert_eq!(KiB::from_used_bytes((1 << 52) + 1), None);
        assert_eq!(MiB::MAX.checked_add(MiB(1)), None);
        assert_eq!(MiB::MAX.saturating_add(MiB(1)), MiB::MAX);
        assert_eq!(MiB(1).checked_sub(MiB(2)), None);
        assert_eq!(MiB(1).saturating_sub(MiB(2)), MiB::ZERO);
    }
}

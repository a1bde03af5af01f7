//! The three sizes of page that x86-64 can translate.

use core::fmt;

/// A size of page that one page-table entry can map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB: an entry of a level-1 table.
    Size4KiB,
    /// 2 MiB: an entry of a level-2 table.
    Size2MiB,
    /// 1 GiB: an entry of a level-3 table.
    Size1GiB,
}

impl PageSize {
    /// All sizes, smallest first.
    pub const ALL: [Self; 3] = [Self::Size4KiB, Self::Size2MiB, Self::Size1GiB];

    /// Log2 of the size in bytes.
    #[must_use]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Size4KiB => 12,
            Self::Size2MiB => 21,
            Self::Size1GiB => 30,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.bits()
    }

    /// The size in 4 KiB frames.
    #[must_use]
    pub const fn frames(self) -> u64 {
        self.bytes() >> crate::PAGE_BITS
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Size4KiB => "4 KiB",
            Self::Size2MiB => "2 MiB",
            Self::Size1GiB => "1 GiB",
        })
    }
}

//! Processors, by number.

use core::fmt;

/// The largest number of processors that the kernel runs on.
pub const MAX_CPUS: usize = 64;

/// The number of a processor, counted from 0; always below [`MAX_CPUS`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuIndex(u8);

impl CpuIndex {
    /// The processor that boots.
    pub const BOOT: Self = Self(0);

    /// Processor number `number`, or `None` if it is not below [`MAX_CPUS`].
    #[must_use]
    pub const fn new(number: usize) -> Option<Self> {
        if number < MAX_CPUS {
            #[expect(clippy::cast_possible_truncation, reason = "below MAX_CPUS")]
            Some(Self(number as u8))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for CpuIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CpuIndex({})", self.0)
    }
}

impl fmt::Display for CpuIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

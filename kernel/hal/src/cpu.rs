//! Which processor the code runs on.
//!
//! Invariant: a [`CurrentCpu`] exists only on the processor that it names. It is made once per
//! processor, by the code that starts it, and can neither be sent to nor shared with another.

use core::fmt;
use core::marker::PhantomData;

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

/// Proof that the code that holds it runs on a certain processor.
///
/// Operations that invalidate translations act on the processor that executes them; taking this
/// token instead of a number means that no client can name another one.
#[derive(Clone, Copy, Debug)]
pub struct CurrentCpu {
    index: CpuIndex,
    /// A raw pointer is neither `Send` nor `Sync`.
    not_send: PhantomData<*const ()>,
}

impl CurrentCpu {
    /// The token of processor `index`.
    ///
    /// Only the code that starts a processor calls this, on that processor.
    #[cfg_attr(
        not(any(test, feature = "simulated", target_os = "none")),
        expect(dead_code, reason = "called by the start code of a machine")
    )]
    #[must_use]
    pub(crate) const fn new(index: CpuIndex) -> Self {
        Self { index, not_send: PhantomData }
    }

    /// The token of simulated processor `index`.
    ///
    /// A simulated machine runs all its processors in one thread.
    #[cfg(any(test, feature = "simulated"))]
    #[must_use]
    pub const fn simulated(index: CpuIndex) -> Self {
        Self::new(index)
    }

    /// Which processor this is.
    #[must_use]
    pub const fn index(self) -> CpuIndex {
        self.index
    }
}

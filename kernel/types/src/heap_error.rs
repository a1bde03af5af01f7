//! What the heap for kernel objects refuses.

use core::fmt;

use crate::FrameRange;

/// Why the heap did not do what it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapError {
    /// The heap has no slot that is large enough; a page must be lent to it first.
    NoSlot {
        /// Bytes that were asked for.
        bytes: usize,
    },
    /// The frames are not all in the range that was set aside, or one has been lent before.
    NotFree(FrameRange),
    /// No object can be this large, or no table in so many pages.
    TooLarge {
        /// Bytes that were asked for.
        bytes: usize,
    },
}

impl fmt::Display for HeapError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSlot { bytes } => {
                write!(formatter, "no room for a kernel object of {bytes} bytes")
            }
            Self::NotFree(frames) => write!(formatter, "{frames} are not free pages of the heap"),
            Self::TooLarge { bytes } => {
                write!(formatter, "a kernel object of {bytes} bytes is too large")
            }
        }
    }
}

impl core::error::Error for HeapError {}

//! Access rights of a mapping, and memory types.
//!
//! There are four rights and no others: pages that can be written but not read, or executed but
//! not read, do not exist on the processor (`hazards` 8). Every right therefore implies reading,
//! and what is reported is what is in force.

use core::fmt;

/// What may be done with the memory behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Rights {
    /// Reading only.
    Read = 0,
    /// Reading and writing.
    ReadWrite = Self::WRITE,
    /// Reading and fetching instructions.
    ReadExecute = Self::EXECUTE,
    /// Reading, writing and fetching instructions.
    ReadWriteExecute = Self::WRITE | Self::EXECUTE,
}

impl Rights {
    /// The bit of the right to write in the number of these rights (`rights as u8`).
    pub const WRITE: u8 = 1;
    /// The bit of the right to execute in it.
    pub const EXECUTE: u8 = 2;

    /// All rights that exist.
    pub const ALL: [Self; 4] =
        [Self::Read, Self::ReadWrite, Self::ReadExecute, Self::ReadWriteExecute];

    /// The least rights that allow what is asked for, or `None` if nothing is.
    #[must_use]
    pub const fn from_request(read: bool, write: bool, execute: bool) -> Option<Self> {
        if read || write || execute { Some(Self::readable_and(write, execute)) } else { None }
    }

    /// Reading, and writing and fetching as given.
    #[must_use]
    pub const fn readable_and(write: bool, execute: bool) -> Self {
        match (write, execute) {
            (false, false) => Self::Read,
            (true, false) => Self::ReadWrite,
            (false, true) => Self::ReadExecute,
            (true, true) => Self::ReadWriteExecute,
        }
    }

    /// Whether memory can be written.
    #[must_use]
    pub const fn allows_write(self) -> bool {
        self as u8 & Self::WRITE != 0
    }

    /// Whether instructions can be fetched.
    #[must_use]
    pub const fn allows_execute(self) -> bool {
        self as u8 & Self::EXECUTE != 0
    }

    /// Whether everything that `other` allows is allowed.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        other as u8 & !(self as u8) == 0
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "r",
            Self::ReadWrite => "rw",
            Self::ReadExecute => "rx",
            Self::ReadWriteExecute => "rwx",
        })
    }
}

/// How the processor caches accesses to a frame. A frame has one type, always (`hazards` 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemoryType {
    /// RAM.
    WriteBack,
    /// Registers of devices: every access reaches the device, in program order.
    Uncacheable,
    /// Frame buffers: writes may be gathered, reads are not cached.
    WriteCombining,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_and_executing_imply_reading() {
        assert_eq!(Rights::from_request(false, false, false), None);
        assert_eq!(Rights::from_request(false, true, false), Some(Rights::ReadWrite));
        assert_eq!(Rights::from_request(false, false, true), Some(Rights::ReadExecute));
    }

    #[test]
    fn containment_is_the_order_of_sets() {
        for left in Rights::ALL {
            assert!(left.contains(left));
            assert!(left.contains(Rights::Read));
            assert!(Rights::ReadWriteExecute.contains(left));
        }
        assert!(!Rights::ReadWrite.contains(Rights::ReadExecute));
        assert!(!Rights::Read.contains(Rights::ReadWrite));
    }
}

//! Why L4 cannot begin.

use core::fmt;

use heliox_boot::elf::{ElfError, UnreadableFile};
use heliox_hal::error::Error;
use heliox_l4_kernel::StartError;
use heliox_types::{Frame, HeapError};

/// The names of the first two boot modules.
const SERVERS: [&str; 2] = ["sigma0", "root"];

/// Why L4 cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BootError {
    /// The boot loader loaded fewer modules than sigma0 and root.
    NoModule {
        /// The one that is missing.
        number: usize,
    },
    /// A module is no program.
    NotAProgram {
        /// The module.
        number: usize,
        /// Why.
        error: ElfError,
    },
    /// A program is linked at physical memory that is not free.
    InUse {
        /// The module.
        number: usize,
        /// The first page that cannot be its.
        frame: Frame,
    },
    /// Sigma0 and root are linked at the same memory.
    Overlap,
    /// A module cannot be read.
    Unreadable(UnreadableFile),
    /// There are too few pages for the kernel, or for the boot information.
    NoMemory {
        /// Pages that were needed in one piece.
        pages: u64,
    },
    /// Too little memory was set aside for kernel objects.
    Heap(HeapError),
    /// The abstraction layer says no.
    Checks(Error),
    /// The L4 kernel says no.
    Start(StartError),
}

impl fmt::Display for BootError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number: &usize| SERVERS.get(*number).copied().unwrap_or("a module");
        match self {
            Self::NoModule { number } => {
                write!(formatter, "there is no boot module for {}", name(number))
            }
            Self::NotAProgram { number, error } => write!(formatter, "{}: {error}", name(number)),
            Self::InUse { number, frame } => write!(
                formatter,
                "{} is linked at {}, where memory is not free",
                name(number),
                frame.address()
            ),
            Self::Overlap => formatter.write_str("sigma0 and root are linked at the same memory"),
            Self::Unreadable(unreadable) => {
                write!(formatter, "a module cannot be read from {:#x} on", unreadable.offset)
            }
            Self::NoMemory { pages } => write!(formatter, "{pages} free pages were not found"),
            Self::Heap(error) => error.fmt(formatter),
            Self::Checks(error) => error.fmt(formatter),
            Self::Start(error) => error.fmt(formatter),
        }
    }
}

impl core::error::Error for BootError {}

impl From<HeapError> for BootError {
    fn from(error: HeapError) -> Self {
        Self::Heap(error)
    }
}

impl From<Error> for BootError {
    fn from(error: Error) -> Self {
        Self::Checks(error)
    }
}

impl From<StartError> for BootError {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl From<UnreadableFile> for BootError {
    fn from(error: UnreadableFile) -> Self {
        Self::Unreadable(error)
    }
}

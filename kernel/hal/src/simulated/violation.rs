//! What the simulated machine reports.

use std::fmt;

use heliox_types::{Frame, PhysicalAddress, VirtualAddress};

use super::caches::CachedTranslation;
use super::mmu::Access;
use crate::entry::Entry;
use heliox_types::cpu::CpuIndex;
use heliox_types::geometry::Level;
use heliox_types::rights::MemoryType;

/// An operation of [`Machine`](crate::machine::Machine), or of the simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named like the methods")]
pub enum Operation {
    ReadEntry,
    WriteEntry,
    ExchangeEntry,
    ChangeEntry,
    IsOpen,
    VisibleAddress,
    OpenWindow,
    CloseWindow,
    ReadWord,
    WriteWord,
    ChangeWord,
    ReadBytes,
    WriteBytes,
    CopyBytes,
    FillBytes,
    LoadRoot,
    InvalidatePage,
    Flush,
    FlushAll,
    Run,
}

/// What did not hold before an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precondition {
    /// There is no memory there.
    MemoryExists {
        /// The frame.
        frame: Frame,
    },
    /// The window has no tables for the frame.
    HasWindow {
        /// The frame.
        frame: Frame,
    },
    /// The frame is closed and must be open.
    Open {
        /// The frame.
        frame: Frame,
    },
    /// The frame is open and must be closed.
    Closed {
        /// The frame.
        frame: Frame,
    },
    /// A table has no entry with this index.
    IndexInTable {
        /// The index.
        index: usize,
    },
    /// An entry that is not absent was replaced by a plain write.
    EntryAbsent {
        /// The table.
        table: Frame,
        /// The index in the table.
        index: usize,
        /// The entry that is there.
        entry: Entry,
    },
    /// A leaf entry was changed where there is none.
    EntryPresent {
        /// The table.
        table: Frame,
        /// The index in the table.
        index: usize,
    },
    /// The frame holds a table that was built at boot and never changes.
    NotBootTable {
        /// The frame.
        frame: Frame,
    },
    /// The address is no multiple of 8.
    Aligned {
        /// The address.
        at: PhysicalAddress,
    },
    /// The range ends past the last physical address.
    RangeExists {
        /// Its start.
        at: PhysicalAddress,
        /// Its size in bytes.
        count: usize,
    },
    /// The frame has another memory type.
    MemoryTypeOfFrame {
        /// The frame.
        frame: Frame,
        /// The type that the operation asked for.
        asked: MemoryType,
        /// The frame's type.
        of_frame: MemoryType,
    },
    /// The root's entry differs from that of the reference root.
    KernelHalf {
        /// The root.
        root: Frame,
        /// The index of the entry.
        index: usize,
    },
    /// There is no such processor.
    ProcessorExists {
        /// Its number.
        cpu: CpuIndex,
    },
}

/// Which mark of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mark {
    /// The processor used the entry.
    Accessed,
    /// The processor wrote through the entry.
    Dirty,
}

/// Through what a translation was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The processor held the translation.
    Translation,
    /// The processor held the position of a table and walked on from it.
    Table {
        /// The table.
        table: Frame,
        /// Its level.
        level: Level,
    },
}

/// Something that must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// An operation was used although its precondition does not hold.
    BrokenPrecondition {
        /// The operation.
        operation: Operation,
        /// What should hold.
        precondition: Precondition,
    },
    /// An access succeeded by something that a processor had cached, and would not have
    /// succeeded, or not with the same memory, by the tables.
    StaleTranslation {
        /// The processor.
        cpu: CpuIndex,
        /// The address that was accessed.
        address: VirtualAddress,
        /// How it was accessed.
        access: Access,
        /// The frame that the access reached.
        frame: Frame,
        /// Where the translation came from.
        source: Source,
        /// The translation that was used.
        used: CachedTranslation,
        /// The translation according to the tables.
        tables: Option<CachedTranslation>,
    },
    /// The processor wrote a mark into a frame where the tables of the loaded root have no table.
    StrayMark {
        /// The processor.
        cpu: CpuIndex,
        /// The address that was translated.
        address: VirtualAddress,
        /// The frame that the processor took for a table.
        table: Frame,
        /// The level that the processor took it for.
        level: Level,
        /// The index of the entry.
        index: usize,
        /// The mark.
        mark: Mark,
    },
    /// An access left no mark in the tables, since the processor held a translation from before
    /// the mark was cleared.
    UnmarkedAccess {
        /// The processor.
        cpu: CpuIndex,
        /// The address that was accessed.
        address: VirtualAddress,
        /// The frame that was accessed.
        frame: Frame,
        /// The mark that is missing.
        mark: Mark,
    },
    /// A walk met an entry that has reserved bits set or points to a table where there is no
    /// memory.
    MalformedEntry {
        /// The processor.
        cpu: CpuIndex,
        /// The address that was translated.
        address: VirtualAddress,
        /// The table.
        table: Frame,
        /// Its level.
        level: Level,
        /// The index of the entry.
        index: usize,
        /// The entry.
        entry: Entry,
    },
    /// An access reached a frame where there is no memory.
    NoMemory {
        /// The processor.
        cpu: CpuIndex,
        /// The address that was accessed.
        address: VirtualAddress,
        /// The frame that it leads to.
        frame: Frame,
    },
    /// An access used another memory type than the frame's (`hazards` 9).
    WrongMemoryType {
        /// The processor.
        cpu: CpuIndex,
        /// The address that was accessed.
        address: VirtualAddress,
        /// The frame.
        frame: Frame,
        /// The type that was used.
        used: MemoryType,
        /// The frame's type.
        of_frame: MemoryType,
    },
    /// The kernel used the window and faulted.
    KernelFault {
        /// The processor.
        cpu: CpuIndex,
        /// The address in the window.
        address: VirtualAddress,
    },
}

impl Violation {
    /// The frame that was reached, or marked, only because a processor had not yet been told to
    /// forget it. While that frame is draining, this is allowed; otherwise it is not. `None` of
    /// all other violations, which are never allowed.
    #[must_use]
    pub const fn stale_use_of(&self) -> Option<Frame> {
        match *self {
            Self::StaleTranslation { frame, .. } | Self::UnmarkedAccess { frame, .. } => {
                Some(frame)
            }
            Self::StrayMark { table, .. } => Some(table),
            _ => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}

/// What happens when there is something to report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Strictness {
    /// It is collected.
    #[default]
    Collect,
    /// Stale uses (see [`Violation::stale_use_of`]) are collected, everything else panics.
    PanicUnlessStale,
    /// The simulation panics.
    Panic,
}

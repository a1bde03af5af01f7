//! What a mapping says, and what kinds of memory can be mapped.

use crate::entry::{Entry, RootKind};
use crate::geometry::{Geometry, Level};
use crate::rights::{MemoryType, Rights};
use crate::{Frame, FrameRange, VirtualAddress};

/// What a leaf entry says about the memory that it maps, besides where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// What may be done with it.
    pub rights: Rights,
    /// How accesses are cached.
    pub memory_type: MemoryType,
    /// Whether the mapping was made through a `Share`.
    pub foreign: bool,
}

/// What a page-table entry says about a page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappingInfo {
    /// First address of the page.
    pub address: VirtualAddress,
    /// Log2 of its size in bytes.
    pub bits: u32,
    /// The level of the entry: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    pub level: Level,
    /// The first frame that is mapped.
    pub frame: Frame,
    /// What programs may do with it, how accesses are cached, and whether it was mapped through a
    /// share.
    pub attributes: Attributes,
    /// Whether it was accessed.
    pub accessed: bool,
    /// Whether it was written.
    pub dirty: bool,
}

impl MappingInfo {
    /// What `entry`, the leaf of a table of `level`, says about the page that address `at` lies in.
    #[must_use]
    pub fn of<G: Geometry, K: RootKind>(at: u64, level: Level, entry: Entry) -> Self {
        Self {
            address: VirtualAddress::sign_extended(at & !(level.bytes::<G>() - 1)),
            bits: level.bits::<G>(),
            level,
            frame: K::frame(entry),
            attributes: K::attributes(entry),
            accessed: entry.0 & K::ACCESSED != 0,
            dirty: entry.0 & K::DIRTY != 0,
        }
    }
}

/// What the window's entry for a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowEntry {
    /// How accesses are cached: the frame's one memory type.
    pub memory_type: MemoryType,
    /// What programs of every address space may do at the frame's window address, or `None`
    /// if they may not use it. The kernel itself may read and write, but not execute.
    pub programs: Option<Rights>,
}

impl WindowEntry {
    /// RAM for the kernel's use alone.
    pub const PRIVATE: Self = Self { memory_type: MemoryType::WriteBack, programs: None };
}

/// A change of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// These rights instead of what they were.
    Rights(Rights),
    /// Neither accessed nor dirty any more.
    ResetUsage,
}

/// What kind of device a region of device memory belongs to. All other device memory is
/// withheld (`hazards` 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoKind {
    /// The memory of text mode and legacy graphics.
    VideoMemory,
    /// A linear frame buffer.
    FrameBuffer,
}

/// What kind of memory a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionKind {
    /// Memory.
    Ram,
    /// A device's memory.
    Io(IoKind),
}

impl RegionKind {
    /// The one memory type of such memory (`hazards` 9).
    #[must_use]
    pub const fn memory_type(self) -> MemoryType {
        match self {
            Self::Ram => MemoryType::WriteBack,
            Self::Io(IoKind::VideoMemory) => MemoryType::Uncacheable,
            Self::Io(IoKind::FrameBuffer) => MemoryType::WriteCombining,
        }
    }
}

/// A range of device memory that clients may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoRange {
    /// Its frames.
    pub frames: FrameRange,
    /// What it belongs to.
    pub kind: IoKind,
}

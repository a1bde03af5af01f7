//! What the parsers refused or changed, as values for the kernel to log.
//!
//! A diagnostic is not an error: boot goes on. The list is bounded, and what does not fit is
//! counted, so that hostile input can neither fill memory nor hide that something was lost.

use core::fmt;

use heliox_types::FrameRange;

use crate::list::List;
use crate::memory_map::MemoryKind;
use crate::{PhysicalRange, Unreadable};

/// Something that the parsers refused or changed. `Display` is one line without a full stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagnostic {
    /// An entry of the memory map has no bytes; it was dropped.
    EmptyEntry {
        /// Its physical address.
        start: u64,
        /// Its kind.
        kind: MemoryKind,
    },
    /// An entry of the memory map wraps around the end of 64-bit addresses. A usable one was
    /// dropped, any other was taken to run to the end of memory.
    WrappingEntry {
        /// Its physical address.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// Its kind.
        kind: MemoryKind,
    },
    /// An entry of the memory map begins past what this machine has or the kernel can manage; it
    /// was dropped.
    EntryPastEnd {
        /// Its physical address.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// Its kind.
        kind: MemoryKind,
        /// The first address that is too high.
        end: u64,
    },
    /// An entry of the memory map ends past what this machine has or the kernel can manage; its
    /// end was cut off.
    EntryClipped {
        /// Its physical address.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// Its kind.
        kind: MemoryKind,
        /// The first address that is too high.
        end: u64,
    },
    /// An entry of the memory map does not consist of whole pages. Usable memory was rounded
    /// inwards, anything else outwards.
    EntryRounded {
        /// Its physical address.
        start: u64,
        /// Its length in bytes.
        length: u64,
        /// Its kind.
        kind: MemoryKind,
        /// What became of it.
        frames: FrameRange,
    },
    /// Entries of different kinds overlap in the memory map; the less usable kind was taken.
    EntriesOverlap {
        /// Where.
        frames: FrameRange,
        /// The kind that was taken.
        taken: MemoryKind,
        /// The kind that gave way.
        ignored: MemoryKind,
    },
    /// The memory map has too many areas; this usable one was given up.
    UsableAreaDropped {
        /// The memory that will not be used.
        frames: FrameRange,
    },
    /// The memory map has too many areas and none is usable; two neighbours, with the gap between
    /// them, were joined under the less usable of their kinds.
    AreasJoined {
        /// The joint area.
        frames: FrameRange,
        /// Its kind.
        kind: MemoryKind,
    },
    /// The boot loader has no memory map, only the sizes of lower and upper memory; these were
    /// used.
    OnlyBasicMemoryInformation,
    /// The boot loader has no memory map, only that of the EFI firmware; it was used.
    OnlyEfiMemoryMap,
    /// The kernel command line is too long; it was cut off.
    CommandLineTruncated {
        /// How many bytes were kept.
        kept: usize,
    },
    /// The kernel command line has unprintable bytes; they became question marks.
    CommandLineUnprintable,
    /// The kernel command line could not be read, at least not to its end.
    CommandLineUnreadable(Unreadable),
    /// The kernel command line, or a module's, is at an address that does not exist.
    CommandLineAddress {
        /// The address.
        address: u64,
    },
    /// A module was refused.
    ModuleRefused {
        /// Its number, in the boot loader's order, from 0.
        number: usize,
        /// Its physical address.
        start: u64,
        /// Its size in bytes.
        bytes: u64,
        /// Why.
        reason: ModuleRefusal,
    },
    /// There are more modules than the kernel takes; the rest was ignored.
    TooManyModules {
        /// How many were ignored.
        ignored: u64,
    },
    /// The command line of a module is too long; it was cut off.
    ModuleTextTruncated {
        /// The module's number, in the boot loader's order, from 0.
        number: usize,
        /// How many bytes were kept.
        kept: usize,
    },
    /// The command line of a module has unprintable bytes; they became question marks.
    ModuleTextUnprintable {
        /// The module's number, in the boot loader's order, from 0.
        number: usize,
    },
    /// The command line of a module could not be read, at least not to its end.
    ModuleTextUnreadable {
        /// The module's number, in the boot loader's order, from 0.
        number: usize,
        /// What could not be read.
        error: Unreadable,
    },
    /// An entry of the module archive is not a regular file; it was ignored.
    ArchiveEntryIgnored {
        /// Where its header begins in the archive, in bytes.
        offset: u64,
        /// Its file type and permission bits.
        mode: u32,
    },
    /// The address of the ACPI root pointer does not exist; it was ignored.
    RsdpAddress {
        /// The address.
        address: u64,
    },
    /// The frame buffer has impossible measures; it was ignored.
    FrameBufferMeasures {
        /// Its physical address.
        address: u64,
        /// Bytes from one line to the next.
        pitch: u32,
        /// Pixels (or characters) in a line.
        width: u32,
        /// Number of lines.
        height: u32,
        /// Bits in a pixel.
        bits_per_pixel: u8,
    },
    /// The frame buffer lies in memory; it was ignored.
    FrameBufferInMemory {
        /// Where it is said to be.
        range: PhysicalRange,
    },
}

/// Why a module was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleRefusal {
    /// It has no bytes.
    Empty,
    /// It ends before it begins, or runs past the end of physical addresses.
    NoSuchRange,
    /// Some of it is not in memory that the memory map calls usable, or is in the kernel.
    NotInUsableMemory,
    /// It overlaps a structure of the boot loader.
    OverlapsLoader {
        /// The structure.
        structure: PhysicalRange,
    },
    /// It overlaps a module that was taken before.
    OverlapsModule {
        /// The other module.
        module: PhysicalRange,
    },
}

impl fmt::Display for ModuleRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("it is empty"),
            Self::NoSuchRange => formatter.write_str("its addresses do not exist"),
            Self::NotInUsableMemory => formatter.write_str("it is not wholly in usable memory"),
            Self::OverlapsLoader { structure } => {
                write!(formatter, "it overlaps the boot loader's structure at {structure}")
            }
            Self::OverlapsModule { module } => {
                write!(formatter, "it overlaps the module at {module}")
            }
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::EmptyEntry { start, kind } => {
                write!(formatter, "memory map: dropped an empty entry ({kind}) at {start:#x}")
            }
            Self::WrappingEntry { start, length, kind } => write!(
                formatter,
                "memory map: {} entry of {length:#x} bytes ({kind}) at {start:#x}, which wraps \
                 around",
                if kind.is_usable() { "dropped the" } else { "cut off the end of the" }
            ),
            Self::EntryPastEnd { start, length, kind, end } => write!(
                formatter,
                "memory map: dropped the entry of {length:#x} bytes ({kind}) at {start:#x}, past \
                 the limit {end:#x}"
            ),
            Self::EntryClipped { start, length, kind, end } => write!(
                formatter,
                "memory map: cut off the entry of {length:#x} bytes ({kind}) at {start:#x} at the \
                 limit {end:#x}"
            ),
            Self::EntryRounded { start, length, kind, frames } => write!(
                formatter,
                "memory map: rounded the entry of {length:#x} bytes ({kind}) at {start:#x} to \
                 {frames}"
            ),
            Self::EntriesOverlap { frames, taken, ignored } => write!(
                formatter,
                "memory map: {frames} is called {ignored} and {taken}, taken as {taken}"
            ),
            Self::UsableAreaDropped { frames } => write!(
                formatter,
                "memory map: too many areas, gave up the usable memory at {frames}"
            ),
            Self::AreasJoined { frames, kind } => {
                write!(formatter, "memory map: too many areas, took all of {frames} as {kind}")
            }
            Self::OnlyBasicMemoryInformation => formatter.write_str(
                "memory map: the boot loader gave none, only the sizes of lower and upper memory",
            ),
            Self::OnlyEfiMemoryMap => formatter
                .write_str("memory map: the boot loader gave none, only that of the EFI firmware"),
            Self::CommandLineTruncated { kept } => {
                write!(formatter, "command line: cut off after {kept} bytes")
            }
            Self::CommandLineUnprintable => {
                formatter.write_str("command line: replaced unprintable bytes by question marks")
            }
            Self::CommandLineUnreadable(error) => write!(formatter, "command line: {error}"),
            Self::CommandLineAddress { address } => {
                write!(formatter, "command line: there is no physical address {address:#x}")
            }
            Self::ModuleRefused { number, start, bytes, reason } => write!(
                formatter,
                "module {number}: refused, {bytes:#x} bytes at {start:#x}: {reason}"
            ),
            Self::TooManyModules { ignored } => {
                write!(formatter, "modules: too many, ignored the last {ignored}")
            }
            Self::ModuleTextTruncated { number, kept } => {
                write!(formatter, "module {number}: command line cut off after {kept} bytes")
            }
            Self::ModuleTextUnprintable { number } => write!(
                formatter,
                "module {number}: replaced unprintable bytes of the command line by question marks"
            ),
            Self::ModuleTextUnreadable { number, error } => {
                write!(formatter, "module {number}: command line: {error}")
            }
            Self::ArchiveEntryIgnored { offset, mode } => write!(
                formatter,
                "module archive: ignored the entry at offset {offset:#x}, which is not a regular \
                 file (mode {mode:#o})"
            ),
            Self::RsdpAddress { address } => write!(
                formatter,
                "ACPI: there is no physical address {address:#x}, ignored the root pointer"
            ),
            Self::FrameBufferMeasures { address, pitch, width, height, bits_per_pixel } => write!(
                formatter,
                "frame buffer: ignored, at {address:#x} with {width} by {height} pixels of \
                 {bits_per_pixel} bits and {pitch} bytes in a line is impossible"
            ),
            Self::FrameBufferInMemory { range } => {
                write!(formatter, "frame buffer: ignored, {range} is memory")
            }
        }
    }
}

/// A bounded list of [`Diagnostic`]s and the number of those that did not fit.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    list: List<Diagnostic, { Self::CAPACITY }>,
    lost: u64,
}

impl Diagnostics {
    /// How many diagnostics are kept.
    pub const CAPACITY: usize = 32;

    /// The empty list.
    #[must_use]
    pub const fn empty() -> Self {
        Self { list: List::empty(Diagnostic::OnlyBasicMemoryInformation), lost: 0 }
    }

    /// Adds `diagnostic`, or counts it as lost if the list is full.
    pub fn record(&mut self, diagnostic: Diagnostic) {
        if !self.list.push(diagnostic) {
            self.lost = self.lost.saturating_add(1);
        }
    }

    /// The diagnostics that were kept, oldest first.
    #[must_use]
    pub fn as_slice(&self) -> &[Diagnostic] {
        self.list.as_slice()
    }

    /// How many diagnostics did not fit.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Makes the list empty.
    pub(crate) const fn clear(&mut self) {
        self.list.clear();
        self.lost = 0;
    }
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self::empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut diagnostics = Diagnostics::empty();
        for kept in 0..Diagnostics::CAPACITY + 3 {
            diagnostics.record(Diagnostic::CommandLineTruncated { kept });
        }
        assert_eq!(diagnostics.as_slice().len(), Diagnostics::CAPACITY);
        assert_eq!(
            diagnostics.as_slice().last(),
            Some(&Diagnostic::CommandLineTruncated { kept: Diagnostics::CAPACITY - 1 })
        );
        assert_eq!(diagnostics.lost(), 3);
    }
}

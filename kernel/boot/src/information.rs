//! What the kernel knows after it has read what its boot loader left in memory.
//!
//! [`BootInformation`] hides which boot loader that was. Invariants after a successful
//! [`BootInformation::parse`]:
//!
//! - the memory map has usable memory, and calls no byte of the kernel, of a module, or of a
//!   structure of the boot loader usable;
//! - modules are not empty, do not overlap each other, the kernel or the structures of the boot
//!   loader, and lie in what the boot loader's memory map called usable;
//! - the frame buffer, if there is one, lies outside all memory.
//!
//! It is large, so it is made by a constant function for a static variable, and is filled in
//! place.

use core::fmt;

use heliox_types::{FrameRange, PHYSICAL_BITS, PhysicalAddress};

use crate::cpio::{self, Archive, CpioError};
use crate::diagnostic::{Diagnostic, Diagnostics, ModuleRefusal};
use crate::list::List;
use crate::memory_map::{Limits, MemoryKind, MemoryMap};
use crate::physical_memory::read_array;
use crate::text::Text;
use crate::{PhysicalMemory, PhysicalRange, Unreadable, multiboot2, pvh};

/// The way in which the kernel was entered, which says what its boot loader left in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootProtocol {
    /// Xen's PVH: QEMU's `-kernel`, Firecracker, Cloud Hypervisor.
    Pvh,
    /// Multiboot2: GRUB.
    Multiboot2,
}

impl fmt::Display for BootProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pvh => "PVH",
            Self::Multiboot2 => "Multiboot2",
        })
    }
}

/// Why the kernel cannot boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The structure at the address that the boot loader passed is not a PVH start information.
    NotPvh {
        /// What is there instead of the magic number.
        found: u32,
    },
    /// The PVH start information is of version 0, which has no memory map.
    PvhVersion0,
    /// The address of the boot loader's structure is not a multiple of 8.
    Misaligned {
        /// The address.
        address: PhysicalAddress,
    },
    /// The Multiboot2 information has an impossible size.
    InformationSize {
        /// The size in bytes.
        bytes: u32,
    },
    /// A tag of the Multiboot2 information is too small, or larger than what is left.
    TagSize {
        /// Where it begins, in bytes from the start of the information.
        offset: u64,
        /// Its type.
        kind: u32,
        /// Its size in bytes.
        bytes: u32,
    },
    /// A tag that says where memory is comes twice in the Multiboot2 information.
    RepeatedTag {
        /// Its type.
        kind: u32,
    },
    /// The entries of the memory map have an impossible size.
    MemoryMapEntrySize {
        /// The size in bytes.
        bytes: u32,
    },
    /// The memory map has more entries than can be right. (To read only some of them could make
    /// reserved memory usable.)
    TooManyMemoryMapEntries {
        /// How many.
        count: u32,
    },
    /// The boot loader has not ended the boot services of the EFI firmware, which go on using
    /// memory.
    BootServicesRunning,
    /// The boot loader gave no memory map.
    NoMemoryMap,
    /// There is no usable memory.
    NoUsableMemory,
    /// A structure of the boot loader is at addresses that do not exist.
    NoSuchStructure {
        /// Its physical address.
        start: u64,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The boot loader has left more structures than the kernel can keep from being overwritten.
    TooManyStructures,
    /// A structure of the boot loader cannot be read.
    Unreadable(Unreadable),
    /// The archive of modules is malformed.
    Archive(CpioError),
    /// The archive of modules has too many entries.
    TooManyArchiveEntries,
    /// The boot loader speaks no protocol that the kernel knows.
    UnknownLoader,
    /// No usable range is large enough for the kernel's own `bytes` bytes.
    NoRoom {
        /// What the kernel needs in one piece.
        bytes: u64,
        /// All usable memory in bytes.
        usable: u64,
    },
    /// The processor has no local APIC.
    NoLocalApic,
    /// What the boot code found and what it planned do not fit together.
    Contradiction {
        /// Frames that are meant for two things, or for none.
        frames: FrameRange,
    },
}

impl From<Unreadable> for BootError {
    fn from(error: Unreadable) -> Self {
        Self::Unreadable(error)
    }
}

impl From<CpioError> for BootError {
    fn from(error: CpioError) -> Self {
        Self::Archive(error)
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPvh { found } => {
                write!(formatter, "no PVH start information: its magic number is {found:#x}")
            }
            Self::PvhVersion0 => formatter.write_str(
                "the PVH start information is of version 0, which has no memory map; a boot \
                 loader with version 1 is needed",
            ),
            Self::Misaligned { address } => {
                write!(
                    formatter,
                    "the boot loader's structure is at {address}, not a multiple of 8"
                )
            }
            Self::InformationSize { bytes } => {
                write!(formatter, "Multiboot2 information of impossible size: {bytes} bytes")
            }
            Self::TagSize { offset, kind, bytes } => write!(
                formatter,
                "Multiboot2 tag of type {kind} at offset {offset:#x} has an impossible size: \
                 {bytes} bytes"
            ),
            Self::RepeatedTag { kind } => {
                write!(formatter, "Multiboot2 tag of type {kind} comes twice")
            }
            Self::MemoryMapEntrySize { bytes } => {
                write!(formatter, "memory map with entries of impossible size: {bytes} bytes")
            }
            Self::TooManyMemoryMapEntries { count } => {
                write!(formatter, "memory map with too many entries: {count}")
            }
            Self::BootServicesRunning => formatter
                .write_str("the boot loader has not ended the boot services of the EFI firmware"),
            Self::NoMemoryMap => formatter.write_str("the boot loader gave no memory map"),
            Self::NoUsableMemory => formatter.write_str("there is no usable memory"),
            Self::NoSuchStructure { start, bytes } => write!(
                formatter,
                "the boot loader's structure of {bytes:#x} bytes at {start:#x} is at addresses \
                 that do not exist"
            ),
            Self::TooManyStructures => {
                formatter.write_str("the boot loader left too many structures in memory")
            }
            Self::Unreadable(error) => write!(formatter, "boot loader's structure: {error}"),
            Self::Archive(error) => write!(formatter, "module archive: {error}"),
            Self::TooManyArchiveEntries => formatter.write_str("module archive: too many entries"),
            Self::UnknownLoader => {
                formatter.write_str("the boot loader speaks neither PVH nor Multiboot2")
            }
            Self::NoRoom { bytes, usable } => write!(
                formatter,
                "the kernel needs {} KiB of memory in one piece, outside of 14 MiB to 64 MiB, and \
                 found none in the {} KiB that are usable",
                bytes >> 10,
                usable >> 10
            ),
            Self::NoLocalApic => formatter.write_str("the processor has no local APIC"),
            Self::Contradiction { frames } => {
                write!(formatter, "the kernel's plan of memory contradicts itself at {frames}")
            }
        }
    }
}

impl core::error::Error for BootError {}

/// A file that the boot loader put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'a> {
    /// Where its bytes are; not always page-aligned.
    pub range: PhysicalRange,
    /// Its command line: usually its name, then its arguments. Printable ASCII.
    pub command_line: &'a str,
}

impl<'a> Module<'a> {
    /// The first word of the command line; empty if there is none.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.command_line.split_ascii_whitespace().next().unwrap_or("")
    }
}

/// A module, with its command line as a place in the common text.
#[derive(Clone, Copy, Debug)]
struct ModuleRecord {
    /// Number in the order of the boot loader, for diagnostics.
    number: usize,
    range: PhysicalRange,
    text_start: usize,
    text_length: usize,
}

impl ModuleRecord {
    const EMPTY: Self =
        Self { number: 0, range: PhysicalRange::EMPTY, text_start: 0, text_length: 0 };
}

/// Which bits of a pixel hold one colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColorField {
    /// Number of the lowest bit.
    pub position: u8,
    /// Number of bits.
    pub bits: u8,
}

/// How the contents of a frame buffer are to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameBufferKind {
    /// Pixels are numbers of colours in a palette.
    Indexed,
    /// Pixels have a field for each colour.
    Direct {
        /// The red field.
        red: ColorField,
        /// The green field.
        green: ColorField,
        /// The blue field.
        blue: ColorField,
    },
    /// Not pixels but EGA text: a character and an attribute byte.
    Text,
}

/// Video memory, as the boot loader left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameBuffer {
    /// Where it is.
    pub range: PhysicalRange,
    /// Bytes from one line to the next.
    pub pitch: u32,
    /// Pixels (or characters) in a line.
    pub width: u32,
    /// Number of lines.
    pub height: u32,
    /// Bits in a pixel.
    pub bits_per_pixel: u8,
    /// What the bits mean.
    pub kind: FrameBufferKind,
}

/// Everything that the boot loader told the kernel; see the module's description.
#[derive(Debug)]
pub struct BootInformation {
    protocol: Option<BootProtocol>,
    pub(crate) loader_name: Text<64>,
    pub(crate) memory_map: MemoryMap,
    command_line: Text<{ Self::COMMAND_LINE_BYTES }>,
    modules: List<ModuleRecord, { Self::MODULES }>,
    module_text: Text<4096>,
    structures: List<PhysicalRange, 48>,
    rsdp: Option<PhysicalAddress>,
    pub(crate) frame_buffer: Option<FrameBuffer>,
    pub(crate) diagnostics: Diagnostics,
}

impl BootInformation {
    /// How many modules there can be.
    pub const MODULES: usize = 32;

    /// How long the command line of the kernel, and that of each module, can be, in bytes.
    pub const COMMAND_LINE_BYTES: usize = 1024;

    /// How many entries an archive of modules may have, directories and the like included.
    const ARCHIVE_ENTRIES: usize = 1024;

    /// No information at all.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            protocol: None,
            loader_name: Text::empty(),
            memory_map: MemoryMap::empty(),
            command_line: Text::empty(),
            modules: List::empty(ModuleRecord::EMPTY),
            module_text: Text::empty(),
            structures: List::empty(PhysicalRange::EMPTY),
            rsdp: None,
            frame_buffer: None,
            diagnostics: Diagnostics::empty(),
        }
    }

    /// Reads what the boot loader left in memory.
    ///
    /// `address` is what it passed in EBX, `kernel` the frames that the kernel occupies. On
    /// success, and also on an error, [`BootInformation::diagnostics`] tells what was refused or
    /// changed.
    ///
    /// # Errors
    ///
    /// A [`BootError`] that says why the kernel cannot boot. What has been read until then,
    /// such as the command line, can still be asked for, but the invariants do not hold.
    pub fn parse(
        &mut self,
        protocol: BootProtocol,
        address: PhysicalAddress,
        memory: &mut impl PhysicalMemory,
        limits: Limits,
        kernel: FrameRange,
    ) -> Result<(), BootError> {
        self.clear();
        self.protocol = Some(protocol);
        match protocol {
            BootProtocol::Pvh => pvh::read(self, address, memory, limits)?,
            BootProtocol::Multiboot2 => multiboot2::read(self, address, memory, limits)?,
        }
        if self.memory_map.usable_frames() == 0 {
            return Err(BootError::NoUsableMemory);
        }
        self.reserve(kernel);
        self.check_modules();
        for index in 0..self.modules.as_slice().len() {
            if let Some(module) = self.modules.as_slice().get(index) {
                self.reserve(module.range.frames());
            }
        }
        for index in 0..self.structures.as_slice().len() {
            if let Some(structure) = self.structures.as_slice().get(index) {
                self.reserve(structure.frames());
            }
        }
        if protocol == BootProtocol::Pvh {
            self.unpack_archive(memory)?;
        }
        self.check_frame_buffer();
        Ok(())
    }

    /// How the kernel was entered; `None` before [`BootInformation::parse`].
    #[must_use]
    pub const fn protocol(&self) -> Option<BootProtocol> {
        self.protocol
    }

    /// What the boot loader calls itself; empty if it does not say.
    #[must_use]
    pub fn loader_name(&self) -> &str {
        self.loader_name.as_str()
    }

    /// Which memory there is, and which of it is free.
    #[must_use]
    pub const fn memory_map(&self) -> &MemoryMap {
        &self.memory_map
    }

    /// Takes the frames of `frames` from usable memory; see [`MemoryMap::reserve`].
    pub fn reserve(&mut self, frames: FrameRange) {
        self.memory_map.reserve(frames, &mut self.diagnostics);
    }

    /// The command line of the kernel; printable ASCII.
    #[must_use]
    pub fn command_line(&self) -> &str {
        self.command_line.as_str()
    }

    /// The modules, in the order of the boot loader or of the archive.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = Module<'_>> + Clone {
        self.modules.as_slice().iter().map(|module| Module {
            range: module.range,
            command_line: self.module_text.part(module.text_start, module.text_length),
        })
    }

    /// The frames of each module, in the same order: empty for a module that shares a page with
    /// one before it, so that no two overlap.
    pub fn module_frames(&self) -> impl Iterator<Item = FrameRange> + '_ {
        let modules = self.modules.as_slice();
        modules.iter().enumerate().map(move |(number, module)| {
            let frames = module.range.frames();
            let mut before = modules.iter().take(number);
            let shared = before.any(|other| other.range.frames().overlaps(frames));
            if shared { FrameRange::EMPTY } else { frames }
        })
    }

    /// Structures of the boot loader that were read. They are in use in the memory map; the
    /// root pointer of ACPI may lie in one.
    #[must_use]
    pub fn structures(&self) -> &[PhysicalRange] {
        self.structures.as_slice()
    }

    /// Address of the ACPI root pointer (RSDP), whose contents have not been checked.
    #[must_use]
    pub const fn rsdp(&self) -> Option<PhysicalAddress> {
        self.rsdp
    }

    /// The frame buffer that the boot loader set up.
    #[must_use]
    pub const fn frame_buffer(&self) -> Option<&FrameBuffer> {
        self.frame_buffer.as_ref()
    }

    /// What was refused or changed.
    #[must_use]
    pub const fn diagnostics(&self) -> &Diagnostics {
        &self.diagnostics
    }

    /// Forgets everything, in place.
    fn clear(&mut self) {
        self.protocol = None;
        self.loader_name.clear();
        self.memory_map.clear();
        self.command_line.clear();
        self.modules.clear();
        self.module_text.clear();
        self.structures.clear();
        self.rsdp = None;
        self.frame_buffer = None;
        self.diagnostics.clear();
    }

    /// Notes a structure of the boot loader, so that it is kept from being overwritten.
    pub(crate) fn add_structure(&mut self, range: PhysicalRange) -> Result<(), BootError> {
        if range.is_empty() || self.structures.push(range) {
            Ok(())
        } else {
            Err(BootError::TooManyStructures)
        }
    }

    /// Copies the kernel's command line from `source` and returns how many bytes of that it
    /// took, its terminating zero included.
    pub(crate) fn set_command_line(
        &mut self,
        memory: &mut impl PhysicalMemory,
        source: PhysicalRange,
    ) -> u64 {
        self.command_line.clear();
        match self.command_line.copy_string(memory, source, Self::COMMAND_LINE_BYTES) {
            Ok(copied) => {
                if copied.truncated {
                    let kept = self.command_line.len();
                    self.diagnostics.record(Diagnostic::CommandLineTruncated { kept });
                }
                if copied.replaced {
                    self.diagnostics.record(Diagnostic::CommandLineUnprintable);
                }
                copied.source_bytes
            }
            Err(error) => {
                self.diagnostics.record(Diagnostic::CommandLineUnreadable(error));
                0
            }
        }
    }

    /// Notes where the root pointer of ACPI is, if `address` exists.
    pub(crate) fn set_rsdp(&mut self, address: u64) {
        self.rsdp = PhysicalAddress::new(address);
        if self.rsdp.is_none() {
            self.diagnostics.record(Diagnostic::RsdpAddress { address });
        }
    }

    /// Adds a module that is still to be checked, with the string in `text` as its command line.
    /// Returns how many bytes of `text` that took, its terminating zero included; `None` if
    /// there is no room for another module.
    pub(crate) fn add_module(
        &mut self,
        memory: &mut impl PhysicalMemory,
        number: usize,
        (start, bytes): (u64, u64),
        text: PhysicalRange,
    ) -> Option<u64> {
        if self.modules.as_slice().len() >= Self::MODULES {
            return None;
        }
        let refused = |reason| Diagnostic::ModuleRefused { number, start, bytes, reason };
        let Some(range) = PhysicalRange::new(start, bytes) else {
            self.diagnostics.record(refused(ModuleRefusal::NoSuchRange));
            return Some(0);
        };
        if range.is_empty() {
            self.diagnostics.record(refused(ModuleRefusal::Empty));
            return Some(0);
        }
        let text_start = self.module_text.len();
        let copied = self.module_text.copy_string(memory, text, Self::COMMAND_LINE_BYTES);
        let text_length = self.module_text.len() - text_start;
        let text_bytes = match copied {
            Ok(copied) => {
                if copied.truncated {
                    self.diagnostics
                        .record(Diagnostic::ModuleTextTruncated { number, kept: text_length });
                }
                if copied.replaced {
                    self.diagnostics.record(Diagnostic::ModuleTextUnprintable { number });
                }
                copied.source_bytes
            }
            Err(error) => {
                self.diagnostics.record(Diagnostic::ModuleTextUnreadable { number, error });
                0
            }
        };
        let module = ModuleRecord { number, range, text_start, text_length };
        self.modules.push(module).then_some(text_bytes)
    }

    /// Throws out modules that are not where a module can be.
    fn check_modules(&mut self) {
        let candidates = self.modules;
        self.modules.clear();
        for module in candidates.as_slice() {
            match self.refusal(module.range) {
                None => {
                    // There is room: there are no more modules than before.
                    let _ = self.modules.push(*module);
                }
                Some(reason) => self.diagnostics.record(Diagnostic::ModuleRefused {
                    number: module.number,
                    start: module.range.start().get(),
                    bytes: module.range.bytes(),
                    reason,
                }),
            }
        }
    }

    /// Why there can be no module at `range`.
    fn refusal(&self, range: PhysicalRange) -> Option<ModuleRefusal> {
        let overlaps = |other: &&PhysicalRange| other.overlaps(range);
        if let Some(&structure) = self.structures.as_slice().iter().find(overlaps) {
            return Some(ModuleRefusal::OverlapsLoader { structure });
        }
        if !self.memory_map.is_usable(range.frames()) {
            return Some(ModuleRefusal::NotInUsableMemory);
        }
        let mut modules = self.modules.as_slice().iter().map(|module| &module.range);
        modules.find(overlaps).map(|&module| ModuleRefusal::OverlapsModule { module })
    }

    /// If the only module is an archive, replaces it by the archive's regular files.
    fn unpack_archive(&mut self, memory: &mut impl PhysicalMemory) -> Result<(), BootError> {
        let &[ModuleRecord { range, .. }] = self.modules.as_slice() else {
            return Ok(());
        };
        if range.bytes() < cpio::MAGIC.len() as u64 || read_array(memory, range, 0)? != cpio::MAGIC
        {
            return Ok(());
        }
        self.modules.clear();
        self.module_text.clear();
        let mut archive = Archive::new(range);
        let mut number = 0;
        let mut ignored = 0;
        for _ in 0..Self::ARCHIVE_ENTRIES {
            let Some(entry) = archive.next_entry(memory)? else {
                if ignored > 0 {
                    self.diagnostics.record(Diagnostic::TooManyModules { ignored });
                }
                return Ok(());
            };
            if !entry.is_regular_file() {
                let (offset, mode) = (entry.offset, entry.mode);
                self.diagnostics.record(Diagnostic::ArchiveEntryIgnored { offset, mode });
                continue;
            }
            let data = (entry.data.start().get(), entry.data.bytes());
            if self.add_module(memory, number, data, entry.name).is_none() {
                ignored += 1;
            }
            number += 1;
        }
        Err(BootError::TooManyArchiveEntries)
    }

    /// Throws out a frame buffer that lies in memory.
    fn check_frame_buffer(&mut self) {
        if let Some(FrameBuffer { range, .. }) = self.frame_buffer
            && self
                .memory_map
                .overlapping(range.frames())
                .any(|area| area.kind != MemoryKind::Reserved)
        {
            self.diagnostics.record(Diagnostic::FrameBufferInMemory { range });
            self.frame_buffer = None;
        }
    }
}

impl Default for BootInformation {
    fn default() -> Self {
        Self::empty()
    }
}

/// Where a string of at most [`BootInformation::COMMAND_LINE_BYTES`] bytes and a terminating zero
/// can be, if it begins at `address`. `None` if there is no such address.
pub(crate) fn string_at(address: u64) -> Option<PhysicalRange> {
    let to_end = (1_u64 << PHYSICAL_BITS).checked_sub(address)?;
    let most = BootInformation::COMMAND_LINE_BYTES as u64 + 1;
    PhysicalRange::new(address, most.min(to_end))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::vec::Vec;

    use heliox_types::Frame;

    use super::*;

    pub(crate) const LIMITS: Limits = Limits::new(40, u64::MAX);

    /// The frames of the kernel of the tests: 64 KiB from 1.5 MiB on.
    pub(crate) const KERNEL: FrameRange = match FrameRange::new(0x180, 0x190) {
        Some(range) => range,
        None => FrameRange::EMPTY,
    };

    pub(crate) fn module_names(information: &BootInformation) -> Vec<&str> {
        information.modules().map(|module| module.name()).collect()
    }

    /// The invariants of the module's description.
    pub(crate) fn assert_invariants(information: &BootInformation) {
        let map = information.memory_map();
        let taken = |frames: FrameRange| {
            let usable = |area: crate::memory_map::Area| area.kind.is_usable();
            assert!(!map.overlapping(frames).any(usable), "{frames} is usable");
        };
        taken(KERNEL);
        for structure in information.structures() {
            taken(structure.frames());
        }
        let modules: Vec<PhysicalRange> =
            information.modules().map(|module| module.range).collect();
        for (index, module) in modules.iter().enumerate() {
            assert!(!module.is_empty());
            assert!(!module.frames().overlaps(KERNEL));
            for frame in module.frames() {
                assert_eq!(map.kind_of(frame), Some(MemoryKind::InUse));
            }
            assert!(!modules[..index].iter().any(|other| other.overlaps(*module)));
            assert!(!information.structures().iter().any(|other| other.overlaps(*module)));
        }
        if let Some(frame_buffer) = information.frame_buffer() {
            for area in map.overlapping(frame_buffer.range.frames()) {
                assert_eq!(area.kind, MemoryKind::Reserved);
            }
        }
        assert!(map.highest_usable().is_none_or(|frame| frame < Frame::new(1 << 28).unwrap()));
        let frames: Vec<FrameRange> = information.module_frames().collect();
        assert_eq!(frames.len(), modules.len());
        for (index, range) in frames.iter().enumerate() {
            assert!(range.is_empty() || *range == modules[index].frames());
            assert!(!frames[..index].iter().any(|other| other.overlaps(*range)));
        }
    }

    #[test]
    fn a_string_ends_at_the_end_of_physical_addresses() {
        assert_eq!(string_at((1 << 52) - 10).unwrap().bytes(), 10);
        assert_eq!(string_at(0x1000).unwrap().bytes(), 1025);
        assert_eq!(string_at(1 << 52), None);
        assert_eq!(string_at(u64::MAX), None);
    }

    #[test]
    fn information_is_made_by_a_constant_function() {
        static EMPTY: BootInformation = BootInformation::empty();
        assert_eq!(EMPTY.modules().len(), 0);
        assert_eq!(EMPTY.memory_map().usable_frames(), 0);
    }
}

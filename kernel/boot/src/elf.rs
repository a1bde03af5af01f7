//! Static ELF programs for x86-64.
//!
//! Programs are hostile. [`Program::parse`] takes only what the kernel can load without a
//! further look. Invariants of a [`Program`]:
//!
//! - it has at least one segment; every segment has memory, which lies in the part of the
//!   address space that programs may use, without the first page;
//! - no two segments have a page in common, so that each page has the rights of one segment, but
//!   for programs whose memory has all rights ([`Program::parse_unprotected`]): those have no byte
//!   in common;
//! - no segment can be both written and executed: [`Rights`] cannot say so;
//! - the file has all the bytes that a segment takes from it, and they fit into its memory;
//! - the entry point is in a segment that can be executed.
//!
//! The layout is that of the System V ABI, chapters 4 and 5, ELFCLASS64. Pages are copied, so a
//! segment's place in the file need not be aligned like its place in memory. Section headers,
//! notes and all program headers but load segments are not looked at, so their contents cannot
//! do harm.

use core::fmt;

use heliox_types::{PAGE_BYTES, USER_END, VirtualAddress};

use crate::list::List;
use crate::physical_memory::{u16_at, u32_at, u64_at};
use crate::{PhysicalMemory, PhysicalRange, Unreadable};

/// The first bytes of an ELF file.
pub const MAGIC: [u8; 4] = *b"\x7fELF";

/// Size in bytes of the file header.
const HEADER_BYTES: usize = 64;

/// Size in bytes of a program header.
const PROGRAM_HEADER_BYTES: usize = 56;

/// Most program headers that are looked at.
const PROGRAM_HEADERS: u16 = 64;

/// Types of program headers.
const LOAD: u32 = 1;
const INTERPRETER: u32 = 3;

/// Bits of a segment's flags.
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;

/// Some bytes of a file could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadableFile {
    /// Where the read began, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes were asked for.
    pub bytes: u64,
}

/// The bytes of a file, wherever they are.
pub trait FileBytes {
    /// Size of the file in bytes.
    fn size(&self) -> u64;

    /// Copies the `buffer.len()` bytes at `offset` into `buffer`.
    ///
    /// # Errors
    ///
    /// [`UnreadableFile`] if they are not all in the file, or cannot be read.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), UnreadableFile>;
}

impl FileBytes for &[u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), UnreadableFile> {
        let bytes = buffer.len();
        let source = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .and_then(|rest| rest.get(..bytes))
            .ok_or(UnreadableFile { offset, bytes: bytes as u64 })?;
        buffer.copy_from_slice(source);
        Ok(())
    }
}

/// A file that lies in physical memory, such as a module.
#[derive(Debug)]
pub struct FileInMemory<'a, M: ?Sized> {
    memory: &'a mut M,
    range: PhysicalRange,
}

impl<'a, M: PhysicalMemory + ?Sized> FileInMemory<'a, M> {
    /// The file whose bytes are those of `range`.
    pub const fn new(memory: &'a mut M, range: PhysicalRange) -> Self {
        Self { memory, range }
    }
}

impl<M: PhysicalMemory + ?Sized> FileBytes for FileInMemory<'_, M> {
    fn size(&self) -> u64 {
        self.range.bytes()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), UnreadableFile> {
        let bytes = buffer.len() as u64;
        let error = UnreadableFile { offset, bytes };
        let part = self.range.part(offset, bytes).ok_or(error)?;
        self.memory.read(part.start(), buffer).map_err(|Unreadable { .. }| error)
    }
}

/// What a program may do with the memory of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

impl fmt::Display for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "r",
            Self::ReadWrite => "rw",
            Self::ReadExecute => "rx",
        })
    }
}

/// A piece of a program's memory and the part of the file that it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    start: VirtualAddress,
    memory_bytes: u64,
    file_offset: u64,
    file_bytes: u64,
    rights: Rights,
}

impl Segment {
    const EMPTY: Self = Self {
        start: VirtualAddress::ZERO,
        memory_bytes: 0,
        file_offset: 0,
        file_bytes: 0,
        rights: Rights::Read,
    };

    /// Address of its first byte; need not begin a page.
    #[must_use]
    pub const fn start(&self) -> VirtualAddress {
        self.start
    }

    /// Number one past the address of its last byte; at most [`USER_END`].
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.get() + self.memory_bytes
    }

    /// Size in memory in bytes; not 0. What does not come from the file is zero.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Where its contents begin in the file, in bytes. Means nothing if there are none.
    #[must_use]
    pub const fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// How many bytes come from the file; at most the size in memory.
    #[must_use]
    pub const fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// What the program may do with it.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// Address of the first page that it has bytes in.
    #[must_use]
    pub const fn first_page(&self) -> VirtualAddress {
        self.start.page_start()
    }

    /// Number of 4 KiB pages that it has bytes in.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        // No overflow: the end is below 2^47, and the size is not 0.
        (self.end().next_multiple_of(PAGE_BYTES) - self.first_page().get()) / PAGE_BYTES
    }

    /// Whether the byte at `address` is in it.
    #[must_use]
    pub const fn contains(&self, address: VirtualAddress) -> bool {
        self.start.get() <= address.get() && address.get() < self.end()
    }

    /// Whether some byte is in both segments.
    const fn overlaps(&self, other: &Self) -> bool {
        self.start.get() < other.end() && other.start.get() < self.end()
    }

    /// Whether some page has bytes of both segments.
    const fn shares_page(&self, other: &Self) -> bool {
        self.first_page().get() < other.end().next_multiple_of(PAGE_BYTES)
            && other.first_page().get() < self.end().next_multiple_of(PAGE_BYTES)
    }
}

/// What keeps a program from using its segments otherwise than they say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// The segments' pages have their rights.
    Segments,
    /// Nothing does.
    Nothing,
}

/// Why a file is not a program that the kernel loads. Segments are told by the number of their
/// program header, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The file is shorter than a file header.
    TooShort {
        /// Its size in bytes.
        bytes: u64,
    },
    /// The file does not begin with [`MAGIC`].
    NotElf {
        /// What it begins with.
        found: [u8; 4],
    },
    /// The file is not of the 64-bit class (2).
    Not64Bit {
        /// Its class.
        class: u8,
    },
    /// The file is not little-endian (1).
    NotLittleEndian {
        /// Its encoding.
        encoding: u8,
    },
    /// The file is of another version than 1.
    UnknownVersion {
        /// Its version.
        version: u32,
    },
    /// The file is for another processor than x86-64 (62).
    WrongMachine {
        /// The processor.
        machine: u16,
    },
    /// The file is not an executable with fixed addresses (2), but an object to be linked (1) or
    /// relocated (3), or a memory dump (4).
    NotExecutable {
        /// Its type.
        kind: u16,
    },
    /// The file header has another size than 64.
    HeaderSize {
        /// The size in bytes.
        bytes: u16,
    },
    /// Program headers have another size than 56.
    ProgramHeaderSize {
        /// The size in bytes.
        bytes: u16,
    },
    /// There are more than 64 program headers.
    TooManyProgramHeaders {
        /// How many.
        count: u16,
    },
    /// The program headers are not all in the file.
    ProgramHeadersOutsideFile {
        /// Where they begin, in bytes from the start of the file.
        offset: u64,
        /// How many.
        count: u16,
    },
    /// The program needs a dynamic linker.
    NeedsInterpreter,
    /// There are more load segments than [`Program::SEGMENTS`].
    TooManySegments,
    /// There is nothing to load.
    NoSegment,
    /// The contents of a segment are not all in the file.
    SegmentOutsideFile {
        /// The segment.
        segment: u16,
        /// Where its contents begin, in bytes from the start of the file.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// A segment takes more bytes from the file than it has in memory.
    FileLargerThanMemory {
        /// The segment.
        segment: u16,
        /// Bytes from the file.
        file: u64,
        /// Bytes in memory.
        memory: u64,
    },
    /// A segment is not wholly in the part of the address space that programs may use: 0x1000
    /// up to [`USER_END`].
    SegmentAddress {
        /// The segment.
        segment: u16,
        /// Its address.
        start: u64,
        /// Its size in bytes.
        bytes: u64,
    },
    /// A segment can be neither read nor written nor executed.
    NoRights {
        /// The segment.
        segment: u16,
    },
    /// A segment can be both written and executed.
    WritableCode {
        /// The segment.
        segment: u16,
    },
    /// Two segments overlap or, if that matters, have bytes in the same 4 KiB page.
    SegmentsShareAPage {
        /// Address of the later segment in the file.
        start: u64,
        /// Address of the earlier segment in the file.
        other: u64,
    },
    /// The entry point is not in a segment that can be executed.
    BadEntryPoint {
        /// The entry point.
        entry: u64,
    },
    /// The file cannot be read.
    Unreadable(UnreadableFile),
}

impl From<UnreadableFile> for ElfError {
    fn from(error: UnreadableFile) -> Self {
        Self::Unreadable(error)
    }
}

impl fmt::Display for ElfError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { bytes } => write!(formatter, "not an ELF file: only {bytes} bytes"),
            Self::NotElf { found } => {
                write!(formatter, "not an ELF file: begins with \"{}\"", found.escape_ascii())
            }
            Self::Not64Bit { class } => {
                write!(formatter, "not a 64-bit program: ELF class {class}")
            }
            Self::NotLittleEndian { encoding } => {
                write!(formatter, "not a little-endian program: ELF encoding {encoding}")
            }
            Self::UnknownVersion { version } => write!(formatter, "unknown ELF version {version}"),
            Self::WrongMachine { machine } => {
                write!(formatter, "not a program for x86-64: ELF machine {machine}")
            }
            Self::NotExecutable { kind } => write!(
                formatter,
                "not an executable with fixed addresses: ELF type {kind}{}",
                match kind {
                    1 => ", an object file",
                    3 => ", position-independent or a shared library",
                    4 => ", a memory dump",
                    _ => "",
                }
            ),
            Self::HeaderSize { bytes } => {
                write!(formatter, "file header of {bytes} bytes, not {HEADER_BYTES}")
            }
            Self::ProgramHeaderSize { bytes } => {
                write!(formatter, "program headers of {bytes} bytes, not {PROGRAM_HEADER_BYTES}")
            }
            Self::TooManyProgramHeaders { count } => {
                write!(formatter, "{count} program headers, more than {PROGRAM_HEADERS}")
            }
            Self::ProgramHeadersOutsideFile { offset, count } => write!(
                formatter,
                "the file ends before its {count} program headers at offset {offset:#x} do"
            ),
            Self::NeedsInterpreter => formatter.write_str("needs a dynamic linker"),
            Self::TooManySegments => {
                write!(formatter, "more than {} segments to load", Program::SEGMENTS)
            }
            Self::NoSegment => formatter.write_str("no segment to load"),
            Self::SegmentOutsideFile { segment, offset, bytes } => write!(
                formatter,
                "the file ends before segment {segment} does, {bytes:#x} bytes at offset \
                 {offset:#x}"
            ),
            Self::FileLargerThanMemory { segment, file, memory } => write!(
                formatter,
                "segment {segment} has {file:#x} bytes in the file, but only {memory:#x} in memory"
            ),
            Self::SegmentAddress { segment, start, bytes } => write!(
                formatter,
                "segment {segment}, {bytes:#x} bytes at {start:#x}, is not between {PAGE_BYTES:#x} \
                 and {USER_END:#x}"
            ),
            Self::NoRights { segment } => {
                write!(formatter, "segment {segment} can be neither read nor written nor executed")
            }
            Self::WritableCode { segment } => {
                write!(formatter, "segment {segment} can be both written and executed")
            }
            Self::SegmentsShareAPage { start, other } => {
                write!(formatter, "the segments at {other:#x} and {start:#x} have a page in common")
            }
            Self::BadEntryPoint { entry } => write!(
                formatter,
                "the entry point {entry:#x} is not in a segment that can be executed"
            ),
            Self::Unreadable(UnreadableFile { offset, bytes }) => {
                write!(formatter, "cannot read {bytes:#x} bytes at offset {offset:#x} of the file")
            }
        }
    }
}

impl core::error::Error for ElfError {}

/// A program that can be loaded; see the module's description for what holds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    entry: VirtualAddress,
    segments: List<Segment, { Self::SEGMENTS }>,
}

impl Program {
    /// How many load segments a program can have.
    pub const SEGMENTS: usize = 16;

    /// Reads the headers of `file`.
    ///
    /// # Errors
    ///
    /// An [`ElfError`] that says why the kernel does not load the file.
    pub fn parse(file: &mut impl FileBytes) -> Result<Self, ElfError> {
        Self::parse_as(file, Protection::Segments)
    }

    /// Reads the headers of a file that is to lie in memory with all rights, as programs do that
    /// share their pages' addresses with physical memory: what the segments may do means nothing,
    /// and two can have bytes in one page, though no byte in common.
    ///
    /// # Errors
    ///
    /// As [`Program::parse`].
    pub fn parse_unprotected(file: &mut impl FileBytes) -> Result<Self, ElfError> {
        Self::parse_as(file, Protection::Nothing)
    }

    fn parse_as(file: &mut impl FileBytes, protection: Protection) -> Result<Self, ElfError> {
        let file_bytes = file.size();
        if file_bytes < HEADER_BYTES as u64 {
            return Err(ElfError::TooShort { bytes: file_bytes });
        }
        let mut header = [0; HEADER_BYTES];
        file.read_at(0, &mut header)?;
        let (table, count) = check_header(&header)?;

        let table_bytes = u64::from(count) * PROGRAM_HEADER_BYTES as u64;
        if table.checked_add(table_bytes).is_none_or(|end| end > file_bytes) {
            return Err(ElfError::ProgramHeadersOutsideFile { offset: table, count });
        }
        let mut segments: List<Segment, { Self::SEGMENTS }> = List::empty(Segment::EMPTY);
        for number in 0..count {
            let mut header = [0; PROGRAM_HEADER_BYTES];
            file.read_at(table + u64::from(number) * PROGRAM_HEADER_BYTES as u64, &mut header)?;
            let segment = match u32_at::<0, _>(&header) {
                INTERPRETER => return Err(ElfError::NeedsInterpreter),
                LOAD => parse_segment(&header, number, file_bytes, protection)?,
                _ => None,
            };
            let Some(segment) = segment else {
                continue;
            };
            let conflicts = |other: &&Segment| match protection {
                Protection::Segments => other.shares_page(&segment),
                Protection::Nothing => other.overlaps(&segment),
            };
            if let Some(other) = segments.as_slice().iter().find(conflicts) {
                return Err(ElfError::SegmentsShareAPage {
                    start: segment.start.get(),
                    other: other.start.get(),
                });
            }
            if !segments.push(segment) {
                return Err(ElfError::TooManySegments);
            }
        }
        if segments.as_slice().is_empty() {
            return Err(ElfError::NoSegment);
        }
        let entry = u64_at::<24, _>(&header);
        let is_code = |segment: &Segment| {
            segment.rights == Rights::ReadExecute || protection == Protection::Nothing
        };
        VirtualAddress::new(entry)
            .filter(|&entry| {
                let mut code = segments.as_slice().iter().filter(|segment| is_code(segment));
                code.any(|segment| segment.contains(entry))
            })
            .map(|entry| Self { entry, segments })
            .ok_or(ElfError::BadEntryPoint { entry })
    }

    /// The address of the first instruction.
    #[must_use]
    pub const fn entry(&self) -> VirtualAddress {
        self.entry
    }

    /// The segments, in the order of the file; not empty.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        self.segments.as_slice()
    }

    /// How many 4 KiB pages all segments need together.
    #[must_use]
    pub fn pages(&self) -> u64 {
        // Segments overlap in a page at most, so there are fewer than 2^36.
        self.segments().iter().map(Segment::pages).sum()
    }
}

/// Checks the file header and returns where the program headers begin, and how many there are.
fn check_header(header: &[u8; HEADER_BYTES]) -> Result<(u64, u16), ElfError> {
    let [m0, m1, m2, m3, class, encoding, identification_version, ..] = *header;
    let found = [m0, m1, m2, m3];
    if found != MAGIC {
        return Err(ElfError::NotElf { found });
    }
    if class != 2 {
        return Err(ElfError::Not64Bit { class });
    }
    if encoding != 1 {
        return Err(ElfError::NotLittleEndian { encoding });
    }
    for version in [u32::from(identification_version), u32_at::<20, _>(header)] {
        if version != 1 {
            return Err(ElfError::UnknownVersion { version });
        }
    }
    let machine = u16_at::<18, _>(header);
    if machine != 62 {
        return Err(ElfError::WrongMachine { machine });
    }
    let kind = u16_at::<16, _>(header);
    if kind != 2 {
        return Err(ElfError::NotExecutable { kind });
    }
    let bytes = u16_at::<52, _>(header);
    if usize::from(bytes) != HEADER_BYTES {
        return Err(ElfError::HeaderSize { bytes });
    }
    let count = u16_at::<56, _>(header);
    let bytes = u16_at::<54, _>(header);
    // A file without program headers may leave their size out.
    if count != 0 && usize::from(bytes) != PROGRAM_HEADER_BYTES {
        return Err(ElfError::ProgramHeaderSize { bytes });
    }
    if count > PROGRAM_HEADERS {
        return Err(ElfError::TooManyProgramHeaders { count });
    }
    Ok((u64_at::<32, _>(header), count))
}

/// The segment that `header`, the program header with this `number`, describes; `None` if it has
/// no memory.
fn parse_segment(
    header: &[u8; PROGRAM_HEADER_BYTES],
    segment: u16,
    size: u64,
    protection: Protection,
) -> Result<Option<Segment>, ElfError> {
    let file_offset = u64_at::<8, _>(header);
    let start = u64_at::<16, _>(header);
    let file_bytes = u64_at::<32, _>(header);
    let memory_bytes = u64_at::<40, _>(header);
    if file_bytes > memory_bytes {
        let (file, memory) = (file_bytes, memory_bytes);
        return Err(ElfError::FileLargerThanMemory { segment, file, memory });
    }
    if memory_bytes == 0 {
        return Ok(None);
    }
    if file_bytes != 0 && file_offset.checked_add(file_bytes).is_none_or(|end| end > size) {
        let (offset, bytes) = (file_offset, file_bytes);
        return Err(ElfError::SegmentOutsideFile { segment, offset, bytes });
    }
    let in_user_space =
        start >= PAGE_BYTES && start.checked_add(memory_bytes).is_some_and(|end| end <= USER_END);
    let Some(start) = VirtualAddress::new(start).filter(|_| in_user_space) else {
        let bytes = memory_bytes;
        return Err(ElfError::SegmentAddress { segment, start, bytes });
    };
    // The processor has no write-only memory, and the kernel uses no execute-only memory.
    let flags = u32_at::<4, _>(header);
    let rights = match (flags & WRITE != 0, flags & EXECUTE != 0) {
        _ if protection == Protection::Nothing => Rights::ReadWrite,
        (true, true) => return Err(ElfError::WritableCode { segment }),
        (true, false) => Rights::ReadWrite,
        (false, true) => Rights::ReadExecute,
        (false, false) if flags & READ != 0 => Rights::Read,
        (false, false) => return Err(ElfError::NoRights { segment }),
    };
    Ok(Some(Segment { start, memory_bytes, file_offset, file_bytes, rights }))
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::physical_memory::tests::TestMemory;

    #[derive(Clone, Copy, Debug)]
    struct Header {
        kind: u32,
        flags: u32,
        offset: u64,
        start: u64,
        file: u64,
        memory: u64,
    }

    const CODE: Header = Header {
        kind: LOAD,
        flags: READ | EXECUTE,
        offset: 0x200,
        start: 0x40_0200,
        file: 0x100,
        memory: 0x100,
    };

    const DATA: Header = Header {
        kind: LOAD,
        flags: READ | WRITE,
        offset: 0x300,
        start: 0x40_1300,
        file: 0x80,
        memory: 0x3000,
    };

    const FILE_BYTES: usize = 0x1000;

    fn encode(entry: u64, headers: &[Header]) -> Vec<u8> {
        let mut bytes = std::vec![0; FILE_BYTES];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut put = |offset: usize, value: &[u8]| {
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        put(16, &2_u16.to_le_bytes());
        put(18, &62_u16.to_le_bytes());
        put(20, &1_u32.to_le_bytes());
        put(24, &entry.to_le_bytes());
        put(32, &64_u64.to_le_bytes());
        put(52, &64_u16.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &(headers.len() as u16).to_le_bytes());
        for (index, header) in headers.iter().enumerate() {
            let at = 64 + index * 56;
            put(at, &header.kind.to_le_bytes());
            put(at + 4, &header.flags.to_le_bytes());
            put(at + 8, &header.offset.to_le_bytes());
            put(at + 16, &header.start.to_le_bytes());
            put(at + 32, &header.file.to_le_bytes());
            put(at + 40, &header.memory.to_le_bytes());
        }
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Program, ElfError> {
        let result = Program::parse(&mut &bytes[..]);
        if let Ok(program) = &result {
            assert_invariants(program, bytes.len() as u64);
        }
        result
    }

    fn parse_headers(headers: &[Header]) -> Result<Program, ElfError> {
        parse(&encode(CODE.start, headers))
    }

    fn assert_invariants(program: &Program, file: u64) {
        let segments = program.segments();
        assert!(!segments.is_empty());
        for (index, segment) in segments.iter().enumerate() {
            assert!(segment.memory_bytes() > 0 && segment.file_bytes() <= segment.memory_bytes());
            assert!(segment.first_page().get() >= 0x1000 && segment.end() <= USER_END);
            assert!(segment.file_bytes() == 0 || segment.file_offset() < file);
            assert!(segment.file_bytes() <= file);
            for other in &segments[..index] {
                let end =
                    |segment: &Segment| segment.first_page().get() + segment.pages() * PAGE_BYTES;
                assert!(
                    end(other) <= segment.first_page().get()
                        || end(segment) <= other.first_page().get()
                );
            }
        }
        assert!(segments.iter().any(|segment| {
            segment.rights() == Rights::ReadExecute && segment.contains(program.entry())
        }));
    }

    /// The usual file with `value` at `offset`.
    fn changed(offset: usize, value: &[u8]) -> Result<Program, ElfError> {
        let mut bytes = encode(CODE.start, &[CODE, DATA]);
        bytes[offset..offset + value.len()].copy_from_slice(value);
        parse(&bytes)
    }

    #[test]
    fn a_static_program_is_taken() {
        let notes = Header { kind: 4, ..CODE };
        let program = parse_headers(&[notes, CODE, DATA]).unwrap();
        assert_eq!(program.entry().get(), 0x40_0200);
        let [code, data] = program.segments() else { panic!() };
        assert_eq!((code.start().get(), code.rights()), (0x40_0200, Rights::ReadExecute));
        assert_eq!((code.file_offset(), code.file_bytes()), (0x200, 0x100));
        assert_eq!((data.rights(), data.memory_bytes()), (Rights::ReadWrite, 0x3000));
        assert_eq!((data.first_page().get(), data.pages()), (0x40_1000, 4));
        assert_eq!(program.pages(), 5);
    }

    #[test]
    fn a_program_in_physical_memory_is_read_there() {
        let bytes = encode(CODE.start, &[CODE, DATA]);
        let mut memory = TestMemory { start: 0x10_0000, bytes };
        let range = PhysicalRange::new(0x10_0000, FILE_BYTES as u64).unwrap();
        let from_memory = Program::parse(&mut FileInMemory::new(&mut memory, range));
        assert_eq!(from_memory, parse_headers(&[CODE, DATA]));
        let beyond = PhysicalRange::new(0x20_0000, FILE_BYTES as u64).unwrap();
        assert!(matches!(
            Program::parse(&mut FileInMemory::new(&mut memory, beyond)),
            Err(ElfError::Unreadable(UnreadableFile { offset: 0, bytes: 64 }))
        ));
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(parse(b"\x7fELF"), Err(ElfError::TooShort { bytes: 4 }));
        assert_eq!(parse(&[b'#'; 100]), Err(ElfError::NotElf { found: *b"####" }));
        assert_eq!(changed(4, &[1]), Err(ElfError::Not64Bit { class: 1 }));
        assert_eq!(changed(5, &[2]), Err(ElfError::NotLittleEndian { encoding: 2 }));
        assert_eq!(changed(6, &[0]), Err(ElfError::UnknownVersion { version: 0 }));
        assert_eq!(changed(20, &[2]), Err(ElfError::UnknownVersion { version: 2 }));
        assert_eq!(changed(18, &[183]), Err(ElfError::WrongMachine { machine: 183 }));
        for kind in [0, 1, 3, 4] {
            let error = ElfError::NotExecutable { kind: u16::from(kind) };
            assert_eq!(changed(16, &[kind]), Err(error));
        }
    }

    #[test]
    fn header_sizes_are_checked() {
        assert_eq!(changed(52, &[52]), Err(ElfError::HeaderSize { bytes: 52 }));
        assert_eq!(changed(54, &[32]), Err(ElfError::ProgramHeaderSize { bytes: 32 }));
        assert_eq!(changed(56, &[65]), Err(ElfError::TooManyProgramHeaders { count: 65 }));
        assert_eq!(
            changed(56, &[0xff, 0xff]),
            Err(ElfError::TooManyProgramHeaders { count: 0xffff })
        );
    }

    #[test]
    fn program_headers_must_be_in_the_file() {
        for offset in [FILE_BYTES as u64 - 111, u64::MAX, u64::MAX - 111] {
            assert_eq!(
                changed(32, &offset.to_le_bytes()),
                Err(ElfError::ProgramHeadersOutsideFile { offset, count: 2 })
            );
        }
    }

    #[test]
    fn a_program_that_needs_an_interpreter_is_refused() {
        let interpreter = Header { kind: INTERPRETER, ..CODE };
        assert_eq!(parse_headers(&[CODE, interpreter]), Err(ElfError::NeedsInterpreter));
    }

    #[test]
    fn a_program_without_load_segment_is_refused() {
        assert_eq!(parse_headers(&[]), Err(ElfError::NoSegment));
        let empty = Header { memory: 0, file: 0, ..CODE };
        assert_eq!(parse_headers(&[empty]), Err(ElfError::NoSegment));
    }

    #[test]
    fn sixteen_segments_are_taken_and_seventeen_are_not() {
        let mut headers = std::vec![CODE];
        for index in 1..17 {
            headers.push(Header { start: CODE.start + index * 0x1000, ..CODE });
        }
        assert_eq!(parse_headers(&headers[..16]).unwrap().segments().len(), 16);
        assert_eq!(parse_headers(&headers), Err(ElfError::TooManySegments));
    }

    #[test]
    fn contents_must_be_in_the_file() {
        for (offset, bytes) in [(0xf01, 0x100), (u64::MAX, 0x100), (u64::MAX - 0xff, 0x100)] {
            assert_eq!(
                parse_headers(&[Header { offset, ..CODE }]),
                Err(ElfError::SegmentOutsideFile { segment: 0, offset, bytes })
            );
        }
        assert!(parse_headers(&[Header { offset: 0xf00, ..CODE }]).is_ok());
        let zeroed = Header { offset: u64::MAX, file: 0, ..DATA };
        assert!(parse_headers(&[CODE, zeroed]).is_ok());
    }

    #[test]
    fn contents_must_fit_into_memory() {
        assert_eq!(
            parse_headers(&[CODE, Header { memory: 0x7f, ..DATA }]),
            Err(ElfError::FileLargerThanMemory { segment: 1, file: 0x80, memory: 0x7f })
        );
    }

    #[test]
    fn segments_must_be_where_programs_may_have_memory() {
        for (start, memory) in [
            (0, 0x100),
            (0xfff, 0x100),
            (USER_END - 0xff, 0x100),
            (USER_END, 0x100),
            (0x8000_0000_0000, 0x100),
            (0xffff_8000_0000_0000, 0x100),
            (u64::MAX - 0xff, 0x100),
            (u64::MAX, 0x100),
            (0x1000, u64::MAX),
            (0x1000, u64::MAX - 0xfff),
        ] {
            assert_eq!(
                parse_headers(&[Header { start, memory, ..CODE }]),
                Err(ElfError::SegmentAddress { segment: 0, start, bytes: memory })
            );
        }
        let whole = Header { start: 0x1000, memory: USER_END - 0x1000, ..CODE };
        assert_eq!(parse(&encode(0x1000, &[whole])).unwrap().pages(), (USER_END >> 12) - 1);
    }

    #[test]
    fn writable_code_is_refused_and_other_rights_imply_reading() {
        let flags = |flags| parse_headers(&[CODE, Header { flags, ..DATA }]);
        let rights = |bits| flags(bits).unwrap().segments()[1].rights();
        assert_eq!(flags(READ | WRITE | EXECUTE), Err(ElfError::WritableCode { segment: 1 }));
        assert_eq!(flags(WRITE | EXECUTE), Err(ElfError::WritableCode { segment: 1 }));
        assert_eq!(flags(0), Err(ElfError::NoRights { segment: 1 }));
        assert_eq!(rights(READ), Rights::Read);
        assert_eq!(rights(WRITE), Rights::ReadWrite);
        assert_eq!(rights(EXECUTE), Rights::ReadExecute);
        assert_eq!(rights(READ | 0xff00_0000), Rights::Read);
    }

    #[test]
    fn where_memory_has_all_rights_segments_share_pages_but_no_bytes() {
        let code = Header { flags: READ | WRITE | EXECUTE, ..CODE };
        let data = Header { start: 0x40_0300, ..DATA };
        let file = encode(0x40_0200, &[code, data]);
        let refused = ElfError::WritableCode { segment: 0 };
        assert_eq!(Program::parse(&mut file.as_slice()), Err(refused));
        let program = Program::parse_unprotected(&mut file.as_slice()).unwrap();
        assert_eq!(program.segments().len(), 2);
        let start = 0x40_02ff;
        let file = encode(0x40_0200, &[code, Header { start, ..DATA }]);
        assert_eq!(
            Program::parse_unprotected(&mut file.as_slice()),
            Err(ElfError::SegmentsShareAPage { start, other: CODE.start })
        );
    }

    #[test]
    fn segments_must_not_share_a_page() {
        for (start, memory) in
            [(CODE.start, 0x100), (0x40_0fff, 0x100), (0x3f_ff00, 0x101), (0x3f_0000, 0x10_0000)]
        {
            let other = Header { start, memory, file: 0, ..DATA };
            let error = ElfError::SegmentsShareAPage { start, other: CODE.start };
            assert_eq!(parse_headers(&[CODE, other]), Err(error));
        }
        let before = Header { start: 0x3f_ff00, memory: 0x100, file: 0, ..DATA };
        assert!(parse_headers(&[CODE, before]).is_ok());
    }

    #[test]
    fn the_entry_point_must_be_in_code() {
        for entry in [0, CODE.start - 1, CODE.start + 0x100, DATA.start, u64::MAX, 1 << 47] {
            assert_eq!(
                parse(&encode(entry, &[CODE, DATA])),
                Err(ElfError::BadEntryPoint { entry })
            );
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        assert_eq!(
            changed(16, &[3]).unwrap_err().to_string(),
            "not an executable with fixed addresses: ELF type 3, position-independent or a \
             shared library"
        );
    }

    fn header() -> impl Strategy<Value = Header> {
        let number = || {
            prop_oneof![
                4 => 0_u64..0x4000,
                1 => (0_u64..0x4000).prop_map(|below| USER_END - below),
                1 => any::<u64>(),
            ]
        };
        (0_u32..5, 0_u32..8, number(), number(), number(), number()).prop_map(
            |(kind, flags, offset, start, file, memory)| Header {
                kind: kind.min(LOAD),
                flags,
                offset,
                start: start.wrapping_mul(5),
                file: file & 0xfff,
                memory,
            },
        )
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let mut program = encode(CODE.start, &[CODE]);
            program.truncate(64);
            program.extend(&bytes);
            let _ = parse(&program);
        }

        #[test]
        fn damaged_programs_never_panic_and_keep_the_invariants(
            damage in prop::collection::vec((0usize..176, any::<u8>()), 1..6),
        ) {
            let mut bytes = encode(CODE.start, &[CODE, DATA]);
            for (position, value) in damage {
                bytes[position] = value;
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn arbitrary_segments_keep_the_invariants(
            headers in prop::collection::vec(header(), 0..6),
        ) {
            let code = Header { start: 0x10_0000_0200, ..CODE };
            let headers = [&[code], &headers[..]].concat();
            let _ = parse(&encode(code.start, &headers));
        }

        #[test]
        fn what_is_encoded_is_read(
            shapes in prop::collection::vec((1_u64..0x3000, 0_u64..0x100, 0_u64..0x1000), 0..15),
        ) {
            let mut headers = std::vec![CODE];
            let mut page = 0x50_0000;
            for (memory, file, shift) in shapes {
                let file = file.min(memory);
                headers.push(Header { start: page + shift, memory, file, ..DATA });
                page = (page + shift + memory).next_multiple_of(0x1000);
            }
            let program = parse_headers(&headers).unwrap();
            prop_assert_eq!(program.segments().len(), headers.len());
            for (segment, header) in program.segments().iter().zip(&headers) {
                prop_assert_eq!(segment.start().get(), header.start);
                prop_assert_eq!(segment.memory_bytes(), header.memory);
                prop_assert_eq!(segment.file_bytes(), header.file);
            }
        }
    }
}

//! Archives of files in cpio's "newc" format, in physical memory.
//!
//! PVH hands in a single module, so that module can be an archive of the real ones. An entry is
//! a header of 110 ASCII bytes, the name, and the data; name and data begin at multiples of four
//! bytes from the start of the archive, and the name `TRAILER!!!` ends it (cpio(5), "New ASCII
//! Format"). A packer can make data begin at a page boundary by adding zero bytes to the name.
//!
//! Invariant: the name and data of an [`Entry`] lie in the archive's range. The data of two
//! entries never overlap, because the reader only goes forward.

use core::fmt;

use crate::physical_memory::read_array;
use crate::{PhysicalMemory, PhysicalRange, Unreadable};

/// The first bytes of an archive, and of the header of each entry.
pub const MAGIC: [u8; 6] = *b"070701";

/// Size in bytes of an entry's header.
const HEADER_BYTES: usize = 110;

/// The name that ends an archive, with its terminating zero.
const TRAILER: [u8; 11] = *b"TRAILER!!!\0";

/// Bits of the mode that tell the file type, and their value for a regular file.
const FILE_TYPE: u32 = 0o170_000;
const REGULAR_FILE: u32 = 0o100_000;

/// One file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where its header begins, in bytes from the start of the archive.
    pub offset: u64,
    /// File type and permission bits.
    pub mode: u32,
    /// The name: ends with at least one zero byte, and may have several.
    pub name: PhysicalRange,
    /// The contents; may be empty.
    pub data: PhysicalRange,
}

impl Entry {
    /// Whether this is a regular file (not a directory, link or device).
    #[must_use]
    pub const fn is_regular_file(&self) -> bool {
        // Some packers leave the type out.
        matches!(self.mode & FILE_TYPE, REGULAR_FILE | 0)
    }
}

/// Why an archive cannot be read. Offsets are in bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpioError {
    /// The archive ends before the trailer, in the entry at `offset` or right before it.
    Truncated {
        /// Where the entry begins.
        offset: u64,
    },
    /// There should be a header at `offset`, but it does not begin with [`MAGIC`].
    BadMagic {
        /// Where the header should begin.
        offset: u64,
        /// What is there.
        found: [u8; 6],
    },
    /// A number in the header at `offset` is not written in hexadecimal digits.
    BadNumber {
        /// Where the header begins.
        offset: u64,
        /// Where the number begins within the header.
        field: u64,
    },
    /// The name of the entry at `offset` does not end with a zero byte.
    UnterminatedName {
        /// Where the entry begins.
        offset: u64,
    },
    /// The archive cannot be read from memory.
    Unreadable(Unreadable),
}

impl From<Unreadable> for CpioError {
    fn from(error: Unreadable) -> Self {
        Self::Unreadable(error)
    }
}

impl fmt::Display for CpioError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { offset } => {
                write!(formatter, "the archive ends early: entry at offset {offset:#x}")
            }
            Self::BadMagic { offset, found } => write!(
                formatter,
                "no header of an archive entry at offset {offset:#x}, but \"{}\"",
                found.escape_ascii()
            ),
            Self::BadNumber { offset, field } => write!(
                formatter,
                "the archive entry at offset {offset:#x} has a bad number at byte {field} of its \
                 header"
            ),
            Self::UnterminatedName { offset } => write!(
                formatter,
                "the name of the archive entry at offset {offset:#x} does not end with a zero byte"
            ),
            Self::Unreadable(error) => write!(formatter, "archive: {error}"),
        }
    }
}

impl core::error::Error for CpioError {}

/// Reads the entries of an archive, one after the other.
#[derive(Clone, Debug)]
pub struct Archive {
    range: PhysicalRange,
    /// Where the next header begins, in bytes from the start; `None` after the trailer or an
    /// error.
    next: Option<u64>,
}

impl Archive {
    /// The archive at `range`.
    #[must_use]
    pub const fn new(range: PhysicalRange) -> Self {
        Self { range, next: Some(0) }
    }

    /// The next entry, or `None` behind the last. Each call goes forward by at least the size of
    /// a header, so the number of entries is bounded by the size of the archive.
    ///
    /// # Errors
    ///
    /// A [`CpioError`] that says what is wrong and where. After an error there is no next entry.
    pub fn next_entry(
        &mut self,
        memory: &mut impl PhysicalMemory,
    ) -> Result<Option<Entry>, CpioError> {
        let Some(offset) = self.next.take() else {
            return Ok(None);
        };
        let truncated = CpioError::Truncated { offset };
        if self.range.part(offset, HEADER_BYTES as u64).is_none() {
            return Err(truncated);
        }
        let header: [u8; HEADER_BYTES] = read_array(memory, self.range, offset)?;
        match header.first_chunk() {
            Some(&MAGIC) => {}
            found => {
                let found = found.copied().unwrap_or_default();
                return Err(CpioError::BadMagic { offset, found });
            }
        }
        let mode = number(&header, offset, 14)?;
        let file_bytes = u64::from(number(&header, offset, 54)?);
        let name_bytes = u64::from(number(&header, offset, 94)?);

        // Sums of a range's size (at most 2^52) and 32-bit numbers do not overflow.
        let name_offset = offset + HEADER_BYTES as u64;
        let data_offset = (name_offset + name_bytes).next_multiple_of(4);
        let name = self.range.part(name_offset, name_bytes).ok_or(truncated)?;
        let Some(last) = name_bytes.checked_sub(1) else {
            return Err(CpioError::UnterminatedName { offset });
        };
        let [terminator] = read_array(memory, name, last)?;
        if terminator != 0 {
            return Err(CpioError::UnterminatedName { offset });
        }
        if name_bytes >= TRAILER.len() as u64 && read_array(memory, name, 0)? == TRAILER {
            return Ok(None);
        }
        let data = match file_bytes {
            // The archive may end before the padding of an empty file.
            0 => PhysicalRange::EMPTY,
            _ => self.range.part(data_offset, file_bytes).ok_or(truncated)?,
        };
        self.next = Some((data_offset + file_bytes).next_multiple_of(4));
        Ok(Some(Entry { offset, mode, name, data }))
    }
}

/// The number in the eight hexadecimal digits at byte `field` of `header`, which begins at
/// `offset` of the archive.
fn number(header: &[u8; HEADER_BYTES], offset: u64, field: usize) -> Result<u32, CpioError> {
    let error = CpioError::BadNumber { offset, field: field as u64 };
    let digits: &[u8; 8] = header.get(field..).and_then(<[u8]>::first_chunk).ok_or(error)?;
    let mut number = 0;
    for &digit in digits {
        let value = char::from(digit).to_digit(16).ok_or(error)?;
        number = number << 4 | value;
    }
    Ok(number)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::format;
    use std::string::String;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::physical_memory::tests::TestMemory;

    pub(crate) const START: u64 = 0x10_0000;

    /// Appends an entry to `archive`; with `page_aligned`, its name is padded so that the data
    /// begins at a page boundary.
    pub(crate) fn append(
        archive: &mut Vec<u8>,
        name: &str,
        mode: u32,
        data: &[u8],
        page_aligned: bool,
    ) {
        let mut name_bytes = name.len() + 1;
        if page_aligned {
            let data_offset = (archive.len() + HEADER_BYTES + name_bytes).next_multiple_of(4096);
            name_bytes = data_offset - archive.len() - HEADER_BYTES;
        }
        let header = format!(
            "070701{:08x}{mode:08X}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}\
             {name_bytes:08x}{:08x}",
            1,
            0,
            0,
            1,
            0,
            data.len(),
            0,
            0,
            0,
            0,
            0
        );
        assert_eq!(header.len(), HEADER_BYTES);
        archive.extend(header.as_bytes());
        let end = archive.len() + name_bytes;
        archive.extend(name.as_bytes());
        archive.resize(end.next_multiple_of(4), 0);
        archive.extend(data);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }

    pub(crate) fn finish(archive: &mut Vec<u8>) {
        append(archive, "TRAILER!!!", 0, b"", false);
    }

    fn memory(archive: &[u8]) -> TestMemory {
        TestMemory { start: START, bytes: archive.to_vec() }
    }

    fn bytes_of(memory: &TestMemory, range: PhysicalRange) -> Vec<u8> {
        if range.is_empty() {
            return Vec::new();
        }
        let start = (range.start().get() - memory.start) as usize;
        memory.bytes[start..start + range.bytes() as usize].to_vec()
    }

    /// All entries, as name (to the first zero) and contents.
    fn read_all(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, CpioError> {
        let mut memory = memory(archive);
        let mut reader = Archive::new(PhysicalRange::new(START, archive.len() as u64).unwrap());
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry(&mut memory)? {
            let name = bytes_of(&memory, entry.name);
            let end = name.iter().position(|&byte| byte == 0).unwrap();
            let name = String::from_utf8_lossy(&name[..end]).into_owned();
            entries.push((name, bytes_of(&memory, entry.data)));
        }
        assert_eq!(reader.next_entry(&mut memory), Ok(None));
        Ok(entries)
    }

    fn sample() -> Vec<u8> {
        let mut archive = Vec::new();
        append(&mut archive, "sigma0", 0o100_644, b"first", false);
        append(&mut archive, "root --verbose", 0o100_644, &[7; 5000], true);
        append(&mut archive, "empty", 0o100_644, b"", false);
        finish(&mut archive);
        archive
    }

    #[test]
    fn entries_come_in_order_with_their_names_and_contents() {
        let entries = read_all(&sample()).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0], ("sigma0".into(), b"first".to_vec()));
        assert_eq!(entries[1], ("root --verbose".into(), std::vec![7; 5000]));
        assert_eq!(entries[2], ("empty".into(), Vec::new()));
    }

    #[test]
    fn padding_the_name_aligns_the_data_to_a_page() {
        let archive = sample();
        let mut memory = memory(&archive);
        let mut reader = Archive::new(PhysicalRange::new(START, archive.len() as u64).unwrap());
        reader.next_entry(&mut memory).unwrap();
        let entry = reader.next_entry(&mut memory).unwrap().unwrap();
        assert!(entry.data.start().is_aligned(12));
        assert!(entry.is_regular_file());
    }

    #[test]
    fn what_follows_the_trailer_does_not_matter() {
        let mut archive = sample();
        archive.extend([0xff; 1000]);
        assert_eq!(read_all(&archive).unwrap().len(), 3);
    }

    #[test]
    fn an_archive_without_trailer_is_truncated() {
        let mut archive = Vec::new();
        append(&mut archive, "a", 0o100_644, b"data", false);
        let end = archive.len() as u64;
        assert_eq!(read_all(&archive), Err(CpioError::Truncated { offset: end }));
        assert_eq!(read_all(b""), Err(CpioError::Truncated { offset: 0 }));
    }

    #[test]
    fn data_and_name_must_lie_in_the_archive() {
        let mut archive = sample();
        archive[54..62].copy_from_slice(b"ffffffff");
        assert_eq!(read_all(&archive), Err(CpioError::Truncated { offset: 0 }));
        let mut archive = sample();
        archive[94..102].copy_from_slice(b"ffffffff");
        assert_eq!(read_all(&archive), Err(CpioError::Truncated { offset: 0 }));
    }

    #[test]
    fn malformed_headers_are_errors_with_their_offset() {
        let mut archive = sample();
        archive[5] = b'2';
        assert_eq!(read_all(&archive), Err(CpioError::BadMagic { offset: 0, found: *b"070702" }));
        let mut archive = sample();
        archive[60] = b'x';
        assert_eq!(read_all(&archive), Err(CpioError::BadNumber { offset: 0, field: 54 }));
        let mut archive = sample();
        archive[54] = b'+';
        assert_eq!(read_all(&archive), Err(CpioError::BadNumber { offset: 0, field: 54 }));
    }

    #[test]
    fn a_name_ends_with_a_zero_byte() {
        let mut archive = sample();
        archive[94..102].copy_from_slice(b"00000006");
        assert_eq!(read_all(&archive), Err(CpioError::UnterminatedName { offset: 0 }));
        archive[94..102].copy_from_slice(b"00000000");
        assert_eq!(read_all(&archive), Err(CpioError::UnterminatedName { offset: 0 }));
    }

    #[test]
    fn an_unreadable_archive_is_an_error() {
        let mut memory = TestMemory::zeroed(0, 16);
        let mut reader = Archive::new(PhysicalRange::new(START, 4096).unwrap());
        assert!(matches!(reader.next_entry(&mut memory), Err(CpioError::Unreadable(_))));
        assert_eq!(reader.next_entry(&mut memory), Ok(None));
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read(
            files in prop::collection::vec(
                ("[a-z][a-z =]{0,40}", prop::collection::vec(any::<u8>(), 0..100), any::<bool>()),
                0..8,
            ),
        ) {
            let mut archive = Vec::new();
            for (name, data, page_aligned) in &files {
                append(&mut archive, name, 0o100_644, data, *page_aligned);
            }
            finish(&mut archive);
            let expected: Vec<_> =
                files.into_iter().map(|(name, data, _)| (name, data)).collect();
            prop_assert_eq!(read_all(&archive), Ok(expected));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = read_all(&bytes);
        }

        #[test]
        fn damaged_archives_never_panic_and_entries_stay_inside(
            damage in prop::collection::vec((0usize..600, any::<u8>()), 1..6),
        ) {
            let mut archive = sample();
            for (position, value) in damage {
                archive[position] = value;
            }
            let range = PhysicalRange::new(START, archive.len() as u64).unwrap();
            let mut memory = memory(&archive);
            let mut reader = Archive::new(range);
            let mut end = 0;
            while let Ok(Some(entry)) = reader.next_entry(&mut memory) {
                prop_assert!(entry.name.end() <= range.end() && entry.data.end() <= range.end());
                prop_assert!(entry.data.is_empty() || entry.data.start().get() >= end);
                end = end.max(entry.data.end());
            }
        }
    }
}

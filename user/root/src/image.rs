//! What belongs at which address of a program.
//!
//! A program's address space: its file's segments where it wants them; from [`DEMAND_START`] on,
//! memory that appears as zeros when it is touched; and the areas of the kernel interface page and
//! of UTCBs, which are the kernel's. Everything else is nothing, and touching it ends the program.

use core::fmt;

use heliox_boot::elf::{ElfError, FileBytes, Program, Rights, Segment};

/// Where the UTCBs of a program are, and log2 of their size.
pub const UTCB_AREA: (u64, u32) = (0xbf00_0000, 18);
/// Where the kernel interface page is, and log2 of its size.
pub const KERNEL_INTERFACE_PAGE: (u64, u32) = (0xbff0_0000, 12);
/// Where memory on demand begins.
pub const DEMAND_START: u64 = 0x1000_0000_0000;
/// Bytes of memory on demand.
pub const DEMAND_BYTES: u64 = 1 << 30;

const PAGE_BYTES: u64 = 4096;

/// How a program touched memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It read.
    Read,
    /// It wrote.
    Write,
    /// It executed.
    Execute,
}

impl Access {
    /// What the low bits of a page fault's label say.
    #[must_use]
    pub const fn from_label(low: u64) -> Self {
        if low & 2 != 0 {
            Self::Write
        } else if low & 1 != 0 {
            Self::Execute
        } else {
            Self::Read
        }
    }
}

/// A page of a program: its rights, and what it holds at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// What the program may do.
    pub rights: Rights,
    /// Where in the page what comes from the file begins, in bytes.
    pub start: u64,
    /// How many bytes come from the file; the others are zero.
    pub bytes: u64,
    /// Where they are in the file.
    pub file_offset: u64,
}

/// Why a file is not started.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ImageError {
    /// It is no program that can be loaded.
    Elf(ElfError),
    /// A segment, which begins at this address, lies where UTCBs or the kernel interface page go.
    Occupied(u64),
}

impl fmt::Display for ImageError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => error.fmt(formatter),
            Self::Occupied(start) => write!(
                formatter,
                "the segment at {start:#x} reaches into {:#x} to {:#x} or {:#x} to {:#x}, where the \
                 kernel puts control blocks and its interface page",
                UTCB_AREA.0,
                UTCB_AREA.0 + (1 << UTCB_AREA.1),
                KERNEL_INTERFACE_PAGE.0,
                KERNEL_INTERFACE_PAGE.0 + (1 << KERNEL_INTERFACE_PAGE.1),
            ),
        }
    }
}

/// A program that can be started.
#[derive(Clone, Debug)]
pub struct Image {
    program: Program,
}

impl Image {
    /// Reads a program's file.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn parse(file: &mut impl FileBytes) -> Result<Self, ImageError> {
        let program = Program::parse(file).map_err(ImageError::Elf)?;
        for segment in program.segments() {
            for (start, bits) in [UTCB_AREA, KERNEL_INTERFACE_PAGE] {
                let first = segment.first_page().get();
                if first < start + (1 << bits) && start < segment.end() {
                    return Err(ImageError::Occupied(segment.start().get()));
                }
            }
        }
        Ok(Self { program })
    }

    /// The address at which it begins.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.program.entry().get()
    }

    /// The page that `address` lies in; `None` if the program has none there.
    #[must_use]
    pub fn page(&self, address: u64) -> Option<Page> {
        let page = address / PAGE_BYTES * PAGE_BYTES;
        let holds = |segment: &&Segment| {
            segment.first_page().get() <= page && page < segment.end().next_multiple_of(PAGE_BYTES)
        };
        if let Some(segment) = self.program.segments().iter().find(holds) {
            let file_start = segment.start().get();
            let file_end = file_start + segment.file_bytes();
            let from = file_start.max(page);
            let to = file_end.min(page + PAGE_BYTES);
            let bytes = to.saturating_sub(from);
            return Some(Page {
                rights: segment.rights(),
                start: if bytes == 0 { 0 } else { from - page },
                bytes,
                file_offset: if bytes == 0 {
                    0
                } else {
                    segment.file_offset() + (from - file_start)
                },
            });
        }
        (DEMAND_START..DEMAND_START + DEMAND_BYTES).contains(&address).then_some(Page {
            rights: Rights::ReadWrite,
            start: 0,
            bytes: 0,
            file_offset: 0,
        })
    }
}

/// The rights of a flexpage.
#[must_use]
pub const fn flexpage_rights(rights: Rights) -> u64 {
    match rights {
        Rights::Read => 4,
        Rights::ReadWrite => 6,
        Rights::ReadExecute => 5,
    }
}

/// Whether rights allow an access.
#[must_use]
pub const fn allows(rights: Rights, access: Access) -> bool {
    matches!(
        (rights, access),
        (_, Access::Read)
            | (Rights::ReadWrite, Access::Write)
            | (Rights::ReadExecute, Access::Execute)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with a code segment at 0x400000 and a data segment at 0x402f00 of 0x300 bytes in the
    /// file and 0x2000 in memory.
    fn file(data_start: u64) -> Vec<u8> {
        let mut bytes = vec![0; 0x1000];
        bytes[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let mut put = |at: usize, size: usize, value: u64| {
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        for (at, size, value) in [
            (16, 2, 2),
            (18, 2, 62),
            (20, 4, 1),
            (24, 8, 0x40_0010),
            (32, 8, 64),
            (52, 2, 64),
            (54, 2, 56),
            (56, 2, 2),
        ] {
            put(at, size, value);
        }
        let segments = [(5, 0x200, 0x40_0000, 0x100, 0x100), (6, 0x400, data_start, 0x300, 0x2000)];
        for (index, (flags, offset, start, file_bytes, bytes)) in segments.into_iter().enumerate() {
            let at = 64 + index * 56;
            put(at, 4, 1);
            put(at + 4, 4, flags);
            for (field, value) in
                [(8, offset), (16, start), (24, start), (32, file_bytes), (40, bytes)]
            {
                put(at + field, 8, value);
            }
            put(at + 48, 8, 1);
        }
        bytes
    }

    #[test]
    fn pages_have_what_the_file_says() {
        let image = Image::parse(&mut file(0x40_2f00).as_slice()).unwrap();
        assert_eq!(image.entry(), 0x40_0010);
        let code = Page { rights: Rights::ReadExecute, start: 0, bytes: 0x100, file_offset: 0x200 };
        assert_eq!(image.page(0x40_0fff), Some(code));
        let data = |start, bytes, file_offset| {
            Some(Page { rights: Rights::ReadWrite, start, bytes, file_offset })
        };
        assert_eq!(image.page(0x40_2000), data(0xf00, 0x100, 0x400));
        assert_eq!(image.page(0x40_3000), data(0, 0x200, 0x500));
        assert_eq!(image.page(0x40_4eff), data(0, 0, 0));
        assert_eq!(image.page(0x40_5000), None);
        assert_eq!(image.page(0x40_1000), None);
        assert_eq!(image.page(0), None);
        assert_eq!(image.page(u64::MAX), None);
        assert_eq!(image.page(DEMAND_START), data(0, 0, 0));
        assert_eq!(image.page(DEMAND_START + DEMAND_BYTES), None);
    }

    #[test]
    fn segments_keep_out_of_the_kernels_areas() {
        for (start, expected) in [
            (0xbf00_0000, Some(0xbf00_0000)),
            (0xbeff_e000, None),
            (0xbeff_e001, Some(0xbeff_e001)),
            (0xbf04_0000, None),
            (0xbfef_f000, Some(0xbfef_f000)),
            (0xbff0_1000, None),
        ] {
            let result = Image::parse(&mut file(start).as_slice());
            match expected {
                Some(start) => assert_eq!(result.unwrap_err(), ImageError::Occupied(start)),
                None => assert!(result.is_ok(), "{start:#x}"),
            }
        }
    }

    #[test]
    fn accesses_need_rights() {
        assert!(allows(Rights::Read, Access::Read) && !allows(Rights::Read, Access::Write));
        assert!(
            allows(Rights::ReadWrite, Access::Write) && !allows(Rights::ReadWrite, Access::Execute)
        );
        assert!(allows(Rights::ReadExecute, Access::Execute));
        assert_eq!(
            [4, 2, 6, 1, 5].map(Access::from_label),
            [Access::Read, Access::Write, Access::Write, Access::Execute, Access::Execute,]
        );
    }
}

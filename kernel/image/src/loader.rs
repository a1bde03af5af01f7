//! From an ELF module to an address space.
//!
//! A module is untrusted input. Its pages are read through kernel mappings that last for one
//! copy; what it asks for is checked by [`heliox_boot::elf`] and, once more, by the HAL when it
//! is mapped.

use core::fmt;

use heliox_address::{PAGE_BITS, PAGE_BYTES, VirtualAddress};
use heliox_boot::PhysicalRange;
use heliox_boot::elf::{self, ElfError, FileBytes, Segment, UnreadableFile};
use heliox_hal::error::Error;
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{KernelMemory, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, TableSupply};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights;
use heliox_hal::{Hal, HeapError, RegisterError};

use crate::pages::Pages;
use crate::program::Program;

/// Why a module could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// It is not a program that can run here.
    Elf(ElfError),
    /// It needs more memory than there is.
    NoMemory {
        /// Pages that its segments take.
        pages: u64,
    },
    /// Its entry point is no address for a program.
    Entry(RegisterError),
    /// The machine's memory cannot be used in the way that loading needs.
    Memory(Error),
    /// There is no room for the kernel's own record of the program.
    Heap(HeapError),
    /// The module's own bytes cannot be read.
    Unreadable(UnreadableFile),
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => error.fmt(formatter),
            Self::NoMemory { pages } => {
                write!(formatter, "its {} KiB do not fit into memory", pages * 4)
            }
            Self::Entry(error) => error.fmt(formatter),
            Self::Memory(error) => error.fmt(formatter),
            Self::Heap(error) => error.fmt(formatter),
            Self::Unreadable(unreadable) => {
                write!(
                    formatter,
                    "its bytes from {:#x} on cannot be read",
                    unreadable.offset
                )
            }
        }
    }
}

impl From<Error> for LoadError {
    fn from(error: Error) -> Self {
        Self::Memory(error)
    }
}

/// The bytes of boot module `number`.
struct ModuleBytes<'hal> {
    hal: &'hal mut Hal,
    number: usize,
    range: PhysicalRange,
}

impl ModuleBytes<'_> {
    /// Reads bytes of one page.
    fn read_page(&mut self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let at = self.range.start().checked_add(offset)?;
        let page = Flexpage::physical(at.frame().address(), PAGE_BITS).ok()?;
        let cpu = self.hal.cpu();
        let memory = self.hal.memory();
        let mut regions = memory.module_regions(self.number)?;
        let region = regions.find_map(|region| region.derive(page).ok())?;
        let mapping = memory
            .add_kernel_mapping(cpu, region, Rights::Read, false, None)
            .ok()?;
        let within = usize::try_from(at.offset_in_page()).ok()?;
        let result = memory.read_bytes(&mapping, within, buffer);
        let (_, invalidation) = memory.remove_kernel_mapping(cpu, mapping);
        debug_assert!(memory.is_complete(invalidation), "there is one processor");
        result.ok()
    }
}

impl FileBytes for ModuleBytes<'_> {
    fn size(&self) -> u64 {
        self.range.bytes()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), UnreadableFile> {
        let unreadable = UnreadableFile {
            offset,
            bytes: buffer.len() as u64,
        };
        self.range
            .part(offset, buffer.len() as u64)
            .ok_or(unreadable)?;
        let mut at = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let within = (self.range.start().get() + at) % PAGE_BYTES;
            let count = rest.len().min((PAGE_BYTES - within) as usize);
            let (now, later) = core::mem::take(&mut rest).split_at_mut(count);
            self.read_page(at, now).ok_or(unreadable)?;
            at += count as u64;
            rest = later;
        }
        Ok(())
    }
}

/// Loads boot module `number` into an address space of its own.
///
/// # Errors
/// A [`LoadError`]. Memory that was taken until then has been given back.
pub(crate) fn load(hal: &mut Hal, pages: &mut Pages, number: usize) -> Result<Program, LoadError> {
    let information = hal.information();
    let (command_line, range) = match information.modules().nth(number) {
        Some(module) => (module.command_line, module.range),
        None => ("", PhysicalRange::EMPTY),
    };
    let image =
        elf::Program::parse(&mut ModuleBytes { hal, number, range }).map_err(LoadError::Elf)?;
    let no_memory = LoadError::NoMemory {
        pages: image.pages(),
    };
    if image.pages() > pages.available() {
        return Err(no_memory);
    }
    let Some(root) = pages.take() else {
        return Err(no_memory);
    };
    let root = hal.memory().create_page_map_page(root)?;
    let map = hal
        .memory()
        .allocate_page_map(root)
        .map_err(|refused| refused.error)?;
    let mut space = Space {
        map,
        supply: TableSupply::EMPTY,
    };
    let loaded = image
        .segments()
        .iter()
        .try_for_each(|segment| space.load(hal, pages, (number, range), segment, image.pages()));
    let context = loaded.and_then(|()| {
        let mut context = hal.new_context().map_err(LoadError::Heap)?;
        context
            .set_instruction_pointer(image.entry())
            .map_err(LoadError::Entry)?;
        let held = hal.memory().attach(&space.map)?;
        Ok((context, held))
    });
    space.empty_supply(hal, pages);
    match context {
        Ok((context, held)) => Ok(Program::new(command_line, space.map, held, context)),
        Err(error) => {
            crate::pages::free_page_map(hal, pages, space.map);
            Err(error)
        }
    }
}

/// An address space that is being filled.
struct Space {
    map: PageMap,
    supply: TableSupply,
}

impl Space {
    /// Gives pages to a segment and copies its bytes from boot module `module` (its number and
    /// bytes). `total`: pages of the whole program, for the error.
    fn load(
        &mut self,
        hal: &mut Hal,
        pages: &mut Pages,
        (number, range): (usize, PhysicalRange),
        segment: &Segment,
        total: u64,
    ) -> Result<(), LoadError> {
        let rights = match segment.rights() {
            elf::Rights::Read => Rights::Read,
            elf::Rights::ReadWrite => Rights::ReadWrite,
            elf::Rights::ReadExecute => Rights::ReadExecute,
        };
        // The parser checked that no sum here leaves the programs' half of the address space.
        let start = segment.start().get();
        let file_end = start + segment.file_bytes();
        for page in 0..segment.pages() {
            let region = pages.take().ok_or(LoadError::NoMemory { pages: total })?;
            let address = segment.first_page().get() + page * PAGE_BYTES;
            let from = address.max(start);
            let to = (address + PAGE_BYTES).min(file_end);
            let filled = fill_page(
                hal,
                region,
                from.saturating_sub(address),
                |hal, buffer, at| {
                    let bytes = to
                        .saturating_sub(from)
                        .saturating_sub(at)
                        .min(buffer.len() as u64);
                    let buffer = buffer.get_mut(..bytes as usize).unwrap_or(&mut []);
                    if buffer.is_empty() {
                        return Ok(0);
                    }
                    let offset = segment.file_offset() + (from - start) + at;
                    ModuleBytes { hal, number, range }
                        .read_at(offset, buffer)
                        .map_err(LoadError::Unreadable)?;
                    Ok(buffer.len())
                },
            );
            let mapped = filled.and_then(|()| self.map(hal, pages, address, region, rights));
            if let Err(error) = mapped {
                pages.give(region);
                return Err(error);
            }
        }
        Ok(())
    }

    fn map(
        &mut self,
        hal: &mut Hal,
        pages: &mut Pages,
        address: u64,
        region: PhysicalRegion,
        rights: Rights,
    ) -> Result<(), LoadError> {
        let address = VirtualAddress::new(address).unwrap_or(VirtualAddress::ZERO);
        let to = Flexpage::new(address, PAGE_BITS)?;
        pages.fill(hal, &mut self.supply)?;
        let added =
            hal.memory()
                .add_mapping(&mut self.map, to, region, rights, None, &mut self.supply)?;
        debug_assert_eq!(added.done, 1);
        Ok(())
    }

    fn empty_supply(&mut self, hal: &mut Hal, pages: &mut Pages) {
        let cpu = hal.cpu();
        while let Some(page) = self.supply.take() {
            pages.give(hal.memory().release_page_map_page(cpu, page));
        }
    }
}

/// Clears the page of `region` and copies into it, from byte `offset` on, what `read` gives:
/// bytes into the buffer, and how many; told how many there were before.
fn fill_page(
    hal: &mut Hal,
    region: PhysicalRegion,
    offset: u64,
    mut read: impl FnMut(&mut Hal, &mut [u8], u64) -> Result<usize, LoadError>,
) -> Result<(), LoadError> {
    let cpu = hal.cpu();
    let mapping = hal
        .memory()
        .add_kernel_mapping(cpu, region, Rights::ReadWrite, false, None)?;
    let mut result = hal.memory().clear(&mapping).map_err(LoadError::Memory);
    let mut done = 0;
    let mut buffer = [0; 512];
    while result.is_ok() {
        result = match read(hal, &mut buffer, done) {
            Ok(0) => break,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or(&[]);
                let at = (offset + done) as usize;
                done += count as u64;
                hal.memory()
                    .write_bytes(&mapping, at, bytes)
                    .map_err(LoadError::Memory)
            }
            Err(error) => Err(error),
        };
    }
    let (_, invalidation) = hal.memory().remove_kernel_mapping(cpu, mapping);
    debug_assert!(
        hal.memory().is_complete(invalidation),
        "there is one processor"
    );
    result
}

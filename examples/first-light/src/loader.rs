//! From an ELF module to an address space.
//!
//! A module is untrusted input. Its pages are read through kernel mappings that last for one
//! copy; what it asks for is checked by [`heliox_boot::elf`] and, once more, by the HAL when it
//! is mapped.

use core::fmt;

use heliox_boot::PhysicalRange;
use heliox_boot::elf::{self, ElfError, FileBytes, Segment, UnreadableFile};
use heliox_hal::Hal;
use heliox_hal::domain::Owner;
use heliox_hal::error::Error;
use heliox_hal::execution::{Execution, Registers};
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{KernelMemory, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, TableSupply};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights;
use heliox_log::debug;
use heliox_page_alloc::{Domain, Event};
use heliox_types::{PAGE_BITS, PAGE_BYTES, RegisterError, VirtualAddress};

use crate::program::Program;
use crate::system::{MemoryError, System};

/// Why a module could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// It is not a program that can run here.
    Elf(ElfError),
    /// It needs more memory than there is, now.
    NoMemory {
        /// Pages that its segments take.
        pages: u64,
    },
    /// Its entry point is no address for a program.
    Entry(RegisterError),
    /// Memory ran out, or cannot be used in the way that loading needs.
    Memory(MemoryError),
    /// No further domain can be made for it.
    TooManyDomains,
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
            Self::TooManyDomains => formatter.write_str("there have been too many programs"),
            Self::Unreadable(unreadable) => {
                write!(formatter, "its bytes from {:#x} on cannot be read", unreadable.offset)
            }
        }
    }
}

impl From<MemoryError> for LoadError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

impl LoadError {
    /// The same error, said as [`Self::NoMemory`] if memory ran out while `pages` pages and what
    /// they need besides (tables, a context) were allocated.
    fn while_allocating(self, pages: u64) -> Self {
        match self {
            Self::Memory(MemoryError::Allocator(Event::NoSuitableBlock { .. })) => {
                Self::NoMemory { pages }
            }
            other => other,
        }
    }
}

impl From<Error> for LoadError {
    fn from(error: Error) -> Self {
        Self::Memory(error.into())
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
        let region =
            memory.module_regions(self.number)?.find_map(|region| region.derive(page).ok())?;
        let mapping = memory.add_kernel_mapping(cpu, region, Rights::Read, false, None).ok()?;
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
        let unreadable = UnreadableFile { offset, bytes: buffer.len() as u64 };
        self.range.part(offset, buffer.len() as u64).ok_or(unreadable)?;
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
pub(crate) fn load(system: &mut System<'_>, number: usize) -> Result<Program, LoadError> {
    let information = system.hal().report.information;
    let (command_line, range) = match information.modules().nth(number) {
        Some(module) => (module.command_line, module.range),
        None => ("", PhysicalRange::EMPTY),
    };
    let name = command_line.split(' ').next().unwrap_or("");
    let module = (number, range);
    let hal = system.hal();
    let image =
        elf::Program::parse(&mut ModuleBytes { hal, number, range }).map_err(LoadError::Elf)?;
    debug!("module {}: entry point {}", name, image.entry());
    if image.pages() > system.available() {
        return Err(LoadError::NoMemory { pages: image.pages() });
    }
    let mut domain = system.new_domain().ok_or(LoadError::TooManyDomains)?;
    let root = system
        .take_table(&mut domain)
        .map_err(|error| LoadError::from(error).while_allocating(image.pages()))?;
    let map = match system.hal().memory().allocate_page_map(root) {
        Ok(map) => map,
        Err(refused) => {
            system.give_back_table(&mut domain, refused.handle);
            return Err(refused.error.into());
        }
    };
    let mut space = Space { domain, map, supply: TableSupply::EMPTY };
    let loaded =
        image.segments().iter().try_for_each(|segment| space.load(system, module, segment));
    let context = loaded.and_then(|()| {
        let mut context = system.new_context()?;
        context.set_instruction_pointer(image.entry()).map_err(LoadError::Entry)?;
        Ok((context, system.hal().memory().attach(&space.map)?))
    });
    while let Some(page) = space.supply.take() {
        system.give_back_table(&mut space.domain, page);
    }
    let Space { mut domain, map, .. } = space;
    match context {
        Ok((context, held)) => Ok(Program::new(command_line, domain, map, held, context)),
        Err(error) => {
            system.begin_dying(&mut domain);
            system.free_page_map(&mut domain, map);
            Err(error.while_allocating(image.pages()))
        }
    }
}

/// A program's domain and its address space, which is being filled.
struct Space {
    domain: Domain<Owner>,
    map: PageMap,
    supply: TableSupply,
}

impl Space {
    /// Gives pages to a segment and copies its bytes from boot module `module` (its number and
    /// bytes).
    fn load(
        &mut self,
        system: &mut System<'_>,
        module: (usize, PhysicalRange),
        segment: &Segment,
    ) -> Result<(), LoadError> {
        let rights = match segment.rights() {
            elf::Rights::Read => Rights::Read,
            elf::Rights::ReadWrite => Rights::ReadWrite,
            elf::Rights::ReadExecute => Rights::ReadExecute,
        };
        for page in 0..segment.pages() {
            let region = system.take_page(&mut self.domain)?;
            // The parser checked that no sum leaves the programs' half of the address space.
            let address = segment.first_page().get() + page * PAGE_BYTES;
            let filled = self.fill_page(system, module, segment, address, region);
            let mapped = filled.and_then(|()| self.map(system, address, region, rights));
            if let Err(error) = mapped {
                system.give_back(&mut self.domain, region.first_frame());
                return Err(error);
            }
        }
        Ok(())
    }

    fn map(
        &mut self,
        system: &mut System<'_>,
        address: u64,
        region: PhysicalRegion,
        rights: Rights,
    ) -> Result<(), LoadError> {
        let to = VirtualAddress::new(address).unwrap_or(VirtualAddress::ZERO);
        system.fill(&mut self.domain, &mut self.supply)?;
        let memory = system.hal().memory();
        memory.add_mapping(&mut self.map, to, region, rights, None, &mut self.supply)?;
        Ok(())
    }

    /// Copies into the page of `region` what the segment has at `address`. The page is clear: it
    /// was another's before, or nobody's.
    fn fill_page(
        &mut self,
        system: &mut System<'_>,
        (number, range): (usize, PhysicalRange),
        segment: &Segment,
        address: u64,
        region: PhysicalRegion,
    ) -> Result<(), LoadError> {
        let start = segment.start().get();
        let from = address.max(start);
        let to = (address + PAGE_BYTES).min(start + segment.file_bytes());
        let mut buffer = [0; 512];
        let mut at = from;
        while at < to {
            let count = (to - at).min(buffer.len() as u64);
            let bytes = buffer.get_mut(..count as usize).unwrap_or(&mut []);
            let offset = segment.file_offset() + (at - start);
            let hal = system.hal();
            ModuleBytes { hal, number, range }
                .read_at(offset, bytes)
                .map_err(LoadError::Unreadable)?;
            let place = (at - address) as usize;
            system.with_page(&self.domain, region, |hal, mapping| {
                Ok(hal.memory().write_bytes(mapping, place, bytes)?)
            })?;
            at += count;
        }
        Ok(())
    }
}

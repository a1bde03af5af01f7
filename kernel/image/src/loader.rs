//! From an ELF module to an address space.

use core::fmt;

use heliox_address::{Frame, PAGE_BYTES, VirtualAddress};
use heliox_boot::PhysicalRange;
use heliox_boot::elf::{self, ElfError, FileBytes, Segment, UnreadableFile};
use heliox_hal::rights::Rights;
use heliox_hal::{Hal, RegisterError};

use crate::program::Program;

/// Why a module could not be loaded.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// It is not a program that can run here.
    Elf(ElfError),
    /// Memory ran out.
    NoMemory,
    /// Its entry point is no address for a program.
    Entry(RegisterError),
    /// There is no such module.
    NoModule,
}

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elf(error) => error.fmt(formatter),
            Self::NoMemory => formatter.write_str("there is not enough memory"),
            Self::Entry(error) => error.fmt(formatter),
            Self::NoModule => formatter.write_str("there is no such module"),
        }
    }
}

struct ModuleBytes<'a> {
    hal: &'a mut Hal,
    range: PhysicalRange,
}

impl FileBytes for ModuleBytes<'_> {
    fn size(&self) -> u64 {
        self.range.bytes()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), UnreadableFile> {
        let unreadable = UnreadableFile { offset, bytes: buffer.len() as u64 };
        let at = self.range.start().checked_add(offset).ok_or(unreadable)?;
        self.hal.read_module(at, buffer);
        Ok(())
    }
}

/// Loads module number `index` into an address space of its own.
pub(crate) fn load(hal: &mut Hal, index: usize) -> Result<Program, (&'static str, LoadError)> {
    let module = hal.information().modules().nth(index).ok_or(("", LoadError::NoModule))?;
    let range = module.range;
    let mut text = [0_u8; 256];
    let mut n = 0;
    for (t, b) in text.iter_mut().zip(module.command_line.bytes()) {
        *t = b;
        n += 1;
    }
    let name = core::str::from_utf8(text.get(..n).unwrap_or(&[])).unwrap_or("");
    let name2 = hal.information().modules().nth(index).map(|m| m.range); let _ = name2;
    build(hal, name, range).map_err(|error| ("module", error))
}

fn build(hal: &mut Hal, command_line: &str, range: PhysicalRange) -> Result<Program, LoadError> {
    let program = elf::Program::parse(&mut ModuleBytes { hal, range }).map_err(LoadError::Elf)?;
    let root = hal.new_root().ok_or(LoadError::NoMemory)?;
    for segment in program.segments() {
        load_segment(hal, root, range, segment)?;
    }
    let mut context = hal.new_context();
    context.set_instruction_pointer(program.entry()).map_err(LoadError::Entry)?;
    Ok(Program::new(command_line, root, context))
}

fn load_segment(
    hal: &mut Hal,
    root: Frame,
    range: PhysicalRange,
    segment: &Segment,
) -> Result<(), LoadError> {
    let rights = match segment.rights() {
        elf::Rights::Read => Rights::Read,
        elf::Rights::ReadWrite => Rights::ReadWrite,
        elf::Rights::ReadExecute => Rights::ReadExecute,
    };
    for page in 0..segment.pages() {
        let address = segment.first_page().get() + page * PAGE_BYTES;
        let frame = hal.allocate().ok_or(LoadError::NoMemory)?;
        let start = segment.start().get();
        let file_end = start + segment.file_bytes();
        let from = address.max(start);
        let to = (address + PAGE_BYTES).min(file_end);
        let mut at = from;
        while at < to {
            let mut buffer = [0; 256];
            let n = (to - at).min(256);
            if let (Some(b), Some(p)) = (
                buffer.get_mut(..n as usize),
                range.start().checked_add(segment.file_offset() + (at - start)),
            ) {
                hal.read_module(p, b);
                hal.write(frame, at - address, b);
            }
            at += n;
        }
        let address = VirtualAddress::new(address).ok_or(LoadError::NoMemory)?;
        hal.map(root, address, frame, rights).ok_or(LoadError::NoMemory)?;
    }
    Ok(())
}

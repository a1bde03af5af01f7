//! How sigma0 and root get into memory: where their files say, address for address in physical
//! memory.
//!
//! A module is untrusted input; what it asks for is checked by [`heliox_boot::elf`] and by the
//! abstraction layer. Memory is reached by kernel mappings that last for one copy.

use heliox_boot::PhysicalRange;
use heliox_boot::elf::{FileBytes, Program, Segment, UnreadableFile};
use heliox_hal::Hal;
use heliox_hal::execution::Execution;
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{KernelMemory, PhysicalMemory};
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights;
use heliox_l4_kernel::Server;
use heliox_types::{Frame, FrameRange, PAGE_BITS, PAGE_BYTES};

use crate::error::BootError;
use crate::memory;

/// Bytes that are copied at a time.
const BUFFER: usize = 512;

/// A program to be loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    program: Program,
    /// Where it is.
    pub(crate) extent: Server,
}

impl Image {
    /// The pages from its first to its last one.
    pub(crate) fn frames(&self) -> FrameRange {
        let (low, high) = (self.extent.low / PAGE_BYTES, self.extent.high.div_ceil(PAGE_BYTES));
        FrameRange::new(low, high).unwrap_or(FrameRange::EMPTY)
    }
}

/// The bytes of a boot module.
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
        let mut regions = self.hal.memory().module_regions(self.number)?;
        let region = regions.find_map(|region| region.derive(page).ok())?;
        drop(regions);
        let within = usize::try_from(at.offset_in_page()).ok()?;
        with_page(self.hal, region, Rights::Read, |memory, mapping| {
            memory.read_bytes(mapping, within, buffer)
        })
        .ok()
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

/// Lends `use_it` a page through a kernel mapping.
pub(crate) fn with_page<T>(
    hal: &mut Hal,
    region: PhysicalRegion,
    rights: Rights,
    use_it: impl FnOnce(
        &mut heliox_hal::RealMemory,
        &heliox_hal::kernel_mapping::KernelMapping,
    ) -> Result<T, heliox_hal::error::Error>,
) -> Result<T, BootError> {
    let cpu = hal.cpu();
    let memory = hal.memory();
    let mapping = memory.add_kernel_mapping(cpu, region, rights, false, None)?;
    let result = use_it(memory, &mapping);
    // There is one processor, so nothing is left to be invalidated.
    let _ = memory.remove_kernel_mapping(cpu, mapping);
    Ok(result?)
}

fn module(hal: &mut Hal, number: usize) -> Result<ModuleBytes<'_>, BootError> {
    let module = hal.report.information.modules().nth(number);
    let range = module.ok_or(BootError::NoModule { number })?.range;
    Ok(ModuleBytes { hal, number, range })
}

/// Reads what the file of server `number` (0: sigma0, 1: root) wants.
///
/// # Errors
/// [`BootError::NoModule`], [`BootError::NotAProgram`].
pub(crate) fn parse(hal: &mut Hal, number: usize) -> Result<Image, BootError> {
    let program = Program::parse_unprotected(&mut module(hal, number)?)
        .map_err(|error| BootError::NotAProgram { number, error })?;
    let segments = || program.segments().iter();
    let low = segments().map(|segment| segment.start().get()).min().unwrap_or(0);
    let high = segments().map(Segment::end).max().unwrap_or(0);
    Ok(Image { program, extent: Server { entry: program.entry(), low, high } })
}

/// Puts the program of server `number` into memory.
///
/// # Errors
/// [`BootError::InUse`], [`BootError::Unreadable`], [`BootError::Checks`].
pub(crate) fn load(hal: &mut Hal, number: usize, image: &Image) -> Result<(), BootError> {
    // Segments can share a page, so all are cleared before any is filled.
    for segment in image.program.segments() {
        let first = segment.first_page().get() / PAGE_BYTES;
        for frame in first..first + segment.pages() {
            let region = free_page(hal, number, frame)?;
            with_page(hal, region, Rights::ReadWrite, |memory, mapping| memory.clear(mapping))?;
        }
    }
    for segment in image.program.segments() {
        fill(hal, number, segment)?;
    }
    Ok(())
}

/// Copies what a segment has in the file.
fn fill(hal: &mut Hal, number: usize, segment: &Segment) -> Result<(), BootError> {
    let start = segment.start().get();
    let end = start + segment.file_bytes();
    let mut buffer = [0; BUFFER];
    let mut at = start;
    while at < end {
        let within = at % PAGE_BYTES;
        let count = (end - at).min(BUFFER as u64).min(PAGE_BYTES - within);
        let bytes = buffer.get_mut(..count as usize).unwrap_or(&mut []);
        module(hal, number)?.read_at(segment.file_offset() + (at - start), bytes)?;
        let region = free_page(hal, number, at / PAGE_BYTES)?;
        with_page(hal, region, Rights::ReadWrite, |memory, mapping| {
            memory.write_bytes(mapping, within as usize, bytes)
        })?;
        at += count;
    }
    Ok(())
}

fn free_page(hal: &Hal, number: usize, frame: u64) -> Result<PhysicalRegion, BootError> {
    // The parser has seen to it that addresses, and so frames, are small.
    let frame = Frame::new(frame).unwrap_or(Frame::ZERO);
    memory::page(hal, frame).ok_or(BootError::InUse { number, frame })
}

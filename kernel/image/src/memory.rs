//! What all memory is used for when L4 begins: the kernel's pages, sigma0's and root's programs,
//! the boot information, and what sigma0 has besides; and how programs are told.

use heliox_abi::kip::{MemoryDescriptor, MemoryType};
use heliox_boot::environment::VIDEO_MEMORY;
use heliox_boot::memory_map::{MemoryKind, Preference};
use heliox_hal::Hal;
use heliox_hal::execution::{Execution, Heap};
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{KernelMemory, PhysicalMemory};
use heliox_hal::region::{PhysicalRegion, RegionKind};
use heliox_hal::rights::Rights;
use heliox_l4_kernel::boot_information::{self, Module};
use heliox_types::{Frame, FrameRange, PAGE_BITS, PAGE_BYTES, PageSize, USER_END};

use crate::error::BootError;
use crate::server::{self, Image};

/// The kernel's own pages (for page tables, UTCBs and the like) are this part of free memory, but
/// at least [`FEWEST_PAGES`] and at most [`MOST_PAGES`].
const POOL_PART: u64 = 16;
const FEWEST_PAGES: u64 = 256;
const MOST_PAGES: u64 = 1 << 15;

/// Most memory descriptors.
const DESCRIPTORS: usize = 200;

/// Subtypes of the boot loader's memory.
const TABLE: u8 = 1;
const SERVER: u8 = 2;
const MODULE: u8 = 3;

/// The page of `frame`, if it is memory that clients may have.
pub(crate) fn page(hal: &Hal, frame: Frame) -> Option<PhysicalRegion> {
    let flexpage = Flexpage::physical(frame.address(), PAGE_BITS).ok()?;
    let mut regions = hal.memory_view().initial_regions();
    regions
        .find_map(|region| region.derive(flexpage).ok())
        .filter(|region| region.kind() == RegionKind::Ram)
}

/// A plan of all memory.
pub(crate) struct Memory {
    /// The kernel's own pages.
    pub(crate) pool: FrameRange,
    /// The boot information's.
    information: FrameRange,
    descriptors: [MemoryDescriptor; DESCRIPTORS],
    count: usize,
}

/// The modules, as the boot information tells of them.
fn modules(hal: &Hal) -> impl Iterator<Item = Module<'static>> + Clone + use<> {
    hal.report.information.modules().map(|module| Module {
        start: module.range.start().get(),
        size: module.range.bytes(),
        command_line: module.command_line,
    })
}

impl Memory {
    /// Decides what is where. Nothing is written yet.
    ///
    /// # Errors
    /// [`BootError::NoMemory`], [`BootError::Overlap`].
    pub(crate) fn plan(hal: &mut Hal, servers: &[Image; 2]) -> Result<Self, BootError> {
        let [sigma0, root] = servers.each_ref().map(Image::frames);
        if sigma0.overlaps(root) {
            return Err(BootError::Overlap);
        }
        let map = hal.report.information.memory_map();
        let find = |pages, forbidden: &[FrameRange]| {
            map.find_free(pages, PageSize::Size4KiB, forbidden, Preference::Highest)
                .ok_or(BootError::NoMemory { pages })
        };
        let pages = (map.usable_frames() / POOL_PART).clamp(FEWEST_PAGES, MOST_PAGES);
        let pool = find(pages, &[sigma0, root])?;
        let bytes = boot_information::size_of(modules(hal)) as u64;
        let information = find(bytes.div_ceil(PAGE_BYTES), &[sigma0, root, pool])?;
        let nothing = MemoryDescriptor {
            memory_type: MemoryType::Undefined,
            subtype: 0,
            is_virtual: false,
            low: 0,
            high: 0,
        };
        let descriptors = [nothing; DESCRIPTORS];
        let mut plan = Self { pool, information, descriptors, count: 0 };
        plan.describe_all(hal, [sigma0, root]);
        Ok(plan)
    }

    /// The descriptors of memory, of which later ones override earlier ones.
    pub(crate) fn descriptors(&self) -> &[MemoryDescriptor] {
        self.descriptors.get(..self.count).unwrap_or(&[])
    }

    /// Physical address of the boot information.
    pub(crate) fn boot_information(&self) -> u64 {
        self.information.start() * PAGE_BYTES
    }

    /// Adds a descriptor, if there is room.
    fn describe(&mut self, memory_type: MemoryType, subtype: u8, low: u64, high: u64) {
        if high <= low {
            return;
        }
        if let Some(place) = self.descriptors.get_mut(self.count) {
            *place =
                MemoryDescriptor { memory_type, subtype, is_virtual: false, low, high: high - 1 };
            self.count += 1;
        }
    }

    fn describe_frames(&mut self, memory_type: MemoryType, subtype: u8, frames: FrameRange) {
        let address = |frame| frame * PAGE_BYTES;
        self.describe(memory_type, subtype, address(frames.start()), address(frames.end()));
    }

    fn describe_all(&mut self, hal: &Hal, servers: [FrameRange; 2]) {
        let information = hal.report.information;
        for area in information.memory_map().areas() {
            let (memory_type, subtype) = match area.kind {
                MemoryKind::Usable => (MemoryType::Conventional, 0),
                MemoryKind::InUse => (MemoryType::Reserved, 0),
                MemoryKind::Reserved => (MemoryType::Architecture, 2),
                MemoryKind::AcpiReclaimable => (MemoryType::Architecture, 3),
                MemoryKind::AcpiNonVolatile => (MemoryType::Architecture, 4),
                MemoryKind::Defective => (MemoryType::Architecture, 5),
            };
            self.describe_frames(memory_type, subtype, area.frames);
        }
        self.describe_frames(MemoryType::Reserved, 0, self.pool);
        self.describe_frames(MemoryType::Shared, 0, VIDEO_MEMORY);
        if let Some(buffer) = information.frame_buffer() {
            self.describe_frames(MemoryType::Dedicated, 0, buffer.range.frames());
        }
        for frames in servers {
            self.describe_frames(MemoryType::BootLoader, SERVER, frames);
        }
        self.describe_frames(MemoryType::BootLoader, TABLE, self.information);
        for frames in information.module_frames() {
            self.describe_frames(MemoryType::BootLoader, MODULE, frames);
        }
        self.describe(MemoryType::Conventional, 0, 0, USER_END);
        if let Some(last) = self.count.checked_sub(1).and_then(|at| self.descriptors.get_mut(at)) {
            last.is_virtual = true;
        }
    }

    /// Writes the boot information.
    ///
    /// # Errors
    /// [`BootError::Checks`].
    pub(crate) fn write_boot_information(&self, hal: &mut Hal) -> Result<(), BootError> {
        for frame in self.information {
            let region = self.own_page(hal, frame)?;
            server::with_page(hal, region, Rights::ReadWrite, |memory, page| memory.clear(page))?;
        }
        boot_information::describe(modules(hal), |offset, bytes| {
            let mut at = offset;
            let mut rest = bytes;
            while !rest.is_empty() {
                let within = at % PAGE_BYTES as usize;
                let count = rest.len().min(PAGE_BYTES as usize - within);
                let (now, later) = rest.split_at(count);
                let number = self.information.start() + at as u64 / PAGE_BYTES;
                let region = self.own_page(hal, Frame::new(number).unwrap_or(Frame::ZERO))?;
                server::with_page(hal, region, Rights::ReadWrite, |memory, page| {
                    memory.write_bytes(page, within, now)
                })?;
                at += count;
                rest = later;
            }
            Ok(())
        })
    }

    fn own_page(&self, hal: &Hal, frame: Frame) -> Result<PhysicalRegion, BootError> {
        page(hal, frame).ok_or(BootError::NoMemory { pages: 1 })
    }

    /// The memory that sigma0 has, by rising addresses: everything but the kernel's pages.
    ///
    /// # Errors
    /// [`BootError::Heap`].
    pub(crate) fn regions(&self, hal: &mut Hal) -> Result<&'static [PhysicalRegion], BootError> {
        let count = self.each_region(hal).count();
        let first = self.each_region(hal).next();
        let Some(first) = first else { return Err(BootError::NoMemory { pages: 1 }) };
        let regions = hal.heap_slice(count, |_| first)?;
        for (place, region) in regions.iter_mut().zip(self.each_region(hal)) {
            *place = region;
        }
        regions.sort_unstable_by_key(|region| region.first_frame());
        Ok(regions)
    }

    fn each_region<'h>(&self, hal: &'h Hal) -> impl Iterator<Item = PhysicalRegion> + use<'h> {
        let pool = self.pool;
        let free = hal.memory_view().initial_regions().flat_map(move |region| {
            let (below, above) = region.frames().without(pool);
            let blocks = below.blocks().chain(above.blocks());
            blocks.filter_map(move |(frame, order)| {
                let bits = PAGE_BITS + order;
                region.derive(Flexpage::physical(frame.address(), bits).ok()?).ok()
            })
        });
        let modules = 0..hal.report.information.modules().len();
        let loaded = modules.filter_map(|number| hal.memory_view().module_regions(number));
        free.chain(loaded.flatten())
    }
}

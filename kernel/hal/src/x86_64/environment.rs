//! The environment: the memory that the kernel itself lives in, chosen and mapped once at boot.
//!
//! One physical range holds, in this order, the page tables that map it, the frame window's
//! tables, the page records, and the heap for kernel objects. Nothing else of memory is mapped:
//! there is no direct map. Kernel space looks like this:
//!
//! | from | what |
//! |---|---|
//! | [`WINDOW`] | the frame-indexed window: one page for every frame, present only on demand |
//! | [`ENVIRONMENT`] | the environment range |
//! | `0xffffffff80000000` + physical | the kernel image, with unmapped guard pages |
//! | `slots::SLOTS` | a few pages whose mapping is changed by hand |
//!
//! Invariants:
//!
//! - E1: the environment range is usable RAM according to the loader's map, and disjoint from
//!   the image, the modules, the loader's structures and the low megabyte.
//! - E2: all tables of the kernel half hang from entries of the boot root that are never written
//!   again after [`build`]; every root copies those entries.
//! - E3: the window's leaf tables lie in one piece, so that the entry for a frame is found by its
//!   number alone; they hold nothing after [`build`].

use core::arch::asm;
use core::fmt;

use heliox_address::{Frame, FrameRange, PAGE_BYTES, PageSize, PhysicalAddress};
use heliox_boot::memory_map::{MemoryMap, Preference};
use heliox_boot::{PhysicalMemory, Unreadable};

use super::processor;
use super::slots::Slot;

/// Virtual address of the frame-indexed window: the page of frame `n` appears `n` pages on.
pub(super) const WINDOW: u64 = 0xffff_8000_0000_0000;
/// Number of frames that the window has room for: 64 TiB. Frames above are not managed.
pub(super) const WINDOW_FRAMES: u64 = 1 << 34;
/// Virtual address of the environment range.
const ENVIRONMENT: u64 = 0xffff_c000_0000_0000;

/// Bytes of one page's record.
const RECORD_BYTES: u64 = 16;
/// Entries of a table, and bytes of an entry.
const ENTRIES: u64 = 512;
const ENTRY_BYTES: u64 = 8;
/// The heap for kernel objects is this part of usable memory unless the command line says how
/// large it is to be, but at least [`SMALLEST_HEAP`].
const HEAP_PART: u64 = 32;
const SMALLEST_HEAP: u64 = 512 << 10;

/// Programs that are linked at fixed physical addresses live between 14 MiB and 64 MiB; the
/// kernel keeps out.
pub(super) const FIXED_PROGRAMS: FrameRange = frames(0xe0_0000, 0x400_0000);
/// The first megabyte is not handed out: firmware still uses parts of it, and processors start
/// there.
pub(super) const LOW_MEMORY: FrameRange = frames(0, 0x10_0000);

/// The frames between two addresses that are multiples of the page size.
const fn frames(start: u64, end: u64) -> FrameRange {
    match FrameRange::new(start / PAGE_BYTES, end / PAGE_BYTES) {
        Some(range) => range,
        None => FrameRange::EMPTY,
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;

unsafe extern "C" {
    static mut boot_root: [u64; 512];
    static mut boot_level3: [u64; 512];
    static boot_start: [u8; 0];
    static image_end: [u8; 0];
}

/// Difference between virtual and physical addresses of the image.
const IMAGE_BASE: u64 = 0xffff_ffff_8000_0000;

/// Why the kernel cannot set up its own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnvironmentError {
    /// The loader named no usable memory.
    NoMemory,
    /// No usable range is large enough for the kernel's own `bytes` bytes.
    TooSmall {
        /// What the kernel needs in one piece.
        bytes: u64,
        /// All usable memory in bytes.
        usable: u64,
    },
}

impl fmt::Display for EnvironmentError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => formatter.write_str("the boot loader named no usable memory"),
            Self::TooSmall { bytes, usable } => write!(
                formatter,
                "the kernel needs {} KiB of memory in one piece, outside of 14 MiB to 64 MiB, and \
                 found none in the {} KiB that are usable",
                bytes >> 10,
                usable >> 10
            ),
        }
    }
}

impl core::error::Error for EnvironmentError {}

/// Where the parts of the environment lie; sizes in bytes, all multiples of the page size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// All frames with numbers below this one have a record and a place in the window.
    pub(super) managed_frames: u64,
    tables: u64,
    window_leaves: u64,
    window_upper: u64,
    records: u64,
    heap: u64,
}

impl Layout {
    /// Sizes for a machine with this memory map and, if the command line named one, heap size.
    pub(super) fn plan(map: &MemoryMap, heap: Option<u64>) -> Result<Self, EnvironmentError> {
        let highest = map.highest_usable().ok_or(EnvironmentError::NoMemory)?;
        let managed_frames = highest.number() + 1;
        let usable = map.usable_frames() * PAGE_BYTES;
        let heap = heap.unwrap_or((usable / HEAP_PART).max(SMALLEST_HEAP));
        let leaf_tables = managed_frames.div_ceil(ENTRIES);
        let level2_tables = leaf_tables.div_ceil(ENTRIES);
        let level3_tables = level2_tables.div_ceil(ENTRIES);
        let mut layout = Self {
            managed_frames,
            tables: 0,
            window_leaves: leaf_tables * PAGE_BYTES,
            window_upper: (level2_tables + level3_tables) * PAGE_BYTES,
            records: (managed_frames * RECORD_BYTES).next_multiple_of(PAGE_BYTES),
            heap: heap.min(usable).next_multiple_of(PAGE_BYTES),
        };
        // To map the range: one table of level 3, one of level 2 for every GiB begun, and tables
        // of level 1 for at most the 2 MiB begun at either end.
        layout.tables = (layout.bytes().div_ceil(PageSize::Size1GiB.bytes()) + 4) * PAGE_BYTES;
        Ok(layout)
    }

    /// Size of the whole environment range.
    pub(super) fn bytes(&self) -> u64 {
        self.tables + self.window_leaves + self.window_upper + self.records + self.heap
    }

    /// Bytes of the parts that say something about every page.
    pub(super) fn metadata_bytes(&self) -> u64 {
        self.bytes() - self.heap
    }

    /// Bytes for kernel objects.
    pub(super) fn heap_bytes(&self) -> u64 {
        self.heap
    }

    /// The frames for the environment: the highest that fit, so that low memory stays free for
    /// devices, on a 2 MiB boundary if there is such a place.
    pub(super) fn place(&self, map: &MemoryMap) -> Result<FrameRange, EnvironmentError> {
        let count = self.bytes() / PAGE_BYTES;
        let forbidden = [FIXED_PROGRAMS];
        map.find_free(count, PageSize::Size2MiB, &forbidden, Preference::Highest)
            .or_else(|| map.find_free(count, PageSize::Size4KiB, &forbidden, Preference::Highest))
            .ok_or(EnvironmentError::TooSmall {
                bytes: self.bytes(),
                usable: map.usable_frames() * PAGE_BYTES,
            })
    }
}

/// Where the parts of the environment are mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Environment {
    /// The page-table entries of the window: one word for every managed frame.
    pub(super) window_entries: *mut u64,
    /// The page records, all zero.
    pub(super) records: *mut u8,
    /// The heap.
    pub(super) heap: *mut u8,
    /// Root table of the kernel: its lower half is empty.
    pub(super) root: Frame,
}

/// Maps the environment at `range` as `layout` says, and the window's empty tables.
///
/// # Safety
/// To be called once; E1 must hold for `range`, whose size must be that of the layout.
/// `no_execute` is that bit of a page-table entry, if the processor has it.
pub(super) unsafe fn build(layout: &Layout, range: FrameRange, no_execute: u64) -> Environment {
    let physical = range.start() * PAGE_BYTES;
    // Same offset in 2 MiB as the physical range, so that large pages fit.
    let address = ENVIRONMENT + physical % PageSize::Size2MiB.bytes();
    let window_leaves = address + layout.tables;
    let window_upper = window_leaves + layout.window_leaves;
    let records = window_upper + layout.window_upper;
    // SAFETY: E1: nobody else uses the range; the tables area is as large as `plan` reckoned for
    // exactly this mapping. The parts written below are mapped by then and inside the range.
    unsafe {
        map_range(physical, address, layout, no_execute);
        clear_words(window_leaves, (layout.window_leaves + layout.window_upper + layout.records) / 8);
        map_window(physical + layout.tables, window_upper, layout);
    }
    Environment {
        window_entries: window_leaves as *mut u64,
        records: records as *mut u8,
        heap: (records + layout.records) as *mut u8,
        root: image_frame(&raw const boot_root as u64),
    }
}

/// Maps the environment range itself, with tables taken from its beginning and written through
/// the peephole, since they are not mapped yet.
///
/// # Safety
/// As for [`build`].
unsafe fn map_range(physical: u64, address: u64, layout: &Layout, no_execute: u64) {
    let mut next_table = physical;
    let mut new_table = || {
        let table = next_table;
        next_table += PAGE_BYTES;
        // SAFETY: the table lies in the range, which nobody else uses (E1).
        unsafe {
            peephole(table);
            clear_words(Slot::Peephole.address(), ENTRIES);
        }
        table
    };
    let level3 = new_table();
    // SAFETY: the boot root belongs to the boot code until E2 begins to hold.
    unsafe { root_entry(index(address, 4)).write_volatile(level3 | PRESENT | WRITABLE) }
    let end = address + layout.bytes();
    let (mut level2, mut level1) = (0, 0);
    let (mut level2_for, mut level1_for) = (u64::MAX, u64::MAX);
    let mut at = address;
    while at < end {
        if at >> 30 != level2_for {
            level2_for = at >> 30;
            level2 = new_table();
            // SAFETY: `level3` is a table of the range.
            unsafe { table_entry(level3, index(at, 3)).write_volatile(level2 | PRESENT | WRITABLE) }
        }
        let target = physical + (at - address);
        let large = PageSize::Size2MiB.bytes();
        if at.is_multiple_of(large) && end - at >= large {
            let entry = target | PRESENT | WRITABLE | LARGE | GLOBAL | no_execute;
            // SAFETY: `level2` is a table of the range.
            unsafe { table_entry(level2, index(at, 2)).write_volatile(entry) }
            at += large;
            continue;
        }
        if at >> 21 != level1_for {
            level1_for = at >> 21;
            level1 = new_table();
            // SAFETY: `level2` is a table of the range.
            unsafe { table_entry(level2, index(at, 2)).write_volatile(level1 | PRESENT | WRITABLE) }
        }
        let entry = target | PRESENT | WRITABLE | GLOBAL | no_execute;
        // SAFETY: `level1` is a table of the range.
        unsafe { table_entry(level1, index(at, 1)).write_volatile(entry) }
        at += PAGE_BYTES;
    }
    Slot::Peephole.clear();
}

/// Hangs the window's tables together. `leaves` is the physical address of its leaf tables, with
/// the upper tables right behind them; `upper` is where the upper tables are mapped.
///
/// # Safety
/// As for [`build`]; the window's tables must be mapped and zero.
unsafe fn map_window(leaves: u64, upper: u64, layout: &Layout) {
    let leaf_tables = layout.window_leaves / PAGE_BYTES;
    let level2_tables = leaf_tables.div_ceil(ENTRIES);
    let level3_tables = level2_tables.div_ceil(ENTRIES);
    let upper_physical = leaves + layout.window_leaves;
    // Tables of one level lie in one piece, so their entries do too.
    let fill = |entries: u64, first_table: u64, count: u64| {
        for number in 0..count {
            let entry = (first_table + number * PAGE_BYTES) | PRESENT | WRITABLE;
            // SAFETY: `plan` made room for exactly these entries.
            unsafe { ((entries + number * ENTRY_BYTES) as *mut u64).write_volatile(entry) }
        }
    };
    fill(upper, leaves, leaf_tables);
    fill(upper + level2_tables * PAGE_BYTES, upper_physical, level2_tables);
    for number in 0..level3_tables {
        let table = upper_physical + (level2_tables + number) * PAGE_BYTES;
        // SAFETY: the window has 2^46 bytes: at most 128 root entries from its first on.
        unsafe {
            root_entry(index(WINDOW, 4) + number).write_volatile(table | PRESENT | WRITABLE);
        }
    }
}

/// Removes the view of the image at its physical addresses that the boot assembly needed.
///
/// # Safety
/// Nothing may run or point there any more.
pub(super) unsafe fn remove_identity_view() {
    // SAFETY: the two tables are the boot code's; the lower half is not used (caller).
    unsafe {
        root_entry(0).write_volatile(0);
        (&raw mut boot_level3).cast::<u64>().write_volatile(0);
        processor::write_cr3(processor::read_cr3());
    }
}

/// The frames of the kernel image, guard pages included.
pub(super) fn image_frames() -> FrameRange {
    let start = &raw const boot_start as u64;
    let end = &raw const image_end as u64 - IMAGE_BASE;
    frames(start, end.next_multiple_of(PAGE_BYTES))
}

/// The frame of an object of the image.
fn image_frame(address: u64) -> Frame {
    PhysicalAddress::new(address - IMAGE_BASE).map_or(LOWEST_FRAME, PhysicalAddress::frame)
}

const LOWEST_FRAME: Frame = PhysicalAddress::ZERO.frame();

/// Index of the entry for `address` in a table of level 1 to 4.
const fn index(address: u64, level: u32) -> u64 {
    address >> (12 + 9 * (level - 1)) & (ENTRIES - 1)
}

/// Entry number `index` of the boot root.
fn root_entry(index: u64) -> *mut u64 {
    (&raw mut boot_root).cast::<u64>().wrapping_add(index as usize % ENTRIES as usize)
}

/// Shows the page at `physical`, a multiple of the page size, in the peephole.
///
/// # Safety
/// As for [`Slot::show`].
unsafe fn peephole(physical: u64) {
    if let Some(address) = PhysicalAddress::new(physical) {
        // SAFETY: as the caller ensures.
        unsafe { Slot::Peephole.show(address.frame(), false, 0) }
    }
}

/// Entry number `index` of the table at `table`, through the peephole.
///
/// # Safety
/// The page must be a table of the environment range.
unsafe fn table_entry(table: u64, index: u64) -> *mut u64 {
    // SAFETY: as the caller ensures.
    unsafe { peephole(table) }
    (Slot::Peephole.address() + index * ENTRY_BYTES) as *mut u64
}

/// Writes zero to `words` words from `address` on.
///
/// # Safety
/// The words must be mapped, writable and not be in use.
unsafe fn clear_words(address: u64, words: u64) {
    // SAFETY: as the caller ensures; the direction flag is clear in kernel code.
    unsafe {
        asm!("rep stosq", inout("rcx") words => _, inout("rdi") address => _, in("rax") 0,
            options(nostack, preserves_flags));
    }
}

/// What the loader left in memory, read through the peephole.
///
/// The loader is trusted to have put its structures into memory and not to point at registers of
/// devices; what the structures say is not trusted.
#[derive(Debug)]
pub(super) struct BootMemory {
    /// Number one past the last frame that the processor can address.
    limit: u64,
    no_execute: u64,
}

impl BootMemory {
    /// Memory below what `physical_bits` bits of address reach; `no_execute` is that bit of a
    /// page-table entry, if the processor has it.
    pub(super) fn new(physical_bits: u32, no_execute: u64) -> Self {
        Self { limit: 1 << (physical_bits.clamp(32, 52) - 12), no_execute }
    }
}

impl PhysicalMemory for BootMemory {
    fn read(&mut self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let unreadable = Unreadable { address, bytes: buffer.len() as u64 };
        let mut at = address;
        let mut rest = buffer;
        while !rest.is_empty() {
            let frame = at.frame();
            if frame.number() >= self.limit {
                return Err(unreadable);
            }
            let offset = at.offset_in_page();
            let count = rest.len().min((PAGE_BYTES - offset) as usize);
            let (now, later) = core::mem::take(&mut rest).split_at_mut(count);
            // SAFETY: the peephole shows the frame; the bytes are copied out before it shows
            // another one, and `now` is no longer than the rest of the page.
            unsafe {
                Slot::Peephole.show(frame, false, self.no_execute);
                let source = (Slot::Peephole.address() + offset) as *const u8;
                core::ptr::copy_nonoverlapping(source, now.as_mut_ptr(), count);
            }
            Slot::Peephole.clear();
            rest = later;
            if !rest.is_empty() {
                at = at.checked_add(count as u64).ok_or(unreadable)?;
            }
        }
        Ok(())
    }
}

//! The environment: the memory that the kernel itself lives in, chosen and mapped once at boot.
//!
//! One physical range holds, in this order, page tables, what describes pages, and the heap for
//! kernel objects. Nothing else of memory is mapped: there is no direct map. Kernel space looks
//! like this:
//!
//! | from | what |
//! |---|---|
//! | [`WINDOW`] | the frame-indexed window: one page for every frame, present only on demand |
//! | [`VISIBLE`] | the window once more, for programs: only what is open to them |
//! | [`ENVIRONMENT`] | the environment range |
//! | [`WINDOW_ENTRIES`] | the window's leaf entries, by frame number |
//! | [`RECORDS`] | the page records, by frame number |
//! | `0xffffffff80000000` + physical | the kernel image, with unmapped guard pages |
//! | `slots::SLOTS` | a few pages whose mapping is changed by hand |
//!
//! Memory is described in *blocks* of 512 frames, for which a page of window entries and a page
//! of records are needed. A block in which there is no memory has no window, and its records
//! are a page of zeros that all such blocks share and nobody can write; so a hole in physical
//! memory costs next to nothing.
//!
//! Invariants:
//!
//! - E1: the environment range is usable RAM according to the loader's map, and disjoint from
//!   the image, the modules, the loader's structures and the low megabyte.
//! - E2: all tables of the kernel half hang from entries of the boot root that are never written
//!   again after [`build`]; every root copies those entries.
//! - E3: the entry of the window for a frame, and the frame's record, are found by its number
//!   alone. After [`build`] the window's entries are absent, and the records zero but for those
//!   of usable frames, which say nothing yet.

use core::arch::asm;
use core::fmt;
use core::ops::Range;

use heliox_boot::memory_map::{Area, MemoryKind, MemoryMap, Preference};
use heliox_boot::{PhysicalMemory, Unreadable};
use heliox_types::{Frame, FrameRange, PAGE_BYTES, PageSize, PhysicalAddress};

use super::processor;
use super::slots::Slot;

/// Virtual address of the frame-indexed window: the page of frame `n` appears `n` pages on.
pub(super) const WINDOW: u64 = 0xffff_8000_0000_0000;
/// Number of frames that the window has room for: 32 TiB. Frames above are not managed.
pub(super) const WINDOW_FRAMES: u64 = 1 << 33;
/// The window once more, for programs: the same tables below other entries of the root. Only here
/// do all levels allow programs in, so a page that is open to them is a supervisor page in the
/// window itself, which the kernel may touch with SMAP on.
pub(super) const VISIBLE: u64 = WINDOW + (WINDOW_FRAMES << 12);
/// Virtual address of the environment range.
const ENVIRONMENT: u64 = 0xffff_c000_0000_0000;
/// Virtual address of the window's leaf entries: 8 bytes for every frame.
const WINDOW_ENTRIES: u64 = 0xffff_d000_0000_0000;
/// Virtual address of the page records: 8 bytes for every frame.
const RECORDS: u64 = 0xffff_d040_0000_0000;

const _: () = assert!(index(RECORDS, 4) == index(WINDOW_ENTRIES, 4));
const _: () = assert!(RECORDS - WINDOW_ENTRIES >= WINDOW_FRAMES * ENTRY_BYTES);

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

/// The legacy video memory: all that the HAL offers of device memory but a frame buffer.
pub(super) const VIDEO_MEMORY: FrameRange = frames(0xa_0000, 0xc_0000);

/// The frames between two addresses that are multiples of the page size.
const fn frames(start: u64, end: u64) -> FrameRange {
    match FrameRange::new(start / PAGE_BYTES, end / PAGE_BYTES) {
        Some(range) => range,
        None => FrameRange::EMPTY,
    }
}

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
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

/// The parts of the environment; numbers of pages, if nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// All frames with numbers below this one have a record.
    pub(super) managed_frames: u64,
    /// Blocks of 512 frames, and those of them in which there is memory.
    blocks: u64,
    populated: u64,
    /// Tables of level 2 of the window; as many of level 1 for the entries and for the records.
    block_tables: u64,
    /// Tables of level 3 of the window, and of level 2 for the entries and for the records.
    upper_tables: u64,
    /// Tables that map the range itself.
    own_tables: u64,
    heap: u64,
}

impl Layout {
    /// Sizes for a machine with this memory map and, if the command line named one, heap size in
    /// bytes.
    pub(super) fn plan(map: &MemoryMap, heap: Option<u64>) -> Result<Self, EnvironmentError> {
        let highest = map.highest_usable().ok_or(EnvironmentError::NoMemory)?;
        let managed_frames = highest.number() + 1;
        let usable = map.usable_frames() * PAGE_BYTES;
        // The records of blocks come on top of what objects get.
        let blocks_records = managed_frames / 16;
        let heap = heap.unwrap_or((usable / HEAP_PART).max(SMALLEST_HEAP)).min(usable);
        let heap = heap + blocks_records + PAGE_BYTES;
        let blocks = managed_frames.div_ceil(ENTRIES);
        let block_tables = blocks.div_ceil(ENTRIES);
        let mut layout = Self {
            managed_frames,
            blocks,
            populated: Blocks::of(map, managed_frames)
                .map(|(blocks, _)| blocks.end - blocks.start)
                .sum(),
            block_tables,
            upper_tables: block_tables.div_ceil(ENTRIES),
            own_tables: 0,
            heap: heap.div_ceil(PAGE_BYTES),
        };
        // One table of level 3, one of level 2 for every GiB begun, and tables of level 1 for at
        // most the 2 MiB begun at either end.
        layout.own_tables = layout.bytes().div_ceil(PageSize::Size1GiB.bytes()) + 4;
        Ok(layout)
    }

    /// Pages of the tables that describe blocks, of the table of level 3 for the entries and
    /// records, and the page of zeros.
    fn block_pages(&self) -> u64 {
        3 * (self.block_tables + self.upper_tables) + 2
    }

    /// Pages of everything that says something about every page.
    fn metadata_pages(&self) -> u64 {
        self.own_tables + self.block_pages() + 2 * self.populated
    }

    /// Size of the whole environment range in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.metadata_pages() + self.heap) * PAGE_BYTES
    }

    /// Bytes of the parts that say something about every page.
    pub(super) fn metadata_bytes(&self) -> u64 {
        self.metadata_pages() * PAGE_BYTES
    }

    /// Bytes for kernel objects.
    pub(super) fn heap_bytes(&self) -> u64 {
        self.heap * PAGE_BYTES
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

/// The blocks in which there is memory, as ranges of their numbers, in rising order and without
/// overlap.
struct Blocks<'map> {
    areas: core::slice::Iter<'map, Area>,
    managed_frames: u64,
    /// The first block that has not been told yet.
    next: u64,
}

impl<'map> Blocks<'map> {
    fn of(map: &'map MemoryMap, managed_frames: u64) -> Self {
        Self { areas: map.areas().iter(), managed_frames, next: 0 }
    }
}

impl Iterator for Blocks<'_> {
    /// The blocks, and those of them of which every frame is usable.
    type Item = (Range<u64>, Range<u64>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let area = self.areas.next()?;
            if !matches!(area.kind, MemoryKind::Usable | MemoryKind::InUse) {
                continue;
            }
            let start = (area.frames.start() / ENTRIES).max(self.next);
            let end = area.frames.end().min(self.managed_frames).div_ceil(ENTRIES);
            if start < end {
                self.next = end;
                let whole = match area.kind {
                    MemoryKind::Usable => {
                        area.frames.start().div_ceil(ENTRIES)..area.frames.end() / ENTRIES
                    }
                    _ => 0..0,
                };
                return Some((start..end, whole));
            }
        }
    }
}

/// Where the parts of the environment are mapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Environment {
    /// The page-table entries of the window: one word for every managed frame in a block with
    /// memory.
    pub(super) window_entries: *mut u64,
    /// The window's entries of level 2: one word for every block, 0 if it has no window.
    pub(super) window_blocks: *const u64,
    /// The page records, one word for every managed frame: zero, but for usable frames.
    pub(super) records: *mut u64,
    /// The heap.
    pub(super) heap: *mut u8,
    /// Root table of the kernel: its lower half is empty.
    pub(super) root: Frame,
}

/// Maps the environment at `range` as `layout` says, and what describes the memory of `map`.
///
/// # Safety
/// To be called once; E1 must hold for `range`, whose size must be that of the layout, which
/// was planned for `map` as it is but for the reservation of `range`. `no_execute` is that bit of
/// a page-table entry, if the processor has it.
pub(super) unsafe fn build(
    layout: &Layout,
    map: &MemoryMap,
    range: FrameRange,
    no_execute: u64,
) -> Environment {
    let physical = range.start() * PAGE_BYTES;
    // Same offset in 2 MiB as the physical range, so that large pages fit.
    let address = ENVIRONMENT + physical % PageSize::Size2MiB.bytes();
    let cleared = layout.own_tables * PAGE_BYTES;
    // SAFETY: E1: nobody else uses the range; the own tables are as many as `plan` reckoned for
    // exactly this mapping. What is written below is mapped by then and inside the range.
    unsafe {
        map_range(physical, address, layout, no_execute);
        clear_words(address + cleared, layout.block_pages() * ENTRIES);
        describe_memory(physical + cleared, address + cleared, layout, map, no_execute);
    }
    Environment {
        window_entries: WINDOW_ENTRIES as *mut u64,
        window_blocks: (address + cleared) as *const u64,
        records: RECORDS as *mut u64,
        heap: (address + layout.metadata_bytes()) as *mut u8,
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

/// Builds the window's tables and maps its entries and the records. The pages for all that begin
/// at `physical` and are mapped at `address`; those of the tables are zero.
///
/// # Safety
/// As for [`build`].
unsafe fn describe_memory(
    physical: u64,
    address: u64,
    layout: &Layout,
    map: &MemoryMap,
    no_execute: u64,
) {
    let table = PRESENT | WRITABLE;
    let offset = address - physical;
    // Tables of one kind lie in one piece, so their entries do too, by block number.
    let block_table_bytes = layout.block_tables * PAGE_BYTES;
    let upper_table_bytes = layout.upper_tables * PAGE_BYTES;
    let window2 = physical;
    let entries1 = window2 + block_table_bytes;
    let records1 = entries1 + block_table_bytes;
    let window3 = records1 + block_table_bytes;
    let entries2 = window3 + upper_table_bytes;
    let records2 = entries2 + upper_table_bytes;
    let level3 = records2 + upper_table_bytes;
    let zeros = level3 + PAGE_BYTES;
    let mut next_page = zeros + PAGE_BYTES;
    let write = |tables: u64, number: u64, entry: u64| {
        // SAFETY: `plan` made room for this entry, and the tables are mapped.
        unsafe { ((tables + offset + number * ENTRY_BYTES) as *mut u64).write_volatile(entry) }
    };
    for number in 0..layout.block_tables {
        write(window3, number, (window2 + number * PAGE_BYTES) | table | USER);
        write(entries2, number, (entries1 + number * PAGE_BYTES) | table);
        write(records2, number, (records1 + number * PAGE_BYTES) | table);
    }
    // The window has at most 64 entries in the root, and so has its other view. The regions of entries and records, at most
    // 128 GiB each, share one entry in the root and hang from one table of level 3.
    // SAFETY: the boot root is still being built (E2).
    unsafe {
        for number in 0..layout.upper_tables {
            let entry = (window3 + number * PAGE_BYTES) | table;
            root_entry(index(WINDOW, 4) + number).write_volatile(entry | no_execute);
            root_entry(index(VISIBLE, 4) + number).write_volatile(entry | USER);
        }
        root_entry(index(WINDOW_ENTRIES, 4)).write_volatile(level3 | table);
    }
    for number in 0..layout.upper_tables {
        write(level3, index(WINDOW_ENTRIES, 3) + number, (entries2 + number * PAGE_BYTES) | table);
        write(level3, index(RECORDS, 3) + number, (records2 + number * PAGE_BYTES) | table);
    }
    let leaf = PRESENT | GLOBAL | no_execute;
    let mut described = 0;
    let describe_holes = |from: u64, to: u64| {
        for block in from..to {
            write(records1, block, zeros | leaf);
        }
    };
    for (blocks, whole) in Blocks::of(map, layout.managed_frames) {
        describe_holes(described, blocks.start);
        described = blocks.end;
        for block in blocks {
            // The checks write the record of every usable frame, so the records of a block that
            // is wholly usable need not be cleared.
            let pages = if whole.contains(&block) { 1 } else { 2 };
            // SAFETY: the two pages were set aside for this block, and are mapped.
            unsafe { clear_words(next_page + offset, pages * ENTRIES) }
            write(window2, block, next_page | table | USER);
            write(entries1, block, next_page | leaf | WRITABLE);
            write(records1, block, (next_page + PAGE_BYTES) | leaf | WRITABLE);
            next_page += 2 * PAGE_BYTES;
        }
    }
    describe_holes(described, layout.blocks);
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
pub(super) unsafe fn clear_words(address: u64, words: u64) {
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

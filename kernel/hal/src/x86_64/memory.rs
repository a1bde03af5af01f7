//! How the kernel's own half of every address space is mapped, and the raw operations on page
//! tables and memory.
//!
//! Kernel space looks like this:
//!
//! | from | what |
//! |---|---|
//! | [`WINDOW`] | the frame-indexed window: one page for every frame, present only on demand |
//! | [`VISIBLE`] | the window once more, for programs: only what is open to them |
//! | [`ENVIRONMENT`] + physical | the heap, the end of the environment range |
//! | [`WINDOW_ENTRIES`] | the window's leaf entries, by frame number |
//! | [`RECORDS`] | the page records, by frame number |
//! | [`IMAGE`] + physical | the kernel image, with unmapped guard pages |
//! | [`SLOTS`] | a few pages whose mapping is changed by hand |
//!
//! Nothing else of memory is mapped: there is no direct map. Memory is described in *blocks* of
//! 512 frames, for which a page of window entries and a page of records are needed. A block in
//! which there is no memory has no window, and its entries and records are a page of zeros that all
//! such blocks share and nobody can write; so a hole in physical memory costs next to nothing.
//!
//! Invariants:
//!
//! - E1: the environment range is usable RAM according to the loader's map, and disjoint from
//!   the image, the modules, the loader's structures and the low megabyte.
//! - E2: all tables of the kernel half hang from entries of the root that are never written again
//!   after [`build`]; every root copies those entries.
//! - E3: the entry of the window for a frame, and the frame's record, are found by its number
//!   alone. After [`build`] the records are zero, and the window's entries [`CLOSED`] in blocks
//!   with memory, else 0.
//! - V1: a slot shows one page at a time, and its old translation is dropped before a new one is used.
//! - M1: the preconditions of `crate::machine`, which the checks keep.

use super::processor::{CR4_GLOBAL_PAGES, ENTRY_MASK};
use super::*;

const WINDOW: u64 = 0xffff_8000_0000_0000;
/// Number of frames that the window has room for, and that can have records: 16 TiB.
pub(super) const WINDOW_FRAMES: u64 = 1 << 32;
/// The same tables as those of the window below other entries of the root. Only here do all levels
/// allow programs in, so a page that is open to them is a supervisor page in the window itself,
/// which the kernel may touch with SMAP on.
const VISIBLE: u64 = 0xffff_a000_0000_0000;
const ENVIRONMENT: u64 = 0xffff_c000_0000_0000;
const WINDOW_ENTRIES: u64 = 0xffff_d000_0000_0000;
const RECORDS: u64 = 0xffff_d040_0000_0000;
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const SLOTS: u64 = 0xffff_ffff_8040_0000;

const _: () = assert!(VISIBLE - WINDOW >= WINDOW_FRAMES * PAGE_BYTES);
const _: () = assert!(WINDOW_ENTRIES - ENVIRONMENT >= WINDOW_FRAMES * PAGE_BYTES);
const _: () = assert!(RECORDS - WINDOW_ENTRIES >= WINDOW_FRAMES * 8);

/// An entry of the window of a page that is closed, where there is a window.
const CLOSED: u64 = Host::FOREIGN;
/// An entry that points to a table. Programs get in where the root lets them: nowhere but in the
/// visible window.
const TABLE: u64 = Host::PRESENT | Host::WRITABLE | Host::USER;

/// A table of the image.
#[repr(C, align(4096))]
pub(super) struct Table([AtomicU64; 512]);

/// The tables that the image is mapped with: the root, one of each level below for the image, and
/// the slots'.
static ROOT: Table = Table([const { AtomicU64::new(0) }; 512]);
static IMAGE_TABLES: [Table; 3] = [const { Table([const { AtomicU64::new(0) }; 512]) }; 3];
pub(super) static SLOT_TABLE: Table = Table([const { AtomicU64::new(0) }; 512]);

unsafe extern "C" {
    /// The image, then what is to be mapped of it: start, end, bits of entries (kernel.ld).
    safe static image_sections: [[u64; 3]; 6];
}

/// The physical address of an object of the image.
fn physical<T>(object: &T) -> u64 {
    (&raw const *object) as u64 - IMAGE
}

/// The frames of the kernel image, guard pages included.
pub(super) fn image_frames() -> FrameRange {
    let [[start, end, _], ..] = image_sections;
    let frame = |address: u64| (address - IMAGE).div_ceil(PAGE_BYTES);
    FrameRange::new(frame(start), frame(end)).unwrap_or(FrameRange::EMPTY)
}

/// Where the image ends: at the end of a stack.
pub(super) fn image_end() -> u64 {
    IMAGE + (image_frames().end() << PAGE_BITS)
}

/// Address of frame number `frame` of the heap.
pub(super) const fn environment_address(frame: u64) -> u64 {
    ENVIRONMENT + (frame << PAGE_BITS)
}

/// The word at `address`, which other processors and programs may write.
///
/// # Safety
/// The address must be a multiple of 8, and its page be mapped for as long as the reference lives.
pub(super) unsafe fn word<'a>(address: u64) -> &'a AtomicU64 {
    // SAFETY: as the caller ensures.
    unsafe { &*(address as *const AtomicU64) }
}

/// Entry of a page of the kernel's half, never executable.
fn leaf(bits: u64) -> u64 {
    (bits | Host::PRESENT | Host::GLOBAL | Host::NO_EXECUTE) & ENTRY_MASK.load(Relaxed)
}

/// The slots: for the registers of the local APIC and of the I/O APIC, and for what the boot reads
/// and writes of memory that is not mapped.
#[derive(Clone, Copy)]
pub(super) enum Slot {
    LocalApic,
    IoApic,
    Peephole,
}

impl Slot {
    /// Where the slot's page appears.
    pub(super) const fn address(self) -> u64 {
        SLOTS + self as u64 * PAGE_BYTES
    }

    /// Shows the page at physical address `page` in this slot; `cache`: how accesses are cached.
    pub(super) fn show(self, page: u64, cache: u64) {
        // SAFETY: there are fewer slots than entries of their table.
        let entry = unsafe { word(&raw const SLOT_TABLE as u64 + self as u64 * 8) };
        entry.store(leaf(page | cache | Host::WRITABLE), Relaxed);
        processor::invalidate_page(self.address());
    }
}

/// The kernel's half, which is being built, and pages that may become tables: physical addresses of
/// the next, and of the end of the last. (Without any, a way to look at memory.)
struct Builder {
    next: u64,
    end: u64,
}

impl Builder {
    /// Word `index`, modulo the words of a page, of the page at physical address `page`.
    fn word(&mut self, page: u64, index: u64) -> &AtomicU64 {
        Slot::Peephole.show(page, 0);
        // SAFETY: V1: the page is shown for as long as the builder is borrowed. It is a table of the
        // image, or memory of the environment (E1), or what the loader left, which is only read.
        unsafe { word(Slot::Peephole.address() + index % 512 * 8) }
    }

    /// The next page, with whatever is in it.
    fn next(&mut self) -> Option<u64> {
        let page = (self.next < self.end).then_some(self.next)?;
        self.next += PAGE_BYTES;
        Some(page)
    }

    /// The next page, filled with `word`.
    fn take(&mut self, word: u64) -> Option<u64> {
        let page = self.next()?;
        let start = self.word(page, 0).as_ptr().cast();
        // SAFETY: the page is shown (V1), and nobody else uses it (E1).
        unsafe { fill(start, word, PAGE_BYTES as usize) }
        Some(page)
    }

    /// Writes the entry of `level` for `address`, below tables that are taken where there are none.
    fn map(&mut self, address: u64, level: u32, entry: u64) -> Option<()> {
        let index = |level: u32| address >> (PAGE_BITS + 9 * (level - 1));
        let mut table = physical(&ROOT);
        for above in (level + 1..=4).rev() {
            let mut found = self.word(table, index(above)).load(Relaxed);
            if found == 0 {
                found = self.take(0)? | if above < 4 { TABLE } else { TABLE & !Host::USER };
                self.word(table, index(above)).store(found, Relaxed);
            }
            table = found & Host::ADDRESS;
        }
        self.word(table, index(level)).store(entry, Relaxed);
        Some(())
    }
}

/// Replaces the tables of `boot.s` by those that show every section of the image with its own rights
/// and nothing else. The processor's features must be switched on.
pub(super) fn map_image() {
    let tables = physical(&IMAGE_TABLES);
    let end = tables + size_of_val(&IMAGE_TABLES) as u64;
    let mut builder = Builder { next: tables, end };
    // Three tables are enough: the image and the slots lie in the same GiB.
    let _ = builder.map(SLOTS, 2, physical(&SLOT_TABLE) | TABLE);
    for [start, end, bits] in image_sections.into_iter().skip(1) {
        for page in (start..end).step_by(PAGE_BYTES as usize) {
            let _ = builder.map(page, 1, ((page - IMAGE) | bits) & ENTRY_MASK.load(Relaxed));
        }
    }
    // SAFETY: what runs and what is used, the stack included, is at the same addresses.
    unsafe { set!("mov cr3, {}", physical(&ROOT)) }
}

/// Builds the kernel's half: maps the heap, and what describes the memory of `map`. The frames of
/// the heap; `None` if the plan is not good.
pub(super) fn build(map: &MemoryMap, plan: &EnvironmentPlan) -> Option<FrameRange> {
    let heap = plan.range.end().checked_sub(plan.heap_frames)?;
    let heap = FrameRange::new(heap, plan.range.end())?;
    // E1.
    let good = map.is_usable(plan.range) && plan.range.contains_range(heap);
    (good && plan.managed_frames <= WINDOW_FRAMES).then_some(())?;
    let [next, end] = [plan.range, heap].map(|frames| frames.start() << PAGE_BITS);
    let mut builder = Builder { next, end };

    let mut frame = heap.start();
    while frame < heap.end() {
        let large = frame.is_multiple_of(BLOCK_FRAMES) && frame + BLOCK_FRAMES <= heap.end();
        let (level, bits, frames) = if large { (2, Host::LARGE, BLOCK_FRAMES) } else { (1, 0, 1) };
        let entry = leaf(frame << PAGE_BITS | bits | Host::WRITABLE);
        builder.map(environment_address(frame), level, entry)?;
        frame += frames;
    }

    let zeros = leaf(builder.take(0)?);
    let holes = builder.take(zeros)? | TABLE;
    let table_frames = BLOCK_FRAMES * BLOCK_FRAMES;
    for first in (0..plan.managed_frames).step_by(table_frames as usize) {
        if !map.has_memory(FrameRange::new(first, first + table_frames)?) {
            builder.map(WINDOW_ENTRIES + first * 8, 2, holes)?;
            builder.map(RECORDS + first * 8, 2, holes)?;
            continue;
        }
        let (window, entries) = (builder.take(0)?, builder.take(zeros)?);
        let records = builder.take(zeros)?;
        builder.map(WINDOW + (first << PAGE_BITS), 3, window | TABLE)?;
        builder.map(WINDOW_ENTRIES + first * 8, 2, entries | TABLE)?;
        builder.map(RECORDS + first * 8, 2, records | TABLE)?;
        for index in 0..BLOCK_FRAMES {
            let block = first + index * BLOCK_FRAMES;
            let block = FrameRange::new(block, block + BLOCK_FRAMES)?;
            if map.has_memory(block) {
                let page = builder.take(CLOSED)?;
                builder.word(window, index).store(page | TABLE, Relaxed);
                builder.word(entries, index).store(leaf(page | Host::WRITABLE), Relaxed);
                // The checks write the records of all usable frames.
                let page = if map.is_usable(block) { builder.next()? } else { builder.take(0)? };
                builder.word(records, index).store(leaf(page | Host::WRITABLE), Relaxed);
            }
        }
    }
    // The other view of the window: the same tables, but programs get in.
    let entries = |start: u64| ROOT.0.iter().skip((start >> 39 & 511) as usize);
    let views = entries(WINDOW).zip(entries(VISIBLE)).take((WINDOW_FRAMES >> 27) as usize);
    for (window, visible) in views.filter(|(window, _)| window.load(Relaxed) != 0) {
        visible.store(window.load(Relaxed) | Host::USER, Relaxed);
        window.fetch_or(Host::NO_EXECUTE & ENTRY_MASK.load(Relaxed), Relaxed);
    }
    Some(heap)
}

/// What the loader left in memory, as far as the processor can address it: below this limit.
///
/// The loader is trusted to have put its structures into memory and not to point at registers of
/// devices; what the structures say is not trusted.
pub(super) struct BootMemory(pub(super) u64);

impl PhysicalMemory for BootMemory {
    fn read(&mut self, address: PhysicalAddress, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let (start, bytes) = (address.get(), buffer.len() as u64);
        if start + bytes > self.0 {
            return Err(Unreadable { address, bytes });
        }
        let mut memory = Builder { next: 0, end: 0 };
        for (byte, at) in buffer.iter_mut().zip(start..) {
            let word = memory.word(at & !(PAGE_BYTES - 1), at / 8).load(Relaxed);
            *byte = (word >> (at % 8 * 8)) as u8;
        }
        Ok(())
    }
}

/// The page records of all managed frames.
///
/// # Safety
/// To be called once, after [`build`] for as many frames.
pub(super) unsafe fn page_records(managed_frames: u64) -> &'static mut [Record] {
    // SAFETY: E3; any word is a record.
    unsafe { slice::from_raw_parts_mut(RECORDS as *mut Record, managed_frames as usize) }
}

/// The memory management of this machine. There is one value, inside `Memory`.
pub struct RealMachine {
    managed_frames: u64,
    largest_leaf: Level,
    /// Counts for measurements.
    pub(super) root_loads: u64,
    pub(super) flushes: u64,
}

impl RealMachine {
    /// The machine with the kernel's half that was built for as many frames.
    pub(super) fn new(managed_frames: u64, gigabyte_pages: bool) -> Self {
        let largest = Level::new::<FourLevel>(if gigabyte_pages { 3 } else { 2 });
        let largest_leaf = largest.unwrap_or(Level::FIRST);
        let mut machine = Self { managed_frames, largest_leaf, root_loads: 0, flushes: 0 };
        // Tables are read through the window; the reference root is one.
        machine.open_window(machine.reference_root(), WindowEntry::PRIVATE);
        machine
    }

    /// The window's entry for `frame`, which must be managed.
    fn window_entry(&self, frame: Frame) -> &AtomicU64 {
        // SAFETY: E3: the frame has an entry, if only one that is 0 and cannot be written.
        unsafe { word(WINDOW_ENTRIES + frame.number() * 8) }
    }

    /// The entry at `at`, or any other word.
    fn word(&self, at: PhysicalAddress) -> &AtomicU64 {
        // SAFETY: M1: the frame is open in the window, the address aligned.
        unsafe { word(WINDOW + at.get()) }
    }
}

/// Where the byte at `at` appears in the window.
fn in_window(at: PhysicalAddress) -> *mut u8 {
    (WINDOW + at.get()) as *mut u8
}

/// Copies `count` bytes; the compiler does not look inside, so it makes no assumption about who
/// else writes them.
///
/// # Safety
/// Both ranges must be mapped, the target writable.
unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: as the caller ensures; the direction flag is clear. Whole words first.
    unsafe {
        asm!("rep movsq", "mov ecx, {:e}", "rep movsb", in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rsi") from => _, inout("rdi") to => _);
    }
}

/// Writes `word` again and again, over `count` bytes; as opaque as [`copy`].
///
/// # Safety
/// The range must be mapped and writable.
pub(super) unsafe fn fill(to: *mut u8, word: u64, count: usize) {
    // SAFETY: as the caller ensures; the direction flag is clear. Whole words first.
    unsafe {
        asm!("rep stosq", "mov ecx, {:e}", "rep stosb", in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rdi") to => _, in("rax") word);
    }
}

impl Machine for RealMachine {
    type Geometry = FourLevel;

    fn largest_leaf(&self) -> Level {
        self.largest_leaf
    }

    #[inline(always)]
    fn read_entry(&self, at: PhysicalAddress) -> Entry {
        Entry(self.word(at).load(Relaxed))
    }

    #[inline(always)]
    fn write_entry(&mut self, at: PhysicalAddress, entry: Entry) {
        self.word(at).store(entry.0 & ENTRY_MASK.load(Relaxed), Release);
    }

    #[inline(always)]
    fn exchange_entry(&mut self, at: PhysicalAddress, entry: Entry) -> Entry {
        Entry(self.word(at).swap(entry.0 & ENTRY_MASK.load(Relaxed), AcqRel))
    }

    fn change_entry(&mut self, at: PhysicalAddress, clear: u64, set: u64) -> Entry {
        Entry(self.change_word(at, clear, set & ENTRY_MASK.load(Relaxed)))
    }

    fn reference_root(&self) -> Frame {
        Frame::new(physical(&ROOT) >> PAGE_BITS).unwrap_or(Frame::ZERO)
    }

    fn has_window(&self, frame: Frame) -> bool {
        frame.number() < self.managed_frames && self.window_entry(frame).load(Relaxed) != 0
    }

    fn is_open(&self, frame: Frame) -> bool {
        self.window_entry(frame).load(Relaxed) & Host::PRESENT != 0
    }

    fn visible_address(&self, frame: Frame) -> VirtualAddress {
        // In the upper half, so canonical.
        VirtualAddress::sign_extended(VISIBLE + (frame.number() << PAGE_BITS))
    }

    fn open_window(&mut self, frame: Frame, entry: WindowEntry) {
        let rights = entry.programs.unwrap_or(Rights::ReadWrite);
        let attributes = Attributes { rights, memory_type: entry.memory_type, foreign: false };
        let bits = Host::leaf(Level::FIRST, frame, attributes).0 | Host::GLOBAL;
        // What programs do not see the kernel may write, and nobody execute.
        let bits = if entry.programs.is_some() { bits } else { bits & !Host::USER };
        self.window_entry(frame).store(bits & ENTRY_MASK.load(Relaxed), Release);
    }

    fn close_window(&mut self, _cpu: CurrentCpu, frame: Frame) {
        self.flushes += 1;
        let before = self.window_entry(frame).swap(CLOSED, AcqRel);
        let offset = frame.number() << PAGE_BITS;
        processor::invalidate_page(WINDOW + offset);
        if before & Host::USER != 0 {
            processor::invalidate_page(VISIBLE + offset);
        }
    }

    #[inline(always)]
    fn read_word(&self, at: PhysicalAddress) -> u64 {
        self.word(at).load(Relaxed)
    }

    #[inline(always)]
    fn write_word(&mut self, at: PhysicalAddress, value: u64) {
        self.word(at).store(value, Relaxed);
    }

    fn change_word(&mut self, at: PhysicalAddress, clear: u64, set: u64) -> u64 {
        let word = self.word(at);
        let before = word.fetch_and(!clear, AcqRel);
        if set != 0 {
            word.fetch_or(set, AcqRel);
        }
        before
    }

    fn read_bytes(&self, at: PhysicalAddress, bytes: &mut [u8]) {
        // SAFETY: M1: every frame of the source is open.
        unsafe { copy(in_window(at), bytes.as_mut_ptr(), bytes.len()) }
    }

    fn write_bytes(&mut self, at: PhysicalAddress, bytes: &[u8]) {
        // SAFETY: M1: every frame of the target is open.
        unsafe { copy(bytes.as_ptr(), in_window(at), bytes.len()) }
    }

    fn copy_bytes(&mut self, from: PhysicalAddress, to: PhysicalAddress, count: usize) {
        // SAFETY: M1: every frame of both ranges is open.
        unsafe { copy(in_window(from), in_window(to), count) }
    }

    fn fill_bytes(&mut self, at: PhysicalAddress, count: usize, value: u8) {
        let word = u64::from(value) * 0x0101_0101_0101_0101;
        // SAFETY: M1: every frame of the range is open.
        unsafe { fill(in_window(at), word, count) }
    }

    fn load_root(&mut self, _cpu: CurrentCpu, root: Frame) {
        self.root_loads += 1;
        // SAFETY: M1: `root` carries the kernel's half.
        unsafe { set!("mov cr3, {}", root.number() << PAGE_BITS) }
    }

    fn invalidate_page(&mut self, _cpu: CurrentCpu, address: VirtualAddress) {
        self.flushes += 1;
        processor::invalidate_page(address.get());
    }

    fn flush(&mut self, _cpu: CurrentCpu) {
        self.flushes += 1;
        let root = read!("mov {}, cr3");
        // SAFETY: the root that is loaded stays loaded.
        unsafe { set!("mov cr3, {}", root) }
    }

    fn flush_all(&mut self, cpu: CurrentCpu) {
        // Switching the use of global translations drops all; without it, any load of a root does.
        let control = read!("mov {}, cr4");
        // SAFETY: only the use of global translations changes, and back again.
        unsafe {
            set!("mov cr4, {}", control & !CR4_GLOBAL_PAGES);
            set!("mov cr4, {}", control);
        }
        self.flush(cpu);
    }
}

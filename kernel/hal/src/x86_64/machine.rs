//! The raw memory-management operations of the real machine.
//!
//! Every method does what it is told (`crate::machine`); the preconditions that its
//! documentation states are what the `SAFETY` comments here rest on, under the number M1. The
//! checks keep them.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use heliox_types::{Frame, PAGE_BITS, PhysicalAddress, VirtualAddress};

use super::environment::{Environment, VISIBLE, WINDOW};
use super::features::Features;
use super::processor;
use crate::cpu::CurrentCpu;
use crate::entry::{Attributes, Entry, Host, RootKind};
use crate::geometry::{FourLevel, Level};
use crate::machine::{Machine, WindowEntry};
use crate::rights::Rights;

/// CR4: global translations.
const GLOBAL_PAGES: u64 = 1 << 7;

/// The memory management of this machine. There is one value, inside `Memory`.
#[derive(Debug)]
pub struct RealMachine {
    /// The window's leaf entries, one for every managed frame (environment.rs, E3).
    window_entries: *mut AtomicU64,
    /// The window's entries of level 2, one for every 512 managed frames.
    window_blocks: *const u64,
    managed_frames: u64,
    reference_root: Frame,
    largest_leaf: Level,
    /// What a page-table entry may have set: all bits, but not the no-execute bit where the
    /// processor takes it for a reserved one.
    entry_mask: u64,
    /// Counts for `measure`.
    pub(super) root_loads: u64,
    pub(super) flushes: u64,
}

impl RealMachine {
    /// # Safety
    /// `environment` must just have been built for `managed_frames` frames; nothing else may
    /// write the window's entries from now on, and its root must be the one that is loaded.
    pub(super) unsafe fn new(
        environment: &Environment,
        managed_frames: u64,
        features: &Features,
    ) -> Self {
        let largest = if features.gigabyte_pages { 3 } else { 2 };
        let mut machine = Self {
            window_entries: environment.window_entries.cast(),
            window_blocks: environment.window_blocks,
            managed_frames,
            reference_root: environment.root,
            largest_leaf: Level::new::<FourLevel>(largest).unwrap_or(Level::FIRST),
            entry_mask: !Host::NO_EXECUTE | features.no_execute,
            root_loads: 0,
            flushes: 0,
        };
        // Tables are read through the window; the reference root is one.
        machine.open_window(environment.root, WindowEntry::PRIVATE);
        machine
    }

    /// The window's entry for `frame`.
    fn window_entry(&self, frame: Frame) -> &AtomicU64 {
        // SAFETY: M1: the window has tables for the frame, and so an entry.
        unsafe { &*self.window_entries.add(frame.number() as usize) }
    }

    /// The entry at `at`.
    fn entry(&self, at: PhysicalAddress) -> &AtomicU64 {
        // SAFETY: M1: the table is open in the window, the address aligned.
        unsafe { &*in_window(at).cast() }
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
        asm!("rep movsq", "mov ecx, {rest:e}", "rep movsb",
            rest = in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rsi") from => _, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

/// Writes `count` times `value`; as opaque as [`copy`].
///
/// # Safety
/// The range must be mapped and writable.
unsafe fn fill(to: *mut u8, value: u8, count: usize) {
    let word = u64::from(value) * 0x0101_0101_0101_0101;
    // SAFETY: as the caller ensures; the direction flag is clear. Whole words first.
    unsafe {
        asm!("rep stosq", "mov ecx, {rest:e}", "rep stosb",
            rest = in(reg) count & 7,
            inout("rcx") count >> 3 => _, inout("rdi") to => _, in("rax") word,
            options(nostack, preserves_flags));
    }
}

impl Machine for RealMachine {
    type Geometry = FourLevel;

    fn largest_leaf(&self) -> Level {
        self.largest_leaf
    }

    #[inline(always)]
    fn read_entry(&self, at: PhysicalAddress) -> Entry {
        Entry(self.entry(at).load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn write_entry(&mut self, at: PhysicalAddress, entry: Entry) {
        self.entry(at).store(entry.0 & self.entry_mask, Ordering::Release);
    }

    #[inline(always)]
    fn exchange_entry(&mut self, at: PhysicalAddress, entry: Entry) -> Entry {
        Entry(self.entry(at).swap(entry.0 & self.entry_mask, Ordering::AcqRel))
    }

    fn change_entry(&mut self, at: PhysicalAddress, clear: u64, set: u64) -> Entry {
        let (entry, set) = (self.entry(at), set & self.entry_mask);
        let before = entry.fetch_and(!clear, Ordering::AcqRel);
        if set != 0 {
            entry.fetch_or(set, Ordering::AcqRel);
        }
        Entry(before)
    }

    fn reference_root(&self) -> Frame {
        self.reference_root
    }

    fn has_window(&self, frame: Frame) -> bool {
        let number = frame.number();
        // SAFETY: there is a word for every 512 managed frames, written once at boot.
        number < self.managed_frames
            && unsafe { self.window_blocks.add((number / 512) as usize).read() } != 0
    }

    fn is_open(&self, frame: Frame) -> bool {
        self.window_entry(frame).load(Ordering::Relaxed) & Host::PRESENT != 0
    }

    fn visible_address(&self, frame: Frame) -> VirtualAddress {
        // The other view follows the window, in the upper half as well.
        VirtualAddress::new(VISIBLE + (frame.number() << PAGE_BITS)).unwrap_or(VirtualAddress::ZERO)
    }

    #[inline]
    fn open_window(&mut self, frame: Frame, entry: WindowEntry) {
        let rights = entry.programs.unwrap_or(Rights::ReadWrite);
        let attributes = Attributes { rights, memory_type: entry.memory_type, foreign: false };
        let leaf = Host::leaf(Level::FIRST, frame, attributes).0 | Host::GLOBAL;
        // The kernel may write where programs may only read, and fetches instructions nowhere.
        let leaf = match entry.programs {
            Some(_) => leaf,
            None => leaf & !Host::USER,
        };
        self.window_entry(frame).store(leaf & self.entry_mask, Ordering::Release);
    }

    fn close_window(&mut self, _cpu: CurrentCpu, frame: Frame) {
        self.flushes += 1;
        let before = self.window_entry(frame).swap(0, Ordering::AcqRel);
        let offset = frame.number() << PAGE_BITS;
        processor::invalidate_page(WINDOW + offset);
        if before & Host::USER != 0 {
            processor::invalidate_page(VISIBLE + offset);
        }
    }

    #[inline(always)]
    fn read_word(&self, at: PhysicalAddress) -> u64 {
        // SAFETY: M1: the frame is open, the address aligned. Programs may write the word.
        unsafe { (*in_window(at).cast::<AtomicU64>()).load(Ordering::Relaxed) }
    }

    #[inline(always)]
    fn write_word(&mut self, at: PhysicalAddress, value: u64) {
        // SAFETY: as for `read_word`.
        unsafe { (*in_window(at).cast::<AtomicU64>()).store(value, Ordering::Relaxed) }
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
        // SAFETY: M1: every frame of the range is open.
        unsafe { fill(in_window(at), value, count) }
    }

    #[inline]
    fn load_root(&mut self, _cpu: CurrentCpu, root: Frame) {
        self.root_loads += 1;
        // SAFETY: M1: `root` carries the kernel's half.
        unsafe { processor::write_cr3(root.number() << PAGE_BITS) }
    }

    #[inline]
    fn invalidate_page(&mut self, _cpu: CurrentCpu, address: VirtualAddress) {
        self.flushes += 1;
        processor::invalidate_page(address.get());
    }

    fn flush(&mut self, _cpu: CurrentCpu) {
        self.flushes += 1;
        // SAFETY: the root that is loaded stays loaded.
        unsafe { processor::write_cr3(processor::read_cr3()) }
    }

    fn flush_all(&mut self, _cpu: CurrentCpu) {
        self.flushes += 1;
        let control = processor::read_cr4();
        if control & GLOBAL_PAGES == 0 {
            // Without global translations every load of the root drops everything.
            // SAFETY: the root that is loaded stays loaded.
            unsafe { processor::write_cr3(processor::read_cr3()) }
            return;
        }
        // SAFETY: only the use of global translations changes, and back again.
        unsafe {
            processor::write_cr4(control & !GLOBAL_PAGES);
            processor::write_cr4(control);
        }
    }
}

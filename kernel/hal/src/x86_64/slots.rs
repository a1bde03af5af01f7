//! Fixed slots: a few pages of kernel space whose mapping is changed by hand.
//!
//! Three uses: the registers of the local APIC and of the I/O APIC, for as long as the kernel runs,
//! and a peephole
//! through which the boot code reads what the loader left and writes its first tables, before
//! the frame-indexed window exists. Invariants:
//!
//! - V1: the slots begin at [`SLOTS`], behind the page table of the image; the table that maps
//!   them is a static of the image, written only here.
//! - V2: a slot maps at most one page, and its old translation is dropped before a new one is
//!   used.

use heliox_types::{Frame, PAGE_BYTES};

use super::processor;

/// Virtual address of the first slot.
const SLOTS: u64 = 0xffff_ffff_8040_0000;

/// Entry bits: present, writable, write-through, cache-disable, no-execute.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 8;

unsafe extern "C" {
    static mut boot_slot_table: [u64; 512];
}

/// The slots and what each is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// The local APIC's registers.
    LocalApic = 0,
    /// The boot code's peephole.
    Peephole = 1,
    /// The I/O APIC's registers.
    IoApic = 2,
}

impl Slot {
    /// Virtual address at which the slot's page appears.
    pub(super) const fn address(self) -> u64 {
        SLOTS + self as u64 * PAGE_BYTES
    }

    /// Shows `frame` in this slot, uncached if it is a device's. Never executable (where the
    /// processor has no-execute, `no_execute` is its bit).
    ///
    /// # Safety
    /// What the caller does through the slot must be right for that frame, and no reference into
    /// the slot may be live.
    pub(super) unsafe fn show(self, frame: Frame, device: bool, no_execute: u64) {
        let cache = if device { WRITE_THROUGH | CACHE_DISABLE } else { 0 };
        let entry = frame.address().get() | PRESENT | WRITABLE | GLOBAL | cache | no_execute;
        // SAFETY: V1: this is the slots' own table; `self` is one of its 512 entries.
        unsafe { (&raw mut boot_slot_table).cast::<u64>().add(self as usize).write_volatile(entry) }
        processor::invalidate_page(self.address());
    }

    /// Shows nothing in this slot.
    pub(super) fn clear(self) {
        // SAFETY: V1 as above.
        unsafe { (&raw mut boot_slot_table).cast::<u64>().add(self as usize).write_volatile(0) }
        processor::invalidate_page(self.address());
    }
}

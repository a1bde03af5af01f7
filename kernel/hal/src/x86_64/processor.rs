//! Single instructions of the processor that Rust has no name for, and switching on what this
//! processor has.
//!
//! Functions that can break memory-safety are `unsafe` and say what the caller must ensure; what
//! can only read a value, slow the machine down or stop it, is safe.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heliox_types::{Cpuid, ProcessorFeatures};

use super::cpu::CPU;
use crate::entry::Host;

/// Model-specific registers that the kernel uses (AMD64 manual volume 2, appendix A).
pub(super) mod msr {
    pub(crate) const APIC_BASE: u32 = 0x1b;
    pub(crate) const PAT: u32 = 0x277;
    pub(crate) const EFER: u32 = 0xc000_0080;
    pub(crate) const STAR: u32 = 0xc000_0081;
    pub(crate) const LSTAR: u32 = 0xc000_0082;
    pub(crate) const SFMASK: u32 = 0xc000_0084;
    pub(crate) const FS_BASE: u32 = 0xc000_0100;
    pub(crate) const GS_BASE: u32 = 0xc000_0101;
    pub(crate) const KERNEL_GS_BASE: u32 = 0xc000_0102;
}

/// Bits of control registers that matter here (AMD64 manual volume 2, section 3.1).
pub(super) const CR0_TASK_SWITCHED: u64 = 1 << 3;
pub(super) const CR4_GLOBAL_PAGES: u64 = 1 << 7;

/// The bits of a page-table entry that this processor does not take for reserved ones: all, or all
/// but the no-execute bit.
pub(super) static ENTRY_MASK: AtomicU64 = AtomicU64::new(!Host::NO_EXECUTE);

/// Reads a register by an instruction with one operand that has no other effect.
macro_rules! read {
    ($instruction:literal) => {{
        let value: u64;
        // SAFETY: reading a register in ring 0 has no effect.
        unsafe {
            core::arch::asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}
pub(super) use read;

/// Writes a register by an instruction with one operand. Unsafe: what it means must be right.
macro_rules! write {
    ($instruction:literal, $value:expr) => {
        core::arch::asm!($instruction, in(reg) $value, options(nostack, preserves_flags))
    };
}
pub(super) use write;

/// Reads model-specific register `register`.
///
/// # Safety
/// The register must exist on this processor.
pub(super) unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the register exists (caller); reading it changes nothing in memory.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high) }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes model-specific register `register`.
///
/// # Safety
/// The register must exist, `value` must be valid for it, and its effect must keep the
/// invariants of the caller's module.
pub(super) unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: as the caller ensures.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32);
    }
}

/// What the processor says of itself. Zeros for a leaf that it does not have.
fn cpuid(leaf: u32) -> Cpuid {
    let highest = __cpuid_count(leaf & 0x8000_0000, 0).eax;
    let answer = __cpuid_count(leaf, 0);
    if leaf > highest { [0; 4] } else { [answer.eax, answer.ebx, answer.ecx, answer.edx] }
}

/// The time-stamp counter, in ticks since some moment before the kernel began.
pub(super) fn time_stamp() -> u64 {
    // SAFETY: RDTSC is allowed in ring 0 and only reads a counter.
    unsafe { _rdtsc() }
}

/// Drops this CPU's translation of the page at `address`, global or not, and all entries of its
/// paging-structure caches.
pub(super) fn invalidate_page(address: u64) {
    // SAFETY: dropping a translation can only make the processor walk the tables again.
    unsafe { write!("invlpg [{}]", address) }
}

/// Loads the root that is loaded again: drops all translations that are not global.
pub(super) fn flush() {
    let root = read!("mov {}, cr3");
    // SAFETY: no address gets another meaning.
    unsafe { write!("mov cr3, {}", root) }
}

/// Finds what this CPU has and switches on what the kernel uses. To be called on each CPU at its
/// start.
pub(super) fn enable_features() -> ProcessorFeatures {
    let has = ProcessorFeatures::new(cpuid(1), cpuid(7), cpuid(0x8000_0001), cpuid(0x8000_0008));
    let switch = |bits: u64, on: bool| if on { bits } else { 0 };
    // Every 64-bit processor has debug extensions, FXSAVE and SIMD exceptions.
    let control = 1 << 3
        | 1 << 9
        | 1 << 10
        | switch(CR4_GLOBAL_PAGES, has.global_pages)
        | switch(1 << 11, has.instruction_prevention)
        | switch(1 << 16, has.fs_gs_base)
        | switch(1 << 18, has.xsave)
        | switch(1 << 20, has.execution_prevention)
        | switch(1 << 21, has.access_prevention);
    // Time-stamp disable, performance counters, protection keys.
    let off = 1 << 2 | 1 << 8 | 1 << 22;
    // Monitor, numeric error, write protect; and floating point is switched off (F1).
    let protection = CR0_TASK_SWITCHED | 1 << 1 | 1 << 5 | 1 << 16;
    let control = read!("mov {}, cr4") & !off | control;
    let protection = read!("mov {}, cr0") & !(1 << 2) | protection;
    // SAFETY: only what CPUID names is switched on; paging, PAE and protection stay on; the page
    // attribute table keeps entry 0 write-back; x87, SSE and, where there is one, AVX are what
    // XCR0 may have.
    unsafe {
        write!("mov cr4, {}", control);
        write!("mov cr0, {}", protection);
        let efer = read_msr(msr::EFER) | 1 | switch(1 << 11, has.no_execute);
        write_msr(msr::EFER, efer);
        if has.page_attributes {
            write_msr(msr::PAT, Host::PAGE_ATTRIBUTE_TABLE);
        }
        if has.xsave {
            let mask = __cpuid_count(0xd, 0).eax & 0b111;
            asm!("xsetbv", in("ecx") 0, in("eax") mask, in("edx") 0);
            CPU.extended_mask.store(u64::from(mask), Relaxed);
        }
    }
    if has.no_execute {
        ENTRY_MASK.store(u64::MAX, Relaxed);
    }
    CPU.fs_gs_base.store(u64::from(has.fs_gs_base), Relaxed);
    has
}

/// Reads and writes ports with one width.
macro_rules! port_access {
    ($read:ident, $write:ident, $value:ty, $register:tt) => {
        /// Reads port `port`.
        ///
        /// # Safety
        /// D1: reading the port must not make a device write memory that it was not given.
        pub(super) unsafe fn $read(port: u16) -> $value {
            let value;
            // SAFETY: as the caller ensures.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value) }
            value
        }

        /// Writes `value` to port `port`.
        ///
        /// # Safety
        /// D1, as for reading.
        pub(super) unsafe fn $write(port: u16, value: $value) {
            // SAFETY: as the caller ensures.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value) }
        }
    };
}
port_access!(in8, out8, u8, "al");
port_access!(in16, out16, u16, "ax");
port_access!(in32, out32, u32, "eax");

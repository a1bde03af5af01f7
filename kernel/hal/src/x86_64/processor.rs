//! Single instructions of the processor that Rust has no name for, and switching on what this
//! processor has.
//!
//! Functions that can break memory-safety are `unsafe` and say what the caller must ensure; what
//! can only read a value, slow the machine down or stop it, is safe.

use super::*;

/// Bits of control registers (AMD64 manual volume 2, section 3.1).
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
        unsafe { core::arch::asm!($instruction, out(reg) value, options(nomem, nostack)) }
        value
    }};
}
pub(super) use read;

/// Writes a register by an instruction with one operand. Unsafe: what it means must be right.
macro_rules! set {
    ($instruction:literal, $value:expr) => {
        core::arch::asm!($instruction, in(reg) $value, options(nostack, preserves_flags))
    };
}
pub(super) use set;

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
    let high = value >> 32;
    // SAFETY: as the caller ensures.
    unsafe { asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") high as u32) }
}

/// The time-stamp counter, in ticks since some moment before the kernel began.
pub(super) fn time_stamp() -> u64 {
    // SAFETY: RDTSC is allowed in ring 0 and only reads a counter.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Drops this CPU's translation of the page at `address`, global or not, and all entries of its
/// paging-structure caches.
pub(super) fn invalidate_page(address: u64) {
    // SAFETY: dropping a translation can only make the processor walk the tables again.
    unsafe { set!("invlpg [{}]", address) }
}

/// Finds what this CPU has and switches on what the kernel uses. To be called on each CPU at its
/// start.
pub(super) fn enable_features() -> ProcessorFeatures {
    let [basic, structured, extended, sizes] = [1, 7, 0x8000_0001, 0x8000_0008].map(|leaf| {
        let highest = core::arch::x86_64::__cpuid_count(leaf & 0x8000_0000, 0).eax;
        let answer = core::arch::x86_64::__cpuid_count(leaf, 0);
        // A processor answers anything for a leaf that it does not have.
        let words = [answer.eax, answer.ebx, answer.ecx, answer.edx];
        if leaf <= highest { words } else { [0; 4] }
    });
    let has = ProcessorFeatures::new(basic, structured, extended, sizes);
    // Not: time-stamp disable, performance counters, protection keys.
    let off = 1 << 2 | 1 << 8 | 1 << 22;
    let features = read!("mov {}, cr4") & !off | has.control_bits();
    // Not emulation; but monitor, numeric error, write protect, and floating point is off (F1).
    let protection = 1 << 1 | 1 << 5 | 1 << 16 | CR0_TASK_SWITCHED;
    let protection = read!("mov {}, cr0") & !(1 << 2) | protection;
    // SAFETY: only what CPUID names is switched on; paging, PAE and protection stay on; the page
    // attribute table keeps entry 0 write-back.
    unsafe {
        set!("mov cr4, {}", features);
        set!("mov cr0, {}", protection);
        // EFER: system calls, no-execute.
        write_msr(0xc000_0080, read_msr(0xc000_0080) | 1 | u64::from(has.no_execute) << 11);
        // PAT, which every 64-bit processor has.
        write_msr(0x277, Host::PAGE_ATTRIBUTE_TABLE);
    }
    if has.xsave {
        // x87, SSE and, where there is one, AVX.
        let mask = core::arch::x86_64::__cpuid_count(0xd, 0).eax & 0b111;
        // SAFETY: the processor has XCR0, and what the mask names.
        unsafe { asm!("xsetbv", in("ecx") 0, in("eax") mask, in("edx") 0) }
        CPU.extended_mask.store(u64::from(mask), Relaxed);
    }
    ENTRY_MASK.fetch_or(u64::from(has.no_execute) << 63, Relaxed);
    CPU.fs_gs_base.store(u64::from(has.fs_gs_base), Relaxed);
    has
}

/// Reads and writes ports with one width.
///
/// # Safety
/// D1: the access must not make a device write memory that it was not given.
macro_rules! port_access {
    ($read:ident, $write:ident, $value:ty, $register:tt) => {
        pub(super) unsafe fn $read(port: u16) -> $value {
            let value;
            // SAFETY: as the caller ensures.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value) }
            value
        }

        pub(super) unsafe fn $write(port: u16, value: $value) {
            // SAFETY: as the caller ensures.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value) }
        }
    };
}
port_access!(in8, out8, u8, "al");
/// Writes to the emulator's debug console, a device that only takes bytes.
#[cfg(feature = "audit")]
pub(crate) fn put_audit(byte: u8) {
    // SAFETY: D1: it reaches no memory, and is no other device's port.
    unsafe { out8(0xe9, byte) }
}
port_access!(in16, out16, u16, "ax");
port_access!(in32, out32, u32, "eax");

//! Single instructions of the processor that Rust has no name for.
//!
//! Hides inline assembly: everything here is one instruction, or the few that belong together.
//! Functions that can break memory-safety are `unsafe` and say what the caller must ensure;
//! functions that can only read a value, or only slow the machine down, are safe.

use core::arch::asm;
use core::arch::x86_64::{__cpuid_count, _rdtsc, CpuidResult};

/// Model-specific registers that the kernel uses (AMD64 manual volume 2, appendix A).
pub(crate) mod msr {
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

/// What the processor says of itself: leaf `leaf`, sub-leaf `subleaf` of CPUID. Zeros for a leaf
/// that it does not have.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let highest = __cpuid_count(leaf & 0x8000_0000, 0).eax;
    if leaf > highest {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(leaf, subleaf)
}

/// The time-stamp counter, in ticks since some moment before the kernel began.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: RDTSC is allowed in ring 0 and only reads a counter.
    unsafe { _rdtsc() }
}

/// Reads model-specific register `register`.
///
/// # Safety
/// The register must exist on this processor.
pub(crate) unsafe fn read_msr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the register exists (caller); reading it changes nothing in memory.
    unsafe {
        asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes model-specific register `register`.
///
/// # Safety
/// The register must exist, `value` must be valid for it, and its effect must keep the
/// invariants of the caller's module.
pub(crate) unsafe fn write_msr(register: u32, value: u64) {
    // SAFETY: as the caller ensures. Not `nomem`: some registers change what memory means.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Reads a control register.
macro_rules! read_control {
    ($name:ident, $register:literal) => {
        #[doc = concat!("The value of ", $register, ".")]
        pub(crate) fn $name() -> u64 {
            let value: u64;
            // SAFETY: reading a control register in ring 0 has no effect.
            unsafe {
                asm!(concat!("mov {}, ", $register), out(reg) value,
                    options(nomem, nostack, preserves_flags));
            }
            value
        }
    };
}
read_control!(read_cr0, "cr0");
read_control!(read_cr2, "cr2");
read_control!(read_cr3, "cr3");
read_control!(read_cr4, "cr4");
read_control!(read_dr6, "dr6");

/// Writes CR0.
///
/// # Safety
/// Paging, protection and write protection must stay on.
pub(crate) unsafe fn write_cr0(value: u64) {
    // SAFETY: as the caller ensures.
    unsafe { asm!("mov cr0, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Writes a debug register.
macro_rules! write_debug {
    ($name:ident, $register:literal) => {
        #[doc = concat!("Writes ", $register, ".")]
        ///
        /// # Safety
        /// No breakpoint may be set where the kernel runs or reads.
        pub(crate) unsafe fn $name(value: u64) {
            // SAFETY: as the caller ensures.
            unsafe {
                asm!(concat!("mov ", $register, ", {}"), in(reg) value,
                    options(nomem, nostack, preserves_flags));
            }
        }
    };
}
write_debug!(write_dr0, "dr0");
write_debug!(write_dr1, "dr1");
write_debug!(write_dr2, "dr2");
write_debug!(write_dr3, "dr3");
write_debug!(write_dr6, "dr6");
write_debug!(write_dr7, "dr7");

/// Loads the root of the page tables; drops all translations that are not global.
///
/// # Safety
/// `root` must be the physical address of a root table whose kernel half is the kernel's own.
#[inline]
pub(crate) unsafe fn write_cr3(root: u64) {
    // SAFETY: as the caller ensures. Not `nomem`: what user addresses mean changes.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) }
}

/// Writes CR4.
///
/// # Safety
/// Every feature switched on must exist, and PAE must stay on.
pub(crate) unsafe fn write_cr4(value: u64) {
    // SAFETY: as the caller ensures.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) }
}

/// Fixes the set of extended states (XCR0).
///
/// # Safety
/// CR4.OSXSAVE must be set and every bit of `mask` supported.
pub(crate) unsafe fn write_xcr0(mask: u64) {
    // SAFETY: as the caller ensures.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") mask as u32, in("edx") (mask >> 32) as u32,
            options(nomem, nostack, preserves_flags));
    }
}

/// Drops this CPU's translation of the page at `address`, global or not, and all entries of its
/// paging-structure caches.
pub(crate) fn invalidate_page(address: u64) {
    // SAFETY: dropping a translation can only make the processor walk the tables again.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
}

/// Reads and writes ports with one width.
macro_rules! port_access {
    ($read:ident, $write:ident, $value:ty, $register:tt) => {
        /// Reads port `port`.
        ///
        /// # Safety
        /// Reading the port must not make a device write memory that it was not given.
        pub(crate) unsafe fn $read(port: u16) -> $value {
            let value;
            // SAFETY: as the caller ensures.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                    options(nostack, preserves_flags));
            }
            value
        }

        /// Writes `value` to port `port`.
        ///
        /// # Safety
        /// Writing the port must not make a device write memory that it was not given.
        pub(crate) unsafe fn $write(port: u16, value: $value) {
            // SAFETY: as the caller ensures.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}
port_access!(in8, out8, u8, "al");
port_access!(in16, out16, u16, "ax");
port_access!(in32, out32, u32, "eax");

/// Stops this CPU for good.
pub(crate) fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts off, nothing but an NMI runs any more; that is the purpose.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Lets interrupts in and waits for one; returns with interrupts off.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: the interrupt entry preserves every register of interrupted kernel code and
    // returns with interrupts off (entry.rs); STI takes effect only after HLT began.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// Steps through a few instructions of the kernel: each causes a debug exception, which the entry
/// code counts and otherwise ignores.
pub(crate) fn step() {
    // SAFETY: the flags are as before at the end; the debug exception has a stack of its own.
    unsafe {
        asm!(
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            "pushfq",
            "and qword ptr [rsp], ~0x100",
            "popfq"
        )
    }
}

/// Loads the program's data selector into DS, ES, FS and GS, so that a program does not see
/// which selectors another one chose; the FS base and the program's GS base become 0.
///
/// # Safety
/// GS must be the kernel's (entry.s), and interrupts off.
pub(crate) unsafe fn reset_data_segments() {
    // SAFETY: the selector is a data segment; loading GS between the two SWAPGS changes the
    // program's base and leaves the kernel's. Nothing between them uses GS: only an NMI or a
    // machine check could come, and those do not when they interrupt the kernel.
    unsafe {
        asm!("mov ds, {0:e}", "mov es, {0:e}", "mov fs, {0:e}", "swapgs", "mov gs, {0:e}", "swapgs",
            in(reg) u32::from(super::cpu::USER_DATA), options(nostack, preserves_flags));
    }
}

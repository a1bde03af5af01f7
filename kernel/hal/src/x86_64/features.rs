//! What this processor has, and switching it on.

use super::extended_state::ExtendedStateMethod;
use super::processor::{self, cpuid, msr};
use crate::entry::Host;

/// Control register bits (AMD64 manual volume 2, section 3.1).
const CR0_MONITOR: u64 = 1 << 1;
const CR0_EMULATE: u64 = 1 << 2;
const CR0_TASK_SWITCHED: u64 = 1 << 3;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_WRITE_PROTECT: u64 = 1 << 16;
const CR4_TIME_STAMP_DISABLE: u64 = 1 << 2;
const CR4_DEBUG_EXTENSIONS: u64 = 1 << 3;
const CR4_GLOBAL_PAGES: u64 = 1 << 7;
const CR4_PERFORMANCE_COUNTERS: u64 = 1 << 8;
const CR4_FXSAVE: u64 = 1 << 9;
const CR4_SIMD_EXCEPTIONS: u64 = 1 << 10;
const CR4_USER_INSTRUCTION_PREVENTION: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_XSAVE: u64 = 1 << 18;
const CR4_EXECUTION_PREVENTION: u64 = 1 << 20;
const CR4_ACCESS_PREVENTION: u64 = 1 << 21;
const CR4_PROTECTION_KEYS: u64 = 1 << 22;

/// The features that the kernel uses where there are any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Features {
    /// The no-execute bit of page-table entries; 0 if the processor has none.
    pub(super) no_execute: u64,
    /// Level-3 entries can map 1 GiB.
    pub(super) gigabyte_pages: bool,
    /// Bits of a physical address.
    pub(super) physical_bits: u32,
    /// How extended state is switched.
    pub(super) extended_state: ExtendedStateMethod,
    /// Names of the protections in force, for the log.
    protections: [(&'static str, bool); 5],
}

impl Features {
    /// Finds what this CPU has and switches on what the kernel uses. The same on every CPU.
    ///
    /// # Safety
    /// To be called on each CPU once, at its start, before programs run.
    pub(super) unsafe fn enable() -> Self {
        let basic = cpuid(1, 0);
        let structured = cpuid(7, 0);
        let extended = cpuid(0x8000_0001, 0);
        let has = |register: u32, bit: u32| register >> bit & 1 != 0;

        let no_execute = has(extended.edx, 20);
        let global = has(basic.edx, 13);
        let smep = has(structured.ebx, 7);
        let smap = has(structured.ebx, 20);
        let umip = has(structured.ecx, 2);
        let fs_gs_base = has(structured.ebx, 0);
        let xsave = has(basic.ecx, 26);

        let wanted = [
            (CR4_GLOBAL_PAGES, global),
            (CR4_EXECUTION_PREVENTION, smep),
            (CR4_ACCESS_PREVENTION, smap),
            (CR4_USER_INSTRUCTION_PREVENTION, umip),
            (CR4_FSGSBASE, fs_gs_base),
            (CR4_XSAVE, xsave),
            // Every 64-bit processor has these.
            (CR4_FXSAVE | CR4_SIMD_EXCEPTIONS | CR4_DEBUG_EXTENSIONS, true),
        ];
        let on = wanted.into_iter().filter(|(_, has)| *has).fold(0, |sum, (bit, _)| sum | bit);
        let off = CR4_TIME_STAMP_DISABLE | CR4_PERFORMANCE_COUNTERS | CR4_PROTECTION_KEYS;
        // SAFETY: only features that CPUID names are switched on; paging, PAE, protection and
        // write protection stay on; the page attribute table keeps entry 0 write-back.
        unsafe {
            processor::write_cr4(processor::read_cr4() & !off | on);
            processor::write_cr0(
                processor::read_cr0() & !(CR0_EMULATE | CR0_TASK_SWITCHED)
                    | CR0_MONITOR
                    | CR0_NUMERIC_ERROR
                    | CR0_WRITE_PROTECT,
            );
            if has(basic.edx, 16) {
                processor::write_msr(msr::PAT, Host::PAGE_ATTRIBUTE_TABLE);
            }
        }
        let address_sizes = cpuid(0x8000_0008, 0).eax & 0xff;
        Self {
            no_execute: if no_execute { 1 << 63 } else { 0 },
            gigabyte_pages: has(extended.edx, 26),
            physical_bits: if address_sizes == 0 { 36 } else { address_sizes },
            extended_state: ExtendedStateMethod::choose(xsave, fs_gs_base),
            protections: [
                ("NX", no_execute),
                ("SMEP", smep),
                ("SMAP", smap),
                ("UMIP", umip),
                ("global pages", global),
            ],
        }
    }

    /// The protections that this processor offers, and whether they are on.
    pub(super) fn protections(&self) -> &[(&'static str, bool)] {
        &self.protections
    }
}

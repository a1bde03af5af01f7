//! Floating-point and vector registers and segment bases of programs.
//!
//! Hides which instructions save and restore them. The kernel itself never uses these registers
//! (its target has no vector instructions), so they are a program's until another program runs;
//! then they are switched at once, since switching at the first use leaks on some processors
//! (`hazards` 12). The set of states is fixed at boot (XCR0: x87, SSE and, where there is one,
//! AVX).
//!
//! Invariant X1: the state that a CPU holds belongs to a context that exists and has not moved
//! it, or to none.

use core::arch::asm;
use core::ptr;

use heliox_types::USER_END;

use super::context::Frame;
use super::cpu::CpuOwned;
use super::processor::{self, msr};

/// Bytes of the largest save area in use: legacy region, header and AVX (AMD64 manual volume 2,
/// section 11.5.2 in the standard format).
const AREA_BYTES: usize = 512 + 64 + 256;

/// All registers of a program.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Registers {
    /// The save area. Only the processor writes it, after [`Registers::initial`].
    area: [u8; AREA_BYTES],
    /// What the entry code saves.
    pub(super) frame: Frame,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
}

/// Whose extended state is in the CPU: null, or the registers of a context that exists. It is
/// saved there when another one is loaded.
static RESIDENT: CpuOwned<*mut Registers> = CpuOwned::new(ptr::null_mut());

impl Registers {
    /// The state in which every program begins, with the registers of `frame`: exceptions masked,
    /// everything else empty.
    pub(super) const fn initial(frame: Frame) -> Self {
        let mut area = [0; AREA_BYTES];
        // x87 control word 0x037f at 0; MXCSR 0x1f80 at 24; the header says "all initial".
        area[0] = 0x7f;
        area[1] = 0x03;
        area[24] = 0x80;
        area[25] = 0x1f;
        Self { area, frame, fs_base: 0, gs_base: 0 }
    }

    /// Whether this state is in the CPU.
    #[inline]
    pub(super) fn is_resident(&self) -> bool {
        // SAFETY: U1; reads the pointer only.
        unsafe { ptr::eq(*RESIDENT.get(), self) }
    }

    /// Forgets that this state is in the CPU, if it is.
    pub(super) fn forget(&self) {
        if self.is_resident() {
            // SAFETY: U1.
            unsafe { *RESIDENT.get() = ptr::null_mut() }
        }
    }
}

/// How this processor saves and restores.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtendedStateMethod {
    /// The mask of states for XSAVE; `None`: FXSAVE.
    mask: Option<u32>,
    /// Programs can change the FS base without the kernel.
    fs_gs_base: bool,
}

impl ExtendedStateMethod {
    /// Picks the method. CR4.OSXSAVE must already be set where XSAVE exists, and CR4.FSGSBASE
    /// where that exists; fixes XCR0.
    pub(super) fn choose(has_xsave: bool, fs_gs_base: bool) -> Self {
        if !has_xsave {
            return Self { mask: None, fs_gs_base };
        }
        let mask = processor::cpuid(0xd, 0).eax & 0b111;
        // SAFETY: OSXSAVE is set (caller), the bits are those that CPUID offers, and x87 is
        // always among them.
        unsafe { processor::write_xcr0(u64::from(mask)) }
        Self { mask: Some(mask), fs_gs_base }
    }

    /// Takes the state in the CPU back to the context that it belongs to, if there is one.
    pub(super) fn evict(self) {
        // SAFETY: U1; X1: the pointer is null or that of a state that exists, which nobody
        // borrows: contexts are not borrowed here but through this function's callers, who
        // have finished with theirs.
        unsafe {
            let Some(state) = (*RESIDENT.get()).as_mut() else {
                return;
            };
            *RESIDENT.get() = ptr::null_mut();
            self.save(state);
        }
    }

    /// Brings `state` into the CPU, in place of the state that is there.
    pub(super) fn load(self, state: &mut Registers) {
        self.evict();
        self.restore(state);
        // SAFETY: U1. X1 holds since a context forgets its state when it is dropped, and does
        // not move it.
        unsafe { *RESIDENT.get() = state }
    }

    fn save(self, state: &mut Registers) {
        let area = state.area.as_mut_ptr();
        // SAFETY: the area is aligned to 64 and as large as the states in the mask need.
        unsafe {
            match self.mask {
                Some(mask) => {
                    asm!("xsave64 [{}]", in(reg) area, in("eax") mask, in("edx") 0,
                        options(nostack, preserves_flags));
                }
                None => {
                    asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags));
                }
            }
        }
        if self.fs_gs_base {
            // SAFETY: the register exists on every 64-bit processor. A base in the upper half is
            // of no use to the program, and is not loaded again (context.rs).
            let base = unsafe { processor::read_msr(msr::FS_BASE) };
            state.fs_base = if base < USER_END { base } else { 0 };
        }
    }

    /// Replaces the CPU's extended state, without a trace of the old one: on AMD processors a
    /// restore leaves the last x87 instruction and data pointers of the program before, which the
    /// initialisation clears.
    fn restore(self, state: &Registers) {
        let area = state.area.as_ptr();
        // SAFETY: the area was written by the matching save or is the initial state, so that the
        // processor accepts it. The bases are addresses that a program may use (context.rs); the
        // program's GS base waits in KERNEL_GS_BASE for the SWAPGS of the exit (hazards 2).
        unsafe {
            match self.mask {
                Some(mask) => {
                    asm!("fninit", "xrstor64 [{}]", in(reg) area, in("eax") mask, in("edx") 0,
                        options(nostack, preserves_flags));
                }
                None => {
                    asm!("fninit", "fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags));
                }
            }
            processor::reset_data_segments();
            processor::write_msr(msr::FS_BASE, state.fs_base);
            processor::write_msr(msr::KERNEL_GS_BASE, state.gs_base);
        }
    }
}

//! Floating-point and vector registers of programs.
//!
//! Hides which instructions save and restore them. The kernel itself never uses these registers
//! (its target has no vector instructions), so they are a program's until another program runs.
//! The set of states is fixed at boot (XCR0: x87, SSE and, where there is one, AVX) and is
//! switched eagerly: lazy switching leaks on some processors (`hazards` 12).

use core::arch::asm;

use super::processor;

/// Bytes of the largest save area in use: legacy region, header and AVX (AMD64 manual volume 2,
/// section 11.5.2 in the standard format).
const AREA_BYTES: usize = 512 + 64 + 256;

/// A save area. Only the processor writes it, or [`ExtendedState::initial`].
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct ExtendedState([u8; AREA_BYTES]);

impl ExtendedState {
    /// The state in which every program begins: exceptions masked, registers empty.
    pub(super) const fn initial() -> Self {
        let mut area = [0; AREA_BYTES];
        // x87 control word 0x037f at 0; MXCSR 0x1f80 at 24; the header says "all initial".
        area[0] = 0x7f;
        area[1] = 0x03;
        area[24] = 0x80;
        area[25] = 0x1f;
        Self(area)
    }
}

/// How this processor saves and restores.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExtendedStateMethod {
    /// The mask of states for XSAVE; `None`: FXSAVE.
    mask: Option<u32>,
}

impl ExtendedStateMethod {
    /// Picks the method. CR4.OSXSAVE must already be set where XSAVE exists; fixes XCR0.
    pub(super) fn choose(has_xsave: bool) -> Self {
        if !has_xsave {
            return Self { mask: None };
        }
        let supported = processor::cpuid(0xd, 0).eax;
        let mask = supported & 0b111;
        // SAFETY: OSXSAVE is set (caller), the bits are those that CPUID offers, and x87 is
        // always among them.
        unsafe { processor::write_xcr0(u64::from(mask)) }
        Self { mask: Some(mask) }
    }

    /// Saves the CPU's extended state into `state`.
    pub(super) fn save(self, state: &mut ExtendedState) {
        let area = state.0.as_mut_ptr();
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
    }

    /// Replaces the CPU's extended state by `state`, without a trace of the old one: on AMD
    /// processors a restore leaves the last x87 instruction and data pointers of the program
    /// before, which the initialisation clears.
    pub(super) fn restore(self, state: &ExtendedState) {
        let area = state.0.as_ptr();
        // SAFETY: the area was written by the matching save or is the initial state, so that the
        // processor accepts it.
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
        }
    }
}

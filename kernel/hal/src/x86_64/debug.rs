//! Hardware breakpoints of programs.
//!
//! They are in the processor only while their program runs (`hazards` 1): written before it is
//! entered, switched off when it is left. Invariants:
//!
//! - G1: breakpoints are at addresses of the lower half, where the kernel neither runs nor reads;
//!   none is for I/O, and the debug registers are not themselves guarded.
//! - G2: in the kernel, DR7 has no breakpoint; but for the moments of entry and exit.

use heliox_types::VirtualAddress;

use super::processor;

/// Breakpoints of a context.
const COUNT: usize = 4;
/// Bits of DR6 and DR7 that are always set.
const STATUS_ONES: u64 = 0xffff_0ff0;
const CONTROL_ONES: u64 = 1 << 10;

/// What triggers a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakpointKind {
    /// The instruction at the address, before it is executed.
    Execute,
    /// A write to the bytes there.
    Write(BreakpointLength),
    /// A read or a write of the bytes there.
    Access(BreakpointLength),
}

/// How many bytes a breakpoint for data watches; its address is a multiple of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BreakpointLength {
    One = 0b00,
    Two = 0b01,
    Four = 0b11,
    Eight = 0b10,
}

/// Why a breakpoint was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakpointError {
    /// There are breakpoints 0 to 3.
    NoSuchBreakpoint(usize),
    /// No program can use the address.
    NotAUserAddress(VirtualAddress),
    /// The address is no multiple of the length.
    Misaligned(VirtualAddress),
}

impl core::fmt::Display for BreakpointError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NoSuchBreakpoint(number) => write!(formatter, "there is no breakpoint {number}"),
            Self::NotAUserAddress(address) => {
                write!(formatter, "no program can use {address}")
            }
            Self::Misaligned(address) => {
                write!(formatter, "{address} is no multiple of the length")
            }
        }
    }
}

impl core::error::Error for BreakpointError {}

/// The debug registers of a context (AMD64 manual volume 2, section 13.1).
#[derive(Clone, Debug, Default)]
pub(super) struct DebugRegisters {
    addresses: [u64; COUNT],
    /// DR7; 0 if there are no breakpoints.
    control: u64,
    /// DR6 at the last debug exception.
    status: u64,
}

impl DebugRegisters {
    /// Sets or, without a kind, removes breakpoint `number`.
    pub(super) fn set(
        &mut self,
        number: usize,
        breakpoint: Option<(VirtualAddress, BreakpointKind)>,
    ) -> Result<(), BreakpointError> {
        let slot = self.addresses.get_mut(number);
        let slot = slot.ok_or(BreakpointError::NoSuchBreakpoint(number))?;
        let (address, fields) = match breakpoint {
            None => (0, None),
            Some((address, kind)) => {
                let (kind, length) = match kind {
                    BreakpointKind::Execute => (0b00, BreakpointLength::One),
                    BreakpointKind::Write(length) => (0b01, length),
                    BreakpointKind::Access(length) => (0b11, length),
                };
                let bytes = match length {
                    BreakpointLength::One => 1,
                    BreakpointLength::Two => 2,
                    BreakpointLength::Four => 4,
                    BreakpointLength::Eight => 8,
                };
                // The lower half ends at a multiple of 8, so the last byte is in it too.
                if !address.is_user() {
                    return Err(BreakpointError::NotAUserAddress(address));
                }
                if !address.get().is_multiple_of(bytes) {
                    return Err(BreakpointError::Misaligned(address));
                }
                (address.get(), Some(kind | (length as u64) << 2))
            }
        };
        *slot = address;
        let (enable, shift) = (1 << (number * 2), 16 + number * 4);
        self.control &= !(CONTROL_ONES | enable | 0xf << shift);
        if let Some(fields) = fields {
            self.control |= enable | fields << shift;
        }
        if self.control != 0 {
            self.control |= CONTROL_ONES;
        }
        Ok(())
    }

    /// Whether there are breakpoints.
    pub(super) fn are_used(&self) -> bool {
        self.control != 0
    }

    /// Writes the breakpoints into the processor.
    pub(super) fn load(&self) {
        let [first, second, third, fourth] = self.addresses;
        // SAFETY: G1.
        unsafe {
            processor::write_dr0(first);
            processor::write_dr1(second);
            processor::write_dr2(third);
            processor::write_dr3(fourth);
            processor::write_dr7(self.control);
        }
    }

    /// Switches the breakpoints in the processor off.
    pub(super) fn unload() {
        // SAFETY: G2.
        unsafe { processor::write_dr7(CONTROL_ONES) }
    }

    /// Notes what the processor says of a debug exception of the program.
    pub(super) fn take_status(&mut self) {
        self.status = processor::read_dr6();
        // SAFETY: the status has no effect.
        unsafe { processor::write_dr6(STATUS_ONES) }
    }

    /// What [`DebugRegisters::take_status`] noted last.
    pub(super) fn status(&self) -> u64 {
        self.status
    }
}

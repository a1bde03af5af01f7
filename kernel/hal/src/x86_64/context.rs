//! The registers of a program that is not running.
//!
//! Hides how registers are laid out while they are saved. Invariants, which make any [`Context`]
//! safe to run, and which every function that writes one keeps (`hazards` 3, 12 and 13):
//!
//! - CS and SS are the program's selectors;
//! - RIP is below [`USER_END`](heliox_types::USER_END);
//! - RFLAGS has interrupts enabled, I/O privilege 0, and NT and VM clear;
//! - the FS and GS bases are canonical and in the lower half;
//! - the extended state was written by the processor itself, or is the initial one.

use core::mem::{offset_of, size_of};

use heliox_types::VirtualAddress;

use super::cpu::{self, USER_CODE, USER_DATA};
use super::debug::{BreakpointError, BreakpointKind, DebugRegisters};
use super::extended_state::{ExtendedStateMethod, Registers};
use super::heap::{Box, HeapError};
use super::port_permissions::PortPermissions;

/// What the entry code saves, in the order in which it pushes (last pushed first; entry.s).
#[derive(Clone, Debug, Default)]
#[repr(C, align(16))]
pub(super) struct Frame {
    /// R15, R14, R13, R12, R11, R10, R9, R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    pub(super) general: [u64; 15],
    /// Why the program stopped; [`SYSTEM_CALL_VECTOR`] only as long as RCX is the instruction
    /// pointer and R11 the flags, so that SYSRET can be used.
    pub(super) vector: u64,
    pub(super) error_code: u64,
    pub(super) instruction_pointer: u64,
    pub(super) code_selector: u64,
    pub(super) flags: u64,
    pub(super) stack_pointer: u64,
    pub(super) stack_selector: u64,
}

const _: () = assert!(size_of::<Frame>() == 22 * 8);
const _: () = assert!(offset_of!(Frame, vector) == 15 * 8);
const _: () = assert!(offset_of!(Frame, stack_selector) == 21 * 8);

/// The vector that the system-call entry writes into a frame.
pub(super) const SYSTEM_CALL_VECTOR: u64 = 256;

/// The flags that a kernel may set for a program: carry, parity, auxiliary carry, zero, sign,
/// direction, overflow, alignment check, identification.
const SETTABLE_FLAGS: u64 =
    1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 21;

/// The flag that suppresses instruction breakpoints for one instruction.
const RESUME: u64 = 1 << 16;

/// Trap and nested task.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 14;

/// The flags of a new program: interrupts enabled, and the bit that is always set.
const INITIAL_FLAGS: u64 = 1 << 9 | 1 << 1;

/// A register that a program computes with. The instruction pointer, the flags and the bases
/// have functions of their own, since not every value is good for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the names are the processor's own")]
pub enum Register {
    R15,
    R14,
    R13,
    R12,
    R11,
    R10,
    R9,
    R8,
    Rbp,
    Rdi,
    Rsi,
    Rdx,
    Rcx,
    Rbx,
    Rax,
}

/// A program's registers are all zero, and everything else as in its initial state.
#[derive(Debug)]
pub struct Context {
    /// Do not move (`extended_state` X1).
    pub(super) registers: Box<Registers>,
    method: ExtendedStateMethod,
    /// Name of the port permissions that the program has; 0 for none.
    pub(super) ports: u64,
    pub(super) debug: DebugRegisters,
}

/// Why a register was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The address is one that no program can use.
    NotAUserAddress(VirtualAddress),
}

impl core::fmt::Display for RegisterError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAUserAddress(address) => {
                write!(formatter, "{address} is not an address that a program can use")
            }
        }
    }
}

impl core::error::Error for RegisterError {}

impl Context {
    /// A context with all registers zero and the initial extended state.
    pub(super) fn new(method: ExtendedStateMethod) -> Result<Self, HeapError> {
        let frame = Frame {
            code_selector: u64::from(USER_CODE),
            stack_selector: u64::from(USER_DATA),
            flags: INITIAL_FLAGS,
            ..Frame::default()
        };
        let registers = Box::new(Registers::initial(frame)).map_err(|(_, error)| error)?;
        Ok(Self { registers, method, ports: 0, debug: DebugRegisters::default() })
    }

    /// The value of a register.
    #[must_use]
    pub fn register(&self, register: Register) -> u64 {
        self.registers.frame.general.get(register as usize).copied().unwrap_or(0)
    }

    /// Sets a register. Any value is good.
    pub fn set_register(&mut self, register: Register, value: u64) {
        if matches!(register, Register::Rcx | Register::R11) {
            self.registers.frame.vector = 0;
        }
        if let Some(slot) = self.registers.frame.general.get_mut(register as usize) {
            *slot = value;
        }
    }

    /// Address of the next instruction of the program.
    #[must_use]
    pub fn instruction_pointer(&self) -> u64 {
        self.registers.frame.instruction_pointer
    }

    /// Sets the address of the next instruction.
    ///
    /// # Errors
    /// If no program can run code there (`hazards` 3).
    pub fn set_instruction_pointer(
        &mut self,
        address: VirtualAddress,
    ) -> Result<(), RegisterError> {
        self.registers.frame.instruction_pointer = user(address)?;
        self.registers.frame.vector = 0;
        Ok(())
    }

    /// The stack pointer.
    #[must_use]
    pub fn stack_pointer(&self) -> u64 {
        self.registers.frame.stack_pointer
    }

    /// Sets the stack pointer. Any value is good: a bad one makes the program fault.
    pub fn set_stack_pointer(&mut self, value: u64) {
        self.registers.frame.stack_pointer = value;
    }

    /// The flags register as the program would read it.
    #[must_use]
    pub fn flags(&self) -> u64 {
        self.registers.frame.flags
    }

    /// Sets those flags that a program may freely change, and clears the trap flag and the
    /// nested-task flag, which a program can only set itself; the others stay as they are
    /// (`hazards` 13).
    pub fn set_flags(&mut self, flags: u64) {
        self.registers.frame.vector = 0;
        let kept = self.registers.frame.flags & !(SETTABLE_FLAGS | CLEARED_FLAGS);
        self.registers.frame.flags = kept | flags & SETTABLE_FLAGS;
    }

    /// Sets the base of the FS segment.
    ///
    /// # Errors
    /// If no program can use the address.
    pub fn set_fs_base(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        self.out_of_cpu().fs_base = user(address)?;
        Ok(())
    }

    /// Sets the base of the GS segment. It is the kernel's to choose: a program that changes it
    /// (where the processor lets it) finds this value again after another program ran.
    ///
    /// # Errors
    /// If no program can use the address.
    pub fn set_gs_base(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        self.out_of_cpu().gs_base = user(address)?;
        Ok(())
    }

    /// Lets the program use the ports of `permissions`, as they are at each time; `None`: none.
    pub fn set_port_permissions(&mut self, permissions: Option<&PortPermissions>) {
        cpu::forget_ports();
        self.ports = permissions.map_or(0, PortPermissions::name);
    }

    /// Sets or, with `None`, removes breakpoint `number`, 0 to 3. When the program runs into it,
    /// it stops with exception 1.
    ///
    /// # Errors
    /// A [`BreakpointError`].
    pub fn set_breakpoint(
        &mut self,
        number: usize,
        breakpoint: Option<(VirtualAddress, BreakpointKind)>,
    ) -> Result<(), BreakpointError> {
        // They get into the CPU with the rest of the context.
        self.out_of_cpu();
        self.debug.set(number, breakpoint)
    }

    /// Makes the program execute its next instruction even if a breakpoint of kind
    /// [`BreakpointKind::Execute`] is set for it.
    pub fn pass_breakpoint(&mut self) {
        self.registers.frame.vector = 0;
        self.registers.frame.flags |= RESUME;
    }

    /// What the processor said (DR6) at the program's last exception 1: bits 0 to 3 for the
    /// breakpoints, bit 14 for a single step.
    #[must_use]
    pub fn debug_status(&self) -> u64 {
        self.debug.status()
    }

    /// The extended state, after what is in the CPU of it was saved.
    fn out_of_cpu(&mut self) -> &mut Registers {
        if self.registers.is_resident() {
            self.method.evict();
        }
        &mut self.registers
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.registers.forget();
    }
}

/// The number of an address that a program can use.
fn user(address: VirtualAddress) -> Result<u64, RegisterError> {
    if address.is_user() { Ok(address.get()) } else { Err(RegisterError::NotAUserAddress(address)) }
}

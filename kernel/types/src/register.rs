//! The registers of a program, by name and as they are saved.

use core::fmt;

use crate::{VirtualAddress, exception_name};

/// A register that a program computes with; any value is good for it. The instruction pointer, the
/// flags and the bases are set in other ways, since not every value is good for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    Rsp,
}

impl Register {
    /// How many are saved in one piece: all but RSP.
    pub const COUNT: usize = 15;

    /// Those, in the order of their numbers.
    pub const GENERAL: [Self; Self::COUNT] = [
        Self::R15,
        Self::R14,
        Self::R13,
        Self::R12,
        Self::R11,
        Self::R10,
        Self::R9,
        Self::R8,
        Self::Rbp,
        Self::Rdi,
        Self::Rsi,
        Self::Rdx,
        Self::Rcx,
        Self::Rbx,
        Self::Rax,
    ];

    /// The processor's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::R15 => "r15",
            Self::R14 => "r14",
            Self::R13 => "r13",
            Self::R12 => "r12",
            Self::R11 => "r11",
            Self::R10 => "r10",
            Self::R9 => "r9",
            Self::R8 => "r8",
            Self::Rbp => "rbp",
            Self::Rdi => "rdi",
            Self::Rsi => "rsi",
            Self::Rdx => "rdx",
            Self::Rcx => "rcx",
            Self::Rbx => "rbx",
            Self::Rax => "rax",
            Self::Rsp => "rsp",
        }
    }
}

/// Why a register was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The address is one that no program can use.
    NotAUserAddress(VirtualAddress),
    /// There are breakpoints 0 to 3.
    NoSuchBreakpoint(usize),
}

impl fmt::Display for RegisterError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAUserAddress(address) => {
                write!(formatter, "{address} is not an address that a program can use")
            }
            Self::NoSuchBreakpoint(number) => write!(formatter, "there is no breakpoint {number}"),
        }
    }
}

impl core::error::Error for RegisterError {}

/// Registers as the way into the kernel saves them, lowest address first: those that code
/// computes with are pushed last, the last seven words in part by the processor itself.
///
/// Plain data. The machine that runs programs keeps its own values of this type to itself.
/// `Display` tells of an exception that nobody can deal with, in several lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SavedRegisters {
    /// Indexed by [`Register`], without RSP.
    pub general: [u64; Register::COUNT],
    /// Number of the exception or interrupt.
    pub vector: u64,
    /// The error code; 0 for exceptions without one.
    pub error_code: u64,
    /// RIP.
    pub instruction_pointer: u64,
    /// CS.
    pub code_selector: u64,
    /// RFLAGS.
    pub flags: u64,
    /// RSP.
    pub stack_pointer: u64,
    /// SS.
    pub stack_selector: u64,
}

impl SavedRegisters {
    /// The value of a register.
    #[must_use]
    pub fn register(&self, register: Register) -> u64 {
        self.general.get(register as usize).copied().unwrap_or(self.stack_pointer)
    }

    /// Sets a register.
    pub fn set_register(&mut self, register: Register, value: u64) {
        *self.general.get_mut(register as usize).unwrap_or(&mut self.stack_pointer) = value;
    }
}

impl fmt::Display for SavedRegisters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, error_code, .. } = self;
        let name = exception_name(*vector);
        write!(formatter, "exception {vector} ({name}), error code {error_code:#x}")?;
        let special = [
            ("rip", self.instruction_pointer),
            ("rsp", self.stack_pointer),
            ("cs", self.code_selector),
            ("flags", self.flags),
        ];
        let general = Register::GENERAL.map(Register::name).into_iter().zip(self.general);
        for (number, (name, value)) in special.into_iter().chain(general).enumerate() {
            let separator = if number % 4 == 0 { '\n' } else { ' ' };
            write!(formatter, "{separator}{name:5} {value:016x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn registers_are_numbered_in_the_order_in_which_they_are_saved() {
        let in_order = Register::GENERAL.iter().enumerate();
        assert!(in_order.clone().all(|(number, name)| *name as usize == number));
        let mut saved =
            SavedRegisters { general: core::array::from_fn(|n| n as u64), ..Default::default() };
        assert!(in_order.clone().all(|(number, name)| saved.register(*name) == number as u64));
        saved.set_register(Register::Rsp, 99);
        assert_eq!((saved.stack_pointer, saved.register(Register::Rsp)), (99, 99));
    }

    #[test]
    fn an_exception_is_told_with_all_registers() {
        let mut registers = SavedRegisters { vector: 8, flags: 0x202, ..Default::default() };
        registers.set_register(Register::Rdi, 0xabc);
        assert_eq!(registers.register(Register::Rdi), 0xabc);
        let text = registers.to_string();
        assert!(text.starts_with("exception 8 (double fault), error code 0x0\nrip   0000"));
        assert!(text.contains(" flags 0000000000000202\n"));
        assert!(text.contains("rdi   0000000000000abc"));
        assert_eq!(text.lines().count(), 1 + 5);
    }
}

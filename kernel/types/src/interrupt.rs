//! Why a program stopped.

use core::fmt;

use crate::Irq;

/// Why a program stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interrupt {
    /// It made a system call. RCX and R11 hold its instruction pointer and flags.
    SystemCall,
    /// It touched memory that it may not touch in that way.
    PageFault {
        /// The address that it touched.
        address: u64,
        /// What kind of access it was.
        error: PageFaultError,
    },
    /// It caused another exception.
    Exception {
        /// The processor's number of the exception, 0 to 31.
        vector: u8,
        /// The error code; 0 for exceptions without one. For exception 1 what the processor says of
        /// it (DR6): bits 0 to 3 for the breakpoints, bit 14 for a single step.
        error_code: u64,
    },
    /// The timer's deadline passed (or, for a far one, may have: the timer may be early).
    Timer,
    /// A device asked for attention on a line that was on, and is off now.
    External(Irq),
}

/// The error code of a page fault (AMD64 manual volume 2, section 8.4.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageFaultError(u64);

impl PageFaultError {
    /// There is a mapping, so that its rights are at fault.
    pub const PROTECTION: u64 = 1 << 0;
    /// The access was a write.
    pub const WRITE: u64 = 1 << 1;
    /// The access was a program's.
    pub const USER: u64 = 1 << 2;
    /// An entry had reserved bits set.
    pub const RESERVED: u64 = 1 << 3;
    /// The access was an instruction fetch.
    pub const EXECUTE: u64 = 1 << 4;

    /// The code with these bits.
    #[must_use]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// The code as the processor gives it.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether there was a mapping, so that its rights were at fault.
    #[must_use]
    pub const fn is_protection(self) -> bool {
        self.0 & Self::PROTECTION != 0
    }

    /// Whether the access was a write.
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// Whether the access was an instruction fetch.
    #[must_use]
    pub const fn is_execute(self) -> bool {
        self.0 & Self::EXECUTE != 0
    }
}

impl fmt::Display for PageFaultError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match (self.is_execute(), self.is_write()) {
            (true, _) => "execute",
            (_, true) => "write",
            _ => "read",
        };
        let cause = if self.is_protection() { "not allowed" } else { "not mapped" };
        write!(formatter, "{access}, {cause}")
    }
}

impl fmt::Debug for PageFaultError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PageFaultError({:#x}: {self})", self.0)
    }
}

/// The processor's name for exception `vector` (AMD64 manual volume 2, section 8.2).
#[must_use]
pub const fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating point",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating point",
        20 => "virtualization",
        21 => "control protection",
        _ => "reserved",
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn the_error_code_of_a_page_fault_is_told_in_words() {
        let protection = PageFaultError::PROTECTION | PageFaultError::USER;
        for (bits, text) in [
            (PageFaultError::USER, "read, not mapped"),
            (protection, "read, not allowed"),
            (protection | PageFaultError::WRITE, "write, not allowed"),
            (protection | PageFaultError::EXECUTE, "execute, not allowed"),
        ] {
            assert_eq!(PageFaultError::new(bits).to_string(), text);
        }
    }
}

//! Hardware breakpoints of programs.
//!
//! Invariant: a [`Breakpoint`] watches addresses of programs alone, so that nothing that the
//! kernel does at its own addresses meets one (`hazards` 1); and none is for I/O.

use core::fmt;

use crate::VirtualAddress;

/// What triggers a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BreakpointKind {
    /// The instruction at the address, before it is executed.
    Execute,
    /// A write to the bytes there.
    Write(BreakpointLength),
    /// A read or a write of the bytes there.
    Access(BreakpointLength),
}

/// How many bytes a breakpoint for data watches; its address is a multiple of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BreakpointLength {
    One,
    Two,
    Four,
    Eight,
}

impl BreakpointLength {
    /// Number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// Why there cannot be such a breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakpointError {
    /// No program can use the address.
    NotAUserAddress(VirtualAddress),
    /// The address is no multiple of the length.
    Misaligned(VirtualAddress),
}

impl fmt::Display for BreakpointError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAUserAddress(address) => write!(formatter, "no program can use {address}"),
            Self::Misaligned(address) => {
                write!(formatter, "{address} is no multiple of the length")
            }
        }
    }
}

impl core::error::Error for BreakpointError {}

/// A breakpoint: an address of programs and what is watched there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Breakpoint {
    address: VirtualAddress,
    kind: BreakpointKind,
}

impl Breakpoint {
    /// How many a program can have.
    pub const COUNT: usize = 4;

    /// A breakpoint of `kind` at `address`.
    ///
    /// # Errors
    /// [`BreakpointError::NotAUserAddress`], [`BreakpointError::Misaligned`].
    pub const fn new(
        address: VirtualAddress,
        kind: BreakpointKind,
    ) -> Result<Self, BreakpointError> {
        let bytes = match kind {
            BreakpointKind::Execute => 1,
            BreakpointKind::Write(length) | BreakpointKind::Access(length) => length.bytes(),
        };
        // The programs' part ends at a multiple of 8, so the last byte is in it too.
        if !address.is_user() {
            Err(BreakpointError::NotAUserAddress(address))
        } else if !address.get().is_multiple_of(bytes) {
            Err(BreakpointError::Misaligned(address))
        } else {
            Ok(Self { address, kind })
        }
    }

    /// Where it is.
    #[must_use]
    pub const fn address(self) -> VirtualAddress {
        self.address
    }

    /// What triggers it.
    #[must_use]
    pub const fn kind(self) -> BreakpointKind {
        self.kind
    }

    /// The kind as the debug control register (DR7) has it: two bits for what triggers, two for
    /// the length (AMD64 manual volume 2, section 13.1.1.4).
    #[must_use]
    pub const fn control(self) -> u64 {
        let (trigger, length) = match self.kind {
            BreakpointKind::Execute => (0b00, BreakpointLength::One),
            BreakpointKind::Write(length) => (0b01, length),
            BreakpointKind::Access(length) => (0b11, length),
        };
        let length = match length {
            BreakpointLength::One => 0b00,
            BreakpointLength::Two => 0b01,
            BreakpointLength::Four => 0b11,
            BreakpointLength::Eight => 0b10,
        };
        trigger | length << 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::USER_END;

    fn address(value: u64) -> VirtualAddress {
        VirtualAddress::new(value).unwrap()
    }

    #[test]
    fn breakpoints_are_at_aligned_addresses_of_programs() {
        let eight = BreakpointKind::Write(BreakpointLength::Eight);
        assert!(Breakpoint::new(address(USER_END - 8), eight).is_ok());
        assert!(Breakpoint::new(address(USER_END - 1), BreakpointKind::Execute).is_ok());
        for kind in [eight, BreakpointKind::Execute] {
            for outside in [address(USER_END), address(u64::MAX - 7)] {
                assert_eq!(
                    Breakpoint::new(outside, kind),
                    Err(BreakpointError::NotAUserAddress(outside))
                );
            }
        }
        assert_eq!(
            Breakpoint::new(address(0x1004), eight),
            Err(BreakpointError::Misaligned(address(0x1004)))
        );
    }

    #[test]
    fn kinds_are_encoded_as_the_manual_says_and_never_as_io() {
        use BreakpointKind::{Access, Execute, Write};
        use BreakpointLength::{Eight, Four, One, Two};
        let control = |kind| Breakpoint::new(address(0x1000), kind).unwrap().control();
        assert_eq!(control(Execute), 0);
        assert_eq!([One, Two, Four, Eight].map(|n| control(Write(n))), [0x1, 0x5, 0xd, 0x9]);
        assert_eq!([One, Two, Four, Eight].map(|n| control(Access(n))), [0x3, 0x7, 0xf, 0xb]);
    }
}

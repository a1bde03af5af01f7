//! Flexpages as programs write them: a region of memory or of ports, and rights.

use core::fmt;

/// Execute, write and read.
const RIGHTS: u64 = 7;
/// Size field of a page of ports.
const PORT_SIZE: u64 = 2;
/// Size field of the whole address space.
const COMPLETE_SIZE: u64 = 1;
/// Log2 of the smallest page.
const PAGE_BITS: u32 = 12;

/// A flexpage in a word: rights in bits 0 to 2 (execute, write, read), log2 of the size in bits 4 to
/// 9, the base in bits 10 to 63. Size 1 is everything, size 2 are ports.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Flexpage(pub u64);

/// What a flexpage names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlexpageKind {
    /// Nothing: the nil flexpage, and memory smaller than a page.
    Nothing,
    /// All memory.
    Complete,
    /// `1 << bits` bytes from `base` on, which is a multiple of that.
    Memory {
        /// First address.
        base: u64,
        /// Log2 of the size, 12 to 63.
        bits: u32,
    },
    /// A range of ports.
    Ports(PortRange),
}

/// `1 << bits` ports from `first` on, which is a multiple of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The first port.
    pub first: u16,
    /// Log2 of their number, 0 to 16.
    pub bits: u32,
}

impl PortRange {
    /// The last port.
    pub const fn last(self) -> u16 {
        (self.first as u32 + (1 << self.bits) - 1) as u16
    }
}

impl Flexpage {
    /// No memory.
    pub const NIL: Self = Self(0);
    /// All memory, with no rights.
    pub const COMPLETE: Self = Self(COMPLETE_SIZE << 4);
    /// The right to execute.
    pub const EXECUTE: u64 = 1;
    /// The right to write.
    pub const WRITE: u64 = 2;
    /// The right to read.
    pub const READ: u64 = 4;
    /// All rights.
    pub const ALL: u64 = RIGHTS;

    /// Memory of `1 << bits` bytes around `base`, with `rights` (bits 0 to 2).
    pub const fn memory(base: u64, bits: u32, rights: u64) -> Self {
        Self(base >> bits << bits | (bits as u64 & 0x3f) << 4 | rights & RIGHTS)
    }

    /// `1 << bits` ports around `first`, with `rights`.
    pub const fn ports(first: u16, bits: u32, rights: u64) -> Self {
        let base = (first as u64) >> bits << bits;
        Self(base << 16 | (bits as u64 & 0x3f) << 10 | PORT_SIZE << 4 | rights & RIGHTS)
    }

    /// The rights: bits 0 to 2.
    pub const fn rights(self) -> u64 {
        self.0 & RIGHTS
    }

    /// The same memory with other rights; bit 3 is cleared.
    pub const fn with_rights(self, rights: u64) -> Self {
        Self(self.0 & !0xf | rights & RIGHTS)
    }

    /// What is named. A base is rounded down to a multiple of the size, and a port range beyond
    /// the last port names nothing.
    pub const fn kind(self) -> FlexpageKind {
        match self.0 >> 4 & 0x3f {
            COMPLETE_SIZE => FlexpageKind::Complete,
            PORT_SIZE => {
                let bits = (self.0 >> 10 & 0x3f) as u32;
                if bits > 16 || self.0 >> 32 != 0 {
                    return FlexpageKind::Nothing;
                }
                let first = ((self.0 >> 16 & 0xffff) >> bits << bits) as u16;
                FlexpageKind::Ports(PortRange { first, bits })
            }
            bits if bits as u32 >= PAGE_BITS => {
                FlexpageKind::Memory { base: self.0 >> bits << bits, bits: bits as u32 }
            }
            _ => FlexpageKind::Nothing,
        }
    }

    /// Whether it names nothing.
    pub const fn is_nothing(self) -> bool {
        matches!(self.kind(), FlexpageKind::Nothing)
    }
}

impl fmt::Debug for Flexpage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rights = self.rights();
        match self.kind() {
            FlexpageKind::Nothing => write!(formatter, "Flexpage(nil, {:#x})", self.0),
            FlexpageKind::Complete => write!(formatter, "Flexpage(complete, rights {rights})"),
            FlexpageKind::Memory { base, bits } => {
                write!(formatter, "Flexpage({base:#x}, 2^{bits}, rights {rights})")
            }
            FlexpageKind::Ports(PortRange { first, bits }) => {
                write!(formatter, "Flexpage(ports {first:#x}, 2^{bits}, rights {rights})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(Flexpage::NIL.kind(), FlexpageKind::Nothing);
        assert_eq!(Flexpage(0x10).kind(), FlexpageKind::Complete);
        let page = Flexpage::memory(0x40_1234, 12, 7);
        assert_eq!(page.kind(), FlexpageKind::Memory { base: 0x40_1000, bits: 12 });
        assert_eq!(page.rights(), 7);
        assert!(Flexpage::memory(0x400, 10, 7).is_nothing());
        let ports = Flexpage::ports(0x3f8, 3, 6);
        assert_eq!(ports.kind(), FlexpageKind::Ports(PortRange { first: 0x3f8, bits: 3 }));
        assert_eq!(PortRange { first: 0x3f8, bits: 3 }.last(), 0x3ff);
        let all = Flexpage::ports(0, 16, 6).kind();
        assert_eq!(all, FlexpageKind::Ports(PortRange { first: 0, bits: 16 }));
        assert!(Flexpage(17 << 10 | 2 << 4).is_nothing());
    }

    #[test]
    fn a_base_below_its_size_is_rounded_down() {
        assert_eq!(
            Flexpage(0x7fff_fc00 | 63 << 4).kind(),
            FlexpageKind::Memory { base: 0, bits: 63 }
        );
    }
}

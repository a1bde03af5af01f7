//! I/O ports as capabilities.
//!
//! Invariant: no [`PortRange`] has a port that reaches memory or that the HAL drives itself
//! (`hazards` 14). Ranges come from `initial_ports` and are only ever made smaller.

use core::fmt;

/// Ports that are kept back.
struct Withheld {
    first: u16,
    last: u16,
    /// Through these, devices can be made to write memory; `unsafe-dma` hands them out.
    reaches_memory: bool,
}

/// In rising order. Legacy devices of a chipset decode few address lines and so appear several
/// times (ICH9 datasheet, table 9-2): ranges include the repetitions.
const WITHHELD: [Withheld; 10] = [
    withheld(0x00, 0x1f, true),    // ISA DMA
    withheld(0x20, 0x3f, false),   // the first interrupt controller
    withheld(0x40, 0x5f, false),   // the timer that the clock is measured with
    withheld(0x60, 0x67, false),   // keyboard controller: A20 and reset; the timer's gate
    withheld(0x70, 0x77, false),   // CMOS: bit 7 of the index switches NMIs off
    withheld(0x80, 0xbf, false),   // DMA pages, A20 and reset, interrupt controller, SMM
    withheld(0xc0, 0xdf, true),    // ISA DMA
    withheld(0x4d0, 0x4d1, false), // triggers of the interrupt controllers
    withheld(0x510, 0x51b, true),  // QEMU's fw_cfg
    withheld(0xcf8, 0xcff, false), // PCI configuration; reset
];

const fn withheld(first: u16, last: u16, reaches_memory: bool) -> Withheld {
    Withheld { first, last, reaches_memory }
}

/// Authority to use some consecutive ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// The second channel of the 8254 and its command port; its gate. It rings the speaker and reaches
/// nothing else; the other channels that the command port rules interrupt on lines or do nothing.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "used where there are ports"))]
pub(crate) const REFERENCE_TIMER: [PortRange; 2] =
    [PortRange { first: 0x42, last: 0x43 }, PortRange { first: 0x61, last: 0x61 }];

/// Some ports that were asked for are not in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotInRange {
    /// The range.
    pub range: PortRange,
    /// The first port that was asked for.
    pub first: u16,
    /// The last one; may be past the last port that there is.
    pub last: u32,
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ports {:#x} to {:#x}", self.first, self.last)
    }
}

impl fmt::Display for NotInRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { range, first, last } = self;
        write!(formatter, "ports {first:#x} to {last:#x} are not all in {range}")
    }
}

impl core::error::Error for NotInRange {}

impl PortRange {
    /// The first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The part of the range from port `first` to port `last`.
    ///
    /// # Errors
    /// [`NotInRange`] if they are not in the range, or `last` is below `first`.
    pub fn derive(self, first: u16, last: u16) -> Result<Self, NotInRange> {
        if self.first <= first && first <= last && last <= self.last {
            Ok(Self { first, last })
        } else {
            Err(NotInRange { range: self, first, last: u32::from(last) })
        }
    }

    /// Whether an access of `bytes` bytes at `port` stays in the range.
    pub(crate) fn check(self, port: u16, bytes: u16) -> Result<(), NotInRange> {
        let last = u32::from(port) + u32::from(bytes) - 1;
        if self.first <= port && last <= u32::from(self.last) {
            Ok(())
        } else {
            Err(NotInRange { range: self, first: port, last })
        }
    }
}

/// All ports but those that are withheld, in rising order.
pub(crate) fn initial_ports(unsafe_dma: bool) -> impl Iterator<Item = PortRange> {
    let mut next = 0;
    WITHHELD
        .iter()
        .filter(move |withheld| !(unsafe_dma && withheld.reaches_memory))
        .map(|withheld| (u32::from(withheld.first), u32::from(withheld.last) + 1))
        .chain([(0x1_0000, 0x1_0000)])
        .filter_map(move |(start, end)| {
            let range =
                (next < start).then(|| PortRange { first: next as u16, last: (start - 1) as u16 });
            next = end;
            range
        })
}

/// Access to ports (thesis, section 4.6.1, with authority).
pub trait Ports {
    /// All ports that the HAL gives away: neither those that reach memory nor its own.
    fn initial_ports(&self) -> impl Iterator<Item = PortRange>;

    /// Reads `port` with 8 bits.
    ///
    /// # Errors
    /// [`NotInRange`] if the access is not wholly in `range`.
    fn in8(&self, range: PortRange, port: u16) -> Result<u8, NotInRange>;

    /// Reads `port` with 16 bits.
    ///
    /// # Errors
    /// As for [`Ports::in8`].
    fn in16(&self, range: PortRange, port: u16) -> Result<u16, NotInRange>;

    /// Reads `port` with 32 bits.
    ///
    /// # Errors
    /// As for [`Ports::in8`].
    fn in32(&self, range: PortRange, port: u16) -> Result<u32, NotInRange>;

    /// Writes 8 bits to `port`.
    ///
    /// # Errors
    /// As for [`Ports::in8`].
    fn out8(&mut self, range: PortRange, port: u16, value: u8) -> Result<(), NotInRange>;

    /// Writes 16 bits to `port`.
    ///
    /// # Errors
    /// As for [`Ports::in8`].
    fn out16(&mut self, range: PortRange, port: u16, value: u16) -> Result<(), NotInRange>;

    /// Writes 32 bits to `port`.
    ///
    /// # Errors
    /// As for [`Ports::in8`].
    fn out32(&mut self, range: PortRange, port: u16, value: u32) -> Result<(), NotInRange>;
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn initial(port: u16, unsafe_dma: bool) -> bool {
        initial_ports(unsafe_dma).any(|range| range.check(port, 1).is_ok())
    }

    #[test]
    fn each_port_is_withheld_or_in_one_range() {
        for unsafe_dma in [false, true] {
            let ranges: Vec<_> = initial_ports(unsafe_dma).collect();
            for pair in ranges.windows(2) {
                assert!(pair[0].last < pair[1].first && pair[0].first <= pair[0].last);
            }
            for port in (0..=u16::MAX).step_by(if cfg!(miri) { 97 } else { 1 }) {
                let withheld = WITHHELD.iter().any(|withheld| {
                    (withheld.first..=withheld.last).contains(&port)
                        && !(unsafe_dma && withheld.reaches_memory)
                });
                assert_eq!(initial(port, unsafe_dma), !withheld, "{port:#x}");
            }
        }
    }

    #[test]
    fn ports_that_reach_memory_or_rule_the_machine_are_withheld() {
        let hazards = [
            0x00..=0x0f,
            0x60..=0x60,
            0x64..=0x64,
            0x70..=0x70,
            0x80..=0x8f,
            0x92..=0x92,
            0xb2..=0xb2,
            0xc0..=0xdf,
            0x510..=0x51b,
            0xcf8..=0xcff,
        ];
        for port in hazards.into_iter().flatten() {
            assert!(!initial(port, false), "{port:#x}");
        }
        assert!(initial(0x3f8, false) && initial(0x3ff, false) && initial(0xffff, false));
        assert!(initial(0x00, true) && initial(0x510, true));
        assert!(!initial(0xcf8, true) && !initial(0x20, true) && !initial(0x92, true));
    }

    #[test]
    fn ranges_only_become_smaller() {
        let com1 = initial_ports(false).find_map(|range| range.derive(0x3f8, 0x3ff).ok()).unwrap();
        assert_eq!(com1.derive(0x3f8, 0x3ff), Ok(com1));
        for (first, last) in [(0x3f7, 0x3f8), (0x3ff, 0x400), (0x3f9, 0x3f8), (0, 0xffff)] {
            let refused = NotInRange { range: com1, first, last: u32::from(last) };
            assert_eq!(com1.derive(first, last), Err(refused));
        }
    }

    #[test]
    fn accesses_that_run_past_the_range_are_refused() {
        let range = PortRange { first: 0x3f8, last: 0x3ff };
        for (port, bytes, good) in [
            (0x3ff, 1, true),
            (0x3fe, 2, true),
            (0x3fc, 4, true),
            (0x3f7, 1, false),
            (0x400, 1, false),
            (0x3ff, 2, false),
            (0x3fd, 4, false),
            (0x3f7, 2, false),
        ] {
            assert_eq!(range.check(port, bytes).is_ok(), good, "{port:#x} {bytes}");
        }
        let highest = PortRange { first: 0xff00, last: 0xffff };
        assert!(highest.check(0xffff, 1).is_ok());
        assert_eq!(highest.check(0xffff, 4).unwrap_err().last, 0x1_0002);
    }
}

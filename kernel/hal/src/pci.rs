//! PCI configuration, filtered.
//!
//! A device that may read and write memory by itself can break every promise of the kernel
//! (`hazards` 14). So all of the configuration space can be read, but only what is known to be
//! harmless can be written: two bits of the command register, and the interrupt-line register,
//! which is a note from software to software. Bus mastering, addresses (of registers and, as
//! message-signalled interrupts, of memory that a device writes), the windows of bridges and
//! everything that is peculiar to a device stay as they are, unless the kernel's command line says
//! `unsafe-dma`.

use core::fmt;

/// A function of a device on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciFunction(u16);

/// A 32-bit register of a function's configuration space: its offset in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciRegister(u8);

/// A register may not be written, or not with that value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteRefused {
    /// The register.
    pub register: PciRegister,
    /// The bits that may not change and that the write would have changed; all of them if the
    /// register may not be written at all.
    pub bits: u32,
}

impl fmt::Display for WriteRefused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "bits {:#x} of PCI register {:#x} may not change",
            self.bits, self.register.0
        )
    }
}

impl core::error::Error for WriteRefused {}

impl PciFunction {
    /// Function `function` of device `device` on bus `bus`; `None` if there can be no such device
    /// (they are below 32) or function (below 8).
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self((bus as u16) << 8 | (device as u16) << 3 | function as u16))
        } else {
            None
        }
    }

    /// Bus (8 bits), device (5 bits) and function (3 bits) as one number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The function of that number.
    #[must_use]
    pub const fn from_number(number: u16) -> Self {
        Self(number)
    }
}

impl PciRegister {
    /// Vendor (low half) and device.
    pub const IDENTITY: Self = Self(0x00);

    /// Class and, in bits 16 to 23, the kind of header; bit 23: the device has several functions.
    pub const HEADER: Self = Self(0x0c);

    /// Command (low half) and status (high half).
    pub const COMMAND: Self = Self(0x04);

    /// Interrupt line (lowest byte), interrupt pin, and two latencies.
    pub const INTERRUPT: Self = Self(0x3c);

    /// The register at `offset`; `None` if that is not a multiple of 4.
    #[must_use]
    pub const fn new(offset: u8) -> Option<Self> {
        if offset.is_multiple_of(4) { Some(Self(offset)) } else { None }
    }

    /// The offset in bytes.
    #[must_use]
    pub const fn offset(self) -> u8 {
        self.0
    }

    /// Whether `new` may be written where `old` is; `unsafe_dma`: everything may.
    #[cfg_attr(
        not(any(test, target_os = "none")),
        expect(dead_code, reason = "called where there is a PCI bus")
    )]
    pub(crate) const fn check_write(
        self,
        old: u32,
        new: u32,
        unsafe_dma: bool,
    ) -> Result<(), WriteRefused> {
        let (free, ignored) = match self {
            // Answers to I/O ports, and disable interrupts; zeros leave the status as it is.
            Self::COMMAND => (1 | 1 << 10, if new >> 16 == 0 { 0xffff_0000 } else { 0 }),
            Self::INTERRUPT => (0xff, 0),
            // Not even as they are: for some, being written is what counts.
            _ if !unsafe_dma => {
                return Err(WriteRefused { register: self, bits: u32::MAX });
            }
            _ => (u32::MAX, 0),
        };
        let bits = (old ^ new) & !free & !ignored;
        if bits == 0 || unsafe_dma { Ok(()) } else { Err(WriteRefused { register: self, bits }) }
    }
}

/// Access to PCI configuration.
pub trait PciConfiguration {
    /// Reads a register; all ones where there is no such function.
    fn read_pci(&self, function: PciFunction, register: PciRegister) -> u32;

    /// Writes a register, if the filter lets it.
    ///
    /// # Errors
    /// [`WriteRefused`]; then nothing was written.
    fn write_pci(
        &mut self,
        function: PciFunction,
        register: PciRegister,
        value: u32,
    ) -> Result<(), WriteRefused>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_bus_device_and_function() {
        assert_eq!(PciFunction::new(1, 31, 7).unwrap().number(), 0x1ff);
        assert_eq!(PciFunction::new(0, 32, 0), None);
        assert_eq!(PciFunction::new(0, 0, 8), None);
        assert_eq!(PciRegister::new(0x3e), None);
    }

    #[test]
    fn only_harmless_bits_can_be_written() {
        let command = PciRegister::COMMAND;
        let old = 0x0290_0003;
        for (new, refused) in [
            (0x0003, 0),
            (0x0002, 0),
            (0x0403, 0),
            (0x0290_0003, 0),
            (0x0007, 1 << 2),
            (0x0290_0007, 1 << 2),
            (0x0001, 1 << 1),
            (0x0013, 1 << 4),
            (0x0200_0003, 0x0090_0000),
        ] {
            let result = command.check_write(old, new, false);
            let expected = WriteRefused { register: command, bits: refused };
            assert_eq!(result.err(), (refused != 0).then_some(expected), "{new:#x}");
            assert_eq!(command.check_write(old, new, true), Ok(()));
        }
        let line = PciRegister::INTERRUPT;
        assert_eq!(line.check_write(0x0000_010a, 0x0000_01ff, false), Ok(()));
        assert_eq!(line.check_write(0x010a, 0x020a, false).unwrap_err().bits, 0x300);
    }

    #[test]
    fn addresses_and_capabilities_cannot_be_written() {
        for offset in (0..=0xfc).step_by(4).filter(|offset| ![4, 0x3c].contains(offset)) {
            let register = PciRegister::new(offset).unwrap();
            for value in [4, 5] {
                let bits = u32::MAX;
                assert_eq!(
                    register.check_write(5, value, false),
                    Err(WriteRefused { register, bits })
                );
                assert_eq!(register.check_write(5, value, true), Ok(()));
            }
        }
    }
}

//! PCI configuration: the names of functions of devices and of their registers, and access to them.

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
}

//! PCI configuration through its ports; bus mastering is switched off at boot.
//!
//! A device that may read and write memory by itself can break every promise of the kernel
//! (`hazards` 14). Until there is an IOMMU, no device may, unless the kernel's command line says
//! `unsafe-dma`. What clients may write is decided in `crate::pci`.

use super::processor::{in32, out32};
use crate::pci::{PciFunction, PciRegister, WriteRefused};

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Bus-master bit of the command register.
const BUS_MASTER: u32 = 1 << 2;

/// Selects a register for the data port.
fn select(function: PciFunction, register: PciRegister) {
    let address = u32::from(function.number()) << 8 | u32::from(register.offset());
    // SAFETY: D1: the port only says what the data port is.
    unsafe { out32(CONFIG_ADDRESS, 1 << 31 | address) }
}

/// Reads a register.
pub(super) fn read(function: PciFunction, register: PciRegister) -> u32 {
    select(function, register);
    // SAFETY: D1: configuration reads change nothing in memory.
    unsafe { in32(CONFIG_DATA) }
}

/// Writes a register, if the filter lets it; `unsafe_dma`: it lets everything.
pub(super) fn write(
    function: PciFunction,
    register: PciRegister,
    value: u32,
    unsafe_dma: bool,
) -> Result<(), WriteRefused> {
    register.check_write(read(function, register), value, unsafe_dma)?;
    select(function, register);
    // SAFETY: D1: the filter lets no bit change that gives a device reach; with `unsafe_dma` the
    // user has given up on that.
    unsafe { out32(CONFIG_DATA, value) }
    Ok(())
}

/// Switches bus mastering off in every function of every bus; returns how many were found and in
/// how many it had been on.
pub(super) fn disable_bus_masters() -> (u32, u32) {
    let (mut found, mut disabled) = (0, 0);
    let mut multiple_functions = false;
    let register = |offset| PciRegister::new(offset).unwrap_or(PciRegister::COMMAND);
    for number in 0..=u16::MAX {
        let function = PciFunction::from_number(number);
        // Functions 1 to 7 only exist beside a function 0 that says so.
        if number & 7 != 0 && !multiple_functions {
            continue;
        }
        let exists = read(function, register(0)) & 0xffff != 0xffff;
        if number & 7 == 0 {
            multiple_functions = exists && read(function, register(0xc)) & 1 << 23 != 0;
        }
        if !exists {
            continue;
        }
        found += 1;
        let command = read(function, PciRegister::COMMAND);
        if command & BUS_MASTER != 0 {
            disabled += 1;
            // SAFETY: D1: clearing the bus-master bit takes power from a device, and gives none;
            // the upper half is a status register in which zeros change nothing.
            unsafe { out32(CONFIG_DATA, command & 0xffff & !BUS_MASTER) }
        }
    }
    (found, disabled)
}

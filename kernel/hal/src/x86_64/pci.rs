//! Keeping devices away from memory: bus mastering is switched off at boot.
//!
//! A device that may read and write memory by itself can break every promise of the kernel
//! (`hazards` 14). Until there is an IOMMU, no device may, unless the kernel's command line says
//! `unsafe-dma`.

use super::processor::{in32, out32};

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Offset of the command register, and its bus-master bit.
const COMMAND: u32 = 4;
const BUS_MASTER: u32 = 1 << 2;

/// Reads a word of the configuration space of function `function` (bus, device and function as
/// one 16-bit number).
fn read(function: u32, offset: u32) -> u32 {
    // SAFETY: D1: configuration reads change nothing in memory.
    unsafe {
        out32(CONFIG_ADDRESS, 1 << 31 | function << 8 | offset);
        in32(CONFIG_DATA)
    }
}

/// Switches bus mastering off in every function of every bus; returns how many were found and in
/// how many it had been on.
pub(super) fn disable_bus_masters() -> (u32, u32) {
    let (mut found, mut disabled) = (0, 0);
    let mut multiple_functions = false;
    for function in 0..1 << 16 {
        // Functions 1 to 7 only exist beside a function 0 that says so.
        if function & 7 != 0 && !multiple_functions {
            continue;
        }
        let exists = read(function, 0) & 0xffff != 0xffff;
        if function & 7 == 0 {
            multiple_functions = exists && read(function, 0xc) & 1 << 23 != 0;
        }
        if !exists {
            continue;
        }
        found += 1;
        let command = read(function, COMMAND);
        if command & BUS_MASTER != 0 {
            disabled += 1;
            // SAFETY: D1: clearing the bus-master bit takes power from a device, and gives none;
            // the upper half is a status register in which zeros change nothing.
            unsafe {
                out32(CONFIG_ADDRESS, 1 << 31 | function << 8 | COMMAND);
                out32(CONFIG_DATA, command & 0xffff & !BUS_MASTER);
            }
        }
    }
    (found, disabled)
}

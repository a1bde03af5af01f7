//! Which I/O ports reach memory, or would take the machine from the kernel.

/// Ports that nobody but the HAL may use, as first and last (`hazards` 14).
const WITHHELD: [(u16, u16); 14] = [
    (0x00, 0x0f),   // ISA DMA: writes to memory
    (0x20, 0x21),   // the first interrupt controller
    (0x40, 0x43),   // the timer that the clock is measured with
    (0x60, 0x61),   // keyboard controller: A20 and reset; the gate of the timer
    (0x64, 0x64),   // keyboard controller
    (0x70, 0x71),   // CMOS: bit 7 of the index switches NMIs off
    (0x80, 0x8f),   // ISA DMA page registers
    (0x92, 0x92),   // A20 and reset
    (0xa0, 0xa1),   // the second interrupt controller
    (0xb2, 0xb3),   // enters system management mode
    (0xc0, 0xdf),   // ISA DMA
    (0x510, 0x51b), // QEMU's fw_cfg: writes to memory
    (0xcf8, 0xcff), // PCI configuration; reset at 0xcf9
    (0x3f8, 0x3ff), // the log
];

/// Whether `port` is one of those.
pub(super) fn is_withheld(port: u16) -> bool {
    WITHHELD
        .iter()
        .any(|&(first, last)| (first..=last).contains(&port))
}

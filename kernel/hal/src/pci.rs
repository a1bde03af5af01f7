//! PCI configuration, filtered.
//!
//! A device that may read and write memory by itself can break every promise of the kernel
//! (`hazards` 14). So all of the configuration space can be read, but only what is known to be
//! harmless can be written: two bits of the command register, and the interrupt-line register,
//! which is a note from software to software. Bus mastering, addresses (of registers and, as
//! message-signalled interrupts, of memory that a device writes), the windows of bridges and
//! everything that is peculiar to a device stay as they are, unless the kernel's command line says
//! `unsafe-dma`.

pub use heliox_types::pci::{PciConfiguration, PciFunction, PciRegister, WriteRefused};

/// Whether `new` may be written to `register`, where `old` is; `unsafe_dma`: everything may.
#[cfg_attr(
    not(any(test, target_os = "none")),
    expect(dead_code, reason = "called where there is a PCI bus")
)]
pub(crate) const fn check_write(
    register: PciRegister,
    old: u32,
    new: u32,
    unsafe_dma: bool,
) -> Result<(), WriteRefused> {
    let (free, ignored) = match register {
        // Answers to I/O ports, and disable interrupts; zeros leave the status as it is.
        PciRegister::COMMAND => (1 | 1 << 10, if new >> 16 == 0 { 0xffff_0000 } else { 0 }),
        PciRegister::INTERRUPT => (0xff, 0),
        // Not even as they are: for some, being written is what counts.
        _ if !unsafe_dma => {
            return Err(WriteRefused { register, bits: u32::MAX });
        }
        _ => (u32::MAX, 0),
    };
    let bits = (old ^ new) & !free & !ignored;
    if bits == 0 || unsafe_dma { Ok(()) } else { Err(WriteRefused { register, bits }) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let result = check_write(command, old, new, false);
            let expected = WriteRefused { register: command, bits: refused };
            assert_eq!(result.err(), (refused != 0).then_some(expected), "{new:#x}");
            assert_eq!(check_write(command, old, new, true), Ok(()));
        }
        let line = PciRegister::INTERRUPT;
        assert_eq!(check_write(line, 0x0000_010a, 0x0000_01ff, false), Ok(()));
        assert_eq!(check_write(line, 0x010a, 0x020a, false).unwrap_err().bits, 0x300);
    }

    #[test]
    fn addresses_and_capabilities_cannot_be_written() {
        for offset in (0..=0xfc).step_by(4).filter(|offset| ![4, 0x3c].contains(offset)) {
            let register = PciRegister::new(offset).unwrap();
            for value in [4, 5] {
                let bits = u32::MAX;
                assert_eq!(
                    check_write(register, 5, value, false),
                    Err(WriteRefused { register, bits })
                );
                assert_eq!(check_write(register, 5, value, true), Ok(()));
            }
        }
    }
}

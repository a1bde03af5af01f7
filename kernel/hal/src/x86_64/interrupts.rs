//! Interrupts of devices and of the timer: the local APIC, and the I/O APIC or, where ACPI names
//! none, the two 8259s.
//!
//! Line `n` arrives with vector [`FIRST_VECTOR`] + `n`, whichever controller there is. A line that
//! is reported is off until the client switches it on again (`crate::irq`). An I/O APIC forgets
//! edges that arrive while a line is masked; so a line with edges is not masked when it is
//! reported, but when it fires once more, which is then remembered here.
//!
//! Invariants:
//!
//! - I1: the slots for the local APIC and the I/O APIC show the pages of their registers, which are
//!   not memory and not offered to clients. The firmware is believed that they are there.
//! - I2: no controller sends a vector but those of lines and the timer, and the spurious one.

use heliox_boot::acpi::InterruptControllers;
use heliox_types::{Interrupt, Irq, NoSuchLine, PhysicalAddress};

use super::memory::Slot;
use super::processor::{in8, msr, out8, read_msr, write_msr};
use crate::entry::Host;

/// Vectors: of the timer; of line 0 (a multiple of 8, since the 8259s want one); of an interrupt
/// that the local APIC took back.
const TIMER_VECTOR: u8 = 0x40;
const FIRST_VECTOR: u8 = 0x50;
const SPURIOUS_VECTOR: u32 = 0xff;

/// Registers of the local APIC, as byte offsets (AMD64 manual volume 2, section 16.3).
const IDENTITY: u64 = 0x20;
const TASK_PRIORITY: u64 = 0x80;
const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const IN_SERVICE: u64 = 0x100;
const COMMAND: u64 = 0x300;
const LOCAL_TIMER: u64 = 0x320;
const LOCAL_PERFORMANCE: u64 = 0x340;
const LOCAL_INTERRUPT_0: u64 = 0x350;
const LOCAL_INTERRUPT_1: u64 = 0x360;
const LOCAL_ERROR: u64 = 0x370;
pub(super) const INITIAL_COUNT: u64 = 0x380;
pub(super) const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// Bits of entries, local ones and an I/O APIC's: masked; level-triggered; delivery by the 8259s,
/// which then name the vector; delivery as a non-maskable interrupt. And of a command: to this CPU.
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;
const FROM_8259: u32 = 0b111 << 8;
const NON_MASKABLE: u32 = 0b100 << 8;
const TO_ITSELF: u32 = 1 << 18;

/// Registers of an I/O APIC (82093AA datasheet, section 3): the index, the data that it selects,
/// and which indices there are.
const SELECT: u64 = 0;
const DATA: u64 = 0x10;
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;

/// Command ports of the 8259s (data is the next), and their words: initialise (then first vector,
/// wiring and mode follow as data), read what is in service, end the interrupt of line n.
const MAIN: u16 = 0x20;
const SECOND: u16 = 0xa0;
const INITIALISE: u8 = 0x11;
const READ_IN_SERVICE: u8 = 0x0b;
const END: u8 = 0x60;
/// Line of the main 8259 that the second one is on.
const CASCADE: u8 = 2;

/// Reads a register of a controller.
pub(super) fn read(device: Slot, register: u64) -> u32 {
    // SAFETY: I1.
    unsafe { ((device.address() + register) as *const u32).read_volatile() }
}

/// Writes a register of a controller.
pub(super) fn write(device: Slot, register: u64, value: u32) {
    // SAFETY: I1, I2: of the registers that send interrupts to other CPUs none is used.
    unsafe { ((device.address() + register) as *mut u32).write_volatile(value) }
}

fn write_io_apic(index: u32, value: u32) {
    write(Slot::IoApic, SELECT, index);
    write(Slot::IoApic, DATA, value);
}

fn write_8259(port: u16, value: u8) {
    // SAFETY: D1: the ports of the interrupt controllers reach no memory.
    unsafe { out8(port, value) }
}

fn read_8259(port: u16) -> u8 {
    // SAFETY: D1, as for writing.
    unsafe { in8(port) }
}

/// Switches the local APIC on, with all but non-maskable interrupts and the timer masked.
/// The processor must have one.
pub(super) fn start_local_apic() {
    // SAFETY: the processor has a local APIC (caller), and so the register. Leaving x2APIC mode, if the
    // loader was in it, goes by way of switching the APIC off (section 16.9).
    let base = unsafe {
        let base = read_msr(msr::APIC_BASE) & !(3 << 10);
        write_msr(msr::APIC_BASE, base);
        write_msr(msr::APIC_BASE, base | 1 << 11);
        base & Host::ADDRESS
    };
    Slot::LocalApic.show(base, Host::WRITE_THROUGH | Host::CACHE_DISABLE);
    for (register, value) in [
        (SPURIOUS, 1 << 8 | SPURIOUS_VECTOR),
        (LOCAL_PERFORMANCE, MASKED),
        (LOCAL_INTERRUPT_0, MASKED),
        (LOCAL_ERROR, MASKED),
        (LOCAL_INTERRUPT_1, NON_MASKABLE),
        (TASK_PRIORITY, 0),
        // Count every bus clock.
        (DIVIDE, 0b1011),
        (LOCAL_TIMER, u32::from(TIMER_VECTOR)),
    ] {
        write(Slot::LocalApic, register, value);
    }
}

/// The controller of this machine and what it was told.
#[derive(Debug)]
pub(super) struct InterruptController {
    /// For each line its pin at the I/O APIC, and the low half of its entry there but for the mask.
    /// A line of the 8259s, which remember edges by themselves, counts as one with levels.
    lines: [Option<(u8, u32)>; Irq::COUNT as usize],
    /// There is no I/O APIC, and the 8259s are used.
    legacy: bool,
    /// A bit for every line: it is on.
    enabled: u32,
    /// It fired again after it was reported, and was masked.
    again: u32,
    /// Interrupts that nobody asked for.
    pub(super) unexpected: u64,
}

impl InterruptController {
    /// Takes over the controllers, with all lines masked. `found`: what ACPI says; `is_free`:
    /// whether a page is of no other use than as a device's registers. The local APIC must be
    /// running.
    pub(super) fn start(
        found: Option<&InterruptControllers>,
        is_free: impl Fn(PhysicalAddress) -> bool,
    ) -> Self {
        for (command, first, wiring, mask) in [
            (MAIN, FIRST_VECTOR, 1 << CASCADE, !(1 << CASCADE)),
            (SECOND, FIRST_VECTOR + 8, CASCADE, 0xff),
        ] {
            write_8259(command, INITIALISE);
            [first, wiring, 0x01, mask].iter().for_each(|data| write_8259(command + 1, *data));
        }
        let io_apic = found.and_then(|found| {
            let address = found.io_apics().iter().find(|io_apic| io_apic.first == 0)?.address;
            (is_free(address) && address.offset_in_page() == 0).then_some((found, address))
        });
        let mut lines = [None; Irq::COUNT as usize];
        if let Some((found, address)) = io_apic {
            Slot::IoApic.show(address.get(), Host::WRITE_THROUGH | Host::CACHE_DISABLE);
            write(Slot::IoApic, SELECT, VERSION);
            let pins = (read(Slot::IoApic, DATA) >> 16 & 0xff) + 1;
            let destination = read(Slot::LocalApic, IDENTITY) & 0xff << 24;
            for pin in 0..pins {
                write_io_apic(FIRST_ENTRY + pin * 2, MASKED | u32::from(FIRST_VECTOR));
                write_io_apic(FIRST_ENTRY + pin * 2 + 1, destination);
            }
            for (line, number) in lines.iter_mut().zip(0..) {
                let wiring = found.wiring(number).filter(|wiring| wiring.interrupt < pins);
                let vector = u32::from(FIRST_VECTOR + number);
                // Below the number of pins, at most 256.
                *line = wiring.map(|wiring| (wiring.interrupt as u8, vector | wiring.entry_bits()));
            }
        } else {
            write(Slot::LocalApic, LOCAL_INTERRUPT_0, FROM_8259);
            for (line, number) in lines.iter_mut().zip(0..16) {
                *line = (number != CASCADE).then_some((number, LEVEL));
            }
        }
        Self { lines, legacy: io_apic.is_none(), enabled: 0, again: 0, unexpected: 0 }
    }

    /// What the controller is called.
    pub(super) fn name(&self) -> &'static str {
        if self.legacy { "8259" } else { "I/O APIC" }
    }

    pub(super) fn enable(&mut self, irq: Irq) -> Result<(), NoSuchLine> {
        let bit = 1 << irq.number();
        self.set_masked(irq, false)?;
        self.enabled |= bit;
        if self.again & bit != 0 {
            self.again &= !bit;
            let vector = u32::from(FIRST_VECTOR + irq.number());
            write(Slot::LocalApic, COMMAND, TO_ITSELF | vector);
        }
        Ok(())
    }

    pub(super) fn disable(&mut self, irq: Irq) {
        let bit = 1 << irq.number();
        self.enabled &= !bit;
        self.again &= !bit;
        // A line that does not exist is off.
        let _ = self.set_masked(irq, true);
    }

    /// Ends the interrupt `vector`, and what it is for the client. Those that nobody asked for are
    /// counted.
    pub(super) fn take(&mut self, vector: u8) -> Option<Interrupt> {
        let line = vector.checked_sub(FIRST_VECTOR).and_then(Irq::new);
        let taken = match line {
            Some(irq) => self.take_line(irq).then_some(Interrupt::External(irq)),
            None if vector == TIMER_VECTOR => Some(Interrupt::Timer),
            None => {
                self.unexpected += 1;
                None
            }
        };
        // An interrupt of the 8259s, a spurious one or an INT instruction is not in service.
        let in_service = read(Slot::LocalApic, IN_SERVICE + u64::from(vector / 32) * 0x10);
        if in_service & 1 << (vector % 32) != 0 {
            write(Slot::LocalApic, END_OF_INTERRUPT, 0);
        }
        taken
    }

    /// Deals with an interrupt of a line up to its end at the controller; whether it was on. It ends
    /// at the local APIC after that, when a line with levels is masked.
    fn take_line(&mut self, irq: Irq) -> bool {
        if self.legacy && !is_in_service(irq.number()) {
            return false;
        }
        let bit = 1 << irq.number();
        let on = self.enabled & bit != 0;
        self.enabled &= !bit;
        let has_edges = self.line(irq).is_ok_and(|(_, entry)| entry & LEVEL == 0);
        if !on && has_edges {
            self.again |= bit;
        }
        if !on || !has_edges {
            // The line exists: it fired.
            let _ = self.set_masked(irq, true);
        }
        if self.legacy {
            end_8259(irq.number());
        }
        on
    }

    fn line(&self, irq: Irq) -> Result<(u8, u32), NoSuchLine> {
        self.lines.get(usize::from(irq.number())).copied().flatten().ok_or(NoSuchLine(irq))
    }

    fn set_masked(&self, irq: Irq, masked: bool) -> Result<(), NoSuchLine> {
        let (pin, entry) = self.line(irq)?;
        if self.legacy {
            let data = if pin < 8 { MAIN } else { SECOND } + 1;
            let bit = 1 << (pin % 8);
            write_8259(data, read_8259(data) & !bit | if masked { bit } else { 0 });
        } else {
            let mask = if masked { MASKED } else { 0 };
            write_io_apic(FIRST_ENTRY + u32::from(pin) * 2, entry | mask);
        }
        Ok(())
    }
}

/// Whether the 8259s have an interrupt of line `number` in service. A line that had gone quiet
/// again by the time it was asked for shows as line 7 or 15, which is then not in service; for 15
/// the line between the two is.
fn is_in_service(number: u8) -> bool {
    let command = if number < 8 { MAIN } else { SECOND };
    write_8259(command, READ_IN_SERVICE);
    let real = read_8259(command) & 1 << (number % 8) != 0;
    if !real && number >= 8 {
        write_8259(MAIN, END | CASCADE);
    }
    real
}

/// Ends the interrupt of line `number` at the 8259s.
fn end_8259(number: u8) {
    if number >= 8 {
        write_8259(SECOND, END | (number % 8));
    }
    write_8259(MAIN, END | if number < 8 { number } else { CASCADE });
}

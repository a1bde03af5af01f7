//! Interrupts of devices and of the timer: the local APIC, and the I/O APIC or, where ACPI names
//! none, the two 8259s.
//!
//! Line `n` arrives with vector [`FIRST_VECTOR`] + `n`, whichever controller there is. Which lines
//! are on is bookkeeping of no consequence for memory-safety (`IrqLines`).
//!
//! Invariants:
//!
//! - I1: the slots for the local APIC and the I/O APIC show the pages of their registers, which are
//!   not memory and not offered to clients. The firmware is believed that they are there.
//! - I2: no controller sends a vector but those of lines and the timer, and the spurious one.

use super::processor::{in8, out8, read_msr};
use super::*;

/// Vectors: of the timer; of line 0 (a multiple of 8, since the 8259s want one).
const TIMER_VECTOR: u8 = 0x40;
const FIRST_VECTOR: u8 = 0x50;

/// Registers of the local APIC, as byte offsets (AMD64 manual volume 2, section 16.3).
const IDENTITY: u64 = 0x20;
const END_OF_INTERRUPT: u64 = 0xb0;
const COMMAND: u64 = 0x300;
const FIRST_INPUT: u64 = 0x350;
pub(super) const INITIAL_COUNT: u64 = 0x380;
pub(super) const CURRENT_COUNT: u64 = 0x390;

/// Registers of an I/O APIC (82093AA datasheet, section 3): the index, and the data that it selects.
const SELECT: u64 = 0;
const DATA: u64 = 0x10;

/// Bits of entries, local ones and an I/O APIC's: masked; level-triggered.
const MASKED: u32 = 1 << 16;
const LEVEL: u32 = 1 << 15;

/// Command ports of the 8259s; data is the next. On a line of the main one is the second.
const MAIN: u16 = 0x20;
const SECOND: u16 = 0xa0;
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

/// Writes half `index` of the entries of the I/O APIC, which come in pairs.
fn write_entry(index: u32, value: u32) {
    write(Slot::IoApic, SELECT, 0x10 + index);
    write(Slot::IoApic, DATA, value);
}

/// The controller of this machine and what it was told.
pub(super) struct InterruptController {
    /// For each line its pin at the I/O APIC or the 8259s, and the low half of its entry there but
    /// for the mask.
    wiring: [Option<(u8, u32)>; Irq::COUNT as usize],
    /// There is no I/O APIC, and the 8259s are used.
    legacy: bool,
    lines: IrqLines,
    /// Interrupts that nobody asked for.
    pub(super) unexpected: u64,
}

impl InterruptController {
    /// Takes over the controllers, with all lines masked. The processor must have a local APIC.
    pub(super) fn start(io_apic: Option<&IoApicLines>) -> Self {
        let cache = Host::WRITE_THROUGH | Host::CACHE_DISABLE;
        // SAFETY: the processor has a local APIC (caller), and so the register. Leaving x2APIC mode,
        // if the loader was in it, goes by way of switching the APIC off (section 16.9).
        let base = unsafe {
            let base = read_msr(0x1b) & !(3 << 10);
            write_msr(0x1b, base);
            write_msr(0x1b, base | 1 << 11);
            base
        };
        Slot::LocalApic.show(base & Host::ADDRESS, cache);
        for (register, value) in [
            (0xf0, 1 << 8 | 0xff), // on; the vector of an interrupt that was taken back
            (0x340, MASKED),       // performance counters
            (0x360, 0b100 << 8),   // the second input: non-maskable interrupts
            (0x370, MASKED),       // errors
            (0x80, 0),             // priority: everything is let in
            (0x3e0, 0b1011),       // the timer counts every bus clock
            (0x320, u32::from(TIMER_VECTOR)),
        ] {
            write(Slot::LocalApic, register, value);
        }
        for (command, first, cascade, mask) in [
            (MAIN, FIRST_VECTOR, 1 << CASCADE, !(1 << CASCADE)),
            (SECOND, FIRST_VECTOR + 8, CASCADE, 0xff),
        ] {
            // Initialise; then first vector, wiring, mode (interrupts end by themselves), mask.
            let words = [(0, 0x11), (1, first), (1, cascade), (1, 0x03), (1, mask)];
            // SAFETY: D1: the 8259s reach no memory.
            words.iter().for_each(|(port, word)| unsafe { out8(command + port, *word) });
        }
        let mut wiring = [None; Irq::COUNT as usize];
        if let Some(io_apic) = io_apic {
            write(Slot::LocalApic, FIRST_INPUT, MASKED);
            Slot::IoApic.show(io_apic.address.get(), cache);
            // The version has the number of the last pin.
            write(Slot::IoApic, SELECT, 1);
            let pins = (read(Slot::IoApic, DATA) >> 16 & 0xff) + 1;
            for pin in 0..pins {
                write_entry(pin * 2, MASKED | u32::from(FIRST_VECTOR));
                write_entry(pin * 2 + 1, read(Slot::LocalApic, IDENTITY) & 0xff << 24);
            }
            for ((line, found), vector) in
                wiring.iter_mut().zip(&io_apic.wiring).zip(FIRST_VECTOR..)
            {
                let found = found.filter(|found| found.interrupt < pins);
                let entry = |found: Wiring| u32::from(vector) | found.entry_bits();
                *line = found.map(|found| (found.interrupt as u8, entry(found)));
            }
        } else {
            // The first input is the 8259s', who name the vector. They remember edges by themselves,
            // so all lines count as such with levels.
            write(Slot::LocalApic, FIRST_INPUT, 0b111 << 8);
            for (line, number) in wiring.iter_mut().zip(0..16) {
                *line = (number != CASCADE).then_some((number, LEVEL));
            }
        }
        Self { wiring, legacy: io_apic.is_none(), lines: IrqLines::default(), unexpected: 0 }
    }

    fn line(&self, irq: Irq) -> Result<(u8, u32), NoSuchLine> {
        self.wiring.get(usize::from(irq.number())).copied().flatten().ok_or(NoSuchLine(irq))
    }

    fn set_masked(&self, irq: Irq, masked: bool) -> Result<(), NoSuchLine> {
        let (pin, entry) = self.line(irq)?;
        if self.legacy {
            let data = if pin < 8 { MAIN } else { SECOND } + 1;
            // SAFETY: D1: the 8259s reach no memory.
            unsafe { out8(data, in8(data) & !(1 << (pin % 8)) | u8::from(masked) << (pin % 8)) }
        } else {
            write_entry(u32::from(pin) * 2, entry | if masked { MASKED } else { 0 });
        }
        Ok(())
    }

    /// Ends the interrupt `vector`, and what it is for the client. Those that nobody asked for are
    /// counted.
    pub(super) fn take(&mut self, vector: u8) -> Option<Interrupt> {
        let line = vector.checked_sub(FIRST_VECTOR).and_then(Irq::new);
        let taken = if let Some(irq) = line {
            let has_edges = self.line(irq).is_ok_and(|(_, entry)| entry & LEVEL == 0);
            let taken = self.lines.take(irq, has_edges);
            if taken.mask {
                // The line exists: it fired.
                let _ = self.set_masked(irq, true);
            }
            taken.report.then_some(Interrupt::External(irq))
        } else {
            self.unexpected += u64::from(vector != TIMER_VECTOR);
            (vector == TIMER_VECTOR).then_some(Interrupt::Timer)
        };
        // No other interrupt is in service; nor is this one, if it is the 8259s' or spurious.
        write(Slot::LocalApic, END_OF_INTERRUPT, 0);
        taken
    }
}

impl IrqControl for Hal {
    fn enable_irq(&mut self, irq: Irq) -> Result<(), NoSuchLine> {
        self.interrupts.set_masked(irq, false)?;
        if self.interrupts.lines.enable(irq) {
            // To this CPU itself.
            write(Slot::LocalApic, COMMAND, 1 << 18 | u32::from(FIRST_VECTOR + irq.number()));
        }
        Ok(())
    }

    fn disable_irq(&mut self, irq: Irq) {
        self.interrupts.lines.disable(irq);
        // A line that does not exist is off.
        let _ = self.interrupts.set_masked(irq, true);
    }
}

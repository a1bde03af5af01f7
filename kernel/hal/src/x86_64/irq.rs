//! External interrupts: the I/O APIC or, where ACPI names none, the two 8259s.
//!
//! Line `n` arrives with vector [`FIRST_VECTOR`] + `n`, whichever controller there is. A line that
//! is reported is off until the client switches it on again (`crate::irq`). An I/O APIC forgets
//! edges that arrive while a line is masked; so a line with edges is not masked when it is
//! reported, but when it fires once more, which is then remembered here.
//!
//! Invariants:
//!
//! - I1: the slot for the I/O APIC shows the page of its registers, which is not memory.
//! - I2: no controller sends a vector outside of `FIRST_VECTOR..FIRST_VECTOR + Irq::COUNT`.

use heliox_boot::acpi::{InterruptControllers, Polarity, Trigger};
use heliox_types::PhysicalAddress;

use super::processor::{in8, out8};
use super::slots::Slot;
use super::timer;
use crate::irq::{Irq, NoSuchLine};

/// The vector of line 0; a multiple of 8, since the 8259s want one.
const FIRST_VECTOR: u8 = 0x50;

/// Registers of an I/O APIC (82093AA datasheet, section 3): the index, the data that it selects,
/// and which indices there are.
const SELECT: u64 = 0;
const DATA: u64 = 0x10;
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;

/// Bits of an entry.
const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

/// Command and data ports of the 8259s, and their words: initialise (then first vector, wiring
/// and mode follow as data), read what is in service, end the interrupt of line n.
const MAIN: u16 = 0x20;
const SECOND: u16 = 0xa0;
const INITIALISE: u8 = 0x11;
const READ_IN_SERVICE: u8 = 0x0b;
const END: u8 = 0x60;
/// Line of the main 8259 that the second one is on.
const CASCADE: u8 = 2;

/// A line: its pin at the I/O APIC, and the low half of its entry there but for the mask. A line
/// of the 8259s, which remember edges by themselves, counts as one with levels.
#[derive(Clone, Copy, Debug)]
struct Line {
    pin: u8,
    entry: u32,
}

/// Those lines that exist.
type Lines = [Option<Line>; Irq::COUNT as usize];

/// The controller of this machine and what it was told.
#[derive(Debug)]
pub(super) struct InterruptController {
    lines: Lines,
    /// There is no I/O APIC, and the 8259s are used.
    legacy: bool,
    /// A bit for every line: it is on.
    enabled: u32,
    /// It fired again after it was reported, and was masked.
    again: u32,
}

/// What became of an interrupt vector.
pub(super) enum Taken {
    /// The line was on, and is off now.
    Report(Irq),
    /// The line fired too early, or not at all; the client need not know.
    Kept,
    /// No line has this vector.
    NotALine,
}

impl InterruptController {
    /// Takes over the controllers, with all lines masked. `found`: what ACPI says;
    /// `is_free`: whether a page is of no other use than as a device's registers. The local APIC
    /// must be running.
    pub(super) fn start(
        found: Option<&InterruptControllers>,
        is_free: impl Fn(PhysicalAddress) -> bool,
        no_execute: u64,
    ) -> Self {
        start_8259s();
        let io_apic = found.and_then(|found| {
            let first = found.io_apics().iter().find(|io_apic| io_apic.first == 0)?;
            (is_free(first.address) && first.address.offset_in_page() == 0)
                .then_some((found, first.address))
        });
        let lines = if let Some((found, address)) = io_apic {
            // SAFETY: I1: ACPI says that the registers are there, and the page is not memory.
            unsafe { Slot::IoApic.show(address.frame(), true, no_execute) }
            start_io_apic(found)
        } else {
            timer::accept_8259();
            core::array::from_fn(|line| {
                let exists = line < 16 && line != usize::from(CASCADE);
                exists.then_some(Line { pin: line as u8, entry: LEVEL })
            })
        };
        Self { lines, legacy: io_apic.is_none(), enabled: 0, again: 0 }
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
            timer::interrupt_itself(FIRST_VECTOR + irq.number());
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

    /// Deals with the interrupt `vector` up to its end at the controller; the caller ends it at
    /// the local APIC after that, when a line with levels is masked.
    pub(super) fn take(&mut self, vector: u8) -> Taken {
        let Some(irq) = vector.checked_sub(FIRST_VECTOR).and_then(Irq::new) else {
            return Taken::NotALine;
        };
        if self.legacy && !is_in_service(irq.number()) {
            return Taken::Kept;
        }
        let bit = 1 << irq.number();
        let on = self.enabled & bit != 0;
        self.enabled &= !bit;
        let has_edges = self.line(irq).is_some_and(|line| line.entry & LEVEL == 0);
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
        if on { Taken::Report(irq) } else { Taken::Kept }
    }

    fn line(&self, irq: Irq) -> Option<Line> {
        self.lines.get(usize::from(irq.number())).copied().flatten()
    }

    fn set_masked(&self, irq: Irq, masked: bool) -> Result<(), NoSuchLine> {
        let line = self.line(irq).ok_or(NoSuchLine(irq))?;
        if self.legacy {
            let data = if line.pin < 8 { MAIN } else { SECOND } + 1;
            let bit = 1 << (line.pin % 8);
            // SAFETY: D1: the ports of the interrupt controllers reach no memory.
            unsafe {
                let others = in8(data) & !bit;
                out8(data, others | if masked { bit } else { 0 });
            }
        } else {
            let mask = if masked { MASKED } else { 0 };
            write_io_apic(FIRST_ENTRY + u32::from(line.pin) * 2, line.entry | mask);
        }
        Ok(())
    }
}

fn write_io_apic(index: u32, value: u32) {
    let base = Slot::IoApic.address();
    // SAFETY: I1, I2: callers write entries for vectors of lines.
    unsafe {
        ((base + SELECT) as *mut u32).write_volatile(index);
        ((base + DATA) as *mut u32).write_volatile(value);
    }
}

/// Masks every pin, and says how each line's entry will look.
fn start_io_apic(found: &InterruptControllers) -> Lines {
    let base = Slot::IoApic.address();
    // SAFETY: I1: reading the version changes nothing.
    let version = unsafe {
        ((base + SELECT) as *mut u32).write_volatile(VERSION);
        ((base + DATA) as *const u32).read_volatile()
    };
    let pins = (version >> 16 & 0xff) + 1;
    let destination = u32::from(timer::local_apic_identity()) << 24;
    for pin in 0..pins {
        write_io_apic(FIRST_ENTRY + pin * 2, MASKED | u32::from(FIRST_VECTOR));
        write_io_apic(FIRST_ENTRY + pin * 2 + 1, destination);
    }
    let mut lines = [None; Irq::COUNT as usize];
    for (line, number) in lines.iter_mut().zip(0..) {
        let wiring = found.wiring(number).filter(|wiring| wiring.interrupt < pins);
        *line = wiring.map(|wiring| {
            let polarity = match wiring.polarity {
                Polarity::Low => ACTIVE_LOW,
                Polarity::High => 0,
            };
            let trigger = match wiring.trigger {
                Trigger::Level => LEVEL,
                Trigger::Edge => 0,
            };
            Line {
                // Below the number of pins, at most 256.
                pin: wiring.interrupt as u8,
                entry: u32::from(FIRST_VECTOR + number) | polarity | trigger,
            }
        });
    }
    lines
}

/// Sets the 8259s' vectors and masks every line but the one between them.
fn start_8259s() {
    // SAFETY: D1: the ports of the interrupt controllers reach no memory.
    unsafe {
        for (command, first, wiring, mask) in [
            (MAIN, FIRST_VECTOR, 1 << CASCADE, !(1 << CASCADE)),
            (SECOND, FIRST_VECTOR + 8, CASCADE, 0xff),
        ] {
            out8(command, INITIALISE);
            for data in [first, wiring, 0x01, mask] {
                out8(command + 1, data);
            }
        }
    }
}

/// Whether the 8259s have an interrupt of line `number` in service. A line that had gone quiet
/// again by the time it was asked for shows as line 7 or 15, which is then not in service; for 15
/// the line between the two is.
fn is_in_service(number: u8) -> bool {
    let command = if number < 8 { MAIN } else { SECOND };
    // SAFETY: D1: the ports of the interrupt controllers reach no memory.
    unsafe {
        out8(command, READ_IN_SERVICE);
        let real = in8(command) & 1 << (number % 8) != 0;
        if !real && number >= 8 {
            out8(MAIN, END | CASCADE);
        }
        real
    }
}

/// Ends the interrupt of line `number` at the 8259s.
fn end_8259(number: u8) {
    // SAFETY: D1: the ports of the interrupt controllers reach no memory.
    unsafe {
        if number >= 8 {
            out8(SECOND, END | (number % 8));
            out8(MAIN, END | CASCADE);
        } else {
            out8(MAIN, END | number);
        }
    }
}

//! Which lines of interrupts are on, and what fired while they were off.
//!
//! Pure bookkeeping, the same for all machines. A line that is reported is off until it is switched
//! on again. Some controllers forget edges that arrive while a line is masked; so a line with edges
//! is not to be masked when it is reported, but when it fires once more, which is remembered.

use crate::Irq;

/// The lines of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct IrqLines {
    /// A bit for every line: it is on.
    enabled: u32,
    /// It fired again after it was reported.
    again: u32,
}

/// What is to be done about an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqTaken {
    /// The line was on, and is off now: the client is to know.
    pub report: bool,
    /// The line is to be masked at its controller.
    pub mask: bool,
}

impl IrqLines {
    /// Switches a line on, which is then to be unmasked. Whether it fired while it was off, so that
    /// it is to interrupt at once.
    pub const fn enable(&mut self, irq: Irq) -> bool {
        let bit = 1 << irq.number();
        let again = self.again & bit != 0;
        self.enabled |= bit;
        self.again &= !bit;
        again
    }

    /// Switches a line off, which is then to be masked.
    pub const fn disable(&mut self, irq: Irq) {
        let bit = 1 << irq.number();
        self.enabled &= !bit;
        self.again &= !bit;
    }

    /// A line has fired. `forgets`: the controller forgets what a masked line does.
    pub const fn take(&mut self, irq: Irq, forgets: bool) -> IrqTaken {
        let bit = 1 << irq.number();
        let report = self.enabled & bit != 0;
        self.enabled &= !bit;
        if !report && forgets {
            self.again |= bit;
        }
        IrqTaken { report, mask: !report || !forgets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_reported_once_and_masked() {
        let irq = Irq::new(4).unwrap();
        let mut lines = IrqLines::default();
        assert_eq!(lines.take(irq, false), IrqTaken { report: false, mask: true });
        assert!(!lines.enable(irq));
        assert_eq!(lines.take(irq, false), IrqTaken { report: true, mask: true });
        assert_eq!(lines.take(irq, false), IrqTaken { report: false, mask: true });
        assert!(!lines.enable(irq));
    }

    #[test]
    fn an_edge_that_would_be_forgotten_is_remembered() {
        let (irq, other) = (Irq::new(4).unwrap(), Irq::new(5).unwrap());
        let mut lines = IrqLines::default();
        lines.enable(irq);
        assert_eq!(lines.take(irq, true), IrqTaken { report: true, mask: false });
        assert_eq!(lines.take(irq, true), IrqTaken { report: false, mask: true });
        assert!(!lines.enable(other) && lines.enable(irq) && !lines.enable(irq));
        lines.take(irq, true);
        lines.take(irq, true);
        lines.disable(irq);
        assert!(!lines.enable(irq));
    }
}

//! External interrupts: the lines on which devices ask for attention, and control over them.

use core::fmt;

/// An interrupt line: below 16 an ISA interrupt, wherever it is wired to; from 16 on the global
/// system interrupt of that number, as PCI devices use them. Always below [`Irq::COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Irq(u8);

impl Irq {
    /// How many lines there are at most.
    pub const COUNT: u8 = 24;

    /// Line `number`, or `None` if it is not below [`Irq::COUNT`].
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Irq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Irq({})", self.0)
    }
}

impl fmt::Display for Irq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "IRQ {}", self.0)
    }
}

/// This machine has no such line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchLine(pub Irq);

impl fmt::Display for NoSuchLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "this machine has no {}", self.0)
    }
}

impl core::error::Error for NoSuchLine {}

/// Control over interrupt lines (thesis, section 4.5).
///
/// Every line is off at the start. A line that is on reports its next interrupt, once, as
/// `Interrupt::External`, and is off again by then: the HAL masks and acknowledges it (the
/// thesis's `maskAckIRQ`) before it reports, so that no client, by forgetting to, can keep the
/// timer and with it the processor from others.
pub trait IrqControl {
    /// Switches `irq` on, for one interrupt. No edge is lost between a report and this, and a level
    /// that is still active interrupts at once.
    ///
    /// # Errors
    /// [`NoSuchLine`].
    fn enable_irq(&mut self, irq: Irq) -> Result<(), NoSuchLine>;

    /// Switches `irq` off; lines that do not exist are. Edges that arrive while a line is off for
    /// this reason are kept by some controllers and lost by others.
    fn disable_irq(&mut self, irq: Irq);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_below_the_count() {
        assert_eq!(Irq::new(23).map(Irq::number), Some(23));
        assert_eq!(Irq::new(Irq::COUNT), None);
    }
}

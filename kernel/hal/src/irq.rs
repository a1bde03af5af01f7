//! External interrupts: control over the lines on which devices ask for attention.

pub use heliox_types::{Irq, NoSuchLine};

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

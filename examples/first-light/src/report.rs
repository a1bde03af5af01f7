//! What the kernel says about itself.

use heliox_clock::Rates;
use heliox_hal::Hal;
use heliox_hal::execution::Execution;
use heliox_log::{debug, info};

use crate::system::System;

/// Prints how memory is used, as a table.
pub(crate) fn memory(system: &System<'_>) {
    if let Ok(figures) = system.figures() {
        debug!("pages of the page allocator:\n{figures}");
    }
}

/// Prints what the boot cost, and what went by unnoticed.
/// What the boot cost is in ticks of the time-stamp counter (instructions, where the machine counts
/// them); `first_entry`: the counter when the first program was entered.
pub(crate) fn end(hal: &Hal, rates: &Rates, first_entry: Option<u64>) {
    if let Some(entry) = first_entry {
        info!(
            "boot: {} ticks from the kernel's first instruction to the first program's, {} of them \
             to measure the clock",
            entry.wrapping_sub(hal.report.start),
            rates.ticks
        );
    }
    let unexpected = hal.events().unexpected;
    if unexpected > 0 {
        info!("{unexpected} interrupts that nobody had asked for");
    }
}

//! What the kernel says about the machine and about itself.

use heliox_boot::information::BootProtocol;
use heliox_clock::Rates;
use heliox_hal::Hal;
use heliox_hal::execution::{Execution, Heap};
use heliox_log::{debug, info, warn};
use heliox_types::PAGE_BYTES;

use crate::system::System;

/// Prints what was found at boot.
pub(crate) fn machine(hal: &Hal, rates: &Rates) {
    let information = hal.report.information;
    info!("Heliox {}, started by {}", env!("CARGO_PKG_VERSION"), loader(hal));
    for diagnostic in information.diagnostics().as_slice() {
        warn!("{diagnostic}");
    }
    if information.diagnostics().lost() > 0 {
        warn!("and {} more remarks like these", information.diagnostics().lost());
    }
    info!("physical memory:");
    for area in information.memory_map().areas() {
        info!("  {area}");
    }
    let free = information.memory_map().usable_frames() * PAGE_BYTES;
    let report = hal.report;
    let heap = hal.heap_frames().bytes();
    info!(
        "{} KiB are free; the kernel lives in {} with {} KiB of heap and {} KiB that describe pages",
        free >> 10,
        report.prepared.plan.range,
        heap >> 10,
        (report.prepared.plan.range.bytes() - heap) >> 10,
    );
    for (name, on) in report.features.protections() {
        if on {
            debug!("protection: {name} is on");
        } else {
            warn!("this processor has no {name}");
        }
    }
    match report.bus_masters {
        Some(disabled) => debug!("PCI: bus mastering switched off in {disabled} functions"),
        None => warn!("unsafe-dma: devices may write to any memory"),
    }
    if let Some(error) = report.prepared.acpi_error {
        warn!("{error}");
    }
    if !rates.measured {
        warn!("there is no 8254 to measure the clock with; a rate is assumed");
    }
    debug!("clock: {} Hz, timer: {} Hz", rates.counter_hertz, rates.timer_hertz);
    debug!(
        "external interrupts: {}",
        if report.prepared.io_apic.is_some() { "I/O APIC" } else { "8259" }
    );
    for (module, frames) in information.modules().zip(information.module_frames()) {
        let bytes = module.range.bytes();
        info!("module {}: {bytes} bytes at {}", module.name(), module.range.start());
        if frames.is_empty() {
            warn!("module {}: shares a page with another, left out", module.name());
        }
    }
}

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

fn loader(hal: &Hal) -> &str {
    let information = hal.report.information;
    match (information.loader_name(), information.protocol()) {
        ("", Some(BootProtocol::Pvh)) => "a PVH loader",
        ("", _) => "a Multiboot2 loader",
        (name, _) => name,
    }
}

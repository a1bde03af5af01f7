//! What the kernel says about the machine and about itself.

use heliox_boot::information::BootProtocol;
use heliox_hal::{Hal, debug, info, warn};
use heliox_types::PAGE_BYTES;

use crate::system::System;

/// Prints what was found at boot.
pub(crate) fn machine(hal: &mut Hal) {
    let information = hal.information();
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
    let report = hal.boot_report();
    info!(
        "{} KiB are free; the kernel lives in {} with {} KiB of heap and {} KiB that describe pages",
        free >> 10,
        report.environment(),
        report.heap_bytes() >> 10,
        report.metadata_bytes() >> 10,
    );
    for (name, on) in report.protections() {
        if *on {
            debug!("protection: {name} is on");
        } else {
            warn!("this processor has no {name}");
        }
    }
    match report.bus_masters() {
        Some((found, disabled)) => {
            debug!("PCI: {found} functions, bus mastering switched off in {disabled}");
        }
        None => warn!("unsafe-dma: devices may write to any memory"),
    }
    let (counter, timer, measured) = hal.timer().rates();
    if !measured {
        warn!("there is no 8254 to measure the clock with; a rate is assumed");
    }
    debug!("clock: {counter} Hz, timer: {timer} Hz");
    debug!("external interrupts: {}", hal.interrupt_controller());
    for (number, module) in hal.information().modules().enumerate() {
        let bytes = module.range.bytes();
        info!("module {}: {bytes} bytes at {}", module.name(), module.range.start());
        if let Some(entry) = hal.module_entry(number) {
            debug!("module {}: entry point {entry}", module.name());
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
pub(crate) fn end(hal: &Hal) {
    if let Some(cost) = hal.boot_cost() {
        info!("boot: {cost}");
    }
    if hal.unexpected_interrupts() > 0 {
        info!("{} interrupts that nobody had asked for", hal.unexpected_interrupts());
    }
}

fn loader(hal: &Hal) -> &str {
    let information = hal.information();
    match (information.loader_name(), information.protocol()) {
        ("", Some(BootProtocol::Pvh)) => "a PVH loader",
        ("", _) => "a Multiboot2 loader",
        (name, _) => name,
    }
}

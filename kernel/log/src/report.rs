//! What a kernel says about the machine when it begins.

use heliox_boot::information::BootProtocol;
use heliox_clock::Rates;
use heliox_hal::Hal;
use heliox_hal::execution::Heap;
use heliox_types::PAGE_BYTES;

use crate::{debug, info, warn};

/// Prints what was found at boot.
pub fn machine(hal: &Hal, rates: &Rates) {
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

fn loader(hal: &Hal) -> &str {
    let information = hal.report.information;
    match (information.loader_name(), information.protocol()) {
        ("", Some(BootProtocol::Pvh)) => "a PVH loader",
        ("", _) => "a Multiboot2 loader",
        (name, _) => name,
    }
}

//! What the kernel says about the machine.

use heliox_hal::{Hal, info};

/// Prints what was found at boot.
pub(crate) fn machine(hal: &mut Hal) {
    info!("Heliox");
    for area in hal.information().memory_map().areas() {
        info!("memory: {area}");
    }
    for diagnostic in hal.information().diagnostics().as_slice() {
        info!("{diagnostic}");
    }
    for module in hal.information().modules() {
        info!("module: {} {:?}", module.name(), module.range);
    }
}

/// Prints what the boot cost.
pub(crate) fn end(hal: &mut Hal) {
    info!("first entry {:?}, calibration {}", hal.first_entry(), hal.timer().calibration_ticks());
}

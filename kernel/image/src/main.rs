//! The bootable image: for now a small kernel that runs every module as a program.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use heliox_hal::{Hal, info};

heliox_hal::kernel_main!(main);

fn main(mut hal: Hal) -> ! {
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
    let now = hal.timer().now();
    info!("time {} us, {} ticks", now, hal.timer().ticks());
    heliox_hal::stop(0)
}

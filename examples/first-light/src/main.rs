//! A small kernel that runs every boot module as a program.
//!
//! It stands on the HAL alone and has no unsafe code. Each module gets an address space and a
//! set of registers; programs take turns, one millisecond each, until all have ended. The
//! machine stops with the first status that was not 0. Its system calls are described in
//! `docs/first-light.md`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod devices;
mod loader;
mod program;
mod report;
mod scheduler;
mod system;
mod system_call;

use heliox_boot::options::{Crash, Options};
use heliox_hal::Hal;
use heliox_log::{error, info};
use heliox_page_alloc::{CpuCache, Node};

use crate::scheduler::{NOT_STARTED, Scheduler};
use crate::system::System;

heliox_log::kernel_main!(main);

/// Uses stack without end; the result is of no interest.
#[expect(unconditional_recursion, reason = "that is what was asked for")]
fn overflow_stack(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    frame.iter().sum::<u64>() + core::hint::black_box(overflow_stack(depth + 1))
}

fn main(mut hal: Hal) -> ! {
    let rates = heliox_clock::start(&mut hal);
    heliox_log::report::machine(&hal, &rates);
    match Options::parse(hal.report.information.command_line(), |_| {}).crash {
        #[expect(clippy::panic, reason = "that is what was asked for")]
        Some(Crash::Panic) => panic!("as the command line asked"),
        Some(Crash::Stack) => {
            info!("this is not reached: {}", overflow_stack(1));
        }
        None => {}
    }
    let mut caches = [CpuCache::new(Node::ZERO)];
    let mut system = match System::new(hal, &mut caches) {
        Ok(system) => system,
        Err(error) => {
            error!("cannot boot: {error}");
            heliox_log::stop(heliox_log::CANNOT_BOOT);
        }
    };
    report::memory(&system);
    let free = system.available();
    let mut scheduler = Scheduler::new();
    scheduler.start_modules(&mut system);
    if scheduler.is_empty() {
        error!("there is no program to run");
        heliox_log::stop(NOT_STARTED);
    }
    let status = scheduler.run(&mut system);
    report::end(system.hal(), &rates, scheduler.first_entry());
    while system.scrub() {}
    if system.available() != free {
        error!("{} pages were not given back", free - system.available());
    }
    info!("all programs have ended");
    heliox_log::stop(status)
}

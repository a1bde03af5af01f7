//! The bootable image: a small kernel that runs every module as a program.
//!
//! It stands on the HAL alone and has no unsafe code. Each module gets an address space and a
//! set of registers; programs take turns, one millisecond each, until all have ended. The
//! machine stops with the first status that was not 0. Its system calls are described in
//! `docs/first-light.md`.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod devices;
mod loader;
mod pages;
mod program;
mod report;
mod scheduler;
mod system_call;

use heliox_boot::options::Crash;
use heliox_hal::{Hal, error, info};

use crate::pages::Pages;
use crate::scheduler::Scheduler;

heliox_hal::kernel_main!(main);

/// Uses stack without end; the result is of no interest.
#[expect(unconditional_recursion, reason = "that is what was asked for")]
fn overflow_stack(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    frame.iter().sum::<u64>() + core::hint::black_box(overflow_stack(depth + 1))
}

/// The status of a machine in which no program could be started.
const NOTHING_TO_RUN: u8 = 2;

fn main(mut hal: Hal) -> ! {
    report::machine(&mut hal);
    match hal.options().crash {
        #[expect(clippy::panic, reason = "that is what was asked for")]
        Some(Crash::Panic) => panic!("as the command line asked"),
        Some(Crash::Stack) => {
            info!("this is not reached: {}", overflow_stack(1));
        }
        None => {}
    }
    let mut scheduler = Scheduler::new();
    let mut refused = false;
    let mut pages = Pages::new(&mut hal);
    let free = pages.available();
    for (number, module) in hal.information().modules().enumerate() {
        let name = module.name();
        let Some(place) = scheduler.place() else {
            error!("{name}: not started: there are too many programs");
            refused = true;
            continue;
        };
        match loader::load(&mut hal, &mut pages, number) {
            Ok(program) => *place = Some(program),
            Err(error) => {
                error!("{name}: not started: {error}");
                refused = true;
            }
        }
    }
    if scheduler.is_empty() {
        error!("there is no program to run");
        heliox_hal::stop(NOTHING_TO_RUN);
    }
    let status = scheduler.run(&mut hal, &mut pages);
    if pages.available() != free {
        error!("{} pages were not given back", free - pages.available());
    }
    report::end(&hal);
    info!("all programs have ended");
    heliox_hal::stop(if status == 0 && refused {
        NOTHING_TO_RUN
    } else {
        status
    })
}

//! The bootable image: the L4 kernel on the bare machine.
//!
//! The first boot module is sigma0, the second root; both are put where their files say, in
//! physical memory. What else was loaded is told by the boot information. The machine stops with
//! the status that root gives it.
//!
//! | module | what it hides |
//! |---|---|
//! | `memory` | what all memory is used for, and how that is told |
//! | `pool` | pages for the kernel's own use, and its log |
//! | `server` | how sigma0 and root get into memory |
//! | `objects` | how many kernel objects there are |

#![no_std]
#![no_main]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod error;
mod memory;
mod objects;
mod pool;
mod server;

use heliox_boot::options::{Crash, Options};
use heliox_hal::Hal;
use heliox_hal::execution::Execution;
use heliox_l4_kernel::{Beginning, Kernel};
use heliox_log::{error, info};

use crate::error::BootError;
use crate::memory::Memory;
use crate::pool::Pool;

heliox_log::kernel_main!(main);

/// The status of a machine on which L4 cannot begin.
const NOT_STARTED: u8 = 2;

/// Uses stack without end; the result is of no interest.
#[expect(unconditional_recursion, reason = "that is what was asked for")]
fn overflow_stack(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    frame.iter().sum::<u64>() + core::hint::black_box(overflow_stack(depth + 1))
}

fn main(mut hal: Hal) -> ! {
    let rates = heliox_clock::start(&mut hal);
    heliox_log::report::machine(&hal, &rates);
    let options = Options::parse(hal.report.information.command_line(), |_| {});
    match options.crash {
        #[expect(clippy::panic, reason = "that is what was asked for")]
        Some(Crash::Panic) => panic!("as the command line asked"),
        Some(Crash::Stack) => {
            info!("this is not reached: {}", overflow_stack(1));
        }
        None => {}
    }
    let kilohertz = (rates.counter_hertz / 1000, rates.timer_hertz / 1000);
    match boot(hal, &options, kilohertz) {
        Ok(mut kernel) => heliox_log::stop(kernel.run()),
        Err(error) => {
            error!("L4 cannot begin: {error}");
            heliox_log::stop(NOT_STARTED);
        }
    }
}

/// Loads sigma0 and root, and makes the kernel that is to run them.
fn boot(
    mut hal: Hal,
    options: &Options,
    kilohertz: (u64, u64),
) -> Result<Kernel<'static, Hal, Pool>, BootError> {
    let servers = [server::parse(&mut hal, 0)?, server::parse(&mut hal, 1)?];
    let memory = Memory::plan(&mut hal, &servers)?;
    for (number, server) in servers.iter().enumerate() {
        server::load(&mut hal, number, server)?;
    }
    memory.write_boot_information(&mut hal)?;
    let regions = memory.regions(&mut hal)?;
    let pool = Pool::new(&mut hal, memory.pool)?;
    // Last, since they take what is left of the heap.
    let objects = objects::make(&mut hal)?;
    let [sigma0, root] = servers.map(|server| server.extent);
    let beginning = Beginning {
        sigma0,
        root,
        memory: memory.descriptors(),
        boot_information: memory.boot_information(),
        kilohertz,
        gigabyte_pages: hal.report.features.gigabyte_pages,
        key: hal.events().ticks,
        light_path: !options.no_light_path,
    };
    Ok(Kernel::start(hal, pool, objects, regions, &beginning)?)
}

//! From the boot assembly to the client kernel.
//!
//! Everything happens here once, on one CPU, with interrupts off: processor features, log,
//! boot information, the environment, timer and devices. Then the client gets its [`Hal`].

use heliox_address::PhysicalAddress;
use heliox_boot::information::{BootInformation, BootProtocol};
use heliox_boot::memory_map::Limits;
use heliox_boot::options::Options;

use super::cpu::{Cpu, CpuOwned};
use super::environment::{self, BootMemory, Layout};
use super::execution::Executor;
use super::features::Features;
use super::hal::{BootReport, Hal};
use super::machine::RealMachine;
use super::timer::Timer;
use super::{log, pci, shutdown};

unsafe extern "Rust" {
    /// The client kernel, defined by the macro `kernel_main!`.
    safe fn heliox_kernel_main(hal: Hal) -> !;
}

unsafe extern "C" {
    static boot_time: u64;
}

/// What the loader said. Large, so it is filled where it lies.
static BOOT_INFORMATION: CpuOwned<BootInformation> = CpuOwned::new(BootInformation::empty());

/// A machine that Heliox cannot run on: says why, and stops with status 1.
fn refuse(reason: &dyn core::fmt::Display) -> ! {
    crate::error!("cannot boot: {reason}");
    shutdown::stop(1)
}

/// Called by the boot assembly, on the boot stack. `loader`: 1 PVH, 2 Multiboot2, else unknown;
/// `address`: the physical address of the loader's information.
pub(super) extern "C" fn start(loader: u32, address: u32) -> ! {
    // SAFETY: written once by the boot assembly.
    let begin = unsafe { boot_time };
    log::initialize();
    // SAFETY: C1: the boot CPU, at its start; no program and no interrupt has run. The image's
    // low view was for the boot assembly alone.
    let (cpu, features) = unsafe {
        let cpu = Cpu::start_boot_cpu();
        environment::remove_identity_view();
        (cpu, Features::enable())
    };

    let protocol = match loader {
        1 => BootProtocol::Pvh,
        2 => BootProtocol::Multiboot2,
        _ => refuse(&"the boot loader speaks neither PVH nor Multiboot2"),
    };
    let mut memory = BootMemory::new(features.physical_bits, features.no_execute);
    // SAFETY: the only use of the static, by the only CPU (C1); the reference is handed on.
    let information = unsafe { &mut *BOOT_INFORMATION.get() };
    let limits = Limits::new(features.physical_bits, environment::WINDOW_FRAMES);
    let kernel = environment::image_frames();
    let parsed = match PhysicalAddress::new(u64::from(address)) {
        Some(address) => information.parse(protocol, address, &mut memory, limits, kernel),
        None => refuse(&"the boot loader's information has no address"),
    };

    let options = Options::parse(information.command_line(), |_| {});
    log::set_level(options.log);
    if let Some(port) = options.exit_port
        && !shutdown::set_exit_port(port)
    {
        crate::warn!("{port:#x} cannot be the port of an exit device");
    }
    // Once more, now that the level is known.
    Options::parse(information.command_line(), |ignored| crate::warn!("{ignored}"));
    if let Err(error) = parsed {
        refuse(&error);
    }

    information.reserve(environment::LOW_MEMORY);
    let layout = Layout::plan(information.memory_map(), options.kernel_memory)
        .unwrap_or_else(|error| refuse(&error));
    let range =
        layout.place(information.memory_map()).unwrap_or_else(|error| refuse(&error));
    information.reserve(range);
    // SAFETY: E1: the range is usable memory that was free until the reservation above.
    let environment = unsafe {
        environment::build(&layout, information.memory_map(), range, features.no_execute)
    };

    let bus_masters = (!options.unsafe_dma).then(pci::disable_bus_masters);
    let timer = match Timer::start(begin, features.no_execute) {
        Ok(timer) => timer,
        Err(error) => refuse(&error),
    };
    let root = environment.root;
    // SAFETY: E3: the window is as it was built, and this is the only use that is made of it.
    let machine = unsafe { RealMachine::new(&environment, layout.managed_frames, &features) };
    heliox_kernel_main(Hal {
        executor: Executor::new(cpu, features, root),
        machine,
        timer,
        information,
        options,
        report: BootReport { layout, environment: range, features, bus_masters },
    })
}

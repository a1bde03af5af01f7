//! From the boot assembly to the client kernel.
//!
//! Everything happens here once, on one CPU, with interrupts off: processor features, log,
//! boot information, the environment, timer and devices. Then the client gets its [`Hal`].

use heliox_boot::acpi::InterruptControllers;
use heliox_boot::elf::{FileInMemory, Program};
use heliox_boot::information::{BootInformation, BootProtocol};
use heliox_boot::memory_map::{Limits, MemoryKind, MemoryMap};
use heliox_boot::options::Options;
use heliox_types::{FrameRange, PAGE_BYTES, PhysicalAddress, VirtualAddress};

use super::cpu::{Cpu, CpuOwned};
use super::environment::{self, BootMemory, Environment, Layout};
use super::execution::Executor;
use super::features::Features;
use super::hal::{BootReport, Hal};
use super::heap::Heap;
use super::irq::InterruptController;
use super::machine::RealMachine;
use super::timer::Timer;
use super::{log, pci, shutdown};
use crate::cpu::{CpuIndex, CurrentCpu};
use crate::geometry::{FourLevel, Level, MAX_LEAF_LEVELS};
use crate::memory::Memory;
use crate::page::Record;
use crate::region::{IoKind, IoRange};
use crate::state::{self, State};
use crate::translation::CpuRecord;

unsafe extern "Rust" {
    /// The client kernel, defined by the macro `kernel_main!`.
    safe fn heliox_kernel_main(hal: Hal) -> !;
}

unsafe extern "C" {
    static boot_time: u64;
}

/// What the loader said. Large, so it is filled where it lies.
static BOOT_INFORMATION: CpuOwned<BootInformation> = CpuOwned::new(BootInformation::empty());

/// Entry points of modules. Here, since the boot's stack is small.
static ENTRIES: CpuOwned<[Option<VirtualAddress>; BootInformation::MODULES]> =
    CpuOwned::new([None; BootInformation::MODULES]);

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
    // SAFETY: U1: the boot CPU, at its start; no program and no interrupt has run. The image's
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
    // SAFETY: the only use of the static, by the only CPU (U1); the reference is handed on.
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

    let root_pointer = information.rsdp().filter(|_| !options.no_acpi);
    let controllers = root_pointer.and_then(|root| {
        let controllers = InterruptControllers::read(root, &mut memory);
        controllers.inspect_err(|error| crate::warn!("{error}")).ok()
    });
    // SAFETY: the only use of the static, by the only CPU (U1).
    let entries = unsafe { &mut *ENTRIES.get() };
    for (entry, module) in entries.iter_mut().zip(information.modules()) {
        let program = Program::parse(&mut FileInMemory::new(&mut memory, module.range));
        *entry = program.ok().map(|program| program.entry());
    }

    information.reserve(environment::LOW_MEMORY);
    let layout = Layout::plan(information.memory_map(), options.kernel_memory)
        .unwrap_or_else(|error| refuse(&error));
    let range = layout.place(information.memory_map()).unwrap_or_else(|error| refuse(&error));
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
    // SAFETY: the only use of the static, by the only CPU (U1).
    let ranges = unsafe { &mut *RANGES.get() };
    ranges.fill(information, range);
    let is_free = |address: PhysicalAddress| {
        let kind = information.memory_map().kind_of(address.frame());
        let offered = ranges.io.iter().any(|io| io.frames.contains(address.frame()));
        matches!(kind, None | Some(MemoryKind::Reserved)) && !offered
    };
    let interrupts = InterruptController::start(controllers.as_ref(), is_free, features.no_execute);
    // SAFETY: E3: window and records are as they were built, and this is the only use of them.
    let (machine, (units, cpus, heap)) = unsafe {
        let machine = RealMachine::new(&environment, layout.managed_frames, &features);
        (machine, records(&environment, &layout))
    };
    let memory =
        Memory::new(machine, units, cpus, ranges.layout()).unwrap_or_else(|error| refuse(&error));
    let used = (layout.metadata_bytes() + heap).div_ceil(PAGE_BYTES);
    let objects = FrameRange::new(range.start() + used, range.end()).unwrap_or(FrameRange::EMPTY);
    let start =
        environment.heap.wrapping_add((used * PAGE_BYTES - layout.metadata_bytes()) as usize);
    // SAFETY: E1: the rest of the environment range, which is mapped and not used otherwise.
    unsafe { Heap::set_aside(objects, start) }
    let report = BootReport { layout, environment: range, heap, features, bus_masters };
    heliox_kernel_main(Hal {
        memory,
        cpu: CurrentCpu::new(CpuIndex::BOOT),
        executor: Executor::new(cpu, features, interrupts),
        timer,
        information,
        options,
        report,
        entries,
    })
}

/// What memory is to be used for, in the form that the checks want it.
struct Ranges {
    environment: [FrameRange; 2],
    free: [FrameRange; MemoryMap::<128>::CAPACITY],
    modules: [FrameRange; BootInformation::MODULES],
    module_count: usize,
    io: [IoRange; 2],
    io_count: usize,
}

static RANGES: CpuOwned<Ranges> = CpuOwned::new(Ranges {
    environment: [FrameRange::EMPTY; 2],
    free: [FrameRange::EMPTY; MemoryMap::<128>::CAPACITY],
    modules: [FrameRange::EMPTY; BootInformation::MODULES],
    module_count: 0,
    io: [IoRange { frames: FrameRange::EMPTY, kind: IoKind::VideoMemory }; 2],
    io_count: 0,
});

impl Ranges {
    /// Takes the ranges from what the loader said and the boot reserved; `environment` is the
    /// kernel's own range.
    fn fill(&mut self, information: &BootInformation, environment: FrameRange) {
        self.environment = [environment::image_frames(), environment];
        for (slot, range) in self.free.iter_mut().zip(information.memory_map().usable()) {
            *slot = range;
        }
        for module in information.modules() {
            let frames = module.range.frames();
            let shared = self.modules.iter().any(|other| other.overlaps(frames));
            if shared {
                crate::warn!("module {}: shares a page with another, left out", module.name());
            }
            if let Some(slot) = self.modules.get_mut(self.module_count) {
                *slot = if shared { FrameRange::EMPTY } else { frames };
                self.module_count += 1;
            }
        }
        self.add_io(environment::VIDEO_MEMORY, IoKind::VideoMemory);
        if let Some(buffer) = information.frame_buffer() {
            self.add_io(buffer.range.frames(), IoKind::FrameBuffer);
        }
    }

    /// Offers device memory to clients, unless it is memory.
    fn add_io(&mut self, frames: FrameRange, kind: IoKind) {
        let taken = self.environment.iter().chain(&self.free).chain(&self.modules);
        let taken = taken.chain(self.io.iter().map(|io| &io.frames));
        if taken.clone().any(|range| range.overlaps(frames)) {
            return;
        }
        if let Some(slot) = self.io.get_mut(self.io_count) {
            *slot = IoRange { frames, kind };
            self.io_count += 1;
        }
    }

    fn layout(&'static mut self) -> state::Layout {
        state::Layout {
            environment: &mut self.environment,
            free: &mut self.free,
            modules: self.modules.get_mut(..self.module_count).unwrap_or(&mut []),
            io: self.io.get_mut(..self.io_count).unwrap_or(&mut []),
        }
    }
}

/// The records that the checks keep: those of pages where the environment has them, the others
/// from the beginning of the heap. Also how many bytes of the heap they take.
///
/// # Safety
/// To be called once, after the environment was built.
unsafe fn records(
    environment: &Environment,
    layout: &Layout,
) -> ([&'static mut [Record]; MAX_LEAF_LEVELS], &'static mut [CpuRecord], u64) {
    let frames = layout.managed_frames as usize;
    let mut used = 0;
    // SAFETY: E3: there is a record for every managed frame, and any word is a valid one;
    // nobody else uses them. `Layout::plan` made the heap large enough for the rest, which is
    // written before a reference to it is made; the heap begins on a page boundary.
    unsafe {
        let pages = core::slice::from_raw_parts_mut(environment.records.cast(), frames);
        let mut larger = |number| {
            let level = Level::new::<FourLevel>(number).unwrap_or(Level::FIRST);
            let count = State::<FourLevel>::unit_count(level, frames);
            let first: *mut Record = environment.heap.add(used).cast();
            for index in 0..count {
                first.add(index).write(Record::NOT_INSTALLED);
            }
            used += (count * size_of::<Record>()).next_multiple_of(64);
            core::slice::from_raw_parts_mut(first, count)
        };
        let units = [pages, larger(2), larger(3)];
        let cpu: *mut CpuRecord = environment.heap.add(used).cast();
        cpu.write(CpuRecord::new(environment.root));
        used += size_of::<CpuRecord>().next_multiple_of(64);
        (units, core::slice::from_raw_parts_mut(cpu, 1), used as u64)
    }
}

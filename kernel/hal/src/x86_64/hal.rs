//! From the boot assembly to the client kernel, and what it then can do: the traits of this crate on
//! the real machine.
//!
//! Two invariants of the crate are kept by no module alone:
//!
//! - U1: one CPU runs kernel code, with interrupts off; the others are parked by the firmware.
//! - D1: a port that the kernel reads or writes belongs to a device that cannot reach memory, or the
//!   value takes the device's reach away, or the user gave up on that with `unsafe-dma`.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};

use heliox_boot::BootReport;
use heliox_boot::acpi::InterruptControllers;
use heliox_boot::environment::{EnvironmentPlan, LOW_MEMORY, VIDEO_MEMORY};
use heliox_boot::information::{BootError, BootInformation, BootProtocol};
use heliox_boot::memory_map::{Limits, MemoryKind, MemoryMap};
use heliox_boot::options::Options;
use heliox_types::{
    Clock, Events, Frame, FrameRange, HeapError, Interrupt, Irq, NoSuchLine, PAGE_BYTES,
    PageFaultError, PhysicalAddress, ProcessorFeatures, SavedRegisters,
};

use super::context::{Context, PortPermissions};
use super::cpu::{self, CPU, SYSTEM_CALL, outcome};
use super::heap::{self, Box};
use super::interrupts::{self, CURRENT_COUNT, INITIAL_COUNT, InterruptController};
use super::memory::{self, BootMemory, RealMachine, Slot};
use super::processor::{self, read};
use crate::cpu::{CpuIndex, CurrentCpu};
use crate::error::Error;
use crate::execution::{Execution, Heap, Kernel, LightReturn, Running};
use crate::geometry::FourLevel;
use crate::irq::IrqControl;
use crate::memory::{Memory, Paging};
use crate::page::BlockRecord;
use crate::page_map::PageMapUse;
use crate::pci::{PciConfiguration, PciFunction, PciRegister, WriteRefused};
use crate::port::{self, NotInRange, PortRange, Ports};
use crate::region::{IoKind, IoRange};
use crate::state::{self, Slices};
use crate::translation::CpuRecord;

/// Vectors of exceptions that are dealt with here, and the first that is none.
const DEBUG: u64 = 1;
const NON_MASKABLE: u64 = 2;
const NO_FLOATING_POINT: u64 = 7;
const PAGE_FAULT: u64 = 14;
const FIRST_INTERRUPT: u64 = 32;

/// COM1.
const DEBUG_PORT: u16 = 0x3f8;

unsafe extern "Rust" {
    /// The client kernel, defined by the macro `kernel_main!`.
    safe fn heliox_kernel_main(boot: Result<Hal, BootError>) -> !;
}

/// What the boot needs room for, once. `state::Layout` refers to the ranges.
struct BootStorage {
    information: BootInformation,
    environment: [FrameRange; 2],
    free: [FrameRange; MemoryMap::<128>::CAPACITY],
    modules: [FrameRange; BootInformation::MODULES],
    io: [IoRange; 2],
}

/// A value that is used once.
struct Once<T>(UnsafeCell<T>, AtomicBool);

// SAFETY: only one reference to the value is ever given out.
unsafe impl<T: Send> Sync for Once<T> {}

impl<T> Once<T> {
    fn take(&'static self) -> Option<&'static mut T> {
        // SAFETY: this is the first time, and the last.
        (!self.1.swap(true, Relaxed)).then(|| unsafe { &mut *self.0.get() })
    }
}

static STORAGE: Once<BootStorage> = Once(
    UnsafeCell::new(BootStorage {
        information: BootInformation::empty(),
        environment: [FrameRange::EMPTY; 2],
        free: [FrameRange::EMPTY; MemoryMap::<128>::CAPACITY],
        modules: [FrameRange::EMPTY; BootInformation::MODULES],
        io: [IoRange { frames: FrameRange::EMPTY, kind: IoKind::VideoMemory }; 2],
    }),
    AtomicBool::new(false),
);

/// All memory of the machine.
pub type RealMemory = Memory<'static, RealMachine, Slices<'static>>;

/// The machine, as the client kernel may use it.
#[derive(Debug)]
pub struct Hal {
    memory: RealMemory,
    cpu: CurrentCpu,
    interrupts: InterruptController,
    clock: Clock,
    unsafe_dma: bool,
    information: &'static BootInformation,
    report: BootReport,
}

/// Called by the boot assembly, on the boot stack. `information`: physical address of what the
/// loader left; `loader`: 1 PVH, 2 Multiboot2, else unknown.
pub(super) extern "sysv64" fn start(information: u32, loader: u32) -> ! {
    let start = processor::time_stamp();
    cpu::start();
    let features = processor::enable_features();
    memory::map_image();
    let protocol = match loader {
        1 => Ok(BootProtocol::Pvh),
        2 => Ok(BootProtocol::Multiboot2),
        _ => Err(BootError::UnknownLoader),
    };
    let address = PhysicalAddress::new(u64::from(information)).unwrap_or(PhysicalAddress::ZERO);
    heliox_kernel_main(protocol.and_then(|protocol| Hal::boot(protocol, address, features, start)))
}

impl Hal {
    /// Takes the machine over. Everything happens here once, on one CPU, with interrupts off.
    fn boot(
        protocol: BootProtocol,
        address: PhysicalAddress,
        features: ProcessorFeatures,
        start: u64,
    ) -> Result<Self, BootError> {
        let contradiction = |frames| BootError::Contradiction { frames };
        let storage = STORAGE.take().ok_or(contradiction(FrameRange::EMPTY))?;
        let BootStorage { information, environment, free, modules, io } = storage;
        let bits = features.physical_bits;
        let mut memory = BootMemory { limit: 1 << bits.clamp(32, 52) };
        let limits = Limits::new(bits, memory::WINDOW_FRAMES);
        let image = memory::image_frames();
        let parsed = information.parse(protocol, address, &mut memory, limits, image);
        let options = Options::parse(information.command_line(), |_| {});
        let exit_port_refused = options.exit_port.is_some_and(|port| !set_exit_port(port));
        parsed?;
        if !features.local_apic {
            return Err(BootError::NoLocalApic);
        }
        let root_pointer = information.rsdp().filter(|_| !options.no_acpi);
        let controllers = root_pointer.map(|root| InterruptControllers::read(root, &mut memory));

        information.reserve(LOW_MEMORY);
        let plan = EnvironmentPlan::new(information.memory_map(), options.kernel_memory)?;
        let heap = memory::build(information.memory_map(), &plan)?;
        information.reserve(plan.range);
        heap::set_aside(heap);

        *environment = [image, plan.range];
        let map = information.memory_map();
        for (slot, range) in free.iter_mut().zip(map.usable()) {
            *slot = range;
        }
        for (slot, range) in modules.iter_mut().zip(information.module_frames()) {
            *slot = range;
        }
        let frame_buffer = information.frame_buffer().map(|buffer| buffer.range.frames());
        let frame_buffer = frame_buffer.filter(|frames| !frames.overlaps(VIDEO_MEMORY));
        let offered =
            [(Some(VIDEO_MEMORY), IoKind::VideoMemory), (frame_buffer, IoKind::FrameBuffer)];
        for (slot, (frames, kind)) in io.iter_mut().zip(offered) {
            // Unless the map calls it memory.
            let frames = frames.filter(|frames| !map.has_memory(*frames));
            *slot = IoRange { frames: frames.unwrap_or(FrameRange::EMPTY), kind };
        }

        let bus_masters = (!options.unsafe_dma).then(disable_bus_masters);
        interrupts::start_local_apic();
        let is_free = |address: PhysicalAddress| {
            let frame = address.frame();
            let kind = map.kind_of(frame);
            matches!(kind, None | Some(MemoryKind::Reserved))
                && !io.iter().any(|io| io.frames.contains(frame))
        };
        let found = controllers.as_ref().and_then(|found| found.as_ref().ok());
        let interrupts = InterruptController::start(found, is_free);

        let managed_frames = plan.managed_frames;
        let count = state::block_records::<FourLevel>(managed_frames as usize);
        let bytes = (count * size_of::<BlockRecord>()) as u64;
        let records = heap::free_frames();
        let records =
            FrameRange::new(records.start(), records.start() + bytes.div_ceil(PAGE_BYTES));
        // SAFETY: zeros are the record of a block without memory.
        let blocks: Option<&mut [BlockRecord]> =
            records.and_then(|records| unsafe { heap::zeroed(records) }.ok()?.get_mut(..count));
        // SAFETY: E3, as `build` has built it; this is the only use.
        let pages = unsafe { memory::page_records(managed_frames) };
        let cpus = [CpuRecord::new(Frame::ZERO)];
        let storage = Slices { pages, blocks: blocks.ok_or(contradiction(heap))?, cpus };
        let machine = RealMachine::new(managed_frames, features.gigabyte_pages);
        let memory =
            Memory::new(machine, storage, state::Layout { environment, free, modules, io });
        let memory = memory.map_err(|error| match error {
            Error::BadLayout { range } => contradiction(range),
            _ => contradiction(plan.range),
        })?;
        let report = BootReport {
            start,
            features,
            managed_frames,
            environment: plan.range,
            heap: heap::free_frames(),
            bus_masters,
            acpi: controllers.and_then(Result::err),
            exit_port_refused,
            interrupt_controller: interrupts.name(),
        };
        Ok(Self {
            memory,
            cpu: CurrentCpu::new(CpuIndex::BOOT),
            interrupts,
            clock: Clock::new(start, 1_000_000_000, 1_000_000_000),
            unsafe_dma: options.unsafe_dma,
            information,
            report,
        })
    }

    /// What the boot loader said.
    pub fn information(&self) -> &'static BootInformation {
        self.information
    }

    /// What the boot code found and did.
    pub fn boot_report(&self) -> &BootReport {
        &self.report
    }

    /// The time-stamp counter.
    pub fn time_stamp(&self) -> u64 {
        processor::time_stamp()
    }

    /// What the timer, which interrupts when it has counted down to 0, has left to count.
    pub fn timer_count(&self) -> u32 {
        interrupts::read(Slot::LocalApic, CURRENT_COUNT)
    }

    /// Lets the timer count down from `count`; 0 stops it.
    pub fn set_timer(&mut self, count: u32) {
        interrupts::write(Slot::LocalApic, INITIAL_COUNT, count);
    }

    /// The ports of the 8254's second channel, which rings the speaker: its data and command, and
    /// its gate. A client measures the time-stamp counter and the timer with them.
    pub fn reference_timer(&self) -> [PortRange; 2] {
        port::REFERENCE_TIMER
    }

    /// Says at which rates the counters count. Until then both are taken for 1 GHz.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// What has happened since the boot, for `Measurement`.
    pub fn events(&self) -> Events {
        let machine = &self.memory.machine;
        let ticks = processor::time_stamp();
        Events { ticks, root_loads: machine.root_loads, flushes: machine.flushes }
    }

    /// Causes a debug exception in the kernel, as a program's breakpoint could (`hazards` 1), so that
    /// a test can see that it does no harm. It counts as an unexpected interrupt.
    pub fn cause_debug_exception(&mut self) {
        // SAFETY: the entry code goes on behind it, with all registers as they were.
        unsafe { core::arch::asm!("int 1") }
    }

    /// Makes the CPU translate with a page map.
    pub(super) fn load(&mut self, map: &PageMapUse) {
        self.memory.load(self.cpu, map);
    }

    /// What a stop of a program, other than by a plain system call, is for the client; `None` if a
    /// program is to go on. Apart, so that system calls need no registers for it.
    #[inline(never)]
    fn stopped<K: Kernel<Machine = Self>>(kernel: &mut K) -> Option<Interrupt> {
        let Running { machine, context, .. } = kernel.running();
        let message = CPU.message.each_ref().map(|word| word.load(Relaxed));
        let words = CPU.light_words.each_ref().map(|word| word.load(Relaxed));
        match CPU.light_outcome.swap(outcome::OPEN, Relaxed) {
            outcome::DECLINED => {
                context.set_after_light_call(message, words);
                return Some(Interrupt::SystemCall);
            }
            outcome::ANSWERED => {
                let [result, ..] = words;
                context.answer(message, result);
                return None;
            }
            _ => {}
        }
        context.suspend_breakpoints();
        let &SavedRegisters { vector, error_code, .. } = context.saved();
        match vector {
            SYSTEM_CALL if K::ANSWERS_LIGHT_CALLS && context.is_in_kernel_half() => {
                let (call, message) = (context.light_call(), context.message());
                context.set_after_light_call(message, [call.rdi, call.rsi, call.rdx, call.r8]);
                match kernel.light_call(call) {
                    Some(LightReturn { next, result }) => {
                        next.context.answer(message, result);
                        None
                    }
                    None => Some(Interrupt::SystemCall),
                }
            }
            SYSTEM_CALL => Some(Interrupt::SystemCall),
            DEBUG => {
                context.take_debug_status();
                Some(Interrupt::Exception { vector: DEBUG as u8, error_code: 0 })
            }
            NON_MASKABLE => {
                machine.interrupts.unexpected += 1;
                None
            }
            NO_FLOATING_POINT if context.use_floating_point() => None,
            PAGE_FAULT => {
                let error = PageFaultError::new(error_code);
                Some(Interrupt::PageFault { address: read!("mov {}, cr2"), error })
            }
            // Vectors have 8 bits.
            vector if vector < FIRST_INTERRUPT => {
                Some(Interrupt::Exception { vector: vector as u8, error_code })
            }
            vector => machine.interrupts.take(vector as u8),
        }
    }
}

impl Execution for Hal {
    type Memory = RealMemory;
    type Context = Context;
    type PortPermissions = PortPermissions;

    fn memory(&mut self) -> &mut RealMemory {
        &mut self.memory
    }

    fn memory_view(&self) -> &RealMemory {
        &self.memory
    }

    fn cpu(&self) -> CurrentCpu {
        self.cpu
    }

    fn new_context(&mut self) -> Result<Context, HeapError> {
        Context::new()
    }

    fn new_port_permissions(&mut self) -> Result<PortPermissions, HeapError> {
        PortPermissions::new()
    }

    fn load_port_permissions(&mut self, context: &Context, permissions: &PortPermissions) -> bool {
        permissions.load(context)
    }

    #[inline(always)]
    fn execute_kernel<K: Kernel<Machine = Self>>(kernel: &mut K) -> Interrupt {
        loop {
            let Running { machine, map, context } = kernel.running();
            machine.load(map);
            if !context.is_in_cpu() {
                context.enter_cpu();
            }
            let plain = K::ANSWERS_LIGHT_CALLS && context.is_plain();
            // SAFETY: X1, X2: the CPU holds the context that the kernel named. T1, T2: the page map in
            // use is loaded. The kernel is borrowed here, so nobody else uses it.
            unsafe {
                if K::ANSWERS_LIGHT_CALLS {
                    cpu::begin_light_calls(ptr::from_mut(kernel), plain);
                }
                cpu::run();
            }
            let asked = K::ANSWERS_LIGHT_CALLS && cpu::end_light_calls();
            let Running { machine, context, .. } = kernel.running();
            machine.memory.enter(machine.cpu);
            let light = asked || K::ANSWERS_LIGHT_CALLS && context.is_in_kernel_half();
            if !light && context.saved().vector == SYSTEM_CALL && context.is_unwatched() {
                return Interrupt::SystemCall;
            }
            if let Some(interrupt) = Self::stopped(kernel) {
                return interrupt;
            }
        }
    }

    fn wait_for_interrupt(&mut self) -> Option<Interrupt> {
        let vector = cpu::wait_for_interrupt();
        self.memory.enter(self.cpu);
        vector.and_then(|vector| self.interrupts.take(vector))
    }

    fn now(&self) -> u64 {
        self.clock.microseconds(processor::time_stamp())
    }

    fn set_deadline(&mut self, deadline: Option<u64>) {
        let counts = |deadline: u64| self.clock.timer_counts(deadline.saturating_sub(self.now()));
        self.set_timer(deadline.map_or(0, counts));
    }

    fn last_fault_address(&self) -> u64 {
        read!("mov {}, cr2")
    }

    fn unexpected_interrupts(&self) -> u64 {
        self.interrupts.unexpected + cpu::ABSORBED.load(Relaxed)
    }

    fn shutdown(&mut self, status: u8) -> ! {
        stop(status)
    }
}

impl Heap for Hal {
    type Box<T> = Box<T>;

    fn new_box<T>(&mut self, object: T) -> Result<Box<T>, (T, HeapError)> {
        Box::new(object)
    }

    fn heap_frames(&self) -> FrameRange {
        heap::free_frames()
    }

    fn grow_heap(&mut self, frames: FrameRange) -> Result<(), HeapError> {
        heap::lend(frames)
    }

    fn heap_words(&mut self, frames: FrameRange) -> Result<&'static mut [u64], HeapError> {
        // SAFETY: 0 is a word.
        unsafe { heap::zeroed(frames) }
    }
}

impl IrqControl for Hal {
    fn enable_irq(&mut self, irq: Irq) -> Result<(), NoSuchLine> {
        self.interrupts.enable(irq)
    }

    fn disable_irq(&mut self, irq: Irq) {
        self.interrupts.disable(irq);
    }
}

/// Implements the reading and the writing of ports with one width.
macro_rules! port_access {
    ($read:ident, $write:ident, $value:ty) => {
        fn $read(&self, range: PortRange, port: u16) -> Result<$value, NotInRange> {
            range.check(port, size_of::<$value>() as u16)?;
            // SAFETY: D1: no range has a port that reaches memory (`crate::port`).
            Ok(unsafe { processor::$read(port) })
        }

        fn $write(&mut self, range: PortRange, port: u16, value: $value) -> Result<(), NotInRange> {
            range.check(port, size_of::<$value>() as u16)?;
            // SAFETY: as for reading.
            Ok(unsafe { processor::$write(port, value) })
        }
    };
}

impl Ports for Hal {
    fn initial_ports(&self) -> impl Iterator<Item = PortRange> {
        port::initial_ports(self.unsafe_dma)
    }

    port_access!(in8, out8, u8);
    port_access!(in16, out16, u16);
    port_access!(in32, out32, u32);
}

/// The ports of PCI configuration: which register, and what is in it.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Bus-master bit of the command register.
const BUS_MASTER: u32 = 1 << 2;

/// Reads a register of PCI configuration, which is then the one that [`write_selected`] writes.
fn read_pci(function: PciFunction, register: PciRegister) -> u32 {
    let address = u32::from(function.number()) << 8 | u32::from(register.offset());
    // SAFETY: D1: reading a configuration changes nothing in memory.
    unsafe {
        processor::out32(CONFIG_ADDRESS, 1 << 31 | address);
        processor::in32(CONFIG_DATA)
    }
}

impl PciConfiguration for Hal {
    fn read_pci(&self, function: PciFunction, register: PciRegister) -> u32 {
        read_pci(function, register)
    }

    fn write_pci(
        &mut self,
        function: PciFunction,
        register: PciRegister,
        value: u32,
    ) -> Result<(), WriteRefused> {
        register.check_write(read_pci(function, register), value, self.unsafe_dma)?;
        // SAFETY: D1: the filter lets no bit change that gives a device reach.
        Ok(unsafe { processor::out32(CONFIG_DATA, value) })
    }
}

/// Switches bus mastering off in every function of every bus; returns how many were found and in
/// how many it had been on. A device that may read and write memory by itself can break every
/// promise of the kernel (`hazards` 14).
fn disable_bus_masters() -> (u32, u32) {
    let (mut found, mut disabled) = (0, 0);
    let mut multiple_functions = false;
    for number in 0..=u16::MAX {
        let function = PciFunction::from_number(number);
        // Functions 1 to 7 only exist beside a function 0 that says so.
        let exists = (number & 7 == 0 || multiple_functions)
            && read_pci(function, PciRegister::IDENTITY) & 0xffff != 0xffff;
        if number & 7 == 0 {
            multiple_functions = exists && read_pci(function, PciRegister::HEADER) & 1 << 23 != 0;
        }
        if exists {
            found += 1;
            let command = read_pci(function, PciRegister::COMMAND);
            if command & BUS_MASTER != 0 {
                disabled += 1;
                // SAFETY: D1: this takes reach from a device; the upper half is a status register
                // in which zeros change nothing.
                unsafe { processor::out32(CONFIG_DATA, command & 0xffff & !BUS_MASTER) }
            }
        }
    }
    (found, disabled)
}

/// The port of QEMU's isa-debug-exit device; 0 if there is none.
static EXIT_PORT: AtomicU16 = AtomicU16::new(0);

/// Names the port of the exit device. Whether it is one that can be that, with all four ports that
/// the device has.
fn set_exit_port(port: u16) -> bool {
    let good = port::initial_ports(false).any(|range| range.check(port, 4).is_ok());
    if good {
        EXIT_PORT.store(port, Relaxed);
    }
    good
}

/// Stops the machine. `status` 0 means success; above 63 counts as 63.
///
/// With an exit device the emulator ends with `(0x40 | status) << 1 | 1`; without one, as on a
/// real machine, the processor halts.
pub fn stop(status: u8) -> ! {
    let port = EXIT_PORT.load(Relaxed);
    if port != 0 {
        // SAFETY: D1: `set_exit_port` let no port through that reaches memory.
        unsafe { processor::out32(port, u32::from(0x40 | status.min(63))) }
    }
    loop {
        // SAFETY: with interrupts off, nothing but an NMI runs any more; that is the purpose.
        unsafe { core::arch::asm!("cli", "hlt") }
    }
}

/// The first serial port: register `register`, modulo 8. Unlike `Ports` it is there before there is
/// a `Hal` and after it failed, for a log.
pub fn read_debug_port(register: u8) -> u8 {
    // SAFETY: D1: the registers of a serial port reach no memory.
    unsafe { processor::in8(DEBUG_PORT + u16::from(register % 8)) }
}

/// Writes register `register`, modulo 8, of the first serial port.
pub fn write_debug_port(register: u8, value: u8) {
    // SAFETY: D1, as for reading.
    unsafe { processor::out8(DEBUG_PORT + u16::from(register % 8), value) }
}

/// Registers that say something about a failure of the kernel.
pub fn failure_registers() -> [(&'static str, u64); 6] {
    [
        ("cr0", read!("mov {}, cr0")),
        ("cr2", read!("mov {}, cr2")),
        ("cr3", read!("mov {}, cr3")),
        ("cr4", read!("mov {}, cr4")),
        ("rsp", read!("mov {}, rsp")),
        ("rbp", read!("mov {}, rbp")),
    ]
}

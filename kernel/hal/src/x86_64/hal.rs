//! From the boot assembly to the client kernel, and what it then can do: the traits of this crate on
//! the real machine.
//!
//! Two invariants of the crate are kept by no module alone:
//!
//! - U1: one CPU runs kernel code, with interrupts off; the others are parked by the firmware.
//! - D1: a port that the kernel reads or writes belongs to a device that cannot reach memory, or the
//!   value takes the device's reach away, or the user gave up on that with `unsafe-dma`.

use Register::{R8, R9, Rdi, Rdx, Rsi};

use super::context::{BREAKPOINTS, FLOATING_POINT, Registers};
use super::cpu::{LightOutcome, SYSTEM_CALL};
use super::interrupts::{CURRENT_COUNT, INITIAL_COUNT, InterruptController};
use super::memory::BootMemory;
use super::*;

unsafe extern "Rust" {
    /// The client kernel, defined by the macro `kernel_main!`.
    safe fn heliox_kernel_main(boot: Result<Hal, BootError>) -> !;
}

/// What the boot needs room for, which is not on its stack.
static mut STORAGE: (BootInformation, MemoryRanges, [FrameRange; 2], [IoRange; 2]) = (
    BootInformation::empty(),
    MemoryRanges::EMPTY,
    [FrameRange::EMPTY; 2],
    [IoRange { frames: FrameRange::EMPTY, kind: IoKind::VideoMemory }; 2],
);

/// All memory of the machine.
#[cfg(not(feature = "audit"))]
pub type RealMemory = Memory<RealMachine>;
/// All memory of the machine.
#[cfg(feature = "audit")]
pub type RealMemory = crate::audited::Audited<RealMachine>;

/// The machine, as the client kernel may use it.
pub struct Hal {
    memory: RealMemory,
    cpu: CurrentCpu,
    pub(super) interrupts: InterruptController,
    unsafe_dma: bool,
    /// The rates of the time-stamp counter and of the timer; 1 GHz until the client says better.
    pub clock: Clock,
    /// What the boot code found and did.
    pub report: BootReport,
}

/// Called by the boot assembly, once, on the boot stack. `address`: physical address of what the
/// loader left; `loader`: 1 PVH, 2 Multiboot2, else unknown.
pub(super) extern "sysv64" fn start(address: u32, loader: u32) -> ! {
    let begin = processor::time_stamp();
    cpu::start(memory::image_end());
    let features = processor::enable_features();
    memory::map_image();
    let boot = match loader {
        1 => Hal::boot(BootProtocol::Pvh, address, features, begin),
        2 => Hal::boot(BootProtocol::Multiboot2, address, features, begin),
        _ => Err(BootError::UnknownLoader),
    };
    heliox_kernel_main(boot)
}

impl Hal {
    /// Takes the machine over. Everything happens here once, on one CPU, with interrupts off.
    fn boot(
        protocol: BootProtocol,
        address: u32,
        features: ProcessorFeatures,
        start: u64,
    ) -> Result<Self, BootError> {
        let storage = &raw mut STORAGE;
        // SAFETY: the only use of the storage: `start` is called once, and calls this once.
        let (information, ranges, environment, io) = unsafe { &mut *storage };
        let mut memory = BootMemory(1 << features.physical_bits.clamp(32, 52));
        let limits = Limits::new(features.physical_bits, memory::WINDOW_FRAMES);
        let image = memory::image_frames();
        let prepared = information.prepare(protocol, address.into(), &mut memory, limits, image);
        let options = Options::parse(information.command_line(), |_| {});
        // The device has four ports.
        let may_be_exit =
            |port: &u16| port::initial_ports(false).any(|range| range.check(*port, 4).is_ok());
        EXIT_PORT.store(options.exit_port.filter(may_be_exit).unwrap_or(0), Relaxed);
        features.local_apic.then_some(()).ok_or(BootError::NoLocalApic)?;
        let prepared @ Prepared { plan, io_apic, .. } = prepared?;
        let contradiction = BootError::Contradiction { frames: plan.range };
        let heap = memory::build(information.memory_map(), &plan).ok_or(contradiction)?;
        let heap = heap::set_aside(heap);
        information.reserve(plan.range);
        ranges.fill(information);
        let MemoryRanges { free, modules, devices: [video, buffer] } = ranges;
        *environment = [image, plan.range];
        *io = [
            IoRange { frames: *video, kind: IoKind::VideoMemory },
            IoRange { frames: *buffer, kind: IoKind::FrameBuffer },
        ];

        // The records of larger units follow each other in the heap.
        let mut next = heap.start();
        let mut larger = |number| {
            let level = Level::new::<FourLevel>(number)?;
            let count = State::<FourLevel>::unit_count(level, plan.managed_frames as usize);
            let bytes = (count * size_of::<Record>()) as u64;
            let records = FrameRange::new(next, next + bytes.div_ceil(PAGE_BYTES))?;
            next = records.end();
            heap::slice(records, count, |_| Record::NOT_INSTALLED).ok()
        };
        let (second, third) = larger(2).zip(larger(3)).ok_or(contradiction)?;
        // SAFETY: E3, as `build` has built it; this is the only use.
        let units = [unsafe { memory::page_records(plan.managed_frames) }, second, third];
        let machine = RealMachine::new(plan.managed_frames, features.gigabyte_pages);
        let cpus = [CpuRecord::new(Frame::ZERO)];
        let memory = Memory::new(machine, units, cpus, Layout { environment, free, modules, io });
        #[cfg(feature = "audit")]
        let memory = memory.map(RealMemory::new);
        let bus_masters = (!options.unsafe_dma).then(disable_bus_masters);
        Ok(Self {
            memory: memory.map_err(|_| contradiction)?,
            cpu: CurrentCpu::new(CpuIndex::BOOT),
            interrupts: InterruptController::start(io_apic.as_ref()),
            unsafe_dma: options.unsafe_dma,
            clock: Clock::new(start, 1_000_000_000, 1_000_000_000),
            report: BootReport { start, information, prepared, features, bus_masters },
        })
    }

    /// What the timer, which interrupts when it has counted down to 0, has left to count.
    pub fn timer_count(&self) -> u32 {
        interrupts::read(Slot::LocalApic, CURRENT_COUNT)
    }

    /// The ports of the 8254's second channel, which rings the speaker: its data and command, and
    /// its gate. A client measures the time-stamp counter and the timer with them.
    pub fn reference_timer(&self) -> [PortRange; 2] {
        port::REFERENCE_TIMER
    }

    /// Causes a debug exception in the kernel, as a program's breakpoint could (`hazards` 1), so that
    /// a test can see that it does no harm. It counts as an unexpected interrupt.
    pub fn cause_debug_exception(&mut self) {
        // SAFETY: the entry code goes on behind it, with all registers as they were.
        unsafe { asm!("int 1") }
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
        let saved = context.registers.saved;
        let SavedRegisters { vector, instruction_pointer, error_code, .. } = saved;
        let watched = vector == 1 || context.registers.special & BREAKPOINTS != 0;
        let debug_status = if watched { context.suspend_breakpoints() } else { 0 };
        match vector {
            1 => Some(Interrupt::Exception { vector: 1, error_code: debug_status }),
            SYSTEM_CALL if K::ANSWERS_LIGHT_CALLS && instruction_pointer >> 63 != 0 => {
                let arguments = [Rdi, Rsi, Rdx, R8, R9].map(|register| saved.register(register));
                let [rdi, rsi, rdx, r8, r9] = arguments;
                context.end_light_call();
                let call = LightCall { rdi, rsi, rdx, r8, r9, instruction_pointer };
                let answered = |LightReturn { next, result, tag }: LightReturn<'_, Self>| {
                    next.context.answer(&saved, result, tag.unwrap_or(r9));
                };
                match kernel.light_call(call).map(answered) {
                    Some(()) => None,
                    None => match kernel.light_call_rest(call).map(answered) {
                        Some(()) => None,
                        None => Some(Interrupt::SystemCall),
                    },
                }
            }
            SYSTEM_CALL => Some(Interrupt::SystemCall),
            2 => {
                machine.interrupts.unexpected += 1;
                None
            }
            7 if context.registers.special & FLOATING_POINT == 0 => {
                context.out_of_cpu().mark(FLOATING_POINT, true);
                None
            }
            14 => {
                let error = PageFaultError::new(error_code);
                Some(Interrupt::PageFault { address: read!("mov {}, cr2"), error })
            }
            vector @ 0..32 => Some(Interrupt::Exception { vector: vector as u8, error_code }),
            // Vectors have 8 bits.
            vector => machine.interrupts.take(vector as u8),
        }
    }
}

impl Execution for Hal {
    type Memory = RealMemory;
    type Map = PageMapUse;
    type Cpu = CurrentCpu;
    type PortRange = PortRange;
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
            let plain = K::ANSWERS_LIGHT_CALLS && context.registers.special == 0;
            if plain {
                cpu::begin_light_calls(ptr::from_mut(kernel));
            }
            // SAFETY: X1, X2: the CPU holds the context that the kernel named. T1, T2: the page map in
            // use is loaded. The kernel is borrowed here, so nobody else uses it.
            unsafe { cpu::run() }
            let outcome = if plain { cpu::end_light_calls() } else { LightOutcome::Short };
            let Running { machine, context, .. } = kernel.running();
            machine.memory.enter(machine.cpu);
            match outcome {
                LightOutcome::Short => {}
                LightOutcome::Declined => return Interrupt::SystemCall,
                LightOutcome::Answered => continue,
            }
            let Registers { saved, special, .. } = &*context.registers;
            let light = K::ANSWERS_LIGHT_CALLS && saved.instruction_pointer >> 63 != 0;
            if !light && saved.vector == SYSTEM_CALL && special & BREAKPOINTS == 0 {
                return Interrupt::SystemCall;
            }
            if let Some(interrupt) = Self::stopped(kernel) {
                return interrupt;
            }
        }
    }

    fn take_interrupt(&mut self, wait: bool) -> Option<Interrupt> {
        let vector = cpu::take_interrupt(wait);
        self.memory.enter(self.cpu);
        vector.and_then(|vector| self.interrupts.take(vector))
    }

    fn clock(&self) -> Clock {
        self.clock
    }

    fn set_timer(&mut self, count: u32) {
        interrupts::write(Slot::LocalApic, INITIAL_COUNT, count);
    }

    fn events(&self) -> Events {
        Events {
            ticks: processor::time_stamp(),
            root_loads: self.memory.machine.root_loads,
            flushes: self.memory.machine.flushes,
            unexpected: self.interrupts.unexpected + cpu::ABSORBED.load(Relaxed),
        }
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

/// Reads a register of PCI configuration, which is then the one that the data port is for.
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
        check_write(register, read_pci(function, register), value, self.unsafe_dma)?;
        // SAFETY: D1: the filter lets no bit change that gives a device reach.
        unsafe { processor::out32(CONFIG_DATA, value) }
        Ok(())
    }
}

/// Switches bus mastering off in every function of every bus; in how many it had been on. A device
/// that may read and write memory by itself can break every promise of the kernel (`hazards` 14).
fn disable_bus_masters() -> u32 {
    let (mut disabled, mut functions) = (0, 0);
    for number in 0..=u16::MAX {
        let function = PciFunction::from_number(number);
        if number & 7 == 0 {
            // Functions 1 to 7 only exist beside a function 0 that says so.
            let header = read_pci(function, PciRegister::HEADER);
            functions = if header == u32::MAX { 0 } else { 1 + (header >> 23 & 1) * 7 };
        }
        let exists = u32::from(number & 7) < functions;
        let command = if exists { read_pci(function, PciRegister::COMMAND) } else { 0 };
        if command & 1 << 2 != 0 && command != u32::MAX {
            disabled += 1;
            // SAFETY: D1: this takes reach from a device; the upper half is a status register in
            // which zeros change nothing.
            unsafe { processor::out32(CONFIG_DATA, command & 0xfffb) }
        }
    }
    disabled
}

/// The port of QEMU's isa-debug-exit device; 0 if there is none.
static EXIT_PORT: AtomicU16 = AtomicU16::new(0);

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
        unsafe { asm!("cli", "hlt") }
    }
}

/// COM1.
const DEBUG_PORT: u16 = 0x3f8;

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

/// CR0, CR2, CR3, CR4, RSP and RBP, which say something about a failure of the kernel.
pub fn failure_registers() -> [u64; 6] {
    let (cr0, cr2, cr3) = (read!("mov {}, cr0"), read!("mov {}, cr2"), read!("mov {}, cr3"));
    [cr0, cr2, cr3, read!("mov {}, cr4"), read!("mov {}, rsp"), read!("mov {}, rbp")]
}

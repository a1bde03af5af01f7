//! The simulated machine with all that a client kernel needs: a processor that runs programs,
//! devices, a heap. It implements the traits of [`execution`](crate::execution) as the real machine
//! does, on the same checks, so that a kernel can be tested on a host.
//!
//! Programs are closures. [`SimulatedHal`] has one, which plays all programs: it is called with the
//! registers of the program that runs, and tells by their [`SimulatedContext::name`] whose they
//! are. It acts through a [`UserCpu`] as an instruction would, and returns the interrupt that stops
//! it; a system call is light if it was made at an address of the upper half.

use std::boxed::Box as StdBox;
use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::vec::Vec;

use heliox_types::{
    Breakpoint, Clock, Events, FrameRange, HeapError, Interrupt, Irq, LightCall, NoSuchLine,
    PAGE_BYTES, Register, RegisterError, SavedRegisters, USER_END, VirtualAddress,
};

use super::{Simulated, UserCpu};
use crate::cpu::{CpuIndex, CurrentCpu};
use crate::execution::{
    Change, Execution, Heap, Kernel, LightReturn, PortPermissions, Registers, Running,
};
use crate::geometry::FourLevel;
use crate::irq::IrqControl;
use crate::memory::{Memory, Paging};
use crate::page_map::PageMapUse;
use crate::port::{self, NotInRange, PortRange, Ports};

/// The registers in which a light call carries a message.
const MESSAGE: [Register; 9] = [
    Register::Rax,
    Register::Rbx,
    Register::Rbp,
    Register::R9,
    Register::R10,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// The flags that a kernel can set, those it clears, and those of a new program.
const SETTABLE_FLAGS: u64 =
    1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 21;
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 14;
const INITIAL_FLAGS: u64 = 1 << 9 | 1 << 1;

/// Breakpoints of a context.
const BREAKPOINTS: usize = 4;

/// The registers of a simulated program.
#[derive(Debug)]
pub struct SimulatedContext {
    name: u64,
    saved: SavedRegisters,
    fs_base: u64,
    gs_base: u64,
    light_word: u64,
    breakpoints: [Option<Breakpoint>; BREAKPOINTS],
    /// Name of the port permissions; 0 for none.
    ports: u64,
    /// Its room in the heap.
    _room: Room,
}

impl SimulatedContext {
    /// A number that no other context of the machine has.
    #[must_use]
    pub const fn name(&self) -> u64 {
        self.name
    }

    /// The base of the GS segment.
    #[must_use]
    pub const fn gs_base(&self) -> u64 {
        self.gs_base
    }

    /// Moves the instruction pointer as a program does, anywhere.
    pub const fn jump(&mut self, address: u64) {
        self.saved.instruction_pointer = address;
    }
}

fn user(address: VirtualAddress) -> Result<u64, RegisterError> {
    if address.is_user() { Ok(address.get()) } else { Err(RegisterError::NotAUserAddress(address)) }
}

impl Registers for SimulatedContext {
    type PortPermissions = SimulatedPorts;

    fn saved(&self) -> SavedRegisters {
        self.saved
    }

    fn set(&mut self, change: Change) -> Result<(), RegisterError> {
        match change {
            Change::Register(register, value) => self.saved.set_register(register, value),
            Change::InstructionPointer(address) => {
                self.saved.instruction_pointer = user(address)?;
            }
            Change::Flags(flags) => {
                let kept = self.saved.flags & !(SETTABLE_FLAGS | CLEARED_FLAGS);
                self.saved.flags = kept | flags & SETTABLE_FLAGS;
            }
            Change::FsBase(address) => self.fs_base = user(address)?,
            Change::GsBase(address) => self.gs_base = user(address)?,
            Change::LightWord(value) => self.light_word = value,
            Change::Breakpoint(number, breakpoint) => {
                let slot = self.breakpoints.get_mut(number);
                *slot.ok_or(RegisterError::NoSuchBreakpoint(number))? = breakpoint;
            }
            Change::PassBreakpoint => {}
        }
        Ok(())
    }

    fn set_port_permissions(&mut self, permissions: Option<&SimulatedPorts>) {
        self.ports = permissions.map_or(0, |ports| ports.name);
    }
}

/// Which ports programs may use.
#[derive(Debug)]
pub struct SimulatedPorts {
    name: u64,
    granted: Vec<bool>,
    /// Counts changes, of all sets of the machine: what is loaded is no longer right.
    changes: Rc<Cell<u64>>,
    _room: Room,
}

impl PortPermissions for SimulatedPorts {
    type PortRange = PortRange;

    fn set(&mut self, range: PortRange, allowed: bool) {
        self.granted[usize::from(range.first())..=usize::from(range.last())].fill(allowed);
        self.changes.set(self.changes.get() + 1);
    }

    fn next(&self, from: u16) -> Option<u16> {
        let allowed = self.granted.iter().skip(usize::from(from)).position(|granted| *granted)?;
        Some(from + allowed as u16)
    }
}

/// Bytes that an object takes of the heap, given back when it is dropped.
#[derive(Debug)]
struct Room {
    bytes: usize,
    left: Rc<Cell<usize>>,
}

impl Room {
    fn take(left: &Rc<Cell<usize>>, bytes: usize) -> Result<Self, HeapError> {
        match left.get().checked_sub(bytes) {
            Some(rest) => left.set(rest),
            None => return Err(HeapError::NoSlot { bytes }),
        }
        Ok(Self { bytes, left: Rc::clone(left) })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.left.set(self.left.get() + self.bytes);
    }
}

/// A kernel object.
#[derive(Debug)]
pub struct SimulatedBox<T> {
    object: StdBox<T>,
    _room: Room,
}

impl<T> Deref for SimulatedBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

impl<T> DerefMut for SimulatedBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.object
    }
}

/// What programs do: a step of the one whose registers are given.
pub type Program =
    StdBox<dyn FnMut(&mut UserCpu<'_, FourLevel>, &mut SimulatedContext) -> Result<(), Interrupt>>;

/// A simulated machine, as the client kernel may use it.
pub struct SimulatedHal {
    memory: Memory<Simulated<FourLevel>>,
    cpu: CurrentCpu,
    program: Option<Program>,
    /// Names of contexts and of port permissions given so far.
    names: u64,
    /// Bytes that the heap has left, and pages that it has not lent yet.
    room: Rc<Cell<usize>>,
    heap: FrameRange,
    changes: Rc<Cell<u64>>,
    /// The port permissions that the processor has, and how many changes there had been.
    loaded_ports: (u64, u64),
}

impl fmt::Debug for SimulatedHal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SimulatedHal({} names)", self.names)
    }
}

impl SimulatedHal {
    /// A machine on `memory`, whose heap has `pages` pages.
    #[must_use]
    pub fn new(memory: Memory<Simulated<FourLevel>>, pages: u64) -> Self {
        // Numbers of frames that are no memory: the heap's pages are never mapped.
        let first = 1 << 39;
        Self {
            memory,
            cpu: CurrentCpu::simulated(CpuIndex::BOOT),
            program: None,
            names: 0,
            room: Rc::new(Cell::new(0)),
            heap: FrameRange::new(first, first + pages).unwrap_or(FrameRange::EMPTY),
            changes: Rc::new(Cell::new(0)),
            loaded_ports: (0, 0),
        }
    }

    /// Sets what programs do.
    pub fn set_program(&mut self, program: Program) {
        self.program = Some(program);
    }

    /// The machine itself, for what devices and time do to it.
    pub fn machine(&mut self) -> &mut Simulated<FourLevel> {
        self.memory.machine_mut()
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// The processor's ports are those of the running context, or none.
    fn check_ports(&mut self, context: &SimulatedContext) {
        if self.loaded_ports != (context.ports, self.changes.get()) || context.ports == 0 {
            self.loaded_ports = (0, 0);
            self.memory.machine_mut().permit_ports(CpuIndex::BOOT, []);
        }
    }

    /// Runs a program until it stops.
    fn run(&mut self, context: &mut SimulatedContext) -> Interrupt {
        self.check_ports(context);
        let Some(mut program) = self.program.take() else {
            return Interrupt::Exception { vector: 6, error_code: 0 };
        };
        let machine = self.memory.machine_mut();
        let interrupt = loop {
            if let Some(interrupt) = machine.run(self.cpu, context, 1, &mut program) {
                break interrupt;
            }
        };
        self.program = Some(program);
        let interrupt = self.taken(interrupt);
        self.memory.enter(self.cpu);
        interrupt
    }

    /// A line that interrupts is off until it is enabled again.
    fn taken(&mut self, interrupt: Interrupt) -> Interrupt {
        if let Interrupt::External(irq) = interrupt {
            let machine = self.memory.machine_mut();
            machine.set_line_masked(irq.number(), true);
            machine.acknowledge_line(irq.number());
        }
        interrupt
    }
}

impl Heap for SimulatedHal {
    type Box<T> = SimulatedBox<T>;

    fn new_box<T>(&mut self, object: T) -> Result<SimulatedBox<T>, (T, HeapError)> {
        let bytes = size_of::<T>().max(64).next_power_of_two();
        if bytes as u64 > PAGE_BYTES {
            return Err((object, HeapError::TooLarge { bytes }));
        }
        match Room::take(&self.room, bytes) {
            Ok(room) => Ok(SimulatedBox { object: StdBox::new(object), _room: room }),
            Err(error) => Err((object, error)),
        }
    }

    fn heap_frames(&self) -> FrameRange {
        self.heap
    }

    fn grow_heap(&mut self, frames: FrameRange) -> Result<(), HeapError> {
        self.take_heap(frames)?;
        self.room.set(self.room.get() + frames.bytes() as usize);
        Ok(())
    }

    fn place_slice<T: 'static>(
        &mut self,
        frames: FrameRange,
        count: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<&'static mut [T], HeapError> {
        let bytes = count.saturating_mul(size_of::<T>());
        if bytes as u64 > frames.bytes() {
            return Err(HeapError::TooLarge { bytes });
        }
        self.take_heap(frames)?;
        Ok((0..count).map(make).collect::<Vec<T>>().leak())
    }
}

impl SimulatedHal {
    /// Takes pages of the heap, from its beginning on.
    fn take_heap(&mut self, frames: FrameRange) -> Result<(), HeapError> {
        if frames.is_empty()
            || frames.start() != self.heap.start()
            || frames.end() > self.heap.end()
        {
            return Err(HeapError::NotFree(frames));
        }
        self.heap = FrameRange::new(frames.end(), self.heap.end()).unwrap_or(FrameRange::EMPTY);
        Ok(())
    }
}

impl Execution for SimulatedHal {
    type Memory = Memory<Simulated<FourLevel>>;
    type Map = PageMapUse;
    type Cpu = CurrentCpu;
    type PortRange = PortRange;
    type Context = SimulatedContext;
    type PortPermissions = SimulatedPorts;

    fn memory(&mut self) -> &mut Self::Memory {
        &mut self.memory
    }

    fn memory_view(&self) -> &Self::Memory {
        &self.memory
    }

    fn cpu(&self) -> CurrentCpu {
        self.cpu
    }

    fn new_context(&mut self) -> Result<SimulatedContext, HeapError> {
        // As much as the real machine's contexts take.
        let room = Room::take(&self.room, 2048)?;
        Ok(SimulatedContext {
            name: self.name(),
            saved: SavedRegisters { flags: INITIAL_FLAGS, ..SavedRegisters::default() },
            fs_base: 0,
            gs_base: 0,
            light_word: 0,
            breakpoints: [None; BREAKPOINTS],
            ports: 0,
            _room: room,
        })
    }

    fn new_port_permissions(&mut self) -> Result<SimulatedPorts, HeapError> {
        let room = Room::take(&self.room, 2 * PAGE_BYTES as usize)?;
        let changes = Rc::clone(&self.changes);
        let name = self.name();
        Ok(SimulatedPorts { name, granted: std::vec![false; 1 << 16], changes, _room: room })
    }

    fn load_port_permissions(
        &mut self,
        context: &SimulatedContext,
        permissions: &SimulatedPorts,
    ) -> bool {
        let wanted = (permissions.name, self.changes.get());
        if context.ports != permissions.name || self.loaded_ports == wanted {
            return false;
        }
        self.loaded_ports = wanted;
        let granted = permissions.granted.iter().zip(0..).filter(|(granted, _)| **granted);
        let ranges: Vec<_> = granted.map(|(_, port)| port..=port).collect();
        self.memory.machine_mut().permit_ports(CpuIndex::BOOT, ranges);
        true
    }

    fn execute_kernel<K: Kernel<Machine = Self>>(kernel: &mut K) -> Interrupt {
        loop {
            let Running { machine, map, context } = kernel.running();
            machine.memory.load(machine.cpu, map);
            let interrupt = machine.run(context);
            let is_light = K::ANSWERS_LIGHT_CALLS
                && interrupt == Interrupt::SystemCall
                && context.saved.instruction_pointer >> 63 != 0;
            if !is_light {
                return interrupt;
            }
            let caller = context.name;
            let message = MESSAGE.map(|register| context.register(register));
            let [rdi, rsi, rdx, r8, r9] =
                [Register::Rdi, Register::Rsi, Register::Rdx, Register::R8, Register::R9]
                    .map(|register| context.register(register));
            let instruction_pointer = context.saved.instruction_pointer;
            context.saved.flags = INITIAL_FLAGS;
            let call = LightCall { rdi, rsi, rdx, r8, r9, instruction_pointer };
            if let Some(answer) = kernel.light_call(call) {
                end_light_call(answer, caller, message);
            } else if let Some(answer) = kernel.light_call_rest(call) {
                end_light_call(answer, caller, message);
            } else {
                return interrupt;
            }
        }
    }

    fn take_interrupt(&mut self, wait: bool) -> Option<Interrupt> {
        let cpu = self.cpu;
        let machine = self.memory.machine_mut();
        let interrupt = match wait {
            true => machine.wait_for_interrupt(cpu),
            false => machine.pending_interrupt(cpu),
        };
        self.memory.enter(cpu);
        interrupt.map(|interrupt| self.taken(interrupt))
    }

    /// The ticks are microseconds.
    fn events(&self) -> Events {
        Events { ticks: self.memory.machine().now(), ..Events::default() }
    }

    fn clock(&self) -> Clock {
        Clock::new(0, 1_000_000, 1_000_000)
    }

    fn set_timer(&mut self, count: u32) {
        let deadline = (count != 0).then(|| self.now() + u64::from(count));
        self.memory.machine_mut().set_deadline(CpuIndex::BOOT, deadline);
    }

    fn now(&self) -> u64 {
        self.memory.machine().now()
    }

    fn set_deadline(&mut self, deadline: Option<u64>) {
        self.memory.machine_mut().set_deadline(CpuIndex::BOOT, deadline);
    }
}

impl IrqControl for SimulatedHal {
    fn enable_irq(&mut self, irq: Irq) -> Result<(), NoSuchLine> {
        self.memory.machine_mut().set_line_masked(irq.number(), false);
        Ok(())
    }

    fn disable_irq(&mut self, irq: Irq) {
        self.memory.machine_mut().set_line_masked(irq.number(), true);
    }
}

/// Implements the reading and the writing of ports with one width.
macro_rules! port_access {
    ($read:ident, $write:ident, $value:ty) => {
        fn $read(&self, range: PortRange, port: u16) -> Result<$value, NotInRange> {
            range.check(port, size_of::<$value>() as u16)?;
            Ok(self.memory.machine().read_port(port) as $value)
        }

        fn $write(&mut self, range: PortRange, port: u16, value: $value) -> Result<(), NotInRange> {
            range.check(port, size_of::<$value>() as u16)?;
            self.memory.machine_mut().write_port(port, value.into());
            Ok(())
        }
    };
}

impl Ports for SimulatedHal {
    fn initial_ports(&self) -> impl Iterator<Item = PortRange> {
        port::initial_ports(false)
    }

    port_access!(in8, out8, u8);
    port_access!(in16, out16, u16);
    port_access!(in32, out32, u32);
}

/// Sets the registers of the program that goes on after the light call of `caller`.
fn end_light_call(
    LightReturn { next, result, tag }: LightReturn<'_, SimulatedHal>,
    caller: u64,
    message: [u64; MESSAGE.len()],
) {
    let Running { context, .. } = next;
    if context.name != caller {
        for (register, value) in MESSAGE.into_iter().zip(message) {
            context.set_register(register, value);
        }
    }
    if let Some(tag) = tag {
        context.set_register(Register::R9, tag);
    }
    context.set_register(Register::Rdi, context.light_word);
    context.set_register(Register::Rsi, result);
    context.set_register(Register::Rdx, result);
    context.set_register(Register::R8, context.gs_base);
    context.set_register(Register::Rcx, context.saved.instruction_pointer);
    context.set_register(Register::R11, INITIAL_FLAGS);
    context.saved.flags = INITIAL_FLAGS;
}

/// The last address of programs is below it.
const _: () = assert!(USER_END < 1 << 47);

//! Running programs.
//!
//! [`Executor::execute`] is a function call that runs a program until it stops and returns why
//! (thesis, sections 4.5 and 6.8). It allocates nothing and cannot fail. Interrupts that nobody
//! asked for are counted and do not stop the program.

use core::fmt;

use super::context::{Context, SYSTEM_CALL_VECTOR};
use super::cpu::Cpu;
use super::debug::DebugRegisters;
use super::features::Features;
use super::heap::HeapError;
use super::irq::{InterruptController, Taken};
use super::port_permissions::PortPermissions;
use super::processor;
use super::timer::{self, TIMER_VECTOR};
use crate::irq::Irq;

const DEBUG_VECTOR: u64 = 1;
const NON_MASKABLE_VECTOR: u64 = 2;
const PAGE_FAULT_VECTOR: u64 = 14;
/// First vector that is not an exception.
const FIRST_INTERRUPT_VECTOR: u64 = 32;

/// Why a program stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// It made a system call. RCX and R11 hold its instruction pointer and flags.
    SystemCall,
    /// It touched memory that it may not touch in that way.
    PageFault {
        /// The address that it touched.
        address: u64,
        /// What kind of access it was.
        error: PageFaultError,
    },
    /// It caused another exception.
    Exception {
        /// The processor's number of the exception, 0 to 31.
        vector: u8,
        /// The error code; 0 for exceptions without one.
        error_code: u64,
    },
    /// The timer's deadline passed (or, for a far one, may have: the timer may be early).
    Timer,
    /// A device asked for attention on a line that was on, and is off now.
    External(Irq),
}

/// The error code of a page fault (AMD64 manual volume 2, section 8.4.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PageFaultError(u64);

impl PageFaultError {
    /// Whether there was a mapping, so that its rights were at fault.
    #[must_use]
    pub fn is_protection(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether the access was a write.
    #[must_use]
    pub fn is_write(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// Whether the access was an instruction fetch.
    #[must_use]
    pub fn is_execute(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    /// The code as the processor gave it.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PageFaultError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match (self.is_execute(), self.is_write()) {
            (true, _) => "execute",
            (_, true) => "write",
            _ => "read",
        };
        let cause = if self.is_protection() { "not allowed" } else { "not mapped" };
        write!(formatter, "{access}, {cause}")
    }
}

impl fmt::Debug for PageFaultError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "PageFaultError({:#x}: {self})", self.0)
    }
}

/// The part of a CPU that runs programs.
#[derive(Debug)]
pub(super) struct Executor {
    cpu: Cpu,
    features: Features,
    /// Interrupts that nobody asked for.
    unexpected: u64,
    /// Time-stamp counter when the first program was entered; 0 before.
    first_entry: u64,
    pub(super) interrupts: InterruptController,
}

impl Executor {
    pub(super) fn new(cpu: Cpu, features: Features, interrupts: InterruptController) -> Self {
        Self { cpu, features, unexpected: 0, first_entry: 0, interrupts }
    }

    /// A context with all registers zero.
    pub(super) fn new_context(&mut self) -> Result<Context, HeapError> {
        Context::new(self.features.extended_state)
    }

    /// Runs the program of `context` in the address space that is loaded until it stops.
    ///
    /// # Safety
    /// The root that is loaded must carry the kernel half.
    #[inline]
    pub(super) unsafe fn execute(&mut self, context: &mut Context) -> Interrupt {
        loop {
            if !context.registers.is_resident() {
                self.load(context);
            }
            let frame = &raw mut context.registers.frame;
            // SAFETY: the frame is in use since its context was loaded, and holds what a program
            // may have (context.rs); the root carries the kernel (caller).
            let vector = unsafe {
                self.cpu.run(frame);
                (*frame).vector
            };
            if vector == SYSTEM_CALL_VECTOR && !context.debug.are_used() {
                return Interrupt::SystemCall;
            }
            if let Some(interrupt) = self.interrupt(context) {
                return interrupt;
            }
        }
    }

    /// Brings a context into the CPU.
    #[cold]
    fn load(&mut self, context: &mut Context) {
        self.features.extended_state.load(&mut context.registers);
        // SAFETY: X1: the registers do not move, and are resident as long as they exist.
        unsafe { self.cpu.use_frame(&raw mut context.registers.frame) }
        self.cpu.open_ports(context.ports);
        if context.debug.are_used() {
            context.debug.load();
        }
        if self.first_entry == 0 {
            self.first_entry = processor::time_stamp();
        }
    }

    /// Why a program stopped; `None` if it is to go on. Its breakpoints are switched off until it
    /// is loaded again. Kept apart, so that system calls need no registers for it.
    #[inline(never)]
    fn interrupt(&mut self, context: &mut Context) -> Option<Interrupt> {
        if context.debug.are_used() {
            DebugRegisters::unload();
            self.features.extended_state.evict();
        }
        let frame = &context.registers.frame;
        match frame.vector {
            SYSTEM_CALL_VECTOR => Some(Interrupt::SystemCall),
            PAGE_FAULT_VECTOR => Some(Interrupt::PageFault {
                address: processor::read_cr2(),
                error: PageFaultError(frame.error_code),
            }),
            NON_MASKABLE_VECTOR => {
                self.unexpected += 1;
                None
            }
            DEBUG_VECTOR => {
                context.debug.take_status();
                Some(Interrupt::Exception { vector: DEBUG_VECTOR as u8, error_code: 0 })
            }
            exception if exception < FIRST_INTERRUPT_VECTOR => {
                Some(Interrupt::Exception { vector: exception as u8, error_code: frame.error_code })
            }
            // Interrupt vectors have 8 bits.
            vector => self.acknowledge(vector as u8),
        }
    }

    /// Waits for an interrupt with no program running: the timer's, or that of a line which is on;
    /// `None` if something else ended the wait.
    pub(super) fn wait(&mut self) -> Option<Interrupt> {
        let vector = self.cpu.wait()?;
        self.acknowledge(vector)
    }

    /// Loads the port permissions that `context` names, if they are `permissions`. Whether that
    /// changed what its program may do.
    pub(super) fn load_ports(&mut self, context: &Context, permissions: &PortPermissions) -> bool {
        let resident = context.registers.is_resident();
        if context.ports != permissions.name() || resident && self.cpu.are_ports_open() {
            return false;
        }
        self.cpu.load_ports(permissions.name(), permissions.halves());
        // The ports open when the context is loaded.
        self.features.extended_state.evict();
        true
    }

    /// Interrupts that nobody asked for, since the boot.
    pub(super) fn unexpected(&self) -> u64 {
        self.unexpected + self.cpu.absorbed()
    }

    /// The time-stamp counter when the first program was entered; `None` before.
    pub(super) fn first_entry(&self) -> Option<u64> {
        (self.first_entry != 0).then_some(self.first_entry)
    }

    /// Ends the interrupt `vector`, and what it is for the client. Those that nobody asked for are
    /// counted.
    fn acknowledge(&mut self, vector: u8) -> Option<Interrupt> {
        let taken = self.interrupts.take(vector);
        timer::end_of_interrupt(vector);
        match taken {
            Taken::Report(irq) => return Some(Interrupt::External(irq)),
            Taken::Kept => {}
            Taken::NotALine if vector == TIMER_VECTOR => return Some(Interrupt::Timer),
            Taken::NotALine => self.unexpected += 1,
        }
        None
    }
}

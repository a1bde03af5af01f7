//! Running programs.
//!
//! [`Executor::execute`] is a function call that runs a program until it stops and returns why
//! (thesis, sections 4.5 and 6.8). It allocates nothing and cannot fail. Interrupts that nobody
//! asked for are counted and do not stop the program.

use core::fmt;

use super::context::{Context, Frame, SYSTEM_CALL_VECTOR};
use super::cpu::Cpu;
use super::features::Features;
use super::heap::HeapError;
use super::processor;
use super::timer::{self, TIMER_VECTOR};

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
        let cause = if self.is_protection() {
            "not allowed"
        } else {
            "not mapped"
        };
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
}

impl Executor {
    pub(super) fn new(cpu: Cpu, features: Features) -> Self {
        Self {
            cpu,
            features,
            unexpected: 0,
            first_entry: 0,
        }
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
        if !context.registers.is_resident() {
            self.load(context);
        }
        let frame = &raw mut context.registers.frame;
        loop {
            // SAFETY: the frame is in use since its context was loaded, and holds what a program
            // may have (context.rs); the root carries the kernel (caller).
            let vector = unsafe {
                self.cpu.run(frame);
                (*frame).vector
            };
            if vector == SYSTEM_CALL_VECTOR {
                return Interrupt::SystemCall;
            }
            if let Some(interrupt) = self.interrupt(&context.registers.frame) {
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
        if self.first_entry == 0 {
            self.first_entry = processor::time_stamp();
        }
    }

    /// Why a program stopped, if it was not a system call; `None` if it is to go on.
    fn interrupt(&mut self, frame: &Frame) -> Option<Interrupt> {
        match frame.vector {
            PAGE_FAULT_VECTOR => Some(Interrupt::PageFault {
                address: processor::read_cr2(),
                error: PageFaultError(frame.error_code),
            }),
            NON_MASKABLE_VECTOR => {
                self.unexpected += 1;
                None
            }
            exception if exception < FIRST_INTERRUPT_VECTOR => Some(Interrupt::Exception {
                vector: exception as u8,
                error_code: frame.error_code,
            }),
            // Interrupt vectors have 8 bits.
            vector => self.acknowledge(vector as u8).then_some(Interrupt::Timer),
        }
    }

    /// Waits for an interrupt with no program running. Returns whether the timer's deadline
    /// ended the wait.
    pub(super) fn wait(&mut self) -> bool {
        match self.cpu.wait() {
            Some(vector) => self.acknowledge(vector),
            None => false,
        }
    }

    /// Interrupts that nobody asked for, since the boot.
    pub(super) fn unexpected(&self) -> u64 {
        self.unexpected + self.cpu.absorbed()
    }

    /// The time-stamp counter when the first program was entered; `None` before.
    pub(super) fn first_entry(&self) -> Option<u64> {
        (self.first_entry != 0).then_some(self.first_entry)
    }

    /// Ends the interrupt `vector`; whether it was the timer's. Others are counted.
    fn acknowledge(&mut self, vector: u8) -> bool {
        timer::end_of_interrupt(vector);
        if vector == TIMER_VECTOR {
            return true;
        }
        self.unexpected += 1;
        false
    }
}

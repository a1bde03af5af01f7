//! One running program.

use heliox_hal::domain::Owner;
use heliox_hal::execution::{Execution, Registers};
use heliox_hal::memory::Paging;
use heliox_hal::page_map::{PageMap, PageMapUse};
use heliox_hal::{Context, Hal};
use heliox_log::info;
use heliox_page_alloc::Domain;
use heliox_types::{Interrupt, Irq, Register, VirtualAddress};

use crate::devices::Devices;
use crate::system::System;

/// Bytes of a program's command line that it can read.
const COMMAND_LINE_BYTES: usize = 256;
/// Bytes of output that are collected until a line is complete.
const LINE_BYTES: usize = 160;

/// The number under which an alarm is raised: none of an exception.
const ALARM: u8 = 32;

/// The status of a program that was stopped for a fault.
const FAULT_STATUS: u8 = 62;

/// Whether a program can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It can.
    Ready,
    /// Not before the clock shows so many microseconds.
    Sleeping(u64),
    /// Not before the line fires, or the clock shows so many microseconds.
    WaitingFor(Irq, u64),
    /// It has ended, with this status.
    Ended(u8),
}

/// A program: an address space, registers, and what the kernel knows about it.
pub(crate) struct Program {
    command_line: [u8; COMMAND_LINE_BYTES],
    command_line_length: usize,
    line: [u8; LINE_BYTES],
    line_length: usize,
    domain: Domain<Owner>,
    map: PageMap,
    held: PageMapUse,
    pub(crate) context: Context,
    pub(crate) state: State,
    /// Where the program wants to go on after its next fault.
    pub(crate) fault_handler: Option<VirtualAddress>,
    /// When the clock shows so many microseconds, the program wants a fault.
    pub(crate) alarm: Option<u64>,
    /// Of its last page fault.
    pub(crate) last_fault_address: u64,
    /// What the processor said at its last exception 1.
    pub(crate) debug_status: u64,
    pub(crate) devices: Devices,
}

impl Program {
    /// A program that will start with the registers of `context`.
    pub(crate) fn new(
        command_line: &str,
        domain: Domain<Owner>,
        map: PageMap,
        held: PageMapUse,
        context: Context,
    ) -> Self {
        let mut program = Self {
            command_line: [0; COMMAND_LINE_BYTES],
            command_line_length: 0,
            line: [0; LINE_BYTES],
            line_length: 0,
            domain,
            map,
            held,
            context,
            state: State::Ready,
            fault_handler: None,
            alarm: None,
            last_fault_address: 0,
            debug_status: 0,
            devices: Devices::default(),
        };
        for (target, byte) in program.command_line.iter_mut().zip(command_line.bytes()) {
            *target = byte;
            program.command_line_length += 1;
        }
        program
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        let text = self.command_line.get(..self.command_line_length).unwrap_or(&[]);
        core::str::from_utf8(text).unwrap_or("").split(' ')
    }

    /// The first word of the command line.
    pub(crate) fn name(&self) -> &str {
        self.words().next().unwrap_or("")
    }

    /// Whether `word` is among the other words of the command line.
    pub(crate) fn has_argument(&self, word: &str) -> bool {
        self.words().skip(1).any(|argument| argument == word)
    }

    /// Eight bytes of the command line, zeros behind its end.
    pub(crate) fn command_line_word(&self, index: u64) -> u64 {
        let start = usize::try_from(index).ok().and_then(|index| index.checked_mul(8));
        let bytes = start.and_then(|start| self.command_line.get(start..)).unwrap_or(&[]);
        let mut word = [0; 8];
        for (target, byte) in word.iter_mut().zip(bytes) {
            *target = *byte;
        }
        u64::from_le_bytes(word)
    }

    /// Takes output of the program; every complete line is printed with the program's name. What
    /// is not printable ASCII shows as a question mark, so that output cannot pass for the
    /// kernel's.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' || self.line_length == LINE_BYTES {
                self.print_line();
            }
            if byte == b'\n' {
                continue;
            }
            if let Some(slot) = self.line.get_mut(self.line_length) {
                *slot = if (b' '..=b'~').contains(&byte) { byte } else { b'?' };
                self.line_length += 1;
            }
        }
    }

    fn print_line(&mut self) {
        let line = self.line.get(..self.line_length).unwrap_or(&[]);
        heliox_log::write_bytes(self.name().as_bytes());
        heliox_log::write_bytes(b": ");
        heliox_log::write_bytes(line);
        heliox_log::write_bytes(b"\r\n");
        self.line_length = 0;
    }

    /// Runs the program until it stops.
    pub(crate) fn run(&mut self, hal: &mut Hal) -> Interrupt {
        hal.execute(&self.held, &mut self.context)
    }

    /// Gives back everything that the program had; its domain dies.
    pub(crate) fn free(self, system: &mut System<'_>) {
        let Self { mut domain, map, held, .. } = self;
        system.begin_dying(&mut domain);
        system.hal().memory().detach(held);
        system.free_page_map(&mut domain, map);
    }

    /// Ends the program.
    pub(crate) fn end(&mut self, status: u8) {
        if self.line_length > 0 {
            self.print_line();
        }
        info!("{}: ended with status {status}", self.name());
        self.state = State::Ended(status);
    }

    /// Raises the alarm if its time has come. Whether it has.
    pub(crate) fn take_alarm(&mut self, now: u64) -> bool {
        let due = self.alarm.is_some_and(|alarm| now >= alarm);
        if due {
            self.alarm = None;
            self.fault(ALARM, 0, 0);
        }
        due
    }

    /// Deals with a fault: the program goes on at its handler, which finds the exception's
    /// number in RAX, the error code in RDX, the address in RCX, and all flags clear; without a
    /// handler it ends.
    pub(crate) fn fault(&mut self, vector: u8, error_code: u64, address: u64) {
        let Some(handler) = self.fault_handler.take() else {
            info!(
                "{}: stopped at {:#x} by exception {vector}, error code {error_code:#x}, address \
                 {address:#x}",
                self.name(),
                self.context.saved().instruction_pointer
            );
            self.end(FAULT_STATUS);
            return;
        };
        self.context.set_register(Register::Rax, u64::from(vector));
        self.context.set_register(Register::Rdx, error_code);
        self.context.set_register(Register::Rcx, address);
        self.context.set_flags(0);
        if self.context.set_instruction_pointer(handler).is_err() {
            self.end(FAULT_STATUS);
        }
    }

    /// Whether `interrupt` is a fault; then it is dealt with.
    pub(crate) fn take_fault(&mut self, hal: &mut Hal, interrupt: Interrupt) -> bool {
        match interrupt {
            Interrupt::Exception { vector: 13, .. }
                if self
                    .devices
                    .ports()
                    .is_some_and(|ports| hal.load_port_permissions(&self.context, ports)) => {}
            Interrupt::PageFault { address, error } => {
                self.last_fault_address = address;
                self.fault(14, error.bits(), address);
            }
            Interrupt::Exception { vector: 1, error_code } => {
                self.debug_status = error_code;
                self.fault(1, 0, 0);
            }
            Interrupt::Exception { vector, error_code } => self.fault(vector, error_code, 0),
            Interrupt::SystemCall | Interrupt::Timer | Interrupt::External(_) => return false,
        }
        true
    }
}

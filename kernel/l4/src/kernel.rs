//! The kernel: everything it knows, and its main loop.
//!
//! There is one [`Kernel`] on a machine. It is driven by events: a program runs until something
//! stops it, the kernel deals with that, and the scheduler says who runs next. What takes long is state in
//! the thread that asked for it ([`Work`]), done in steps when it is that thread's turn; between two
//! steps interrupts are looked at.

use core::fmt;

use heliox_abi::utcb::{self, ControlWord};
use heliox_abi::{IpcError, IpcErrorCode, Phase, ThreadId};
use heliox_hal::cpu::CurrentCpu;
use heliox_hal::execution::{Execution, Registers};
use heliox_hal::irq::IrqControl;
use heliox_hal::kernel_mapping::KernelMapping;
use heliox_hal::memory::{KernelMemory, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMapUse, TableSupply};
use heliox_hal::port::{PortRange, Ports};
use heliox_hal::region::PhysicalRegion;
use heliox_types::{Interrupt, Register};

use crate::database::{Database, Node, NodeId};
use crate::interrupts::Interrupts;
use crate::memory::MemoryNote;
use crate::run_queue::RunQueue;
use crate::scheduling::Lent;
use crate::space::{Space, Spaces};
use crate::thread::{NOBODY, Number, Thread, Work};
use crate::threads::Threads;
use crate::timers::{Deadline, Timers};
use crate::transfer::{Transfer, Transfers};
use crate::utcb::{UtcbPage, UtcbPages};

/// The machine: everything that the kernel needs of the abstraction layer.
pub trait Machine:
    Execution<
        Memory: PhysicalMemory + Paging + UserMemory + KernelMemory,
        Map = PageMapUse,
        Cpu = CurrentCpu,
        PortRange = PortRange,
    > + IrqControl
    + Ports
{
}

impl<M> Machine for M where
    M: Execution<
            Memory: PhysicalMemory + Paging + UserMemory + KernelMemory,
            Map = PageMapUse,
            Cpu = CurrentCpu,
            PortRange = PortRange,
        > + IrqControl
        + Ports
{
}

/// What the kernel needs besides the machine.
pub trait Surroundings {
    /// A page for the kernel's own use, which belongs to domain 0; `None` if there is none left.
    fn take_page(&mut self) -> Option<PhysicalRegion>;

    /// Gives such a page back.
    fn give_back(&mut self, page: PhysicalRegion);

    /// A line for the log.
    fn log(&mut self, line: fmt::Arguments<'_>);

    /// Bytes that a program prints through the kernel.
    fn print(&mut self, bytes: &[u8]);

    /// A character that was typed, if one was.
    fn read_character(&mut self) -> Option<u8>;
}

/// Memory for kernel objects, all of it taken when the kernel starts.
#[derive(Debug)]
pub struct Objects<'k, M: Machine> {
    /// One for each thread number; the length says which numbers there are.
    pub threads: &'k mut [Thread<M::Context>],
    /// As many as threads: their deadlines.
    pub deadlines: &'k mut [Deadline],
    /// As many as threads: those whose receive phase is to be looked at.
    pub checks: &'k mut [Number],
    /// Address spaces.
    pub spaces: &'k mut [Space<M::PortPermissions>],
    /// Pages of UTCBs.
    pub utcb_pages: &'k mut [UtcbPage],
    /// Half as many as threads are enough: transfers under way.
    pub transfers: &'k mut [Transfer],
    /// Mappings of memory, and their hash tables.
    pub mappings: DatabaseParts<'k, MemoryNote>,
    /// Mappings of ports, and their hash tables.
    pub port_mappings: DatabaseParts<'k, ()>,
}

/// What a mapping database is made of.
#[derive(Debug)]
pub struct DatabaseParts<'k, R> {
    /// One more than there can be mappings.
    pub nodes: &'k mut [Node<R>],
    /// Buckets: a power of two.
    pub by_place: &'k mut [NodeId],
    /// Buckets: a power of two.
    pub by_object: &'k mut [NodeId],
}

/// The kernel, on a machine `M` in surroundings `S`.
#[derive(Debug)]
pub struct Kernel<'k, M: Machine, S> {
    pub(crate) machine: M,
    pub(crate) surroundings: S,
    pub(crate) supply: TableSupply,
    pub(crate) threads: Threads<'k, M::Context>,
    pub(crate) spaces: Spaces<'k, M::PortPermissions>,
    pub(crate) utcbs: UtcbPages<'k>,
    pub(crate) mappings: Database<'k, MemoryNote>,
    pub(crate) port_mappings: Database<'k, ()>,
    pub(crate) transfers: Transfers<'k>,
    pub(crate) interrupts: Interrupts,
    pub(crate) ready: RunQueue,
    pub(crate) timers: Timers<'k>,
    pub(crate) checks: Checks<'k>,
    /// The thread that runs, or [`NOBODY`].
    pub(crate) current: Number,
    /// Since when it runs.
    pub(crate) since: u64,
    /// The thread that last began to wait for a message, or [`NOBODY`].
    pub(crate) waits: Number,
    /// Whether there is a light path at all.
    pub(crate) has_light_path: bool,
    /// Where the stub of Ipc goes on.
    pub(crate) after_ipc: u64,
    /// What the thread that runs got from another one.
    pub(crate) lent: Option<Lent>,
    /// The deadline that the machine's timer is set to.
    pub(crate) armed: Option<u64>,
    /// The thread that got a message in the current system call, or [`NOBODY`].
    pub(crate) woken: Number,
    /// Whoever became runnable since the last choice did so by a timer or an interrupt of a device.
    pub(crate) asynchronous: bool,
    /// One more than the largest number that a thread had so far.
    pub(crate) thread_limit: u32,
    /// The number of the last revocation.
    pub(crate) last_mark: u32,
    /// The memory that sigma0 has, by rising addresses.
    pub(crate) regions: &'k [PhysicalRegion],
    /// Whether any space has ever had a redirector.
    pub(crate) had_redirectors: bool,
    /// The first space that is to be taken apart with nobody waiting for that, plus one.
    pub(crate) dying: u32,
    pub(crate) kip: KernelMapping,
    /// Where the stubs of system calls are.
    pub(crate) stubs: KernelMapping,
    /// What runs when there is nothing to run, which does not happen.
    pub(crate) spare: (PageMapUse, M::Context),
    /// What the machine ends with, once it is to end.
    pub(crate) end: Option<u8>,
}

/// Threads whose receive phase is to be looked at, first come first served.
#[derive(Debug)]
pub(crate) struct Checks<'k> {
    ring: &'k mut [Number],
    first: usize,
    count: usize,
}

impl<'k> Checks<'k> {
    pub(crate) fn new(ring: &'k mut [Number]) -> Self {
        Self { ring, first: 0, count: 0 }
    }

    /// Adds a thread. There is room for every thread, and none is added twice.
    pub(crate) fn push(&mut self, number: Number) {
        let length = self.ring.len();
        let at = (self.first + self.count) % length.max(1);
        if let Some(slot) = self.ring.get_mut(at) {
            *slot = number;
            self.count += 1;
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Number> {
        self.count = self.count.checked_sub(1)?;
        let number = self.ring.get(self.first).copied();
        self.first = (self.first + 1) % self.ring.len().max(1);
        number
    }
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// Runs threads until the machine is to end; answers the status that it ends with.
    pub fn run(&mut self) -> u8 {
        loop {
            if let Some(status) = self.end {
                return status;
            }
            self.step();
        }
    }

    /// One turn of the main loop: until the next event.
    pub fn step(&mut self) {
        if let Some(number) = self.checks.pop() {
            self.check_receiver(number);
            self.poll();
            return;
        }
        if self.is_undisturbed() {
            let interrupt = M::execute_kernel(self);
            return self.take(interrupt);
        }
        let interrupt = match self.dispatch() {
            NOBODY if self.dismantle_some() => return self.poll(),
            NOBODY => match self.machine.wait_for_interrupt() {
                Some(interrupt) => interrupt,
                None => return,
            },
            number if self.threads.at(number).work != Work::None => {
                self.go_on(number);
                self.poll();
                return;
            }
            number => {
                self.allow_light_path(number);
                M::execute_kernel(self)
            }
        };
        self.take(interrupt);
    }

    /// Looks whether an interrupt is pending, in the middle of something long.
    fn poll(&mut self) {
        if let Some(interrupt) = self.machine.poll_interrupt() {
            self.take(interrupt);
        }
    }

    /// One step of a system call that takes long.
    fn go_on(&mut self, number: Number) {
        match self.threads.at(number).work {
            Work::None => {}
            Work::Unmap(unmapping) => self.go_on_unmapping(number, unmapping),
            Work::Transfer => self.go_on_transferring(number),
            Work::Dismantle { space, from } => {
                let next = self.dismantle(space, from);
                self.threads.at_mut(number).work =
                    next.map_or(Work::None, |from| Work::Dismantle { space, from });
                self.settle(number);
            }
        }
    }

    /// Deals with what stopped a program.
    pub(crate) fn take(&mut self, interrupt: Interrupt) {
        let current = self.current;
        match interrupt {
            Interrupt::SystemCall => self.system_call(current),
            Interrupt::PageFault { address, error } => self.page_fault(current, address, error),
            Interrupt::Exception { vector, error_code } => {
                self.exception(current, vector, error_code);
            }
            Interrupt::Timer => {
                self.asynchronous = true;
                self.armed = None;
                self.timer_expired();
            }
            Interrupt::External(line) => {
                self.asynchronous = true;
                self.interrupt(line);
            }
        }
    }

    // --- Threads' memory and registers ---

    /// A word of a thread's UTCB, counted from the block's beginning; 0 if it has none.
    pub(crate) fn utcb_word(&mut self, number: Number, word: usize) -> u64 {
        let Some(utcb) = self.threads.at(number).utcb else { return 0 };
        let Some(mapping) = &self.utcbs.at(utcb.page).mapping else { return 0 };
        match mapping.word(usize::from(utcb.slot) * utcb::WORDS + word) {
            Ok(word) => self.machine.memory().read_word(word),
            Err(_) => 0,
        }
    }

    /// Writes a word of a thread's UTCB, if it has one.
    pub(crate) fn set_utcb_word(&mut self, number: Number, word: usize, value: u64) {
        let Some(utcb) = self.threads.at(number).utcb else { return };
        let Some(mapping) = &self.utcbs.at(utcb.page).mapping else { return };
        if let Ok(word) = mapping.word(usize::from(utcb.slot) * utcb::WORDS + word) {
            // The mapping can be written.
            let _ = self.machine.memory().write_word(word, value);
        }
    }

    /// All message registers of a thread that does not run, up to number `N - 1`.
    pub(crate) fn message<const N: usize>(&mut self, number: Number) -> [u64; N] {
        let mut bytes = [[0; 8]; N];
        let first = MESSAGE_REGISTERS.len();
        if let Some(beyond) = bytes.get_mut(first..) {
            let Self { machine, threads, utcbs, .. } = self;
            let place = utcb_place(threads, utcbs, number, utcb::message_word(first));
            if let Some((mapping, offset)) = place {
                // Within the block: the message is not longer.
                let _ = machine.memory().read_bytes(mapping, offset, beyond.as_flattened_mut());
            }
        }
        let mut words = bytes.map(u64::from_le_bytes);
        if let Some(context) = self.threads.at(number).context() {
            for (word, register) in words.iter_mut().zip(MESSAGE_REGISTERS) {
                *word = context.register(register);
            }
        }
        words
    }

    /// Writes message registers of a thread that does not run, from number 1 on; the first of `words`, for
    /// number 0, does not count.
    pub(crate) fn set_message<const N: usize>(&mut self, number: Number, words: [u64; N]) {
        if let Some(context) = self.threads.at_light(number).context_mut() {
            for (word, register) in words.into_iter().zip(MESSAGE_REGISTERS).skip(1) {
                context.set_register(register, word);
            }
        }
        let bytes = words.map(u64::to_le_bytes);
        let first = MESSAGE_REGISTERS.len();
        if let Some(beyond) = bytes.get(first..) {
            let Self { machine, threads, utcbs, .. } = self;
            let place = utcb_place(threads, utcbs, number, utcb::message_word(first));
            if let Some((mapping, offset)) = place {
                // Within the block, and the mapping can be written.
                let _ = machine.memory().write_bytes(mapping, offset, beyond.as_flattened());
            }
        }
    }

    /// A thread control register.
    pub(crate) fn control_word(&mut self, number: Number, word: ControlWord) -> u64 {
        self.utcb_word(number, word.word())
    }

    /// Writes a thread control register.
    pub(crate) fn set_control_word(&mut self, number: Number, word: ControlWord, value: u64) {
        self.set_utcb_word(number, word.word(), value);
    }

    /// A message register of a thread that does not run.
    pub(crate) fn message_register(&mut self, number: Number, index: usize) -> u64 {
        match MESSAGE_REGISTERS.get(index) {
            Some(&register) => self.register(number, register),
            None if index < utcb::MESSAGE_REGISTERS => {
                self.utcb_word(number, utcb::message_word(index))
            }
            None => 0,
        }
    }

    /// Writes a message register of a thread that does not run.
    pub(crate) fn set_message_register(&mut self, number: Number, index: usize, value: u64) {
        match MESSAGE_REGISTERS.get(index) {
            Some(&register) => self.set_register(number, register, value),
            None if index < utcb::MESSAGE_REGISTERS => {
                self.set_utcb_word(number, utcb::message_word(index), value);
            }
            None => {}
        }
    }

    /// A register of a thread; 0 if it has none.
    pub(crate) fn register(&self, number: Number, register: Register) -> u64 {
        self.threads.at(number).context().map_or(0, |context| context.register(register))
    }

    /// Writes a register of a thread, if it has any.
    pub(crate) fn set_register(&mut self, number: Number, register: Register, value: u64) {
        if let Some(context) = self.threads.at_light(number).context_mut() {
            context.set_register(register, value);
        }
    }

    /// The name by which `viewer` knows the thread: the local identifier within a space, else the global
    /// one.
    pub(crate) fn name_for(&self, viewer: Number, number: Number) -> ThreadId {
        let (viewer, thread) = (self.threads.at(viewer), self.threads.at(number));
        match (thread.utcb, thread.id) {
            (Some(utcb), _) if viewer.space == thread.space => ThreadId(utcb.address),
            (_, Some(id)) => id.into(),
            _ => ThreadId::NIL,
        }
    }

    /// The thread that `name` means to a thread of `space`.
    pub(crate) fn resolve(&self, space: u32, name: ThreadId) -> Option<Number> {
        if let Some(address) = name.local() {
            let page = self.utcbs.find(self.spaces.at(space).utcb_pages, address)?;
            let number = *self.utcbs.at(page).threads.get(crate::utcb::slot_of(address))?;
            let utcb = self.threads.at(number).utcb?;
            return (utcb.address == address).then_some(number);
        }
        self.threads.find_word(name)
    }

    /// Notes an IPC error in a thread's UTCB.
    pub(crate) fn set_ipc_error(&mut self, number: Number, error: IpcError) {
        self.set_control_word(number, ControlWord::ErrorCode, error.word());
    }
}

/// Where word `word` of a thread's UTCB is, as a mapping and an offset in bytes.
pub(crate) fn utcb_place<'a, C>(
    threads: &Threads<'_, C>,
    utcbs: &'a UtcbPages<'_>,
    number: Number,
    word: usize,
) -> Option<(&'a KernelMapping, usize)> {
    let utcb = threads.at(number).utcb?;
    let mapping = utcbs.at(utcb.page).mapping.as_ref()?;
    Some((mapping, (usize::from(utcb.slot) * utcb::WORDS + word) * 8))
}

/// The registers in which the first message registers travel.
pub(crate) const MESSAGE_REGISTERS: [Register; utcb::REGISTERS_IN_PROCESSOR] = [
    Register::R9,
    Register::Rax,
    Register::Rbx,
    Register::R10,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// An IPC error without an offset.
pub(crate) const fn ipc_error(phase: Phase, code: IpcErrorCode) -> IpcError {
    IpcError::new(phase, code)
}

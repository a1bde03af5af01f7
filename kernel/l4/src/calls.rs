//! System calls other than IPC.
//!
//! Programs reach the kernel through stubs, pieces of code in a page that all of them can execute. Which stub
//! a system call came from is told by the address behind its SYSCALL instruction. Arguments are
//! whatever is in the registers; each call checks all of them before it changes anything.

mod control_space;
mod control_thread;
mod exchange_registers;
mod schedule;
mod unmap;

pub(crate) use control_space::{KIP_AREA_BITS, UTCB_AREA_BITS};

use heliox_abi::utcb::{self, ControlWord};
use heliox_abi::{CallError, Flexpage, FlexpageKind, ThreadId};
use heliox_hal::execution::Registers;
use heliox_types::Register;
use heliox_types::mapping::RegionKind;

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::memory::Place;
use crate::stubs::{Stub, stub_of};
use crate::thread::{NOBODY, Number, Work};

/// Number of an exception: an instruction that means nothing here.
const INVALID_OPCODE: u8 = 6;

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// A thread made a system call.
    pub(crate) fn system_call(&mut self, me: Number) {
        let at = self.threads.at(me).context().map_or(0, Registers::instruction_pointer);
        let base = self.stubs.address().get();
        let Some(stub) = stub_of(at.wrapping_sub(base)) else {
            // Not from a stub: to a program the instruction means nothing.
            return self.exception(me, INVALID_OPCODE, 0);
        };
        self.woken = NOBODY;
        match stub {
            Stub::Ipc => self.ipc(me),
            Stub::ExchangeRegisters => self.exchange_registers(me),
            Stub::ThreadControl => self.thread_control(me),
            Stub::SystemClock => {
                let now = self.machine.now();
                self.set_register(me, Register::Rax, now);
            }
            Stub::ThreadSwitch => {
                let to = ThreadId(self.register(me, Register::Rdi));
                self.thread_switch(me, to);
            }
            Stub::Schedule => self.schedule(me),
            Stub::Unmap => self.unmap(me),
            Stub::SpaceControl => self.space_control(me),
            Stub::ProcessorControl => self.processor_control(me),
            Stub::MemoryControl => self.memory_control(me),
        }
        let woken = core::mem::replace(&mut self.woken, NOBODY);
        if woken != NOBODY && self.current == me {
            self.hand_over(woken);
        }
    }

    /// Ends a call that answers with a result in RAX, or an error code and 0.
    pub(crate) fn answer(&mut self, me: Number, result: Result<(), CallError>) {
        match result {
            Ok(()) => self.set_register(me, Register::Rax, 1),
            Err(error) => {
                self.set_call_error(me, error);
                self.set_register(me, Register::Rax, 0);
            }
        }
    }

    /// Notes why a call failed.
    pub(crate) fn set_call_error(&mut self, me: Number, error: CallError) {
        self.set_control_word(me, ControlWord::ErrorCode, error as u64);
    }

    /// Whether the threads of a thread's space may use privileged calls.
    pub(crate) fn is_privileged(&self, me: Number) -> bool {
        self.spaces.at(self.threads.at(me).space).privileged
    }

    fn thread_switch(&mut self, me: Number, to: ThreadId) {
        if to.is_nil() {
            return self.give_way();
        }
        let space = self.threads.at(me).space;
        match self.resolve(space, to) {
            Some(number) if number == me => {}
            Some(number) => self.donate(number),
            None => self.give_way(),
        }
    }

    /// MemoryControl: each page has one memory type at all times, which the kernel knows; asking for that,
    /// or for the default, changes nothing.
    fn memory_control(&mut self, me: Number) {
        let result = self.control_memory(me);
        self.answer(me, result);
        let result = self.register(me, Register::Rax);
        self.set_register(me, Register::Rdx, result);
    }

    fn control_memory(&mut self, me: Number) -> Result<(), CallError> {
        /// Attributes: whatever the memory has, and write-back.
        const DEFAULT: u64 = 0;
        const WRITE_BACK: u64 = 1;
        if !self.is_privileged(me) {
            return Err(CallError::NoPrivilege);
        }
        let control = self.register(me, Register::Rdx);
        if control >= utcb::MESSAGE_REGISTERS as u64 {
            return Err(CallError::InvalidParameter);
        }
        let attributes = [Register::R9, Register::Rsi, Register::R8, Register::R10]
            .map(|register| self.register(me, register));
        let space = self.threads.at(me).space;
        for index in 0..=control as usize {
            // The stub has put all of them into memory.
            let page = Flexpage(self.utcb_word(me, utcb::message_word(index)));
            let start = match page.kind() {
                FlexpageKind::Nothing | FlexpageKind::Ports(_) => continue,
                FlexpageKind::Complete => 0,
                FlexpageKind::Memory { base, .. } => base,
            };
            let attribute = attributes.get((page.0 & 3) as usize).copied();
            let Place::Unit(unit) = self.place(space, start) else {
                return Err(CallError::InvalidParameter);
            };
            let is_ram = unit.region.kind() == RegionKind::Ram;
            match attribute {
                Some(DEFAULT) => {}
                Some(WRITE_BACK) if is_ram => {}
                _ => return Err(CallError::InvalidParameter),
            }
        }
        Ok(())
    }

    fn processor_control(&mut self, me: Number) {
        let error = match self.is_privileged(me) {
            true => CallError::InvalidParameter,
            false => CallError::NoPrivilege,
        };
        self.answer(me, Err(error));
    }

    /// Gives a thread something to go on with when it is its turn.
    pub(crate) fn go_on_later(&mut self, me: Number, work: Work) {
        self.threads.at_mut(me).work = work;
        self.settle(me);
    }
}

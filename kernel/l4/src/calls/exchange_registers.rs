//! ExchangeRegisters: reading and setting another thread's registers, halting it, aborting its IPC.

use heliox_abi::utcb::ControlWord;
use heliox_abi::{CallError, ExchangeControl, IpcErrorCode, Phase, ThreadId};
use heliox_hal::execution::Registers;
use heliox_types::Register;
use heliox_types::VirtualAddress;

use crate::kernel::{Kernel, Machine, Surroundings, ipc_error};
use crate::thread::{Incoming, Number, Outgoing, State};

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The system call ExchangeRegisters.
    pub(crate) fn exchange_registers(&mut self, me: Number) {
        let name = ThreadId(self.register(me, Register::Rax));
        let control = ExchangeControl(self.register(me, Register::Rsi));
        let Some(target) = self.exchange_target(me, name) else {
            self.set_call_error(me, CallError::InvalidThread);
            return self.set_register(me, Register::Rax, ThreadId::NIL.0);
        };
        let [stack, instruction, flags, handle, pager] =
            [Register::Rdx, Register::R8, Register::R9, Register::R10, Register::Rdi]
                .map(|register| self.register(me, register));
        let entry = match VirtualAddress::new(instruction).filter(|address| address.is_user()) {
            None if control.has(ExchangeControl::INSTRUCTION) => {
                self.set_call_error(me, CallError::InvalidParameter);
                return self.set_register(me, Register::Rax, ThreadId::NIL.0);
            }
            entry => entry,
        };
        let old = self.exchange_state(target);
        self.deliver_registers(me, target, name, old);
        if !control.changes_something() {
            return;
        }

        if control.has(ExchangeControl::RECEIVE) {
            self.abort_phase(target, Phase::Receive);
        }
        if control.has(ExchangeControl::SEND) {
            self.abort_phase(target, Phase::Send);
        }
        if control.has(ExchangeControl::HALT_VALID) {
            self.set_halted(target, control.has(ExchangeControl::HALT));
        }
        if let Some(context) = self.threads.at_mut(target).context_mut() {
            if control.has(ExchangeControl::STACK) {
                context.set_stack_pointer(stack);
            }
            if control.has(ExchangeControl::INSTRUCTION)
                && let Some(address) = entry
            {
                // It is a program's.
                let _ = context.set_instruction_pointer(address);
            }
            if control.has(ExchangeControl::FLAGS) {
                context.set_flags(flags);
            }
        }
        if control.has(ExchangeControl::HANDLE) {
            self.set_control_word(target, ControlWord::UserDefinedHandle, handle);
        }
        if control.has(ExchangeControl::PAGER) {
            self.set_control_word(target, ControlWord::Pager, pager);
        }
        self.settle(target);
    }

    /// The thread that a caller may act on: an active one of its own space, or one whose pager is in it.
    fn exchange_target(&mut self, me: Number, name: ThreadId) -> Option<Number> {
        let space = self.threads.at(me).space;
        let target = self.resolve(space, name)?;
        let thread = self.threads.at(target);
        if !thread.is_active() {
            return None;
        }
        if thread.space == space {
            return Some(target);
        }
        let pager = ThreadId(self.control_word(target, ControlWord::Pager));
        let other = self.threads.at(target).space;
        let pager = self.resolve(other, pager)?;
        (self.threads.at(pager).space == space).then_some(target)
    }

    /// What the target was doing, as the bits of a control word.
    fn exchange_state(&self, target: Number) -> u64 {
        let thread = self.threads.at(target);
        let mut bits = 0;
        if thread.halted || matches!(thread.state(), State::Stopped | State::Inactive) {
            bits |= ExchangeControl::HALT;
        }
        match thread.state() {
            State::Sending => bits |= ExchangeControl::SEND,
            State::Receiving => bits |= ExchangeControl::RECEIVE,
            State::Transferring if self.is_transfer_sender(target) => {
                bits |= ExchangeControl::SEND;
            }
            State::Transferring => bits |= ExchangeControl::RECEIVE,
            _ => {}
        }
        bits
    }

    /// Puts the target's registers, as they are, into the caller's.
    fn deliver_registers(&mut self, me: Number, target: Number, name: ThreadId, old: u64) {
        let thread = self.threads.at(target);
        // A local identifier is answered by the global one, and the other way round.
        let result = match (name.is_local(), thread.utcb, thread.id) {
            (true, _, Some(id)) => id.into(),
            (false, Some(utcb), _) => ThreadId(utcb.address),
            _ => ThreadId::NIL,
        };
        let (stack, instruction, flags) = thread.context().map_or((0, 0, 0), |context| {
            (context.stack_pointer(), context.instruction_pointer(), context.flags())
        });
        let handle = self.control_word(target, ControlWord::UserDefinedHandle);
        let pager = self.control_word(target, ControlWord::Pager);
        for (register, value) in [
            (Register::Rax, result.0),
            (Register::Rsi, old),
            (Register::Rdx, stack),
            (Register::R8, instruction),
            (Register::R9, flags),
            (Register::R10, handle),
            (Register::Rdi, pager),
        ] {
            self.set_register(me, register, value);
        }
    }

    /// Aborts what a thread is doing, if it is in that phase.
    fn abort_phase(&mut self, target: Number, phase: Phase) {
        let thread = self.threads.at(target);
        let (state, outer) = (thread.state(), thread.outer.is_some());
        let sends = match state {
            State::Transferring => self.is_transfer_sender(target),
            State::Sending => true,
            _ => false,
        };
        let is_kernels = thread.operation().outgoing.is_kernel_made();
        let matches = match state {
            State::Sending | State::Receiving if is_kernels => true,
            State::Sending | State::Transferring => sends == (phase == Phase::Send),
            State::Receiving => phase == Phase::Receive,
            _ => false,
        };
        if !matches {
            return;
        }
        if thread.transfer.is_some() || outer {
            return self.abort_transfer_of(target);
        }
        let operation = thread.operation();
        if state == State::Sending {
            self.leave_queue(target);
        }
        if operation.incoming == Incoming::Start {
            // It never began: whoever aborted this sets where it is to.
            self.timers.cancel(&mut self.threads, target);
            self.threads.at_mut(target).kept_state = State::Stopped;
            return;
        }
        match operation.outgoing {
            Outgoing::Message => self.fail(target, ipc_error(phase, IpcErrorCode::Cancelled)),
            _ => {
                // The kernel's own: the thread goes on where it is.
                self.timers.cancel(&mut self.threads, target);
                self.threads.at_mut(target).kept_state = State::Ready;
                self.settle(target);
            }
        }
    }

    /// Halts a thread, or lets it run.
    fn set_halted(&mut self, target: Number, halted: bool) {
        let thread = self.threads.at_mut(target);
        thread.halted = halted;
        if halted {
            return;
        }
        match thread.state() {
            State::Stopped => thread.kept_state = State::Ready,
            // Its partner may have come meanwhile.
            State::Receiving => self.check_later(target),
            State::Sending => self.check_queue(target),
            _ => {}
        }
    }
}

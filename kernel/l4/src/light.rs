//! The light path: IPC that is done without leaving the program's registers.
//!
//! An ordinary message (untyped words only) to a thread that waits for it, from one that waits for
//! an answer or for anybody afterwards, without end. Everything is checked before anything is
//! changed; whatever is not ordinary is left to the other path, which means the same.
//!
//! What is rare is not looked at message by message. A permission stands for all that must hold: it
//! is given when the other path lets a thread run or wait, and taken back by any access there that
//! could change the thread ([`Threads::at_mut`]). What holds when it is found was checked when it was
//! given:
//!
//! - of an *ordinary* thread: it has registers and a block; nobody waits to send to it, no interrupt
//!   of its is pending, its space has no redirector, its quantum is without end, and the kernel does
//!   nothing for it;
//! - [`Thread::accepts`]: the thread is ordinary, and waits for an ordinary message, without end, in
//!   nobody's name;
//! - `Threads::gate`: the current thread is ordinary, and has the processor in its own right; nobody
//!   of the gate's priority or a higher one waits for it, so that the timer need not be set anew. A
//!   thread that the light path lets run was ordinary when it waited.
//!
//! The receiver goes on with what is left of the sender's time slice, so that the clock need not be
//! read.
//!
//! [`Thread::accepts`]: crate::thread::Thread::accepts

use heliox_abi::{GlobalId, IpcErrorCode, Phase, Tag, ThreadId, Time, Timeouts, utcb};
use heliox_hal::execution::{self, LightReturn, Running};
use heliox_hal::memory::KernelMemory;
use heliox_types::LightCall;

use crate::kernel::{Kernel, MESSAGE_REGISTERS, Machine, Surroundings, ipc_error};
use crate::space::Redirector;
use crate::thread::{ANYBODY, Body, From, Incoming, Limit, NOBODY, Number, Operation, State, Work};
use crate::threads::{CLOSED, Threads};

/// What a tag has that is not ordinary: flags, and the number of typed words.
const NOT_ORDINARY: u64 = 0xffc0;
/// The number of untyped words.
const UNTYPED: u64 = 0x3f;
/// Is not zero if there are more of them than travel in registers, besides the tag.
const BEYOND_REGISTERS: u64 = UNTYPED & !(MESSAGE_REGISTERS.len() as u64 - 1);
const _: () = assert!(MESSAGE_REGISTERS.len().is_power_of_two());

/// The word of an identifier; 0 for none.
pub(crate) const fn word(id: Option<GlobalId>) -> u64 {
    match id {
        Some(id) => id.word(),
        None => 0,
    }
}

impl<M: Machine, S: Surroundings> execution::Kernel for Kernel<'_, M, S> {
    type Machine = M;

    const ANSWERS_LIGHT_CALLS: bool = true;

    fn running(&mut self) -> Running<'_, M> {
        let machine = &mut self.machine;
        match &mut self.threads.at_light(self.current).body {
            Some(Body { context, map }) => Running { machine, map, context },
            None => Running { machine, map: &self.spare.0, context: &mut self.spare.1 },
        }
    }

    #[inline(always)]
    fn light_call(&mut self, call: LightCall) -> Option<LightReturn<'_, M>> {
        if call.r9 & (NOT_ORDINARY | BEYOND_REGISTERS) != 0 {
            return None;
        }
        self.switch::<false>(call)
    }

    #[inline(always)]
    fn light_call_rest(&mut self, call: LightCall) -> Option<LightReturn<'_, M>> {
        // Each of these in a function of its own: other system calls need no registers for them.
        if call.r9 & NOT_ORDINARY != 0 || call.instruction_pointer != self.after_ipc {
            None
        } else if call.rsi == ThreadId::NIL.0 {
            self.without_message(ThreadId(call.rdx), Timeouts(call.r8))
        } else if call.r9 & BEYOND_REGISTERS != 0 && call.rsi >> 32 != 0 {
            self.switch_long(call)
        } else {
            self.rare(call)
        }
    }
}

impl<'k, M: Machine, S: Surroundings> Kernel<'k, M, S> {
    /// Messages with more words than travel in registers.
    #[inline(never)]
    fn switch_long(&mut self, call: LightCall) -> Option<LightReturn<'_, M>> {
        self.switch::<true>(call)
    }

    /// Messages to those who are named by local identifiers.
    #[inline(never)]
    fn rare(&mut self, call: LightCall) -> Option<LightReturn<'_, M>> {
        let (to, from) = (ThreadId(call.rsi), ThreadId(call.rdx));
        // A short one to a global name has been looked at.
        to.local()?;
        let number = self.resolve(self.threads.at(self.current).space, to)?;
        let id = self.threads.at(number).id?.word();
        let from = if from == to { id } else { from.0 };
        self.switch::<true>(LightCall { rsi: id, rdx: from, ..call })
    }

    /// IPC that sends nothing: over at once if it receives from nobody, or has no time to, and
    /// nobody is there.
    #[inline(never)]
    fn without_message(
        &mut self,
        from: ThreadId,
        timeouts: Timeouts,
    ) -> Option<LightReturn<'_, M>> {
        // Nobody waits to send to the current thread.
        if !self.is_undisturbed() {
            return None;
        }
        let mut tag = Tag(0);
        if !from.is_nil() {
            let exists = from == ThreadId::ANY || self.threads.find_word(from).is_some();
            if timeouts.receive() != Time::ZERO || !exists {
                return None;
            }
            tag = Tag::FAILED;
            self.set_ipc_error(self.current, ipc_error(Phase::Receive, IpcErrorCode::Timeout));
        }
        let next = execution::Kernel::running(self);
        Some(LightReturn { next, result: ThreadId::NIL.0, tag: Some(tag.0) })
    }

    /// Gives the current thread's message to the receiver, which runs from now on.
    #[inline(always)]
    fn switch<const LONG: bool>(&mut self, call: LightCall) -> Option<LightReturn<'_, M>> {
        let Self { machine, threads, utcbs, current, .. } = self;
        // Behind another stub, or with an end to the receive phase.
        if call.instruction_pointer != self.after_ipc || call.r8 as u16 != 0 {
            return None;
        }
        let Threads { table, gate, .. } = threads;
        let table = &mut **table;
        let to = call.rsi;
        let number = to >> 32;
        let receiver = table.get(number as usize)?;
        let sender = table.get(*current as usize)?;
        let own = word(sender.id);
        if word(receiver.id) != to || receiver.accepts != own && receiver.accepts != ANYBODY {
            return None;
        }
        if call.rdx != to && call.rdx != ANYBODY {
            return None;
        }
        if u32::from(receiver.scheduling.priority) < *gate {
            return None;
        }
        receiver.body.as_ref()?;
        let result = if sender.space == receiver.space { sender.utcb?.address } else { own };
        if LONG {
            let words = (call.r9 & UNTYPED) as usize;
            let (source, target) = (sender.utcb?, receiver.utcb?);
            let first = MESSAGE_REGISTERS.len();
            let offset =
                |slot: u8| (usize::from(slot) * utcb::WORDS + utcb::message_word(first)) * 8;
            let from = (utcbs.at(source.page).mapping.as_ref()?, offset(source.slot));
            let to = (utcbs.at(target.page).mapping.as_ref()?, offset(target.slot));
            let beyond = (words + 1).saturating_sub(first);
            if beyond > 0 {
                machine.memory().copy(from, to, beyond * 8).ok()?;
            }
        }
        // Nothing fails from here on.
        if let Some(sender) = table.get_mut(*current as usize) {
            sender.accepts = call.rdx;
        }
        let receiver = table.get_mut(number as usize)?;
        receiver.accepts = 0;
        *current = number as Number;
        let Body { context, map } = receiver.body.as_mut()?;
        Some(LightReturn { next: Running { machine, map, context }, result, tag: None })
    }

    /// Whether nothing has happened since [`Kernel::allow_light_path`] that the scheduler would have
    /// to look at: every access that could have changed a thread has closed the gate.
    pub(crate) fn is_undisturbed(&self) -> bool {
        self.threads.gate != CLOSED
    }

    /// Says what the light path may do from now on: `number` is about to run.
    pub(crate) fn allow_light_path(&mut self, number: Number) {
        let waits = core::mem::replace(&mut self.waits, NOBODY);
        if !self.has_light_path {
            return;
        }
        let thread = self.threads.at(number);
        let is_own = self.lent.is_none() && thread.scheduling.delayed_until.is_none();
        let gate = match self.ready.highest() {
            _ if !is_own || !self.is_ordinary(number) => CLOSED,
            Some(highest) => u32::from(highest) + 1,
            None => 0,
        };
        if waits != NOBODY {
            self.let_light_path_wake(waits);
        }
        // The thread runs, so that this means nothing any more.
        self.threads.at_light(number).kept_operation = Operation::default();
        self.threads.gate = gate;
    }

    /// Lets the light path wake a thread up, if it waits as it must for that.
    pub(crate) fn let_light_path_wake(&mut self, number: Number) {
        let accepts = if self.is_ordinary(number) { self.accepted(number) } else { 0 };
        let thread = self.threads.at_light(number);
        if accepts != 0 {
            thread.accepts = accepts;
            thread.kept_state = State::Ready;
            thread.kept_operation = Operation::default();
        }
    }

    /// Whether what both permissions stand for holds of a thread.
    pub(crate) fn is_ordinary(&self, number: Number) -> bool {
        let thread = self.threads.at(number);
        thread.id.is_some()
            && thread.body.is_some()
            && thread.utcb.is_some()
            && thread.senders == NOBODY
            && !thread.halted
            && !thread.checking
            && thread.work == Work::None
            && thread.transfer.is_none()
            && thread.outer.is_none()
            && thread.scheduling.total.is_none()
            && thread.scheduling.preempted_at.is_none()
            && !self.interrupts.any_pending_for(number)
            && self.spaces.at(thread.space).redirector == Redirector::None
    }

    /// Whose ordinary message a thread waits for without end, as in
    /// [`Thread::accepts`](crate::thread::Thread::accepts).
    pub(crate) fn accepted(&self, number: Number) -> u64 {
        let thread = self.threads.at(number);
        let Operation { outgoing, virtual_sender, intended, incoming, limit, .. } =
            thread.operation();
        let is_plain = thread.state() == State::Receiving
            && !outgoing.is_kernel_made()
            && virtual_sender.is_none()
            && intended.is_none()
            && incoming == Incoming::Message
            && limit == Limit::Never
            && !thread.timer.is_running();
        match thread.operation().from {
            From::Anybody if is_plain => ANYBODY,
            // The lower numbers are interrupts'.
            From::Thread(id) if is_plain && self.threads.find(id).is_some() => id.word(),
            _ => 0,
        }
    }
}

const _: () = assert!(ThreadId::ANY.0 == ANYBODY);

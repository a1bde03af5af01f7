//! IPC: bringing a sender and a receiver together.
//!
//! Each IPC has a send phase, a receive phase, or both ([`Operation`]). A sender whose receiver is not
//! ready waits in the receiver's queue; a receiver waits until somebody whom it accepts sends. When both
//! are ready, [`Transfer`](crate::transfer::Transfer) moves the message, after which the sender
//! enters its receive phase. A receive phase for which somebody already waits is not served at once but
//! noted ([`Kernel::check_receiver`]), so that a chain of waiting threads is worked off in
//! steps; the thread counts as receiving meanwhile.
//!
//! The kernel itself sends messages for threads (faults, exceptions, preemptions) and receives the
//! answers; these are operations like others, but their messages come from [`Outgoing`], so that a
//! thread's own message registers are not touched.

use heliox_abi::utcb::ControlWord;
use heliox_abi::{GlobalId, IpcError, IpcErrorCode, Phase, Tag, ThreadId, Time, Timeouts, kip};
use heliox_hal::execution::Registers;
use heliox_types::Register;

use crate::kernel::{Kernel, Machine, Surroundings, ipc_error};
use crate::planted::{Fault, is_planted};
use crate::space::Redirector;
use crate::thread::{From, Incoming, Limit, NOBODY, Number, Operation, Outgoing, State, Work};

/// Where a message goes.
enum Destination {
    /// To this thread.
    Thread(Number),
    /// To the redirector, though it was meant for this one.
    Redirected(Number, GlobalId),
    /// It waits until there is a redirector again.
    Held,
    /// To an interrupt: an acknowledgement.
    Interrupt(u8),
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The system call Ipc, or Lipc, of the current thread.
    pub(crate) fn ipc(&mut self, me: Number) {
        let to = ThreadId(self.register(me, Register::Rsi));
        let from = ThreadId(self.register(me, Register::Rdx));
        let timeouts = Timeouts(self.register(me, Register::R8));
        if self.answer_directly(me, to, from, timeouts) {
            return;
        }
        let space = self.threads.at(me).space;
        let from = match from {
            ThreadId::NIL => From::Nobody,
            ThreadId::ANY => From::Anybody,
            ThreadId::ANY_LOCAL => From::AnyLocal,
            name => match self.global_name(space, name) {
                Some(id) => From::Thread(id),
                None if to.is_nil() => {
                    return self.fail(me, ipc_error(Phase::Receive, IpcErrorCode::NoPartner));
                }
                // It is refused when the receive phase begins.
                None => From::Thread(NEVER_A_THREAD),
            },
        };
        self.threads.at_mut(me).kept_operation = Operation {
            outgoing: Outgoing::Message,
            to,
            virtual_sender: None,
            intended: None,
            from,
            incoming: Incoming::Message,
            limit: self.limit_of(timeouts.receive()),
        };
        if to.is_nil() {
            if from == From::Nobody {
                self.set_result(me, ThreadId::NIL, Tag(0));
            }
            self.begin_receiving(me);
        } else {
            let deadline = match timeouts.send() {
                Time::NEVER => None,
                Time::ZERO => Some(PASSED),
                time => time.deadline(self.machine.now()),
            };
            self.begin_sending(me, deadline);
        }
    }

    /// How long a receive phase waits.
    fn limit_of(&self, time: Time) -> Limit {
        match time.period() {
            _ if time.is_point() => {
                let now = self.machine.now();
                Limit::Until(time.deadline(now).unwrap_or(now))
            }
            None => Limit::Never,
            Some(period) => Limit::Period(period),
        }
    }

    /// The global identifier that `name` means to a thread of `space`, whether such a thread exists or
    /// not.
    fn global_name(&self, space: u32, name: ThreadId) -> Option<GlobalId> {
        match name.global() {
            Some(id) => Some(id),
            None => self.threads.at(self.resolve(space, name)?).id,
        }
    }

    // --- Sending ---

    /// Begins the send phase of a thread's operation, which waits until `deadline` for the receiver.
    pub(crate) fn begin_sending(&mut self, me: Number, deadline: Option<u64>) {
        let operation = self.threads.at(me).operation();
        let receiver = match self.destination(me, operation) {
            Ok(Destination::Thread(receiver)) => receiver,
            Ok(Destination::Redirected(receiver, intended)) => {
                self.threads.at_mut(me).kept_operation.intended = Some(intended);
                receiver
            }
            Ok(Destination::Held) => NOBODY,
            Ok(Destination::Interrupt(line)) => return self.acknowledge(me, line, deadline),
            Err(error) => return self.fail(me, error),
        };
        if receiver != NOBODY {
            let virtual_sender = self.virtual_sender(me, receiver);
            self.threads.at_mut(me).kept_operation.virtual_sender = virtual_sender;
            if self.accepts(receiver, me) {
                return self.rendezvous(me, receiver);
            }
        }
        if deadline.is_some_and(|at| at == PASSED || at <= self.machine.now()) {
            return self.fail(me, ipc_error(Phase::Send, IpcErrorCode::Timeout));
        }
        self.threads.at_mut(me).kept_state = State::Sending;
        self.threads.enqueue_sender(receiver, me);
        self.settle(me);
        if let Some(deadline) = deadline {
            self.timers.start(&mut self.threads, me, deadline);
        }
    }

    /// Sends a message of the kernel's for a thread if the receiver is ready, and forgets it if not.
    pub(crate) fn send_now_or_never(&mut self, me: Number) {
        self.begin_sending(me, Some(PASSED));
    }

    /// Where the message of an operation goes.
    fn destination(&self, me: Number, operation: Operation) -> Result<Destination, IpcError> {
        let none = ipc_error(Phase::Send, IpcErrorCode::NoPartner);
        let space = self.threads.at(me).space;
        if let Some(id) = operation.to.global()
            && let Some(line) = self.interrupt_line(id)
        {
            return Ok(Destination::Interrupt(line));
        }
        let receiver = self.resolve(space, operation.to).ok_or(none)?;
        let thread = self.threads.at(receiver);
        let intended = thread.id.ok_or(none)?;
        match self.spaces.at(space).redirector {
            Redirector::None => {}
            _ if thread.space == space => {}
            Redirector::Lost => return Ok(Destination::Held),
            Redirector::Thread(id) => {
                let redirector = self.threads.find(id).ok_or(none)?;
                if self.threads.at(redirector).space != thread.space {
                    return Ok(Destination::Redirected(redirector, intended));
                }
            }
        }
        Ok(Destination::Thread(receiver))
    }

    /// In whose name a thread sends, if it asks to and may.
    fn virtual_sender(&mut self, me: Number, receiver: Number) -> Option<GlobalId> {
        if self.threads.at(me).operation().outgoing != Outgoing::Message {
            return None;
        }
        if !Tag(self.message_register(me, 0)).has(Tag::PROPAGATED) {
            return None;
        }
        let name = ThreadId(self.control_word(me, ControlWord::VirtualSender));
        let space = self.threads.at(me).space;
        let number = self.resolve(space, name)?;
        let thread = self.threads.at(number);
        let allowed = thread.space == space
            || self.threads.at(receiver).space == space
            || self.redirects_for(me, thread.space);
        if allowed { thread.id } else { None }
    }

    /// Whether messages from `space` pass through the space of thread `me`.
    fn redirects_for(&self, me: Number, space: u32) -> bool {
        let own = self.threads.at(me).space;
        let mut space = space;
        // A chain of redirectors is followed as far as there can be spaces.
        for _ in self.spaces.numbers() {
            let Redirector::Thread(id) = self.spaces.at(space).redirector else { return false };
            let Some(redirector) = self.threads.find(id) else { return false };
            space = self.threads.at(redirector).space;
            if space == own {
                return true;
            }
        }
        false
    }

    /// Who a message of `sender` is from, as receivers see it.
    pub(crate) fn apparent_sender(&self, sender: Number) -> Option<GlobalId> {
        let thread = self.threads.at(sender);
        thread.operation().virtual_sender.or(thread.id)
    }

    /// Whether `receiver` is ready for the message that `sender` has.
    pub(crate) fn accepts(&self, receiver: Number, sender: Number) -> bool {
        let thread = self.threads.at(receiver);
        if thread.state() != State::Receiving || thread.halted || self.threads.at(sender).halted {
            return false;
        }
        let Some(id) = self.apparent_sender(sender) else { return false };
        match thread.operation().from {
            From::Nobody => false,
            From::Anybody => true,
            From::AnyLocal => self
                .threads
                .find(id)
                .is_some_and(|from| self.threads.at(from).space == thread.space),
            From::Thread(wanted) => wanted == id || is_planted(Fault::ClosedReceiveIsOpen),
        }
    }

    /// Sender and receiver are ready: the message is transferred.
    pub(crate) fn rendezvous(&mut self, sender: Number, receiver: Number) {
        if self.threads.at(sender).state() == State::Sending {
            self.threads.dequeue_sender(sender);
        }
        self.timers.cancel(&mut self.threads, sender);
        self.timers.cancel(&mut self.threads, receiver);
        self.begin_transfer(sender, receiver);
    }

    // --- Receiving ---

    /// Begins the receive phase of a thread's operation; without one, the operation ends.
    pub(crate) fn begin_receiving(&mut self, me: Number) {
        let operation = self.threads.at(me).operation();
        let none = ipc_error(Phase::Receive, IpcErrorCode::NoPartner);
        let waiting = match operation.from {
            From::Nobody => return self.end_operation(me),
            From::Thread(id) => match self.interrupt_line(id) {
                Some(line) => self.interrupts.is_pending_for(line, me),
                None => match self.threads.find(id) {
                    Some(_) => self.threads.at(me).senders != NOBODY,
                    None => return self.fail(me, none),
                },
            },
            From::Anybody | From::AnyLocal => {
                self.threads.at(me).senders != NOBODY || self.interrupts.any_pending_for(me)
            }
        };
        self.threads.at_mut(me).kept_state = State::Receiving;
        self.settle(me);
        if waiting {
            self.check_later(me);
        } else {
            self.wait(me);
        }
    }

    /// Has a thread looked at.
    pub(crate) fn check_later(&mut self, me: Number) {
        if !core::mem::replace(&mut self.threads.at_mut(me).checking, true) {
            self.checks.push(me);
        }
    }

    /// Has the thread looked at to which another one waits to send.
    pub(crate) fn check_queue(&mut self, sender: Number) {
        let thread = self.threads.at(sender);
        if thread.state() == State::Sending {
            self.check_later(thread.queue);
        }
    }

    /// Nobody is there to receive from: the thread waits, if it is to wait at all.
    fn wait(&mut self, me: Number) {
        match self.threads.at(me).operation().limit {
            Limit::Never => {
                self.waits = me;
                return;
            }
            Limit::Period(0) => {
                return self.fail(me, ipc_error(Phase::Receive, IpcErrorCode::Timeout));
            }
            _ => {}
        }
        let now = self.machine.now();
        match self.threads.at(me).operation().limit.deadline(now) {
            None => {}
            Some(deadline) if deadline <= now => {
                self.fail(me, ipc_error(Phase::Receive, IpcErrorCode::Timeout));
            }
            Some(_) if is_planted(Fault::TimeoutNeverFires) => {}
            Some(deadline) => self.timers.start(&mut self.threads, me, deadline),
        }
    }

    /// Looks at a thread: whether somebody is there from whom it receives, and whether its quantum is used
    /// up.
    pub(crate) fn check_receiver(&mut self, me: Number) {
        if !core::mem::take(&mut self.threads.at_mut(me).checking) {
            return;
        }
        if self.threads.at(me).is_exhausted() {
            return self.exhausted(me);
        }
        let thread = self.threads.at(me);
        if thread.state() != State::Receiving || thread.halted {
            return;
        }
        if self.take_interrupt(me) {
            return;
        }
        match self.threads.find_sender(me, |sender, _| self.accepts(me, sender)) {
            Some(sender) => self.rendezvous(sender, me),
            None if self.threads.at(me).timer.is_running() => {}
            None => self.wait(me),
        }
    }

    // --- The end of an operation ---

    /// A thread's message has been taken: its receive phase begins.
    pub(crate) fn sent(&mut self, sender: Number) {
        if self.threads.at(sender).operation().from == From::Nobody
            && self.threads.at(sender).operation().outgoing == Outgoing::Message
        {
            self.set_result(sender, ThreadId::NIL, Tag(0));
        }
        self.begin_receiving(sender);
    }

    /// A thread has received: it goes on.
    pub(crate) fn end_operation(&mut self, me: Number) {
        let thread = self.threads.at_mut(me);
        thread.kept_state = State::Ready;
        if let Some(outer) = thread.outer.take() {
            // A page fault of its transfer was served.
            thread.kept_operation = outer.operation;
            thread.transfer = Some(outer.transfer);
            thread.kept_state = State::Transferring;
            self.resume_transfer(me);
            return;
        }
        self.settle(me);
    }

    /// A thread's operation fails. A thread that did an IPC is told why; where the kernel did it for the
    /// thread, the thread halts if nobody can help it, and else tries again.
    pub(crate) fn fail(&mut self, me: Number, error: IpcError) {
        self.timers.cancel(&mut self.threads, me);
        let thread = self.threads.at_mut(me);
        let operation = thread.operation();
        if let Some(outer) = thread.outer {
            // The page fault of a transfer cannot be served.
            let code = match error.code {
                IpcErrorCode::Timeout => IpcErrorCode::TransferTimeoutOwn,
                _ => IpcErrorCode::Aborted,
            };
            return self.abort_transfer(outer.transfer, me, code);
        }
        thread.kept_state = State::Ready;
        let is_lost = error.code == IpcErrorCode::NoPartner;
        match (operation.outgoing, operation.incoming) {
            (Outgoing::Message, Incoming::Message) => {
                self.set_ipc_error(me, error);
                self.set_result(me, ThreadId::NIL, Tag::FAILED);
            }
            (Outgoing::Preempted { .. } | Outgoing::Exhausted { .. }, _) => {}
            (_, Incoming::Start) => self.threads.at_mut(me).kept_state = State::Stopped,
            _ if is_lost => self.threads.at_mut(me).halted = true,
            _ => {}
        }
        self.settle(me);
    }

    /// The timer of a thread has ended.
    pub(crate) fn timed_out(&mut self, me: Number) {
        if is_planted(Fault::LostWakeup) && self.threads.at(me).state() == State::Receiving {
            self.threads.at_mut(me).kept_state = State::Ready;
            return;
        }
        match self.threads.at(me).state() {
            State::Sending => {
                self.leave_queue(me);
                self.fail(me, ipc_error(Phase::Send, IpcErrorCode::Timeout));
            }
            State::Receiving => self.fail(me, ipc_error(Phase::Receive, IpcErrorCode::Timeout)),
            _ => {}
        }
    }

    /// Takes a sender out of the queue that it waits in.
    pub(crate) fn leave_queue(&mut self, me: Number) {
        if is_planted(Fault::SenderStaysQueued) {
            self.threads.at_mut(me).kept_state = State::Ready;
            return;
        }
        self.threads.dequeue_sender(me);
        self.threads.at_mut(me).kept_state = State::Ready;
    }

    /// Ends whatever IPC a thread is in, for whoever is in it too, without telling the thread.
    pub(crate) fn leave_ipc(&mut self, me: Number) {
        let thread = self.threads.at(me);
        let (state, starts) = (thread.state(), thread.operation().incoming == Incoming::Start);
        if state == State::Sending {
            self.leave_queue(me);
        }
        self.timers.cancel(&mut self.threads, me);
        self.abort_transfer_of(me);
        if let Work::Dismantle { space, .. } = self.threads.at(me).work {
            self.dismantle_later(space);
        }
        let thread = self.threads.at_mut(me);
        thread.work = Work::None;
        match state {
            State::Inactive | State::Stopped => {}
            State::Receiving if starts => thread.kept_state = State::Inactive,
            _ => thread.kept_state = State::Ready,
        }
    }

    /// Ends whatever IPC a thread is in, and tells it if the IPC was its own.
    pub(crate) fn abort_ipc(&mut self, me: Number) {
        let thread = self.threads.at(me);
        let operation = thread.outer.map_or(thread.operation(), |outer| outer.operation);
        let is_own = operation.outgoing == Outgoing::Message
            && operation.incoming == Incoming::Message
            && matches!(thread.state(), State::Sending | State::Receiving | State::Transferring);
        let (phase, code) = match thread.state() {
            _ if thread.outer.is_some() => (Phase::Receive, IpcErrorCode::Aborted),
            State::Sending => (Phase::Send, IpcErrorCode::Cancelled),
            State::Receiving => (Phase::Receive, IpcErrorCode::Cancelled),
            _ => (Phase::Receive, IpcErrorCode::Aborted),
        };
        self.leave_ipc(me);
        if is_own {
            self.set_ipc_error(me, ipc_error(phase, code));
            self.set_result(me, ThreadId::NIL, Tag::FAILED);
        }
    }

    /// A thread is no more, or has another version: nobody can send to it or wait for it any longer.
    pub(crate) fn lose_partners(&mut self, me: Number, id: GlobalId) {
        let send = ipc_error(Phase::Send, IpcErrorCode::NoPartner);
        while self.threads.at(me).senders != NOBODY {
            let sender = self.threads.at(me).senders;
            self.threads.dequeue_sender(sender);
            self.threads.at_mut(sender).kept_state = State::Ready;
            self.fail(sender, send);
        }
        let receive = ipc_error(Phase::Receive, IpcErrorCode::NoPartner);
        for number in kip::USER_BASE..self.thread_limit {
            let thread = self.threads.at(number);
            if thread.id.is_none() {
                continue;
            }
            if thread.operation().virtual_sender == Some(id) {
                // It speaks for itself from now on, and so may be accepted now.
                self.threads.at_mut(number).kept_operation.virtual_sender = None;
                self.check_queue(number);
            }
            let thread = self.threads.at(number);
            if thread.state() == State::Receiving && thread.operation().from == From::Thread(id) {
                self.fail(number, receive);
            }
        }
    }

    /// Sets what a thread that ends an IPC finds in its registers: the sender, the tag, and where its
    /// message registers are.
    pub(crate) fn set_result(&mut self, me: Number, from: ThreadId, tag: Tag) {
        let address = self.threads.at(me).utcb.map_or(0, |utcb| utcb.address);
        if let Some(context) = self.threads.at_light(me).context_mut() {
            if !is_planted(Fault::StaleFrom) {
                context.set_register(Register::Rsi, from.0);
            }
            context.set_register(Register::R9, tag.0);
            context.set_register(Register::Rdi, address);
        }
    }
}

/// A global identifier that no thread has: the number is an interrupt's, the version none of those.
const NEVER_A_THREAD: GlobalId = match GlobalId::new(0, u32::MAX) {
    Some(id) => id,
    None => unreachable!(),
};

/// A moment that has passed.
const PASSED: u64 = 0;

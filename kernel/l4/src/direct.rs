//! Direct switches: what the kernel does for threads that is as simple as the light path's messages.
//!
//! A fault or an exception whose server waits for it, its answer, and a message with one thing to map.
//! Sender and receiver are such as the light path's (see [`crate::light`]), so that the scheduler has nothing to
//! decide: the receiver runs next, with what is left of the sender's time slice. Whatever is not so simple
//! is left to the other path, which means the same.
//!
//! One more permission, [`Thread::awaits`], says that a thread is ordinary but for waiting until a fault or an
//! exception is answered.
//!
//! [`Thread::awaits`]: crate::thread::Thread::awaits

use heliox_abi::utcb::{self, ControlWord};
use heliox_abi::{Acceptor, Flexpage, ItemKind, MapItem, Tag, ThreadId, Time, Timeouts};
use heliox_types::Register;

use crate::kernel::{Kernel, MESSAGE_REGISTERS, Machine, Surroundings};
use crate::light::word;
use crate::memory::Progress;
use crate::thread::{ANYBODY, From, Incoming, Number, Operation, Outgoing, State};
use crate::threads::CLOSED;

/// What a direct message is to its receiver.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// A message.
    Message,
    /// The answer to a fault.
    FaultReply,
    /// The answer to an exception.
    ExceptionReply,
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The thread named `to`, and what a message of the current thread is to it, if it waits for one and is
    /// to run at once.
    fn direct_receiver(&self, me: Number, to: ThreadId) -> Option<(Number, Meaning)> {
        if me != self.current || self.threads.gate == CLOSED {
            return None;
        }
        let number = (to.0 >> 32) as Number;
        let receiver = self.threads.table.get(number as usize)?;
        let own = word(self.threads.at(me).id);
        if word(receiver.id) != to.0 || u32::from(receiver.scheduling.priority) < self.threads.gate
        {
            return None;
        }
        receiver.body.as_ref()?;
        if receiver.accepts == own || receiver.accepts == ANYBODY {
            return Some((number, Meaning::Message));
        }
        if receiver.awaits != own {
            return None;
        }
        match receiver.kept_operation.incoming {
            Incoming::FaultReply => Some((number, Meaning::FaultReply)),
            Incoming::ExceptionReply => Some((number, Meaning::ExceptionReply)),
            Incoming::Message | Incoming::Start => None,
        }
    }

    /// Sends a fault or an exception of the current thread to who serves it, named in control word `server`;
    /// `false` if that is not to run at once.
    pub(crate) fn send_directly(
        &mut self,
        me: Number,
        server: ControlWord,
        outgoing: Outgoing,
        incoming: Incoming,
    ) -> bool {
        let to = ThreadId(self.control_word(me, server));
        let Some((number, Meaning::Message)) = self.direct_receiver(me, to) else { return false };
        let Some(id) = to.global() else { return false };
        let tag = self.put_kernel_message(me, number, outgoing);
        self.set_result(number, self.name_for(number, me), tag);
        self.threads.at_light(number).accepts = 0;
        let sender = self.threads.at_light(me);
        sender.awaits = to.0;
        sender.kept_state = State::Receiving;
        sender.kept_operation =
            Operation { outgoing, to, from: From::Thread(id), incoming, ..Operation::default() };
        self.current = number;
        true
    }

    /// Does an IPC of the current thread that answers a fault or an exception, or maps one thing, and
    /// receives afterwards; `false` if it is not so simple: then nothing has been done but perhaps some of
    /// the mapping, which can be done again.
    pub(crate) fn answer_directly(
        &mut self,
        me: Number,
        to: ThreadId,
        from: ThreadId,
        timeouts: Timeouts,
    ) -> bool {
        if timeouts.receive() != Time::NEVER || from != to && from != ThreadId::ANY {
            return false;
        }
        let Some((number, meaning)) = self.direct_receiver(me, to) else { return false };
        let tag = Tag(self.register(me, Register::R9));
        if tag != tag.without_flags() {
            return false;
        }
        if meaning == Meaning::ExceptionReply {
            self.load_registers(me, number);
        } else if !self.map_directly(me, number, tag, meaning) {
            return false;
        }
        let receiver = self.threads.at_light(number);
        if meaning == Meaning::Message {
            receiver.accepts = 0;
            self.set_result(number, self.name_for(number, me), tag);
        } else {
            receiver.awaits = 0;
            receiver.kept_state = State::Ready;
            receiver.kept_operation = Operation::default();
        }
        self.threads.at_light(me).accepts = from.0;
        self.current = number;
        true
    }

    /// Transfers a message with one map or grant item, but for the receiver's result.
    fn map_directly(&mut self, me: Number, number: Number, tag: Tag, meaning: Meaning) -> bool {
        let untyped = tag.untyped();
        if tag.typed() != 2 || untyped + 2 >= MESSAGE_REGISTERS.len() {
            return false;
        }
        let header = self.message_register(me, untyped + 1);
        let page = Flexpage(self.message_register(me, untyped + 2));
        if !matches!(ItemKind::of(header), ItemKind::Map | ItemKind::Grant) {
            return false;
        }
        let window = match meaning {
            Meaning::Message => Acceptor(self.utcb_word(number, utcb::buffer_word(0))).window(),
            _ => Flexpage::COMPLETE,
        };
        let item = MapItem { header, page };
        if self.map_item(me, number, item, window, 0) != Some(Progress::Done)
            || self.threads.gate == CLOSED
        {
            return false;
        }
        if meaning == Meaning::Message {
            for register in MESSAGE_REGISTERS.into_iter().skip(1).take(untyped) {
                let value = self.register(me, register);
                self.set_register(number, register, value);
            }
            let header = heliox_abi::StringItem(header).with_continuation(false).0;
            self.set_message_register(number, untyped + 1, header);
            self.set_message_register(number, untyped + 2, page.0);
        }
        true
    }
}

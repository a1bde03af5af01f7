//! Moving a message from its sender to its receiver.
//!
//! Untyped words go at once. Typed items (mappings and strings) go one after the other, in steps, since
//! they can be long, and since strings can cause page faults: then the thread on whose side
//! memory is missing asks its pager, and the transfer goes on when that has answered. Meanwhile both threads
//! are [`State::Transferring`]; the state of the transfer is a [`Transfer`].
//!
//! Everything that is read from the sender's message registers and the receiver's buffer registers
//! is read when it is needed and checked then: others may change it at any time.

use heliox_abi::utcb::{self, ControlWord};
use heliox_abi::{
    Acceptor, Flexpage, FlexpageKind, IpcError, IpcErrorCode, ItemKind, MapItem, Phase, StringItem,
    Tag, ThreadId, Timeouts,
};
use heliox_hal::execution::Registers;
use heliox_hal::kernel_mapping::KernelMapping;
use heliox_hal::memory::KernelMemory;
use heliox_hal::region::PhysicalRegion;
use heliox_hal::rights::Rights;
use heliox_types::{PAGE_BYTES, VirtualAddress};

use crate::kernel::{Kernel, MESSAGE_REGISTERS, Machine, Surroundings, ipc_error};
use crate::memory::{Progress, Span};
use crate::planted::{Fault, is_planted};
use crate::thread::{
    From, Incoming, Limit, NOBODY, Number, Operation, Outer, Outgoing, State, Work,
};

/// Where in the pieces of a string the copying is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    /// The header's message or buffer register.
    header: usize,
    /// Which of the header's pieces.
    piece: usize,
    /// Bytes of that piece that are done.
    offset: u64,
}

/// A transfer of typed items that is under way.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transfer {
    sender: Number,
    receiver: Number,
    /// Message register of the next item.
    item: usize,
    /// Bytes of the mapping that are done.
    mapped: u64,
    /// The string that is being copied: where it is read, and where written.
    string: Option<(Position, Position)>,
    /// The next buffer's header.
    buffer: usize,
    /// Bytes of strings that were copied.
    bytes: u64,
    /// Until when page faults are waited for, since there was the first.
    deadline: Option<Option<u64>>,
    /// The next free place, plus one, while this one is free.
    next_free: u32,
}

/// All transfers that are under way.
#[derive(Debug)]
pub(crate) struct Transfers<'k> {
    table: &'k mut [Transfer],
    free: u32,
}

impl<'k> Transfers<'k> {
    pub(crate) fn new(table: &'k mut [Transfer]) -> Self {
        let count = u32::try_from(table.len()).unwrap_or(u32::MAX);
        for (transfer, following) in table.iter_mut().zip(2..) {
            let next_free = if following <= count { following } else { 0 };
            *transfer = Transfer { next_free, ..Transfer::default() };
        }
        Self { free: u32::from(count > 0), table }
    }

    fn add(&mut self, transfer: Transfer) -> Option<u32> {
        let number = self.free.checked_sub(1)?;
        let slot = self.table.get_mut(number as usize)?;
        self.free = slot.next_free;
        *slot = transfer;
        Some(number)
    }

    fn get(&self, number: u32) -> Transfer {
        self.table.get(number as usize).copied().unwrap_or_default()
    }

    fn set(&mut self, number: u32, transfer: Transfer) {
        if let Some(slot) = self.table.get_mut(number as usize) {
            *slot = transfer;
        }
    }

    fn remove(&mut self, number: u32) {
        let next_free = core::mem::replace(&mut self.free, number + 1);
        self.set(number, Transfer { next_free, ..Transfer::default() });
    }
}

/// How a step of a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All items are transferred.
    Done,
    /// There is more to do.
    Again,
    /// `who` lacks memory at `address`.
    Fault { who: Number, address: u64, access: u64 },
    /// The receiver has no room for it, or the message is malformed.
    Overflow,
    /// `who` names memory that no program can have.
    Impossible { who: Number },
}

/// A page of memory, as the kernel reaches it.
enum Window {
    /// Mapped for one copy.
    Own(KernelMapping),
    /// A page of UTCBs, by number.
    Utcb(u32),
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// Transfers the message of `sender`, which `receiver` waits for.
    pub(crate) fn begin_transfer(&mut self, sender: Number, receiver: Number) {
        let outgoing = self.threads.at(sender).operation().outgoing;
        let incoming = self.threads.at(receiver).operation().incoming;
        match (outgoing, incoming) {
            (Outgoing::Message, Incoming::Message | Incoming::FaultReply) => {
                self.transfer_message(sender, receiver);
            }
            (Outgoing::Message, Incoming::Start) => {
                self.start_thread(sender, receiver);
                self.complete(sender, receiver);
            }
            (Outgoing::Message, Incoming::ExceptionReply) => {
                self.load_registers(sender, receiver);
                self.complete(sender, receiver);
            }
            (_, Incoming::Message) => {
                let tag = self.put_kernel_message(sender, receiver, outgoing);
                self.deliver(sender, receiver, tag);
                self.complete(sender, receiver);
            }
            // The answer to a fault is a fault, which answers nothing. Two transfers whose pagers wait for
            // each other would try for ever without any program running: this one ends.
            _ if self.threads.at(receiver).outer.is_some() => {
                self.fail(receiver, ipc_error(Phase::Receive, IpcErrorCode::Aborted));
                self.sent(sender);
            }
            _ => self.complete(sender, receiver),
        }
    }

    /// Both sides go on.
    fn complete(&mut self, sender: Number, receiver: Number) {
        self.woken = receiver;
        if self.threads.at(receiver).state() != State::Stopped {
            self.end_operation(receiver);
        }
        self.sent(sender);
    }

    // --- Ordinary messages ---

    fn transfer_message(&mut self, sender: Number, receiver: Number) {
        let tag = Tag(self.message_register(sender, 0));
        let is_message = self.threads.at(receiver).operation().incoming == Incoming::Message;
        if tag.untyped() + tag.typed() >= utcb::MESSAGE_REGISTERS {
            return self.overflow(sender, receiver, 0);
        }
        if is_message {
            self.copy_untyped(sender, receiver, tag.untyped());
        }
        if tag.typed() == 0 {
            if is_message {
                self.deliver(sender, receiver, tag.without_flags());
            }
            return self.complete(sender, receiver);
        }
        let mut transfer = Transfer {
            sender,
            receiver,
            item: tag.untyped() + 1,
            buffer: 1,
            ..Transfer::default()
        };
        // Mostly one step is all.
        let outcome = self.transfer_step(&mut transfer);
        if outcome == Outcome::Done {
            return self.items_done(sender, receiver);
        }
        let Some(number) = self.transfers.add(transfer) else {
            return self.overflow(sender, receiver, 0);
        };
        for thread in [sender, receiver] {
            let thread = self.threads.at_mut(thread);
            thread.transfer = Some(number);
            thread.kept_state = State::Transferring;
        }
        self.after_step(number, outcome);
        // It need not have been runnable before.
        self.settle(receiver);
        self.settle(sender);
    }

    /// All items are transferred, and with them the message.
    fn items_done(&mut self, sender: Number, receiver: Number) {
        if self.threads.at(receiver).operation().incoming == Incoming::Message {
            let tag = Tag(self.message_register(sender, 0));
            self.deliver(sender, receiver, tag.without_flags());
        }
        self.complete(sender, receiver);
    }

    fn copy_untyped(&mut self, sender: Number, receiver: Number, count: usize) {
        for &register in MESSAGE_REGISTERS.iter().skip(1).take(count) {
            let value = self.register(sender, register);
            self.set_register(receiver, register, value);
        }
        let first = MESSAGE_REGISTERS.len();
        let Some(beyond) = (count + 1).checked_sub(first).filter(|beyond| *beyond > 0) else {
            return;
        };
        let (Some(from), Some(to)) = (self.threads.at(sender).utcb, self.threads.at(receiver).utcb)
        else {
            return;
        };
        let offset = |slot: u8| (usize::from(slot) * utcb::WORDS + utcb::message_word(first)) * 8;
        let (Some(source), Some(target)) =
            (&self.utcbs.at(from.page).mapping, &self.utcbs.at(to.page).mapping)
        else {
            return;
        };
        // Within the blocks: at most 63 message registers.
        let _ = self.machine.memory().copy(
            (source, offset(from.slot)),
            (target, offset(to.slot)),
            beyond * 8,
        );
    }

    /// Tells the receiver who a message is from, and sees to what follows from speaking for others.
    fn deliver(&mut self, sender: Number, receiver: Number, tag: Tag) {
        let operation = self.threads.at(sender).operation();
        let mut tag = tag;
        let mut from = self.name_for(receiver, sender);
        if let Some(id) = operation.virtual_sender {
            tag = tag.with(Tag::PROPAGATED);
            self.set_control_word(receiver, ControlWord::VirtualSender, from.0);
            from = match self.threads.find(id) {
                Some(number) => {
                    self.turn_partner(number, sender, receiver);
                    self.name_for(receiver, number)
                }
                None => id.into(),
            };
        }
        if let Some(intended) = operation.intended {
            tag = tag.with(Tag::REDIRECTED);
            self.set_control_word(receiver, ControlWord::IntendedReceiver, intended.word());
            if operation.from == From::Thread(intended)
                && let Some(id) = self.threads.at(receiver).id
            {
                // The answer comes from the redirector, or from whom it passes the message to.
                self.threads.at_mut(sender).kept_operation.from = From::Thread(id);
            }
        }
        self.set_result(receiver, from, tag);
    }

    /// A thread that waits for `sender`, which spoke for it, now waits for `receiver`.
    fn turn_partner(&mut self, number: Number, sender: Number, receiver: Number) {
        let (Some(id), Some(partner)) = (self.threads.at(sender).id, self.threads.at(receiver).id)
        else {
            return;
        };
        let thread = self.threads.at_mut(number);
        if thread.state() == State::Receiving && thread.operation().from == From::Thread(id) {
            thread.kept_operation.from = From::Thread(partner);
            self.check_later(number);
        }
    }

    /// The receiver has no room: both are told.
    fn overflow(&mut self, sender: Number, receiver: Number, bytes: u64) {
        self.fail_both(sender, receiver, (IpcErrorCode::Overflow, IpcErrorCode::Overflow), bytes);
    }

    fn fail_both(
        &mut self,
        sender: Number,
        receiver: Number,
        (sender_code, receiver_code): (IpcErrorCode, IpcErrorCode),
        offset: u64,
    ) {
        let send = IpcError { phase: Phase::Send, code: sender_code, offset };
        let receive = IpcError { phase: Phase::Receive, code: receiver_code, offset };
        self.fail(receiver, receive);
        self.fail(sender, send);
    }

    // --- Typed items ---

    /// A step of the transfer that a thread sends.
    pub(crate) fn go_on_transferring(&mut self, sender: Number) {
        let Some(number) = self.threads.at(sender).transfer else {
            self.threads.at_mut(sender).work = Work::None;
            return;
        };
        let mut transfer = self.transfers.get(number);
        let outcome = self.transfer_step(&mut transfer);
        self.transfers.set(number, transfer);
        self.after_step(number, outcome);
    }

    /// What becomes of a transfer after a step of it.
    fn after_step(&mut self, number: u32, outcome: Outcome) {
        let Transfer { sender, receiver, bytes, .. } = self.transfers.get(number);
        match outcome {
            Outcome::Again => self.threads.at_mut(sender).work = Work::Transfer,
            Outcome::Fault { who, address, access } => {
                self.threads.at_mut(sender).work = Work::None;
                self.settle(sender);
                self.transfer_fault(number, who, address, access);
            }
            Outcome::Done => {
                self.end_transfer(number);
                self.items_done(sender, receiver);
            }
            Outcome::Impossible { who } => {
                self.abort_transfer(number, who, IpcErrorCode::Aborted);
            }
            Outcome::Overflow => {
                self.end_transfer(number);
                self.overflow(sender, receiver, bytes);
            }
        }
    }

    /// A page fault of a transfer was served.
    pub(crate) fn resume_transfer(&mut self, me: Number) {
        let Some(number) = self.threads.at(me).transfer else { return };
        let sender = self.transfers.get(number).sender;
        self.threads.at_mut(sender).work = Work::Transfer;
        self.settle(me);
        self.settle(sender);
    }

    /// Whether a thread sends the message of the transfer that it takes part in, or that its page fault
    /// interrupted.
    pub(crate) fn is_transfer_sender(&self, me: Number) -> bool {
        let thread = self.threads.at(me);
        let number = thread.outer.map(|outer| outer.transfer).or(thread.transfer);
        number.is_some_and(|number| self.transfers.get(number).sender == me)
    }

    fn end_transfer(&mut self, number: u32) {
        let Transfer { sender, receiver, .. } = self.transfers.get(number);
        for thread in [sender, receiver] {
            let thread = self.threads.at_mut(thread);
            thread.transfer = None;
            thread.work = Work::None;
            thread.kept_state = State::Ready;
        }
        self.transfers.remove(number);
    }

    /// Aborts the transfer that a thread takes part in, if it takes part in one.
    pub(crate) fn abort_transfer_of(&mut self, me: Number) {
        let thread = self.threads.at(me);
        // The one that serves a page fault comes before the one that the fault interrupted, which then
        // cannot go on either.
        if let Some(number) = thread.transfer.or(thread.outer.map(|outer| outer.transfer)) {
            self.abort_transfer(number, me, IpcErrorCode::Aborted);
        }
    }

    /// Ends a transfer that cannot go on because of `me`. Both sides are told: with `code`, or, if time ran
    /// out, with whose it was.
    pub(crate) fn abort_transfer(&mut self, number: u32, me: Number, code: IpcErrorCode) {
        let Transfer { sender, receiver, bytes, .. } = self.transfers.get(number);
        for thread in [sender, receiver] {
            if self.threads.at(thread).outer.is_some_and(|outer| outer.transfer == number) {
                self.leave_page_fault(thread);
            }
        }
        self.end_transfer(number);
        let other = match code {
            IpcErrorCode::TransferTimeoutOwn => IpcErrorCode::TransferTimeoutPartner,
            code => code,
        };
        let codes = if me == sender { (code, other) } else { (other, code) };
        self.fail_both(sender, receiver, codes, bytes);
    }

    /// A thread gives up having a page fault of its transfer served.
    fn leave_page_fault(&mut self, me: Number) {
        let Some(outer) = self.threads.at_mut(me).outer.take() else { return };
        if self.threads.at(me).state() == State::Sending {
            self.threads.dequeue_sender(me);
        }
        self.timers.cancel(&mut self.threads, me);
        let thread = self.threads.at_mut(me);
        thread.kept_operation = outer.operation;
        if let Some(serving) = thread.transfer.take() {
            // The pager was about to map the memory.
            let Transfer { sender, bytes, .. } = self.transfers.get(serving);
            self.end_transfer(serving);
            let code = IpcErrorCode::Aborted;
            self.fail(sender, IpcError { phase: Phase::Send, code, offset: bytes });
        }
    }

    /// Has the pager of `who` asked for memory that a string needs.
    fn transfer_fault(&mut self, number: u32, who: Number, address: u64, access: u64) {
        let mut transfer = self.transfers.get(number);
        let now = self.machine.now();
        let deadline = match transfer.deadline {
            Some(deadline) => deadline,
            None => {
                let words = [transfer.sender, transfer.receiver].map(|thread| {
                    Timeouts(self.control_word(thread, ControlWord::TransferTimeouts))
                });
                let [sender, receiver] = words;
                let ends = [sender.send().deadline(now), receiver.receive().deadline(now)];
                ends.into_iter().flatten().min()
            }
        };
        transfer.deadline = Some(deadline);
        self.transfers.set(number, transfer);
        if deadline.is_some_and(|deadline| deadline <= now) {
            return self.abort_transfer(number, who, IpcErrorCode::TransferTimeoutOwn);
        }
        let instruction = self.threads.at(who).context().map_or(0, Registers::instruction_pointer);
        let thread = self.threads.at_mut(who);
        thread.outer = Some(Outer { operation: thread.operation(), transfer: number });
        thread.transfer = None;
        let outgoing = Outgoing::PageFault { address, access, instruction };
        self.ask_pager(who, outgoing, deadline);
    }

    /// Asks the pager of a thread for what it lacks; the thread waits for the answer.
    pub(crate) fn ask_pager(&mut self, who: Number, outgoing: Outgoing, deadline: Option<u64>) {
        let pager = ThreadId(self.control_word(who, ControlWord::Pager));
        let space = self.threads.at(who).space;
        let id = self.resolve(space, pager).and_then(|pager| self.threads.at(pager).id);
        self.threads.at_mut(who).kept_operation = Operation {
            outgoing,
            to: id.map_or(ThreadId::NIL, Into::into),
            from: id.map_or(From::Nobody, From::Thread),
            incoming: Incoming::FaultReply,
            limit: deadline.map_or(Limit::Never, Limit::Until),
            ..Operation::default()
        };
        self.begin_sending(who, deadline);
    }

    fn transfer_step(&mut self, transfer: &mut Transfer) -> Outcome {
        let Transfer { sender, receiver, .. } = *transfer;
        if let Some(positions) = transfer.string {
            return self.copy_string(transfer, positions);
        }
        let tag = Tag(self.message_register(sender, 0));
        let last = tag.untyped() + tag.typed();
        if transfer.item > last || last >= utcb::MESSAGE_REGISTERS {
            return Outcome::Done;
        }
        let header = self.message_register(sender, transfer.item);
        match ItemKind::of(header) {
            ItemKind::Map | ItemKind::Grant if transfer.item < last => {
                let page = Flexpage(self.message_register(sender, transfer.item + 1));
                self.transfer_mapping(transfer, MapItem { header, page }, last)
            }
            ItemKind::String => {
                if self.threads.at(receiver).operation().incoming != Incoming::Message {
                    // The answer to a fault: strings are of no use there.
                    return match self.string_end(sender, transfer.item, last) {
                        Some(end) => {
                            transfer.item = end;
                            Outcome::Again
                        }
                        None => Outcome::Overflow,
                    };
                }
                self.begin_string(transfer, last)
            }
            _ => Outcome::Overflow,
        }
    }

    /// Copies an item's words to the receiver's message registers; the first says whether more items follow.
    fn copy_item(
        &mut self,
        sender: Number,
        receiver: Number,
        from: usize,
        end: usize,
        last: usize,
    ) {
        if self.threads.at(receiver).operation().incoming != Incoming::Message {
            return;
        }
        for index in from..end {
            let mut word = self.message_register(sender, index);
            if index == from {
                word = StringItem(word).with_continuation(end <= last).0;
            }
            self.set_message_register(receiver, index, word);
        }
    }

    fn transfer_mapping(&mut self, transfer: &mut Transfer, item: MapItem, last: usize) -> Outcome {
        let Transfer { sender, receiver, mapped, .. } = *transfer;
        let window = if self.threads.at(receiver).operation().incoming == Incoming::FaultReply {
            Flexpage::COMPLETE
        } else {
            Acceptor(self.utcb_word(receiver, utcb::buffer_word(0))).window()
        };
        let progress = match self.map_item(sender, receiver, item, window, mapped) {
            Some(progress) => progress,
            None => return Outcome::Overflow,
        };
        match progress {
            Progress::Until(done) => transfer.mapped = done,
            Progress::NoMemory => return Outcome::Overflow,
            Progress::Done => {
                self.copy_item(sender, receiver, transfer.item, transfer.item + 2, last);
                transfer.mapped = 0;
                transfer.item += 2;
                if transfer.item > last {
                    return Outcome::Done;
                }
            }
        }
        Outcome::Again
    }

    /// Maps what an item says into a window of the receiver; `None` if the window is nothing but the item
    /// is not.
    pub(crate) fn map_item(
        &mut self,
        sender: Number,
        receiver: Number,
        item: MapItem,
        window: Flexpage,
        done: u64,
    ) -> Option<Progress> {
        let from_space = self.threads.at(sender).space;
        let to_space = self.threads.at(receiver).space;
        let rights = item.page.rights();
        let span = |kind: FlexpageKind| match kind {
            FlexpageKind::Memory { base, bits } => Some(Span { base, bits }),
            FlexpageKind::Complete => Some(Span::COMPLETE),
            _ => None,
        };
        match (item.page.kind(), window.kind()) {
            (FlexpageKind::Nothing, _) => Some(Progress::Done),
            (_, FlexpageKind::Nothing) => None,
            (FlexpageKind::Ports(ports), FlexpageKind::Ports(_) | FlexpageKind::Complete) => {
                self.map_ports(from_space, to_space, ports, window, item.is_grant());
                Some(Progress::Done)
            }
            (FlexpageKind::Ports(_), _) | (_, FlexpageKind::Ports(_)) => Some(Progress::Done),
            (page, window) => {
                let (source, target) = (span(page)?, span(window)?);
                let base = item.base();
                let (source, to) = if source.bits <= target.bits {
                    let offset = low_bits(base, target.bits) >> source.bits << source.bits;
                    (source, target.base.wrapping_add(offset))
                } else {
                    let offset = low_bits(base, source.bits) >> target.bits << target.bits;
                    let part = Span { base: source.base.wrapping_add(offset), bits: target.bits };
                    (part, target.base)
                };
                Some(self.map_span(
                    (from_space, source),
                    (to_space, to),
                    rights,
                    item.is_grant(),
                    done,
                ))
            }
        }
    }

    // --- Strings ---

    /// The message register behind a string item that begins at `from`; `None` if it goes on behind the
    /// message.
    fn string_end(&mut self, sender: Number, from: usize, last: usize) -> Option<usize> {
        let mut at = from;
        loop {
            if at > last {
                return None;
            }
            let header = StringItem(self.message_register(sender, at));
            at += 1 + header.pieces();
            if at > last + 1 {
                return None;
            }
            if !header.is_compound() {
                return Some(at);
            }
        }
    }

    fn begin_string(&mut self, transfer: &mut Transfer, last: usize) -> Outcome {
        let Transfer { sender, receiver, item, buffer, .. } = *transfer;
        let accepts = Acceptor(self.utcb_word(receiver, utcb::buffer_word(0))).strings();
        let exists = buffer > 0 && buffer + 1 < utcb::BUFFER_REGISTERS;
        if self.string_end(sender, item, last).is_none() || !accepts || !exists {
            return Outcome::Overflow;
        }
        let source = Position { header: item, ..Position::default() };
        let target = Position { header: buffer, ..Position::default() };
        transfer.string = Some((source, target));
        Outcome::Again
    }

    /// The header that a position is at, and the address of its piece: of the sender's message, or of
    /// the receiver's buffers.
    fn piece(
        &mut self,
        who: Number,
        position: Position,
        buffers: bool,
    ) -> Option<(StringItem, u64)> {
        let word = |kernel: &mut Self, index: usize| {
            let limit = if buffers { utcb::BUFFER_REGISTERS } else { utcb::MESSAGE_REGISTERS };
            (index < limit).then(|| match buffers {
                true => kernel.utcb_word(who, utcb::buffer_word(index)),
                false => kernel.message_register(who, index),
            })
        };
        let header = StringItem(word(self, position.header)?);
        let address = word(self, position.header + 1 + position.piece)?;
        Some((header, address))
    }

    /// The next bytes at a position, as address and number; `None` at the end of the string. Moves over
    /// what is done.
    fn next_bytes(
        &mut self,
        who: Number,
        position: &mut Position,
        buffers: bool,
    ) -> Option<(u64, u64)> {
        // Each turn passes a piece, of which there are at most as many as registers.
        for _ in 0..utcb::MESSAGE_REGISTERS {
            let (header, address) = self.piece(who, *position, buffers)?;
            let left = header.length().saturating_sub(position.offset);
            if left > 0 && position.piece < header.pieces() {
                return Some((address.wrapping_add(position.offset), left));
            }
            position.offset = 0;
            position.piece += 1;
            if position.piece >= header.pieces() {
                if !header.is_compound() {
                    // Stays behind the last piece.
                    return None;
                }
                position.header += 1 + header.pieces();
                position.piece = 0;
            }
        }
        None
    }

    /// Copies up to a page of a string.
    fn copy_string(
        &mut self,
        transfer: &mut Transfer,
        (mut source, mut target): (Position, Position),
    ) -> Outcome {
        let Transfer { sender, receiver, .. } = *transfer;
        let Some((from, available)) = self.next_bytes(sender, &mut source, false) else {
            return self.end_string(transfer, target);
        };
        let Some((to, room)) = self.next_bytes(receiver, &mut target, true) else {
            return Outcome::Overflow;
        };
        for (who, address) in [(sender, from), (receiver, to)] {
            if VirtualAddress::new(address).is_none_or(|address| !address.is_user()) {
                return Outcome::Impossible { who };
            }
        }
        let in_page = |address: u64| PAGE_BYTES - address % PAGE_BYTES;
        let room = if is_planted(Fault::BufferOverrun) { available } else { room };
        let count = available.min(room).min(in_page(from)).min(in_page(to));
        let Some(read) = self.string_page(sender, from, false) else {
            return Outcome::Fault { who: sender, address: from, access: Flexpage::READ };
        };
        let Some(write) = self.string_page(receiver, to, true) else {
            return Outcome::Fault { who: receiver, address: to, access: Flexpage::WRITE };
        };
        if !self.copy_between(read, write, from % PAGE_BYTES, to % PAGE_BYTES, count) {
            return Outcome::Overflow;
        }
        source.offset += count;
        target.offset += count;
        transfer.bytes += count;
        transfer.string = Some((source, target));
        Outcome::Again
    }

    /// A string has been copied: the next item, and the next buffer.
    fn end_string(&mut self, transfer: &mut Transfer, target: Position) -> Outcome {
        let Transfer { sender, receiver, item, .. } = *transfer;
        let tag = Tag(self.message_register(sender, 0));
        let last = (tag.untyped() + tag.typed()).min(utcb::MESSAGE_REGISTERS - 1);
        let Some(end) = self.string_end(sender, item, last) else { return Outcome::Overflow };
        self.copy_item(sender, receiver, item, end, last);
        transfer.string = None;
        transfer.item = end;
        transfer.buffer = self.next_buffer(receiver, target.header);
        if end > last { Outcome::Done } else { Outcome::Again }
    }

    /// The header of the buffer that follows the one with a header at `header`; 0 if there is none.
    fn next_buffer(&mut self, receiver: Number, header: usize) -> usize {
        let mut at = header;
        while at < utcb::BUFFER_REGISTERS {
            let item = StringItem(self.utcb_word(receiver, utcb::buffer_word(at)));
            at += 1 + item.pieces();
            if !item.is_compound() {
                return if item.continues() { at } else { 0 };
            }
        }
        0
    }

    /// The page of a thread's memory at `address`, if it may be used in that way.
    fn string_page(&mut self, who: Number, address: u64, write: bool) -> Option<StringPage> {
        let space = self.threads.at(who).space;
        if self.spaces.at(space).tables.is_some()
            && self.spaces.at(space).utcb_area.contains(address)
        {
            let first = self.spaces.at(space).utcb_pages;
            return self.utcbs.find(first, address).map(StringPage::Utcb);
        }
        let (region, rights) = self.page_of(space, address)?;
        let needed = if write { Flexpage::WRITE } else { Flexpage::READ };
        (rights & needed != 0).then_some(StringPage::Memory(region))
    }

    /// Copies between two pages, of which one may be the other.
    fn copy_between(
        &mut self,
        from: StringPage,
        to: StringPage,
        from_offset: u64,
        to_offset: u64,
        count: u64,
    ) -> bool {
        // Below a page.
        let (from_offset, to_offset, count) =
            (from_offset as usize, to_offset as usize, count as usize);
        let same = matches!((from, to), (StringPage::Memory(a), StringPage::Memory(b)) if a == b);
        let Some(target) = self.open(to) else { return false };
        let source = if same { None } else { self.open(from) };
        if !same && source.is_none() {
            self.close(target);
            return false;
        }
        let machine = &mut self.machine;
        let utcbs = &self.utcbs;
        let mapping = |window: &'_ Window| -> Option<&KernelMapping> {
            match window {
                Window::Own(_) => None,
                Window::Utcb(page) => utcbs.at(*page).mapping.as_ref(),
            }
        };
        let target_mapping = match &target {
            Window::Own(mapping) => Some(mapping),
            other => mapping(other),
        };
        let source_mapping = match &source {
            None => target_mapping,
            Some(Window::Own(mapping)) => Some(mapping),
            Some(other) => mapping(other),
        };
        let copied = match (source_mapping, target_mapping) {
            (Some(source), Some(target)) => {
                machine.memory().copy((source, from_offset), (target, to_offset), count).is_ok()
            }
            _ => false,
        };
        self.close(target);
        if let Some(source) = source {
            self.close(source);
        }
        copied
    }

    fn open(&mut self, page: StringPage) -> Option<Window> {
        match page {
            StringPage::Utcb(page) => Some(Window::Utcb(page)),
            StringPage::Memory(region) => {
                let cpu = self.machine.cpu();
                let memory = self.machine.memory();
                let mapping =
                    memory.add_kernel_mapping(cpu, region, Rights::ReadWrite, false, None);
                mapping.ok().map(Window::Own)
            }
        }
    }

    fn close(&mut self, window: Window) {
        if let Window::Own(mapping) = window {
            let cpu = self.machine.cpu();
            // Only the kernel used it.
            let _ = self.machine.memory().remove_kernel_mapping(cpu, mapping);
        }
    }

    // --- Messages of the kernel, and to it ---

    /// Puts a message of the kernel's into the receiver's message registers.
    pub(crate) fn put_kernel_message(
        &mut self,
        sender: Number,
        receiver: Number,
        outgoing: Outgoing,
    ) -> Tag {
        match self.kernel_message(outgoing) {
            KernelMessage::Words(tag, words) => {
                for (index, word) in (1..).zip(words) {
                    self.set_message_register(receiver, index, word);
                }
                tag
            }
            KernelMessage::Registers(tag, vector, code) => {
                self.put_registers(sender, receiver, vector, code);
                tag
            }
        }
    }

    /// The message that starts a thread: two words, its instruction and stack pointers.
    fn start_thread(&mut self, sender: Number, receiver: Number) {
        let tag = Tag(self.message_register(sender, 0));
        let (instruction, stack) =
            (self.message_register(sender, 1), self.message_register(sender, 2));
        let fits = (tag.untyped(), tag.typed()) == (2, 0);
        let thread = self.threads.at_mut(receiver);
        let entry = VirtualAddress::new(instruction).filter(|address| fits && address.is_user());
        thread.kept_state = State::Stopped;
        if let (Some(context), Some(entry)) = (thread.context_mut(), entry)
            && context.set_instruction_pointer(entry).is_ok()
        {
            context.set_stack_pointer(stack);
            thread.kept_state = State::Ready;
        }
    }
}

/// A message of the kernel's.
pub(crate) enum KernelMessage {
    /// Two words.
    Words(Tag, [u64; 2]),
    /// The sender's registers, the number of the exception and its error code.
    Registers(Tag, u64, u64),
}

/// A page that a string is in.
#[derive(Clone, Copy)]
enum StringPage {
    Memory(PhysicalRegion),
    Utcb(u32),
}

/// The low `bits` bits.
fn low_bits(value: u64, bits: u32) -> u64 {
    if bits >= 64 { value } else { value & ((1 << bits) - 1) }
}

const _: () = assert!(NOBODY == 0);

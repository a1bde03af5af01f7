//! ThreadControl: creating, activating, changing, moving and deleting threads; and who handles
//! interrupts.

use heliox_abi::utcb::{self, ControlWord};
use heliox_abi::{CallError, GlobalId, ThreadId, kip};
use heliox_hal::execution::Registers;
use heliox_hal::memory::{KernelMemory, Paging};
use heliox_hal::rights::Rights;
use heliox_types::Register;
use heliox_types::VirtualAddress;

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::planted::{Fault, is_planted};
use crate::space::Space;
use crate::thread::{Body, From, Incoming, NOBODY, Number, Operation, State, Thread, Utcb, Work};

/// The UTCB location that means no change.
const NO_CHANGE: u64 = u64::MAX;

/// The arguments of ThreadControl.
#[derive(Clone, Copy, Debug)]
struct Arguments {
    destination: GlobalId,
    space: ThreadId,
    scheduler: ThreadId,
    pager: ThreadId,
    utcb: u64,
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The system call ThreadControl.
    pub(crate) fn thread_control(&mut self, me: Number) {
        let [destination, space, scheduler, pager, utcb] =
            [Register::Rdi, Register::R8, Register::Rdx, Register::Rsi, Register::R9]
                .map(|register| self.register(me, register));
        let result = self.control_thread(
            me,
            ThreadId(destination),
            ThreadId(space),
            ThreadId(scheduler),
            ThreadId(pager),
            utcb,
        );
        // The caller may have deleted itself.
        if self.threads.exists(me) {
            self.answer(me, result);
        }
    }

    fn control_thread(
        &mut self,
        me: Number,
        destination: ThreadId,
        space: ThreadId,
        scheduler: ThreadId,
        pager: ThreadId,
        utcb: u64,
    ) -> Result<(), CallError> {
        if !self.is_privileged(me) {
            return Err(CallError::NoPrivilege);
        }
        let destination = destination.global().ok_or(CallError::InvalidThread)?;
        if let Some(line) = self.interrupt_line(destination) {
            return self.control_interrupt(me, line, pager);
        }
        let number = destination.number();
        if number < kip::USER_BASE || number >= self.threads.limit() {
            return Err(CallError::InvalidThread);
        }
        if space.is_nil() {
            if self.threads.exists(number) {
                self.delete(me, number);
            }
            return Ok(());
        }
        let own = self.threads.at(me).space;
        // A scheduler may be named by a local identifier; it is kept by the global one.
        let scheduler = match scheduler {
            ThreadId::NIL => ThreadId::NIL,
            name => {
                let scheduler = self.resolve(own, name).ok_or(CallError::InvalidScheduler)?;
                self.threads.at(scheduler).id.map_or(ThreadId::NIL, Into::into)
            }
        };
        let arguments = Arguments { destination, space, scheduler, pager, utcb };
        if self.threads.exists(number) {
            self.modify(me, number, arguments)
        } else {
            self.create(me, arguments)
        }
    }

    /// Who handles an interrupt line: nobody if the pager is the interrupt itself.
    fn control_interrupt(
        &mut self,
        me: Number,
        line: u8,
        pager: ThreadId,
    ) -> Result<(), CallError> {
        if pager.global() == crate::interrupts::interrupt_id(line) {
            self.dissociate(line);
            return Ok(());
        }
        let space = self.threads.at(me).space;
        let handler = self.resolve(space, pager).ok_or(CallError::InvalidThread)?;
        if self.associate(line, handler) { Ok(()) } else { Err(CallError::InvalidThread) }
    }

    // --- Creating ---

    fn create(&mut self, me: Number, arguments: Arguments) -> Result<(), CallError> {
        let Arguments { destination, space, scheduler, pager, utcb } = arguments;
        let number = destination.number();
        let is_new_space = space.global() == Some(destination);
        let existing = match is_new_space {
            true => None,
            false => {
                let member = self.threads.find_word(space).ok_or(CallError::InvalidSpace)?;
                Some(self.threads.at(member).space)
            }
        };
        if scheduler.is_nil() {
            return Err(CallError::InvalidScheduler);
        }
        let wants_utcb = utcb != NO_CHANGE;
        if wants_utcb {
            let existing = existing.ok_or(CallError::UtcbArea)?;
            self.check_utcb(existing, utcb, NOBODY)?;
        }
        let space = match existing {
            Some(space) => space,
            None => self.spaces.allocate().ok_or(CallError::NoMemory)?,
        };
        self.spaces.at_mut(space).threads += 1;
        let thread = Thread { id: Some(destination), space, scheduler, pager, ..Thread::free() };
        self.threads.reset(number, thread);
        self.thread_limit = self.thread_limit.max(number + 1);
        if wants_utcb && let Err(error) = self.give_utcb(number, utcb) {
            self.delete(me, number);
            return Err(error);
        }
        self.activate(number);
        Ok(())
    }

    /// Whether a thread of a space can have its UTCB at `address`.
    fn check_utcb(&self, space: u32, address: u64, owner: Number) -> Result<(), CallError> {
        let space = self.spaces.at(space);
        if space.tables.is_none()
            || !address.is_multiple_of(utcb::BYTES)
            || !space.utcb_area.contains(address)
        {
            return Err(CallError::UtcbArea);
        }
        let taken = self.utcbs.find(space.utcb_pages, address).is_some_and(|page| {
            let threads = &self.utcbs.at(page).threads;
            let thread = threads.get(crate::utcb::slot_of(address)).copied();
            thread.is_some_and(|thread| thread != NOBODY && thread != owner)
        });
        if taken { Err(CallError::UtcbArea) } else { Ok(()) }
    }

    /// Gives a thread the UTCB at `address`, which is free, and a context if it has none.
    pub(crate) fn give_utcb(&mut self, number: Number, address: u64) -> Result<(), CallError> {
        let space = self.threads.at(number).space;
        if self.threads.at(number).body.is_none() {
            let tables = self.spaces.at(space).tables.as_ref().ok_or(CallError::UtcbArea)?;
            let context = self.machine.new_context().map_err(|_| CallError::NoMemory)?;
            let map = self.machine.memory().attach(tables).map_err(|_| CallError::NoMemory)?;
            self.threads.at_mut(number).body = Some(Body { context, map });
        }
        let first = self.spaces.at(space).utcb_pages;
        let page = match self.utcbs.find(first, address) {
            Some(page) => page,
            None => self.new_utcb_page(space, address >> 12 << 12)?,
        };
        let slot = crate::utcb::slot_of(address);
        if let Some(owner) = self.utcbs.at_mut(page).threads.get_mut(slot) {
            *owner = number;
        }
        let local = address + utcb::MR0_OFFSET;
        // A block has one of four places in its page.
        let utcb = Utcb { page, slot: slot as u8, address: local };
        self.threads.at_mut(number).utcb = Some(utcb);
        self.clear_utcb(number);
        let id = self.threads.at(number).id.map_or(0, GlobalId::word);
        let pager = self.threads.at(number).pager;
        self.set_control_word(number, ControlWord::MyGlobalId, id);
        self.set_control_word(number, ControlWord::Pager, pager.0);
        self.set_control_word(number, ControlWord::LocalId, local);
        self.use_utcb(number);
        Ok(())
    }

    /// Tells a thread's context where its UTCB is.
    fn use_utcb(&mut self, number: Number) {
        let Some(utcb) = self.threads.at(number).utcb else { return };
        let word = utcb.address - 3 * 8;
        if let (Some(context), Some(address)) =
            (self.threads.at_mut(number).context_mut(), VirtualAddress::new(word))
        {
            // Within the UTCB area, and so below the end of the programs' part.
            let _ = context.set_gs_base(address);
            context.set_light_word(utcb.address);
        }
    }

    fn clear_utcb(&mut self, number: Number) {
        let Some(utcb) = self.threads.at(number).utcb else { return };
        let Some(mapping) = &self.utcbs.at(utcb.page).mapping else { return };
        let offset = usize::from(utcb.slot) * utcb::BYTES as usize;
        // Within the page, which the kernel can write.
        let _ = self.machine.memory().fill(mapping, offset, utcb::BYTES as usize, 0);
    }

    /// Maps a new page of UTCBs at `address` of a space.
    fn new_utcb_page(&mut self, space: u32, address: u64) -> Result<u32, CallError> {
        if !self.utcbs.has_room() {
            return Err(CallError::NoMemory);
        }
        let region = self.surroundings.take_page().ok_or(CallError::NoMemory)?;
        let cpu = self.machine.cpu();
        let memory = self.machine.memory();
        let mapping = memory.add_kernel_mapping(cpu, region, Rights::ReadWrite, false, None);
        let Ok(mapping) = mapping else {
            self.surroundings.give_back(region);
            return Err(CallError::NoMemory);
        };
        // The kernel can write it, and it has no other use yet.
        let _ = self.machine.memory().clear(&mapping);
        if !self.add_to_tables(space, address, region, Rights::ReadWrite) {
            let _ = self.machine.memory().remove_kernel_mapping(cpu, mapping);
            self.surroundings.give_back(region);
            return Err(CallError::NoMemory);
        }
        let mut first = self.spaces.at(space).utcb_pages;
        let added = self.utcbs.add(&mut first, mapping, address);
        self.spaces.at_mut(space).utcb_pages = first;
        added.map_err(|mapping| {
            let _ = self.machine.memory().remove_kernel_mapping(cpu, mapping);
            CallError::NoMemory
        })
    }

    /// Takes a thread's UTCB away; the page goes with the last one.
    fn take_utcb(&mut self, number: Number) {
        let Some(utcb) = self.threads.at_mut(number).utcb.take() else { return };
        let space = self.threads.at(number).space;
        let page = self.utcbs.at_mut(utcb.page);
        if let Some(owner) = page.threads.get_mut(usize::from(utcb.slot)) {
            *owner = NOBODY;
        }
        let address = page.address;
        if !page.is_unused() {
            return;
        }
        let mut first = self.spaces.at(space).utcb_pages;
        let mapping = self.utcbs.remove(&mut first, utcb.page);
        self.spaces.at_mut(space).utcb_pages = first;
        let _ = self.remove_from_tables(space, address);
        if let Some(mapping) = mapping {
            let cpu = self.machine.cpu();
            let (region, _) = self.machine.memory().remove_kernel_mapping(cpu, mapping);
            if !is_planted(Fault::PageLeaked) {
                self.surroundings.give_back(region);
            }
        }
    }

    /// Lets a thread begin to live, if it has a UTCB and a pager and has not begun: it waits for its pager to
    /// say where it starts.
    fn activate(&mut self, number: Number) {
        let thread = self.threads.at(number);
        let Utcb { .. } = match thread.utcb {
            Some(utcb) if thread.state() == State::Inactive && !thread.pager.is_nil() => utcb,
            _ => return,
        };
        let pager = thread.pager;
        self.set_control_word(number, ControlWord::Pager, pager.0);
        let space = self.threads.at(number).space;
        let from = pager
            .global()
            .or_else(|| self.resolve(space, pager).and_then(|pager| self.threads.at(pager).id));
        let thread = self.threads.at_mut(number);
        thread.kept_operation = Operation {
            from: from.map_or(From::Nobody, From::Thread),
            incoming: Incoming::Start,
            ..Operation::default()
        };
        thread.kept_state = State::Receiving;
        // The pager may be there already, or not exist yet.
        if thread.senders != NOBODY {
            self.check_later(number);
        }
    }

    // --- Changing ---

    fn modify(
        &mut self,
        me: Number,
        number: Number,
        arguments: Arguments,
    ) -> Result<(), CallError> {
        let Arguments { destination, space, scheduler, pager, utcb } = arguments;
        let target = match space.global() {
            Some(id) if id.number() == number => self.threads.at(number).space,
            _ => {
                let member = self.threads.find_word(space).ok_or(CallError::InvalidSpace)?;
                self.threads.at(member).space
            }
        };
        let thread = self.threads.at(number);
        let (old_space, old_utcb) = (thread.space, thread.utcb);
        let moves = target != old_space;
        let location = match (utcb, old_utcb) {
            (NO_CHANGE, Some(old)) => Some(old.address - utcb::MR0_OFFSET),
            (NO_CHANGE, None) => None,
            (address, _) => Some(address),
        };
        if moves && thread.is_active() && self.spaces.at(target).tables.is_none() {
            return Err(CallError::InvalidSpace);
        }
        if let Some(address) = location
            && (moves || utcb != NO_CHANGE)
        {
            self.check_utcb(target, address, if moves { NOBODY } else { number })?;
        }
        // Only memory can still be missing, for a new UTCB.
        let old_id = self.threads.at(number).id;
        let relocates = location.is_some()
            && (moves
                || old_utcb.is_none_or(|old| Some(old.address - utcb::MR0_OFFSET) != location));
        if let Some(address) = location.filter(|_| relocates) {
            self.relocate(number, target, address)?;
        } else if moves {
            self.change_space(number, target);
        }
        // Now nothing can fail any more.
        if moves {
            self.abort_ipc(number);
        }
        if old_id != Some(destination) {
            self.rename(number, destination);
        }
        if !scheduler.is_nil() {
            self.threads.at_mut(number).scheduler = scheduler;
        }
        if !pager.is_nil() {
            self.threads.at_mut(number).pager = pager;
            if self.threads.at(number).is_active() {
                self.set_control_word(number, ControlWord::Pager, pager.0);
            }
        }
        self.activate(number);
        self.settle(number);
        if moves && self.spaces.at(old_space).threads == 0 {
            self.begin_dismantling(me, old_space);
        }
        Ok(())
    }

    fn change_space(&mut self, number: Number, space: u32) {
        let old = core::mem::replace(&mut self.threads.at_mut(number).space, space);
        self.spaces.at_mut(old).threads -= 1;
        self.spaces.at_mut(space).threads += 1;
        if let Some(Body { mut context, map }) = self.threads.at_mut(number).body.take() {
            self.machine.memory().detach(map);
            context.set_port_permissions(None);
            // A space without tables has no active threads; an inactive one gets registers later.
            let tables = self.spaces.at(space).tables.as_ref();
            if let Some(Ok(map)) = tables.map(|tables| self.machine.memory().attach(tables)) {
                self.threads.at_mut(number).body = Some(Body { context, map });
            }
        }
        // Who speaks for the thread may be accepted now.
        let id = self.threads.at(number).id;
        for sender in kip::USER_BASE..self.thread_limit {
            let thread = self.threads.at(sender);
            if id.is_some() && thread.operation().virtual_sender == id {
                self.check_queue(sender);
            }
        }
    }

    /// Moves a thread's UTCB, and the thread if it goes to another space, with what its control registers
    /// hold.
    fn relocate(&mut self, number: Number, space: u32, address: u64) -> Result<(), CallError> {
        const KEPT: [ControlWord; 9] = [
            ControlWord::UserDefinedHandle,
            ControlWord::Pager,
            ControlWord::ExceptionHandler,
            ControlWord::Flags,
            ControlWord::ErrorCode,
            ControlWord::TransferTimeouts,
            ControlWord::VirtualSender,
            ControlWord::ThreadWord0,
            ControlWord::ThreadWord1,
        ];
        let kept = KEPT.map(|word| self.control_word(number, word));
        let old_space = self.threads.at(number).space;
        let old = self.threads.at_mut(number).utcb.take();
        let moves = space != old_space;
        if moves {
            self.change_space(number, space);
        }
        let given = self.give_utcb(number, address);
        let new = self.threads.at(number).utcb;
        if let Some(old) = old {
            // As it was until now, to be taken away; or, without memory for another, to be kept.
            if given.is_err() && moves {
                self.change_space(number, old_space);
            }
            self.threads.at_mut(number).utcb = Some(old);
            if given.is_ok() {
                let now = self.threads.at(number).space;
                self.threads.at_mut(number).space = old_space;
                self.take_utcb(number);
                self.threads.at_mut(number).space = now;
                self.threads.at_mut(number).utcb = new;
            }
        } else if given.is_err() && moves {
            self.change_space(number, old_space);
        }
        given?;
        if old.is_some() {
            for (word, value) in KEPT.into_iter().zip(kept) {
                self.set_control_word(number, word, value);
            }
        }
        self.use_utcb(number);
        Ok(())
    }

    /// Gives a thread another version: its partners lose it, and it stops.
    fn rename(&mut self, number: Number, id: GlobalId) {
        let Some(old) = self.threads.at(number).id else { return };
        let was_active = self.threads.at(number).state() != State::Inactive;
        self.leave_ipc(number);
        self.threads.at_mut(number).id = Some(id);
        self.lose(number, old);
        self.set_control_word(number, ControlWord::MyGlobalId, id.word());
        self.threads.at_mut(number).kept_state =
            if was_active { State::Stopped } else { State::Inactive };
        self.settle(number);
    }

    /// Everybody who knew a thread by an identifier loses it.
    fn lose(&mut self, number: Number, id: GlobalId) {
        // First, so that what was redirected to it waits for another redirector.
        self.lose_redirector(id);
        self.lose_partners(number, id);
        self.dissociate_all(number);
    }

    // --- Deleting ---

    /// Deletes a thread; `me` waits for its space to be taken apart, if it was the last one there.
    pub(crate) fn delete(&mut self, me: Number, number: Number) {
        let Some(id) = self.threads.at(number).id else { return };
        self.leave_ipc(number);
        let thread = self.threads.at_mut(number);
        thread.id = None;
        thread.kept_state = State::Inactive;
        self.ready.remove(&mut self.threads, number);
        if self.current == number {
            self.leave();
        }
        self.lose(number, id);
        self.take_utcb(number);
        let space = self.threads.at(number).space;
        if let Some(Body { context, map }) = self.threads.at_mut(number).body.take() {
            drop(context);
            self.machine.memory().detach(map);
        }
        self.threads.reset(number, Thread::free());
        let Space { threads, .. } = self.spaces.at_mut(space);
        *threads -= 1;
        if *threads == 0 {
            self.begin_dismantling(me, space);
        }
    }

    /// Takes apart a space without threads: `me` does it, if it is still there.
    fn begin_dismantling(&mut self, me: Number, space: u32) {
        if self.threads.exists(me) {
            self.go_on_later(me, Work::Dismantle { space, from: 0 });
        } else {
            self.dismantle_later(space);
        }
    }
}

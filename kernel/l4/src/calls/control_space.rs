//! SpaceControl: the areas of a space, and its redirector; and the end of spaces.

use heliox_abi::{CallError, Flexpage, GlobalId, ThreadId, kip};
use heliox_hal::memory::Paging;
use heliox_hal::rights::Rights;
use heliox_types::{Register, USER_END};

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::memory::Span;
use crate::space::{Area, Redirector, SIGMA0, Space};
use crate::thread::{Number, State};

/// The smallest area of UTCBs, as log2 of its size: a page.
pub(crate) const UTCB_AREA_BITS: u32 = 12;
/// The size of the area for the kernel interface page, as log2.
pub(crate) const KIP_AREA_BITS: u32 = 12;

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The system call SpaceControl.
    pub(crate) fn space_control(&mut self, me: Number) {
        let [specifier, kip_area, utcb_area, redirector] =
            [Register::Rdi, Register::Rdx, Register::R8, Register::R9]
                .map(|register| self.register(me, register));
        let result = self.control_space(
            me,
            ThreadId(specifier),
            Flexpage(kip_area),
            Flexpage(utcb_area),
            ThreadId(redirector),
        );
        self.answer(me, result);
        self.set_register(me, Register::Rdx, 0);
    }

    fn control_space(
        &mut self,
        me: Number,
        specifier: ThreadId,
        kip_area: Flexpage,
        utcb_area: Flexpage,
        redirector: ThreadId,
    ) -> Result<(), CallError> {
        if !self.is_privileged(me) {
            return Err(CallError::NoPrivilege);
        }
        let member = self.threads.find_word(specifier).ok_or(CallError::InvalidSpace)?;
        let space = self.threads.at(member).space;
        let redirector = self.redirector(me, redirector);
        // Once a thread has a UTCB, the areas stay as they are.
        if self.spaces.at(space).utcb_pages == 0 {
            self.set_areas(space, kip_area, utcb_area)?;
        }
        if let Some(redirector) = redirector {
            self.had_redirectors |= redirector != Redirector::None;
            self.spaces.at_mut(space).redirector = redirector;
            self.send_again(space);
        }
        Ok(())
    }

    /// What the redirector argument means; `None`: no change.
    fn redirector(&self, me: Number, name: ThreadId) -> Option<Redirector> {
        if name == ThreadId::ANY {
            return Some(Redirector::None);
        }
        let number = self.resolve(self.threads.at(me).space, name)?;
        self.threads.at(number).id.map(Redirector::Thread)
    }

    /// Sets the areas of a space; those of zero stay, if there are any.
    fn set_areas(&mut self, space: u32, kip: Flexpage, utcb: Flexpage) -> Result<(), CallError> {
        let old = self.spaces.at(space);
        let is_configured = old.tables.is_some();
        let utcb = match (utcb, is_configured) {
            (Flexpage::NIL, true) => Some(old.utcb_area),
            (area, _) => Area::of(area).filter(|area| area.bits >= UTCB_AREA_BITS),
        };
        let utcb = utcb.ok_or(CallError::UtcbArea)?;
        let kip = match (kip, is_configured) {
            (Flexpage::NIL, true) => Some(old.kip_area),
            (area, _) => Area::of(area).filter(|area| area.bits >= KIP_AREA_BITS),
        };
        let kip = kip.filter(|kip| !kip.overlaps(utcb.base, utcb.bits));
        let kip = kip.ok_or(CallError::KipArea)?;
        if !is_configured {
            return self.configure(space, kip, utcb);
        }
        let old_kip = old.kip_area;
        if kip != old_kip {
            let region = self.kip.region();
            self.clear_span(space, Span { base: kip.base, bits: KIP_AREA_BITS });
            if !self.add_to_tables(space, kip.base, region, Rights::ReadExecute) {
                return Err(CallError::NoMemory);
            }
            let _ = self.remove_from_tables(space, old_kip.base);
        }
        let target = self.spaces.at_mut(space);
        target.kip_area = kip;
        target.utcb_area = utcb;
        Ok(())
    }

    /// Gives a space tables, with the kernel interface page in them.
    pub(crate) fn configure(&mut self, space: u32, kip: Area, utcb: Area) -> Result<(), CallError> {
        self.fill_supply();
        let root = self.supply.take().ok_or(CallError::NoMemory)?;
        let map = match self.machine.memory().allocate_page_map(root) {
            Ok(map) => map,
            Err(refused) => {
                self.keep_table(refused.handle);
                return Err(CallError::NoMemory);
            }
        };
        let target = self.spaces.at_mut(space);
        target.tables = Some(map);
        target.kip_area = kip;
        target.utcb_area = utcb;
        let region = self.kip.region();
        if self.add_to_tables(space, kip.base, region, Rights::ReadExecute) {
            return Ok(());
        }
        self.drop_tables(space);
        Err(CallError::NoMemory)
    }

    /// Gives back the tables of a space in which nothing is mapped.
    fn drop_tables(&mut self, space: u32) {
        let Some(map) = self.spaces.at_mut(space).tables.take() else { return };
        let cpu = self.machine.cpu();
        match self.machine.memory().free_page_map(cpu, map) {
            Ok(root) => self.keep_table(root),
            Err(refused) => self
                .surroundings
                .log(format_args!("the tables of a space are lost: {}", refused.error)),
        }
    }

    /// Lets threads of a space that wait to send do so anew: where their messages go has changed.
    fn send_again(&mut self, space: u32) {
        for number in kip::USER_BASE..self.thread_limit {
            // The light path knows nothing of redirectors.
            let thread = self.threads.at_mut(number);
            if thread.id.is_some() && thread.space == space && thread.state() == State::Sending {
                self.leave_queue(number);
                self.threads.at_mut(number).kept_operation.intended = None;
                // A timer that runs goes on.
                self.begin_sending(number, None);
            }
        }
    }

    /// A thread is no more: what it redirected waits for another redirector.
    pub(crate) fn lose_redirector(&mut self, id: GlobalId) {
        if !self.had_redirectors {
            return;
        }
        for space in self.spaces.numbers() {
            if self.spaces.at(space).redirector == Redirector::Thread(id) {
                self.spaces.at_mut(space).redirector = Redirector::Lost;
                self.send_again(space);
            }
        }
    }

    // --- The end of a space ---

    /// A step of taking apart a space without threads, which has come to the address `from`. Answers
    /// where to go on; `None`: the space is no more.
    pub(crate) fn dismantle(&mut self, space: u32, from: u64) -> Option<u64> {
        let mut at = from;
        let Space { kip_area, mappings, .. } = *self.spaces.at(space);
        if mappings == 0 && space != SIGMA0 && self.spaces.at(space).tables.is_some() {
            // There is nothing else: pages of UTCBs have gone with their threads.
            let _ = self.remove_from_tables(space, kip_area.base);
            at = USER_END;
        }
        for _ in 0..STEP {
            match self.remove_next(space, at) {
                Some(next) => at = next,
                None => {
                    self.forget_ports(space);
                    self.drop_tables(space);
                    self.spaces.release(space);
                    return None;
                }
            }
        }
        Some(at)
    }

    /// Has a space taken apart when nobody else wants to run.
    pub(crate) fn dismantle_later(&mut self, space: u32) {
        let next = core::mem::replace(&mut self.dying, space + 1);
        self.spaces.at_mut(space).next_free = next;
    }

    /// A step of taking apart a space that nobody waits for; whether there is such a space.
    pub(crate) fn dismantle_some(&mut self) -> bool {
        let Some(space) = self.dying.checked_sub(1) else { return false };
        let next = self.spaces.at(space).next_free;
        // From the beginning each time: what is gone is passed over quickly.
        if self.dismantle(space, 0).is_none() {
            self.dying = next;
        }
        true
    }
}

/// Mappings that a step removes.
const STEP: u32 = 16;

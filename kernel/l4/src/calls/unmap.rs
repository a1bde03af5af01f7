//! Unmap: taking memory and ports back, and asking how memory was used.

use heliox_abi::utcb::MESSAGE_REGISTERS;
use heliox_abi::{Flexpage, FlexpageKind, UnmapControl};
use heliox_types::Register;

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::memory::{Progress, Span};
use crate::revoke::Revocation;
use crate::thread::{Number, Unmapping, Work};

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The system call Unmap: the flexpages are in the message registers from the first on.
    pub(crate) fn unmap(&mut self, me: Number) {
        let control = self.register(me, Register::Rdx);
        let begin = Unmapping { control, ..Unmapping::default() };
        // What is over at once concerns nobody but the caller.
        match self.unmap_step(me, begin) {
            Some(next) => self.go_on_later(me, Work::Unmap(next)),
            None => self.end_unmapping(me),
        }
    }

    /// A step of it.
    pub(crate) fn go_on_unmapping(&mut self, me: Number, unmapping: Unmapping) {
        let next = self.unmap_step(me, unmapping);
        if next.is_none() {
            self.end_unmapping(me);
        }
        self.go_on_later(me, next.map_or(Work::None, Work::Unmap));
    }

    fn end_unmapping(&mut self, me: Number) {
        let address = self.threads.at(me).utcb.map_or(0, |utcb| utcb.address);
        self.set_register(me, Register::Rdi, address);
    }

    /// Goes on with one flexpage; what is to be done then, or nothing.
    fn unmap_step(&mut self, me: Number, unmapping: Unmapping) -> Option<Unmapping> {
        let Unmapping { control, done, progress, used, mark } = unmapping;
        let control = UnmapControl(control);
        let (index, count) = (usize::from(done), control.count().min(MESSAGE_REGISTERS));
        if index >= count {
            return None;
        }
        let page = Flexpage(self.message_register(me, index));
        let space = self.threads.at(me).space;
        let mut revocation = Revocation { rights: page.rights(), flush: control.flush(), mark };
        if progress == 0 && mark == 0 {
            revocation = self.revocation(page.rights(), control.flush());
        }
        let span = match page.kind() {
            FlexpageKind::Memory { base, bits } => Some(Span { base, bits }),
            FlexpageKind::Complete => Some(Span::COMPLETE),
            FlexpageKind::Ports(range) => {
                if page.rights() & (Flexpage::READ | Flexpage::WRITE) != 0 {
                    self.revoke_ports(space, range, control.flush());
                }
                None
            }
            FlexpageKind::Nothing => None,
        };
        let (outcome, now_used) = match span {
            Some(span) => self.revoke_span(space, span, revocation, progress),
            None => (Progress::Done, 0),
        };
        let used = used | now_used;
        if let Progress::Until(progress) = outcome {
            return Some(Unmapping { progress, used, mark: revocation.mark, ..unmapping });
        }
        self.set_message_register(me, index, page.with_rights(u64::from(used)).0);
        let next = Unmapping { control: control.0, done: done + 1, ..Unmapping::default() };
        (index + 1 < count).then_some(next)
    }
}

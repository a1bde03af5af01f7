//! Unmap: taking memory and ports back, and asking how memory was used.

use heliox_abi::utcb::MESSAGE_REGISTERS;
use heliox_abi::{Flexpage, FlexpageKind, UnmapControl};
use heliox_types::Register;

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::memory::{Progress, Span};
use crate::revoke::Revocation;
use crate::thread::{Number, Work};

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The system call Unmap: the flexpages are in the message registers from the first on.
    pub(crate) fn unmap(&mut self, me: Number) {
        let control = self.register(me, Register::Rdx);
        self.threads.at_mut(me).work =
            Work::Unmap { control, done: 0, progress: 0, used: 0, mark: 0 };
        self.go_on_unmapping(me);
    }

    /// A step of it.
    pub(crate) fn go_on_unmapping(&mut self, me: Number) {
        let Work::Unmap { control, done, progress, used, mark } = self.threads.at(me).work else {
            return;
        };
        let control = UnmapControl(control);
        let index = usize::from(done);
        if index >= control.count() || index >= MESSAGE_REGISTERS {
            self.threads.at_mut(me).work = Work::None;
            let address = self.threads.at(me).utcb.map_or(0, |utcb| utcb.address);
            self.set_register(me, Register::Rdi, address);
            return self.settle(me);
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
        let work = match outcome {
            Progress::Until(progress) => {
                Work::Unmap { control: control.0, done, progress, used, mark: revocation.mark }
            }
            _ => {
                self.set_message_register(me, index, page.with_rights(u64::from(used)).0);
                Work::Unmap { control: control.0, done: done + 1, progress: 0, used: 0, mark: 0 }
            }
        };
        self.go_on_later(me, work);
    }
}

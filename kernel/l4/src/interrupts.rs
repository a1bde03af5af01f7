//! Interrupts of devices, as threads that send to their handlers.
//!
//! Interrupt *n* is thread number *n*, version 1. While a line has a handler it is on; when it interrupts,
//! it is off until its handler acknowledges by sending to it.

use heliox_abi::{GlobalId, IpcErrorCode, KernelLabel, Phase, kip};
use heliox_types::Irq;

use crate::kernel::{Kernel, Machine, Surroundings, ipc_error};
use crate::thread::{From, Incoming, NOBODY, Number, State};

/// Lines.
const COUNT: usize = Irq::COUNT as usize;
const _: () = assert!(kip::SYSTEM_BASE as usize == COUNT);

/// What a line is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phases {
    /// Nobody handles it; it is off.
    #[default]
    Free,
    /// It is on, and nothing has happened.
    Armed,
    /// It interrupted, and the handler has not heard of it.
    Pending,
    /// The handler knows, and has not acknowledged.
    Delivered,
}

/// All lines.
#[derive(Debug)]
pub(crate) struct Interrupts {
    handlers: [Number; COUNT],
    phases: [Phases; COUNT],
    /// A bit for each line that is pending.
    pending: u32,
}

impl Interrupts {
    pub(crate) const fn new() -> Self {
        Self { handlers: [NOBODY; COUNT], phases: [Phases::Free; COUNT], pending: 0 }
    }

    fn handler(&self, line: u8) -> Number {
        self.handlers.get(usize::from(line)).copied().unwrap_or(NOBODY)
    }

    fn phase(&self, line: u8) -> Phases {
        self.phases.get(usize::from(line)).copied().unwrap_or_default()
    }

    fn set(&mut self, line: u8, handler: Number, phase: Phases) {
        if let (Some(old_handler), Some(old_phase)) =
            (self.handlers.get_mut(usize::from(line)), self.phases.get_mut(usize::from(line)))
        {
            *old_handler = handler;
            *old_phase = phase;
            let bit = 1 << line;
            self.pending = match phase {
                Phases::Pending => self.pending | bit,
                _ => self.pending & !bit,
            };
        }
    }

    /// Whether a line waits to be taken by this handler.
    pub(crate) fn is_pending_for(&self, line: u8, handler: Number) -> bool {
        self.pending >> line & 1 != 0 && self.handler(line) == handler
    }

    /// Whether any line waits to be taken by this handler.
    pub(crate) fn any_pending_for(&self, handler: Number) -> bool {
        self.pending != 0 && self.first_pending_for(handler).is_some()
    }

    fn first_pending_for(&self, handler: Number) -> Option<u8> {
        (0..Irq::COUNT).find(|&line| self.is_pending_for(line, handler))
    }
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The line that a global identifier names, if it names one.
    pub(crate) fn interrupt_line(&self, id: GlobalId) -> Option<u8> {
        let is_line = id.number() < kip::SYSTEM_BASE && id.version() == 1;
        // Below the number of lines.
        is_line.then_some(id.number() as u8)
    }

    /// A line has interrupted, and is off.
    pub(crate) fn interrupt(&mut self, line: Irq) {
        let line = line.number();
        let handler = self.interrupts.handler(line);
        if handler == NOBODY || self.interrupts.phase(line) != Phases::Armed {
            return;
        }
        self.interrupts.set(line, handler, Phases::Pending);
        let thread = self.threads.at_mut(handler);
        if thread.state() == State::Receiving && !thread.halted {
            self.take_interrupt(handler);
        }
    }

    /// Gives a handler that receives its first pending interrupt, if it accepts one.
    pub(crate) fn take_interrupt(&mut self, me: Number) -> bool {
        if self.interrupts.pending == 0 {
            return false;
        }
        let operation = self.threads.at(me).operation();
        let line = match operation.from {
            _ if operation.incoming != Incoming::Message => None,
            From::Anybody => self.interrupts.first_pending_for(me),
            From::Thread(id) => {
                self.interrupt_line(id).filter(|&line| self.interrupts.is_pending_for(line, me))
            }
            From::Nobody | From::AnyLocal => None,
        };
        let Some((line, id)) = line.and_then(|line| Some((line, interrupt_id(line)?))) else {
            return false;
        };
        self.interrupts.set(line, me, Phases::Delivered);
        self.timers.cancel(&mut self.threads, me);
        self.set_result(me, id.into(), KernelLabel::Interrupt.tag(0, 0, 0));
        self.end_operation(me);
        true
    }

    /// A thread sends to an interrupt. From its handler, after it was delivered, that is the
    /// acknowledgement.
    pub(crate) fn acknowledge(&mut self, me: Number, line: u8, deadline: Option<u64>) {
        let _ = deadline;
        if self.interrupts.handler(line) != me {
            return self.fail(me, ipc_error(Phase::Send, IpcErrorCode::NoPartner));
        }
        if self.interrupts.phase(line) != Phases::Delivered {
            // There is nothing to acknowledge, and nobody else can make it so.
            return self.fail(me, ipc_error(Phase::Send, IpcErrorCode::Timeout));
        }
        self.arm_line(line, me);
        self.sent(me);
    }

    fn arm_line(&mut self, line: u8, handler: Number) {
        self.interrupts.set(line, handler, Phases::Armed);
        if let Some(irq) = Irq::new(line) {
            // It exists: it was associated.
            let _ = self.machine.enable_irq(irq);
        }
    }

    /// Makes a thread the handler of a line; `false` if the machine has no such line.
    pub(crate) fn associate(&mut self, line: u8, handler: Number) -> bool {
        let Some(irq) = Irq::new(line) else { return false };
        if self.interrupts.handler(line) == handler {
            return true;
        }
        if self.machine.enable_irq(irq).is_err() {
            return false;
        }
        self.interrupts.set(line, handler, Phases::Armed);
        true
    }

    /// Leaves a line without a handler, and off.
    pub(crate) fn dissociate(&mut self, line: u8) {
        if let Some(irq) = Irq::new(line) {
            self.machine.disable_irq(irq);
        }
        self.interrupts.set(line, NOBODY, Phases::Free);
    }

    /// Leaves all lines of a handler that is no more without one.
    pub(crate) fn dissociate_all(&mut self, handler: Number) {
        for line in 0..Irq::COUNT {
            if self.interrupts.handler(line) == handler {
                self.dissociate(line);
            }
        }
    }
}

/// The identifier of a line.
pub(crate) fn interrupt_id(line: u8) -> Option<GlobalId> {
    GlobalId::new(u32::from(line), 1)
}

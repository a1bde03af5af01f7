//! Scheduling: who runs, and for how long.
//!
//! 256 priorities, round robin within one. A thread that does not wait is *runnable*; the highest runnable
//! priority runs. Times are microseconds of the clock; a thread is charged for its time when it leaves
//! the processor. The machine's timer is set only to moments at which something happens: the
//! earliest timer of a thread, the end of a slice that somebody of the same priority waits for, the end of a finite
//! quantum, or the end of a delay of preemption.

use heliox_abi::ThreadId;
use heliox_abi::utcb::{ControlWord, preemption};

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::thread::{From, Incoming, NOBODY, Number, Operation, Outgoing, Work};

/// What the current thread got from the one that switched to it: with a priority that is no lower
/// than that, it runs until then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent {
    priority: u8,
    until: u64,
}

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// Chooses the thread that runs next and makes it the current one; [`NOBODY`] if none can run.
    pub(crate) fn dispatch(&mut self) -> Number {
        loop {
            let number = self.choose();
            if number == NOBODY {
                self.arm(self.timers.earliest());
                return NOBODY;
            }
            // Whoever was preempted has its exception handler told first.
            if self.threads.at(number).work == Work::None && self.tell_of_preemption(number) {
                continue;
            }
            let next = self.next_event(number);
            self.arm(next);
            return number;
        }
    }

    /// The current thread, or the first one of the highest priority if that is higher or the current
    /// one cannot go on.
    fn choose(&mut self) -> Number {
        let current = self.current;
        let asynchronous = core::mem::take(&mut self.asynchronous);
        let stays = current != NOBODY && self.threads.at(current).is_runnable();
        let highest = self.ready.highest();
        if stays {
            let own = self.threads.at(current).scheduling.priority;
            let priority = self.lent.map_or(own, |lent| own.max(lent.priority));
            if highest.is_none_or(|highest| highest <= priority) {
                return current;
            }
            // What the thread itself woke up is no preemption.
            if asynchronous && self.delays_preemption(current, highest.unwrap_or(u8::MAX)) {
                return current;
            }
            // It comes back at once when the others have done.
            self.step_aside(current, true);
        } else {
            self.leave();
        }
        let first = highest.and_then(|priority| self.ready.first(priority)).unwrap_or(NOBODY);
        if first != NOBODY {
            self.ready.remove(&mut self.threads, first);
        }
        self.enter(first);
        first
    }

    /// Makes `number`, which is in no queue, the current thread, behind [`Kernel::charge`].
    pub(crate) fn enter(&mut self, number: Number) {
        self.current = number;
    }

    /// Charges the current thread for its time; there is no current thread afterwards.
    pub(crate) fn leave(&mut self) {
        self.charge();
        self.threads.at_mut(self.current).scheduling.delayed_until = None;
        self.lent = None;
        self.current = NOBODY;
    }

    /// The current thread waits for its turn, if it still can run: behind the others of its priority, or with
    /// `first` before them.
    fn step_aside(&mut self, current: Number, first: bool) {
        self.leave();
        let thread = self.threads.at(current);
        let priority = thread.scheduling.priority;
        if thread.is_runnable() {
            self.ready.add(&mut self.threads, current, priority, first);
        }
    }

    /// Charges the current thread, if there is one, for its time until now.
    pub(crate) fn charge(&mut self) {
        let now = self.machine.now();
        let spent = now.saturating_sub(core::mem::replace(&mut self.since, now));
        if self.current == NOBODY {
            return;
        }
        // Nothing that the light path relies on: a slice ends when it would have ended, and a quantum is without
        // end, or the path is closed.
        let scheduling = &mut self.threads.at_light(self.current).scheduling;
        scheduling.left = scheduling.left.saturating_sub(spent);
        if let Some(total) = &mut scheduling.total {
            *total = total.saturating_sub(spent);
        }
        if self.threads.at(self.current).is_exhausted() {
            self.check_later(self.current);
        }
    }

    /// Makes a thread that may have become runnable wait for its turn, behind the others of its priority.
    pub(crate) fn settle(&mut self, number: Number) {
        let thread = self.threads.at(number);
        let (runnable, queued) = (thread.is_runnable(), thread.run.is_queued());
        let priority = thread.scheduling.priority;
        if thread.is_exhausted() {
            self.check_later(number);
        }
        if number == self.current || number == NOBODY {
            return;
        }
        match (runnable, queued) {
            (true, false) => self.ready.add(&mut self.threads, number, priority, false),
            (false, true) => self.ready.remove(&mut self.threads, number),
            _ => {}
        }
    }

    /// Gives the processor to a thread that was just made runnable by the current one, which can no
    /// longer run, unless somebody of a higher priority waits. The rest of the slice goes along.
    pub(crate) fn hand_over(&mut self, to: Number) {
        let thread = self.threads.at(to);
        let priority = thread.scheduling.priority;
        let allowed = thread.is_runnable()
            && self.ready.highest().is_none_or(|highest| highest <= priority)
            && !self.threads.at(self.current).is_runnable();
        if !allowed {
            return;
        }
        let exact = thread.scheduling.total.is_some()
            || self.threads.at(self.current).scheduling.total.is_some();
        if exact {
            self.leave();
            self.enter(to);
        } else {
            // Time is charged to whoever runs when it is next looked at.
            self.threads.at_mut(self.current).scheduling.delayed_until = None;
            self.lent = None;
            self.current = to;
        }
        self.ready.remove(&mut self.threads, to);
    }

    /// When the kernel must look again while `number` runs; `None`: it need not.
    fn next_event(&mut self, number: Number) -> Option<u64> {
        let since = self.since;
        let scheduling = self.threads.at(number).scheduling;
        let mut next = self.timers.earliest();
        let mut at_most = |at: u64| next = Some(next.map_or(at, |next: u64| next.min(at)));
        if let Some(total) = scheduling.total {
            at_most(since.saturating_add(total));
        }
        if let Some(until) = scheduling.delayed_until {
            at_most(until);
        }
        if let Some(lent) = self.lent {
            at_most(lent.until);
        }
        if scheduling.slice.is_some() {
            let others = self.ready.highest().is_some_and(|other| other >= scheduling.priority);
            let flags = self.control_word(number, ControlWord::Flags);
            if others || flags & preemption::SIGNAL != 0 {
                at_most(since.saturating_add(scheduling.left));
            }
        }
        next
    }

    /// Sets the machine's timer, if it is set otherwise.
    fn arm(&mut self, deadline: Option<u64>) {
        if self.armed != deadline {
            self.armed = deadline;
            self.machine.set_deadline(deadline);
        }
    }

    /// The machine's timer has expired, or somebody's time may have.
    pub(crate) fn timer_expired(&mut self) {
        let now = self.machine.now();
        // Each timer that ends here was started by a system call.
        while let Some(number) = self.timers.expired(now) {
            self.timers.cancel(&mut self.threads, number);
            self.timed_out(number);
        }
        let current = self.current;
        if current == NOBODY {
            return;
        }
        self.charge();
        if self.lent.is_some_and(|lent| lent.until <= now) {
            self.lent = None;
        }
        let thread = self.threads.at(current);
        let scheduling = thread.scheduling;
        if scheduling.delayed_until.is_some_and(|until| until <= now) {
            // A step of a system call may just have blocked it: then it is not preempted at all.
            if thread.is_runnable() {
                self.end_delay(current);
            }
        } else if scheduling.slice.is_some() && scheduling.left == 0 {
            self.end_slice(current);
        }
    }

    /// The slice of the current thread is used up.
    fn end_slice(&mut self, current: Number) {
        self.refill(current);
        if !self.threads.at(current).is_runnable() {
            return;
        }
        let priority = self.threads.at(current).scheduling.priority;
        if self.ready.highest().is_some_and(|other| other >= priority) {
            if self.delays_preemption(current, priority) {
                return;
            }
            self.step_aside(current, false);
        } else {
            self.note_preemption(current);
        }
    }

    /// A full time slice.
    pub(crate) fn refill(&mut self, number: Number) {
        let scheduling = &mut self.threads.at_mut(number).scheduling;
        scheduling.left = scheduling.slice.unwrap_or(u64::MAX);
    }

    /// ThreadSwitch to nobody: the rest of the slice is given up.
    pub(crate) fn give_way(&mut self) {
        let current = self.current;
        self.charge();
        self.refill(current);
        let scheduling = &mut self.threads.at_mut(current).scheduling;
        scheduling.delayed_until = None;
        let priority = scheduling.priority;
        if self.ready.highest().is_some_and(|other| other >= priority) {
            self.step_aside(current, false);
        }
    }

    /// ThreadSwitch to `to`, a thread that waits for its turn: it gets the rest of the slice if its
    /// priority is not higher, and runs.
    pub(crate) fn donate(&mut self, to: Number) {
        let current = self.current;
        if !self.threads.at(to).run.is_queued() {
            return;
        }
        self.charge();
        let scheduling = &mut self.threads.at_mut(current).scheduling;
        let (priority, left) = (scheduling.priority, scheduling.left);
        let to_scheduling = &mut self.threads.at_mut(to).scheduling;
        let lends = to_scheduling.priority <= priority;
        if lends {
            to_scheduling.left = to_scheduling.left.saturating_add(left);
            self.refill(current);
        }
        self.step_aside(current, false);
        self.ready.remove(&mut self.threads, to);
        self.enter(to);
        if lends {
            self.lent = Some(Lent { priority, until: self.since.saturating_add(left) });
        }
    }

    /// A thread's priority changes.
    pub(crate) fn set_priority(&mut self, number: Number, priority: u8) {
        let queued = self.threads.at(number).run.is_queued();
        if queued {
            self.ready.remove(&mut self.threads, number);
        }
        self.threads.at_mut(number).scheduling.priority = priority;
        if queued {
            self.ready.add(&mut self.threads, number, priority, false);
        }
    }

    // --- Preemption ---

    /// Whether the current thread is not to be preempted by one of priority `by`, for now. Otherwise what
    /// its exception handler is to be told is noted.
    fn delays_preemption(&mut self, current: Number, by: u8) -> bool {
        let flags = self.control_word(current, ControlWord::Flags);
        let scheduling = self.threads.at(current).scheduling;
        let signals = flags & preemption::SIGNAL != 0;
        if flags & preemption::DELAY == 0 || by > scheduling.sensitive_priority {
            self.note_preemption(current);
            return false;
        }
        let now = self.machine.now();
        match scheduling.delayed_until {
            Some(until) if now < until => true,
            Some(_) => {
                self.end_delay(current);
                false
            }
            None if scheduling.max_delay > 0 => {
                let limit = u64::from(scheduling.max_delay).min(scheduling.left.max(1));
                self.threads.at_mut(current).scheduling.delayed_until = Some(now + limit);
                self.set_control_word(current, ControlWord::Flags, flags | preemption::PENDING);
                true
            }
            None => {
                if signals {
                    self.end_delay(current);
                }
                false
            }
        }
    }

    /// The current thread was preempted: if it wants to know, its exception handler is told when it
    /// is its turn again.
    fn note_preemption(&mut self, number: Number) {
        let flags = self.control_word(number, ControlWord::Flags);
        if flags & preemption::SIGNAL != 0 && self.threads.at(number).work == Work::None {
            let now = self.machine.now();
            self.threads.at_mut(number).scheduling.preempted_at = Some(now);
        }
    }

    /// The longest delay is over: with signals on, the thread that still runs gets a preemption
    /// exception.
    fn end_delay(&mut self, number: Number) {
        let flags = self.control_word(number, ControlWord::Flags);
        let was_on = flags & preemption::DELAY != 0;
        let cleared = flags & !(preemption::DELAY | preemption::PENDING);
        self.set_control_word(number, ControlWord::Flags, cleared);
        self.threads.at_mut(number).scheduling.delayed_until = None;
        if flags & preemption::SIGNAL != 0 {
            // A thread in the middle of a system call has no instruction to be stopped at.
            if was_on && self.threads.at(number).work == Work::None {
                self.send_exception(
                    number,
                    Outgoing::Exception { vector: 0, code: 0, preemption: true },
                );
            } else {
                self.note_preemption(number);
            }
        }
    }

    /// Sends the message of an earlier preemption, if one is to be sent; whether the thread can no
    /// longer run because of that.
    fn tell_of_preemption(&mut self, number: Number) -> bool {
        let Some(at) = self.threads.at(number).scheduling.preempted_at else { return false };
        self.threads.at_mut(number).scheduling.preempted_at = None;
        let handler = ThreadId(self.control_word(number, ControlWord::ExceptionHandler));
        let space = self.threads.at(number).space;
        if self.resolve(space, handler).is_none() {
            return false;
        }
        let operation = Operation {
            outgoing: Outgoing::Preempted { at },
            to: handler,
            from: From::Nobody,
            incoming: Incoming::Message,
            ..Operation::default()
        };
        self.threads.at_mut(number).kept_operation = operation;
        // It is dropped if the handler is not ready.
        self.send_now_or_never(number);
        true
    }

    /// The total quantum of a thread is used up: its scheduler is told, and it does not run until it
    /// gets another.
    pub(crate) fn exhausted(&mut self, number: Number) {
        let thread = self.threads.at_mut(number);
        thread.scheduling.told = true;
        let (scheduler, at) = (thread.scheduler, self.machine.now());
        if self.threads.find_word(scheduler).is_none() {
            self.threads.at_mut(number).halted = true;
            return;
        }
        let operation = Operation {
            outgoing: Outgoing::Exhausted { at },
            to: scheduler,
            ..Operation::default()
        };
        self.threads.at_mut(number).kept_operation = operation;
        self.begin_sending(number, None);
    }
}

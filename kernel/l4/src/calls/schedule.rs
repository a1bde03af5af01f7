//! Schedule: what the scheduler does with a thread, set by whoever may schedule it.

use heliox_abi::{
    CallError, PreemptionControl, PriorityControl, ProcessorControl, ThreadId, ThreadState, Time,
    TimeControl, kip,
};
use heliox_types::Register;

use crate::kernel::{Kernel, Machine, Surroundings};
use crate::thread::{NOBODY, Number, Outgoing, State};

/// Number of the only processor.
const PROCESSOR: u16 = 0;

impl<M: Machine, S: Surroundings> Kernel<'_, M, S> {
    /// The system call Schedule.
    pub(crate) fn schedule(&mut self, me: Number) {
        let name = ThreadId(self.register(me, Register::Rdi));
        let time = TimeControl(self.register(me, Register::Rdx));
        let priority = PriorityControl(self.register(me, Register::Rsi));
        let processor = ProcessorControl(self.register(me, Register::R8));
        let preemption = PreemptionControl(self.register(me, Register::R9));
        let (result, old) = match self.set_schedule(me, name, time, priority, processor, preemption)
        {
            Ok((state, old)) => (state as u64, old.0),
            Err(error) => {
                self.set_call_error(me, error);
                (0, 0)
            }
        };
        self.set_register(me, Register::Rax, result);
        self.set_register(me, Register::Rdx, old);
    }

    fn set_schedule(
        &mut self,
        me: Number,
        name: ThreadId,
        time: TimeControl,
        priority: PriorityControl,
        processor: ProcessorControl,
        preemption: PreemptionControl,
    ) -> Result<(ThreadState, TimeControl), CallError> {
        let nothing = TimeControl(0);
        if name.global().is_some_and(|id| id.number() < kip::USER_BASE) {
            return Err(CallError::InvalidThread);
        }
        let space = self.threads.at(me).space;
        let Some(target) = self.resolve(space, name) else {
            return Ok((ThreadState::Dead, nothing));
        };
        let scheduler = self.threads.find_word(self.threads.at(target).scheduler);
        let scheduler = scheduler.ok_or(CallError::InvalidParameter)?;
        if self.threads.at(scheduler).space != space {
            return Err(CallError::NoPrivilege);
        }
        self.charge();
        let own = self.threads.at(me).scheduling.priority;
        let wrong = |time: Option<Time>| time.is_some_and(|time| time.is_point() || time.is_zero());
        if wrong(time.slice())
            || wrong(time.total())
            || priority.priority().is_some_and(|priority| priority > own)
            || preemption.sensitive_priority().is_some_and(|priority| priority > own)
            || processor.processor().is_some_and(|processor| processor != PROCESSOR)
        {
            return Err(CallError::InvalidParameter);
        }
        let state = self.thread_state(target);
        let scheduling = self.threads.at(target).scheduling;
        let left = scheduling.slice.map(|_| scheduling.left);
        let old = TimeControl::new(Time::from_length(left), Time::from_length(scheduling.total));

        if time.slice().is_none()
            && time.total().is_none()
            && priority.priority().is_none()
            && preemption.sensitive_priority().is_none()
            && preemption.max_delay().is_none()
        {
            return Ok((state, old));
        }
        let scheduling = &mut self.threads.at_mut(target).scheduling;
        if let Some(slice) = time.slice() {
            scheduling.slice = slice.period();
            scheduling.left = scheduling.slice.unwrap_or(u64::MAX);
        }
        if let Some(total) = time.total() {
            scheduling.total = total.period();
            scheduling.told = false;
            scheduling.left = scheduling.slice.unwrap_or(u64::MAX);
        }
        if let Some(sensitive) = preemption.sensitive_priority() {
            scheduling.sensitive_priority = sensitive;
        }
        if let Some(delay) = preemption.max_delay() {
            scheduling.max_delay = delay;
        }
        if let Some(priority) = priority.priority() {
            self.set_priority(target, priority);
            if self.current != NOBODY {
                // A delay that was due to somebody who may no longer be higher is reckoned anew.
                self.threads.at_mut(self.current).scheduling.delayed_until = None;
            }
        }
        self.settle(target);
        Ok((state, old))
    }

    /// What a thread is doing.
    fn thread_state(&self, target: Number) -> ThreadState {
        let thread = self.threads.at(target);
        let is_kernels = thread.operation().outgoing != Outgoing::Message;
        match thread.state() {
            State::Inactive | State::Stopped => ThreadState::Inactive,
            State::Transferring if self.is_transfer_sender(target) => ThreadState::Sending,
            State::Transferring => ThreadState::Receiving,
            State::Sending | State::Receiving if thread.outer.is_some() => {
                match self.is_transfer_sender(target) {
                    true => ThreadState::Sending,
                    false => ThreadState::Receiving,
                }
            }
            State::Sending | State::Receiving if is_kernels => ThreadState::Running,
            State::Sending => ThreadState::PendingSend,
            State::Receiving => ThreadState::Waiting,
            State::Ready if thread.halted => ThreadState::Inactive,
            State::Ready => ThreadState::Running,
        }
    }
}

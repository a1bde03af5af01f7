//! The clock, and who runs.

use heliox_abi::{PreemptionControl, PriorityControl, ThreadId, ThreadState, Time, TimeControl};

use crate::bare::control::Refused;
use crate::bare::raw::{self, Registers};
use crate::bare::utcb;
use crate::kip::SystemCall;

/// No change.
const KEEP: u64 = u64::MAX;

/// Microseconds since the boot.
#[must_use]
pub fn system_clock() -> u64 {
    let mut registers = Registers::default();
    // SAFETY: the call touches no memory.
    unsafe { raw::system_call(SystemCall::SystemClock, &mut registers) }
    registers.rax
}

/// Gives the rest of the time slice to a thread; to nobody in particular for nilthread.
pub fn thread_switch(to: ThreadId) {
    let mut registers = Registers { rdi: to.0, ..Registers::default() };
    // SAFETY: the call touches no memory.
    unsafe { raw::system_call(SystemCall::ThreadSwitch, &mut registers) }
}

/// Lets others of the same priority run.
pub fn yield_now() {
    thread_switch(ThreadId::NIL);
}

/// What Schedule is to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Time slice and total quantum.
    pub time: TimeControl,
    /// The processor.
    pub processor: u64,
    /// The priority.
    pub priority: PriorityControl,
    /// Sensitive priority and longest delay.
    pub preemption: PreemptionControl,
}

impl Parameters {
    /// No change.
    pub const KEEP: Self = Self {
        time: TimeControl(KEEP),
        processor: KEEP,
        priority: PriorityControl(KEEP),
        preemption: PreemptionControl(KEEP),
    };
}

/// What Schedule answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// What the thread is doing.
    pub state: ThreadState,
    /// What was left of slice and quantum.
    pub time: TimeControl,
}

/// The system call Schedule.
///
/// # Errors
///
/// The caller may not, or a parameter is wrong.
pub fn schedule(thread: ThreadId, parameters: Parameters) -> Result<Scheduled, Refused> {
    let mut registers = Registers {
        rdi: thread.0,
        rdx: parameters.time.0,
        r8: parameters.processor,
        rsi: parameters.priority.0,
        r9: parameters.preemption.0,
        ..Registers::default()
    };
    // SAFETY: the call touches no memory.
    unsafe { raw::system_call(SystemCall::Schedule, &mut registers) }
    let state = match registers.rax {
        1 => ThreadState::Dead,
        2 => ThreadState::Inactive,
        3 => ThreadState::Running,
        4 => ThreadState::PendingSend,
        5 => ThreadState::Sending,
        6 => ThreadState::Waiting,
        7 => ThreadState::Receiving,
        _ => return Err(Refused(utcb::error_code())),
    };
    Ok(Scheduled { state, time: TimeControl(registers.rdx) })
}

/// What a thread is doing.
///
/// # Errors
///
/// The caller may not ask.
pub fn thread_state(thread: ThreadId) -> Result<ThreadState, Refused> {
    schedule(thread, Parameters::KEEP).map(|answer| answer.state)
}

/// Sets a thread's priority.
///
/// # Errors
///
/// As [`schedule`].
pub fn set_priority(thread: ThreadId, priority: u8) -> Result<(), Refused> {
    let priority = PriorityControl(u64::from(priority));
    schedule(thread, Parameters { priority, ..Parameters::KEEP }).map(|_| ())
}

/// Sets a thread's time slice and total quantum.
///
/// # Errors
///
/// As [`schedule`].
pub fn set_time_slice(thread: ThreadId, slice: Time, total: Time) -> Result<(), Refused> {
    let time = TimeControl::new(slice, total);
    schedule(thread, Parameters { time, ..Parameters::KEEP }).map(|_| ())
}

//! Steps of probes, by the names of system calls, and what to look for in their outputs.

use heliox_l4::abi::utcb::ControlWord;
use heliox_l4::kip::SystemCall;
use heliox_l4::probe::{Action, Output, Step, Target};
use heliox_l4::raw::Registers;
use heliox_l4::{Flexpage, ThreadId, Time, Timeouts};

use crate::case::{Checked, equal};

/// No thread.
pub(crate) const NIL: ThreadId = ThreadId::NIL;
/// Any thread.
pub(crate) const ANY: ThreadId = ThreadId::ANY;
/// Any thread of the same space.
pub(crate) const ANY_LOCAL: ThreadId = ThreadId::ANY_LOCAL;
/// Without end.
pub(crate) const NEVER: Time = Time::NEVER;
/// No time.
pub(crate) const ZERO: Time = Time::ZERO;
/// All ones: no change.
pub(crate) const KEEP: u64 = u64::MAX;

/// ErrorCodes of messages.
pub(crate) const SEND_TIMEOUT: u64 = 2;
pub(crate) const RECEIVE_TIMEOUT: u64 = 3;
pub(crate) const SEND_NO_PARTNER: u64 = 4;
pub(crate) const RECEIVE_NO_PARTNER: u64 = 5;
pub(crate) const SEND_CANCELLED: u64 = 6;
pub(crate) const RECEIVE_CANCELLED: u64 = 7;
pub(crate) const SEND_OVERFLOW: u64 = 8;
pub(crate) const RECEIVE_OVERFLOW: u64 = 9;
pub(crate) const SEND_TRANSFER_OWN: u64 = 10;
pub(crate) const RECEIVE_TRANSFER_OWN: u64 = 11;
pub(crate) const SEND_TRANSFER_PARTNER: u64 = 12;
pub(crate) const RECEIVE_TRANSFER_PARTNER: u64 = 13;
pub(crate) const SEND_ABORTED: u64 = 14;
pub(crate) const RECEIVE_ABORTED: u64 = 15;

/// A period of so many milliseconds, rounded up.
pub(crate) const fn milliseconds(count: u64) -> Time {
    Time::from_period(count * 1000)
}

/// A tag: label, untyped and typed words.
pub(crate) const fn tag(label: u64, untyped: u64, typed: u64) -> u64 {
    label << 16 | typed << 6 | untyped
}

/// Ipc or Lipc with message registers 0 and on.
pub(crate) fn message_call(
    call: SystemCall,
    to: ThreadId,
    from: ThreadId,
    timeouts: Timeouts,
    words: &[u64],
) -> Step {
    let word = |index: usize| words.get(index).copied().unwrap_or(0);
    let registers = Registers {
        rsi: to.0,
        rdx: from.0,
        r8: timeouts.0,
        r9: word(0),
        rax: word(1),
        rbx: word(2),
        r10: word(3),
        r12: word(4),
        r13: word(5),
        r14: word(6),
        r15: word(7),
        ..Registers::default()
    };
    let mut step = Step::new(Target::Call(call), registers).with_word(-16, 0);
    for (index, value) in (8_isize..).zip(words.iter().skip(8)) {
        step = step.with_word(index, *value);
    }
    step
}

/// Ipc.
pub(crate) fn ipc(to: ThreadId, from: ThreadId, timeouts: Timeouts, words: &[u64]) -> Step {
    message_call(SystemCall::Ipc, to, from, timeouts, words)
}

/// A send only.
pub(crate) fn send(to: ThreadId, timeout: Time, words: &[u64]) -> Step {
    ipc(to, NIL, Timeouts::new(timeout, NEVER), words)
}

/// A receive only.
pub(crate) fn receive(from: ThreadId, timeout: Time) -> Step {
    ipc(NIL, from, Timeouts::new(NEVER, timeout), &[])
}

/// A call without timeouts.
pub(crate) fn call(to: ThreadId, words: &[u64]) -> Step {
    ipc(to, to, Timeouts::NEVER, words)
}

/// A sleep.
pub(crate) fn sleep(own: ThreadId, time: Time) -> Step {
    receive(own, time)
}

/// With buffer registers from number 0 on.
pub(crate) fn accepting(step: Step, buffers: &[u64]) -> Step {
    (0_isize..).zip(buffers).fold(step, |step, (index, word)| step.with_word(-16 - index, *word))
}

/// With a thread control register.
pub(crate) fn with_control(step: Step, register: ControlWord, value: u64) -> Step {
    step.with_word(register as isize, value)
}

/// Receives into a window.
pub(crate) fn receive_into(from: ThreadId, window: Flexpage) -> Step {
    accepting(receive(from, NEVER), &[window.0 & !0xf])
}

/// Buffer register 0 with the complete address space as window, without strings.
pub(crate) const COMPLETE: u64 = 0x10;
/// Rights.
pub(crate) const R: u64 = 4;
pub(crate) const RW: u64 = 6;
pub(crate) const RX: u64 = 5;
pub(crate) const RWX: u64 = 7;

/// A message of one map item.
pub(crate) const fn map_words(page: Flexpage, base: u64) -> [u64; 3] {
    [tag(0, 0, 2), base & !0x3ff | 8, page.0]
}

/// A message of one grant item.
pub(crate) const fn grant_words(page: Flexpage, base: u64) -> [u64; 3] {
    [tag(0, 0, 2), base & !0x3ff | 10, page.0]
}

/// A page of memory with rights.
pub(crate) const fn page(address: u64, rights: u64) -> Flexpage {
    Flexpage::memory(address, 12, rights)
}

/// Unmap of up to eight flexpages.
pub(crate) fn unmap(control: u64, pages: &[u64]) -> Step {
    let word = |index: usize| pages.get(index).copied().unwrap_or(0);
    let registers = Registers {
        rdx: control,
        r9: word(0),
        rax: word(1),
        rbx: word(2),
        r10: word(3),
        r12: word(4),
        r13: word(5),
        r14: word(6),
        r15: word(7),
        ..Registers::default()
    };
    let step = Step::new(Target::Call(SystemCall::Unmap), registers);
    // As Ipc, it takes the others from memory.
    (8_isize..)
        .zip(pages.iter().skip(8))
        .fold(step, |step, (index, word)| step.with_word(index, *word))
}

/// ExchangeRegisters.
pub(crate) fn exchange(
    thread: ThreadId,
    control: u64,
    stack: u64,
    instruction: u64,
    flags: u64,
    handle: u64,
    pager: ThreadId,
) -> Step {
    let registers = Registers {
        rax: thread.0,
        rsi: control,
        rdx: stack,
        r8: instruction,
        r9: flags,
        r10: handle,
        rdi: pager.0,
        ..Registers::default()
    };
    Step::new(Target::Call(SystemCall::ExchangeRegisters), registers)
}

/// Schedule.
pub(crate) fn schedule(
    thread: ThreadId,
    time: u64,
    processor: u64,
    priority: u64,
    preemption: u64,
) -> Step {
    let registers = Registers {
        rdi: thread.0,
        rdx: time,
        r8: processor,
        rsi: priority,
        r9: preemption,
        ..Registers::default()
    };
    Step::new(Target::Call(SystemCall::Schedule), registers)
}

/// ThreadSwitch.
pub(crate) fn thread_switch(to: ThreadId) -> Step {
    let registers = Registers { rdi: to.0, ..Registers::default() };
    Step::new(Target::Call(SystemCall::ThreadSwitch), registers)
}

/// SystemClock.
pub(crate) fn clock() -> Step {
    Step::new(Target::Call(SystemCall::SystemClock), Registers::default())
}

/// Registers of ThreadControl.
pub(crate) fn thread_control(
    thread: ThreadId,
    space: ThreadId,
    scheduler: ThreadId,
    pager: ThreadId,
    utcb: u64,
) -> Registers {
    Registers {
        rdi: thread.0,
        r8: space.0,
        rdx: scheduler.0,
        rsi: pager.0,
        r9: utcb,
        ..Registers::default()
    }
}

/// Registers of SpaceControl.
pub(crate) fn space_control(
    space: ThreadId,
    control: u64,
    kernel_interface_page: Flexpage,
    utcbs: Flexpage,
    redirector: ThreadId,
) -> Registers {
    Registers {
        rdi: space.0,
        rsi: control,
        rdx: kernel_interface_page.0,
        r8: utcbs.0,
        r9: redirector.0,
        ..Registers::default()
    }
}

/// A piece of code with RDI, RSI and RDX.
pub(crate) fn action(action: Action, rdi: u64, rsi: u64, rdx: u64) -> Step {
    Step::new(Target::Action(action), Registers { rdi, rsi, rdx, ..Registers::default() })
}

/// What a step says when one looks at it as a message call.
pub(crate) trait MessageOutput {
    /// The sender.
    fn from(&self) -> ThreadId;
    /// The register ErrorCode.
    fn error(&self) -> u64;
    /// Fails unless the call succeeded; the step itself.
    fn succeeded(self, what: &'static str) -> Checked<Self>
    where
        Self: Sized;
    /// Fails unless the call failed with this ErrorCode, and in the way in which calls fail.
    fn failed(&self, what: &'static str, error: u64) -> Checked;
}

impl MessageOutput for Output {
    fn from(&self) -> ThreadId {
        ThreadId(self.registers.rsi)
    }

    fn error(&self) -> u64 {
        self.word(ControlWord::ErrorCode as isize)
    }

    fn succeeded(self, what: &'static str) -> Checked<Self> {
        let failed = self.registers.r9 & 0x8000 != 0;
        equal(what, 0, if failed { self.error() | 1 << 63 } else { 0 })?;
        Ok(self)
    }

    fn failed(&self, what: &'static str, error: u64) -> Checked {
        equal(what, error, if self.registers.r9 & 0x8000 == 0 { 0 } else { self.error() })?;
        equal("the tag of a failed call", 0x8000, self.registers.r9)?;
        equal("the sender of a failed call", 0, self.registers.rsi)
    }
}

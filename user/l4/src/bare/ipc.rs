//! Messages between threads.
//!
//! [`ipc`] is the system call; the others are its usual forms, under the names that C programs use.
//! What is received comes as a [`Received`]; what arrived in buffers and windows is in those.

use heliox_abi::{IpcError, IpcErrorCode, Phase, Tag, ThreadId, Time, Timeouts};

use crate::bare::{raw, schedule, utcb};
use crate::kip::SystemCall;
use crate::message::{Acceptance, Message, Received, Words};

/// Message registers that travel in the processor's registers.
const IN_REGISTERS: usize = 8;

/// The system call Ipc: sends `message` to `to` unless that is nilthread, then receives from `from`
/// unless that is nilthread, accepting what `acceptance` says.
///
/// # Errors
///
/// What the kernel put into the register ErrorCode.
pub fn ipc(
    to: ThreadId,
    from: ThreadId,
    timeouts: Timeouts,
    message: &Message<'_>,
    acceptance: &mut Acceptance<'_>,
) -> Result<Received, IpcError> {
    exchange(SystemCall::Ipc, to, from, timeouts, message, acceptance)
}

/// The system call Lipc: as [`ipc`], meant for partners in the same space.
///
/// # Errors
///
/// As [`ipc`].
pub fn lipc(
    to: ThreadId,
    from: ThreadId,
    timeouts: Timeouts,
    message: &Message<'_>,
    acceptance: &mut Acceptance<'_>,
) -> Result<Received, IpcError> {
    exchange(SystemCall::Lipc, to, from, timeouts, message, acceptance)
}

fn exchange(
    call: SystemCall,
    to: ThreadId,
    from: ThreadId,
    timeouts: Timeouts,
    message: &Message<'_>,
    acceptance: &mut Acceptance<'_>,
) -> Result<Received, IpcError> {
    let all = message.all();
    let mut words = [0; IN_REGISTERS];
    words.copy_from_slice(&all[..IN_REGISTERS]);
    if !to.is_nil() {
        let count = message.tag().untyped() + message.tag().typed();
        if count >= IN_REGISTERS {
            utcb::set_message_registers(IN_REGISTERS, &all[IN_REGISTERS..=count.min(63)]);
        }
    }
    if !from.is_nil() {
        utcb::set_buffer_registers(acceptance.registers());
    }
    // SAFETY: the acceptance borrows its buffers and its window is a region's (W1); a message has
    // only mappings of memory that is shared (W2).
    let from = unsafe { raw::message_call(call, to.0, from.0, timeouts.0, &mut words) };
    let tag = Tag(words[0]);
    if tag.has(Tag::ERROR) {
        let unknown = IpcError::new(Phase::Send, IpcErrorCode::Aborted);
        return Err(IpcError::from_word(utcb::error_code()).unwrap_or(unknown));
    }
    let mut received = [0; 64];
    received[..IN_REGISTERS].copy_from_slice(&words);
    let count = tag.untyped() + tag.typed();
    for (index, word) in received.iter_mut().enumerate().take(count + 1).skip(IN_REGISTERS) {
        *word = utcb::message_register(index);
    }
    Ok(Received { from: ThreadId(from), words: Words::new(received) })
}

const FOREVER: Timeouts = Timeouts::NEVER;

/// Sends, and waits as long as it takes.
///
/// # Errors
///
/// As [`ipc`].
pub fn send(to: ThreadId, message: &Message<'_>) -> Result<(), IpcError> {
    send_with(to, Time::NEVER, message)
}

/// Sends, and waits until `timeout`.
///
/// # Errors
///
/// As [`ipc`].
pub fn send_with(to: ThreadId, timeout: Time, message: &Message<'_>) -> Result<(), IpcError> {
    let timeouts = Timeouts::new(timeout, Time::NEVER);
    ipc(to, ThreadId::NIL, timeouts, message, &mut Acceptance::NOTHING.clone()).map(|_| ())
}

/// Receives from one thread, without typed items, and waits as long as it takes.
///
/// # Errors
///
/// As [`ipc`].
pub fn receive(from: ThreadId) -> Result<Received, IpcError> {
    receive_with(from, Time::NEVER, &mut Acceptance::NOTHING.clone())
}

/// Receives from one thread what `acceptance` says, and waits until `timeout`.
///
/// # Errors
///
/// As [`ipc`].
pub fn receive_with(
    from: ThreadId,
    timeout: Time,
    acceptance: &mut Acceptance<'_>,
) -> Result<Received, IpcError> {
    let timeouts = Timeouts::new(Time::NEVER, timeout);
    ipc(ThreadId::NIL, from, timeouts, &Message::new(0), acceptance)
}

/// Receives from whoever sends, without typed items.
///
/// # Errors
///
/// As [`ipc`].
pub fn wait() -> Result<Received, IpcError> {
    receive(ThreadId::ANY)
}

/// Sends to a thread and receives its answer.
///
/// # Errors
///
/// As [`ipc`].
pub fn call(to: ThreadId, message: &Message<'_>) -> Result<Received, IpcError> {
    call_with(to, FOREVER, message, &mut Acceptance::NOTHING.clone())
}

/// Sends to a thread and receives its answer, with timeouts, accepting what `acceptance` says.
///
/// # Errors
///
/// As [`ipc`].
pub fn call_with(
    to: ThreadId,
    timeouts: Timeouts,
    message: &Message<'_>,
    acceptance: &mut Acceptance<'_>,
) -> Result<Received, IpcError> {
    ipc(to, to, timeouts, message, acceptance)
}

/// [`call`] by Lipc.
///
/// # Errors
///
/// As [`ipc`].
pub fn lcall(to: ThreadId, message: &Message<'_>) -> Result<Received, IpcError> {
    lipc(to, to, FOREVER, message, &mut Acceptance::NOTHING.clone())
}

/// Answers a thread that waits for it, and receives from whoever sends next. An answer to one that
/// does not wait is lost: then this receives only.
///
/// # Errors
///
/// As [`ipc`], for the receive phase.
pub fn reply_wait(to: ThreadId, message: &Message<'_>) -> Result<Received, IpcError> {
    let timeouts = Timeouts::new(Time::ZERO, Time::NEVER);
    match ipc(to, ThreadId::ANY, timeouts, message, &mut Acceptance::NOTHING.clone()) {
        Err(IpcError { phase: Phase::Send, .. }) => wait(),
        result => result,
    }
}

/// Does nothing for a period, or until a point.
pub fn sleep(time: Time) {
    // A receive from oneself always ends with a timeout.
    let _ = receive_with(utcb::global_id(), time, &mut Acceptance::NOTHING.clone());
}

/// Does nothing until the clock shows `microseconds`.
pub fn sleep_until(microseconds: u64) {
    loop {
        let now = schedule::system_clock();
        match microseconds.checked_sub(now) {
            None | Some(0) => return,
            Some(left) => sleep(Time::from_period(left)),
        }
    }
}

//! Measuring: the time-stamp counter, and loops of messages with as little around them as possible.

use core::arch::{asm, naked_asm};

use heliox_abi::{IpcError, Tag, ThreadId};

use crate::bare::{raw, utcb};
use crate::kip::SystemCall;

/// The processor's time-stamp counter.
#[must_use]
pub fn time_stamp() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a register.
    unsafe {
        asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack, preserves_flags))
    }
    high << 32 | low
}

/// The error of the last call, if its tag says that it failed.
fn check(tag: u64) -> Result<(), IpcError> {
    if Tag(tag).has(Tag::ERROR) {
        let word = utcb::error_code();
        let unknown = IpcError::new(heliox_abi::Phase::Send, heliox_abi::IpcErrorCode::Aborted);
        return Err(IpcError::from_word(word).unwrap_or(unknown));
    }
    Ok(())
}

fn stub(local: bool) -> u64 {
    raw::stub(if local { SystemCall::Lipc } else { SystemCall::Ipc })
}

/// Calls `partner` `rounds` times with messages of `words` untyped words, by Ipc or by Lipc. What
/// the words are does not matter.
///
/// # Errors
///
/// The first error ends it.
pub fn ping(partner: ThreadId, words: usize, rounds: u64, local: bool) -> Result<(), IpcError> {
    utcb::set_buffer_registers(&[0]);
    let tag = Tag::new(0, words, 0);
    // SAFETY: the messages have no typed items, and none are accepted.
    check(unsafe { ping_loop(partner.0, tag.0, rounds, stub(local)) })
}

#[unsafe(naked)]
unsafe extern "sysv64" fn ping_loop(partner: u64, tag: u64, rounds: u64, stub: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        // Only the stack pointer survives a call: partner, tag, rounds and stub are found from it.
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "2:",
        "mov rsi, [rsp + 24]",
        "mov rdx, rsi",
        "xor r8d, r8d",
        "mov r9, [rsp + 16]",
        "mov rdi, gs:[0]",
        "call qword ptr [rsp]",
        "test r9d, 0x8000",
        "jnz 3f",
        "dec qword ptr [rsp + 8]",
        "jnz 2b",
        "3:",
        "mov rax, r9",
        "add rsp, 32",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "cld",
        "ret",
    )
}

/// Answers `partner`, which calls, with messages as long as its own, until one has a label other
/// than 0. Begins by waiting for it.
///
/// # Errors
///
/// The first error ends it.
pub fn pong(partner: ThreadId, local: bool) -> Result<(), IpcError> {
    utcb::set_buffer_registers(&[0]);
    // SAFETY: the messages have no typed items, and none are accepted.
    check(unsafe { pong_loop(partner.0, stub(local)) })
}

#[unsafe(naked)]
unsafe extern "sysv64" fn pong_loop(partner: u64, stub: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rsi",
        // The first time there is nobody to answer.
        "xor esi, esi",
        "xor r9d, r9d",
        "jmp 3f",
        "2:",
        "mov rsi, [rsp + 8]",
        "3:",
        "mov rdx, [rsp + 8]",
        "xor r8d, r8d",
        "mov rdi, gs:[0]",
        "call qword ptr [rsp]",
        // A tag without flags, label and typed words is answered as it is.
        "cmp r9, 0x40",
        "jb 2b",
        "mov rax, r9",
        "add rsp, 16",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "cld",
        "ret",
    )
}

/// Answers whoever calls, as servers do: the answer does not wait for a client that does not, and then
/// anybody may come. Answers with messages as long as those that come, until one has a label other than 0.
///
/// # Errors
///
/// The first error ends it.
pub fn serve(local: bool) -> Result<(), IpcError> {
    utcb::set_buffer_registers(&[0]);
    // SAFETY: the messages have no typed items, and none are accepted.
    check(unsafe { serve_loop(stub(local)) })
}

/// Send: no time; receive: without end.
const ANSWER_TIMEOUTS: u32 = (heliox_abi::Time::ZERO.0 as u32) << 16;

#[unsafe(naked)]
unsafe extern "sysv64" fn serve_loop(stub: u64) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        // The first time there is nobody to answer.
        "xor esi, esi",
        "xor r9d, r9d",
        "2:",
        "mov rdx, -1",
        "mov r8d, {timeouts}",
        "mov rdi, gs:[0]",
        "call [rsp]",
        // RSI is who sent it. A tag without flags, label and typed words is answered as it is.
        "cmp r9, 0x40",
        "jb 2b",
        "mov rax, r9",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "cld",
        "ret",
        timeouts = const ANSWER_TIMEOUTS,
    )
}

/// Uses a floating-point and a vector register, so that the running thread has such a state from now on.
pub fn use_floating_point() {
    // SAFETY: changes a vector register, and leaves the x87 stack as it was; compiled code uses neither.
    unsafe { asm!(".byte 0x66, 0x0f, 0xef, 0xc0", "fldz", "fstp st(0)", options(nomem, nostack)) }
}

/// Executes an invalid instruction, of two bytes: exception 6. The running thread's exception handler should
/// let it go on behind them.
pub fn invalid_instruction() {
    // SAFETY: the handler changes nothing but the instruction pointer; without one the thread halts.
    unsafe { asm!("ud2", options(nomem, nostack)) }
}

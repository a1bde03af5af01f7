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

/// Calls `partner` `rounds` times with messages of `words` untyped words, by Ipc or by Lipc. What the
/// words are does not matter.
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

/// Answers `partner`, which calls, with messages as long as its own, until one has a label other than 0.
/// Begins by waiting for it.
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

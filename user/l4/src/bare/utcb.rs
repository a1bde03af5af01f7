//! The running thread's control block, word by word (W4).

use core::arch::asm;

use heliox_abi::ThreadId;
use heliox_abi::utcb::{BUFFER_REGISTERS, ControlWord, MESSAGE_REGISTERS};

/// Address of the running thread's first message register: its local identifier.
#[must_use]
pub fn local_id() -> ThreadId {
    let address: u64;
    // SAFETY: the kernel keeps the GS base such that this word is readable (rule UTCB-2).
    unsafe { asm!("mov {}, gs:[0]", out(reg) address, options(nostack, readonly, preserves_flags)) }
    ThreadId(address)
}

/// Pointer to a word, counted from message register 0.
fn word(index: isize) -> *mut u64 {
    (local_id().0 as *mut u64).wrapping_offset(index)
}

/// Reads a word of the block, -64 to 63 counted from message register 0.
#[must_use]
pub(crate) fn read(index: isize) -> u64 {
    assert!((-64..64).contains(&index));
    // SAFETY: the word lies in the block; the kernel may write it, hence volatile.
    unsafe { word(index).read_volatile() }
}

/// Writes a word of the block, -64 to 63 counted from message register 0.
pub(crate) fn write(index: isize, value: u64) {
    assert!((-64..64).contains(&index));
    // SAFETY: the word lies in the block, where nothing of Rust's is (W4).
    unsafe { word(index).write_volatile(value) }
}

/// A thread control register.
#[must_use]
pub fn control(register: ControlWord) -> u64 {
    read(register as isize)
}

/// Writes a thread control register. What the program must not write it deceives only itself with,
/// but for [`ControlWord::LocalId`], which is refused.
///
/// # Panics
///
/// For [`ControlWord::LocalId`].
pub fn set_control(register: ControlWord, value: u64) {
    assert!(register != ControlWord::LocalId, "the local identifier leads to the control block");
    write(register as isize, value);
}

/// The running thread's global identifier.
#[must_use]
pub fn global_id() -> ThreadId {
    ThreadId(control(ControlWord::MyGlobalId))
}

/// Why the last system call failed.
#[must_use]
pub fn error_code() -> u64 {
    control(ControlWord::ErrorCode)
}

/// Who serves the running thread's page faults.
#[must_use]
pub fn pager() -> ThreadId {
    ThreadId(control(ControlWord::Pager))
}

/// Sets who serves the running thread's exceptions.
pub fn set_exception_handler(handler: ThreadId) {
    set_control(ControlWord::ExceptionHandler, handler.0);
}

/// Message register `index` as memory holds it; 0 if there is none.
pub(crate) fn message_register(index: usize) -> u64 {
    if index < MESSAGE_REGISTERS { read(index as isize) } else { 0 }
}

/// Writes message registers in memory, from number 0 on.
pub(crate) fn set_message_registers(first: usize, words: &[u64]) {
    for (index, value) in (first..MESSAGE_REGISTERS).zip(words) {
        write(index as isize, *value);
    }
}

/// Writes buffer registers, from number 0 on.
pub(crate) fn set_buffer_registers(words: &[u64]) {
    for (index, value) in (0..BUFFER_REGISTERS).zip(words) {
        write(-16 - index as isize, *value);
    }
}

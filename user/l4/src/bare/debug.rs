//! Debugger traps: services of the kernel that `int 3` and the bytes behind it ask for.

use core::arch::asm;

/// Ends the machine with a status, 0 to 63, if the program is sigma0 or root; otherwise returns
/// (rule DEBUG-6).
pub fn end_machine(status: u8) {
    // SAFETY: the kernel changes nothing; the comparison changes flags.
    unsafe { asm!("int3", "cmp al, 0xf4", in("rax") u64::from(status), options(nomem, nostack)) }
}

/// Prints a character on the kernel's log.
pub fn print_character(character: u8) {
    // SAFETY: as above.
    unsafe { asm!("int3", "cmp al, 0", in("rax") u64::from(character), options(nomem, nostack)) }
}

/// Reads a character that was typed, if there is one.
#[must_use]
pub fn read_character() -> Option<u8> {
    let value: u64;
    // SAFETY: the kernel changes RAX only.
    unsafe { asm!("int3", "cmp al, 8", inout("rax") 0_u64 => value, options(nomem, nostack)) }
    u8::try_from(value).ok()
}

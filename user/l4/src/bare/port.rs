//! Input and output ports.
//!
//! Safe, since no port that a program can have reaches memory (rule PORT-4). Using one that the
//! program has not is a fault, which its pager may answer.

use core::arch::asm;

/// Reads 8 bits.
#[must_use]
pub fn read8(port: u16) -> u8 {
    let value;
    // SAFETY: ports reach no memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    }
    value
}

/// Writes 8 bits.
pub fn write8(port: u16, value: u8) {
    // SAFETY: ports reach no memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    }
}

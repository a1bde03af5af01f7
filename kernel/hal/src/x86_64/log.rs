//! The log: lines with a level, on the first serial port.
//!
//! Hides the 16550. Output is bounded in time: a port that does not take a character within a
//! fixed number of polls is given up for good. One CPU at a time runs kernel code, so lines do
//! not mix.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::processor::{in8, out8};

pub use heliox_boot::options::LogLevel;

/// COM1.
const PORT: u16 = 0x3f8;
const INTERRUPT_ENABLE: u16 = PORT + 1;
const FIFO_CONTROL: u16 = PORT + 2;
const LINE_CONTROL: u16 = PORT + 3;
const MODEM_CONTROL: u16 = PORT + 4;
const LINE_STATUS: u16 = PORT + 5;
const SCRATCH: u16 = PORT + 7;

/// Line status: the transmitter takes a character.
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Polls for one character: at 115,200 baud one takes 87 microseconds, and a poll at least half
/// of one.
const LARGEST_POLLS: u32 = 100_000;

static PRESENT: AtomicBool = AtomicBool::new(false);
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);

/// Finds the serial port and sets it to 115,200 baud, 8 bits, no parity, FIFO on.
pub(super) fn initialize() {
    // SAFETY: D1: the UART's registers reach no memory.
    unsafe {
        out8(SCRATCH, 0x5a);
        if in8(SCRATCH) != 0x5a {
            return;
        }
        out8(INTERRUPT_ENABLE, 0);
        out8(LINE_CONTROL, 0x80);
        out8(PORT, 1);
        out8(INTERRUPT_ENABLE, 0);
        out8(LINE_CONTROL, 0x03);
        out8(FIFO_CONTROL, 0xc7);
        out8(MODEM_CONTROL, 0x03);
    }
    PRESENT.store(true, Ordering::Relaxed);
}

/// Sets which lines are printed: those of `level` and all more severe.
pub(super) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether a line of `level` would be printed.
#[must_use]
pub fn enabled(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Prints one line with its level in front, if the level is enabled.
pub fn write(level: LogLevel, message: fmt::Arguments<'_>) {
    if enabled(level) {
        line(format_args!("[{level}] {message}"));
    }
}

/// Prints bytes as they are: the output of programs.
pub fn write_bytes(bytes: &[u8]) {
    for &byte in bytes {
        put(byte);
    }
}

/// Prints text without a line end.
pub(super) fn text(message: fmt::Arguments<'_>) {
    // The port never fails: what it does not take is dropped.
    let _ = Port.write_fmt(message);
}

/// Prints one line.
pub(super) fn line(message: fmt::Arguments<'_>) {
    text(message);
    write_bytes(b"\r\n");
}

fn put(byte: u8) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: D1: the UART's registers reach no memory.
    unsafe {
        for _ in 0..LARGEST_POLLS {
            if in8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
                out8(PORT, byte);
                return;
            }
        }
    }
    PRESENT.store(false, Ordering::Relaxed);
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

/// Prints a line at level `error`.
#[macro_export]
macro_rules! error {
    ($($argument:tt)*) => { $crate::log::write($crate::log::LogLevel::Error, format_args!($($argument)*)) };
}

/// Prints a line at level `warn`.
#[macro_export]
macro_rules! warn {
    ($($argument:tt)*) => { $crate::log::write($crate::log::LogLevel::Warn, format_args!($($argument)*)) };
}

/// Prints a line at level `info`.
#[macro_export]
macro_rules! info {
    ($($argument:tt)*) => { $crate::log::write($crate::log::LogLevel::Info, format_args!($($argument)*)) };
}

/// Prints a line at level `debug`.
#[macro_export]
macro_rules! debug {
    ($($argument:tt)*) => { $crate::log::write($crate::log::LogLevel::Debug, format_args!($($argument)*)) };
}

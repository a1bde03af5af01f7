//! The log of a kernel: lines with a level, on the first serial port; and what is printed when the
//! kernel cannot boot or fails.
//!
//! Hides the 16550. Output is bounded in time: a port that does not take a character within a
//! fixed number of polls is given up for good. One CPU at a time runs kernel code, so lines do
//! not mix. A kernel on the bare machine begins with [`kernel_main!`].

#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
// The serial port is one of the bare machine.
#![cfg(target_os = "none")]

pub mod report;

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use heliox_boot::options::Options;
use heliox_hal::port::Ports;
use heliox_hal::{BootError, Hal, failure_registers, read_debug_port, write_debug_port};

pub use heliox_boot::options::LogLevel;
#[doc(hidden)]
pub use heliox_hal;

/// The status that a machine stops with after a panic.
pub const PANIC_STATUS: u8 = 63;
/// The status of a machine that the kernel cannot run on.
pub const CANNOT_BOOT: u8 = 1;

/// Registers of the 16550.
const DATA: u8 = 0;
const INTERRUPT_ENABLE: u8 = 1;
const FIFO_CONTROL: u8 = 2;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
const SCRATCH: u8 = 7;

/// Line status: a character has come.
const RECEIVED: u8 = 1 << 0;
/// Line status: the transmitter takes a character.
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Polls for one character: at 115,200 baud one takes 87 microseconds, and a poll at least half
/// of one.
const LARGEST_POLLS: u32 = 100_000;

static PRESENT: AtomicBool = AtomicBool::new(false);
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Info as u8);
static PANICKING: AtomicBool = AtomicBool::new(false);

/// Makes `$main`, a `fn(Hal) -> !`, the kernel: it runs when the machine has booted and the log is
/// on. A machine that cannot be booted is told why, and stopped with [`CANNOT_BOOT`].
#[macro_export]
macro_rules! kernel_main {
    ($main:path) => {
        $crate::heliox_hal::kernel_main!(|boot| $main($crate::start(boot)));
    };
}

/// Switches the log on, with the level that the kernel's command line says, and reports what there
/// was no sense in. Stops if the machine cannot be booted.
pub fn start(boot: Result<Hal, BootError>) -> Hal {
    find_port();
    match boot {
        Ok(hal) => {
            let command_line = hal.report.information.command_line();
            let options = Options::parse(command_line, |_| {});
            LEVEL.store(options.log as u8, Ordering::Relaxed);
            // Once more, now that the level is known.
            Options::parse(command_line, |ignored| warn!("{ignored}"));
            if let Some(port) = options.exit_port
                && !hal
                    .initial_ports()
                    .any(|range| range.derive(port, port.saturating_add(3)).is_ok())
            {
                warn!("{port:#x} cannot be the port of an exit device");
            }
            hal
        }
        Err(error) => {
            error!("cannot boot: {error}");
            stop(CANNOT_BOOT)
        }
    }
}

/// Says so, and stops the machine with `status`: 0 means success; above 63 counts as 63.
pub fn stop(status: u8) -> ! {
    line(format_args!("[info] stopped with status {}", status.min(63)));
    heliox_hal::stop(status)
}

/// Finds the serial port and sets it to 115,200 baud, 8 bits, no parity, FIFO on.
fn find_port() {
    write_debug_port(SCRATCH, 0x5a);
    if read_debug_port(SCRATCH) != 0x5a {
        return;
    }
    for (register, value) in [
        (INTERRUPT_ENABLE, 0),
        // The divisor of the rate, in place of the data and the interrupts.
        (LINE_CONTROL, 0x80),
        (DATA, 1),
        (INTERRUPT_ENABLE, 0),
        (LINE_CONTROL, 0x03),
        (FIFO_CONTROL, 0xc7),
        (MODEM_CONTROL, 0x03),
    ] {
        write_debug_port(register, value);
    }
    PRESENT.store(true, Ordering::Relaxed);
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

/// A byte that was received, if one was.
pub fn read_byte() -> Option<u8> {
    let is_there = PRESENT.load(Ordering::Relaxed) && read_debug_port(LINE_STATUS) & RECEIVED != 0;
    is_there.then(|| read_debug_port(DATA))
}

/// Prints one line.
fn line(message: fmt::Arguments<'_>) {
    // The port never fails: what it does not take is dropped.
    let _ = Port { line_start: "" }.write_fmt(message);
    write_bytes(b"\r\n");
}

fn put(byte: u8) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    for _ in 0..LARGEST_POLLS {
        if read_debug_port(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            write_debug_port(DATA, byte);
            return;
        }
    }
    PRESENT.store(false, Ordering::Relaxed);
}

/// The port, as something to format to. After a line's end it prints `line_start`.
struct Port {
    line_start: &'static str,
}

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if byte == b'\n' {
                write_bytes(b"\r\n");
                write_bytes(self.line_start.as_bytes());
            } else {
                put(byte);
            }
        }
        Ok(())
    }
}

/// Prints what happened and registers, and stops the machine.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        heliox_hal::stop(PANIC_STATUS);
    }
    let mut port = Port { line_start: "[panic] " };
    let cpu = core::arch::x86_64::__cpuid(1).ebx >> 24;
    let _ = write!(port, "[panic] on CPU {cpu}: {info}");
    let names = ["cr0", "cr2", "cr3", "cr4", "rsp", "rbp"];
    for (number, (name, value)) in names.into_iter().zip(failure_registers()).enumerate() {
        let separator = if number % 4 == 0 { '\n' } else { ' ' };
        let _ = write!(port, "{separator}{name:5} {value:016x}");
    }
    write_bytes(b"\r\n");
    stop(PANIC_STATUS)
}

/// Prints a line at level `error`.
#[macro_export]
macro_rules! error {
    ($($argument:tt)*) => { $crate::write($crate::LogLevel::Error, format_args!($($argument)*)) };
}

/// Prints a line at level `warn`.
#[macro_export]
macro_rules! warn {
    ($($argument:tt)*) => { $crate::write($crate::LogLevel::Warn, format_args!($($argument)*)) };
}

/// Prints a line at level `info`.
#[macro_export]
macro_rules! info {
    ($($argument:tt)*) => { $crate::write($crate::LogLevel::Info, format_args!($($argument)*)) };
}

/// Prints a line at level `debug`.
#[macro_export]
macro_rules! debug {
    ($($argument:tt)*) => { $crate::write($crate::LogLevel::Debug, format_args!($($argument)*)) };
}

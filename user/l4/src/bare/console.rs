//! Text output: through COM1 for sigma0 and root, who have its ports, and through root for others.

use core::fmt::{self, Write};

use crate::bare::start::{Role, role};
use crate::bare::{port, root};

/// First port of COM1.
const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Polls of the transmitter before a byte is given up: a device that never becomes ready must not
/// stop the program.
const POLLS: u32 = 1 << 16;

/// Writes text to the machine's console.
pub fn write(text: &[u8]) {
    match role() {
        Role::Sigma0 | Role::Root => text.iter().for_each(|byte| write_serial(*byte)),
        Role::Program => root::write(text),
    }
}

fn write_serial(byte: u8) {
    if byte == b'\n' {
        write_serial(b'\r');
    }
    for _ in 0..POLLS {
        if port::read8(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            break;
        }
    }
    port::write8(COM1, byte);
}

/// The console as something to format into.
#[derive(Clone, Copy, Debug)]
pub struct Console;

/// Collects small pieces so that a line needs few messages.
struct Collector {
    bytes: [u8; 256],
    length: usize,
}

impl Collector {
    fn flush(&mut self) {
        write(&self.bytes[..self.length]);
        self.length = 0;
    }
}

impl Write for Collector {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.length == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.length] = byte;
            self.length += 1;
        }
        Ok(())
    }
}

impl Console {
    /// Writes formatted text.
    pub fn print(self, text: fmt::Arguments<'_>) {
        let mut collector = Collector { bytes: [0; 256], length: 0 };
        // Collecting never fails.
        let _ = collector.write_fmt(text);
        collector.flush();
    }

    /// Writes formatted text and ends the line.
    pub fn print_line(self, text: fmt::Arguments<'_>) {
        self.print(format_args!("{text}\n"));
    }
}

/// Writes formatted text to the machine's console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::Console.print(format_args!($($argument)*)) };
}

/// Writes a formatted line to the machine's console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::console::Console.print_line(format_args!($($argument)*)) };
}

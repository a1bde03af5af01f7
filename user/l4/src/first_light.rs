//! What a program needs to run on Heliox: a start with a stack, system calls, and a panic
//! handler that tells what went wrong.
//!
//! The system calls are those of the first-light kernel (`docs/first-light.md`).
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! heliox_l4::program!(main);
//!
//! fn main() -> u8 {
//!     heliox_l4::println!("hello");
//!     0
//! }
//! ```

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;

/// Status with which a program ends that panicked.
const PANIC_STATUS: u64 = 61;

/// Bytes that one `write` call carries: five registers.
const WRITE_BYTES: usize = 40;

/// Numbers of the system calls (RAX).
mod number {
    pub(crate) const EXIT: u64 = 0;
    pub(crate) const WRITE: u64 = 1;
    pub(crate) const CLOCK: u64 = 2;
    pub(crate) const YIELD: u64 = 3;
    pub(crate) const ARGUMENT: u64 = 4;
    pub(crate) const SLEEP_UNTIL: u64 = 5;
}

// A program starts with all registers zero, so it brings its own stack.
global_asm!(
    ".section .text.start, \"ax\"",
    ".global _start",
    "_start:",
    "lea rsp, [rip + {stack} + {size}]",
    "xor ebp, ebp",
    "call heliox_program_main",
    "mov rdi, rax",
    "mov eax, {exit}",
    "syscall",
    "ud2",
    stack = sym STACK,
    size = const STACK_BYTES,
    exit = const number::EXIT,
);

const STACK_BYTES: usize = 64 << 10;

#[repr(C, align(4096))]
struct Stack(core::cell::UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: nothing but the stack pointer of the program's one thread refers to it.
unsafe impl Sync for Stack {}

static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; STACK_BYTES]));

/// Makes `$main`, a `fn() -> u8`, the program: its result is the status that the program ends
/// with, 0 for success.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn heliox_program_main() -> u64 {
            let main: fn() -> u8 = $main;
            u64::from(main())
        }
    };
}

/// A system call: `number` and up to six arguments; the result.
fn system_call(number: u64, arguments: [u64; 6]) -> u64 {
    let result;
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the kernel changes RAX, RCX and R11 and no memory of the program.
    unsafe {
        asm!("syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r8") d, in("r9") e, in("r10") f,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// Ends the program with `status`: 0 for success, up to 60 for what it means by it.
pub fn exit(status: u8) -> ! {
    system_call(number::EXIT, [u64::from(status), 0, 0, 0, 0, 0]);
    loop {
        core::hint::spin_loop();
    }
}

/// Writes text to the machine's console.
pub fn write(text: &str) {
    for piece in text.as_bytes().chunks(WRITE_BYTES) {
        let mut words = [0; WRITE_BYTES / 8];
        for (word, bytes) in words.iter_mut().zip(piece.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(padded);
        }
        let [a, b, c, d, e] = words;
        system_call(number::WRITE, [piece.len() as u64, a, b, c, d, e]);
    }
}

/// Microseconds since the kernel began.
#[must_use]
pub fn clock() -> u64 {
    system_call(number::CLOCK, [0; 6])
}

/// Lets other programs run.
pub fn yield_now() {
    system_call(number::YIELD, [0; 6]);
}

/// Lets other programs run until the clock shows `microseconds`.
pub fn sleep_until(microseconds: u64) {
    system_call(number::SLEEP_UNTIL, [microseconds, 0, 0, 0, 0, 0]);
}

/// The command line that the program was started with: its name and its arguments, at most
/// `buffer.len()` bytes of it.
pub fn command_line(buffer: &mut [u8]) -> &str {
    let mut length = 0;
    'words: for (index, bytes) in buffer.chunks_mut(8).enumerate() {
        let word = system_call(number::ARGUMENT, [index as u64, 0, 0, 0, 0, 0]).to_le_bytes();
        for (target, byte) in bytes.iter_mut().zip(word) {
            if byte == 0 {
                break 'words;
            }
            *target = byte;
            length += 1;
        }
    }
    core::str::from_utf8(&buffer[..length]).unwrap_or("")
}

/// The console as something to format into.
#[derive(Clone, Copy, Debug)]
pub struct Console;

/// Collects small pieces so that a line needs few system calls.
struct Collector {
    bytes: [u8; WRITE_BYTES],
    length: usize,
}

impl Collector {
    fn flush(&mut self) {
        if let Ok(text) = core::str::from_utf8(&self.bytes[..self.length]) {
            write(text);
        }
        self.length = 0;
    }
}

impl Write for Collector {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.length + character.len_utf8() > WRITE_BYTES {
                self.flush();
            }
            let end = self.length + character.len_utf8();
            character.encode_utf8(&mut self.bytes[self.length..end]);
            self.length = end;
        }
        Ok(())
    }
}

impl Console {
    /// Writes formatted text.
    pub fn print(self, text: fmt::Arguments<'_>) {
        let mut collector = Collector { bytes: [0; WRITE_BYTES], length: 0 };
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
    ($($argument:tt)*) => { $crate::Console.print(format_args!($($argument)*)) };
}

/// Writes a formatted line to the machine's console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::Console.print_line(format_args!($($argument)*)) };
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{}", info);
    system_call(number::EXIT, [PANIC_STATUS, 0, 0, 0, 0, 0]);
    loop {
        core::hint::spin_loop();
    }
}

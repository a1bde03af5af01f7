//! The end: a panic or a fault of the kernel itself.
//!
//! Nothing here may fail: it writes to the serial port and stops the machine.

use core::arch::asm;
use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::context::Frame;
use super::{log, processor, shutdown};

/// The status that a machine stops with after a panic.
pub const PANIC_STATUS: u8 = 63;

static PANICKING: AtomicBool = AtomicBool::new(false);

/// Names of what the entry code saves, in the order of `Frame::general`.
const GENERAL: [&str; 15] = [
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx", "rbx",
    "rax",
];

/// Prints what happened and registers, and stops the machine.
fn die<'a>(what: fmt::Arguments<'_>, registers: impl Iterator<Item = (&'a str, u64)>) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        shutdown::stop(PANIC_STATUS);
    }
    let cpu = processor::cpuid(1, 0).ebx >> 24;
    log::text(format_args!("[panic] on CPU {cpu}: {what}"));
    let control = [
        ("cr0", processor::read_cr0()),
        ("cr2", processor::read_cr2()),
        ("cr3", processor::read_cr3()),
        ("cr4", processor::read_cr4()),
    ];
    for (number, (name, value)) in control.into_iter().chain(registers).enumerate() {
        let start = if number % 4 == 0 { "\n[panic]" } else { "" };
        log::text(format_args!("{start} {name:5} {value:016x}"));
    }
    log::line(format_args!(""));
    shutdown::stop(PANIC_STATUS)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // A panic is a call: the registers that say something are those that calls preserve.
    let names = ["rsp", "rbp", "rbx", "r12", "r13", "r14", "r15"];
    let mut values = [0_u64; 7];
    // SAFETY: stores seven words into the array, which has room for them.
    unsafe {
        asm!(
            "mov [{0}], rsp", "mov [{0} + 8], rbp", "mov [{0} + 16], rbx", "mov [{0} + 24], r12",
            "mov [{0} + 32], r13", "mov [{0} + 40], r14", "mov [{0} + 48], r15",
            in(reg) values.as_mut_ptr(), options(nostack, preserves_flags)
        );
    }
    die(format_args!("{info}"), names.into_iter().zip(values))
}

/// An exception that the kernel itself caused, or a double fault or machine check; called by the
/// entry code with the saved registers.
pub(super) extern "C" fn fatal_exception(frame: &Frame) -> ! {
    let (vector, code) = (frame.vector, frame.error_code);
    let special = [
        ("rip", frame.instruction_pointer),
        ("rsp", frame.stack_pointer),
        ("cs", frame.code_selector),
        ("flags", frame.flags),
    ];
    die(
        format_args!("exception {vector} ({}), error code {code:#x}", exception_name(vector)),
        special.into_iter().chain(GENERAL.into_iter().zip(frame.general)),
    )
}

/// The processor's name for an exception.
fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range",
        6 => "invalid opcode",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack",
        13 => "general protection",
        14 => "page fault",
        16 => "x87 floating point",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating point",
        20 => "virtualization",
        21 => "control protection",
        _ => "reserved",
    }
}

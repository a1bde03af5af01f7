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

/// Prints what happened and `registers`, and stops the machine.
fn die(what: fmt::Arguments<'_>, registers: &[(&str, u64)]) -> ! {
    if PANICKING.swap(true, Ordering::Relaxed) {
        shutdown::stop(PANIC_STATUS);
    }
    log::line(format_args!(
        "[panic] on CPU {}: {what}",
        processor::cpuid(1, 0).ebx >> 24
    ));
    for group in registers.chunks(4) {
        log::text(format_args!("[panic]"));
        for (name, value) in group {
            log::text(format_args!(" {name} {value:016x}"));
        }
        log::line(format_args!(""));
    }
    log::line(format_args!(
        "[panic] cr0 {:016x} cr2 {:016x} cr3 {:016x} cr4 {:016x}",
        processor::read_cr0(),
        processor::read_cr2(),
        processor::read_cr3(),
        processor::read_cr4()
    ));
    shutdown::stop(PANIC_STATUS)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // A panic is a call: the registers that say something are those that calls preserve.
    let (rsp, rbp, rbx, r12, r13, r14, r15, flags): (u64, u64, u64, u64, u64, u64, u64, u64);
    // SAFETY: reads registers only; the stack is used below the red-zone-less stack pointer.
    unsafe {
        asm!(
            "mov {}, rsp", "mov {}, rbp", "mov {}, rbx", "mov {}, r12", "mov {}, r13",
            "mov {}, r14",
            out(reg) rsp, out(reg) rbp, out(reg) rbx, out(reg) r12, out(reg) r13, out(reg) r14,
            options(nomem, preserves_flags)
        );
        asm!("mov {}, r15", "pushfq", "pop {}", out(reg) r15, out(reg) flags);
    }
    die(
        format_args!("{info}"),
        &[
            ("rsp", rsp),
            ("rbp", rbp),
            ("rbx", rbx),
            ("r12", r12),
            ("r13", r13),
            ("r14", r14),
            ("r15", r15),
            ("flags", flags),
        ],
    )
}

/// An exception that the kernel itself caused, or a double fault or machine check; called by the
/// entry code with the saved registers.
pub(super) extern "C" fn fatal_exception(frame: &Frame) -> ! {
    let [
        r15,
        r14,
        r13,
        r12,
        r11,
        r10,
        r9,
        r8,
        rbp,
        rdi,
        rsi,
        rdx,
        rcx,
        rbx,
        rax,
    ] = frame.general;
    die(
        format_args!(
            "exception {} ({}) with error code {:#x}",
            frame.vector,
            exception_name(frame.vector),
            frame.error_code
        ),
        &[
            ("rip", frame.instruction_pointer),
            ("rsp", frame.stack_pointer),
            ("cs", frame.code_selector),
            ("flags", frame.flags),
            ("rax", rax),
            ("rbx", rbx),
            ("rcx", rcx),
            ("rdx", rdx),
            ("rsi", rsi),
            ("rdi", rdi),
            ("rbp", rbp),
            ("r8 ", r8),
            ("r9 ", r9),
            ("r10", r10),
            ("r11", r11),
            ("r12", r12),
            ("r13", r13),
            ("r14", r14),
            ("r15", r15),
        ],
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

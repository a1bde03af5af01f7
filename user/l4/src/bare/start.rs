//! How a program begins and ends.
//!
//! A program begins with no stack (rules BOOT-2, THREAD-18), so it brings one. It finds the kernel,
//! finds out what it is, lets its pager serve its exceptions, and calls the function that
//! [`program!`](crate::program) names.

use core::arch::naked_asm;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use heliox_abi::ThreadId;

use crate::bare::sigma0::PhysicalBytes;
use crate::bare::{debug, raw, root, thread, utcb};
use crate::boot_info::{BootInfo, HEADER_BYTES, Source};

/// Status with which a program ends that panicked.
const PANIC_STATUS: u8 = 61;
/// Bytes of the first thread's stack.
const STACK_BYTES: usize = 128 << 10;

#[repr(C, align(4096))]
struct FirstStack(UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: nothing but the stack pointer of the program's first thread refers to it.
unsafe impl Sync for FirstStack {}

static STACK: FirstStack = FirstStack(UnsafeCell::new([0; STACK_BYTES]));

unsafe extern "C" {
    /// The first byte of the program's file in memory, by the linker script.
    static heliox_image_start: u8;
    /// The byte behind its code.
    #[cfg(feature = "probe")]
    static heliox_text_end: u8;
    /// The byte behind its last.
    static heliox_image_end: u8;
    /// What [`program!`](crate::program) makes.
    fn heliox_program_main() -> u64;
}

/// The stack pointer that the program began with, and all other general registers, or'ed.
static INITIAL: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The stack pointer that the program began with, and all other general registers, or'ed: for tests
/// of how programs begin.
#[must_use]
pub fn initial_registers() -> (u64, u64) {
    let [stack, others] = &INITIAL;
    (stack.load(Ordering::Relaxed), others.load(Ordering::Relaxed))
}

/// Where the program begins.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
unsafe extern "C" fn _start() -> ! {
    naked_asm!(
        "mov [rip + {initial}], rsp",
        "or rax, rbx",
        "or rax, rcx",
        "or rax, rdx",
        "or rax, rsi",
        "or rax, rdi",
        "or rax, rbp",
        "or rax, r8",
        "or rax, r9",
        "or rax, r10",
        "or rax, r11",
        "or rax, r12",
        "or rax, r13",
        "or rax, r14",
        "or rax, r15",
        "mov [rip + {initial} + 8], rax",
        "lea rsp, [rip + {stack} + {bytes}]",
        "xor ebp, ebp",
        "cld",
        "call {begin}",
        "ud2",
        initial = sym INITIAL,
        stack = sym STACK,
        bytes = const STACK_BYTES,
        begin = sym begin,
    )
}

extern "C" fn begin() -> ! {
    raw::find_kernel();
    FIRST.store(utcb::local_id().0, Ordering::Relaxed);
    if let Some(id) = utcb::global_id().global() {
        thread::note_own(id.number());
    }
    adopt_exception_handler();
    // SAFETY: `program!` defines it with this signature.
    let status = unsafe { heliox_program_main() };
    exit(u8::try_from(status).unwrap_or(u8::MAX))
}

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

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The first address space, which has all memory.
    Sigma0,
    /// The root task.
    Root,
    /// Another program, which root started.
    Program,
}

/// The first thread's local identifier.
static FIRST: AtomicU64 = AtomicU64::new(0);
/// What the program is, by its first thread's number; 0 until it was asked.
static ROLE: AtomicU64 = AtomicU64::new(0);

/// What this program is.
#[must_use]
pub fn role() -> Role {
    let number = match ROLE.load(Ordering::Relaxed) {
        // The first call is made by the first thread: see `adopt_exception_handler`.
        0 => {
            let word = utcb::global_id().0;
            ROLE.store(word, Ordering::Relaxed);
            word
        }
        word => word,
    };
    match ThreadId(number) {
        id if id == raw::page().sigma0_id() => Role::Sigma0,
        id if id == raw::page().root_id() => Role::Root,
        _ => Role::Program,
    }
}

/// Address of the first thread's UTCB.
pub(crate) fn first_utcb() -> u64 {
    FIRST.load(Ordering::Relaxed).wrapping_sub(heliox_abi::utcb::MR0_OFFSET)
}

/// The program's file in memory.
pub(crate) fn image() -> Range<u64> {
    (&raw const heliox_image_start) as u64..(&raw const heliox_image_end) as u64
}

/// The program's code in memory.
#[cfg(feature = "probe")]
pub(crate) fn text() -> Range<u64> {
    (&raw const heliox_image_start) as u64..(&raw const heliox_text_end) as u64
}

/// Has the running thread's exceptions told to root, if that started the program: else nobody would
/// hear of them.
pub(crate) fn adopt_exception_handler() {
    if role() == Role::Program {
        utcb::set_exception_handler(raw::page().root_id());
    }
}

/// Ends the program with `status`: 0 for success, up to 60 for what it means by it. Root ends the
/// machine; sigma0 rests.
pub fn exit(status: u8) -> ! {
    match role() {
        Role::Program => root::exit(status),
        Role::Root => debug::end_machine(status),
        Role::Sigma0 => {}
    }
    thread::rest()
}

/// The command line that the program was started with: its name and its arguments, at most
/// `buffer.len()` bytes of it. For the first thread.
pub fn command_line(buffer: &mut [u8]) -> &str {
    let length = match role() {
        Role::Program => root::command_line(buffer),
        Role::Root => root_command_line(buffer),
        Role::Sigma0 => 0,
    };
    core::str::from_utf8(buffer.get(..length).unwrap_or(&[])).unwrap_or("")
}

/// The boot information, as memory from sigma0; it must be asked for by root's first thread.
#[derive(Debug)]
pub struct BootMemory(PhysicalBytes);

impl Source for BootMemory {
    fn word(&self, offset: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.0.read(offset, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }
}

impl BootMemory {
    /// Gets the boot information from sigma0. `None` if there is none, or it is not given.
    #[must_use]
    pub fn get() -> Option<Self> {
        let address = raw::page().boot_information();
        if address == 0 {
            return None;
        }
        // Its size is in it: first as much as has the header, then all of it.
        let header = Self(PhysicalBytes::get(address, HEADER_BYTES).ok()?);
        let bytes = BootInfo::parse(&header).ok()?.bytes();
        PhysicalBytes::get(address, bytes).ok().map(Self)
    }
}

fn root_command_line(buffer: &mut [u8]) -> usize {
    let Some(memory) = BootMemory::get() else { return 0 };
    let Ok(info) = BootInfo::parse(&memory) else { return 0 };
    // The first module is sigma0's file, the second root's (rule BOOT-7).
    let Some(module) = info.modules().nth(1) else { return 0 };
    info.command_line(&module, buffer).len()
}

/// What a panic does instead of ending the program.
pub type PanicHook = fn(&PanicInfo<'_>);

static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Has `hook` called when a thread panics; the thread then rests for ever.
pub fn set_panic_hook(hook: PanicHook) {
    HOOK.store(hook as *mut (), Ordering::Release);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let hook = HOOK.load(Ordering::Acquire);
    if !hook.is_null() {
        // SAFETY: only `set_panic_hook` writes it, from a `PanicHook`.
        let hook = unsafe { core::mem::transmute::<*mut (), PanicHook>(hook) };
        hook(info);
        thread::rest();
    }
    crate::println!("{}", info);
    exit(PANIC_STATUS)
}

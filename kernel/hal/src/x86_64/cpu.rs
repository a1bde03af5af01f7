//! What belongs to one CPU, and the ways into the kernel and back to a program.
//!
//! While a program runs, the CPU's area names the registers of its context (`context`), and
//! everything that ends the run saves the program's registers there: a system call by pushing
//! them where they belong, an interrupt after it moved what the processor pushed from a small
//! stack of the CPU's own. So [`run`] looks to its caller like a function that returns when the
//! program stops, and to run another program takes one store.
//!
//! Rules (docs/soundness.md, hazards 1 to 5):
//!
//! - In the kernel, GS is the CPU's area, except between an entry from ring 3 and its SWAPGS, and
//!   between the SWAPGS and the end of an exit. Whether to SWAPGS is decided by the privilege in
//!   the saved CS, never by the GS base (a program can choose that freely).
//! - #DB, NMI, #DF and #MC have stacks of their own and may arrive anywhere, also in the windows
//!   just named and while RSP is still, or already, the program's. When they interrupt the
//!   kernel, they do not touch GS.
//! - Interrupts are off everywhere in the kernel but in [`take_interrupt`].
//! - The descriptor tables and the stacks in the task state are not written after the start.

use super::context::{INITIAL_FLAGS, Registers};
use super::*;

/// Selectors of the descriptor table. SYSRET takes the program's data and code selectors as
/// 8 and 16 above the base in STAR; the entry in between stays empty, so that no program can
/// switch to 32-bit code.
const KERNEL_CODE: u64 = 0x08;
const SYSRET_BASE: u64 = 0x18 | 3;
pub(super) const USER_DATA: u64 = 0x20 | 3;
pub(super) const USER_CODE: u64 = 0x28 | 3;
const TASK_STATE: u16 = 0x30;

/// The flags that SYSCALL clears: trap, interrupt enable, direction, I/O privilege, nested task,
/// resume, alignment check (`hazards` 4).
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 16 | 1 << 18;

/// The vector that the system-call entry writes into a frame. The program is resumed by SYSRET as
/// long as it is there.
pub(super) const SYSTEM_CALL: u64 = 256;

/// `io_map_base` for a program that may use the ports of the bitmap, and for one that may not:
/// past the end of the task state (`hazards` 16).
pub(super) const PORTS_OPEN: u16 = (offset_of!(CpuArea, port_bitmap) - 4) as u16;
pub(super) const PORTS_CLOSED: u16 = u16::MAX;

/// The address of this stands for the answer that a light system call is to be handled as any other.
static DECLINED: Registers = Registers::declined();

/// One CPU's own memory. The task state (AMD64 manual volume 2, section 12.2.5) begins with the
/// second word of 32 bits, so that its addresses are aligned, and ends with the area.
#[repr(C, align(4096))]
pub(super) struct CpuArea {
    reserved0: u64,
    ring_stack: AtomicU64,
    reserved1: [u64; 3],
    interrupt_stacks: [AtomicU64; 7],
    reserved2: [u16; 5],
    pub(super) io_map_base: AtomicU16,
    /// The registers of the context that this CPU holds; null if none.
    pub(super) registers: AtomicPtr<Registers>,
    /// Where the kernel's stack stands while a program runs.
    kernel_stack: AtomicU64,
    /// RAX, R9 and R10 of a light system call. The first also is the stack pointer, while a full one
    /// has no other place for that.
    message: [AtomicU64; 3],
    /// Where system calls arrive.
    entry: AtomicU64,
    /// The kernel that light system calls ask, of the type that `entry` is for.
    kernel: AtomicPtr<()>,
    /// The highest bit if system calls of the kernel's half are light now, else 0.
    light_mask: AtomicU64,
    /// Of a light system call that did not end by the short way, the registers of the program that
    /// was to go on, or [`DECLINED`]; null if the kernel was not asked.
    light_outcome: AtomicPtr<Registers>,
    /// RDI, RSI, RDX and R8 of a light system call, the second and third only if it was declined.
    light_words: [AtomicU64; 4],
    /// The vector that ended [`take_interrupt`].
    pending_vector: AtomicU64,
    /// How extended state is saved: the mask for XSAVE; 0 for FXSAVE.
    pub(super) extended_mask: AtomicU64,
    /// 1 if programs can set the bases of FS and GS by themselves.
    pub(super) fs_gs_base: AtomicU64,
    /// Kernel code and data, program data and code, task state.
    descriptors: [AtomicU64; 8],
    /// Where the processor pushes: on interrupts of programs, on #DB, on NMI.
    stacks: [[AtomicU64; 16]; 3],
    /// Name of the permissions that the bitmap is of; 0 if they have changed since.
    pub(super) ports_of: AtomicU64,
    /// A bit for each port, and the byte of ones that must follow.
    pub(super) port_bitmap: [AtomicU64; 65536 / 64 + 1],
}

const _: () = assert!(offset_of!(CpuArea, ring_stack) == 4 + 4);
const _: () = assert!(offset_of!(CpuArea, interrupt_stacks) == 4 + 36);
const _: () = assert!(offset_of!(CpuArea, io_map_base) == 4 + 102);

/// The area of the boot CPU (U1: the only one).
// SAFETY: a field is a number or a pointer, for which zero is a value.
pub(super) static CPU: CpuArea = unsafe { mem::zeroed() };

/// The interrupt descriptor table: 256 gates of two words.
static GATES: [[AtomicU64; 2]; 256] = [const { [const { AtomicU64::new(0) }; 2] }; 256];

/// Debug exceptions and non-maskable interrupts that arrived in the kernel, and went by.
pub(super) static ABSORBED: AtomicU64 = AtomicU64::new(0);

/// Gives the boot CPU its descriptor tables, interrupt stacks and system-call entry. `fatal_stack`:
/// the end of the stack for double faults and machine checks.
pub(super) fn start(fatal_stack: u64) {
    let stubs = (interrupts as *const () as u64).next_multiple_of(16);
    for (vector, [low, high]) in (0..).zip(&GATES) {
        // The stack, and which programs may use an INT instruction: those for breakpoint and
        // overflow only (AMD64 manual volume 2, section 4.8.4).
        let attributes = match vector {
            1 => 0x8e01,
            2 => 0x8e02,
            8 | 18 => 0x8e03,
            3 | 4 => 0xee00,
            _ => 0x8e00,
        };
        let handler = stubs + vector * 16;
        let offsets = handler & 0xffff | (handler >> 16 & 0xffff) << 48;
        low.store(offsets | KERNEL_CODE << 16 | attributes << 32, Relaxed);
        high.store(handler >> 32, Relaxed);
    }
    let [debug, non_maskable, fatal, ..] = &CPU.interrupt_stacks;
    for (stack, words) in [&CPU.ring_stack, debug, non_maskable].into_iter().zip(&CPU.stacks) {
        stack.store(words.as_ptr_range().end as u64, Relaxed);
    }
    fatal.store(fatal_stack, Relaxed);
    CPU.io_map_base.store(PORTS_CLOSED, Relaxed);
    CPU.port_bitmap.iter().for_each(|word| word.store(u64::MAX, Relaxed));
    let task_state = &raw const CPU as u64 + 4;
    let limit = u64::from(PORTS_OPEN) + 65536 / 8;
    let base = (task_state & 0xff_ffff) << 16 | (task_state >> 24 & 0xff) << 56;
    let descriptors = [
        [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0],
        [0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff, limit | base | 0x89 << 40, task_state >> 32],
    ];
    for (place, descriptor) in CPU.descriptors.iter().zip(descriptors.as_flattened()) {
        place.store(*descriptor, Relaxed);
    }

    #[repr(C, packed)]
    struct Table(u16, u64);
    let descriptors = Table(8 * 8 - 1, &raw const CPU.descriptors as u64);
    let gates = Table(256 * 16 - 1, &raw const GATES as u64);
    // SAFETY: the tables are complete and statics; the code selector that is loaded means the
    // same as before. No program has run and no interrupt has arrived (U1).
    unsafe {
        asm!("lgdt [{}]", "lidt [{}]", "ltr {:x}",
            in(reg) &descriptors, in(reg) &gates, in(reg) TASK_STATE);
        // GS base, STAR, SFMASK.
        write_msr(0xc000_0101, &raw const CPU as u64);
        write_msr(0xc000_0081, KERNEL_CODE << 32 | SYSRET_BASE << 48);
        write_msr(0xc000_0084, CLEARED_FLAGS);
    }
    set_entry::<OneProgram<'static, Hal>>();
}

/// The code of a way in or out. Names in it: words of the CPU's area (relative to GS), and of
/// [`Registers`] behind what is saved, of which the words have numbers (`SavedRegisters`). The macro
/// `push_registers` pushes a program's registers in their order.
macro_rules! entry_code {
    ($($line:literal,)*; $($operand:tt)*) => {
        naked_asm!(
            ".set registers, {registers}; .set kernel_stack, {kernel_stack}",
            ".set message, {message}; .set light_mask, {light_mask}; .set pending_vector, {pending}",
            ".set gs_base, {gs_base}; .set light_word, {light_word}; .set initial_flags, {flags}",
            ".set light_outcome, {outcome}; .set light_words, {words}; .set special, {special}",
            ".macro push_registers
                .irp name, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
                    push \\name
                .endr
            .endm",
            $($line,)*
            ".purgem push_registers",
            registers = const offset_of!(CpuArea, registers),
            kernel_stack = const offset_of!(CpuArea, kernel_stack),
            message = const offset_of!(CpuArea, message),
            light_mask = const offset_of!(CpuArea, light_mask),
            pending = const offset_of!(CpuArea, pending_vector),
            gs_base = const offset_of!(Registers, gs_base),
            light_word = const offset_of!(Registers, light_word),
            flags = const INITIAL_FLAGS,
            outcome = const offset_of!(CpuArea, light_outcome),
            words = const offset_of!(CpuArea, light_words),
            special = const offset_of!(Registers, special),
            $($operand)*
        )
    };
}

/// Where every interrupt and exception arrives: for each vector, 16 bytes of code that make the
/// frames alike by an error code (0 where the processor pushes none) and the vector number.
#[unsafe(naked)]
unsafe extern "C" fn interrupts() {
    entry_code!(
        ".set vector, 0",
        ".rept 256",
        ".balign 16",
        // Those with a code: 8, 10 to 14, 17, 21, 29, 30.
        ".if (vector > 31) || !((0x60227d00 >> (vector & 31)) & 1)",
        "push 0",
        ".endif",
        "push vector",
        "jmp 2f",
        ".set vector, vector + 1",
        ".endr",
        // [rsp]: vector, error code, RIP, CS, RFLAGS, RSP, SS.
        "2:",
        "test byte ptr [rsp + 24], 3",
        "jz 3f",
        "swapgs",
        "push rbx",
        "mov rbx, rsp",
        "mov rsp, gs:[registers]",
        "add rsp, 22 * 8",
        ".irp offset, 56, 48, 40, 32, 24, 16, 8",
        "push [rbx + \\offset]",
        ".endr",
        "mov rbx, [rbx]",
        "push_registers",
        "mov rsp, gs:[kernel_stack]",
        "push 2",                           // interrupts leave DF and AC as the program set them
        "popfq",
        "jmp leave",
        // The kernel itself was interrupted.
        "3:",
        "cmp dword ptr [rsp], 32",
        "jae 5f",
        "cmp dword ptr [rsp], 2",
        "je 4f",
        "cmp dword ptr [rsp], 1",
        "jne 6f",
        "push rax",
        "xor eax, eax",                     // a program's breakpoint, held back until the kernel
        "mov dr7, rax",                     // was entered: switch it off and go on
        "mov dr6, rax",
        "pop rax",
        "4:",
        "lock inc qword ptr [rip + {absorbed}]",
        "add rsp, 16",
        "iretq",
        "5:",                               // a device, while the kernel lets interrupts in
        "pop qword ptr gs:[pending_vector]",
        "and dword ptr [rsp + 24], ~0x200", // return with interrupts off
        "add rsp, 8",
        "iretq",
        "6:",                               // the kernel's own fault
        "push_registers",
        "mov rdi, rsp",
        "call {fatal_exception}",
        ;
        absorbed = sym ABSORBED,
        fatal_exception = sym fatal_exception,
    )
}

/// Runs the program that the CPU holds until it stops. Changes every register but RSP, RBX, RBP and
/// R12. The registers of a program that has stopped are saved when it goes on at `leave`.
#[unsafe(naked)]
unsafe extern "C" fn enter() {
    entry_code!(
        "push rbx",
        "push rbp",
        "push r12",
        "mov gs:[kernel_stack], rsp",
        "mov rsp, gs:[registers]",
        "cmp qword ptr [rsp + 15 * 8], {system_call}",
        ".irp name, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax",
        "pop \\name",
        ".endr",
        "je 2f",
        "add rsp, 16",
        "swapgs",
        "iretq",
        "2:",                               // RCX and R11 are lost, so there is a shorter way
        "mov rcx, [rsp + 16]",
        "mov r11, [rsp + 32]",
        "mov rsp, [rsp + 40]",
        "swapgs",
        "sysretq",
        ".globl leave",
        "leave:",
        "mov rsp, gs:[kernel_stack]",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        ;
        system_call = const SYSTEM_CALL,
    )
}

/// Where system calls arrive, for a kernel of type `K`. RCX is the program's RIP, R11 its flags, and
/// nothing else has changed. A full one is made to look like an interrupt with vector
/// [`SYSTEM_CALL`]: CS and SS in the frame are the program's already, and the error code means
/// nothing.
#[unsafe(naked)]
unsafe extern "C" fn system_call<K: Kernel<Machine = Hal>>() {
    entry_code!(
        "swapgs",
        "test gs:[light_mask], rcx",
        "js 2f",
        "mov gs:[message], rsp",
        "mov rsp, gs:[registers]",
        "add rsp, 15 * 8",
        "push_registers",
        "mov rax, gs:[message]",
        "mov qword ptr [rsp + 15 * 8], {system_call}",
        "mov [rsp + 17 * 8], rcx",
        "mov [rsp + 19 * 8], r11",
        "mov [rsp + 20 * 8], rax",
        "jmp leave",
        // A light one. What the program loses needs no saving, what Rust preserves neither.
        "2:",
        "mov r11, gs:[registers]",
        "mov [r11 + 17 * 8], rcx",
        "mov [r11 + 20 * 8], rsp",
        "mov qword ptr [r11 + 19 * 8], initial_flags",
        "mov gs:[message], rax",
        "mov gs:[message + 8], r9",
        "mov gs:[message + 16], r10",
        "mov gs:[light_words], rdi",
        "mov gs:[light_words + 24], r8",
        "mov rsp, gs:[kernel_stack]",
        "call {light}",
        // F1: what neither of the two contexts has of its own need not be switched. The one that
        // called has nothing but perhaps an FS base: else the call would not be light.
        "rdfsbase rcx",
        "or rcx, [rax + special]",
        "jnz 3f",
        "mov gs:[registers], rax",
        "mov rsi, rdx",
        "mov rdi, [rax + light_word]",
        "mov r8, [rax + gs_base]",
        "mov rcx, [rax + 17 * 8]",
        "mov rsp, [rax + 20 * 8]",
        "mov r10, gs:[message + 16]",
        "mov r9, gs:[message + 8]",
        "mov rax, gs:[message]",
        "mov r11d, initial_flags",
        "swapgs",
        "wrgsbase r8",
        "sysretq",
        // Not by the short way: all registers are saved after all, of the program that called, or
        // as the one is to find them that goes on.
        "3:",
        "mov gs:[light_outcome], rax",
        "lea rcx, [rip + {declined}]",
        "cmp rax, rcx",
        "je 4f",
        "mov rsi, rdx",
        "mov rdi, [rax + light_word]",
        "mov r8, [rax + gs_base]",
        "jmp 5f",
        "4:",
        "mov rax, gs:[registers]",
        "mov rdi, gs:[light_words]",
        "mov rsi, gs:[light_words + 8]",
        "mov rdx, gs:[light_words + 16]",
        "mov r8, gs:[light_words + 24]",
        "5:",
        "mov rcx, [rax + 17 * 8]",          // RCX and R11, as SYSCALL leaves them
        "mov r11d, initial_flags",
        "mov qword ptr [rax + 15 * 8], {system_call}",
        "mov [rax + 19 * 8], r11",
        "lea rsp, [rax + 15 * 8]",
        "mov rax, gs:[message]",
        "mov r9, gs:[message + 8]",
        "mov r10, gs:[message + 16]",
        "push_registers",
        "jmp leave",
        ;
        system_call = const SYSTEM_CALL,
        light = sym light::<K>,
        declined = sym DECLINED,
    )
}

/// Lets light system calls ask `kernel`, until [`end_light_calls`].
pub(super) fn begin_light_calls<K: Kernel<Machine = Hal>>(kernel: *mut K) {
    if CPU.entry.load(Relaxed) != system_call::<K> as *const () as u64 {
        set_entry::<K>();
    }
    CPU.kernel.store(kernel.cast(), Relaxed);
    CPU.light_mask.store(1 << 63, Relaxed);
}

/// How a light system call ended that asked the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LightOutcome {
    /// By the short way; or the kernel was not asked.
    Short,
    /// The kernel declined. The registers of the program that called are saved.
    Declined,
    /// The registers of the program that goes on are as it is to find them.
    Answered,
}

/// Makes all system calls full ones; how the light one ended that stopped the program, if one did.
pub(super) fn end_light_calls() -> LightOutcome {
    CPU.light_mask.store(0, Relaxed);
    let outcome = CPU.light_outcome.load(Relaxed);
    if outcome.is_null() {
        return LightOutcome::Short;
    }
    CPU.light_outcome.store(ptr::null_mut(), Relaxed);
    if ptr::eq(outcome, &DECLINED) { LightOutcome::Declined } else { LightOutcome::Answered }
}

/// Makes the system calls of a kernel `K` arrive where they are to.
#[cold]
fn set_entry<K: Kernel<Machine = Hal>>() {
    let entry = system_call::<K> as *const () as u64;
    CPU.entry.store(entry, Relaxed);
    // SAFETY: LSTAR. Every such entry saves the program's registers in the same way.
    unsafe { write_msr(0xc000_0082, entry) }
}

/// Runs the program that the CPU holds until it stops.
///
/// # Safety
/// The CPU must hold the registers of a context (X1, X2), and the loaded root carry the kernel in
/// its upper half (T2). Between [`begin_light_calls`] and [`end_light_calls`] nobody else may use the
/// kernel, and the context must have nothing special (F1).
pub(super) unsafe fn run() {
    // SAFETY: as the caller ensures; every register that changes is named.
    unsafe {
        asm!("call {}", sym enter, out("r13") _, out("r14") _, out("r15") _, clobber_abi("sysv64"));
    }
}

/// Where the way out of a light system call finds the program that goes on, and its result; or
/// [`DECLINED`].
#[repr(C)]
struct Exit(*const Registers, u64);

/// Asks the kernel; called with the registers of the program. RDI and R8 are in `light_words`.
extern "sysv64" fn light<K: Kernel<Machine = Hal>>(
    rdi: u64,
    rsi: u64,
    rdx: u64,
    instruction_pointer: u64,
    r8: u64,
    r9: u64,
) -> Exit {
    let kernel = CPU.kernel.load(Relaxed).cast::<K>();
    let call = LightCall { rdi, rsi, rdx, r8, r9, instruction_pointer };
    // SAFETY: `run`; the entry is that for a `K`.
    match unsafe { &mut *kernel }.light_call(call) {
        Some(answer) => exit(answer),
        None => light_rest(kernel, rsi, rdx),
    }
}

/// Asks the kernel once more.
#[inline(never)]
extern "sysv64" fn light_rest<K: Kernel<Machine = Hal>>(
    kernel: *mut K,
    rsi: u64,
    rdx: u64,
) -> Exit {
    let [rdi, .., r8] = CPU.light_words.each_ref().map(|word| word.load(Relaxed));
    let [_, r9, _] = CPU.message.each_ref().map(|word| word.load(Relaxed));
    // SAFETY: X1: the entry has saved the instruction pointer there.
    let instruction_pointer = unsafe { (*CPU.registers.load(Relaxed)).saved.instruction_pointer };
    let call = LightCall { rdi, rsi, rdx, r8, r9, instruction_pointer };
    // SAFETY: as for `light`.
    match unsafe { &mut *kernel }.light_call_rest(call) {
        Some(answer) => exit(answer),
        None => {
            let [_, second, third, _] = &CPU.light_words;
            second.store(rsi, Relaxed);
            third.store(rdx, Relaxed);
            Exit(&DECLINED, 0)
        }
    }
}

#[inline(always)]
fn exit(LightReturn { next, result, tag }: LightReturn<'_, Hal>) -> Exit {
    next.machine.load(next.map);
    if let Some(tag) = tag {
        CPU.message[1].store(tag, Relaxed);
    }
    Exit(next.context.registers.as_ptr(), result)
}

/// Lets interrupts in, and if `wait` waits for one; its vector, or `None` if none came that can be
/// masked.
pub(super) fn take_interrupt(wait: bool) -> Option<u8> {
    CPU.pending_vector.store(u64::MAX, Relaxed);
    // SAFETY: the interrupt entry preserves every register of interrupted kernel code and returns
    // with interrupts off; STI takes effect only after the instruction behind it began.
    unsafe { if wait { asm!("sti", "hlt", "cli") } else { asm!("sti", "nop", "cli") } }
    u8::try_from(CPU.pending_vector.load(Relaxed)).ok()
}

/// An exception that the kernel itself caused, or a double fault or machine check in it.
#[expect(clippy::panic, reason = "nothing else is left to do")]
extern "sysv64" fn fatal_exception(registers: &SavedRegisters) -> ! {
    panic!("{registers}")
}

//! Threads that do what they are told: for tests of the kernel.
//!
//! A *probe* is a thread in an address space other than this program's. It runs a list of steps,
//! each of which is a system call or a piece of code ([`Action`]) with exactly given registers and
//! words of its thread control block, and notes all registers and the whole block afterwards. So a
//! test in safe Rust can do anything with any register values, and harm nobody but the probe.
//!
//! Steps and results are in [`ProbeMemory`], which the test's program and the probe share. A probe
//! that has done its steps calls its driver with the label [`DONE`] and waits for the next message.
//!
//! Safety rests on this: a probe has no memory of this program but its [`ProbeMemory`] (words,
//! reached one by one) and code that it can only read and execute.

use core::arch::naked_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use heliox_abi::{Flexpage, MapItem, Tag, ThreadId};

use crate::bare::raw::{self, Registers};
use crate::bare::{start, thread, utcb};
use crate::kip::SystemCall;
use crate::message::Mapping;

/// Label of the message by which a probe says that it has done its steps.
pub const DONE: u64 = 0xd0e;
/// Steps that a probe can be given at once.
pub const MOST_STEPS: usize = 10;
/// Log2 of the size of a probe's memory.
pub const MEMORY_BITS: u32 = 14;
const MEMORY_WORDS: usize = 1 << (MEMORY_BITS - 3);

/// Words of the memory's header.
const STEP_COUNT: usize = 0;
const CURRENT: usize = 1;
const DRIVER: usize = 2;
const IPC_STUB: usize = 3;
const QUIET: usize = 4;
/// Where steps begin, and their size, in words.
const STEPS: usize = 64;
const STEP_WORDS: usize = 192;
/// Words of a step.
const TARGET: usize = 0;
const IN: usize = 1;
const FLAGS_IN: usize = 16;
const OUT: usize = 17;
const FLAGS_OUT: usize = 32;
const STACK_OUT: usize = 33;
const BEFORE: usize = 34;
const AFTER: usize = 35;
/// Two words: a bit for each word of the control block that is to be written.
const MASK: usize = 36;
/// The control block: what is to be written, and afterwards what it was.
const BLOCK: usize = 64;
const BLOCK_WORDS: usize = 128;
const REGISTERS: usize = 15;

const _: () = assert!(BLOCK + BLOCK_WORDS == STEP_WORDS);
const _: () = assert!(IN + REGISTERS == FLAGS_IN && OUT + REGISTERS == FLAGS_OUT);
/// At least 64 words are left for the stack.
const _: () = assert!(STEPS + MOST_STEPS * STEP_WORDS + 64 <= MEMORY_WORDS);

/// The memory that a probe shares with this program. Its stack is at the end of it.
#[derive(Debug)]
#[repr(C, align(16384))]
pub struct ProbeMemory([AtomicU64; MEMORY_WORDS]);

impl Default for ProbeMemory {
    fn default() -> Self {
        Self::new()
    }
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A system call, through its stub.
    Call(SystemCall),
    /// A piece of code.
    Action(Action),
    /// Whatever is at this address.
    Address(u64),
}

/// A step: what to do, with which registers, flags and words of the control block.
#[derive(Clone, Debug)]
pub struct Step {
    target: Target,
    registers: Registers,
    flags: u64,
    mask: u128,
    block: [u64; BLOCK_WORDS],
}

/// Flags that are as a new thread has them.
pub const PLAIN_FLAGS: u64 = 0x202;

impl Step {
    /// A step.
    #[must_use]
    pub const fn new(target: Target, registers: Registers) -> Self {
        Self { target, registers, flags: PLAIN_FLAGS, mask: 0, block: [0; BLOCK_WORDS] }
    }

    /// With these flags.
    #[must_use]
    pub const fn with_flags(mut self, flags: u64) -> Self {
        self.flags = flags;
        self
    }

    /// With a word of the control block, -64 to 63 counted from message register 0, written before.
    ///
    /// # Panics
    ///
    /// If there is no such word.
    #[must_use]
    pub fn with_word(mut self, word: isize, value: u64) -> Self {
        let index = usize::try_from(word + 64).unwrap_or(usize::MAX);
        self.block[index] = value;
        self.mask |= 1 << index;
        self
    }

    /// The registers.
    #[must_use]
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The registers, to be changed.
    pub const fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }
}

/// What there was after a step.
#[derive(Clone, Debug)]
pub struct Output {
    /// The registers.
    pub registers: Registers,
    /// The flags.
    pub flags: u64,
    /// By how much the stack pointer differed from what it should have been.
    pub stack_off_by: u64,
    /// The time stamp before the step.
    pub before: u64,
    /// The time stamp after the step.
    pub after: u64,
    block: [u64; BLOCK_WORDS],
}

impl Output {
    /// A word of the control block, -64 to 63 counted from message register 0.
    ///
    /// # Panics
    ///
    /// If there is no such word.
    #[must_use]
    pub fn word(&self, word: isize) -> u64 {
        self.block[usize::try_from(word + 64).unwrap_or(usize::MAX)]
    }

    /// Message register `index` after Ipc, Lipc or Unmap: of the first eight, what was in
    /// registers.
    #[must_use]
    pub fn message_register(&self, index: usize) -> u64 {
        let Registers { r9, rax, rbx, r10, r12, r13, r14, r15, .. } = self.registers;
        match [r9, rax, rbx, r10, r12, r13, r14, r15].get(index) {
            Some(value) => *value,
            None => self.word(index as isize),
        }
    }

    /// The tag after Ipc or Lipc.
    #[must_use]
    pub const fn tag(&self) -> Tag {
        Tag(self.registers.r9)
    }
}

impl ProbeMemory {
    /// Memory for a probe.
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; MEMORY_WORDS])
    }

    fn put(&self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Relaxed);
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Relaxed)
    }

    /// Its address, in this program's space and in the probe's.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// The stack pointer that its probe begins with.
    #[must_use]
    pub fn stack(&self) -> u64 {
        self.address() + (1 << MEMORY_BITS)
    }

    /// All of it, as an item that maps it at the same address.
    #[must_use]
    pub fn mapping(&'static self) -> Mapping {
        let page = Flexpage::memory(self.address(), MEMORY_BITS, Flexpage::READ | Flexpage::WRITE);
        Mapping::new(MapItem::map(page, self.address()))
    }

    /// Prepares it for a probe that is driven by `driver`.
    pub fn begin(&self, driver: ThreadId) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
        self.put(DRIVER, driver.0);
        self.put(IPC_STUB, raw::stub(SystemCall::Ipc));
    }

    /// Sets the steps of the probe whose local identifier is `local`: Unmap and MemoryControl take
    /// it in RDI, so a step of these with 0 there gets it.
    ///
    /// # Panics
    ///
    /// If there are more than [`MOST_STEPS`].
    pub fn set_steps(&self, steps: &[Step], local: ThreadId) {
        assert!(steps.len() <= MOST_STEPS);
        for (index, step) in steps.iter().enumerate() {
            let at = STEPS + index * STEP_WORDS;
            let target = match step.target {
                Target::Call(call) => raw::stub(call),
                Target::Action(action) => action.address(),
                Target::Address(address) => address,
            };
            self.put(at + TARGET, target);
            let mut registers = step.registers;
            let takes_block =
                matches!(step.target, Target::Call(SystemCall::Unmap | SystemCall::MemoryControl));
            if takes_block && registers.rdi == 0 {
                registers.rdi = local.0;
            }
            for (offset, value) in in_order(&registers).into_iter().enumerate() {
                self.put(at + IN + offset, value);
            }
            self.put(at + FLAGS_IN, step.flags);
            self.put(at + MASK, step.mask as u64);
            self.put(at + MASK + 1, (step.mask >> 64) as u64);
            for (offset, value) in step.block.iter().enumerate() {
                self.put(at + BLOCK + offset, *value);
            }
        }
        self.put(CURRENT, 0);
        self.put(STEP_COUNT, steps.len() as u64);
    }

    /// Has the probe say nothing when it has done its steps: it then only waits for its driver,
    /// which looks at [`ProbeMemory::is_done`].
    pub fn set_quiet(&self) {
        self.put(QUIET, 1);
    }

    /// Whether all steps that were set are done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.get(CURRENT) >= self.get(STEP_COUNT)
    }

    /// What there was when the probe began: registers, flags, and the control block. Until the
    /// first steps are set.
    #[must_use]
    pub fn initial(&self) -> Output {
        self.output(0)
    }

    /// How many steps are done.
    #[must_use]
    pub fn done(&self) -> usize {
        self.get(CURRENT) as usize
    }

    /// What there was after a step that is done.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    #[must_use]
    pub fn output(&self, step: usize) -> Output {
        assert!(step < MOST_STEPS);
        let at = STEPS + step * STEP_WORDS;
        let mut block = [0; BLOCK_WORDS];
        for (offset, value) in block.iter_mut().enumerate() {
            *value = self.get(at + BLOCK + offset);
        }
        let mut values = [0; REGISTERS];
        for (offset, value) in values.iter_mut().enumerate() {
            *value = self.get(at + OUT + offset);
        }
        Output {
            registers: from_order(values),
            flags: self.get(at + FLAGS_OUT),
            stack_off_by: self.get(at + STACK_OUT).wrapping_sub(self.stack() - 24),
            before: self.get(at + BEFORE),
            after: self.get(at + AFTER),
            block,
        }
    }

    /// A word for the test's own use, 0 to 15.
    ///
    /// # Panics
    ///
    /// If there is no such word.
    #[must_use]
    pub fn scratch(&self, index: usize) -> &AtomicU64 {
        assert!(index < 16);
        &self.0[SCRATCH_START + index]
    }

    /// Its address.
    ///
    /// # Panics
    ///
    /// If there is no such word.
    #[must_use]
    pub fn scratch_address(&self, index: usize) -> u64 {
        assert!(index < 16);
        self.address() + ((SCRATCH_START + index) * 8) as u64
    }
}

/// Words of the header for the test's own use.
const SCRATCH_START: usize = 16;
const _: () = assert!(SCRATCH_START + 16 <= STEPS && MASK + 2 <= BLOCK);

fn in_order(registers: &Registers) -> [u64; REGISTERS] {
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 } =
        *registers;
    [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15]
}

fn from_order(values: [u64; REGISTERS]) -> Registers {
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15] = values;
    Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15 }
}

/// Where a probe begins, with [`ProbeMemory::stack`] as its stack pointer.
#[must_use]
pub fn entry() -> u64 {
    run as *const () as usize as u64
}

/// The page of this program's code around `address`, to be read and executed by a probe.
#[must_use]
pub fn code_page(address: u64) -> Option<Mapping> {
    let page = address & !0xfff;
    start::text().contains(&address).then(|| {
        let rights = Flexpage::READ | Flexpage::EXECUTE;
        Mapping::new(MapItem::map(Flexpage::memory(page, 12, rights), page))
    })
}

#[unsafe(naked)]
unsafe extern "C" fn run() -> ! {
    naked_asm!(
        // What there is at first is noted as the result of step 0.
        "mov [rsp - {bytes} + 8 * ({steps} + {output})], rax",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 1)], rbx",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 2)], rcx",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 3)], rdx",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 4)], rsi",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 5)], rdi",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 6)], rbp",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 7)], r8",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 8)], r9",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 9)], r10",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 10)], r11",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 11)], r12",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 12)], r13",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 13)], r14",
        "mov [rsp - {bytes} + 8 * ({steps} + {output} + 14)], r15",
        "lea rbp, [rsp - {bytes}]",
        "pushfq",
        "pop qword ptr [rbp + 8 * ({steps} + {flags_out})]",
        "mov rdi, gs:[0]",
        "sub rdi, 512",
        "xor ecx, ecx",
        "7:",
        "mov rax, [rdi + rcx * 8]",
        "mov [rbp + rcx * 8 + 8 * ({steps} + {block})], rax",
        "inc ecx",
        "cmp ecx, {block_words}",
        "jb 7b",
        // Exceptions are told to the driver.
        "mov rax, [rbp + 8 * {driver}]",
        "mov rdi, gs:[0]",
        "mov [rdi - 88], rax",
        // Call the driver, and wait for it.
        "2:",
        "push rbp",
        "mov rsi, [rbp + 8 * {driver}]",
        "mov rdx, rsi",
        "xor r8d, r8d",
        "mov r9d, {done}",
        "mov rdi, gs:[0]",
        "mov qword ptr [rdi - 128], 0",
        // A quiet one does not send.
        "cmp qword ptr [rbp + 8 * {quiet}], 0",
        "je 8f",
        "xor esi, esi",
        "8:",
        "call qword ptr [rbp + 8 * {ipc}]",
        "pop rbp",
        "test r9d, 0x8000",
        "jnz 2b",
        // The steps.
        "3:",
        "mov rax, [rbp + 8 * {current}]",
        "cmp rax, [rbp + 8 * {count}]",
        "jae 2b",
        "imul rbx, rax, 8 * {step_words}",
        "lea rbx, [rbp + rbx + 8 * {steps}]",
        // Words of the control block.
        "mov rdi, gs:[0]",
        "sub rdi, 512",
        "xor ecx, ecx",
        "4:",
        "bt [rbx + 8 * {mask}], rcx",
        "jnc 5f",
        "mov rax, [rbx + rcx * 8 + 8 * {block}]",
        "mov [rdi + rcx * 8], rax",
        "5:",
        "inc ecx",
        "cmp ecx, {block_words}",
        "jb 4b",
        "push rbp",
        "push rbx",
        "push qword ptr [rbx + 8 * {target}]",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rbx + 8 * {before}], rax",
        "mov rax, [rbx + 8 * {input}]",
        "mov rcx, [rbx + 8 * {input} + 16]",
        "mov rdx, [rbx + 8 * {input} + 24]",
        "mov rsi, [rbx + 8 * {input} + 32]",
        "mov rdi, [rbx + 8 * {input} + 40]",
        "mov rbp, [rbx + 8 * {input} + 48]",
        "mov r8, [rbx + 8 * {input} + 56]",
        "mov r9, [rbx + 8 * {input} + 64]",
        "mov r10, [rbx + 8 * {input} + 72]",
        "mov r11, [rbx + 8 * {input} + 80]",
        "mov r12, [rbx + 8 * {input} + 88]",
        "mov r13, [rbx + 8 * {input} + 96]",
        "mov r14, [rbx + 8 * {input} + 104]",
        "mov r15, [rbx + 8 * {input} + 112]",
        "push qword ptr [rbx + 8 * {flags_in}]",
        "mov rbx, [rbx + 8 * {input} + 8]",
        "popfq",
        "call qword ptr [rsp]",
        // The target's place keeps RAX; the step is found above it.
        "mov [rsp], rax",
        "pushfq",
        "cld",
        "mov rax, [rsp + 16]",
        "mov [rax + 8 * {output} + 8], rbx",
        "mov [rax + 8 * {output} + 16], rcx",
        "mov [rax + 8 * {output} + 24], rdx",
        "mov [rax + 8 * {output} + 32], rsi",
        "mov [rax + 8 * {output} + 40], rdi",
        "mov [rax + 8 * {output} + 48], rbp",
        "mov [rax + 8 * {output} + 56], r8",
        "mov [rax + 8 * {output} + 64], r9",
        "mov [rax + 8 * {output} + 72], r10",
        "mov [rax + 8 * {output} + 80], r11",
        "mov [rax + 8 * {output} + 88], r12",
        "mov [rax + 8 * {output} + 96], r13",
        "mov [rax + 8 * {output} + 104], r14",
        "mov [rax + 8 * {output} + 112], r15",
        "pop rcx",
        "mov [rax + 8 * {flags_out}], rcx",
        "mov [rax + 8 * {stack_out}], rsp",
        "pop rcx",
        "mov [rax + 8 * {output}], rcx",
        "pop rbx",
        "pop rbp",
        "push {plain}",
        "popfq",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rbx + 8 * {after}], rax",
        "mov rdi, gs:[0]",
        "sub rdi, 512",
        "xor ecx, ecx",
        "6:",
        "mov rax, [rdi + rcx * 8]",
        "mov [rbx + rcx * 8 + 8 * {block}], rax",
        "inc ecx",
        "cmp ecx, {block_words}",
        "jb 6b",
        "inc qword ptr [rbp + 8 * {current}]",
        "jmp 3b",
        bytes = const 1 << MEMORY_BITS,
        driver = const DRIVER,
        ipc = const IPC_STUB,
        quiet = const QUIET,
        done = const DONE << 16,
        current = const CURRENT,
        count = const STEP_COUNT,
        steps = const STEPS,
        step_words = const STEP_WORDS,
        target = const TARGET,
        input = const IN,
        flags_in = const FLAGS_IN,
        output = const OUT,
        flags_out = const FLAGS_OUT,
        stack_out = const STACK_OUT,
        before = const BEFORE,
        after = const AFTER,
        mask = const MASK,
        block = const BLOCK,
        block_words = const BLOCK_WORDS,
        plain = const PLAIN_FLAGS,
    )
}

macro_rules! actions {
    ($($(#[doc = $text:literal])+ $name:ident: [$($line:literal),+ $(, $key:ident = sym $symbol:ident)?];)+) => {
        /// A piece of code that a step can call. What it takes and answers is in its description.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $($(#[doc = $text])+ $name,)+
        }

        impl Action {
            /// Where its code is.
            #[must_use]
            pub fn address(self) -> u64 {
                match self {
                    $(Self::$name => {
                        #[unsafe(naked)]
                        unsafe extern "C" fn code() {
                            naked_asm!($($line,)+ $($key = sym $symbol)?)
                        }
                        code as *const () as usize as u64
                    })+
                }
            }
        }
    };
}

/// What the debugger prints when it is entered.
static ENTER_TEXT: [u8; 21] = *b"a probe enters: fine\0";

actions! {
    /// Nothing.
    Nothing: ["ret"];
    /// RAX: the word at RDI.
    Read: ["mov rax, [rdi]", "ret"];
    /// Writes RSI to the word at RDI.
    Write: ["mov [rdi], rsi", "ret"];
    /// Calls the code at RDI.
    Execute: ["call rdi", "ret"];
    /// Writes the word at each of RSI pages from RDI on.
    TouchPages: ["2:", "mov [rdi], rsi", "add rdi, 4096", "dec rsi", "jnz 2b", "ret"];
    /// Reads the words at RDI, RSI bytes apart, RDX of them; RAX: their sum.
    Sum: ["xor eax, eax", "2:", "add rax, [rdi]", "add rdi, rsi", "dec rdx", "jnz 2b", "ret"];
    /// `lock; nop`.
    KernelInterface: [".byte 0xf0, 0x90", "ret"];
    /// An invalid instruction, of two bytes.
    InvalidInstruction: ["ud2", "ret"];
    /// A division by zero, two bytes long, behind six bytes.
    Divide: ["xor ecx, ecx", "xor edx, edx", "xor eax, eax", "div ecx", "ret"];
    /// `int 3`, and then a `nop`.
    Breakpoint: ["int3", "nop", "ret"];
    /// `int 0x20`, of two bytes.
    Interrupt0x20: [".byte 0xcd, 0x20", "ret"];
    /// `cli`, of one byte.
    DisableInterrupts: ["cli", "ret"];
    /// `sti`, of one byte.
    EnableInterrupts: ["sti", "ret"];
    /// `hlt`, of one byte.
    Halt: ["hlt", "ret"];
    /// Loads DS with RDI: two bytes.
    LoadSegment: ["mov ds, edi", "ret"];
    /// Reads the word at RDI with alignment checks.
    ReadAligned: [
        "pushfq", "or dword ptr [rsp], 0x40000", "popfq", "mov rax, [rdi]",
        "pushfq", "and dword ptr [rsp], 0xfffbffff", "popfq", "ret"
    ];
    /// An SSE division by zero that is not masked.
    DivideSse: [
        "push 0x1d80", ".byte 0x0f, 0xae, 0x14, 0x24",
        "mov dword ptr [rsp], 0x3f800000", ".byte 0xf3, 0x0f, 0x10, 0x04, 0x24",
        "mov dword ptr [rsp], 0", ".byte 0xf3, 0x0f, 0x5e, 0x04, 0x24",
        "mov dword ptr [rsp], 0x1f80", ".byte 0x0f, 0xae, 0x14, 0x24", "pop rax", "ret"
    ];
    /// Sets the trap flag; the exception comes behind the `nop`, and a flag is cleared afterwards.
    SingleStep: [
        "pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop", "nop",
        "pushfq", "and dword ptr [rsp], 0xfffffeff", "popfq", "ret"
    ];
    /// RAX: 8 bits from port RDI.
    In8: ["mov edx, edi", "xor eax, eax", "in al, dx", "ret"];
    /// RAX: 32 bits from port RDI.
    In32: ["mov edx, edi", "xor eax, eax", "in eax, dx", "ret"];
    /// Writes the low 8 bits of RSI to port RDI.
    Out8: ["mov edx, edi", "mov eax, esi", "out dx, al", "ret"];
    /// Counts in the word at RDI until the word at RSI is not zero.
    Spin: ["2:", "inc qword ptr [rdi]", "cmp qword ptr [rsi], 0", "je 2b", "ret"];
    /// Counts RDI down to zero.
    CountDown: ["2:", "dec rdi", "jnz 2b", "ret"];
    /// Counts in the word at RDI until the time stamp is RSI; RAX: the longest time between two
    /// looks at it.
    SpinUntil: [
        "rdtsc", "shl rdx, 32", "or rax, rdx", "mov r8, rax", "xor r9d, r9d",
        "2:", "inc qword ptr [rdi]", "rdtsc", "shl rdx, 32", "or rax, rdx",
        "mov rcx, rax", "sub rcx, r8", "mov r8, rax", "cmp rcx, r9", "cmova r9, rcx",
        "cmp rax, rsi", "jb 2b", "mov rax, r9", "ret"
    ];
    /// Counts in the word at RDI for RSI ticks of the time-stamp counter.
    SpinFor: [
        "rdtsc", "shl rdx, 32", "or rax, rdx", "add rsi, rax",
        "2:", "inc qword ptr [rdi]", "rdtsc", "shl rdx, 32", "or rax, rdx",
        "cmp rax, rsi", "jb 2b", "ret"
    ];
    /// Loads the low half of each XMM register with RDI, and the x87 stack with the number RSI.
    SetVectors: [
        ".byte 0x66, 0x48, 0x0f, 0x6e, 0xc7", ".byte 0x66, 0x4c, 0x0f, 0x6e, 0xff",
        "push rsi", "fild qword ptr [rsp]", "pop rsi", "ret"
    ];
    /// RAX and RCX: the low halves of XMM0 and XMM15; RDX: the top of the x87 stack, which is
    /// popped.
    GetVectors: [
        ".byte 0x66, 0x48, 0x0f, 0x7e, 0xc0", ".byte 0x66, 0x4c, 0x0f, 0x7e, 0xf9",
        "push 0", "fistp qword ptr [rsp]", "pop rdx", "ret"
    ];
    /// RAX and RCX: the low halves of XMM0 and XMM15; RDX: the x87 control word; R8: MXCSR.
    GetVectorState: [
        ".byte 0x66, 0x48, 0x0f, 0x7e, 0xc0", ".byte 0x66, 0x4c, 0x0f, 0x7e, 0xf9",
        "push 0", "fnstcw word ptr [rsp]", "pop rdx", "push 0",
        ".byte 0x0f, 0xae, 0x1c, 0x24", "pop r8", "ret"
    ];
    /// Has RDI as GS base until the word at RSI is not zero.
    ChangeGs: [
        "rdgsbase rcx", "wrgsbase rdi", "2:", "cmp qword ptr [rsi], 0", "je 2b",
        "wrgsbase rcx", "ret"
    ];
    /// RAX: the word at `gs:0`.
    ReadGs: ["mov rax, gs:[0]", "ret"];
    /// `syscall` outside of the stubs.
    Syscall: ["syscall", "ret"];
    /// Touches memory on the stack at RDI.
    PushAt: ["mov rax, rsp", "mov rsp, rdi", "push rax", "mov rsp, rax", "ret"];
    /// The debugger trap that prints the character in AL; RAX is RDI.
    DebugCharacter: ["mov rax, rdi", "int3", "cmp al, 0", "ret"];
    /// The debugger trap that prints the text at RAX; RAX is RDI.
    DebugText: ["mov rax, rdi", "int3", "cmp al, 1", "ret"];
    /// The debugger trap that reads a character.
    DebugRead: ["xor eax, eax", "int3", "cmp al, 8", "ret"];
    /// The debugger trap that reads a character and would wait.
    DebugReadWaiting: ["mov eax, 77", "int3", "cmp al, 0x0d", "ret"];
    /// A debugger trap that there is not.
    DebugUnknown: ["mov rax, rdi", "int3", "cmp al, 0x77", "ret"];
    /// The debugger trap that ends the machine with the status in AL, which is RDI.
    DebugEnd: ["mov rax, rdi", "int3", "cmp al, 0xf4", "ret"];
    /// The debugger trap that prints a text and halts.
    DebugEnter: ["int3", "jmp 2f", "mov rax, offset {text}", "2:", "ret", text = sym ENTER_TEXT];
}

/// A system call of the running thread with any registers, as far as it leaves the threads of this
/// program's own space alone.
///
/// # Panics
///
/// For Ipc, Lipc and Unmap, which reach memory; for ThreadControl that makes a thread in this
/// program's space or changes one that is there, other than by deleting it; for ExchangeRegisters
/// on one.
#[must_use]
pub fn system_call(call: SystemCall, registers: Registers) -> Registers {
    let own = |word: u64| thread::is_own((word >> 32) as u32);
    let named = |word: u64| own(word) || ThreadId(word) == utcb::local_id();
    let harmless = match call {
        SystemCall::Ipc | SystemCall::Lipc | SystemCall::Unmap => false,
        SystemCall::ExchangeRegisters => !named(registers.rax),
        // Deleting.
        SystemCall::ThreadControl if registers.r8 == 0 => true,
        // A local identifier names no space here (rule THREAD-4).
        SystemCall::ThreadControl => !named(registers.rdi) && !own(registers.r8),
        _ => true,
    };
    assert!(harmless, "this call could change a thread of this program");
    let mut registers = registers;
    // SAFETY: no memory is touched, and no thread of this program gets other registers or begins to
    // run.
    unsafe { raw::system_call(call, &mut registers) }
    registers
}

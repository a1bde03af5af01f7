//! What belongs to one CPU: its descriptor tables, its stacks, and the words that the entry code
//! reaches through GS.
//!
//! Invariants:
//!
//! - While the kernel runs, the GS base of a CPU is the address of its [`CpuArea`] (entry.s).
//! - The word at the top of each of a CPU's interrupt stacks is the address of its `CpuArea`.
//! - A CPU's descriptor tables are not written after it started.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::mem::{offset_of, size_of};

use super::context::Frame;
use super::port_permissions::Half;
use super::processor::{self, msr};

/// Selectors of the descriptor table. SYSRET takes the program's data and code selectors as
/// 8 and 16 above the base in STAR; the entry in between stays empty, so that no program can
/// switch to 32-bit code.
pub(super) const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const SYSRET_BASE: u16 = 0x18 | 3;
pub(super) const USER_DATA: u16 = 0x20 | 3;
pub(super) const USER_CODE: u16 = 0x28 | 3;
const TASK_STATE: u16 = 0x30;

/// The flags that SYSCALL clears: trap, interrupt enable, direction, I/O privilege, nested task,
/// resume, alignment check (`hazards` 4).
const SYSTEM_CALL_FLAG_MASK: u64 =
    1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 16 | 1 << 18;

/// The task state segment (AMD64 manual volume 2, section 12.2.5): where the processor finds
/// stacks, and which ports a program may use.
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    /// Stack pointers for rings 0 to 2: ring 0's is the end of the running context's frame.
    ring_stacks: [u64; 3],
    reserved1: u64,
    interrupt_stacks: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}

const _: () = assert!(size_of::<TaskState>() == 104);
const _: () = assert!(offset_of!(TaskState, ring_stacks) == 4);
const _: () = assert!(offset_of!(TaskState, interrupt_stacks) == 36);

/// Words of the port bitmap.
const PORT_WORDS: usize = 65536 / 64;
/// `io_map_base` for a program that may use the ports of the bitmap, and for one that may not:
/// past the end of the task state (`hazards` 16).
const PORTS_OPEN: u16 = offset_of!(CpuArea, port_bitmap) as u16;
const PORTS_CLOSED: u16 = u16::MAX;
const TASK_STATE_LIMIT: u64 = PORTS_OPEN as u64 + PORT_WORDS as u64 * 8;

/// One CPU's own memory.
#[repr(C, align(256))]
pub(super) struct CpuArea {
    task_state: TaskState,
    reserved: u32,
    /// Where the kernel's stack stands while a program runs.
    kernel_stack: u64,
    /// The program's stack pointer, for the few instructions that the system-call entry has no
    /// other place for it.
    user_stack: u64,
    /// The end of the running context's frame: the same value as in the task state.
    frame_end: u64,
    /// The vector that ended `wait_for_interrupt`; [`NO_VECTOR`] if none did.
    pending_vector: u32,
    reserved4: u32,
    /// Debug exceptions and non-maskable interrupts that arrived in the kernel, and went by.
    debug_in_kernel: u64,
    non_maskable: u64,
    descriptors: [u64; 8],
    /// Name of the permissions that the bitmap is of; 0 if they have changed since.
    ports_of: u64,
    /// A bit for each port, and the byte of ones that must follow (section 12.2.5). The end of
    /// the task state.
    port_bitmap: [u64; PORT_WORDS + 1],
}

/// The task state must not cross a page boundary (it is read by the processor by physical
/// address on some models); the alignment of the area sees to it.
const _: () = assert!(offset_of!(CpuArea, task_state) == 0);

/// `pending_vector` when there is none.
const NO_VECTOR: u32 = u32::MAX;

/// A static that only the CPU's own code writes, with interrupts off.
#[repr(transparent)]
pub(super) struct CpuOwned<T>(UnsafeCell<T>);

// SAFETY: the boot CPU is the only one that runs; the others are parked (invariant U1).
unsafe impl<T> Sync for CpuOwned<T> {}

impl<T> CpuOwned<T> {
    pub(super) const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    pub(super) const fn get(&self) -> *mut T {
        self.0.get()
    }
}

static BOOT_CPU: CpuOwned<CpuArea> = CpuOwned::new(CpuArea {
    task_state: TaskState {
        reserved0: 0,
        ring_stacks: [0; 3],
        reserved1: 0,
        interrupt_stacks: [0; 7],
        reserved2: 0,
        reserved3: 0,
        io_map_base: PORTS_CLOSED,
    },
    reserved: 0,
    kernel_stack: 0,
    user_stack: 0,
    frame_end: 0,
    pending_vector: NO_VECTOR,
    reserved4: 0,
    debug_in_kernel: 0,
    non_maskable: 0,
    descriptors: [0; 8],
    ports_of: 0,
    port_bitmap: [u64::MAX; PORT_WORDS + 1],
});

/// The interrupt descriptor table: 256 gates of two words.
static INTERRUPT_TABLE: CpuOwned<[[u64; 2]; 256]> = CpuOwned::new([[0; 2]; 256]);

unsafe extern "C" {
    static interrupt_stubs: [[u8; 16]; 256];
    fn system_call_entry();
    fn enter_user();
    static stack_debug_end: [u64; 0];
    static stack_nmi_end: [u64; 0];
    static stack_double_fault_end: [u64; 0];
    static stack_machine_check_end: [u64; 0];
}

global_asm!(
    include_str!("entry.s"),
    kernel_stack = const offset_of!(CpuArea, kernel_stack),
    user_stack = const offset_of!(CpuArea, user_stack),
    frame_end = const offset_of!(CpuArea, frame_end),
    pending_vector = const offset_of!(CpuArea, pending_vector),
    debug_in_kernel = const offset_of!(CpuArea, debug_in_kernel),
    non_maskable = const offset_of!(CpuArea, non_maskable),
    fatal_exception = sym super::panic::fatal_exception,
);

/// The interrupt stack (1 to 4) of a vector, or 0 for the stack that is in use.
const fn interrupt_stack_of(vector: usize) -> u64 {
    match vector {
        1 => 1,
        2 => 2,
        8 => 3,
        18 => 4,
        _ => 0,
    }
}

/// An interrupt gate for `handler` (AMD64 manual volume 2, section 4.8.4): only the breakpoint
/// and overflow instructions may be used by programs to reach their own.
fn gate(vector: usize, handler: u64) -> [u64; 2] {
    let privilege = if vector == 3 || vector == 4 { 3 } else { 0 };
    let attributes = interrupt_stack_of(vector) | 0xe << 8 | privilege << 13 | 1 << 15;
    let low = handler & 0xffff
        | u64::from(KERNEL_CODE) << 16
        | attributes << 32
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

/// The running CPU, as a value that cannot leave it. There is one per CPU.
#[derive(Debug)]
pub(super) struct Cpu {
    /// Makes the type neither `Send` nor `Sync`.
    area: *mut CpuArea,
}

impl Cpu {
    /// Gives the boot CPU its descriptor tables, interrupt stacks and system-call entry.
    ///
    /// # Safety
    /// To be called once, with interrupts off, before any interrupt can arrive.
    pub(super) unsafe fn start_boot_cpu() -> Self {
        let area = BOOT_CPU.get();
        let table = INTERRUPT_TABLE.get();
        // SAFETY: U1: this is the only CPU and nothing else has a reference to the two statics;
        // the stubs are 256 pieces of 16 bytes (entry.s).
        unsafe {
            let stubs = &raw const interrupt_stubs as u64;
            for (vector, entry) in (*table).iter_mut().enumerate() {
                *entry = gate(vector, stubs + vector as u64 * 16);
            }
            let stacks = [
                (&raw const stack_debug_end).cast_mut(),
                (&raw const stack_nmi_end).cast_mut(),
                (&raw const stack_double_fault_end).cast_mut(),
                (&raw const stack_machine_check_end).cast_mut(),
            ];
            // The top word names the CPU (hazards 2); the stack begins 16 bytes below.
            for end in stacks {
                end.cast::<u64>().sub(1).write(area as u64);
            }
            let [debug, nmi, double_fault, machine_check] = stacks.map(|end| end as u64 - 16);
            (*area).task_state.interrupt_stacks =
                [debug, nmi, double_fault, machine_check, 0, 0, 0];
            let task_state = area as u64;
            (*area).descriptors = [
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                0,
                0x00cf_f300_0000_ffff,
                0x00af_fb00_0000_ffff,
                TASK_STATE_LIMIT
                    | (task_state & 0xff_ffff) << 16
                    | 0x89 << 40
                    | ((task_state >> 24) & 0xff) << 56,
                task_state >> 32,
            ];
            load_tables(area, table);
            processor::write_msr(msr::GS_BASE, area as u64);
            processor::write_msr(msr::KERNEL_GS_BASE, 0);
            processor::write_msr(msr::FS_BASE, 0);
            processor::write_msr(
                msr::STAR,
                u64::from(KERNEL_CODE) << 32 | u64::from(SYSRET_BASE) << 48,
            );
            processor::write_msr(msr::LSTAR, system_call_entry as *const () as u64);
            processor::write_msr(msr::SFMASK, SYSTEM_CALL_FLAG_MASK);
            let efer = processor::read_msr(msr::EFER);
            processor::write_msr(msr::EFER, efer | 1);
        }
        Self { area }
    }

    /// Makes `frame` the one that interrupts and system calls save registers in.
    ///
    /// # Safety
    /// The frame must stay where it is for as long as a program can run with it.
    pub(super) unsafe fn use_frame(&mut self, frame: *mut Frame) {
        // SAFETY: the area is this CPU's own; one past the frame is its end.
        unsafe {
            let end = frame.add(1) as u64;
            (*self.area).frame_end = end;
            (*self.area).task_state.ring_stacks[0] = end;
        }
    }

    /// Runs the program whose registers are in `frame` until it stops.
    ///
    /// # Safety
    /// `frame` must be the one in use, and hold only values that a program may have (hazards 3
    /// and 13; `Context` keeps it so); the loaded page map must have the kernel in its upper
    /// half.
    #[inline]
    pub(super) unsafe fn run(&mut self, frame: *mut Frame) {
        // SAFETY: as the caller ensures; every register that the function changes is named.
        unsafe {
            asm!("call {enter_user}", enter_user = sym enter_user, inout("rdi") frame => _,
                out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _, out("r9") _,
                out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _,
                out("r15") _);
        }
    }

    /// Waits until an interrupt arrives and returns its vector; `None` if something that is not
    /// a maskable interrupt ended the wait.
    pub(super) fn wait(&mut self) -> Option<u8> {
        // SAFETY: the area is this CPU's own. The interrupt entry writes the word while this
        // function waits, which the volatile accesses allow for.
        unsafe {
            let pending = &raw mut (*self.area).pending_vector;
            pending.write_volatile(NO_VECTOR);
            processor::wait_for_interrupt();
            u8::try_from(pending.read_volatile()).ok()
        }
    }

    /// Lets programs use the ports of the bitmap if it is that of the permissions `name`.
    pub(super) fn open_ports(&mut self, name: u64) {
        // SAFETY: the area is this CPU's own.
        unsafe {
            let open = name != 0 && name == (*self.area).ports_of;
            (*self.area).task_state.io_map_base = if open { PORTS_OPEN } else { PORTS_CLOSED };
        }
    }

    /// Whether programs can use the ports of the bitmap.
    pub(super) fn are_ports_open(&self) -> bool {
        // SAFETY: the area is this CPU's own.
        unsafe { (*self.area).task_state.io_map_base == PORTS_OPEN }
    }

    /// Replaces the bitmap by that of the permissions `name`, and closes it.
    pub(super) fn load_ports(&mut self, name: u64, halves: [&Half; 2]) {
        // SAFETY: the area is this CPU's own; the word of ones behind the bitmap stays.
        unsafe {
            (*self.area).task_state.io_map_base = PORTS_CLOSED;
            (*self.area).ports_of = name;
            let bitmap = &mut (*self.area).port_bitmap;
            for (target, half) in bitmap.chunks_exact_mut(PORT_WORDS / 2).zip(halves) {
                target.copy_from_slice(half);
            }
        }
    }

    /// Debug exceptions and non-maskable interrupts that arrived while the kernel ran, and did
    /// no harm.
    pub(super) fn absorbed(&self) -> u64 {
        // SAFETY: the area is this CPU's own.
        unsafe { (*self.area).debug_in_kernel + (*self.area).non_maskable }
    }
}

/// Takes all ports from programs on this CPU, and forgets whose bitmap is loaded.
pub(super) fn forget_ports() {
    // SAFETY: U1: the area is this CPU's own.
    unsafe {
        (*BOOT_CPU.get()).task_state.io_map_base = PORTS_CLOSED;
        (*BOOT_CPU.get()).ports_of = 0;
    }
}

/// Loads the descriptor tables and the segment registers.
///
/// # Safety
/// The tables must be complete and stay where they are.
unsafe fn load_tables(area: *mut CpuArea, table: *mut [[u64; 2]; 256]) {
    #[repr(C, packed)]
    struct Pointer {
        limit: u16,
        base: u64,
    }
    // SAFETY: the tables are statics; the code selector is that of a 64-bit kernel segment, and
    // the far return goes to the very next instruction.
    unsafe {
        let descriptors = Pointer {
            limit: size_of::<[u64; 8]>() as u16 - 1,
            base: &raw const (*area).descriptors as u64,
        };
        let interrupts =
            Pointer { limit: size_of::<[[u64; 2]; 256]>() as u16 - 1, base: table as u64 };
        asm!(
            "lgdt [{descriptors}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {data:e}",
            "mov ds, {user:e}",
            "mov es, {user:e}",
            "mov fs, {user:e}",
            "mov gs, {user:e}",
            "ltr {task:x}",
            "lidt [{interrupts}]",
            descriptors = in(reg) &descriptors,
            interrupts = in(reg) &interrupts,
            code = const KERNEL_CODE,
            data = in(reg) u32::from(KERNEL_DATA),
            user = in(reg) u32::from(USER_DATA),
            task = in(reg) TASK_STATE,
            scratch = out(reg) _,
        );
    }
}

//! Entering the kernel: every system call with all registers, and IPC on a shorter way.
//!
//! Hides where the stubs are and which registers the compiler must not lose. After a system call
//! only the stack pointer is sure to have survived (W5).

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::kip::{KernelInterfacePage, SystemCall, WORDS};

/// The general registers at a system call, before and after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

const _: () = assert!(size_of::<Registers>() == 15 * 8);
const _: () = assert!(core::mem::offset_of!(Registers, rdi) == 40);
const _: () = assert!(core::mem::offset_of!(Registers, r15) == 112);

/// The kernel interface page, once it was found.
static PAGE: AtomicU64 = AtomicU64::new(0);
/// The stubs' addresses, by [`SystemCall::index`].
static STUBS: [AtomicU64; SystemCall::ALL.len()] = [const { AtomicU64::new(0) }; 11];

/// What `lock; nop` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelInterface {
    /// Address of the page.
    pub address: u64,
    /// Version of the interface.
    pub api_version: u64,
    /// Byte order and width.
    pub api_flags: u64,
    /// The kernel's identity.
    pub kernel_id: u64,
}

/// Asks the kernel for its interface page.
#[must_use]
pub fn kernel_interface() -> KernelInterface {
    let (address, api_version, api_flags, kernel_id);
    // SAFETY: the kernel changes these registers and nothing else (rule CALL-2).
    unsafe {
        asm!(".byte 0xf0, 0x90", out("rax") address, out("rcx") api_version, out("rdx") api_flags,
            out("rsi") kernel_id, options(nostack, nomem, preserves_flags));
    }
    KernelInterface { address, api_version, api_flags, kernel_id }
}

/// Finds the page and the stubs; called by the start code before anything else.
pub(crate) fn find_kernel() {
    PAGE.store(kernel_interface().address, Ordering::Relaxed);
    let page = page();
    for (stub, call) in STUBS.iter().zip(SystemCall::ALL) {
        stub.store(page.system_call(call), Ordering::Relaxed);
    }
}

/// The kernel interface page.
#[must_use]
pub fn page() -> KernelInterfacePage<'static> {
    let address = PAGE.load(Ordering::Relaxed) as *const [u64; WORDS];
    // SAFETY: the kernel said that the page is there; it stays, and nobody writes to it.
    KernelInterfacePage::new(unsafe { &*address })
}

/// Address of a stub.
#[must_use]
pub fn stub(call: SystemCall) -> u64 {
    STUBS[call.index()].load(Ordering::Relaxed)
}

/// Does a system call with exactly these registers, and answers what is in them afterwards.
///
/// # Safety
///
/// What the call does to this program's memory and threads must be in order (W1 to W3).
pub unsafe fn system_call(call: SystemCall, registers: &mut Registers) {
    // SAFETY: the stub is the kernel's; the rest is what the caller promises.
    unsafe { enter(registers, stub(call)) }
}

/// Calls `stub` with all registers loaded, and stores them afterwards.
#[unsafe(naked)]
unsafe extern "sysv64" fn enter(registers: *mut Registers, stub: u64) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rsi",
        "mov rax, [rdi]",
        "mov rbx, [rdi + 8]",
        "mov rcx, [rdi + 16]",
        "mov rdx, [rdi + 24]",
        "mov rsi, [rdi + 32]",
        "mov rbp, [rdi + 48]",
        "mov r8, [rdi + 56]",
        "mov r9, [rdi + 64]",
        "mov r10, [rdi + 72]",
        "mov r11, [rdi + 80]",
        "mov r12, [rdi + 88]",
        "mov r13, [rdi + 96]",
        "mov r14, [rdi + 104]",
        "mov r15, [rdi + 112]",
        "mov rdi, [rdi + 40]",
        "call qword ptr [rsp]",
        // The stub's address is not needed any more: its place keeps RDI.
        "mov [rsp], rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi], rax",
        "mov [rdi + 8], rbx",
        "mov [rdi + 16], rcx",
        "mov [rdi + 24], rdx",
        "mov [rdi + 32], rsi",
        "mov [rdi + 48], rbp",
        "mov [rdi + 56], r8",
        "mov [rdi + 64], r9",
        "mov [rdi + 72], r10",
        "mov [rdi + 80], r11",
        "mov [rdi + 88], r12",
        "mov [rdi + 96], r13",
        "mov [rdi + 104], r14",
        "mov [rdi + 112], r15",
        "pop rax",
        "mov [rdi + 40], rax",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "cld",
        "ret",
    )
}

/// Does Ipc or Lipc: `words` are message registers 0 to 7, before and after. Answers the sender.
///
/// # Safety
///
/// Buffer registers must name only memory that may be overwritten until this returns (W1), and
/// typed items only memory that may be shared (W2).
pub(crate) unsafe fn message_call(
    call: SystemCall,
    to: u64,
    from: u64,
    timeouts: u64,
    words: &mut [u64; 8],
) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { enter_ipc(words, to, from, timeouts, stub(call)) }
}

#[unsafe(naked)]
unsafe extern "sysv64" fn enter_ipc(
    words: *mut [u64; 8],
    to: u64,
    from: u64,
    timeouts: u64,
    stub: u64,
) -> u64 {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push r8",
        "mov r8, rcx",
        "mov r9, [rdi]",
        "mov rax, [rdi + 8]",
        "mov rbx, [rdi + 16]",
        "mov r10, [rdi + 24]",
        "mov r12, [rdi + 32]",
        "mov r13, [rdi + 40]",
        "mov r14, [rdi + 48]",
        "mov r15, [rdi + 56]",
        "mov rdi, gs:[0]",
        "call qword ptr [rsp]",
        "pop rcx",
        "pop rcx",
        "mov [rcx], r9",
        "mov [rcx + 8], rax",
        "mov [rcx + 16], rbx",
        "mov [rcx + 24], r10",
        "mov [rcx + 32], r12",
        "mov [rcx + 40], r13",
        "mov [rcx + 48], r14",
        "mov [rcx + 56], r15",
        "mov rax, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "cld",
        "ret",
    )
}

//! Making, changing and ending threads and address spaces.
//!
//! The system calls themselves are unsafe: with them a thread of this program can be sent anywhere.
//! What is safe works on other spaces, or does not touch instruction and stack pointers (W3).

use heliox_abi::{CallError, ExchangeControl, Flexpage, GlobalId, ThreadId};

use crate::bare::raw::{self, Registers};
use crate::bare::utcb;
use crate::kip::SystemCall;
use crate::message::Message;

/// The UTCB location that says: none, or no change.
pub const NO_UTCB: u64 = u64::MAX;

/// A system call was refused: what the register ErrorCode says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub u64);

impl Refused {
    /// The reason, if it is one of those that the interface knows.
    #[must_use]
    pub const fn reason(self) -> Option<CallError> {
        Some(match self.0 {
            1 => CallError::NoPrivilege,
            2 => CallError::InvalidThread,
            3 => CallError::InvalidSpace,
            4 => CallError::InvalidScheduler,
            5 => CallError::InvalidParameter,
            6 => CallError::UtcbArea,
            7 => CallError::KipArea,
            8 => CallError::NoMemory,
            _ => return None,
        })
    }
}

/// The system call ThreadControl. `utcb` is the first address of the UTCB, or [`NO_UTCB`].
///
/// # Errors
///
/// What the kernel answers.
///
/// # Safety
///
/// A thread that becomes active in this program's space, or moves to it, must run only code of this
/// crate with a stack of its own (W3).
pub unsafe fn thread_control(
    destination: ThreadId,
    space: ThreadId,
    scheduler: ThreadId,
    pager: ThreadId,
    utcb: u64,
) -> Result<(), Refused> {
    let mut registers = Registers {
        rdi: destination.0,
        r8: space.0,
        rdx: scheduler.0,
        rsi: pager.0,
        r9: utcb,
        ..Registers::default()
    };
    // SAFETY: the call touches no memory; the rest is what the caller promises.
    unsafe { raw::system_call(SystemCall::ThreadControl, &mut registers) }
    answer(registers.rax)
}

fn answer(result: u64) -> Result<(), Refused> {
    if result == 0 { Err(Refused(utcb::error_code())) } else { Ok(()) }
}

/// Deletes a thread.
///
/// # Errors
///
/// The caller may not.
pub fn delete(thread: GlobalId) -> Result<(), Refused> {
    // SAFETY: no thread becomes active.
    unsafe { thread_control(thread.into(), ThreadId::NIL, ThreadId::NIL, ThreadId::NIL, NO_UTCB) }
}

/// An address space other than this program's, by one of its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    specifier: GlobalId,
}

/// A thread of another address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignThread {
    id: GlobalId,
}

impl Space {
    /// A new address space with a new thread, which is not active.
    ///
    /// # Errors
    ///
    /// The caller may not, the number is taken, or the kernel has no memory left.
    pub fn create(first: GlobalId, scheduler: ThreadId) -> Result<Self, Refused> {
        // SAFETY: the thread is created in a space of its own.
        unsafe { thread_control(first.into(), first.into(), scheduler, ThreadId::NIL, NO_UTCB)? }
        Ok(Self { specifier: first })
    }

    /// The space that a thread is in.
    #[must_use]
    pub const fn of(thread: ForeignThread) -> Self {
        Self { specifier: thread.id }
    }

    /// The thread that names the space.
    #[must_use]
    pub const fn specifier(self) -> GlobalId {
        self.specifier
    }

    /// Says where the kernel interface page and the UTCBs are, and who redirects messages.
    ///
    /// # Errors
    ///
    /// An area is wrong.
    pub fn configure(
        self,
        kernel_interface_page: Flexpage,
        utcbs: Flexpage,
        redirector: ThreadId,
    ) -> Result<(), Refused> {
        space_control(self.specifier.into(), 0, kernel_interface_page, utcbs, redirector)
            .map(|_| ())
    }

    /// Makes a thread in the space, or changes one that is there. With a pager and a UTCB it
    /// becomes active, and waits for its start message.
    ///
    /// # Errors
    ///
    /// What the kernel answers.
    pub fn thread(
        self,
        id: GlobalId,
        scheduler: ThreadId,
        pager: ThreadId,
        utcb: u64,
    ) -> Result<ForeignThread, Refused> {
        // SAFETY: the space is another one.
        unsafe { thread_control(id.into(), self.specifier.into(), scheduler, pager, utcb)? }
        Ok(ForeignThread { id })
    }
}

impl ForeignThread {
    /// Its global identifier.
    #[must_use]
    pub const fn id(self) -> GlobalId {
        self.id
    }

    /// Starts it at an instruction pointer with a stack pointer, whatever it waits for.
    ///
    /// # Errors
    ///
    /// The caller's space is not that of its pager, or the instruction pointer is impossible.
    pub fn start(self, stack: u64, instruction: u64) -> Result<(), Refused> {
        let control = ExchangeControl::STACK
            | ExchangeControl::INSTRUCTION
            | ExchangeControl::HALT_VALID
            | ExchangeControl::RECEIVE
            | ExchangeControl::SEND;
        // SAFETY: the thread is another space's.
        unsafe {
            exchange_registers(self.id.into(), control, stack, instruction, 0, 0, ThreadId::NIL)
        }
        .map(|_| ())
    }

    /// Starts it with the start message, as its pager.
    ///
    /// # Errors
    ///
    /// It does not wait for one.
    pub fn start_by_message(
        self,
        stack: u64,
        instruction: u64,
    ) -> Result<(), heliox_abi::IpcError> {
        crate::bare::ipc::send(self.id.into(), &Message::of(0, &[instruction, stack]))
    }
}

/// The system call SpaceControl; the old control word. Changes nothing of this program's own space
/// but the redirector, since that is configured already.
///
/// # Errors
///
/// What the kernel answers.
pub fn space_control(
    space: ThreadId,
    control: u64,
    kernel_interface_page: Flexpage,
    utcbs: Flexpage,
    redirector: ThreadId,
) -> Result<u64, Refused> {
    let mut registers = Registers {
        rdi: space.0,
        rsi: control,
        rdx: kernel_interface_page.0,
        r8: utcbs.0,
        r9: redirector.0,
        ..Registers::default()
    };
    // SAFETY: the caller's own space is configured, so its areas stay (rule SPACE-6).
    unsafe { raw::system_call(SystemCall::SpaceControl, &mut registers) }
    answer(registers.rax).map(|()| registers.rdx)
}

/// What ExchangeRegisters answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// The thread, by its other name.
    pub thread: ThreadId,
    /// Whether it was halted, receiving, or sending.
    pub control: ExchangeControl,
    /// Stack pointer.
    pub stack: u64,
    /// Instruction pointer.
    pub instruction: u64,
    /// Flags.
    pub flags: u64,
    /// The user-defined handle.
    pub handle: u64,
    /// The pager.
    pub pager: ThreadId,
}

/// The system call ExchangeRegisters; what there was before.
///
/// # Errors
///
/// The caller may not, or there is no such thread.
///
/// # Safety
///
/// Instruction pointer, stack pointer and flags of threads of this program must not be set (W3).
pub unsafe fn exchange_registers(
    thread: ThreadId,
    control: u64,
    stack: u64,
    instruction: u64,
    flags: u64,
    handle: u64,
    pager: ThreadId,
) -> Result<Exchanged, Refused> {
    let mut registers = Registers {
        rax: thread.0,
        rsi: control,
        rdx: stack,
        r8: instruction,
        r9: flags,
        r10: handle,
        rdi: pager.0,
        ..Registers::default()
    };
    // SAFETY: the call touches no memory; the rest is what the caller promises.
    unsafe { raw::system_call(SystemCall::ExchangeRegisters, &mut registers) }
    if registers.rax == 0 {
        return Err(Refused(utcb::error_code()));
    }
    Ok(Exchanged {
        thread: ThreadId(registers.rax),
        control: ExchangeControl(registers.rsi),
        stack: registers.rdx,
        instruction: registers.r8,
        flags: registers.r9,
        handle: registers.r10,
        pager: ThreadId(registers.rdi),
    })
}

fn exchange(thread: ThreadId, control: u64) -> Result<Exchanged, Refused> {
    // SAFETY: without the bits that set them, the registers stay as they are.
    unsafe { exchange_registers(thread, control, 0, 0, 0, 0, ThreadId::NIL) }
}

/// What a thread is like; changes nothing.
///
/// # Errors
///
/// As [`exchange_registers`].
pub fn inspect(thread: ThreadId) -> Result<Exchanged, Refused> {
    exchange(thread, ExchangeControl::DELIVER)
}

/// Halts a thread.
///
/// # Errors
///
/// As [`exchange_registers`].
pub fn stop(thread: ThreadId) -> Result<Exchanged, Refused> {
    exchange(thread, ExchangeControl::HALT | ExchangeControl::HALT_VALID)
}

/// Lets a halted thread go on.
///
/// # Errors
///
/// As [`exchange_registers`].
pub fn resume(thread: ThreadId) -> Result<Exchanged, Refused> {
    exchange(thread, ExchangeControl::HALT_VALID)
}

/// Ends the send phase, the receive phase, or both, that a thread is in.
///
/// # Errors
///
/// As [`exchange_registers`].
pub fn abort_ipc(thread: ThreadId, send: bool, receive: bool) -> Result<Exchanged, Refused> {
    let send = if send { ExchangeControl::SEND } else { 0 };
    let receive = if receive { ExchangeControl::RECEIVE } else { 0 };
    exchange(thread, send | receive)
}

/// Sets a thread's pager.
///
/// # Errors
///
/// As [`exchange_registers`].
pub fn set_pager_of(thread: ThreadId, pager: ThreadId) -> Result<Exchanged, Refused> {
    // SAFETY: the registers stay as they are.
    unsafe { exchange_registers(thread, ExchangeControl::PAGER, 0, 0, 0, 0, pager) }
}

/// Sets a thread's user-defined handle.
///
/// # Errors
///
/// As [`exchange_registers`].
pub fn set_handle_of(thread: ThreadId, handle: u64) -> Result<Exchanged, Refused> {
    // SAFETY: the registers stay as they are.
    unsafe { exchange_registers(thread, ExchangeControl::HANDLE, 0, 0, 0, handle, ThreadId::NIL) }
}

/// Makes a thread the handler of an interrupt.
///
/// # Errors
///
/// The caller may not, or there is no such thread or interrupt.
pub fn associate_interrupt(line: u32, handler: ThreadId) -> Result<(), Refused> {
    let Some(line) = GlobalId::new(line, 1) else { return Err(Refused(2)) };
    // SAFETY: interrupts are no threads of this program.
    unsafe { thread_control(line.into(), line.into(), ThreadId::NIL, handler, NO_UTCB) }
}

/// Leaves an interrupt without a handler.
///
/// # Errors
///
/// As [`associate_interrupt`].
pub fn deassociate_interrupt(line: u32) -> Result<(), Refused> {
    associate_interrupt(line, GlobalId::new(line, 1).map_or(ThreadId::NIL, ThreadId::from))
}

/// The system call ProcessorControl.
///
/// # Errors
///
/// The kernel changes no frequencies, or the caller may not.
pub fn processor_control(
    processor: u64,
    internal_kilohertz: u64,
    external_kilohertz: u64,
    millivolts: u64,
) -> Result<(), Refused> {
    let mut registers = Registers {
        rdi: processor,
        rsi: internal_kilohertz,
        rdx: external_kilohertz,
        r8: millivolts,
        ..Registers::default()
    };
    // SAFETY: the call touches no memory.
    unsafe { raw::system_call(SystemCall::ProcessorControl, &mut registers) }
    answer(registers.rax)
}

/// The system call MemoryControl: gives the memory in each flexpage the attribute that its low two
/// bits choose. Words beyond the flexpages in `pages`, of which at most eight count, are zero.
///
/// # Errors
///
/// The caller may not, or an attribute is not possible.
pub fn memory_control(
    control: u64,
    attributes: [u64; 4],
    pages: &[Flexpage],
) -> Result<(), Refused> {
    let page = |index: usize| pages.get(index).map_or(0, |page| page.0);
    let [first, second, third, fourth] = attributes;
    let mut registers = Registers {
        rdx: control,
        rdi: utcb::local_id().0,
        rcx: first,
        rsi: second,
        r8: third,
        r11: fourth,
        r9: page(0),
        rax: page(1),
        rbx: page(2),
        r10: page(3),
        r12: page(4),
        r13: page(5),
        r14: page(6),
        r15: page(7),
        ..Registers::default()
    };
    // SAFETY: how memory is cached changes nothing of what it holds.
    unsafe { raw::system_call(SystemCall::MemoryControl, &mut registers) }
    answer(registers.rax)
}

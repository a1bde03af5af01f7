//! Running programs (thesis, sections 4.5 and 6.8).
//!
//! A program is a page map and a *context*: registers that stay where they are while it does not
//! run. To run it is a function call that returns why it stopped. Two forms:
//!
//! - [`Execution::execute`] runs one program until it stops: the thesis's form.
//! - [`Execution::execute_kernel`] borrows the kernel and asks it what to run. So a kernel can
//!   answer a *light system call* by naming the program that goes on, without a way out of
//!   `execute_kernel` and back.
//!
//! # Light system calls
//!
//! A system call is light if its instruction is in the kernel's half of the address space: in a
//! page of stubs that the kernel itself opened to programs. By contract of such stubs a program
//! loses all registers but RSP and those that its stub returns in. What each register means:
//!
//! | register | of the program that calls | of the program that goes on |
//! |---|---|---|
//! | RAX, RBX, RBP, R9, R10, R12 to R15 | a message | the message of the one that called; R9 as [`LightReturn::tag`] says |
//! | RDI, RSI, RDX, R8, R9 | arguments: [`LightCall`] | |
//! | RDI | | its own light word ([`Registers::set_light_word`]) |
//! | RSI, RDX | | [`LightReturn::result`] |
//! | R8 | | its own GS base |
//! | RIP, RCX | behind the system call: the stub goes on | its own RIP |
//! | RSP | kept | its own RSP |
//! | flags, R11 | lost | the flags of a new program |
//!
//! The program that goes on can be the one that called. One that was stopped in any other way
//! than by a light call would lose registers; the kernel runs it by answering `None` and naming it
//! when it is next asked. Floating-point state, FS base, breakpoints and ports are each program's
//! own in any case.
//!
//! If the kernel answers `None`, `execute_kernel` returns `Interrupt::SystemCall`, and the context
//! has all registers as they were in the call; flags and R11 are those of a new program.

use core::ops::DerefMut;

use crate::{
    Breakpoint, Clock, Events, FrameRange, HeapError, Interrupt, LightCall, PAGE_BYTES, Register,
    RegisterError, SavedRegisters, VirtualAddress,
};

/// What of a context can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// See [`Registers::set_register`].
    Register(Register, u64),
    /// See [`Registers::set_instruction_pointer`].
    InstructionPointer(VirtualAddress),
    /// See [`Registers::set_flags`].
    Flags(u64),
    /// See [`Registers::set_fs_base`].
    FsBase(VirtualAddress),
    /// See [`Registers::set_gs_base`].
    GsBase(VirtualAddress),
    /// See [`Registers::set_light_word`].
    LightWord(u64),
    /// See [`Registers::set_breakpoint`].
    Breakpoint(usize, Option<Breakpoint>),
    /// See [`Registers::pass_breakpoint`].
    PassBreakpoint,
}

/// The registers of a program that is not running. They begin as zero, everything else in its
/// initial state. No value that can be set here gives a program privilege (`hazards` 13).
pub trait Registers {
    /// A set of ports for [`Registers::set_port_permissions`].
    type PortPermissions: PortPermissions;

    /// The registers as they are saved.
    fn saved(&self) -> SavedRegisters;

    /// Sets one thing.
    ///
    /// # Errors
    /// A [`RegisterError`] if the value is not good.
    fn set(&mut self, change: Change) -> Result<(), RegisterError>;

    /// Lets the program use the ports of `permissions`, as they are at each time; `None`: none.
    /// See [`Execution::load_port_permissions`].
    fn set_port_permissions(&mut self, permissions: Option<&Self::PortPermissions>);

    /// The value of a register.
    fn register(&self, register: Register) -> u64 {
        self.saved().register(register)
    }

    /// Sets a register. Any value is good: a bad one makes the program fault.
    fn set_register(&mut self, register: Register, value: u64) {
        // Cannot fail.
        let _ = self.set(Change::Register(register, value));
    }

    /// Address of the next instruction.
    fn instruction_pointer(&self) -> u64 {
        self.saved().instruction_pointer
    }

    /// Sets the address of the next instruction.
    ///
    /// # Errors
    /// [`RegisterError::NotAUserAddress`] (`hazards` 3).
    fn set_instruction_pointer(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        self.set(Change::InstructionPointer(address))
    }

    /// The stack pointer.
    fn stack_pointer(&self) -> u64 {
        self.saved().stack_pointer
    }

    /// Sets the stack pointer. Any value is good.
    fn set_stack_pointer(&mut self, value: u64) {
        self.set_register(Register::Rsp, value);
    }

    /// The flags as the program would read them.
    fn flags(&self) -> u64 {
        self.saved().flags
    }

    /// Sets those flags that a program may freely change, and clears the trap flag and the
    /// nested-task flag, which a program can only set itself; the others stay as they are.
    fn set_flags(&mut self, flags: u64) {
        // Cannot fail.
        let _ = self.set(Change::Flags(flags));
    }

    /// Sets the base of the FS segment.
    ///
    /// # Errors
    /// [`RegisterError::NotAUserAddress`].
    fn set_fs_base(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        self.set(Change::FsBase(address))
    }

    /// Sets the base of the GS segment. It is the kernel's to choose: a program that changes it
    /// (where the processor lets it) finds this value again after another program ran.
    ///
    /// # Errors
    /// [`RegisterError::NotAUserAddress`].
    fn set_gs_base(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        self.set(Change::GsBase(address))
    }

    /// Sets what RDI holds whenever the program goes on after a light call.
    fn set_light_word(&mut self, value: u64) {
        // Cannot fail.
        let _ = self.set(Change::LightWord(value));
    }

    /// Sets or, with `None`, removes breakpoint `number`. When the program runs into it, it stops
    /// with exception 1.
    ///
    /// # Errors
    /// [`RegisterError::NoSuchBreakpoint`].
    fn set_breakpoint(
        &mut self,
        number: usize,
        breakpoint: Option<Breakpoint>,
    ) -> Result<(), RegisterError> {
        self.set(Change::Breakpoint(number, breakpoint))
    }

    /// Makes the program execute its next instruction even if a breakpoint is set for it.
    fn pass_breakpoint(&mut self) {
        // Cannot fail.
        let _ = self.set(Change::PassBreakpoint);
    }
}

/// A set of ports that programs may use by themselves. It belongs to an address space or
/// whatever else the client likes; each context that is to have it is given it.
pub trait PortPermissions {
    /// The authority to use some ports.
    type PortRange;

    /// Adds the ports of `range` (`allowed`), or takes them away at once.
    fn set(&mut self, range: Self::PortRange, allowed: bool);

    /// The first port from `from` on that is allowed.
    fn next(&self, from: u16) -> Option<u16>;

    /// Adds the ports of `range`.
    fn grant(&mut self, range: Self::PortRange) {
        self.set(range, true);
    }

    /// Takes the ports of `range` away, at once.
    fn revoke(&mut self, range: Self::PortRange) {
        self.set(range, false);
    }
}

/// Memory for kernel objects: a part of the environment that is set aside at boot and used page by
/// page, as the client says.
pub trait Heap {
    /// A kernel object, which frees its memory when it is dropped.
    type Box<T>: DerefMut<Target = T>;

    /// Moves `object` into the heap.
    ///
    /// # Errors
    /// [`HeapError::NoSlot`] or [`HeapError::TooLarge`], with the object.
    fn new_box<T>(&mut self, object: T) -> Result<Self::Box<T>, (T, HeapError)>;

    /// The pages that are not in use yet, at the start.
    fn heap_frames(&self) -> FrameRange;

    /// Lends pages of [`Heap::heap_frames`] to the heap, where [`Heap::new_box`] then finds room.
    ///
    /// # Errors
    /// [`HeapError::NotFree`].
    fn grow_heap(&mut self, frames: FrameRange) -> Result<(), HeapError>;

    /// Makes a table of `count` kernel objects in pages of [`Heap::heap_frames`], for good; `make` is
    /// called with the number of each. What is left of the pages stays unused.
    ///
    /// # Errors
    /// [`HeapError::TooLarge`] if the pages have not room for so many, [`HeapError::NotFree`].
    fn place_slice<T: 'static>(
        &mut self,
        frames: FrameRange,
        count: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<&'static mut [T], HeapError>;

    /// Makes a table of `count` kernel objects in the first pages of [`Heap::heap_frames`], for good.
    /// For the start of a kernel, before it gives these pages to anything else.
    ///
    /// # Errors
    /// [`HeapError::TooLarge`] if there are not so many pages.
    fn heap_slice<T: 'static>(
        &mut self,
        count: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<&'static mut [T], HeapError> {
        let bytes = count.saturating_mul(size_of::<T>());
        let (free, pages) = (self.heap_frames(), bytes.div_ceil(PAGE_BYTES as usize).max(1));
        let frames = FrameRange::new(free.start(), free.start().saturating_add(pages as u64));
        let frames = frames.filter(|frames| free.contains_range(*frames));
        self.place_slice(frames.ok_or(HeapError::TooLarge { bytes })?, count, make)
    }

    /// Hands out pages of [`Heap::heap_frames`], as words that are zero, for good.
    ///
    /// # Errors
    /// [`HeapError::NotFree`].
    fn heap_words(&mut self, frames: FrameRange) -> Result<&'static mut [u64], HeapError> {
        self.place_slice(frames, frames.bytes() as usize / size_of::<u64>(), |_| 0)
    }
}

/// A processor that runs programs, and the memory that they are in.
pub trait Execution: Heap + Sized {
    /// All memory.
    type Memory;
    /// An address space, as a context uses it.
    type Map;
    /// The processor that code runs on.
    type Cpu;
    /// The authority to use some ports.
    type PortRange;
    /// The registers of a program.
    type Context: Registers<PortPermissions = Self::PortPermissions>;
    /// A set of ports.
    type PortPermissions: PortPermissions<PortRange = Self::PortRange>;

    /// All memory.
    fn memory(&mut self) -> &mut Self::Memory;

    /// All memory, to look at.
    fn memory_view(&self) -> &Self::Memory;

    /// The processor that this runs on.
    fn cpu(&self) -> Self::Cpu;

    /// The registers of a new program.
    ///
    /// # Errors
    /// [`HeapError::NoSlot`] if the heap must be grown first.
    fn new_context(&mut self) -> Result<Self::Context, HeapError>;

    /// A set without ports.
    ///
    /// # Errors
    /// [`HeapError::NoSlot`] if the heap must be grown first, by two pages.
    fn new_port_permissions(&mut self) -> Result<Self::PortPermissions, HeapError>;

    /// To be asked when the program of `context` stopped with exception 13 and `permissions` are
    /// those that the context was given: loads them, if they were not loaded. Whether they were
    /// not; then the program should try again, else it did what it may not do.
    fn load_port_permissions(
        &mut self,
        context: &Self::Context,
        permissions: &Self::PortPermissions,
    ) -> bool;

    /// Runs the program of `context` in the address space of `map` until it stops, and says why
    /// it did. Allocates nothing and cannot fail. Interrupts that nobody asked for are counted
    /// and do not stop it.
    fn execute(&mut self, map: &Self::Map, context: &mut Self::Context) -> Interrupt {
        Self::execute_kernel(&mut OneProgram(Running { machine: self, map, context }))
    }

    /// Runs what `kernel` wants to run until a program stops, other than by a light system call
    /// that the kernel answered; says why it did. It is the program that [`Kernel::running`] then
    /// names.
    fn execute_kernel<K: Kernel<Machine = Self>>(kernel: &mut K) -> Interrupt;

    /// Lets interrupts in, the only thing in the kernel that does. With `wait` until one arrives:
    /// the timer's, when its deadline has passed, or may have (a far one can be early), or that of
    /// a line that is on. `None` if something else ended the wait, or nothing was pending.
    fn take_interrupt(&mut self, wait: bool) -> Option<Interrupt>;

    /// Waits until an interrupt arrives; see [`Execution::take_interrupt`].
    fn wait_for_interrupt(&mut self) -> Option<Interrupt> {
        self.take_interrupt(true)
    }

    /// Takes an interrupt that is pending, if one is. For the middle of something long.
    fn poll_interrupt(&mut self) -> Option<Interrupt> {
        self.take_interrupt(false)
    }

    /// What has happened since the boot.
    fn events(&self) -> Events;

    /// The clock that goes by the ticks of [`Execution::events`], and the rate of the timer.
    fn clock(&self) -> Clock;

    /// Lets the timer count down from `count` and then interrupt; 0 stops it.
    fn set_timer(&mut self, count: u32);

    /// Microseconds on the machine's clock.
    fn now(&self) -> u64 {
        self.clock().microseconds(self.events().ticks)
    }

    /// Asks for a timer interrupt at `deadline`, in microseconds on the scale of
    /// [`Execution::now`]. One that has passed gives an interrupt at once; one too far for the
    /// hardware gives an interrupt early. `None` asks for no interrupt.
    fn set_deadline(&mut self, deadline: Option<u64>) {
        let wait = |deadline: u64| deadline.saturating_sub(self.now());
        let counts = deadline.map_or(0, |deadline| self.clock().timer_counts(wait(deadline)));
        self.set_timer(counts);
    }
}

/// A program that is to run: where, in which address space, with which registers.
pub struct Running<'kernel, M: Execution> {
    /// The machine.
    pub machine: &'kernel mut M,
    /// The address space.
    pub map: &'kernel M::Map,
    /// The registers.
    pub context: &'kernel mut M::Context,
}

/// The answer to a light system call.
pub struct LightReturn<'kernel, M: Execution> {
    /// The program that goes on. [`Kernel::running`] names it from now on.
    pub next: Running<'kernel, M>,
    /// What it finds in RSI and RDX.
    pub result: u64,
    /// What it finds in R9 instead of the caller's.
    pub tag: Option<u64>,
}

/// A kernel that chooses what runs.
pub trait Kernel {
    /// The machine that it runs on.
    type Machine: Execution;

    /// Whether it answers light system calls. If not, [`Kernel::light_call`] is never called.
    const ANSWERS_LIGHT_CALLS: bool;

    /// The program that is to run, or that has just stopped.
    fn running(&mut self) -> Running<'_, Self::Machine>;

    /// Answers a light system call of the running program. `None`: nothing has changed, and the
    /// call is to be handled as any other.
    ///
    /// This is monomorphised into the way into the kernel and back; what it calls should be short.
    fn light_call(&mut self, call: LightCall) -> Option<LightReturn<'_, Self::Machine>>;

    /// Is asked if [`Kernel::light_call`] declines: for what need not be quite as short, so that
    /// the short has no calls in it. The same holds of it.
    fn light_call_rest(&mut self, call: LightCall) -> Option<LightReturn<'_, Self::Machine>> {
        let _ = call;
        None
    }
}

/// A kernel with one program, for [`Execution::execute`].
pub struct OneProgram<'client, M: Execution>(Running<'client, M>);

impl<M: Execution> Kernel for OneProgram<'_, M> {
    type Machine = M;

    const ANSWERS_LIGHT_CALLS: bool = false;

    fn running(&mut self) -> Running<'_, M> {
        let Running { machine, map, context } = &mut self.0;
        Running { machine, map, context }
    }

    fn light_call(&mut self, _call: LightCall) -> Option<LightReturn<'_, M>> {
        None
    }
}

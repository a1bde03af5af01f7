//! The registers of programs, while they do not run and while a CPU holds them.
//!
//! A CPU goes on holding the registers of the program that ran last until another one is to run:
//! general registers are saved by then, the rest is in the CPU as far as the context *has* any.
//! A context begins without floating-point state, FS base, breakpoints and ports; what it has is
//! noted in `special`, and switching between contexts without touches none of it.
//!
//! Invariants:
//!
//! - X1: the registers that the CPU's area names belong to a context that exists: they lie in a
//!   box, so they do not move, and a context that is dropped is taken out of the CPU first. Nobody
//!   has a reference to them while a program runs or the CPU is emptied; such references end
//!   within the functions of this module.
//! - X2: whatever is saved is good to run (`hazards` 3, 12 and 13). CS and SS are the program's
//!   selectors. RIP is below `USER_END`, or where a program that ran has come by itself, so
//!   canonical. RFLAGS has interrupts enabled, I/O privilege 0, and VM clear. Bases of segments
//!   are below `USER_END`. Extended state was written by the processor, or is the initial one.
//! - F1: a CPU that holds no context, or one that has nothing special, is *neutral*: floating-point
//!   registers are in their initial state and switched off (CR0.TS), the FS base is 0 (unless the
//!   program itself has changed it since), there are no breakpoints, and ports are closed.
//! - G1: breakpoints are at addresses of programs (`Breakpoint`). G2: in the kernel DR7 has none,
//!   but for the moments of entry and exit.
//! - A1: a bit of port permissions is 0 only for a port of a range that was granted and not revoked
//!   since. A2: programs can use ports only while the task state holds the bits of the permissions
//!   that the running context names. Whatever changes these (granting, revoking, dropping) or the
//!   name in a context closes all ports first.

use core::arch::asm;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use heliox_types::{
    Breakpoint, BreakpointError, HeapError, LightCall, Register,
    Register::{R8, R9, Rdi, Rdx, Rsi},
    RegisterError, SavedRegisters, USER_END, VirtualAddress,
};

use super::cpu::{CPU, MESSAGE, PORTS_CLOSED, PORTS_OPEN, SYSTEM_CALL, USER_CODE, USER_DATA};
use super::heap::Box;
use super::processor::{CR0_TASK_SWITCHED, msr, read, write, write_msr};
use crate::execution::{self, Registers as _};
use crate::port::PortRange;

/// What a context can have besides general registers: bits of `Registers::special`.
const FLOATING_POINT: u64 = 1 << 0;
const FS_BASE: u64 = 1 << 1;
const BREAKPOINTS: u64 = 1 << 2;
const PORTS: u64 = 1 << 3;

/// The flags of a new program: interrupts enabled, and the bit that is always set.
pub(super) const INITIAL_FLAGS: u64 = 1 << 9 | 1 << 1;
/// The flags that a kernel may set for a program: carry, parity, auxiliary carry, zero, sign,
/// direction, overflow, alignment check, identification.
const SETTABLE_FLAGS: u64 =
    1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 18 | 1 << 21;
/// Trap and nested task.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 14;
/// The flag that suppresses instruction breakpoints for one instruction.
const RESUME: u64 = 1 << 16;
/// DR6 and DR7 without anything in them.
const NO_STATUS: u64 = 0xffff_0ff0;
const NO_BREAKPOINTS: u64 = 1 << 10;

/// All registers of a program that a CPU holds as one.
///
/// Behind what the entry code saves is the processor's save area, in the standard format for x87,
/// SSE and AVX (AMD64 manual volume 2, section 11.5.2); the last 48 bytes of its legacy region are
/// software's.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Registers {
    pub(super) saved: SavedRegisters,
    fs_base: u64,
    pub(super) gs_base: u64,
    legacy: [u8; 464],
    pub(super) light_word: u64,
    special: u64,
    /// Name of the port permissions that the program has; 0 for none.
    ports: u64,
    unused: [u64; 3],
    extended: [u8; 64 + 256],
}

/// Offset of the save area, a multiple of 64.
const AREA: usize = offset_of!(Registers, legacy);

const _: () = assert!(offset_of!(Registers, saved) == 0 && AREA == 3 * 64);
const _: () = assert!(offset_of!(Registers, extended) == AREA + 512);
const _: () = assert!(size_of::<Registers>() == 1024 && size_of::<SavedRegisters>() == 22 * 8);
const _: () = assert!(offset_of!(SavedRegisters, vector) == 15 * 8);
const _: () = assert!(offset_of!(SavedRegisters, stack_selector) == 21 * 8);

/// The extended state of a program that has none.
static INITIAL: Registers = Registers::initial();

impl Registers {
    /// Everything zero or in its initial state: exceptions masked (x87 control word 0x037f, MXCSR
    /// 0x1f80), and a header that says "all initial".
    const fn initial() -> Self {
        let mut legacy = [0; 464];
        legacy[0] = 0x7f;
        legacy[1] = 0x03;
        legacy[24] = 0x80;
        legacy[25] = 0x1f;
        let saved = SavedRegisters {
            general: [0; Register::COUNT],
            vector: 0,
            error_code: 0,
            instruction_pointer: 0,
            code_selector: USER_CODE,
            flags: INITIAL_FLAGS,
            stack_pointer: 0,
            stack_selector: USER_DATA,
        };
        Self {
            legacy,
            gs_base: 0,
            fs_base: 0,
            light_word: 0,
            special: 0,
            ports: 0,
            unused: [0; 3],
            extended: [0; 64 + 256],
            saved,
        }
    }

    fn mark(&mut self, bit: u64, has: bool) {
        self.special = self.special & !bit | if has { bit } else { 0 };
    }

    /// Replaces the CPU's extended state, without a trace of the old one: on AMD processors a
    /// restore leaves the last x87 instruction and data pointers of the program before, which the
    /// initialisation clears.
    fn restore_extended(&self) {
        let mask = CPU.extended_mask.load(Relaxed) as u32;
        // SAFETY: X2: the area was written by the matching save or is the initial state, so that
        // the processor accepts it; it is aligned. The kernel itself uses none of this state.
        unsafe {
            match mask {
                0 => asm!("clts", "fninit", "fxrstor64 [{}]", in(reg) &self.legacy),
                mask => {
                    asm!("clts", "fninit", "xrstor64 [{}]", in(reg) &self.legacy, in("eax") mask, in("edx") 0)
                }
            }
        }
    }

    /// Saves the CPU's extended state.
    fn save_extended(&mut self) {
        let mask = CPU.extended_mask.load(Relaxed) as u32;
        // SAFETY: the area is aligned, and as large as the states in the mask need.
        unsafe {
            match mask {
                0 => asm!("fxsave64 [{}]", in(reg) &mut self.legacy),
                mask => {
                    asm!("xsave64 [{}]", in(reg) &mut self.legacy, in("eax") mask, in("edx") 0)
                }
            }
        }
    }
}

/// Takes the registers that the CPU holds, if it holds any, out of it: saves what is in the CPU
/// alone, and makes it neutral (F1).
pub(super) fn empty_cpu() {
    let registers = CPU.registers.swap(ptr::null_mut(), Relaxed);
    // SAFETY: X1: null, or the registers of a context that exists, to which nobody has a reference.
    let Some(registers) = (unsafe { registers.as_mut() }) else {
        return;
    };
    CPU.io_map_base.store(PORTS_CLOSED, Relaxed);
    let has_fs_base = CPU.fs_gs_base.load(Relaxed) != 0;
    let base = if has_fs_base { read!("rdfsbase {}") } else { registers.fs_base };
    if base != 0 {
        // SAFETY: the register exists, and 0 is an address.
        unsafe { write_msr(msr::FS_BASE, 0) }
    }
    // A base in the upper half is of no use to the program.
    registers.fs_base = if base < USER_END { base } else { 0 };
    registers.mark(FS_BASE, registers.fs_base != 0);
    if registers.special & FLOATING_POINT != 0 {
        registers.save_extended();
        INITIAL.restore_extended();
        let control = read!("mov {}, cr0") | CR0_TASK_SWITCHED;
        // SAFETY: only floating-point instructions mean something else from now on.
        unsafe { write!("mov cr0, {}", control) }
    }
}

/// The registers of a program.
#[derive(Debug)]
pub struct Context {
    registers: Box<Registers>,
    breakpoints: [Option<Breakpoint>; Breakpoint::COUNT],
    /// DR6 at the last debug exception.
    debug_status: u64,
}

impl Context {
    pub(super) fn new() -> Result<Self, HeapError> {
        let registers = Box::new(Registers::initial()).map_err(|(_, error)| error)?;
        Ok(Self { registers, breakpoints: [None; Breakpoint::COUNT], debug_status: 0 })
    }

    /// Where the registers are, for as long as the context exists.
    pub(super) fn registers(&self) -> *mut Registers {
        self.registers.as_ptr()
    }

    /// What it has besides general registers.
    pub(super) fn special(&self) -> u64 {
        self.registers.special
    }

    /// The registers as they are saved.
    pub(super) fn saved(&self) -> &SavedRegisters {
        &self.registers.saved
    }

    /// Whether nothing but general registers must be switched, so that its system calls can be light.
    pub(super) fn is_plain(&self) -> bool {
        self.special() == 0 && CPU.fs_gs_base.load(Relaxed) != 0
    }

    /// Whether it has no breakpoints, so that a system call leaves nothing to switch off.
    pub(super) fn is_unwatched(&self) -> bool {
        self.special() & BREAKPOINTS == 0
    }

    /// Whether the CPU holds the registers.
    pub(super) fn is_in_cpu(&self) -> bool {
        ptr::eq(CPU.registers.load(Relaxed), self.registers())
    }

    /// Lets the CPU hold the registers.
    #[inline(never)]
    pub(super) fn enter_cpu(&mut self) {
        empty_cpu();
        if self.special() != 0 {
            self.enter_special();
        }
        // SAFETY: X2: the base is an address of programs. It waits there for the SWAPGS of the exit.
        unsafe { write_msr(msr::KERNEL_GS_BASE, self.registers.gs_base) }
        CPU.registers.store(self.registers(), Relaxed);
    }

    #[cold]
    fn enter_special(&mut self) {
        let registers = &*self.registers;
        if registers.special & FLOATING_POINT != 0 {
            registers.restore_extended();
        }
        if registers.special & PORTS != 0 && registers.ports == CPU.ports_of.load(Relaxed) {
            CPU.io_map_base.store(PORTS_OPEN, Relaxed);
        }
        let addresses = self.breakpoints.map(|at| at.map_or(0, |at| at.address().get()));
        let [first, second, third, fourth] = addresses;
        let control = self.breakpoints.iter().enumerate().fold(0, |sum, (number, breakpoint)| {
            let bits = |at: &Breakpoint| 1 << (number * 2) | at.control() << (16 + number * 4);
            sum | breakpoint.as_ref().map_or(0, bits)
        });
        // SAFETY: X2; G1.
        unsafe {
            write_msr(msr::FS_BASE, registers.fs_base);
            write!("mov dr0, {}", first);
            write!("mov dr1, {}", second);
            write!("mov dr2, {}", third);
            write!("mov dr3, {}", fourth);
            write!("mov dr7, {}", NO_BREAKPOINTS | control);
        }
    }

    /// Switches the breakpoints in the CPU off, when the program has stopped (G2).
    pub(super) fn suspend_breakpoints(&self) {
        if !self.is_unwatched() {
            // SAFETY: G2.
            unsafe { write!("mov dr7, {}", NO_BREAKPOINTS) }
            empty_cpu();
        }
    }

    /// Notes what the processor says of a debug exception of the program.
    pub(super) fn take_debug_status(&mut self) {
        self.debug_status = read!("mov {}, dr6");
        // SAFETY: the status has no effect.
        unsafe { write!("mov dr6, {}", NO_STATUS) }
    }

    /// Gives the program floating-point state, if it has none yet; whether it had none.
    pub(super) fn use_floating_point(&mut self) -> bool {
        let new = self.special() & FLOATING_POINT == 0;
        self.out_of_cpu().mark(FLOATING_POINT, true);
        new
    }

    /// The registers, after what is in the CPU alone was saved.
    fn out_of_cpu(&mut self) -> &mut Registers {
        if self.is_in_cpu() {
            empty_cpu();
        }
        &mut self.registers
    }

    /// Whether the program is in the kernel's half of the address space: in a page of stubs.
    pub(super) fn is_in_kernel_half(&self) -> bool {
        self.saved().instruction_pointer >> 63 != 0
    }

    /// What the program passes on in a light system call.
    pub(super) fn message(&self) -> [u64; MESSAGE.len()] {
        MESSAGE.map(|register| self.saved().register(register))
    }

    /// The arguments of a light system call.
    pub(super) fn light_call(&self) -> LightCall {
        let [rdi, rsi, rdx, r8, r9] = [Rdi, Rsi, Rdx, R8, R9].map(|name| self.register(name));
        LightCall { rdi, rsi, rdx, r8, r9, instruction_pointer: self.instruction_pointer() }
    }

    /// The registers behind a light system call: a message, and RDI, RSI, RDX and R8.
    pub(super) fn set_after_light_call(&mut self, message: [u64; MESSAGE.len()], words: [u64; 4]) {
        let saved = &mut self.registers.saved;
        let message = MESSAGE.into_iter().zip(message);
        for (register, value) in message.chain([Rdi, Rsi, Rdx, R8].into_iter().zip(words)) {
            saved.set_register(register, value);
        }
        saved.flags = INITIAL_FLAGS;
        saved.set_register(Register::R11, INITIAL_FLAGS);
        saved.set_register(Register::Rcx, saved.instruction_pointer);
        saved.vector = SYSTEM_CALL;
    }

    /// The same, for the program that goes on.
    pub(super) fn answer(&mut self, message: [u64; MESSAGE.len()], result: u64) {
        let words = [self.registers.light_word, result, result, self.registers.gs_base];
        self.set_after_light_call(message, words);
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.out_of_cpu();
    }
}

/// The number of an address that a program can use.
fn user(address: VirtualAddress) -> Result<u64, RegisterError> {
    if address.is_user() { Ok(address.get()) } else { Err(RegisterError::NotAUserAddress(address)) }
}

impl execution::Registers for Context {
    type PortPermissions = PortPermissions;

    fn register(&self, register: Register) -> u64 {
        self.saved().register(register)
    }

    fn set_register(&mut self, register: Register, value: u64) {
        if matches!(register, Register::Rcx | Register::R11) {
            self.registers.saved.vector = 0;
        }
        self.registers.saved.set_register(register, value);
    }

    fn instruction_pointer(&self) -> u64 {
        self.saved().instruction_pointer
    }

    fn set_instruction_pointer(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        self.registers.saved.instruction_pointer = user(address)?;
        Ok(())
    }

    fn stack_pointer(&self) -> u64 {
        self.saved().stack_pointer
    }

    fn set_stack_pointer(&mut self, value: u64) {
        self.registers.saved.stack_pointer = value;
    }

    fn flags(&self) -> u64 {
        self.saved().flags
    }

    fn set_flags(&mut self, flags: u64) {
        let kept = self.saved().flags & !(SETTABLE_FLAGS | CLEARED_FLAGS);
        self.registers.saved.flags = kept | flags & SETTABLE_FLAGS;
    }

    fn set_fs_base(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        let base = user(address)?;
        let registers = self.out_of_cpu();
        registers.fs_base = base;
        registers.mark(FS_BASE, base != 0);
        Ok(())
    }

    fn set_gs_base(&mut self, address: VirtualAddress) -> Result<(), RegisterError> {
        self.out_of_cpu().gs_base = user(address)?;
        Ok(())
    }

    fn set_light_word(&mut self, value: u64) {
        self.registers.light_word = value;
    }

    fn set_breakpoint(
        &mut self,
        number: usize,
        breakpoint: Option<Breakpoint>,
    ) -> Result<(), BreakpointError> {
        let slot = self.breakpoints.get_mut(number);
        *slot.ok_or(BreakpointError::NoSuchBreakpoint(number))? = breakpoint;
        let has = self.breakpoints.iter().any(Option::is_some);
        self.out_of_cpu().mark(BREAKPOINTS, has);
        Ok(())
    }

    fn pass_breakpoint(&mut self) {
        self.registers.saved.vector = 0;
        self.registers.saved.flags |= RESUME;
    }

    fn debug_status(&self) -> u64 {
        self.debug_status
    }

    fn set_port_permissions(&mut self, permissions: Option<&PortPermissions>) {
        let name = permissions.map_or(0, |permissions| permissions.name);
        let registers = self.out_of_cpu();
        registers.ports = name;
        registers.mark(PORTS, name != 0);
    }
}

/// The name that was given last.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// A set of ports: a bitmap in two pages of the environment heap.
///
/// The processor reads a bitmap in the task state, to which it is copied only when a program needs
/// it: until then, and whenever a program runs that carries another name, the bitmap lies past the
/// end of the task state, and an access to a port is a general protection fault (`hazards` 16).
#[derive(Debug)]
pub struct PortPermissions {
    /// Never 0, and never given twice.
    name: u64,
    /// A bit for each port, 1 if it is refused.
    halves: [Box<[u64; 512]>; 2],
}

impl PortPermissions {
    pub(super) fn new() -> Result<Self, HeapError> {
        let half = || Box::new([u64::MAX; 512]).map_err(|(_, error)| error);
        // A 64-bit count does not overflow.
        Ok(Self { name: NAMES.fetch_add(1, Relaxed) + 1, halves: [half()?, half()?] })
    }

    fn words(&mut self) -> impl Iterator<Item = &mut u64> {
        self.halves.iter_mut().flat_map(|half| half.iter_mut())
    }

    fn change(&mut self, range: PortRange, change: impl Fn(&mut u64, u64)) {
        self.close();
        let (first, last) = (usize::from(range.first()), usize::from(range.last()));
        for (index, word) in self.words().enumerate().take(last / 64 + 1).skip(first / 64) {
            let from = first.saturating_sub(index * 64);
            let to = (last - index * 64).min(63);
            change(word, u64::MAX << from & u64::MAX >> (63 - to));
        }
    }

    /// Copies the bitmap to the task state, if `context` has this set and it is not there; whether
    /// it was not. The ports open when the CPU holds the context again.
    pub(super) fn load(&self, context: &Context) -> bool {
        let is_open = CPU.io_map_base.load(Relaxed) == PORTS_OPEN;
        if context.registers.ports != self.name || is_open && context.is_in_cpu() {
            return false;
        }
        empty_cpu();
        let words = self.halves.iter().flat_map(|half| half.iter());
        for (target, word) in CPU.port_bitmap.iter().zip(words) {
            target.store(*word, Relaxed);
        }
        CPU.ports_of.store(self.name, Relaxed);
        true
    }

    /// Takes all ports from programs, if they may have those of this set.
    fn close(&self) {
        if CPU.ports_of.load(Relaxed) == self.name {
            CPU.io_map_base.store(PORTS_CLOSED, Relaxed);
            CPU.ports_of.store(0, Relaxed);
        }
    }
}

impl execution::PortPermissions for PortPermissions {
    fn grant(&mut self, range: PortRange) {
        self.change(range, |word, bits| *word &= !bits);
    }

    fn revoke(&mut self, range: PortRange) {
        self.change(range, |word, bits| *word |= bits);
    }
}

impl Drop for PortPermissions {
    fn drop(&mut self) {
        self.close();
    }
}

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

use Register::{R11, Rcx};

use super::cpu::{PORTS_CLOSED, PORTS_OPEN, SYSTEM_CALL, USER_CODE, USER_DATA};
use super::processor::CR0_TASK_SWITCHED;
use super::*;

/// What a context can have besides general registers: bits of `Registers::special`.
pub(super) const FLOATING_POINT: u64 = 1 << 0;
const FS_BASE: u64 = 1 << 1;
pub(super) const BREAKPOINTS: u64 = 1 << 2;
const PORTS: u64 = 1 << 3;
/// The CPU has no FSGSBASE, so that no switch can be as short as otherwise.
const NO_BASES: u64 = 1 << 4;

/// The flags of a new program: interrupts enabled, and the bit that is always set.
pub(super) const INITIAL_FLAGS: u64 = 1 << 9 | 1 << 1;
/// The flags that a kernel may set for a program: carry, parity, auxiliary carry, zero, sign,
/// direction, overflow, alignment check, identification.
const SETTABLE_FLAGS: u64 = 1 | 1 << 2 | 1 << 4 | 3 << 6 | 3 << 10 | 1 << 18 | 1 << 21;
/// Trap and nested task.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 14;
/// The flag that suppresses instruction breakpoints for one instruction.
const RESUME: u64 = 1 << 16;
/// DR7 without breakpoints.
const NO_BREAKPOINTS: u64 = 1 << 10;

/// All registers of a program that a CPU holds as one.
///
/// Behind what the entry code saves is the processor's save area, in the standard format for x87,
/// SSE and AVX (AMD64 manual volume 2, section 11.5.2); the last 48 bytes of its legacy region are
/// software's.
#[repr(C, align(64))]
pub(super) struct Registers {
    pub(super) saved: SavedRegisters,
    fs_base: u64,
    pub(super) gs_base: u64,
    legacy: [u8; 464],
    pub(super) light_word: u64,
    pub(super) special: u64,
    /// Name of the port permissions that the program has; 0 for none.
    ports: u64,
    unused: [u64; 3],
    extended: [u8; 64 + 256],
}

const _: () = assert!(offset_of!(Registers, saved) == 0 && offset_of!(Registers, legacy) == 3 * 64);
const _: () = assert!(offset_of!(Registers, extended) == 3 * 64 + 512);
const _: () = assert!(size_of::<Registers>() == 1024 && size_of::<SavedRegisters>() == 22 * 8);
const _: () = assert!(offset_of!(SavedRegisters, vector) == 15 * 8);
const _: () = assert!(offset_of!(SavedRegisters, stack_selector) == 21 * 8);

/// The registers of a new program, of which a CPU that holds none has the extended state.
static INITIAL: Registers = Registers::initial();

/// Saves or restores extended state at an address, by the instruction that this CPU has.
macro_rules! extended_state {
    ($xsave:literal, $fxsave:literal, $area:expr) => {
        match CPU.extended_mask.load(Relaxed) as u32 {
            0 => asm!($fxsave, in(reg) $area),
            mask => asm!($xsave, in(reg) $area, in("eax") mask, in("edx") 0),
        }
    };
}

impl Registers {
    /// Everything zero or in its initial state: exceptions masked (x87 control word 0x037f, MXCSR
    /// 0x1f80), and a header that says "all initial".
    const fn initial() -> Self {
        // SAFETY: a field is a number.
        let mut registers: Self = unsafe { core::mem::zeroed() };
        registers.saved.code_selector = USER_CODE;
        registers.saved.stack_selector = USER_DATA;
        registers.saved.flags = INITIAL_FLAGS;
        registers.legacy[0] = 0x7f;
        registers.legacy[1] = 0x03;
        registers.legacy[24] = 0x80;
        registers.legacy[25] = 0x1f;
        registers
    }

    /// Nobody's, which the way out of a light system call takes for special.
    pub(super) const fn declined() -> Self {
        let mut registers = Self::initial();
        registers.special = u64::MAX;
        registers
    }

    pub(super) fn mark(&mut self, bit: u64, has: bool) {
        self.special = self.special & !bit | if has { bit } else { 0 };
    }

    /// Replaces the CPU's extended state, without a trace of the old one: on AMD processors a
    /// restore leaves the last x87 instruction and data pointers of the program before, which the
    /// initialisation clears.
    fn restore_extended_state(&self) {
        // SAFETY: X2: the processor accepts the area, which is aligned. The kernel itself uses none of
        // this state.
        unsafe {
            asm!("clts", "fninit");
            extended_state!("xrstor64 [{}]", "fxrstor64 [{}]", &self.legacy);
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
    let kept = registers.special & NO_BASES != 0;
    let base = if kept { registers.fs_base } else { read!("rdfsbase {}") };
    // A base in the upper half is of no use to the program.
    registers.fs_base = if base < USER_END { base } else { 0 };
    registers.mark(FS_BASE, registers.fs_base != 0);
    if base != 0 {
        set_fs_base(0);
    }
    if registers.special & FLOATING_POINT != 0 {
        // SAFETY: the area is aligned, and as large as the states in the mask need.
        unsafe { extended_state!("xsave64 [{}]", "fxsave64 [{}]", &mut registers.legacy) }
        INITIAL.restore_extended_state();
        let control = read!("mov {}, cr0") | CR0_TASK_SWITCHED;
        // SAFETY: only floating-point instructions mean something else from now on.
        unsafe { set!("mov cr0, {}", control) }
    }
}

fn set_fs_base(base: u64) {
    // SAFETY: X2; the kernel does not use FS.
    unsafe { write_msr(0xc000_0100, base) }
}

/// The registers of a program.
pub struct Context {
    pub(super) registers: Box<Registers>,
    breakpoints: [Option<Breakpoint>; Breakpoint::COUNT],
}

impl Context {
    pub(super) fn new() -> Result<Self, HeapError> {
        let mut registers = Box::new(Registers::initial()).map_err(|(_, error)| error)?;
        registers.mark(NO_BASES, CPU.fs_gs_base.load(Relaxed) == 0);
        Ok(Self { registers, breakpoints: [None; Breakpoint::COUNT] })
    }

    /// Whether the CPU holds the registers.
    pub(super) fn is_in_cpu(&self) -> bool {
        ptr::eq(CPU.registers.load(Relaxed), self.registers.as_ptr())
    }

    /// The registers, after what is in the CPU alone was saved.
    pub(super) fn out_of_cpu(&mut self) -> &mut Registers {
        if self.is_in_cpu() {
            empty_cpu();
        }
        &mut self.registers
    }

    /// Lets the CPU hold the registers.
    #[inline(never)]
    pub(super) fn enter_cpu(&mut self) {
        empty_cpu();
        let registers = &*self.registers;
        // SAFETY: KERNEL_GS_BASE. X2; it waits there for the SWAPGS of the exit.
        unsafe { write_msr(0xc000_0102, registers.gs_base) }
        if registers.special & FLOATING_POINT != 0 {
            registers.restore_extended_state();
        }
        if registers.special & FS_BASE != 0 {
            set_fs_base(registers.fs_base);
        }
        if registers.special & PORTS != 0 && registers.ports == CPU.ports_of.load(Relaxed) {
            CPU.io_map_base.store(PORTS_OPEN, Relaxed);
        }
        if registers.special & BREAKPOINTS != 0 {
            let [first, second, third, fourth] =
                self.breakpoints.map(|at| at.map_or(0, |at| at.address().get()));
            let controls = self.breakpoints.iter().zip(0..).map(|(at, number)| {
                at.map_or(0, |at| 1 << (number * 2) | at.control() << (16 + number * 4))
            });
            // SAFETY: G1.
            unsafe {
                set!("mov dr0, {}", first);
                set!("mov dr1, {}", second);
                set!("mov dr2, {}", third);
                set!("mov dr3, {}", fourth);
                set!("mov dr7, {}", NO_BREAKPOINTS + controls.sum::<u64>());
            }
        }
        CPU.registers.store(self.registers.as_ptr(), Relaxed);
    }

    /// Switches the breakpoints in the CPU off, when the program has stopped (G2); what the processor
    /// said of them (DR6).
    pub(super) fn suspend_breakpoints(&mut self) -> u64 {
        let status = read!("mov {}, dr6");
        // SAFETY: G2; the status has no effect.
        unsafe {
            set!("mov dr7, {}", NO_BREAKPOINTS);
            set!("mov dr6, {}", 0xffff_0ff0_u64);
        }
        self.out_of_cpu();
        status
    }

    /// Sets the registers of the program that goes on after a light system call of one whose
    /// registers are `caller`.
    pub(super) fn answer(&mut self, caller: &SavedRegisters, result: u64, r9: u64) {
        let Registers { saved, light_word, gs_base, .. } = &mut *self.registers;
        // In the order of `Register`.
        let [r15, r14, r13, r12, _, r10, _, _, rbp, _, _, _, _, rbx, rax] = caller.general;
        let [rdi, r8, rcx] = [*light_word, *gs_base, saved.instruction_pointer];
        let (rsi, rdx, r11) = (result, result, INITIAL_FLAGS);
        saved.general = [r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax];
        saved.flags = INITIAL_FLAGS;
        saved.vector = SYSTEM_CALL;
    }

    /// Sets what else is lost behind a light system call that the kernel declined.
    pub(super) fn end_light_call(&mut self) {
        let saved = &mut self.registers.saved;
        saved.set_register(Rcx, saved.instruction_pointer);
        saved.set_register(R11, INITIAL_FLAGS);
        saved.flags = INITIAL_FLAGS;
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

    fn saved(&self) -> SavedRegisters {
        self.registers.saved
    }

    fn register(&self, register: Register) -> u64 {
        self.registers.saved.register(register)
    }

    #[inline(always)]
    fn set(&mut self, change: Change) -> Result<(), RegisterError> {
        let saved = &mut self.registers.saved;
        match change {
            Change::Register(register, value) => {
                saved.vector = if matches!(register, Rcx | R11) { 0 } else { saved.vector };
                saved.set_register(register, value);
            }
            Change::InstructionPointer(address) => saved.instruction_pointer = user(address)?,
            Change::Flags(flags) => {
                let kept = saved.flags & !(SETTABLE_FLAGS | CLEARED_FLAGS);
                saved.flags = kept | flags & SETTABLE_FLAGS;
            }
            Change::FsBase(address) => {
                let base = user(address)?;
                let registers = self.out_of_cpu();
                registers.fs_base = base;
                registers.mark(FS_BASE, base != 0);
            }
            Change::GsBase(address) => self.out_of_cpu().gs_base = user(address)?,
            Change::LightWord(value) => self.registers.light_word = value,
            Change::Breakpoint(number, breakpoint) => {
                let slot = self.breakpoints.get_mut(number);
                *slot.ok_or(RegisterError::NoSuchBreakpoint(number))? = breakpoint;
                let has = self.breakpoints.iter().any(Option::is_some);
                self.out_of_cpu().mark(BREAKPOINTS, has);
            }
            Change::PassBreakpoint => {
                saved.vector = 0;
                saved.flags |= RESUME;
            }
        }
        Ok(())
    }

    fn set_port_permissions(&mut self, permissions: Option<&PortPermissions>) {
        let registers = self.out_of_cpu();
        registers.ports = permissions.map_or(0, |permissions| permissions.name);
        registers.mark(PORTS, permissions.is_some());
    }
}

/// The name that was given last.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// A set of ports: a bitmap in two pages of the environment heap.
///
/// The processor reads a bitmap in the task state, to which it is copied only when a program needs
/// it: until then, and whenever a program runs that carries another name, the bitmap lies past the
/// end of the task state, and an access to a port is a general protection fault (`hazards` 16).
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

    /// Copies the bitmap to the task state, if `context` has this set and it is not there; whether
    /// it was not. The ports open when the CPU holds the context again.
    pub(super) fn load(&self, context: &Context) -> bool {
        let is_open = CPU.io_map_base.load(Relaxed) == PORTS_OPEN;
        if context.registers.ports != self.name || is_open && context.is_in_cpu() {
            return false;
        }
        empty_cpu();
        let words = self.halves.iter().flat_map(|half| half.iter());
        CPU.port_bitmap.iter().zip(words).for_each(|(target, word)| target.store(*word, Relaxed));
        CPU.ports_of.store(self.name, Relaxed);
        true
    }
}

/// Takes all ports from programs, until a bitmap is loaded again.
fn close_ports() {
    CPU.io_map_base.store(PORTS_CLOSED, Relaxed);
    CPU.ports_of.store(0, Relaxed);
}

impl execution::PortPermissions for PortPermissions {
    type PortRange = PortRange;

    fn set(&mut self, range: PortRange, allowed: bool) {
        close_ports();
        let words = self.halves.iter_mut().flat_map(|half| half.iter_mut());
        port_bitmap::set(words, range.first(), range.last(), allowed);
    }

    fn next(&self, from: u16) -> Option<u16> {
        port_bitmap::next(self.halves.iter().flat_map(|half| half.iter()), from)
    }
}

impl Drop for PortPermissions {
    fn drop(&mut self) {
        close_ports();
    }
}

//! A kernel that tries everything with light system calls, and checks what becomes of every register
//! (`heliox_hal::execution`). Two programs, A and B, whose registers the kernel chooses and looks at.
//!
//! Prints a line `light: NAME ok` for each test, and panics at the first thing that is not as it
//! should be. At the end A and B call each other for a tenth of a second, for whoever wants to disturb
//! them.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use heliox_hal::error::Error;
use heliox_hal::execution::{
    Execution, Heap, Kernel, LightReturn, PortPermissions as _, Registers, Running,
};
use heliox_hal::flexpage::Flexpage;
use heliox_hal::kernel_mapping::KernelMapping;
use heliox_hal::memory::{KernelMemory, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, PageMapUse, SUPPLY_LIMIT, TableSupply};
use heliox_hal::port::Ports;
use heliox_hal::region::{PhysicalRegion, RegionKind};
use heliox_hal::rights::Rights;
use heliox_hal::{Context, Hal, PortPermissions};
use heliox_log::info;
use heliox_types::Register::{
    R8, R9, R10, R11, R12, R13, R14, R15, Rax, Rbp, Rbx, Rcx, Rdi, Rdx, Rsi, Rsp,
};
use heliox_types::{
    Breakpoint, BreakpointKind, HeapError, Interrupt, LightCall, PAGE_BITS, Register,
    VirtualAddress,
};

heliox_log::kernel_main!(main);

/// Where each program has its page of code, and its page of data.
const CODE: u64 = 0x100_0000;
const DATA: u64 = 0x100_1000;

/// Pieces of code, at multiples of 16 bytes from [`CODE`] on. The first jumps to the address that
/// is in the 8 bytes from [`TARGET`] on; so do those that end with a jump to it.
const JUMP: u64 = CODE;
const TARGET: usize = 8;
const SET_VECTOR: u64 = CODE + 16;
const GET_VECTOR: u64 = CODE + 32;
const SET_FS: u64 = CODE + 48;
const GET_FS: u64 = CODE + 64;
const SET_GS: u64 = CODE + 80;
const GET_GS: u64 = CODE + 96;
const INPUT: u64 = CODE + 112;
const STOP: u64 = CODE + 128;
const PIECES: [&[u8]; 9] = [
    // jmp [rip + 2]; nop; nop; TARGET
    &[0xff, 0x25, 0x02, 0, 0, 0, 0x90, 0x90, 0, 0, 0, 0, 0, 0, 0, 0],
    // movq xmm0, rbx; jmp JUMP
    &[0x66, 0x48, 0x0f, 0x6e, 0xc3, 0xeb, 0xe9],
    // movq rbx, xmm0; int3
    &[0x66, 0x48, 0x0f, 0x7e, 0xc3, 0xcc],
    // wrfsbase rbx; jmp JUMP
    &[0xf3, 0x48, 0x0f, 0xae, 0xd3, 0xeb, 0xc9],
    // rdfsbase rbx; int3
    &[0xf3, 0x48, 0x0f, 0xae, 0xc3, 0xcc],
    // wrgsbase rbx; jmp JUMP
    &[0xf3, 0x48, 0x0f, 0xae, 0xdb, 0xeb, 0xa9],
    // rdgsbase rbx; int3
    &[0xf3, 0x48, 0x0f, 0xae, 0xcb, 0xcc],
    // in al, dx; int3
    &[0xec, 0xcc],
    // int3
    &[0xcc],
];

/// The page of stubs: `syscall; int3`, and 16 bytes on `syscall; ret`, and 16 bytes on, for the
/// last test, `1: syscall; dec rbx; jnz 1b; int3`.
const STUBS: [u8; 48] = {
    let mut stubs = [0xcc; 48];
    (stubs[0], stubs[1]) = (0x0f, 0x05);
    (stubs[16], stubs[17], stubs[18]) = (0x0f, 0x05, 0xc3);
    (stubs[32], stubs[33], stubs[34], stubs[35], stubs[36], stubs[37], stubs[38]) =
        (0x0f, 0x05, 0x48, 0xff, 0xcb, 0x75, 0xf9);
    stubs
};

/// The registers that a light call passes on.
const MESSAGE: [Register; 9] = [Rax, Rbx, Rbp, R9, R10, R12, R13, R14, R15];
/// All others that a program computes with.
const OTHERS: [Register; 7] = [Rcx, Rdx, Rsi, Rdi, R8, R11, Rsp];

const SECOND: u64 = 1_000_000;

/// What a light call gives in RSI and RDX.
const RESULT: u64 = 0x5265_7375_6c74;
/// The flags behind a light call.
const FLAGS: u64 = 0x202;
/// A port that B may use in some tests: the scratch register of COM1.
const PORT: u16 = 0x3ff;

fn address(value: u64) -> VirtualAddress {
    VirtualAddress::new(value).unwrap_or(VirtualAddress::ZERO)
}

/// Pages of a region, in order.
struct Pages(PhysicalRegion, u64);

impl Pages {
    fn next(&mut self) -> Result<PhysicalRegion, Error> {
        let start = self.0.first_frame().address();
        let page = start.checked_add(self.1 << PAGE_BITS).unwrap_or(start);
        self.1 += 1;
        self.0.derive(Flexpage::physical(page, PAGE_BITS)?)
    }
}

/// A program: an address space with a page of code, which the kernel has, too, and one of data.
struct Program {
    _map: PageMap,
    held: PageMapUse,
    code: KernelMapping,
    data: KernelMapping,
    context: Context,
    light_word: u64,
    gs_base: u64,
}

impl Program {
    /// `number` makes its light word and its GS base its own.
    fn new(hal: &mut Hal, pages: &mut Pages, number: u64) -> Result<Self, Error> {
        let cpu = hal.cpu();
        let root = hal.memory().create_page_map_page(pages.next()?)?;
        let mut map = hal.memory().allocate_page_map(root).map_err(|refused| refused.error)?;
        let mut supply = TableSupply::EMPTY;
        while supply.count() < SUPPLY_LIMIT {
            let page = hal.memory().create_page_map_page(pages.next()?)?;
            assert!(supply.add(page).is_ok(), "the supply has room");
        }
        let mut mappings = [None, None];
        let wanted = [(CODE, Rights::ReadExecute), (DATA, Rights::ReadWrite)];
        for (mapping, (start, rights)) in mappings.iter_mut().zip(wanted) {
            let page = pages.next()?;
            let to = address(start);
            hal.memory().add_mapping(&mut map, to, page, rights, None, &mut supply)?;
            let open =
                hal.memory().add_kernel_mapping(cpu, page, Rights::ReadWrite, false, None)?;
            hal.memory().clear(&open)?;
            *mapping = Some(open);
        }
        let [Some(code), Some(data)] = mappings else { panic!("both are there") };
        for (piece, start) in PIECES.iter().zip((0..).step_by(16)) {
            hal.memory().write_bytes(&code, start, piece)?;
        }
        let held = hal.memory().attach(&map)?;
        let Ok(mut context) = hal.new_context() else { panic!("the heap has no room") };
        let (light_word, gs_base) =
            (0x6c69_6768_7400 + number, 0x6773_0000 + (number << PAGE_BITS));
        context.set_light_word(light_word);
        assert!(context.set_gs_base(address(gs_base)).is_ok(), "it is a user address");
        Ok(Self { _map: map, held, code, data, context, light_word, gs_base })
    }

    fn go_to(&mut self, start: u64) {
        assert!(self.context.set_instruction_pointer(address(start)).is_ok(), "it is its code");
    }

    /// Gives every register a value of its own, all made from `pattern`.
    fn fill(&mut self, pattern: u64) {
        for (register, number) in MESSAGE.into_iter().chain(OTHERS).zip(1..) {
            self.context.set_register(register, pattern ^ number);
        }
    }
}

/// What the kernel does with a light call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    /// The program that called goes on.
    Same,
    /// The other one does.
    Other,
    /// Nothing.
    Decline,
}

/// The kernel of all tests.
struct Test {
    hal: Hal,
    programs: [Program; 2],
    /// The running one: 0 is A.
    current: usize,
    answer: Answer,
    /// The last call.
    call: Option<LightCall>,
    /// How many there were.
    calls: u64,
    /// How long a program may run, in microseconds.
    limit: u64,
}

impl Kernel for Test {
    type Machine = Hal;

    const ANSWERS_LIGHT_CALLS: bool = true;

    fn running(&mut self) -> Running<'_, Hal> {
        let [a, b] = &mut self.programs;
        let program = if self.current == 0 { a } else { b };
        Running { machine: &mut self.hal, map: &program.held, context: &mut program.context }
    }

    fn light_call(&mut self, call: LightCall) -> Option<LightReturn<'_, Hal>> {
        self.call = Some(call);
        self.calls += 1;
        match self.answer {
            Answer::Same => {}
            Answer::Other => self.current ^= 1,
            Answer::Decline => return None,
        }
        Some(LightReturn { next: self.running(), result: RESULT, tag: None })
    }
}

/// What a program can have that makes it special.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Special {
    Nothing,
    FloatingPoint,
    FsBase,
    /// Set by the program itself.
    OwnFsBase,
    Breakpoint,
    Ports,
}

const SPECIALS: [Special; 6] = [
    Special::Nothing,
    Special::FloatingPoint,
    Special::FsBase,
    Special::OwnFsBase,
    Special::Breakpoint,
    Special::Ports,
];

impl Test {
    /// Whether programs can set the bases of FS and GS by themselves.
    fn has_bases(&self) -> bool {
        self.hal.report.features.fs_gs_base
    }

    /// What there can be of special on this processor.
    fn specials(&self) -> impl Iterator<Item = Special> + use<> {
        let has_bases = self.has_bases();
        SPECIALS.into_iter().filter(move |special| has_bases || *special != Special::OwnFsBase)
    }

    fn a(&mut self) -> &mut Program {
        let [a, _] = &mut self.programs;
        a
    }

    fn b(&mut self) -> &mut Program {
        let [_, b] = &mut self.programs;
        b
    }

    /// Makes the jumps of both programs go to `target`.
    fn set_target(&mut self, target: u64) {
        for program in &self.programs {
            let bytes = target.to_le_bytes();
            let written = self.hal.memory().write_bytes(&program.code, TARGET, &bytes);
            assert!(written.is_ok(), "the code can be written");
        }
    }

    /// Runs program `number` (0 is A) from `start` on until something stops.
    fn run(&mut self, number: usize, start: u64) -> Interrupt {
        self.current = number;
        let program = if number == 0 { self.a() } else { self.b() };
        program.go_to(start);
        self.execute()
    }

    /// Runs until something stops, but no longer than [`Test::limit`].
    fn execute(&mut self) -> Interrupt {
        let deadline = self.hal.now() + self.limit;
        self.call = None;
        loop {
            self.hal.set_deadline(Some(deadline));
            let stop = Hal::execute_kernel(self);
            // Not one of the time before, nor one that is early.
            if stop != Interrupt::Timer || self.hal.now() >= deadline {
                return stop;
            }
        }
    }

    /// Lets program `number` call the stub at `stub`, without an answer: it waits behind the call.
    fn block(&mut self, number: usize, stub: u64) {
        self.answer = Answer::Decline;
        self.set_target(stub);
        let stop = self.run(number, JUMP);
        assert_eq!(stop, Interrupt::SystemCall, "the call is not answered");
    }

    /// Makes program `number` as if new, but for `special`.
    fn renew(&mut self, number: usize, special: Special, ports: &PortPermissions) {
        let Ok(mut context) = self.hal.new_context() else { panic!("the heap has no room") };
        let program = if number == 0 { self.a() } else { self.b() };
        context.set_light_word(program.light_word);
        let mut done = context.set_gs_base(address(program.gs_base));
        match special {
            Special::Nothing | Special::FloatingPoint | Special::OwnFsBase => {}
            Special::FsBase => done = context.set_fs_base(address(0x1234_5000)),
            Special::Breakpoint => {
                let at = Breakpoint::new(address(GET_VECTOR), BreakpointKind::Execute).ok();
                done = context.set_breakpoint(2, at);
            }
            Special::Ports => context.set_port_permissions(Some(ports)),
        }
        assert_eq!(done, Ok(()));
        program.context = context;
        self.set_target(STOP);
        let start = match special {
            Special::FloatingPoint => SET_VECTOR,
            Special::OwnFsBase => SET_FS,
            _ => STOP,
        };
        let (program, value) = if number == 0 { (self.a(), 0xaaaa) } else { (self.b(), 0xbbbb) };
        program.context.set_register(Rbx, value);
        assert_eq!(self.run(number, start), Interrupt::Exception { vector: 3, error_code: 0 });
    }

    /// After a light call of A to `stub`, with registers made of `pattern`, B or A went on behind that
    /// stub: an INT3.
    fn check_registers(&mut self, goes_on: usize, stub: u64, pattern: u64, stack: u64, what: &str) {
        let program = if goes_on == 0 { self.a() } else { self.b() };
        let (light_word, gs_base) = (program.light_word, program.gs_base);
        let saved = program.context.saved();
        for (register, number) in MESSAGE.into_iter().zip(1..) {
            assert_eq!(saved.register(register), pattern ^ number, "{what}: {register:?}");
        }
        let expected = [
            (Rdi, light_word),
            (Rsi, RESULT),
            (Rdx, RESULT),
            (R8, gs_base),
            (Rcx, stub + 2),
            (R11, FLAGS),
            (Rsp, stack),
        ];
        for (register, value) in expected {
            assert_eq!(saved.register(register), value, "{what}: {register:?}");
        }
        assert_eq!(saved.flags, FLAGS, "{what}: flags");
        assert_eq!(saved.instruction_pointer, stub + 3, "{what}: behind the INT3");
    }

    /// Each of A and B with each speciality, A calls and A or B goes on: always the same.
    fn every_kind_of_context_means_the_same(&mut self, stubs: u64, ports: &PortPermissions) {
        let trap = Interrupt::Exception { vector: 3, error_code: 0 };
        for of_a in self.specials() {
            for of_b in self.specials() {
                let what = [of_a, of_b];
                self.renew(0, of_a, ports);
                self.renew(1, of_b, ports);
                let stack = 0xb0b0;
                self.b().fill(0xb0b0_b0b0_b0b0_b0b0);
                self.b().context.set_register(Rsp, stack);
                self.block(1, stubs);
                self.a().fill(0xa0a0_a0a0_a0a0_a0a0);
                self.set_target(stubs);
                for answer in [Answer::Same, Answer::Other] {
                    let pattern = 0xa1a2_a3a4_a5a6_a7a8 ^ (answer as u64) << 32;
                    self.a().fill(pattern);
                    let own = self.a().context.stack_pointer();
                    self.answer = answer;
                    assert_eq!(self.run(0, JUMP), trap, "{what:?}");
                    let (goes_on, stack) =
                        if answer == Answer::Same { (0, own) } else { (1, stack) };
                    assert_eq!(self.current, goes_on);
                    let Some(call) = self.call else { panic!("{what:?}: there was a call") };
                    let arguments = [call.rdi, call.rsi, call.rdx, call.r8, call.r9];
                    let registers = [Rdi, Rsi, Rdx, R8, R9];
                    let number = |of: Register| {
                        MESSAGE.iter().chain(&OTHERS).zip(1..).find(|(other, _)| **other == of)
                    };
                    for (value, register) in arguments.into_iter().zip(registers) {
                        let number = number(register).map_or(0, |(_, number)| number);
                        assert_eq!(value, pattern ^ number, "{what:?}: {register:?}");
                    }
                    assert_eq!(call.instruction_pointer, stubs + 2);
                    self.check_registers(goes_on, stubs, pattern, stack, "registers");
                }
            }
        }
        info!("light: every kind of context means the same ok");
    }

    /// A declined call leaves all registers as they were.
    fn a_declined_call_is_as_any_other(&mut self, stubs: u64, ports: &PortPermissions) {
        for special in self.specials() {
            self.renew(0, special, ports);
            let pattern = 0xd0d1_d2d3_d4d5_d6d7;
            self.a().fill(pattern);
            self.block(0, stubs);
            let saved = self.a().context.saved();
            for (register, number) in MESSAGE.into_iter().chain(OTHERS).zip(1..) {
                let value = match register {
                    Rcx => stubs + 2,
                    R11 => FLAGS,
                    _ => pattern ^ number,
                };
                assert_eq!(saved.register(register), value, "{special:?}: {register:?}");
            }
            assert_eq!((saved.flags, saved.instruction_pointer), (FLAGS, stubs + 2));
            // And goes on from there.
            let stop = self.execute();
            assert_eq!(stop, Interrupt::Exception { vector: 3, error_code: 0 }, "{special:?}");
        }
        info!("light: a declined call is as any other ok");
    }

    /// A kernel that answers no light calls gets a system call.
    fn without_answers_it_is_a_system_call(&mut self, stubs: u64) {
        self.set_target(stubs);
        let [a, _] = &mut self.programs;
        a.fill(0x77);
        a.go_to(JUMP);
        let stop = self.hal.execute(&a.held, &mut a.context);
        assert_eq!(stop, Interrupt::SystemCall);
        assert_eq!(a.context.instruction_pointer(), stubs + 2);
        info!("light: without answers it is a system call ok");
    }

    /// Vector registers, FS base, GS base, breakpoints and ports are each program's own.
    fn what_is_special_stays_at_home(&mut self, stubs: u64, ports: &PortPermissions) {
        let trap = Interrupt::Exception { vector: 3, error_code: 0 };
        // A sets something and calls; B looks; B calls, A looks.
        for (set, get, at_home, initial) in [
            (SET_VECTOR, GET_VECTOR, 0xaaaa, 0),
            (SET_FS, GET_FS, 0xaaaa, 0),
            (SET_GS, GET_GS, self.a().gs_base, self.b().gs_base),
        ] {
            if set != SET_VECTOR && !self.has_bases() {
                continue;
            }
            self.renew(0, Special::Nothing, ports);
            self.renew(1, Special::Nothing, ports);
            self.set_target(stubs);
            self.answer = Answer::Other;
            self.a().context.set_register(Rbx, 0xaaaa);
            self.b().go_to(get);
            assert_eq!(self.run(0, set), trap);
            assert_eq!((self.current, self.b().context.register(Rbx)), (1, initial), "{set:#x}");
            self.a().go_to(get);
            assert_eq!(self.run(1, JUMP), trap);
            assert_eq!((self.current, self.a().context.register(Rbx)), (0, at_home), "{set:#x}");
        }
        // Only B may use the port: it does, then A tries.
        for answer in [Answer::Same, Answer::Other] {
            self.renew(0, Special::Nothing, ports);
            self.renew(1, Special::Ports, ports);
            self.b().context.set_register(Rdx, u64::from(PORT));
            let refused = Interrupt::Exception { vector: 13, error_code: 0 };
            let mut stop = self.run(1, INPUT);
            if stop == refused {
                let [_, b] = &self.programs;
                assert!(self.hal.load_port_permissions(&b.context, ports));
                stop = self.execute();
            }
            assert_eq!(stop, trap);
            self.set_target(stubs);
            self.answer = answer;
            self.a().go_to(INPUT);
            let goes_on = if answer == Answer::Same { self.b() } else { self.a() };
            goes_on.go_to(INPUT);
            // RDX is the result now: no port that anybody may use.
            self.current = 1;
            assert_eq!(self.run(1, JUMP), if answer == Answer::Same { trap } else { refused });
        }
        // B's breakpoint stops B, not A.
        for (from, special, stop) in [
            (
                0,
                [Special::Nothing, Special::Breakpoint],
                Interrupt::Exception { vector: 1, error_code: 0 },
            ),
            (1, [Special::Nothing, Special::Breakpoint], trap),
        ] {
            let [of_a, of_b] = special;
            self.renew(0, of_a, ports);
            self.renew(1, of_b, ports);
            self.set_target(stubs);
            self.answer = Answer::Other;
            let to = if from == 0 { self.b() } else { self.a() };
            to.go_to(GET_VECTOR);
            let stopped = self.run(from, JUMP);
            match (stop, stopped) {
                (
                    Interrupt::Exception { vector: 1, .. },
                    Interrupt::Exception { vector: 1, error_code },
                ) => {
                    assert_eq!(error_code & 0xf, 1 << 2, "the breakpoint's number");
                }
                (expected, stopped) => assert_eq!(expected, stopped),
            }
        }
        info!("light: what is special stays at home ok");
    }

    /// A goes anywhere into the page of stubs, with registers that are wild, and the kernel answers
    /// in every way. Whatever happens stops a program.
    fn wild_jumps_stop_the_program_alone(&mut self, stubs: u64, ports: &PortPermissions) {
        let wild = [
            0,
            u64::MAX,
            0x0000_7fff_ffff_ffff,
            0x0000_8000_0000_0000,
            0xffff_7fff_ffff_ffff,
            0xffff_8000_0000_0000,
            0xffff_ffff_8020_8000,
            DATA,
        ];
        let mut stops = 0_u64;
        for special in [Special::Nothing, Special::FloatingPoint] {
            self.limit = SECOND;
            self.renew(0, special, ports);
            self.renew(1, special, ports);
            self.limit = 5;
            for offset in 0..64 {
                self.set_target(stubs + offset);
                for answer in [Answer::Same, Answer::Other, Answer::Decline] {
                    for pattern in wild {
                        for stack in wild {
                            // Where a return would lead.
                            let bytes = pattern.to_le_bytes();
                            for program in &self.programs {
                                let written =
                                    self.hal.memory().write_bytes(&program.data, 0, &bytes);
                                assert!(written.is_ok(), "the data can be written");
                            }
                            for program in [0, 1] {
                                let program = if program == 0 { self.a() } else { self.b() };
                                for register in MESSAGE.into_iter().chain(OTHERS) {
                                    program.context.set_register(register, pattern);
                                }
                                // Not too many rounds of the last stub.
                                program.context.set_register(Rbx, pattern | 1 & !(u64::MAX << 3));
                                program.context.set_register(Rsp, stack);
                            }
                            self.answer = answer;
                            self.b().go_to(STOP);
                            let stop = self.run(0, JUMP);
                            assert!(!matches!(stop, Interrupt::External(_)), "{stop:?}");
                            stops += 1;
                        }
                    }
                }
            }
        }
        self.limit = SECOND;
        info!("light: {stops} wild jumps stop the program alone ok");
    }

    /// A and B call each other, until the timer says stop.
    fn they_go_on_for_long(&mut self, stubs: u64, ports: &PortPermissions) {
        self.renew(0, Special::Nothing, ports);
        self.renew(1, Special::Nothing, ports);
        for number in [0, 1] {
            self.block(number, stubs + 32);
        }
        info!("light: ready");
        let end = self.hal.now() + 100_000;
        self.limit = 1000;
        self.answer = Answer::Other;
        self.calls = 0;
        while self.hal.now() < end {
            let Running { context, .. } = self.running();
            context.set_register(Rbx, u64::MAX);
            assert_eq!(self.execute(), Interrupt::Timer);
        }
        assert!(self.calls > 1_000, "{} calls", self.calls);
        info!("light: they go on for long ok");
    }
}

/// Tables of the heap hold what they were made with, do not overlap, and are refused without room.
fn tables_hold_what_they_were_made_with(hal: &mut Hal) {
    let free = hal.heap_frames();
    let many = (free.bytes() / size_of::<[u16; 3]>() as u64) as usize;
    let bytes = (many + 1) * size_of::<[u16; 3]>();
    let refused = hal.heap_slice(many + 1, |_| [0_u16; 3]).err();
    assert_eq!(refused, Some(HeapError::TooLarge { bytes }));
    assert_eq!(
        hal.heap_slice(usize::MAX, |_| 0_u64),
        Err(HeapError::TooLarge { bytes: usize::MAX })
    );
    assert_eq!(hal.heap_frames(), free);
    let make = |index: usize| [index as u16, !index as u16, 7];
    let (Ok(first), Ok(second), Ok(last)) = (
        hal.heap_slice(1000, make),
        hal.heap_slice(1, |index| index as u128),
        hal.heap_slice(1000, make),
    ) else {
        panic!("the heap has no room for tables")
    };
    assert_eq!(free.count() - hal.heap_frames().count(), 2 + 1 + 2);
    second.fill(u128::MAX);
    for table in [first, last] {
        assert!(table.iter().copied().eq((0..1000).map(make)));
        table.fill([0; 3]);
    }
    assert_eq!(second, [u128::MAX]);
    let used = hal.place_slice(free, 1, |_| 0_u8).err();
    assert_eq!(used, Some(HeapError::NotFree(free)));
    info!("light: tables hold what they were made with ok");
}

fn run(mut hal: Hal) -> Result<Hal, Error> {
    let cpu = hal.cpu();
    let is_good =
        |it: &PhysicalRegion| it.kind() == RegionKind::Ram && (22..30).contains(&it.bits());
    let region = hal.memory().initial_regions().find(is_good);
    let Some(region) = region else {
        return Err(Error::BadSize { bits: 22 });
    };
    let mut pages = Pages(region, 0);
    let page = pages.next()?;
    let open = hal.memory().add_kernel_mapping(cpu, page, Rights::ReadWrite, false, None)?;
    hal.memory().clear(&open)?;
    hal.memory().write_bytes(&open, 0, &STUBS)?;
    let (page, _) = hal.memory().remove_kernel_mapping(cpu, open);
    let stubs = hal.memory().add_kernel_mapping(cpu, page, Rights::ReadExecute, true, None)?;
    let stubs = stubs.address().get();
    let programs = [Program::new(&mut hal, &mut pages, 1)?, Program::new(&mut hal, &mut pages, 2)?];
    let Ok(mut ports) = hal.new_port_permissions() else { panic!("the heap has no room") };
    let range = hal.initial_ports().find_map(|range| range.derive(PORT, PORT).ok());
    range.into_iter().for_each(|range| ports.grant(range));

    let mut test = Test {
        hal,
        programs,
        current: 0,
        answer: Answer::Decline,
        call: None,
        calls: 0,
        limit: SECOND,
    };
    test.every_kind_of_context_means_the_same(stubs, &ports);
    test.a_declined_call_is_as_any_other(stubs, &ports);
    test.without_answers_it_is_a_system_call(stubs);
    test.what_is_special_stays_at_home(stubs, &ports);
    test.wild_jumps_stop_the_program_alone(stubs, &ports);
    test.they_go_on_for_long(stubs, &ports);
    Ok(test.hal)
}

fn main(mut hal: Hal) -> ! {
    heliox_clock::start(&mut hal);
    tables_hold_what_they_were_made_with(&mut hal);
    let objects = hal.heap_frames();
    assert!(hal.grow_heap(objects).is_ok(), "the heap's pages are free");
    match run(hal) {
        Ok(hal) => {
            let unexpected = hal.events().unexpected;
            if unexpected > 0 {
                info!("{unexpected} interrupts that nobody had asked for");
            }
            heliox_log::stop(0)
        }
        Err(error) => panic!("{error}"),
    }
}

//! What operations of the abstraction layer cost, in ticks of the time-stamp counter. Under
//! `heliox boot --icount` a tick is an instruction, and every run prints the same.
//!
//! Prints lines `measure: NAME: NUMBER`, each the mean of many rounds, rounded.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use heliox_hal::error::Error;
use heliox_hal::execution::{Execution, Heap, Kernel, LightReturn, Registers, Running};
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{KernelMemory, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, PageMapUse, SUPPLY_LIMIT, TableSupply};
use heliox_hal::region::{PhysicalRegion, RegionKind};
use heliox_hal::rights::Rights;
use heliox_hal::{Context, Hal};
use heliox_log::info;
use heliox_types::{Interrupt, LightCall, PAGE_BITS, Register, VirtualAddress};

heliox_log::kernel_main!(main);

/// Where the programs' code is, and where measured mappings go.
const CODE: u64 = 0x100_0000;
const DATA: u64 = 0x4000_0000;
const GIBIBYTE_BITS: u32 = 30;

/// Rounds of each measurement.
const ROUNDS: u64 = 1000;

/// `1: syscall; jmp 1b`
const CALLS: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];

/// `1: syscall; dec rbx; jnz 1b; int3; jmp 1b`
const STUBS: [u8; 10] = [0x0f, 0x05, 0x48, 0xff, 0xcb, 0x75, 0xf9, 0xcc, 0xeb, 0xf6];

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

/// An address space with a program in it, and a context that runs it.
struct Program {
    map: PageMap,
    held: PageMapUse,
    context: Context,
}

fn address(start: u64) -> VirtualAddress {
    VirtualAddress::new(start).unwrap_or(VirtualAddress::ZERO)
}

fn fill(hal: &mut Hal, pages: &mut Pages, supply: &mut TableSupply) -> Result<(), Error> {
    while supply.count() < SUPPLY_LIMIT {
        let page = hal.memory().create_page_map_page(pages.next()?)?;
        assert!(supply.add(page).is_ok(), "the supply has room");
    }
    Ok(())
}

/// A page with `code` at its start.
fn page_with(hal: &mut Hal, pages: &mut Pages, code: &[u8]) -> Result<PhysicalRegion, Error> {
    let cpu = hal.cpu();
    let page = pages.next()?;
    let window = hal.memory().add_kernel_mapping(cpu, page, Rights::ReadWrite, false, None)?;
    hal.memory().write_bytes(&window, 0, code)?;
    let (page, _) = hal.memory().remove_kernel_mapping(cpu, window);
    Ok(page)
}

fn program(
    hal: &mut Hal,
    pages: &mut Pages,
    supply: &mut TableSupply,
    code: &[u8],
) -> Result<Program, Error> {
    let page = page_with(hal, pages, code)?;
    let root = hal.memory().create_page_map_page(pages.next()?)?;
    let mut map = hal.memory().allocate_page_map(root).map_err(|refused| refused.error)?;
    fill(hal, pages, supply)?;
    let to = address(CODE);
    hal.memory().add_mapping(&mut map, to, page, Rights::ReadExecute, None, supply)?;
    let Ok(mut context) = hal.new_context() else { panic!("the heap has no room") };
    let start = context.set_instruction_pointer(to);
    assert!(start.is_ok(), "the code is at a user address");
    let held = hal.memory().attach(&map)?;
    Ok(Program { map, held, context })
}

/// Ticks of one null system call of the program of `context`, on the average, in the two address
/// spaces in turns.
fn null_calls(hal: &mut Hal, maps: [&PageMapUse; 2], context: &mut Context) -> u64 {
    let mut ticks = |rounds| {
        let start = hal.events().ticks;
        for round in 0..rounds {
            let [even, odd] = maps;
            let stop = hal.execute(if round % 2 == 0 { even } else { odd }, context);
            assert!(stop == Interrupt::SystemCall, "the program does nothing else");
        }
        hal.events().ticks - start
    };
    ticks(1);
    ticks(ROUNDS).div_ceil(ROUNDS)
}

/// A kernel that answers light system calls of a program by running the same one again.
struct Null<'run>(&'run mut Hal, &'run mut Program);

/// A kernel that answers light system calls of one program by running the other.
struct Switch<'run>(&'run mut Hal, &'run mut Program, &'run mut Program);

fn running<'run>(machine: &'run mut Hal, program: &'run mut Program) -> Running<'run, Hal> {
    Running { machine, map: &program.held, context: &mut program.context }
}

impl Kernel for Null<'_> {
    type Machine = Hal;

    const ANSWERS_LIGHT_CALLS: bool = true;

    fn running(&mut self) -> Running<'_, Hal> {
        running(self.0, self.1)
    }

    fn light_call(&mut self, call: LightCall) -> Option<LightReturn<'_, Hal>> {
        Some(LightReturn { next: running(self.0, self.1), result: call.rsi, tag: None })
    }
}

impl Kernel for Switch<'_> {
    type Machine = Hal;

    const ANSWERS_LIGHT_CALLS: bool = true;

    fn running(&mut self) -> Running<'_, Hal> {
        running(self.0, self.1)
    }

    fn light_call(&mut self, call: LightCall) -> Option<LightReturn<'_, Hal>> {
        core::mem::swap(&mut self.1, &mut self.2);
        Some(LightReturn { next: running(self.0, self.1), result: call.rsi, tag: None })
    }
}

/// Ticks of one light call, on the average, and of the two instructions of the program behind it. RBX
/// counts down, and is passed on.
fn light_round<K: Kernel<Machine = Hal>>(kernel: &mut K) -> u64 {
    let mut ticks = |rounds| {
        let Running { machine, context, .. } = kernel.running();
        context.set_register(Register::Rbx, rounds);
        let start = machine.events().ticks;
        let stop = Hal::execute_kernel(kernel);
        assert!(stop == Interrupt::Exception { vector: 3, error_code: 0 }, "{stop:?}");
        kernel.running().machine.events().ticks - start
    };
    ticks(1);
    let few = ticks(1);
    (ticks(1 + ROUNDS) - few).div_ceil(ROUNDS)
}

/// Ticks of one round of `body`, on the average, without what counting costs.
#[inline(always)]
fn measure<T>(hal: &mut Hal, it: &mut T, mut body: impl FnMut(&mut Hal, &mut T)) -> u64 {
    let empty = ticks(hal, it, |_, _| {});
    let full = ticks(hal, it, &mut body);
    (full - empty).div_ceil(ROUNDS)
}

#[inline(always)]
fn ticks<T>(hal: &mut Hal, it: &mut T, mut body: impl FnMut(&mut Hal, &mut T)) -> u64 {
    body(hal, it);
    let start = hal.events().ticks;
    for _ in 0..ROUNDS {
        body(hal, core::hint::black_box(it));
    }
    hal.events().ticks - start
}

fn run(hal: &mut Hal) -> Result<(), Error> {
    let cpu = hal.cpu();
    let regions = |hal: &mut Hal, bits: core::ops::Range<u32>| {
        let mut regions = hal.memory().initial_regions();
        regions.find(|it| it.kind() == RegionKind::Ram && bits.contains(&it.bits()))
    };
    let Some(small) = regions(hal, 22..GIBIBYTE_BITS) else {
        return Err(Error::BadSize { bits: 22 });
    };
    let large = regions(hal, GIBIBYTE_BITS..64);
    let mut pages = Pages(small, 0);
    let mut supply = TableSupply::EMPTY;
    let mut first = program(hal, &mut pages, &mut supply, &CALLS)?;
    let second = program(hal, &mut pages, &mut supply, &CALLS)?;
    fill(hal, &mut pages, &mut supply)?;

    // Two instructions of each round are the program's, of which one is the system call.
    let one = null_calls(hal, [&first.held, &first.held], &mut first.context);
    info!("measure: null system call, full context: {}", one - 1);
    let two = null_calls(hal, [&first.held, &second.held], &mut first.context);
    info!("measure: switching the page map adds: {}", two.saturating_sub(one));

    // The stubs, which every program sees; and programs that call them and never stop: `mov rax,
    // STUBS; jmp rax`.
    let page = page_with(hal, &mut pages, &STUBS)?;
    let stubs = hal.memory().add_kernel_mapping(cpu, page, Rights::ReadExecute, true, None)?;
    let mut code = [0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0];
    if let Some(address) = code.get_mut(2..10) {
        address.copy_from_slice(&stubs.address().get().to_le_bytes());
    }
    let mut one = program(hal, &mut pages, &mut supply, &code)?;
    let mut other = program(hal, &mut pages, &mut supply, &code)?;
    fill(hal, &mut pages, &mut supply)?;
    for program in [&mut one, &mut other] {
        program.context.set_register(Register::Rbx, 1);
        let stop = hal.execute(&program.held, &mut program.context);
        assert!(stop == Interrupt::SystemCall, "no kernel answers");
    }
    let cost = light_round(&mut Null(hal, &mut one));
    info!("measure: null system call, light: {}", cost - 2);
    let cost = light_round(&mut Switch(hal, &mut one, &mut other));
    info!("measure: light call to another address space: {}", cost - 2);

    // A neighbour keeps the tables.
    let page = pages.next()?;
    let neighbour = pages.next()?;
    let (to, beside) = (address(DATA), address(DATA + (1 << PAGE_BITS)));
    let map = &mut first.map;
    hal.memory().add_mapping(map, beside, neighbour, Rights::Read, None, &mut supply)?;
    let mut it = (first.map, supply);
    let cost = measure(hal, &mut it, |hal, (map, supply)| {
        let added = hal.memory().add_mapping(map, to, page, Rights::ReadWrite, None, supply);
        let removed = hal.memory().remove_mapping(cpu, map, to);
        core::hint::black_box((added.is_ok(), removed.is_ok()));
    });
    info!("measure: add and remove a mapping of 4 KiB: {cost}");
    let (map, supply) = &mut it;
    let start = hal.events().ticks;
    hal.memory().add_mapping(map, to, page, Rights::ReadWrite, None, supply)?;
    let cost = hal.events().ticks - start;
    info!("measure: add one mapping of 4 KiB, with reading the counter: {cost}");

    match large {
        Some(large) => {
            let start = large.first_frame().address();
            let large = large.derive(Flexpage::physical(start, GIBIBYTE_BITS)?)?;
            let to = address(2 * DATA);
            let start = hal.events().ticks;
            hal.memory().add_mapping(map, to, large, Rights::Read, None, supply)?;
            let cost = hal.events().ticks - start;
            info!("measure: map 1 GiB as one page: {cost}");
        }
        None => info!("measure: no region of 1 GiB on this machine"),
    }
    Ok(())
}

fn main(mut hal: Hal) -> ! {
    let objects = hal.heap_frames();
    assert!(hal.grow_heap(objects).is_ok(), "the heap's pages are free");
    match run(&mut hal) {
        Ok(()) => heliox_log::stop(0),
        Err(error) => panic!("{error}"),
    }
}

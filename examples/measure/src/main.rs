//! What operations of the abstraction layer cost, in ticks of the time-stamp counter. Under
//! `heliox boot --icount` a tick is an instruction, and every run prints the same.
//!
//! Prints lines `measure: NAME: NUMBER`, each the mean of many rounds, rounded.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use heliox_hal::error::Error;
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{KernelMemory, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, PageMapUse, SUPPLY_LIMIT, TableSupply};
use heliox_hal::region::{PhysicalRegion, RegionKind};
use heliox_hal::rights::Rights;
use heliox_hal::{Context, Hal, Interrupt, info};
use heliox_types::{PAGE_BITS, VirtualAddress};

heliox_hal::kernel_main!(main);

/// Where the programs' code is, and where measured mappings go.
const CODE: u64 = 0x100_0000;
const DATA: u64 = 0x4000_0000;
const GIBIBYTE_BITS: u32 = 30;

/// Rounds of each measurement.
const ROUNDS: u64 = 1000;

/// `1: syscall; jmp 1b`
const PROGRAM: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];

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

/// An address space with [`PROGRAM`] in it, and a context that runs it.
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

fn program(hal: &mut Hal, pages: &mut Pages, supply: &mut TableSupply) -> Result<Program, Error> {
    let cpu = hal.cpu();
    let page = pages.next()?;
    let window = hal.memory().add_kernel_mapping(cpu, page, Rights::ReadWrite, false, None)?;
    hal.memory().write_bytes(&window, 0, &PROGRAM)?;
    let (page, _) = hal.memory().remove_kernel_mapping(cpu, window);
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

/// Ticks of one round of `body`, on the average, without what counting costs.
fn measure<T>(hal: &mut Hal, it: &mut T, body: impl FnMut(&mut Hal, &mut T)) -> u64 {
    let empty = ticks(hal, it, |_, _| {});
    let full = ticks(hal, it, body);
    (full - empty).div_ceil(ROUNDS)
}

/// Ticks of all rounds. There is one call of `body`, which the compiler therefore makes part of the
/// loop: what is measured is what `body` does, not the call of it.
fn ticks<T>(hal: &mut Hal, it: &mut T, mut body: impl FnMut(&mut Hal, &mut T)) -> u64 {
    let start = hal.timer().ticks();
    for _ in 0..ROUNDS {
        body(hal, core::hint::black_box(it));
    }
    hal.timer().ticks() - start
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
    let mut first = program(hal, &mut pages, &mut supply)?;
    let mut second = program(hal, &mut pages, &mut supply)?;
    fill(hal, &mut pages, &mut supply)?;

    // Two instructions of each round are the program's.
    let one = measure(hal, &mut first, |hal, program| {
        core::hint::black_box(hal.execute(&program.held, &mut program.context));
    });
    let stop = hal.execute(&first.held, &mut first.context);
    assert!(stop == Interrupt::SystemCall, "the program does nothing else");
    info!("measure: null system call, full context: {}", one - 1);
    let mut both = (first, second);
    let two = measure(hal, &mut both, |hal, (first, second)| {
        hal.execute(&first.held, &mut first.context);
        hal.execute(&second.held, &mut first.context);
    });
    info!("measure: switching the page map adds: {}", (two / 2).saturating_sub(one));
    (first, second) = both;
    let _ = &mut second;

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
    let start = hal.timer().ticks();
    hal.memory().add_mapping(map, to, page, Rights::ReadWrite, None, supply)?;
    let cost = hal.timer().ticks() - start;
    info!("measure: add one mapping of 4 KiB, with reading the counter: {cost}");

    match large {
        Some(large) => {
            let start = large.first_frame().address();
            let large = large.derive(Flexpage::physical(start, GIBIBYTE_BITS)?)?;
            let to = address(2 * DATA);
            let start = hal.timer().ticks();
            hal.memory().add_mapping(map, to, large, Rights::Read, None, supply)?;
            let cost = hal.timer().ticks() - start;
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
        Ok(()) => heliox_hal::stop(0),
        Err(error) => panic!("{error}"),
    }
}

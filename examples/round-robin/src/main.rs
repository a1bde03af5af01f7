//! A complete kernel on the abstraction layer, and nothing else: two programs take turns, by the
//! timer, and have two system calls: 0 ends the program, 1 prints the character in RDI.
//!
//! It shows that the layer is enough to build a kernel on in safe Rust. Nothing here can break
//! memory-safety: what is wrong is refused, and ends in a panic of this kernel.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use heliox_hal::error::Error;
use heliox_hal::execution::{Execution, Heap, Registers};
use heliox_hal::flexpage::Flexpage;
use heliox_hal::memory::{KernelMemory, Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{PageMap, PageMapUse, SUPPLY_LIMIT, TableSupply};
use heliox_hal::region::{PhysicalRegion, RegionKind};
use heliox_hal::rights::Rights;
use heliox_hal::{Context, Hal};
use heliox_log::info;
use heliox_types::{Interrupt, PAGE_BITS, Register, VirtualAddress};

heliox_log::kernel_main!(main);

/// Where a program's one page is.
const CODE: u64 = 0x100_0000;
/// A turn, in microseconds.
const TURN: u64 = 1000;

/// Prints the character at byte 11 four times, with a million and a half idle rounds after each.
const PROGRAM: [u8; 37] = [
    0xbb, 4, 0, 0, 0, //                      mov ebx, 4
    0xb8, 1, 0, 0, 0, //                 1:   mov eax, 1
    0xbf, b'?', 0, 0, 0, //                   mov edi, '?'
    0x0f, 0x05, //                            syscall
    0xbe, 0x60, 0xe3, 0x16, 0, //             mov esi, 1500000
    0xff, 0xce, //                       2:   dec esi
    0x75, 0xfc, //                            jnz 2b
    0xff, 0xcb, //                            dec ebx
    0x75, 0xe7, //                            jnz 1b
    0x31, 0xc0, //                            xor eax, eax
    0x0f, 0x05, //                            syscall
    0x0f, 0x0b, //                            ud2
    0xcc, //
];
const CHARACTER: usize = 11;

struct Program {
    held: PageMapUse,
    context: Context,
    alive: bool,
    /// The address space exists as long as the program does.
    _map: PageMap,
}

/// A program that prints `character`, in a page and tables cut from `memory`.
fn start(hal: &mut Hal, memory: &mut Memory, character: u8) -> Result<Program, Error> {
    let cpu = hal.cpu();
    let page = memory.page()?;
    let root = memory.page()?;
    let mut supply = TableSupply::EMPTY;
    for _ in 0..SUPPLY_LIMIT {
        let table = hal.memory().create_page_map_page(memory.page()?)?;
        assert!(supply.add(table).is_ok(), "the supply has room");
    }

    let mut code = PROGRAM;
    if let Some(byte) = code.get_mut(CHARACTER) {
        *byte = character;
    }
    let window = hal.memory().add_kernel_mapping(cpu, page, Rights::ReadWrite, false, None)?;
    hal.memory().clear(&window)?;
    hal.memory().write_bytes(&window, 0, &code)?;
    let (page, done) = hal.memory().remove_kernel_mapping(cpu, window);
    assert!(hal.memory().is_complete(done), "there is one processor");

    let root = hal.memory().create_page_map_page(root)?;
    let mut map = hal.memory().allocate_page_map(root).map_err(|refused| refused.error)?;
    let code = VirtualAddress::new(CODE).unwrap_or(VirtualAddress::ZERO);
    hal.memory().add_mapping(&mut map, code, page, Rights::ReadExecute, None, &mut supply)?;

    let Ok(mut context) = hal.new_context() else { panic!("the heap has no room") };
    context.set_instruction_pointer(code).unwrap_or_else(|error| panic!("{error}"));
    let held = hal.memory().attach(&map)?;
    Ok(Program { held, context, alive: true, _map: map })
}

/// Free memory: a region, and how many of its pages are used.
struct Memory(PhysicalRegion, u64);

impl Memory {
    /// The next page; past the end of the region `derive` refuses it.
    fn page(&mut self) -> Result<PhysicalRegion, Error> {
        let start = self.0.first_frame().address();
        let page = start.checked_add(self.1 << PAGE_BITS).unwrap_or(start);
        self.1 += 1;
        self.0.derive(Flexpage::physical(page, PAGE_BITS)?)
    }
}

/// Runs a program until its turn is over or it ends.
fn turn(hal: &mut Hal, program: &mut Program) {
    let deadline = hal.now() + TURN;
    hal.set_deadline(Some(deadline));
    while program.alive {
        match hal.execute(&program.held, &mut program.context) {
            Interrupt::Timer => return,
            Interrupt::SystemCall if program.context.register(Register::Rax) == 1 => {
                heliox_log::write_bytes(&[program.context.register(Register::Rdi) as u8]);
            }
            _ => program.alive = false,
        }
    }
}

fn main(mut hal: Hal) -> ! {
    heliox_clock::start(&mut hal);
    let objects = hal.heap_frames();
    assert!(hal.grow_heap(objects).is_ok(), "the heap's pages are free");
    let regions = hal.memory().initial_regions().filter(|region| region.kind() == RegionKind::Ram);
    let Some(region) = regions.max_by_key(|region| region.bits()) else {
        panic!("there is no memory")
    };
    let mut memory = Memory(region, 0);
    let mut programs = [b'A', b'B'].map(|character| {
        start(&mut hal, &mut memory, character).unwrap_or_else(|error| panic!("{error}"))
    });
    while programs.iter().any(|program| program.alive) {
        programs.iter_mut().for_each(|program| turn(&mut hal, program));
    }
    info!("both programs have ended");
    heliox_log::stop(0)
}

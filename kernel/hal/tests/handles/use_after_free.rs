//! A page map is used after it was freed.

use heliox_types::VirtualAddress;
use heliox_hal::cpu::CurrentCpu;
use heliox_hal::memory::{Paging, UserMemory};
use heliox_hal::page_map::PageMap;

fn client(memory: &mut (impl Paging + UserMemory), cpu: CurrentCpu, map: PageMap) {
    let _dying = memory.free_page_map(cpu, map);
    let _info = memory.read_mapping(&map, VirtualAddress::ZERO);
}

fn main() {}

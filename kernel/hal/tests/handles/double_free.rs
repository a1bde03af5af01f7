//! A page map is freed twice.

use heliox_hal::cpu::CurrentCpu;
use heliox_hal::memory::Paging;
use heliox_hal::page_map::PageMap;

fn client(memory: &mut impl Paging, cpu: CurrentCpu, map: PageMap) {
    let _dying = memory.free_page_map(cpu, map);
    let _again = memory.free_page_map(cpu, map);
}

fn main() {}

//! A function that may only read and write the kernel's mappings changes an address space.

use heliox_hal::memory::KernelMemory;
use heliox_hal::page_map::PageMapPage;

fn client(memory: &mut impl KernelMemory, page: PageMapPage) {
    let _map = memory.allocate_page_map(page);
}

fn main() {}

//! A page becomes the root of two page maps.

use heliox_hal::entry::Host;
use heliox_hal::memory::Paging;
use heliox_hal::page_map::PageMapPage;

fn client(memory: &mut impl Paging, page: PageMapPage) {
    let _one = memory.allocate_page_map::<Host>(page);
    let _other = memory.allocate_page_map::<Host>(page);
}

fn main() {}

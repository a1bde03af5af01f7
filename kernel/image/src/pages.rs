//! Pages for programs and their tables.

use heliox_address::{Frame, PAGE_BITS, USER_END, VirtualAddress};
use heliox_hal::Hal;
use heliox_hal::error::Error;
use heliox_hal::flexpage::{Flexpage, VirtualRange};
use heliox_hal::memory::{Paging, PhysicalMemory, UserMemory};
use heliox_hal::page_map::{FreeStep, PageMap, SUPPLY_LIMIT, TableSupply};
use heliox_hal::region::{PhysicalRegion, RegionKind};

/// How many regions are remembered: free memory is cut into that many at most.
const REGIONS: usize = 256;

/// Hands out free pages, and takes them back.
#[derive(Debug)]
pub(crate) struct Pages {
    /// Free regions; the last is cut up first.
    free: [Option<PhysicalRegion>; REGIONS],
    count: usize,
}

impl Pages {
    /// All free memory of the machine.
    pub(crate) fn new(hal: &mut Hal) -> Self {
        let mut pages = Self {
            free: [None; REGIONS],
            count: 0,
        };
        for region in hal.memory().initial_regions() {
            if region.kind() == RegionKind::Ram {
                pages.push(region);
            }
        }
        pages
    }

    /// Number of free pages.
    pub(crate) fn available(&self) -> u64 {
        self.free
            .iter()
            .flatten()
            .map(|region| region.pages())
            .sum()
    }

    /// A free page; `None` if there is none left.
    pub(crate) fn take(&mut self) -> Option<PhysicalRegion> {
        let mut region = self.pop()?;
        while region.bits() > PAGE_BITS {
            let half = region.bits() - 1;
            let start = region.first_frame().address();
            let upper = start.checked_add(1 << half)?;
            let lower = region.derive(Flexpage::physical(start, half).ok()?).ok()?;
            self.push(region.derive(Flexpage::physical(upper, half).ok()?).ok()?);
            region = lower;
        }
        Some(region)
    }

    /// Takes a page back.
    pub(crate) fn give(&mut self, region: PhysicalRegion) {
        self.push(region);
    }

    /// Takes the page of `frame` back.
    fn give_frame(&mut self, hal: &mut Hal, frame: Frame) {
        let Ok(page) = Flexpage::physical(frame.address(), PAGE_BITS) else {
            return;
        };
        let region = hal
            .memory()
            .initial_regions()
            .find_map(|region| region.derive(page).ok());
        if let Some(region) = region {
            self.push(region);
        }
    }

    /// Fills `supply` with pages for page tables.
    pub(crate) fn fill(&mut self, hal: &mut Hal, supply: &mut TableSupply) -> Result<(), Error> {
        while supply.count() < SUPPLY_LIMIT
            && let Some(region) = self.take()
        {
            let page = hal.memory().create_page_map_page(region)?;
            if let Err(page) = supply.add(page) {
                let cpu = hal.cpu();
                self.push(hal.memory().release_page_map_page(cpu, page));
            }
        }
        Ok(())
    }

    fn push(&mut self, region: PhysicalRegion) {
        if let Some(slot) = self.free.get_mut(self.count) {
            *slot = Some(region);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<PhysicalRegion> {
        self.count = self.count.checked_sub(1)?;
        self.free.get_mut(self.count)?.take()
    }
}

/// Mappings that one step of removing can tell of: a table's worth.
const STEP: usize = 512;

/// Frees an address space that nothing uses any more, and its memory with it.
pub(crate) fn free_page_map(hal: &mut Hal, pages: &mut Pages, mut map: PageMap) {
    let cpu = hal.cpu();
    let mut supply = TableSupply::EMPTY;
    let mut rest = VirtualRange::new(VirtualAddress::ZERO, USER_END >> PAGE_BITS).ok();
    while let Some(range) = rest.take() {
        let mut frames = [Frame::ZERO; STEP];
        let mut count = 0;
        let removed = hal
            .memory()
            .remove_mapping(cpu, &mut map, range, &mut supply, |mapping| {
                if let Some(slot) = frames.get_mut(count) {
                    *slot = mapping.frame;
                    count += 1;
                }
            });
        for frame in frames.iter().take(count) {
            pages.give_frame(hal, *frame);
        }
        if let Ok(removed) = removed {
            rest = removed.rest;
            for table in removed.tables {
                // There is one processor, so nothing drains.
                if let Ok(page) = hal.memory().reclaim(table) {
                    pages.give(hal.memory().release_page_map_page(cpu, page));
                }
            }
        }
    }
    let Ok(mut dying) = hal.memory().free_page_map(cpu, map) else {
        return;
    };
    loop {
        match hal.memory().free_step(dying) {
            FreeStep::More { mut tables, rest } => {
                while let Some(page) = tables.take() {
                    pages.give(hal.memory().release_page_map_page(cpu, page));
                }
                dying = rest;
            }
            FreeStep::Done(page) => {
                pages.give(hal.memory().release_page_map_page(cpu, page));
                return;
            }
        }
    }
}

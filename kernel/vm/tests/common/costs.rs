//! What operations cost, as accesses that the machine counts: for the benchmark, which prints them,
//! and for the test that holds them where they are.

use heliox_vm::backing::Rights;
use heliox_vm::{CopyEnd, CopyRequest, Options, Page};

use super::machine::Accesses;
use super::{BUILDER, Large, ONE, TWO, by, options};

/// One operation's cost.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) name: &'static str,
    pub(crate) accesses: Accesses,
}

/// Domain 1 of so many pages, half of them there, the rest promised and all of it set aside; where
/// its grant table is, and domain 2, which maps grants.
struct Measured {
    world: Large,
    /// Where promises begin.
    promised: u64,
    table: u64,
    costs: Vec<Cost>,
}

impl Measured {
    fn new(pages: u64) -> Self {
        let mut world = Large::with_domains(2 * pages + pages / 32 + 20_000, 1, 64);
        let half = pages / 2;
        let wide = Options {
            frames: pages + 4096,
            extra: 16,
            tables: 512 + pages / 256,
            ..options(pages)
        };
        world.domains.create(BUILDER, 1, &wide).unwrap();
        world.domains.create(BUILDER, 2, &wide).unwrap();
        for start in (0..half).step_by(512) {
            world.populate(ONE, start, 9);
        }
        for start in (half..pages).step_by(512) {
            world.domains.populate_on_demand(by(BUILDER), 1, start, 9).unwrap();
        }
        world.domains.set_target(by(BUILDER), 1, pages - 600, u64::MAX).unwrap();
        let table = pages + 100;
        world.table(ONE, table);
        for reference in 0..512 {
            world.grant(ONE, table, reference, TWO, reference, false);
        }
        Self { world, promised: half, table, costs: Vec::new() }
    }

    fn measure(&mut self, name: &'static str, operation: impl FnOnce(&mut Large)) {
        self.world.machine().take_accesses();
        operation(&mut self.world);
        let accesses = self.world.machine().take_accesses();
        self.costs.push(Cost { name, accesses });
    }
}

/// The costs of all operations on a domain of so many pages.
pub(crate) fn costs(pages: u64) -> Vec<Cost> {
    let mut it = Measured::new(pages);
    let (promised, table) = (it.promised, it.table);
    let free = pages + 2048;
    // The way to it is there already.
    it.world.populate(TWO, free, 0);
    it.measure("fault, 2 MiB set aside", |world| {
        world.domains.fault(1, promised + 5).unwrap();
    });
    it.measure("populate, one page", |world| {
        world.domains.populate(by(TWO), 2, free + 1, 0).unwrap();
    });
    it.measure("populate, order 9", |world| {
        world.domains.populate(by(TWO), 2, 512, 9).unwrap();
    });
    it.measure("decrease, one page", |world| {
        world.domains.decrease(by(TWO), 2, free + 1, 0).unwrap();
    });
    it.measure("decrease, order 9", |world| {
        world.domains.decrease(by(TWO), 2, 512, 9).unwrap();
    });
    it.measure("reserve, one page", |world| world.domains.increase(by(TWO), 2, 0).unwrap());
    it.measure("reserve, order 9", |world| world.domains.increase(by(TWO), 2, 9).unwrap());
    it.world.populate(TWO, 1024, 9);
    it.measure("decrease, page of 2 MiB", |world| {
        world.domains.decrease(by(TWO), 2, 1024, 0).unwrap();
    });
    it.measure("set aside, page of 2 MiB", |world| {
        world.domains.decrease(by(ONE), 1, promised + 5, 0).unwrap();
    });
    it.measure("set aside, one page", |world| {
        world.domains.decrease(by(ONE), 1, promised + 6, 0).unwrap();
    });
    it.measure("set aside, order 9", |world| {
        world.domains.decrease(by(ONE), 1, 1024, 9).unwrap();
    });
    // The table there was used last, which the page map remembers.
    it.world.populate(TWO, free + 9, 0);
    it.measure("grant, map", |world| {
        world.domains.map_grant(TWO, 1, 7, free + 3, Rights::Write).unwrap();
    });
    it.measure("grant, map again", |world| {
        world.domains.map_grant(TWO, 1, 7, free + 4, Rights::Write).unwrap();
    });
    it.measure("grant, unmap", |world| world.domains.unmap_grant(TWO, 1, free + 4).unwrap());
    it.measure("grant, last unmap", |world| {
        world.domains.unmap_grant(TWO, 0, free + 3).unwrap();
    });
    it.measure("grant, copy 8 bytes", |world| {
        let from = CopyEnd { page: Page::Granted { domain: 1, reference: 9 }, offset: 0 };
        let to = CopyEnd { page: Page::Own { guest: free }, offset: 0 };
        world.domains.copy(TWO, &CopyRequest { from, to, bytes: 8 }).unwrap();
    });
    it.world.domains.set_version(ONE, 2).unwrap();
    it.world.write(ONE, table, 20, 1 | 2 << 16);
    it.world.write(ONE, table, 21, 12);
    it.world.populate(TWO, free + 10, 0);
    it.measure("grant of version 2, map", |world| {
        world.domains.map_grant(TWO, 1, 10, free + 5, Rights::Read).unwrap();
    });
    it.measure("grant of version 2, unmap", |world| {
        world.domains.unmap_grant(TWO, 0, free + 5).unwrap();
    });
    // All blocks of 2 MiB that are set aside are used up: single pages are left.
    let mut guest = pages;
    while it.world.summary(ONE).cache > 500 {
        guest -= 512;
        it.world.domains.fault(1, guest).unwrap();
    }
    guest -= 512;
    it.measure("fault, pages set aside", |world| {
        world.domains.fault(1, guest).unwrap();
    });
    it.measure("fault, the next page", |world| {
        world.domains.fault(1, guest + 1).unwrap();
    });
    it.costs
}

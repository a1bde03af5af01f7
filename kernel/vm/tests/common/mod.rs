//! What several tests and the benchmark need.
#![allow(dead_code, reason = "not every test needs everything")]

pub(crate) mod costs;
pub(crate) mod machine;
pub(crate) mod model;

use std::cell::Cell;
use std::rc::Rc;

use heliox_vm::access::Subject;
use heliox_vm::{DomainId, Domains, GuestFrame, Limit, Options, Summary, Torn};

use machine::{Heap, Machine, Owner};

/// SplitMix64: cheap, and the same for all.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    }

    /// Below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// With a probability of `percent` in a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// A machine with domains, for tests that say each step.
pub(crate) struct World<const BITS: u32, const WORDS: usize> {
    pub(crate) domains: Domains<Machine<BITS, WORDS>, Heap>,
    pub(crate) heap: Rc<Cell<u64>>,
}

/// As on x86-64.
pub(crate) type Large = World<9, 512>;
/// Tables of four entries, pages of eight words.
pub(crate) type Small = World<2, 8>;

/// The domain that builds the others.
pub(crate) const BUILDER: DomainId = DomainId::new(0).unwrap();
pub(crate) const ONE: DomainId = DomainId::new(1).unwrap();
pub(crate) const TWO: DomainId = DomainId::new(2).unwrap();
pub(crate) const THREE: DomainId = DomainId::new(3).unwrap();

pub(crate) const fn by(domain: DomainId) -> Subject {
    Subject::Domain(domain)
}

pub(crate) fn frame(number: u64) -> GuestFrame {
    GuestFrame::new(number).unwrap()
}

/// A domain of so many pages, with some room for grants.
pub(crate) fn options(pages: u64) -> Options {
    Options {
        frames: pages + 64,
        maximum: pages,
        target: pages,
        extra: pages.min(8),
        limit: Limit::Target,
        tables: 16 + pages / 64,
        grant_frames: 4,
        handles: 8,
        search: 1024,
    }
}

impl<const BITS: u32, const WORDS: usize> World<BITS, WORDS> {
    pub(crate) fn new(frames: u64) -> Self {
        let heap = Rc::new(Cell::new(u64::MAX));
        let domains = Domains::new(Machine::new(frames), Heap(heap.clone()), 8).unwrap();
        Self { domains, heap }
    }

    /// With domains 0 (the builder) to `count - 1`, each of so many pages.
    pub(crate) fn with_domains(frames: u64, count: u16, pages: u64) -> Self {
        let mut world = Self::new(frames);
        for number in 0..count {
            world.domains.create(BUILDER, number, &options(pages)).unwrap();
        }
        world
    }

    pub(crate) fn machine(&mut self) -> &mut Machine<BITS, WORDS> {
        self.domains.backing_mut()
    }

    pub(crate) fn populate(&mut self, domain: DomainId, start: u64, order: u32) {
        self.domains.populate(by(domain), domain.number(), start, order).unwrap();
    }

    pub(crate) fn summary(&self, domain: DomainId) -> Summary {
        self.domains.summary(domain.number()).unwrap()
    }

    /// A guest writes a word; it has the page.
    pub(crate) fn write(&mut self, domain: DomainId, guest: u64, word: u64, value: u64) {
        self.machine().touch(0, domain, guest, word, Some(value)).unwrap();
    }

    /// A guest reads a word; it has the page.
    pub(crate) fn read(&mut self, domain: DomainId, guest: u64, word: u64) -> u64 {
        self.machine().touch(0, domain, guest, word, None).unwrap()
    }

    /// The frame at a guest frame.
    pub(crate) fn frame_at(&mut self, domain: DomainId, guest: u64) -> u64 {
        self.machine().mapped(domain, guest).unwrap().0
    }

    /// A grant table of version 1, shown at `guest`.
    pub(crate) fn table(&mut self, domain: DomainId, guest: u64) {
        self.domains.setup_table(domain, 1).unwrap();
        self.domains.show_table(domain, 0, false, guest).unwrap();
    }

    /// Write an entry of version 1 into a table that is shown at `table`.
    pub(crate) fn grant(
        &mut self,
        domain: DomainId,
        table: u64,
        reference: u64,
        to: DomainId,
        guest: u64,
        read_only: bool,
    ) {
        let entry = 1 | u64::from(read_only) << 2 | u64::from(to.number()) << 16 | guest << 32;
        self.write(domain, table, reference, entry);
    }

    /// Every page of the machine has one owner, and each domain's account says how many it has.
    pub(crate) fn check_owners(&mut self) {
        self.machine().check_below();
        self.machine().audit();
        let mut sum = self.machine().count(Owner::Nobody);
        for number in 0..8 {
            let domain = DomainId::new(number).unwrap();
            let owned = self.machine().count(Owner::Domain(domain));
            sum += owned + self.machine().count(Owner::Tables(domain));
            if let Ok(summary) = self.domains.summary(number) {
                assert_eq!(summary.total(), owned, "domain {number}");
            } else {
                assert_eq!(owned, 0);
            }
        }
        assert_eq!(sum, self.machine().frames());
    }

    /// Kill a domain and free all that can be freed.
    pub(crate) fn end(&mut self, domain: DomainId) -> Torn {
        self.domains.kill(Subject::Hypervisor, domain.number()).unwrap();
        self.tear_down(domain)
    }

    pub(crate) fn tear_down(&mut self, domain: DomainId) -> Torn {
        loop {
            let torn = self.domains.tear_down(domain.number(), 100).unwrap();
            self.check_owners();
            if torn != Torn::More {
                return torn;
            }
        }
    }
}

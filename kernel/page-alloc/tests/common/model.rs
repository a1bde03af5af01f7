//! The environmental model, plainly: a `Vec` of page records and a few lists.
//!
//! Written from the tables of the source and their digest. Nothing here is fast or clever, and
//! nothing of it is taken from the allocator. Where the specification leaves a choice (which of
//! several free blocks is handed out, which dirty pages are cleared first), the model says
//! whether a choice is legal, and follows it.

use std::collections::BTreeMap;

use heliox_page_alloc::{Event, MAX_SECTIONS, Machine, MemoryFlags, Node, NodeFlag, Order, Zone};
use heliox_types::{PAGE_BYTES, PhysicalAddress};

/// The attributes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRecord {
    pub allocated: bool,
    pub bad: bool,
    pub zeroized: bool,
    pub zone: Option<Zone>,
    pub owner: Option<u32>,
    pub ref_count: u32,
    pub scrub_pending: bool,
    /// Counts towards the owner's quota.
    pub counted: bool,
    /// Holds the allocator's records.
    pub own: bool,
    /// Free, and able to be cleared, since the last pass of scrubbing began.
    pub free_in_pass: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Uninitialised,
    Boot,
    Running,
}

/// A stretch of memory of one zone and node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub start: u64,
    pub end: u64,
    pub zone: Zone,
    pub node: Node,
}

/// The attributes of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainRecord {
    pub id: u32,
    pub dying: bool,
    pub max_pages: u64,
    pub total_pages: u64,
    pub claimed: u64,
}

pub const MOST_REFERENCES: u32 = 0xffff;

/// The environment.
pub struct Model<'m> {
    pub machine: Machine<'m>,
    pub cpus: Vec<Node>,
    pub phase: Phase,
    pub pages: Vec<PageRecord>,
    /// In the order in which they came to be.
    pub stretches: Vec<Stretch>,
    /// Blocks that were handed out and belong to no domain: first page and order.
    pub held: BTreeMap<u64, Order>,
    /// Blocks of domains.
    pub assigned: BTreeMap<u64, Order>,
    pub domains: Vec<DomainRecord>,
    pub own_count: u64,
}

type Outcome<T> = Result<T, Event>;

impl<'m> Model<'m> {
    pub fn new(machine: Machine<'m>, cpus: Vec<Node>, own_count: u64) -> Self {
        let page = PageRecord {
            allocated: true,
            bad: false,
            zeroized: false,
            zone: None,
            owner: None,
            ref_count: 0,
            scrub_pending: false,
            counted: false,
            own: false,
            free_in_pass: false,
        };
        Self {
            machine,
            cpus,
            phase: Phase::Uninitialised,
            pages: vec![page; machine.max_page as usize],
            stretches: Vec::new(),
            held: BTreeMap::new(),
            assigned: BTreeMap::new(),
            domains: Vec::new(),
            own_count,
        }
    }

    pub fn page(&self, page: u64) -> &PageRecord {
        &self.pages[page as usize]
    }

    pub fn range(&mut self, start: u64, end: u64) -> &mut [PageRecord] {
        &mut self.pages[start as usize..end as usize]
    }

    fn first(&self, start: u64, end: u64, which: impl Fn(&PageRecord) -> bool) -> Option<u64> {
        (start..end).find(|page| which(self.page(*page)))
    }

    pub fn ready(&self) -> Outcome<()> {
        match self.phase {
            Phase::Uninitialised => Err(Event::NotInitialised),
            _ => Ok(()),
        }
    }

    pub fn boot(&self) -> Outcome<()> {
        self.ready()?;
        match self.phase {
            Phase::Running => Err(Event::BootEnded),
            _ => Ok(()),
        }
    }

    pub fn legal(&self, page: u64) -> Outcome<()> {
        if page < self.machine.max_page {
            Ok(())
        } else {
            Err(Event::NotLegalAddress { frame: page })
        }
    }

    fn legal_range(&self, start: u64, end: u64) -> Outcome<()> {
        if end <= self.machine.max_page {
            Ok(())
        } else {
            Err(Event::NotLegalAddress { frame: start.max(self.machine.max_page) })
        }
    }

    pub fn cpu(&self, cpu: usize) -> Outcome<Node> {
        match self.cpus.get(cpu) {
            Some(node) => Ok(*node),
            None => Err(Event::UnknownCpu { number: cpu }),
        }
    }

    /// A node exists if memory or a CPU is near it, or a node with a larger number exists.
    pub fn node(&self, node: Node) -> Outcome<()> {
        let largest = self
            .machine
            .nodes
            .iter()
            .map(|range| range.node)
            .chain(self.cpus.iter().copied())
            .max();
        if node <= largest.unwrap_or(Node::ZERO) {
            Ok(())
        } else {
            Err(Event::UnknownNode { number: node.number() as u32 })
        }
    }

    pub fn node_of(&self, page: u64) -> Node {
        for range in self.machine.nodes {
            if range.frames.start() <= page && page < range.frames.end() {
                return range.node;
            }
        }
        Node::ZERO
    }

    // Page map.

    pub fn init_boot_allocator(&mut self, first: u64) -> Outcome<u64> {
        if self.phase != Phase::Uninitialised {
            return Err(Event::AlreadyInitialised);
        }
        let end = first + self.own_count;
        if end >= self.machine.max_page {
            return Err(Event::NotLegalAddress { frame: end.max(self.machine.max_page) });
        }
        for page in self.range(first, end) {
            page.own = true;
        }
        self.phase = Phase::Boot;
        Ok(end)
    }

    fn boot_range(&self, start: u64, count: u64) -> Outcome<u64> {
        self.boot()?;
        let Some(end) = start.checked_add(count) else {
            return Err(Event::RequestTooLarge { request: count });
        };
        if count == 0 {
            return Err(Event::EmptyRange { start, end });
        }
        self.legal_range(start, end)?;
        self.no_zone(start, end)?;
        Ok(end)
    }

    fn no_zone(&self, start: u64, end: u64) -> Outcome<()> {
        match self.first(start, end, |page| page.zone.is_some()) {
            Some(frame) => Err(Event::BadZone { frame, actual: self.page(frame).zone }),
            None => Ok(()),
        }
    }

    fn none_free(&self, start: u64, end: u64) -> Outcome<()> {
        match self.first(start, end, |page| !page.allocated) {
            Some(frame) => Err(Event::PagesNotAllocated { frame }),
            None => Ok(()),
        }
    }

    fn none_own(&self, start: u64, end: u64) -> Outcome<()> {
        match self.first(start, end, |page| page.own) {
            Some(frame) => Err(Event::HoldsMap { frame }),
            None => Ok(()),
        }
    }

    pub fn map_alloc(&mut self, start: u64, count: u64) -> Outcome<()> {
        let end = self.boot_range(start, count)?;
        if let Some(frame) = self.first(start, end, |page| page.allocated) {
            return Err(Event::PagesAlreadyAllocated { frame });
        }
        for page in self.range(start, end) {
            page.allocated = true;
        }
        Ok(())
    }

    pub fn map_free(&mut self, start: u64, count: u64) -> Outcome<()> {
        let end = self.boot_range(start, count)?;
        self.none_free(start, end)?;
        self.none_own(start, end)?;
        if let Some(frame) = self.first(start, end, |page| page.bad) {
            return Err(Event::BadPage { frame });
        }
        for page in self.range(start, end) {
            page.allocated = false;
        }
        Ok(())
    }

    // Boot-time allocator.

    fn whole_pages(start: PhysicalAddress, end: PhysicalAddress) -> Outcome<(u64, u64)> {
        let first = start.get().div_ceil(PAGE_BYTES);
        let last = end.get() / PAGE_BYTES;
        if first < last {
            Ok((first, last))
        } else {
            Err(Event::EmptyRange { start: start.get(), end: end.get() })
        }
    }

    pub fn init_boot_pages(
        &mut self,
        start: PhysicalAddress,
        end: PhysicalAddress,
    ) -> Outcome<u64> {
        self.boot()?;
        let (start, end) = Self::whole_pages(start, end)?;
        self.legal_range(start, end)?;
        self.no_zone(start, end)?;
        self.none_free(start, end)?;
        let mut freed = 0;
        for page in self.range(start, end) {
            if !page.bad && !page.own {
                page.allocated = false;
                freed += 1;
            }
        }
        Ok(freed)
    }

    pub fn alloc_boot_pages_at(&mut self, count: u64, page: u64) -> Outcome<u64> {
        match self.map_alloc(page, count) {
            Ok(()) => Ok(page),
            Err(Event::PagesAlreadyAllocated { .. }) => {
                Err(Event::NoSuitableBlock { request: count })
            }
            Err(event) => Err(event),
        }
    }

    pub fn alloc_boot_pages(&mut self, count: u64, align: u64) -> Outcome<u64> {
        self.boot()?;
        if count == 0 {
            return Err(Event::EmptyRange { start: 0, end: 0 });
        }
        if align.count_ones() != 1 {
            return Err(Event::RequestTooLarge { request: align });
        }
        let mut first = 0;
        while first < self.machine.max_page && count <= self.machine.max_page - first {
            let end = first + count;
            if self.first(first, end, |page| page.allocated || page.zone.is_some()).is_none() {
                for page in self.range(first, end) {
                    page.allocated = true;
                }
                return Ok(first);
            }
            first = first.saturating_add(align);
        }
        Err(Event::NoSuitableBlock { request: count })
    }

    pub fn end_boot_allocator(&mut self) -> Outcome<u64> {
        self.boot()?;
        self.phase = Phase::Running;
        let saved = self.stretches.clone();
        let runs =
            self.runs(0, self.machine.max_page, |page| !page.allocated && page.zone.is_none());
        for (start, end) in &runs {
            if let Err(event) = self.place_domheap(*start, *end) {
                self.stretches = saved;
                self.phase = Phase::Boot;
                return Err(event);
            }
        }
        let mut given = 0;
        for (start, end) in runs {
            self.give_domheap(start, end);
            given += end - start;
        }
        Ok(given)
    }

    /// The longest runs of pages of which `which` holds.
    fn runs(&self, start: u64, end: u64, which: impl Fn(&PageRecord) -> bool) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for page in start..end {
            if which(self.page(page)) {
                match runs.last_mut() {
                    Some(last) if last.1 == page => last.1 += 1,
                    _ => runs.push((page, page + 1)),
                }
            }
        }
        runs
    }

    // Run-time allocator.

    fn stretch_of(&self, page: u64) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.start <= page && page < stretch.end)
    }

    /// Check that pages can become new pages of `zone`.
    fn check_new(&self, zone: Zone, start: u64, end: u64) -> Outcome<()> {
        self.no_zone(start, end)?;
        self.check_neighbours(zone, start, end)?;
        self.none_free(start, end)?;
        self.none_own(start, end)
    }

    fn check_neighbours(&self, zone: Zone, start: u64, end: u64) -> Outcome<()> {
        let before = start.checked_sub(1);
        let behind = Some(end).filter(|end| *end < self.machine.max_page);
        for frame in [before, behind].into_iter().flatten() {
            let actual = self.page(frame).zone;
            if actual.is_some() && (actual == Some(Zone::Xen)) != (zone == Zone::Xen) {
                return Err(Event::BadZone { frame, actual });
            }
        }
        Ok(())
    }

    /// Find stretches for new pages, node by node.
    fn place(&mut self, zone: Zone, start: u64, end: u64) -> Outcome<()> {
        let mut start = start;
        while start < end {
            let node = self.node_of(start);
            let mut stop = start + 1;
            while stop < end && self.same_node_range(start, stop) {
                stop += 1;
            }
            self.place_on(zone, node, start, stop)?;
            start = stop;
        }
        Ok(())
    }

    /// Whether two pages are in the same range of the machine's description of nodes.
    fn same_node_range(&self, one: u64, other: u64) -> bool {
        let range = |page| {
            self.machine
                .nodes
                .iter()
                .position(|range| range.frames.start() <= page && page < range.frames.end())
        };
        range(one) == range(other)
    }

    fn place_on(&mut self, zone: Zone, node: Node, start: u64, end: u64) -> Outcome<()> {
        let overlap = |stretch: &Stretch, start, end| stretch.start < end && start < stretch.end;
        for index in 0..self.stretches.len() {
            let old = self.stretches[index];
            if old.zone != zone || old.node != node {
                continue;
            }
            let near = start <= old.end && old.start <= end;
            let above = self.phase == Phase::Running && old.end < start;
            let (low, high) = (start.min(old.start), end.max(old.end));
            let blocked = self
                .stretches
                .iter()
                .enumerate()
                .any(|(other, stretch)| other != index && overlap(stretch, low, high));
            if (near || above) && !blocked {
                self.stretches[index].start = low;
                self.stretches[index].end = high;
                return Ok(());
            }
        }
        let in_the_way = self
            .stretches
            .iter()
            .filter(|stretch| overlap(stretch, start, end))
            .map(|stretch| (stretch.start.max(start), stretch.zone))
            .min();
        if let Some((frame, zone)) = in_the_way {
            return Err(Event::BadZone { frame, actual: Some(zone) });
        }
        if self.stretches.len() == MAX_SECTIONS {
            return Err(Event::TooManySections);
        }
        self.stretches.push(Stretch { start, end, zone, node });
        Ok(())
    }

    /// The pages are pages of `zone` now, and free unless bad.
    fn give_new(&mut self, zone: Zone, start: u64, end: u64) {
        for page in self.range(start, end) {
            page.zone = Some(zone);
            page.allocated = page.bad;
        }
    }

    pub fn init_heap_pages(&mut self, zone: Zone, start: u64, count: u64) -> Outcome<()> {
        self.ready()?;
        let Some(end) = start.checked_add(count) else {
            return Err(Event::RequestTooLarge { request: count });
        };
        if count == 0 {
            return Err(Event::EmptyRange { start, end });
        }
        self.legal_range(start, end)?;
        self.check_new(zone, start, end)?;
        let saved = self.stretches.clone();
        if let Err(event) = self.place(zone, start, end) {
            self.stretches = saved;
            return Err(event);
        }
        self.give_new(zone, start, end);
        Ok(())
    }

    /// Whether all pages of a block are free, of `zone`, in one stretch, and on a node that
    /// `nodes` accepts.
    pub fn is_suitable(
        &self,
        zone: Zone,
        page: u64,
        order: Order,
        nodes: impl Fn(Node) -> bool,
    ) -> bool {
        let end = page + order.pages();
        if !page.is_multiple_of(order.pages()) || end > self.machine.max_page {
            return false;
        }
        let Some(stretch) = self.stretch_of(page) else {
            return false;
        };
        stretch.zone == zone
            && end <= stretch.end
            && nodes(stretch.node)
            && self.first(page, end, |page| page.allocated || page.zone != Some(zone)).is_none()
    }

    /// Whether there is a suitable block.
    pub fn suitable(&self, zone: Zone, order: Order, nodes: impl Fn(Node) -> bool) -> bool {
        (0..self.machine.max_page)
            .step_by(order.pages() as usize)
            .any(|page| self.is_suitable(zone, page, order, &nodes))
    }

    /// What a request for a held block at `page` must say.
    pub fn check_held(&self, zone: Zone, page: u64, order: Order) -> Outcome<()> {
        self.ready()?;
        let end = page + order.pages();
        self.legal_range(page, end)?;
        let actual = self.page(page).zone;
        let stretch = self.stretch_of(page);
        if actual != Some(zone) || stretch.is_none_or(|stretch| stretch.zone != zone) {
            return Err(Event::BadZone { frame: page, actual });
        }
        if self.held.get(&page) == Some(&order) {
            return Ok(());
        }
        self.none_free(page, end)?;
        let record = self.page(page);
        Err(if record.scrub_pending {
            Event::ScrubPending { frame: page }
        } else if record.owner.is_some() {
            Event::NotOwner { frame: page }
        } else {
            Event::NoAddress { frame: page }
        })
    }

    /// A block was handed out and belongs to no domain.
    pub fn hold(&mut self, page: u64, order: Order) {
        for record in self.range(page, page + order.pages()) {
            record.allocated = true;
            record.zeroized = false;
            record.free_in_pass = false;
        }
        self.held.insert(page, order);
    }

    /// A block is given back: bad pages stay allocated.
    pub fn release(&mut self, page: u64, order: Order) {
        for record in self.range(page, page + order.pages()) {
            record.allocated = record.bad;
            record.owner = None;
            record.ref_count = 0;
            record.scrub_pending = false;
        }
        self.held.remove(&page);
        self.assigned.remove(&page);
    }

    pub fn free(&self, which: impl Fn(Zone, Node) -> bool) -> u64 {
        (0..self.machine.max_page)
            .filter(|page| {
                let record = self.page(*page);
                !record.allocated
                    && record.zone.is_some_and(|zone| which(zone, self.node_of(*page)))
            })
            .count() as u64
    }

    pub fn free_of(&self, zone: Zone) -> u64 {
        self.pages.iter().filter(|page| !page.allocated && page.zone == Some(zone)).count() as u64
    }

    pub fn offline_page(&mut self, page: u64) -> Outcome<bool> {
        self.ready()?;
        self.legal(page)?;
        if self.page(page).bad {
            return Err(Event::BadPage { frame: page });
        }
        let record = &mut self.pages[page as usize];
        record.bad = true;
        let removed = !record.allocated;
        record.allocated = true;
        record.free_in_pass = false;
        Ok(removed)
    }

    // Xen heap.

    pub fn init_xenheap_pages(
        &mut self,
        start: PhysicalAddress,
        end: PhysicalAddress,
    ) -> Outcome<()> {
        self.ready()?;
        let (first, last) = Self::whole_pages(start, end)?;
        self.legal_range(first, last)?;
        if last - first <= 2 {
            return Err(Event::EmptyRange { start: start.get(), end: end.get() });
        }
        self.init_heap_pages(Zone::Xen, first + 1, last - first - 2)
    }

    // Domain heap.

    /// The parts of a range by zone.
    fn parts(&self, start: u64, end: u64) -> Vec<(Zone, u64, u64)> {
        let mut parts = Vec::new();
        let border = self.machine.max_dma_page + 1;
        if start < border {
            parts.push((Zone::Dma, start, end.min(border)));
        }
        if border < end {
            parts.push((Zone::Dom, start.max(border), end));
        }
        parts
    }

    fn place_domheap(&mut self, start: u64, end: u64) -> Outcome<()> {
        for (zone, start, end) in self.parts(start, end) {
            self.check_neighbours(zone, start, end)?;
            self.place(zone, start, end)?;
        }
        Ok(())
    }

    fn give_domheap(&mut self, start: u64, end: u64) {
        for (zone, start, end) in self.parts(start, end) {
            self.give_new(zone, start, end);
        }
    }

    pub fn init_domheap_pages(
        &mut self,
        start: PhysicalAddress,
        end: PhysicalAddress,
    ) -> Outcome<()> {
        self.ready()?;
        let (start, end) = Self::whole_pages(start, end)?;
        self.legal_range(start, end)?;
        for (zone, start, end) in self.parts(start, end) {
            self.check_new(zone, start, end)?;
        }
        let saved = self.stretches.clone();
        if let Err(event) = self.place_domheap(start, end) {
            self.stretches = saved;
            return Err(event);
        }
        self.give_domheap(start, end);
        Ok(())
    }

    pub fn available(&self) -> u64 {
        let pool = self.machine.dma_emergency_pages;
        self.free_of(Zone::Dom) + self.free_of(Zone::Dma).saturating_sub(pool)
    }

    pub fn claims(&self) -> u64 {
        self.domains.iter().map(|domain| domain.claimed).sum()
    }

    /// The node to prefer, and whether no other will do.
    pub fn preferred(&self, near: Node, flags: MemoryFlags) -> Outcome<(Node, bool)> {
        let (node, exact) = match flags.node {
            NodeFlag::Near => return Ok((near, false)),
            NodeFlag::Prefer(node) => (node, false),
            NodeFlag::Exactly(node) => (node, true),
        };
        self.node(node)?;
        Ok((node, exact))
    }

    pub fn may_get(domain: &DomainRecord, order: Order, flags: MemoryFlags) -> Outcome<()> {
        if domain.dying {
            return Err(Event::DomainDying);
        }
        if !flags.no_refcount && domain.total_pages + order.pages() > domain.max_pages {
            return Err(Event::QuotaExceeded {
                total_pages: domain.total_pages,
                request: order.pages(),
                max_pages: domain.max_pages,
            });
        }
        Ok(())
    }

    /// Whether others' claims forbid to take 2^order pages.
    pub fn claims_allow(&self, own_claim: u64, order: Order, flags: MemoryFlags) -> Outcome<()> {
        let count = order.pages();
        let pool = self.machine.dma_emergency_pages;
        let (dom, dma) = (self.free_of(Zone::Dom), self.free_of(Zone::Dma));
        let available = self.available();
        let others = self.claims() - own_claim.min(count);
        let there = if flags.dma { dma } else { available };
        let left = if flags.dma {
            dom + dma.saturating_sub(count).saturating_sub(pool)
        } else {
            available.saturating_sub(count)
        };
        if there >= count && left < others {
            return Err(Event::ReservedByClaims { available, claimed: others });
        }
        Ok(())
    }

    /// The zone that a block for a domain must come from.
    pub fn domain_zone(&self, node: Node, exact: bool, order: Order, dma: bool) -> Outcome<Zone> {
        let nodes = |other| !exact || other == node;
        let pool = self.machine.dma_emergency_pages;
        if !dma && self.suitable(Zone::Dom, order, nodes) {
            return Ok(Zone::Dom);
        }
        let allowed = dma || self.free_of(Zone::Dma) >= pool + order.pages();
        if allowed && self.suitable(Zone::Dma, order, nodes) {
            return Ok(Zone::Dma);
        }
        Err(Event::NoSuitableBlock { request: u64::from(order.number()) })
    }

    /// A block became the domain's.
    pub fn assign(&mut self, domain: usize, page: u64, order: Order, flags: MemoryFlags) {
        let id = self.domains[domain].id;
        for record in self.range(page, page + order.pages()) {
            record.allocated = true;
            record.zeroized = false;
            record.free_in_pass = false;
            record.owner = Some(id);
            record.ref_count = 1;
            record.counted = !flags.no_refcount;
        }
        self.held.remove(&page);
        self.assigned.insert(page, order);
        if !flags.no_refcount {
            let domain = &mut self.domains[domain];
            domain.total_pages += order.pages();
            domain.claimed -= domain.claimed.min(order.pages());
        }
    }

    pub fn domain_zone_of(&self, page: u64, order: Order) -> Outcome<Zone> {
        self.legal_range(page, page + order.pages())?;
        match self.page(page).zone {
            Some(zone) if zone != Zone::Xen => Ok(zone),
            actual => Err(Event::BadZone { frame: page, actual }),
        }
    }

    pub fn check_assigned(&self, page: u64, order: Order) -> Outcome<()> {
        self.ready()?;
        self.domain_zone_of(page, order)?;
        if self.assigned.get(&page) == Some(&order) {
            return Ok(());
        }
        let record = self.page(page);
        Err(if record.owner.is_some() {
            Event::NoAddress { frame: page }
        } else if record.scrub_pending {
            Event::ScrubPending { frame: page }
        } else if !record.allocated {
            Event::PagesNotAllocated { frame: page }
        } else {
            Event::NotAssigned { frame: page }
        })
    }

    pub fn free_domheap_pages(&mut self, domain: usize, page: u64, order: Order) -> Outcome<()> {
        self.check_assigned(page, order)?;
        let record = self.domains[domain];
        for frame in page..page + order.pages() {
            let page = self.page(frame);
            if page.owner != Some(record.id) {
                return Err(Event::NotOwner { frame });
            }
            if page.ref_count > 1 {
                return Err(Event::StillReferenced { frame, references: page.ref_count });
            }
        }
        if self.page(page).counted {
            self.domains[domain].total_pages -= order.pages();
        }
        self.release(page, order);
        if record.dying {
            for page in self.range(page, page + order.pages()) {
                page.allocated = true;
                page.scrub_pending = true;
            }
        }
        Ok(())
    }

    pub fn count_reference(&mut self, page: u64, up: bool) -> Outcome<()> {
        self.ready()?;
        self.legal(page)?;
        let record = &mut self.pages[page as usize];
        if record.owner.is_none() {
            return Err(Event::NotAssigned { frame: page });
        }
        if up && record.ref_count == MOST_REFERENCES {
            return Err(Event::TooManyReferences { frame: page });
        }
        if !up && record.ref_count == 1 {
            return Err(Event::LastReference { frame: page });
        }
        if up {
            record.ref_count += 1;
        } else {
            record.ref_count -= 1;
        }
        Ok(())
    }

    pub fn claim_pages(&mut self, domain: usize, pages: u64) -> Outcome<()> {
        self.ready()?;
        let others = self.claims() - self.domains[domain].claimed;
        let available = self.available();
        let record = &mut self.domains[domain];
        if pages > 0 {
            if record.dying {
                return Err(Event::DomainDying);
            }
            if u128::from(record.total_pages) + u128::from(pages) > u128::from(record.max_pages) {
                return Err(Event::QuotaExceeded {
                    total_pages: record.total_pages,
                    request: pages,
                    max_pages: record.max_pages,
                });
            }
            if available < others || available - others < pages {
                return Err(Event::ReservedByClaims { available, claimed: others });
            }
        }
        record.claimed = pages;
        Ok(())
    }

    pub fn begin_dying(&mut self, domain: usize) -> Outcome<()> {
        self.claim_pages(domain, 0)?;
        self.domains[domain].dying = true;
        Ok(())
    }

    pub fn pending(&self) -> u64 {
        self.pages.iter().filter(|page| page.scrub_pending).count() as u64
    }

    /// The largest aligned blocks of pages of `stretch` that are free and not `cached`, by order:
    /// what is free merged as far as possible.
    pub fn merged(&self, stretch: &Stretch, cached: &[bool]) -> Vec<(u64, Order)> {
        let free = |page: u64| {
            let record = self.page(page);
            record.zone.is_some() && !record.allocated && !cached[page as usize]
        };
        let mut blocks = Vec::new();
        let mut page = stretch.start;
        while page < stretch.end {
            if !free(page) {
                page += 1;
                continue;
            }
            let mut order = 0;
            let mut end = page + 1;
            while order < 18
                && page.is_multiple_of(2 << order)
                && page + (2 << order) <= stretch.end
            {
                let double = page + (2 << order);
                if !(end..double).all(free) {
                    break;
                }
                order += 1;
                end = double;
            }
            blocks.push((page, Order::new(order).unwrap()));
            page = end;
        }
        blocks
    }
}

//! What domains should do, plainly: maps from guest frames to what is there, and numbers.
//!
//! Nothing here is fast or clever, and nothing is shared with the code under test but the types of
//! its interface. Where the code has a choice (which pages of zeros it takes back), the model is
//! told what was chosen and checks that it was allowed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use heliox_vm::access::{Action, Denied, Phase, Subject};
use heliox_vm::backing::Rights;
use heliox_vm::{
    CopyEnd, CopyRequest, DomainId, Error, GuestFrame, Limit, Options, Page, Partial, Progress,
    Summary, Torn,
};
use hmac_sha256::Hash;

use super::machine::Machine;

/// Log2 of the entries of a table, entries, words of a page.
pub(crate) const BITS: u32 = 2;
pub(crate) const ENTRIES: u64 = 1 << BITS;
pub(crate) const WORDS: usize = 8;
const MOST_USES: u32 = 3;

const READING: u64 = 8;
const WRITING: u64 = 16;

pub(crate) type Content = [u64; WORDS];
const ZEROS: Content = [0; WORDS];

/// What is at a guest frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Page { content: Content, level: u32 },
    OnDemand,
    Table { is_status: bool, index: usize },
    Foreign { granter: u16, guest: u64, can_write: bool },
}

impl Slot {
    const fn level(&self) -> Option<u32> {
        match self {
            Self::Page { level, .. } => Some(*level),
            Self::OnDemand => None,
            Self::Table { .. } | Self::Foreign { .. } => Some(0),
        }
    }
}

/// Uses of a grant entry.
#[derive(Clone, Debug)]
pub(crate) struct Uses {
    pub(crate) user: u16,
    pub(crate) guest: u64,
    pub(crate) reads: u32,
    pub(crate) writes: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) granter: u16,
    pub(crate) reference: u32,
    pub(crate) can_write: bool,
    pub(crate) guest: u64,
}

/// Pages set aside, as numbers of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks([u64; 3]);

impl Blocks {
    pub(crate) fn pages(&self) -> u64 {
        (0..3).map(|level| self.0[level] << (BITS * level as u32)).sum()
    }

    fn put(&mut self, level: u32) {
        self.0[level as usize] += 1;
    }

    fn put_block(&mut self, order: u32) {
        let level = (order / BITS).min(2);
        self.0[level as usize] += 1 << (order - BITS * level);
    }

    fn take(&mut self, level: u32) -> bool {
        let Some(found) = (level..3).find(|found| self.0[*found as usize] > 0) else {
            return false;
        };
        self.0[found as usize] -= 1;
        for cut in level..found {
            self.0[cut as usize] += ENTRIES - 1;
        }
        true
    }

    fn largest(&self, pages: u64) -> u32 {
        let fits = |level: &u32| 1 << (BITS * level) <= pages && self.0[*level as usize] > 0;
        (0..3).rev().find(fits).unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Dom {
    pub(crate) id: u16,
    pub(crate) builder: Option<u16>,
    pub(crate) phase: Phase,
    pub(crate) measurement: Option<[u8; 32]>,
    pub(crate) options: Options,
    pub(crate) target: u64,
    pub(crate) map: BTreeMap<u64, Slot>,
    pub(crate) cache: Blocks,
    pub(crate) reserve: Blocks,
    pub(crate) version: u32,
    pub(crate) tables: Vec<(Content, Option<u64>)>,
    pub(crate) status: Vec<(Content, Option<u64>)>,
    pub(crate) uses: BTreeMap<u32, Uses>,
    pub(crate) handles: Vec<Option<Handle>>,
    free_handles: Vec<u32>,
    next_handle: u32,
    /// What a dying domain still owns, as it says.
    pub(crate) dying_total: u64,
}

/// What an operation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Partial(Partial),
    Order(u32),
    Progress(Progress),
    Digest(Option<[u8; 32]>),
    Torn(Torn),
    Handle(u32),
    Place(Option<u64>),
    Word(Option<u64>),
}

pub(crate) type Outcome = Result<Answer, Error>;

/// Free memory: stretches before an operation, and the blocks that were given to domains during it,
/// order and first frame. Which of the free blocks is given is the allocator's choice.
#[derive(Clone, Debug)]
pub(crate) struct Free {
    pub(crate) stretches: BTreeMap<u64, u64>,
    pub(crate) taken: VecDeque<(u32, u64)>,
}

impl Free {
    fn has(&self, order: u32) -> bool {
        Machine::<BITS, WORDS>::lowest_free(&self.stretches, order).is_some()
    }

    /// The block that was given next.
    fn next(&mut self, order: u32) -> u64 {
        let (given, block) = self.taken.pop_front().expect("a block was refused");
        assert_eq!(given, order, "another block was taken");
        assert!(block.is_multiple_of(1 << order), "{block:#x} is not aligned");
        block
    }

    fn take(&mut self, block: u64, pages: u64) {
        Machine::<BITS, WORDS>::take_free(&mut self.stretches, block, pages);
    }
}

/// What can be seen of the machine before an operation, and what was chosen during it.
pub(crate) struct Hints {
    /// What the allocator had and gave.
    pub(crate) free: Free,
    /// For each domain, pages that are on demand now and were not.
    pub(crate) reclaimed: BTreeMap<u16, BTreeSet<u64>>,
    /// Slices of kernel memory that could be had.
    pub(crate) heap: u64,
    /// What the operation answered.
    pub(crate) outcome: Outcome,
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create {
        builder: u16,
        number: u16,
        options: Options,
    },
    Claim {
        subject: Subject,
        domain: u16,
        pages: u64,
    },
    Populate {
        subject: Subject,
        domain: u16,
        starts: Vec<u64>,
        order: u32,
    },
    OnDemand {
        subject: Subject,
        domain: u16,
        start: u64,
        order: u32,
    },
    Decrease {
        subject: Subject,
        domain: u16,
        starts: Vec<u64>,
        order: u32,
    },
    Increase {
        subject: Subject,
        domain: u16,
        extents: usize,
        order: u32,
    },
    SetTarget {
        subject: Subject,
        domain: u16,
        pages: u64,
        budget: u64,
    },
    Fault {
        domain: u16,
        guest: u64,
    },
    BuildPage {
        builder: u16,
        source: u64,
        domain: u16,
        guest: u64,
    },
    Seal {
        subject: Subject,
        domain: u16,
        budget: u64,
    },
    ReadState {
        subject: Subject,
        domain: u16,
    },
    Setup {
        caller: u16,
        frames: u32,
    },
    Show {
        caller: u16,
        index: u32,
        is_status: bool,
        guest: u64,
    },
    Hide {
        caller: u16,
        guest: u64,
    },
    SetVersion {
        caller: u16,
        version: u32,
    },
    StatusFrame {
        domain: u16,
        index: u32,
    },
    Map {
        caller: u16,
        granter: u16,
        reference: u32,
        guest: u64,
        rights: Rights,
        race: Option<EntryRace>,
    },
    Unmap {
        caller: u16,
        handle: u32,
        guest: u64,
    },
    Copy {
        caller: u16,
        request: CopyRequest,
    },
    Kill {
        subject: Subject,
        domain: u16,
    },
    TearDown {
        domain: u16,
        budget: u64,
    },
    Touch {
        processor: usize,
        domain: u16,
        guest: u64,
        word: u64,
        value: Option<u64>,
    },
}

/// The granting domain changes its entry after each time it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryRace {
    pub(crate) value: u64,
    pub(crate) step: u64,
    pub(crate) times: u32,
}

/// What the rules say, as a table of who and when.
fn rules(subject: Subject, action: Action, dom: &Dom) -> Result<(), Denied> {
    use Action as A;
    let own = subject == Subject::Domain(DomainId::new(dom.id).unwrap());
    let builds =
        dom.builder.is_some_and(|it| subject == Subject::Domain(DomainId::new(it).unwrap()));
    let nobody = subject == Subject::Hypervisor;
    let sealed = dom.measurement.is_some();
    let (who, stopped_is_fine, sealing_is_fine, from_outside) = match action {
        A::Populate | A::Balloon => (own || builds, false, false, !own),
        A::ReadState => (own || builds, true, false, !own),
        A::PopulateOnDemand | A::Build => (builds, false, false, !own),
        A::Seal => (builds, false, true, !own),
        A::SetTarget | A::Claim | A::Kill => (builds || nobody, true, true, false),
        A::UseOwn => (own, false, false, false),
        A::UseGranted => (!own && !nobody, true, false, false),
        A::EndGranted => return Ok(()),
        A::Fault => (nobody, false, false, false),
        A::TearDown => (nobody && dom.phase == Phase::Dying, true, true, false),
    };
    match dom.phase {
        // Who is asked before when.
        _ if !who => Err(Denied::NotYours),
        Phase::Dying if action == A::TearDown => Ok(()),
        Phase::Dying => Err(Denied::Dying),
        _ if sealed && from_outside => Err(Denied::Sealed),
        Phase::Crashed if !stopped_is_fine => Err(Denied::Crashed),
        Phase::Sealing if !sealing_is_fine => Err(Denied::Sealing),
        _ => Ok(()),
    }
}

impl Dom {
    pub(crate) fn populated(&self) -> u64 {
        self.map.values().filter(|slot| matches!(slot, Slot::Page { .. })).count() as u64
    }

    pub(crate) fn on_demand(&self) -> u64 {
        self.map.values().filter(|slot| matches!(slot, Slot::OnDemand)).count() as u64
    }

    fn memory(&self) -> u64 {
        self.populated() + self.cache.pages() + self.reserve.pages()
    }

    fn memory_quota(&self) -> u64 {
        match self.options.limit {
            Limit::Target => self.target,
            Limit::Maximum => self.options.maximum,
        }
    }

    fn table_pages(&self) -> u64 {
        (self.tables.len() + self.status.len()) as u64
    }

    pub(crate) fn total(&self) -> u64 {
        if self.phase == Phase::Dying {
            self.dying_total
        } else {
            self.memory() + self.table_pages()
        }
    }

    pub(crate) fn granted_uses(&self) -> u64 {
        self.uses.values().map(|uses| u64::from(uses.reads + uses.writes)).sum()
    }

    /// The page tables that there are below the root, by level and place.
    fn page_tables(&self) -> BTreeSet<(u32, u64)> {
        let mut tables = BTreeSet::new();
        for (guest, slot) in &self.map {
            for level in slot.level().unwrap_or(3)..3 {
                tables.insert((level, guest >> (BITS * (level + 1))));
            }
        }
        tables
    }

    pub(crate) fn spare_tables(&self) -> u64 {
        self.options.tables - self.page_tables().len() as u64
    }

    /// Check that a mapping of `level` at `guest` finds its tables.
    fn check_tables(&self, guest: u64, level: u32) -> Result<(), Error> {
        let tables = self.page_tables();
        let missing =
            (level..3).filter(|level| !tables.contains(&(*level, guest >> (BITS * (level + 1)))));
        if missing.count() as u64 > self.options.tables - tables.len() as u64 {
            return Err(Error::OutOfTables);
        }
        Ok(())
    }

    /// Cut the mapping around `guest` until it is of `level`.
    fn split(&mut self, guest: u64, level: u32) -> Result<(), Error> {
        let Some(Slot::Page { level: now, .. }) = self.map.get(&guest) else { panic!() };
        let now = *now;
        if u64::from(now.saturating_sub(level)) > self.spare_tables() {
            return Err(Error::OutOfTables);
        }
        for cut in (level + 1..=now).rev() {
            let size = 1 << (BITS * cut);
            let start = guest & !(size - 1);
            for (_, slot) in self.map.range_mut(start..start + size) {
                if let Slot::Page { level, .. } = slot {
                    *level = cut - 1;
                }
            }
        }
        Ok(())
    }

    fn permit(&self, subject: Subject, action: Action) -> Result<(), Error> {
        let domain = DomainId::new(self.id).unwrap();
        rules(subject, action, self).map_err(|why| Error::Denied { action, domain, why })
    }

    fn extent(&self, start: u64, order: u32, most: u32) -> Result<u64, Error> {
        if order > most {
            return Err(Error::OrderTooLarge { order, most });
        }
        let limit = self.options.frames;
        let size = 1_u64 << order;
        match start.checked_add(size) {
            Some(end) if end <= limit => {}
            _ => return Err(Error::OutsideMap { guest: start, limit }),
        }
        if !start.is_multiple_of(size) {
            return Err(Error::Misaligned { guest: start, order });
        }
        Ok(size)
    }

    fn vacant(&self, start: u64, size: u64) -> Result<(), Error> {
        match self.map.range(start..start + size).next() {
            Some((guest, _)) => Err(Error::Occupied { guest: frame(*guest) }),
            None => Ok(()),
        }
    }

    fn quota(&self, request: u64) -> Result<(), Error> {
        exceeds(self.memory(), request, self.memory_quota())
    }

    fn maximum(&self, request: u64) -> Result<(), Error> {
        let (pages, maximum) = (self.populated() + self.on_demand(), self.options.maximum);
        if pages + request <= maximum {
            return Ok(());
        }
        Err(Error::MaximumExceeded { pages, request, maximum })
    }

    /// Whether a page is pinned.
    pub(crate) fn is_shared(&self, guest: u64) -> bool {
        self.uses.values().any(|uses| uses.guest == guest)
    }

    /// What an operation that needs a page of the domain's own finds; false if it is on demand.
    fn own_page(&self, number: u64) -> Result<bool, Error> {
        let guest = frame(number);
        match self.map.get(&number) {
            Some(Slot::Page { .. }) => Ok(true),
            Some(Slot::OnDemand) => Ok(false),
            Some(Slot::Table { .. }) => Err(Error::GrantTablePage { guest }),
            Some(Slot::Foreign { .. }) => Err(Error::ForeignPage { guest }),
            None => Err(Error::NotPopulated { guest }),
        }
    }

    fn content_mut(&mut self, guest: u64) -> &mut Content {
        match self.map.get_mut(&guest) {
            Some(Slot::Page { content, .. }) => content,
            other => panic!("{guest:#x} has no page: {other:?}"),
        }
    }

    /// How many entries a frame of the grant table has.
    pub(crate) fn entries(&self) -> u64 {
        WORDS as u64 / u64::from(self.version)
    }

    /// Take back a set of pages that was chosen; panics if it must not be.
    fn reclaim(&mut self, chosen: &BTreeSet<u64>) {
        let first = *chosen.first().unwrap();
        let order = if chosen.len() == 1 { 0 } else { BITS };
        assert!(chosen.iter().copied().eq(first..first + (1 << order)), "{chosen:?}");
        assert!(first.is_multiple_of(1 << order));
        assert_eq!((self.cache.pages(), self.reserve.pages()), (0, 0), "there was no need");
        self.split(first, order / BITS).expect("there was no table to split with");
        for guest in chosen {
            let Slot::Page { content, .. } = self.map[guest].clone() else {
                panic!("{guest:#x} had no page")
            };
            assert_eq!(content, ZEROS, "{guest:#x} was taken back with something in it");
            assert!(!self.is_shared(*guest), "{guest:#x} was taken back while it is used");
            self.map.insert(*guest, Slot::OnDemand);
        }
        self.cache.put_block(order);
    }

    /// Put memory where it was promised.
    fn populate_promised(&mut self, guest: u64, hints: &Hints) -> Result<u32, Error> {
        if self.map.get(&guest) != Some(&Slot::OnDemand) {
            return Err(Error::NotOnDemand { guest: frame(guest) });
        }
        let block = guest & !(ENTRIES - 1);
        let is_whole = |at| self.map.get(&at) == Some(&Slot::OnDemand);
        let most = u32::from((block..block + ENTRIES).all(is_whole));
        let mut taken = self.take_set_aside(most);
        if taken.is_none() {
            match hints.reclaimed.get(&self.id) {
                Some(chosen) => {
                    self.reclaim(chosen);
                    taken = self.take_set_aside(most);
                }
                None => self.check_nothing_to_reclaim(),
            }
        }
        let Some((level, is_cache)) = taken else {
            return Err(Error::Exhausted { guest: frame(guest) });
        };
        if let Err(error) = self.check_tables(guest, level) {
            if is_cache {
                self.cache.put(level)
            } else {
                self.reserve.put(level)
            }
            return Err(error);
        }
        let size = 1 << (BITS * level);
        let start = guest & !(size - 1);
        for at in start..start + size {
            self.map.insert(at, Slot::Page { content: ZEROS, level });
        }
        Ok(BITS * level)
    }

    fn take_set_aside(&mut self, most: u32) -> Option<(u32, bool)> {
        for (blocks, is_cache) in [(&mut self.cache, true), (&mut self.reserve, false)] {
            for level in [most, 0] {
                if blocks.take(level) {
                    return Some((level, is_cache));
                }
            }
        }
        None
    }

    /// If everything was looked at, there is no page of zeros that could have been taken back.
    fn check_nothing_to_reclaim(&self) {
        if self.options.search < 2 * self.options.frames {
            return;
        }
        for (guest, slot) in &self.map {
            if let Slot::Page { content: ZEROS, level } = slot {
                let can = u64::from(*level) <= self.spare_tables();
                assert!(self.is_shared(*guest) || !can, "{guest:#x} was overlooked");
            }
        }
    }

    fn decrease(&mut self, start: u64, size: u64) -> Result<(), Error> {
        for guest in start..start + size {
            if self.own_page(guest)? && self.is_shared(guest) {
                return Err(Error::InUse { guest: frame(guest) });
            }
        }
        let mut guest = start;
        while guest < start + size {
            let piece = match self.map[&guest] {
                Slot::OnDemand => {
                    self.map.remove(&guest);
                    1
                }
                Slot::Page { level, .. } => {
                    let piece = size.min(1 << (BITS * level));
                    let order = piece.trailing_zeros();
                    self.split(guest, order / BITS)?;
                    for at in guest..guest + piece {
                        self.map.remove(&at);
                    }
                    self.set_aside(piece, order);
                    piece
                }
                _ => unreachable!(),
            };
            guest += piece;
        }
        while self.cache.pages() > self.on_demand() {
            let level = self.cache.largest(self.cache.pages() - self.on_demand());
            assert!(self.cache.take(level));
        }
        Ok(())
    }

    /// Keep as much of a block as is missing in the cache, in the largest aligned parts.
    fn set_aside(&mut self, pages: u64, order: u32) {
        let kept = pages.min(self.on_demand().saturating_sub(self.cache.pages()));
        let mut page = 0;
        while page < kept {
            let part = (kept - page).ilog2().min(page.trailing_zeros()).min(order);
            self.cache.put_block(part);
            page += 1 << part;
        }
    }

    /// What is measured.
    fn digest(&self) -> [u8; 32] {
        let mut hash = Hash::new();
        for (guest, slot) in &self.map {
            let mut record = guest.to_le_bytes().to_vec();
            match slot {
                Slot::Page { content, .. } if *content != ZEROS => {
                    record.push(1);
                    record.extend(content.iter().flat_map(|word| word.to_le_bytes()));
                }
                Slot::Page { .. } | Slot::OnDemand => record.push(0),
                _ => unreachable!(),
            }
            hash.update(record);
        }
        hash.finalize()
    }
}

fn exceeds(pages: u64, request: u64, quota: u64) -> Result<(), Error> {
    if pages + request <= quota {
        Ok(())
    } else {
        Err(Error::QuotaExceeded { pages, request, quota })
    }
}

pub(crate) fn frame(guest: u64) -> GuestFrame {
    GuestFrame::new(guest).unwrap()
}

/// An entry of a grant table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: u64,
    read_only: bool,
    domain: u16,
    guest: u64,
    part: Option<(u64, u64)>,
}

/// All domains.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) frames: u64,
    pub(crate) doms: Vec<Option<Dom>>,
    pub(crate) claims: BTreeMap<u16, u64>,
}

impl Model {
    pub(crate) fn new(frames: u64, limit: usize) -> Self {
        Self { frames, doms: vec![None; limit], claims: BTreeMap::new() }
    }

    pub(crate) fn get(&self, domain: u16) -> Result<&Dom, Error> {
        let found = self.doms.get(usize::from(domain)).and_then(Option::as_ref);
        found.ok_or(Error::NoSuchDomain { domain })
    }

    fn dom(&mut self, domain: u16) -> Result<&mut Dom, Error> {
        let found = self.doms.get_mut(usize::from(domain)).and_then(Option::as_mut);
        found.ok_or(Error::NoSuchDomain { domain })
    }

    pub(crate) fn free_pages(&self) -> u64 {
        let used: u64 =
            self.doms.iter().flatten().map(|dom| dom.total() + dom.options.tables + 1).sum();
        self.frames - used
    }

    fn available(&self, domain: u16) -> u64 {
        let others = self.claims.iter().filter(|(other, _)| **other != domain);
        self.free_pages() - others.map(|(_, claim)| claim).sum::<u64>()
    }

    /// The block of `order` that the allocator gave a domain, if it had to.
    fn block(&self, domain: u16, order: u32, free: &mut Free) -> Result<u64, Error> {
        if free.has(order) && self.available(domain) >= 1 << order {
            Ok(free.next(order))
        } else {
            Err(Error::OutOfMemory { order })
        }
    }

    /// A domain takes pages from the allocator.
    fn draw(&mut self, domain: u16, pages: u64) {
        let claim = self.claims.get_mut(&domain).unwrap();
        *claim = claim.saturating_sub(pages);
    }

    /// What an operation should answer; carries it out.
    pub(crate) fn apply(&mut self, op: &Op, hints: &Hints) -> Outcome {
        match op.clone() {
            Op::Create { builder, number, options } => self.create(builder, number, options, hints),
            Op::Claim { subject, domain, pages } => {
                let dom = self.dom(domain)?;
                dom.permit(subject, Action::Claim)?;
                if pages > 0 {
                    dom.quota(pages)?;
                }
                if self.available(domain) < pages {
                    return Err(Error::OutOfMemory { order: 0 });
                }
                self.claims.insert(domain, pages);
                Ok(Answer::Done)
            }
            Op::Populate { subject, domain, starts, order } => {
                let mut free = hints.free.clone();
                Ok(partial(&starts, |start| {
                    self.populate(subject, domain, start, order, &mut free)
                }))
            }
            Op::OnDemand { subject, domain, start, order } => {
                let dom = self.dom(domain)?;
                dom.permit(subject, Action::PopulateOnDemand)?;
                let size = dom.extent(start, order, 2 * BITS)?;
                dom.vacant(start, size)?;
                dom.maximum(size)?;
                let (target, owed) = (dom.target, dom.memory());
                // Whoever has more than it should is promised nothing.
                if owed > target {
                    // With promises made already, only the other policy lets it come to that.
                    assert!(dom.on_demand() == 0 || dom.options.limit == Limit::Maximum);
                    return Err(Error::TargetBelowOwed { target, owed });
                }
                dom.map.extend((start..start + size).map(|guest| (guest, Slot::OnDemand)));
                Ok(Answer::Done)
            }
            Op::Decrease { subject, domain, starts, order } => Ok(partial(&starts, |start| {
                let dom = self.dom(domain)?;
                dom.permit(subject, Action::Balloon)?;
                let size = dom.extent(start, order, BITS)?;
                dom.decrease(start, size)
            })),
            Op::Increase { subject, domain, extents, order } => {
                let mut free = hints.free.clone();
                let each = vec![0; extents];
                Ok(partial(&each, |_| self.increase(subject, domain, order, &mut free)))
            }
            Op::SetTarget { subject, domain, pages, budget } => {
                self.set_target(subject, domain, pages, budget, hints)
            }
            Op::Fault { domain, guest } => {
                let dom = self.dom(domain)?;
                dom.permit(Subject::Hypervisor, Action::Fault)?;
                dom.extent(guest, 0, 0)?;
                let result = dom.populate_promised(guest, hints);
                if let Err(Error::Exhausted { .. }) = result {
                    dom.phase = Phase::Crashed;
                }
                result.map(Answer::Order)
            }
            Op::BuildPage { builder, source, domain, guest } => {
                self.build_page(builder, source, domain, guest)
            }
            Op::Seal { subject, domain, budget } => self.seal(subject, domain, budget, hints),
            Op::ReadState { subject, domain } => {
                self.get(domain)?.permit(subject, Action::ReadState)?;
                Ok(Answer::Done)
            }
            Op::Setup { caller, frames } => self.setup(caller, frames, hints),
            Op::Show { caller, index, is_status, guest } => {
                let dom = self.own(caller)?;
                dom.extent(guest, 0, 0)?;
                let tables = if is_status { &dom.status } else { &dom.tables };
                let frames = tables.len() as u32;
                let missing = Error::NoTableFrame { index, frames };
                if let Some(guest) = tables.get(index as usize).ok_or(missing)?.1 {
                    return Err(Error::AlreadyPlaced { guest: frame(guest) });
                }
                dom.vacant(guest, 1)?;
                dom.check_tables(guest, 0)?;
                let index = index as usize;
                dom.map.insert(guest, Slot::Table { is_status, index });
                let tables = if is_status { &mut dom.status } else { &mut dom.tables };
                tables[index].1 = Some(guest);
                Ok(Answer::Done)
            }
            Op::Hide { caller, guest } => {
                let dom = self.own(caller)?;
                dom.extent(guest, 0, 0)?;
                let Some(Slot::Table { is_status, index }) = dom.map.get(&guest).cloned() else {
                    return Err(Error::NotPopulated { guest: frame(guest) });
                };
                dom.map.remove(&guest);
                let tables = if is_status { &mut dom.status } else { &mut dom.tables };
                tables[index].1 = None;
                Ok(Answer::Done)
            }
            Op::SetVersion { caller, version } => self.set_version(caller, version),
            Op::StatusFrame { domain, index } => {
                let dom = self.get(domain)?;
                if dom.phase == Phase::Dying {
                    // It is being taken apart.
                    return hints.outcome.clone();
                }
                let frames = dom.status.len() as u32;
                let missing = Error::NoTableFrame { index, frames };
                let found = dom.status.get(index as usize).ok_or(missing)?;
                Ok(Answer::Place(found.1))
            }
            Op::Map { caller, granter, reference, guest, rights, race } => {
                self.map(caller, granter, reference, guest, rights, race, hints)
            }
            Op::Unmap { caller, handle, guest } => {
                let dom = self.own(caller)?;
                let found = dom.handles.get(handle as usize).and_then(Option::as_ref);
                if found.ok_or(Error::BadHandle { handle })?.guest != guest {
                    return Err(Error::WrongPlace { handle, guest });
                }
                self.close(caller, handle);
                Ok(Answer::Done)
            }
            Op::Copy { caller, request } => self.copy(caller, request, hints),
            Op::Kill { subject, domain } => {
                let dom = self.dom(domain)?;
                dom.permit(subject, Action::Kill)?;
                dom.dying_total = dom.total();
                dom.phase = Phase::Dying;
                self.claims.insert(domain, 0);
                Ok(Answer::Done)
            }
            Op::TearDown { domain, budget } => self.tear_down(domain, budget, hints),
            Op::Touch { domain, guest, word, value, .. } => {
                Ok(Answer::Word(self.touch(domain, guest, word as usize, value)))
            }
        }
    }

    /// A domain that does something with its own memory.
    fn own(&mut self, caller: u16) -> Result<&mut Dom, Error> {
        let dom = self.dom(caller)?;
        dom.permit(Subject::Domain(DomainId::new(caller).unwrap()), Action::UseOwn)?;
        Ok(dom)
    }

    fn create(&mut self, builder: u16, number: u16, options: Options, hints: &Hints) -> Outcome {
        let place = usize::from(number);
        match self.doms.get(place) {
            None => return Err(Error::NoSuchDomain { domain: number }),
            Some(Some(_)) => {
                return Err(Error::DomainExists { domain: DomainId::new(number).unwrap() });
            }
            Some(None) => {}
        }
        let Options { frames, maximum, target, extra, .. } = options;
        if target > maximum || maximum > frames || frames == 0 || extra > maximum {
            return Err(Error::BadOptions);
        }
        if options.grant_frames == 0 {
            return Err(Error::BadOptions);
        }
        if hints.heap < 6 {
            return Err(Error::OutOfKernelMemory);
        }
        if self.available(number) < options.tables + 1 {
            return Err(Error::OutOfMemory { order: 0 });
        }
        self.claims.insert(number, 0);
        self.doms[place] = Some(Dom {
            id: number,
            builder: Some(builder),
            phase: Phase::Running,
            measurement: None,
            options,
            target,
            map: BTreeMap::new(),
            cache: Blocks::default(),
            reserve: Blocks::default(),
            version: 1,
            tables: Vec::new(),
            status: Vec::new(),
            uses: BTreeMap::new(),
            handles: vec![None; options.handles as usize],
            free_handles: (0..options.handles).rev().collect(),
            next_handle: 0,
            dying_total: 0,
        });
        Ok(Answer::Done)
    }

    fn populate(
        &mut self,
        subject: Subject,
        domain: u16,
        start: u64,
        order: u32,
        free: &mut Free,
    ) -> Result<(), Error> {
        let dom = self.dom(domain)?;
        dom.permit(subject, Action::Populate)?;
        let own = subject == Subject::Domain(DomainId::new(domain).unwrap());
        let size = dom.extent(start, order, if own { BITS } else { 2 * BITS })?;
        dom.vacant(start, size)?;
        dom.maximum(size)?;
        let level = order / BITS;
        if order.is_multiple_of(BITS) && dom.reserve.take(level) {
            if let Err(error) = dom.check_tables(start, level) {
                dom.reserve.put(level);
                return Err(error);
            }
        } else {
            dom.quota(size)?;
            let block = self.block(domain, order, free)?;
            self.draw(domain, size);
            self.dom(domain)?.check_tables(start, level)?;
            free.take(block, size);
        }
        let slot = Slot::Page { content: ZEROS, level };
        self.dom(domain)?.map.extend((start..start + size).map(|guest| (guest, slot.clone())));
        Ok(())
    }

    fn increase(
        &mut self,
        subject: Subject,
        domain: u16,
        order: u32,
        free: &mut Free,
    ) -> Result<(), Error> {
        let dom = self.dom(domain)?;
        dom.permit(subject, Action::Populate)?;
        if order > BITS {
            return Err(Error::OrderTooLarge { order, most: BITS });
        }
        dom.quota(1 << order)?;
        let block = self.block(domain, order, free)?;
        free.take(block, 1 << order);
        self.draw(domain, 1 << order);
        self.dom(domain)?.reserve.put_block(order);
        Ok(())
    }

    fn set_target(
        &mut self,
        subject: Subject,
        domain: u16,
        target: u64,
        budget: u64,
        hints: &Hints,
    ) -> Outcome {
        let dom = self.dom(domain)?;
        dom.permit(subject, Action::SetTarget)?;
        let maximum = dom.options.maximum;
        if target > maximum {
            return Err(Error::TargetAboveMaximum { target, maximum });
        }
        let owed = dom.memory();
        if dom.on_demand() > 0 && target < owed {
            return Err(Error::TargetBelowOwed { target, owed });
        }
        dom.target = target;
        let mut free = hints.free.clone();
        let missing = |dom: &Dom| {
            let room = target.saturating_sub(dom.memory());
            dom.on_demand().saturating_sub(dom.cache.pages()).min(room)
        };
        for _ in 0..budget {
            let want = missing(self.get(domain)?);
            if want == 0 {
                return Ok(Answer::Progress(Progress::Done));
            }
            let sizes = (0..3).rev().filter(|level| 1 << (BITS * level) <= want);
            let found = sizes
                .map(|level| (level, self.block(domain, BITS * level, &mut free)))
                .find_map(|(level, block)| Some((level, block.ok()?)));
            let Some((level, block)) = found else { return Err(Error::OutOfMemory { order: 0 }) };
            let size = 1 << (BITS * level);
            free.take(block, size);
            self.draw(domain, size);
            self.dom(domain)?.cache.put(level);
        }
        let done = missing(self.get(domain)?) == 0;
        Ok(Answer::Progress(if done { Progress::Done } else { Progress::More }))
    }

    fn build_page(&mut self, builder: u16, source: u64, domain: u16, guest: u64) -> Outcome {
        self.get(builder)?;
        self.get(domain)?;
        if builder == domain {
            return Err(Error::NoSuchDomain { domain });
        }
        let subject = Subject::Domain(DomainId::new(builder).unwrap());
        self.get(domain)?.permit(subject, Action::Build)?;
        self.own(builder)?;
        self.get(domain)?.extent(guest, 0, 0)?;
        self.get(builder)?.extent(source, 0, 0)?;
        for (dom, guest) in [(domain, guest), (builder, source)] {
            if !self.get(dom)?.own_page(guest)? {
                return Err(Error::NotPopulated { guest: frame(guest) });
            }
        }
        let content = *self.dom(builder)?.content_mut(source);
        *self.dom(domain)?.content_mut(guest) = content;
        Ok(Answer::Done)
    }

    fn seal(&mut self, subject: Subject, domain: u16, budget: u64, hints: &Hints) -> Outcome {
        let dom = self.dom(domain)?;
        dom.permit(subject, Action::Seal)?;
        let handles = dom.handles.iter().flatten().count() as u64;
        let uses = dom.granted_uses() + dom.table_pages() + handles;
        if uses > 0 {
            return Err(Error::GrantsInUse { uses });
        }
        dom.phase = Phase::Sealing;
        match hints.outcome {
            // How many steps it takes depends on how holes are passed over: at most one a frame.
            Ok(Answer::Digest(None)) if budget <= dom.options.frames => Ok(Answer::Digest(None)),
            _ => {
                dom.phase = Phase::Running;
                dom.measurement = Some(dom.digest());
                Ok(Answer::Digest(dom.measurement))
            }
        }
    }

    fn setup(&mut self, caller: u16, frames: u32, hints: &Hints) -> Outcome {
        let dom = self.own(caller)?;
        let (most, count) = (dom.options.grant_frames, dom.tables.len() as u32);
        if frames > most {
            return Err(Error::TableTooLarge { frames, most });
        }
        if frames <= count {
            return Ok(Answer::Done);
        }
        let new = u64::from(frames - count);
        let status =
            if dom.version == 2 { status_frames(frames) - dom.status.len() as u64 } else { 0 };
        exceeds(dom.table_pages(), new + status, dom.options.extra)?;
        let pages = self.available(caller);
        // Pages come one by one, and before the page of each frame its records.
        let mut taken = status.min(pages);
        let mut error = (status > pages).then_some(Error::OutOfMemory { order: 0 });
        for frame in 0..new {
            if error.is_some() {
                break;
            } else if frame >= hints.heap {
                error = Some(Error::OutOfKernelMemory);
            } else if taken == pages {
                error = Some(Error::OutOfMemory { order: 0 });
            } else {
                taken += 1;
            }
        }
        // What was claimed for pages that went back is not claimed again.
        self.draw(caller, taken);
        if let Some(error) = error {
            return Err(error);
        }
        let dom = self.dom(caller)?;
        dom.tables.resize(frames as usize, (ZEROS, None));
        dom.status.resize(dom.status.len() + status as usize, (ZEROS, None));
        Ok(Answer::Done)
    }

    fn set_version(&mut self, caller: u16, version: u32) -> Outcome {
        let dom = self.own(caller)?;
        if version != 1 && version != 2 {
            return Err(Error::BadVersion { version });
        }
        if version == dom.version {
            return Ok(Answer::Done);
        }
        let uses = dom.granted_uses();
        if uses > 0 {
            return Err(Error::GrantsInUse { uses });
        }
        if version == 2 {
            let status = status_frames(dom.tables.len() as u32);
            exceeds(dom.table_pages(), status, dom.options.extra)?;
            let pages = self.available(caller);
            self.draw(caller, status.min(pages));
            if status > pages {
                return Err(Error::OutOfMemory { order: 0 });
            }
            self.dom(caller)?.status = vec![(ZEROS, None); status as usize];
        }
        let dom = self.dom(caller)?;
        let kept: Vec<_> = (0..8).map(|reference| dom.entry(reference)).collect();
        for (content, _) in &mut dom.tables {
            *content = ZEROS;
        }
        if version == 1 {
            for (_, place) in std::mem::take(&mut dom.status) {
                if let Some(guest) = place {
                    dom.map.remove(&guest);
                }
            }
        }
        dom.version = version;
        for (reference, entry) in (0..).zip(kept) {
            if let Some(entry) = entry {
                dom.keep_entry(reference, &entry);
            }
        }
        Ok(Answer::Done)
    }

    #[expect(clippy::too_many_arguments, reason = "those of the operation")]
    fn map(
        &mut self,
        caller: u16,
        granter: u16,
        reference: u32,
        guest: u64,
        rights: Rights,
        race: Option<EntryRace>,
        hints: &Hints,
    ) -> Outcome {
        if granter == caller {
            return Err(Error::OwnGrant);
        }
        self.get(caller)?;
        self.get(granter)?;
        let subject = Subject::Domain(DomainId::new(caller).unwrap());
        self.own(caller)?;
        self.get(granter)?.permit(subject, Action::UseGranted)?;
        let own = self.dom(caller)?;
        own.extent(guest, 0, 0)?;
        own.vacant(guest, 1)?;
        if own.free_handles.is_empty() {
            return Err(Error::NoHandles { limit: own.options.handles });
        }
        let (page, _) = self.pin(caller, granter, reference, rights, true, race, hints)?;
        if let Err(error) = self.get(caller)?.check_tables(guest, 0) {
            self.unpin(granter, reference, rights);
            return Err(error);
        }
        let can_write = rights == Rights::Write;
        let own = self.dom(caller)?;
        own.map.insert(guest, Slot::Foreign { granter, guest: page, can_write });
        let handle = own.free_handles.pop().unwrap();
        own.handles[handle as usize] = Some(Handle { granter, reference, can_write, guest });
        Ok(Answer::Handle(handle))
    }

    /// Begin a use of an entry; the guest frame of its page, and the part that is granted.
    #[expect(clippy::too_many_arguments, reason = "those of the operation")]
    fn pin(
        &mut self,
        user: u16,
        granter: u16,
        reference: u32,
        rights: Rights,
        whole: bool,
        mut race: Option<EntryRace>,
        hints: &Hints,
    ) -> Result<(u64, Option<(u64, u64)>), Error> {
        let dom = self.dom(granter)?;
        let entries = dom.entries() as u32 * dom.tables.len() as u32;
        if reference >= entries {
            return Err(Error::BadReference { reference, entries });
        }
        let in_use = dom.uses.get(&reference).cloned();
        let count = in_use.as_ref().map_or(0, |uses| match rights {
            Rights::Read => uses.reads,
            Rights::Write => uses.writes,
        });
        if count >= MOST_USES {
            return Err(Error::TooManyUses { reference });
        }
        let mut attempts = 0;
        let entry = loop {
            if attempts == 4 {
                return Err(Error::Contended { reference });
            }
            attempts += 1;
            let before = dom.raw(reference);
            let entry = dom.entry(reference).unwrap();
            dom.race(reference, &mut race);
            if entry.kind != 1 || entry.domain != user {
                return Err(Error::NotGranted { reference });
            }
            if entry.read_only && rights == Rights::Write {
                return Err(Error::ReadOnly { reference });
            }
            if whole && entry.part.is_some() {
                return Err(Error::PartOnly { reference });
            }
            if in_use.as_ref().is_some_and(|uses| uses.user != user) {
                return Err(Error::NotGranted { reference });
            }
            dom.mark(reference, true, rights == Rights::Write);
            let after = dom.raw(reference);
            dom.race(reference, &mut race);
            // Marks are not looked at.
            let marks = if dom.version == 1 { READING | WRITING } else { 0 };
            if before[0] & !marks == after[0] & !marks && before[1..] == after[1..] {
                break entry;
            }
            let (reads, writes) = counts(in_use.as_ref());
            dom.unmark(reference, reads + writes > 0, writes > 0);
        };
        let found = match &in_use {
            Some(uses) => Ok(uses.guest),
            None => dom.granted(entry.guest, hints),
        };
        let guest = match found {
            Ok(guest) => guest,
            Err(error) => {
                let (reads, writes) = counts(in_use.as_ref());
                dom.unmark(reference, reads + writes > 0, writes > 0);
                return Err(error);
            }
        };
        let new = Uses { user, guest, reads: 0, writes: 0 };
        let uses = dom.uses.entry(reference).or_insert(new);
        match rights {
            Rights::Read => uses.reads += 1,
            Rights::Write => uses.writes += 1,
        }
        Ok((guest, entry.part))
    }

    fn unpin(&mut self, granter: u16, reference: u32, rights: Rights) {
        let dom = self.dom(granter).unwrap();
        let uses = dom.uses.get_mut(&reference).unwrap();
        let count = match rights {
            Rights::Read => &mut uses.reads,
            Rights::Write => &mut uses.writes,
        };
        *count -= 1;
        let last = *count == 0;
        let (reads, writes) = (uses.reads, uses.writes);
        if reads + writes == 0 {
            dom.uses.remove(&reference);
        }
        if last {
            dom.unmark(reference, reads + writes > 0, writes > 0);
        }
    }

    fn close(&mut self, user: u16, handle: u32) {
        let dom = self.dom(user).unwrap();
        let Handle { granter, reference, can_write, guest } =
            dom.handles[handle as usize].take().unwrap();
        dom.free_handles.push(handle);
        dom.map.remove(&guest);
        self.unpin(granter, reference, if can_write { Rights::Write } else { Rights::Read });
    }

    fn copy(&mut self, caller: u16, request: CopyRequest, hints: &Hints) -> Outcome {
        let CopyRequest { from, to, bytes } = request;
        for CopyEnd { offset, .. } in [from, to] {
            if !inside(offset, bytes, 0, WORDS as u64 * 8) {
                return Err(Error::BadPart { offset, bytes });
            }
        }
        for CopyEnd { page, .. } in [from, to] {
            if let Page::Own { guest } = page {
                let dom = self.own(caller)?;
                dom.extent(guest, 0, 0)?;
                if !dom.own_page(guest)? {
                    dom.populate_promised(guest, hints)?;
                }
            }
        }
        let source = self.find(caller, from, bytes, Rights::Read, hints)?;
        let target = self.find(caller, to, bytes, Rights::Write, hints);
        if let Ok((domain, guest)) = target {
            let page = self.dom(source.0)?.content_mut(source.1).map(u64::to_le_bytes).concat();
            let content = self.dom(domain)?.content_mut(guest);
            let mut changed = content.map(u64::to_le_bytes).concat();
            let (from, to, bytes) = (from.offset as usize, to.offset as usize, bytes as usize);
            changed[to..to + bytes].copy_from_slice(&page[from..from + bytes]);
            for (word, bytes) in content.iter_mut().zip(changed.chunks(8)) {
                *word = u64::from_le_bytes(bytes.try_into().unwrap());
            }
            self.let_go(to_page(request.to), Rights::Write);
        }
        self.let_go(to_page(request.from), Rights::Read);
        target.map(|_| Answer::Done)
    }

    fn find(
        &mut self,
        caller: u16,
        end: CopyEnd,
        bytes: u64,
        rights: Rights,
        hints: &Hints,
    ) -> Result<(u16, u64), Error> {
        let own = self.own(caller)?;
        let (domain, reference) = match end.page {
            Page::Own { guest } => {
                own.extent(guest, 0, 0)?;
                if !own.own_page(guest)? {
                    return Err(Error::Exhausted { guest: frame(guest) });
                }
                return Ok((caller, guest));
            }
            Page::Granted { domain, reference } => (domain, reference),
        };
        if domain == caller {
            return Err(Error::OwnGrant);
        }
        let subject = Subject::Domain(DomainId::new(caller).unwrap());
        self.dom(domain)?.permit(subject, Action::UseGranted)?;
        let (guest, part) = self.pin(caller, domain, reference, rights, false, None, hints)?;
        let offset = end.offset;
        if part.is_some_and(|(start, length)| !inside(offset, bytes, start, length)) {
            self.unpin(domain, reference, rights);
            return Err(Error::BadPart { offset, bytes });
        }
        Ok((domain, guest))
    }

    fn let_go(&mut self, page: Option<(u16, u32)>, rights: Rights) {
        if let Some((domain, reference)) = page {
            self.unpin(domain, reference, rights);
        }
    }

    fn tear_down(&mut self, domain: u16, budget: u64, hints: &Hints) -> Outcome {
        for _ in 0..budget {
            let dom = self.dom(domain)?;
            dom.permit(Subject::Hypervisor, Action::TearDown)?;
            let handle = dom.next_handle;
            if handle < dom.options.handles {
                dom.next_handle += 1;
                if dom.handles[handle as usize].is_some() {
                    self.close(domain, handle);
                }
                continue;
            }
            let in_use = dom.granted_uses() > 0;
            return match hints.outcome {
                // Pages are freed in steps that only the code under test knows.
                Ok(Answer::Torn(Torn::Done)) => {
                    assert!(!in_use, "domain {domain} is gone while its pages are used");
                    self.doms[usize::from(domain)] = None;
                    self.claims.remove(&domain);
                    for dom in self.doms.iter_mut().flatten() {
                        if dom.builder == Some(domain) {
                            dom.builder = None;
                        }
                    }
                    Ok(Answer::Torn(Torn::Done))
                }
                Ok(Answer::Torn(Torn::Waiting { pages })) => {
                    assert!(in_use, "domain {domain} waits for nobody");
                    let used: BTreeSet<_> = dom.uses.values().map(|uses| uses.guest).collect();
                    let pages_used = used.len() as u64 + dom.table_pages();
                    assert_eq!(pages, pages_used, "domain {domain} keeps other pages");
                    Ok(Answer::Torn(Torn::Waiting { pages }))
                }
                _ => Ok(Answer::Torn(Torn::More)),
            };
        }
        Ok(Answer::Torn(Torn::More))
    }

    fn touch(&mut self, domain: u16, guest: u64, word: usize, value: Option<u64>) -> Option<u64> {
        let dom = self.dom(domain).ok()?;
        let (owner, guest) = match dom.map.get(&guest)? {
            Slot::OnDemand => return None,
            Slot::Page { .. } => (domain, guest),
            Slot::Table { is_status, index } => {
                let (is_status, index) = (*is_status, *index);
                let tables = if is_status { &mut dom.status } else { &mut dom.tables };
                let place = &mut tables[index].0[word];
                *place = value.unwrap_or(*place);
                return Some(*place);
            }
            Slot::Foreign { can_write: false, .. } if value.is_some() => return None,
            Slot::Foreign { granter, guest, .. } => (*granter, *guest),
        };
        let place = &mut self.dom(owner).ok()?.content_mut(guest)[word];
        *place = value.unwrap_or(*place);
        Some(*place)
    }

    /// What can be seen of a domain that is not dying.
    pub(crate) fn summary(&self, dom: &Dom) -> Summary {
        Summary {
            phase: dom.phase,
            populated: dom.populated(),
            on_demand: dom.on_demand(),
            cache: dom.cache.pages(),
            reserve: dom.reserve.pages(),
            table: dom.table_pages(),
            target: dom.target,
            maximum: dom.options.maximum,
            quota: dom.memory_quota() + dom.options.extra,
            granted_uses: dom.granted_uses(),
            handles: dom.handles.iter().flatten().count() as u64,
            measurement: dom.measurement,
        }
    }
}

fn flags(reading: bool, writing: bool) -> u64 {
    let reading = if reading { READING } else { 0 };
    reading | if writing { WRITING } else { 0 }
}

fn counts(uses: Option<&Uses>) -> (u32, u32) {
    uses.map_or((0, 0), |uses| (uses.reads, uses.writes))
}

fn to_page(end: CopyEnd) -> Option<(u16, u32)> {
    match end.page {
        Page::Own { .. } => None,
        Page::Granted { domain, reference } => Some((domain, reference)),
    }
}

fn inside(offset: u64, bytes: u64, start: u64, length: u64) -> bool {
    let end = u128::from(offset) + u128::from(bytes);
    start <= offset && end <= u128::from(start) + u128::from(length)
}

/// Status frames for so many frames of entries.
fn status_frames(frames: u32) -> u64 {
    (u64::from(frames) * WORDS as u64 / 2).div_ceil(WORDS as u64 * 4)
}

fn partial(starts: &[u64], mut one: impl FnMut(u64) -> Result<(), Error>) -> Answer {
    let mut done = 0;
    for start in starts {
        match one(*start) {
            Ok(()) => done += 1,
            Err(error) => return Answer::Partial(Partial { done, stopped: Some(error) }),
        }
    }
    Answer::Partial(Partial { done, stopped: None })
}

/// Grant entries, as bytes in tables.
impl Dom {
    fn location(&self, reference: u32) -> (usize, usize) {
        let entries = self.entries() as usize;
        let (frame, place) = (reference as usize / entries, reference as usize % entries);
        (frame, place * self.version as usize)
    }

    /// The words of an entry.
    fn raw(&self, reference: u32) -> Vec<u64> {
        let (frame, word) = self.location(reference);
        self.tables[frame].0[word..word + self.version as usize].to_vec()
    }

    fn entry(&self, reference: u32) -> Option<Entry> {
        if u64::from(reference) >= self.entries() * self.tables.len() as u64 {
            return None;
        }
        let words = self.raw(reference);
        let flags = words[0] & 0xffff;
        let is_part = self.version == 2 && flags & 0x100 != 0;
        Some(Entry {
            kind: flags & 3,
            read_only: flags & 4 != 0,
            domain: (words[0] >> 16 & 0xffff) as u16,
            guest: if self.version == 1 { words[0] >> 32 } else { words[1] },
            part: is_part.then_some((words[0] >> 32 & 0xffff, words[0] >> 48)),
        })
    }

    /// Its domain changes an entry after it was read.
    fn race(&mut self, reference: u32, race: &mut Option<EntryRace>) {
        let (frame, word) = self.location(reference);
        if let Some(EntryRace { value, step, times }) = race {
            self.tables[frame].0[word] = *value;
            *value = value.wrapping_add(*step);
            *times -= 1;
            if *times == 0 {
                *race = None;
            }
        }
    }

    fn mark(&mut self, reference: u32, reading: bool, writing: bool) {
        self.change_marks(reference, |marks| marks | flags(reading, writing));
    }

    /// Leave only these marks.
    fn unmark(&mut self, reference: u32, reading: bool, writing: bool) {
        let kept = flags(reading, writing);
        self.change_marks(reference, |marks| marks & kept);
    }

    fn change_marks(&mut self, reference: u32, change: impl Fn(u64) -> u64) {
        let marks = READING | WRITING;
        if self.version == 1 {
            let (frame, word) = self.location(reference);
            let place = &mut self.tables[frame].0[word];
            *place = *place & !marks | change(*place & marks);
        } else {
            let place = reference as usize;
            let word = &mut self.status[place / (4 * WORDS)].0[place % (4 * WORDS) / 4];
            let shift = place % 4 * 16;
            let status = (*word >> shift & 3) << 3;
            *word = *word & !(3 << shift) | change(status) >> 3 << shift;
        }
    }

    /// The page that an entry names.
    fn granted(&mut self, guest: u64, hints: &Hints) -> Result<u64, Error> {
        let bad = Error::BadGrantedPage { guest };
        if guest >= self.options.frames {
            return Err(bad);
        }
        match self.own_page(guest) {
            Ok(true) => Ok(guest),
            Ok(false) => self.populate_promised(guest, hints).map(|_| guest),
            Err(_) => Err(bad),
        }
    }

    /// Write an entry that changing the version keeps.
    fn keep_entry(&mut self, reference: u32, entry: &Entry) {
        if u64::from(reference) >= self.entries() * self.tables.len() as u64 {
            return;
        }
        let mut head = u64::from(entry.kind == 1)
            | u64::from(entry.read_only) << 2
            | u64::from(entry.domain) << 16;
        let (frame, word) = self.location(reference);
        let page = &mut self.tables[frame].0;
        if self.version == 1 {
            let fits = entry.part.is_none() && entry.guest < 1 << 32;
            page[word] = if fits { head | entry.guest << 32 } else { 0 };
        } else {
            if let Some((offset, length)) = entry.part {
                head |= 0x100 | offset << 32 | length << 48;
            }
            page[word] = head;
            page[word + 1] = entry.guest;
        }
    }
}

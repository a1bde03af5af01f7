//! A machine in memory, with a page allocator: what domains stand on in tests and benchmarks.
//!
//! It has real page tables in its frames, processors that keep translations until they are told,
//! and records of owners; it counts how often tables, records and memory are touched. It checks
//! every request, and panics where the hypervisor above would break a rule of the interface: a
//! page freed while a processor can still reach it, a window onto somebody else's page.
//!
//! `BITS` is log2 of the entries of a table, `WORDS` the words of a page: 9 and 512 as on x86-64,
//! or less, so that small machines have large pages, too.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use heliox_types::Frame;
use heliox_vm::access::{Purpose, Window};
use heliox_vm::backing::{Refused, Rights, Translation};
use heliox_vm::{Backing, DomainId, Extent, GuestFrame, KernelMemory, Order};

/// Levels of page tables.
const LEVELS: u32 = 4;
/// The most shares of one page.
pub(crate) const MOST_SHARES: u32 = 6;

const PRESENT: u64 = 1;
/// The entry maps memory; always at the lowest level.
const LEAF: u64 = 2;
const WRITABLE: u64 = 4;
/// The memory is another domain's.
const FOREIGN: u64 = 8;
const FRAME_SHIFT: u32 = 12;

/// Whose a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Nobody,
    Domain(DomainId),
    /// A domain's paging pool: a table, or to become one.
    Tables(DomainId),
}

/// Accesses, by what was accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accesses {
    pub(crate) tables: u64,
    pub(crate) status: u64,
    pub(crate) memory: u64,
}

impl Accesses {
    pub(crate) fn total(self) -> u64 {
        self.tables + self.status + self.memory
    }
}

/// A domain's consent, as a value that cannot be copied.
#[derive(Debug)]
pub(crate) struct Share {
    owner: DomainId,
    frame: Frame,
    grantee: DomainId,
    rights: Rights,
}

#[derive(Debug)]
struct Space {
    root: u64,
    pool: Vec<u64>,
}

/// A translation that a processor keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cached {
    frame: u64,
    writable: bool,
}

/// Something that another processor does at an awkward moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Race {
    /// Just before a domain's translations are flushed, it writes a word by one that it kept.
    BeforeSettling { guest: u64, word: u64, value: u64 },
    /// After a word of a grant table was read, it changes (to `value`, which is then counted up in
    /// the bits of the frame's number), `times` times.
    AfterReading { frame: u64, word: u64, value: u64, step: u64, times: u32 },
}

#[derive(Debug)]
pub(crate) struct Machine<const BITS: u32, const WORDS: usize> {
    owners: Vec<Owner>,
    /// Shares of each frame; and of those, the ones that are mapped somewhere.
    shares: HashMap<u64, u32>,
    free: BTreeMap<u64, u64>,
    free_pages: u64,
    /// What is in each frame; nothing for zeros.
    contents: Vec<Option<Box<[u64; WORDS]>>>,
    spaces: BTreeMap<DomainId, Space>,
    claims: BTreeMap<DomainId, u64>,
    processors: Vec<HashMap<(DomainId, u64), Cached>>,
    accesses: Accesses,
    seen: Option<Vec<(Purpose, DomainId, u64)>>,
    pub(crate) race: Option<Race>,
}

const PROCESSORS: usize = 2;

impl<const BITS: u32, const WORDS: usize> Machine<BITS, WORDS> {
    pub(crate) fn new(frames: u64) -> Self {
        Self {
            owners: vec![Owner::Nobody; frames as usize],
            shares: HashMap::new(),
            free: BTreeMap::from([(0, frames)]),
            free_pages: frames,
            contents: vec![None; frames as usize],
            spaces: BTreeMap::new(),
            claims: BTreeMap::new(),
            processors: vec![HashMap::new(); PROCESSORS],
            accesses: Accesses::default(),
            seen: None,
            race: None,
        }
    }

    // What tests look at.

    pub(crate) fn frames(&self) -> u64 {
        self.owners.len() as u64
    }

    pub(crate) fn owner(&self, frame: u64) -> Owner {
        self.owners[frame as usize]
    }

    /// Pages with this owner, counted one by one.
    pub(crate) fn count(&self, owner: Owner) -> u64 {
        self.owners.iter().filter(|other| **other == owner).count() as u64
    }

    /// Stretches of free memory.
    pub(crate) fn free(&self) -> &BTreeMap<u64, u64> {
        &self.free
    }

    pub(crate) fn claims(&self) -> &BTreeMap<DomainId, u64> {
        &self.claims
    }

    /// All shares that exist.
    pub(crate) fn live_shares(&self) -> u64 {
        self.shares.values().map(|count| u64::from(*count)).sum()
    }

    pub(crate) fn shares_of(&self, frame: u64) -> u32 {
        self.shares.get(&frame).copied().unwrap_or(0)
    }

    /// Pages of a paging pool that are not tables now.
    pub(crate) fn spare_tables(&self, domain: DomainId) -> u64 {
        self.spaces[&domain].pool.len() as u64
    }

    pub(crate) fn accesses(&self) -> Accesses {
        self.accesses
    }

    /// The pages that were looked into since this was last asked; from the first time on.
    pub(crate) fn take_seen(&mut self) -> Vec<(Purpose, DomainId, u64)> {
        self.seen.replace(Vec::new()).unwrap_or_default()
    }

    pub(crate) fn word(&self, frame: u64, word: u64) -> u64 {
        self.contents[frame as usize].as_ref().map_or(0, |page| page[word as usize])
    }

    pub(crate) fn set_word(&mut self, frame: u64, word: u64, value: u64) {
        let page = &mut self.contents[frame as usize];
        page.get_or_insert_with(|| Box::new([0; WORDS]))[word as usize] = value;
    }

    pub(crate) fn page(&self, frame: u64) -> [u64; WORDS] {
        self.contents[frame as usize].as_ref().map_or([0; WORDS], |page| **page)
    }

    /// What a domain's page map has at a guest frame: the frame, whether it can be written, whether
    /// it is another's.
    pub(crate) fn mapped(&self, domain: DomainId, guest: u64) -> Option<(u64, bool, bool)> {
        let mut table = self.spaces.get(&domain)?.root;
        for level in (0..LEVELS).rev() {
            let entry = self.word(table, index::<BITS>(guest, level));
            if entry & PRESENT == 0 {
                return None;
            }
            if entry & LEAF != 0 {
                let offset = guest & ((1 << (BITS * level)) - 1);
                let frame = (entry >> FRAME_SHIFT) + offset;
                return Some((frame, entry & WRITABLE != 0, entry & FOREIGN != 0));
            }
            table = entry >> FRAME_SHIFT;
        }
        None
    }

    // What guests do.

    /// A processor of a domain reads a word, or writes one; by a translation that it kept, if it
    /// has one. `None` if its page map has nothing there, or nothing to be written.
    pub(crate) fn touch(
        &mut self,
        processor: usize,
        domain: DomainId,
        guest: u64,
        word: u64,
        value: Option<u64>,
    ) -> Option<u64> {
        let key = (domain, guest);
        let cached = match self.processors[processor].get(&key) {
            Some(cached) => *cached,
            None => {
                let (frame, writable, _) = self.mapped(domain, guest)?;
                let cached = Cached { frame, writable };
                self.processors[processor].insert(key, cached);
                cached
            }
        };
        match value {
            Some(value) if cached.writable => self.set_word(cached.frame, word, value),
            Some(_) => return None,
            None => {}
        }
        Some(self.word(cached.frame, word))
    }

    // The allocator: always the lowest block.

    /// Where the lowest free block of `order` is.
    pub(crate) fn lowest_free(free: &BTreeMap<u64, u64>, order: u32) -> Option<u64> {
        let size = 1 << order;
        free.iter().find_map(|(start, length)| {
            let block = start.next_multiple_of(size);
            (block + size <= start + length).then_some(block)
        })
    }

    /// Take `count` frames from `start` on out of the free ones.
    pub(crate) fn take_free(free: &mut BTreeMap<u64, u64>, start: u64, count: u64) {
        let (run, length) =
            free.range(..=start).next_back().map(|(run, length)| (*run, *length)).unwrap();
        assert!(start + count <= run + length);
        free.remove(&run);
        if run < start {
            free.insert(run, start - run);
        }
        if start + count < run + length {
            free.insert(start + count, run + length - start - count);
        }
    }

    fn put_free(&mut self, mut start: u64, mut count: u64) {
        if let Some(length) = self.free.remove(&(start + count)) {
            count += length;
        }
        if let Some((run, length)) = self.free.range(..start).next_back().map(|(a, b)| (*a, *b))
            && run + length == start
        {
            self.free.remove(&run);
            start = run;
            count += length;
        }
        self.free.insert(start, count);
    }

    /// What a domain can still take, claims of others set apart.
    pub(crate) fn available(&self, domain: DomainId) -> u64 {
        let others = self.claims.iter().filter(|(other, _)| **other != domain);
        self.free_pages - others.map(|(_, claim)| claim).sum::<u64>()
    }

    fn allocate(&mut self, domain: DomainId, order: u32, owner: Owner) -> Result<u64, Refused> {
        self.accesses.status += 2;
        if self.available(domain) < 1 << order {
            return Err(Refused::NoMemory);
        }
        let start = Self::lowest_free(&self.free, order).ok_or(Refused::NoMemory)?;
        Self::take_free(&mut self.free, start, 1 << order);
        self.free_pages -= 1 << order;
        for frame in start..start + (1 << order) {
            assert_eq!(self.owners[frame as usize], Owner::Nobody);
            self.owners[frame as usize] = owner;
            // Clearing is not counted.
            self.contents[frame as usize] = None;
        }
        if let (Owner::Domain(_), Some(claim)) = (owner, self.claims.get_mut(&domain)) {
            *claim = claim.saturating_sub(1 << order);
        }
        Ok(start)
    }

    fn release(&mut self, start: u64, count: u64, owner: Owner) -> Result<(), Refused> {
        self.accesses.status += 2;
        let frames = start..start + count;
        if frames.clone().any(|frame| self.owners[frame as usize] != owner) {
            return Err(Refused::Inconsistent);
        }
        for frame in frames.clone() {
            assert_eq!(self.shares_of(frame), 0, "frame {frame} is freed while it is shared");
            self.owners[frame as usize] = Owner::Nobody;
        }
        let reached = self.processors.iter().flat_map(HashMap::values);
        let stale = reached.filter(|cached| frames.contains(&cached.frame)).count();
        assert_eq!(stale, 0, "frames {frames:?} are freed while a processor reaches them");
        self.free_pages += count;
        self.put_free(start, count);
        Ok(())
    }

    // Page tables.

    fn entry(&mut self, table: u64, guest: u64, level: u32) -> u64 {
        self.accesses.tables += 1;
        self.word(table, index::<BITS>(guest, level))
    }

    fn set_entry(&mut self, table: u64, guest: u64, level: u32, entry: u64) {
        self.accesses.tables += 1;
        self.set_word(table, index::<BITS>(guest, level), entry);
    }

    /// The table of `level` on the way to `guest`, with those above it; those that are there.
    fn walk(&mut self, domain: DomainId, guest: u64, level: u32) -> Vec<u64> {
        let mut path = vec![self.spaces[&domain].root];
        for above in (level + 1..LEVELS).rev() {
            let entry = self.entry(path[path.len() - 1], guest, above);
            if entry & PRESENT == 0 || entry & LEAF != 0 {
                break;
            }
            path.push(entry >> FRAME_SHIFT);
        }
        path
    }

    /// Make the tables that are missing on the way to `level`. The table there.
    fn make_path(&mut self, domain: DomainId, guest: u64, level: u32) -> Result<u64, Refused> {
        let path = self.walk(domain, guest, level);
        let mut table = path[path.len() - 1];
        let reached = LEVELS - path.len() as u32;
        let missing = reached - level;
        if missing > 0 && self.word(table, index::<BITS>(guest, reached)) & PRESENT != 0 {
            return Err(Refused::Inconsistent);
        }
        if (self.spaces[&domain].pool.len() as u32) < missing {
            return Err(Refused::NoTables);
        }
        for above in (level + 1..=reached).rev() {
            let new = self.spaces.get_mut(&domain).unwrap().pool.pop().unwrap();
            self.accesses.status += 1;
            self.set_entry(table, guest, above, PRESENT | new << FRAME_SHIFT);
            table = new;
        }
        Ok(table)
    }

    /// Free the tables on the way to `guest` that are empty.
    fn prune(&mut self, domain: DomainId, guest: u64, level: u32) {
        let path = self.walk(domain, guest, level);
        for (place, table) in path.iter().enumerate().skip(1).rev() {
            // The record of a table has the number of its entries.
            self.accesses.status += 1;
            if (0..1 << BITS).any(|index| self.word(*table, index) & PRESENT != 0) {
                break;
            }
            self.set_entry(path[place - 1], guest, LEVELS - place as u32, 0);
            self.spaces.get_mut(&domain).unwrap().pool.push(*table);
        }
    }

    /// Cut the mapping at `guest` until it is of `level`.
    fn split(&mut self, domain: DomainId, guest: u64, level: u32) -> Result<(), Refused> {
        let path = self.walk(domain, guest, level);
        let reached = LEVELS - path.len() as u32;
        let mut table = path[path.len() - 1];
        let missing = reached.saturating_sub(level);
        if (self.spaces[&domain].pool.len() as u32) < missing {
            return Err(Refused::NoTables);
        }
        for above in (level + 1..=reached).rev() {
            let entry = self.entry(table, guest, above);
            if entry & PRESENT == 0 {
                return Err(Refused::Inconsistent);
            }
            let new = self.spaces.get_mut(&domain).unwrap().pool.pop().unwrap();
            for part in 0..1 << BITS {
                let step = part << (BITS * (above - 1));
                self.accesses.tables += 1;
                self.set_word(new, part, entry + (step << FRAME_SHIFT));
            }
            self.accesses.status += 2;
            self.set_entry(table, guest, above, PRESENT | new << FRAME_SHIFT);
            table = new;
        }
        Ok(())
    }

    fn insert(
        &mut self,
        domain: DomainId,
        to: Extent,
        frame: u64,
        flags: u64,
    ) -> Result<(), Refused> {
        let level = (to.order().number() / BITS).min(2);
        let (start, size) = (to.start().number(), 1 << (BITS * level));
        let path = self.walk(domain, start, level);
        if path.len() as u32 == LEVELS - level {
            let table = path[path.len() - 1];
            let entries = (start..to.end()).step_by(size as usize);
            for guest in entries {
                if self.entry(table, guest, level) & PRESENT != 0 {
                    return Err(Refused::Inconsistent);
                }
            }
        }
        let table = self.make_path(domain, start, level)?;
        for guest in (start..to.end()).step_by(size as usize) {
            let frame = frame + (guest - start);
            self.set_entry(table, guest, level, PRESENT | LEAF | flags | frame << FRAME_SHIFT);
            // A reference, counted at the mapping's own level.
            self.accesses.status += 1;
        }
        Ok(())
    }

    fn remove(&mut self, domain: DomainId, from: Extent, flags: u64) -> Result<u64, Refused> {
        let level = (from.order().number() / BITS).min(2);
        let (start, size) = (from.start().number(), 1 << (BITS * level));
        let Some((frame, ..)) = self.mapped(domain, start) else {
            return Err(Refused::Inconsistent);
        };
        self.split(domain, start, level)?;
        let path = self.walk(domain, start, level);
        let table = path[path.len() - 1];
        if path.len() as u32 != LEVELS - level {
            return Err(Refused::Inconsistent);
        }
        for guest in (start..from.end()).step_by(size as usize) {
            let entry = self.entry(table, guest, level);
            let expected = PRESENT | LEAF | (frame + guest - start) << FRAME_SHIFT;
            if entry & !(WRITABLE | FOREIGN) != expected || entry & FOREIGN != flags {
                return Err(Refused::Inconsistent);
            }
        }
        for guest in (start..from.end()).step_by(size as usize) {
            self.set_entry(table, guest, level, 0);
            self.accesses.status += 1;
        }
        self.prune(domain, start, level);
        Ok(frame)
    }

    fn look(&mut self, window: &Window) -> u64 {
        let frame = window.frame().number();
        let owner = Owner::Domain(window.owner());
        assert_eq!(self.owners[frame as usize], owner, "a window onto another's page: {window:?}");
        if let Some(seen) = &mut self.seen {
            seen.push((window.purpose(), window.owner(), frame));
        }
        frame
    }
}

fn index<const BITS: u32>(guest: u64, level: u32) -> u64 {
    guest >> (BITS * level) & ((1 << BITS) - 1)
}

impl<const BITS: u32, const WORDS: usize> Backing for Machine<BITS, WORDS> {
    const LEVEL_BITS: u32 = BITS;
    const PAGE_WORDS: u64 = WORDS as u64;
    const MOST_USES: u32 = if WORDS < 512 { 3 } else { 1 << 16 };

    type Share = Share;

    fn add_domain(&mut self, domain: DomainId, tables: u64) -> Result<(), Refused> {
        assert!(!self.spaces.contains_key(&domain));
        // One for the root.
        if self.available(domain) < tables + 1 {
            return Err(Refused::NoMemory);
        }
        let mut pool = Vec::new();
        for _ in 0..=tables {
            pool.push(self.allocate(domain, 0, Owner::Tables(domain))?);
        }
        let root = pool.remove(0);
        self.spaces.insert(domain, Space { root, pool });
        self.claims.insert(domain, 0);
        Ok(())
    }

    fn remove_domain(&mut self, domain: DomainId) -> Result<(), Refused> {
        if self.count(Owner::Domain(domain)) > 0 {
            return Err(Refused::Inconsistent);
        }
        let space = self.spaces.remove(&domain).unwrap();
        assert!((0..1 << BITS).all(|index| self.word(space.root, index) == 0));
        assert!(self.processors.iter().all(|it| it.keys().all(|(other, _)| *other != domain)));
        self.claims.remove(&domain);
        for frame in space.pool.into_iter().chain([space.root]) {
            self.release(frame, 1, Owner::Tables(domain))?;
        }
        Ok(())
    }

    fn claim(&mut self, domain: DomainId, pages: u64) -> Result<(), Refused> {
        if self.available(domain) < pages {
            return Err(Refused::NoMemory);
        }
        self.claims.insert(domain, pages);
        Ok(())
    }

    fn claimed(&self, domain: DomainId) -> u64 {
        self.claims.get(&domain).copied().unwrap_or(0)
    }

    fn take(&mut self, domain: DomainId, order: Order) -> Result<Frame, Refused> {
        let frame = self.allocate(domain, order.number(), Owner::Domain(domain))?;
        Ok(Frame::new(frame).unwrap())
    }

    fn give_back(&mut self, domain: DomainId, frame: Frame, order: Order) -> Result<(), Refused> {
        self.release(frame.number(), order.pages(), Owner::Domain(domain))
    }

    fn map(&mut self, domain: DomainId, to: Extent, frame: Frame) -> Result<(), Refused> {
        let frames = frame.number()..frame.number() + to.pages();
        self.accesses.status += 1;
        for frame in frames {
            if self.owners[frame as usize] != Owner::Domain(domain) {
                return Err(Refused::Inconsistent);
            }
        }
        self.insert(domain, to, frame.number(), WRITABLE)
    }

    fn unmap(&mut self, domain: DomainId, from: Extent) -> Result<Frame, Refused> {
        let frame = self.remove(domain, from, 0)?;
        Ok(Frame::new(frame).unwrap())
    }

    fn settle(&mut self, domain: DomainId) {
        if let Some(Race::BeforeSettling { guest, word, value }) = self.race {
            self.race = None;
            self.touch(1, domain, guest, word, Some(value));
        }
        for processor in 0..PROCESSORS {
            let mut kept = std::mem::take(&mut self.processors[processor]);
            kept.retain(|(other, guest), cached| {
                let now = self.mapped(*other, *guest);
                *other != domain
                    || now.is_some_and(|(frame, writable, _)| Cached { frame, writable } == *cached)
            });
            self.processors[processor] = kept;
        }
    }

    fn translate(&mut self, domain: DomainId, guest: GuestFrame) -> Translation {
        let guest = guest.number();
        let path = self.walk(domain, guest, 0);
        let level = LEVELS - path.len() as u32;
        let entry = self.entry(path[path.len() - 1], guest, level);
        let order = Order::new(BITS * level.min(2)).unwrap();
        if entry & PRESENT == 0 {
            return Translation::Nothing { order };
        }
        let offset = guest & ((1 << (BITS * level)) - 1);
        Translation::Memory { frame: Frame::new((entry >> FRAME_SHIFT) + offset).unwrap(), order }
    }

    fn is_shared(&mut self, frame: Frame, order: Order) -> bool {
        // A block's record says whether any page of it is.
        self.accesses.status += 1;
        let frames = frame.number()..frame.number() + order.pages();
        if self.shares.len() < 64 {
            return self.shares.keys().any(|shared| frames.contains(shared));
        }
        frames.into_iter().any(|frame| self.shares_of(frame) > 0)
    }

    fn share(
        &mut self,
        owner: DomainId,
        frame: Frame,
        grantee: DomainId,
        rights: Rights,
    ) -> Result<Share, Refused> {
        self.accesses.status += 2;
        if self.owners[frame.number() as usize] != Owner::Domain(owner) || owner == grantee {
            return Err(Refused::Inconsistent);
        }
        let count = self.shares.entry(frame.number()).or_default();
        if *count == MOST_SHARES {
            return Err(Refused::TooManyReferences);
        }
        *count += 1;
        Ok(Share { owner, frame, grantee, rights })
    }

    fn end_share(&mut self, share: Share) {
        self.accesses.status += 1;
        let frame = share.frame.number();
        assert_eq!(self.owners[frame as usize], Owner::Domain(share.owner));
        let reached = self
            .processors
            .iter()
            .flatten()
            .filter(|((domain, _), cached)| *domain == share.grantee && cached.frame == frame);
        // Another share for the same grantee can be the reason.
        let reached = reached.count();
        let count = self.shares.get_mut(&frame).unwrap();
        *count -= 1;
        if *count == 0 {
            self.shares.remove(&frame);
            assert_eq!(reached, 0, "a use of frame {frame} ended while a processor reaches it");
        }
    }

    fn map_share(&mut self, share: &Share, to: GuestFrame) -> Result<(), Refused> {
        let flags = match share.rights {
            Rights::Read => FOREIGN,
            Rights::Write => FOREIGN | WRITABLE,
        };
        self.insert(share.grantee, Extent::page(to), share.frame.number(), flags)
    }

    fn unmap_share(&mut self, share: &Share, from: GuestFrame) -> Result<(), Refused> {
        match self.mapped(share.grantee, from.number()) {
            Some((frame, writable, true))
                if frame == share.frame.number() && writable == (share.rights == Rights::Write) => {
            }
            _ => return Err(Refused::Inconsistent),
        }
        self.remove(share.grantee, Extent::page(from), FOREIGN).map(drop)
    }

    fn load(&mut self, window: &Window, word: u64) -> u64 {
        let frame = self.look(window);
        self.accesses.memory += 1;
        let found = self.word(frame, word);
        if let Some(Race::AfterReading { frame: of, word: at, value, step, times }) = self.race
            && window.purpose() == Purpose::GrantTable
            && (frame, word) == (of, at)
        {
            self.set_word(frame, word, value);
            let next = Race::AfterReading {
                frame,
                word,
                value: value.wrapping_add(step),
                step,
                times: times - 1,
            };
            self.race = (times > 1).then_some(next);
        }
        found
    }

    fn store(&mut self, window: &Window, word: u64, value: u64) {
        let frame = self.look(window);
        self.accesses.memory += 1;
        self.set_word(frame, word, value);
    }

    fn compare_exchange(&mut self, window: &Window, word: u64, current: u64, new: u64) -> u64 {
        let frame = self.look(window);
        self.accesses.memory += 1;
        let found = self.word(frame, word);
        if found == current {
            self.set_word(frame, word, new);
        }
        found
    }

    fn update(&mut self, window: &Window, word: u64, set: u64, clear: u64) -> u64 {
        let frame = self.look(window);
        self.accesses.memory += 1;
        let found = self.word(frame, word);
        self.set_word(frame, word, found & !clear | set);
        found
    }

    fn is_zero(&mut self, window: &Window) -> bool {
        let frame = self.look(window);
        self.accesses.memory += 1;
        self.contents[frame as usize].as_ref().is_none_or(|page| page.iter().all(|word| *word == 0))
    }

    fn clear(&mut self, window: &Window) {
        let frame = self.look(window);
        self.contents[frame as usize] = None;
    }

    fn copy(&mut self, from: &Window, from_offset: u64, to: &Window, to_offset: u64, bytes: u64) {
        let (from, to) = (self.look(from), self.look(to));
        self.accesses.memory += 2 * bytes.div_ceil(8);
        let byte =
            |page: &[u64; WORDS], at: u64| page[at as usize / 8].to_le_bytes()[at as usize % 8];
        let source = self.page(from);
        let mut target = self.page(to);
        for place in 0..bytes {
            let (value, at) = (byte(&source, from_offset + place), to_offset + place);
            let mut word = target[at as usize / 8].to_le_bytes();
            word[at as usize % 8] = value;
            target[at as usize / 8] = u64::from_le_bytes(word);
        }
        self.contents[to as usize] = Some(Box::new(target));
    }
}

/// Kernel memory, of which there can be too little: how many slices can still be had.
#[derive(Clone, Debug)]
pub(crate) struct Heap(pub(crate) Rc<Cell<u64>>);

impl KernelMemory for Heap {
    type Slice<T> = Vec<T>;

    fn slice<T>(&mut self, count: usize, make: impl FnMut() -> T) -> Option<Vec<T>> {
        self.0.set(self.0.get().checked_sub(1)?);
        Some(std::iter::repeat_with(make).take(count).collect())
    }
}

//! Hostile domains against the model: random sequences of all operations, wrong ones included.
//!
//! Each episode makes a new small machine (some hundred pages of eight words, tables of four
//! entries, so that there are large pages of two sizes) and runs some hundred operations by up to
//! six domains, whose guests write what they like wherever they can, into their grant tables too,
//! on two processors that keep translations. After *every* operation the answer is compared with the
//! model's, and so are all accounts, all page maps with what is in the pages, all grant tables, and
//! the owner of every page of the machine: none is lost, and none is anywhere where it should not
//! be. At the end of an episode everybody dies, and the machine has to be empty.
//!
//! `HELIOX_ORACLE_SEED` and `HELIOX_ORACLE_OPERATIONS` choose other sequences.

mod common;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use common::Random;
use common::machine::{Heap, Machine, Owner, Race};
use common::model::{
    Answer, BITS, Dom, EntryRace, Free, Hints, Model, Op, Outcome, Slot, WORDS, frame,
};
use heliox_vm::access::{Phase, Purpose, Subject};
use heliox_vm::backing::Rights;
use heliox_vm::{CopyEnd, CopyRequest, DomainId, Domains, Error, Kind, Limit, Options, Page, Torn};

type World = Domains<Machine<BITS, WORDS>, Heap>;

const OPERATIONS: u64 = 1_000_000;
/// The run is cut into so many parts, which go on at the same time.
const PARTS: u64 = 4;
/// Operations on one machine.
const EPISODE: u64 = 900;
/// Frames of a machine: the window has room for no more.
const MOST_FRAMES: u64 = 192;
/// How often all invariants of the abstraction layer are checked.
const AUDIT: u64 = 50;
/// How often each operation must succeed, and each error occur, in a run of [`OPERATIONS`].
const AT_LEAST: u64 = 1000;
const DOMAINS: u16 = 6;
/// Slices of kernel memory where there is enough.
const PLENTY: u64 = 1_000_000;

/// How often each operation succeeded, and each error occurred.
#[derive(Default)]
struct Counts {
    successes: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

fn name(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

impl Counts {
    fn note(&mut self, op: &Op, outcome: &Outcome) {
        let successes = self.successes.entry(name(op)).or_default();
        let error = match outcome {
            Ok(Answer::Partial(partial)) => {
                *successes += u64::from(partial.done > 0);
                partial.stopped
            }
            Ok(Answer::Word(None)) => None,
            Ok(_) => {
                *successes += 1;
                None
            }
            Err(error) => Some(*error),
        };
        match error {
            None => {}
            Some(Error::Denied { why, .. }) => *self.error(&format!("Denied({why:?})")) += 1,
            Some(error) => *self.error(&name(&error)) += 1,
        }
    }

    fn add(&mut self, other: Self) {
        for (all, more) in
            [(&mut self.successes, other.successes), (&mut self.errors, other.errors)]
        {
            for (name, count) in more {
                *all.entry(name).or_default() += count;
            }
        }
    }

    fn error(&mut self, name: &str) -> &mut u64 {
        self.errors.entry(name.to_owned()).or_default()
    }
}

/// All operations, by name.
const ALL_OPERATIONS: &[&str] = &[
    "Create",
    "Claim",
    "Populate",
    "OnDemand",
    "Decrease",
    "Increase",
    "SetTarget",
    "Fault",
    "BuildPage",
    "Seal",
    "ReadState",
    "Setup",
    "Show",
    "Hide",
    "SetVersion",
    "StatusFrame",
    "Map",
    "Unmap",
    "Copy",
    "Kill",
    "TearDown",
    "Touch",
];

/// All errors but `Inconsistent`, which must not occur.
const ALL_ERRORS: &[&str] = &[
    "NoSuchDomain",
    "DomainExists",
    "BadOptions",
    "Denied(Dying)",
    "Denied(Crashed)",
    "Denied(Sealing)",
    "Denied(Sealed)",
    "Denied(NotYours)",
    "OrderTooLarge",
    "Misaligned",
    "OutsideMap",
    "Occupied",
    "NotPopulated",
    "NotOnDemand",
    "GrantTablePage",
    "ForeignPage",
    "InUse",
    "QuotaExceeded",
    "MaximumExceeded",
    "TargetAboveMaximum",
    "TargetBelowOwed",
    "OutOfMemory",
    "OutOfTables",
    "OutOfKernelMemory",
    "Exhausted",
    "GrantsInUse",
    "OwnGrant",
    "BadReference",
    "NotGranted",
    "ReadOnly",
    "PartOnly",
    "BadGrantedPage",
    "TooManyUses",
    "Contended",
    "NoHandles",
    "BadHandle",
    "WrongPlace",
    "BadPart",
    "TableTooLarge",
    "NoTableFrame",
    "AlreadyPlaced",
    "BadVersion",
];

#[test]
fn a_million_operations_of_hostile_domains_agree_with_the_model() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seed = number("HELIOX_ORACLE_SEED").unwrap_or(1);
    let operations = number("HELIOX_ORACLE_OPERATIONS").unwrap_or(OPERATIONS);
    let start = Instant::now();
    // Each with machines of its own.
    let parts: Vec<_> = (0..PARTS)
        .map(|part| {
            let share = operations / PARTS + u64::from(part < operations % PARTS);
            std::thread::spawn(move || run(seed * PARTS + part, share))
        })
        .collect();
    let mut counts = Counts::default();
    let (mut done, mut episodes) = (0, 0);
    for part in parts {
        let part = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done += part.done;
        episodes += part.episodes;
        counts.add(part.counts);
    }
    println!("seed {seed}: {done} operations on {episodes} machines, {:.1?}", start.elapsed());
    println!("{:<34} {:>10}", "operation", "succeeded");
    for name in ALL_OPERATIONS {
        println!("{name:<34} {:>10}", counts.successes.get(*name).copied().unwrap_or(0));
    }
    println!("{:<34} {:>10}", "error", "occurred");
    for name in ALL_ERRORS {
        println!("{name:<34} {:>10}", counts.errors.get(*name).copied().unwrap_or(0));
    }
    for name in counts.successes.keys() {
        assert!(ALL_OPERATIONS.contains(&name.as_str()), "{name} is not listed");
    }
    for name in counts.errors.keys() {
        assert!(ALL_ERRORS.contains(&name.as_str()), "{name} is not listed");
    }
    if operations >= OPERATIONS {
        for name in ALL_OPERATIONS {
            let count = counts.successes.get(*name).copied().unwrap_or(0);
            assert!(count >= AT_LEAST, "{name} succeeded only {count} times");
        }
        for name in ALL_ERRORS {
            let count = counts.errors.get(*name).copied().unwrap_or(0);
            assert!(count >= AT_LEAST, "{name} occurred only {count} times");
        }
    }
}

/// What one part of the run did.
#[derive(Default)]
struct Part {
    counts: Counts,
    done: u64,
    episodes: u64,
}

fn run(seed: u64, operations: u64) -> Part {
    let mut random = Random(seed);
    let mut part = Part::default();
    while part.done < operations {
        part.done += Run::new(&mut random).episode(&mut random, &mut part.counts);
        part.episodes += 1;
    }
    part
}

fn id(domain: u16) -> DomainId {
    DomainId::new(domain).unwrap()
}

/// A machine with its domains, and the model.
struct Run {
    world: World,
    model: Model,
    heap: Rc<Cell<u64>>,
}

impl Run {
    fn new(random: &mut Random) -> Self {
        let frames = 60 + random.below(MOST_FRAMES - 60);
        let heap = Rc::new(Cell::new(PLENTY));
        let mut world = World::new(Machine::new(frames), Heap(heap.clone()), DOMAINS).unwrap();
        world.backing_mut().take_seen();
        Self { world, model: Model::new(frames, usize::from(DOMAINS)), heap }
    }

    /// Random operations until there were enough of them, and the end of all domains; how many
    /// there were.
    fn episode(&mut self, random: &mut Random, counts: &mut Counts) -> u64 {
        let mut done = 0;
        for domain in 0..3 {
            let op = Op::Create { builder: 0, number: domain, options: options(random) };
            self.step(&op, PLENTY, counts);
            done += 1;
        }
        while done < EPISODE {
            let op = self.choose(random);
            let heap = match op {
                Op::Create { .. } | Op::Setup { .. } if random.chance(30) => random.below(8),
                _ => PLENTY,
            };
            self.step(&op, heap, counts);
            done += 1;
            if done % AUDIT == 0 {
                self.world.backing().check_below();
                self.world.backing().audit();
            }
        }
        for domain in 0..DOMAINS {
            if self.model.get(domain).is_ok_and(|dom| dom.phase != Phase::Dying) {
                self.step(&Op::Kill { subject: Subject::Hypervisor, domain }, PLENTY, counts);
            }
        }
        // One after the other, and whoever waits for another again.
        for _ in 0..DOMAINS {
            for domain in 0..DOMAINS {
                if self.model.get(domain).is_ok() {
                    self.step(&Op::TearDown { domain, budget: 5000 }, PLENTY, counts);
                }
            }
        }
        let machine = self.world.backing();
        assert_eq!(machine.count(Owner::Nobody), machine.frames());
        assert_eq!((machine.live_shares(), machine.claims().len()), (0, 0));
        machine.check_below();
        machine.audit();
        done
    }

    /// Do one operation, and compare everything.
    fn step(&mut self, op: &Op, heap: u64, counts: &mut Counts) {
        self.heap.set(heap);
        let before = self.model.clone();
        let stretches = match op {
            Op::Populate { .. } | Op::Increase { .. } | Op::SetTarget { .. } => {
                self.world.backing().free()
            }
            _ => BTreeMap::new(),
        };
        let outcome = self.carry_out(op);
        let machine = self.world.backing_mut();
        machine.set_race(None);
        let free = Free { stretches, taken: machine.take_taken().into() };
        let hints = Hints { free, reclaimed: self.reclaimed(), heap, outcome: outcome.clone() };
        let expected = self.model.apply(op, &hints);
        if expected != outcome {
            panic!("{op:?}\nanswered {outcome:?}\ninstead of {expected:?}\n{before:#?}");
        }
        counts.note(op, &outcome);
        let seen = self.world.backing_mut().take_seen();
        self.check_windows(op, &before, &seen);
        self.compare(op);
    }

    /// Pages that were there by the model and are on demand by the code: that it took back.
    fn reclaimed(&self) -> BTreeMap<u16, BTreeSet<u64>> {
        let mut all = BTreeMap::new();
        for dom in self.model.doms.iter().flatten() {
            if dom.phase == Phase::Dying {
                continue;
            }
            let pages = dom.map.iter().filter(|(_, slot)| matches!(slot, Slot::Page { .. }));
            let taken = pages
                .map(|(guest, _)| *guest)
                .filter(|guest| self.world.kind(dom.id, *guest) == Ok(Kind::OnDemand));
            let taken: BTreeSet<u64> = taken.collect();
            if !taken.is_empty() {
                all.insert(dom.id, taken);
            }
        }
        all
    }

    fn carry_out(&mut self, op: &Op) -> Outcome {
        let done = |()| Answer::Done;
        let world = &mut self.world;
        match op.clone() {
            Op::Create { builder, number, options } => {
                world.create(id(builder), number, &options).map(|_| Answer::Done)
            }
            Op::Claim { subject, domain, pages } => world.claim(subject, domain, pages).map(done),
            Op::Populate { subject, domain, starts, order } => {
                Ok(Answer::Partial(world.populate_physmap(subject, domain, &starts, order)))
            }
            Op::OnDemand { subject, domain, start, order } => {
                world.populate_on_demand(subject, domain, start, order).map(done)
            }
            Op::Decrease { subject, domain, starts, order } => {
                Ok(Answer::Partial(world.decrease_reservation(subject, domain, &starts, order)))
            }
            Op::Increase { subject, domain, extents, order } => {
                Ok(Answer::Partial(world.increase_reservation(subject, domain, extents, order)))
            }
            Op::SetTarget { subject, domain, pages, budget } => {
                world.set_target(subject, domain, pages, budget).map(Answer::Progress)
            }
            Op::Fault { domain, guest } => {
                world.fault(domain, guest).map(|order| Answer::Order(order.number()))
            }
            Op::BuildPage { builder, source, domain, guest } => {
                world.build_page(id(builder), source, domain, guest).map(done)
            }
            Op::Seal { subject, domain, budget } => {
                world.seal(subject, domain, budget).map(Answer::Digest)
            }
            Op::ReadState { subject, domain } => world.check_read_state(subject, domain).map(done),
            Op::Setup { caller, frames } => world.setup_table(id(caller), frames).map(done),
            Op::Show { caller, index, is_status, guest } => {
                world.show_table(id(caller), index, is_status, guest).map(done)
            }
            Op::Hide { caller, guest } => world.hide_table(id(caller), guest).map(done),
            Op::SetVersion { caller, version } => world.set_version(id(caller), version).map(done),
            Op::StatusFrame { domain, index } => {
                let place = world.status_frame(domain, index);
                place.map(|place| Answer::Place(place.map(|guest| guest.number())))
            }
            Op::Map { caller, granter, reference, guest, rights, race } => {
                if let Some(race) = race {
                    self.arrange(granter, reference, race);
                }
                let handle = self.world.map_grant(id(caller), granter, reference, guest, rights);
                handle.map(Answer::Handle)
            }
            Op::Unmap { caller, handle, guest } => {
                world.unmap_grant(id(caller), handle, guest).map(done)
            }
            Op::Copy { caller, request } => world.copy(id(caller), &request).map(done),
            Op::Kill { subject, domain } => world.kill(subject, domain).map(done),
            Op::TearDown { domain, budget } => world.tear_down(domain, budget).map(Answer::Torn),
            Op::Touch { processor, domain, guest, word, value } => {
                let machine = world.backing_mut();
                Ok(Answer::Word(machine.touch(processor, id(domain), guest, word, value)))
            }
        }
    }

    /// Let an entry change whenever it was read.
    fn arrange(&mut self, granter: u16, reference: u32, race: EntryRace) {
        let dom = self.model.get(granter).unwrap();
        let (index, word) = entry_place(dom, reference);
        let place = dom.tables[index].1.unwrap();
        let machine = self.world.backing_mut();
        let (frame, ..) = machine.mapped(id(granter), place).unwrap();
        let EntryRace { value, step, times } = race;
        machine.set_race(Some(Race::AfterReading { frame, word, value, step, times }));
    }

    /// Check that pages were looked into only for what the operation is for, and only of domains
    /// that it concerns.
    fn check_windows(&self, op: &Op, before: &Model, seen: &[(Purpose, DomainId, u64)]) {
        use Purpose as P;
        let aside = P::SettingAside;
        let zeros = P::SearchingZeros;
        let (purposes, domains): (&[Purpose], Vec<u16>) = match op {
            Op::Populate { domain, .. } | Op::SetTarget { domain, .. } => (&[aside], vec![*domain]),
            Op::Increase { domain, .. } => (&[aside], vec![*domain]),
            Op::Decrease { domain, .. } => (&[P::Clearing, aside], vec![*domain]),
            Op::Fault { domain, .. } => (&[aside, zeros], vec![*domain]),
            Op::BuildPage { builder, domain, .. } => {
                (&[P::Building, P::Copying], vec![*builder, *domain])
            }
            Op::Seal { domain, .. } => (&[P::Measuring], vec![*domain]),
            Op::SetVersion { caller, .. } => (&[P::GrantTable, P::Clearing], vec![*caller]),
            Op::Map { granter, .. } => (&[P::GrantTable, aside, zeros], vec![*granter]),
            Op::Unmap { caller, handle, .. } => {
                let dom = before.get(*caller).ok();
                let handle = dom.and_then(|dom| dom.handles.get(*handle as usize)?.clone());
                (&[P::GrantTable], handle.into_iter().map(|handle| handle.granter).collect())
            }
            Op::Copy { caller, request } => {
                let mut all = vec![*caller];
                for end in [request.from, request.to] {
                    if let Page::Granted { domain, .. } = end.page {
                        all.push(domain);
                    }
                }
                (&[P::GrantTable, P::Copying, aside, zeros], all)
            }
            Op::TearDown { domain, .. } => {
                let dom = before.get(*domain).ok();
                let granters = dom.into_iter().flat_map(|dom| dom.handles.iter().flatten());
                let all = granters.map(|handle| handle.granter).chain([*domain]).collect();
                (&[P::GrantTable, aside], all)
            }
            _ => (&[], Vec::new()),
        };
        let mut searched = 0;
        for (purpose, owner, page) in seen {
            let fits = purposes.contains(purpose) && domains.contains(&owner.number());
            assert!(fits, "{op:?} looked into {page:#x} of {owner} for {purpose:?}");
            searched += u64::from(*purpose == zeros);
            let dom = before.get(owner.number()).unwrap();
            let is_outside = matches!(purpose, P::Building);
            assert!(!(is_outside && dom.measurement.is_some()), "{op:?} writes to a sealed domain");
        }
        let most = domains.iter().filter_map(|domain| before.get(*domain).ok());
        let most = most.map(|dom| dom.options.search + 4).sum::<u64>();
        assert!(searched <= most, "{op:?} looked at {searched} pages for zeros");
    }

    /// Compare everything that can be seen.
    fn compare(&mut self, op: &Op) {
        let machine = self.world.backing();
        // Each page of the machine has one owner, and all of them add up.
        let mut owned: BTreeMap<u16, u64> = BTreeMap::new();
        let mut tables: BTreeMap<u16, u64> = BTreeMap::new();
        let mut free = 0;
        let owners: Vec<_> = machine.all().map(|page| (page, machine.owner(page))).collect();
        for (_, owner) in &owners {
            match owner {
                Owner::Nobody => free += 1,
                Owner::Domain(domain) => *owned.entry(domain.number()).or_default() += 1,
                Owner::Tables(domain) => *tables.entry(domain.number()).or_default() += 1,
            }
        }
        let sum: u64 = owned.values().chain(tables.values()).sum();
        assert_eq!(sum + free, machine.frames());
        let mut shares = 0;
        for domain in 0..DOMAINS {
            let summary = self.world.summary(domain);
            let Some(dom) = &mut self.model.doms[usize::from(domain)] else {
                assert_eq!(summary, Err(Error::NoSuchDomain { domain }));
                assert_eq!((owned.get(&domain), tables.get(&domain)), (None, None));
                continue;
            };
            let summary = summary.unwrap();
            let total = owned.get(&domain).copied().unwrap_or(0);
            assert_eq!(summary.total(), total, "domain {domain} after {op:?}");
            assert_eq!(tables[&domain], dom.options.tables + 1);
            let pinned = dom.uses.values();
            shares +=
                pinned.map(|it| u64::from(it.reads > 0) + u64::from(it.writes > 0)).sum::<u64>();
            if dom.phase == Phase::Dying {
                assert_eq!(summary.phase, Phase::Dying);
                assert!(total <= dom.dying_total, "a dying domain got pages");
                dom.dying_total = total;
            }
        }
        assert_eq!(machine.live_shares(), shares, "after {op:?}");
        for (domain, claim) in machine.claims() {
            assert_eq!(claim, self.model.claims[&domain.number()], "claim after {op:?}");
        }
        assert_eq!(free, self.model.free_pages(), "after {op:?}");
        for dom in self.model.doms.iter().flatten() {
            self.compare_domain(op, dom, &owners);
        }
    }

    fn compare_domain(&self, op: &Op, dom: &Dom, owners: &[(u64, Owner)]) {
        let (machine, domain) = (self.world.backing(), dom.id);
        if dom.phase == Phase::Dying {
            return;
        }
        let summary = self.world.summary(domain).unwrap();
        assert_eq!(summary, self.model.summary(dom), "domain {domain} after {op:?}");
        assert_eq!(machine.spare_tables(id(domain)), dom.spare_tables(), "tables after {op:?}");
        // The inequalities: what is owned is within the quota; what is there or promised, within
        // the maximum; what is set aside is owed; and with promises left, all is within the target.
        assert!(summary.populated + summary.on_demand <= summary.maximum);
        assert!(summary.cache <= summary.on_demand);
        let memory = summary.populated + summary.cache + summary.reserve;
        assert!(summary.table <= dom.options.extra);
        if dom.options.limit == Limit::Target && summary.on_demand > 0 {
            assert!(memory <= summary.target && summary.target <= summary.maximum);
            assert!(summary.total() <= summary.quota);
        }
        let (table_size, most) = self.world.table_size(domain).unwrap();
        assert_eq!((table_size as usize, most), (dom.tables.len(), dom.options.grant_frames));
        let mut reached = BTreeSet::new();
        for guest in 0..dom.options.frames + 4 {
            let mapped = machine.mapped(id(domain), guest);
            let slot = dom.map.get(&guest);
            if guest < dom.options.frames {
                let kind = match slot {
                    Some(Slot::OnDemand) => Kind::OnDemand,
                    Some(Slot::Table { .. }) => Kind::GrantTable,
                    Some(Slot::Foreign { .. }) => Kind::Foreign,
                    Some(Slot::Page { .. }) | None => Kind::Ordinary,
                };
                assert_eq!(self.world.kind(domain, guest), Ok(kind));
            }
            let (content, right) = match slot {
                None | Some(Slot::OnDemand) => {
                    assert_eq!(mapped, None, "{guest:#x} of {domain} after {op:?}");
                    continue;
                }
                Some(Slot::Page { content, .. }) => (*content, (true, false)),
                Some(Slot::Table { is_status, index }) => {
                    let tables = if *is_status { &dom.status } else { &dom.tables };
                    assert_eq!(tables[*index].1, Some(guest));
                    (tables[*index].0, (true, false))
                }
                Some(Slot::Foreign { granter, guest, can_write }) => {
                    let granter = self.model.get(*granter).unwrap();
                    let Some(Slot::Page { content, .. }) = granter.map.get(guest) else {
                        panic!("{guest:#x} was granted and is gone after {op:?}")
                    };
                    if granter.phase != Phase::Dying {
                        let theirs = machine.mapped(id(granter.id), *guest).unwrap();
                        assert_eq!(theirs.0, mapped.unwrap().0);
                    }
                    (*content, (*can_write, true))
                }
            };
            let (page, can_write, is_foreign) = mapped.unwrap();
            assert_eq!((can_write, is_foreign), right);
            assert_eq!(machine.page(page), content, "{guest:#x} of {domain} after {op:?}");
            if !is_foreign {
                assert_eq!(machine.owner(page), Owner::Domain(id(domain)));
                assert!(reached.insert(page), "page {page:#x} is at two places");
                let is_page = matches!(slot, Some(Slot::Page { .. }));
                let shared = is_page && dom.is_shared(guest);
                assert_eq!(machine.is_used(page), shared);
            }
        }
        // What is set aside is zero but for the list; the rest are grant tables out of sight.
        let hidden = dom.tables.iter().chain(&dom.status).filter(|table| table.1.is_none()).count();
        let unseen = owners
            .iter()
            .filter(|(page, owner)| *owner == Owner::Domain(id(domain)) && !reached.contains(page));
        let dirty =
            unseen.filter(|(page, _)| machine.page(*page)[1..].iter().any(|word| *word != 0));
        assert!(dirty.count() <= hidden, "domain {domain} has dirty pages aside after {op:?}");
    }
}

/// The frame of the grant table and the word where an entry begins.
fn entry_place(dom: &Dom, reference: u32) -> (usize, u64) {
    let entries = dom.entries() as u32;
    let word = reference % entries * dom.version;
    ((reference / entries) as usize, u64::from(word))
}

fn options(random: &mut Random) -> Options {
    let frames = 8 + random.below(60);
    let maximum =
        if random.chance(30) { 4 + random.below(5) } else { frames - random.below(frames / 2) };
    let mut options = Options {
        frames,
        maximum,
        target: maximum - random.below(maximum),
        extra: random.below(7).min(maximum),
        limit: random.pick(&[Limit::Target, Limit::Maximum]),
        tables: 3 + random.below(24),
        grant_frames: 1 + random.below(4) as u32,
        handles: random.below(9) as u32,
        search: random.pick(&[6, 500]),
    };
    match random.below(25) {
        0 => options.target = maximum + 1,
        1 => options.maximum = frames + 1,
        2 => options.grant_frames = 0,
        _ => {}
    }
    options
}

// The guests' intentions.
impl Run {
    /// A domain; now and then one that there is not.
    fn any_domain(&self, random: &mut Random) -> u16 {
        if random.chance(3) {
            return random.pick(&[DOMAINS, u16::MAX, DomainId::LIMIT]);
        }
        let all: Vec<u16> = self.model.doms.iter().flatten().map(|dom| dom.id).collect();
        if all.is_empty() || random.chance(3) {
            return random.below(u64::from(DOMAINS)) as u16;
        }
        random.pick(&all)
    }

    /// A domain that is there, running if there is one.
    fn running(&self, random: &mut Random) -> Option<&Dom> {
        let all = || self.model.doms.iter().flatten();
        let running: Vec<_> = all().filter(|dom| dom.phase == Phase::Running).collect();
        if running.is_empty() || random.chance(6) {
            let all: Vec<_> = all().collect();
            return (!all.is_empty()).then(|| random.pick(&all));
        }
        Some(random.pick(&running))
    }

    /// Who asks for something to be done to a domain.
    fn subject(&self, random: &mut Random, dom: &Dom, own: u64) -> Subject {
        if random.chance(own) {
            return Subject::Domain(id(dom.id));
        }
        match (random.below(20), dom.builder) {
            (0, _) => Subject::Hypervisor,
            (1, _) => Subject::Domain(id(random.below(u64::from(DOMAINS)) as u16)),
            (_, Some(builder)) => Subject::Domain(id(builder)),
            _ => Subject::Hypervisor,
        }
    }

    /// A guest frame of a domain at which the model has something like `wanted`; or any.
    fn guest(&self, random: &mut Random, dom: &Dom, wanted: impl Fn(&Slot) -> bool) -> u64 {
        if random.chance(4) {
            return random.pick(&[dom.options.frames, u64::MAX, u64::MAX - 3, 1 << 40, 1 << 33]);
        }
        let found: Vec<u64> =
            dom.map.iter().filter(|(_, slot)| wanted(slot)).map(|(guest, _)| *guest).collect();
        if found.is_empty() || random.chance(8) {
            return random.below(dom.options.frames);
        }
        random.pick(&found)
    }

    fn vacant(&self, random: &mut Random, dom: &Dom) -> u64 {
        if random.chance(4) {
            return random.pick(&[dom.options.frames, u64::MAX, 1 << 40]);
        }
        for _ in 0..6 {
            let guest = random.below(dom.options.frames);
            if !dom.map.contains_key(&guest) {
                return guest;
            }
        }
        random.below(dom.options.frames)
    }

    fn order(random: &mut Random) -> u32 {
        random.pick(&[0, 0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 5, 40])
    }

    fn align(random: &mut Random, guest: u64, order: u32) -> u64 {
        if random.chance(8) || order > 60 { guest } else { guest >> order << order }
    }

    /// Some of the time the same again.
    fn starts(random: &mut Random, start: u64, order: u32) -> Vec<u64> {
        let step = 1_u64.checked_shl(order).unwrap_or(1);
        match random.below(8) {
            0 => vec![start, start],
            1 => vec![start, start.wrapping_add(step), start.wrapping_add(step * 2)],
            2 => vec![],
            _ => vec![start],
        }
    }

    fn choose(&self, random: &mut Random) -> Op {
        let there = self.model.doms.iter().flatten().count();
        if there < 3 || random.chance(1) {
            let free = (0..DOMAINS).find(|it| self.model.get(*it).is_err()).unwrap_or(0);
            let number = if random.chance(75) { free } else { self.any_domain(random) };
            let builder = random.below(3) as u16;
            return Op::Create { builder, number, options: options(random) };
        }
        let stopped = |phase| self.model.doms.iter().flatten().find(move |dom| dom.phase == phase);
        if let Some(dom) = stopped(Phase::Dying).filter(|_| random.chance(8)) {
            let budget = random.pick(&[0, 3, 60, 5000, 5000, 5000]);
            return Op::TearDown { domain: dom.id, budget };
        }
        if let Some(dom) = stopped(Phase::Crashed).filter(|_| random.chance(4)) {
            return Op::Kill { subject: self.subject(random, dom, 1), domain: dom.id };
        }
        let Some(dom) = self.running(random) else {
            return Op::Fault { domain: 0, guest: 0 };
        };
        let own = Subject::Domain(id(dom.id));
        let domain = if random.chance(2) { self.any_domain(random) } else { dom.id };
        match random.below(1000) {
            0..=9 => {
                let free = dom.options.maximum;
                let pages = random.below(free + 10);
                Op::Claim { subject: self.subject(random, dom, 0), domain, pages }
            }
            10..=89 => {
                let order = Self::order(random);
                let start = self.vacant(random, dom);
                let start = Self::align(random, start, order);
                let starts = Self::starts(random, start, order);
                Op::Populate { subject: self.subject(random, dom, 60), domain, starts, order }
            }
            90..=139 => {
                let order = Self::order(random);
                let start = self.vacant(random, dom);
                let start = Self::align(random, start, order);
                Op::OnDemand { subject: self.subject(random, dom, 5), domain, start, order }
            }
            140..=229 => {
                let order = random.pick(&[0, 0, 0, 1, 2, 2, 3]);
                let kind = random.below(20);
                let start = self.guest(random, dom, |slot| match slot {
                    Slot::Table { .. } => kind == 0,
                    Slot::Foreign { .. } => kind < 3,
                    Slot::OnDemand => kind > 10,
                    Slot::Page { .. } => kind > 2,
                });
                let shared: Vec<u64> = dom.uses.values().map(|uses| uses.guest).collect();
                let start = if !shared.is_empty() && random.chance(10) {
                    random.pick(&shared)
                } else {
                    start
                };
                let start = Self::align(random, start, order);
                let starts = Self::starts(random, start, order);
                Op::Decrease { subject: self.subject(random, dom, 80), domain, starts, order }
            }
            230..=259 => {
                let extents = random.below(3) as usize;
                let order = random.pick(&[0, 1, 2, 3]);
                Op::Increase { subject: self.subject(random, dom, 60), domain, extents, order }
            }
            260..=319 => {
                let owed = dom.total();
                let pages = match random.below(8) {
                    0 | 1 => random.below(dom.options.maximum + 4),
                    2 => owed + random.below(6),
                    _ => (owed + dom.on_demand()).min(dom.options.maximum),
                };
                let budget = random.pick(&[0, 1, 3, 100]);
                Op::SetTarget { subject: self.subject(random, dom, 3), domain, pages, budget }
            }
            320..=439 if dom.on_demand() == 0 && random.chance(70) => {
                let order = random.pick(&[0, 2, 2, 4]);
                let start = self.vacant(random, dom) >> order << order;
                Op::OnDemand { subject: self.subject(random, dom, 1), domain, start, order }
            }
            320..=439 => {
                let guest = self.guest(random, dom, |slot| *slot == Slot::OnDemand);
                Op::Fault { domain, guest }
            }
            440..=457 => {
                let is_page = |slot: &Slot| matches!(slot, Slot::Page { .. });
                let guest = self.guest(random, dom, is_page);
                let builder = match dom.builder {
                    Some(builder) if random.chance(90) => builder,
                    _ => random.below(u64::from(DOMAINS)) as u16,
                };
                let source = match self.model.get(builder) {
                    Ok(builder) => self.guest(random, builder, is_page),
                    Err(_) => 0,
                };
                Op::BuildPage { builder, source, domain, guest }
            }
            458..=479 => {
                let budget = random.pick(&[0, 3, 10, 1000]);
                Op::Seal { subject: self.subject(random, dom, 2), domain, budget }
            }
            480..=489 => Op::ReadState { subject: self.subject(random, dom, 30), domain },
            490..=519 => {
                let frames = match random.below(8) {
                    0 => dom.options.grant_frames + 1 + random.below(3) as u32,
                    1 => u32::MAX,
                    _ => dom.tables.len() as u32 + 1,
                };
                Op::Setup { caller: dom.id, frames }
            }
            520..=559 => {
                let is_status = dom.version == 2 && random.chance(50) || random.chance(10);
                let tables = if is_status { &dom.status } else { &dom.tables };
                let hidden = tables.iter().position(|table| table.1.is_none());
                let index = match hidden {
                    Some(index) if random.chance(85) => index as u32,
                    _ => random.pick(&[0, 1, 2, 7, u32::MAX]),
                };
                Op::Show { caller: dom.id, index, is_status, guest: self.vacant(random, dom) }
            }
            560..=569 => {
                let guest = self.guest(random, dom, |slot| matches!(slot, Slot::Table { .. }));
                Op::Hide { caller: dom.id, guest }
            }
            570..=582 => {
                let version = random.pick(&[1, 1, 2, 2, 2, 0, 3, u32::MAX]);
                Op::SetVersion { caller: dom.id, version }
            }
            583..=594 => {
                let all = || self.model.doms.iter().flatten();
                let with_status = all().find(|dom| !dom.status.is_empty());
                let domain = with_status.map_or(domain, |dom| dom.id);
                Op::StatusFrame { domain, index: random.below(3) as u32 }
            }
            595..=694 => self.write_entry(random, dom),
            695..=794 => self.map_grant(random, dom),
            795..=839 => {
                let open: Vec<_> =
                    (0_u32..).zip(&dom.handles).filter(|(_, it)| it.is_some()).collect();
                let (handle, guest) = match open.is_empty() {
                    false => {
                        let (handle, mapping) = random.pick(&open);
                        (handle, mapping.as_ref().unwrap().guest)
                    }
                    true => (random.below(8) as u32, random.below(dom.options.frames)),
                };
                match random.below(12) {
                    0..=2 => Op::Unmap { caller: dom.id, handle, guest: guest ^ 1 },
                    3 => Op::Unmap { caller: dom.id, handle: u32::MAX, guest },
                    _ => Op::Unmap { caller: dom.id, handle, guest },
                }
            }
            840..=919 => self.copy(random, dom),
            920..=922 => Op::Kill { subject: self.subject(random, dom, 3), domain },
            923..=925 => Op::TearDown { domain, budget: random.pick(&[0, 3, 20, 60, 5000]) },
            _ => {
                if dom.phase != Phase::Running || own == Subject::Hypervisor {
                    return Op::Fault { domain, guest: random.below(dom.options.frames) };
                }
                let guest = self.guest(random, dom, |slot| !matches!(slot, Slot::Table { .. }));
                let word = random.below(WORDS as u64);
                let value = match random.below(6) {
                    0 => None,
                    1 | 2 => Some(0),
                    _ => Some(random.next()),
                };
                let processor = random.below(2) as usize;
                Op::Touch { processor, domain: dom.id, guest: guest & 0xff, word, value }
            }
        }
    }

    /// The guest writes into its grant table; most of the time what makes sense.
    fn write_entry(&self, random: &mut Random, dom: &Dom) -> Op {
        let shown: Vec<_> = dom
            .map
            .iter()
            .filter_map(|(guest, slot)| match slot {
                Slot::Table { is_status, index } => Some((*guest, *is_status, *index)),
                _ => None,
            })
            .collect();
        if shown.is_empty() || dom.phase != Phase::Running {
            let frames = dom.tables.len() as u32;
            let guest = self.vacant(random, dom);
            if frames == 0 {
                return Op::Setup { caller: dom.id, frames: 1 };
            }
            return Op::Show { caller: dom.id, index: 0, is_status: false, guest };
        }
        let (place, is_status, _) = random.pick(&shown);
        let processor = random.below(2) as usize;
        let touch = |word, value| Op::Touch {
            processor,
            domain: dom.id,
            guest: place,
            word,
            value: Some(value),
        };
        if is_status {
            return touch(random.below(WORDS as u64), random.next());
        }
        let mut word = random.below(WORDS as u64);
        let user = random.below(u64::from(DOMAINS));
        let kind = if random.chance(88) { 1 } else { random.below(4) };
        let read_only = u64::from(random.chance(20)) << 2;
        let is_own = |slot: &Slot| matches!(slot, Slot::OnDemand | Slot::Page { .. });
        let named = self.guest(random, dom, is_own);
        if dom.version == 1 {
            return touch(word, kind | read_only | user << 16 | named << 32);
        }
        if random.chance(50) {
            word &= !1;
            let part = random.chance(65);
            let (offset, length) = (random.below(70), random.below(70));
            let part = if part { 0x100 | offset << 32 | length << 48 } else { 0 };
            return touch(word, kind | read_only | user << 16 | part);
        }
        touch(word | 1, named)
    }

    /// An entry that grants something to `user`, if one is found.
    fn granted_to(&self, random: &mut Random, user: u16) -> Option<(u16, u32)> {
        let mut found = Vec::new();
        for dom in self.model.doms.iter().flatten().filter(|dom| dom.id != user) {
            for reference in 0..dom.tables.len() as u32 * dom.entries() as u32 {
                let (index, word) = entry_place(dom, reference);
                let head = dom.tables[index].0[word as usize];
                if head & 3 == 1 && head >> 16 & 0xffff == u64::from(user) {
                    found.push((dom.id, reference));
                }
            }
        }
        (!found.is_empty()).then(|| random.pick(&found))
    }

    /// A reference that a domain tries.
    fn reference(&self, random: &mut Random, user: u16) -> (u16, u32) {
        // Entries that it uses already are tried again and again.
        let used = self.model.doms.iter().flatten().flat_map(|dom| {
            let uses = dom.uses.iter().filter(|(_, uses)| uses.user == user);
            uses.map(|(reference, _)| (dom.id, *reference))
        });
        let used: Vec<_> = used.collect();
        if !used.is_empty() && random.chance(62) {
            return random.pick(&used);
        }
        match self.granted_to(random, user) {
            Some(found) if random.chance(85) => found,
            _ if random.chance(4) => (user, 0),
            _ => (self.any_domain(random), random.below(20) as u32),
        }
    }

    fn map_grant(&self, random: &mut Random, dom: &Dom) -> Op {
        let (granter, reference) = self.reference(random, dom.id);
        let guest = self.vacant(random, dom);
        // Mostly with the same rights, until one use too many is tried.
        let rights = if random.chance(75) { Rights::Read } else { Rights::Write };
        let race = if random.chance(12) { self.race(random, granter, reference) } else { None };
        Op::Map { caller: dom.id, granter, reference, guest, rights, race }
    }

    /// Let an entry that would be found in order change while it is looked at, to others that name
    /// other frames.
    fn race(&self, random: &mut Random, granter: u16, reference: u32) -> Option<EntryRace> {
        let dom = self.model.get(granter).ok()?;
        if dom.phase != Phase::Running
            || reference >= dom.entries() as u32 * dom.tables.len() as u32
        {
            return None;
        }
        let (index, word) = entry_place(dom, reference);
        let (content, place) = &dom.tables[index];
        (*place)?;
        let head = content[word as usize];
        // In version 2 that is where a part would begin, which means nothing without the flag.
        Some(EntryRace {
            value: head.wrapping_add(1 << 32),
            step: 1 << 32,
            times: 1 + random.below(12) as u32,
        })
    }

    fn copy(&self, random: &mut Random, dom: &Dom) -> Op {
        let (mut promised, mut own_is_promised) = (BTreeSet::new(), false);
        let mut end = |random: &mut Random| {
            let page = if random.chance(40) {
                let guest = self.guest(random, dom, |slot| matches!(slot, Slot::Page { .. }));
                let guest =
                    if random.chance(10) { random.below(dom.options.frames) } else { guest };
                // Putting one page there can take the other back, and then again.
                let is_promised = dom.map.get(&guest) == Some(&Slot::OnDemand);
                if !promised.insert(dom.id) && (is_promised || own_is_promised) {
                    return None;
                }
                own_is_promised |= is_promised;
                Page::Own { guest }
            } else {
                let (domain, reference) = self.reference(random, dom.id);
                // What is put there for one side must not be mixed up with the other's.
                if domain != dom.id && !promised.insert(domain) {
                    return None;
                }
                Page::Granted { domain, reference }
            };
            let offset = random.pick(&[0, 0, 0, 0, 3, 8, 8, 17, 24, 60, 64, u64::MAX]);
            Some(CopyEnd { page, offset })
        };
        let (from, to) = (end(random), end(random));
        let (Some(from), Some(to)) = (from, to) else {
            return Op::ReadState { subject: Subject::Domain(id(dom.id)), domain: dom.id };
        };
        let bytes = random.pick(&[0, 1, 4, 8, 8, 8, 13, 16, 40, 64, 65, u64::MAX]);
        Op::Copy { caller: dom.id, request: CopyRequest { from, to, bytes } }
    }
}

#[test]
fn numbers_of_frames_are_told_as_numbers() {
    assert_eq!(frame(17).to_string(), "0x11");
    assert_eq!(Torn::Waiting { pages: 3 }, Torn::Waiting { pages: 3 });
}

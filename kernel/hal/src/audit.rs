//! Recounts, from the tables and caches of a simulated machine and from the handles that exist,
//! everything that the records say, and compares.
//!
//! It shares no code with the checks but the decoding of entries and records, and takes time in
//! proportion to the machine. Each finding names the invariant of `docs/soundness.md` that it
//! breaks.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), expect(clippy::indexing_slicing, reason = "runs on hosts only, in tests"))]

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

use heliox_types::Frame;
use heliox_types::cpu::CpuIndex;
use heliox_types::domain::{Owner, OwnerCode};
use heliox_types::geometry::{Geometry, Level};
use heliox_types::rights::MemoryType;

use crate::entry::{Entry, Nested, RootKind};
use crate::kernel_mapping::KernelMapping;
use crate::machine::Machine;
use crate::page::Status;
use crate::page_map::{PageMap, PageMapPage, PageMapUse};
use crate::region::{PhysicalRegion, RegionKind};
use crate::share::Share;
pub use crate::simulated::SimulatedMemory;
use crate::translation::{DrainingPage, Invalidation};

/// Copying handles that clients can only move, for a model checker, whose states are copies of a
/// simulated machine with all the handles to it.
pub trait Duplicate {
    /// A handle for a copy of the memory that this one is for.
    #[must_use]
    fn duplicate(&self) -> Self;
}

macro_rules! duplicate {
    ($([$($parameter:ident)?] $handle:ty { $($field:ident),* })*) => {
        $(impl$(<$parameter>)? Duplicate for $handle {
            fn duplicate(&self) -> Self {
                Self { $($field: self.$field),* }
            }
        })*
    };
}

duplicate! {
    [] PageMapPage { frame }
    [K] PageMapUse<K> { root, kind }
    [] DrainingPage { frame, since }
    [] Share { region, level, owner, grantee, rights }
    [] KernelMapping { region, rights, programs, address }
}

impl<K> Duplicate for PageMap<K> {
    fn duplicate(&self) -> Self {
        // What is remembered changes no result, only the way to it.
        Self { root: self.root, owner: self.owner, recent: Self::NO_RECENT, kind: self.kind }
    }
}

/// The owner that is recorded for the unit of `level` that `frame` lies in, or `None` if its parts
/// may have different ones.
#[must_use]
pub fn owner_of_unit<G: Geometry>(
    memory: &SimulatedMemory<G>,
    level: Level,
    frame: Frame,
) -> Option<Owner> {
    memory.state().record(level, frame).owner().owner()
}

/// The count that is recorded for the unit of `level` that `frame` lies in.
#[must_use]
pub fn count_of_unit<G: Geometry>(memory: &SimulatedMemory<G>, level: Level, frame: Frame) -> u32 {
    memory.state().record(level, frame).count()
}

/// The last removal of a translation to `frame`, of whatever size.
pub fn last_removal<G: Geometry>(memory: &SimulatedMemory<G>, frame: Frame) -> Invalidation {
    let stamps = Level::leaves::<G>().map(|level| memory.state().record(level, frame).stamp());
    stamps.max().map_or(Invalidation::COMPLETE, Invalidation)
}

/// The root that is recorded to be loaded on `cpu`.
#[must_use]
pub fn loaded<G: Geometry>(memory: &SimulatedMemory<G>, cpu: CpuIndex) -> Option<Frame> {
    memory.state().cpus.get(cpu.get()).map(|record| record.loaded)
}

/// The processors that may not obey an invalidation yet.
pub fn owing_since<G: Geometry>(
    memory: &SimulatedMemory<G>,
    invalidation: Invalidation,
) -> impl Iterator<Item = CpuIndex> {
    let cpus = memory.state().cpus.iter().enumerate();
    let owing = cpus.filter(move |(_, cpu)| cpu.owes <= invalidation.0);
    owing.filter_map(|(number, _)| CpuIndex::new(number))
}

/// All handles that exist.
#[derive(Debug, Default)]
pub struct Handles<'handles> {
    /// Address spaces.
    pub page_maps: Vec<&'handles PageMap>,
    /// Address spaces of guests.
    pub nested: Vec<&'handles PageMap<Nested>>,
    /// Uses of address spaces.
    pub uses: Vec<&'handles PageMapUse>,
    /// Pages supplied for page maps.
    pub pages: Vec<&'handles PageMapPage>,
    /// Freed tables.
    pub draining: Vec<&'handles DrainingPage>,
    /// Shares.
    pub shares: Vec<&'handles Share>,
    /// Kernel mappings.
    pub kernel_mappings: Vec<&'handles KernelMapping>,
}

/// A broken invariant: its number and what was found.
pub type Finding = (&'static str, String);

/// What the tables say.
#[derive(Default)]
struct Recount {
    /// References of units, by level and first frame.
    references: BTreeMap<(u32, u64), u32>,
    /// Number of entries of each table.
    tables: BTreeMap<u64, u32>,
    /// Number of entries for programs of each root.
    roots: BTreeMap<u64, u32>,
}

/// Level `number` of a geometry, which has it.
fn at_level<G: Geometry>(number: u32) -> Level {
    Level::new::<G>(number).unwrap_or(Level::FIRST)
}

macro_rules! check {
    ($invariant:literal, $condition:expr, $($found:tt)+) => {
        if !$condition {
            return Err(($invariant, format!($($found)+)));
        }
    };
}

/// Checks all invariants.
///
/// # Errors
///
/// The first finding.
pub fn check<G: Geometry>(
    memory: &SimulatedMemory<G>,
    handles: &Handles<'_>,
) -> Result<(), Finding> {
    let mut recount = Recount::default();
    for map in &handles.page_maps {
        walk(memory, map, &mut recount)?;
        check_recent(memory, map)?;
    }
    for map in &handles.nested {
        walk(memory, map, &mut recount)?;
        check_recent(memory, map)?;
    }
    for share in &handles.shares {
        count_region::<G>(share.region(), G::LEAF_LEVELS, &mut recount);
    }
    for mapping in &handles.kernel_mappings {
        if mapping.region().kind() == RegionKind::Ram {
            count_region::<G>(mapping.region(), 1, &mut recount);
        }
    }
    check_pages(memory, handles, &recount)?;
    check_blocks(memory, &recount)?;
    check_processors(memory, &recount)
}

/// T4: the table that a page map remembers is the one that the tables lead to.
fn check_recent<G: Geometry, K: RootKind>(
    memory: &SimulatedMemory<G>,
    map: &PageMap<K>,
) -> Result<(), Finding> {
    let (part, recent) = map.recent;
    if map.recent == PageMap::<K>::NO_RECENT {
        return Ok(());
    }
    let mut table = map.root();
    for number in (2..=G::LEVELS).rev() {
        let index = (part >> (G::INDEX_BITS * (number - 2))) as usize & (G::ENTRIES - 1);
        let entry = Entry(memory.machine().peek(table, index));
        check!("T4", K::is_table(entry), "part {part:#x} has no table, but {recent}");
        table = K::frame(entry);
    }
    check!("T4", table == recent, "part {part:#x}: {table}, not {recent}");
    Ok(())
}

fn is_referenced<G: Geometry>(recount: &Recount, frame: u64) -> bool {
    (1..=G::LEAF_LEVELS).any(|level| {
        let bits = at_level::<G>(level).frame_bits::<G>();
        recount.references.contains_key(&(level, frame >> bits << bits))
    })
}

/// Counts a region by its largest units, up to those of level `largest`.
fn count_region<G: Geometry>(region: PhysicalRegion, largest: u32, recount: &mut Recount) {
    let pages = region.pages();
    let level = (1..=largest).rev().find(|level| at_level::<G>(*level).frames::<G>() <= pages);
    let level = level.unwrap_or(1);
    let frames = at_level::<G>(level).frames::<G>();
    for unit in 0..pages / frames {
        let frame = region.first_frame().number() + unit * frames;
        *recount.references.entry((level, frame)).or_default() += 1;
    }
}

/// Walks the tables of an address space.
fn walk<G: Geometry, K: RootKind>(
    memory: &SimulatedMemory<G>,
    map: &PageMap<K>,
    recount: &mut Recount,
) -> Result<(), Finding> {
    let machine = memory.machine();
    let (root, owner) = (map.root(), OwnerCode::new(map.owner()));
    let marks = K::ACCESSED | K::DIRTY;
    for index in K::entries::<G>()..G::ENTRIES {
        let (copy, original) = (
            machine.peek(root, index) & !marks,
            machine.peek(machine.reference_root(), index) & !marks,
        );
        check!("T2", copy == original, "root {root}: entry {index} is {copy:#x}");
    }
    let mut to_visit = std::vec![(root, G::LEVELS, 0_u64)];
    while let Some((table, number, base)) = to_visit.pop() {
        let level = at_level::<G>(number);
        let entries = if table == root { K::entries::<G>() } else { G::ENTRIES };
        let mut present = 0;
        for index in 0..entries {
            let address = base + ((index as u64) << level.bits::<G>());
            let entry = Entry(machine.peek(table, index));
            if !K::is_present(entry) {
                check!("T1", entry == Entry::ABSENT, "{address:#x}: {entry:?} in {table}");
                continue;
            }
            present += 1;
            if number > 1 && K::is_table(entry) {
                let below = K::frame(entry);
                to_visit.push((below, number - 1, address));
                continue;
            }
            let frame = K::frame(entry);
            check!(
                "T1",
                frame.number() & (level.frames::<G>() - 1) == 0 && level <= machine.largest_leaf(),
                "{address:#x}: {entry:?} at level {number}"
            );
            check!(
                "T1",
                address + level.bytes::<G>() <= K::limit::<G>(),
                "{address:#x} is not the programs'"
            );
            let attributes = K::attributes(entry);
            if attributes.memory_type == MemoryType::WriteBack {
                *recount.references.entry((number, frame.number())).or_default() += 1;
                if !attributes.foreign {
                    for page in frame.number()..frame.number() + level.frames::<G>() {
                        let found = owner_of(memory, page);
                        check!("O1", found == owner, "{address:#x}: {page:#x} is {found:?}'s");
                    }
                }
            } else {
                let status = memory.state().page(frame).status();
                check!(
                    "O1",
                    matches!(status, Status::Io | Status::NotInstalled),
                    "{address:#x}: {frame} is {status:?}, not a device's"
                );
            }
        }
        if table == root {
            let previous = recount.roots.insert(root.number(), present);
            check!("H1", previous.is_none(), "page map {root} exists twice");
        } else {
            check!("T1", present > 0, "table {table} at {base:#x} is empty");
            let previous = recount.tables.insert(table.number(), present);
            check!("T1", previous.is_none(), "table {table} is in two places");
        }
    }
    Ok(())
}

fn owner_of<G: Geometry>(memory: &SimulatedMemory<G>, page: u64) -> OwnerCode {
    Frame::new(page).map_or(OwnerCode::MIXED, |frame| OwnerCode::new(memory.state().owner(frame)))
}

fn check_pages<G: Geometry>(
    memory: &SimulatedMemory<G>,
    handles: &Handles<'_>,
    recount: &Recount,
) -> Result<(), Finding> {
    let (state, machine) = (memory.state(), memory.machine());
    let mut uses: BTreeMap<u64, u32> = BTreeMap::new();
    for held in &handles.uses {
        *uses.entry(held.root().number()).or_default() += 1;
    }
    let numbers = |frames: &mut dyn Iterator<Item = Frame>| -> BTreeSet<u64> {
        frames.map(Frame::number).collect()
    };
    let spare = numbers(&mut handles.pages.iter().map(|page| page.frame()));
    let draining = numbers(&mut handles.draining.iter().map(|page| page.frame()));
    check!("H1", spare.len() == handles.pages.len(), "a page-map page exists twice");
    check!("H1", draining.len() == handles.draining.len(), "a draining page exists twice");
    let kernel: Vec<u64> = handles
        .kernel_mappings
        .iter()
        .flat_map(|mapping| {
            let first = mapping.region().first_frame().number();
            first..first + mapping.region().pages()
        })
        .collect();
    let mapped: BTreeSet<u64> = kernel.iter().copied().collect();
    check!("W1", mapped.len() == kernel.len(), "a page has two kernel mappings");

    for number in 0..state.units[0].len() as u64 {
        let Some(frame) = Frame::new(number) else {
            break;
        };
        let page = state.page(frame);
        let status = page.status();
        let environment = machine.environment().contains(frame);
        check!("P0", (status == Status::Environment) == environment, "{frame} is {status:?}");
        let expected = if spare.contains(&number) {
            Some(Status::PageMapPage)
        } else if draining.contains(&number) {
            Some(Status::Draining)
        } else if recount.roots.contains_key(&number) {
            Some(Status::PageMapRoot)
        } else if recount.tables.contains_key(&number) {
            Some(Status::PageTable)
        } else {
            None
        };
        match expected {
            Some(expected) => {
                check!("H1", status == expected, "{frame} is {status:?}, not {expected:?}");
            }
            None => check!(
                "H1",
                matches!(
                    status,
                    Status::Environment | Status::Normal | Status::Io | Status::NotInstalled
                ),
                "{frame} is {status:?}, and nothing says so"
            ),
        }
        let referenced = is_referenced::<G>(recount, number);
        check!("P2", !referenced || status == Status::Normal, "{frame} is {status:?}");
        let count = match status {
            Status::Normal => recount.references.get(&(1, number)).copied().unwrap_or(0),
            Status::PageTable => recount.tables[&number],
            Status::PageMapRoot => uses.get(&number).copied().unwrap_or(0) + recount.roots[&number],
            _ => 0,
        };
        check!("P1", page.count() == count, "{frame}: {page:?}, counted {count}");

        let owner = state.owner(frame);
        if owner == Owner::Nobody && status == Status::Normal {
            check!("O2", !referenced, "{frame} is nobody's and referenced");
            check!("O2", machine.is_clear(frame), "{frame} is nobody's and not clear");
        }
        if matches!(status, Status::PageMapPage | Status::Draining) {
            check!("T3", machine.is_clear(frame), "{frame} is {status:?} and not clear");
        }
        if machine.has_window(frame) && !environment && status != Status::NotInstalled {
            let open = mapped.contains(&number)
                || matches!(
                    status,
                    Status::PageMapPage
                        | Status::PageTable
                        | Status::PageMapRoot
                        | Status::Draining
                );
            check!("W1", machine.is_open(frame) == open, "{frame} is {status:?}: open");
        }
    }
    Ok(())
}

fn check_blocks<G: Geometry>(
    memory: &SimulatedMemory<G>,
    recount: &Recount,
) -> Result<(), Finding> {
    let state = memory.state();
    let pages = state.units[0].len() as u64;
    for number in 2..=G::LEAF_LEVELS {
        let level = at_level::<G>(number);
        let frames = level.frames::<G>();
        for first in (0..pages).step_by(usize::try_from(frames).unwrap_or(usize::MAX)) {
            let Some(frame) = Frame::new(first) else {
                break;
            };
            let unit = state.record(level, frame);
            // Pages past the end of memory are not normal either.
            let pages = (first..first + frames).filter_map(Frame::new);
            let special = pages.filter(|page| state.page(*page).status() != Status::Normal).count();
            let references = recount.references.get(&(number, first)).copied().unwrap_or(0);
            let (status, count) = match special {
                0 => (Status::Normal, references),
                _ => (Status::Mixed, special as u32),
            };
            check!(
                "P4",
                unit.status() == status,
                "unit {frame} of level {number}: {special} are special, {unit:?}"
            );
            check!("P2", special == 0 || references == 0, "unit {frame} of level {number}");
            check!(
                "P1",
                unit.count() == count,
                "unit {frame} of level {number}: {references} references, {special} are special, \
                 {unit:?}"
            );
            if unit.owner() != OwnerCode::MIXED {
                let other =
                    (first..first + frames).find(|page| owner_of(memory, *page) != unit.owner());
                check!(
                    "P4",
                    other.is_none(),
                    "unit {frame} of level {number}: {other:?}, {unit:?}"
                );
            }
        }
    }
    Ok(())
}

/// Whether a page that a processor reaches by something stale may still be so reached: it has
/// not changed its status or owner, and will not before the processor has flushed.
pub fn may_be_stale<G: Geometry>(memory: &SimulatedMemory<G>, frame: Frame) -> bool {
    let state = memory.state();
    match state.page(frame).status() {
        Status::Draining | Status::Io | Status::NotInstalled => true,
        Status::Normal => {
            let referenced = (1..=G::LEAF_LEVELS).any(|number| {
                let record = state.record(at_level::<G>(number), frame);
                record.status() == Status::Normal && record.count() > 0
            });
            let settled = state.check_settled(frame).is_ok();
            (referenced || !settled) && state.owner(frame) != Owner::Nobody
        }
        _ => false,
    }
}

fn check_processors<G: Geometry>(
    memory: &SimulatedMemory<G>,
    recount: &Recount,
) -> Result<(), Finding> {
    let (state, machine) = (memory.state(), memory.machine());
    for (number, record) in state.cpus.iter().enumerate() {
        let Some(cpu) = CpuIndex::new(number) else {
            break;
        };
        let loaded = machine.root(cpu);
        check!("L2", record.loaded == loaded, "{cpu}: {loaded} is loaded, {record:?}");
        check!(
            "L2",
            loaded == machine.reference_root() || recount.roots.contains_key(&loaded.number()),
            "{cpu}: {loaded} is no root"
        );
        let reachable = machine.reachable(cpu);
        for page in reachable.pages.iter().filter(|page| page.user) {
            for number in page.frame.number()..page.frame.number() + page.level.frames::<G>() {
                let Some(frame) = Frame::new(number) else {
                    break;
                };
                let status = state.page(frame).status();
                check!(
                    "S1",
                    matches!(status, Status::Normal | Status::Io | Status::NotInstalled),
                    "{cpu}: programs reach {frame}, which is {status:?}: {page:?}"
                );
                check!(
                    "L1",
                    !page.stale || may_be_stale(memory, frame),
                    "{cpu}: programs reach {frame} by something stale: {page:?}"
                );
            }
        }
        for table in reachable.tables.iter().filter(|table| table.stale) {
            let status = state.page(table.frame).status();
            check!(
                "L1",
                matches!(status, Status::Draining | Status::Environment),
                "{cpu}: {} is walked as a table, and is {status:?}: {table:?}",
                table.frame
            );
        }
    }
    Ok(())
}

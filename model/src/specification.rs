//! The specification of each action, as a relation between well-formed states (thesis 5.7, mended
//! and extended).
//!
//! Written in the form of the thesis: when an action is possible ([`enabled`]), and what relates
//! the state before to the state after ([`action_spec`]). Unlike the thesis's, it relates a state
//! to at most one other: each component of the state after is said to be something. What is left
//! to well-formedness of the state after is only how tables are laid out that translate as is
//! said.
//!
//! What processors may have cached follows one rule for all actions: a processor keeps whatever
//! the tables said since it last dropped it. Actions differ only in what they make it drop.

use std::collections::BTreeSet;

use crate::action::{Action, Through};
use crate::layers::Layer;
use crate::machine::{Cpu, Frame, Level, Machine, REFERENCE, VirtualPage};
use crate::state::{
    Debts, Entry, Mapping, Owner, Page, Region, Share, Stale, State, Status, StatusKind,
};

/// Whether `action` is possible in `s`.
#[must_use]
pub fn enabled(machine: &Machine, action: &Action, s: &State) -> bool {
    let kind = |frame: Frame| s.status(frame).kind();
    let normal = |frame: Frame| kind(frame) == StatusKind::Normal;
    let data = |frame: Frame| normal(frame) || kind(frame) == StatusKind::Io;
    let is_directory =
        |frame: Frame| frame != REFERENCE && kind(frame) == StatusKind::PageDirectory;
    let free = |frame: Frame| {
        normal(frame)
            && s.page(frame).is_some_and(|page| page.references == 0 && page.waits.is_empty())
    };
    let all_client =
        |region: Region| region.pages > 0 && region.frames().all(|frame| machine.is_client(frame));
    let handle = |region: Region| {
        all_client(region)
            || (region.pages > 0 && region.frames().all(|frame| machine.is_device(frame)))
    };
    let is_page_sized = |region: Region| {
        machine.level_of(region.pages.into()).is_some()
            && region.first.0.is_multiple_of(region.pages)
    };
    // As many pages as change hands at once: those that one table maps, or a part of them.
    let is_part_of_table = |region: Region| {
        machine.sizes().entries.is_multiple_of(region.pages)
            && region.first.0.is_multiple_of(region.pages)
    };
    let supply_is_good = |supply: &[Frame]| {
        let different: BTreeSet<&Frame> = supply.iter().collect();
        different.len() == supply.len()
            && supply.iter().all(|frame| kind(*frame) == StatusKind::Supplied)
    };
    let mapped = |directory: Frame, page: VirtualPage| {
        if is_directory(directory) && page.0 < machine.user_end() {
            s.leaf(machine, directory, page)
        } else {
            None
        }
    };
    // Whose memory may be mapped by `grantee`: its own, or what the share names.
    let consent = |share: &Option<Share>, grantee: Owner, own: Owner, region, rights| match share {
        None => Some(own),
        Some(share) => (s.shares.contains(share)
            && share.grantee == grantee
            && share.region.contains(region)
            && share.rights.contains(rights))
        .then_some(Owner::Domain(share.owner)),
    };
    match action {
        Action::WriteE { cpu, page, .. } => s
            .translate(machine, s.cr3(*cpu), *page)
            .is_some_and(|mapping| kind(mapping.frame) == StatusKind::Environment),
        Action::DeriveRegionH { from, to } => handle(*from) && to.pages > 0 && from.contains(*to),
        Action::CreatePageMapPageH { region } => {
            all_client(*region) && region.pages == 1 && free(region.first)
        }
        Action::ReleasePageMapPageH { frame } => kind(*frame) == StatusKind::Supplied,
        Action::AllocatePageDirectoryH { frame } => {
            kind(*frame) == StatusKind::Supplied && matches!(s.owner(*frame), Owner::Domain(_))
        }
        Action::FreePageDirectoryH { cpu, directory } => {
            is_directory(*directory)
                && s.user_leaves(machine, *directory).is_empty()
                && machine.cpus().all(|other| other == *cpu || s.cr3(other) != *directory)
        }
        Action::AddMappingH { directory, supply, region, page, rights, share } => {
            let own = s.owner(*directory);
            let owner = consent(share, own, own, *region, *rights);
            let covered = || (page.0..page.0 + u64::from(region.pages)).map(VirtualPage);
            is_directory(*directory)
                && supply_is_good(supply)
                && handle(*region)
                && is_page_sized(*region)
                && !s.divided.contains(region)
                && page.0.is_multiple_of(region.pages.into())
                && page
                    .0
                    .checked_add(region.pages.into())
                    .is_some_and(|end| end <= machine.user_end())
                && region.frames().all(|frame| data(frame) && Some(s.owner(frame)) == owner)
                && covered().all(|page| s.leaf(machine, *directory, page).is_none())
                && tables_needed(machine, s, *directory, *page, *region)
                    .is_some_and(|needed| needed <= supply.len())
        }
        Action::RemoveMappingH { directory, page, .. } => mapped(*directory, *page).is_some(),
        Action::ModifyMappingH { directory, page, rights, .. } => mapped(*directory, *page)
            .is_some_and(|(mapping, _)| !mapping.foreign || mapping.rights.contains(*rights)),
        Action::SplitMappingH { directory, supply, page, .. } => {
            supply_is_good(supply)
                && !supply.is_empty()
                && mapped(*directory, *page).is_some_and(|(_, level)| level > Level::FIRST)
        }
        Action::AddKernelMappingH { region, rights, share, .. } => {
            let owner = consent(share, Owner::Hypervisor, Owner::Domain(0), *region, *rights);
            handle(*region)
                && region.pages <= machine.sizes().entries
                && region.frames().all(|frame| {
                    data(frame)
                        && Some(s.owner(frame)) == owner
                        && s.page(frame).is_some_and(|page| page.waits.is_empty())
                        && s.kernel_entry(machine, frame) == Entry::Absent
                })
        }
        Action::RemoveKernelMappingH { region, .. } => {
            // All pages have a mapping that is alike.
            let alike = |frame: Frame| match s.kernel_entry(machine, frame) {
                Entry::Page(mapping) => Some((mapping.rights, mapping.user, mapping.foreign)),
                _ => None,
            };
            handle(*region)
                && region
                    .frames()
                    .all(|frame| alike(frame).is_some() && alike(frame) == alike(region.first))
        }
        Action::ExecuteH { directory, .. } => kind(*directory) == StatusKind::PageDirectory,
        Action::EnterH { .. } => true,
        Action::ReclaimH { frame } => s
            .page(*frame)
            .is_some_and(|page| page.status == Status::Draining && page.waits.is_empty()),
        Action::AssignH { region, to } => {
            all_client(*region)
                && is_part_of_table(*region)
                && region.frames().all(|frame| {
                    s.owner(frame) == Owner::Domain(*to)
                        || (normal(frame) && s.owner(frame) == Owner::Nobody)
                })
        }
        Action::ReleaseH { region, from } => {
            let from = Owner::Domain(*from);
            all_client(*region)
                && is_part_of_table(*region)
                && region.frames().all(|frame| free(frame) && s.owner(frame) == from)
        }
        Action::ShareH { share } => {
            let owner = Owner::Domain(share.owner);
            share.grantee != Owner::Nobody
                && all_client(share.region)
                && is_page_sized(share.region)
                && !s.divided.contains(&share.region)
                && share.region.frames().all(|frame| normal(frame) && s.owner(frame) == owner)
        }
        Action::EndShareH { share } => s.shares.contains(share),
        Action::WriteK { .. } | Action::WriteU { .. } => written(machine, action, s).is_some(),
        Action::WriteD { frame, .. } => kind(*frame) == StatusKind::Io,
    }
}

/// The page that a write by the client kernel or by a program reaches: memory of the clients' or
/// of a device that a mapping lets it write, and nothing else.
fn written(machine: &Machine, action: &Action, s: &State) -> Option<Frame> {
    let frame = match action {
        Action::WriteK { cpu, page, .. } => {
            let mapping = s.translate(machine, s.cr3(*cpu), *page)?;
            (machine.is_kernel_page(*page) && mapping.rights.write).then_some(mapping.frame)?
        }
        Action::WriteU { owner, cpu, page, through, .. } => {
            if s.owner(s.cr3(*cpu)) != Owner::Domain(*owner) {
                return None;
            }
            match through {
                Through::Tables => {
                    let mapping = s.translate(machine, s.cr3(*cpu), *page)?;
                    (mapping.user && mapping.rights.write).then_some(mapping.frame)?
                }
                Through::Cache(frame) => {
                    let stale = s.stale.iter().filter(|stale| stale.cpu() == *cpu);
                    let mut pages = stale.flat_map(|stale| stale.pages(machine));
                    pages
                        .any(|found| found.0 == *page && found.1 == *frame && found.2.write)
                        .then_some(*frame)?
                }
            }
        }
        _ => return None,
    };
    matches!(s.status(frame).kind(), StatusKind::Normal | StatusKind::Io).then_some(frame)
}

/// How many tables are missing for a mapping of `region` at `page`; `None` if there is a table
/// where the mapping's entry would be.
fn tables_needed(
    machine: &Machine,
    s: &State,
    directory: Frame,
    page: VirtualPage,
    region: Region,
) -> Option<usize> {
    let level = machine.level_of(region.pages.into())?;
    let (entry, _, reached) = s.walk(machine, directory, page, level);
    (entry == Entry::Absent).then_some(usize::from(reached.0 - level.0))
}

/// `actionSpec`: whether `action` relates `s` to `after`. Both are assumed to be well-formed.
#[must_use]
pub fn action_spec(machine: &Machine, action: &Action, s: &State, after: &State) -> bool {
    enabled(machine, action, s)
        && after.pages.len() == s.pages.len()
        && after.cr3 == expected_cr3(action, s)
        && shares_change_as_said(action, s, after)
        && owners_change_as_said(machine, action, s, after)
        && debts_change_as_said(machine, action, s, after)
        && after.stale == expected_stale(machine, action, s, after)
        && pages_change_as_said(machine, action, s, after)
        && mappings_change_as_said(machine, action, s, after)
}

fn expected_cr3(action: &Action, s: &State) -> Vec<Frame> {
    let loads = |cpu: Cpu| match action {
        Action::ExecuteH { cpu: on, directory } if *on == cpu => Some(*directory),
        Action::FreePageDirectoryH { cpu: on, directory }
            if *on == cpu && s.cr3(cpu) == *directory =>
        {
            Some(REFERENCE)
        }
        _ => None,
    };
    (0..).map(Cpu).zip(&s.cr3).map(|(cpu, loaded)| loads(cpu).unwrap_or(*loaded)).collect()
}

fn shares_change_as_said(action: &Action, s: &State, after: &State) -> bool {
    let mut expected = s.shares.clone();
    match action {
        Action::ShareH { share } => expected.push(*share),
        Action::EndShareH { share } => {
            if let Some(at) = expected.iter().position(|other| other == share) {
                expected.remove(at);
            }
        }
        _ => {}
    }
    expected.sort_unstable();
    after.shares == expected
}

fn owners_change_as_said(machine: &Machine, action: &Action, s: &State, after: &State) -> bool {
    let (changed, owner) = match action {
        Action::AssignH { region, to } => (Some(*region), Owner::Domain(*to)),
        Action::ReleaseH { region, .. } => (Some(*region), Owner::Nobody),
        _ => (None, Owner::Nobody),
    };
    (0..).map(Frame).zip(s.pages.iter().zip(&after.pages)).all(|(frame, (page, page_after))| {
        let is_changed = changed.is_some_and(|region| region.contains(Region::page(frame)));
        page_after.owner == if is_changed { owner } else { page.owner }
    }) && after.divided == expected_divided(machine, changed, s, after)
}

/// Larger pages that count as of several owners. One that a change of owner reaches was all the
/// new owner's before, or becomes it as a whole: if it is of the second level by changing
/// hands at once, if it is larger by the last of its parts doing so; or else it is divided.
fn expected_divided(
    machine: &Machine,
    changed: Option<Region>,
    s: &State,
    after: &State,
) -> Vec<Region> {
    let is_divided = |state: &State, unit: Region| state.divided.contains(&unit);
    let mut expected = Vec::new();
    for level in (2..=machine.largest_leaf().0).map(Level) {
        let pages = u32::try_from(machine.pages_of(level)).unwrap_or(u32::MAX);
        let part = pages / machine.sizes().entries;
        for first in machine.clients().filter(|first| first.0.is_multiple_of(pages)) {
            let unit = Region { first, pages };
            if !unit.frames().all(|frame| machine.is_client(frame)) {
                continue;
            }
            let Some(region) = changed.filter(|region| unit.contains(*region)) else {
                expected.extend(is_divided(s, unit).then_some(unit));
                continue;
            };
            let was_theirs = !is_divided(s, unit) && s.owner(first) == after.owner(region.first);
            let mut parts =
                unit.frames().step_by(part as usize).map(|first| Region { first, pages: part });
            let at_once = region.pages == machine.sizes().entries
                && unit.frames().all(|frame| after.owner(frame) == after.owner(region.first))
                && (level == Level(2) || parts.all(|part| !is_divided(after, part)));
            expected.extend((!was_theirs && !at_once).then_some(unit));
        }
    }
    expected.sort_unstable();
    expected
}

/// What an action makes processors owe, which pages wait from then on for all that is owed (but
/// a device's never become anything else, and wait for nothing), and what the acting processor
/// pays.
struct Owing {
    new: Debts,
    waiting: Vec<Frame>,
    paid: Debts,
}

fn owing(machine: &Machine, action: &Action, s: &State) -> Owing {
    let mut owing = Owing { new: Debts::NONE, waiting: Vec::new(), paid: Debts::NONE };
    let others = |cpu: Cpu| machine.cpus().filter(move |other| *other != cpu);
    let translating = |cpu: Cpu, directory: Frame| {
        let others = others(cpu).filter(|other| s.cr3(*other) == directory);
        others.map(Debts::of).fold(Debts::NONE, Debts::with)
    };
    let everywhere = |cpu: Cpu| others(cpu).map(Debts::of).fold(Debts::NONE, Debts::with);
    match action {
        Action::RemoveMappingH { cpu, directory, page } => {
            owing.new = translating(*cpu, *directory);
            let freed = freed_tables(machine, s, *directory, *page);
            if !owing.new.is_empty() {
                owing.waiting = frames_of(machine, s, *directory, *page);
                owing.waiting.extend(freed.iter().map(|(table, _)| *table));
            }
        }
        Action::ModifyMappingH { cpu, directory, .. } => {
            owing.new = translating(*cpu, *directory);
        }
        Action::SplitMappingH { cpu, directory, page, .. } => {
            owing.new = translating(*cpu, *directory);
            if !owing.new.is_empty() {
                owing.waiting = frames_of(machine, s, *directory, *page);
            }
        }
        Action::AddKernelMappingH { cpu, user: true, .. } => owing.new = everywhere(*cpu),
        Action::RemoveKernelMappingH { cpu, region } => {
            let entry = s.kernel_entry(machine, region.first);
            if matches!(entry, Entry::Page(mapping) if mapping.user) {
                owing.new = everywhere(*cpu);
                if !owing.new.is_empty() {
                    owing.waiting = region.frames().collect();
                }
            }
        }
        Action::EnterH { cpu } => owing.paid = Debts::of(*cpu),
        _ => {}
    }
    owing
}

fn debts_change_as_said(machine: &Machine, action: &Action, s: &State, after: &State) -> bool {
    let Owing { new, waiting, paid } = owing(machine, action, s);
    let owed = s.owed.with(new);
    after.owed == owed.without(paid)
        && (0..).map(Frame).zip(s.pages.iter().zip(&after.pages)).all(|(frame, (page, later))| {
            let waits = waiting.contains(&frame) && !machine.is_device(frame);
            let waits = if waits { owed } else { page.waits };
            later.waits == waits.without(paid)
        })
}

/// The frames that the mapping of `page` leads to.
fn frames_of(machine: &Machine, s: &State, directory: Frame, page: VirtualPage) -> Vec<Frame> {
    s.leaf(machine, directory, page).map_or_else(Vec::new, |(mapping, level)| {
        let pages = u32::try_from(machine.pages_of(level)).unwrap_or(0);
        Region { first: mapping.frame, pages }.frames().collect()
    })
}

/// The tables that hold no entry but on the way to the mapping of `page`, with their levels.
fn freed_tables(
    machine: &Machine,
    s: &State,
    directory: Frame,
    page: VirtualPage,
) -> Vec<(Frame, Level)> {
    let Some((_, leaf)) = s.leaf(machine, directory, page) else {
        return Vec::new();
    };
    let mut freed = Vec::new();
    for level in (leaf.0..machine.root().0).map(Level) {
        let (_, table, _) = s.walk(machine, directory, page, level);
        let entries = s.status(table).table().map_or(&[][..], |table| table.entries());
        let others = entries.iter().filter(|entry| **entry != Entry::Absent).count();
        if others > 1 {
            break;
        }
        freed.push((table, level));
    }
    freed
}

/// What the tables let a processor cache for programs.
fn cacheable(machine: &Machine, s: &State, cpu: Cpu) -> BTreeSet<Stale> {
    let mut found = BTreeSet::new();
    let directory = s.cr3(cpu);
    for page in (0..machine.user_space()).map(VirtualPage) {
        for level in (1..=machine.root().0).map(Level) {
            let first = machine.first_of(level, page);
            if first != page {
                continue;
            }
            let (entry, _, reached) = s.walk(machine, directory, page, level);
            if reached != level {
                continue;
            }
            match entry {
                Entry::Page(Mapping { frame, rights, user: true, .. }) => {
                    found.insert(Stale::Page { cpu, first, level, frame, rights });
                }
                Entry::Table(frame) => {
                    found.insert(Stale::Table { cpu, first, level: level.below(), frame });
                }
                _ => {}
            }
        }
    }
    for window in machine.all_frames() {
        if let Entry::Page(Mapping { frame, rights, user: true, .. }) =
            s.shown(machine, directory, window)
        {
            let first = machine.window(window);
            found.insert(Stale::Page { cpu, first, level: Level::FIRST, frame, rights });
        }
    }
    found
}

/// Whether an action makes `cpu` drop a translation or the position of a table.
fn drops(machine: &Machine, action: &Action, s: &State, cached: &Stale) -> bool {
    let cpu = cached.cpu();
    let is_user = !machine.is_kernel_page(cached.first());
    let translates = |page: VirtualPage| cached.pages(machine).any(|(at, ..)| at == page);
    let is_here = |on: &Cpu, directory: &Frame| *on == cpu && s.cr3(cpu) == *directory;
    match action {
        Action::ExecuteH { cpu: on, directory } => {
            *on == cpu && s.cr3(cpu) != *directory && is_user
        }
        Action::FreePageDirectoryH { cpu: on, directory } => is_here(on, directory) && is_user,
        Action::EnterH { cpu: on } => *on == cpu && s.owed.contains(Debts::of(cpu)),
        Action::RemoveMappingH { cpu: on, directory, page } => {
            let flushes = !freed_tables(machine, s, *directory, *page).is_empty();
            is_here(on, directory) && is_user && (flushes || translates(*page))
        }
        Action::ModifyMappingH { cpu: on, directory, page, .. } => {
            is_here(on, directory) && is_user && translates(*page)
        }
        Action::SplitMappingH { cpu: on, directory, .. } => is_here(on, directory) && is_user,
        Action::RemoveKernelMappingH { cpu: on, region } => {
            *on == cpu && region.frames().any(|frame| translates(machine.window(frame)))
        }
        _ => false,
    }
}

/// What processors may use beyond the tables: all that they had cached, or could have, unless
/// the action makes them drop it, or the tables say it.
fn expected_stale(machine: &Machine, action: &Action, s: &State, after: &State) -> Vec<Stale> {
    if !machine.has(Layer::Tlb) {
        return Vec::new();
    }
    let mut expected = BTreeSet::new();
    for cpu in machine.cpus() {
        let cached = cacheable(machine, s, cpu);
        let stale = s.stale.iter().filter(|stale| stale.cpu() == cpu).copied();
        let kept = cached.into_iter().chain(stale).filter(|c| !drops(machine, action, s, c));
        let now = cacheable(machine, after, cpu);
        let kept: BTreeSet<Stale> = kept.collect();
        let is_more = |cached: &Stale| {
            now.iter().all(|said| !said.covers(cached))
                && kept.iter().all(|other| other == cached || !other.covers(cached))
        };
        expected.extend(kept.iter().filter(|cached| is_more(cached)));
    }
    expected.into_iter().collect()
}

/// The statuses of all pages, and the contents of all but tables of user space.
fn pages_change_as_said(machine: &Machine, action: &Action, s: &State, after: &State) -> bool {
    let taken = taken_tables(machine, action, s);
    let freed = match action {
        Action::RemoveMappingH { directory, page, .. } => {
            freed_tables(machine, s, *directory, *page)
        }
        _ => Vec::new(),
    };
    let written = written(machine, action, s);
    let kernel_tables = 1..=machine.kernel_tables().len();
    let expected = |frame: Frame, page: &Page| -> Option<Status> {
        Some(match action {
            Action::WriteE { cpu, page: at, value } => {
                let mapping = s.translate(machine, s.cr3(*cpu), *at)?;
                if mapping.frame != frame {
                    return Some(page.status.clone());
                }
                Status::Environment(*value)
            }
            Action::WriteK { value, .. } | Action::WriteU { value, .. }
                if written == Some(frame) =>
            {
                with_data(&page.status, *value)
            }
            Action::WriteD { frame: at, value } if *at == frame => Status::Io(*value),
            Action::CreatePageMapPageH { region } if region.first == frame => Status::Supplied,
            Action::ReleasePageMapPageH { frame: at } if *at == frame => Status::Normal(0),
            Action::FreePageDirectoryH { directory, .. } if *directory == frame => Status::Supplied,
            Action::ReclaimH { frame: at } if *at == frame => Status::Supplied,
            Action::ReleaseH { region, .. } if region.contains(Region::page(frame)) => {
                Status::Normal(0)
            }
            Action::RemoveMappingH { .. } if freed.iter().any(|(table, _)| *table == frame) => {
                if machine.has(Layer::Tlb) {
                    Status::Draining
                } else {
                    Status::Supplied
                }
            }
            Action::AllocatePageDirectoryH { frame: at } if *at == frame => return None,
            _ if taken.contains(&frame) => return None,
            _ => page.status.clone(),
        })
    };
    (0..).map(Frame).zip(s.pages.iter().zip(&after.pages)).all(|(frame, (page, later))| {
        let is_kernel_table = kernel_tables.contains(&(frame.0 as usize));
        match expected(frame, page) {
            // What tables contain is said by `mappings_change_as_said`.
            None if taken.contains(&frame) => later.status.kind() == StatusKind::PageTable,
            None => later.status.kind() == StatusKind::PageDirectory,
            Some(Status::PageDirectory(_)) if frame != REFERENCE => {
                later.status.kind() == StatusKind::PageDirectory
            }
            Some(Status::PageTable(_)) if !is_kernel_table => {
                later.status.kind() == StatusKind::PageTable
            }
            Some(Status::PageTable(table)) => match &later.status {
                // Only the kernel mapping that the action names changes.
                Status::PageTable(table_after) => {
                    table.entries().len() == table_after.entries().len()
                        && table.entries().iter().zip(table_after.entries()).all(
                            |(entry, entry_after)| {
                                entry == entry_after
                                    || kernel_entry_changes(
                                        machine,
                                        action,
                                        s,
                                        *entry,
                                        *entry_after,
                                    )
                            },
                        )
                }
                _ => false,
            },
            Some(status) => later.status == status,
        }
    })
}

fn with_data(status: &Status, value: u8) -> Status {
    match status {
        Status::Io(_) => Status::Io(value),
        _ => Status::Normal(value),
    }
}

/// Whether a change of an entry of a table of kernel space is the one that the action is for.
fn kernel_entry_changes(
    machine: &Machine,
    action: &Action,
    s: &State,
    before: Entry,
    after: Entry,
) -> bool {
    match action {
        Action::AddKernelMappingH { region, .. } => {
            before == Entry::Absent
                && matches!(after, Entry::Page(mapping)
                    if region.contains(Region::page(mapping.frame)))
        }
        Action::RemoveKernelMappingH { region, .. } => {
            after == Entry::Absent
                && region.frames().any(|frame| before == s.kernel_entry(machine, frame))
        }
        _ => false,
    }
}

/// The pages of the supply that become tables, the lowest first.
fn taken_tables(machine: &Machine, action: &Action, s: &State) -> Vec<Frame> {
    let (supply, needed) = match action {
        Action::AddMappingH { directory, supply, region, page, .. } => {
            (supply, tables_needed(machine, s, *directory, *page, *region).unwrap_or(0))
        }
        Action::SplitMappingH { supply, .. } => (supply, 1),
        _ => return Vec::new(),
    };
    supply.iter().rev().take(needed).copied().collect()
}

/// All translations: in the directory that the action names, at the page that it names; nowhere
/// else. The thesis says nothing about other directories, and so lets them change.
fn mappings_change_as_said(machine: &Machine, action: &Action, s: &State, after: &State) -> bool {
    let user = || (0..machine.user_space()).map(VirtualPage);
    // What a smallest page translates to, and in which size it is mapped.
    let seen = |state: &State, directory: Frame, page: VirtualPage| {
        let size = state.leaf(machine, directory, page).map(|(_, level)| level);
        (state.translate(machine, directory, page), size)
    };
    let changed: Option<(Frame, VirtualPage)> = match action {
        Action::AddMappingH { directory, page, .. }
        | Action::RemoveMappingH { directory, page, .. }
        | Action::ModifyMappingH { directory, page, .. }
        | Action::SplitMappingH { directory, page, .. } => Some((*directory, *page)),
        _ => None,
    };
    let is_covered = |page: VirtualPage| match (action, changed) {
        (Action::AddMappingH { region, page: first, .. }, _) => {
            (first.0..first.0 + u64::from(region.pages)).contains(&page.0)
        }
        (_, Some((directory, at))) => {
            let level = s.leaf(machine, directory, at).map_or(Level::FIRST, |(_, level)| level);
            machine.first_of(level, page) == machine.first_of(level, at)
        }
        _ => false,
    };
    let expected = |page: VirtualPage, before: (Option<Mapping>, Option<Level>)| match action {
        Action::AddMappingH { region, page: first, rights, share, .. } => {
            let offset = u32::try_from(page.0 - first.0).unwrap_or(u32::MAX);
            let mapping = Mapping {
                frame: Frame(region.first.0.saturating_add(offset)),
                rights: *rights,
                user: true,
                foreign: share.is_some(),
            };
            (Some(mapping), machine.level_of(region.pages.into()))
        }
        Action::RemoveMappingH { .. } => (None, None),
        Action::ModifyMappingH { rights, .. } => {
            (before.0.map(|mapping| Mapping { rights: *rights, ..mapping }), before.1)
        }
        Action::SplitMappingH { .. } => (before.0, before.1.map(Level::below)),
        _ => before,
    };
    let directories: BTreeSet<Frame> = s.directories().chain(after.directories()).collect();
    directories.into_iter().all(|directory| {
        user().all(|page| {
            let before = seen(s, directory, page);
            let is_changed = changed.is_some_and(|(of, _)| of == directory) && is_covered(page);
            let expected = if is_changed { expected(page, before) } else { before };
            seen(after, directory, page) == expected
        })
    }) && tables_are_linked_as_said(machine, action, s, after)
        && kernel_mappings_change_as_said(machine, action, s, after)
}

/// Tables that were there stay where they were, unless they are freed; new ones lead to the
/// mapping, in the order in which they were taken.
fn tables_are_linked_as_said(machine: &Machine, action: &Action, s: &State, after: &State) -> bool {
    let pages = || (0..machine.user_space()).map(VirtualPage);
    let taken = taken_tables(machine, action, s);
    let table_at = |state: &State, directory: Frame, page: VirtualPage, level: Level| {
        let (entry, _, reached) = state.walk(machine, directory, page, level.above());
        match entry {
            Entry::Table(table) if reached == level.above() => Some(table),
            _ => None,
        }
    };
    let (lowest, at) = match action {
        Action::AddMappingH { region, page, .. } => {
            (machine.level_of(region.pages.into()).unwrap_or(Level::FIRST), *page)
        }
        Action::SplitMappingH { directory, page, .. } => {
            let leaf = s.leaf(machine, *directory, *page);
            (leaf.map_or(Level::FIRST, |(_, level)| Level(level.0 - 1)), *page)
        }
        _ => (Level::FIRST, VirtualPage(0)),
    };
    let freed = match action {
        Action::RemoveMappingH { directory, page, .. } => {
            freed_tables(machine, s, *directory, *page)
        }
        _ => Vec::new(),
    };
    let named = match action {
        Action::AddMappingH { directory, .. } | Action::SplitMappingH { directory, .. } => {
            Some(*directory)
        }
        _ => None,
    };
    after.directories().all(|directory| {
        (1..machine.root().0).map(Level).all(|level| {
            pages().all(|page| {
                let before = table_at(s, directory, page, level);
                let before = before.filter(|table| !freed.contains(&(*table, level)));
                let is_new = named == Some(directory)
                    && machine.first_of(level.above(), page) == machine.first_of(level.above(), at);
                let new = level.0.checked_sub(lowest.0).and_then(|n| taken.get(usize::from(n)));
                let expected = if is_new { new.copied().or(before) } else { before };
                table_at(after, directory, page, level) == expected
            })
        })
    })
}

fn kernel_mappings_change_as_said(
    machine: &Machine,
    action: &Action,
    s: &State,
    after: &State,
) -> bool {
    machine.all_frames().all(|frame| {
        let expected = match action {
            Action::AddKernelMappingH { region, rights, user, share, .. }
                if region.contains(Region::page(frame)) =>
            {
                let foreign = share.is_some();
                Entry::Page(Mapping { frame, rights: *rights, user: *user, foreign })
            }
            Action::RemoveKernelMappingH { region, .. } if region.contains(Region::page(frame)) => {
                Entry::Absent
            }
            _ => s.kernel_entry(machine, frame),
        };
        after.kernel_entry(machine, frame) == expected
    })
}

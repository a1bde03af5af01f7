//! What each domain observes of a state (thesis 5.4.1, mended), as [`Facts`].
//!
//! The thesis's views do not satisfy weak step consistency: see [`crate::thesis::findings`]. These
//! are the views in its place.
//!
//! - A page is seen by its name, not by how often it is mapped: two states with the same counts
//!   can differ in which addresses are aliases of each other.
//! - The contents of a page are seen by every domain to which an action of H can show it without
//!   anybody's consent: all normal memory of an owner by that owner's programs, whether it is
//!   mapped or not; all of domain 0's also by the client kernel; memory that is shared, by
//!   whom it is shared with. That is so from the moment that the owner consents.
//! - Programs see all address spaces of their owner, not only the current one.
//! - What a processor may have cached is seen by the programs that it could serve.
//!
//! A domain that can act on a page also sees where it is mapped for it. H sees everything but the
//! contents of normal and device memory; what processors may have cached is what H must assume
//! that they have cached, and follows from H's own actions.

use crate::action::{Action, Domain, Through};
use crate::facts::{Facts, statement};
use crate::hash::mix;
use crate::machine::{Frame, Machine, REFERENCE, VirtualPage};
use crate::state::{Entry, Mapping, Owner, Region, Share, Stale, State, Status, StatusKind};

/// The frame that a page of kernel space stands for: its window's.
fn shown_at(machine: &Machine, page: VirtualPage) -> Frame {
    Frame(u32::try_from(page.0.saturating_sub(machine.user_space())).unwrap_or(u32::MAX))
}

fn is_data(state: &State, frame: Frame) -> Option<u8> {
    match state.status(frame) {
        Status::Normal(data) | Status::Io(data) => Some(*data),
        _ => None,
    }
}

/// A number for an owner.
const fn owner_number(owner: Owner) -> u64 {
    match owner {
        Owner::Hypervisor => 0,
        Owner::Nobody => 1,
        Owner::Domain(number) => number as u64 + 2,
    }
}

/// Numbers for what a mapping allows.
const fn allows(mapping: Mapping) -> u64 {
    mapping.rights.bits() as u64 | (mapping.user as u64) << 2 | (mapping.foreign as u64) << 3
}

/// Adds what `domain` observes of `state`.
pub fn observe(machine: &Machine, state: &State, domain: Domain, facts: &mut Facts) {
    match domain {
        Domain::E => observe_e(machine, state, facts),
        Domain::H => observe_h(machine, state, facts),
        Domain::K => observe_k(machine, state, facts),
        Domain::U(number) => observe_u(machine, state, number, facts),
        Domain::D => {
            for frame in machine.devices() {
                add_contents(state, frame, facts);
            }
        }
    }
}

/// Adds all of `state`.
pub fn whole(machine: &Machine, state: &State, facts: &mut Facts) {
    observe_h(machine, state, facts);
    for frame in machine.clients().chain(machine.devices()) {
        add_contents(state, frame, facts);
    }
}

fn add_contents(state: &State, frame: Frame, facts: &mut Facts) {
    if let Some(data) = is_data(state, frame) {
        facts.add_of(statement!("contains", data), frame);
    }
}

/// The environment observes its pages, where they are mapped in the current directories.
fn observe_e(machine: &Machine, state: &State, facts: &mut Facts) {
    for cpu in machine.cpus() {
        for frame in machine.all_frames() {
            if let Entry::Page(mapping) = state.shown(machine, state.cr3(cpu), frame)
                && let Status::Environment(data) = state.status(mapping.frame)
            {
                let code = statement!("environment", cpu.0, *data);
                facts.add_between(code, frame, mapping.frame);
            }
        }
    }
}

/// H observes everything but the contents of normal and device memory.
fn observe_h(machine: &Machine, state: &State, facts: &mut Facts) {
    for (cpu, directory) in (0_u64..).zip(&state.cr3) {
        facts.add_of(statement!("cr3", cpu), *directory);
    }
    if !state.owed.is_empty() {
        facts.add(statement!("owed", state.owed.bits()));
    }
    for (frame, page) in (0..).map(Frame).zip(&state.pages) {
        // What the page was after the boot needs no mention.
        let (status, owner) = status_after_boot(machine, frame);
        if page.status.kind() != status || page.owner != owner || !page.waits.is_empty() {
            let owner = owner_number(page.owner);
            let code = statement!("page", page.status.kind() as u8, owner, page.waits.bits());
            facts.add_of(code, frame);
        }
        match &page.status {
            Status::Environment(data) => {
                facts.add_of(statement!("contains", *data), frame);
            }
            Status::PageDirectory(table) => {
                let user = machine.sizes().user_entries as usize;
                let reference = state.status(REFERENCE).table();
                for (index, entry) in table.entries().iter().enumerate() {
                    // What every directory should have needs no mention.
                    let usual = if frame == REFERENCE {
                        usual_entry(machine, index)
                    } else if index >= user {
                        reference.map_or(Entry::Absent, |reference| reference.get(index))
                    } else {
                        Entry::Absent
                    };
                    if *entry != usual {
                        add_entry(frame, index, *entry, facts);
                    }
                }
            }
            Status::PageTable(table) if !is_kernel_table(machine, frame) => {
                for (index, entry) in table.entries().iter().enumerate() {
                    if *entry != Entry::Absent {
                        add_entry(frame, index, *entry, facts);
                    }
                }
            }
            _ => {}
        }
    }
    // Tables of kernel space show frames by their numbers, and so are told by frame.
    for frame in machine.all_frames() {
        match state.kernel_entry(machine, frame) {
            Entry::Absent => {}
            Entry::Page(mapping) => {
                facts.add_between(statement!("window", allows(mapping)), frame, mapping.frame);
            }
            Entry::Table(table) => facts.add_between(statement!("window table"), frame, table),
        }
    }
    for stale in &state.stale {
        add_stale(machine, stale, facts);
    }
    for share in &state.shares {
        add_share(share, facts);
    }
    for region in &state.divided {
        add_region(*region, statement!("divided"), facts);
    }
}

/// The status and the owner of a page after the boot.
fn status_after_boot(machine: &Machine, frame: Frame) -> (StatusKind, Owner) {
    if machine.is_client(frame) {
        (StatusKind::Normal, Owner::Domain(0))
    } else if machine.is_device(frame) {
        (StatusKind::Io, Owner::Domain(0))
    } else {
        let status = match frame {
            REFERENCE => StatusKind::PageDirectory,
            _ if is_kernel_table(machine, frame) => StatusKind::PageTable,
            _ if machine.is_environment(frame) => StatusKind::Environment,
            _ => StatusKind::NotInstalled,
        };
        (status, Owner::Hypervisor)
    }
}

/// The entry of the reference directory after the boot.
fn usual_entry(machine: &Machine, index: usize) -> Entry {
    let top = machine.root().below();
    let tables = machine.kernel_tables().iter().filter(|table| table.level == top);
    let first = machine.sizes().user_entries as usize;
    match index.checked_sub(first).and_then(|number| tables.clone().nth(number)) {
        Some(table) => Entry::Table(table.frame),
        None => Entry::Absent,
    }
}

fn is_kernel_table(machine: &Machine, frame: Frame) -> bool {
    frame.0 >= 1 && (frame.0 as usize) <= machine.kernel_tables().len()
}

fn add_entry(table: Frame, index: usize, entry: Entry, facts: &mut Facts) {
    let index = index as u64;
    match entry {
        Entry::Absent => facts.add_of(statement!("absent", index), table),
        Entry::Table(below) => facts.add_between(statement!("table", index), table, below),
        Entry::Page(mapping) => {
            let code = statement!("entry", index, allows(mapping));
            facts.add_between(code, table, mapping.frame);
        }
    }
}

fn add_stale(machine: &Machine, stale: &Stale, facts: &mut Facts) {
    let (cpu, first) = (stale.cpu().0, stale.first());
    let code = match stale {
        Stale::Page { level, rights, .. } => {
            statement!("stale page", cpu, level.0, rights.bits())
        }
        Stale::Table { level, .. } => statement!("stale table", cpu, level.0),
    };
    if machine.is_kernel_page(first) {
        facts.add_between(code, shown_at(machine, first), stale.frame());
    } else {
        facts.add_of(mix(code, first.0), stale.frame());
    }
}

fn add_share(share: &Share, facts: &mut Facts) {
    let grantee = owner_number(share.grantee);
    let code = statement!("share", share.owner, grantee, share.rights.bits());
    add_region(share.region, code, facts);
}

fn add_region(region: Region, code: u64, facts: &mut Facts) {
    facts.add_of(code ^ u64::from(region.pages), region.first);
}

/// The client kernel observes the environment, and the memory that it has or can have mapped.
fn observe_k(machine: &Machine, state: &State, facts: &mut Facts) {
    for cpu in machine.cpus() {
        for frame in machine.all_frames() {
            let Entry::Page(mapping) = state.shown(machine, state.cr3(cpu), frame) else {
                continue;
            };
            let code = match state.status(mapping.frame) {
                Status::Environment(data) => statement!("kernel environment", *data),
                Status::Normal(_) | Status::Io(_) => statement!("kernel mapping"),
                _ => continue,
            };
            let code = mix(mix(code, cpu.0.into()), allows(mapping));
            facts.add_between(code, frame, mapping.frame);
        }
    }
    for frame in machine.clients().chain(machine.devices()) {
        if is_visible_to_kernel(machine, state, frame) {
            add_contents(state, frame, facts);
        }
    }
}

fn is_shared_with(state: &State, frame: Frame, grantee: Owner) -> bool {
    let page = Region::page(frame);
    state.shares.iter().any(|share| share.grantee == grantee && share.region.contains(page))
}

/// Whether the client kernel sees what `frame` contains.
#[must_use]
pub fn is_visible_to_kernel(machine: &Machine, state: &State, frame: Frame) -> bool {
    state.owner(frame) == Owner::Domain(0)
        || is_shared_with(state, frame, Owner::Hypervisor)
        || machine.all_frames().any(|window| {
            matches!(state.kernel_entry(machine, window), Entry::Page(mapping) if mapping.frame == frame)
        })
}

/// The programs of an owner observe the memory that they have or can have mapped.
fn observe_u(machine: &Machine, state: &State, number: u16, facts: &mut Facts) {
    let owner = Owner::Domain(number);
    let mut reached = [false; crate::facts::MAX_FRAMES];
    let mut reach = |frame: Frame| {
        if let Some(reached) = reached.get_mut(frame.0 as usize) {
            *reached = true;
        }
    };
    for (cpu, directory) in (0_u64..).zip(&state.cr3) {
        if state.owner(*directory) == owner {
            facts.add_of(statement!("running", cpu), *directory);
        }
    }
    for directory in state.directories().filter(|directory| state.owner(*directory) == owner) {
        facts.add_of(statement!("address space"), directory);
        for (first, level, mapping) in state.user_leaves(machine, directory) {
            for (page, frame) in (0..machine.pages_of(level)).zip(0..) {
                let frame = Frame(mapping.frame.0.saturating_add(frame));
                let code = statement!("maps", first.0 + page, allows(mapping));
                facts.add_between(code, directory, frame);
                if mapping.user {
                    reach(frame);
                }
            }
        }
    }
    for frame in machine.all_frames() {
        if let Entry::Page(mapping) = state.kernel_entry(machine, frame)
            && mapping.user
        {
            facts.add_between(statement!("visible", allows(mapping)), frame, mapping.frame);
            reach(mapping.frame);
        }
    }
    for stale in &state.stale {
        let serves = state.owner(state.cr3(stale.cpu())) == owner;
        let cpu = u64::from(stale.cpu().0);
        for (page, frame, rights) in stale.pages(machine) {
            if machine.is_kernel_page(page) {
                let code = statement!("cached", cpu, rights.bits());
                facts.add_between(code, shown_at(machine, page), frame);
                reach(frame);
            } else if serves {
                let code = statement!("cached", cpu, rights.bits(), page.0);
                facts.add_of(code, frame);
                reach(frame);
            }
        }
    }
    for frame in machine.clients().chain(machine.devices()) {
        let is_reached = reached.get(frame.0 as usize).is_some_and(|reached| *reached);
        let is_visible =
            is_reached || state.owner(frame) == owner || is_shared_with(state, frame, owner);
        if is_visible {
            add_contents(state, frame, facts);
        }
    }
}

/// Adds an action: what it is, and which frames its arguments name.
pub fn add_action(machine: &Machine, action: &Action, facts: &mut Facts) {
    let kind = action.kind().number as u64;
    let code = |numbers: &[u64]| {
        let code = statement!("action", kind);
        numbers.iter().fold(code, |code, number| mix(code, *number))
    };
    let argument = |place: u64| statement!("argument", place);
    let place = |page: VirtualPage, facts: &mut Facts| {
        if machine.is_kernel_page(page) {
            facts.add_of(statement!("argument page"), shown_at(machine, page));
        } else {
            facts.add(statement!("argument page", page.0));
        }
    };
    match action {
        Action::WriteE { cpu, page, value } | Action::WriteK { cpu, page, value } => {
            facts.add(code(&[cpu.0.into(), (*value).into()]));
            place(*page, facts);
        }
        Action::WriteU { owner, cpu, page, value, through } => {
            let by = u64::from(*through == Through::Tables);
            facts.add(code(&[cpu.0.into(), (*value).into(), (*owner).into(), by]));
            place(*page, facts);
            if let Through::Cache(frame) = through {
                facts.add_of(argument(0), *frame);
            }
        }
        Action::DeriveRegionH { from, to } => {
            facts.add(code(&[]));
            add_region(*from, argument(0), facts);
            add_region(*to, argument(1), facts);
        }
        Action::CreatePageMapPageH { region } => {
            facts.add(code(&[]));
            add_region(*region, argument(0), facts);
        }
        Action::ReleasePageMapPageH { frame }
        | Action::AllocatePageDirectoryH { frame }
        | Action::ReclaimH { frame } => {
            facts.add(code(&[]));
            facts.add_of(argument(0), *frame);
        }
        Action::FreePageDirectoryH { cpu, directory } | Action::ExecuteH { cpu, directory } => {
            facts.add(code(&[cpu.0.into()]));
            facts.add_of(argument(0), *directory);
        }
        Action::AddMappingH { directory, supply, region, page, rights, share } => {
            facts.add(code(&[rights.bits().into(), u64::from(share.is_some())]));
            facts.add_of(argument(0), *directory);
            add_region(*region, argument(1), facts);
            place(*page, facts);
            if let Some(share) = share {
                add_share_argument(share, facts);
            }
            add_supply(supply, facts);
        }
        Action::RemoveMappingH { cpu, directory, page } => {
            facts.add(code(&[cpu.0.into()]));
            facts.add_of(argument(0), *directory);
            place(*page, facts);
        }
        Action::ModifyMappingH { cpu, directory, page, rights } => {
            facts.add(code(&[cpu.0.into(), rights.bits().into()]));
            facts.add_of(argument(0), *directory);
            place(*page, facts);
        }
        Action::SplitMappingH { cpu, directory, supply, page } => {
            facts.add(code(&[cpu.0.into()]));
            facts.add_of(argument(0), *directory);
            place(*page, facts);
            add_supply(supply, facts);
        }
        Action::AddKernelMappingH { cpu, region, rights, user, share } => {
            let shared = u64::from(share.is_some());
            facts.add(code(&[cpu.0.into(), rights.bits().into(), (*user).into(), shared]));
            add_region(*region, argument(0), facts);
            if let Some(share) = share {
                add_share_argument(share, facts);
            }
        }
        Action::RemoveKernelMappingH { cpu, region } => {
            facts.add(code(&[cpu.0.into()]));
            add_region(*region, argument(0), facts);
        }
        Action::EnterH { cpu } => facts.add(code(&[cpu.0.into()])),
        Action::AssignH { region, to: domain } | Action::ReleaseH { region, from: domain } => {
            facts.add(code(&[(*domain).into()]));
            add_region(*region, argument(0), facts);
        }
        Action::ShareH { share } | Action::EndShareH { share } => {
            facts.add(code(&[]));
            add_share_argument(share, facts);
        }
        Action::WriteD { frame, value } => {
            facts.add(code(&[(*value).into()]));
            facts.add_of(argument(0), *frame);
        }
    }
}

fn add_share_argument(share: &Share, facts: &mut Facts) {
    let grantee = owner_number(share.grantee);
    let code = statement!("argument share", share.owner, grantee, share.rights.bits());
    add_region(share.region, code, facts);
}

fn add_supply(supply: &[Frame], facts: &mut Facts) {
    for (place, frame) in (0_u64..).zip(supply) {
        facts.add_of(statement!("argument table", place), *frame);
    }
}

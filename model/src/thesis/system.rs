//! The instantiation of Rushby's framework, completed (thesis 5.8.1).

use std::collections::BTreeSet;

use crate::rushby::System;
use crate::unwinding::Relation;

use super::domain::{Action, Domain, View, dom, interferes, view};
use super::memory::{
    DirectoryContents, Geometry, Page, PageData, PhysicalPageAddress, PhysicalRegion, RegionState,
    VirtualAddress, VirtualPageAddress, VirtualRegion, zero_page_data,
};
use super::specification::action_spec;
use super::state::{PageDirectory, State};
use super::well_formed::well_formed;

/// `canStepTo`.
#[must_use]
pub fn can_step_to(state: &State, action: &Action, after: &State) -> bool {
    // The cheapest test first.
    action_spec(action, state, after) && well_formed(after) && well_formed(state)
}

/// `pickArbitrary`: which of the states that an action may lead to an implementation chooses.
pub type Choice = fn(state: &State, related: &[State]) -> usize;

/// The system of the thesis, on one machine.
///
/// `relatedStates` quantifies over all states, of which there are too many even on the smallest
/// machine; [`Model::related_states`](Relation::related_states) tries a few states for each action and keeps those that
/// [`can_step_to`] admits: what an implementation would most plausibly do, with the choices that
/// the specification leaves open. So what is found to fail does fail, and what is not found to
/// fail is not thereby proved.
#[derive(Clone, Debug)]
pub struct Model {
    initial: State,
    choice: Choice,
}

/// Pages of memory that the machine needs: reference directory, kernel table, environment.
const RESERVED: usize = 3;

impl Model {
    /// A machine with two directory entries, of which one is user space, tables of
    /// `table_entries` (at least 2), one environment page at the first kernel address, and
    /// `client_pages` normal pages. The regions are single pages, but for one of two pages.
    ///
    /// # Panics
    ///
    /// If the numbers do not fit into 8 bits, or are too small.
    #[must_use]
    pub fn new(table_entries: u8, client_pages: u8) -> Self {
        assert!(table_entries >= 2 && client_pages >= 2, "too small to say anything about");
        let all = RESERVED + usize::from(client_pages);
        let superpages = u8::try_from(all.div_ceil(table_entries.into())).expect("fits");
        let geometry = Geometry {
            directory_entries: 2,
            user_entries: 1,
            table_entries,
            superpages,
            offsets: 1,
        };
        let page = |number| geometry.physical_page(number).expect("the machine has such a page");
        let (reference, table, environment) = (page(0), page(1), page(2));
        let mut pages =
            vec![Page::NotInstalled; usize::from(superpages) * usize::from(table_entries)];
        pages[0] = Page::PageDirectory(vec![None, Some(DirectoryContents::Table(table))]);
        let mut entries = vec![None; table_entries.into()];
        entries[0] = Some(environment);
        pages[1] = Page::PageTable(entries);
        pages[2] = Page::Environment(zero_page_data(geometry));
        pages[RESERVED..all].fill(Page::Normal(zero_page_data(geometry)));
        let region = |number, length| PhysicalRegion { start: page(number), length };
        let singles = (RESERVED + 2..all).map(|number| region(number, 1));
        let regions: BTreeSet<_> = singles.chain([region(RESERVED, 2)]).collect();
        let regions = RegionState { initial_regions: regions.clone(), all_regions: regions };
        let initial = State { geometry, cr3: reference, reference, regions, pages };
        Self { initial, choice: |_, _| 0 }
    }

    /// The same system with another implementation.
    #[must_use]
    pub fn choosing(self, choice: Choice) -> Self {
        Self { choice, ..self }
    }

    /// The sizes.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.initial.geometry
    }

    /// The same system, starting in another state.
    #[must_use]
    pub fn starting_in(self, initial: State) -> Self {
        Self { initial, ..self }
    }
}

impl System for Model {
    type State = State;
    type Action = Action;
    type Domain = Domain;
    type View = View;

    fn initial_state(&self) -> State {
        self.initial.clone()
    }

    fn step(&self, state: &State, action: &Action) -> State {
        let mut related = self.related_states(state, action);
        if related.is_empty() {
            return state.clone();
        }
        let choice = (self.choice)(state, &related);
        related.swap_remove(choice)
    }

    fn dom(&self, action: &Action) -> Domain {
        dom(action)
    }

    fn domains(&self) -> Vec<Domain> {
        Domain::ALL.to_vec()
    }

    fn interferes(&self, from: Domain, to: Domain) -> bool {
        interferes(from, to)
    }

    fn view(&self, domain: Domain, state: &State) -> View {
        view(domain, state)
    }
}

impl Relation for Model {
    fn actions(&self, state: &State) -> Vec<Action> {
        actions(state)
    }

    fn related_states(&self, state: &State, action: &Action) -> Vec<State> {
        let mut found: Vec<State> = Vec::new();
        for candidate in candidates(state, action) {
            if can_step_to(state, action, &candidate) && !found.contains(&candidate) {
                found.push(candidate);
            }
        }
        found
    }

    fn name(&self, action: &Action) -> &'static str {
        action.name()
    }

    fn names(&self) -> Vec<&'static str> {
        Action::NAMES.to_vec()
    }
}

/// The actions to try: all writes of 0 and 1; mappings of one page, with at most one page for a
/// table; mappings of a whole user table's worth of pages. At most one region is derived, so that
/// the number of states stays small.
fn actions(state: &State) -> Vec<Action> {
    let geometry = state.geometry;
    let mut actions = Vec::new();
    let addresses = |pages: fn(Geometry, VirtualPageAddress) -> bool| {
        let pages = geometry.all_virtual_pages().filter(move |page| pages(geometry, *page));
        pages.flat_map(move |page| {
            let all = (0..geometry.offsets).map(move |offset| VirtualAddress { page, offset });
            all.flat_map(|address| [(address, 0), (address, 1)])
        })
    };
    for (address, value) in addresses(Geometry::is_kernel_page_address) {
        actions.push(Action::WriteE(address, value));
        actions.push(Action::WriteK(address, value));
    }
    for (address, value) in addresses(Geometry::is_user_page_address) {
        actions.push(Action::WriteU(address, value));
    }
    let regions = &state.regions.all_regions;
    if *regions == state.regions.initial_regions {
        for region in regions {
            for start in geometry.all_physical_pages() {
                let lengths = (0..=region.length).rev();
                actions.extend(lengths.map(|n| Action::DeriveRegionH(*region, start, n)));
            }
        }
    }
    let normal: Vec<PhysicalPageAddress> =
        geometry.all_physical_pages().filter(|page| state.is_normal_page(*page)).collect();
    actions.extend(normal.iter().map(|page| Action::AllocatePageDirectoryH(*page)));
    let to = |page| VirtualRegion { start: page, length: 1 };
    for directory in state.page_directories() {
        actions.push(Action::FreePageDirectoryH(directory));
        actions.push(Action::ExecuteH(directory));
        let mut froms: Vec<VirtualRegion> = geometry
            .all_virtual_pages()
            .filter(|page| geometry.is_user_page_address(*page))
            .map(to)
            .collect();
        if let Some(first) = froms.first() {
            froms.push(VirtualRegion { length: geometry.table_entries, ..*first });
        }
        for from in froms {
            actions.push(Action::RemoveMappingH(directory, from));
            for region in regions.iter().filter(|region| region.length == from.length) {
                let tables = normal.iter().map(|page| vec![*page]).chain([vec![]]);
                actions.extend(
                    tables.map(|tables| Action::AddMappingH(directory, tables, *region, from)),
                );
            }
        }
    }
    for page in geometry.all_virtual_pages() {
        if geometry.is_kernel_page_address(page) {
            let singles = regions.iter().filter(|region| region.length == 1);
            actions.extend(singles.map(|region| Action::AddKernelMappingH(*region, to(page))));
        }
    }
    actions
}

/// States that `action` might lead to. The specification decides which it admits.
fn candidates(state: &State, action: &Action) -> Vec<State> {
    let mut after = state.clone();
    match action {
        Action::WriteE(address, value)
        | Action::WriteK(address, value)
        | Action::WriteU(address, value) => {
            let Some((page, offset)) = state.translate(*address) else {
                return Vec::new();
            };
            match &mut after[page] {
                Page::Normal(data) | Page::Environment(data) => {
                    *data = data.update(offset, *value);
                }
                _ => return Vec::new(),
            }
            vec![after]
        }
        Action::DeriveRegionH(_, start, length) => {
            let region = PhysicalRegion { start: *start, length: *length };
            after.regions.all_regions.insert(region);
            vec![after]
        }
        Action::AllocatePageDirectoryH(page) => {
            after[*page] = state[state.reference].clone();
            vec![after]
        }
        Action::FreePageDirectoryH(directory) => {
            after[*directory] = Page::Normal(zero_page_data(state.geometry));
            vec![after]
        }
        Action::AddMappingH(directory, tables, physical, to) => {
            map_candidates(state, *directory, tables, *physical, *to)
        }
        Action::RemoveMappingH(directory, from) => unmap_candidates(state, *directory, *from),
        Action::AddKernelMappingH(physical, to) => {
            let Page::PageDirectory(reference) = &state[state.reference] else {
                return Vec::new();
            };
            let entry = reference[usize::from(to.start.directory)];
            let Some(DirectoryContents::Table(table)) = entry else {
                return Vec::new();
            };
            let Page::PageTable(entries) = &mut after[table] else {
                return Vec::new();
            };
            entries[usize::from(to.start.table)] = Some(physical.start);
            vec![after]
        }
        Action::ExecuteH(directory) => {
            after.cr3 = *directory;
            vec![after]
        }
    }
}

/// Adding a mapping: by a superpage, or by entries of one table, which may be new.
fn map_candidates(
    state: &State,
    directory: PageDirectory,
    tables: &[PhysicalPageAddress],
    physical: PhysicalRegion,
    to: VirtualRegion,
) -> Vec<State> {
    let geometry = state.geometry;
    let mut found = Vec::new();
    let Page::PageDirectory(entries) = &state[directory] else {
        return found;
    };
    let index = usize::from(to.start.directory);
    if to.length == geometry.table_entries && to.start.table == 0 && physical.start.offset == 0 {
        let mut after = state.clone();
        let mut entries = entries.clone();
        entries[index] = Some(DirectoryContents::Superpage(physical.start.superpage));
        after[directory] = Page::PageDirectory(entries);
        found.push(after);
    }
    let existing = match entries[index] {
        Some(DirectoryContents::Table(table)) => Some(table),
        _ => None,
    };
    for table in existing.into_iter().chain(tables.first().copied()) {
        let mut after = state.clone();
        let mut contents = match &state[table] {
            Page::PageTable(contents) => contents.clone(),
            _ => vec![None; geometry.table_entries.into()],
        };
        let pages = geometry.to_list_physical_region(physical).unwrap_or_default();
        for (at, page) in (usize::from(to.start.table)..).zip(pages) {
            if let Some(entry) = contents.get_mut(at) {
                *entry = Some(page);
            }
        }
        after[table] = Page::PageTable(contents);
        let mut entries = entries.clone();
        entries[index] = Some(DirectoryContents::Table(table));
        after[directory] = Page::PageDirectory(entries);
        found.push(after);
    }
    found
}

/// Removing a mapping: a table that becomes empty is freed, with zeros or with whatever was left
/// in it, or kept.
fn unmap_candidates(state: &State, directory: PageDirectory, from: VirtualRegion) -> Vec<State> {
    let Page::PageDirectory(entries) = &state[directory] else {
        return Vec::new();
    };
    let index = usize::from(from.start.directory);
    let mut entries = entries.clone();
    let mut after = state.clone();
    match entries[index] {
        None => Vec::new(),
        Some(DirectoryContents::Superpage(_)) => {
            entries[index] = None;
            after[directory] = Page::PageDirectory(entries);
            vec![after]
        }
        Some(DirectoryContents::Table(table)) => {
            let Page::PageTable(contents) = &mut after[table] else {
                return Vec::new();
            };
            let first = usize::from(from.start.table);
            let removed = contents.iter_mut().skip(first).take(from.length.into());
            removed.for_each(|entry| *entry = None);
            if contents.iter().any(Option::is_some) {
                return vec![after];
            }
            let kept = after.clone();
            entries[index] = None;
            after[directory] = Page::PageDirectory(entries);
            let zero = zero_page_data(state.geometry);
            let left = PageData(vec![1; zero.0.len()]);
            let freed = [zero, left].map(|data| {
                let mut freed = after.clone();
                freed[table] = Page::Normal(data);
                freed
            });
            freed.into_iter().chain([kept]).collect()
        }
    }
}

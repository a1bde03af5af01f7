//! Well-formedness (thesis 5.6, strengthened), and the two integrity properties that it is for.
//!
//! The thesis's eight conditions admit states in which a program can write to a page table, and
//! are not kept by its actions: see [`crate::thesis::findings`]. The conditions here are kept by
//! every action and imply both properties; each addition says which state it excludes.

use crate::machine::{Frame, Level, Machine, REFERENCE, VirtualPage};
use crate::state::{Debts, Entry, Mapping, Owner, Region, Stale, State, Status, StatusKind, Table};

/// A condition.
#[derive(Clone, Copy)]
pub struct Condition {
    /// Its name: the thesis's, if it has one.
    pub name: &'static str,
    /// The section of the thesis that has it, or has a weaker form of it.
    pub section: Option<&'static str>,
    /// A state that it excludes.
    pub excludes: &'static str,
    holds: fn(&Survey<'_>) -> bool,
}

impl std::fmt::Debug for Condition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

/// The conditions.
pub const CONDITIONS: [Condition; 21] = [
    Condition {
        name: "cr3IsPageDirectory",
        section: Some("5.6.1"),
        excludes: "a processor translates with a page that was a directory and was freed",
        holds: cr3_is_page_directory,
    },
    Condition {
        name: "referenceIsPageDirectory",
        section: Some("5.6.1"),
        excludes: "the reference directory is something else",
        holds: |s| s.kind(REFERENCE) == StatusKind::PageDirectory,
    },
    Condition {
        name: "referenceMapsKernelAddresses",
        section: Some("5.6.2"),
        excludes: "the reference directory has an entry in user space, which no program owns",
        holds: reference_maps_kernel_addresses,
    },
    Condition {
        name: "referenceContainsEnvironment",
        section: Some("5.6.3"),
        excludes: "a page of the environment is not mapped at its window page",
        holds: reference_contains_environment,
    },
    Condition {
        name: "pageDirectoriesContainReference",
        section: Some("5.6.4"),
        excludes: "a directory translates kernel space through a table of its own, which agrees \
                   with the reference's until the next kernel mapping is added (strengthened: the \
                   thesis compares translations, not entries)",
        holds: page_directories_contain_reference,
    },
    Condition {
        name: "environmentOnlyInReference",
        section: Some("5.6.5"),
        excludes: "a program, or the client kernel, has a mapping of the environment",
        holds: environment_only_in_reference,
    },
    Condition {
        name: "mappedPagesAreNormal",
        section: Some("5.6.6"),
        excludes: "a program has a mapping of a page table (strengthened: the thesis demands that \
                   a mapped page is installed)",
        holds: mapped_pages_are_normal,
    },
    Condition {
        name: "tablePointersArePageTables",
        section: Some("5.6.7"),
        excludes: "a directory points to a normal page, whose contents are then translations",
        holds: table_pointers_are_page_tables,
    },
    Condition {
        name: "regionsAreNotEnvironment",
        section: Some("5.6.8"),
        excludes: "a region handle names a page of the environment",
        holds: regions_are_not_environment,
    },
    Condition {
        name: "tablesHaveOneParent",
        section: None,
        excludes: "two directories share a page table of user space, so that what is mapped in \
                   one appears in the other; or a page table belongs to no directory, and is lost",
        holds: tables_have_one_parent,
    },
    Condition {
        name: "tablesAreNotEmpty",
        section: None,
        excludes: "a directory without mappings cannot be freed since it still has tables",
        holds: tables_are_not_empty,
    },
    Condition {
        name: "mappingsAreInPlace",
        section: None,
        excludes: "a large page begins at a frame that is not a multiple of its size, or reaches \
                   past user space; or a mapping of user space is not for programs",
        holds: mappings_are_in_place,
    },
    Condition {
        name: "mappingsHaveConsent",
        section: None,
        excludes: "an address space maps a page of another owner who never shared it",
        holds: mappings_have_consent,
    },
    Condition {
        name: "sharesAreOwned",
        section: None,
        excludes: "a share outlives its owner's page, and lets somebody map what another got",
        holds: shares_are_owned,
    },
    Condition {
        name: "nobodysMemoryIsClear",
        section: None,
        excludes: "a page still contains what its last owner wrote when it is given to the next",
        holds: nobodys_memory_is_clear,
    },
    Condition {
        name: "wholePagesHaveOneOwner",
        section: None,
        excludes: "a large page counts as one domain's, and can be mapped as a whole, though a \
                   part of it is another's",
        holds: whole_pages_have_one_owner,
    },
    Condition {
        name: "ownersAreInPlace",
        section: None,
        excludes: "a directory belongs to nobody, so that whose memory it may map is undefined",
        holds: owners_are_in_place,
    },
    Condition {
        name: "waitsAreOwed",
        section: None,
        excludes: "a page waits for a flush that nobody owes, and so for ever; or a page became a \
                   table while a processor could still write to it",
        holds: waits_are_owed,
    },
    Condition {
        name: "staleTranslationsAreWaitedFor",
        section: None,
        excludes: "a processor may still write to a page that can already be given away",
        holds: stale_translations_are_waited_for,
    },
    Condition {
        name: "staleTablesAreDraining",
        section: None,
        excludes: "a processor may still walk through a page that programs can write to",
        holds: stale_tables_are_draining,
    },
    Condition {
        name: "referencesAreCounted",
        section: None,
        excludes: "a mapped page counts as free, and becomes a page table",
        holds: references_are_counted,
    },
];

/// `wellFormed` (5.6.9).
///
/// # Errors
///
/// The first condition that does not hold.
pub fn well_formed(machine: &Machine, state: &State) -> Result<(), Condition> {
    let survey = Survey::of(machine, state);
    match CONDITIONS.iter().find(|condition| !(condition.holds)(&survey)) {
        Some(broken) => Err(*broken),
        None => Ok(()),
    }
}

/// The names of all conditions that do not hold.
#[must_use]
pub fn broken_conditions(machine: &Machine, state: &State) -> Vec<&'static str> {
    let survey = Survey::of(machine, state);
    let broken = CONDITIONS.iter().filter(|condition| !(condition.holds)(&survey));
    broken.map(|condition| condition.name).collect()
}

/// What a walk through all tables finds.
struct Survey<'state> {
    machine: &'state Machine,
    state: &'state State,
    /// Mappings of user space: directory, first page, level.
    user: Vec<(Frame, VirtualPage, Level, Mapping)>,
    /// Mappings of kernel space: the frame whose window page it is, and what is mapped there.
    kernel: Vec<(Frame, Mapping)>,
    /// Pointers to tables of user space: to where, and of which level that table is.
    pointers: Vec<(Frame, Level)>,
    /// Whether a table of kernel space is not where it should be.
    kernel_is_broken: bool,
}

impl<'state> Survey<'state> {
    fn of(machine: &'state Machine, state: &'state State) -> Self {
        let mut survey = Self {
            machine,
            state,
            user: Vec::new(),
            kernel: Vec::new(),
            pointers: Vec::new(),
            kernel_is_broken: false,
        };
        for directory in state.directories() {
            survey.descend(directory, directory, machine.root(), VirtualPage(0));
        }
        for frame in machine.all_frames() {
            match state.kernel_entry(machine, frame) {
                Entry::Page(mapping) => survey.kernel.push((frame, mapping)),
                Entry::Absent => {}
                Entry::Table(_) => survey.kernel_is_broken = true,
            }
        }
        // Each table of kernel space is where the boot put it.
        for table in machine.kernel_tables() {
            let above = table.level.above();
            let (entry, _, level) = state.walk(machine, REFERENCE, table.first, above);
            survey.kernel_is_broken |= level != above || entry != Entry::Table(table.frame);
        }
        survey
    }

    fn kind(&self, frame: Frame) -> StatusKind {
        self.state.status(frame).kind()
    }

    /// Lists the entries of user space below a table. A pointer that is followed leads one level
    /// down, so this ends.
    fn descend(&mut self, directory: Frame, table: Frame, level: Level, base: VirtualPage) {
        let state = self.state;
        let Some(entries) = state.status(table).table() else {
            return;
        };
        let end = if level == self.machine.root() {
            self.machine.sizes().user_entries
        } else {
            self.machine.entries(level)
        };
        let pages = self.machine.pages_of(level);
        for (index, entry) in (0..u64::from(end)).zip(entries.entries()) {
            let first = VirtualPage(base.0 + index * pages);
            match entry {
                Entry::Absent => {}
                Entry::Page(mapping) => self.user.push((directory, first, level, *mapping)),
                Entry::Table(below) => {
                    let at = Level(level.0 - 1);
                    self.pointers.push((*below, at));
                    if level > Level::FIRST {
                        self.descend(directory, *below, at, first);
                    }
                }
            }
        }
    }

    /// The frames that a mapping leads to.
    fn frames(&self, level: Level, mapping: &Mapping) -> impl Iterator<Item = Frame> + use<> {
        let first = u64::from(mapping.frame.0);
        let frames = first..first + self.machine.pages_of(level);
        frames.map(|frame| Frame(u32::try_from(frame).unwrap_or(u32::MAX)))
    }

    /// Whether `holds` of each frame of each mapping of user space.
    fn all_user_frames(&self, holds: impl Fn(Frame) -> bool) -> bool {
        self.user.iter().all(|(_, _, level, mapping)| self.frames(*level, mapping).all(&holds))
    }
}

fn cr3_is_page_directory(s: &Survey<'_>) -> bool {
    s.state.cr3.iter().all(|directory| s.kind(*directory) == StatusKind::PageDirectory)
}

fn reference_maps_kernel_addresses(s: &Survey<'_>) -> bool {
    let user = s.machine.sizes().user_entries as usize;
    let reference = s.state.status(REFERENCE).table();
    reference
        .is_none_or(|table| table.entries().iter().take(user).all(|entry| *entry == Entry::Absent))
}

fn reference_contains_environment(s: &Survey<'_>) -> bool {
    !s.kernel_is_broken
        && s.machine.environment().all(|frame| {
            let mapping = s.kernel.iter().find(|(window, _)| *window == frame);
            mapping.is_some_and(|(_, mapping)| mapping.frame == frame && !mapping.user)
        })
}

fn page_directories_contain_reference(s: &Survey<'_>) -> bool {
    let user = s.machine.sizes().user_entries as usize;
    let reference = s.state.status(REFERENCE).table();
    let half = |table: &Table| table.entries().get(user..).map(<[Entry]>::to_vec);
    let Some(expected) = reference.and_then(half) else {
        return true;
    };
    s.state.directories().all(|directory| {
        let table = s.state.status(directory).table();
        table.is_none_or(|table| table.entries().get(user..) == Some(expected.as_slice()))
    })
}

fn environment_only_in_reference(s: &Survey<'_>) -> bool {
    s.all_user_frames(|frame| s.kind(frame) != StatusKind::Environment)
        && s.kernel.iter().all(|(window, mapping)| {
            s.kind(mapping.frame) != StatusKind::Environment || *window == mapping.frame
        })
}

fn mapped_pages_are_normal(s: &Survey<'_>) -> bool {
    let is_data = |frame| matches!(s.kind(frame), StatusKind::Normal | StatusKind::Io);
    let is_environments = |frame| s.machine.is_environment(frame);
    s.all_user_frames(|frame| is_data(frame) || s.kind(frame) == StatusKind::Environment)
        && s.kernel
            .iter()
            .all(|(window, mapping)| is_environments(*window) || is_data(mapping.frame))
}

fn table_pointers_are_page_tables(s: &Survey<'_>) -> bool {
    s.pointers.iter().all(|(table, level)| {
        *level >= Level::FIRST
            && s.kind(*table) == StatusKind::PageTable
            && s.machine.is_client(*table)
    }) && s.machine.kernel_tables().iter().all(|table| s.kind(table.frame) == StatusKind::PageTable)
}

fn regions_are_not_environment(s: &Survey<'_>) -> bool {
    let never = |kind| matches!(kind, StatusKind::Environment | StatusKind::NotInstalled);
    s.machine.clients().all(|frame| {
        let kind = s.kind(frame);
        !never(kind) && kind != StatusKind::Io
    }) && s.machine.devices().all(|frame| s.kind(frame) == StatusKind::Io)
        && s.machine.environment().all(|frame| s.kind(frame) == StatusKind::Environment)
}

fn tables_have_one_parent(s: &Survey<'_>) -> bool {
    s.machine.clients().all(|frame| {
        let parents = s.pointers.iter().filter(|(table, _)| *table == frame).count();
        parents == usize::from(s.kind(frame) == StatusKind::PageTable)
    })
}

fn tables_are_not_empty(s: &Survey<'_>) -> bool {
    s.machine.clients().all(|frame| match s.state.status(frame) {
        Status::PageTable(table) => !table.is_empty(),
        _ => true,
    })
}

fn mappings_are_in_place(s: &Survey<'_>) -> bool {
    s.user.iter().all(|(_, first, level, mapping)| {
        let pages = s.machine.pages_of(*level);
        *level <= s.machine.largest_leaf()
            && u64::from(mapping.frame.0).is_multiple_of(pages)
            && first.0 + pages <= s.machine.user_end()
            && mapping.user
    }) && s.kernel.iter().all(|(window, mapping)| *window == mapping.frame)
}

fn mappings_have_consent(s: &Survey<'_>) -> bool {
    let is_allowed = |own: Owner, mapping: &Mapping, frame| match s.state.owner(frame) {
        owner if !mapping.foreign => owner == own,
        owner => matches!(owner, Owner::Domain(_)),
    };
    s.user.iter().all(|(directory, _, level, mapping)| {
        let own = s.state.owner(*directory);
        s.frames(*level, mapping).all(|frame| is_allowed(own, mapping, frame))
    }) && s.kernel.iter().all(|(window, mapping)| {
        s.machine.is_environment(*window) || is_allowed(Owner::Domain(0), mapping, mapping.frame)
    })
}

fn shares_are_owned(s: &Survey<'_>) -> bool {
    s.state.shares.iter().all(|share| {
        share.region.frames().all(|frame| {
            s.kind(frame) == StatusKind::Normal
                && s.state.owner(frame) == Owner::Domain(share.owner)
        })
    })
}

fn nobodys_memory_is_clear(s: &Survey<'_>) -> bool {
    s.state.pages.iter().filter(|page| page.owner == Owner::Nobody).all(|page| {
        page.references == 0
            && match page.status {
                Status::Normal(data) => data == 0 && page.waits.is_empty(),
                _ => true,
            }
    })
}

fn whole_pages_have_one_owner(s: &Survey<'_>) -> bool {
    let levels = || (2..=s.machine.largest_leaf().0).map(Level);
    let is_unit = |region: &Region| {
        levels().any(|level| s.machine.unit(level, region.first) == Some(*region))
    };
    s.state.divided.iter().all(is_unit)
        && levels().all(|level| {
            let units = s.machine.clients().filter_map(|frame| s.machine.unit(level, frame));
            let mut whole = units.filter(|unit| !s.state.divided.contains(unit));
            whole.all(|unit| {
                let owner = s.state.owner(unit.first);
                unit.frames().all(|frame| s.state.owner(frame) == owner)
            })
        })
}

fn owners_are_in_place(s: &Survey<'_>) -> bool {
    s.machine.all_frames().all(|frame| {
        let owner = s.state.owner(frame);
        if s.machine.is_device(frame) {
            owner == Owner::Domain(0)
        } else if !s.machine.is_client(frame) {
            owner == Owner::Hypervisor
        } else if s.kind(frame) == StatusKind::PageDirectory {
            matches!(owner, Owner::Domain(_))
        } else {
            owner != Owner::Hypervisor
        }
    })
}

fn waits_are_owed(s: &Survey<'_>) -> bool {
    s.state.pages.iter().all(|page| {
        let can_wait = matches!(page.status.kind(), StatusKind::Normal | StatusKind::Draining);
        page.waits.is_empty() || (can_wait && s.state.owed.contains(page.waits))
    })
}

fn stale_translations_are_waited_for(s: &Survey<'_>) -> bool {
    s.state.stale.iter().all(|stale| {
        let debt = Debts::of(stale.cpu());
        let mut pages = stale.pages(s.machine);
        s.state.owed.contains(debt)
            && pages.all(|(page, frame, _)| {
                let directory = s.state.cr3(stale.cpu());
                // The page is still mapped there, with other rights or in another size.
                let is_mapped = || {
                    let mapping = s.state.translate(s.machine, directory, page);
                    mapping.is_some_and(|mapping| mapping.user && mapping.frame == frame)
                };
                let waits = s.state.page(frame).map_or(Debts::NONE, |page| page.waits);
                // A device's memory is never given away.
                waits.contains(debt) || is_mapped() || s.machine.is_device(frame)
            })
    })
}

fn stale_tables_are_draining(s: &Survey<'_>) -> bool {
    s.state.stale.iter().all(|stale| match stale {
        Stale::Page { .. } => true,
        Stale::Table { cpu, frame, .. } => s.state.page(*frame).is_some_and(|page| {
            page.status == Status::Draining && page.waits.contains(Debts::of(*cpu))
        }),
    })
}

fn references_are_counted(s: &Survey<'_>) -> bool {
    let mut counts = vec![0_u32; s.state.pages.len()];
    let mut count = |frame: Frame| {
        if let Some(count) = counts.get_mut(frame.0 as usize) {
            *count += 1;
        }
    };
    for (_, _, level, mapping) in &s.user {
        s.frames(*level, mapping).for_each(&mut count);
    }
    s.kernel.iter().for_each(|(_, mapping)| count(mapping.frame));
    s.state.shares.iter().flat_map(|share| share.region.frames()).for_each(&mut count);
    s.state.pages.iter().map(|page| page.references).eq(counts)
}

/// *Execution environment integrity*: each page of the environment is mapped in kernel space of
/// every current directory, for the kernel only, and at no other address; neither programs nor
/// the client kernel can write to it, through tables or what processors may have cached.
#[must_use]
pub fn environment_is_integral(machine: &Machine, state: &State) -> bool {
    let is_in_place = |frame: Frame| {
        let shown = |directory: &Frame| match state.shown(machine, *directory, frame) {
            Entry::Page(mapping) => mapping.frame == frame && !mapping.user,
            _ => false,
        };
        matches!(state.status(frame), Status::Environment(_)) && state.cr3.iter().all(shown)
    };
    let is_environment = |frame: Frame| matches!(state.status(frame), Status::Environment(_));
    machine.environment().all(is_in_place) && !reached(machine, state).any(is_environment)
}

/// *Address space integrity*: no page that makes up an address space, or is kept for that, can be
/// written by programs or by the client kernel, and no processor walks through another page.
#[must_use]
pub fn address_spaces_are_integral(machine: &Machine, state: &State) -> bool {
    let is_kept = |frame: Frame| {
        matches!(
            state.status(frame).kind(),
            StatusKind::PageDirectory
                | StatusKind::PageTable
                | StatusKind::Supplied
                | StatusKind::Draining
        )
    };
    let is_walked = |stale: &Stale| match stale {
        Stale::Table { frame, .. } => is_kept(*frame),
        Stale::Page { .. } => true,
    };
    let is_table = |frame: Frame| state.status(frame).kind() == StatusKind::PageTable;
    let survey = Survey::of(machine, state);
    !reached(machine, state).any(is_kept)
        && state.stale.iter().all(is_walked)
        && survey.pointers.iter().all(|(table, _)| is_table(*table))
}

/// The frames that programs can reach, now or when their directory is current, and those that
/// the client kernel can reach.
fn reached(machine: &Machine, state: &State) -> impl Iterator<Item = Frame> {
    let survey = Survey::of(machine, state);
    let user = survey.user.iter().flat_map(|(_, _, level, mapping)| survey.frames(*level, mapping));
    let own = |window: &Frame| machine.is_environment(*window);
    let kernel = survey
        .kernel
        .iter()
        .filter(|(window, mapping)| !own(window) || mapping.frame != *window || mapping.user);
    let kernel = kernel.map(|(_, mapping)| mapping.frame);
    let stale = state.stale.iter().flat_map(|stale| stale.pages(machine));
    let found: Vec<Frame> = user.chain(kernel).chain(stale.map(|(_, frame, _)| frame)).collect();
    found.into_iter()
}

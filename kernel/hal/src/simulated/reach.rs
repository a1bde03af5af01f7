//! What a processor can still reach: everything that any sequence of walks, from the loaded root
//! and from every cached position of a table, and every cached translation lead to.

use std::collections::BTreeSet;
use std::vec::Vec;

use heliox_types::{Frame, VirtualAddress};

use super::State;
use super::caches::{CachedTable, CachedTranslation};
use super::layout::{Layout, address_of};
use super::memory::Memory;
use super::mmu::{Step, Target, caches_page, decode, from_root};
use super::violation::Mark;
use crate::entry::{Entry, Host, RootKind};
use heliox_types::cpu::CpuIndex;
use heliox_types::geometry::{Geometry, Level};
use heliox_types::rights::{MemoryType, Rights};

/// Memory that a processor can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReachablePage {
    /// Where it is reached.
    pub address: VirtualAddress,
    /// The level of the leaf entry: how many frames there are from `frame` on.
    pub level: Level,
    /// The first frame.
    pub frame: Frame,
    /// What may be done with it.
    pub rights: Rights,
    /// Whether programs can reach it, or the kernel alone.
    pub user: bool,
    /// How accesses are cached.
    pub memory_type: MemoryType,
    /// Whether it is reached through caches only, not through the tables of the loaded root.
    pub stale: bool,
}

/// A table that a processor can walk, and write marks into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReachableTable {
    /// The frame that it is taken to be in.
    pub frame: Frame,
    /// The level that it is taken to have.
    pub level: Level,
    /// Whether it is reached through caches only, not through the tables of the loaded root.
    pub stale: bool,
}

/// All that a processor can reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reachable {
    /// Memory.
    pub pages: BTreeSet<ReachablePage>,
    /// Tables, with the root.
    pub tables: BTreeSet<ReachableTable>,
}

impl Reachable {
    /// The frames that programs can reach with their rights, one by one.
    pub fn user_frames<G: Geometry>(&self) -> impl Iterator<Item = (Frame, Rights)> + '_ {
        self.pages.iter().filter(|page| page.user).flat_map(|page| {
            (0..page.level.frames::<G>())
                .filter_map(|distance| Some((page.frame.checked_add(distance)?, page.rights)))
        })
    }
}

/// What walks from some tables lead to.
#[derive(Default)]
struct Explored {
    tables: BTreeSet<CachedTable>,
    found: Vec<(Step, Target)>,
}

/// Walks everything below the tables `from`.
fn explore<G: Geometry>(
    layout: &Layout<G>,
    memory: &Memory,
    from: impl IntoIterator<Item = CachedTable>,
) -> Explored {
    let mut explored = Explored::default();
    let mut to_visit: Vec<_> = from.into_iter().collect();
    while let Some(table) = to_visit.pop() {
        if !explored.tables.insert(table) {
            continue;
        }
        let Some(slot) = layout.slot(table.table) else {
            continue;
        };
        for (index, &word) in memory.words(slot).iter().enumerate().take(G::ENTRIES) {
            let entry = Entry(word);
            if !Host::is_present(entry) {
                continue;
            }
            let step = Step { level: table.level, table: table.table, index, entry };
            let target = decode(layout, &table, entry, index);
            if let Target::Table(below) = target {
                to_visit.push(below);
            }
            explored.found.push((step, target));
        }
    }
    explored
}

fn reachable_page<G: Geometry>(translation: &CachedTranslation, stale: bool) -> ReachablePage {
    ReachablePage {
        address: address_of::<G>(translation.page),
        level: translation.level,
        frame: translation.frame,
        rights: translation.allowed.rights(),
        user: translation.allowed.user,
        memory_type: translation.memory_type,
        stale,
    }
}

impl Explored {
    fn pages<G: Geometry>(&self, stale: bool) -> impl Iterator<Item = ReachablePage> + '_ {
        self.found.iter().filter_map(move |(_, target)| match target {
            Target::Leaf(translation) => Some(reachable_page::<G>(translation, stale)),
            Target::Table(_) | Target::Malformed => None,
        })
    }

    fn reachable_tables(&self, stale: bool) -> impl Iterator<Item = ReachableTable> + '_ {
        self.tables.iter().map(move |table| ReachableTable {
            frame: table.table,
            level: table.level,
            stale,
        })
    }
}

impl State {
    /// Everything that processor `cpu` can reach.
    pub(super) fn reachable<G: Geometry>(&self, layout: &Layout<G>, cpu: CpuIndex) -> Reachable {
        let processor = self.processor(cpu);
        let root = from_root::<G>(processor.root);
        let fresh = explore(layout, &self.memory, [root]);
        let mut reachable = Reachable {
            pages: fresh.pages::<G>(false).collect(),
            tables: fresh.reachable_tables(false).collect(),
        };
        let cached: Vec<_> = processor.caches.tables.difference(&fresh.tables).copied().collect();
        let stale = explore(layout, &self.memory, cached);
        let translations = processor.caches.translations.iter();
        for page in stale
            .pages::<G>(true)
            .chain(translations.map(|translation| reachable_page::<G>(translation, true)))
        {
            if !reachable.pages.contains(&ReachablePage { stale: false, ..page }) {
                reachable.pages.insert(page);
            }
        }
        for table in stale.reachable_tables(true) {
            if !reachable.tables.contains(&ReachableTable { stale: false, ..table }) {
                reachable.tables.insert(table);
            }
        }
        reachable
    }

    /// Processor `cpu` caches all that it can find, and marks the entries on the way as accessed.
    pub(super) fn prefetch<G: Geometry>(&mut self, layout: &Layout<G>, cpu: CpuIndex) {
        let processor = self.processor(cpu);
        let root = from_root::<G>(processor.root);
        let fresh: BTreeSet<_> =
            explore(layout, &self.memory, [root]).reachable_tables(false).collect();
        let from: Vec<_> = processor.caches.tables.iter().copied().collect();
        let explored = explore(layout, &self.memory, from.into_iter().chain([root]));
        for (step, target) in explored.found {
            let page = match target {
                Target::Leaf(translation) => {
                    if !caches_page(layout, translation.page, translation.allowed.user) {
                        continue;
                    }
                    let caches = &mut self.processor_mut(cpu).caches;
                    caches.add_translation(translation);
                    translation.page
                }
                Target::Table(table) => {
                    if !caches_page(layout, table.page, false) {
                        continue;
                    }
                    self.processor_mut(cpu).caches.tables.insert(table);
                    table.page
                }
                Target::Malformed => continue,
            };
            let stray = !fresh.contains(&ReachableTable {
                frame: step.table,
                level: step.level,
                stale: false,
            });
            let address = address_of::<G>(page);
            self.mark(layout, cpu, address, &step, Mark::Accessed, stray);
        }
    }
}

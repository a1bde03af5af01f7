//! Translation as the processor does it: walks of the tables, and the caches before them.
//!
//! A processor may use what it has cached or walk the tables anew. The simulated one takes what
//! it has cached, and of several possibilities the one that reaches what the tables no longer
//! allow: so a missing invalidation is found by the first access that can show it.

use heliox_types::{Frame, VirtualAddress};

use super::State;
use super::caches::{Allowed, CachedTable, CachedTranslation};
use super::layout::{Layout, PageNumber, index, kernel_half, page_of};
use super::memory::Memory;
use super::violation::{Mark, Source, Violation};
use crate::entry::{Entry, Host, RootKind};
use heliox_types::PageFaultError;
use heliox_types::cpu::CpuIndex;
use heliox_types::geometry::{Geometry, Level, MAX_LEVELS};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data.
    Write,
    /// Fetches an instruction.
    Execute,
}

impl AccessKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Execute];
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Privilege {
    /// A program.
    User,
    /// The kernel, under the [`Protection`](super::Protection) of the machine.
    Supervisor,
    /// The kernel, through the window. The machine has to see to it that the kernel can read
    /// and write also what programs can use or only read (`WindowEntry::programs`), so
    /// the machine's protection is not in force.
    Window,
}

/// An access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// On whose behalf.
    pub privilege: Privilege,
}

impl Access {
    /// A program's access.
    #[must_use]
    pub const fn user(kind: AccessKind) -> Self {
        Self { kind, privilege: Privilege::User }
    }

    /// The kernel's access.
    #[must_use]
    pub const fn supervisor(kind: AccessKind) -> Self {
        Self { kind, privilege: Privilege::Supervisor }
    }
}

/// Why an access was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A page fault (vector 14).
    Page {
        /// The address.
        address: VirtualAddress,
        /// What was wrong.
        error: PageFaultError,
    },
    /// The address is not canonical: a general-protection fault (vector 13).
    NotCanonical {
        /// The address.
        address: VirtualAddress,
    },
}

/// An entry that a walk used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) level: Level,
    pub(super) table: Frame,
    pub(super) index: usize,
    pub(super) entry: Entry,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Leaf(CachedTranslation),
    /// An entry that is not present.
    Absent,
    /// An entry that is malformed, or a table where there is no memory.
    Malformed {
        at: Step,
    },
}

/// A walk of the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// The present entries on the path, by level - 1.
    pub(super) steps: [Option<Step>; MAX_LEVELS],
    /// The tables on the path, by level - 1, also where the entry is not present.
    tables: [Option<Frame>; MAX_LEVELS],
    pub(super) end: End,
}

impl Walk {
    pub(super) const fn leaf(&self) -> Option<CachedTranslation> {
        match self.end {
            End::Leaf(translation) => Some(translation),
            End::Absent | End::Malformed { .. } => None,
        }
    }

    fn has_table(&self, table: Frame, level: Level) -> bool {
        self.tables[level.number() as usize - 1] == Some(table)
    }
}

/// What an entry of a present path leads to.
pub(super) enum Target {
    Leaf(CachedTranslation),
    Table(CachedTable),
    Malformed,
}

/// Decodes a present entry of a table of which `from` tells position and rights.
pub(super) fn decode<G: Geometry>(
    layout: &Layout<G>,
    from: &CachedTable,
    entry: Entry,
    index: usize,
) -> Target {
    let level = from.level;
    let leaf = level == Level::FIRST || !Host::is_table(entry);
    let page = from.page + ((index as u64) << (G::INDEX_BITS * (level.number() - 1)));
    let allowed = Allowed {
        user: from.allowed.user && entry.0 & Host::USER != 0,
        write: from.allowed.write && entry.0 & Host::WRITABLE != 0,
        execute: from.allowed.execute && entry.0 & Host::NO_EXECUTE == 0,
    };
    if layout.has_reserved_bits(entry.0, level, leaf) {
        return Target::Malformed;
    }
    if leaf {
        return Target::Leaf(CachedTranslation {
            level,
            page,
            frame: Host::frame(entry),
            allowed,
            memory_type: Host::attributes(entry).memory_type,
            global: entry.0 & Host::GLOBAL != 0,
            dirty: entry.0 & Host::DIRTY != 0,
        });
    }
    let table = Host::frame(entry);
    match level.below() {
        Some(level) if layout.slot(table).is_some() => {
            Target::Table(CachedTable { level, page, table, allowed })
        }
        _ => Target::Malformed,
    }
}

/// Walks from a table down to the leaf of `page`. Changes nothing.
pub(super) fn walk<G: Geometry>(
    layout: &Layout<G>,
    memory: &Memory,
    from: CachedTable,
    page: PageNumber,
) -> Walk {
    let mut walk = Walk { steps: [None; MAX_LEVELS], tables: [None; MAX_LEVELS], end: End::Absent };
    let mut from = from;
    loop {
        let (level, table) = (from.level, from.table);
        let index = index::<G>(level, page);
        let entry =
            layout.slot(table).map_or(Entry::ABSENT, |slot| Entry(memory.word(slot, index)));
        walk.tables[level.number() as usize - 1] = Some(table);
        if !Host::is_present(entry) {
            return walk;
        }
        let step = Step { level, table, index, entry };
        match decode(layout, &from, entry, index) {
            Target::Malformed => {
                walk.end = End::Malformed { at: step };
                return walk;
            }
            Target::Leaf(translation) => {
                walk.steps[level.number() as usize - 1] = Some(step);
                walk.end = End::Leaf(translation);
                return walk;
            }
            Target::Table(below) => {
                walk.steps[level.number() as usize - 1] = Some(step);
                from = below;
            }
        }
    }
}

/// The root as the start of a walk.
pub(super) fn from_root<G: Geometry>(root: Frame) -> CachedTable {
    CachedTable { level: Level::root::<G>(), page: 0, table: root, allowed: Allowed::ALL }
}

/// Whether what is allowed by the entries allows an access.
fn permits<G: Geometry>(layout: &Layout<G>, allowed: Allowed, access: Access) -> bool {
    let protection = layout.protection;
    match (access.privilege, access.kind) {
        (Privilege::User, AccessKind::Read) => allowed.user,
        (Privilege::User, AccessKind::Write) => allowed.user && allowed.write,
        (Privilege::User, AccessKind::Execute) => allowed.user && allowed.execute,
        (Privilege::Supervisor, AccessKind::Execute) => {
            allowed.execute && !(protection.execution_prevention && allowed.user)
        }
        (Privilege::Supervisor, AccessKind::Read) => {
            !(protection.access_prevention && allowed.user)
        }
        (Privilege::Supervisor, AccessKind::Write) => {
            (allowed.write || !protection.write_protection)
                && !(protection.access_prevention && allowed.user)
        }
        (Privilege::Window, AccessKind::Read | AccessKind::Write) => true,
        (Privilege::Window, AccessKind::Execute) => false,
    }
}

/// An access under way: what it is, and what the tables say about it.
#[derive(Clone, Copy)]
struct Attempt {
    cpu: CpuIndex,
    address: VirtualAddress,
    page: PageNumber,
    access: Access,
    /// The walk from the loaded root, without caches.
    fresh: Walk,
}

impl Attempt {
    /// Whether using `translation` reaches something that the tables do not give.
    fn exceeds_tables<G: Geometry>(
        &self,
        layout: &Layout<G>,
        translation: &CachedTranslation,
    ) -> bool {
        permits(layout, translation.allowed, self.access)
            && !self.fresh.leaf().is_some_and(|fresh| {
                permits(layout, fresh.allowed, self.access)
                    && fresh.target(self.page) == translation.target(self.page)
                    && fresh.memory_type == translation.memory_type
            })
    }

    /// Whether a walk writes marks where the tables have no table.
    fn strays(&self, walk: &Walk) -> bool {
        walk.steps.iter().flatten().any(|step| {
            step.entry.0 & Host::ACCESSED == 0 && !self.fresh.has_table(step.table, step.level)
        })
    }

    fn fault(&self, bits: u64) -> Fault {
        let write = match self.access.kind {
            AccessKind::Write => PageFaultError::WRITE,
            AccessKind::Execute => PageFaultError::EXECUTE,
            AccessKind::Read => 0,
        };
        let user = match self.access.privilege {
            Privilege::User => PageFaultError::USER,
            Privilege::Supervisor | Privilege::Window => 0,
        };
        Fault::Page { address: self.address, error: PageFaultError::new(bits | write | user) }
    }
}

impl State {
    /// Translates `address` for an access by processor `cpu`, with all effects that this has on
    /// tables and caches, and returns the frame that is reached.
    pub(super) fn access<G: Geometry>(
        &mut self,
        layout: &Layout<G>,
        cpu: CpuIndex,
        address: VirtualAddress,
        access: Access,
    ) -> Result<Frame, Fault> {
        let page = page_of::<G>(address).ok_or(Fault::NotCanonical { address })?;
        let root = from_root::<G>(self.processor(cpu).root);
        let attempt =
            Attempt { cpu, address, page, access, fresh: walk(layout, &self.memory, root, page) };
        let (translation, source) = match self.cached(layout, &attempt)? {
            Some(translation) => (translation, Source::Translation),
            None => self.walk_and_mark(layout, &attempt, root)?,
        };
        let frame = translation.target(page).unwrap_or(translation.frame);
        self.check_use(layout, &attempt, translation, source, frame);
        Ok(frame)
    }

    /// The cached translation that the processor uses; `None` if it has to walk.
    fn cached<G: Geometry>(
        &mut self,
        layout: &Layout<G>,
        attempt: &Attempt,
    ) -> Result<Option<CachedTranslation>, Fault> {
        let write = attempt.access.kind == AccessKind::Write;
        // The higher, the rather taken.
        let rank = |translation: &CachedTranslation| {
            let permitted = permits(layout, translation.allowed, attempt.access);
            let marked = permitted && (translation.dirty || !write);
            (marked && attempt.exceeds_tables(layout, translation), marked, permitted)
        };
        let caches = &self.processor(attempt.cpu).caches;
        let best = caches
            .translations_of::<G>(attempt.page)
            .map(|translation| (rank(&translation), translation))
            .max_by_key(|&(rank, _)| rank);
        match best {
            Some(((_, true, _), translation)) => Ok(Some(translation)),
            // Permitted, but the entry is not marked dirty yet: the processor walks to mark it.
            Some(((_, _, true), _)) | None => Ok(None),
            Some(_) => {
                self.forget_after_fault(layout, attempt);
                Err(attempt.fault(PageFaultError::PROTECTION))
            }
        }
    }

    /// A page fault drops the translations that it may have come from (Intel SDM volume 3,
    /// section 4.10.4.1), so that it does not come again for a cached reason. Positions of tables
    /// are kept where they are not the reason: processors differ.
    fn forget_after_fault<G: Geometry>(&mut self, layout: &Layout<G>, attempt: &Attempt) {
        let spurious = attempt
            .fresh
            .leaf()
            .is_some_and(|fresh| permits(layout, fresh.allowed, attempt.access));
        let caches = &mut self.processor_mut(attempt.cpu).caches;
        caches.drop_translations_of::<G>(attempt.page);
        if spurious {
            caches.drop_tables_of::<G>(attempt.page);
        }
    }

    /// Walks the tables, from a cached position where there is one, marks the entries used and
    /// caches what was found.
    fn walk_and_mark<G: Geometry>(
        &mut self,
        layout: &Layout<G>,
        attempt: &Attempt,
        root: CachedTable,
    ) -> Result<(CachedTranslation, Source), Fault> {
        let page = attempt.page;
        // Cached positions, the lowest first, then the root. The first that does harm is taken,
        // or else the first.
        let caches = &self.processor(attempt.cpu).caches;
        let mut taken: Option<(CachedTable, Walk)> = None;
        for from in caches.tables_of::<G>(page).chain([root]) {
            let walk = walk(layout, &self.memory, from, page);
            let harm = attempt.strays(&walk)
                || walk.leaf().is_some_and(|leaf| attempt.exceeds_tables(layout, &leaf));
            if harm {
                taken = Some((from, walk));
                break;
            }
            taken.get_or_insert((from, walk));
        }
        let (from, walk) = taken.unwrap_or((root, attempt.fresh));
        self.walks += 1;

        let permitted = match walk.end {
            End::Leaf(leaf) => permits(layout, leaf.allowed, attempt.access),
            End::Absent => false,
            End::Malformed { at } => {
                self.report(
                    layout,
                    Violation::MalformedEntry {
                        cpu: attempt.cpu,
                        address: attempt.address,
                        table: at.table,
                        level: at.level,
                        index: at.index,
                        entry: at.entry,
                    },
                );
                false
            }
        };
        self.mark_and_cache_path(layout, attempt, from, &walk, permitted);
        match walk.end {
            End::Leaf(mut leaf) if permitted => {
                leaf.dirty |= attempt.access.kind == AccessKind::Write;
                if caches_page(layout, leaf.page, leaf.allowed.user) {
                    let caches = &mut self.processor_mut(attempt.cpu).caches;
                    caches.add_translation(leaf);
                }
                let source = Source::Table { table: from.table, level: from.level };
                Ok((leaf, source))
            }
            end => {
                self.forget_after_fault(layout, attempt);
                Err(attempt.fault(match end {
                    End::Leaf(_) => PageFaultError::PROTECTION,
                    End::Absent => 0,
                    End::Malformed { .. } => PageFaultError::PROTECTION | PageFaultError::RESERVED,
                }))
            }
        }
    }

    /// Marks the entries that a walk used, and caches the tables that it found. A leaf is marked
    /// only if the access is permitted.
    fn mark_and_cache_path<G: Geometry>(
        &mut self,
        layout: &Layout<G>,
        attempt: &Attempt,
        from: CachedTable,
        walk: &Walk,
        permitted: bool,
    ) {
        let mut from = from;
        for step in walk.steps.iter().rev().flatten() {
            let stray = !attempt.fresh.has_table(step.table, step.level);
            match decode(layout, &from, step.entry, step.index) {
                Target::Leaf(_) => {
                    let write = permitted && attempt.access.kind == AccessKind::Write;
                    if permitted {
                        self.mark(
                            layout,
                            attempt.cpu,
                            attempt.address,
                            step,
                            Mark::Accessed,
                            stray,
                        );
                    }
                    if write {
                        self.mark(layout, attempt.cpu, attempt.address, step, Mark::Dirty, stray);
                    }
                }
                Target::Table(below) => {
                    self.mark(layout, attempt.cpu, attempt.address, step, Mark::Accessed, stray);
                    if caches_page(layout, below.page, false) {
                        self.processor_mut(attempt.cpu).caches.tables.insert(below);
                    }
                    from = below;
                }
                Target::Malformed => {}
            }
        }
    }

    /// Sets a mark in an entry, as the processor does it: atomically, and only if it is not set.
    pub(super) fn mark<G: Geometry>(
        &mut self,
        layout: &Layout<G>,
        cpu: CpuIndex,
        address: VirtualAddress,
        step: &Step,
        mark: Mark,
        stray: bool,
    ) {
        let bit = match mark {
            Mark::Accessed => Host::ACCESSED,
            Mark::Dirty => Host::DIRTY,
        };
        let Some(slot) = layout.slot(step.table) else {
            return;
        };
        let word = self.memory.word(slot, step.index);
        if word & bit != 0 {
            return;
        }
        self.memory.set_word(slot, step.index, word | bit);
        if stray {
            self.report(
                layout,
                Violation::StrayMark {
                    cpu,
                    address,
                    table: step.table,
                    level: step.level,
                    index: step.index,
                    mark,
                },
            );
        }
    }

    /// Reports what is wrong with an access that succeeded.
    fn check_use<G: Geometry>(
        &mut self,
        layout: &Layout<G>,
        attempt: &Attempt,
        used: CachedTranslation,
        source: Source,
        frame: Frame,
    ) {
        let Attempt { cpu, address, access, .. } = *attempt;
        let tables = attempt.fresh.leaf();
        if attempt.exceeds_tables(layout, &used) {
            self.report(
                layout,
                Violation::StaleTranslation { cpu, address, access, frame, source, used, tables },
            );
        } else if source == Source::Translation && access.privilege != Privilege::Window {
            self.check_marks(layout, attempt, frame);
        }
        match layout.memory_type(frame) {
            None => self.report(layout, Violation::NoMemory { cpu, address, frame }),
            Some(of_frame) if of_frame != used.memory_type => self.report(
                layout,
                Violation::WrongMemoryType {
                    cpu,
                    address,
                    frame,
                    used: used.memory_type,
                    of_frame,
                },
            ),
            Some(_) => {}
        }
    }

    /// Reports marks that were cleared without telling the processor, which therefore does not
    /// set them again (`hazards` 7).
    fn check_marks<G: Geometry>(&mut self, layout: &Layout<G>, attempt: &Attempt, frame: Frame) {
        let Some(step) = attempt.fresh.steps.iter().flatten().next() else {
            return;
        };
        let mark = if step.entry.0 & Host::ACCESSED == 0 {
            Mark::Accessed
        } else if attempt.access.kind == AccessKind::Write && step.entry.0 & Host::DIRTY == 0 {
            Mark::Dirty
        } else {
            return;
        };
        self.report(
            layout,
            Violation::UnmarkedAccess { cpu: attempt.cpu, address: attempt.address, frame, mark },
        );
    }
}

/// Whether processors cache what belongs to a page, which programs can use or not.
pub(super) fn caches_page<G: Geometry>(layout: &Layout<G>, page: PageNumber, user: bool) -> bool {
    layout.caching.private_window || page < kernel_half::<G>() || user
}

/// A translation found by a walk without caches, and without any effect.
pub(super) fn translation<G: Geometry>(
    layout: &Layout<G>,
    memory: &Memory,
    root: Frame,
    address: VirtualAddress,
) -> Option<CachedTranslation> {
    walk(layout, memory, from_root::<G>(root), page_of::<G>(address)?).leaf()
}

//! The state of the mended model: that of the thesis (5.3.3), and what its layers add.
//!
//! A state is plain data; all of its components are public, so that any state can be written
//! down, well-formed or not. Pages also carry how often they are referenced, which the other
//! components imply ([`State::recount`]), so that the specification can be carried out on
//! machines of real size. [`State::set_entry`] and the operations on shares keep the counts.

use std::fmt;
use std::sync::Arc;

use crate::machine::{Cpu, Frame, Level, MAX_CPUS, Machine, REFERENCE, VirtualPage};

/// What a page of data contains. Of all that a page can contain one number is enough to tell
/// who sees and who changes it.
pub type Data = u8;

/// What may be done with memory through a mapping. Reading always may.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rights {
    /// Writing.
    pub write: bool,
    /// Fetching instructions.
    pub execute: bool,
}

impl Rights {
    /// Reading only.
    pub const READ: Self = Self { write: false, execute: false };
    /// Everything.
    pub const ALL: Self = Self { write: true, execute: true };
    /// Every right that exists.
    pub const EACH: [Self; 4] = [
        Self::READ,
        Self { write: true, execute: false },
        Self { write: false, execute: true },
        Self::ALL,
    ];

    /// Whether these rights allow all that `other` allows.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        (self.write || !other.write) && (self.execute || !other.execute)
    }

    /// What one or the other allows.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self { write: self.write || other.write, execute: self.execute || other.execute }
    }

    /// As a number below 4.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.write as u8 | (self.execute as u8) << 1
    }

    /// From a number, of which the two lowest bits count.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self { write: bits & 1 != 0, execute: bits & 2 != 0 }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match (self.write, self.execute) {
            (false, false) => "r",
            (true, false) => "rw",
            (false, true) => "rx",
            (true, true) => "rwx",
        })
    }
}

/// Who a page belongs to, or whom it is shared with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The hypervisor.
    Hypervisor,
    /// Nobody: the page is clear and not referenced.
    Nobody,
    /// A domain: its programs, and for domain 0 also the client kernel.
    Domain(u16),
}

impl fmt::Debug for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypervisor => formatter.write_str("hypervisor"),
            Self::Nobody => formatter.write_str("nobody"),
            Self::Domain(number) => write!(formatter, "domain {number}"),
        }
    }
}

/// A mapping of memory by an entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mapping {
    /// The (first) frame.
    pub frame: Frame,
    /// What may be done with it.
    pub rights: Rights,
    /// Whether programs may use it (the user bit).
    pub user: bool,
    /// Whether the memory was another owner's, who shared it.
    pub foreign: bool,
}

impl fmt::Debug for Mapping {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {:?}", self.frame.0, self.rights)?;
        formatter.write_str(if self.user { " user" } else { "" })?;
        formatter.write_str(if self.foreign { " foreign" } else { "" })
    }
}

/// An entry of a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Nothing is there.
    Absent,
    /// A table of the next lower level.
    Table(Frame),
    /// Memory is mapped.
    Page(Mapping),
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => formatter.write_str("-"),
            Self::Table(frame) => write!(formatter, "table {}", frame.0),
            Self::Page(mapping) => mapping.fmt(formatter),
        }
    }
}

/// The entries of a page directory or page table.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Table(Arc<Vec<Entry>>);

impl Table {
    /// A table of that many absent entries.
    #[must_use]
    pub fn empty(entries: u32) -> Self {
        Self(Arc::new(vec![Entry::Absent; entries as usize]))
    }

    /// A table of these entries.
    #[must_use]
    pub fn new(entries: Vec<Entry>) -> Self {
        Self(Arc::new(entries))
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Entry `index`; absent past the end.
    #[must_use]
    pub fn get(&self, index: usize) -> Entry {
        self.0.get(index).copied().unwrap_or(Entry::Absent)
    }

    fn set(&mut self, index: usize, entry: Entry) {
        if let Some(slot) = Arc::make_mut(&mut self.0).get_mut(index) {
            *slot = entry;
        }
    }

    /// Whether no entry is present.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|entry| *entry == Entry::Absent)
    }
}

/// The status of a page, with what the page contains.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Status {
    /// There is no such page.
    NotInstalled,
    /// Part of the execution environment.
    Environment(Data),
    /// Memory of the clients'.
    Normal(Data),
    /// Supplied by a client for page maps, in none yet, and clear (thesis 4.4.1: a page-map
    /// page, which the thesis's model passes over).
    Supplied,
    /// A page directory.
    PageDirectory(Table),
    /// A page table.
    PageTable(Table),
    /// Was a page table, and is clear; a processor may still walk through it.
    Draining,
    /// A device's memory, of which this is what can be read at the moment.
    Io(Data),
}

/// A [`Status`] without what the page contains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "as in `Status`")]
pub enum StatusKind {
    NotInstalled,
    Environment,
    Normal,
    Supplied,
    PageDirectory,
    PageTable,
    Draining,
    Io,
}

impl Status {
    /// The table, of a directory or page table.
    #[must_use]
    pub const fn table(&self) -> Option<&Table> {
        match self {
            Self::PageDirectory(table) | Self::PageTable(table) => Some(table),
            _ => None,
        }
    }

    /// Which status it is, without what the page contains.
    #[must_use]
    pub const fn kind(&self) -> StatusKind {
        match self {
            Self::NotInstalled => StatusKind::NotInstalled,
            Self::Environment(_) => StatusKind::Environment,
            Self::Normal(_) => StatusKind::Normal,
            Self::Supplied => StatusKind::Supplied,
            Self::PageDirectory(_) => StatusKind::PageDirectory,
            Self::PageTable(_) => StatusKind::PageTable,
            Self::Draining => StatusKind::Draining,
            Self::Io(_) => StatusKind::Io,
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = |table: &Table| {
            let mut shown: Vec<String> = Vec::new();
            for (index, entry) in table.entries().iter().enumerate() {
                if *entry != Entry::Absent {
                    shown.push(format!("{index}: {entry:?}"));
                }
            }
            shown.join(", ")
        };
        match self {
            Self::NotInstalled => formatter.write_str("not installed"),
            Self::Environment(data) => write!(formatter, "environment {data}"),
            Self::Normal(data) => write!(formatter, "normal {data}"),
            Self::Supplied => formatter.write_str("supplied"),
            Self::PageDirectory(table) => write!(formatter, "directory [{}]", entries(table)),
            Self::PageTable(table) => write!(formatter, "table [{}]", entries(table)),
            Self::Draining => formatter.write_str("draining"),
            Self::Io(data) => write!(formatter, "device {data}"),
        }
    }
}

/// Processors that owe a flush of all that they have cached, or that a page waits for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Debts(u8);

const _: () = assert!(MAX_CPUS as u32 <= u8::BITS);

impl Debts {
    /// None.
    pub const NONE: Self = Self(0);

    /// That of one processor.
    #[must_use]
    pub const fn of(cpu: Cpu) -> Self {
        Self(1 << cpu.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether one of `other` is among them.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether all of `other` are among them.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// These and `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// As a number.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From a number.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for Debts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = Vec::new();
        for cpu in (0..MAX_CPUS).map(Cpu) {
            if self.contains(Self::of(cpu)) {
                shown.push(format!("cpu {}", cpu.0));
            }
        }
        formatter.write_str(&shown.join(", "))
    }
}

/// A page of physical memory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Page {
    /// What it is, and what it contains.
    pub status: Status,
    /// Whose it is.
    pub owner: Owner,
    /// Flushes that must have been made before it may become something else.
    pub waits: Debts,
    /// Number of entries that map it, in user and kernel space, and of shares that name it.
    pub references: u32,
}

/// A client's memory of domain 0, as after the boot.
pub(crate) const FREE: Page =
    Page { status: Status::Normal(0), owner: Owner::Domain(0), waits: Debts::NONE, references: 0 };

/// Memory of a client: a page, or as many as a larger page has, aligned alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region {
    /// The first frame.
    pub first: Frame,
    /// Number of pages.
    pub pages: u32,
}

impl Region {
    /// One page.
    #[must_use]
    pub const fn page(frame: Frame) -> Self {
        Self { first: frame, pages: 1 }
    }

    /// The frames.
    pub fn frames(self) -> impl Iterator<Item = Frame> + Clone {
        (self.first.0..self.first.0.saturating_add(self.pages)).map(Frame)
    }

    /// Whether all of `other` lies in this region.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.first.0 <= other.first.0
            && other.first.0 as u64 + other.pages as u64 <= self.first.0 as u64 + self.pages as u64
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.first.0)?;
        if self.pages != 1 { write!(formatter, "+{}", self.pages) } else { Ok(()) }
    }
}

/// An owner's consent that memory is mapped by another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Share {
    /// The memory.
    pub region: Region,
    /// Whose it is.
    pub owner: u16,
    /// Who may map it: a domain, or the hypervisor for the client kernel.
    pub grantee: Owner,
    /// The most that a mapping may allow.
    pub rights: Rights,
}

/// Something that a processor may still use although the tables do not say it any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stale {
    /// A translation, as an entry of some level said it.
    Page {
        /// The processor.
        cpu: Cpu,
        /// The first page that is translated.
        first: VirtualPage,
        /// The size.
        level: Level,
        /// The first frame that it leads to.
        frame: Frame,
        /// What may be done with it.
        rights: Rights,
    },
    /// The position of a table.
    Table {
        /// The processor.
        cpu: Cpu,
        /// The first page that the table translates.
        first: VirtualPage,
        /// The table's level.
        level: Level,
        /// The frame that it was in.
        frame: Frame,
    },
}

impl Stale {
    /// The processor.
    #[must_use]
    pub const fn cpu(&self) -> Cpu {
        match self {
            Self::Page { cpu, .. } | Self::Table { cpu, .. } => *cpu,
        }
    }

    /// The first page that is translated.
    #[must_use]
    pub const fn first(&self) -> VirtualPage {
        match self {
            Self::Page { first, .. } | Self::Table { first, .. } => *first,
        }
    }

    /// The first frame that it leads to.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        match self {
            Self::Page { frame, .. } | Self::Table { frame, .. } => *frame,
        }
    }

    /// Whether this is a translation that allows all that `other` allows, and leads to the same.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Page { rights, .. }, Self::Page { cpu, first, level, frame, rights: less }) => {
                rights.contains(less) && *self == Self::Page { cpu, first, level, frame, rights }
            }
            _ => self == other,
        }
    }

    /// The pages that a translation leads to: page, frame and rights, one by one.
    pub fn pages(
        self,
        machine: &Machine,
    ) -> impl Iterator<Item = (VirtualPage, Frame, Rights)> + use<> {
        let (first, frame, rights, pages) = match self {
            Self::Page { first, level, frame, rights, .. } => {
                (first, frame, rights, machine.pages_of(level))
            }
            Self::Table { first, frame, .. } => (first, frame, Rights::READ, 0),
        };
        (0..pages).zip(0..).map(move |(page, offset)| {
            (VirtualPage(first.0 + page), Frame(frame.0.saturating_add(offset)), rights)
        })
    }
}

/// A state of the machine.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The current page directory of each processor.
    pub cr3: Vec<Frame>,
    /// The pages, by frame.
    pub pages: Vec<Page>,
    /// Flushes that processors owe.
    pub owed: Debts,
    /// What processors may use beyond what the tables say, in order. All that a processor *could*
    /// have cached counts as cached, but not what allows less than another translation of the
    /// same page to the same memory that the processor may use.
    pub stale: Vec<Stale>,
    /// The shares that exist, in order.
    pub shares: Vec<Share>,
    /// Larger pages, in order, that count as of several owners: their pages changed hands one by
    /// one. They may have one owner again, and count as his as a whole only when all of such a
    /// page changes hands at once.
    pub divided: Vec<Region>,
}

impl State {
    /// The state after the boot: all of the clients' memory is free and domain 0's.
    #[must_use]
    pub fn initial(machine: &Machine) -> Self {
        let hypervisor =
            |status| Page { status, owner: Owner::Hypervisor, waits: Debts::NONE, references: 0 };
        let mut state = Self {
            cr3: machine.cpus().map(|_| REFERENCE).collect(),
            pages: vec![hypervisor(Status::NotInstalled); machine.frames() as usize],
            owed: Debts::NONE,
            stale: Vec::new(),
            shares: Vec::new(),
            divided: Vec::new(),
        };
        let root = Table::empty(machine.root_entries());
        state.pages[0] = hypervisor(Status::PageDirectory(root));
        for table in machine.kernel_tables() {
            let entries = Table::empty(machine.entries(table.level));
            state.pages[table.frame.0 as usize] = hypervisor(Status::PageTable(entries));
        }
        for table in machine.kernel_tables() {
            let above = table.level.above();
            let parent = machine.kernel_tables().iter().find(|parent| {
                parent.level == above
                    && parent.first == machine.first_of(above.above(), table.first)
            });
            let parent = parent.map_or(REFERENCE, |parent| parent.frame);
            let index = machine.index(above, table.first);
            state.set_entry(machine, parent, above, index, Entry::Table(table.frame));
        }
        for frame in machine.environment() {
            state.pages[frame.0 as usize] = hypervisor(Status::Environment(0));
            let mapping = Mapping { frame, rights: Rights::ALL, user: false, foreign: false };
            state.set_kernel_entry(machine, frame, Entry::Page(mapping));
        }
        for frame in machine.clients() {
            state.pages[frame.0 as usize] = FREE;
        }
        for frame in machine.devices() {
            state.pages[frame.0 as usize] = Page { status: Status::Io(0), ..FREE };
        }
        state
    }

    /// The page in `frame`, if the machine has it.
    #[must_use]
    pub fn page(&self, frame: Frame) -> Option<&Page> {
        self.pages.get(frame.0 as usize)
    }

    /// The status of `frame`.
    #[must_use]
    pub fn status(&self, frame: Frame) -> &Status {
        self.page(frame).map_or(&Status::NotInstalled, |page| &page.status)
    }

    /// Who owns `frame`.
    #[must_use]
    pub fn owner(&self, frame: Frame) -> Owner {
        self.page(frame).map_or(Owner::Hypervisor, |page| page.owner)
    }

    /// The directory that processor `cpu` translates with.
    #[must_use]
    pub fn cr3(&self, cpu: Cpu) -> Frame {
        self.cr3.get(usize::from(cpu.0)).copied().unwrap_or(REFERENCE)
    }

    /// Entry `index` of the table in `frame`; absent if there is no table.
    #[must_use]
    pub fn entry(&self, frame: Frame, index: usize) -> Entry {
        self.status(frame).table().map_or(Entry::Absent, |table| table.get(index))
    }

    /// `translatePage`: the entry that translates `page` below `directory`, with its level.
    #[must_use]
    pub fn leaf(
        &self,
        machine: &Machine,
        directory: Frame,
        page: VirtualPage,
    ) -> Option<(Mapping, Level)> {
        let (entry, _, level) = self.walk(machine, directory, page, Level::FIRST);
        match entry {
            Entry::Page(mapping) => Some((mapping, level)),
            _ => None,
        }
    }

    /// `translatePage`: the mapping of the smallest page `page` below `directory`.
    #[must_use]
    pub fn translate(
        &self,
        machine: &Machine,
        directory: Frame,
        page: VirtualPage,
    ) -> Option<Mapping> {
        let (mapping, level) = self.leaf(machine, directory, page)?;
        let part = page.0 - machine.first_of(level, page).0;
        let part = u32::try_from(part).ok()?;
        Some(Mapping { frame: Frame(mapping.frame.0.checked_add(part)?), ..mapping })
    }

    /// Follows tables from `directory` towards `page` until an entry of level `lowest`, or one
    /// that is not a table: the entry, the table that it is in, and its level.
    #[must_use]
    pub fn walk(
        &self,
        machine: &Machine,
        directory: Frame,
        page: VirtualPage,
        lowest: Level,
    ) -> (Entry, Frame, Level) {
        let (mut table, mut level) = (directory, machine.root());
        loop {
            let entry = self.entry(table, machine.index(level, page));
            match entry {
                Entry::Table(below) if level > lowest => {
                    (table, level) = (below, level.below());
                }
                _ => return (entry, table, level),
            }
        }
    }

    /// The page directories of address spaces, so not the reference.
    pub fn directories(&self) -> impl Iterator<Item = Frame> + '_ {
        let frames = (0..).zip(&self.pages).skip(1);
        frames.filter_map(|(frame, page)| match page.status {
            Status::PageDirectory(_) => Some(Frame(frame)),
            _ => None,
        })
    }

    /// All entries of user space below `directory` that map memory: with the first page that
    /// each translates, its level, and the table that it is in.
    #[must_use]
    pub fn user_leaves(
        &self,
        machine: &Machine,
        directory: Frame,
    ) -> Vec<(VirtualPage, Level, Mapping)> {
        let mut found = Vec::new();
        let mut waiting = vec![(directory, machine.root(), VirtualPage(0))];
        while let Some((table, level, base)) = waiting.pop() {
            let Some(entries) = self.status(table).table() else {
                continue;
            };
            let end = match level == machine.root() {
                true => machine.sizes().user_entries,
                false => machine.entries(level),
            };
            let pages = machine.pages_of(level);
            for (index, entry) in (0..u64::from(end)).zip(entries.entries()) {
                let first = VirtualPage(base.0 + index * pages);
                match entry {
                    Entry::Absent => {}
                    Entry::Page(mapping) => found.push((first, level, *mapping)),
                    Entry::Table(below) if level > Level::FIRST => {
                        waiting.push((*below, level.below(), first));
                    }
                    // No table is below the first level.
                    Entry::Table(_) => {}
                }
            }
        }
        found
    }

    /// The entry of kernel space for the window page of `frame`, in the reference directory.
    #[must_use]
    pub fn kernel_entry(&self, machine: &Machine, frame: Frame) -> Entry {
        self.shown(machine, REFERENCE, frame)
    }

    /// The entry below `directory` for the window page of `frame`.
    #[must_use]
    pub fn shown(&self, machine: &Machine, directory: Frame, frame: Frame) -> Entry {
        let (mut table, mut level) = (directory, machine.root());
        loop {
            match self.entry(table, machine.window_index(level, frame)) {
                Entry::Table(below) if level > Level::FIRST => {
                    (table, level) = (below, level.below());
                }
                entry => return entry,
            }
        }
    }

    /// Changes an entry of a table, and counts what it maps.
    pub fn set_entry(
        &mut self,
        machine: &Machine,
        table: Frame,
        level: Level,
        index: usize,
        entry: Entry,
    ) {
        let before = self.entry(table, index);
        let Some(page) = self.pages.get_mut(table.0 as usize) else {
            return;
        };
        match &mut page.status {
            Status::PageDirectory(table) | Status::PageTable(table) => table.set(index, entry),
            _ => return,
        }
        if let Entry::Page(mapping) = before {
            self.count(machine, mapping.frame, level, -1);
        }
        if let Entry::Page(mapping) = entry {
            self.count(machine, mapping.frame, level, 1);
        }
    }

    /// Changes the entry of kernel space for the window page of `frame`, in the reference
    /// directory.
    pub fn set_kernel_entry(&mut self, machine: &Machine, frame: Frame, entry: Entry) {
        let page = machine.window(frame);
        let (_, table, level) = self.walk(machine, REFERENCE, page, Level::FIRST);
        self.set_entry(machine, table, level, machine.index(level, page), entry);
    }

    /// Adds to the references of all frames of a page of `level`.
    fn count(&mut self, machine: &Machine, first: Frame, level: Level, change: i32) {
        let pages = usize::try_from(machine.pages_of(level)).unwrap_or(usize::MAX);
        for page in self.pages.iter_mut().skip(first.0 as usize).take(pages) {
            page.references = page.references.saturating_add_signed(change);
        }
    }

    /// Adds a share.
    pub fn add_share(&mut self, share: Share) {
        let at = self.shares.partition_point(|other| *other <= share);
        self.shares.insert(at, share);
        for frame in share.region.frames() {
            if let Some(page) = self.pages.get_mut(frame.0 as usize) {
                page.references += 1;
            }
        }
    }

    /// Takes away a share, if there is one like it.
    pub fn remove_share(&mut self, share: &Share) {
        if let Ok(at) = self.shares.binary_search(share) {
            self.shares.remove(at);
            for frame in share.region.frames() {
                if let Some(page) = self.pages.get_mut(frame.0 as usize) {
                    page.references = page.references.saturating_sub(1);
                }
            }
        }
    }

    /// Makes `owner` the owner of all pages of `region`, which lies in one page of the second
    /// level.
    pub fn set_owner(&mut self, machine: &Machine, region: Region, owner: Owner) {
        let levels = (2..=machine.largest_leaf().0).map(Level);
        let units = levels.filter_map(|level| Some((level, machine.unit(level, region.first)?)));
        let were_theirs: Vec<(Level, Region, bool)> = units
            .map(|(level, unit)| (level, unit, self.unit_owner(unit) == Some(owner)))
            .collect();
        for frame in region.frames() {
            if let Some(page) = self.pages.get_mut(frame.0 as usize) {
                page.owner = owner;
            }
        }
        for (level, unit, was_theirs) in were_theirs {
            if was_theirs {
                continue;
            }
            let parts = u32::try_from(machine.pages_of(level.below())).unwrap_or(1);
            let mut parts =
                unit.frames().step_by(parts as usize).map(|first| Region { first, pages: parts });
            let is_whole = region.pages == machine.sizes().entries
                && parts.all(|part| self.unit_owner(part) == Some(owner));
            self.divide(unit, !is_whole);
        }
    }

    /// The owner of all of a page of some size, unless it counts as of several.
    #[must_use]
    pub fn unit_owner(&self, unit: Region) -> Option<Owner> {
        self.divided.binary_search(&unit).is_err().then(|| self.owner(unit.first))
    }

    fn divide(&mut self, unit: Region, is_divided: bool) {
        match (self.divided.binary_search(&unit), is_divided) {
            (Ok(at), false) => drop(self.divided.remove(at)),
            (Err(at), true) => self.divided.insert(at, unit),
            _ => {}
        }
    }

    /// Counts all references anew, from the tables and shares.
    pub fn recount(&mut self, machine: &Machine) {
        for page in &mut self.pages {
            page.references = 0;
        }
        let mut directories: Vec<Frame> = self.directories().collect();
        directories.sort_unstable();
        for directory in directories {
            for (_, level, mapping) in self.user_leaves(machine, directory) {
                self.count(machine, mapping.frame, level, 1);
            }
        }
        for frame in machine.all_frames() {
            if let Entry::Page(mapping) = self.kernel_entry(machine, frame) {
                self.count(machine, mapping.frame, Level::FIRST, 1);
            }
        }
        for share in self.shares.clone() {
            for frame in share.region.frames() {
                if let Some(page) = self.pages.get_mut(frame.0 as usize) {
                    page.references += 1;
                }
            }
        }
    }

    /// Whether `frame` may become something else: normal memory that nothing refers to and no
    /// processor may still use.
    #[must_use]
    pub fn is_free(&self, frame: Frame) -> bool {
        self.page(frame).is_some_and(|page| {
            matches!(page.status, Status::Normal(_))
                && page.references == 0
                && page.waits.is_empty()
        })
    }
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cr3: Vec<u32> = self.cr3.iter().map(|frame| frame.0).collect();
        write!(formatter, "cr3 {cr3:?}")?;
        if !self.owed.is_empty() {
            write!(formatter, ", owed by {:?}", self.owed)?;
        }
        for (frame, page) in self.pages.iter().enumerate() {
            if page.status == Status::NotInstalled {
                continue;
            }
            write!(formatter, "\n  {frame}: {:?}", page.status)?;
            if page.owner != Owner::Hypervisor && page.owner != Owner::Domain(0) {
                write!(formatter, " of {:?}", page.owner)?;
            }
            if !page.waits.is_empty() {
                write!(formatter, ", waits for {:?}", page.waits)?;
            }
        }
        for share in &self.shares {
            write!(
                formatter,
                "\n  share of {:?}: domain {} to {:?}, {:?}",
                share.region, share.owner, share.grantee, share.rights
            )?;
        }
        if !self.divided.is_empty() {
            write!(formatter, "\n  divided {:?}", self.divided)?;
        }
        for stale in &self.stale {
            match stale {
                Stale::Page { cpu, first, level, frame, rights } => write!(
                    formatter,
                    "\n  cpu {} may still translate page {} to {} {rights:?} (level {})",
                    cpu.0, first.0, frame.0, level.0
                )?,
                Stale::Table { cpu, first, level, frame } => write!(
                    formatter,
                    "\n  cpu {} may still walk from page {} through table {} (level {})",
                    cpu.0, first.0, frame.0, level.0
                )?,
            }
        }
        Ok(())
    }
}

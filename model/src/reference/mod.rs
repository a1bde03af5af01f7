//! A reference implementation: page tables as words of memory, records with counts, processors
//! with caches.
//!
//! It is written from the description of the operations ([`crate::action::Action`]) and does not
//! look at the specification. It works as a kernel must: it decides by its records and counts,
//! not by searching all tables; it finds the processors that may still translate to a page by
//! epochs; and its hardware checks nothing but bits in entries. Processors cache all that they
//! can: after each operation everything that they could find in the tables.
//!
//! [`Fault`]s can be planted in it, one at a time, to see whether the checks find them.

mod checks;
mod fault;
mod hardware;

pub use fault::Fault;

use crate::action::{Action, Through};
use crate::facts::{Facts, statement};
use crate::implementation::Implementation;
use crate::layers::Layer;
use crate::machine::{Cpu, Frame, Level, MAX_CPUS, Machine, REFERENCE, VirtualPage};
use crate::state::{
    Debts, Entry, Mapping, Owner, Page, Rights, Share, Stale, State, Status, StatusKind, Table,
};
use hardware::{Cached, Memory, Word};

pub use crate::step::Refusal;

/// What is recorded of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Record {
    status: StatusKind,
    owner: Owner,
    /// Mappings and shares of a normal page or device's page, entries of a table.
    count: u32,
    /// Epoch of the last removal of a translation that another processor may have.
    stamp: u64,
}

/// Owes since never.
const NEVER: u64 = u64::MAX;

/// What is recorded of a processor, and what it has cached.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Processor {
    /// The root that the records say.
    loaded: Frame,
    /// The root that it translates with.
    root: Frame,
    /// Epochs since which it owes a flush of user space, and of everything.
    owes: u64,
    owes_all: u64,
    /// In order.
    cached: Vec<Cached>,
}

/// A kernel mapping's handle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct KernelMapping {
    frame: Frame,
    rights: Rights,
    user: bool,
}

/// The reference implementation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    memory: Memory,
    records: Vec<Record>,
    processors: Vec<Processor>,
    epoch: u64,
    kernel_mappings: Vec<KernelMapping>,
    shares: Vec<Share>,
    fault: Option<Fault>,
}

impl Reference {
    /// The state after the boot, with a fault.
    #[must_use]
    pub fn with_fault(machine: &Machine, fault: Option<Fault>) -> Self {
        let words = machine.root_entries().max(machine.sizes().entries) as usize;
        let boot = State::initial(machine);
        let record = |page: &Page| Record {
            status: page.status.kind(),
            owner: page.owner,
            count: 0,
            stamp: 0,
        };
        let processor = || Processor {
            loaded: REFERENCE,
            root: REFERENCE,
            owes: NEVER,
            owes_all: NEVER,
            cached: Vec::new(),
        };
        let mut reference = Self {
            memory: Memory::new(machine.frames() as usize, words),
            records: boot.pages.iter().map(record).collect(),
            processors: machine.cpus().map(|_| processor()).collect(),
            epoch: 0,
            kernel_mappings: Vec::new(),
            shares: Vec::new(),
            fault,
        };
        // The boot code wrote the tables of kernel space.
        for (frame, page) in (0..).map(Frame).zip(&boot.pages) {
            let entries = page.status.table().map_or(&[][..], Table::entries);
            for (index, entry) in entries.iter().enumerate() {
                reference.memory.set(frame, index, Word::encode(*entry));
            }
        }
        reference.speculate(machine);
        reference
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn record(&self, frame: Frame) -> Record {
        let nothing = Record {
            status: StatusKind::NotInstalled,
            owner: Owner::Hypervisor,
            count: 0,
            stamp: 0,
        };
        self.records.get(frame.0 as usize).copied().unwrap_or(nothing)
    }

    fn record_mut(&mut self, frame: Frame) -> Option<&mut Record> {
        self.records.get_mut(frame.0 as usize)
    }

    fn set_status(&mut self, frame: Frame, status: StatusKind) {
        if let Some(record) = self.record_mut(frame) {
            record.status = status;
            record.count = 0;
        }
    }

    fn processor(&self, cpu: Cpu) -> &Processor {
        &self.processors[usize::from(cpu.0)]
    }

    /// Whether every flush that was owed at the page's last removal has been made.
    fn is_settled(&self, frame: Frame) -> bool {
        let stamp = self.record(frame).stamp;
        self.processors.iter().all(|cpu| cpu.owes > stamp && cpu.owes_all > stamp)
    }

    /// Lets every processor cache all that it can find.
    fn speculate(&mut self, machine: &Machine) {
        if !machine.has(Layer::Tlb) {
            return;
        }
        for processor in &mut self.processors {
            for found in hardware::reachable(machine, &self.memory, processor.root) {
                if let Err(at) = processor.cached.binary_search(&found) {
                    processor.cached.insert(at, found);
                }
            }
        }
    }

    /// A write by the hardware to whatever frame a translation leads to.
    fn write(&mut self, frame: Frame, value: u8) {
        self.memory.set(frame, 0, Word(value.into()));
    }

    fn write_by_program(
        &mut self,
        machine: &Machine,
        (cpu, page): (Cpu, VirtualPage),
        value: u8,
        through: Through,
    ) -> Result<(), Refusal> {
        let processor = self.processor(cpu);
        let frame = match through {
            Through::Tables => hardware::translate(machine, &self.memory, processor.root, page)
                .filter(|(_, word)| word.is_user() && word.rights().write)
                .map(|(frame, _)| frame),
            Through::Cache(wanted) => {
                let now = hardware::reachable(machine, &self.memory, processor.root);
                let stale = processor.cached.iter().filter(|cached| !now.contains(cached));
                stale
                    .filter(|cached| cached.rights.write)
                    .any(|cached| cached.leads_to(machine, page) == Some(wanted))
                    .then_some(wanted)
            }
        };
        self.write(frame.ok_or(Refusal::Fault)?, value);
        Ok(())
    }
}

impl Implementation for Reference {
    type Refusal = Refusal;

    fn start(machine: &Machine) -> Self {
        Self::with_fault(machine, None)
    }

    fn apply(&mut self, machine: &Machine, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::WriteE { cpu, page, value } => {
                let root = self.processor(*cpu).root;
                let found = hardware::translate(machine, &self.memory, root, *page);
                // The environment writes to nothing but its own memory.
                let own = found.filter(|(frame, _)| machine.is_environment(*frame));
                let (frame, _) = own.ok_or(Refusal::Fault)?;
                self.write(frame, *value);
            }
            Action::WriteK { cpu, page, value } => {
                let root = self.processor(*cpu).root;
                let handle = self
                    .kernel_mappings
                    .iter()
                    .find(|mapping| machine.window(mapping.frame) == *page);
                let handle = handle.ok_or(Refusal::Fault)?;
                let writable = handle.rights.write || self.has(Fault::KernelWritesReadOnly);
                let found = hardware::translate(machine, &self.memory, root, *page);
                let (frame, _) = found.filter(|_| writable).ok_or(Refusal::Fault)?;
                self.write(frame, *value);
            }
            Action::WriteU { owner, cpu, page, value, through } => {
                let root = self.processor(*cpu).root;
                if self.record(root).owner != Owner::Domain(*owner) {
                    return Err(Refusal::NotRunning);
                }
                self.write_by_program(machine, (*cpu, *page), *value, *through)?;
            }
            Action::WriteD { frame, value } => {
                if !machine.is_device(*frame) {
                    return Err(Refusal::NoHandle);
                }
                self.write(*frame, *value);
            }
            _ => {
                self.operate(machine, action)?;
                self.speculate(machine);
            }
        }
        Ok(())
    }

    fn abstraction(&self, machine: &Machine) -> State {
        let mut pages = Vec::with_capacity(self.records.len());
        let debts = |is_owed: &dyn Fn(u64) -> bool| {
            let mut debts = Debts::NONE;
            for (cpu, processor) in (0..MAX_CPUS).map(Cpu).zip(&self.processors) {
                if is_owed(processor.owes) {
                    debts = debts.with(Debts::user(cpu));
                }
                if is_owed(processor.owes_all) {
                    debts = debts.with(Debts::all(cpu));
                }
            }
            debts
        };
        for (frame, record) in (0..).map(Frame).zip(&self.records) {
            let data = || self.memory.get(frame, 0).0 as u8;
            // The highest level at which a page can be a table tells what its words mean; words
            // above the first level can be of either kind, and say which.
            let table = |entries: u32, level: Level| {
                let word = |index| self.memory.get(frame, index).decode(level);
                Table::new((0..entries as usize).map(word).collect())
            };
            let status = match record.status {
                StatusKind::NotInstalled => Status::NotInstalled,
                StatusKind::Environment => Status::Environment(data()),
                StatusKind::Normal => Status::Normal(data()),
                StatusKind::Supplied => Status::Supplied,
                StatusKind::PageDirectory => {
                    Status::PageDirectory(table(machine.root_entries(), machine.root()))
                }
                StatusKind::PageTable => {
                    Status::PageTable(table(machine.sizes().entries, Level(2)))
                }
                StatusKind::Draining => Status::Draining,
                StatusKind::Io => Status::Io(data()),
            };
            let stamp = record.stamp;
            pages.push(Page {
                status,
                owner: record.owner,
                waits: debts(&|owes| owes <= stamp),
                references: 0,
            });
        }
        let mut state = State {
            cr3: self.processors.iter().map(|processor| processor.root).collect(),
            pages,
            owed: debts(&|owes| owes != NEVER),
            stale: Vec::new(),
            shares: self.shares.clone(),
        };
        state.shares.sort_unstable();
        state.recount(machine);
        for (cpu, processor) in (0..).map(Cpu).zip(&self.processors) {
            let now = hardware::reachable(machine, &self.memory, processor.root);
            for cached in processor.cached.iter().filter(|cached| !now.contains(cached)) {
                let Cached { first, level, frame, is_table, rights } = *cached;
                state.stale.push(if is_table {
                    Stale::Table { cpu, first, level, frame }
                } else {
                    Stale::Page { cpu, first, level, frame, rights }
                });
            }
        }
        state.stale.sort_unstable();
        state
    }

    fn is_same(&self, other: &Self) -> bool {
        self == other
    }

    fn remembers(&self, machine: &Machine, facts: &mut Facts) {
        // Counts follow from the tables, unless there is a fault. Epochs matter only as far as the
        // abstraction tells.
        for (frame, record) in (0..).map(Frame).zip(&self.records) {
            if machine.is_client(frame) && record.count != 0 {
                facts.add_of(statement!("count", record.count), frame);
            }
        }
        for (cpu, processor) in (0_u64..).zip(&self.processors) {
            if processor.loaded != processor.root {
                facts.add_of(statement!("loaded", cpu), processor.loaded);
            }
        }
        for mapping in &self.kernel_mappings {
            let code = statement!("handle", mapping.rights.bits(), mapping.user);
            facts.add_of(code, mapping.frame);
        }
    }
}

impl Word {
    /// The word for an entry.
    fn encode(entry: Entry) -> Self {
        match entry {
            Entry::Absent => Self::ABSENT,
            Entry::Table(frame) => Self::table(frame),
            Entry::Page(mapping) => Self::page(mapping),
        }
    }

    /// The entry that a word in a table of `level` or below is.
    fn decode(self, level: Level) -> Entry {
        if !self.is_present() {
            Entry::Absent
        } else if level > Level::FIRST && !self.is_leaf() {
            Entry::Table(self.frame())
        } else {
            Entry::Page(Mapping {
                frame: self.frame(),
                rights: self.rights(),
                user: self.is_user(),
                foreign: self.is_foreign(),
            })
        }
    }
}

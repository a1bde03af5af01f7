//! The specification as a function: the one state that an action leads to, or why there is none.
//!
//! [`crate::specification`] says the same as a relation, as the thesis does. The two were written
//! apart and are compared in every transition that a check makes.
//!
//! The specification is deterministic on purpose. Where the thesis leaves a choice (which tables
//! are used, whether an empty one is freed, what a freed page contains), an implementation may
//! let it depend on what the actor must not see, and so tell it: see [`crate::thesis::findings`].

use std::fmt;

use crate::action::{Action, Through};
use crate::layers::Layer;
use crate::machine::{Cpu, Frame, Level, Machine, REFERENCE, VirtualPage};
use crate::state::{
    Data, Debts, Entry, Mapping, Owner, Region, Rights, Share, Stale, State, Status, Table,
};

/// Why an action has no successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// No such handle exists, or the memory is not the clients'.
    NoHandle,
    /// The region is not part of the one that it is derived from.
    OutsideRegion,
    /// The operation is for pages of another size.
    BadSize,
    /// The address is not a multiple of the size.
    Misaligned,
    /// The address is not the programs'.
    NotUser,
    /// The page's status does not allow it.
    WrongStatus(Frame),
    /// The page belongs to somebody else.
    NotOwner(Frame),
    /// Mappings or shares of the page exist.
    InUse(Frame),
    /// A processor may still use the page as it was.
    Draining(Frame),
    /// Something is mapped there.
    AlreadyMapped(VirtualPage),
    /// Nothing is mapped there.
    NotMapped(VirtualPage),
    /// More tables are needed than were supplied.
    TablesNeeded(usize),
    /// A mapping of the smallest size cannot be split.
    NotLarge(VirtualPage),
    /// The share is for other memory.
    OutsideShare,
    /// The share is for somebody else.
    NotGrantee,
    /// The share allows less.
    BeyondShare,
    /// The mapping was made through a share, and does not gain rights.
    Upgrade,
    /// The directory has mappings.
    NotEmpty,
    /// Another processor translates with the directory.
    Loaded,
    /// The kernel has a mapping of the page already.
    WindowTaken(Frame),
    /// The processor does not run the owner's programs.
    NotRunning,
    /// The access is not allowed.
    Fault,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl std::error::Error for Refusal {}

fn demand(holds: bool, otherwise: Refusal) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(otherwise) }
}

impl State {
    /// The state that `action` leads to.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn successor(&self, machine: &Machine, action: &Action) -> Result<Self, Refusal> {
        // Most actions are refused, and then nothing needs to be copied.
        match self.plan(machine, action)? {
            Plan::Nothing => Ok(self.clone()),
            plan => {
                let mut after = self.clone();
                after.carry_out(machine, plan);
                Ok(after)
            }
        }
    }

    /// Carries out `action`.
    ///
    /// # Errors
    ///
    /// Why there is no successor; then the state is as it was.
    pub fn apply(&mut self, machine: &Machine, action: &Action) -> Result<(), Refusal> {
        let plan = self.plan(machine, action)?;
        self.carry_out(machine, plan);
        Ok(())
    }

    /// `step`: what has no successor changes nothing (thesis 5.8.1).
    #[must_use]
    pub fn step(&self, machine: &Machine, action: &Action) -> Self {
        self.successor(machine, action).unwrap_or_else(|_| self.clone())
    }
}

/// What an action changes.
enum Plan<'action> {
    Nothing,
    Data(Frame, Data),
    Status(Frame, Status),
    FreeDirectory(Cpu, Frame),
    AddMapping {
        directory: Frame,
        page: VirtualPage,
        level: Level,
        mapping: Mapping,
        tables: &'action [Frame],
    },
    RemoveMapping {
        cpu: Cpu,
        directory: Frame,
        page: VirtualPage,
    },
    ModifyMapping {
        cpu: Cpu,
        directory: Frame,
        page: VirtualPage,
        rights: Rights,
    },
    SplitMapping {
        cpu: Cpu,
        directory: Frame,
        page: VirtualPage,
        table: Frame,
    },
    AddKernelMapping {
        cpu: Cpu,
        /// Of the first page.
        mapping: Mapping,
        pages: u32,
    },
    RemoveKernelMapping {
        cpu: Cpu,
        /// Of the first page.
        mapping: Mapping,
        pages: u32,
    },
    Load(Cpu, Frame),
    Pay(Cpu),
    Owner(Region, Owner),
    Share(Share),
    EndShare(Share),
}

/// Deciding: whether there is a successor.
impl State {
    fn plan<'action>(
        &self,
        machine: &Machine,
        action: &'action Action,
    ) -> Result<Plan<'action>, Refusal> {
        match action {
            Action::WriteE { cpu, page, value } => {
                let mapping = self.translate(machine, self.cr3(*cpu), *page);
                let frame = mapping.map(|mapping| mapping.frame).ok_or(Refusal::Fault)?;
                let is_environment = matches!(self.status(frame), Status::Environment(_));
                demand(is_environment, Refusal::Fault)?;
                Ok(Plan::Data(frame, *value))
            }
            Action::DeriveRegionH { from, to } => {
                demand(self.is_handle(machine, *from), Refusal::NoHandle)?;
                demand(to.pages > 0 && from.contains(*to), Refusal::OutsideRegion)?;
                Ok(Plan::Nothing)
            }
            Action::CreatePageMapPageH { region } => {
                demand(self.is_handle(machine, *region), Refusal::NoHandle)?;
                demand(region.pages == 1, Refusal::BadSize)?;
                self.demand_free(region.first)?;
                Ok(Plan::Status(region.first, Status::Supplied))
            }
            Action::ReleasePageMapPageH { frame } => {
                demand(*self.status(*frame) == Status::Supplied, Refusal::NoHandle)?;
                Ok(Plan::Status(*frame, Status::Normal(0)))
            }
            Action::AllocatePageDirectoryH { frame } => {
                demand(*self.status(*frame) == Status::Supplied, Refusal::NoHandle)?;
                let has_owner = matches!(self.owner(*frame), Owner::Domain(_));
                demand(has_owner, Refusal::NotOwner(*frame))?;
                let reference = self.status(REFERENCE).table().ok_or(Refusal::NoHandle)?;
                // Nothing of the reference directory is in user space: only the kernel's half is
                // copied, whatever may be there.
                let mut entries = reference.entries().to_vec();
                let user = machine.sizes().user_entries as usize;
                entries.iter_mut().take(user).for_each(|entry| *entry = Entry::Absent);
                Ok(Plan::Status(*frame, Status::PageDirectory(Table::new(entries))))
            }
            Action::FreePageDirectoryH { cpu, directory } => {
                let table = self.directory(*directory)?;
                let user = machine.sizes().user_entries as usize;
                let mut entries = table.entries().iter().take(user);
                demand(entries.all(|entry| *entry == Entry::Absent), Refusal::NotEmpty)?;
                demand(self.others(*cpu, *directory).next().is_none(), Refusal::Loaded)?;
                Ok(Plan::FreeDirectory(*cpu, *directory))
            }
            Action::AddMappingH { directory, supply, region, page, rights, share } => {
                self.plan_mapping(machine, *directory, supply, *region, *page, *rights, *share)
            }
            Action::RemoveMappingH { cpu, directory, page } => {
                self.user_leaf(machine, *directory, *page)?;
                Ok(Plan::RemoveMapping { cpu: *cpu, directory: *directory, page: *page })
            }
            Action::ModifyMappingH { cpu, directory, page, rights } => {
                let (mapping, _) = self.user_leaf(machine, *directory, *page)?;
                let gains = !mapping.rights.contains(*rights);
                demand(!(mapping.foreign && gains), Refusal::Upgrade)?;
                let (cpu, directory) = (*cpu, *directory);
                Ok(Plan::ModifyMapping { cpu, directory, page: *page, rights: *rights })
            }
            Action::SplitMappingH { cpu, directory, supply, page } => {
                self.demand_supply(supply)?;
                let (_, level) = self.user_leaf(machine, *directory, *page)?;
                demand(level > Level::FIRST, Refusal::NotLarge(*page))?;
                let table = *supply.last().ok_or(Refusal::TablesNeeded(1))?;
                let (cpu, directory) = (*cpu, *directory);
                Ok(Plan::SplitMapping { cpu, directory, page: *page, table })
            }
            Action::AddKernelMappingH { cpu, region, rights, user, share } => {
                let mapping = self.plan_kernel(machine, *region, *rights, *user, *share)?;
                Ok(Plan::AddKernelMapping { cpu: *cpu, mapping, pages: region.pages })
            }
            Action::RemoveKernelMappingH { cpu, region } => {
                demand(self.is_handle(machine, *region), Refusal::NoHandle)?;
                let Entry::Page(mapping) = self.kernel_entry(machine, region.first) else {
                    return Err(Refusal::NoHandle);
                };
                for frame in region.frames() {
                    let expected = Entry::Page(Mapping { frame, ..mapping });
                    let is_part = self.kernel_entry(machine, frame) == expected;
                    demand(is_part, Refusal::NoHandle)?;
                }
                Ok(Plan::RemoveKernelMapping { cpu: *cpu, mapping, pages: region.pages })
            }
            Action::ExecuteH { cpu, directory } => {
                let is_directory = matches!(self.status(*directory), Status::PageDirectory(_));
                demand(is_directory, Refusal::NoHandle)?;
                if self.cr3(*cpu) == *directory {
                    return Ok(Plan::Nothing);
                }
                Ok(Plan::Load(*cpu, *directory))
            }
            Action::EnterH { cpu } => {
                let owes = self.owed.contains(Debts::of(*cpu));
                Ok(if owes { Plan::Pay(*cpu) } else { Plan::Nothing })
            }
            Action::ReclaimH { frame } => {
                demand(*self.status(*frame) == Status::Draining, Refusal::NoHandle)?;
                self.demand_settled(*frame)?;
                Ok(Plan::Status(*frame, Status::Supplied))
            }
            Action::AssignH { region, to } => {
                self.demand_part(machine, *region)?;
                for frame in region.frames() {
                    // What is the domain's already stays so.
                    if self.owner(frame) != Owner::Domain(*to) {
                        self.demand_normal(frame, Owner::Nobody)?;
                    }
                }
                Ok(Plan::Owner(*region, Owner::Domain(*to)))
            }
            Action::ReleaseH { region, from } => {
                self.demand_part(machine, *region)?;
                for frame in region.frames() {
                    self.demand_free(frame)?;
                    self.demand_owner(frame, Owner::Domain(*from))?;
                }
                Ok(Plan::Owner(*region, Owner::Nobody))
            }
            Action::ShareH { share } => {
                self.demand_region(machine, share.region)?;
                demand(share.grantee != Owner::Nobody, Refusal::NotGrantee)?;
                for frame in share.region.frames() {
                    self.demand_normal(frame, Owner::Domain(share.owner))?;
                }
                self.demand_whole(share.region)?;
                Ok(Plan::Share(*share))
            }
            Action::EndShareH { share } => {
                demand(self.shares.contains(share), Refusal::NoHandle)?;
                Ok(Plan::EndShare(*share))
            }
            Action::WriteK { cpu, page, value } => {
                demand(machine.is_kernel_page(*page), Refusal::Fault)?;
                let mapping = self.translate(machine, self.cr3(*cpu), *page);
                let mapping = mapping.ok_or(Refusal::Fault)?;
                demand(mapping.rights.write, Refusal::Fault)?;
                self.plan_write(mapping.frame, *value)
            }
            Action::WriteU { owner, cpu, page, value, through } => {
                let runs = self.owner(self.cr3(*cpu)) == Owner::Domain(*owner);
                demand(runs, Refusal::NotRunning)?;
                let frame = match through {
                    Through::Tables => self
                        .translate(machine, self.cr3(*cpu), *page)
                        .filter(|mapping| mapping.user && mapping.rights.write)
                        .map(|mapping| mapping.frame),
                    Through::Cache(frame) => self
                        .stale
                        .iter()
                        .filter(|stale| stale.cpu() == *cpu)
                        .flat_map(|stale| stale.pages(machine))
                        .any(|(at, to, rights)| at == *page && to == *frame && rights.write)
                        .then_some(*frame),
                };
                self.plan_write(frame.ok_or(Refusal::Fault)?, *value)
            }
            Action::WriteD { frame, value } => {
                let is_device = matches!(self.status(*frame), Status::Io(_));
                demand(is_device, Refusal::NoHandle)?;
                Ok(Plan::Data(*frame, *value))
            }
        }
    }

    /// Whether a client can have a handle to `region`: all that lies in an initial region.
    fn is_handle(&self, machine: &Machine, region: Region) -> bool {
        region.pages > 0
            && (region.frames().all(|frame| machine.is_client(frame))
                || region.frames().all(|frame| machine.is_device(frame)))
    }

    /// A region of RAM that has the size of some page.
    fn demand_region(&self, machine: &Machine, region: Region) -> Result<(), Refusal> {
        demand(self.is_handle(machine, region), Refusal::NoHandle)?;
        demand(machine.level_of(region.pages.into()).is_some(), Refusal::BadSize)?;
        demand(region.first.0.is_multiple_of(region.pages), Refusal::Misaligned)?;
        demand(machine.is_client(region.first), Refusal::WrongStatus(region.first))
    }

    /// RAM that changes hands at once: some pages of a larger page of the second level, at a
    /// multiple of their number.
    fn demand_part(&self, machine: &Machine, region: Region) -> Result<(), Refusal> {
        demand(self.is_handle(machine, region), Refusal::NoHandle)?;
        let entries = machine.sizes().entries;
        demand(entries.is_multiple_of(region.pages), Refusal::BadSize)?;
        demand(region.first.0.is_multiple_of(region.pages), Refusal::Misaligned)?;
        demand(machine.is_client(region.first), Refusal::WrongStatus(region.first))
    }

    /// A page of some size that counts as of one owner.
    fn demand_whole(&self, unit: Region) -> Result<(), Refusal> {
        demand(self.unit_owner(unit).is_some(), Refusal::NotOwner(unit.first))
    }

    fn demand_owner(&self, frame: Frame, owner: Owner) -> Result<(), Refusal> {
        demand(self.owner(frame) == owner, Refusal::NotOwner(frame))
    }

    fn demand_normal(&self, frame: Frame, owner: Owner) -> Result<(), Refusal> {
        let is_normal = matches!(self.status(frame), Status::Normal(_));
        demand(is_normal, Refusal::WrongStatus(frame))?;
        self.demand_owner(frame, owner)
    }

    fn demand_settled(&self, frame: Frame) -> Result<(), Refusal> {
        let waits = self.page(frame).map_or(Debts::NONE, |page| page.waits);
        demand(waits.is_empty(), Refusal::Draining(frame))
    }

    fn demand_free(&self, frame: Frame) -> Result<(), Refusal> {
        let is_normal = matches!(self.status(frame), Status::Normal(_));
        demand(is_normal, Refusal::WrongStatus(frame))?;
        let references = self.page(frame).map_or(0, |page| page.references);
        demand(references == 0, Refusal::InUse(frame))?;
        self.demand_settled(frame)
    }

    /// The pages of a supply are different page-map pages.
    fn demand_supply(&self, supply: &[Frame]) -> Result<(), Refusal> {
        for (at, frame) in supply.iter().enumerate() {
            let is_supplied = *self.status(*frame) == Status::Supplied;
            let is_other = supply.iter().take(at).all(|other| other != frame);
            demand(is_supplied && is_other, Refusal::NoHandle)?;
        }
        Ok(())
    }

    /// The directory of an address space.
    fn directory(&self, frame: Frame) -> Result<&Table, Refusal> {
        match self.status(frame) {
            Status::PageDirectory(table) if frame != REFERENCE => Ok(table),
            _ => Err(Refusal::NoHandle),
        }
    }

    /// The mapping of user space that translates `page`.
    fn user_leaf(
        &self,
        machine: &Machine,
        directory: Frame,
        page: VirtualPage,
    ) -> Result<(Mapping, Level), Refusal> {
        self.directory(directory)?;
        demand(page.0 < machine.user_end(), Refusal::NotUser)?;
        self.leaf(machine, directory, page).ok_or(Refusal::NotMapped(page))
    }

    /// The processors other than `cpu` that translate with `directory`.
    fn others(&self, cpu: Cpu, directory: Frame) -> impl Iterator<Item = Cpu> + '_ {
        let cpus = (0..).map(Cpu).zip(&self.cr3);
        cpus.filter_map(move |(other, loaded)| {
            (other != cpu && *loaded == directory).then_some(other)
        })
    }

    /// A write reaches memory of the clients' or of a device, and nothing else.
    fn plan_write(&self, frame: Frame, value: Data) -> Result<Plan<'static>, Refusal> {
        let is_data = matches!(self.status(frame), Status::Normal(_) | Status::Io(_));
        demand(is_data, Refusal::Fault)?;
        Ok(Plan::Data(frame, value))
    }

    /// Who must own the memory of `region` for `grantee` to map it.
    fn consent(
        &self,
        share: Option<Share>,
        grantee: Owner,
        own: Owner,
        region: Region,
        rights: Rights,
    ) -> Result<Owner, Refusal> {
        let Some(share) = share else {
            return Ok(own);
        };
        demand(self.shares.contains(&share), Refusal::NoHandle)?;
        demand(share.region.contains(region), Refusal::OutsideShare)?;
        demand(share.grantee == grantee, Refusal::NotGrantee)?;
        demand(share.rights.contains(rights), Refusal::BeyondShare)?;
        Ok(Owner::Domain(share.owner))
    }

    /// Memory that may be mapped: the owner's normal memory, or a device's, which is domain 0's.
    fn demand_mappable(&self, region: Region, owner: Owner) -> Result<(), Refusal> {
        for frame in region.frames() {
            let status = self.status(frame);
            let is_data = matches!(status, Status::Normal(_) | Status::Io(_));
            demand(is_data, Refusal::WrongStatus(frame))?;
            self.demand_owner(frame, owner)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "they are the action's")]
    fn plan_mapping<'action>(
        &self,
        machine: &Machine,
        directory: Frame,
        supply: &'action [Frame],
        region: Region,
        page: VirtualPage,
        rights: Rights,
        share: Option<Share>,
    ) -> Result<Plan<'action>, Refusal> {
        self.directory(directory)?;
        self.demand_supply(supply)?;
        demand(self.is_handle(machine, region), Refusal::NoHandle)?;
        let level = machine.level_of(region.pages.into()).ok_or(Refusal::BadSize)?;
        let is_aligned = region.first.0.is_multiple_of(region.pages)
            && page.0.is_multiple_of(region.pages.into());
        demand(is_aligned, Refusal::Misaligned)?;
        let end = page.0.checked_add(region.pages.into());
        demand(end.is_some_and(|end| end <= machine.user_end()), Refusal::NotUser)?;
        let grantee = self.owner(directory);
        let owner = self.consent(share, grantee, grantee, region, rights)?;
        self.demand_mappable(region, owner)?;
        self.demand_whole(region)?;
        let (entry, _, reached) = self.walk(machine, directory, page, level);
        demand(entry == Entry::Absent, Refusal::AlreadyMapped(page))?;
        let needed = usize::from(reached.0 - level.0);
        let kept = supply.len().checked_sub(needed).ok_or(Refusal::TablesNeeded(needed))?;
        let mapping = Mapping { frame: region.first, rights, user: true, foreign: share.is_some() };
        Ok(Plan::AddMapping { directory, page, level, mapping, tables: &supply[kept..] })
    }

    fn plan_kernel(
        &self,
        machine: &Machine,
        region: Region,
        rights: Rights,
        user: bool,
        share: Option<Share>,
    ) -> Result<Mapping, Refusal> {
        demand(self.is_handle(machine, region), Refusal::NoHandle)?;
        demand(region.pages <= machine.sizes().entries, Refusal::BadSize)?;
        let own = Owner::Domain(0);
        let owner = self.consent(share, Owner::Hypervisor, own, region, rights)?;
        self.demand_mappable(region, owner)?;
        for frame in region.frames() {
            // Programs may still use an earlier mapping of it.
            self.demand_settled(frame)?;
            let is_closed = self.kernel_entry(machine, frame) == Entry::Absent;
            demand(is_closed, Refusal::WindowTaken(frame))?;
        }
        let frame = region.first;
        Ok(Mapping { frame, rights, user, foreign: share.is_some() })
    }
}

/// Carrying out what was decided.
impl State {
    fn carry_out(&mut self, machine: &Machine, plan: Plan<'_>) {
        match plan {
            Plan::Nothing => {}
            Plan::Data(frame, value) => {
                if let Some(page) = self.pages.get_mut(frame.0 as usize)
                    && let Status::Environment(data) | Status::Normal(data) | Status::Io(data) =
                        &mut page.status
                {
                    *data = value;
                }
            }
            Plan::Status(frame, status) => self.set_status(frame, status),
            Plan::FreeDirectory(cpu, directory) => {
                if self.cr3(cpu) == directory {
                    self.load(machine, cpu, REFERENCE);
                }
                self.set_status(directory, Status::Supplied);
            }
            Plan::AddMapping { directory, page, level, mapping, tables } => {
                self.add_mapping(machine, directory, page, level, mapping, tables);
            }
            Plan::RemoveMapping { cpu, directory, page } => {
                self.remove_mapping(machine, cpu, directory, page);
            }
            Plan::ModifyMapping { cpu, directory, page, rights } => {
                let (entry, table, level) = self.walk(machine, directory, page, Level::FIRST);
                if let Entry::Page(before) = entry {
                    let index = machine.index(level, page);
                    let entry = Entry::Page(Mapping { rights, ..before });
                    self.set_entry(machine, table, level, index, entry);
                    self.owe_for(cpu, directory);
                    self.invalidate(machine, (cpu, directory), page, level, before);
                    self.forget_what_tables_say(machine);
                }
            }
            Plan::SplitMapping { cpu, directory, page, table } => {
                self.split_mapping(machine, cpu, directory, page, table);
            }
            Plan::AddKernelMapping { cpu, mapping, pages } => {
                for frame in (Region { first: mapping.frame, pages }).frames() {
                    let entry = Entry::Page(Mapping { frame, ..mapping });
                    self.set_kernel_entry(machine, frame, entry);
                }
                if mapping.user {
                    // Another processor may have cached that programs cannot use the page.
                    self.owe_all(machine, cpu);
                }
                self.forget_what_tables_say(machine);
            }
            Plan::RemoveKernelMapping { cpu, mapping, pages } => {
                let is_used_elsewhere = mapping.user && self.owe_all(machine, cpu);
                for frame in (Region { first: mapping.frame, pages }).frames() {
                    self.set_kernel_entry(machine, frame, Entry::Absent);
                    let first = machine.window(frame);
                    self.drop_page(machine, cpu, first);
                    if is_used_elsewhere {
                        self.wait(frame, 1);
                        let (level, rights) = (Level::FIRST, mapping.rights);
                        let others = machine.cpus().filter(|other| *other != cpu);
                        let stale =
                            others.map(|cpu| Stale::Page { cpu, first, level, frame, rights });
                        self.stale.extend(stale);
                    }
                }
                self.forget_what_tables_say(machine);
            }
            Plan::Load(cpu, directory) => self.load(machine, cpu, directory),
            Plan::Pay(cpu) => self.pay(machine, cpu),
            Plan::Owner(region, owner) => {
                if owner == Owner::Nobody {
                    for frame in region.frames() {
                        self.set_status(frame, Status::Normal(0));
                    }
                }
                self.set_owner(machine, region, owner);
            }
            Plan::Share(share) => self.add_share(share),
            Plan::EndShare(share) => self.remove_share(&share),
        }
    }

    fn set_status(&mut self, frame: Frame, status: Status) {
        if let Some(page) = self.pages.get_mut(frame.0 as usize) {
            page.status = status;
        }
    }

    fn add_mapping(
        &mut self,
        machine: &Machine,
        directory: Frame,
        page: VirtualPage,
        level: Level,
        mapping: Mapping,
        tables: &[Frame],
    ) {
        // From the lowest table up; the last entry is in the table that is there already.
        let (_, present, _) = self.walk(machine, directory, page, level);
        let mut entry = Entry::Page(mapping);
        let mut at = level;
        for table in tables.iter().rev() {
            self.set_status(*table, Status::PageTable(Table::empty(machine.entries(at))));
            self.set_entry(machine, *table, at, machine.index(at, page), entry);
            entry = Entry::Table(*table);
            at = at.above();
        }
        self.set_entry(machine, present, at, machine.index(at, page), entry);
        self.forget_what_tables_say(machine);
    }

    fn remove_mapping(&mut self, machine: &Machine, cpu: Cpu, directory: Frame, page: VirtualPage) {
        // The tables from the directory down to the entry.
        let mut path = vec![directory];
        let mut level = machine.root();
        let mapping = loop {
            let table = path[path.len() - 1];
            match self.entry(table, machine.index(level, page)) {
                Entry::Table(below) => path.push(below),
                Entry::Page(mapping) => break mapping,
                Entry::Absent => return,
            }
            level = level.below();
        };
        let is_used_elsewhere = self.owe_for(cpu, directory);
        let leaf = level;
        let mut freed = Vec::new();
        for table in path.into_iter().rev() {
            self.set_entry(machine, table, level, machine.index(level, page), Entry::Absent);
            let is_empty = self.status(table).table().is_some_and(Table::is_empty);
            if table == directory || !is_empty {
                break;
            }
            freed.push((table, level));
            level = level.above();
        }
        self.invalidate(machine, (cpu, directory), page, leaf, mapping);
        if is_used_elsewhere {
            self.wait(mapping.frame, machine.pages_of(leaf));
        }
        let must_flush = !freed.is_empty() && self.cr3(cpu) == directory;
        for (frame, level) in freed {
            if !machine.has(Layer::Tlb) {
                self.set_status(frame, Status::Supplied);
                continue;
            }
            self.set_status(frame, Status::Draining);
            let first = machine.first_of(level.above(), page);
            let others: Vec<Cpu> = self.others(cpu, directory).collect();
            let stale = others.into_iter().map(|cpu| Stale::Table { cpu, first, level, frame });
            self.stale.extend(stale);
            if is_used_elsewhere {
                self.wait(frame, 1);
            }
        }
        if must_flush {
            self.flush(machine, cpu);
        }
        self.forget_what_tables_say(machine);
    }

    fn split_mapping(
        &mut self,
        machine: &Machine,
        cpu: Cpu,
        directory: Frame,
        page: VirtualPage,
        table: Frame,
    ) {
        let (entry, above, level) = self.walk(machine, directory, page, Level::FIRST);
        let Entry::Page(mapping) = entry else {
            return;
        };
        let below = level.below();
        self.set_status(table, Status::PageTable(Table::empty(machine.entries(below))));
        let pages = u32::try_from(machine.pages_of(below)).unwrap_or(u32::MAX);
        for index in 0..machine.entries(below) {
            let frame = Frame(mapping.frame.0 + index * pages);
            let part = Entry::Page(Mapping { frame, ..mapping });
            self.set_entry(machine, table, below, index as usize, part);
        }
        self.set_entry(machine, above, level, machine.index(level, page), Entry::Table(table));
        if self.owe_for(cpu, directory) {
            self.wait(mapping.frame, machine.pages_of(level));
        }
        self.invalidate(machine, (cpu, directory), page, level, mapping);
        if self.cr3(cpu) == directory {
            self.flush(machine, cpu);
        }
        self.forget_what_tables_say(machine);
    }

    /// Makes `directory` the current one of `cpu`, which drops all translations of user space.
    fn load(&mut self, machine: &Machine, cpu: Cpu, directory: Frame) {
        if let Some(loaded) = self.cr3.get_mut(usize::from(cpu.0)) {
            *loaded = directory;
        }
        self.flush(machine, cpu);
    }

    /// Drops the translations of user space that `cpu` has cached.
    fn flush(&mut self, machine: &Machine, cpu: Cpu) {
        self.stale.retain(|stale| stale.cpu() != cpu || machine.is_kernel_page(stale.first()));
    }

    /// Drops all that `cpu` has cached, as it owes.
    fn pay(&mut self, machine: &Machine, cpu: Cpu) {
        self.stale.retain(|stale| stale.cpu() != cpu);
        let debts = Debts::of(cpu);
        self.owed = self.owed.without(debts);
        if machine.has(Layer::Tlb) {
            for page in &mut self.pages {
                page.waits = page.waits.without(debts);
            }
        }
    }

    /// Makes the processors other than `cpu` that translate with `directory` owe a flush.
    /// Returns whether there are any.
    fn owe_for(&mut self, cpu: Cpu, directory: Frame) -> bool {
        let debts = self.others(cpu, directory).map(Debts::of);
        let debts = debts.fold(Debts::NONE, Debts::with);
        self.owed = self.owed.with(debts);
        !debts.is_empty()
    }

    /// Makes all processors but `cpu` owe a flush of everything. Returns whether there are any.
    fn owe_all(&mut self, machine: &Machine, cpu: Cpu) -> bool {
        let others = machine.cpus().filter(|other| *other != cpu);
        let debts = others.map(Debts::of).fold(Debts::NONE, Debts::with);
        self.owed = self.owed.with(debts);
        !debts.is_empty()
    }

    /// Makes pages wait for all flushes that are owed now: those that are owed for longer come
    /// before the new ones, and are not told apart.
    fn wait(&mut self, first: Frame, pages: u64) {
        let owed = self.owed;
        let pages = usize::try_from(pages).unwrap_or(usize::MAX);
        for page in self.pages.iter_mut().skip(first.0 as usize).take(pages) {
            // A device's memory never becomes anything else.
            if !matches!(page.status, Status::Io(_)) {
                page.waits = owed;
            }
        }
    }

    /// Drops what `cpu` has cached of the mapping of `page`, if it translates with `directory`, and
    /// notes that the others that do may go on using it as it was.
    fn invalidate(
        &mut self,
        machine: &Machine,
        (cpu, directory): (Cpu, Frame),
        page: VirtualPage,
        level: Level,
        Mapping { frame, rights, .. }: Mapping,
    ) {
        let first = machine.first_of(level, page);
        if self.cr3(cpu) == directory {
            // What was asked for, of whatever size: not all that the mapping translates.
            self.drop_page(machine, cpu, page);
        }
        let others: Vec<Cpu> = self.others(cpu, directory).collect();
        let stale = others.into_iter();
        self.stale.extend(stale.map(|cpu| Stale::Page { cpu, first, level, frame, rights }));
    }

    /// Drops the translations of `page` that `cpu` has cached.
    fn drop_page(&mut self, machine: &Machine, cpu: Cpu, page: VirtualPage) {
        self.stale
            .retain(|stale| stale.cpu() != cpu || stale.pages(machine).all(|(at, ..)| at != page));
    }

    /// Brings what processors may use beyond the tables into order, without what the tables say
    /// (again).
    pub fn forget_what_tables_say(&mut self, machine: &Machine) {
        if self.stale.is_empty() {
            return;
        }
        let mut stale = std::mem::take(&mut self.stale);
        stale.sort_unstable();
        stale.dedup();
        stale.retain(|stale| !self.tables_say(machine, stale));
        let all = stale.clone();
        stale.retain(|one| !all.iter().any(|other| other != one && other.covers(one)));
        self.stale = stale;
    }

    /// Whether an entry of the tables says what a processor has cached, and allows as much.
    fn tables_say(&self, machine: &Machine, stale: &Stale) -> bool {
        match *stale {
            Stale::Page { cpu, first, level, frame, rights } => {
                let leaf = self.leaf(machine, self.cr3(cpu), first);
                leaf.is_some_and(|(mapping, at)| {
                    at == level
                        && mapping.user
                        && mapping.frame == frame
                        && mapping.rights.contains(rights)
                })
            }
            Stale::Table { cpu, first, level, frame } => {
                let (entry, _, reached) = self.walk(machine, self.cr3(cpu), first, level.above());
                reached == level.above() && entry == Entry::Table(frame)
            }
        }
    }
}

//! One HAL as an [`Implementation`]; which one, the module around this one says.

use std::fmt;
use std::sync::Arc;

use heliox_types::domain::{DomainId, Owner as HalOwner};
use heliox_types::error::{Error, Refused};
use heliox_types::flexpage::Flexpage;
use heliox_types::geometry::{Geometry, Level as HalLevel};
use heliox_types::mapping::Change;
use heliox_types::rights::{MemoryType, Rights as HalRights};
use heliox_types::status::Status as HalStatus;
use heliox_types::{Frame as HalFrame, FrameRange, PAGE_BITS, PhysicalAddress, VirtualAddress};

use super::hal::audit::{self, Duplicate, Handles};
use super::hal::cpu::{CpuIndex, CurrentCpu};
use super::hal::entry::{Entry as HalEntry, Host, RootKind};
use super::hal::kernel_mapping::KernelMapping;
use super::hal::machine::Machine as _;
use super::hal::memory::{KernelMemory, Ownership, Paging, PhysicalMemory, UserMemory};
use super::hal::page_map::{PageMap, PageMapPage, TableSupply};
use super::hal::region::PhysicalRegion;
use super::hal::share::Share as HalShare;
use super::hal::simulated::{Caching, Simulated, SimulatedMemory, Strictness};
use super::hal::translation::DrainingPage;
use crate::action::{Action, Through};
use crate::facts::{Facts, statement};
use crate::implementation::Implementation;
use crate::layers::Layer;
use crate::machine::{BadSizes, Cpu, Frame, Level, Machine, REFERENCE, VirtualPage};
use crate::state::{
    Debts, Entry, Mapping, Owner, Page, Region, Rights, Share, Stale, State, Status, Table,
};

/// Why an action was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The checks refused it.
    Checks(Error),
    /// There is no such handle, so that no client can ask for it.
    NoHandle,
    /// The hardware does not let a program do it.
    Fault,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Checks(error)
    }
}

/// Which frames of the simulated machine stand for which of the model's.
#[derive(Debug)]
struct Places {
    client: u64,
    device: u64,
    environment: u64,
    /// The state after the boot, most of which never changes.
    boot: State,
    /// For each frame of the model where its window is, if it has one.
    windows: Vec<Option<VirtualAddress>>,
}

/// A kernel mapping.
#[derive(Debug)]
struct Kernel {
    region: Region,
    rights: Rights,
    foreign: bool,
    handle: KernelMapping,
}

/// The checks, on a simulated machine, and a client kernel with all the handles that it holds.
#[derive(Debug)]
pub struct Checks<G: Geometry> {
    memory: SimulatedMemory<G>,
    places: Arc<Places>,
    maps: Vec<PageMap>,
    supplied: Vec<PageMapPage>,
    draining: Vec<DrainingPage>,
    shares: Vec<(Share, HalShare)>,
    kernel: Vec<Kernel>,
}

impl<G: Geometry> Clone for Checks<G> {
    fn clone(&self) -> Self {
        let kernel = |mapping: &Kernel| Kernel { handle: mapping.handle.duplicate(), ..*mapping };
        Self {
            memory: self.memory.clone(),
            places: Arc::clone(&self.places),
            maps: self.maps.iter().map(Duplicate::duplicate).collect(),
            supplied: self.supplied.iter().map(Duplicate::duplicate).collect(),
            draining: self.draining.iter().map(Duplicate::duplicate).collect(),
            shares: self.shares.iter().map(|(name, share)| (*name, share.duplicate())).collect(),
            kernel: self.kernel.iter().map(kernel).collect(),
        }
    }
}

/// Takes the handle for a frame out of a list that is in the order of frames.
fn take<T>(from: &mut Vec<T>, frame: HalFrame, name: impl Fn(&T) -> HalFrame) -> Option<T> {
    let at = from.binary_search_by_key(&frame, name).ok()?;
    Some(from.remove(at))
}

fn put<T>(into: &mut Vec<T>, handle: T, name: impl Fn(&T) -> HalFrame) {
    let at = into.partition_point(|other| name(other) < name(&handle));
    into.insert(at, handle);
}

fn rights(rights: Rights) -> HalRights {
    HalRights::readable_and(rights.write, rights.execute)
}

fn rights_from(rights: HalRights) -> Rights {
    Rights { write: rights.allows_write(), execute: rights.allows_execute() }
}

fn domain(number: u16) -> Result<DomainId, Refusal> {
    DomainId::new(number).ok_or(Refusal::NoHandle)
}

fn owner(owner: Owner) -> Result<HalOwner, Refusal> {
    Ok(match owner {
        Owner::Hypervisor => HalOwner::Hypervisor,
        Owner::Nobody => HalOwner::Nobody,
        Owner::Domain(number) => HalOwner::Domain(domain(number)?),
    })
}

const fn owner_from(owner: HalOwner) -> Owner {
    match owner {
        HalOwner::Hypervisor => Owner::Hypervisor,
        HalOwner::Nobody => Owner::Nobody,
        HalOwner::Domain(domain) => Owner::Domain(domain.number()),
    }
}

fn processor(cpu: Cpu) -> CurrentCpu {
    CurrentCpu::simulated(CpuIndex::new(cpu.0.into()).unwrap_or(CpuIndex::BOOT))
}

fn index_of(cpu: Cpu) -> CpuIndex {
    processor(cpu).index()
}

fn address(page: VirtualPage) -> Result<VirtualAddress, Refusal> {
    let address = page.0.checked_mul(1 << PAGE_BITS).and_then(VirtualAddress::new);
    address.ok_or(Refusal::NoHandle)
}

fn level<G: Geometry>(level: Level) -> HalLevel {
    HalLevel::new::<G>(level.0.into()).unwrap_or(HalLevel::FIRST)
}

fn level_from(level: HalLevel) -> Level {
    Level(u8::try_from(level.number()).unwrap_or(u8::MAX))
}

impl<G: Geometry> Checks<G> {
    /// The state after the boot of a machine with the sizes of `machine`. With `speculation`
    /// processors cache whatever they can find whenever memory changes, not only between actions.
    ///
    /// # Errors
    ///
    /// [`BadSizes`] if the simulated machine cannot have these sizes.
    pub fn boot(machine: &Machine, speculation: bool) -> Result<Self, BadSizes> {
        let impossible = BadSizes("the simulated machine's window has no room for so many frames");
        let (clients, devices) =
            (machine.clients().count() as u64, machine.devices().count() as u64);
        let environment = u64::from(machine.sizes().environment);
        let span = machine.pages_of(machine.largest_leaf());
        let wanted = machine.clients().next().map_or(0, |frame| u64::from(frame.0)) % span;
        // The tables below the window take frames, whose number depends on that of all frames.
        let build = |frames: u64, kernel_frames: u64| {
            let io = FrameRange::new(frames, frames + devices).filter(|range| !range.is_empty());
            let builder = Simulated::<G>::builder(frames)
                .kernel_frames(kernel_frames)
                .processors(machine.sizes().cpus.into())
                .largest_leaf(machine.largest_leaf().0.into())
                .caching(Caching { speculative: speculation, private_window: false })
                .strictness(Strictness::Collect);
            let builder = io.map_or(builder.clone(), |io| builder.io(io, MemoryType::Uncacheable));
            builder.build().ok()
        };
        let limit = environment + clients + 4 * span + 4 * (1 << G::INDEX_BITS) + clients / 2;
        let mut simulated = None;
        'search: for kernel_frames in environment..environment + 2 * span {
            for frames in clients + 1..clients + limit {
                let Some(found) = build(frames, kernel_frames) else {
                    continue;
                };
                let free = found.free_frames();
                if free.count() == clients && free.start() % span == wanted {
                    simulated = Some(found);
                    break 'search;
                }
                if free.count() >= clients {
                    break;
                }
            }
        }
        let simulated = simulated.ok_or(impossible.clone())?;
        let free = simulated.free_frames();
        let mut places = Places {
            client: free.start(),
            device: free.end(),
            environment: simulated.environment().end() - environment,
            boot: State::initial(machine),
            windows: Vec::new(),
        };
        let window = |frame| {
            let frame = places.frame(machine, frame)?;
            simulated.has_window(frame).then(|| simulated.visible_address(frame))
        };
        let windows = machine.all_frames().map(window).collect();
        places.windows = windows;
        let layout = simulated.boot_layout();
        let memory = SimulatedMemory::simulated(simulated, layout).map_err(|_| impossible)?;
        Ok(Self {
            memory,
            places: Arc::new(places),
            maps: Vec::new(),
            supplied: Vec::new(),
            draining: Vec::new(),
            shares: Vec::new(),
            kernel: Vec::new(),
        })
    }

    // --- Names ---

    fn hal_frame(&self, machine: &Machine, frame: Frame) -> Result<HalFrame, Refusal> {
        self.places.frame(machine, frame).ok_or(Refusal::NoHandle)
    }

    /// The handle of a region, as a client derives it from an initial one.
    fn region(&self, machine: &Machine, region: Region) -> Result<PhysicalRegion, Refusal> {
        let flexpage = self.flexpage(machine, region)?;
        let mut initial = self.memory.initial_regions();
        initial.find_map(|initial| initial.derive(flexpage).ok()).ok_or(Refusal::NoHandle)
    }

    fn flexpage(
        &self,
        machine: &Machine,
        region: Region,
    ) -> Result<Flexpage<heliox_types::flexpage::Physical>, Refusal> {
        if !region.pages.is_power_of_two() {
            return Err(Refusal::NoHandle);
        }
        let last = Frame(region.first.0.saturating_add(region.pages - 1));
        let (first, last) = (self.hal_frame(machine, region.first), self.hal_frame(machine, last));
        // A flexpage may begin or end outside of memory.
        let start = match (first, last) {
            (Ok(first), _) => first.number(),
            (_, Ok(last)) => last.number().saturating_sub(u64::from(region.pages - 1)),
            _ => return Err(Refusal::NoHandle),
        };
        let start = PhysicalAddress::new(start << PAGE_BITS).ok_or(Refusal::NoHandle)?;
        let bits = region.pages.trailing_zeros() + PAGE_BITS;
        Ok(Flexpage::physical(start, bits)?)
    }

    fn map_at(&self, machine: &Machine, directory: Frame) -> Result<usize, Refusal> {
        let root = self.hal_frame(machine, directory)?;
        let at = self.maps.binary_search_by_key(&root, PageMap::root);
        at.map_err(|_| Refusal::NoHandle)
    }

    fn share_at(&self, share: &Share) -> Result<usize, Refusal> {
        let at = self.shares.iter().position(|(name, _)| name == share);
        at.ok_or(Refusal::NoHandle)
    }

    /// Takes pages out for an operation that takes the last ones first.
    fn supply(&mut self, machine: &Machine, frames: &[Frame]) -> Result<TableSupply, Refusal> {
        let mut supply = TableSupply::EMPTY;
        for frame in frames.iter().rev() {
            let wanted = self.hal_frame(machine, *frame);
            let page =
                wanted.ok().and_then(|wanted| take(&mut self.supplied, wanted, PageMapPage::frame));
            let Some(page) = page else {
                self.put_back(supply);
                return Err(Refusal::NoHandle);
            };
            if let Err(page) = supply.add(page) {
                put(&mut self.supplied, page, PageMapPage::frame);
                self.put_back(supply);
                return Err(Refusal::NoHandle);
            }
        }
        Ok(supply)
    }

    fn put_back(&mut self, mut supply: TableSupply) {
        while let Some(page) = supply.take() {
            put(&mut self.supplied, page, PageMapPage::frame);
        }
    }

    // --- Operations ---

    fn operate(&mut self, machine: &Machine, action: &Action) -> Result<(), Refusal> {
        match action {
            Action::DeriveRegionH { from, to } => {
                let region = self.region(machine, *from)?;
                region.derive(self.flexpage(machine, *to)?)?;
            }
            Action::CreatePageMapPageH { region } => {
                let region = self.region(machine, *region)?;
                let page = self.memory.create_page_map_page(region)?;
                put(&mut self.supplied, page, PageMapPage::frame);
            }
            Action::ReleasePageMapPageH { frame } => {
                let frame = self.hal_frame(machine, *frame)?;
                let page = take(&mut self.supplied, frame, PageMapPage::frame);
                let page = page.ok_or(Refusal::NoHandle)?;
                self.memory.release_page_map_page(processor(Cpu(0)), page);
            }
            Action::AllocatePageDirectoryH { frame } => {
                let frame = self.hal_frame(machine, *frame)?;
                let page = take(&mut self.supplied, frame, PageMapPage::frame);
                match self.memory.allocate_page_map(page.ok_or(Refusal::NoHandle)?) {
                    Ok(map) => put(&mut self.maps, map, PageMap::root),
                    Err(Refused { handle, error }) => {
                        put(&mut self.supplied, handle, PageMapPage::frame);
                        return Err(error.into());
                    }
                }
            }
            Action::FreePageDirectoryH { cpu, directory } => {
                let at = self.map_at(machine, *directory)?;
                let map = self.maps.remove(at);
                match self.memory.free_page_map(processor(*cpu), map) {
                    Ok(page) => put(&mut self.supplied, page, PageMapPage::frame),
                    Err(Refused { handle, error }) => {
                        self.maps.insert(at, handle);
                        return Err(error.into());
                    }
                }
            }
            Action::AddMappingH { directory, supply, region, page, rights: asked, share } => {
                let at = self.map_at(machine, *directory)?;
                let region = self.region(machine, *region)?;
                let to = address(*page)?;
                let share = share.as_ref().map(|share| self.share_at(share)).transpose()?;
                let mut supply = self.supply(machine, supply)?;
                let share = share.map(|at| &self.shares[at].1);
                let map = &mut self.maps[at];
                let asked = rights(*asked);
                let result = self.memory.add_mapping(map, to, region, asked, share, &mut supply);
                self.put_back(supply);
                result?;
            }
            Action::RemoveMappingH { cpu, directory, page } => {
                let at = self.map_at(machine, *directory)?;
                let map = &mut self.maps[at];
                let removed = self.memory.remove_mapping(processor(*cpu), map, address(*page)?)?;
                for table in removed.tables {
                    put(&mut self.draining, table, DrainingPage::frame);
                }
                if !machine.has(Layer::Tlb) {
                    while let Some(table) = self.draining.pop() {
                        self.reclaim(table)?;
                    }
                }
            }
            Action::ModifyMappingH { cpu, directory, page, rights: asked } => {
                let at = self.map_at(machine, *directory)?;
                let map = &mut self.maps[at];
                let change = Change::Rights(rights(*asked));
                let page = address(*page)?;
                let _ = self.memory.modify_mapping(processor(*cpu), map, page, change)?;
            }
            Action::SplitMappingH { cpu, directory, supply, page } => {
                let at = self.map_at(machine, *directory)?;
                let page = address(*page)?;
                let mut supply = self.supply(machine, supply)?;
                let map = &mut self.maps[at];
                let result = self.memory.split_mapping(processor(*cpu), map, page, &mut supply);
                self.put_back(supply);
                let _ = result?;
            }
            Action::AddKernelMappingH { cpu, region: name, rights: asked, user, share } => {
                let region = self.region(machine, *name)?;
                let share_at = share.as_ref().map(|share| self.share_at(share)).transpose()?;
                let given = share_at.map(|at| &self.shares[at].1);
                let handle = self.memory.add_kernel_mapping(
                    processor(*cpu),
                    region,
                    rights(*asked),
                    *user,
                    given,
                )?;
                let foreign = share.is_some();
                let mapping = Kernel { region: *name, rights: *asked, foreign, handle };
                let at = self.kernel.partition_point(|other| other.region < *name);
                self.kernel.insert(at, mapping);
            }
            Action::RemoveKernelMappingH { cpu, region } => {
                let at = self.kernel.iter().position(|mapping| mapping.region == *region);
                let mapping = self.kernel.remove(at.ok_or(Refusal::NoHandle)?);
                let _ = self.memory.remove_kernel_mapping(processor(*cpu), mapping.handle);
            }
            Action::ExecuteH { cpu, directory } => {
                if *directory == REFERENCE {
                    self.memory.load_reference(processor(*cpu));
                } else {
                    let at = self.map_at(machine, *directory)?;
                    let held = self.memory.attach(&self.maps[at])?;
                    self.memory.load(processor(*cpu), &held);
                    self.memory.detach(held);
                }
            }
            Action::EnterH { cpu } => self.memory.enter(processor(*cpu)),
            Action::ReclaimH { frame } => {
                let frame = self.hal_frame(machine, *frame)?;
                let page = take(&mut self.draining, frame, DrainingPage::frame);
                self.reclaim(page.ok_or(Refusal::NoHandle)?)?;
            }
            Action::AssignH { region, to } => {
                let region = self.region(machine, *region)?;
                self.memory.assign(region, domain(*to)?)?;
            }
            Action::ReleaseH { region, from } => {
                let region = self.region(machine, *region)?;
                self.memory.release(processor(Cpu(0)), region, domain(*from)?)?;
            }
            Action::ShareH { share } => {
                let region = self.region(machine, share.region)?;
                let (from, to) = (domain(share.owner)?, owner(share.grantee)?);
                let handle = self.memory.share(region, from, to, rights(share.rights))?;
                let at = self.shares.partition_point(|(name, _)| name < share);
                self.shares.insert(at, (*share, handle));
            }
            Action::EndShareH { share } => {
                let at = self.share_at(share)?;
                self.memory.end_share(self.shares.remove(at).1);
            }
            Action::WriteE { page, value, .. } => {
                let frame = page.0.checked_sub(machine.user_space());
                let frame = frame.and_then(|frame| u32::try_from(frame).ok()).map(Frame);
                let frame = frame.filter(|frame| machine.is_environment(*frame));
                let frame = self.hal_frame(machine, frame.ok_or(Refusal::Fault)?)?;
                self.write(frame, *value);
            }
            Action::WriteK { page, value, .. } => {
                let mapping = self.kernel.iter().find_map(|mapping| {
                    let at =
                        mapping.region.frames().position(|frame| machine.window(frame) == *page);
                    Some((mapping, at?))
                });
                let (mapping, at) = mapping.ok_or(Refusal::Fault)?;
                let word = mapping.handle.word(at << (PAGE_BITS - 3))?;
                self.memory.write_word(word, (*value).into())?;
            }
            Action::WriteU { owner, cpu, page, value, through } => {
                let root = self.memory.machine().root(index_of(*cpu));
                if owner_from(self.memory.state().owner(root)) != Owner::Domain(*owner) {
                    return Err(Refusal::Fault);
                }
                let frame = self.program_reaches(machine, *cpu, *page, *through);
                self.write(frame.ok_or(Refusal::Fault)?, *value);
            }
            Action::WriteD { frame, value } => {
                if !machine.is_device(*frame) {
                    return Err(Refusal::NoHandle);
                }
                let frame = self.hal_frame(machine, *frame)?;
                self.write(frame, *value);
            }
        }
        Ok(())
    }

    fn reclaim(&mut self, page: DrainingPage) -> Result<(), Refusal> {
        match self.memory.reclaim(page) {
            Ok(page) => put(&mut self.supplied, page, PageMapPage::frame),
            Err(Refused { handle, error }) => {
                put(&mut self.draining, handle, DrainingPage::frame);
                return Err(error.into());
            }
        }
        Ok(())
    }

    // --- Hardware ---

    fn write(&mut self, frame: HalFrame, value: u8) {
        self.memory.machine_mut().poke(frame, 0, value.into());
    }

    /// The frame that a program reaches when it writes to a page.
    fn program_reaches(
        &self,
        machine: &Machine,
        cpu: Cpu,
        page: VirtualPage,
        through: Through,
    ) -> Option<HalFrame> {
        let simulated = self.memory.machine();
        let cpu = index_of(cpu);
        let at = self.places.address(machine, page)?;
        match through {
            Through::Tables => {
                let found = simulated.translation(simulated.root(cpu), at)?;
                let part = (at.get() >> PAGE_BITS) & (found.level.frames::<G>() - 1);
                let allowed = found.allowed.user && found.allowed.write;
                allowed.then_some(found.frame.checked_add(part)?)
            }
            Through::Cache(wanted) => {
                let wanted = self.places.frame(machine, wanted)?;
                let reachable = simulated.reachable(cpu);
                let mut stale = reachable
                    .pages
                    .iter()
                    .filter(|found| found.stale && found.user && found.rights.allows_write());
                let leads_there = stale.any(|found| {
                    let part = at.get().wrapping_sub(found.address.get()) >> PAGE_BITS;
                    part < found.level.frames::<G>()
                        && found.frame.checked_add(part) == Some(wanted)
                });
                leads_there.then_some(wanted)
            }
        }
    }

    fn cache_everything(&mut self, machine: &Machine) {
        if machine.has(Layer::Tlb) && machine.sizes().cpus > 1 {
            for cpu in machine.cpus() {
                self.memory.machine_mut().prefetch(index_of(cpu));
            }
        }
    }

    // --- Abstraction ---

    fn debts(&self, cpus: impl Iterator<Item = CpuIndex>) -> Debts {
        let debts = cpus.map(|cpu| Debts::of(Cpu(u8::try_from(cpu.get()).unwrap_or(u8::MAX))));
        debts.fold(Debts::NONE, Debts::with)
    }

    fn entry(&self, machine: &Machine, at: Level, entry: HalEntry) -> Entry {
        let frame = || self.places.frame_from(machine, Host::frame(entry));
        if !Host::is_present(entry) {
            Entry::Absent
        } else if at > Level::FIRST && Host::is_table(entry) {
            Entry::Table(frame())
        } else {
            let attributes = Host::attributes(entry);
            Entry::Page(Mapping {
                frame: frame(),
                rights: rights_from(attributes.rights),
                user: entry.0 & Host::USER != 0,
                foreign: attributes.foreign,
            })
        }
    }

    /// The levels of all tables that roots lead to.
    fn levels(&self, machine: &Machine) -> Vec<(HalFrame, Level)> {
        let simulated = self.memory.machine();
        let mut found = Vec::new();
        let mut waiting: Vec<(HalFrame, Level)> =
            self.maps.iter().map(|map| (map.root(), machine.root())).collect();
        while let Some((table, level)) = waiting.pop() {
            let is_root = level == machine.root();
            if !is_root {
                found.push((table, level));
            }
            if level == Level::FIRST {
                continue;
            }
            let end = if is_root { G::USER_ENTRIES } else { G::ENTRIES };
            for index in 0..end {
                let entry = HalEntry(simulated.peek(table, index));
                if Host::is_present(entry) && Host::is_table(entry) {
                    waiting.push((Host::frame(entry), level.below()));
                }
            }
        }
        found
    }

    fn has_kernel_half(&self, root: HalFrame) -> bool {
        let simulated = self.memory.machine();
        let entry = |root, index| simulated.peek(root, index) & !(Host::ACCESSED | Host::DIRTY);
        (G::USER_ENTRIES..G::ENTRIES)
            .all(|index| entry(root, index) == entry(simulated.reference_root(), index))
    }

    /// What is at the window page of a frame, besides what is the HAL's own.
    fn window_entry(&self, machine: &Machine, frame: Frame, status: &Status) -> Entry {
        let simulated = self.memory.machine();
        let window = self.places.windows.get(frame.0 as usize).copied().flatten();
        let found = window.and_then(|at| simulated.translation(simulated.reference_root(), at));
        let environments = Mapping { frame, rights: Rights::ALL, user: false, foreign: false };
        let Some(found) = found else {
            let is_environments = matches!(status, Status::Environment(_));
            return if is_environments { Entry::Page(environments) } else { Entry::Absent };
        };
        let is_own = !matches!(status, Status::Normal(_) | Status::Io(_));
        let user = found.allowed.user;
        if is_own && !user && machine.is_client(frame) {
            return Entry::Absent;
        }
        let holder =
            self.kernel.iter().find(|mapping| mapping.region.contains(Region::page(frame)));
        let in_force = Rights { write: found.allowed.write, execute: found.allowed.execute };
        Entry::Page(Mapping {
            frame: self.places.frame_from(machine, found.frame),
            rights: holder.filter(|_| !user).map_or(in_force, |holder| holder.rights),
            user,
            foreign: holder.is_some_and(|holder| holder.foreign),
        })
    }

    fn status(
        &self,
        machine: &Machine,
        frame: HalFrame,
        reference: &Table,
        levels: &[(HalFrame, Level)],
    ) -> Status {
        let simulated = self.memory.machine();
        #[allow(clippy::cast_possible_truncation, reason = "what is written is a byte")]
        let data = || simulated.peek(frame, 0) as u8;
        // What the model takes to be clear has to be.
        let clear = |status| match simulated.is_clear(frame) {
            true => status,
            false => Status::NotInstalled,
        };
        match self.memory.state().page(frame).status() {
            HalStatus::NotInstalled if frame.number() >= self.places.device => Status::Io(data()),
            HalStatus::NotInstalled | HalStatus::Mixed => Status::NotInstalled,
            HalStatus::Environment => Status::Environment(data()),
            HalStatus::Normal => Status::Normal(data()),
            HalStatus::Io => Status::Io(data()),
            HalStatus::PageMapPage => clear(Status::Supplied),
            HalStatus::Draining => clear(Status::Draining),
            HalStatus::PageMapRoot => {
                let user = machine.sizes().user_entries as usize;
                let kernel = self.has_kernel_half(frame);
                let entry = |index: usize| match index < user {
                    true => {
                        let entry = HalEntry(simulated.peek(frame, index));
                        self.entry(machine, machine.root(), entry)
                    }
                    false if kernel => reference.get(index),
                    false => Entry::Absent,
                };
                let entries = 0..machine.root_entries() as usize;
                Status::PageDirectory(Table::new(entries.map(entry).collect()))
            }
            HalStatus::PageTable => {
                let level = levels.iter().find(|(table, _)| *table == frame);
                let level = level.map_or(Level::FIRST, |(_, level)| *level);
                let entry =
                    |index| self.entry(machine, level, HalEntry(simulated.peek(frame, index)));
                let entries = 0..machine.entries(level) as usize;
                Status::PageTable(Table::new(entries.map(entry).collect()))
            }
        }
    }

    fn stale(&self, machine: &Machine, cpu: Cpu) -> Vec<Stale> {
        let simulated = self.memory.machine();
        let reachable = simulated.reachable(index_of(cpu));
        let mut stale = Vec::new();
        for page in reachable.pages.iter().filter(|page| page.stale && page.user) {
            stale.push(Stale::Page {
                cpu,
                first: self.places.page_from(machine, page.address),
                level: level_from(page.level),
                frame: self.places.frame_from(machine, page.frame),
                rights: rights_from(page.rights),
            });
        }
        for table in simulated.cached_tables(index_of(cpu)) {
            // A position that the tables say too is dropped by `forget_what_tables_say`.
            stale.push(Stale::Table {
                cpu,
                first: VirtualPage(table.page),
                level: level_from(table.level),
                frame: self.places.frame_from(machine, table.table),
            });
        }
        stale
    }
}

impl Places {
    fn frame(&self, machine: &Machine, frame: Frame) -> Option<HalFrame> {
        let place =
            |begin: u64, first: Option<Frame>| HalFrame::new(begin + u64::from(frame.0 - first?.0));
        if frame == REFERENCE {
            HalFrame::new(0)
        } else if machine.is_client(frame) {
            place(self.client, machine.clients().next())
        } else if machine.is_device(frame) {
            place(self.device, machine.devices().next())
        } else if machine.is_environment(frame) {
            place(self.environment, machine.environment().next())
        } else {
            None
        }
    }

    /// The frame that one of the simulated machine's stands for: a table of kernel space if it is
    /// none of the others.
    fn frame_from(&self, machine: &Machine, frame: HalFrame) -> Frame {
        let number = frame.number();
        let place = |begin: u64, count: usize, first: Option<Frame>| {
            let offset = number.checked_sub(begin).filter(|offset| *offset < count as u64)?;
            Some(Frame(first?.0 + u32::try_from(offset).ok()?))
        };
        let sizes = machine.sizes();
        if number == 0 {
            return REFERENCE;
        }
        place(self.client, sizes.pages as usize, machine.clients().next())
            .or_else(|| place(self.device, sizes.devices as usize, machine.devices().next()))
            .or_else(|| {
                place(self.environment, sizes.environment as usize, machine.environment().next())
            })
            .unwrap_or(Frame(1))
    }

    /// Where a page of the model's is.
    fn address(&self, machine: &Machine, page: VirtualPage) -> Option<VirtualAddress> {
        if !machine.is_kernel_page(page) {
            return address(page).ok();
        }
        let frame = usize::try_from(page.0 - machine.user_space()).ok()?;
        self.windows.get(frame).copied().flatten()
    }

    fn page_from(&self, machine: &Machine, at: VirtualAddress) -> VirtualPage {
        let page = VirtualPage(at.get() >> PAGE_BITS);
        if !machine.is_kernel_page(page) {
            return page;
        }
        let frame = self.windows.iter().position(|window| *window == Some(at));
        // Frame 0 has no window that a program could use.
        let frame = frame.and_then(|frame| u32::try_from(frame).ok()).unwrap_or(0);
        machine.window(Frame(frame))
    }
}

impl<G: Geometry + Send + Sync> Implementation for Checks<G> {
    type Refusal = Refusal;

    fn apply(&mut self, machine: &Machine, action: &Action) -> Result<(), Refusal> {
        if let Some(cpu) = action.cpu() {
            self.memory.machine_mut().set_current(processor(cpu));
        }
        let result = self.operate(machine, action);
        if result.is_ok() {
            self.cache_everything(machine);
        }
        self.memory.machine_mut().set_current(processor(Cpu(0)));
        result
    }

    fn abstraction(&self, machine: &Machine) -> State {
        let mut state = self.places.boot.clone();
        let levels = self.levels(machine);
        let reference = match state.status(REFERENCE) {
            Status::PageDirectory(table) => table.clone(),
            _ => Table::empty(0),
        };
        let all = || self.memory.owing_cpus();
        state.owed = self.debts(all());
        for frame in machine.environment().chain(machine.clients()).chain(machine.devices()) {
            let Some(at) = self.places.frame(machine, frame) else {
                continue;
            };
            let status = self.status(machine, at, &reference, &levels);
            let window = self.window_entry(machine, frame, &status);
            let since = match &status {
                Status::Draining => {
                    let page = self.draining.iter().find(|page| page.frame() == at);
                    page.map(DrainingPage::invalidation)
                }
                Status::Normal(_) => Some(audit::last_removal(&self.memory, at)),
                _ => None,
            };
            let waits = since.map(|since| audit::owing_since(&self.memory, since));
            let waits = waits.map_or(Debts::NONE, |cpus| self.debts(cpus));
            // Device memory past the RAM has no records, and is domain 0's.
            let is_device = matches!(status, Status::Io(_));
            let owner = match self.memory.state().owner(at) {
                HalOwner::Hypervisor if is_device => Owner::Domain(0),
                owner => owner_from(owner),
            };
            if let Some(page) = state.pages.get_mut(frame.0 as usize) {
                *page = Page { status, owner, waits, references: 0 };
            }
            if window != state.kernel_entry(machine, frame) {
                state.set_kernel_entry(machine, frame, window);
            }
        }
        for (cpu, loaded) in machine.cpus().zip(&mut state.cr3) {
            let root = self.memory.machine().root(index_of(cpu));
            *loaded = self.places.frame_from(machine, root);
        }
        state.shares = self.shares.iter().map(|(name, _)| *name).collect();
        for at in (2..=machine.largest_leaf().0).map(Level) {
            let step = usize::try_from(machine.pages_of(at)).unwrap_or(usize::MAX);
            for unit in machine.clients().step_by(step).filter_map(|frame| machine.unit(at, frame))
            {
                let recorded = self
                    .places
                    .frame(machine, unit.first)
                    .and_then(|frame| audit::owner_of_unit(&self.memory, level::<G>(at), frame));
                if recorded.map(owner_from) != Some(state.owner(unit.first)) {
                    state.divided.push(unit);
                }
            }
        }
        state.divided.sort_unstable();
        state.recount(machine);
        if machine.has(Layer::Tlb) && machine.sizes().cpus > 1 {
            state.stale = machine.cpus().flat_map(|cpu| self.stale(machine, cpu)).collect();
            state.forget_what_tables_say(machine);
        }
        state
    }

    fn is_same(&self, other: &Self) -> bool {
        let names = |checks: &Self| -> Vec<Region> {
            checks.kernel.iter().map(|mapping| mapping.region).collect()
        };
        self.memory.state() == other.memory.state()
            && self.memory.machine() == other.memory.machine()
            && self.maps.iter().map(PageMap::root).eq(other.maps.iter().map(PageMap::root))
            && self.supplied == other.supplied
            && self.draining == other.draining
            && self.shares == other.shares
            && names(self) == names(other)
    }

    fn remembers(&self, machine: &Machine, state: &State, facts: &mut Facts) {
        // Counts follow from tables, handles and shares: only what does not agree needs mention.
        for frame in machine.clients() {
            let Some(at) = self.places.frame(machine, frame) else {
                continue;
            };
            let (expected, levels) = match state.status(frame) {
                Status::Normal(_) => {
                    let references = state.page(frame).map_or(0, |page| page.references);
                    (references, machine.largest_leaf().0)
                }
                Status::PageTable(table) => {
                    let present = |entry: &&Entry| **entry != Entry::Absent;
                    (table.entries().iter().filter(present).count() as u32, 1)
                }
                Status::PageDirectory(table) => {
                    let user = table.entries().iter().take(machine.sizes().user_entries as usize);
                    (user.filter(|entry| **entry != Entry::Absent).count() as u32, 1)
                }
                _ => (0, 1),
            };
            let counts = (1..=levels).map(Level).filter_map(|at_level| {
                // A larger page that is mixed counts something else.
                let unit = machine.unit(at_level, frame)?;
                let normal = |frame: Frame| matches!(state.status(frame), Status::Normal(_));
                (at_level == Level::FIRST || unit.frames().all(normal))
                    .then(|| audit::count_of_unit(&self.memory, level::<G>(at_level), at))
            });
            let counted: u32 = counts.sum();
            if counted != expected {
                facts.add_of(statement!("counted", counted), frame);
            }
        }
        // Of larger pages that are not normal those pages are counted that are not.
        for at_level in (2..=machine.largest_leaf().0).map(Level) {
            let step = usize::try_from(machine.pages_of(at_level)).unwrap_or(usize::MAX);
            let units = machine.clients().step_by(step);
            for unit in units.filter_map(|frame| machine.unit(at_level, frame)) {
                let special =
                    unit.frames().filter(|f| !matches!(state.status(*f), Status::Normal(_)));
                let special = special.count() as u32;
                let counted = self.places.frame(machine, unit.first).map_or(0, |frame| {
                    audit::count_of_unit(&self.memory, level::<G>(at_level), frame)
                });
                if special > 0 && counted != special {
                    facts.add_of(statement!("special", counted, at_level.0), unit.first);
                }
            }
        }
        for cpu in machine.cpus() {
            let (root, recorded) = (state.cr3(cpu), audit::loaded(&self.memory, index_of(cpu)));
            let recorded = recorded.map(|frame| self.places.frame_from(machine, frame));
            if let Some(recorded) = recorded.filter(|recorded| *recorded != root) {
                facts.add_of(statement!("recorded", cpu.0), recorded);
            }
        }
    }

    fn complaint(&mut self) -> Option<String> {
        let violations = self.memory.machine_mut().take_violations();
        let found = violations.iter().find(|violation| violation.stale_use_of().is_none());
        found.map(ToString::to_string)
    }

    fn audit(&self) -> Result<(), String> {
        let handles = Handles {
            page_maps: self.maps.iter().collect(),
            nested: Vec::new(),
            uses: Vec::new(),
            pages: self.supplied.iter().collect(),
            draining: self.draining.iter().collect(),
            shares: self.shares.iter().map(|(_, share)| share).collect(),
            kernel_mappings: self.kernel.iter().map(|mapping| &mapping.handle).collect(),
        };
        let result = audit::check(&self.memory, &handles);
        result.map_err(|(invariant, found)| format!("{invariant}: {found}"))
    }
}

//! The actions of the mended model: the ten of the thesis (Table 5.2), and those of its layers.

use std::fmt;

use crate::layers::Layer;
use crate::machine::{Cpu, Frame, Level, Machine, VirtualPage};
use crate::policy;
use crate::state::{Data, Entry, Mapping, Owner, Region, Rights, Share, State, Status};

/// A protection domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// The execution environment: the kernel's own code, data and heap.
    E,
    /// The H interface: the hardware abstraction layer.
    H,
    /// The client kernel.
    K,
    /// The programs of one owner.
    U(u16),
    /// The devices.
    D,
}

impl Domain {
    /// The letter that names all domains of a kind.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::E => 'E',
            Self::H => 'H',
            Self::K => 'K',
            Self::U(_) => 'U',
            Self::D => 'D',
        }
    }

    /// The domains of a machine.
    #[must_use]
    pub fn all(machine: &Machine) -> Vec<Self> {
        let devices = machine.has(Layer::Devices).then_some(Self::D);
        let programs = machine.domains().map(Self::U);
        [Self::E, Self::H, Self::K].into_iter().chain(programs).chain(devices).collect()
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U(number) => write!(formatter, "U{number}"),
            other => write!(formatter, "{}", other.letter()),
        }
    }
}

/// Which of the translations that a processor may use it does use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Through {
    /// What the tables say.
    Tables,
    /// What it cached and the tables do not say any more, and leads to this frame.
    Cache(Frame),
}

/// An action, with its arguments.
///
/// Handles that a client cannot forge are named by what they stand for: a page map by its
/// directory, a page-map page by its frame. An action with a handle that does not exist has no
/// successor.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(clippy::enum_variant_names, reason = "the thesis ends each name with its domain")]
pub enum Action {
    /// The environment writes to its memory, at a page of kernel space.
    WriteE {
        /// The processor that does it.
        cpu: Cpu,
        /// Where.
        page: VirtualPage,
        /// What.
        value: Data,
    },
    /// Derives a region from one that lies in an initial region.
    DeriveRegionH {
        /// The region that the handle names.
        from: Region,
        /// The region that is wanted.
        to: Region,
    },
    /// Turns a free page into a page-map page, and clears it.
    CreatePageMapPageH {
        /// The page.
        region: Region,
    },
    /// Turns a page-map page that is in no page map into a free page, which is clear.
    ReleasePageMapPageH {
        /// The page.
        frame: Frame,
    },
    /// Turns a page-map page into an empty page directory.
    AllocatePageDirectoryH {
        /// The page.
        frame: Frame,
    },
    /// Turns a page directory without mappings into a page-map page. If the processor
    /// translates with it, that goes over to the reference directory.
    FreePageDirectoryH {
        /// The processor that does it.
        cpu: Cpu,
        /// The directory.
        directory: Frame,
    },
    /// Maps a region for programs.
    AddMappingH {
        /// Where.
        directory: Frame,
        /// Page-map pages for tables, of which those from the end are taken, the lowest table
        /// first.
        supply: Vec<Frame>,
        /// What.
        region: Region,
        /// At which page.
        page: VirtualPage,
        /// With which rights.
        rights: Rights,
        /// The consent of the owner, if that is another than the directory's.
        share: Option<Share>,
    },
    /// Removes the mapping that translates a page, whatever its size. Tables that become empty
    /// are taken out.
    RemoveMappingH {
        /// The processor that does it.
        cpu: Cpu,
        /// Where.
        directory: Frame,
        /// A page of the mapping.
        page: VirtualPage,
    },
    /// Changes the rights of the mapping that translates a page.
    ModifyMappingH {
        /// The processor that does it.
        cpu: Cpu,
        /// Where.
        directory: Frame,
        /// A page of the mapping.
        page: VirtualPage,
        /// The new rights.
        rights: Rights,
    },
    /// Replaces a mapping of a larger page by mappings of the next smaller pages.
    SplitMappingH {
        /// The processor that does it.
        cpu: Cpu,
        /// Where.
        directory: Frame,
        /// Page-map pages, of which the last is taken.
        supply: Vec<Frame>,
        /// A page of the mapping.
        page: VirtualPage,
    },
    /// Maps memory for the client kernel, each page at its window page.
    AddKernelMappingH {
        /// The processor that does it.
        cpu: Cpu,
        /// The memory.
        region: Region,
        /// With which rights.
        rights: Rights,
        /// Whether programs may use it too.
        user: bool,
        /// The consent of the owner, if that is not domain 0.
        share: Option<Share>,
    },
    /// Removes a kernel mapping.
    RemoveKernelMappingH {
        /// The processor that does it.
        cpu: Cpu,
        /// What it maps.
        region: Region,
    },
    /// Makes a processor translate with a directory, or with the reference directory.
    ExecuteH {
        /// The processor.
        cpu: Cpu,
        /// The directory.
        directory: Frame,
    },
    /// Drops what a processor owes to drop.
    EnterH {
        /// The processor.
        cpu: Cpu,
    },
    /// Turns a freed table that no processor can walk through any more into a page-map page.
    ReclaimH {
        /// The table.
        frame: Frame,
    },
    /// Gives memory of nobody to a domain.
    AssignH {
        /// The memory.
        region: Region,
        /// The domain.
        to: u16,
    },
    /// Takes memory from a domain, and clears it.
    ReleaseH {
        /// The memory.
        region: Region,
        /// The domain.
        from: u16,
    },
    /// Lets another map memory.
    ShareH {
        /// What is shared, by whom, with whom, with which rights at most.
        share: Share,
    },
    /// Ends a share.
    EndShareH {
        /// The share.
        share: Share,
    },
    /// The client kernel writes to memory that is mapped for it.
    WriteK {
        /// The processor that does it.
        cpu: Cpu,
        /// Where, in kernel space.
        page: VirtualPage,
        /// What.
        value: Data,
    },
    /// A program writes.
    WriteU {
        /// The owner of the program.
        owner: u16,
        /// The processor that runs it.
        cpu: Cpu,
        /// Where.
        page: VirtualPage,
        /// What.
        value: Data,
        /// By which of two translations, if there are two.
        through: Through,
    },
    /// What can be read from a device's memory changes.
    WriteD {
        /// The page.
        frame: Frame,
        /// To what.
        value: Data,
    },
}

/// The kind of an action: its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Kind {
    /// Its place among all kinds.
    pub number: usize,
    /// Its name.
    pub name: &'static str,
    /// The letter of its domain.
    pub domain: char,
    /// Whether it is one of the ten actions of Table 5.2.
    pub is_in_thesis: bool,
}

macro_rules! kinds {
    ($($variant:ident $domain:literal $thesis:literal,)*) => {
        /// The names of all kinds of actions, in the order of [`Kind::number`].
        const KINDS: &[(&str, char, bool)] = &[$((stringify!($variant), $domain, $thesis)),*];

        impl Action {
            /// The action's kind.
            #[must_use]
            pub fn kind(&self) -> Kind {
                #[allow(non_camel_case_types, clippy::enum_variant_names, reason = "a list")]
                enum Number { $($variant),* }
                let number = match self { $(Self::$variant { .. } => Number::$variant as usize),* };
                Kind::ALL[number]
            }
        }

        impl Kind {
            /// Number of kinds.
            pub const COUNT: usize = KINDS.len();
        }
    };
}

kinds! {
    WriteE 'E' true,
    DeriveRegionH 'H' true,
    AllocatePageDirectoryH 'H' true,
    FreePageDirectoryH 'H' true,
    AddMappingH 'H' true,
    RemoveMappingH 'H' true,
    AddKernelMappingH 'H' true,
    ExecuteH 'H' true,
    WriteK 'K' true,
    WriteU 'U' true,
    CreatePageMapPageH 'H' false,
    ReleasePageMapPageH 'H' false,
    ModifyMappingH 'H' false,
    SplitMappingH 'H' false,
    RemoveKernelMappingH 'H' false,
    EnterH 'H' false,
    ReclaimH 'H' false,
    AssignH 'H' false,
    ReleaseH 'H' false,
    ShareH 'H' false,
    EndShareH 'H' false,
    WriteD 'D' false,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; Self::COUNT] = {
        let mut all = [Self { number: 0, name: "", domain: ' ', is_in_thesis: false }; Self::COUNT];
        let mut number = 0;
        while number < Self::COUNT {
            let (name, domain, is_in_thesis) = KINDS[number];
            all[number] = Self { number, name, domain, is_in_thesis };
            number += 1;
        }
        all
    };
}

impl Action {
    /// The processor that carries it out, if that makes a difference.
    #[must_use]
    pub const fn cpu(&self) -> Option<Cpu> {
        match self {
            Self::WriteE { cpu, .. }
            | Self::FreePageDirectoryH { cpu, .. }
            | Self::RemoveMappingH { cpu, .. }
            | Self::ModifyMappingH { cpu, .. }
            | Self::SplitMappingH { cpu, .. }
            | Self::AddKernelMappingH { cpu, .. }
            | Self::RemoveKernelMappingH { cpu, .. }
            | Self::ExecuteH { cpu, .. }
            | Self::EnterH { cpu }
            | Self::WriteK { cpu, .. }
            | Self::WriteU { cpu, .. } => Some(*cpu),
            _ => None,
        }
    }

    /// The domain that the action belongs to (`dom`).
    #[must_use]
    pub const fn dom(&self) -> Domain {
        match self {
            Self::WriteE { .. } => Domain::E,
            Self::WriteK { .. } => Domain::K,
            Self::WriteU { owner, .. } => Domain::U(*owner),
            Self::WriteD { .. } => Domain::D,
            _ => Domain::H,
        }
    }
}

/// What a search tries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Universe {
    /// The rights that mappings and shares are given.
    pub rights: Vec<Rights>,
    /// Most shares that exist at a time.
    pub shares: usize,
    /// Whether programs are given mappings of kernel space.
    pub user_visible: bool,
    /// Most [`extras`] of a state that is visited; `None` is any number. Actions that lead to
    /// states with more are tried and checked, but their states not visited.
    pub extras: Option<u32>,
}

/// How many things in a state are out of the ordinary: pages that are not clear, pages that are
/// not domain 0's, kernel mappings, shares, mappings with less than all rights or of shared
/// memory, large pages, directories beyond the first, and flushes that are owed.
///
/// A search that visits all states with few extras has seen every combination of that many.
#[must_use]
pub fn extras(machine: &Machine, state: &State) -> u32 {
    let rights =
        |mapping: &Mapping| u32::from(mapping.rights != Rights::ALL) + u32::from(mapping.foreign);
    let mut extras = state.owed.bits().count_ones();
    extras += u32::try_from(state.shares.len()).unwrap_or(u32::MAX);
    for frame in machine.clients().chain(machine.devices()) {
        extras += match state.status(frame) {
            Status::Normal(data) | Status::Io(data) => u32::from(*data != 0),
            _ => 0,
        };
        extras += u32::from(state.owner(frame) != Owner::Domain(0));
        if let Entry::Page(mapping) = state.kernel_entry(machine, frame) {
            extras += 1 + u32::from(mapping.user) + rights(&mapping);
        }
    }
    let mut directories: u32 = 0;
    for directory in state.directories() {
        directories += 1;
        for (_, level, mapping) in state.user_leaves(machine, directory) {
            extras += u32::from(level > Level::FIRST) + rights(&mapping);
        }
    }
    extras + directories.saturating_sub(1)
}

impl Universe {
    /// Everything that is different in kind: no rights beyond reading, and all; one share.
    #[must_use]
    pub fn of(machine: &Machine) -> Self {
        let permissions = machine.has(Layer::Permissions);
        Self {
            rights: if permissions { vec![Rights::ALL, Rights::READ] } else { vec![Rights::ALL] },
            shares: usize::from(machine.has(Layer::Owners)),
            user_visible: permissions,
            extras: None,
        }
    }

    /// Those of [`Universe::actions`] whose authors are `authors`.
    #[must_use]
    pub fn actions_of(&self, machine: &Machine, state: &State, authors: &[Domain]) -> Vec<Action> {
        let mut actions = Vec::with_capacity(64);
        match authors {
            [Domain::H] => return self.filtered(machine, state, authors),
            [Domain::H, Domain::K] => self.kernel_mapping(machine, state, &mut actions),
            [Domain::H, _] if machine.has(Layer::Owners) => {
                self.ownership(machine, state, &mut actions);
            }
            [Domain::H, _] => {}
            _ => self.writes(machine, state, &mut actions),
        }
        actions.retain(|action| policy::authors(action) == authors);
        actions
    }

    fn filtered(&self, machine: &Machine, state: &State, authors: &[Domain]) -> Vec<Action> {
        let mut actions = self.actions(machine, state);
        actions.retain(|action| policy::authors(action) == authors);
        actions
    }

    /// Every action that a client can ask for in `state`, with every argument: handles that
    /// exist, and any region, page, right, processor and domain. Also every write of 0 and 1 by
    /// the environment, the client kernel, programs and devices.
    #[must_use]
    pub fn actions(&self, machine: &Machine, state: &State) -> Vec<Action> {
        let mut actions = Vec::with_capacity(256);
        self.writes(machine, state, &mut actions);
        self.paging(machine, state, &mut actions);
        self.mapping(machine, state, &mut actions);
        self.kernel_mapping(machine, state, &mut actions);
        if machine.has(Layer::Owners) {
            self.ownership(machine, state, &mut actions);
        }
        actions
    }

    fn writes(&self, machine: &Machine, state: &State, actions: &mut Vec<Action>) {
        for cpu in machine.cpus() {
            for page in machine.kernel_pages() {
                // One attempt at each kind of page; at pages that are not mapped nothing happens.
                match state.translate(machine, state.cr3(cpu), page) {
                    None => {}
                    Some(_) => {
                        for value in [0, 1] {
                            actions.push(Action::WriteE { cpu, page, value });
                            actions.push(Action::WriteK { cpu, page, value });
                        }
                    }
                }
            }
            let Owner::Domain(owner) = state.owner(state.cr3(cpu)) else {
                continue;
            };
            let mut write = |page, through| {
                for value in [0, 1] {
                    actions.push(Action::WriteU { owner, cpu, page, value, through });
                }
            };
            for page in machine.used_pages().chain(machine.kernel_pages()) {
                if state.translate(machine, state.cr3(cpu), page).is_some() {
                    write(page, Through::Tables);
                }
            }
            let cached = state.stale.iter().filter(|stale| stale.cpu() == cpu);
            for (page, frame, _) in cached.flat_map(|stale| stale.pages(machine)) {
                write(page, Through::Cache(frame));
            }
        }
        for frame in machine.devices() {
            for value in [0, 1] {
                actions.push(Action::WriteD { frame, value });
            }
        }
    }

    /// All regions that can be derived: pages, and larger pages where they can be.
    fn regions<'a>(&self, machine: &'a Machine) -> impl Iterator<Item = Region> + 'a {
        let levels = (1..=machine.largest_leaf().0).map(Level);
        let large = levels.skip(1).flat_map(move |level| {
            let pages = u32::try_from(machine.pages_of(level)).unwrap_or(u32::MAX);
            let first = machine.clients().filter(move |frame| frame.0.is_multiple_of(pages));
            let regions = first.map(move |first| Region { first, pages });
            regions.filter(move |region| {
                machine.is_client(Frame(region.first.0.saturating_add(pages - 1)))
            })
        });
        machine.clients().chain(machine.devices()).map(Region::page).chain(large)
    }

    fn paging(&self, machine: &Machine, state: &State, actions: &mut Vec<Action>) {
        for region in self.regions(machine) {
            actions.push(Action::DeriveRegionH { from: region, to: region });
            // A region around it, and the one behind it.
            let pages = region.pages * machine.sizes().entries;
            let around = Region { first: Frame(region.first.0 - region.first.0 % pages), pages };
            let behind = Region { first: Frame(region.first.0 + region.pages), ..region };
            actions.push(Action::DeriveRegionH { from: region, to: around });
            actions.push(Action::DeriveRegionH { from: region, to: behind });
            actions.push(Action::CreatePageMapPageH { region });
        }
        for frame in machine.clients() {
            match state.status(frame) {
                Status::Supplied => {
                    actions.push(Action::ReleasePageMapPageH { frame });
                    actions.push(Action::AllocatePageDirectoryH { frame });
                }
                Status::Draining => actions.push(Action::ReclaimH { frame }),
                Status::PageDirectory(_) => {
                    let directory = frame;
                    for cpu in machine.cpus() {
                        actions.push(Action::FreePageDirectoryH { cpu, directory });
                        actions.push(Action::ExecuteH { cpu, directory });
                    }
                }
                _ => {}
            }
        }
        for cpu in machine.cpus() {
            actions.push(Action::ExecuteH { cpu, directory: crate::machine::REFERENCE });
            if machine.has(Layer::Tlb) {
                actions.push(Action::EnterH { cpu });
            }
        }
    }

    fn mapping(&self, machine: &Machine, state: &State, actions: &mut Vec<Action>) {
        let supplied: Vec<Frame> =
            machine.clients().filter(|frame| *state.status(*frame) == Status::Supplied).collect();
        let supplies = supplies(&supplied, usize::from(machine.root().0) - 1);
        // The page behind the last one that programs can have, too.
        let pages = machine.used_pages().chain([VirtualPage(machine.user_end())]);
        for directory in state.directories() {
            for page in pages.clone() {
                for region in self.regions(machine) {
                    let shares = state.shares.iter().copied().map(Some);
                    for share in [None].into_iter().chain(shares) {
                        for rights in self.rights.iter().copied() {
                            actions.extend(supplies.iter().map(|supply| Action::AddMappingH {
                                directory,
                                supply: supply.clone(),
                                region,
                                page,
                                rights,
                                share,
                            }));
                        }
                    }
                }
                for cpu in machine.cpus() {
                    actions.push(Action::RemoveMappingH { cpu, directory, page });
                    if machine.has(Layer::Modify) {
                        actions.extend(self.rights.iter().map(|rights| Action::ModifyMappingH {
                            cpu,
                            directory,
                            page,
                            rights: *rights,
                        }));
                    }
                    if machine.has(Layer::Superpages) {
                        let short = supplies.iter().filter(|supply| supply.len() < 2);
                        actions.extend(short.map(|supply| Action::SplitMappingH {
                            cpu,
                            directory,
                            supply: supply.clone(),
                            page,
                        }));
                    }
                }
            }
        }
    }

    fn kernel_mapping(&self, machine: &Machine, state: &State, actions: &mut Vec<Action>) {
        for cpu in machine.cpus() {
            for frame in machine.clients().chain(machine.devices()) {
                let shares = state.shares.iter().copied().map(Some);
                for share in [None].into_iter().chain(shares) {
                    for rights in self.rights.iter().copied() {
                        for user in [false, true] {
                            if user && !self.user_visible {
                                continue;
                            }
                            let region = Region::page(frame);
                            actions.push(Action::AddKernelMappingH {
                                cpu,
                                region,
                                rights,
                                user,
                                share,
                            });
                        }
                    }
                }
                let is_mapped = state.kernel_entry(machine, frame) != Entry::Absent;
                if machine.has(Layer::KernelRemoval) && is_mapped {
                    let region = Region::page(frame);
                    actions.push(Action::RemoveKernelMappingH { cpu, region });
                }
            }
        }
    }

    fn ownership(&self, machine: &Machine, state: &State, actions: &mut Vec<Action>) {
        for region in self.regions(machine) {
            for domain in machine.domains() {
                actions.push(Action::AssignH { region, to: domain });
                actions.push(Action::ReleaseH { region, from: domain });
                if state.shares.len() >= self.shares {
                    continue;
                }
                let others = machine.domains().filter(|other| *other != domain).map(Owner::Domain);
                let nobody = [Owner::Hypervisor, Owner::Nobody];
                for grantee in nobody.into_iter().chain(others) {
                    for rights in self.rights.iter().copied() {
                        let share = Share { region, owner: domain, grantee, rights };
                        if !state.shares.contains(&share) {
                            actions.push(Action::ShareH { share });
                        }
                    }
                }
            }
        }
        actions.extend(state.shares.iter().map(|share| Action::EndShareH { share: *share }));
    }
}

/// All lists of at most `most` different pages.
fn supplies(pages: &[Frame], most: usize) -> Vec<Vec<Frame>> {
    let mut all = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..most {
        let to = all.len();
        for at in from..to {
            for page in pages {
                if !all[at].contains(page) {
                    let mut longer = all[at].clone();
                    longer.push(*page);
                    all.push(longer);
                }
            }
        }
        from = to;
    }
    all
}

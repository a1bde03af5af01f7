//! The machine that a model is about: its sizes, and which frame serves for what.
//!
//! Frame 0 is the reference page directory; the tables of kernel space follow, then the
//! environment, the clients' memory and the devices' memory. Kernel space shows each frame at one
//! address of its own, its *window page*, if it shows it at all: this is how Heliox's kernel
//! mappings work, and it leaves nothing to choose for an address but whether it is in use.

use crate::layers::{Layer, Layers};
use crate::state::Region;

/// A page of physical memory, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Frame(pub u32);

/// A page of the virtual address space, by number. Kernel space follows user space without
/// a gap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VirtualPage(pub u64);

/// A processor, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cpu(pub u8);

/// The level of a table or of the pages that its entries map, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Level(pub u8);

impl Level {
    /// Page tables, and pages of the smallest size.
    pub const FIRST: Self = Self(1);

    /// The next lower level.
    #[must_use]
    pub const fn below(self) -> Self {
        Self(self.0 - 1)
    }

    /// The next higher level.
    #[must_use]
    pub const fn above(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The directory with all kernel mappings and nothing else.
pub const REFERENCE: Frame = Frame(0);

/// The most processors that a model has.
pub const MAX_CPUS: u8 = 4;

/// Which sizes a machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Levels of tables; 2 is a page directory and page tables.
    pub levels: u8,
    /// Entries of a table.
    pub entries: u32,
    /// Entries of a directory that are user space.
    pub user_entries: u32,
    /// Pages of user space, from the first on, that a search uses; `None` is all.
    pub used_pages: Option<u64>,
    /// Pages of the environment.
    pub environment: u32,
    /// Pages of the clients.
    pub pages: u32,
    /// Pages of devices; none without the layer.
    pub devices: u32,
    /// Processors.
    pub cpus: u8,
    /// Domains that can own pages; only domain 0 without the layer.
    pub domains: u16,
}

impl Sizes {
    /// A machine that is large enough to go wrong.
    pub const SMALL: Self = Self {
        levels: 2,
        entries: 4,
        user_entries: 1,
        used_pages: None,
        environment: 1,
        pages: 5,
        devices: 1,
        cpus: 1,
        domains: 2,
    };
}

/// Why there is no such machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadSizes(pub &'static str);

impl std::fmt::Display for BadSizes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for BadSizes {}

/// A machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    sizes: Sizes,
    layers: Layers,
    kernel_entries: u32,
    kernel_tables: Vec<KernelTable>,
    first_client: u32,
    first_device: u32,
    /// Number of pages that an entry of each level translates.
    spans: [u64; 6],
    /// For each frame the indices, by level, that lead to its window page.
    window_indices: Vec<[u16; 4]>,
}

/// A table of kernel space, which is there from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KernelTable {
    /// Where it is.
    pub frame: Frame,
    /// Its level.
    pub level: Level,
    /// The first page that it translates.
    pub first: VirtualPage,
}

impl Machine {
    /// A machine of these sizes, with these layers.
    ///
    /// # Errors
    ///
    /// [`BadSizes`] says which sizes are impossible together.
    pub fn new(sizes: Sizes, layers: Layers) -> Result<Self, BadSizes> {
        let sizes = Sizes {
            devices: if layers.has(Layer::Devices) { sizes.devices } else { 0 },
            domains: if layers.has(Layer::Owners) { sizes.domains } else { 1 },
            cpus: if layers.has(Layer::Tlb) { sizes.cpus } else { 1 },
            ..sizes
        };
        let check = |holds, why| if holds { Ok(()) } else { Err(BadSizes(why)) };
        check((2..=4).contains(&sizes.levels), "there must be 2 to 4 levels")?;
        check((2..=512).contains(&sizes.entries), "a table must have 2 to 512 entries")?;
        check(
            (1..=512).contains(&sizes.user_entries),
            "a directory must have 1 to 512 entries for user space",
        )?;
        check((1..=MAX_CPUS).contains(&sizes.cpus), "there must be 1 to 4 processors")?;
        check((1..=64).contains(&sizes.domains), "there must be 1 to 64 domains")?;
        check(sizes.environment >= 1, "the environment must have a page")?;
        check((1..=1 << 24).contains(&sizes.pages), "there must be 1 to 2^24 pages")?;
        check(
            sizes.environment < 1 << 24 && sizes.devices < 1 << 24,
            "there must be less than 2^24 pages of each kind",
        )?;
        let mut machine = Self {
            sizes,
            layers,
            kernel_entries: 1,
            kernel_tables: Vec::new(),
            first_client: 0,
            first_device: 0,
            spans: std::array::from_fn(|level| {
                u64::from(sizes.entries).saturating_pow((level as u32).saturating_sub(1))
            }),
            window_indices: Vec::new(),
        };
        // How many tables the window needs depends on how many frames there are, and they count.
        loop {
            let tables = machine.kernel_tables.len();
            machine.lay_out();
            if machine.kernel_tables.len() == tables {
                break;
            }
        }
        check(
            sizes.used_pages.is_none_or(|pages| (1..=machine.user_end()).contains(&pages)),
            "that many pages are not in user space",
        )?;
        let indices = |frame| {
            let page = machine.window(frame);
            std::array::from_fn(|level| {
                let level = Level(u8::try_from(level).unwrap_or(0) + 1);
                if level > machine.root() { 0 } else { machine.index(level, page) as u16 }
            })
        };
        machine.window_indices = machine.all_frames().map(indices).collect();
        Ok(machine)
    }

    fn lay_out(&mut self) {
        let tables = u32::try_from(self.kernel_tables.len()).unwrap_or(u32::MAX);
        self.first_client = 1 + tables + self.sizes.environment;
        if self.layers.has(Layer::Superpages) {
            // Large pages are where they can be found.
            self.first_client = self.first_client.next_multiple_of(self.sizes.entries);
        }
        self.first_device = self.first_client + self.sizes.pages;
        let frames = u64::from(self.frames());
        let below_root = self.pages_of(Level(self.sizes.levels));
        self.kernel_entries = u32::try_from(frames.div_ceil(below_root)).unwrap_or(u32::MAX);
        self.kernel_tables.clear();
        let mut next = 1;
        for level in (1..self.sizes.levels).rev().map(Level) {
            let pages = self.pages_of(level.above());
            for number in 0..frames.div_ceil(pages) {
                let first = VirtualPage(self.user_space() + number * pages);
                self.kernel_tables.push(KernelTable { frame: Frame(next), level, first });
                next += 1;
            }
        }
    }

    /// The sizes.
    #[must_use]
    pub const fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The layers that are switched on.
    #[must_use]
    pub const fn layers(&self) -> Layers {
        self.layers
    }

    /// Whether a layer is switched on.
    #[must_use]
    pub const fn has(&self, layer: Layer) -> bool {
        self.layers.has(layer)
    }

    /// Number of frames.
    #[must_use]
    pub const fn frames(&self) -> u32 {
        self.first_device + self.sizes.devices
    }

    /// All frames.
    pub fn all_frames(&self) -> impl Iterator<Item = Frame> + Clone + use<> {
        (0..self.frames()).map(Frame)
    }

    /// The tables of kernel space, those of higher levels first.
    #[must_use]
    pub fn kernel_tables(&self) -> &[KernelTable] {
        &self.kernel_tables
    }

    /// The environment's pages.
    pub fn environment(&self) -> impl Iterator<Item = Frame> + Clone + use<> {
        let first = 1 + u32::try_from(self.kernel_tables.len()).unwrap_or(u32::MAX);
        (first..first + self.sizes.environment).map(Frame)
    }

    /// Whether `frame` is the environment's.
    #[must_use]
    pub fn is_environment(&self, frame: Frame) -> bool {
        let first = 1 + self.kernel_tables.len() as u64;
        (first..first + u64::from(self.sizes.environment)).contains(&frame.0.into())
    }

    /// The clients' memory: what the initial regions name, besides devices.
    pub fn clients(&self) -> impl Iterator<Item = Frame> + Clone + use<> {
        (self.first_client..self.first_device).map(Frame)
    }

    /// Whether `frame` is the clients' memory.
    #[must_use]
    pub const fn is_client(&self, frame: Frame) -> bool {
        self.first_client <= frame.0 && frame.0 < self.first_device
    }

    /// The devices' memory.
    pub fn devices(&self) -> impl Iterator<Item = Frame> + Clone + use<> {
        (self.first_device..self.frames()).map(Frame)
    }

    /// Whether `frame` is a device's memory.
    #[must_use]
    pub const fn is_device(&self, frame: Frame) -> bool {
        self.first_device <= frame.0 && frame.0 < self.frames()
    }

    /// The processors.
    pub fn cpus(&self) -> impl Iterator<Item = Cpu> + Clone + use<> {
        (0..self.sizes.cpus).map(Cpu)
    }

    /// The domains that can own pages.
    pub fn domains(&self) -> impl Iterator<Item = u16> + Clone + use<> {
        0..self.sizes.domains
    }

    /// Level of a page directory.
    #[must_use]
    pub const fn root(&self) -> Level {
        Level(self.sizes.levels)
    }

    /// The highest level of entries that map memory. The root's never do.
    #[must_use]
    pub fn largest_leaf(&self) -> Level {
        if !self.has(Layer::Superpages) {
            return Level::FIRST;
        }
        // Of two levels the directory itself maps superpages, as on the thesis's machine; of four
        // the second and third do, as on x86-64.
        if self.sizes.levels == 2 { Level(2) } else { Level(self.sizes.levels - 1) }
    }

    /// Number of pages that an entry of a table of `level` translates.
    #[must_use]
    pub const fn pages_of(&self, level: Level) -> u64 {
        self.spans[level.0 as usize]
    }

    /// The level of which a page has that many smallest pages.
    #[must_use]
    pub fn level_of(&self, pages: u64) -> Option<Level> {
        (1..=self.largest_leaf().0).map(Level).find(|level| self.pages_of(*level) == pages)
    }

    /// Number of entries of a directory.
    #[must_use]
    pub const fn root_entries(&self) -> u32 {
        self.sizes.user_entries + self.kernel_entries
    }

    /// Number of entries of a table of `level`.
    #[must_use]
    pub fn entries(&self, level: Level) -> u32 {
        if level == self.root() { self.root_entries() } else { self.sizes.entries }
    }

    /// The clients' larger page of `level` that `frame` lies in, if all of it is the clients'.
    #[must_use]
    pub fn unit(&self, level: Level, frame: Frame) -> Option<Region> {
        let pages = u32::try_from(self.pages_of(level)).ok()?;
        let first = Frame(frame.0 - frame.0 % pages);
        let last = Frame(first.0.checked_add(pages - 1)?);
        (self.is_client(first) && self.is_client(last)).then_some(Region { first, pages })
    }

    /// Number of pages of user space: the first page of kernel space.
    #[must_use]
    pub const fn user_space(&self) -> u64 {
        self.sizes.user_entries as u64 * self.pages_of(Level(self.sizes.levels))
    }

    /// First page that programs cannot have mapped: the last of user space never is mapped,
    /// since a processor may fault in kernel mode behind a `syscall` at its end.
    #[must_use]
    pub const fn user_end(&self) -> u64 {
        self.user_space() - 1
    }

    /// The pages of user space that a search uses.
    pub fn used_pages(&self) -> impl Iterator<Item = VirtualPage> + Clone + use<> {
        (0..self.sizes.used_pages.unwrap_or(self.user_end())).map(VirtualPage)
    }

    /// Whether a page is in kernel space.
    #[must_use]
    pub const fn is_kernel_page(&self, page: VirtualPage) -> bool {
        page.0 >= self.user_space()
    }

    /// The pages of kernel space.
    pub fn kernel_pages(&self) -> impl Iterator<Item = VirtualPage> + Clone + use<> {
        let first = self.user_space();
        (first..first + u64::from(self.frames())).map(VirtualPage)
    }

    /// The page of kernel space that can show `frame`.
    #[must_use]
    pub const fn window(&self, frame: Frame) -> VirtualPage {
        VirtualPage(self.user_space() + frame.0 as u64)
    }

    /// Index of the entry for `page` in a table of `level`.
    #[must_use]
    pub fn index(&self, level: Level, page: VirtualPage) -> usize {
        let entry = if level == Level::FIRST { page.0 } else { page.0 / self.pages_of(level) };
        let is_root = level == self.root();
        (if is_root { entry } else { entry % u64::from(self.sizes.entries) }) as usize
    }

    /// Index of the entry for the window page of `frame` in a table of `level`.
    #[must_use]
    pub fn window_index(&self, level: Level, frame: Frame) -> usize {
        let indices = self.window_indices.get(frame.0 as usize);
        indices.map_or(0, |indices| indices[usize::from(level.0) - 1].into())
    }

    /// The first page of the larger page of `level` that `page` lies in.
    #[must_use]
    pub const fn first_of(&self, level: Level, page: VirtualPage) -> VirtualPage {
        VirtualPage(page.0 - page.0 % self.pages_of(level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_has_room_for_every_frame() {
        for (levels, entries) in [(2, 3), (2, 4), (3, 2), (4, 2), (4, 512)] {
            for pages in [1, 5, 9, 1100] {
                for layers in [Layers::NONE, Layers::ALL] {
                    let sizes = Sizes { levels, entries, pages, ..Sizes::SMALL };
                    let machine = Machine::new(sizes, layers).unwrap();
                    let last = machine.window(Frame(machine.frames() - 1));
                    assert!(machine.index(machine.root(), last) < machine.root_entries() as usize);
                    let leaves = machine.kernel_tables().iter().filter(|t| t.level == Level::FIRST);
                    assert_eq!(
                        leaves.count(),
                        (machine.frames() as usize).div_ceil(entries as usize)
                    );
                    assert!(machine.kernel_tables().len() as u32 + 2 <= machine.first_client);
                    assert_eq!(machine.clients().count(), pages as usize);
                }
            }
        }
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for sizes in [
            Sizes { levels: 1, ..Sizes::SMALL },
            Sizes { entries: 1, ..Sizes::SMALL },
            Sizes { used_pages: Some(4), ..Sizes::SMALL },
            Sizes { cpus: 0, ..Sizes::SMALL },
            Sizes { environment: 0, ..Sizes::SMALL },
        ] {
            assert!(Machine::new(sizes, Layers::ALL).is_err());
        }
    }
}

//! Virtual and physical memory, and regions of it (thesis 5.3.1 and 5.3.2).

use std::collections::BTreeSet;
use std::fmt;

/// The numbers of Table 5.1, as a parameter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    /// Entries of a page directory.
    pub directory_entries: u8,
    /// How many of them, from the first on, are user space.
    pub user_entries: u8,
    /// Entries of a page table, and so pages in a superpage.
    pub table_entries: u8,
    /// Superpages of physical memory.
    pub superpages: u8,
    /// Locations in a page.
    pub offsets: u8,
}

impl Geometry {
    /// `allVirtualPages`.
    pub fn all_virtual_pages(self) -> impl Iterator<Item = VirtualPageAddress> + Clone {
        (0..self.directory_entries).flat_map(move |directory| {
            (0..self.table_entries).map(move |table| VirtualPageAddress { directory, table })
        })
    }

    /// `allPhysicalPages`.
    pub fn all_physical_pages(self) -> impl Iterator<Item = PhysicalPageAddress> + Clone {
        (0..self.superpages).flat_map(move |superpage| {
            (0..self.table_entries).map(move |offset| PhysicalPageAddress { superpage, offset })
        })
    }

    /// The physical page of this number, counted from the first, or `None` past the last.
    #[must_use]
    pub fn physical_page(self, number: usize) -> Option<PhysicalPageAddress> {
        self.all_physical_pages().nth(number)
    }

    /// The virtual page of this number, counted from the first, or `None` past the last.
    #[must_use]
    pub fn virtual_page(self, number: usize) -> Option<VirtualPageAddress> {
        self.all_virtual_pages().nth(number)
    }

    /// The number of a physical page.
    #[must_use]
    pub fn physical_number(self, page: PhysicalPageAddress) -> usize {
        usize::from(page.superpage) * usize::from(self.table_entries) + usize::from(page.offset)
    }

    /// The number of a virtual page.
    #[must_use]
    pub fn virtual_number(self, page: VirtualPageAddress) -> usize {
        usize::from(page.directory) * usize::from(self.table_entries) + usize::from(page.table)
    }

    /// `isKernelPageAddress`.
    #[must_use]
    pub fn is_kernel_page_address(self, page: VirtualPageAddress) -> bool {
        page.directory >= self.user_entries
    }

    /// `isUserPageAddress`.
    #[must_use]
    pub fn is_user_page_address(self, page: VirtualPageAddress) -> bool {
        !self.is_kernel_page_address(page)
    }

    /// `toListPhysicalRegion`; `None` if the region runs past the last page.
    #[must_use]
    pub fn to_list_physical_region(
        self,
        region: PhysicalRegion,
    ) -> Option<Vec<PhysicalPageAddress>> {
        let first = self.physical_number(region.start);
        (first..first + usize::from(region.length)).map(|page| self.physical_page(page)).collect()
    }

    /// `toListVirtualRegion`; `None` if the region runs past the last page.
    #[must_use]
    pub fn to_list_virtual_region(self, region: VirtualRegion) -> Option<Vec<VirtualPageAddress>> {
        let first = self.virtual_number(region.start);
        (first..first + usize::from(region.length)).map(|page| self.virtual_page(page)).collect()
    }

    /// `isPhysicalSubregion`: whether `part` lies in `whole`, neither overflowing.
    #[must_use]
    pub fn is_physical_subregion(self, part: PhysicalRegion, whole: PhysicalRegion) -> bool {
        let range = |region: PhysicalRegion| {
            let start = self.physical_number(region.start);
            start..start + usize::from(region.length)
        };
        let (part, whole) = (range(part), range(whole));
        let end = usize::from(self.superpages) * usize::from(self.table_entries);
        whole.start <= part.start && part.end <= whole.end && whole.end <= end
    }

    /// `isUserRegion`: wholly in user space.
    #[must_use]
    pub fn is_user_region(self, region: VirtualRegion) -> bool {
        let pages = self.to_list_virtual_region(region);
        pages.is_some_and(|pages| pages.iter().all(|page| self.is_user_page_address(*page)))
    }

    /// `isKernelRegion`: wholly in kernel space.
    #[must_use]
    pub fn is_kernel_region(self, region: VirtualRegion) -> bool {
        let pages = self.to_list_virtual_region(region);
        pages.is_some_and(|pages| pages.iter().all(|page| self.is_kernel_page_address(*page)))
    }
}

/// A page-aligned virtual address: a page-directory index and a page-table index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualPageAddress {
    /// `PageDirectoryIndex`.
    pub directory: u8,
    /// `PageTableIndex`.
    pub table: u8,
}

/// A page-aligned physical address: a superpage address and an offset into the superpage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalPageAddress {
    /// `SuperpageAddress`.
    pub superpage: u8,
    /// `SuperpageOffset`.
    pub offset: u8,
}

impl fmt::Debug for VirtualPageAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "v{}.{}", self.directory, self.table)
    }
}

impl fmt::Debug for PhysicalPageAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "p{}.{}", self.superpage, self.offset)
    }
}

/// `Offset`: a location in a page.
pub type Offset = u8;

/// `Word8`: what a location holds.
pub type Word8 = u8;

/// A virtual address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualAddress {
    /// The page.
    pub page: VirtualPageAddress,
    /// The location in it.
    pub offset: Offset,
}

impl fmt::Debug for VirtualAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}+{}", self.page, self.offset)
    }
}

/// Generic data: a word for each offset.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageData(pub Vec<Word8>);

impl PageData {
    /// `updatePageData`: the data with one location changed.
    #[must_use]
    pub fn update(&self, offset: Offset, value: Word8) -> Self {
        let update = |(at, old): (usize, &Word8)| if at == offset.into() { value } else { *old };
        Self(self.0.iter().enumerate().map(update).collect())
    }
}

impl fmt::Debug for PageData {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(u8::to_string).collect();
        formatter.write_str(&words.join(" "))
    }
}

/// `zeroPageData`.
#[must_use]
pub fn zero_page_data(geometry: Geometry) -> PageData {
    PageData(vec![0; geometry.offsets.into()])
}

/// What an entry of a page directory holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum DirectoryContents {
    /// A superpage is mapped.
    Superpage(u8),
    /// A page table.
    Table(PhysicalPageAddress),
}

impl fmt::Debug for DirectoryContents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superpage(address) => write!(formatter, "superpage {address}"),
            Self::Table(page) => write!(formatter, "table {page:?}"),
        }
    }
}

/// The contents of a page directory, by index.
pub type DirectoryPageData = Vec<Option<DirectoryContents>>;

/// The contents of a page table, by index.
pub type TablePageData = Vec<Option<PhysicalPageAddress>>;

/// A page of physical memory: its status, with what it contains.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Page {
    /// Part of the execution environment.
    Environment(PageData),
    /// Memory of the client's.
    Normal(PageData),
    /// A page directory.
    PageDirectory(DirectoryPageData),
    /// A page table.
    PageTable(TablePageData),
    /// There is no such page.
    NotInstalled,
}

impl fmt::Debug for Page {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn entries<T: fmt::Debug>(entries: &[Option<T>]) -> String {
            let shown = |entry: &Option<T>| match entry {
                Some(entry) => format!("{entry:?}"),
                None => "-".into(),
            };
            entries.iter().map(shown).collect::<Vec<_>>().join(", ")
        }
        match self {
            Self::Environment(data) => write!(formatter, "environment {data:?}"),
            Self::Normal(data) => write!(formatter, "normal {data:?}"),
            Self::PageDirectory(data) => write!(formatter, "directory [{}]", entries(data)),
            Self::PageTable(data) => write!(formatter, "table [{}]", entries(data)),
            Self::NotInstalled => formatter.write_str("not installed"),
        }
    }
}

/// A contiguous range of physical pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalRegion {
    /// The first page.
    pub start: PhysicalPageAddress,
    /// Number of pages.
    pub length: u8,
}

impl fmt::Debug for PhysicalRegion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}+{}", self.start, self.length)
    }
}

/// A contiguous range of virtual pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualRegion {
    /// The first page.
    pub start: VirtualPageAddress,
    /// Number of pages.
    pub length: u8,
}

impl fmt::Debug for VirtualRegion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}+{}", self.start, self.length)
    }
}

/// The region handles that exist.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RegionState {
    /// What `initialRegions` returns.
    pub initial_regions: BTreeSet<PhysicalRegion>,
    /// These and all that were derived.
    pub all_regions: BTreeSet<PhysicalRegion>,
}

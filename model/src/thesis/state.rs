//! The machine's state and address translation (thesis 5.3.3).

use std::fmt;
use std::ops::{Index, IndexMut};

use super::memory::{
    DirectoryContents, Geometry, Offset, Page, PhysicalPageAddress, PhysicalRegion, RegionState,
    VirtualAddress, VirtualPageAddress,
};

/// A page directory, by its physical address.
pub type PageDirectory = PhysicalPageAddress;

/// `State`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// The sizes; the same in all states of a system.
    pub geometry: Geometry,
    /// The current page directory.
    pub cr3: PageDirectory,
    /// The directory that has all kernel mappings and nothing else.
    pub reference: PageDirectory,
    /// The region handles.
    pub regions: RegionState,
    /// `status`, by number of the page.
    pub pages: Vec<Page>,
}

impl Index<PhysicalPageAddress> for State {
    type Output = Page;

    /// `status s ppa`.
    fn index(&self, page: PhysicalPageAddress) -> &Page {
        &self.pages[self.geometry.physical_number(page)]
    }
}

impl IndexMut<PhysicalPageAddress> for State {
    fn index_mut(&mut self, page: PhysicalPageAddress) -> &mut Page {
        let number = self.geometry.physical_number(page);
        &mut self.pages[number]
    }
}

impl State {
    /// `translatePage`: the physical page that `page` maps to in `directory`.
    #[must_use]
    pub fn translate_page(
        &self,
        directory: PageDirectory,
        page: VirtualPageAddress,
    ) -> Option<PhysicalPageAddress> {
        let Page::PageDirectory(entries) = &self[directory] else {
            return None;
        };
        match entries[usize::from(page.directory)]? {
            DirectoryContents::Superpage(superpage) => {
                Some(PhysicalPageAddress { superpage, offset: page.table })
            }
            DirectoryContents::Table(table) => match &self[table] {
                Page::PageTable(entries) => entries[usize::from(page.table)],
                _ => None,
            },
        }
    }

    /// `translate`: in the current page directory.
    #[must_use]
    pub fn translate(&self, address: VirtualAddress) -> Option<(PhysicalPageAddress, Offset)> {
        self.translate_page(self.cr3, address.page).map(|page| (page, address.offset))
    }

    /// All page directories.
    pub fn page_directories(&self) -> impl Iterator<Item = PageDirectory> + '_ {
        self.geometry.all_physical_pages().filter(|page| self.is_page_directory_page(*page))
    }

    /// `unmappedPage`: whether no page directory maps `page`.
    #[must_use]
    pub fn unmapped_page(&self, page: PhysicalPageAddress) -> bool {
        self.page_directories().all(|directory| {
            let mut addresses = self.geometry.all_virtual_pages();
            addresses.all(|address| self.translate_page(directory, address) != Some(page))
        })
    }

    /// `unmappedNormalPage`.
    #[must_use]
    pub fn unmapped_normal_page(&self, page: PhysicalPageAddress) -> bool {
        self.is_normal_page(page) && self.unmapped_page(page)
    }

    /// `isEnvironmentPage`.
    #[must_use]
    pub fn is_environment_page(&self, page: PhysicalPageAddress) -> bool {
        matches!(self[page], Page::Environment(_))
    }

    /// `isNormalPage`.
    #[must_use]
    pub fn is_normal_page(&self, page: PhysicalPageAddress) -> bool {
        matches!(self[page], Page::Normal(_))
    }

    /// `isPageDirectoryPage`.
    #[must_use]
    pub fn is_page_directory_page(&self, page: PhysicalPageAddress) -> bool {
        matches!(self[page], Page::PageDirectory(_))
    }

    /// `isPageTablePage`.
    #[must_use]
    pub fn is_page_table_page(&self, page: PhysicalPageAddress) -> bool {
        matches!(self[page], Page::PageTable(_))
    }

    /// `isInstalledPage`.
    #[must_use]
    pub fn is_installed_page(&self, page: PhysicalPageAddress) -> bool {
        self[page] != Page::NotInstalled
    }

    /// `tableMappedInDirectory`: whether an entry of `directory` points to the table `table`.
    #[must_use]
    pub fn table_mapped_in_directory(
        &self,
        directory: PageDirectory,
        table: PhysicalPageAddress,
    ) -> bool {
        match &self[directory] {
            Page::PageDirectory(entries) => {
                entries.contains(&Some(DirectoryContents::Table(table)))
            }
            _ => false,
        }
    }

    /// `referenceCount`: how many virtual pages `directory` translates to `page`.
    #[must_use]
    pub fn reference_count(&self, directory: PageDirectory, page: PhysicalPageAddress) -> usize {
        let addresses = self.geometry.all_virtual_pages();
        addresses.filter(|address| self.translate_page(directory, *address) == Some(page)).count()
    }

    /// Whether `region` is in the set of all regions.
    #[must_use]
    pub fn has_region(&self, region: PhysicalRegion) -> bool {
        self.regions.all_regions.contains(&region)
    }
}

impl fmt::Debug for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cr3 {:?}, reference {:?}", self.cr3, self.reference)?;
        if self.regions.all_regions != self.regions.initial_regions {
            let derived = self.regions.all_regions.difference(&self.regions.initial_regions);
            write!(formatter, ", derived {:?}", derived.collect::<Vec<_>>())?;
        }
        for page in self.geometry.all_physical_pages() {
            if self.is_installed_page(page) {
                write!(formatter, "\n  {page:?}: {:?}", self[page])?;
            }
        }
        Ok(())
    }
}

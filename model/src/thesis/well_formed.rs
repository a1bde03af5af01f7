//! Well-formedness (thesis 5.6).

use super::memory::{DirectoryContents, Page};
use super::state::State;

/// A condition, by the thesis's name, with its section.
pub type Condition = (&'static str, &'static str, fn(&State) -> bool);

/// The conditions, in the order of the sections. The thesis counts eight: one for each of the
/// sections 5.6.1 to 5.6.8, of which the first and the last state two each.
pub const CONDITIONS: [Condition; 10] = [
    ("cr3IsPageDirectory", "5.6.1", cr3_is_page_directory),
    ("referenceIsPageDirectory", "5.6.1", reference_is_page_directory),
    ("referenceMapsKernelAddresses", "5.6.2", reference_maps_kernel_addresses),
    ("referenceContainsEnvironment", "5.6.3", reference_contains_environment),
    ("pageDirectoriesContainReference", "5.6.4", page_directories_contain_reference),
    ("environmentOnlyInReference", "5.6.5", environment_only_in_reference),
    ("mappedPagesAreAvailable", "5.6.6", mapped_pages_are_available),
    ("tablePointersArePageTables", "5.6.7", table_pointers_are_page_tables),
    ("initialRegionsAreRegions", "5.6.8", initial_regions_are_regions),
    ("regionsAreNotEnvironment", "5.6.8", regions_are_not_environment),
];

/// `wellFormed` (5.6.9).
#[must_use]
pub fn well_formed(state: &State) -> bool {
    CONDITIONS.iter().all(|(_, _, holds)| holds(state))
}

fn cr3_is_page_directory(s: &State) -> bool {
    s.is_page_directory_page(s.cr3)
}

fn reference_is_page_directory(s: &State) -> bool {
    s.is_page_directory_page(s.reference)
}

fn reference_maps_kernel_addresses(s: &State) -> bool {
    s.geometry.all_virtual_pages().all(|address| {
        s.geometry.is_kernel_page_address(address)
            || s.translate_page(s.reference, address).is_none()
    })
}

fn reference_contains_environment(s: &State) -> bool {
    let mut pages = s.geometry.all_physical_pages();
    pages.all(|page| {
        let mut addresses = s.geometry.all_virtual_pages();
        !s.is_environment_page(page)
            || addresses.any(|address| s.translate_page(s.reference, address) == Some(page))
    })
}

fn page_directories_contain_reference(s: &State) -> bool {
    s.page_directories().all(|directory| {
        s.geometry.all_virtual_pages().all(|address| {
            s.geometry.is_user_page_address(address)
                || s.translate_page(directory, address) == s.translate_page(s.reference, address)
        })
    })
}

fn environment_only_in_reference(s: &State) -> bool {
    s.page_directories().all(|directory| {
        s.geometry.all_virtual_pages().all(|address| {
            let page = s.translate_page(directory, address);
            !page.is_some_and(|page| s.is_environment_page(page))
                || page == s.translate_page(s.reference, address)
        })
    })
}

fn mapped_pages_are_available(s: &State) -> bool {
    s.page_directories().all(|directory| {
        let mut addresses = s.geometry.all_virtual_pages();
        addresses.all(|address| {
            s.translate_page(directory, address).is_none_or(|page| s.is_installed_page(page))
        })
    })
}

fn table_pointers_are_page_tables(s: &State) -> bool {
    s.pages.iter().all(|page| match page {
        Page::PageDirectory(entries) => entries.iter().all(|entry| match entry {
            Some(DirectoryContents::Table(table)) => s.is_page_table_page(*table),
            _ => true,
        }),
        _ => true,
    })
}

fn initial_regions_are_regions(s: &State) -> bool {
    s.regions.initial_regions.is_subset(&s.regions.all_regions)
}

fn regions_are_not_environment(s: &State) -> bool {
    s.regions.all_regions.iter().all(|region| {
        let pages = s.geometry.to_list_physical_region(*region);
        pages.is_some_and(|pages| !pages.iter().any(|page| s.is_environment_page(*page)))
    })
}

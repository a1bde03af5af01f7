//! The specification of each action, as a relation between states (thesis 5.7).

use super::domain::Action;
use super::memory::{
    Page, PageData, PhysicalPageAddress, PhysicalRegion, VirtualAddress, VirtualPageAddress,
    VirtualRegion, Word8, zero_page_data,
};
use super::state::{PageDirectory, State};

/// `actionSpec`. Well-formedness of both states is assumed, not demanded.
#[must_use]
pub fn action_spec(action: &Action, state: &State, after: &State) -> bool {
    match action {
        Action::WriteE(address, value) => write_e(*address, *value, state, after),
        Action::DeriveRegionH(region, start, length) => {
            derive_region_h(*region, *start, *length, state, after)
        }
        Action::AllocatePageDirectoryH(page) => allocate_page_directory_h(*page, state, after),
        Action::FreePageDirectoryH(directory) => free_page_directory_h(*directory, state, after),
        Action::AddMappingH(directory, tables, physical, to) => {
            add_mapping_h(*directory, tables, *physical, *to, state, after)
        }
        Action::RemoveMappingH(directory, from) => {
            remove_mapping_h(*directory, *from, state, after)
        }
        Action::AddKernelMappingH(physical, to) => {
            add_kernel_mapping_h(*physical, *to, state, after)
        }
        Action::ExecuteH(directory) => execute_h(*directory, state, after),
        Action::WriteK(address, value) => {
            write_a(*address, *value, state, after)
                && state.geometry.is_kernel_page_address(address.page)
        }
        Action::WriteU(address, value) => {
            write_a(*address, *value, state, after)
                && state.geometry.is_user_page_address(address.page)
        }
    }
}

/// The frame rules that most specifications begin with.
fn same_registers_and_regions(state: &State, after: &State) -> bool {
    state.cr3 == after.cr3 && state.reference == after.reference && state.regions == after.regions
}

fn all_pages(state: &State, holds: impl Fn(PhysicalPageAddress) -> bool) -> bool {
    state.geometry.all_physical_pages().all(holds)
}

/// One location of one page changes, if `data` finds data in the page, before and after.
fn write(
    address: VirtualAddress,
    value: Word8,
    (state, after): (&State, &State),
    data: impl Fn(&Page) -> Option<&PageData>,
) -> bool {
    same_registers_and_regions(state, after)
        && match state.translate(address) {
            None => false,
            Some((target, offset)) => all_pages(state, |page| {
                if page != target {
                    state[page] == after[page]
                } else {
                    match (data(&state[page]), data(&after[page])) {
                        (Some(before), Some(written)) => *written == before.update(offset, value),
                        _ => false,
                    }
                }
            }),
        }
}

/// 5.7.1.
fn write_e(address: VirtualAddress, value: Word8, state: &State, after: &State) -> bool {
    write(address, value, (state, after), |page| match page {
        Page::Environment(data) => Some(data),
        _ => None,
    })
}

/// 5.7.9.
fn write_a(address: VirtualAddress, value: Word8, state: &State, after: &State) -> bool {
    write(address, value, (state, after), |page| match page {
        Page::Normal(data) => Some(data),
        _ => None,
    })
}

/// 5.7.2.
fn derive_region_h(
    region: PhysicalRegion,
    start: PhysicalPageAddress,
    length: u8,
    state: &State,
    after: &State,
) -> bool {
    let new_region = PhysicalRegion { start, length };
    let (old, new) = (&state.regions.all_regions, &after.regions.all_regions);
    state.cr3 == after.cr3
        && state.reference == after.reference
        && state.pages == after.pages
        && state.regions.initial_regions == after.regions.initial_regions
        && old.contains(&region)
        && state.geometry.is_physical_subregion(new_region, region)
        && old.is_subset(new)
        && new.difference(old).eq([&new_region])
}

/// 5.7.3.
fn allocate_page_directory_h(page: PhysicalPageAddress, state: &State, after: &State) -> bool {
    same_registers_and_regions(state, after)
        && state.unmapped_normal_page(page)
        && after[page] == state[state.reference]
        && all_pages(state, |other| other == page || state[other] == after[other])
}

/// 5.7.4: the inverse of allocation, with the page zeroed.
fn free_page_directory_h(directory: PageDirectory, state: &State, after: &State) -> bool {
    allocate_page_directory_h(directory, after, state)
        && after[directory] == Page::Normal(zero_page_data(state.geometry))
}

/// 5.7.5, `addMapping`: with exactly the tables that are needed.
fn add_mapping(
    directory: PageDirectory,
    tables: &[PhysicalPageAddress],
    physical: PhysicalRegion,
    to: VirtualRegion,
    state: &State,
    after: &State,
) -> bool {
    let geometry = state.geometry;
    let (Some(pages), Some(addresses)) =
        (geometry.to_list_physical_region(physical), geometry.to_list_virtual_region(to))
    else {
        return false;
    };
    let unchanged_elsewhere = |address: VirtualPageAddress| {
        let before = state.translate_page(directory, address);
        if addresses.contains(&address) {
            before.is_none()
        } else {
            before == after.translate_page(directory, address)
        }
    };
    let is_mapped_to = |(address, page): (&VirtualPageAddress, &PhysicalPageAddress)| {
        after.translate_page(directory, *address) == Some(*page)
    };
    same_registers_and_regions(state, after)
        && state.is_page_directory_page(directory)
        && tables.iter().all(|table| state.unmapped_normal_page(*table))
        && tables.iter().all(|table| !pages.contains(table))
        && pages.iter().all(|page| state.is_normal_page(*page))
        && physical.length == to.length
        && geometry.is_user_region(to)
        && geometry.all_virtual_pages().all(unchanged_elsewhere)
        && addresses.iter().zip(&pages).all(is_mapped_to)
        && all_pages(state, |page| {
            if tables.contains(&page) {
                // New tables are installed in the directory being modified.
                after.is_page_table_page(page) && after.table_mapped_in_directory(directory, page)
            } else if page == directory {
                after.is_page_directory_page(page)
            } else if state.is_page_table_page(page) {
                // The contents of any page table may change.
                after.is_page_table_page(page)
            } else {
                state[page] == after[page]
            }
        })
}

/// 5.7.5, `addMappingH`: some first part of `tables` is what is needed.
fn add_mapping_h(
    directory: PageDirectory,
    tables: &[PhysicalPageAddress],
    physical: PhysicalRegion,
    to: VirtualRegion,
    state: &State,
    after: &State,
) -> bool {
    let no_duplicates = (0..tables.len()).all(|at| !tables[..at].contains(&tables[at]));
    no_duplicates
        && state.has_region(physical)
        && (0..=tables.len())
            .any(|used| add_mapping(directory, &tables[..used], physical, to, state, after))
}

/// 5.7.6: adding in the other direction, for the region that was mapped and the tables that
/// became normal.
fn remove_mapping_h(
    directory: PageDirectory,
    from: VirtualRegion,
    state: &State,
    after: &State,
) -> bool {
    let geometry = state.geometry;
    let freed: Vec<_> = geometry
        .all_physical_pages()
        .filter(|page| state.is_page_table_page(*page) && after.is_normal_page(*page))
        .collect();
    // Of an empty region the page does not matter.
    let start = match from.length {
        0 => geometry.physical_page(0),
        _ => state.translate_page(directory, from.start),
    };
    start.is_some_and(|start| {
        let physical = PhysicalRegion { start, length: from.length };
        add_mapping(directory, &freed, physical, from, after, state)
    })
}

/// 5.7.7.
fn add_kernel_mapping_h(
    physical: PhysicalRegion,
    to: VirtualRegion,
    state: &State,
    after: &State,
) -> bool {
    let geometry = state.geometry;
    let (Some(pages), Some(addresses)) =
        (geometry.to_list_physical_region(physical), geometry.to_list_virtual_region(to))
    else {
        return false;
    };
    same_registers_and_regions(state, after)
        && physical.length == to.length
        && pages.iter().all(|page| state.is_normal_page(*page))
        && state.has_region(physical)
        && geometry.is_kernel_region(to)
        && geometry.all_virtual_pages().all(|address| {
            addresses.contains(&address)
                || state.translate_page(state.reference, address)
                    == after.translate_page(state.reference, address)
        })
        && all_pages(state, |page| {
            if state.table_mapped_in_directory(state.reference, page) {
                after.is_page_table_page(page)
            } else {
                state[page] == after[page]
            }
        })
        && addresses
            .iter()
            .zip(&pages)
            .all(|(address, page)| after.translate_page(after.reference, *address) == Some(*page))
}

/// 5.7.8.
fn execute_h(directory: PageDirectory, state: &State, after: &State) -> bool {
    state.reference == after.reference
        && state.regions == after.regions
        && state.pages == after.pages
        && state.is_page_directory_page(directory)
        && after.cr3 == directory
}

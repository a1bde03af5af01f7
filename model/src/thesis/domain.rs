//! Protection domains, their actions and views, and the policy (thesis 5.4 and 5.5).

use super::memory::{
    Page, PageData, PhysicalPageAddress, PhysicalRegion, RegionState, VirtualAddress,
    VirtualPageAddress, VirtualRegion, Word8,
};
use super::state::{PageDirectory, State};

/// The protection domains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Domain {
    /// The execution environment.
    E,
    /// The H interface.
    H,
    /// The client kernel.
    K,
    /// User programs.
    U,
}

impl Domain {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::E, Self::H, Self::K, Self::U];
}

/// The actions (Table 5.2).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(clippy::enum_variant_names, reason = "the thesis ends each name with its domain")]
pub enum Action {
    /// Write a value to a location of the environment.
    WriteE(VirtualAddress, Word8),
    /// Derive, from a region handle, a region with this start and length.
    DeriveRegionH(PhysicalRegion, PhysicalPageAddress, u8),
    /// Turn a free normal page into a page directory.
    AllocatePageDirectoryH(PhysicalPageAddress),
    /// Free a page directory.
    FreePageDirectoryH(PageDirectory),
    /// Map a virtual region to a physical one in a page directory, with pages for page tables.
    AddMappingH(PageDirectory, Vec<PhysicalPageAddress>, PhysicalRegion, VirtualRegion),
    /// Remove the mapping of a virtual region from a page directory.
    RemoveMappingH(PageDirectory, VirtualRegion),
    /// Map a virtual region of kernel space to a physical region.
    AddKernelMappingH(PhysicalRegion, VirtualRegion),
    /// Make a page directory the current one.
    ExecuteH(PageDirectory),
    /// Write a value to a location of a normal page that is mapped in kernel space.
    WriteK(VirtualAddress, Word8),
    /// Write a value to a location of a normal page that is mapped in user space.
    WriteU(VirtualAddress, Word8),
}

impl Action {
    /// The names of the ten actions.
    pub const NAMES: [&'static str; 10] = [
        "WriteE",
        "DeriveRegionH",
        "AllocatePageDirectoryH",
        "FreePageDirectoryH",
        "AddMappingH",
        "RemoveMappingH",
        "AddKernelMappingH",
        "ExecuteH",
        "WriteK",
        "WriteU",
    ];

    /// The action's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::WriteE(..) => "WriteE",
            Self::DeriveRegionH(..) => "DeriveRegionH",
            Self::AllocatePageDirectoryH(..) => "AllocatePageDirectoryH",
            Self::FreePageDirectoryH(..) => "FreePageDirectoryH",
            Self::AddMappingH(..) => "AddMappingH",
            Self::RemoveMappingH(..) => "RemoveMappingH",
            Self::AddKernelMappingH(..) => "AddKernelMappingH",
            Self::ExecuteH(..) => "ExecuteH",
            Self::WriteK(..) => "WriteK",
            Self::WriteU(..) => "WriteU",
        }
    }
}

/// `dom`: the final letter of the action's name.
#[must_use]
pub const fn dom(action: &Action) -> Domain {
    match action {
        Action::WriteE(..) => Domain::E,
        Action::WriteK(..) => Domain::K,
        Action::WriteU(..) => Domain::U,
        _ => Domain::H,
    }
}

/// The policy (Figure 5.2).
#[must_use]
pub const fn interferes(from: Domain, to: Domain) -> bool {
    use Domain::{E, H, K, U};
    matches!((from, to), (E | H, H) | (E, E | K) | (H | K | U, K | U))
}

/// What can be seen of a mapped page: its contents, and how often it is mapped.
type Observed = Option<(PageData, usize)>;

/// What the environment observes, by number of the virtual page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EView {
    /// `eObservablePages`.
    pub observable_pages: Vec<Observed>,
}

/// What the H interface observes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct HView {
    /// The current page directory.
    pub cr3: PageDirectory,
    /// The reference page directory.
    pub reference: PageDirectory,
    /// The region handles.
    pub regions: RegionState,
    /// The pages function: nothing for normal pages.
    pub pages: Vec<Option<Page>>,
}

/// What the client kernel observes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KView {
    /// `kObservablePages`, by number of the virtual page.
    pub observable_pages: Vec<Observed>,
    /// `kRegionHandles`.
    pub region_handles: RegionState,
}

/// What user programs observe.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UView {
    /// `uObservablePages`, by number of the virtual page.
    pub observable_pages: Vec<Observed>,
}

/// The view of some domain.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum View {
    /// The environment's.
    E(EView),
    /// The H interface's.
    H(HView),
    /// The client kernel's.
    K(KView),
    /// The user programs'.
    U(UView),
}

/// `view`.
#[must_use]
pub fn view(domain: Domain, state: &State) -> View {
    match domain {
        Domain::E => View::E(view_e(state)),
        Domain::H => View::H(view_h(state)),
        Domain::K => View::K(view_k(state)),
        Domain::U => View::U(view_u(state)),
    }
}

/// What is seen at each virtual page of the current directory, where `select` allows it.
fn observe(
    state: &State,
    select: impl Fn(VirtualPageAddress, &Page) -> Option<PageData>,
) -> Vec<Observed> {
    let observed = |address| {
        let page = state.translate_page(state.cr3, address)?;
        let count = state.reference_count(state.cr3, page);
        select(address, &state[page]).map(|data| (data, count))
    };
    state.geometry.all_virtual_pages().map(observed).collect()
}

fn view_e(state: &State) -> EView {
    let observable_pages = observe(state, |_, page| match page {
        Page::Environment(data) => Some(data.clone()),
        _ => None,
    });
    EView { observable_pages }
}

fn view_h(state: &State) -> HView {
    let visible = |page: &Page| match page {
        Page::Normal(_) => None,
        other => Some(other.clone()),
    };
    HView {
        cr3: state.cr3,
        reference: state.reference,
        regions: state.regions.clone(),
        pages: state.pages.iter().map(visible).collect(),
    }
}

fn view_k(state: &State) -> KView {
    let observable_pages = observe(state, |address, page| match page {
        Page::Environment(data) => Some(data.clone()),
        Page::Normal(data) if state.geometry.is_kernel_page_address(address) => Some(data.clone()),
        _ => None,
    });
    KView { observable_pages, region_handles: state.regions.clone() }
}

fn view_u(state: &State) -> UView {
    let observable_pages = observe(state, |address, page| match page {
        Page::Normal(data) if state.geometry.is_user_page_address(address) => Some(data.clone()),
        _ => None,
    });
    UView { observable_pages }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_figure_5_2() {
        let allowed: Vec<(Domain, Domain)> = Domain::ALL
            .into_iter()
            .flat_map(|from| Domain::ALL.map(|to| (from, to)))
            .filter(|(from, to)| interferes(*from, *to))
            .collect();
        use Domain::{E, H, K, U};
        let figure =
            [(E, E), (E, H), (E, K), (H, H), (H, K), (H, U), (K, K), (K, U), (U, K), (U, U)];
        assert_eq!(allowed, figure);
    }
}

//! The specification as the thesis states it: chapter 5, executable, with its names.
//!
//! Each module is one of its sections. Names are those of the thesis in Rust's spelling
//! (`translatePage` is [`State::translate_page`], `AddMappingH` is [`Action::AddMappingH`]).
//! `forall` and `exists` range over the pages of a [`Geometry`], which is a parameter: the
//! numbers of Table 5.1 (1024 entries, 2^20 pages) are one instance of it.
//!
//! Nothing here is mended. What does not hold is in [`findings`], each with a counterexample that
//! is computed from these definitions; the mended specification is the rest of this crate.
//!
//! # What the text leaves to be guessed
//!
//! The text from which this was written lacks many code blocks, and some are garbled. Where the
//! prose says what they say, the prose was followed:
//!
//! | definition | what is there | what stands in its place |
//! |---|---|---|
//! | `Page`, `DirectoryContents` | prose of 5.3.1 | one constructor for each status, with the contents that the prose names |
//! | `State`, `PageDirectory` | prose of 5.3.3 | four components; a page directory is a physical page address |
//! | `translatePage` | signature and prose | directory entry, then superpage or table; `None` where a pattern would fail |
//! | `translate`, `unmappedPage` | prose | as the prose |
//! | `isPhysicalSubregion`, `toListPhysicalRegion` | signature | containment of ranges without overflow; so a region of length zero is a subregion of every region that its start touches |
//! | `referenceCount` | "how many pages are also mapped to the same underlying physical page" | number of virtual pages that the given directory translates to the page |
//! | `viewE`, `viewU` | prose; the end of `viewU` | as `viewK`, which is whole, with the statuses and addresses of the prose |
//! | `HView`, `viewH` | prose | CR3, reference, regions, and each page unless it is normal |
//! | `referenceContainsEnvironment`, `pageDirectoriesContainReference`, `environmentOnlyInReference`, `mappedPagesAreAvailable`, `tablePointersArePageTables`, `regionsAreNotEnvironment`, `wellFormed` | prose | as the prose, each a quantified sentence |
//! | `allocatePageDirectoryH`, `freePageDirectoryH` | prose | all that the prose names; frame rules as in the other specifications |
//! | the end of `addMapping` | prose | five sentences, one conjunct each |
//! | `removeMappingH` | prose | `addMapping` with the states exchanged, for some physical region and the tables that became normal |
//! | the beginning of `addKernelMappingH` | prose | the requirements that the prose lists; it does *not* list that the addresses are unmapped |
//! | `tableMappedInDirectory` | its name | the page is the target of a table entry of the directory |
//! | `executeH`, `writeU`, `step` | prose | as the prose |
//! | `writeA` | `pagedata'` where `pdata'` is meant | `pdata'` |
//! | the type of `addMapping` | one `State` too few | two |
//! | `dom` | one field too few for `AddMappingH` and others | all fields |
//! | the function of the example case in 5.8.3 | its last lines | not needed |
//! | figures 4.2 and 5.1 to 5.4 | captions | the captions and the prose around them |

mod domain;
pub mod findings;
mod memory;
mod specification;
mod state;
mod system;
mod well_formed;

pub use domain::{Action, Domain, EView, HView, KView, UView, View, dom, interferes, view};
pub use memory::{
    DirectoryContents, DirectoryPageData, Geometry, Offset, Page, PageData, PhysicalPageAddress,
    PhysicalRegion, RegionState, TablePageData, VirtualAddress, VirtualPageAddress, VirtualRegion,
    Word8, zero_page_data,
};
pub use specification::action_spec;
pub use state::{PageDirectory, State};
pub use system::{Choice, Model, can_step_to};
pub use well_formed::{CONDITIONS, Condition, well_formed};

//! Freeing an address space with all that is mapped in it.

use heliox_hal::cpu::CurrentCpu;
use heliox_hal::entry::RootKind;
use heliox_hal::mapping::Removed;
use heliox_hal::memory::{Paging, UserMemory};
use heliox_hal::page_map::{PageMap, PageMapPage};
use heliox_types::VirtualAddress;
use heliox_types::error::Refused;

use crate::ranges::end;

/// A page map that is being freed, from the lowest address up.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page map is lost unless freeing goes on"]
pub struct Freeing<K = heliox_hal::entry::Host> {
    map: PageMap<K>,
    /// Nothing is mapped below this address.
    next: u64,
}

/// What a step of freeing a page map gave.
#[derive(Debug, PartialEq, Eq)]
pub enum FreeStep<K = heliox_hal::entry::Host> {
    /// There is more to do.
    More {
        /// What is left.
        rest: Freeing<K>,
        /// The mapping that is gone, unless a hole was passed over.
        removed: Option<Removed>,
    },
    /// All is gone; this was the root.
    Done(PageMapPage),
}

impl<K: RootKind> Freeing<K> {
    /// Frees `map`.
    pub const fn new(map: PageMap<K>) -> Self {
        Self { map, next: 0 }
    }

    /// Removes one more mapping, or frees the page map when there is none.
    ///
    /// # Errors
    ///
    /// [`Error::PageMapUsed`](heliox_types::error::Error::PageMapUsed),
    /// [`Error::PageMapLoaded`](heliox_types::error::Error::PageMapLoaded); everything that was
    /// mapped is gone by then.
    pub fn step<M: Paging + UserMemory>(
        mut self,
        memory: &mut M,
        cpu: CurrentCpu,
    ) -> Result<FreeStep<K>, Refused<Self>> {
        let at = VirtualAddress::new(self.next);
        let removed = match at.map_or(Err(u64::MAX), |at| memory.read_mapping(&self.map, at)) {
            Err(u64::MAX) => return self.end(memory, cpu),
            Err(next) => {
                self.next = next;
                None
            }
            Ok(info) => match memory.remove_mapping(cpu, &mut self.map, info.address) {
                Ok(removed) => {
                    self.next = end(&info);
                    Some(removed)
                }
                Err(error) => return Err(Refused { handle: self, error }),
            },
        };
        Ok(FreeStep::More { rest: self, removed })
    }

    /// Nothing is mapped any more.
    fn end<M: Paging>(self, memory: &mut M, cpu: CurrentCpu) -> Result<FreeStep<K>, Refused<Self>> {
        let Self { map, next } = self;
        match memory.free_page_map(cpu, map) {
            Ok(root) => Ok(FreeStep::Done(root)),
            Err(Refused { handle: map, error }) => {
                Err(Refused { handle: Self { map, next }, error })
            }
        }
    }
}

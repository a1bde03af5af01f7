//! Changing and removing what is mapped in a range of addresses. A large page that is only partly
//! in the range is split.

use heliox_hal::cpu::CurrentCpu;
use heliox_hal::entry::RootKind;
use heliox_hal::mapping::{Changed, Removed};
use heliox_hal::memory::UserMemory;
use heliox_hal::page_map::{PageMap, TableSupply};
use heliox_types::VirtualAddress;
use heliox_types::error::Error;
use heliox_types::flexpage::VirtualRange;
use heliox_types::mapping::{Change, MappingInfo};

use crate::Step;

/// The first address behind a page.
pub(crate) const fn end(info: &MappingInfo) -> u64 {
    info.address.get() + (1 << info.bits)
}

/// Whether a page is wholly within a range.
fn is_within(info: &MappingInfo, range: VirtualRange) -> bool {
    info.address >= range.start() && end(info) <= range.end()
}

/// A range from which everything that is mapped is being removed; holes do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removing {
    rest: Option<VirtualRange>,
}

impl Removing {
    /// Removes what is mapped in `range`.
    #[must_use]
    pub const fn new(range: VirtualRange) -> Self {
        Self { rest: Some(range) }
    }

    /// What is left of the range.
    #[must_use]
    pub const fn rest(&self) -> Option<VirtualRange> {
        self.rest
    }

    /// Removes one more mapping.
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`]; [`Error::TablesNeeded`] and [`Error::TooManyReferences`] if a large page
    /// must be split.
    pub fn step<M: UserMemory, K: RootKind>(
        &mut self,
        memory: &mut M,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        supply: &mut TableSupply,
    ) -> Result<Step<Removed>, Error> {
        let Some(range) = self.rest else { return Ok(Step::Done) };
        let at = range.start();
        match memory.read_mapping(map, at) {
            Err(u64::MAX) => Err(Error::NotUser { start: at, pages: range.pages() }),
            Err(next) => {
                self.rest = range.rest(next);
                Ok(Step::More(None))
            }
            Ok(info) if is_within(&info, range) => {
                let removed = memory.remove_mapping(cpu, map, at)?;
                self.rest = range.rest(end(&info));
                Ok(Step::More(Some(removed)))
            }
            Ok(_) => split(memory, cpu, map, at, supply),
        }
    }
}

/// Splits the large page that `at` lies in.
fn split<M: UserMemory, K: RootKind, T>(
    memory: &mut M,
    cpu: CurrentCpu,
    map: &mut PageMap<K>,
    at: VirtualAddress,
    supply: &mut TableSupply,
) -> Result<Step<T>, Error> {
    // What it maps stays the same, so that nobody has to wait for other processors.
    let _ = memory.split_mapping(cpu, map, at, supply)?;
    Ok(Step::More(None))
}

/// A range of mappings that are being changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modifying {
    rest: Option<VirtualRange>,
    change: Change,
}

impl Modifying {
    /// Changes what is mapped in `range`, all of which must be mapped.
    #[must_use]
    pub const fn new(range: VirtualRange, change: Change) -> Self {
        Self { rest: Some(range), change }
    }

    /// What is left of the range.
    #[must_use]
    pub const fn rest(&self) -> Option<VirtualRange> {
        self.rest
    }

    /// Changes one more mapping.
    ///
    /// # Errors
    ///
    /// [`Error::NotUser`], [`Error::NotMapped`], [`Error::Upgrade`]; [`Error::TablesNeeded`] and
    /// [`Error::TooManyReferences`] if a large page must be split.
    pub fn step<M: UserMemory, K: RootKind>(
        &mut self,
        memory: &mut M,
        cpu: CurrentCpu,
        map: &mut PageMap<K>,
        supply: &mut TableSupply,
    ) -> Result<Step<Changed>, Error> {
        let Some(range) = self.rest else { return Ok(Step::Done) };
        let at = range.start();
        match memory.read_mapping(map, at) {
            Ok(info) if !is_within(&info, range) => split(memory, cpu, map, at, supply),
            // This says what is wrong with a hole, or with an address that is not a program's.
            _ => {
                let changed = memory.modify_mapping(cpu, map, at, self.change)?;
                self.rest = range.rest(end(&changed.mapping));
                Ok(Step::More(Some(changed)))
            }
        }
    }
}

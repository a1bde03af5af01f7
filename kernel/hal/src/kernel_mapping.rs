//! Kernel mappings: memory of clients that the kernel itself reads and writes.
//!
//! A mapping is a range of the frame-indexed window, the same in every address space. Its handle
//! is moved, not copied: removing the mapping consumes it, and what borrows from it, a
//! [`KernelWord`], must have ended by then.
//!
//! Programs may be writing the same memory. It is therefore read and written as words, or
//! copied by operations that the compiler cannot see into, and never lent as a reference.
//!
//! Invariants: W1 (every page of a mapping is open and referenced as long as the handle exists),
//! W2 (programs can use a window entry only if the mapping was made for that).

use core::marker::PhantomData;

use heliox_address::{Frame, PAGE_BITS, PAGE_BYTES, PhysicalAddress, VirtualAddress};

use crate::cpu::CurrentCpu;
use crate::domain::{DomainId, Owner, OwnerCode};
use crate::error::Error;
use crate::geometry::{Geometry, Level};
use crate::machine::{Machine, WindowEntry};
use crate::page::Units;
use crate::region::{PhysicalRegion, RegionKind};
use crate::rights::Rights;
use crate::share::Share;
use crate::state::{State, Storage};
use crate::translation::Invalidation;

/// Number of 8-byte words in a page.
pub const PAGE_WORDS: usize = 512;

/// Bytes of a word.
const WORD_BYTES: usize = 8;

/// With more pages than this to invalidate, everything is flushed instead.
const INVALIDATE_LIMIT: u64 = 16;

/// The number of a word in a page: below [`PAGE_WORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u16);

impl Offset {
    /// The first word.
    pub const MIN: Self = Self(0);
    /// The last word.
    pub const MAX: Self = Self(511);

    /// Word `number`, or `None` if a page has no such word.
    #[must_use]
    #[inline]
    pub const fn new(number: usize) -> Option<Self> {
        if number < PAGE_WORDS {
            #[expect(clippy::cast_possible_truncation, reason = "below 512")]
            Some(Self(number as u16))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    #[inline]
    pub const fn get(self) -> usize {
        self.0 as usize
    }
}

/// Memory that the kernel can read and write.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the memory stays mapped unless the mapping is removed"]
pub struct KernelMapping {
    region: PhysicalRegion,
    rights: Rights,
    programs: bool,
    /// Of the first byte in the window.
    address: VirtualAddress,
}

impl KernelMapping {
    /// The memory.
    #[must_use]
    pub const fn region(&self) -> PhysicalRegion {
        self.region
    }

    /// What may be done with it, by the kernel and, if it is visible to them, by programs.
    #[must_use]
    pub const fn rights(&self) -> Rights {
        self.rights
    }

    /// Whether programs can use it.
    #[must_use]
    pub const fn is_user_visible(&self) -> bool {
        self.programs
    }

    /// Where it is in every address space.
    #[must_use]
    pub const fn address(&self) -> VirtualAddress {
        self.address
    }

    /// Size in bytes.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "at most 512 pages")]
    pub const fn size(&self) -> usize {
        (self.region.pages() << PAGE_BITS) as usize
    }

    /// Word `index` of the mapping, checked once.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`].
    #[inline]
    pub fn word(&self, index: usize) -> Result<KernelWord<'_>, Error> {
        let offset = index.checked_mul(WORD_BYTES);
        let at = self.bytes(offset.unwrap_or(usize::MAX), WORD_BYTES)?;
        Ok(KernelWord {
            at,
            writable: self.rights.allows_write(),
            mapping: PhantomData,
        })
    }

    /// A word of the mapping's first page; every mapping has one.
    #[inline]
    fn word_at(&self, offset: Offset) -> PhysicalAddress {
        let start = self.region.first_frame().address();
        start
            .checked_add((offset.get() * WORD_BYTES) as u64)
            .unwrap_or(start)
    }

    /// Where `count` bytes at `offset` are, if they are within the mapping.
    #[inline]
    fn bytes(&self, offset: usize, count: usize) -> Result<PhysicalAddress, Error> {
        let size = self.size();
        let start = self.region.first_frame().address();
        match offset.checked_add(count) {
            Some(end) if end <= size => Ok(start.checked_add(offset as u64).unwrap_or(start)),
            _ => Err(Error::OutOfBounds {
                offset,
                count,
                size,
            }),
        }
    }

    #[inline]
    const fn writable(&self) -> Result<(), Error> {
        if self.rights.allows_write() {
            Ok(())
        } else {
            Err(Error::ReadOnly)
        }
    }
}

#[cfg(any(test, feature = "simulated"))]
impl crate::audit::Duplicate for KernelMapping {
    fn duplicate(&self) -> Self {
        Self {
            region: self.region,
            rights: self.rights,
            programs: self.programs,
            address: self.address,
        }
    }
}

/// A word of a kernel mapping, which cannot outlive the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelWord<'mapping> {
    at: PhysicalAddress,
    writable: bool,
    mapping: PhantomData<&'mapping KernelMapping>,
}

/// Adds a kernel mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddKernel {
    region: PhysicalRegion,
    rights: Rights,
    programs: bool,
    units: Units,
}

impl AddKernel {
    pub(crate) fn decide<M: Machine, S: Storage>(
        state: &State<M::Geometry, S>,
        machine: &M,
        region: PhysicalRegion,
        rights: Rights,
        programs: bool,
        share: Option<&Share>,
    ) -> Result<Self, Error> {
        let pages = region.pages();
        let limit = M::Geometry::ENTRIES as u64;
        if pages > limit {
            return Err(Error::TooLong { pages, limit });
        }
        let owner = match share {
            None => OwnerCode::new(Owner::Domain(DomainId::ZERO)),
            Some(share) => share.allows(region, OwnerCode::HYPERVISOR, rights)?,
        };
        let units = Units {
            level: Level::FIRST,
            first: region.first_frame(),
            count: pages,
        };
        for frame in units.frames::<M::Geometry>() {
            if !machine.has_window(frame) {
                return Err(Error::NoWindow { frame });
            }
            if region.kind() == RegionKind::Ram {
                state.check_reference(Level::FIRST, frame, owner)?;
                // An earlier mapping that programs could use may still be cached.
                if !state.is_settled(frame) {
                    return Err(Error::Draining { frame });
                }
            }
            if machine.is_open(frame) {
                return Err(Error::WindowTaken { frame });
            }
        }
        Ok(Self {
            region,
            rights,
            programs,
            units,
        })
    }

    pub(crate) fn apply<M: Machine, S: Storage>(
        self,
        state: &mut State<M::Geometry, S>,
        machine: &mut M,
        cpu: CurrentCpu,
    ) -> KernelMapping {
        let entry = WindowEntry {
            memory_type: self.region.kind().memory_type(),
            programs: self.programs.then_some(self.rights),
        };
        for frame in self.units.frames::<M::Geometry>() {
            machine.open_window(frame, entry);
            if self.region.kind() == RegionKind::Ram {
                state.add_reference(Level::FIRST, frame);
            }
        }
        if self.programs {
            // Another processor may have cached that programs cannot use these addresses, from a
            // time when the kernel had them open for itself: it would fault once, and forget
            // that when the fault enters the kernel.
            state.owe_by_all(cpu.index());
        }
        let first = self.region.first_frame();
        KernelMapping {
            region: self.region,
            rights: self.rights,
            programs: self.programs,
            address: if self.programs {
                machine.visible_address(first)
            } else {
                machine.window_address(first)
            },
        }
    }
}

/// Removes a kernel mapping.
pub(crate) fn remove<M: Machine, S: Storage>(
    state: &mut State<M::Geometry, S>,
    machine: &mut M,
    cpu: CurrentCpu,
    mapping: KernelMapping,
) -> (PhysicalRegion, Invalidation) {
    let units = Units {
        level: Level::FIRST,
        first: mapping.region.first_frame(),
        count: mapping.region.pages(),
    };
    // W2: what only the kernel could use leads to the same frame however stale it is, and the
    // kernel does not use it; what programs could use must go everywhere.
    let stamp = if mapping.programs {
        state.owe_by_all(cpu.index())
    } else {
        None
    };
    let one_by_one = units.count <= INVALIDATE_LIMIT;
    for frame in units.frames::<M::Geometry>() {
        machine.close_window(frame);
        if mapping.region.kind() == RegionKind::Ram {
            state.drop_reference(Level::FIRST, frame, stamp);
        }
        if one_by_one {
            machine.invalidate_page(cpu, machine.window_address(frame));
            if mapping.programs {
                machine.invalidate_page(cpu, machine.visible_address(frame));
            }
        }
    }
    if !one_by_one {
        machine.flush_all(cpu);
        state.note_flush(cpu.index(), true);
    }
    (mapping.region, Invalidation::since(stamp))
}

// --- Access ---

#[inline]
pub(crate) fn read_word_at<M: Machine>(
    machine: &M,
    mapping: &KernelMapping,
    offset: Offset,
) -> u64 {
    machine.read_word(mapping.word_at(offset))
}

#[inline]
pub(crate) fn write_word_at<M: Machine>(
    machine: &mut M,
    mapping: &KernelMapping,
    offset: Offset,
    value: u64,
) -> Result<(), Error> {
    mapping.writable()?;
    machine.write_word(mapping.word_at(offset), value);
    Ok(())
}

#[inline]
pub(crate) fn read_word<M: Machine>(machine: &M, word: KernelWord<'_>) -> u64 {
    machine.read_word(word.at)
}

#[inline]
pub(crate) fn write_word<M: Machine>(
    machine: &mut M,
    word: KernelWord<'_>,
    value: u64,
) -> Result<(), Error> {
    if word.writable {
        machine.write_word(word.at, value);
        Ok(())
    } else {
        Err(Error::ReadOnly)
    }
}

pub(crate) fn read_bytes<M: Machine>(
    machine: &M,
    mapping: &KernelMapping,
    offset: usize,
    bytes: &mut [u8],
) -> Result<(), Error> {
    let at = mapping.bytes(offset, bytes.len())?;
    machine.read_bytes(at, bytes);
    Ok(())
}

pub(crate) fn write_bytes<M: Machine>(
    machine: &mut M,
    mapping: &KernelMapping,
    offset: usize,
    bytes: &[u8],
) -> Result<(), Error> {
    mapping.writable()?;
    let at = mapping.bytes(offset, bytes.len())?;
    machine.write_bytes(at, bytes);
    Ok(())
}

pub(crate) fn copy<M: Machine>(
    machine: &mut M,
    from: (&KernelMapping, usize),
    to: (&KernelMapping, usize),
    count: usize,
) -> Result<(), Error> {
    to.0.writable()?;
    let source = from.0.bytes(from.1, count)?;
    let target = to.0.bytes(to.1, count)?;
    machine.copy_bytes(source, target, count);
    Ok(())
}

pub(crate) fn fill<M: Machine>(
    machine: &mut M,
    mapping: &KernelMapping,
    offset: usize,
    count: usize,
    value: u8,
) -> Result<(), Error> {
    mapping.writable()?;
    let at = mapping.bytes(offset, count)?;
    machine.fill_bytes(at, count, value);
    Ok(())
}

pub(crate) fn clear<M: Machine>(machine: &mut M, mapping: &KernelMapping) -> Result<(), Error> {
    mapping.writable()?;
    let first = mapping.region.first_frame();
    for page in 0..mapping.region.pages() {
        // Within the region.
        machine.clear_frame(first.checked_add(page).unwrap_or(first));
    }
    Ok(())
}

/// The frame and its private page of this layer: an I/O permission map, a save area, a control
/// block of a virtual processor.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the page is lost unless it is released"]
pub struct MachinePage {
    frame: Frame,
}

impl MachinePage {
    /// The caller has made the page clear, open, and of status `Machine`.
    pub(crate) const fn new(frame: Frame) -> Self {
        Self { frame }
    }

    /// Which page it is.
    #[must_use]
    pub const fn frame(&self) -> Frame {
        self.frame
    }
}

#[cfg(any(test, feature = "simulated"))]
impl crate::audit::Duplicate for MachinePage {
    fn duplicate(&self) -> Self {
        Self { frame: self.frame }
    }
}

const _: () = assert!(PAGE_WORDS * WORD_BYTES == PAGE_BYTES as usize);

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

use heliox_types::{PAGE_BITS, PAGE_BYTES, PhysicalAddress, VirtualAddress};

use crate::cpu::CurrentCpu;
use crate::domain::{DomainId, Owner, OwnerCode};
use crate::error::Error;
use crate::geometry::{Geometry, Level};
use crate::machine::{Machine, WindowEntry};
use crate::memory::Memory;
use crate::page::Units;
use crate::region::{PhysicalRegion, RegionKind};
use crate::rights::Rights;
use crate::share::Share;
use crate::state::Storage;
use crate::translation::Invalidation;

/// Number of 8-byte words in a page.
pub const PAGE_WORDS: usize = 512;

/// Bytes of a word.
const WORD_BYTES: usize = 8;

/// With more pages than this to invalidate, everything is flushed instead.
const INVALIDATE_LIMIT: u64 = 16;

/// Memory that the kernel reads and writes (thesis section 4.4.3).
pub trait KernelMemory {
    /// Maps `region` for the kernel in every address space, and for programs too if
    /// `user_visible`. At most as many pages as a table has entries.
    ///
    /// Memory that is not domain 0's takes a `share` with the hypervisor.
    ///
    /// # Errors
    ///
    /// [`Error::TooLong`], [`Error::NoWindow`], [`Error::WrongStatus`], [`Error::NotOwner`],
    /// [`Error::TooManyReferences`], [`Error::Draining`], [`Error::WindowTaken`],
    /// [`Error::OutsideShare`], [`Error::NotGrantee`], [`Error::BeyondShare`].
    fn add_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        rights: Rights,
        user_visible: bool,
        share: Option<&Share>,
    ) -> Result<KernelMapping, Error>;

    /// Removes a kernel mapping and returns the memory that it mapped.
    fn remove_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        mapping: KernelMapping,
    ) -> (PhysicalRegion, Invalidation);

    /// Reads a word of a mapping's first page.
    fn read_word_at(&self, mapping: &KernelMapping, offset: Offset) -> u64;

    /// Writes a word of a mapping's first page.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn write_word_at(
        &mut self,
        mapping: &KernelMapping,
        offset: Offset,
        value: u64,
    ) -> Result<(), Error>;

    /// Reads a word.
    fn read_word(&self, word: KernelWord<'_>) -> u64;

    /// Writes a word.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn write_word(&mut self, word: KernelWord<'_>, value: u64) -> Result<(), Error>;

    /// Reads bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`].
    fn read_bytes(
        &self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), Error>;

    /// Writes bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`].
    fn write_bytes(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), Error>;

    /// Copies `count` bytes from one place to another, each a mapping and an offset in bytes.
    /// Where they overlap, what arrives is unspecified.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`].
    fn copy(
        &mut self,
        from: (&KernelMapping, usize),
        to: (&KernelMapping, usize),
        count: usize,
    ) -> Result<(), Error>;

    /// Writes `count` times the byte `value` from `offset` on.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`], [`Error::ReadOnly`].
    fn fill(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        count: usize,
        value: u8,
    ) -> Result<(), Error>;

    /// Writes zero to all of a mapping.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn clear(&mut self, mapping: &KernelMapping) -> Result<(), Error>;
}

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
        Ok(KernelWord { at, writable: self.rights.allows_write(), mapping: PhantomData })
    }

    /// A word of the mapping's first page; every mapping has one.
    #[inline]
    fn word_at(&self, offset: Offset) -> PhysicalAddress {
        let start = self.region.first_frame().address();
        start.checked_add((offset.get() * WORD_BYTES) as u64).unwrap_or(start)
    }

    /// Where `count` bytes at `offset` are, if they are within the mapping.
    #[inline]
    fn bytes(&self, offset: usize, count: usize) -> Result<PhysicalAddress, Error> {
        let size = self.size();
        let start = self.region.first_frame().address();
        match offset.checked_add(count) {
            Some(end) if end <= size => Ok(start.checked_add(offset as u64).unwrap_or(start)),
            _ => Err(Error::OutOfBounds { offset, count, size }),
        }
    }

    #[inline]
    const fn writable(&self) -> Result<(), Error> {
        if self.rights.allows_write() { Ok(()) } else { Err(Error::ReadOnly) }
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

/// A plan: a kernel mapping is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AddKernel {
    region: PhysicalRegion,
    rights: Rights,
    programs: bool,
}

/// The pages of a kernel mapping.
const fn pages(region: PhysicalRegion) -> Units {
    Units { level: Level::FIRST, first: region.first_frame(), count: region.pages() }
}

impl<M: Machine, S: Storage> Memory<'_, M, S> {
    fn decide_kernel_mapping(
        &self,
        region: PhysicalRegion,
        rights: Rights,
        programs: bool,
        share: Option<&Share>,
    ) -> Result<AddKernel, Error> {
        let limit = M::Geometry::ENTRIES as u64;
        if region.pages() > limit {
            let pages = region.pages();
            return Err(Error::TooLong { pages, limit });
        }
        let owner = match share {
            None => OwnerCode::new(Owner::Domain(DomainId::ZERO)),
            Some(share) => share.allows(region, OwnerCode::HYPERVISOR, rights)?,
        };
        for frame in pages(region).frames::<M::Geometry>() {
            if !self.machine.has_window(frame) {
                return Err(Error::NoWindow { frame });
            }
            if region.kind() == RegionKind::Ram {
                self.state.check_reference(Level::FIRST, frame, owner)?;
                // An earlier mapping that programs could use may still be cached.
                if !self.state.is_settled(frame) {
                    return Err(Error::Draining { frame });
                }
            }
            if self.machine.is_open(frame) {
                return Err(Error::WindowTaken { frame });
            }
        }
        Ok(AddKernel { region, rights, programs })
    }
}

impl<M: Machine, S: Storage> KernelMemory for Memory<'_, M, S> {
    fn add_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        rights: Rights,
        user_visible: bool,
        share: Option<&Share>,
    ) -> Result<KernelMapping, Error> {
        let plan = self.decide_kernel_mapping(region, rights, user_visible, share)?;
        let entry = WindowEntry {
            memory_type: plan.region.kind().memory_type(),
            programs: plan.programs.then_some(plan.rights),
        };
        for frame in pages(plan.region).frames::<M::Geometry>() {
            self.machine.open_window(frame, entry);
            if plan.region.kind() == RegionKind::Ram {
                self.state.add_reference(Level::FIRST, frame);
            }
        }
        if plan.programs {
            // Another processor may have cached that programs cannot use these addresses, from a
            // time when the kernel had them open for itself: it would fault once, and forget
            // that when the fault enters the kernel.
            self.state.owe_by_all(cpu.index());
        }
        let first = plan.region.first_frame();
        Ok(KernelMapping {
            region: plan.region,
            rights: plan.rights,
            programs: plan.programs,
            address: if plan.programs {
                self.machine.visible_address(first)
            } else {
                self.machine.window_address(first)
            },
        })
    }

    fn remove_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        mapping: KernelMapping,
    ) -> (PhysicalRegion, Invalidation) {
        let units = pages(mapping.region);
        // W2: what only the kernel could use leads to the same frame however stale it is, and the
        // kernel does not use it; what programs could use must go everywhere.
        let stamp = if mapping.programs { self.state.owe_by_all(cpu.index()) } else { None };
        let one_by_one = units.count <= INVALIDATE_LIMIT;
        for frame in units.frames::<M::Geometry>() {
            self.machine.close_window(frame);
            if mapping.region.kind() == RegionKind::Ram {
                self.state.drop_reference(Level::FIRST, frame, stamp);
            }
            if one_by_one {
                let address = self.machine.window_address(frame);
                self.machine.invalidate_page(cpu, address);
                if mapping.programs {
                    let address = self.machine.visible_address(frame);
                    self.machine.invalidate_page(cpu, address);
                }
            }
        }
        if !one_by_one {
            self.machine.flush_all(cpu);
            self.state.note_flush(cpu.index(), true);
        }
        (mapping.region, Invalidation::since(stamp))
    }

    #[inline]
    fn read_word_at(&self, mapping: &KernelMapping, offset: Offset) -> u64 {
        self.machine.read_word(mapping.word_at(offset))
    }

    #[inline]
    fn write_word_at(
        &mut self,
        mapping: &KernelMapping,
        offset: Offset,
        value: u64,
    ) -> Result<(), Error> {
        mapping.writable()?;
        self.machine.write_word(mapping.word_at(offset), value);
        Ok(())
    }

    #[inline]
    fn read_word(&self, word: KernelWord<'_>) -> u64 {
        self.machine.read_word(word.at)
    }

    #[inline]
    fn write_word(&mut self, word: KernelWord<'_>, value: u64) -> Result<(), Error> {
        if !word.writable {
            return Err(Error::ReadOnly);
        }
        self.machine.write_word(word.at, value);
        Ok(())
    }

    fn read_bytes(
        &self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        let at = mapping.bytes(offset, bytes.len())?;
        self.machine.read_bytes(at, bytes);
        Ok(())
    }

    fn write_bytes(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), Error> {
        mapping.writable()?;
        let at = mapping.bytes(offset, bytes.len())?;
        self.machine.write_bytes(at, bytes);
        Ok(())
    }

    fn copy(
        &mut self,
        from: (&KernelMapping, usize),
        to: (&KernelMapping, usize),
        count: usize,
    ) -> Result<(), Error> {
        to.0.writable()?;
        let source = from.0.bytes(from.1, count)?;
        let target = to.0.bytes(to.1, count)?;
        self.machine.copy_bytes(source, target, count);
        Ok(())
    }

    fn fill(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        count: usize,
        value: u8,
    ) -> Result<(), Error> {
        mapping.writable()?;
        let at = mapping.bytes(offset, count)?;
        self.machine.fill_bytes(at, count, value);
        Ok(())
    }

    fn clear(&mut self, mapping: &KernelMapping) -> Result<(), Error> {
        mapping.writable()?;
        for frame in pages(mapping.region).frames::<M::Geometry>() {
            self.machine.clear_frame(frame);
        }
        Ok(())
    }
}

const _: () = assert!(PAGE_WORDS * WORD_BYTES == PAGE_BYTES as usize);

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

use crate::prelude::*;
pub use heliox_types::{Offset, PAGE_WORDS};

/// Bytes of a word.
const WORD_BYTES: usize = 8;

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

    /// Reads a word.
    fn read_word(&self, word: KernelWord<'_>) -> u64;

    /// Writes a word.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn write_word(&mut self, word: KernelWord<'_>, value: u64) -> Result<(), Error>;

    /// Clears the bits `clear` of a word and returns what was there before, and then sets the bits
    /// `set`, if there are any: two atomic operations, so that nothing is lost that programs
    /// write meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`].
    fn change_word(&mut self, word: KernelWord<'_>, clear: u64, set: u64) -> Result<u64, Error>;

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
    fn clear(&mut self, mapping: &KernelMapping) -> Result<(), Error> {
        self.fill(mapping, 0, mapping.size(), 0)
    }
}

/// Memory that the kernel can read and write.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the memory stays mapped unless the mapping is removed"]
pub struct KernelMapping {
    pub(crate) region: PhysicalRegion,
    pub(crate) rights: Rights,
    /// Whether programs can use it.
    pub(crate) programs: bool,
    /// Where programs see it.
    pub(crate) address: VirtualAddress,
}

impl KernelMapping {
    /// The memory.
    pub const fn region(&self) -> PhysicalRegion {
        self.region
    }

    /// Where it is in every address space, if it is visible to programs; without effect if not.
    pub const fn address(&self) -> VirtualAddress {
        self.address
    }

    /// Size in bytes.
    pub const fn size(&self) -> usize {
        (self.region.pages() << PAGE_BITS) as usize
    }

    /// Word `index` of the mapping, checked once.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfBounds`].
    pub fn word(&self, index: usize) -> Result<KernelWord<'_>, Error> {
        let offset = index.saturating_mul(WORD_BYTES);
        let at = self.bytes(offset, WORD_BYTES)?;
        Ok(KernelWord { at, writable: self.rights.allows_write(), mapping: PhantomData })
    }

    /// Word `offset` of the mapping's first page; every mapping has one.
    pub fn word_at(&self, offset: Offset) -> KernelWord<'_> {
        let at = self.at(offset.get() * WORD_BYTES);
        KernelWord { at, writable: self.rights.allows_write(), mapping: PhantomData }
    }

    /// The byte at `offset`, which is within the mapping.
    fn at(&self, offset: usize) -> PhysicalAddress {
        let start = self.region.first_frame().address();
        start.checked_add(offset as u64).unwrap_or(start)
    }

    /// Where `count` bytes at `offset` are, if they are within the mapping.
    fn bytes(&self, offset: usize, count: usize) -> Result<PhysicalAddress, Error> {
        let size = self.size();
        if offset.checked_add(count).is_some_and(|end| end <= size) {
            Ok(self.at(offset))
        } else {
            Err(Error::OutOfBounds { offset, count, size })
        }
    }

    /// The same, if the mapping can be written.
    fn writable(&self, offset: usize, count: usize) -> Result<PhysicalAddress, Error> {
        if !self.rights.allows_write() {
            return Err(Error::ReadOnly);
        }
        self.bytes(offset, count)
    }
}

/// A word of a kernel mapping, which cannot outlive the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelWord<'mapping> {
    at: PhysicalAddress,
    writable: bool,
    mapping: PhantomData<&'mapping KernelMapping>,
}

impl<M: Machine> Memory<M> {
    fn decide_kernel_mapping(
        &self,
        region: PhysicalRegion,
        rights: Rights,
        share: Option<&Share>,
    ) -> Result<(), Error> {
        let (pages, limit) = (region.pages(), M::Geometry::ENTRIES as u64);
        if pages > limit {
            return Err(Error::TooLong { pages, limit });
        }
        let owner = match share {
            None => OwnerCode::of(DomainId::ZERO),
            Some(share) => share.allows(region, OwnerCode::HYPERVISOR, rights)?,
        };
        for frame in region.frames() {
            if !self.machine.has_window(frame) {
                return Err(Error::NoWindow { frame });
            }
            if region.kind() == RegionKind::Ram {
                self.state.check_reference(Level::FIRST, frame, owner)?;
                // An earlier mapping that programs could use may still be cached.
                self.state.check_settled(frame)?;
            }
            if self.machine.is_open(frame) {
                return Err(Error::WindowTaken { frame });
            }
        }
        Ok(())
    }
}

impl<M: Machine> KernelMemory for Memory<M> {
    fn add_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        region: PhysicalRegion,
        rights: Rights,
        user_visible: bool,
        share: Option<&Share>,
    ) -> Result<KernelMapping, Error> {
        self.decide_kernel_mapping(region, rights, share)?;
        let memory_type = region.kind().memory_type();
        let entry = WindowEntry { memory_type, programs: user_visible.then_some(rights) };
        for frame in region.frames() {
            self.machine.open_window(frame, entry);
            if region.kind() == RegionKind::Ram {
                self.state.add_count(Level::FIRST, frame);
            }
        }
        if user_visible {
            // Another processor may have cached that programs cannot use these addresses, from a
            // time when the kernel had them open for itself: it would fault once, and forget
            // that when the fault enters the kernel.
            let _ = self.state.owe(cpu.index(), None);
        }
        let address = self.machine.visible_address(region.first_frame());
        Ok(KernelMapping { region, rights, programs: user_visible, address })
    }

    fn remove_kernel_mapping(
        &mut self,
        cpu: CurrentCpu,
        mapping: KernelMapping,
    ) -> (PhysicalRegion, Invalidation) {
        // W2: what only the kernel could use leads to the same frame however stale it is, and the
        // kernel does not use it; what programs could use must go everywhere.
        let since = match mapping.programs {
            true => self.state.owe(cpu.index(), None).1,
            false => Invalidation::COMPLETE,
        };
        for frame in mapping.region.frames() {
            self.machine.close_window(cpu, frame);
            if mapping.region.kind() == RegionKind::Ram {
                self.state.drop_reference(Level::FIRST, frame, since);
            }
        }
        (mapping.region, since)
    }

    fn read_word(&self, word: KernelWord<'_>) -> u64 {
        self.machine.read_word(word.at)
    }

    fn write_word(&mut self, word: KernelWord<'_>, value: u64) -> Result<(), Error> {
        if !word.writable {
            return Err(Error::ReadOnly);
        }
        self.machine.write_word(word.at, value);
        Ok(())
    }

    fn change_word(&mut self, word: KernelWord<'_>, clear: u64, set: u64) -> Result<u64, Error> {
        match word.writable {
            true => Ok(self.machine.change_word(word.at, clear, set)),
            false => Err(Error::ReadOnly),
        }
    }

    fn read_bytes(
        &self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), Error> {
        self.machine.read_bytes(mapping.bytes(offset, bytes.len())?, bytes);
        Ok(())
    }

    fn write_bytes(
        &mut self,
        mapping: &KernelMapping,
        offset: usize,
        bytes: &[u8],
    ) -> Result<(), Error> {
        self.machine.write_bytes(mapping.writable(offset, bytes.len())?, bytes);
        Ok(())
    }

    fn copy(
        &mut self,
        from: (&KernelMapping, usize),
        to: (&KernelMapping, usize),
        count: usize,
    ) -> Result<(), Error> {
        let (source, target) = (from.0.bytes(from.1, count)?, to.0.writable(to.1, count)?);
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
        self.machine.fill_bytes(mapping.writable(offset, count)?, count, value);
        Ok(())
    }
}

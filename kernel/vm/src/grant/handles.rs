//! Handles: a domain's mappings of pages that others granted to it.
//!
//! Hides how handles are numbered. Invariant: a slot is either on the free list or one mapping, so
//! that a handle names one mapping until that ends, and then none.

use crate::backing::{KernelMemory, Rights};
use crate::error::Error;
use crate::guest::{DomainId, GuestFrame};

/// A mapping of a granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// Whose page it is.
    pub(crate) granter: DomainId,
    /// By which entry.
    pub(crate) reference: u32,
    pub(crate) rights: Rights,
    /// Where it is.
    pub(crate) guest: GuestFrame,
}

enum Slot {
    /// Free; the number of the next free slot, or one past the last.
    Free(u32),
    Used(Mapping),
}

/// All mappings of a domain.
pub(crate) struct Handles<M: KernelMemory> {
    slots: M::Slice<Slot>,
    free: u32,
    used: u32,
}

impl<M: KernelMemory> Handles<M> {
    pub(crate) fn new(memory: &mut M, limit: u32) -> Result<Self, Error> {
        let mut next = 0;
        let slots = memory.slice(limit as usize, || {
            next += 1;
            Slot::Free(next)
        });
        Ok(Self { slots: slots.ok_or(Error::OutOfKernelMemory)?, free: 0, used: 0 })
    }

    /// How many mappings there are.
    pub(crate) const fn used(&self) -> u64 {
        self.used as u64
    }

    /// One past the largest handle.
    pub(crate) fn limit(&self) -> u32 {
        // It was made from a u32.
        self.slots.len() as u32
    }

    /// Check that there is room for one mapping more.
    pub(crate) fn check_room(&self) -> Result<(), Error> {
        let limit = self.limit();
        if self.free < limit { Ok(()) } else { Err(Error::NoHandles { limit }) }
    }

    /// The handle of a new mapping.
    pub(crate) fn add(&mut self, mapping: Mapping) -> Result<u32, Error> {
        let (handle, limit) = (self.free, self.limit());
        match self.slots.get_mut(handle as usize) {
            Some(slot) => {
                let Slot::Free(next) = slot else { return Err(Error::Inconsistent) };
                self.free = *next;
                *slot = Slot::Used(mapping);
                self.used += 1;
                Ok(handle)
            }
            None => Err(Error::NoHandles { limit }),
        }
    }

    /// The mapping with this handle.
    pub(crate) fn get(&self, handle: u32) -> Result<Mapping, Error> {
        match self.slots.get(handle as usize) {
            Some(Slot::Used(mapping)) => Ok(*mapping),
            _ => Err(Error::BadHandle { handle }),
        }
    }

    /// Forget a mapping.
    pub(crate) fn remove(&mut self, handle: u32) -> Result<Mapping, Error> {
        let mapping = self.get(handle)?;
        if let Some(slot) = self.slots.get_mut(handle as usize) {
            *slot = Slot::Free(self.free);
            self.free = handle;
            self.used -= 1;
        }
        Ok(mapping)
    }
}

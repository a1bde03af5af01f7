//! A list of free blocks of memory, sorted by address, so that neighbours merge: first fit.
//!
//! Invariants: a block in the list is memory that was given to the list and that nobody uses, a
//! multiple of [`UNIT`] bytes at a multiple of that; blocks are in rising order and do not touch.

use core::ptr::{self, NonNull};

/// Every block is a multiple of this many bytes.
pub(crate) const UNIT: usize = 32;

/// A free block's header.
struct Free {
    bytes: usize,
    next: *mut Free,
}

const _: () = assert!(size_of::<Free>() <= UNIT);

/// Free blocks.
pub(crate) struct FreeList {
    first: *mut Free,
}

impl FreeList {
    /// No blocks.
    pub(crate) const fn new() -> Self {
        Self { first: ptr::null_mut() }
    }

    /// Puts a block into the list and merges it with its neighbours.
    ///
    /// # Safety
    ///
    /// The block is for the list alone from now on, until it is taken, and is a multiple of
    /// [`UNIT`] bytes at a multiple of that.
    pub(crate) unsafe fn insert(&mut self, block: *mut u8, bytes: usize) {
        let block = block.cast::<Free>();
        let mut before: *mut Free = ptr::null_mut();
        let mut after = self.first;
        while !after.is_null() && after < block {
            before = after;
            // SAFETY: blocks in the list are headers.
            after = unsafe { (*after).next };
        }
        // SAFETY: the block is free memory; `before` and `after` are blocks of the list.
        unsafe {
            block.write(Free { bytes, next: after });
            if !after.is_null() && block.byte_add(bytes) == after {
                (*block).bytes += (*after).bytes;
                (*block).next = (*after).next;
            }
            if before.is_null() {
                self.first = block;
            } else if before.byte_add((*before).bytes) == block {
                (*before).bytes += (*block).bytes;
                (*before).next = (*block).next;
            } else {
                (*before).next = block;
            }
        }
    }

    /// Takes `bytes` bytes, a multiple of [`UNIT`], at a multiple of `alignment`.
    pub(crate) fn take(&mut self, bytes: usize, alignment: usize) -> Option<NonNull<u8>> {
        let mut before: *mut Free = ptr::null_mut();
        let mut block = self.first;
        while !block.is_null() {
            let start = block as usize;
            // SAFETY: blocks in the list are headers.
            let (size, next) = unsafe { ((*block).bytes, (*block).next) };
            let at = start.next_multiple_of(alignment);
            let lead = at - start;
            if lead + bytes <= size {
                // SAFETY: `before` is a block of the list, or there is none.
                unsafe {
                    if before.is_null() {
                        self.first = next;
                    } else {
                        (*before).next = next;
                    }
                }
                let address = block.cast::<u8>();
                // SAFETY: both ends lie in the block, which was taken out.
                unsafe {
                    if lead > 0 {
                        self.insert(address, lead);
                    }
                    let rest = size - lead - bytes;
                    if rest > 0 {
                        self.insert(address.add(lead + bytes), rest);
                    }
                    return NonNull::new(address.add(lead));
                }
            }
            before = block;
            block = next;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    /// A block that was taken: where, how long, and the byte that it was filled with.
    type Taken = (NonNull<u8>, usize, u8);

    fn check((start, bytes, value): Taken) {
        for offset in 0..bytes {
            // SAFETY: the block was taken, and is read before it is given back.
            assert_eq!(unsafe { start.add(offset).read() }, value);
        }
    }

    #[test]
    fn blocks_do_not_overlap_and_merge_again() {
        const BYTES: usize = 1 << 16;
        let mut memory = vec![0_u8; BYTES + UNIT];
        let lead = memory.as_ptr().align_offset(UNIT);
        // Within the vector.
        let start = memory.as_mut_ptr().wrapping_add(lead);
        let mut list = FreeList::new();
        // SAFETY: the vector is the list's until the end of this test.
        unsafe { list.insert(start, BYTES) };
        let mut taken: Vec<Taken> = Vec::new();
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let (mut refused, mut most) = (0, 0);
        for round in 0..20_000 {
            if random(5) < 3 {
                let bytes = (1 + random(20)) * UNIT;
                let alignment = UNIT << random(6);
                match list.take(bytes, alignment) {
                    Some(block) => {
                        assert_eq!(block.as_ptr() as usize % alignment, 0);
                        let value = round as u8;
                        // SAFETY: the block was taken.
                        unsafe { block.write_bytes(value, bytes) };
                        taken.push((block, bytes, value));
                    }
                    None => refused += 1,
                }
            } else if !taken.is_empty() {
                let block = taken.swap_remove(random(taken.len()));
                check(block);
                // SAFETY: it was taken, and is not used any more.
                unsafe { list.insert(block.0.as_ptr(), block.1) };
            }
            most = most.max(taken.len());
        }
        assert!(refused > 100 && most > 50, "{refused} {most}");
        for block in taken {
            check(block);
            // SAFETY: as above.
            unsafe { list.insert(block.0.as_ptr(), block.1) };
        }
        assert_eq!(list.take(BYTES, UNIT).map(|block| block.as_ptr()), Some(start));
        assert_eq!(list.take(UNIT, UNIT), None);
    }
}
